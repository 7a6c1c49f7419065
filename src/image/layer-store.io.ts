/**
 * Unpacked layers on disk. In: blobs, perhaps while they come. Out: directories that an overlay uses as lower ones.
 *
 * `layers/<n>` is a layer, `index/<n>` its index; n is short, so that a hundred lower directories fit the one page that mount(2) has
 * for options. The record is the commit point: a directory without one is unfinished and is removed at the next start. Layers are recorded together, after
 * one sync for all of them; in between they are `staged`, known to this process alone. A self-contained layer is recorded under its diff ID and shared by
 * all images; one that needed what is below it, under its chain ID.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { KeyedMutex, type Records, RuntimeError, errorMessage, wrapError, errorCode, errnoName } from '#core';
import type { Digest, LayerCompression } from '#oci';
import { type OverlayStyle, noSlot } from '#plan';
import { BlobArrivals } from './blob-arrivals.io.ts';
import { blobPath, blobSize } from './content.io.ts';
import { assertAttributes, chooseOverlayStyle } from './overlay-style.io.ts';
import type { PlannedLayer } from './plan-layers.ts';
import type { ImageStoreOptions } from './types.ts';
import type { BlobFile, LayerContent, ParentLayer, UnpackResult } from './worker-messages.ts';
import type { WorkerPool } from './worker-pool.io.ts';

const recordKind = 'imageLayer';

/** What is recorded of a layer. The record's id is its diff ID or, unless self-contained, its chain ID. */
export interface StoredLayer {
  readonly key: Digest;
  readonly diffId: Digest;
  readonly isSelfContained: boolean;
  /** Name of its directory below `layers` and of its index below `index`. */
  readonly name: string;
  readonly blob: Digest;
  /** As the blob's first bytes say. */
  readonly compression: LayerCompression;
  /** What the blob is, for unpacking it again. */
  readonly content: LayerContent;
  readonly contentBytes: number;
  readonly entries: number;
}

/** Who wants a layer unpacked, and how to get what it needs. */
export interface UnpackContext {
  /** The blob, asked for only when it is needed; it may still be coming. */
  readonly blob: () => Promise<BlobFile>;
  /** Called before waiting for another caller that unpacks the same layer, and may itself be waiting for a blob that this one brings. */
  readonly beforeWaiting?: () => Promise<void>;
  /** The blob and its archive have their digests. What this throws ends the unpacking. */
  readonly onChecked: () => void;
  /** The layers below, base first, once they are unpacked; asked for only when the archive needs them. */
  readonly parents: () => Promise<readonly StoredLayer[]>;
  /** Told of bytes of the blob. */
  readonly onBytes: (count: number) => void;
  readonly signal: AbortSignal;
}

type LayerStoreOptions = Pick<ImageStoreOptions, 'stateDir' | 'records' | 'launcherSocket' | 'runOnHost' | 'overlayAttributes'>;

/** The layers of one state directory. Its caller decides what is still needed. */
export class LayerStore {
  /** Blobs on their way into the content store beside the layers. */
  readonly arrivals: BlobArrivals;
  readonly #options: LayerStoreOptions;
  readonly #pool: WorkerPool;
  readonly #mutex = new KeyedMutex();
  /** Names given out to unpacks in flight and to staged layers. */
  readonly #reserved = new Set<string>();
  /** Unpacked, not yet synced and recorded, by key. */
  readonly #staged = new Map<Digest, StoredLayer>();
  /** How layers speak to overlays; found out when the first is unpacked. */
  #style: Promise<OverlayStyle> | undefined;

  constructor(options: LayerStoreOptions, pool: WorkerPool) {
    this.#options = options;
    this.#pool = pool;
    this.arrivals = new BlobArrivals(`${options.stateDir}/content`);
  }

  /** `layers` of the state directory, which lower names are relative to. */
  get storeDir(): string {
    return `${this.#options.stateDir}/layers`;
  }

  get #records(): Records {
    return this.#options.records;
  }

  /** Makes the directories and removes layers without a record. */
  async open(): Promise<void> {
    const { stateDir } = this.#options;
    for (const name of ['layers', 'index', 'unpack']) await mkdir(`${stateDir}/${name}`, { recursive: true, mode: 0o700 });
    const known = new Set(this.list().map(({ name }) => name));
    assertAttributes(this.#records, this.#options.overlayAttributes ?? 'trusted', known.size > 0);
    for (const name of new Set([...(await readdir(this.storeDir)), ...(await readdir(`${stateDir}/index`))])) {
      if (!known.has(name)) await this.#removeTree(name);
    }
  }

  list(): StoredLayer[] {
    // SAFETY: only this class writes records of this kind.
    return this.#records.list(recordKind).map(({ value }) => value as StoredLayer);
  }

  get(key: Digest): StoredLayer | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#records.get(recordKind, key) as StoredLayer | undefined;
  }

  /** The unpacked layer that serves for this place in an image. */
  find(layer: { readonly diffId: Digest; readonly chainId: Digest }): StoredLayer | undefined {
    return findLayer(layer, (key) => this.get(key));
  }

  /** The same, with layers that only this process knows of. */
  #findStaged(layer: { readonly diffId: Digest; readonly chainId: Digest }): StoredLayer | undefined {
    return findLayer(layer, (key) => this.get(key) ?? this.#staged.get(key));
  }

  /**
   * Unpacks the layer unless it is there; equal ones are unpacked once. It must be committed before anything names it. Throws what the archive or
   * the disk deserves; nothing is left behind.
   */
  async unpack(layer: PlannedLayer, context: UnpackContext): Promise<StoredLayer> {
    if (this.#mutex.isHeld(layer.chainId)) await context.beforeWaiting?.();
    return this.#mutex.run(layer.chainId, async () => this.#findStaged(layer) ?? (await this.#unpackNow(layer, context)));
  }

  /**
   * Makes layers that `unpack` gave survive a power cut, and records them. One sync covers them all, and whatever else was written before.
   * On failure those that only this process knew of are removed.
   */
  async commit(layers: readonly StoredLayer[]): Promise<void> {
    const fresh = [...new Set(layers)].filter((layer) => this.#staged.get(layer.key) === layer);
    try {
      if (fresh.length > 0) await this.#sync();
      this.#records.transaction(() => {
        for (const layer of fresh) this.#records.put(recordKind, layer.key, layer);
      });
    } catch (error) {
      for (const layer of fresh) await this.#unstage(layer, { remove: this.get(layer.key) === undefined });
      throw wrapError('store layers', error);
    }
    for (const layer of fresh) await this.#unstage(layer, { remove: false });
    const gone = layers.find(({ key }) => this.get(key) === undefined);
    if (gone !== undefined) throw new RuntimeError('aborted', `store layer ${gone.diffId}: the operation that unpacked it could not keep it`);
  }

  async #sync(): Promise<void> {
    await this.#options.runOnHost({ sections: [{ actor: 'host', steps: [{ kind: 'syncFileSystem', dir: noSlot, path: this.#options.stateDir }] }] });
  }

  async #unstage(layer: StoredLayer, { remove }: { readonly remove: boolean }): Promise<void> {
    if (this.#staged.get(layer.key) !== layer) return;
    this.#staged.delete(layer.key);
    // A tree that cannot be removed now has no record and goes at the next start.
    if (remove) await this.#removeTree(layer.name).catch(() => undefined);
    this.#reserved.delete(layer.name);
  }

  /**
   * Unpacks a recorded layer once more, beside what is there, and puts it in its place; `mayReplace` is asked at that moment whether nothing uses the old
   * one. Throws as `unpack` does, and then the old one stays.
   */
  async unpackAgain(layer: StoredLayer, context: UnpackContext & { readonly mayReplace: () => boolean }): Promise<StoredLayer> {
    return this.#mutex.run(layer.key, async () => {
      const { name, result } = await this.#unpackTo(layer, context);
      try {
        await this.#sync();
        if (!context.mayReplace()) throw new RuntimeError('failedPrecondition', 'it came into use meanwhile');
        const { compression, contentBytes, entries } = result;
        const renewed: StoredLayer = { ...layer, name, compression, contentBytes, entries };
        this.#records.put(recordKind, layer.key, renewed);
        await this.#removeTree(layer.name);
        return renewed;
      } catch (error) {
        // A tree that cannot be removed now has no record and goes at the next start.
        if (this.get(layer.key)?.name !== name) await this.#removeTree(name).catch(() => undefined);
        throw error;
      } finally {
        this.#reserved.delete(name);
      }
    });
  }

  async #unpackNow(layer: PlannedLayer, context: UnpackContext): Promise<StoredLayer> {
    const { name, result } = await this.#unpackTo(layer, context);
    const existing = this.#findStaged(layer);
    if (existing !== undefined) {
      // The same layer over other parents was quicker and turned out to be self-contained.
      await this.#removeTree(name);
      this.#reserved.delete(name);
      return existing;
    }
    const isSelfContained = !result.needsParents;
    // The diff ID may be taken by the same archive as a base layer that was not self-contained.
    const isTaken = this.get(layer.diffId) !== undefined || this.#staged.has(layer.diffId);
    const key = isSelfContained && !isTaken ? layer.diffId : layer.chainId;
    const { diffId, blob, content } = layer;
    const { compression, contentBytes, entries } = result;
    const stored: StoredLayer = { key, diffId, isSelfContained, name, blob, compression, content, contentBytes, entries };
    this.#staged.set(key, stored);
    return stored;
  }

  /** Reads a blob, perhaps while it comes. Throws `verify blob DIGEST: cause` with dataLoss unless it has its digest. */
  async check(blob: BlobFile, signal: AbortSignal): Promise<void> {
    await this.#pool.run({ kind: 'check', blob }, {}, signal);
  }

  /** Unpacks into a new directory, whose name stays reserved; on failure nothing is left. */
  async #unpackTo(layer: Pick<PlannedLayer, 'blob' | 'content'>, context: UnpackContext): Promise<{ readonly name: string; readonly result: UnpackResult }> {
    const { stateDir, launcherSocket } = this.#options;
    const blob = await context.blob();
    const name = this.#reserve();
    const layerDir = `${this.storeDir}/${name}`;
    try {
      await mkdir(layerDir, { mode: 0o755 });
      const style = await (this.#style ??= chooseOverlayStyle(this.#options));
      const task = {
        kind: 'unpack',
        blob,
        content: layer.content,
        indexPath: `${stateDir}/index/${name}`,
        launcherSocket,
        style,
        layerDir,
        rootDir: `${stateDir}/unpack`,
      } as const;
      const parents = async (): Promise<readonly ParentLayer[]> => this.#parentsOf(await context.parents());
      const result = await this.#pool.run(task, { onProgress: (_digest, bytes) => context.onBytes(bytes), parents }, context.signal);
      if (result === undefined) throw new RuntimeError('internal', 'bug: an unpack task without a result');
      context.onChecked();
      return { name, result };
    } catch (error) {
      this.#reserved.delete(name);
      await this.#removeTree(name).catch((failure: unknown) => {
        const errno = errnoName(error);
        const options = { cause: error, cleanupFailures: [failure], ...(errno === undefined ? {} : { errno }) };
        throw new RuntimeError(errorCode(error), `unpack layer ${layer.blob}: ${errorMessage(error)}`, options);
      });
      throw errorMessage(error).startsWith('verify blob') ? error : wrapError(`unpack layer ${layer.blob}`, error);
    }
  }

  async #parentsOf(parents: readonly StoredLayer[]): Promise<readonly ParentLayer[]> {
    const { contentDir } = this.arrivals;
    const blobOf = async ({ blob }: StoredLayer): Promise<BlobFile> => ({ digest: blob, path: blobPath(contentDir, blob), sizeBytes: (await blobSize(contentDir, blob)) ?? 0 });
    return Promise.all(parents.map(async (parent) => ({ blob: await blobOf(parent), indexPath: `${this.#options.stateDir}/index/${parent.name}` })));
  }

  /** Forgets a layer and removes its tree. The caller knows that nothing uses it. */
  async remove(layer: StoredLayer): Promise<void> {
    this.#records.delete(recordKind, layer.key);
    await this.#removeTree(layer.name);
  }

  #reserve(): string {
    const numbers = [...this.list().map(({ name }) => name), ...this.#reserved].map((name) => Number.parseInt(name, 36));
    const name = (Math.max(-1, ...numbers) + 1).toString(36);
    this.#reserved.add(name);
    return name;
  }

  /** Removal happens outside Node: the tree is a stranger's. */
  async #removeTree(name: string): Promise<void> {
    await this.#options.runOnHost({ sections: [{ actor: 'host', steps: [{ kind: 'removeTree', dir: noSlot, path: `${this.storeDir}/${name}` }] }] });
    await rm(`${this.#options.stateDir}/index/${name}`, { force: true });
  }
}

function findLayer(layer: { readonly diffId: Digest; readonly chainId: Digest }, get: (key: Digest) => StoredLayer | undefined): StoredLayer | undefined {
  const own = get(layer.chainId);
  if (own !== undefined) return own;
  const shared = get(layer.diffId);
  return shared?.isSelfContained === true ? shared : undefined;
}
