/** The host's files that the CNI network reads and writes: configurations, executables, pinned namespaces. It interprets none of them. */
import { constants } from 'node:fs';
import { access, mkdir, open, readdir, rename, stat, statfs, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { RuntimeError, errnoName, limits, wrapError } from '#core';
import type { CniFile, CniFiles } from './cni-types.ts';

/** Names that CNI's own library reads. */
const configExtensions = ['.conf', '.conflist', '.json'];
/** NSFS_MAGIC of linux/magic.h. */
const namespaceFileSystem = 0x6e736673;
/** What a path that is not there, or not what it is taken for, says. */
const absentErrnos: ReadonlySet<string | undefined> = new Set(['ENOENT', 'ENOTDIR']);

async function unlessAbsent<T>(work: Promise<T>, what: string): Promise<T | undefined> {
  return work.catch((error: unknown) => {
    if (absentErrnos.has(errnoName(error))) return undefined;
    throw wrapError(what, error);
  });
}

async function fileAt(path: string): Promise<CniFile | undefined> {
  const info = await unlessAbsent(stat(path, { bigint: true }), `look at ${path}`);
  return info?.isFile() === true ? { path, stamp: `${info.dev}:${info.ino}:${info.size}:${info.mtimeNs}` } : undefined;
}

/** Bounded, whatever the file's size says. Opened without blocking, as a FIFO may bear any name. */
async function readBounded(path: string, bytesMax: number): Promise<string> {
  // eslint-disable-next-line no-bitwise
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  if (!(await file.stat()).isFile()) throw new RuntimeError('invalidArgument', 'no regular file');
  const buffer = Buffer.alloc(bytesMax + 1);
  let length = 0;
  for (;;) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length);
    if (bytesRead === 0) return buffer.toString('utf8', 0, length);
    length += bytesRead;
    if (length > bytesMax) throw new RuntimeError('resourceExhausted', `more than ${bytesMax} bytes`);
  }
}

/** The real host. */
export const cniFiles: CniFiles = {
  async listConfigs(directory) {
    const names = (await unlessAbsent(readdir(directory), `read ${directory}`)) ?? [];
    const wanted = names.filter((name) => configExtensions.some((extension) => name.endsWith(extension))).sort();
    if (wanted.length > limits.cniConfigFilesMax)
      throw new RuntimeError('resourceExhausted', `read ${directory}: ${wanted.length} configurations, at most ${limits.cniConfigFilesMax}`);
    return (await Promise.all(wanted.map(async (name) => fileAt(join(directory, name))))).filter((file) => file !== undefined);
  },
  async readText(path) {
    try {
      return await readBounded(path, limits.cniConfigBytesMax);
    } catch (error) {
      throw wrapError(`read ${path}`, error);
    }
  },
  async findPlugin(type, directories) {
    for (const directory of directories) {
      const path = join(directory, type);
      const found = await fileAt(path);
      if (found === undefined) continue;
      if (
        await access(path, constants.X_OK).then(
          () => true,
          () => false,
        )
      )
        return found;
    }
    return undefined;
  },
  async lookAtPin(path) {
    const found = await unlessAbsent(statfs(path), `look at ${path}`);
    return found === undefined ? 'absent' : found.type === namespaceFileSystem ? 'namespace' : 'file';
  },
  async replaceFile(path, content) {
    const temporary = `${path}.new`;
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o755 });
      await unlink(temporary).catch((error: unknown) => {
        if (!absentErrnos.has(errnoName(error))) throw error;
      });
      await using file = await open(temporary, 'wx', 0o644);
      await file.writeFile(content);
      await file.sync();
      await rename(temporary, path);
    } catch (error) {
      throw wrapError(`write ${path}`, error);
    }
  },
};
