/** Checking and copying in a worker thread. In: a task. Out: what it found. Files are only read, apart from the one that a copy goes to. */
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { RuntimeError, errnoName, errorMessage, limits, wrapError } from '#core';
import { type Digest, digestOf, digestParts } from '#oci';
import { readInflated } from './archive-task.io.ts';
import { checkLayer } from './check-layer.io.ts';
import { readPieces } from './content.io.ts';
import type { CheckBlobsTask, PlaceTask, StoreTask, StoreTaskResult } from './store-tasks.ts';

const readBytes = 1024 * 1024;

/** What a task needs from its thread. */
export interface StoreTaskHost {
  progress(digest: Digest, bytes: number): void;
}

/** Runs one of the store's tasks. */
export async function runStoreTask(task: StoreTask, host: StoreTaskHost, signal: AbortSignal): Promise<StoreTaskResult> {
  switch (task.kind) {
    case 'place':
      return placeBlob(task, host, signal);
    case 'checkBlobs':
      return checkBlobs(task, host, signal);
    case 'checkLayer':
      return checkLayer(task, (bytes) => host.progress(task.diffId, bytes), signal);
  }
}

/** The bytes of a blob as they lie there. */
async function* readPlain(path: string, counter: { bytes: number }, signal: AbortSignal): AsyncGenerator<Buffer> {
  for await (const piece of readPieces(path, readBytes, signal)) {
    counter.bytes += piece.length;
    yield piece;
  }
}

/** Throws dataLoss where what comes out has another digest: a damaged archive must not be handed on. */
async function placeBlob(task: PlaceTask, host: StoreTaskHost, signal: AbortSignal): Promise<StoreTaskResult> {
  const { algorithm } = digestParts(task.digest);
  const hash = createHash(algorithm);
  const counter = { bytes: 0 };
  let [sizeBytes, reported] = [0, 0];
  const file = await open(task.filePath, 'r+');
  try {
    for await (const chunk of (task.inflate ? readInflated : readPlain)(task.blobPath, counter, signal)) {
      hash.update(chunk);
      for (let at = 0; at < chunk.length;) at += (await file.write(chunk, at, chunk.length - at, task.offsetBytes + sizeBytes + at)).bytesWritten;
      sizeBytes += chunk.length;
      if (sizeBytes > limits.layerBytesMax) throw new RuntimeError('resourceExhausted', `copy blob ${task.digest}: more than ${limits.layerBytesMax} bytes`);
      host.progress(task.digest, counter.bytes - reported);
      reported = counter.bytes;
    }
  } catch (error) {
    throw wrapError(`copy blob ${task.digest}`, error);
  } finally {
    await file.close();
  }
  const found = digestOf(algorithm, hash.digest('hex'));
  if (found !== task.digest) throw new RuntimeError('dataLoss', `verify blob ${task.digest}: the content is ${found}; verify the store with repair`);
  return { kind: 'placed', sizeBytes };
}

async function checkBlobs(task: CheckBlobsTask, host: StoreTaskHost, signal: AbortSignal): Promise<StoreTaskResult> {
  const problems: { digest: Digest; detail: string }[] = [];
  for (const { digest, path, sizeBytes } of task.blobs) {
    const detail = await problemOf(path, { digest, sizeBytes }, (bytes) => host.progress(digest, bytes), signal);
    if (detail !== undefined) problems.push({ digest, detail });
  }
  return { kind: 'blobs', problems };
}

/** What is wrong with a blob, or undefined. A disk that cannot be read is such a problem too. */
async function problemOf(
  path: string,
  wanted: { readonly digest: Digest; readonly sizeBytes: number | undefined },
  onBytes: (bytes: number) => void,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { algorithm } = digestParts(wanted.digest);
  try {
    const { size } = await stat(path);
    if (wanted.sizeBytes !== undefined && size !== wanted.sizeBytes) return `has ${size} bytes instead of ${wanted.sizeBytes}`;
    const hash = createHash(algorithm);
    for await (const chunk of readPlain(path, { bytes: 0 }, signal)) {
      hash.update(chunk);
      onBytes(chunk.length);
    }
    const found = digestOf(algorithm, hash.digest('hex'));
    return found === wanted.digest ? undefined : `the content is ${found}`;
  } catch (error) {
    signal.throwIfAborted();
    return errnoName(error) === 'ENOENT' ? 'is missing' : errorMessage(error);
  }
}
