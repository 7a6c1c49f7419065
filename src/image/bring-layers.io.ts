/**
 * The layers of one image, brought and unpacked as one pipeline. In: what layers there are and where they come from. Out: unpacked layers, committed
 * together after one sync, and their blobs.
 *
 * Blobs come into growing files, the lower layers' first; each is checked and unpacked while it comes, two at a time. A failure stops everything; layers
 * that are whole by then stay, so that a retry finds them.
 */
import { RuntimeError, errorMessage } from '#core';
import type { Digest } from '#oci';
import { BlobIntake } from './blob-arrivals.io.ts';
import { blobSize, syncContent } from './content.io.ts';
import type { LayerStore, StoredLayer, UnpackContext } from './layer-store.io.ts';
import type { PlannedLayer } from './plan-layers.ts';
import type { ImageProgress, ImageSource } from './types.ts';
import type { WantedBlob } from './worker-messages.ts';

/** Where layers come from and where they go. */
export interface BringContext {
  readonly layers: LayerStore;
  readonly source: ImageSource;
  /** False: no blob is fetched for a layer that is unpacked already. */
  readonly keepBlobs: boolean;
  readonly onProgress: (progress: ImageProgress) => void;
  readonly signal: AbortSignal;
}

/** How many layers of one image are in work at once; the lower ones begin first. */
const parallelLayers = 2;

/** Says how far each blob and the whole are: what is still coming is downloading, what is here and being read is unpacking. */
class Progress {
  readonly #onProgress: (progress: ImageProgress) => void;
  readonly #sizes: ReadonlyMap<Digest, number>;
  readonly #come = new Map<Digest, number>();
  readonly #unpacked = new Map<Digest, number>();
  readonly #bytesTotal: number;
  #bytesCome = 0;
  #bytesUnpacked = 0;

  constructor(blobs: readonly WantedBlob[], onProgress: (progress: ImageProgress) => void) {
    this.#onProgress = onProgress;
    this.#sizes = new Map(blobs.map(({ digest, sizeBytes }) => [digest, sizeBytes]));
    this.#bytesTotal = [...this.#sizes.values()].reduce((sum, size) => sum + size, 0);
  }

  begin(): void {
    this.#onProgress({ stage: 'downloading', bytesDone: this.#bytesCome, bytesTotal: this.#bytesTotal });
  }

  /** So many bytes of the blob are here. */
  here(digest: Digest, bytes: number): void {
    const size = this.#sizes.get(digest) ?? 0;
    const before = this.#come.get(digest) ?? 0;
    if (bytes <= before) return;
    this.#come.set(digest, bytes);
    this.#bytesCome += bytes - before;
    this.#onProgress({ stage: bytes >= size ? 'verifying' : 'downloading', layer: digest, bytesDone: bytes, bytesTotal: size });
    this.#onProgress({ stage: 'downloading', bytesDone: this.#bytesCome, bytesTotal: this.#bytesTotal });
  }

  /** So many more bytes of the blob have been unpacked. */
  unpacked(digest: Digest, count: number): void {
    const size = this.#sizes.get(digest) ?? 0;
    const bytes = (this.#unpacked.get(digest) ?? 0) + count;
    this.#unpacked.set(digest, bytes);
    this.#bytesUnpacked += count;
    if ((this.#come.get(digest) ?? 0) < size) return;
    this.#onProgress({ stage: 'unpacking', layer: digest, bytesDone: Math.min(bytes, size), bytesTotal: size });
    if (this.#bytesCome >= this.#bytesTotal) this.#onProgress({ stage: 'unpacking', bytesDone: Math.min(this.#bytesUnpacked, this.#bytesTotal), bytesTotal: this.#bytesTotal });
  }

  /** The blob's layer is unpacked, now or before. */
  done(digest: Digest): void {
    const size = this.#sizes.get(digest) ?? 0;
    this.#onProgress({ stage: 'done', layer: digest, bytesDone: size, bytesTotal: size });
  }
}

/** Brings and unpacks the layers, base first. Throws the first failure; the signal's reason when it was aborted. */
export async function bringLayers(context: BringContext, planned: readonly PlannedLayer[]): Promise<readonly StoredLayer[]> {
  return new LayerIntake(context, planned).run();
}

class LayerIntake {
  readonly #context: BringContext;
  readonly #planned: readonly PlannedLayer[];
  readonly #blobs: readonly WantedBlob[];
  readonly #progress: Progress;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #intake: BlobIntake;
  readonly #settled: readonly PromiseWithResolvers<StoredLayer>[];
  readonly #done: StoredLayer[] = [];
  /** Blobs that were found right and are being synced: a lane goes on to its next layer meanwhile. */
  readonly #commits = new Map<Digest, Promise<void>>();
  readonly #finishing: Promise<void>[] = [];
  #failure: { readonly error: unknown } | undefined;

  constructor(context: BringContext, planned: readonly PlannedLayer[]) {
    this.#context = context;
    this.#planned = planned;
    this.#blobs = [...new Map(planned.map(({ blob, sizeBytes }) => [blob, { digest: blob, sizeBytes }])).values()];
    this.#progress = new Progress(this.#blobs, context.onProgress);
    this.#signal = AbortSignal.any([context.signal, this.#stop.signal]);
    this.#settled = planned.map(() => Promise.withResolvers<StoredLayer>());
    for (const { promise } of this.#settled) promise.catch(() => undefined);
    this.#intake = new BlobIntake({
      arrivals: context.layers.arrivals,
      source: context.source,
      onBytes: (digest) => this.#come(digest),
      onFailure: (error) => this.#fail(error),
      signal: this.#signal,
    });
  }

  async run(): Promise<readonly StoredLayer[]> {
    const { layers, signal } = this.#context;
    try {
      await this.#begin();
      let next = 0;
      const lane = async (): Promise<void> => {
        for (let index = next++; index < this.#planned.length; index = next++) await this.#bring(index);
      };
      await Promise.all(Array.from({ length: parallelLayers }, lane));
      await Promise.all(this.#finishing);
      if (this.#failure === undefined) await this.#checkUnread();
    } catch (error) {
      this.#fail(error);
    }
    await Promise.allSettled(this.#commits.values());
    // What is whole is kept in either case. Where the disk refuses even that, the first failure says more.
    await layers.commit(this.#done).catch((error: unknown) => this.#fail(error));
    await this.#intake.end().catch((error: unknown) => this.#fail(error));
    signal.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure.error;
    return Promise.all(this.#settled.map(({ promise }) => promise));
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#stop.abort();
  }

  async #begin(): Promise<void> {
    const { layers, keepBlobs } = this.#context;
    const needed = new Set(keepBlobs ? this.#planned.map(({ blob }) => blob) : this.#planned.filter((layer) => layers.find(layer) === undefined).map(({ blob }) => blob));
    const wanted: WantedBlob[] = [];
    for (const blob of this.#blobs) {
      if (needed.has(blob.digest) && (await blobSize(layers.arrivals.contentDir, blob.digest)) !== blob.sizeBytes) wanted.push(blob);
      else this.#progress.here(blob.digest, blob.sizeBytes);
    }
    this.#progress.begin();
    await this.#intake.begin(wanted);
  }

  #come(digest: Digest): void {
    const bytes = this.#intake.bytesHere(digest);
    if (bytes !== undefined) this.#progress.here(digest, bytes);
  }

  async #bring(index: number): Promise<void> {
    const [layer, settled] = [this.#planned[index], this.#settled[index]];
    if (layer === undefined || settled === undefined) return;
    try {
      this.#signal.throwIfAborted();
      const stored = await this.#unpack(layer, index);
      this.#done.push(stored);
      this.#finishing.push(this.#finish(layer, stored, settled));
    } catch (error) {
      settled.reject(error);
      this.#fail(error);
    }
  }

  /** The layers above may need the blob, so they wait until it is in the store. */
  async #finish({ blob }: PlannedLayer, stored: StoredLayer, settled: PromiseWithResolvers<StoredLayer>): Promise<void> {
    try {
      await this.#commits.get(blob);
      this.#progress.done(blob);
      settled.resolve(stored);
    } catch (error) {
      settled.reject(error);
      this.#fail(error);
    }
  }

  async #unpack(layer: PlannedLayer, index: number): Promise<StoredLayer> {
    const { layers } = this.#context;
    const { blob: digest, sizeBytes } = layer;
    const context: UnpackContext = {
      blob: async () => this.#intake.file({ digest, sizeBytes }),
      beforeWaiting: async () => {
        if (this.#intake.unread().some((blob) => blob.digest === digest)) await checkBlob(this.#intake, layers, { digest, sizeBytes }, this.#signal);
      },
      onChecked: () => this.#checked(layer),
      parents: async () => Promise.all(this.#settled.slice(0, index).map(({ promise }) => promise)),
      onBytes: (count) => {
        this.#come(digest);
        this.#progress.unpacked(digest, count);
      },
      signal: this.#signal,
    };
    try {
      return await layers.unpack(layer, context);
    } catch (error) {
      if (isBlobMissingBelow(error)) await this.#fetchBelow(layer, index);
      else if (!isWrongBlob(error, digest) || !(await this.#intake.refuse(digest))) throw error;
      return layers.unpack(layer, context);
    }
  }

  /** Blobs of lower layers that were unpacked before and whose blobs were dropped; the layer, whose own blob has come, is then begun anew. */
  async #fetchBelow(layer: PlannedLayer, index: number): Promise<void> {
    this.#intake.giveBack(layer.blob);
    for (const { blob, sizeBytes } of this.#planned.slice(0, index)) await checkBlob(this.#intake, this.#context.layers, { digest: blob, sizeBytes }, this.#signal);
  }

  #checked({ blob, sizeBytes }: PlannedLayer): void {
    this.#progress.here(blob, sizeBytes);
    const commit = this.#intake.commit(blob);
    // Looked at by whoever finishes the layer; until then a failure is not an unhandled one.
    commit.catch(() => undefined);
    this.#commits.set(blob, commit);
  }

  /** Blobs of layers that were unpacked long ago, or by somebody else meanwhile. */
  async #checkUnread(): Promise<void> {
    for (const blob of this.#intake.unread()) {
      await checkBlob(this.#intake, this.#context.layers, blob, this.#signal);
      this.#progress.here(blob.digest, blob.sizeBytes);
    }
  }
}

/** The content of the blob is not what its digest says. */
function isWrongBlob(error: unknown, digest: Digest): boolean {
  return error instanceof RuntimeError && error.code === 'dataLoss' && errorMessage(error).startsWith(`verify blob ${digest}`);
}

/** A file of a lower layer is wanted, whose blob was dropped after that layer was unpacked. */
function isBlobMissingBelow(error: unknown): boolean {
  return error instanceof RuntimeError && error.code === 'notFound' && errorMessage(error).includes('bring up a file from a lower layer: read blob');
}

/** Waits for a blob, checks it and makes it one of the store; a beginning that was wrong costs one more transfer. */
async function checkBlob(intake: BlobIntake, layers: LayerStore, blob: WantedBlob, signal: AbortSignal): Promise<void> {
  for (;;) {
    const file = await intake.file(blob);
    try {
      if (file.growth !== undefined) await layers.check(file, signal);
      return await intake.commit(blob.digest);
    } catch (error) {
      if (!isWrongBlob(error, blob.digest) || !(await intake.refuse(blob.digest))) throw error;
    }
  }
}

/**
 * Brings single blobs back: because they were dropped or, with `replaces`, because they are damaged; else what is there with its size is left alone. Throws the
 * first failure, with the digest; blobs that were brought before it stay.
 */
export async function fetchBlobs(
  context: Pick<BringContext, 'layers' | 'source' | 'signal'> & { readonly onBytes?: (digest: Digest, count: number) => void; readonly replaces?: boolean },
  wanted: readonly WantedBlob[],
): Promise<void> {
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  let failure: { readonly error: unknown } | undefined;
  const fail = (error: unknown): void => {
    failure ??= { error };
    stop.abort();
  };
  const { layers, source, onBytes = () => undefined, replaces = false } = context;
  const intake = new BlobIntake({ arrivals: layers.arrivals, source, onBytes, onFailure: fail, replaces, signal });
  try {
    await intake.begin(wanted);
    for (const blob of wanted) await checkBlob(intake, layers, blob, signal);
  } catch (error) {
    fail(error);
  }
  await intake.end().catch(fail);
  await syncContent(layers.arrivals.contentDir).catch(fail);
  context.signal.throwIfAborted();
  if (failure !== undefined) throw failure.error;
}
