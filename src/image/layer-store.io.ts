/**
 * Unpacked layers on disk. In: blobs of the content store. Out: directories that an overlay uses as lower ones.
 *
 * `layers/<n>` is a layer, `index/<n>` its index; n is short, so that a hundred lower directories fit the one page that mount(2) has
 * for options. The record is the commit point: a directory without one is unfinished and is removed at the next start. A
 * self-contained layer is recorded under its diff ID and shared by all images; one that needed what is below it, under its chain ID.
 */
import { createHash } from 'node:crypto';
import { chmod, lchown, mkdir, readdir, rm, utimes } from 'node:fs/promises';
import { KeyedMutex, type Records, RuntimeError, errorMessage, wrapError } from '#core';
import { type Digest, type LayerCompression, digestOf } from '#oci';
import { encodeLayerRecord, noSlot } from '#plan';
import { blobPath } from './content.io.ts';
import type { DirectoryAttributes } from './layer-tree.ts';
import type { ImageStoreOptions, UnpackSession } from './types.ts';
import type { ParentLayer, UnpackResult } from './worker-messages.ts';
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
  readonly compression: LayerCompression;
  readonly contentBytes: number;
  readonly entries: number;
}

/** A layer to be unpacked. */
export interface LayerToUnpack {
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly blob: Digest;
  readonly compression: LayerCompression;
  readonly isBase: boolean;
}

/** Chain IDs for diff IDs, base first. Source: image-spec "config.md", Layer ChainID. */
export function chainIdsOf(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : digestOf('sha256', createHash('sha256').update(`${below} ${diffId}`).digest('hex')));
  }
  return chain;
}

/** The layers of one state directory. Its caller decides what is still needed. */
export class LayerStore {
  readonly #options: Pick<ImageStoreOptions, 'stateDir' | 'records' | 'unpack' | 'runOnHost'>;
  readonly #pool: WorkerPool;
  readonly #mutex = new KeyedMutex();
  /** Names given out to unpacks in flight. */
  readonly #reserved = new Set<string>();

  constructor(options: Pick<ImageStoreOptions, 'stateDir' | 'records' | 'unpack' | 'runOnHost'>, pool: WorkerPool) {
    this.#options = options;
    this.#pool = pool;
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
    const own = this.get(layer.chainId);
    if (own !== undefined) return own;
    const shared = this.get(layer.diffId);
    return shared?.isSelfContained === true ? shared : undefined;
  }

  /**
   * Unpacks the layer unless it is there. `parents` is called only when the archive needs what is below; it waits for those layers.
   * Throws what the archive or the disk deserves; nothing is left behind.
   */
  async unpack(
    layer: LayerToUnpack,
    context: { readonly parents: () => Promise<readonly StoredLayer[]>; readonly onBytes: (count: number) => void; readonly signal: AbortSignal },
  ): Promise<StoredLayer> {
    return this.#mutex.run(layer.chainId, async () => this.find(layer) ?? (await this.#unpackNow(layer, context)));
  }

  async #unpackNow(
    layer: LayerToUnpack,
    context: { readonly parents: () => Promise<readonly StoredLayer[]>; readonly onBytes: (count: number) => void; readonly signal: AbortSignal },
  ): Promise<StoredLayer> {
    const { stateDir, unpack } = this.#options;
    const name = this.#reserve();
    const layerDir = `${this.storeDir}/${name}`;
    try {
      await mkdir(layerDir, { mode: 0o755 });
      const session = await unpack({ layerDir, rootDir: `${stateDir}/unpack` });
      const result = await this.#stream(layer, { ...context, name, layerDir, session });
      return await this.#commit(layer, name, result);
    } catch (error) {
      await this.#removeTree(name).catch((failure: unknown) => {
        throw new RuntimeError('internal', `unpack layer ${layer.diffId}: ${errorMessage(error)}`, { cause: error, cleanupFailures: [failure] });
      });
      throw error;
    } finally {
      this.#reserved.delete(name);
    }
  }

  async #commit(layer: LayerToUnpack, name: string, result: UnpackResult): Promise<StoredLayer> {
    const existing = this.find(layer);
    if (existing !== undefined) {
      // The same layer over other parents was quicker and turned out to be self-contained.
      await this.#removeTree(name);
      return existing;
    }
    const isSelfContained = !result.needsParents;
    // The diff ID may be taken by the same archive as a base layer that was not self-contained.
    const key = isSelfContained && this.get(layer.diffId) === undefined ? layer.diffId : layer.chainId;
    const stored: StoredLayer = {
      key,
      diffId: layer.diffId,
      isSelfContained,
      name,
      blob: layer.blob,
      compression: layer.compression,
      contentBytes: result.contentBytes,
      entries: result.entries,
    };
    this.#records.put(recordKind, key, stored);
    return stored;
  }

  async #stream(
    layer: LayerToUnpack,
    context: {
      readonly name: string;
      readonly layerDir: string;
      readonly session: UnpackSession;
      readonly parents: () => Promise<readonly StoredLayer[]>;
      readonly onBytes: (count: number) => void;
      readonly signal: AbortSignal;
    },
  ): Promise<UnpackResult> {
    const { stateDir } = this.#options;
    const { session, name, layerDir } = context;
    const contentDir = `${stateDir}/content`;
    const parents = async (): Promise<ParentLayer[]> =>
      (await context.parents()).map((parent) => ({ blobPath: blobPath(contentDir, parent.blob), compression: parent.compression, indexPath: `${stateDir}/index/${parent.name}` }));
    try {
      const result = await this.#pool.run(
        {
          kind: 'unpack',
          blobPath: blobPath(contentDir, layer.blob),
          compression: layer.compression,
          diffId: layer.diffId,
          isBase: layer.isBase,
          indexPath: `${stateDir}/index/${name}`,
        },
        { onRecords: (bytes) => session.write(bytes), onProgress: (_digest, bytes) => context.onBytes(bytes), parents },
        context.signal,
      );
      if (result === undefined) throw new RuntimeError('internal', 'bug: an unpack task without a result');
      await applyRoot(layerDir, result.rootAttributes);
      // The child syncs the file system once; that covers the tree, its root, the index and the blobs.
      await session.write(encodeLayerRecord({ op: 'finish' }));
      await session.finish();
      return result;
    } catch (error) {
      session.abort();
      throw wrapError(`unpack layer ${layer.blob}`, error);
    }
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

/** Attributes of the layer's own root, which no record can name. The directory itself is ours; nothing below it is touched. */
async function applyRoot(layerDir: string, attributes: DirectoryAttributes | undefined): Promise<void> {
  if (attributes === undefined) return;
  await lchown(layerDir, attributes.uid, attributes.gid);
  await chmod(layerDir, attributes.mode);
  const seconds = Number(attributes.mtimeNs) / 1e9;
  await utimes(layerDir, seconds, seconds);
}
