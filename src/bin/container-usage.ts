/**
 * Space of the writable layers of containers, for the kubelet's view of the node's disk. In: the directory of the layers. Out: bytes
 * and inodes. The trees belong to tenants, who may change them meanwhile: every directory is opened without following a link and
 * looked into by its descriptor, so that no name can lead out, and nothing but directories is opened.
 */
import { constants, lstat, open, readdir } from 'node:fs/promises';
import { type Clock, limits } from '#core';
import type { ImageFileSystemUsage } from '#pod';

/** Trees may hold millions of files, and a kubelet asks every few seconds. */
const keptMs = 30_000;
/** Deeper directories are not counted: each level holds a descriptor. */
const depthMax = 128;
const blockBytes = 512;

interface Sum {
  usedBytes: number;
  inodesUsed: number;
}

async function addTree(path: string, sum: Sum, seen: Set<string>, depth: number): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined);
  if (directory === undefined) return;
  try {
    // A name below a descriptor's entry is looked up in that very directory, wherever it has been moved to.
    const inside = `/proc/self/fd/${directory.fd}`;
    for (const name of await readdir(inside).catch(() => [])) {
      const info = await lstat(`${inside}/${name}`).catch(() => undefined);
      if (info === undefined) continue;
      if (sum.inodesUsed >= limits.writableEntriesMax) return;
      const inode = `${info.dev}:${info.ino}`;
      // Hard links take their space once.
      if (info.nlink > 1 && !info.isDirectory()) {
        if (seen.has(inode)) continue;
        seen.add(inode);
      }
      sum.usedBytes += info.blocks * blockBytes;
      sum.inodesUsed += 1;
      if (info.isDirectory() && depth < depthMax) await addTree(`${inside}/${name}`, sum, seen, depth + 1);
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
    const sum: Sum = { usedBytes: 0, inodesUsed: 0 };
    await addTree(this.#directory, sum, new Set(), 0);
    const usage = { atNs: this.#clock.nowNs(), mountpoint: this.#directory, ...sum };
    // From its end: trees that take long are not measured all the time.
    this.#last = { atMs: this.#clock.monotonicMs(), usage };
    return usage;
  }
}
