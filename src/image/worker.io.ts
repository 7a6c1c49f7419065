/**
 * Entry of a worker thread: takes one task at a time, answers with progress and one result. It holds no state between
 * tasks. Runs under type stripping from a checkout and as one bundled file in a release; whoever starts it passes its path.
 */
import { type MessagePort, parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { RuntimeError, errorCode, errorMessage, errnoName } from '#core';
import type { Digest } from '#oci';
import { runExtractTask } from './archive-task.io.ts';
import type { StoreTaskResult } from './store-tasks.ts';
import { runStoreTask } from './store-task.io.ts';
import { runCopyTask, runDownloadTask } from './transfer-task.io.ts';
import { runCheckTask, runUnpackTask } from './unpack-task.io.ts';
import type { FromWorker, ParentLayer, ToWorker, UnpackResult, WorkerTask } from './worker-messages.ts';

const progressBytes = 1024 * 1024;
/** A task that waits so long for bytes leaves its place to others. */
const waitingMs = 100;

const port = parentPort;
if (port === null) throw new RuntimeError('failedPrecondition', 'start worker: this file runs as a worker thread only');

const post = (message: FromWorker): void => port.postMessage(message);

let controller = new AbortController();

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

/** Tells of waits that are worth a message. */
function waitMeter(): (isWaiting: boolean) => void {
  let timer: NodeJS.Timeout | undefined;
  let isTold = false;
  return (isWaiting) => {
    clearTimeout(timer);
    if (isWaiting) {
      timer = setTimeout(() => {
        isTold = true;
        post({ kind: 'waiting', isWaiting: true });
      }, waitingMs);
    } else if (isTold) {
      isTold = false;
      post({ kind: 'waiting', isWaiting: false });
    }
  };
}

async function run(task: WorkerTask, parentsPort: MessagePort | undefined, signal: AbortSignal): Promise<UnpackResult | StoreTaskResult | undefined> {
  const meter = progressMeter();
  const onBytes = (digest: Digest, count: number): void => meter.add(digest, count);
  const following = (digest: Digest) => ({ parents: () => askParents(parentsPort), progress: (count: number) => meter.add(digest, count), onWaiting: waitMeter(), signal });
  try {
    switch (task.kind) {
      case 'unpack':
        return await runUnpackTask(task, following(task.blob.digest));
      case 'place':
      case 'checkBlobs':
      case 'checkLayer':
        return await runStoreTask(task, { progress: onBytes }, signal);
      case 'check':
        await runCheckTask(task, following(task.blob.digest));
        break;
      case 'download':
        await runDownloadTask(task, onBytes, signal);
        break;
      case 'copy':
        await runCopyTask(task, onBytes, signal);
        break;
      case 'extract':
        await runExtractTask(task, signal);
        break;
    }
    return undefined;
  } finally {
    meter.flush();
    parentsPort?.close();
  }
}

async function runAndTell(task: WorkerTask, parentsPort: MessagePort | undefined): Promise<void> {
  controller = new AbortController();
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
    case 'cancel':
      controller.abort();
      return;
  }
});
