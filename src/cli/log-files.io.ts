/** Reading log files that a shim writes, over rotation. In: a path. Out: bytes. It follows no link in the last component. */
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { RuntimeError, errnoName, wrapError } from '#core';
import type { LogFilePort } from './dependencies.ts';

const pollMs = 100;
const chunkBytes = 64 * 1024;

async function openLog(path: string): Promise<FileHandle> {
  try {
    // O_NONBLOCK: a FIFO in place of the file would block the open, and with it a thread, for ever.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if ((await file.stat()).isFile()) return file;
    await file.close();
    throw new RuntimeError('failedPrecondition', 'is no regular file');
  } catch (error) {
    throw wrapError(`read log ${path}`, error);
  }
}

/** True where the path names another file than the open one: the log was rotated. An absent file is being rotated. */
async function isReplaced(file: FileHandle, path: string): Promise<boolean> {
  try {
    const [current, named] = await Promise.all([file.stat(), stat(path)]);
    return current.ino !== named.ino || current.dev !== named.dev;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return false;
    throw error;
  }
}

async function* readLog(path: string, options: { readonly follow: boolean; readonly ended: AbortSignal }): AsyncGenerator<Uint8Array, void, void> {
  let file = await openLog(path);
  let offset = 0;
  try {
    for (;;) {
      // Taken before reading, so that what is written before either happens is read before it counts.
      const over = !options.follow || options.ended.aborted;
      const replaced = !over && (await isReplaced(file, path));
      if ((await file.stat()).size < offset) offset = 0;
      for (;;) {
        const { bytesRead, buffer } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, offset);
        if (bytesRead === 0) break;
        offset += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
      if (over) return;
      if (replaced) {
        await file.close();
        file = await openLog(path);
        offset = 0;
      } else await delay(pollMs, undefined, { signal: options.ended }).catch(() => undefined);
    }
  } finally {
    await file.close();
  }
}

/** Log files of this host. Following polls, as file notification does not cover every file system. */
export const hostLogFiles: LogFilePort = { read: readLog };
