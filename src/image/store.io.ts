/**
 * The image store: the one class behind which everything about images lies. In: references, paths, ids. Out: stored images and the
 * layers of leased ones. Its records are the truth; files without a record are garbage.
 *
 * An image is recorded in one transaction after everything it names is on disk and synced. Content is removed only when no image,
 * no lease and no running operation needs it. What can stand alone lies beside this file: names in `catalog`, removal in `collect`, and so on.
 */
import { type ErrorCode, RuntimeError, errorCode, errorMessage, isAbort, wrapError } from '#core';
import { type Digest, type ImageReference, type Platform, formatReference, parseReference, repositoryDigest, repositoryTag } from '#oci';
import type { IdMappings } from '#plan';
import { ImageCatalog, decodeNewTag, documentsOf, layerBlobsOf } from './catalog.ts';
import { type CollectContext, chooseImages, collectContent, measureImages } from './collect.io.ts';
import { ContentGate } from './content-gate.ts';
import { openContent } from './content.io.ts';
import { saveImages } from './export.io.ts';
import { imageFromHost } from './from-host.io.ts';
import { installImage } from './install.io.ts';
import { LayerStore } from './layer-store.io.ts';
import { openLayout } from './layout.io.ts';
import { leaseImage, leaseMapped } from './lease.ts';
import { pushImage } from './push.io.ts';
import { openRegistrySource } from './registry-source.io.ts';
import { RegistryClient } from './registry/client.io.ts';
import { directAccess } from './registry/direct-access.ts';
import type { ReferrerDescriptor } from './registry/types.ts';
import { SharedWork } from './shared-work.ts';
import { ShiftedLayers } from './shift.io.ts';
import type { StoreParts } from './store-parts.ts';
import type {
  CollectOptions,
  CollectReport,
  FromHostRequest,
  HostFile,
  ImageLayers,
  ImageProgress,
  ImageSource,
  ImageStoreOptions,
  ImageUsage,
  ImportOptions,
  LeaseOptions,
  MappedLayers,
  PullOptions,
  PushOptions,
  PushResult,
  RegistryQuery,
  RemoveOptions,
  ResolvedDocument,
  SaveOptions,
  SaveResult,
  StoreDiskUsage,
  StoredImage,
  VerifyOptions,
  VerifyReport,
} from './types.ts';
import { measureUsage } from './usage.io.ts';
import { verifyStore } from './verify.io.ts';
import { WorkerPool } from './worker-pool.io.ts';

/** Failures after which an equal pull may go on where this one ended; after others what it brought is not worth keeping. */
const resumableCodes: readonly ErrorCode[] = ['cancelled', 'unavailable', 'deadlineExceeded', 'unauthenticated'];

interface InstallWork {
  readonly source: ImageSource;
  readonly found: ResolvedDocument;
  readonly platform: Platform;
  readonly tags: readonly string[];
  readonly digests: readonly string[];
  /** Under which the pull is recorded, so that a later one finds what it brought. */
  readonly pullId?: string;
  readonly onProgress: (progress: ImageProgress) => void;
  readonly signal: AbortSignal;
}

/** The images below one state directory. Synchronous methods touch memory and records only. */
export class ImageStore implements AsyncDisposable {
  readonly #parts: StoreParts;
  readonly #pulls = new SharedWork<StoredImage, ImageProgress>();
  readonly #gate = new ContentGate();
  #collecting: Promise<void> = Promise.resolve();
  readonly #closing = new AbortController();

  private constructor(options: ImageStoreOptions) {
    const pool = new WorkerPool(options.workerPath);
    this.#parts = {
      options,
      contentDir: `${options.stateDir}/content`,
      catalog: new ImageCatalog(options),
      layers: new LayerStore(options, pool),
      shifted: new ShiftedLayers(options),
      pool,
      keepBlobs: options.keepBlobs ?? true,
      access: async (reference, auth) => options.registries?.access(reference, auth) ?? directAccess(reference.registry, reference.repository, auth),
    };
  }

  /** Opens the store below `stateDir`, which the caller owns, and removes what an earlier owner left unfinished. */
  static async open(options: ImageStoreOptions): Promise<ImageStore> {
    try {
      const store = new ImageStore(options);
      await openContent(store.#parts.contentDir);
      await store.#parts.layers.open();
      await store.#parts.shifted.open();
      await store.#collect();
      return store;
    } catch (error) {
      throw wrapError(`open image store ${options.stateDir}`, error);
    }
  }

  /**
   * Pulls a reference. Equal pulls in flight share the work; a caller that aborts leaves the others undisturbed. What an aborted or interrupted pull
   * has brought waits for the next one. Throws `pull REFERENCE: cause` with the registry's code.
   */
  async pull(reference: string, options: PullOptions = {}): Promise<StoredImage> {
    const parsed = parseReference(reference);
    const platform = options.platform ?? this.#parts.options.platform;
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
    const signal = this.#signal(options.signal);
    const pullId = JSON.stringify([formatReference(reference), platform]);
    const { pool } = this.#parts;
    try {
      using source = openRegistrySource({ reference, access: await this.#parts.access(reference, options.auth), pool });
      const found = await source.resolve(signal);
      const tag = repositoryTag(reference);
      return await this.#install({
        source,
        found,
        platform,
        tags: tag === undefined ? [] : [tag],
        digests: [repositoryDigest(reference, found.digest)],
        pullId,
        onProgress: options.onProgress,
        signal,
      });
    } catch (error) {
      if (isAbort(error) || signal.aborted) throw new RuntimeError('cancelled', `pull ${formatReference(reference)}: cancelled`, { cause: error });
      throw errorMessage(error).startsWith('pull ') ? error : wrapError(`pull ${formatReference(reference)}`, error);
    }
  }

  /** Pushes one manifest of the image with everything it names. Throws `push REFERENCE: cause` with the registry's code. */
  async push(nameOrId: string, options: PushOptions = {}): Promise<PushResult> {
    return this.#use(async () => pushImage(this.#parts, nameOrId, { ...options, signal: this.#signal(options.signal) }));
  }

  /** Tags of a repository, which is named without tag, sorted. Throws `list tags of REPOSITORY: cause`. */
  async tags(repository: string, query: RegistryQuery = {}): Promise<readonly string[]> {
    const reference = parseReference(repository);
    return this.#ask(`list tags of ${reference.registry}/${reference.repository}`, reference, query, async (client, signal) => (await client.tags(signal)).toSorted());
  }

  /** What refers to an image in its registry: signatures, bills of materials. Throws `list referrers of REFERENCE: cause`. */
  async referrers(reference: string, query: RegistryQuery & { readonly artifactType?: string } = {}): Promise<readonly ReferrerDescriptor[]> {
    const parsed = parseReference(reference);
    const { artifactType } = query;
    return this.#ask(`list referrers of ${formatReference(parsed)}`, parsed, query, async (client, signal) => {
      const digest = parsed.digest ?? (await client.manifest(parsed.tag ?? 'latest', signal)).digest;
      return client.referrers(digest, artifactType === undefined ? {} : { artifactType }, signal);
    });
  }

  async #ask<T>(what: string, reference: ImageReference, query: RegistryQuery, ask: (client: RegistryClient, signal: AbortSignal) => Promise<T>): Promise<T> {
    const signal = this.#signal(query.signal);
    try {
      using client = new RegistryClient({ access: await this.#parts.access(reference, query.auth) });
      return await ask(client, signal);
    } catch (error) {
      throw wrapError(what, error);
    }
  }

  /**
   * Imports the images of an OCI layout or of a docker archive: a directory, or a tar of one, compressed or not. Names come from the archive or
   * from `name`. Throws `import PATH: cause` with invalidArgument, notFound, dataLoss.
   */
  async importImages(path: string, options: ImportOptions = {}): Promise<StoredImage[]> {
    return this.#use(async () => {
      const signal = this.#signal(options.signal);
      const { contentDir, pool } = this.#parts;
      await using layout = await openLayout({ path, contentDir, pool, signal, name: options.name });
      const images: StoredImage[] = [];
      for (const { found, tags, platform = this.#parts.options.platform } of layout.images) {
        images.push(await this.#install({ source: layout.source, found, platform, tags, digests: [], onProgress: options.onProgress ?? (() => undefined), signal }));
      }
      return images;
    });
  }

  /** Makes an image of one layer from files of this machine; see `imageFromHost`. The same files give the same image. */
  async fromHost(request: FromHostRequest, signal?: AbortSignal): Promise<{ readonly image: StoredImage; readonly files: readonly HostFile[] }> {
    const tag = decodeNewTag(request.name);
    const either = this.#signal(signal);
    const { platform } = this.#parts.options;
    return this.#use(async () => {
      const { source, found, files } = await imageFromHost(request, { contentDir: this.#parts.contentDir, platform, signal: either });
      const image = await this.#install({ source, found, platform, tags: [tag], digests: [], onProgress: () => undefined, signal: either });
      return { image, files };
    });
  }

  /**
   * Writes images into one archive or layout, which appears under its path when it is whole. Throws `save IMAGE: cause`; failedPrecondition where
   * a blob was dropped and no repository has it.
   */
  async save(names: readonly string[], path: string, options: SaveOptions): Promise<SaveResult> {
    return this.#use(async () => saveImages(this.#parts, { names, path }, { ...options, signal: this.#signal(options.signal) }));
  }

  async #install(work: InstallWork): Promise<StoredImage> {
    const { contentDir, layers, catalog, keepBlobs, options } = this.#parts;
    const { pullId } = work;
    return this.#use(async () => {
      try {
        const installed = await installImage(
          {
            contentDir,
            layers,
            platform: work.platform,
            source: work.source,
            // Without a repository to fetch them from again, blobs stay.
            keepBlobs: keepBlobs || work.digests.length === 0,
            allowForeignLayers: options.allowForeignLayers ?? false,
            ...(pullId === undefined ? {} : { onPlanned: (planned) => catalog.putPull(pullId, planned) }),
            onProgress: work.onProgress,
            signal: work.signal,
          },
          work.found,
        );
        return catalog.add(installed, work);
      } catch (error) {
        if (pullId !== undefined && !work.signal.aborted && !resumableCodes.includes(errorCode(error))) catalog.forgetPull(pullId);
        throw error;
      }
    });
  }

  /** Runs what brings content in, after a collection that is under way; leaves a collection behind. */
  async #use<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await this.#gate.use(body);
    } finally {
      // What the operation left is removed now or, when that fails, at the next collection; its own result stands.
      if (!this.#gate.isWanted) await this.#collect().catch(() => undefined);
    }
  }

  /** The image of a name, a `name@digest`, an id or an unambiguous beginning of one; undefined when there is none. */
  resolve(nameOrId: string): StoredImage | undefined {
    return this.#parts.catalog.resolve(nameOrId);
  }

  /** All images, in the order of their ids, each once with all its names. Touches neither disk nor lock. */
  list(): StoredImage[] {
    return this.#parts.catalog.list();
  }

  /** What inspection shows of an image. Throws notFound. */
  info(nameOrId: string): Readonly<Record<string, unknown>> {
    const { image, record } = this.#parts.catalog.find(nameOrId);
    const blobs = [...documentsOf(record), ...layerBlobsOf(record).map(({ digest }) => digest)];
    return { ...image, manifests: record.manifests, layers: record.layers.map((key) => this.#parts.layers.get(key)), blobs };
  }

  /** Gives an image a further name; one that another image had moves. Throws notFound, invalidArgument. */
  tag(nameOrId: string, name: string): StoredImage {
    return this.#parts.catalog.tag(nameOrId, name);
  }

  /** Marks an image as one that no collection removes, or takes the mark away. Throws notFound. */
  pin(nameOrId: string, pinned: boolean): StoredImage {
    return this.#parts.catalog.pin(nameOrId, pinned);
  }

  /** Removes the image with all its names, or only the name. What a lease still uses stays on disk until it is released. Absence is success. */
  async remove(nameOrId: string, options: RemoveOptions = {}): Promise<void> {
    const { catalog } = this.#parts;
    const image = catalog.resolve(nameOrId);
    if (image === undefined || (options.untagOnly === true && catalog.untag(image, nameOrId))) return;
    catalog.forget(image.id);
    await this.#collect();
  }

  /** Compares what is on disk with what was stored; see `VerifyOptions`. Problems are in the report, not thrown. Throws notFound for a name. */
  async verify(options: VerifyOptions = {}): Promise<VerifyReport> {
    return this.#use(async () => verifyStore(this.#parts, { ...options, signal: this.#signal(options.signal) }));
  }

  /** Removes images as asked, and content that nothing needs. Waits until no operation uses content. */
  async collect(options: CollectOptions = {}): Promise<CollectReport> {
    const { catalog, options: wired } = this.#parts;
    return this.#gate.alone(async () => {
      const images = chooseImages(catalog, options, wired.clock.nowNs());
      const dryRun = options.dryRun ?? false;
      if (!dryRun) for (const { id } of images) catalog.forget(id);
      const going = new Set(images.map(({ id }) => id));
      const gone = await collectContent(this.#collectContext, {
        images: going,
        partials: options.all === true ? 'all' : 'old',
        dryRun,
        nowMs: this.#nowMs(),
        mayGoOn: () => options.signal?.aborted !== true,
      });
      return { images: images.map(({ id, names, digests, sizeBytes }) => ({ id, names, digests, sizeBytes })), ...gone };
    }, this.#signal(options.signal));
  }

  /** Keeps the image's layers until `release`; an equal lease again gives the same answer. Throws notFound, alreadyExists, failedPrecondition. */
  lease(imageId: string, leaseId: string, options: LeaseOptions = {}): ImageLayers {
    return leaseImage(this.#parts, imageId, leaseId, options);
  }

  /**
   * As `lease`, for a container in a user namespace: layers that the kernel maps to the container's ids or, where it cannot, copies with those owners,
   * which may take a while.
   */
  async leaseMapped(imageId: string, leaseId: string, mappings: IdMappings, options: LeaseOptions = {}, signal?: AbortSignal): Promise<MappedLayers> {
    return leaseMapped(this.#parts, { imageId, leaseId, mappings, options, signal: this.#signal(signal), release: () => this.release(leaseId) });
  }

  /** Gives a lease up; absence is success. What nothing else uses is removed in the background. */
  release(leaseId: string): void {
    const { catalog } = this.#parts;
    const lease = catalog.readLease(leaseId);
    catalog.forgetLease(leaseId);
    const hadCopies = this.#parts.shifted.release(leaseId);
    // An image that is still known keeps its layers.
    if (!hadCopies && (lease === undefined || catalog.has(lease.imageId))) return;
    // A failure to collect is not the caller's: the next collection, at the latest at the next start, tries again.
    this.#collect().catch(() => undefined);
  }

  /** Ids of all leases. */
  leases(): readonly string[] {
    return this.#parts.catalog.leases().map(({ id }) => id);
  }

  /** Space and inodes of content and layers, as the kubelet asks for them. */
  async usage(): Promise<ImageUsage> {
    const { options, layers, shifted } = this.#parts;
    return measureUsage({ stateDir: options.stateDir, layers: [...layers.list(), ...shifted.sources((key) => layers.get(key))], atNs: options.clock.nowNs() });
  }

  /** What each image takes, what it shares, and what could be freed. */
  async diskUsage(): Promise<StoreDiskUsage> {
    const images = chooseImages(this.#parts.catalog, { all: true }, this.#parts.options.clock.nowNs());
    const leaving = { images: new Set(images.map(({ id }) => id)), partials: 'all', dryRun: true, nowMs: this.#nowMs(), mayGoOn: () => true } as const;
    const { freedBytes } = await collectContent(this.#collectContext, leaving);
    return measureImages(this.#collectContext, freedBytes);
  }

  /** Cancels what runs and waits for it. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#pulls.settled();
    await this.#gate.alone(async () => undefined);
    await this.#collecting.catch(() => undefined);
    await this.#parts.pool.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #collectContext(): CollectContext {
    return { ...this.#parts, stateDir: this.#parts.options.stateDir };
  }

  #nowMs(): number {
    return Number(this.#parts.options.clock.nowNs() / 1_000_000n);
  }

  /** The caller's signal and the store's end. */
  #signal(signal: AbortSignal | undefined): AbortSignal {
    return AbortSignal.any([...(signal === undefined ? [] : [signal]), this.#closing.signal]);
  }

  /** Removes content and layers that no image and no lease needs. One collection at a time; an operation that begins ends it early. */
  async #collect(): Promise<void> {
    const run = this.#collecting
      .catch(() => undefined)
      .then(async () => {
        if (!this.#gate.isFree) return;
        const leaving = { images: new Set<Digest>(), partials: 'old', dryRun: false, nowMs: this.#nowMs(), mayGoOn: () => !this.#gate.isWanted } as const;
        await this.#gate.alone(async () => void (await collectContent(this.#collectContext, leaving)));
      });
    this.#collecting = run;
    await run;
  }
}
