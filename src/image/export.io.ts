/**
 * Images → one archive or layout directory. In: images of the store and a path. Out: the file or directory, whole and synced, or nothing: it is written
 * beside its path and renamed. Blobs are verified on their way out, in a worker thread.
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { RuntimeError, assert, errnoName, errorMessage, limits, wrapError } from '#core';
import { type Digest, isDigest, parseReference, repositoryTag } from '#oci';
import {
  type SavedImage,
  dockerConfigPath,
  dockerLayerPath,
  encodeDockerManifest,
  encodeDockerRepositories,
  encodeFileHeader,
  encodeLayoutIndex,
  layoutBlobPath,
  layoutMarker,
} from './archive-format.ts';
import { type ImageRecord, layerBlobsOf } from './catalog.ts';
import { blobPath } from './content.io.ts';
import { fetchMissing } from './fetch-again.io.ts';
import type { StoreParts } from './store-parts.ts';
import { tarEnd, tarPadding } from './tar-writer.ts';
import type { SaveOptions, SaveResult, StoredImage } from './types.ts';

/** Takes the parts of an archive; paths are relative and plain. */
interface ArchiveSink {
  bytes(path: string, content: Buffer): Promise<void>;
  /** A blob as it is or inflated, which must have the digest. */
  blob(path: string, blob: Digest, content: { readonly digest: Digest; readonly inflate: boolean }): Promise<void>;
  finish(): Promise<number>;
  /** Gives up what is open; the caller removes what was written. No error after `finish`. */
  abort(): Promise<void>;
}

interface Chosen extends SavedImage {
  readonly image: StoredImage;
  readonly record: ImageRecord;
}

interface SaveContext {
  readonly parts: StoreParts;
  readonly options: SaveOptions & { readonly signal: AbortSignal };
  readonly report: (bytes: number) => void;
}

/** The tag that a name is, where it is one. */
function tagOf(nameOrId: string, image: StoredImage): readonly string[] {
  if (isDigest(nameOrId)) return [];
  try {
    const reference = parseReference(nameOrId);
    const tag = reference.digest === undefined ? repositoryTag(reference) : undefined;
    return tag !== undefined && image.names.includes(tag) ? [tag] : [];
  } catch {
    // The beginning of an id.
    return [];
  }
}

/** The images of the names, each manifest once, with the tags that were named. */
function chooseSaved(parts: StoreParts, names: readonly string[], format: SaveOptions['format']): readonly Chosen[] {
  if (names.length === 0) throw new RuntimeError('invalidArgument', 'save images: name at least one');
  if (names.length > limits.savedImagesMax) throw new RuntimeError('invalidArgument', `save images: ${names.length}, at most ${limits.savedImagesMax}`);
  const chosen = new Map<Digest, Chosen>();
  for (const name of names) {
    const { image, record } = parts.catalog.find(name);
    const isArtifact = image.kind === 'artifact';
    if (isArtifact && format === 'docker-archive') throw new RuntimeError('invalidArgument', `save ${name}: docker's archive cannot hold an artifact; use oci-archive`);
    const manifest = parts.catalog.manifestOf(name, record);
    const tags = [...(chosen.get(manifest.digest)?.tags ?? []), ...tagOf(name, image)];
    const { platform, diffIds } = record.config;
    chosen.set(manifest.digest, { id: image.id, image, record, manifest, diffIds, platform: isArtifact ? undefined : platform, tags: [...new Set(tags)] });
  }
  return [...chosen.values()];
}

/** Saves. Throws `save NAMES: cause`, with the blob's digest where one is concerned. */
export async function saveImages(
  parts: StoreParts,
  what: { readonly names: readonly string[]; readonly path: string },
  options: SaveOptions & { readonly signal: AbortSignal },
): Promise<SaveResult> {
  const images = chooseSaved(parts, what.names, options.format);
  const bytesTotal = [...new Map(images.flatMap(({ record }) => layerBlobsOf(record).map(({ digest, sizeBytes }) => [digest, sizeBytes]))).values()].reduce(
    (sum, size) => sum + size,
    0,
  );
  let bytesDone = 0;
  const report = (bytes: number): void => {
    bytesDone += bytes;
    options.onProgress?.({ stage: 'saving', bytesDone: Math.min(bytesDone, bytesTotal), bytesTotal });
  };
  const context: SaveContext = { parts, options, report };
  const temporary = join(dirname(what.path), `.${basename(what.path).slice(0, 100)}.${randomBytes(6).toString('hex')}`);
  let sink: ArchiveSink | undefined;
  try {
    for (const { record, manifest } of images) await fetchAll(context, record, manifest);
    if (options.format === 'oci-dir') await refuseFilled(what.path);
    else await refuseSpecial(what.path);
    sink = options.format === 'oci-dir' ? await DirectorySink.create(temporary, context) : await TarSink.create(temporary, context);
    await (options.format === 'docker-archive' ? writeDockerArchive(sink, images, context) : writeLayout(sink, images));
    const sizeBytes = await sink.finish();
    await rename(temporary, what.path);
    await syncDirectory(dirname(what.path));
    options.onProgress?.({ stage: 'done', bytesDone: bytesTotal, bytesTotal });
    return { images: images.map(({ image }) => image), sizeBytes };
  } catch (error) {
    await sink?.abort();
    await rm(temporary, { recursive: true, force: true });
    options.signal.throwIfAborted();
    throw errorMessage(error).startsWith('save ') ? error : wrapError(`save ${what.names.join(', ').slice(0, 300)} to ${what.path}`, error);
  }
}

/** Blobs that were dropped come back first; the archive is begun only when it can be finished. */
async function fetchAll({ parts, options }: SaveContext, record: ImageRecord, manifest: SavedImage['manifest']): Promise<void> {
  const documents = [manifest, manifest.config];
  const wanted = [...documents.map((blob) => ({ ...blob, isDocument: blob === manifest })), ...manifest.layers.map((blob) => ({ ...blob, isDocument: false }))];
  await fetchMissing(parts, record, wanted, { ...(options.auths === undefined ? {} : { auths: options.auths }), signal: options.signal });
}

async function refuseFilled(path: string): Promise<void> {
  try {
    if ((await readdir(path)).length > 0) throw new RuntimeError('alreadyExists', 'the directory is not empty');
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return;
    throw errnoName(error) === 'ENOTDIR' ? new RuntimeError('alreadyExists', 'there is a file of this name') : error;
  }
}

/**
 * What is renamed into its place would replace a device, a FIFO, a directory or a link, such as `/dev/stdout`, which everybody on the host needs and
 * which leads elsewhere for this process than for whoever named it.
 */
async function refuseSpecial(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (found?.isSymbolicLink() === true) throw new RuntimeError('failedPrecondition', 'there is a symbolic link; name the file that it leads to');
  if (found !== undefined && !found.isFile()) throw new RuntimeError('failedPrecondition', 'there is something that is no regular file');
}

async function writeLayout(sink: ArchiveSink, images: readonly Chosen[]): Promise<void> {
  await sink.bytes('oci-layout', layoutMarker);
  await sink.bytes('index.json', encodeLayoutIndex(images));
  const blobs = new Set(images.flatMap(({ manifest }) => [manifest.digest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest)]));
  for (const digest of blobs) await sink.blob(layoutBlobPath(digest), digest, { digest, inflate: false });
}

async function writeDockerArchive(sink: ArchiveSink, images: readonly Chosen[], { options }: SaveContext): Promise<void> {
  const written = new Set<string>();
  const once = async (path: string, write: () => Promise<void>): Promise<void> => {
    if (written.has(path)) return;
    written.add(path);
    options.signal.throwIfAborted();
    await write();
  };
  for (const { manifest, diffIds } of images) {
    const { digest } = manifest.config;
    await once(dockerConfigPath(digest), async () => sink.blob(dockerConfigPath(digest), digest, { digest, inflate: false }));
    for (const [index, diffId] of diffIds.entries()) {
      const layer = manifest.layers[index];
      assert(layer !== undefined, 'an image was stored with fewer layers than its config names');
      await once(dockerLayerPath(diffId), async () => sink.blob(dockerLayerPath(diffId), layer.digest, { digest: diffId, inflate: true }));
    }
  }
  await sink.bytes('manifest.json', encodeDockerManifest(images));
  await sink.bytes('repositories', encodeDockerRepositories(images));
}

/** Copies a blob into an open file; returns how many bytes that were. */
async function placeBlob(
  { parts, options, report }: SaveContext,
  blob: Digest,
  place: { readonly filePath: string; readonly offsetBytes: number; readonly digest: Digest; readonly inflate: boolean },
): Promise<number> {
  const task = { kind: 'place', blobPath: blobPath(parts.contentDir, blob), ...place } as const;
  const result = await parts.pool.runStoreTask(task, { onProgress: (_digest, bytes) => report(bytes) }, options.signal);
  assert(result.kind === 'placed', 'a copy ended as something else');
  return result.sizeBytes;
}

/** One tar file. */
class TarSink implements ArchiveSink {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #context: SaveContext;
  #at = 0;

  private constructor(path: string, file: FileHandle, context: SaveContext) {
    this.#path = path;
    this.#file = file;
    this.#context = context;
  }

  static async create(path: string, context: SaveContext): Promise<TarSink> {
    return new TarSink(path, await open(path, 'wx', 0o644), context);
  }

  async bytes(path: string, content: Buffer): Promise<void> {
    await this.#write(Buffer.concat([encodeFileHeader(path, content.length), content, tarPadding(content.length)]));
  }

  async blob(path: string, blob: Digest, content: { readonly digest: Digest; readonly inflate: boolean }): Promise<void> {
    const offsetBytes = this.#at + encodeFileHeader(path, 0).length;
    // How much it inflates to is known only afterwards; room for the header is left.
    const sizeBytes = await placeBlob(this.#context, blob, { ...content, filePath: this.#path, offsetBytes });
    await this.#write(encodeFileHeader(path, sizeBytes));
    this.#at += sizeBytes;
    await this.#write(Buffer.from(tarPadding(sizeBytes)));
  }

  async finish(): Promise<number> {
    await this.#write(Buffer.from(tarEnd));
    await this.#file.sync();
    await this.#file.close();
    return this.#at;
  }

  async abort(): Promise<void> {
    // Closing twice is refused by the handle and changes nothing.
    await this.#file.close().catch(() => undefined);
  }

  async #write(bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length;) done += (await this.#file.write(bytes, done, bytes.length - done, this.#at + done)).bytesWritten;
    this.#at += bytes.length;
  }
}

/** A directory with the layout's files. */
class DirectorySink implements ArchiveSink {
  readonly #path: string;
  readonly #context: SaveContext;
  #sizeBytes = 0;

  private constructor(path: string, context: SaveContext) {
    this.#path = path;
    this.#context = context;
  }

  static async create(path: string, context: SaveContext): Promise<DirectorySink> {
    for (const name of ['', '/blobs', '/blobs/sha256', '/blobs/sha512']) await mkdir(`${path}${name}`, { mode: 0o755 });
    return new DirectorySink(path, context);
  }

  async bytes(path: string, content: Buffer): Promise<void> {
    const file = await open(`${this.#path}/${path}`, 'wx', 0o644);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    this.#sizeBytes += content.length;
  }

  async blob(path: string, blob: Digest, content: { readonly digest: Digest; readonly inflate: boolean }): Promise<void> {
    const filePath = `${this.#path}/${path}`;
    await this.bytes(path, Buffer.alloc(0));
    this.#sizeBytes += await placeBlob(this.#context, blob, { ...content, filePath, offsetBytes: 0 });
    const file = await open(filePath, 'r');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  }

  async finish(): Promise<number> {
    for (const name of ['/blobs/sha256', '/blobs/sha512', '/blobs', '']) await syncDirectory(`${this.#path}${name}`);
    return this.#sizeBytes;
  }

  async abort(): Promise<void> {
    // No file stays open between calls.
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
