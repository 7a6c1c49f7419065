/**
 * What `docker save` writes, as OCI documents. In: its `manifest.json` and where its members are. Out: a manifest and an index entry per image.
 *
 * The config is taken over byte for byte, so the image's id is the one it had. Everything here is a stranger's: names of members are only looked up in
 * the table of what was read, never in a file system.
 */
import { posix } from 'node:path';
import { RuntimeError, invalidArgument, limits } from '#core';
import { type Digest, type LayerCompression, arrayOf, decodeNonEmptyString, decodeString, fieldsOf, mediaTypes, parseJson, parseReference } from '#oci';

/** A member of an archive that was read: a file by its digest, or a link by its target. */
export type ArchiveMember =
  | { readonly kind: 'file'; readonly digest: Digest; readonly sizeBytes: number; readonly compression: LayerCompression }
  | { readonly kind: 'link'; readonly target: string }
  /** As every tar program resolves it: a path from the archive's root. */
  | { readonly kind: 'hardLink'; readonly target: string };

/** Members by their plain path. */
export type ArchiveMembers = ReadonlyMap<string, ArchiveMember>;

/** One image as it will be stored. */
export interface ConvertedImage {
  readonly manifest: Buffer;
  readonly tags: readonly string[];
}

const linkHopsMax = 8;
const layerTypes = { none: mediaTypes.ociLayer, gzip: mediaTypes.ociLayerGzip, zstd: mediaTypes.ociLayerZstd } as const;

/** Path of a member without `./`, or undefined for one that leads out. */
export function memberPath(path: string): string | undefined {
  const plain = posix.normalize(path).replace(/^\/+/, '').replace(/\/+$/, '');
  return plain === '..' || plain.startsWith('../') || plain === '.' || plain === '' ? undefined : plain;
}

/** The file at a path; links lead to other members, as older versions of docker wrote layers that repeat. Throws notFound. */
function fileAt(members: ArchiveMembers, path: string, what: string): Extract<ArchiveMember, { readonly kind: 'file' }> {
  let at = memberPath(path);
  for (let hops = 0; at !== undefined && hops <= linkHopsMax; hops += 1) {
    const member = members.get(at);
    if (member === undefined) break;
    if (member.kind === 'file') return member;
    at = memberPath(member.kind === 'link' ? posix.join(posix.dirname(at), member.target) : member.target);
  }
  throw new RuntimeError('notFound', `${what}: the archive has no file ${JSON.stringify(path.slice(0, 300))}`);
}

/** Every image of the archive. Throws invalidArgument with the place in `manifest.json`, notFound for a file that it names and the archive lacks. */
export function convertDockerArchive(manifestJson: Uint8Array, members: ArchiveMembers): readonly ConvertedImage[] {
  const entries = arrayOf((value, path) => fieldsOf(value, path), limits.savedImagesMax)(parseJson(Buffer.from(manifestJson).toString('utf8'), 'manifest.json'), 'manifest.json');
  return entries.map((entry) => {
    const config = fileAt(members, entry.required('Config', decodeNonEmptyString), entry.path);
    if (config.sizeBytes > limits.imageConfigBytesMax)
      throw new RuntimeError('resourceExhausted', `${entry.path}.Config: ${config.sizeBytes} bytes, at most ${limits.imageConfigBytesMax}`);
    const layers = entry.withDefault('Layers', arrayOf(decodeNonEmptyString, limits.layersMax), []).map((path) => fileAt(members, path, `${entry.path}.Layers`));
    const manifest = {
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: config.digest, size: config.sizeBytes },
      layers: layers.map(({ digest, sizeBytes, compression }) => ({ mediaType: layerTypes[compression], digest, size: sizeBytes })),
    };
    return { manifest: Buffer.from(JSON.stringify(manifest)), tags: entry.withDefault('RepoTags', arrayOf(decodeString, 1000), []).map((tag) => decodeRepoTag(tag, entry.path)) };
  });
}

function decodeRepoTag(text: string, path: string): string {
  const { digest } = parseReference(text);
  if (digest !== undefined) throw invalidArgument(`${path}.RepoTags`, `${JSON.stringify(text.slice(0, 300))} has a digest`);
  return text;
}
