/**
 * The small files that describe registries and credentials. In: a path. Out: text, or undefined where there is none. A FIFO or a
 * device is not waited on, and a file is bounded. Links are followed: these files belong to whoever administers the machine.
 */
import { constants, open } from 'node:fs/promises';
import { RuntimeError, errnoName, limits } from '#core';

/** The file's text, or undefined where it does not exist. Throws `read PATH: cause` without anything of the content. */
export async function readConfigurationFile(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const info = await file.stat();
      if (!info.isFile()) throw new RuntimeError('failedPrecondition', `read ${path}: not a regular file`);
      if (info.size > limits.registryFileBytesMax) throw new RuntimeError('failedPrecondition', `read ${path}: ${info.size} bytes, at most ${limits.registryFileBytesMax}`);
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof RuntimeError) throw error;
    const errno = errnoName(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw new RuntimeError('failedPrecondition', `read ${path}: ${errno ?? 'unreadable'}`, { cause: error, ...(errno === undefined ? {} : { errno }) });
  }
}
