/**
 * Blobs on disk, by digest. In: streams and expected digests. Out: files that are whole or absent: a blob is written beside,
 * hashed on its way, synced, and only then renamed to its name. Knows nothing of images.
 *
 * `content/sha256/<hex>` are blobs, `content/ingest/…` is unfinished work that nothing may rely on. Of that, `<algorithm>-<hex>.part` is the beginning of a
 * blob whose transfer was ended in order; the next transfer goes on from there, and the digest of the whole decides.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, truncate } from 'node:fs/promises';
import { RuntimeError, errorMessage, errnoName, wrapError } from '#core';
import { type Digest, digestOf, digestParts, isDigest } from '#oci';

const algorithms = ['sha256', 'sha512'] as const;

/** Where a blob lies. */
export function blobPath(contentDir: string, digest: Digest): string {
  const { algorithm, hex } = digestParts(digest);
  return `${contentDir}/${algorithm}/${hex}`;
}

/** A fresh name for unfinished work. */
export function ingestPath(contentDir: string): string {
  return `${contentDir}/ingest/${randomBytes(12).toString('hex')}`;
}

/** The beginning of a blob that an ended transfer left, or may leave. */
export function partPath(contentDir: string, digest: Digest): string {
  const { algorithm, hex } = digestParts(digest);
  return `${contentDir}/ingest/${algorithm}-${hex}.part`;
}

/** The blob that a file of unfinished work is the beginning of. */
export function digestOfPart(name: string): Digest | undefined {
  const parts = /^(sha256|sha512)-([0-9a-f]+)\.part$/.exec(name);
  const digest = parts === null ? '' : `${parts[1]}:${parts[2]}`;
  return isDigest(digest) ? digest : undefined;
}

/** Makes the directories and removes what an earlier process left unfinished; beginnings of blobs stay. */
export async function openContent(contentDir: string): Promise<void> {
  for (const name of ['ingest', ...algorithms]) await mkdir(`${contentDir}/${name}`, { recursive: true, mode: 0o700 });
  for (const name of await readdir(`${contentDir}/ingest`)) {
    if (digestOfPart(name) === undefined) await rm(`${contentDir}/ingest/${name}`, { recursive: true, force: true });
  }
}

/** A file for a blob that is to come, with the beginning that an earlier transfer left. */
export async function beginBlob(
  contentDir: string,
  wanted: { readonly digest: Digest; readonly sizeBytes: number },
): Promise<{ readonly path: string; readonly haveBytes: number }> {
  const path = ingestPath(contentDir);
  try {
    await rename(partPath(contentDir, wanted.digest), path);
    const { size } = await stat(path);
    if (size <= wanted.sizeBytes) return { path, haveBytes: size };
    await rm(path, { force: true });
  } catch (error) {
    if (errnoName(error) !== 'ENOENT') throw wrapError(`store blob ${wanted.digest}`, error);
  }
  try {
    await (await open(path, 'wx', 0o600)).close();
  } catch (error) {
    throw wrapError(`store blob ${wanted.digest}`, error);
  }
  return { path, haveBytes: 0 };
}

/** Ends a transfer that did not finish: keeps the first bytes for the next one, or nothing where there are none. */
export async function keepPart(contentDir: string, begun: { readonly digest: Digest; readonly path: string }, bytes: number): Promise<void> {
  if (bytes === 0) return rm(begun.path, { force: true });
  await truncate(begun.path, bytes);
  await rename(begun.path, partPath(contentDir, begun.digest));
}

/** Makes a file whose digest was checked a blob: synced, then renamed. */
export async function commitBlob(contentDir: string, begun: { readonly digest: Digest; readonly path: string }): Promise<void> {
  try {
    const file = await open(begun.path, 'r+');
    try {
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(begun.path, blobPath(contentDir, begun.digest));
  } catch (error) {
    throw wrapError(`store blob ${begun.digest}`, error);
  }
}

/** Size of a blob, or undefined when it is absent. */
export async function blobSize(contentDir: string, digest: Digest): Promise<number | undefined> {
  try {
    return (await stat(blobPath(contentDir, digest))).size;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Makes the names of all blobs survive a power cut; called once before what names them is recorded. */
export async function syncContent(contentDir: string): Promise<void> {
  for (const algorithm of algorithms) {
    const directory = await open(`${contentDir}/${algorithm}`, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }
}

/**
 * Takes a stream in as the blob `digest` of exactly `sizeBytes`. Throws dataLoss when size or digest differ; the errno's code when the disk
 * refuses; whatever the stream throws. Nothing is left behind on failure. Pieces may be of any size.
 */
export async function ingestBlob(
  contentDir: string,
  wanted: { readonly digest: Digest; readonly sizeBytes: number },
  chunks: AsyncIterable<Uint8Array>,
  onBytes: (count: number) => void,
): Promise<void> {
  const path = ingestPath(contentDir);
  const { algorithm } = digestParts(wanted.digest);
  const hash = createHash(algorithm);
  let bytes = 0;
  const file = await open(path, 'wx', 0o600);
  try {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      if (bytes > wanted.sizeBytes) throw new RuntimeError('dataLoss', `verify blob ${wanted.digest}: more than the ${wanted.sizeBytes} bytes that were announced`);
      hash.update(chunk);
      await writeAll(file, chunk, wanted.digest);
      onBytes(chunk.length);
    }
    if (bytes !== wanted.sizeBytes) throw new RuntimeError('dataLoss', `verify blob ${wanted.digest}: ${bytes} bytes, ${wanted.sizeBytes} were announced`);
    const digest = digestOf(algorithm, hash.digest('hex'));
    if (digest !== wanted.digest) throw new RuntimeError('dataLoss', `verify blob ${wanted.digest}: the content is ${digest}`);
    await file.sync();
    await file.close();
    await rename(path, blobPath(contentDir, wanted.digest));
  } catch (error) {
    // Closing twice is refused by the handle and changes nothing.
    await file.close().catch(() => undefined);
    await rm(path, { force: true });
    throw error;
  }
}

async function writeAll(file: Awaited<ReturnType<typeof open>>, chunk: Uint8Array, digest: Digest): Promise<void> {
  try {
    for (let at = 0; at < chunk.length;) at += (await file.write(chunk, at)).bytesWritten;
  } catch (cause) {
    throw wrapError(`store blob ${digest}`, cause);
  }
}

/** Takes a stream of our own making in, whatever its digest turns out to be. Nothing is left behind on failure. */
export async function ingestNew(contentDir: string, chunks: AsyncIterable<Uint8Array>): Promise<{ readonly digest: Digest; readonly sizeBytes: number }> {
  const path = ingestPath(contentDir);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const file = await open(path, 'wx', 0o600);
  try {
    for await (const chunk of chunks) {
      hash.update(chunk);
      sizeBytes += chunk.length;
      for (let at = 0; at < chunk.length;) at += (await file.write(chunk, at)).bytesWritten;
    }
    const digest = digestOf('sha256', hash.digest('hex'));
    await file.sync();
    await file.close();
    await rename(path, blobPath(contentDir, digest));
    return { digest, sizeBytes };
  } catch (error) {
    // Closing twice is refused by the handle and changes nothing.
    await file.close().catch(() => undefined);
    await rm(path, { force: true });
    throw error;
  }
}

/** Takes bytes in memory in as the blob `digest`, by default their own of SHA-256, over what lies there and is not whole. Throws dataLoss where they have another. */
export async function ingestBytes(contentDir: string, bytes: Uint8Array, digest: Digest = digestOf('sha256', createHash('sha256').update(bytes).digest('hex'))): Promise<Digest> {
  const wanted = { digest, sizeBytes: bytes.length };
  if ((await readStored(contentDir, wanted)) === undefined) await ingestBlob(contentDir, wanted, oneChunk(bytes), () => undefined);
  return digest;
}

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** A whole small blob, verified. Throws notFound, dataLoss, resourceExhausted beyond `bytesMax`. */
export async function readBlob(contentDir: string, digest: Digest, bytesMax: number): Promise<Buffer> {
  const file = await open(blobPath(contentDir, digest), 'r').catch((cause: unknown) => {
    throw new RuntimeError('notFound', `read blob ${digest}: ${errorMessage(cause)}`, { cause });
  });
  try {
    const { size } = await file.stat();
    if (size > bytesMax) throw new RuntimeError('resourceExhausted', `read blob ${digest}: ${size} bytes, at most ${bytesMax}`);
    const bytes = await file.readFile();
    verifyBytes(bytes, digest);
    return bytes;
  } finally {
    await file.close();
  }
}

/** A small blob as it should be; undefined where it is absent, has another size or was altered, and is to be brought again. */
export async function readStored(contentDir: string, wanted: { readonly digest: Digest; readonly sizeBytes: number }): Promise<Buffer | undefined> {
  if ((await blobSize(contentDir, wanted.digest)) !== wanted.sizeBytes) return undefined;
  try {
    return await readBlob(contentDir, wanted.digest, wanted.sizeBytes);
  } catch (error) {
    if (error instanceof RuntimeError && (error.code === 'dataLoss' || error.code === 'notFound')) return undefined;
    throw error;
  }
}

/** Throws dataLoss unless the bytes have the digest. */
export function verifyBytes(bytes: Uint8Array, digest: Digest): void {
  const { algorithm } = digestParts(digest);
  const found = digestOf(algorithm, createHash(algorithm).update(bytes).digest('hex'));
  if (found !== digest) throw new RuntimeError('dataLoss', `verify blob ${digest}: the content is ${found}`);
}

/** Digests of all blobs. */
export async function listBlobs(contentDir: string): Promise<Digest[]> {
  const found: Digest[] = [];
  for (const algorithm of algorithms) {
    for (const hex of await readdir(`${contentDir}/${algorithm}`)) {
      const digest = `${algorithm}:${hex}`;
      if (isDigest(digest)) found.push(digest);
    }
  }
  return found;
}

/** An absent blob is no error. */
export async function removeBlob(contentDir: string, digest: Digest): Promise<void> {
  await rm(blobPath(contentDir, digest), { force: true });
}

/**
 * A file's bytes, piece by piece, each the caller's to keep. Throws the signal's reason, or what the disk says. Not one of Node's streams: one that is
 * aborted at the wrong moment leaves its file open.
 */
export async function* readPieces(path: string, pieceBytes: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  const file = await open(path, 'r');
  try {
    for (;;) {
      signal.throwIfAborted();
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(pieceBytes));
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}
