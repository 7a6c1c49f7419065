/**
 * From a document to a stored image: index → manifest → config → blobs → layers. In: a source and what its reference led to.
 * Out: everything that the image's record will name, present and synced. Records nothing itself.
 */
import { RuntimeError, errorMessage, limits, wrapError } from '#core';
import {
  type Descriptor,
  type Digest,
  type ImageConfig,
  type ImageIndex,
  type ImageManifest,
  type LayerCompression,
  type Platform,
  decodeImageConfig,
  decodeManifestDocument,
  formatPlatform,
  isIndexType,
  isManifestType,
  layerCompressionOf,
  platformRank,
  selectManifests,
} from '#oci';
import { blobSize, ingestBytes, readBlob, syncContent } from './content.io.ts';
import { type LayerStore, type LayerToUnpack, type StoredLayer, chainIdsOf } from './layer-store.io.ts';
import type { ImageProgress, ImageSource, ResolvedDocument } from './types.ts';

/** What an image consists of, once it is all there. */
export interface InstalledImage {
  readonly configDigest: Digest;
  readonly config: ImageConfig;
  /** Every blob that belongs to it: index, manifest, config, layers. */
  readonly blobs: readonly Digest[];
  /** Keys of its layers, base first. */
  readonly layers: readonly Digest[];
  readonly sizeBytes: number;
}

/** Where an image comes from and where it goes. */
export interface InstallContext {
  readonly contentDir: string;
  readonly layers: LayerStore;
  readonly platform: Platform;
  readonly source: ImageSource;
  readonly onProgress: (progress: ImageProgress) => void;
  readonly signal: AbortSignal;
}

interface Chosen {
  readonly manifest: ImageManifest;
  readonly config: ImageConfig;
  /** Documents on the way, the top first. */
  readonly documents: readonly Digest[];
  readonly documentBytes: number;
}

/** How many layers of one image unpack at once; the lower ones begin first. */
const parallelLayers = 2;

async function document(context: InstallContext, descriptor: Descriptor, bytesMax: number): Promise<Buffer> {
  const { contentDir, source, signal } = context;
  if (descriptor.size > bytesMax) throw new RuntimeError('resourceExhausted', `${descriptor.mediaType} ${descriptor.digest}: ${descriptor.size} bytes, at most ${bytesMax}`);
  if ((await blobSize(contentDir, descriptor.digest)) === descriptor.size) return readBlob(contentDir, descriptor.digest, bytesMax);
  const bytes = await source.document(descriptor, bytesMax, signal);
  if (bytes.length !== descriptor.size) throw new RuntimeError('dataLoss', `verify blob ${descriptor.digest}: ${bytes.length} bytes, ${descriptor.size} were announced`);
  return bytes;
}

async function chooseFromIndex(context: InstallContext, index: ImageIndex, depth: number): Promise<Chosen> {
  if (depth >= limits.indexDepthMax) throw new RuntimeError('invalidArgument', `indexes within indexes, more than ${limits.indexDepthMax} deep`);
  const candidates = selectManifests(index, context.platform).filter(({ mediaType }) => isIndexType(mediaType) || isManifestType(mediaType));
  let refusal: RuntimeError | undefined;
  for (const descriptor of candidates) {
    const bytes = await document(context, descriptor, limits.manifestBytesMax);
    try {
      return await choose(context, { bytes, mediaType: descriptor.mediaType, digest: descriptor.digest }, depth + 1);
    } catch (error) {
      // An entry whose config turns out to be for another machine leaves the others a chance.
      if (!(error instanceof RuntimeError) || error.code !== 'notFound') throw error;
      refusal = error;
    }
  }
  const offered = index.manifests.flatMap(({ platform }) => (platform === undefined ? [] : [formatPlatform(platform)]));
  throw (
    refusal ??
    new RuntimeError(
      'notFound',
      `no image for ${formatPlatform(context.platform)} (there is ${offered.length === 0 ? 'none with a platform' : [...new Set(offered)].slice(0, 20).join(', ')})`,
    )
  );
}

/** Follows a document down to one manifest and its config. Throws notFound where nothing suits the platform. */
async function choose(context: InstallContext, found: ResolvedDocument, depth: number): Promise<Chosen> {
  const decoded = decodeManifestDocument(found.bytes, { what: `document ${found.digest}`, mediaType: found.mediaType });
  await ingestBytes(context.contentDir, found.bytes);
  if (decoded.kind === 'index') {
    const chosen = await chooseFromIndex(context, decoded, depth);
    return { ...chosen, documents: [found.digest, ...chosen.documents], documentBytes: chosen.documentBytes + found.bytes.length };
  }
  const configBytes = await document(context, decoded.config, limits.imageConfigBytesMax);
  const config = decodeImageConfig(configBytes, `config ${decoded.config.digest}`);
  if (platformRank(context.platform, config.platform) === undefined)
    throw new RuntimeError('notFound', `no image for ${formatPlatform(context.platform)} (there is ${formatPlatform(config.platform)})`);
  await ingestBytes(context.contentDir, configBytes);
  return { manifest: decoded, config, documents: [found.digest, decoded.config.digest], documentBytes: found.bytes.length + configBytes.length };
}

interface PlannedLayer extends LayerToUnpack {
  readonly descriptor: Descriptor;
}

/** The layers as they will be unpacked. Throws invalidArgument on a contradiction between manifest and config. */
function planLayers({ manifest, config }: Chosen): PlannedLayer[] {
  if (manifest.layers.length !== config.diffIds.length)
    throw new RuntimeError('invalidArgument', `the manifest has ${manifest.layers.length} layers, the config ${config.diffIds.length}`);
  const chainIds = chainIdsOf(config.diffIds);
  return manifest.layers.map((descriptor, index) => {
    const compression: LayerCompression | undefined = layerCompressionOf(descriptor.mediaType);
    const [diffId, chainId] = [config.diffIds[index], chainIds[index]];
    if (compression === undefined)
      throw new RuntimeError('invalidArgument', `layer ${descriptor.digest}: the media type ${JSON.stringify(descriptor.mediaType.slice(0, 140))} is not supported`);
    if (diffId === undefined || chainId === undefined) throw new RuntimeError('internal', 'bug: a layer without its diff ID');
    return { descriptor, diffId, chainId, blob: descriptor.digest, compression, isBase: index === 0 };
  });
}

/** Brings missing layer blobs in, each digest once. */
async function fetchLayers(context: InstallContext, layers: readonly PlannedLayer[]): Promise<void> {
  const { contentDir, source, onProgress, signal } = context;
  const byDigest = new Map(layers.map(({ descriptor }) => [descriptor.digest, descriptor.size]));
  const wanted: { digest: Digest; sizeBytes: number }[] = [];
  let bytesDone = 0;
  for (const [digest, sizeBytes] of byDigest) {
    if ((await blobSize(contentDir, digest)) === sizeBytes) bytesDone += sizeBytes;
    else wanted.push({ digest, sizeBytes });
  }
  const bytesTotal = [...byDigest.values()].reduce((sum, size) => sum + size, 0);
  const perLayer = new Map<Digest, number>();
  onProgress({ stage: 'downloading', bytesDone, bytesTotal });
  if (wanted.length === 0) return;
  const onBytes = (digest: Digest, count: number): void => {
    const done = (perLayer.get(digest) ?? 0) + count;
    perLayer.set(digest, done);
    bytesDone += count;
    const size = byDigest.get(digest) ?? 0;
    onProgress({ stage: done >= size ? 'verifying' : 'downloading', layer: digest, bytesDone: done, bytesTotal: size });
    onProgress({ stage: 'downloading', bytesDone, bytesTotal });
  };
  await source.blobs(wanted, onBytes, signal);
}

/** Unpacks all layers, two at a time, the lower ones first. */
async function unpackLayers(context: InstallContext, planned: readonly PlannedLayer[]): Promise<StoredLayer[]> {
  const { layers, onProgress } = context;
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const settled = planned.map(() => Promise.withResolvers<StoredLayer>());
  for (const { promise } of settled) promise.catch(() => undefined);
  const bytesTotal = planned.reduce((sum, { descriptor }) => sum + descriptor.size, 0);
  let allBytes = 0;
  let next = 0;
  let failure: { readonly error: unknown } | undefined;
  const unpackOne = async (layer: PlannedLayer, index: number): Promise<StoredLayer> => {
    signal.throwIfAborted();
    let bytesDone = 0;
    const onBytes = (count: number): void => {
      bytesDone += count;
      allBytes += count;
      onProgress({ stage: 'unpacking', layer: layer.descriptor.digest, bytesDone, bytesTotal: layer.descriptor.size });
      onProgress({ stage: 'unpacking', bytesDone: allBytes, bytesTotal });
    };
    return layers.unpack(layer, { parents: () => Promise.all(settled.slice(0, index).map(({ promise }) => promise)), onBytes, signal });
  };
  const lane = async (): Promise<void> => {
    for (let index = next++; index < planned.length; index = next++) {
      const layer = planned[index];
      if (layer === undefined) return;
      try {
        const stored = await unpackOne(layer, index);
        settled[index]?.resolve(stored);
      } catch (error) {
        failure ??= { error };
        settled[index]?.reject(error);
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: parallelLayers }, lane));
  if (failure !== undefined) throw context.signal.aborted ? context.signal.reason : failure.error;
  return Promise.all(settled.map(({ promise }) => promise));
}

/** Blobs of layers that are unpacked but whose archive was dropped or damaged are fetched again, because they are kept by default. */
export async function installImage(context: InstallContext, found: ResolvedDocument): Promise<InstalledImage> {
  const { source, onProgress } = context;
  try {
    const chosen = await choose(context, found, 0);
    const planned = planLayers(chosen);
    await fetchLayers(context, planned);
    const stored = await unpackLayers(context, planned);
    await syncContent(context.contentDir);
    const layerDigests = [...new Set(planned.map(({ blob }) => blob))];
    const layerBytes = new Map(planned.map(({ descriptor }) => [descriptor.digest, descriptor.size]));
    const sizeBytes = chosen.documentBytes + [...layerBytes.values()].reduce((sum, size) => sum + size, 0);
    onProgress({ stage: 'done', bytesDone: sizeBytes, bytesTotal: sizeBytes });
    return { configDigest: chosen.manifest.config.digest, config: chosen.config, blobs: [...chosen.documents, ...layerDigests], layers: stored.map(({ key }) => key), sizeBytes };
  } catch (error) {
    context.signal.throwIfAborted();
    // The message of a failure inside already says what; this line says for which image.
    throw errorMessage(error).startsWith(source.what) ? error : wrapError(source.what, error);
  }
}
