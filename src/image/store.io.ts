/**
 * The image store: what names mean, which images exist, who uses them. In: references, paths, ids. Out: stored images and the
 * layers of leased ones. Its records are the truth; files without a record are garbage.
 *
 * An image is recorded in one transaction after everything it names is on disk and synced. Content is removed only when no image,
 * no lease and no running operation needs it.
 */
import { RuntimeError, assert, errorMessage, isAbort, wrapError } from '#core';
import { type Digest, type ImageConfig, type ImageReference, type Platform, formatReference, imageUserOf, isDigest, parseReference, repositoryDigest, repositoryTag } from '#oci';
import { listBlobs, openContent, removeBlob } from './content.io.ts';
import { type InstalledImage, installImage } from './install.io.ts';
import { imageFromHost } from './from-host.io.ts';
import { LayerStore } from './layer-store.io.ts';
import { openLayout } from './layout.io.ts';
import { openRegistrySource } from './registry-source.io.ts';
import { SharedWork } from './shared-work.ts';
import type {
  FromHostRequest,
  HostFile,
  ImageLayers,
  ImageProgress,
  ImageSource,
  ImageStoreOptions,
  ImageUsage,
  ImportOptions,
  PullOptions,
  ResolvedDocument,
  StoredImage,
} from './types.ts';
import { measureUsage } from './usage.io.ts';
import { WorkerPool } from './worker-pool.io.ts';

const imageKind = 'image';
const leaseKind = 'imageLease';
/** Shorter beginnings of an id are too likely to be meant as names. */
const shortIdMin = 4;

interface ImageRecord {
  readonly configDigest: Digest;
  readonly config: ImageConfig;
  readonly names: readonly string[];
  readonly digests: readonly string[];
  readonly blobs: readonly Digest[];
  readonly layers: readonly Digest[];
  readonly sizeBytes: number;
  readonly createdAtNs: bigint;
  readonly pinned: boolean;
}

interface LeaseRecord {
  readonly imageId: Digest;
  /** Keys of layers, base first. */
  readonly layers: readonly Digest[];
}

/** How much a removal takes. */
export interface RemoveOptions {
  /** Takes only the given name away; the image goes with its last name. Default: the image with all its names, as CRI wants. */
  readonly untagOnly?: boolean;
}

/** The images below one state directory. Synchronous methods touch memory and records only. */
export class ImageStore implements AsyncDisposable {
  readonly #options: ImageStoreOptions;
  readonly #pool: WorkerPool;
  readonly #layers: LayerStore;
  readonly #images = new Map<Digest, StoredImage>();
  readonly #pulls = new SharedWork<StoredImage, ImageProgress>();
  /** Operations that bring content in; while there is one, nothing is collected. */
  #installing = 0;
  #collecting: Promise<void> = Promise.resolve();
  readonly #closing = new AbortController();

  private constructor(options: ImageStoreOptions) {
    this.#options = options;
    this.#pool = new WorkerPool(options.workerPath);
    this.#layers = new LayerStore(options, this.#pool);
  }

  /** Opens the store below `stateDir`, which the caller owns, and removes what an earlier owner left unfinished. */
  static async open(options: ImageStoreOptions): Promise<ImageStore> {
    const store = new ImageStore(options);
    try {
      await openContent(store.#contentDir);
      await store.#layers.open();
      for (const { id, record } of store.#records()) store.#images.set(id, describeImage(id, record));
      await store.#collect();
    } catch (error) {
      throw wrapError(`open image store ${options.stateDir}`, error);
    }
    return store;
  }

  /**
   * Pulls a reference. Equal pulls in flight share the work; a caller that aborts leaves the others undisturbed.
   * Throws `pull REFERENCE: cause` with the registry's code.
   */
  async pull(reference: string, options: PullOptions = {}): Promise<StoredImage> {
    const parsed = parseReference(reference);
    const platform = options.platform ?? this.#options.platform;
    // Credentials are part of the key: whoever may not pull must not get what another may.
    const key = JSON.stringify([formatReference(parsed), platform, options.auth ?? null]);
    return this.#pulls.run(key, async (onProgress, signal) => this.#pullNow(parsed, platform, { ...options, onProgress, signal }), options);
  }

  async #pullNow(
    reference: ImageReference,
    platform: Platform,
    options: PullOptions & { readonly onProgress: (progress: ImageProgress) => void; readonly signal: AbortSignal },
  ): Promise<StoredImage> {
    options.onProgress({ stage: 'resolving', bytesDone: 0, bytesTotal: 0 });
    const signal = AbortSignal.any([options.signal, this.#closing.signal]);
    using source = openRegistrySource({ reference, auth: options.auth, contentDir: this.#contentDir, pool: this.#pool });
    try {
      const found = await source.resolve(signal);
      const tag = repositoryTag(reference);
      return await this.#install({
        source,
        found,
        platform,
        tags: tag === undefined ? [] : [tag],
        digests: [repositoryDigest(reference, found.digest)],
        onProgress: options.onProgress,
        signal,
      });
    } catch (error) {
      if (isAbort(error) || signal.aborted) throw new RuntimeError('cancelled', `pull ${formatReference(reference)}: cancelled`, { cause: error });
      throw errorMessage(error).startsWith('pull ') ? error : wrapError(`pull ${formatReference(reference)}`, error);
    }
  }

  /**
   * Imports the images of an OCI layout, a directory or the tar of one. Names come from the index's annotations
   * (`io.containerd.image.name`, `org.opencontainers.image.ref.name`) or from `name`. Throws invalidArgument, notFound, dataLoss.
   */
  async importImages(path: string, options: ImportOptions = {}): Promise<StoredImage[]> {
    const signal = AbortSignal.any([...(options.signal === undefined ? [] : [options.signal]), this.#closing.signal]);
    await using layout = await openLayout({ path, contentDir: this.#contentDir, pool: this.#pool, signal, name: options.name });
    const images: StoredImage[] = [];
    for (const { found, tags } of layout.images) {
      images.push(
        await this.#install({ source: layout.source, found, platform: this.#options.platform, tags, digests: [], onProgress: options.onProgress ?? (() => undefined), signal }),
      );
    }
    return images;
  }

  /** Makes an image of one layer from files of this machine; see `imageFromHost`. The same files give the same image. */
  async fromHost(request: FromHostRequest, signal?: AbortSignal): Promise<{ readonly image: StoredImage; readonly files: readonly HostFile[] }> {
    const reference = parseReference(request.name);
    const tag = repositoryTag(reference);
    if (tag === undefined || reference.digest !== undefined)
      throw new RuntimeError('invalidArgument', `image name ${JSON.stringify(request.name.slice(0, 300))}: must have no digest`);
    const either = AbortSignal.any([...(signal === undefined ? [] : [signal]), this.#closing.signal]);
    return this.#installed(async () => {
      const made = await imageFromHost(request, { contentDir: this.#contentDir, platform: this.#options.platform, signal: either });
      const image = await this.#install({
        source: made.source,
        found: made.found,
        platform: this.#options.platform,
        tags: [tag],
        digests: [],
        onProgress: () => undefined,
        signal: either,
      });
      return { image, files: made.files };
    });
  }

  async #install(work: {
    readonly source: ImageSource;
    readonly found: ResolvedDocument;
    readonly platform: Platform;
    readonly tags: readonly string[];
    readonly digests: readonly string[];
    readonly onProgress: (progress: ImageProgress) => void;
    readonly signal: AbortSignal;
  }): Promise<StoredImage> {
    return this.#installed(async () => {
      const installed = await installImage(
        { contentDir: this.#contentDir, layers: this.#layers, platform: work.platform, source: work.source, onProgress: work.onProgress, signal: work.signal },
        work.found,
      );
      return this.#record(installed, work);
    });
  }

  /** Runs what brings content in, after a collection that is under way; leaves a collection behind. */
  async #installed<T>(body: () => Promise<T>): Promise<T> {
    this.#installing += 1;
    try {
      await this.#collecting.catch(() => undefined);
      return await body();
    } finally {
      this.#installing -= 1;
      // What the operation left is removed now or, when that fails, at the next collection; its own result stands.
      if (this.#installing === 0) await this.#collect().catch(() => undefined);
    }
  }

  /** Records the image; tags that another image had move here. */
  #record(installed: InstalledImage, naming: { readonly tags: readonly string[]; readonly digests: readonly string[] }): StoredImage {
    const id = installed.configDigest;
    const { records, clock } = this.#options;
    const changed = new Map<Digest, ImageRecord>();
    for (const other of this.#records()) {
      const names = other.record.names.filter((name) => !naming.tags.includes(name));
      if (other.id !== id && names.length !== other.record.names.length) changed.set(other.id, { ...other.record, names });
    }
    const existing = this.#readRecord(id);
    changed.set(id, {
      configDigest: id,
      config: installed.config,
      names: union(existing?.names, naming.tags),
      digests: union(existing?.digests, naming.digests),
      // One config may come with differently packed layers; all of it belongs to the image.
      blobs: union(existing?.blobs, installed.blobs),
      layers: installed.layers,
      sizeBytes: installed.sizeBytes,
      createdAtNs: existing?.createdAtNs ?? clock.nowNs(),
      pinned: existing?.pinned ?? false,
    });
    records.transaction(() => {
      for (const [changedId, record] of changed) records.put(imageKind, changedId, record);
    });
    for (const [changedId, record] of changed) this.#images.set(changedId, describeImage(changedId, record));
    const image = this.#images.get(id);
    assert(image !== undefined, 'an image was recorded and is not there');
    return image;
  }

  /** The image of a name, a `name@digest`, an id or an unambiguous beginning of one; undefined when there is none. */
  resolve(nameOrId: string): StoredImage | undefined {
    const images = this.list();
    const asId = isDigest(nameOrId) ? nameOrId : /^[0-9a-f]{64}$/.test(nameOrId) ? `sha256:${nameOrId}` : undefined;
    if (asId !== undefined) return images.find(({ id }) => id === asId);
    const named = this.#findByName(nameOrId, images);
    if (named !== undefined) return named;
    const short = nameOrId.startsWith('sha256:') ? nameOrId.slice(7) : nameOrId;
    if (short.length < shortIdMin || !/^[0-9a-f]+$/.test(short)) return undefined;
    const matches = images.filter(({ id }) => id.startsWith(`sha256:${short}`));
    if (matches.length > 1) throw new RuntimeError('invalidArgument', `image ${JSON.stringify(nameOrId)}: the id is ambiguous, ${matches.length} images begin so`);
    return matches[0];
  }

  #findByName(name: string, images: readonly StoredImage[]): StoredImage | undefined {
    let reference: ImageReference;
    try {
      reference = parseReference(name);
    } catch {
      // What is no reference names no image; whether it begins an id is looked at next.
      return undefined;
    }
    if (reference.digest !== undefined) {
      const wanted = repositoryDigest(reference, reference.digest);
      return images.find(({ digests }) => digests.includes(wanted));
    }
    const tag = repositoryTag(reference);
    return tag === undefined ? undefined : images.find(({ names }) => names.includes(tag));
  }

  /** All images, in the order of their ids. Touches neither disk nor lock. */
  list(): StoredImage[] {
    return [...this.#images.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** What inspection shows of an image. Throws notFound. */
  info(nameOrId: string): Readonly<Record<string, unknown>> {
    const image = this.#resolved(nameOrId);
    const record = this.#readRecord(image.id);
    return { ...image, layers: (record?.layers ?? []).map((key) => this.#layers.get(key)), blobs: record?.blobs ?? [] };
  }

  /**
   * Removes the image with all its names. What a lease still uses stays on disk until it is released. Absence is success.
   */
  async remove(nameOrId: string, options: RemoveOptions = {}): Promise<void> {
    const image = this.resolve(nameOrId);
    if (image === undefined) return;
    const record = this.#readRecord(image.id);
    const names = image.names.filter((name) => this.#findByName(nameOrId, [{ ...image, names: [name], digests: [] }]) === undefined);
    if (options.untagOnly === true && record !== undefined && names.length !== image.names.length && (names.length > 0 || image.digests.length > 0)) {
      const left = { ...record, names };
      this.#options.records.put(imageKind, image.id, left);
      this.#images.set(image.id, describeImage(image.id, left));
      return;
    }
    this.#options.records.delete(imageKind, image.id);
    this.#images.delete(image.id);
    await this.#collect();
  }

  /** Keeps the image's layers until `release`; an equal lease again gives the same answer. Throws notFound, alreadyExists. */
  lease(imageId: string, leaseId: string): ImageLayers {
    const { records } = this.#options;
    const existing = this.#readLease(leaseId);
    const image = this.resolve(imageId);
    if (existing !== undefined && existing.imageId !== (image?.id ?? imageId))
      throw new RuntimeError('alreadyExists', `lease ${leaseId}: is for image ${existing.imageId}, not ${imageId}`);
    const lease = existing ?? { imageId: this.#resolved(imageId).id, layers: this.#readRecord(this.#resolved(imageId).id)?.layers ?? [] };
    const lower = lease.layers.map((key) => {
      const layer = this.#layers.get(key);
      if (layer === undefined) throw new RuntimeError('dataLoss', `lease image ${imageId}: layer ${key} is gone`);
      return layer.name;
    });
    if (existing === undefined) records.put(leaseKind, leaseId, lease satisfies LeaseRecord);
    return { storeDir: this.#layers.storeDir, lower: lower.reverse() };
  }

  /** Gives a lease up; absence is success. What nothing else uses is removed in the background. */
  release(leaseId: string): void {
    const lease = this.#readLease(leaseId);
    this.#options.records.delete(leaseKind, leaseId);
    // An image that is still known keeps its layers.
    if (lease === undefined || this.#images.has(lease.imageId)) return;
    // A failure to collect is not the caller's: the next collection, at the latest at the next start, tries again.
    this.#collect().catch(() => undefined);
  }

  /** Ids of all leases. */
  leases(): readonly string[] {
    return this.#options.records.list(leaseKind).map(({ id }) => id);
  }

  /** Space and inodes of content and layers, as the kubelet asks for them. */
  async usage(): Promise<ImageUsage> {
    return measureUsage({ stateDir: this.#options.stateDir, layers: this.#layers.list(), atNs: this.#options.clock.nowNs() });
  }

  /** Cancels what runs and waits for it. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#pulls.settled();
    await this.#collecting.catch(() => undefined);
    await this.#pool.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #contentDir(): string {
    return `${this.#options.stateDir}/content`;
  }

  #resolved(nameOrId: string): StoredImage {
    const image = this.resolve(nameOrId);
    if (image === undefined) throw new RuntimeError('notFound', `image ${JSON.stringify(nameOrId.slice(0, 300))}: not found`);
    return image;
  }

  #readRecord(id: Digest): ImageRecord | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#options.records.get(imageKind, id) as ImageRecord | undefined;
  }

  #readLease(id: string): LeaseRecord | undefined {
    // SAFETY: only this class writes records of this kind.
    return this.#options.records.get(leaseKind, id) as LeaseRecord | undefined;
  }

  #records(): { readonly id: Digest; readonly record: ImageRecord }[] {
    // SAFETY: only this class writes records of this kind, under the config's digest.
    return this.#options.records.list(imageKind).map(({ id, value }) => ({ id: id as Digest, record: value as ImageRecord }));
  }

  /** Removes content and layers that no image and no lease needs. One collection at a time; an operation that begins waits for it, and stops it. */
  async #collect(): Promise<void> {
    const run = this.#collecting.catch(() => undefined).then(async () => this.#collectNow());
    this.#collecting = run;
    await run;
  }

  async #collectNow(): Promise<void> {
    const layers = this.#neededLayers();
    for (const layer of this.#layers.list()) {
      if (this.#installing > 0) return;
      if (!layers.has(layer.key)) await this.#layers.remove(layer);
    }
    const blobs = new Set(this.#records().flatMap(({ record }) => record.blobs));
    for (const digest of await listBlobs(this.#contentDir)) {
      if (this.#installing > 0) return;
      if (!blobs.has(digest)) await removeBlob(this.#contentDir, digest);
    }
  }

  #neededLayers(): Set<Digest> {
    // SAFETY: only this class writes records of this kind.
    const leases = this.#options.records.list(leaseKind).map(({ value }) => value as LeaseRecord);
    return new Set([...this.#records().flatMap(({ record }) => record.layers), ...leases.flatMap(({ layers }) => layers)]);
  }
}

function union<T>(left: readonly T[] | undefined, right: readonly T[]): readonly T[] {
  return [...new Set([...(left ?? []), ...right])];
}

function describeImage(id: Digest, record: ImageRecord): StoredImage {
  const { config } = record;
  const user = userOf(config.user);
  return {
    id,
    names: record.names,
    digests: record.digests,
    config,
    process: { entrypoint: config.entrypoint, command: config.cmd, env: config.env, workingDir: config.workingDir, user: config.user, stopSignal: config.stopSignal ?? '' },
    sizeBytes: record.sizeBytes,
    createdAtNs: record.createdAtNs,
    pinned: record.pinned,
    ...user,
  };
}

/** An image whose USER is nonsense can be listed; running it says what is wrong. */
function userOf(text: string): { readonly uid?: number; readonly username?: string } {
  try {
    const user = imageUserOf(text);
    return user.kind === 'uid' ? { uid: user.uid } : user.kind === 'name' ? { username: user.name } : {};
  } catch {
    return {};
  }
}
