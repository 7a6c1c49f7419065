/**
 * A layer's blob → a directory, in a worker thread. In: a blob, perhaps one that is still coming. Out: records to a confined child, which writes the
 * tree, and the layer's index file; neither is synced. Hashing, inflating and parsing happen here, in one pass and as far as the bytes are there.
 *
 * Nothing that is written counts before the caller hears that blob and archive have their digests.
 */
import { createHash } from 'node:crypto';
import { RuntimeError, limits, wrapError } from '#core';
import { type Digest, type LayerCompression, digestOf, digestParts } from '#oci';
import { type UnpackSession, openUnpackSession } from '#system';
import { BlobReader, type ReaderOptions } from './growing-file.io.ts';
import { assertRatio, inflate } from './inflate.io.ts';
import { type EntryOrigin, LayerCompiler } from './layer-compiler.ts';
import { IndexWriter, readIndexTree } from './layer-index-file.io.ts';
import { RecordBatch } from './record-batch.ts';
import { TarReader } from './tar.ts';
import type { CheckTask, ParentLayer, UnpackResult, UnpackTask } from './worker-messages.ts';

/** What the task needs from the thread it runs in. */
export interface UnpackHost extends ReaderOptions {
  /** Blocks the thread until the layers below are there, base first. */
  parents(): readonly ParentLayer[];
  progress(bytes: number): void;
}

const sendBytesMin = 256 * 1024;

/** The way from a compiler to the child and the index. */
interface Outlet {
  readonly compiler: LayerCompiler;
  /** Sends what is worth it; `all` sends whatever is there. */
  flush(all?: boolean): Promise<void>;
}

/** Reads the blob to its end. Throws dataLoss where it does not have its digest. */
export async function runCheckTask(task: CheckTask, host: UnpackHost): Promise<void> {
  using reader = new BlobReader(task.blob, host);
  for (let piece = await reader.next(); piece !== undefined; piece = await reader.next()) host.progress(piece.length);
  await reader.check();
}

/** Runs the task. Throws what the archive deserves: invalidArgument, resourceExhausted, dataLoss where a digest does not match; what the disk says. */
export async function runUnpackTask(task: UnpackTask, host: UnpackHost): Promise<UnpackResult> {
  using reader = new BlobReader(task.blob, host);
  const session = await openUnpackSession(task.launcherSocket, task, host.signal);
  const abort = (): void => session.abort();
  host.signal.addEventListener('abort', abort, { once: true });
  try {
    return await unpack(task, { host, reader, session });
  } catch (error) {
    session.abort();
    host.signal.throwIfAborted();
    // Bytes that a registry or a disk has changed look like a broken archive first. What is wrong is then the blob.
    if (!isDisk(error)) await reader.check();
    throw error;
  } finally {
    host.signal.removeEventListener('abort', abort);
  }
}

/** The child or this thread could not write; reading on would only take time. */
function isDisk(error: unknown): boolean {
  return error instanceof RuntimeError && error.errno !== undefined;
}

async function unpack(task: UnpackTask, context: { readonly host: UnpackHost; readonly reader: BlobReader; readonly session: UnpackSession }): Promise<UnpackResult> {
  const { host, reader, session } = context;
  const batch = new RecordBatch();
  if (task.style !== 'trusted') batch.add({ op: 'style', style: task.style });
  const index = new IndexWriter(task.indexPath);
  const isBase = task.content.kind === 'file' || task.content.isBase;
  let layers: readonly ParentLayer[] | undefined;
  const parentLayers = (): readonly ParentLayer[] => (layers ??= host.parents());
  const compiler = new LayerCompiler({
    isBase,
    parents: () => (isBase ? [] : parentLayers().map(({ indexPath }) => readIndexTree(indexPath))),
    emit: (record) => {
      if (record.op === 'data') index.data(record.data);
      batch.add(record);
    },
    onPlaced: (placed) => index.placed(placed),
  });
  const outlet: Outlet = {
    compiler,
    flush: async (all = false) => {
      if (batch.bytes >= (all ? 1 : sendBytesMin)) await session.write(batch.take());
    },
  };
  try {
    const { content } = task;
    const compression =
      content.kind === 'file'
        ? await readFile(content.path, { host, reader, outlet, sizeBytes: task.blob.sizeBytes })
        : await readArchive(content.diffId, { host, reader, outlet });
    await reader.check();
    for (const copy of compiler.pendingCopies()) await copyEntry(copy, { outlet, parents: parentLayers(), host });
    // Last, so that nothing below inherits from it.
    if (compiler.rootAttributes !== undefined) batch.add({ op: 'root', ...compiler.rootAttributes });
    batch.add({ op: 'finish' });
    await outlet.flush(true);
    await index.finish();
    await session.finish();
    return { compression, needsParents: compiler.needsParents, entries: compiler.entryCount, contentBytes: compiler.contentBytes };
  } catch (error) {
    await index.abort();
    throw error;
  }
}

/** An archive, with its digest where somebody has said it. */
async function readArchive(
  diffId: Digest | undefined,
  { host, reader, outlet }: { readonly host: UnpackHost; readonly reader: BlobReader; readonly outlet: Outlet },
): Promise<LayerCompression> {
  const algorithm = diffId === undefined ? undefined : digestParts(diffId).algorithm;
  const hash = algorithm === undefined ? undefined : createHash(algorithm);
  const { compression, pieces } = await inflate(reader);
  const { compiler } = outlet;
  const tar = new TarReader(compiler);
  let inflatedBytes = 0;
  let reportedBytes = 0;
  for await (const piece of pieces) {
    hash?.update(piece);
    inflatedBytes += piece.length;
    if (inflatedBytes > limits.layerBytesMax) throw new RuntimeError('resourceExhausted', `inflate layer: more than ${limits.layerBytesMax} bytes`);
    assertRatio(reader.bytesRead, inflatedBytes);
    for (const _pause of tar.feed(piece)) {
      assertRatio(reader.bytesRead, compiler.contentBytes);
      await outlet.flush();
    }
    await outlet.flush();
    host.progress(reader.bytesRead - reportedBytes);
    reportedBytes = reader.bytesRead;
  }
  tar.finish();
  const found = algorithm === undefined || hash === undefined ? undefined : digestOf(algorithm, hash.digest('hex'));
  if (found === diffId) return compression;
  // Of a damaged blob nothing else need be said; one that is as announced is not what the image says.
  await reader.check();
  throw new RuntimeError('dataLoss', `verify layer: its content is ${found}, the image says ${diffId}`);
}

/** The blob itself is the only file of the layer. */
async function readFile(
  path: readonly string[],
  context: { readonly host: UnpackHost; readonly reader: BlobReader; readonly outlet: Outlet; readonly sizeBytes: number },
): Promise<LayerCompression> {
  const { host, reader, outlet, sizeBytes } = context;
  const plain = { linkTarget: '', mode: 0o644, uid: 0, gid: 0, mtimeNs: 0n, major: 0, minor: 0, xattrs: [] };
  outlet.compiler.entry({ type: 'file', path: path.join('/'), sizeBytes, ...plain }, 0);
  for (let piece = await reader.next(); piece !== undefined; piece = await reader.next()) {
    outlet.compiler.data(Buffer.from(piece));
    await outlet.flush();
    host.progress(piece.length);
  }
  return 'none';
}

class Found extends Error {}

/** Reads one entry of a lower layer's archive again and hands it to the compiler as a copy. */
async function copyEntry(
  copy: EntryOrigin & { readonly layer: number; readonly paths: readonly string[] },
  context: { readonly outlet: Outlet; readonly parents: readonly ParentLayer[]; readonly host: UnpackHost },
): Promise<void> {
  const { parents, host, outlet } = context;
  const { compiler } = outlet;
  const layer = parents[copy.layer];
  if (layer === undefined) throw new RuntimeError('internal', `bug: no parent layer ${copy.layer}`);
  let state: 'before' | 'inside' | 'after' = 'before';
  const tar = new TarReader({
    entry: (entry, ordinal) => {
      if (state === 'inside') {
        state = 'after';
        throw new Found();
      }
      if (ordinal !== copy.ordinal) return;
      state = 'inside';
      compiler.copied(entry, copy);
    },
    data: (chunk) => {
      if (state === 'inside') compiler.data(chunk);
    },
  });
  try {
    using reader = new BlobReader(layer.blob, host);
    const { pieces } = await inflate(reader);
    for await (const piece of pieces) {
      for (const _pause of tar.feed(piece)) await outlet.flush();
      await outlet.flush();
    }
  } catch (error) {
    if (!(error instanceof Found)) throw wrapError('bring up a file from a lower layer', error);
  }
  if (state === 'before') throw new RuntimeError('dataLoss', 'bring up a file from a lower layer: its archive has changed');
  compiler.copiedLinks();
  await outlet.flush();
}
