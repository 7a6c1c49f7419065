/**
 * A layer's archive on disk → layer records, in a worker thread. In: the path of a blob. Out: records in pieces of about a
 * mebibyte without the last one (`finish`), and the layer's index file, not yet synced. Inflating, hashing and parsing happen here; nothing
 * is written but the index.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, readFileSync } from 'node:fs';
import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdCompress, createZstdDecompress, zstdDecompressSync } from 'node:zlib';
import { RuntimeError, isAbort, limits, wrapError } from '#core';
import { type LayerCompression, digestOf } from '#oci';
import { type LayerRecord, encodeLayerRecord } from '#plan';
import { type EntryOrigin, LayerCompiler, type PlacedEntry } from './layer-compiler.ts';
import { decodeIndexTree, encodeIndexLine } from './layer-index.ts';
import type { DirectoryNode } from './layer-tree.ts';
import { TarReader } from './tar.ts';
import type { ParentLayer, UnpackResult, UnpackTask } from './worker-messages.ts';

/** What the task needs from the thread it runs in. */
export interface UnpackHost {
  /** Hands records on; the buffer is given away. Resolves when more may come. */
  send(bytes: Uint8Array): Promise<void>;
  /** Blocks the thread until the layers below are there, base first. */
  parents(): readonly ParentLayer[];
  progress(bytes: number): void;
}

const readBytes = 512 * 1024;
const batchBytes = 1024 * 1024;
const ratioFreeBytes = 64 * 1024 * 1024;

/** Gathers records into large pieces: one message per record would cost more than the record. */
class RecordBatch {
  #buffer = Buffer.allocUnsafeSlow(batchBytes + 64 * 1024);
  #length = 0;
  readonly full: Uint8Array[] = [];

  add(record: LayerRecord): void {
    const bytes = encodeLayerRecord(record);
    if (bytes.length > this.#buffer.length - this.#length) this.cut();
    if (bytes.length > this.#buffer.length) {
      this.full.push(Uint8Array.from(bytes));
      return;
    }
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Moves what is gathered to `full`. */
  cut(): void {
    if (this.#length === 0) return;
    this.full.push(this.#buffer.subarray(0, this.#length));
    this.#buffer = Buffer.allocUnsafeSlow(batchBytes + 64 * 1024);
    this.#length = 0;
  }
}

/** The archive's bytes, inflated. Compressed bytes read so far are counted in `counter`. Errors of the inflater come out of the iteration. */
async function* inflate(path: string, compression: LayerCompression, options: { readonly counter: { bytes: number }; readonly signal: AbortSignal }): AsyncGenerator<Buffer> {
  const source = createReadStream(path, { highWaterMark: readBytes });
  source.on('data', (chunk) => void (options.counter.bytes += chunk.length));
  const target =
    compression === 'gzip'
      ? createGunzip({ chunkSize: readBytes })
      : compression === 'zstd'
        ? createZstdDecompress({ chunkSize: readBytes })
        : new PassThrough({ highWaterMark: readBytes });
  const running = pipeline(source, target, { signal: options.signal });
  running.catch(() => undefined);
  try {
    // SAFETY: all three are readable streams of buffers.
    for await (const chunk of target as Readable) yield chunk as Buffer;
    await running;
  } catch (cause) {
    if (cause instanceof RuntimeError || isAbort(cause)) throw cause;
    throw wrapError(`inflate ${compression} layer`, cause, 'invalidArgument');
  } finally {
    source.destroy();
    target.destroy();
  }
}

/** Throws when little input became too much output. */
function assertRatio(inputBytes: number, outputBytes: number): void {
  if (outputBytes - ratioFreeBytes > inputBytes * limits.layerRatioMax)
    throw new RuntimeError('resourceExhausted', `inflate layer: ${outputBytes} bytes from ${inputBytes}, at most ${limits.layerRatioMax} times as many`);
}

/** Writes index lines, each file's line once its checksum is known. */
class IndexWriter {
  readonly #compress = createZstdCompress();
  readonly #finished: Promise<void>;
  #file: { readonly placed: PlacedEntry; readonly hash: ReturnType<typeof createHash> } | undefined;
  #text = '';

  constructor(path: string) {
    this.#finished = pipeline(this.#compress, createWriteStream(path, { flags: 'w', mode: 0o600 }));
    this.#finished.catch(() => undefined);
  }

  placed(placed: PlacedEntry): void {
    this.#closeFile();
    if (placed.kind === 'file') this.#file = { placed, hash: createHash('sha256') };
    else this.#line(encodeIndexLine(placed));
  }

  data(chunk: Uint8Array): void {
    this.#file?.hash.update(chunk);
  }

  #closeFile(): void {
    if (this.#file !== undefined) this.#line(encodeIndexLine(this.#file.placed, this.#file.hash.digest('hex')));
    this.#file = undefined;
  }

  #line(line: string): void {
    this.#text += line;
    if (this.#text.length < 256 * 1024) return;
    this.#compress.write(this.#text);
    this.#text = '';
  }

  async finish(): Promise<void> {
    this.#closeFile();
    this.#compress.end(this.#text);
    await this.#finished;
  }

  abort(): void {
    this.#compress.destroy();
  }
}

/** Reads an index file as a tree. Throws dataLoss. */
export function readIndexTree(path: string): DirectoryNode {
  try {
    return decodeIndexTree(zstdDecompressSync(readFileSync(path)).toString('utf8'));
  } catch (cause) {
    throw wrapError(`read layer index ${path}`, cause, 'dataLoss');
  }
}

/** Runs the task. Throws what the archive deserves: invalidArgument, resourceExhausted, dataLoss where the diff ID does not match. */
export async function runUnpackTask(task: UnpackTask, host: UnpackHost, signal: AbortSignal): Promise<UnpackResult> {
  const batch = new RecordBatch();
  const index = new IndexWriter(task.indexPath);
  let layers: readonly ParentLayer[] | undefined;
  const parentLayers = (): readonly ParentLayer[] => (layers ??= host.parents());
  const compiler = new LayerCompiler({
    isBase: task.isBase,
    parents: () => (task.isBase ? [] : parentLayers().map(({ indexPath }) => readIndexTree(indexPath))),
    emit: (record) => {
      if (record.op === 'data') index.data(record.data);
      batch.add(record);
    },
    onPlaced: (placed) => index.placed(placed),
  });
  const flush = async (): Promise<void> => {
    for (let piece = batch.full.shift(); piece !== undefined; piece = batch.full.shift()) await host.send(piece);
  };
  try {
    await readLayer(task, { compiler, host, flush, signal });
    for (const copy of compiler.pendingCopies()) await copyEntry(copy, { compiler, parents: parentLayers(), flush, signal });
    batch.cut();
    await flush();
    await index.finish();
  } catch (error) {
    index.abort();
    throw error;
  }
  return { needsParents: compiler.needsParents, entries: compiler.entryCount, contentBytes: compiler.contentBytes, rootAttributes: compiler.rootAttributes };
}

async function readLayer(
  task: UnpackTask,
  context: { readonly compiler: LayerCompiler; readonly host: UnpackHost; readonly flush: () => Promise<void>; readonly signal: AbortSignal },
): Promise<void> {
  const { compiler, host, flush, signal } = context;
  const algorithm = task.diffId.startsWith('sha512:') ? 'sha512' : 'sha256';
  const hash = createHash(algorithm);
  const counter = { bytes: 0 };
  const reader = new TarReader(compiler);
  let inflatedBytes = 0;
  let reportedBytes = 0;
  for await (const chunk of inflate(task.blobPath, task.compression, { counter, signal })) {
    hash.update(chunk);
    inflatedBytes += chunk.length;
    if (inflatedBytes > limits.layerBytesMax) throw new RuntimeError('resourceExhausted', `inflate layer: more than ${limits.layerBytesMax} bytes`);
    assertRatio(counter.bytes, inflatedBytes);
    for (const _pause of reader.feed(chunk)) {
      assertRatio(counter.bytes, compiler.contentBytes);
      await flush();
    }
    await flush();
    host.progress(counter.bytes - reportedBytes);
    reportedBytes = counter.bytes;
  }
  reader.finish();
  const diffId = digestOf(algorithm, hash.digest('hex'));
  if (diffId !== task.diffId) throw new RuntimeError('dataLoss', `verify layer: its content is ${diffId}, the image says ${task.diffId}`);
}

class Found extends Error {}

/** Reads one entry of a lower layer's archive again and hands it to the compiler as a copy. */
async function copyEntry(
  copy: EntryOrigin & { readonly layer: number; readonly paths: readonly string[] },
  context: { readonly compiler: LayerCompiler; readonly parents: readonly ParentLayer[]; readonly flush: () => Promise<void>; readonly signal: AbortSignal },
): Promise<void> {
  const { compiler, parents, flush, signal } = context;
  const layer = parents[copy.layer];
  if (layer === undefined) throw new RuntimeError('internal', `bug: no parent layer ${copy.layer}`);
  let state: 'before' | 'inside' | 'after' = 'before';
  const reader = new TarReader({
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
    for await (const chunk of inflate(layer.blobPath, layer.compression, { counter: { bytes: 0 }, signal })) {
      for (const _pause of reader.feed(chunk)) await flush();
      await flush();
    }
  } catch (error) {
    if (!(error instanceof Found)) throw wrapError('bring up a file from a lower layer', error);
  }
  if (state === 'before') throw new RuntimeError('dataLoss', 'bring up a file from a lower layer: its archive has changed');
  compiler.copiedLinks();
  await flush();
}
