/**
 * A manifest's layers as they will be unpacked. In: a manifest and, for an image, the diff IDs of its config. Out: for each layer its blob, what is in it
 * and the names it is stored under, or a refusal. Pure; everything read here was written by strangers.
 */
import { createHash } from 'node:crypto';
import { RuntimeError, limits } from '#core';
import { type Descriptor, type Digest, type ImageManifest, digestOf, isForeignLayer, isLayerType } from '#oci';
import type { LayerContent } from './worker-messages.ts';

/** A layer to be brought and unpacked. */
export interface PlannedLayer {
  readonly blob: Digest;
  readonly sizeBytes: number;
  /** Of an artifact's layer, which nobody has said one of: a digest made of the blob's and of what is done with it. */
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly content: LayerContent;
}

const titleAnnotation = 'org.opencontainers.image.title';
const nameBytesMax = 255;

/** Chain IDs for diff IDs, base first. Source: image-spec "config.md", Layer ChainID. */
export function chainIdsOf(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diffId : digestOf('sha256', createHash('sha256').update(`${below} ${diffId}`).digest('hex')));
  }
  return chain;
}

const quoted = (text: string): string => JSON.stringify(text.slice(0, 140));

/**
 * The components of the path that an artifact's file gets. Throws invalidArgument. Source: image-spec "annotations.md", org.opencontainers.image.title; a name
 * that leads elsewhere or hides something is nobody's honest title.
 */
export function decodeTitle(title: string, digest: Digest): readonly string[] {
  const components = title.split('/');
  const isPlain = (name: string): boolean =>
    name !== '' && name !== '.' && name !== '..' && !name.startsWith('.wh.') && !name.includes('\0') && Buffer.byteLength(name) <= nameBytesMax;
  if (!components.every(isPlain) || components.length > limits.tarDepthMax || Buffer.byteLength(title) > limits.tarPathBytesMax)
    throw new RuntimeError('invalidArgument', `layer ${digest}: the title ${quoted(title)} is not a plain path`);
  return components;
}

function artifactContent({ mediaType, digest, annotations }: Descriptor): LayerContent {
  // Each archive of an artifact stands alone until it turns out to speak of what is below it.
  if (isLayerType(mediaType)) return { kind: 'archive', isBase: false };
  const title = annotations[titleAnnotation];
  return { kind: 'file', path: title === undefined ? [digest.slice(digest.indexOf(':') + 1)] : decodeTitle(title, digest) };
}

function contentName(digest: Digest, content: LayerContent): Digest {
  return digestOf(
    'sha256',
    createHash('sha256')
      .update(JSON.stringify(['artifact', digest, content]))
      .digest('hex'),
  );
}

/**
 * The layers, base first. `diffIds` is absent for an artifact. Throws invalidArgument on a contradiction between manifest and config and on an unknown type;
 * failedPrecondition on a foreign layer that is not allowed; resourceExhausted beyond the bound of a layer.
 */
export function planLayers(
  manifest: Pick<ImageManifest, 'layers'>,
  { diffIds, allowForeignLayers }: { readonly diffIds: readonly Digest[] | undefined; readonly allowForeignLayers: boolean },
): readonly PlannedLayer[] {
  const { layers } = manifest;
  if (diffIds !== undefined && layers.length !== diffIds.length)
    throw new RuntimeError('invalidArgument', `the manifest has ${layers.length} layers, the config ${diffIds.length}`);
  const foreign = allowForeignLayers ? undefined : layers.find(isForeignLayer);
  if (foreign !== undefined) {
    throw new RuntimeError(
      'failedPrecondition',
      `layer ${foreign.digest}: is a foreign layer (${quoted(foreign.mediaType)}), which its maker does not allow to be passed on; the store is not configured to take such layers`,
    );
  }
  const contents = layers.map((descriptor, index): LayerContent => {
    if (descriptor.size > limits.layerBytesMax)
      throw new RuntimeError('resourceExhausted', `layer ${descriptor.digest}: ${descriptor.size} bytes, at most ${limits.layerBytesMax}`);
    if (diffIds === undefined) return artifactContent(descriptor);
    const diffId = diffIds[index];
    if (!isLayerType(descriptor.mediaType))
      throw new RuntimeError('invalidArgument', `layer ${descriptor.digest}: the media type ${quoted(descriptor.mediaType)} is not supported`);
    return { kind: 'archive', isBase: index === 0, ...(diffId === undefined ? {} : { diffId }) };
  });
  const names = diffIds ?? layers.map(({ digest }, index) => contentName(digest, contents[index] ?? { kind: 'archive', isBase: false }));
  const chainIds = chainIdsOf(names);
  return layers.map(({ digest, size }, index) => {
    const [diffId, chainId, content] = [names[index], chainIds[index], contents[index]];
    if (diffId === undefined || chainId === undefined || content === undefined) throw new RuntimeError('internal', 'bug: a layer without its diff ID');
    return { blob: digest, sizeBytes: size, diffId, chainId, content };
  });
}
