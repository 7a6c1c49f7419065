/**
 * Reads files of the kernel, such as those of a control group. In: absolute paths on cgroup file systems and procfs. Out: their texts. These
 * files never hang and hold nothing of a tenant; other paths must not be given.
 */
import { open } from 'node:fs/promises';
import { errnoName, limits } from '#core';

/** Absent files, and those of groups and processes that have gone meanwhile. */
const absent: ReadonlySet<string | undefined> = new Set(['ENOENT', 'ESRCH', 'ENODEV', 'EOPNOTSUPP']);

async function readBounded(path: string): Promise<string | undefined> {
  try {
    await using file = await open(path, 'r');
    const chunks: Buffer[] = [];
    for (let bytes = 0; bytes < limits.controlFileBytesMax;) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(16 * 1024));
      if (bytesRead === 0) break;
      bytes += bytesRead;
      chunks.push(buffer.subarray(0, bytesRead));
    }
    return Buffer.concat(chunks).toString('utf8');
  } catch (error) {
    if (absent.has(errnoName(error))) return undefined;
    throw error;
  }
}

/** Texts by path, cut at `limits.controlFileBytesMax`. A file that is absent has none. */
export async function readControlFiles(paths: readonly string[]): Promise<Map<string, string>> {
  const texts = await Promise.all(paths.map(async (path) => [path, await readBounded(path)] as const));
  return new Map(texts.flatMap(([path, text]) => (text === undefined ? [] : [[path, text] as const])));
}
