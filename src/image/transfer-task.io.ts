/**
 * Brings blobs into the content store from a registry, a layout directory or the tar of one, in a worker thread.
 * In: digests and sizes. Out: verified files. A blob that differs in a byte is an error and leaves nothing.
 */
import { createReadStream } from 'node:fs';
import { constants, mkdir, open } from 'node:fs/promises';
import { RuntimeError, errorMessage, isAbort, wrapError } from '#core';
import { type Digest, isDigest } from '#oci';
import { blobPath, ingestBlob } from './content.io.ts';
import { RegistryClient } from './registry.io.ts';
import { TarReader } from './tar.ts';
import type { CopyTask, DownloadTask, ExtractTask, WantedBlob } from './worker-messages.ts';

const parallelBlobs = 4;
const copyBytes = 1024 * 1024;

type OnBytes = (digest: Digest, count: number) => void;

/** Runs at most `parallelBlobs` at once; the first failure stops the others and is thrown. */
async function eachBlob(blobs: readonly WantedBlob[], signal: AbortSignal, transfer: (blob: WantedBlob, signal: AbortSignal) => Promise<void>): Promise<void> {
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const queue = [...blobs];
  let failure: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (let blob = queue.shift(); blob !== undefined && !either.aborted; blob = queue.shift()) {
      try {
        await transfer(blob, either);
      } catch (error) {
        failure ??= { error };
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: parallelBlobs }, lane));
  if (failure !== undefined) throw failure.error;
  signal.throwIfAborted();
}

/** An error about one blob, unless it names it already. */
function blobError(digest: Digest, error: unknown): unknown {
  return isAbort(error) || errorMessage(error).includes(digest) ? error : wrapError(`blob ${digest}`, error);
}

/** Downloads the blobs. Throws with the blob's digest in the message. */
export async function runDownloadTask(task: DownloadTask, onBytes: OnBytes, signal: AbortSignal): Promise<void> {
  using client = new RegistryClient({ registry: task.registry, repository: task.repository, auth: task.auth });
  await eachBlob(task.blobs, signal, async (blob, either) => {
    try {
      await ingestBlob(task.contentDir, blob, client.blob(blob.digest, either), (count) => onBytes(blob.digest, count));
    } catch (error) {
      throw blobError(blob.digest, error);
    }
  });
}

/** Content of a plain file: no link, no FIFO, no device is opened for its content. */
async function* readPlainFile(path: string): AsyncGenerator<Uint8Array> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (!(await file.stat()).isFile()) throw new RuntimeError('invalidArgument', `read ${path}: not a regular file`);
    for await (const chunk of file.createReadStream({ highWaterMark: copyBytes, autoClose: false })) {
      // SAFETY: no encoding is set, so the stream gives buffers.
      yield chunk as Buffer;
    }
  } finally {
    await file.close();
  }
}

/** Copies the blobs out of a layout directory. Throws notFound where one is missing. */
export async function runCopyTask(task: CopyTask, onBytes: OnBytes, signal: AbortSignal): Promise<void> {
  await eachBlob(task.blobs, signal, async (blob) => {
    try {
      await ingestBlob(task.contentDir, blob, readPlainFile(blobPath(`${task.layoutDir}/blobs`, blob.digest)), (count) => onBytes(blob.digest, count));
    } catch (error) {
      throw blobError(blob.digest, error);
    }
  });
}

/** Name inside the layout directory for a member of a layout's tar, or undefined for what a layout does not need. */
function layoutName(path: string): string | undefined {
  const name = path.replace(/^(?:\.?\/)+/, '');
  if (name === 'index.json' || name === 'oci-layout') return name;
  const blob = /^blobs\/(sha256|sha512)\/([0-9a-f]+)$/.exec(name);
  return blob !== null && isDigest(`${blob[1]}:${blob[2]}`) ? name : undefined;
}

/** Unpacks the tar of a layout into an empty directory of ours; only names that a layout has are written. */
export async function runExtractTask(task: ExtractTask, signal: AbortSignal): Promise<void> {
  for (const name of ['', '/blobs', '/blobs/sha256', '/blobs/sha512']) await mkdir(`${task.directory}${name}`, { recursive: true, mode: 0o700 });
  /** What came since the last write; an item that begins nothing continues the file before. */
  let pending: { readonly begins: boolean; readonly name: string | undefined; readonly chunks: Uint8Array[] }[] = [];
  const reader = new TarReader({
    entry: (entry) => void pending.push({ begins: true, name: entry.type === 'file' ? layoutName(entry.path) : undefined, chunks: [] }),
    data: (chunk) => {
      if (pending.length === 0) pending.push({ begins: false, name: undefined, chunks: [] });
      // A copy: the piece is reused for holes.
      pending.at(-1)?.chunks.push(Uint8Array.from(chunk));
    },
  });
  let file: Awaited<ReturnType<typeof open>> | undefined;
  const drain = async (): Promise<void> => {
    for (const item of pending) {
      if (item.begins) {
        await file?.close();
        file = item.name === undefined ? undefined : await open(`${task.directory}/${item.name}`, 'w', 0o600);
      }
      for (const chunk of item.chunks) await file?.writeFile(chunk);
    }
    pending = [];
  };
  try {
    for await (const chunk of createReadStream(task.archivePath, { highWaterMark: copyBytes, signal })) {
      // SAFETY: no encoding is set, so the stream gives buffers.
      for (const _pause of reader.feed(chunk as Buffer)) await drain();
      await drain();
    }
    reader.finish();
  } finally {
    await file?.close();
  }
}
