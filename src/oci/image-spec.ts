/**
 * Image documents as data: descriptors, indexes, manifests, image configs, in OCI and Docker schema 2 spelling.
 * In: the bytes of a document. Out: typed values, or invalidArgument with the place in the document. No I/O.
 *
 * Everything here was written by strangers. A document that is both an index and a manifest is refused, because two
 * readers could take different halves of it. Source: image-spec v1.1; CVE-2021-41190.
 */
import { RuntimeError, invalidArgument, limits } from '#core';
import {
  type Decoder,
  type Fields,
  arrayOf,
  compact,
  decodeNonEmptyString,
  decodeSafeInteger,
  decodeString,
  decodeObject,
  decodeUint32,
  fieldsOf,
  integerBetween,
  mapOf,
  parseJson,
} from './decode.ts';
import { type Digest, decodeDigest } from './digest.ts';

/** Media types of documents and layers that are understood. */
export const mediaTypes = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayerGzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
  dockerLayerZstd: 'application/vnd.docker.image.rootfs.diff.tar.zstd',
} as const;

/** How the bytes of a layer blob are packed. */
export type LayerCompression = 'none' | 'gzip' | 'zstd';

const layerCompressions: Readonly<Record<string, LayerCompression>> = {
  [mediaTypes.ociLayer]: 'none',
  [mediaTypes.dockerLayer]: 'none',
  [mediaTypes.ociLayerGzip]: 'gzip',
  [mediaTypes.dockerLayerGzip]: 'gzip',
  [mediaTypes.ociLayerZstd]: 'zstd',
  [mediaTypes.dockerLayerZstd]: 'zstd',
};

/** Compression of a layer's media type; undefined for foreign (nondistributable) and unknown types, which are refused. */
export function layerCompressionOf(mediaType: string): LayerCompression | undefined {
  return Object.hasOwn(layerCompressions, mediaType) ? layerCompressions[mediaType] : undefined;
}

const foreignLayers: Readonly<Record<string, LayerCompression>> = {
  'application/vnd.oci.image.layer.nondistributable.v1.tar': 'none',
  'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip': 'gzip',
  'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd': 'zstd',
  'application/vnd.docker.image.rootfs.foreign.diff.tar': 'none',
  'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip': 'gzip',
};

/** True for a layer that its maker does not want to be passed on, or that is said to be elsewhere. Source: image-spec "layer.md", Non-Distributable Layers. */
export function isForeignLayer({ mediaType, urls = [] }: Pick<Descriptor, 'mediaType' | 'urls'>): boolean {
  return Object.hasOwn(foreignLayers, mediaType) || urls.length > 0;
}

/** True for the media type of an archive of files, foreign ones included. */
export function isLayerType(mediaType: string): boolean {
  return Object.hasOwn(layerCompressions, mediaType) || Object.hasOwn(foreignLayers, mediaType);
}

/** True for the media type of an image's configuration: what a container can be made of. */
export function isImageConfigType(mediaType: string): boolean {
  return mediaType === mediaTypes.ociConfig || mediaType === mediaTypes.dockerConfig;
}

/** The platform of an image. Architecture and variant are Go's names, such as `arm64` and `v8`. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly osVersion?: string;
}

/** Points to content: what it is, its digest and its exact size in bytes. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly artifactType?: string;
  /** Other places where the content may be: a foreign layer, then. Never asked. */
  readonly urls?: readonly string[];
}

/** A list of manifests, usually one per platform. */
export interface ImageIndex {
  readonly kind: 'index';
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** One image: its config and its layers. */
export interface ImageManifest {
  readonly kind: 'manifest';
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Base layer first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly artifactType?: string;
}

/** HEALTHCHECK of a Docker image; durations are nanoseconds. Kept for doors that show it. */
export interface ImageHealthcheck {
  readonly test: readonly string[];
}

/** The execution defaults of an image: suggestions by a stranger, never commands. */
export interface ImageConfig {
  readonly platform: Platform;
  /** RFC 3339 as written, when present and valid. */
  readonly created?: string;
  readonly author?: string;
  /** `user`, `uid`, `user:group`, `uid:gid`, …, exactly as written; may be empty. */
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly stopSignal?: string;
  readonly volumes: readonly string[];
  readonly exposedPorts: readonly string[];
  readonly healthcheck?: ImageHealthcheck;
  /** Digests of the uncompressed layers, base first. */
  readonly diffIds: readonly Digest[];
}

const decodeStringMap = mapOf(decodeString);
const decodeStrings = arrayOf(decodeString, 10_000);

const decodeAnnotations: Decoder<Readonly<Record<string, string>>> = (value, path) => {
  const annotations = decodeStringMap(value, path);
  const bytes = Object.entries(annotations).reduce((sum, [key, text]) => sum + Buffer.byteLength(key) + Buffer.byteLength(text), 0);
  if (bytes > limits.annotationsBytesMax) throw invalidArgument(path, `${bytes} bytes, at most ${limits.annotationsBytesMax}`);
  return annotations;
};

const none: Readonly<Record<string, string>> = {};

/** A platform object of an index entry. */
export const decodePlatform: Decoder<Platform> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    os: fields.required('os', decodeString),
    architecture: fields.required('architecture', decodeString),
    variant: fields.optional('variant', decodeString) || undefined,
    osVersion: fields.optional('os.version', decodeString) || undefined,
  });
};

/** A content descriptor. */
export const decodeDescriptor: Decoder<Descriptor> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    mediaType: fields.required('mediaType', decodeNonEmptyString),
    digest: fields.required('digest', decodeDigest),
    size: fields.required('size', integerBetween(0, Number.MAX_SAFE_INTEGER)),
    annotations: fields.withDefault('annotations', decodeAnnotations, none),
    platform: fields.optional('platform', decodePlatform),
    artifactType: fields.optional('artifactType', decodeString) || undefined,
    urls: fields.optional('urls', arrayOf(decodeString, 100)),
  });
};

const indexTypes: readonly string[] = [mediaTypes.ociIndex, mediaTypes.dockerIndex];
const manifestTypes: readonly string[] = [mediaTypes.ociManifest, mediaTypes.dockerManifest];

/** True for the media type of an index or manifest list. */
export const isIndexType = (mediaType: string): boolean => indexTypes.includes(mediaType);
/** True for the media type of a manifest. */
export const isManifestType = (mediaType: string): boolean => manifestTypes.includes(mediaType);

function decodeIndex(fields: Fields, mediaType: string): ImageIndex {
  return {
    kind: 'index',
    mediaType,
    manifests: fields.required('manifests', arrayOf(decodeDescriptor, limits.indexEntriesMax)),
    annotations: fields.withDefault('annotations', decodeAnnotations, none),
  };
}

function decodeManifest(fields: Fields, mediaType: string): ImageManifest {
  return compact({
    kind: 'manifest' as const,
    mediaType,
    config: fields.required('config', decodeDescriptor),
    layers: fields.required('layers', arrayOf(decodeDescriptor, limits.layersMax)),
    annotations: fields.withDefault('annotations', decodeAnnotations, none),
    artifactType: fields.optional('artifactType', decodeString) || undefined,
  });
}

function textOf(bytes: Uint8Array, what: string, bytesMax: number): string {
  if (bytes.length > bytesMax) throw new RuntimeError('resourceExhausted', `${what}: ${bytes.length} bytes, at most ${bytesMax}`);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new RuntimeError('invalidArgument', `${what}: not UTF-8`, { cause });
  }
}

/**
 * The bytes as an index or a manifest. `mediaType` is what the descriptor or the Content-Type said, where known: it must
 * agree with the document's own. Throws invalidArgument when the document is both, neither, or contradicts its type.
 */
export function decodeManifestDocument(bytes: Uint8Array, options: { readonly what: string; readonly mediaType?: string | undefined }): ImageIndex | ImageManifest {
  const { what } = options;
  const fields = fieldsOf(parseJson(textOf(bytes, what, limits.manifestBytesMax), what), what);
  const version = fields.optional('schemaVersion', decodeSafeInteger);
  if (version !== 2) throw invalidArgument(what, version === 1 ? 'schema 1 images are not supported' : 'schemaVersion must be 2');
  const own = fields.optional('mediaType', decodeString) || undefined;
  const known = options.mediaType !== undefined && (isIndexType(options.mediaType) || isManifestType(options.mediaType)) ? options.mediaType : undefined;
  if (own !== undefined && known !== undefined && own !== known) throw invalidArgument(what, `mediaType is ${JSON.stringify(own)} but was announced as ${JSON.stringify(known)}`);
  const has = (name: string): boolean => fields.names.includes(name);
  if (has('manifests') && (has('layers') || has('config'))) throw invalidArgument(what, 'is both an index and a manifest');
  if (has('fsLayers') || has('history')) throw invalidArgument(what, 'has fields of schema 1');
  const mediaType = own ?? known ?? (has('manifests') ? mediaTypes.ociIndex : mediaTypes.ociManifest);
  if (isIndexType(mediaType)) return decodeIndex(fields, mediaType);
  if (isManifestType(mediaType)) return decodeManifest(fields, mediaType);
  throw invalidArgument(what, `unknown mediaType ${JSON.stringify(mediaType.slice(0, 140))}`);
}

/** Keys of a Go set, such as `{"80/tcp": {}}`, in their order. */
const decodeSet: Decoder<readonly string[]> = (value, path) => Object.keys(decodeObject(value, path));

const decodeCreated: Decoder<string | undefined> = (value, path) => {
  const text = decodeString(value, path);
  return /^\d{4}-\d\d-\d\dT/.test(text) && !Number.isNaN(Date.parse(text)) ? text : undefined;
};

const decodeEnvironment: Decoder<readonly string[]> = (value, path) =>
  decodeStrings(value, path).map((entry, index) => {
    if (entry.indexOf('=') < 1) throw invalidArgument(`${path}[${index}]`, 'must be NAME=value');
    return entry;
  });

/** Entrypoint and Cmd: an array, or (from old builders) one string meaning one word. */
const decodeWords: Decoder<readonly string[]> = (value, path) => (typeof value === 'string' ? [decodeString(value, path)] : decodeStrings(value, path));

const decodeHealthcheck: Decoder<ImageHealthcheck> = (value, path) => ({ test: fieldsOf(value, path).withDefault('Test', decodeStrings, []) });

function decodeRootfs(value: unknown, path: string): readonly Digest[] {
  const fields = fieldsOf(value, path);
  const type = fields.required('type', decodeString);
  if (type !== 'layers') throw invalidArgument(`${path}.type`, `must be "layers", not ${JSON.stringify(type.slice(0, 80))}`);
  return fields.withDefault('diff_ids', arrayOf(decodeDigest, limits.layersMax), []);
}

/** The bytes of an image config. Throws invalidArgument with the place, resourceExhausted when it is too large. */
export function decodeImageConfig(bytes: Uint8Array, what: string): ImageConfig {
  const fields = fieldsOf(parseJson(textOf(bytes, what, limits.imageConfigBytesMax), what), what);
  const config = fieldsOf(fields.withDefault('config', decodeObject, {}), `${what}.config`);
  return compact({
    platform: decodePlatform(
      { os: fields.required('os', decodeString), architecture: fields.required('architecture', decodeString), variant: fields.optional('variant', decodeString) },
      what,
    ),
    created: fields.optional('created', decodeCreated),
    author: fields.optional('author', decodeString),
    user: config.withDefault('User', decodeString, ''),
    env: config.withDefault('Env', decodeEnvironment, []),
    entrypoint: config.withDefault('Entrypoint', decodeWords, []),
    cmd: config.withDefault('Cmd', decodeWords, []),
    workingDir: config.withDefault('WorkingDir', decodeString, ''),
    labels: config.withDefault('Labels', decodeStringMap, none),
    stopSignal: config.optional('StopSignal', decodeString) || undefined,
    volumes: config.withDefault('Volumes', decodeSet, []),
    exposedPorts: config.withDefault('ExposedPorts', decodeSet, []),
    healthcheck: config.optional('Healthcheck', decodeHealthcheck),
    diffIds: fields.required('rootfs', decodeRootfs),
  });
}

/** What an image's USER means without reading files inside it. A numeric string is never a name. Source: CVE-2024-40635. */
export type ImageUser = { readonly kind: 'none' } | { readonly kind: 'uid'; readonly uid: number } | { readonly kind: 'name'; readonly name: string };

/** The user part of `user[:group]`. Throws invalidArgument for a number beyond 2^32-2. */
export function imageUserOf(user: string): ImageUser {
  const name = user.split(':')[0] ?? '';
  if (name === '') return { kind: 'none' };
  if (!/^[+-]?\d+$/.test(name)) return { kind: 'name', name };
  const uid = decodeUint32(/^\d{1,10}$/.test(name) ? Number(name) : -1, `image user ${JSON.stringify(user.slice(0, 80))}`);
  if (uid === 0xffff_ffff) throw invalidArgument(`image user ${JSON.stringify(user.slice(0, 80))}`, `${uid} means "no user"`);
  return { kind: 'uid', uid };
}

/** Variants that a machine of the given variant can run, best first. Source: Arm architecture levels as Go names them. */
function acceptedVariants(host: Platform): readonly (string | undefined)[] {
  if (host.architecture === 'arm64') return [host.variant ?? 'v8', 'v8', undefined];
  if (host.architecture === 'arm') {
    const levels = ['v8', 'v7', 'v6', 'v5'];
    return [...levels.slice(Math.max(0, levels.indexOf(host.variant ?? 'v7'))), undefined];
  }
  if (host.architecture === 'amd64') {
    const levels = ['v4', 'v3', 'v2', 'v1'];
    return [...levels.slice(levels.indexOf(host.variant ?? 'v1')), undefined];
  }
  return [...new Set([host.variant, undefined])];
}

/** How well `offered` suits `host`: 0 is best, undefined means it cannot run. */
export function platformRank(host: Platform, offered: Platform): number | undefined {
  if (offered.os !== host.os || offered.architecture !== host.architecture) return undefined;
  const rank = acceptedVariants(host).indexOf(offered.variant);
  return rank < 0 ? undefined : rank;
}

/**
 * The manifests of an index that suit the platform, best first, in index order among equals. Entries without a platform
 * come last: their config decides. Attestations (platform unknown/unknown) never match.
 */
export function selectManifests(index: ImageIndex, host: Platform): readonly Descriptor[] {
  const ranked = index.manifests.map((descriptor) => ({ descriptor, rank: descriptor.platform === undefined ? 1000 : platformRank(host, descriptor.platform) }));
  return ranked
    .filter(({ rank }) => rank !== undefined)
    .sort((a, b) => (a.rank ?? 0) - (b.rank ?? 0))
    .map(({ descriptor }) => descriptor);
}

/** `linux/arm64/v8`. */
export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, ...(platform.variant === undefined ? [] : [platform.variant])].join('/');
}
