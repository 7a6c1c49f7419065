/**
 * Blobs on disk, by digest. In: streams and expected digests. Out: files that are whole or absent: a blob is written beside,
 * hashed on its way, synced, and only then renamed to its name. Knows nothing of images.
 *
 * `content/sha256/<hex>` are blobs, `content/ingest/…` is unfinished work that nothing may rely on.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
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

/** Makes the directories and removes what an earlier process left unfinished. */
export async function openContent(contentDir: string): Promise<void> {
  await rm(`${contentDir}/ingest`, { recursive: true, force: true });
  for (const name of ['ingest', ...algorithms]) await mkdir(`${contentDir}/${name}`, { recursive: true, mode: 0o700 });
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

/** Takes bytes in memory in as the blob with their own digest. */
export async function ingestBytes(contentDir: string, bytes: Uint8Array): Promise<Digest> {
  const digest = digestOf('sha256', createHash('sha256').update(bytes).digest('hex'));
  if ((await blobSize(contentDir, digest)) !== bytes.length) await ingestBlob(contentDir, { digest, sizeBytes: bytes.length }, oneChunk(bytes), () => undefined);
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
