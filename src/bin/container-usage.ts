/**
 * Space of the writable layers of containers, for the kubelet's view of the node's disk. In: the directory of the layers. Out: bytes
 * and inodes. The trees belong to tenants, who may change them meanwhile: every directory is opened without following a link and
 * looked into by its descriptor, so that no name can lead out, and nothing but directories is opened.
 */
import type { Dir } from 'node:fs';
import { constants, lstat, open, opendir } from 'node:fs/promises';
import { type Clock, limits } from '#core';
import type { ImageFileSystemUsage } from '#pod';

/** Trees may hold millions of files, and a kubelet asks every few seconds. */
const keptMs = 30_000;
/** Deeper directories are not counted: each level holds two descriptors. */
const depthMax = 128;
const blockBytes = 512;

interface Walk {
  usedBytes: number;
  inodesUsed: number;
  /** Names that were looked at, those of one file each. */
  entries: number;
  readonly seen: Set<string>;
}

/** The names in a directory, a few at a time: a tenant may make more of them than the daemon has memory for. */
async function* namesIn(path: string): AsyncGenerator<string, void, void> {
  const directory: Dir | undefined = await opendir(path).catch(() => undefined);
  if (directory === undefined) return;
  try {
    for await (const { name } of directory) yield name;
  } catch {
    // It could not be read to its end; what was read counts.
  }
}

async function addTree(path: string, walk: Walk, depth: number): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined);
  if (directory === undefined) return;
  try {
    // A name below a descriptor's entry is looked up in that very directory, wherever it has been moved to.
    const inside = `/proc/self/fd/${directory.fd}`;
    for await (const name of namesIn(inside)) {
      if (walk.entries >= limits.writableEntriesMax) return;
      walk.entries += 1;
      const info = await lstat(`${inside}/${name}`).catch(() => undefined);
      if (info === undefined) continue;
      // Hard links take their space once.
      if (info.nlink > 1 && !info.isDirectory()) {
        const inode = `${info.dev}:${info.ino}`;
        if (walk.seen.has(inode)) continue;
        walk.seen.add(inode);
      }
      walk.usedBytes += info.blocks * blockBytes;
      walk.inodesUsed += 1;
      if (info.isDirectory() && depth < depthMax) await addTree(`${inside}/${name}`, walk, depth + 1);
    }
  } finally {
    await directory.close();
  }
}

/** Measures when asked, with half a minute of rest between; callers meanwhile get the last answer, and callers at once share one. */
export class ContainerUsage {
  readonly #directory: string;
  readonly #clock: Clock;
  #last: { readonly atMs: number; readonly usage: ImageFileSystemUsage } | undefined;
  #running: Promise<ImageFileSystemUsage> | undefined;

  constructor(options: { readonly directory: string; readonly clock: Clock }) {
    this.#directory = options.directory;
    this.#clock = options.clock;
  }

  /** What cannot be read, what vanishes meanwhile, and what is beyond `limits.writableEntriesMax` counts nothing. Never throws. */
  async measure(): Promise<ImageFileSystemUsage> {
    if (this.#last !== undefined && this.#clock.monotonicMs() - this.#last.atMs <= keptMs) return this.#last.usage;
    this.#running ??= this.#measureNow().finally(() => (this.#running = undefined));
    return this.#running;
  }

  async #measureNow(): Promise<ImageFileSystemUsage> {
    const walk: Walk = { usedBytes: 0, inodesUsed: 0, entries: 0, seen: new Set() };
    await addTree(this.#directory, walk, 0);
    const { usedBytes, inodesUsed } = walk;
    const usage = { atNs: this.#clock.nowNs(), mountpoint: this.#directory, usedBytes, inodesUsed };
    // From its end: trees that take long are not measured all the time.
    this.#last = { atMs: this.#clock.monotonicMs(), usage };
    return usage;
  }
}
