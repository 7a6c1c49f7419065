/**
 * A few worker threads for what would block the loop. In: tasks. Out: their results; records and progress while they run.
 * Tasks start in the order they came, so a layer that waits for those below it never waits for one that has not begun.
 */
import { MessageChannel, Worker } from 'node:worker_threads';
import { RuntimeError, errorMessage } from '#core';
import type { Digest } from '#oci';
import type { FromWorker, ParentLayer, ToWorker, UnpackResult, WorkerTask } from './worker-messages.ts';

const workersMax = 2;
/** A thread with nothing to do goes, and its heap with it. */
const idleTimeoutMs = 5_000;

/** What a task may ask of its caller. */
export interface TaskHandlers {
  readonly onRecords?: (bytes: Uint8Array) => Promise<void>;
  readonly onProgress?: (digest: Digest, bytes: number) => void;
  /** Layers below, base first, once they are ready; a rejection ends the task. */
  readonly parents?: () => Promise<readonly ParentLayer[]>;
}

interface Job {
  readonly task: WorkerTask;
  readonly handlers: TaskHandlers;
  readonly signal: AbortSignal;
  readonly resolve: (result: UnpackResult | undefined) => void;
  readonly reject: (error: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
  /** Sleeps until the layers below are ready, and does not count: one of those may need its place. */
  isWaiting: boolean;
  idle: NodeJS.Timeout | undefined;
}

/** Two threads at work, begun when needed and ended when idle. */
export class WorkerPool {
  readonly #path: string | URL;
  readonly #threads = new Set<Thread>();
  readonly #queue: Job[] = [];
  #closed = false;

  constructor(path: string | URL) {
    this.#path = path;
  }

  /** Runs a task to its end. Rejects with the task's RuntimeError, with the signal's reason, or unavailable after `close`. */
  async run(task: WorkerTask, handlers: TaskHandlers, signal: AbortSignal): Promise<UnpackResult | undefined> {
    signal.throwIfAborted();
    if (this.#closed) throw new RuntimeError('unavailable', 'run image task: the store is closed');
    const { promise, resolve, reject } = Promise.withResolvers<UnpackResult | undefined>();
    this.#queue.push({ task, handlers, signal, resolve, reject });
    this.#assign();
    return promise;
  }

  /** Ends all threads; running tasks are rejected. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#queue.splice(0)) job.reject(new RuntimeError('cancelled', 'run image task: the store is closing'));
    await Promise.all([...this.#threads].map((thread) => thread.worker.terminate()));
  }

  #assign(): void {
    while (this.#queue.length > 0) {
      const thread = [...this.#threads].find(({ job }) => job === undefined) ?? (this.#busy < workersMax ? this.#start() : undefined);
      const job = thread === undefined ? undefined : this.#queue.shift();
      if (thread === undefined || job === undefined) return;
      if (job.signal.aborted) job.reject(job.signal.reason);
      else this.#give(thread, job);
    }
  }

  get #busy(): number {
    return [...this.#threads].filter(({ job, isWaiting }) => job !== undefined && !isWaiting).length;
  }

  #start(): Thread {
    const worker = new Worker(this.#path, { stdin: false, env: {}, resourceLimits: { maxOldGenerationSizeMb: 1024 } });
    const thread: Thread = { worker, job: undefined, isWaiting: false, idle: undefined };
    this.#threads.add(thread);
    worker.on('error', (error) => this.#ended(thread, new RuntimeError('internal', `run image task: ${errorMessage(error)}`, { cause: error })));
    worker.on('exit', () => this.#ended(thread, new RuntimeError('cancelled', 'run image task: its thread ended')));
    worker.unref();
    return thread;
  }

  #ended(thread: Thread, error: RuntimeError): void {
    this.#threads.delete(thread);
    clearTimeout(thread.idle);
    thread.job?.reject(error);
    thread.job = undefined;
    if (!this.#closed) this.#assign();
  }

  #give(thread: Thread, job: Job): void {
    const { worker } = thread;
    clearTimeout(thread.idle);
    thread.job = job;
    worker.ref();
    const channel = new MessageChannel();
    const tell = (message: ToWorker): void => worker.postMessage(message);
    const cancel = (): void => tell({ kind: 'cancel' });
    /** A failure of the caller's side, which is the reason for the cancelled task. */
    let failure: { readonly error: unknown } | undefined;
    const fail = (error: unknown): void => {
      failure ??= { error };
      cancel();
    };
    let records = Promise.resolve();
    const end = (settle: () => void): void => {
      job.signal.removeEventListener('abort', cancel);
      worker.removeAllListeners('message');
      channel.port1.close();
      thread.job = undefined;
      thread.isWaiting = false;
      worker.unref();
      thread.idle = setTimeout(() => void worker.terminate(), idleTimeoutMs).unref();
      settle();
      this.#assign();
    };
    worker.on('message', (message: FromWorker) => {
      switch (message.kind) {
        case 'records': {
          const { bytes } = message;
          records = records
            .then(async () => {
              if (failure === undefined) await job.handlers.onRecords?.(bytes);
              tell({ kind: 'credit', bytes: bytes.length });
            })
            .catch(fail);
          return;
        }
        case 'progress':
          job.handlers.onProgress?.(message.digest, message.bytes);
          return;
        case 'parents':
          thread.isWaiting = true;
          this.#assign();
          void answerParents(job, channel, message.gate).then(() => (thread.isWaiting = false));
          return;
        case 'done':
          void records.then(() => end(() => (failure === undefined ? job.resolve(message.result) : job.reject(failure.error))));
          return;
        case 'failed': {
          const error = new RuntimeError(message.code, message.message, message.errno === undefined ? {} : { errno: message.errno });
          void records.then(() => end(() => job.reject(failure?.error ?? (job.signal.aborted ? job.signal.reason : error))));
          return;
        }
      }
    });
    job.signal.addEventListener('abort', cancel, { once: true });
    worker.postMessage({ kind: 'run', task: job.task, parentsPort: channel.port2 } satisfies ToWorker, [channel.port2]);
  }
}

/** Posts the answer, then opens the gate that the thread sleeps on. */
async function answerParents(job: Job, channel: MessageChannel, gate: Int32Array): Promise<void> {
  let parents: readonly ParentLayer[] | undefined;
  try {
    parents = await job.handlers.parents?.();
  } catch {
    // The layer below reports its own failure; this one only has to wake up.
    parents = undefined;
  }
  channel.port1.postMessage(parents);
  Atomics.store(gate, 0, 1);
  Atomics.notify(gate, 0);
}
