/**
 * Space of the writable layers of containers, of all together for the kubelet's view of the node's disk, and of each. In: the directory of
 * the layers. Out: bytes and inodes. The trees belong to tenants, who may change them meanwhile: every directory is opened without following
 * a link and looked into by its descriptor, so that no name can lead out, and nothing but directories is opened.
 */
import type { Dir } from 'node:fs';
import { constants, lstat, open, opendir, readFile, statfs } from 'node:fs/promises';
import { type Clock, limits } from '#core';
import type { ImageFileSystemUsage, LayerUsage } from '#pod';

/** Trees may hold millions of files, and a kubelet asks every few seconds. */
const keptMs = 30_000;
/** What is measured rests at least that many times as long as its measurement took, a single tree as long as that of all single trees together. */
const restFactor = 10;
/** What is not asked for any more is forgotten. */
const forgottenMs = 600_000;
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

/** False where there is no such directory. */
async function addTree(path: string, walk: Walk, depth: number): Promise<boolean> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined);
  if (directory === undefined) return false;
  try {
    // A name below a descriptor's entry is looked up in that very directory, wherever it has been moved to.
    const inside = `/proc/self/fd/${directory.fd}`;
    for await (const name of namesIn(inside)) {
      if (walk.entries >= limits.writableEntriesMax) return true;
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
  return true;
}

/** A measurement and how long it took. */
interface Measured<T> {
  readonly atMs: number;
  readonly tookMs: number;
  readonly usage: T;
}

/** One container's layer. */
interface Layer {
  /** For which somebody asked last. */
  askedMs: number;
  last: Measured<LayerUsage | undefined> | undefined;
  running: Promise<LayerUsage | undefined> | undefined;
}

/** Measures when asked, with half a minute of rest between; callers meanwhile, and those whom a measurement lets wait, get the last answer. Callers at once share one. */
export class ContainerUsage {
  readonly #directory: string;
  readonly #mountpoint: string;
  readonly #clock: Clock;
  readonly #layers = new Map<string, Layer>();
  /** What the last measurements of `#layers` took, all together: a hundred trees that are each small enough must not follow one another without end. */
  #layersTookMs = 0;
  #last: Measured<ImageFileSystemUsage> | undefined;
  #running: Promise<ImageFileSystemUsage> | undefined;
  /** Single trees are measured one after the other: a list of a hundred containers must leave the disk to others. */
  #turn: Promise<unknown> = Promise.resolve();
  #device: Promise<string | undefined> | undefined;

  /** `mountpoint`: what the answers call the file system; kubelets take two names for two disks. */
  constructor(options: { readonly directory: string; readonly mountpoint: string; readonly clock: Clock }) {
    this.#directory = options.directory;
    this.#mountpoint = options.mountpoint;
    this.#clock = options.clock;
  }

  /** What cannot be read, what vanishes meanwhile, and what is beyond `limits.writableEntriesMax` counts nothing. Never throws. */
  async measure(): Promise<ImageFileSystemUsage> {
    const last = this.#last;
    if (last !== undefined && this.#isFresh(last, last.tookMs)) return last.usage;
    this.#running ??= this.#measureAll().finally(() => (this.#running = undefined));
    if (last === undefined) return this.#running;
    // Millions of files take minutes, and a kubelet's eviction waits for the answer.
    const cancel = new AbortController();
    const late = this.#clock.sleep(limits.layerMeasureWaitMs, cancel.signal).then(
      () => last.usage,
      () => last.usage,
    );
    const usage = await Promise.race([this.#running, late]);
    cancel.abort();
    return usage;
  }

  /** The same for one container; undefined where it has no layer. */
  async measureLayer({ podId, containerId }: { readonly podId: string; readonly containerId: string }): Promise<LayerUsage | undefined> {
    const nowMs = this.#clock.monotonicMs();
    this.#forget(nowMs);
    const layer: Layer = this.#layers.get(containerId) ?? { askedMs: nowMs, last: undefined, running: undefined };
    layer.askedMs = nowMs;
    // In the order in which they were asked for, so that the forgotten ones are in front.
    this.#layers.delete(containerId);
    this.#layers.set(containerId, layer);
    if (layer.last !== undefined && this.#isFresh(layer.last, this.#layersTookMs)) return layer.last.usage;
    if (layer.running === undefined) {
      const measured = this.#turn.then(async () => this.#measureTree(`${this.#directory}/${podId}/${containerId}`, layer));
      layer.running = measured.finally(() => (layer.running = undefined));
      this.#turn = layer.running.catch(() => undefined);
    }
    // An old answer at once is worth more than a new one later.
    return layer.last === undefined ? layer.running : layer.last.usage;
  }

  #isFresh({ atMs }: Measured<unknown>, tookMs: number): boolean {
    return this.#clock.monotonicMs() - atMs <= Math.max(keptMs, restFactor * tookMs);
  }

  #forget(nowMs: number): void {
    for (const [id, { askedMs, running, last }] of this.#layers) {
      if (running !== undefined || nowMs - askedMs <= forgottenMs) break;
      this.#layersTookMs -= last?.tookMs ?? 0;
      this.#layers.delete(id);
    }
  }

  async #measureTree(path: string, layer: Layer): Promise<LayerUsage | undefined> {
    const startedMs = this.#clock.monotonicMs();
    const walk: Walk = { usedBytes: 0, inodesUsed: 0, entries: 0, seen: new Set() };
    const exists = await addTree(path, walk, 0);
    const usage = exists ? await this.#describeLayer(walk) : undefined;
    const atMs = this.#clock.monotonicMs();
    const tookMs = atMs - startedMs;
    this.#layersTookMs += tookMs - (layer.last?.tookMs ?? 0);
    layer.last = { atMs, tookMs, usage };
    return usage;
  }

  async #describeLayer({ usedBytes, inodesUsed }: Walk): Promise<LayerUsage> {
    this.#device ??= deviceOf(this.#directory);
    const [system, device] = await Promise.all([statfs(this.#directory, { bigint: true }).catch(() => undefined), this.#device]);
    return {
      atNs: this.#clock.nowNs(),
      mountpoint: this.#mountpoint,
      usedBytes,
      inodesUsed,
      ...(device === undefined ? {} : { device }),
      ...(system === undefined ? {} : { capacityBytes: system.blocks * system.bsize, inodesTotal: system.files, inodesFree: system.ffree }),
    };
  }

  async #measureAll(): Promise<ImageFileSystemUsage> {
    const startedMs = this.#clock.monotonicMs();
    const walk: Walk = { usedBytes: 0, inodesUsed: 0, entries: 0, seen: new Set() };
    await addTree(this.#directory, walk, 0);
    const { usedBytes, inodesUsed } = walk;
    const usage = { atNs: this.#clock.nowNs(), mountpoint: this.#mountpoint, usedBytes, inodesUsed };
    // From its end: trees that take long are not measured all the time.
    const atMs = this.#clock.monotonicMs();
    this.#last = { atMs, tookMs: atMs - startedMs, usage };
    return usage;
  }
}

/** Name of the block device that a directory of ours is on; undefined for a file system without one. */
async function deviceOf(directory: string): Promise<string | undefined> {
  const info = await lstat(directory, { bigint: true }).catch(() => undefined);
  if (info === undefined) return undefined;
  // makedev(3): twelve bits of the major number and twenty of the minor in the first 32.
  const [major, minor] = [(info.dev >> 8n) & 0xfffn, (info.dev & 0xffn) | ((info.dev >> 12n) & 0xfff00n)];
  const text = await readFile(`/sys/dev/block/${major}:${minor}/uevent`, 'utf8').catch(() => '');
  const name = /^DEVNAME=([\w/!.-]{1,64})$/m.exec(text)?.[1];
  return name === undefined ? undefined : `/dev/${name}`;
}
