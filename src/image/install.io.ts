/**
 * From a document to a stored image: index → manifest → config → layers. In: a source and what its reference led to.
 * Out: everything that the image's record will name, present and synced. Records nothing of the image itself.
 */
import { RuntimeError, errorMessage, limits, wrapError } from '#core';
import {
  type Descriptor,
  type Digest,
  type ImageConfig,
  type ImageIndex,
  type ImageManifest,
  type Platform,
  decodeImageConfig,
  decodeManifestDocument,
  formatPlatform,
  isImageConfigType,
  isIndexType,
  isManifestType,
  mediaTypes,
  platformRank,
  selectManifests,
} from '#oci';
import { bringLayers } from './bring-layers.io.ts';
import { ingestBytes, readStored, syncContent } from './content.io.ts';
import type { LayerStore } from './layer-store.io.ts';
import { planLayers } from './plan-layers.ts';
import type { ImageProgress, ImageSource, ResolvedDocument } from './types.ts';

/** One blob as a manifest names it. */
export interface BlobDescriptor {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly mediaType: string;
}

/** One manifest of an image: everything needed to write it somewhere else, or to fetch it again. */
export interface InstalledManifest extends BlobDescriptor {
  /** Indexes and the manifest, the top first. */
  readonly documents: readonly Digest[];
  readonly config: BlobDescriptor;
  /** Base layer first; one digest may come twice. */
  readonly layers: readonly BlobDescriptor[];
}

/** What an image consists of, once it is all there. */
export interface InstalledImage {
  readonly kind: 'image' | 'artifact';
  /** The config's digest; the manifest's for an artifact. */
  readonly id: Digest;
  readonly manifest: InstalledManifest;
  readonly config: ImageConfig;
  /** Keys of its layers, base first. */
  readonly layers: readonly Digest[];
}

/** Where an image comes from and where it goes. */
export interface InstallContext {
  readonly contentDir: string;
  readonly layers: LayerStore;
  readonly platform: Platform;
  readonly source: ImageSource;
  /** Layers of the nondistributable media types are refused without it. */
  readonly allowForeignLayers: boolean;
  /** False: the blobs of layers need not stay once they are unpacked, and none is fetched for a layer that is. */
  readonly keepBlobs: boolean;
  /** Told what will be brought, diff IDs and chain IDs of layers, before any layer is asked for. */
  readonly onPlanned?: (planned: { readonly blobs: readonly Digest[]; readonly layers: readonly Digest[] }) => void;
  readonly onProgress: (progress: ImageProgress) => void;
  readonly signal: AbortSignal;
}

interface Chosen {
  readonly manifest: ImageManifest;
  readonly found: BlobDescriptor;
  /** Undefined for an artifact. */
  readonly config: ImageConfig | undefined;
  /** Documents on the way, the top first, the config last. */
  readonly documents: readonly { readonly digest: Digest; readonly bytes: Buffer }[];
}

async function document(context: InstallContext, descriptor: Descriptor, bytesMax: number): Promise<Buffer> {
  const { contentDir, source, signal } = context;
  if (descriptor.size > bytesMax) throw new RuntimeError('resourceExhausted', `${descriptor.mediaType} ${descriptor.digest}: ${descriptor.size} bytes, at most ${bytesMax}`);
  const stored = await readStored(contentDir, { digest: descriptor.digest, sizeBytes: descriptor.size });
  if (stored !== undefined) return stored;
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

/** True for what is no image to run. A manifest of Docker's own type is always one. Source: image-spec "manifest.md", Guidelines for Artifact Usage. */
function isArtifact({ mediaType, artifactType, config }: ImageManifest): boolean {
  return mediaType === mediaTypes.ociManifest && (artifactType !== undefined || !isImageConfigType(config.mediaType));
}

/** Follows a document down to one manifest and its config. Throws notFound where nothing suits the platform. */
async function choose(context: InstallContext, found: ResolvedDocument, depth: number): Promise<Chosen> {
  const decoded = decodeManifestDocument(found.bytes, { what: `document ${found.digest}`, mediaType: found.mediaType });
  if (decoded.kind === 'index') {
    const chosen = await chooseFromIndex(context, decoded, depth);
    return { ...chosen, documents: [found, ...chosen.documents] };
  }
  const configBytes = await document(context, decoded.config, limits.imageConfigBytesMax);
  const descriptor: BlobDescriptor = { digest: found.digest, sizeBytes: found.bytes.length, mediaType: decoded.mediaType };
  const documents = [found, { digest: decoded.config.digest, bytes: configBytes }];
  if (isArtifact(decoded)) return { manifest: decoded, found: descriptor, config: undefined, documents };
  const config = decodeImageConfig(configBytes, `config ${decoded.config.digest}`);
  if (platformRank(context.platform, config.platform) === undefined)
    throw new RuntimeError('notFound', `no image for ${formatPlatform(context.platform)} (there is ${formatPlatform(config.platform)})`);
  return { manifest: decoded, found: descriptor, config, documents };
}

/** What stands in for the configuration of an artifact, which has no process. */
function artifactConfig(platform: Platform): ImageConfig {
  return { platform, user: '', env: [], entrypoint: [], cmd: [], workingDir: '', labels: {}, volumes: [], exposedPorts: [], diffIds: [] };
}

/**
 * Brings everything. Blobs of layers that are unpacked but whose archive was dropped or damaged are fetched again where blobs are kept. A failure
 * leaves layers and blobs that are whole and checked, and beginnings of blobs from a registry; documents come last, so none is left alone.
 */
export async function installImage(context: InstallContext, found: ResolvedDocument): Promise<InstalledImage> {
  const { source, onProgress, contentDir } = context;
  try {
    const { manifest, config, documents, found: descriptor } = await choose(context, found, 0);
    const planned = planLayers(manifest, { diffIds: config?.diffIds, allowForeignLayers: context.allowForeignLayers });
    const layerDigests = [...new Set(planned.map(({ blob }) => blob))];
    context.onPlanned?.({
      blobs: [...documents.map(({ digest }) => digest), ...layerDigests],
      layers: [...new Set(planned.flatMap(({ diffId, chainId }) => [diffId, chainId]))],
    });
    const stored = await bringLayers(context, planned);
    for (const { bytes, digest } of documents) await ingestBytes(contentDir, bytes, digest);
    await syncContent(contentDir);
    const layerBytes = new Map(planned.map(({ blob, sizeBytes }) => [blob, sizeBytes]));
    const documentBytes = documents.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const sizeBytes = documentBytes + [...layerBytes.values()].reduce((sum, size) => sum + size, 0);
    onProgress({ stage: 'done', bytesDone: sizeBytes, bytesTotal: sizeBytes });
    const blobOf = ({ digest, size, mediaType }: Descriptor): BlobDescriptor => ({ digest, sizeBytes: size, mediaType });
    return {
      kind: config === undefined ? 'artifact' : 'image',
      id: config === undefined ? descriptor.digest : manifest.config.digest,
      manifest: { ...descriptor, documents: documents.slice(0, -2).map(({ digest }) => digest), config: blobOf(manifest.config), layers: manifest.layers.map(blobOf) },
      config: config ?? artifactConfig(context.platform),
      layers: stored.map(({ key }) => key),
    };
  } catch (error) {
    context.signal.throwIfAborted();
    // The message of a failure inside already says what; this line says for which image.
    throw errorMessage(error).startsWith(source.what) ? error : wrapError(source.what, error);
  }
}
