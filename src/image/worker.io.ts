/**
 * Entry of a worker thread: takes one task at a time, answers with records, progress and one result. It holds no state between
 * tasks. Runs under type stripping from a checkout and as one bundled file in a release; whoever starts it passes its path.
 */
import { type MessagePort, parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { RuntimeError, errorCode, errorMessage, errnoName } from '#core';
import type { Digest } from '#oci';
import { runCopyTask, runDownloadTask, runExtractTask } from './transfer-task.io.ts';
import { runUnpackTask } from './unpack-task.io.ts';
import type { FromWorker, ParentLayer, ToWorker, UnpackResult, WorkerTask } from './worker-messages.ts';

/** Records on their way that nobody has taken yet. Beyond it the task waits, so that memory stays bounded. */
const outstandingBytesMax = 8 * 1024 * 1024;
const progressBytes = 1024 * 1024;

const port = parentPort;
if (port === null) throw new RuntimeError('failedPrecondition', 'start worker: this file runs as a worker thread only');

const post = (message: FromWorker, transfer: readonly ArrayBuffer[] = []): void => port.postMessage(message, [...transfer]);

let controller = new AbortController();
let outstandingBytes = 0;
let wake: (() => void) | undefined;

async function send(bytes: Uint8Array): Promise<void> {
  outstandingBytes += bytes.length;
  // SAFETY: records are gathered in buffers of their own, never in shared memory.
  post({ kind: 'records', bytes }, [bytes.buffer as ArrayBuffer]);
  while (outstandingBytes > outstandingBytesMax && !controller.signal.aborted) {
    const turn = Promise.withResolvers<void>();
    wake = turn.resolve;
    await turn.promise;
  }
  controller.signal.throwIfAborted();
}

/** Blocks this thread, which has nothing else to do, until the layers below are ready. */
function askParents(parentsPort: MessagePort | undefined): readonly ParentLayer[] {
  const gate = new Int32Array(new SharedArrayBuffer(4));
  post({ kind: 'parents', gate });
  Atomics.wait(gate, 0, 0);
  const answer = parentsPort === undefined ? undefined : receiveMessageOnPort(parentsPort);
  // SAFETY: the other end is the pool of this project; it posts ParentLayer[] or undefined before it opens the gate.
  const parents = answer?.message as readonly ParentLayer[] | undefined;
  if (parents === undefined) throw new RuntimeError('cancelled', 'unpack layer: a layer below it failed');
  return parents;
}

/** Progress in steps worth a message. */
function progressMeter(): { add(digest: Digest, count: number): void; flush(): void } {
  const counts = new Map<Digest, number>();
  const say = (digest: Digest, bytes: number): void => {
    counts.set(digest, 0);
    if (bytes > 0) post({ kind: 'progress', digest, bytes });
  };
  return {
    add: (digest, count) => {
      const bytes = (counts.get(digest) ?? 0) + count;
      if (bytes >= progressBytes) say(digest, bytes);
      else counts.set(digest, bytes);
    },
    flush: () => {
      for (const [digest, bytes] of counts) say(digest, bytes);
    },
  };
}

async function run(task: WorkerTask, parentsPort: MessagePort | undefined, signal: AbortSignal): Promise<UnpackResult | undefined> {
  const meter = progressMeter();
  const onBytes = (digest: Digest, count: number): void => meter.add(digest, count);
  try {
    if (task.kind === 'unpack') return await runUnpackTask(task, { send, parents: () => askParents(parentsPort), progress: (count) => meter.add(task.diffId, count) }, signal);
    if (task.kind === 'download') await runDownloadTask(task, onBytes, signal);
    else if (task.kind === 'copy') await runCopyTask(task, onBytes, signal);
    else await runExtractTask(task, signal);
    return undefined;
  } finally {
    meter.flush();
    parentsPort?.close();
  }
}

async function runAndTell(task: WorkerTask, parentsPort: MessagePort | undefined): Promise<void> {
  controller = new AbortController();
  outstandingBytes = 0;
  try {
    const result = await run(task, parentsPort, controller.signal);
    post({ kind: 'done', result });
  } catch (error) {
    post({ kind: 'failed', code: errorCode(error), message: errorMessage(error), errno: errnoName(error) });
  }
}

port.on('message', (message: ToWorker) => {
  switch (message.kind) {
    case 'run':
      // SAFETY: the pool passes a MessagePort here, which message types cannot name.
      void runAndTell(message.task, message.parentsPort as MessagePort | undefined);
      return;
    case 'credit':
      outstandingBytes -= message.bytes;
      wake?.();
      return;
    case 'cancel':
      controller.abort();
      wake?.();
      return;
  }
});
