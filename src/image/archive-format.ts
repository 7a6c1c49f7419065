/**
 * What archives of images hold besides blobs. In: images to be saved. Out: documents of an OCI layout or of docker's archive. Pure.
 *
 * Sources: image-spec "image-layout.md" and "annotations.md"; docker's archive as its own tools and skopeo read it: `manifest.json` lists config,
 * tags and uncompressed layers of each image, `repositories` (older still) the top layer of each tag.
 */
import { type Digest, type Platform, compact, digestParts, parseReference } from '#oci';
import type { InstalledManifest } from './install.io.ts';
import { tarBlockBytes } from './tar-header.ts';
import { encodeTarHeader } from './tar-writer.ts';

/** One image and the tags that it gets in the archive. */
export interface SavedImage {
  readonly id: Digest;
  readonly tags: readonly string[];
  readonly manifest: InstalledManifest;
  readonly platform: Platform | undefined;
  readonly diffIds: readonly Digest[];
}

/** `oci-layout`, the file that says what the directory is. */
export const layoutMarker: Buffer = Buffer.from('{"imageLayoutVersion":"1.0.0"}');

/** `index.json`: an entry per tag, and one for an image without. Whole names, because a bare tag says nothing about which image is meant. */
export function encodeLayoutIndex(images: readonly SavedImage[]): Buffer {
  const manifests = images.flatMap(({ manifest, tags, platform }) => {
    const descriptor = compact({
      mediaType: manifest.mediaType,
      digest: manifest.digest,
      size: manifest.sizeBytes,
      platform: platform === undefined ? undefined : compact({ os: platform.os, architecture: platform.architecture, variant: platform.variant }),
    });
    if (tags.length === 0) return [descriptor];
    return tags.map((tag) => ({ ...descriptor, annotations: { 'io.containerd.image.name': tag, 'org.opencontainers.image.ref.name': tag } }));
  });
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests }));
}

/** Path of a blob in a layout. */
export function layoutBlobPath(digest: Digest): string {
  const { algorithm, hex } = digestParts(digest);
  return `blobs/${algorithm}/${hex}`;
}

/** Path of an uncompressed layer in docker's archive. */
export function dockerLayerPath(diffId: Digest): string {
  return `${digestParts(diffId).hex}.tar`;
}

/** Path of a config in docker's archive. */
export function dockerConfigPath(config: Digest): string {
  return `${digestParts(config).hex}.json`;
}

/** `manifest.json` of docker's archive. */
export function encodeDockerManifest(images: readonly SavedImage[]): Buffer {
  return Buffer.from(
    JSON.stringify(
      images.map(({ manifest, tags, diffIds }) => ({ Config: dockerConfigPath(manifest.config.digest), RepoTags: tags.map(shortTag), Layers: diffIds.map(dockerLayerPath) })),
    ),
  );
}

/** `repositories` of docker's archive. */
export function encodeDockerRepositories(images: readonly SavedImage[]): Buffer {
  const repositories = new Map<string, Record<string, string>>();
  for (const { tags, diffIds } of images) {
    const top = diffIds.at(-1);
    if (top === undefined) continue;
    for (const tag of tags.map(shortTag)) {
      const colon = tag.lastIndexOf(':');
      repositories.set(tag.slice(0, colon), { ...repositories.get(tag.slice(0, colon)), [tag.slice(colon + 1)]: digestParts(top).hex });
    }
  }
  return Buffer.from(JSON.stringify(Object.fromEntries(repositories)));
}

/** As docker writes names of its own registry: `busybox:1`, not `docker.io/library/busybox:1`. */
function shortTag(tag: string): string {
  const { registry, repository, tag: version } = parseReference(tag);
  const name = registry === 'docker.io' ? repository.replace(/^library\//, '') : `${registry}/${repository}`;
  return `${name}:${version ?? 'latest'}`;
}

/** The header of one file whose size may need more digits than the classic field has. Its length depends on the path alone, so that room for it can be left. */
export function encodeFileHeader(path: string, sizeBytes: number): Buffer {
  const classic = sizeBytes <= 0o77777777777;
  const blocks = encodeTarHeader({ kind: 'file', path, mode: 0o644, sizeBytes: classic ? sizeBytes : 0 });
  if (classic) return blocks;
  // The binary form of a size takes no further block. A long path has blocks of its own before the last. Source: GNU tar manual, "Basic Tar Format".
  const header = blocks.subarray(blocks.length - tarBlockBytes);
  header.fill(0, 124, 136);
  header[124] = 0x80;
  header.writeBigUInt64BE(BigInt(sizeBytes), 128);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return blocks;
}
