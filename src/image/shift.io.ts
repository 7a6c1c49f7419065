/**
 * Layers for containers in user namespaces. In: unpacked layers, how the container maps ids. Out: whether the kernel can map their owners at the mount, and
 * where it cannot, copies of them that belong to the mapped ids.
 *
 * `shifted/<n>` is such a copy: of one layer, for one mapping, shared by every container with that mapping. The record is the commit point; a directory
 * without one is unfinished and is removed at the next start. Copies go when no lease needs them.
 */
import { createHash } from 'node:crypto';
import { access, mkdir, readdir } from 'node:fs/promises';
import { KeyedMutex, RuntimeError, errnoName, errorMessage, wrapError } from '#core';
import type { Digest } from '#oci';
import {
  type IdMapping,
  type IdMappings,
  type Plan,
  type Step,
  clone,
  createTarget,
  errno,
  formatIdMap,
  mappingTriples,
  mountAttr,
  ms,
  noSlot,
  userNamespaceSections,
} from '#plan';
import type { ImageStoreOptions } from './types.ts';

const copyKind = 'imageShiftedLayer';
const leaseKind = 'imageShiftedLease';

/** What is recorded of a copy. */
export interface ShiftedLayer {
  /** Key of the layer. */
  readonly layer: Digest;
  /** Names the mapping; see `mappingKey`. */
  readonly mapping: string;
  /** Name of its directory below `shifted`. */
  readonly name: string;
}

/** The part of a stored layer that a copy is made of. */
interface SourceLayer {
  readonly key: Digest;
  readonly name: string;
}

/** One name for all spellings of a mapping. Pure. */
export function mappingKey({ uids, gids }: IdMappings): string {
  const text = (ranges: readonly IdMapping[]): string => formatIdMap([...ranges].sort((a, b) => a.containerId - b.containerId));
  return createHash('sha256')
    .update(`${text(uids)}/${text(gids)}`)
    .digest('hex')
    .slice(0, 32);
}

/** What a kernel or a file system that cannot map ids, or lay an overlay over mapped layers, answers. */
const cannot = [errno.perm, errno.invalid, errno.noSystemCall, errno.notSupported];
const [userSlot, layerSlot] = [64, 65];
const mapsBarrier = 2;

/** Maps a directory and mounts an overlay over it, as a container's root does; leaves a file `yes` where both worked. Pure. */
function planProbe(place: string): Plan {
  const nobody = [{ containerId: 0, hostId: 65_534, size: 1 }];
  const steps: readonly Step[] = [
    { kind: 'unshare', flags: clone.newMount },
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    { kind: 'openTree', dir: noSlot, path: `${place}/lower`, resolve: 0, recursive: 0, out: layerSlot },
    {
      kind: 'setMountAttributes',
      slot: layerSlot,
      path: '',
      recursive: 0,
      set: BigInt(mountAttr.idmap),
      clear: 0n,
      propagation: 0n,
      userNamespace: userSlot,
      ignore: cannot,
      skipOnIgnored: 3,
    },
    { kind: 'moveMount', from: layerSlot, root: noSlot, target: `${place}/lower`, create: createTarget.none, noLinks: 0 },
    {
      kind: 'mount',
      cwd: place,
      source: 'overlay',
      target: 'merged',
      type: 'overlay',
      flags: 0,
      data: 'lowerdir=lower,upperdir=upper,workdir=work',
      ignore: cannot,
      skipOnIgnored: 1,
    },
    { kind: 'makeFile', dir: noSlot, path: `${place}/yes`, mode: 0o600, data: new Uint8Array() },
  ];
  return { sections: [...userNamespaceSections({ uids: nobody, gids: nobody }, { slot: userSlot, barrier: mapsBarrier, origin: '' }), { actor: 'podNamespaces', steps }] };
}

/** The copies of one state directory, and what the kernel can do there. */
export class ShiftedLayers {
  readonly #options: Pick<ImageStoreOptions, 'stateDir' | 'records' | 'runOnHost'>;
  readonly #mutex = new KeyedMutex();
  /** Names given out to copies in the making. */
  readonly #reserved = new Set<string>();
  #canMap: Promise<boolean> | undefined;

  constructor(options: Pick<ImageStoreOptions, 'stateDir' | 'records' | 'runOnHost'>) {
    this.#options = options;
  }

  get #dir(): string {
    return `${this.#options.stateDir}/shifted`;
  }

  /** Makes the directory and removes what has no record. */
  async open(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const known = new Set(this.list().map(({ name }) => name));
    for (const name of await readdir(this.#dir)) if (!known.has(name)) await this.#removeTree(name);
  }

  list(): ShiftedLayer[] {
    // SAFETY: only this class writes records of this kind.
    return this.#options.records.list(copyKind).map(({ value }) => value as ShiftedLayer);
  }

  /** What the copies were made of, once per copy. */
  sources<Layer>(find: (key: Digest) => Layer | undefined): readonly Layer[] {
    return this.list().flatMap(({ layer }) => find(layer) ?? []);
  }

  /** Whether owners of this store's layers can be mapped at the mount. Tried once; a failure of another kind is thrown and tried again. */
  async canMap(): Promise<boolean> {
    this.#canMap ??= this.#probe();
    try {
      return await this.#canMap;
    } catch (error) {
      this.#canMap = undefined;
      throw error;
    }
  }

  async #probe(): Promise<boolean> {
    const place = `${this.#dir}/probe`;
    try {
      for (const name of ['lower', 'upper', 'work', 'merged']) await mkdir(`${place}/${name}`, { recursive: true, mode: 0o700 });
      await this.#options.runOnHost(planProbe(place));
      return await exists(`${place}/yes`);
    } catch (error) {
      throw wrapError('map owners of layers', error);
    } finally {
      await this.#removeTree('probe');
    }
  }

  /**
   * Copies of the layers for a mapping, kept until `release`: their names relative to the directory of the layers, in the same order. Those that
   * exist are shared. Throws what the disk deserves; nothing half-made is left behind.
   */
  async lease(leaseId: string, layers: readonly SourceLayer[], mappings: IdMappings, signal?: AbortSignal): Promise<readonly string[]> {
    const { records } = this.#options;
    const mapping = mappingKey(mappings);
    const ids = layers.map(({ key }) => `${key} ${mapping}`);
    const known = records.get(leaseKind, leaseId);
    // First of all, so that no collection takes a copy that is just being made.
    records.put(leaseKind, leaseId, ids);
    try {
      const names: string[] = [];
      for (const [index, layer] of layers.entries()) {
        signal?.throwIfAborted();
        const id = ids[index] ?? '';
        const copy = await this.#mutex.run(id, async () => this.#get(id) ?? (await this.#copy(id, layer, mappings, mapping)));
        names.push(`../shifted/${copy.name}`);
      }
      return names;
    } catch (error) {
      if (known === undefined) this.release(leaseId);
      throw error;
    }
  }

  /** Gives copies up; absence is success. True where there were any. */
  release(leaseId: string): boolean {
    const { records } = this.#options;
    const had = records.get(leaseKind, leaseId) !== undefined;
    if (had) records.delete(leaseKind, leaseId);
    return had;
  }

  /** Removes the copies that no lease needs. `mayGoOn` is asked before each; false ends it there. */
  async collect(mayGoOn: () => boolean): Promise<void> {
    const { records } = this.#options;
    // SAFETY: only this class writes records of this kind.
    const needed = (): Set<string> => new Set(records.list(leaseKind).flatMap(({ value }) => value as readonly string[]));
    for (const { id } of records.list(copyKind)) {
      if (!mayGoOn()) return;
      if (needed().has(id)) continue;
      await this.#mutex.run(id, async () => {
        const copy = this.#get(id);
        if (copy === undefined || needed().has(id)) return;
        records.delete(copyKind, id);
        await this.#removeTree(copy.name);
      });
    }
  }

  #get(id: string): ShiftedLayer | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#options.records.get(copyKind, id) as ShiftedLayer | undefined;
  }

  async #copy(id: string, layer: SourceLayer, mappings: IdMappings, mapping: string): Promise<ShiftedLayer> {
    const { stateDir, records, runOnHost } = this.#options;
    const name = this.#reserve();
    const step: Step = {
      kind: 'shiftTree',
      fromDir: noSlot,
      from: `${stateDir}/layers/${layer.name}`,
      dir: noSlot,
      path: `${this.#dir}/${name}`,
      uids: mappingTriples(mappings.uids),
      gids: mappingTriples(mappings.gids),
    };
    try {
      await mkdir(`${this.#dir}/${name}`, { mode: 0o755 });
      await runOnHost({ sections: [{ actor: 'podNamespaces', steps: [step] }] });
      const copy: ShiftedLayer = { layer: layer.key, mapping, name };
      records.put(copyKind, id, copy);
      return copy;
    } catch (error) {
      await this.#removeTree(name).catch((failure: unknown) => {
        throw new RuntimeError('internal', `copy layer ${layer.key}: ${errorMessage(error)}`, { cause: error, cleanupFailures: [failure] });
      });
      throw wrapError(`copy layer ${layer.key} for other owners`, error);
    } finally {
      this.#reserved.delete(name);
    }
  }

  #reserve(): string {
    const numbers = [...this.list().map(({ name }) => name), ...this.#reserved].map((name) => Number.parseInt(name, 36));
    const name = (Math.max(-1, ...numbers) + 1).toString(36);
    this.#reserved.add(name);
    return name;
  }

  /** Removal happens outside Node: the tree is a stranger's. */
  async #removeTree(name: string): Promise<void> {
    await this.#options.runOnHost({ sections: [{ actor: 'host', steps: [{ kind: 'removeTree', dir: noSlot, path: `${this.#dir}/${name}` }] }] });
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return false;
    throw error;
  }
}
