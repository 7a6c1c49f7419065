/**
 * A few worker threads for what would block the loop. In: tasks. Out: their results, and progress while they run.
 *
 * There are two kinds of tasks, those that bring bytes and those that read them, each with places of its own: a reader that waits for bytes never
 * keeps a place from whoever brings them. Tasks of a kind start in the order they came, so a layer that waits for those below it never waits for one
 * that has not begun.
 */
import { MessageChannel, Worker } from 'node:worker_threads';
import { RuntimeError, assert, errorMessage } from '#core';
import type { Digest } from '#oci';
import type { StoreTask, StoreTaskResult } from './store-tasks.ts';
import type { FromWorker, ParentLayer, ToWorker, UnpackResult, WorkerTask } from './worker-messages.ts';

/** Tasks at work at once, those that wait for something excepted. More readers than processors would only share these. */
const placesMax = { transfer: 4, read: 2 } as const;
const threadsMax = 24;
/** A small young generation is looked through often, so that dead buffers of a pipeline are few. The old one holds trees of names only. */
const workerLimits = { maxOldGenerationSizeMb: 1024, maxYoungGenerationSizeMb: 2 } as const;
/** A thread with nothing to do goes, and its heap with it. */
const idleTimeoutMs = 5_000;

/** What a task may ask of its caller. */
export interface TaskHandlers {
  readonly onProgress?: (digest: Digest, bytes: number) => void;
  /** Layers below, base first, once they are ready; a rejection ends the task. */
  readonly parents?: () => Promise<readonly ParentLayer[]>;
}

type Place = keyof typeof placesMax;

const placeOf = ({ kind }: WorkerTask): Place => (kind === 'download' || kind === 'copy' || kind === 'extract' ? 'transfer' : 'read');

interface Job {
  readonly task: WorkerTask;
  readonly place: Place;
  readonly handlers: TaskHandlers;
  readonly signal: AbortSignal;
  readonly resolve: (result: UnpackResult | StoreTaskResult | undefined) => void;
  readonly reject: (error: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
  /** Sleeps until the layers below are ready or bytes come, and does not count: somebody else may need its place for that. */
  isWaiting: boolean;
  idle: NodeJS.Timeout | undefined;
}

/** Threads begun when needed and ended when idle. */
export class WorkerPool {
  readonly #path: string | URL;
  readonly #threads = new Set<Thread>();
  readonly #queue: Job[] = [];
  #closed = false;

  constructor(path: string | URL) {
    this.#path = path;
  }

  /** Runs a task to its end. Rejects with the task's RuntimeError, with the signal's reason, or unavailable after `close`. */
  async run(task: Exclude<WorkerTask, StoreTask>, handlers: TaskHandlers, signal: AbortSignal): Promise<UnpackResult | undefined> {
    const result = await this.#enqueue(task, handlers, signal);
    return result !== undefined && 'kind' in result ? undefined : result;
  }

  /** Runs one of the tasks that check or copy. Rejects as `run` does. */
  async runStoreTask(task: StoreTask, handlers: Pick<TaskHandlers, 'onProgress'>, signal: AbortSignal): Promise<StoreTaskResult> {
    const result = await this.#enqueue(task, handlers, signal);
    assert(result !== undefined && 'kind' in result, 'a task of the store ended without its result');
    return result;
  }

  async #enqueue(task: WorkerTask, handlers: TaskHandlers, signal: AbortSignal): Promise<UnpackResult | StoreTaskResult | undefined> {
    signal.throwIfAborted();
    if (this.#closed) throw new RuntimeError('unavailable', 'run image task: the store is closed');
    const { promise, resolve, reject } = Promise.withResolvers<UnpackResult | StoreTaskResult | undefined>();
    this.#queue.push({ task, place: placeOf(task), handlers, signal, resolve, reject });
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
    for (let index = 0; index < this.#queue.length;) {
      const job = this.#queue[index];
      const thread = job === undefined || this.#busy(job.place) >= placesMax[job.place] ? undefined : this.#idle();
      if (job === undefined || thread === undefined) {
        index += 1;
        continue;
      }
      this.#queue.splice(index, 1);
      if (job.signal.aborted) job.reject(job.signal.reason);
      else this.#give(thread, job);
    }
  }

  #idle(): Thread | undefined {
    return [...this.#threads].find(({ job }) => job === undefined) ?? (this.#threads.size < threadsMax ? this.#start() : undefined);
  }

  #busy(place: Place): number {
    return [...this.#threads].filter(({ job, isWaiting }) => job?.place === place && !isWaiting).length;
  }

  #start(): Thread {
    const worker = new Worker(this.#path, { stdin: false, env: {}, resourceLimits: workerLimits });
    const thread: Thread = { worker, job: undefined, isWaiting: false, idle: undefined };
    this.#threads.add(thread);
    worker.on('error', (error) => this.#ended(thread, new RuntimeError('internal', `run image task: ${errorMessage(error)}`, { cause: error })));
    worker.on('exit', () => this.#ended(thread, new RuntimeError('cancelled', 'run image task: its thread ended')));
    worker.unref();
    return thread;
  }

  /** Out of the list first: a thread that is ending must get no job. */
  #dismiss(thread: Thread): void {
    this.#threads.delete(thread);
    void thread.worker.terminate();
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
    const cancel = (): void => worker.postMessage({ kind: 'cancel' } satisfies ToWorker);
    const end = (settle: () => void): void => {
      job.signal.removeEventListener('abort', cancel);
      worker.removeAllListeners('message');
      channel.port1.close();
      thread.job = undefined;
      thread.isWaiting = false;
      worker.unref();
      thread.idle = setTimeout(() => this.#dismiss(thread), idleTimeoutMs).unref();
      settle();
      this.#assign();
    };
    worker.on('message', (message: FromWorker) => {
      switch (message.kind) {
        case 'progress':
          job.handlers.onProgress?.(message.digest, message.bytes);
          return;
        case 'parents':
          thread.isWaiting = true;
          this.#assign();
          void answerParents(job, channel, message.gate).then(() => (thread.isWaiting = false));
          return;
        case 'waiting':
          thread.isWaiting = message.isWaiting;
          this.#assign();
          return;
        case 'done':
          end(() => job.resolve(message.result));
          return;
        case 'failed': {
          const error = new RuntimeError(message.code, message.message, message.errno === undefined ? {} : { errno: message.errno });
          end(() => job.reject(job.signal.aborted ? job.signal.reason : error));
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
