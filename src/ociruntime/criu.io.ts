/**
 * criu(8) on this host. In: words for it, directories of images. Out: whether it works here, and errors that name the line and the file in which criu says why it failed.
 *
 * Images may be a stranger's. What is read and written here follows no link in them; what criu makes of its own files is its part.
 */
import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { RuntimeError, errnoName, errorMessage, invalidArgument, limits, wrapError } from '#core';
import { decodeStreams, descriptorsFile, lastError, workFiles } from './criu.ts';
import type { CriuOptions } from './options.ts';
import { runTool } from './tool.io.ts';
import type { FrontRequest } from './types.ts';

/** Why criu does not run here, in its own last words; empty where it does. */
async function askCriu({ env }: FrontRequest): Promise<string> {
  try {
    const { code, output } = await runTool('criu', ['check'], { env });
    return code === 0 ? '' : (output.trim().split('\n').at(-1) ?? `exit status ${code}`).slice(0, 300).replaceAll(/[^\x20-\x7e]+/g, '?');
  } catch (error) {
    return errorMessage(error);
  }
}

/** Throws unimplemented, in one sentence, where `criu check` fails. */
export async function checkCriu(verb: string, request: FrontRequest): Promise<void> {
  const why = await askCriu(request);
  if (why !== '') throw new RuntimeError('unimplemented', `${verb} container: not possible on this host: criu check: ${why}`);
}

/** `nftables` where criu can hold connections with it, which wants no further program; else empty. */
export async function findNetworkLock({ env }: FrontRequest): Promise<string> {
  const { code } = await runTool('criu', ['check', '--feature', 'network_lock_nftables'], { env });
  return code === 0 ? 'nftables' : '';
}

/** The directory that criu's log is in. */
export const workDirectory = ({ imagePath, workPath }: CriuOptions): string => (workPath === '' ? imagePath : workPath);

/** A directory of the caller's, made where it is missing; its parents are too. */
export function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw wrapError(`make ${path}`, cause);
  }
}

/** Takes away what an earlier run of criu left under these names, so that nothing is written through a link. */
export function clearWork(directory: string, log: string): void {
  for (const name of [log, ...workFiles]) {
    try {
      rmSync(`${directory}/${name}`, { force: true });
    } catch (cause) {
      throw wrapError(`remove ${directory}/${name}`, cause);
    }
  }
}

/** Throws invalidArgument unless the directory holds plain files alone: criu would follow a link, and write through it. The link to earlier images must stay among them. */
export function checkImages(directory: string): void {
  let names: readonly string[];
  try {
    names = readdirSync(directory);
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') throw new RuntimeError('notFound', `image directory ${directory} does not exist`, { cause });
    throw wrapError(`read ${directory}`, cause);
  }
  for (const name of names) {
    const path = `${directory}/${name}`;
    const info = lstatSync(path);
    if (name === 'parent' && info.isSymbolicLink() && !readlinkSync(path).startsWith('/')) continue;
    if (info.isSymbolicLink()) throw invalidArgument('', `image ${JSON.stringify(path.slice(0, 300))} is a link`);
    if (name.endsWith('.img') && !info.isFile()) throw invalidArgument('', `image ${JSON.stringify(path.slice(0, 300))} is no regular file`);
  }
}

/** At most that many bytes of a regular file, from its end; no link is followed. */
function readTail(path: string, bytesMax: number): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const info = fstatSync(file);
    if (!info.isFile()) throw new RuntimeError('invalidArgument', `read ${path}: no regular file`);
    const buffer = Buffer.alloc(Math.min(info.size, bytesMax));
    const count = readSync(file, buffer, 0, buffer.length, Math.max(0, info.size - bytesMax));
    return buffer.toString('utf8', 0, count);
  } finally {
    closeSync(file);
  }
}

/** What criu's failure is called. The text ends with the path of the log, which callers of runc look for. */
export function criuError(verb: string, log: string, cause?: unknown): RuntimeError {
  let line = '';
  try {
    line = lastError(readTail(log, limits.ociCriuLogBytesMax));
  } catch {
    // It failed before it had a log: what it says then is on standard error.
  }
  const why = line === '' ? (cause === undefined ? 'no error in its log' : errorMessage(cause)) : line;
  return new RuntimeError('failedPrecondition', `${verb} container: criu failed: ${why}; log file: ${log}`, { cause });
}

/** Tells a restore what a process's streams are now. */
export function writeStreams(directory: string, streams: readonly string[]): void {
  const path = `${directory}/${descriptorsFile}`;
  try {
    rmSync(path, { force: true });
    writeFileSync(path, JSON.stringify(streams), { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw wrapError(`write ${path}`, cause);
  }
}

/** What `writeStreams` wrote; images without it have none. */
export function readStreams(directory: string): readonly string[] {
  const path = `${directory}/${descriptorsFile}`;
  try {
    return decodeStreams(readTail(path, limits.ociStreamNamesBytesMax), path);
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') return [];
    throw cause instanceof RuntimeError ? cause : wrapError(`read ${path}`, cause);
  }
}

/**
 * The standard streams of a process by the names that criu has for them, or the path of one that is a file of the container itself. A file of the host has the name `file[MOUNT:INODE]`, which
 * both sides must know it by.
 */
export function describeStreams(pid: number): readonly string[] {
  const ownMounts = new Set(
    readFileSync(`/proc/${pid}/mountinfo`, 'latin1')
      .split('\n')
      .map((line) => Number.parseInt(line, 10)),
  );
  return [0, 1, 2].map((fd) => {
    try {
      const link = readlinkSync(`/proc/${pid}/fd/${fd}`);
      if (!link.startsWith('/')) return link;
      const mount = Number(/^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1] ?? 0);
      return ownMounts.has(mount) ? link : `file[${mount.toString(16)}:${statSync(`/proc/${pid}/fd/${fd}`, { bigint: true }).ino.toString(16)}]`;
    } catch {
      return '';
    }
  });
}

/** Where a path inside a root leads, as a path inside. Links are followed as the container would: those that leave the root end in it. */
export function resolveInside(rootfs: string, path: string): string {
  let at = '';
  const parts = path.split('/');
  for (let steps = 0; parts.length > 0; steps += 1) {
    if (steps > 1000) throw invalidArgument('mounts', `destination ${JSON.stringify(path.slice(0, 200))}: too many links`);
    const part = parts.shift() ?? '';
    if (part === '' || part === '.') continue;
    if (part === '..') at = at.slice(0, Math.max(0, at.lastIndexOf('/')));
    else {
      let target: string;
      try {
        target = readlinkSync(`${rootfs}${at}/${part}`);
      } catch {
        at = `${at}/${part}`;
        continue;
      }
      if (target.startsWith('/')) at = '';
      parts.unshift(...target.split('/'));
    }
  }
  return at === '' ? '/' : at;
}

/** Inode of the namespace that a path leads to. */
export function namespaceInode(path: string): bigint {
  try {
    return statSync(path, { bigint: true }).ino;
  } catch (cause) {
    throw wrapError(`open namespace ${path}`, cause);
  }
}
