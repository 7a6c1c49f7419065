/**
 * Files by which a command hands bytes to the engine and takes them from it: the engine reads and writes paths, people also use pipes.
 * In: a directory of the engine's. Out: one file in a directory of its own, removed at the end; what a killed command left goes when the
 * next engine opens.
 */
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { wrapError } from '#core';
import type { Transfer } from './dependencies.ts';

const fileMode = 0o600;

/** Makes the directory with mode 0700 and a place in it. The file itself is made by whoever writes first. */
export async function createTransfer(directory: string): Promise<Transfer> {
  const place = await makePlace(directory).catch((error: unknown) => {
    throw wrapError(`make a directory in ${directory}`, error);
  });
  const path = `${place}/archive`;
  return {
    path,
    fill: async (source) => {
      const file = await open(path, 'wx', fileMode);
      try {
        for await (const chunk of source) await file.writeFile(chunk);
      } catch (error) {
        throw wrapError(`copy standard input to ${path}`, error);
      } finally {
        await file.close();
      }
    },
    read: async function* read() {
      const file = await open(path, 'r');
      try {
        // Without a name from here on: a command that is killed while a slow reader takes the bytes leaves nothing.
        await rm(place, { recursive: true, force: true });
        // SAFETY: a read stream without encoding gives Buffers.
        for await (const chunk of file.createReadStream({ autoClose: false, highWaterMark: 1024 * 1024 })) yield chunk as Buffer;
      } finally {
        await file.close();
      }
    },
    remove: async () => rm(place, { recursive: true, force: true }),
  };
}

async function makePlace(directory: string): Promise<string> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  return mkdtemp(`${directory}/`);
}
