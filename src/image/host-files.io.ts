/**
 * Which files of this machine an executable needs. In: paths. Out: files, links and directories to put into an image, nothing else.
 *
 * The host's private things must not leave with an image: only regular files that everybody may read are taken, never anything
 * reached through /proc, /sys, /run or /dev. Libraries are found by reading ELF files here; nothing of the host is executed.
 */
import { type Stats, closeSync, constants, fstatSync, lstatSync, openSync, readSync, readFileSync, readlinkSync } from 'node:fs';
import { posix } from 'node:path';
import { RuntimeError, errnoName, wrapError } from '#core';
import { type ElfNeeds, decodeLoaderCache, expandSearchPath, isElf, readElfNeeds, standardLibraryDirs } from './elf.ts';

/** What the image gets at a path. */
export type HostEntry = { readonly kind: 'link'; readonly target: string } | { readonly kind: 'file'; readonly mode: number; readonly sizeBytes: number };

const forbidden = ['/proc', '/sys', '/run', '/dev'] as const;
const linkHopsMax = 40;
const filesMax = 2000;
const scriptDepthMax = 4;
const loaderCachePath = '/etc/ld.so.cache';

function refuse(path: string, cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `take host file ${path}: ${cause}`);
}

function assertAllowed(path: string, asked: string): void {
  const root = forbidden.find((one) => path === one || path.startsWith(`${one}/`));
  if (root !== undefined) throw refuse(asked, `leads through ${root}`);
}

function statOf(path: string): Stats {
  try {
    return lstatSync(path);
  } catch (cause) {
    throw wrapError(`take host file ${path}`, cause);
  }
}

/** Gathers files and links of this machine; refuses what must not leave it. */
export class HostFiles {
  /** Files and links by their path in the image, which is their path on the host. */
  readonly entries = new Map<string, HostEntry>();
  readonly #inspected = new Set<string>();
  #cache: ReadonlyMap<string, readonly string[]> | undefined;

  /** Takes a file and the links that lead to it; returns where it really is. Throws invalidArgument, notFound. */
  addFile(path: string): string {
    const real = this.#follow(path);
    const file = openSync(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const info = fstatSync(file);
      if (!info.isFile()) throw refuse(path, 'is not a regular file');
      if ((info.mode & 0o004) === 0) throw refuse(path, 'is not readable by everybody, so it may be private');
      // Set-user-id bits would give the image's users what the host gives its own.
      this.#put(real, { kind: 'file', mode: info.mode & 0o755, sizeBytes: info.size });
    } finally {
      closeSync(file);
    }
    return real;
  }

  /** Takes a program with its interpreter and libraries, or a script with its interpreter. */
  addExecutable(path: string, depth = 0): void {
    if (depth > scriptDepthMax) throw refuse(path, 'scripts interpret each other');
    const real = this.addFile(path);
    if ((statOf(real).mode & 0o111) === 0) throw refuse(path, 'is not executable');
    const head = withFile(real, (readAt) => readAt(0, 512));
    if (head.subarray(0, 2).toString('latin1') === '#!') this.addExecutable(interpreterOf(head, path), depth + 1);
    else if (isElf(head)) this.#addNeeds(real, []);
    else throw refuse(path, 'is neither an ELF program nor a script');
  }

  #put(path: string, entry: HostEntry): void {
    this.entries.set(path, entry);
    if (this.entries.size > filesMax) throw new RuntimeError('resourceExhausted', `take host files: more than ${filesMax}`);
  }

  /** The path without links; every link on the way is taken. */
  #follow(path: string): string {
    if (!path.startsWith('/')) throw refuse(path, 'must be an absolute path');
    const remaining = path.split('/').reverse();
    let at = '';
    let hops = 0;
    for (let name = remaining.pop(); name !== undefined; name = remaining.pop()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        at = posix.dirname(at === '' ? '/' : at).replace(/^\/$/, '');
        continue;
      }
      const here = `${at}/${name}`;
      assertAllowed(here, path);
      const info = statOf(here);
      if (!info.isSymbolicLink()) {
        at = here;
        continue;
      }
      hops += 1;
      if (hops > linkHopsMax) throw refuse(path, 'too many symbolic links');
      const target = readlinkSync(here);
      this.#put(here, { kind: 'link', target });
      if (target.startsWith('/')) at = '';
      remaining.push(...target.split('/').reverse());
    }
    return at;
  }

  #addNeeds(real: string, inheritedRpath: readonly string[]): void {
    if (this.#inspected.has(real)) return;
    this.#inspected.add(real);
    let needs: ElfNeeds;
    try {
      needs = withFile(real, readElfNeeds);
    } catch (cause) {
      throw wrapError(`take host file ${real}`, cause);
    }
    const directory = posix.dirname(real);
    if (needs.interpreter !== undefined) this.addFile(needs.interpreter);
    const rpath = needs.runpath.length > 0 ? [] : [...expandSearchPath(needs.rpath, directory), ...inheritedRpath];
    const searched = [...rpath, ...expandSearchPath(needs.runpath, directory)];
    for (const name of needs.libraries) this.#addLibrary(name, needs, { searched, rpath, by: real });
  }

  #addLibrary(name: string, needs: ElfNeeds, context: { readonly searched: readonly string[]; readonly rpath: readonly string[]; readonly by: string }): void {
    const standard = standardLibraryDirs(needs);
    const candidates = name.includes('/') ? [name] : [...context.searched.map((dir) => `${dir}/${name}`), ...this.#cached(name), ...standard.map((dir) => `${dir}/${name}`)];
    const path = candidates.find((candidate) => fits(candidate, needs));
    if (path === undefined) throw refuse(context.by, `needs the library ${name}, which is nowhere on this machine`);
    this.#addNeeds(this.addFile(path), context.rpath);
    // The image has no loader cache: what only the cache finds gets a link where the loader looks by itself.
    const directory = posix.dirname(path);
    const compiledIn = standard.filter((dir) => !dir.startsWith('/usr/local'));
    const home = compiledIn.find((dir) => dir.startsWith('/usr/lib')) ?? '/usr/lib';
    if (!name.includes('/') && !context.searched.includes(directory) && !compiledIn.includes(directory)) this.#put(`${home}/${name}`, { kind: 'link', target: path });
  }

  #cached(name: string): readonly string[] {
    this.#cache ??= readCache();
    return this.#cache.get(name) ?? [];
  }
}

function readCache(): ReadonlyMap<string, readonly string[]> {
  try {
    return decodeLoaderCache(readFileSync(loaderCachePath));
  } catch (error) {
    // A machine without a cache (musl) has its libraries in the standard directories.
    if (errnoName(error) === 'ENOENT') return new Map();
    throw wrapError(`read ${loaderCachePath}`, error);
  }
}

function withFile<T>(path: string, body: (readAt: (offset: number, length: number) => Buffer) => T): T {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    return body((offset, length) => {
      const bytes = Buffer.alloc(Math.min(length, 1024 * 1024));
      return bytes.subarray(0, readSync(file, bytes, 0, bytes.length, offset));
    });
  } finally {
    closeSync(file);
  }
}

/** True for a library of the same machine; what cannot be opened is not where the search ends. */
function fits(path: string, needs: ElfNeeds): boolean {
  try {
    const found = withFile(path, readElfNeeds);
    return found.machine === needs.machine && found.is64Bit === needs.is64Bit;
  } catch {
    return false;
  }
}

function interpreterOf(head: Buffer, path: string): string {
  const line = head.toString('utf8', 2).split('\n', 1)[0] ?? '';
  const interpreter = line.trim().split(/\s+/)[0] ?? '';
  if (posix.basename(interpreter) === 'env') throw refuse(path, 'finds its interpreter through env; name the interpreter and pass the script as a file');
  if (!interpreter.startsWith('/')) throw refuse(path, 'is a script without an absolute interpreter');
  return interpreter;
}
