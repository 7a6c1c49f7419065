/**
 * OCI layouts and docker archives as sources of images. In: a layout's directory, or an archive of either kind, which is read into a layout first.
 * Out: the documents of its `index.json`, with names. Source: image-spec "image-layout.md" and "annotations.md".
 */
import { constants, mkdir, open, rm } from 'node:fs/promises';
import { RuntimeError, limits, wrapError } from '#core';
import {
  type Descriptor,
  type Digest,
  type Platform,
  arrayOf,
  compact,
  decodeDescriptor,
  fieldsOf,
  isIndexType,
  isManifestType,
  parseJson,
  parseReference,
  repositoryTag,
} from '#oci';
import { blobPath, ingestPath, verifyBytes } from './content.io.ts';
import type { ImageSource, ResolvedDocument } from './types.ts';
import type { WorkerPool } from './worker-pool.io.ts';

/** One image of a layout: its top document and the tags that the index gives it. */
export interface LayoutImage {
  readonly found: ResolvedDocument;
  readonly tags: readonly string[];
  /** What the index says that it is for: who brings an image of another machine means that one. */
  readonly platform?: Platform;
}

/** An opened layout; what a tar was unpacked to goes with it. */
export interface OpenLayout extends AsyncDisposable {
  readonly source: ImageSource;
  readonly images: readonly LayoutImage[];
}

/** What to open, under which name, and with whose help. */
export interface LayoutOptions {
  readonly path: string;
  readonly name: string | undefined;
  readonly contentDir: string;
  readonly pool: WorkerPool;
  readonly signal: AbortSignal;
}

/** A plain file's bytes: no link, FIFO or device is opened for its content. */
async function readSmallFile(path: string, bytesMax: number): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const info = await file.stat();
    if (!info.isFile()) throw new RuntimeError('invalidArgument', `read ${path}: not a regular file`);
    if (info.size > bytesMax) throw new RuntimeError('resourceExhausted', `read ${path}: ${info.size} bytes, at most ${bytesMax}`);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/**
 * The tags that an entry of `index.json` asks for. A reference name that is only a tag needs a repository, which `--name` gives;
 * without one the image stays unnamed.
 */
export function tagsOfEntry(descriptor: Pick<Descriptor, 'annotations'>, name: string | undefined): readonly string[] {
  const full = descriptor.annotations['io.containerd.image.name'];
  const short = descriptor.annotations['org.opencontainers.image.ref.name'];
  const given = name ?? full ?? (short !== undefined && /[/:]/.test(short) ? short : undefined);
  if (given === undefined) return [];
  const tag = repositoryTag(parseReference(given));
  return tag === undefined ? [] : [tag];
}

/** Entries that are images: artifacts' own types are passed over. */
function imagesOf(index: Buffer, what: string): readonly Descriptor[] {
  const fields = fieldsOf(parseJson(index.toString('utf8'), what), what);
  return fields.required('manifests', arrayOf(decodeDescriptor, limits.indexEntriesMax)).filter(({ mediaType }) => isIndexType(mediaType) || isManifestType(mediaType));
}

/** Opens the layout. Throws `import PATH: cause`. With `name` the layout must have one image. */
export async function openLayout(options: LayoutOptions): Promise<OpenLayout> {
  const { path, contentDir, pool, signal, name } = options;
  const scratch = ingestPath(contentDir);
  const close = async (): Promise<void> => rm(scratch, { recursive: true, force: true });
  try {
    const directory = (await isDirectory(path)) ? path : scratch;
    if (directory === scratch) {
      await mkdir(scratch, { mode: 0o700 });
      await pool.run({ kind: 'extract', archivePath: path, directory: scratch }, {}, signal);
    }
    const entries = imagesOf(await readSmallFile(`${directory}/index.json`, limits.manifestBytesMax), 'index.json');
    if (entries.length === 0) throw new RuntimeError('invalidArgument', 'index.json names no image');
    const source = layoutSource(directory, options);
    /** A document with several names has an entry for each. */
    const images = new Map<Digest, LayoutImage>();
    let documentBytes = 0;
    for (const entry of entries) {
      const known = images.get(entry.digest)?.found.bytes;
      const bytes = known ?? (await source.document(entry, limits.manifestBytesMax, signal));
      if (known === undefined) documentBytes += bytes.length;
      // All of them are held until the last image is stored.
      if (documentBytes > limits.layoutDocumentsBytesMax)
        throw new RuntimeError('resourceExhausted', `the documents that index.json names have more than ${limits.layoutDocumentsBytesMax} bytes together`);
      const tags = [...(images.get(entry.digest)?.tags ?? []), ...tagsOfEntry(entry, name)];
      const { platform } = entry;
      images.set(entry.digest, compact({ found: { bytes, mediaType: entry.mediaType, digest: entry.digest }, tags: [...new Set(tags)], platform }));
    }
    if (name !== undefined && images.size !== 1) throw new RuntimeError('invalidArgument', `a name was given, but the layout has ${images.size} images`);
    return { source, images: [...images.values()], [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw wrapError(`import ${path}`, error);
  }
}

async function isDirectory(path: string): Promise<boolean> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const info = await file.stat();
    if (!info.isDirectory() && !info.isFile()) throw new RuntimeError('invalidArgument', 'neither a directory nor a regular file');
    return info.isDirectory();
  } finally {
    await file.close();
  }
}

function layoutSource(directory: string, { path, pool }: LayoutOptions): ImageSource {
  return {
    what: `import ${path}`,
    document: async (descriptor, bytesMax) => {
      const bytes = await readSmallFile(blobPath(`${directory}/blobs`, descriptor.digest), bytesMax);
      verifyBytes(bytes, descriptor.digest);
      return bytes;
    },
    transfer: async (blobs, onBytes, signal) => {
      await pool.run({ kind: 'copy', layoutDir: directory, blobs }, { onProgress: onBytes }, signal);
    },
  };
}
