/**
 * Brings blobs from a registry or a layout directory into growing files, in a worker thread.
 * In: digests, sizes, files. Out: bytes, whose digest nobody has checked yet. Sizes are checked here.
 */
import { constants, open } from 'node:fs/promises';
import { RuntimeError, errorMessage, isAbort, wrapError } from '#core';
import type { Digest } from '#oci';
import { blobPath } from './content.io.ts';
import { GrowingFile } from './growing-file.io.ts';
import { RegistryClient } from './registry/client.io.ts';
import type { BlobTarget, CopyTask, DownloadTask } from './worker-messages.ts';

/** Enough to keep a connection busy while another is being set up; the first blobs are wanted first. */
const parallelBlobs = 3;
const copyBytes = 256 * 1024;

type OnBytes = (digest: Digest, count: number) => void;

/** Runs at most `parallelBlobs` at once, the first ones first; the first failure stops the others and is thrown. */
async function eachBlob(
  blobs: readonly BlobTarget[],
  context: { readonly onBytes: OnBytes; readonly signal: AbortSignal },
  transfer: (blob: BlobTarget, file: GrowingFile, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const either = AbortSignal.any([context.signal, stop.signal]);
  const queue = [...blobs];
  let failure: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (let blob = queue.shift(); blob !== undefined && !either.aborted; blob = queue.shift()) {
      const { digest, sizeBytes, haveBytes } = blob;
      try {
        if (haveBytes > 0) context.onBytes(digest, haveBytes);
        using file = new GrowingFile(blob, (count) => context.onBytes(digest, count));
        if (haveBytes < sizeBytes) await transfer(blob, file, either);
      } catch (error) {
        failure ??= { error: blobError(digest, error) };
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: parallelBlobs }, lane));
  if (failure !== undefined) throw failure.error;
  context.signal.throwIfAborted();
}

/** An error about one blob, unless it names it already. */
function blobError(digest: Digest, error: unknown): unknown {
  return isAbort(error) || errorMessage(error).includes(digest) ? error : wrapError(`blob ${digest}`, error);
}

/** Downloads the blobs. Throws with the blob's digest in the message. */
export async function runDownloadTask(task: DownloadTask, onBytes: OnBytes, signal: AbortSignal): Promise<void> {
  using client = new RegistryClient({ access: task.access });
  await eachBlob(task.blobs, { onBytes, signal }, async (blob, file, either) => client.download(blob, file, either));
}

/** Copies the blobs out of a layout directory. Throws notFound where one is missing. No link, no FIFO, no device is opened for its content. */
export async function runCopyTask(task: CopyTask, onBytes: OnBytes, signal: AbortSignal): Promise<void> {
  await eachBlob(task.blobs, { onBytes, signal }, async (blob, target, either) => {
    const path = blobPath(`${task.layoutDir}/blobs`, blob.digest);
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const info = await file.stat();
      if (!info.isFile()) throw new RuntimeError('invalidArgument', `read ${path}: not a regular file`);
      if (info.size !== blob.sizeBytes) throw new RuntimeError('dataLoss', `verify blob ${blob.digest}: ${info.size} bytes, ${blob.sizeBytes} were announced`);
      const piece = Buffer.allocUnsafeSlow(Math.min(copyBytes, blob.sizeBytes));
      for (let at = target.haveBytes; at < blob.sizeBytes;) {
        either.throwIfAborted();
        const { bytesRead } = await file.read(piece, 0, Math.min(piece.length, blob.sizeBytes - at), at);
        if (bytesRead === 0) throw new RuntimeError('dataLoss', `verify blob ${blob.digest}: ${at} bytes, ${blob.sizeBytes} were announced`);
        await target.write(at, piece.subarray(0, bytesRead));
        at += bytesRead;
      }
    } finally {
      await file.close();
    }
  });
}
