/**
 * A file that one thread writes and another reads at the same time. In: bytes at offsets, in any order. Out: the same bytes in order, as soon
 * as everything before them is there. The two share one number, how far the file is whole from its beginning, and nothing else.
 *
 * Reading and writing block their thread for the moment that the page cache needs; both ends live in worker threads.
 */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { RuntimeError, wrapError } from '#core';
import { type Digest, digestOf, digestParts } from '#oci';
import type { BlobSink } from './registry/types.ts';
import type { BlobFile, BlobTarget } from './worker-messages.ts';

const pieceBytes = 256 * 1024;
/** How long a reader sleeps at most before it looks for a cancellation that came without a signal. */
const lookAgainMs = 1_000;

/** A new shared number. */
export function newGrowth(haveBytes: number): SharedArrayBuffer {
  const growth = new SharedArrayBuffer(8);
  new BigInt64Array(growth)[0] = BigInt(haveBytes);
  return growth;
}

/** How far the file is whole from its beginning. */
export function grownBytes(growth: SharedArrayBuffer): number {
  return Number(Atomics.load(new BigInt64Array(growth), 0));
}

/** The writing end: a sink for a download, for a file that exists. Closed by disposal. */
export class GrowingFile implements BlobSink, Disposable {
  readonly haveBytes: number;
  readonly #target: BlobTarget;
  readonly #cell: BigInt64Array<SharedArrayBuffer>;
  readonly #onBytes: (count: number) => void;
  readonly #fd: number;
  /** Written pieces beyond the whole beginning: start to end, without overlap. */
  readonly #islands = new Map<number, number>();
  #wholeBytes: number;

  constructor(target: BlobTarget, onBytes: (count: number) => void) {
    this.#target = target;
    this.#onBytes = onBytes;
    this.haveBytes = target.haveBytes;
    this.#wholeBytes = target.haveBytes;
    this.#cell = new BigInt64Array(target.growth);
    try {
      this.#fd = openSync(target.path, constants.O_WRONLY | constants.O_NOFOLLOW);
    } catch (cause) {
      throw wrapError(`store blob ${target.digest}`, cause);
    }
  }

  /** Writes at the offset. Throws dataLoss beyond the announced size; the errno's code when the disk refuses. */
  async write(offset: number, chunk: Uint8Array): Promise<void> {
    const { digest, sizeBytes } = this.#target;
    if (offset + chunk.length > sizeBytes) throw new RuntimeError('dataLoss', `verify blob ${digest}: more than the ${sizeBytes} bytes that were announced`);
    try {
      for (let at = 0; at < chunk.length;) at += writeSync(this.#fd, chunk, at, chunk.length - at, offset + at);
    } catch (cause) {
      throw wrapError(`store blob ${digest}`, cause);
    }
    this.#grow(offset, offset + chunk.length);
    this.#onBytes(chunk.length);
  }

  #grow(start: number, end: number): void {
    if (start > this.#wholeBytes) {
      this.#islands.set(start, end);
      // Neighbours become one, so that there are never more of them than ranges in work.
      for (const [other, otherEnd] of this.#islands) {
        const next = otherEnd === other ? undefined : this.#islands.get(otherEnd);
        if (next === undefined) continue;
        this.#islands.delete(otherEnd);
        this.#islands.set(other, next);
      }
      return;
    }
    this.#wholeBytes = Math.max(this.#wholeBytes, end);
    for (let next = this.#islands.get(this.#wholeBytes); next !== undefined; next = this.#islands.get(this.#wholeBytes)) {
      this.#islands.delete(this.#wholeBytes);
      this.#wholeBytes = next;
    }
    Atomics.store(this.#cell, 0, BigInt(this.#wholeBytes));
    Atomics.notify(this.#cell, 0);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** What a reader tells while it has nothing to read. */
export interface ReaderOptions {
  readonly signal: AbortSignal;
  readonly onWaiting: (isWaiting: boolean) => void;
}

/** The reading end, in order, hashing what nobody has checked yet. Closed by disposal. */
export class BlobReader implements Disposable {
  readonly #blob: BlobFile;
  readonly #options: ReaderOptions;
  readonly #cell: BigInt64Array<SharedArrayBuffer> | undefined;
  readonly #hash: Hash | undefined;
  readonly #fd: number;
  /** Used in turns. */
  #buffer = Buffer.allocUnsafeSlow(pieceBytes);
  #otherBuffer = Buffer.allocUnsafeSlow(pieceBytes);
  #bytesRead = 0;
  /** Of the whole blob, once somebody has asked; a hash answers only once. */
  #found: Digest | undefined;

  constructor(blob: BlobFile, options: ReaderOptions) {
    this.#blob = blob;
    this.#options = options;
    this.#cell = blob.growth === undefined ? undefined : new BigInt64Array(blob.growth);
    this.#hash = blob.growth === undefined ? undefined : createHash(digestParts(blob.digest).algorithm);
    try {
      this.#fd = openSync(blob.path, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch (cause) {
      throw wrapError(`read blob ${blob.digest}`, cause, 'notFound');
    }
  }

  /** Bytes given out so far. */
  get bytesRead(): number {
    return this.#bytesRead;
  }

  /**
   * The next piece, as large as the buffer or what is left of the blob; undefined at its end. The piece is overwritten by the call after the next.
   * Throws dataLoss where a file of the content store is shorter than its blob.
   */
  async next(): Promise<Buffer | undefined> {
    const { sizeBytes, digest, path } = this.#blob;
    const left = sizeBytes - this.#bytesRead;
    if (left <= 0) return undefined;
    const wanted = Math.min(this.#buffer.length, left);
    await this.#wait(this.#bytesRead + wanted);
    [this.#buffer, this.#otherBuffer] = [this.#otherBuffer, this.#buffer];
    let count = 0;
    while (count < wanted) {
      const got = readSync(this.#fd, this.#buffer, count, wanted - count, this.#bytesRead + count);
      if (got === 0) throw new RuntimeError('dataLoss', `read blob ${digest}: ${path} has ${this.#bytesRead + count} of its ${sizeBytes} bytes`);
      count += got;
    }
    const piece = this.#buffer.subarray(0, count);
    this.#bytesRead += count;
    this.#hash?.update(piece);
    return piece;
  }

  /** Sleeps until so many bytes are there. */
  async #wait(bytes: number): Promise<void> {
    const { signal, onWaiting } = this.#options;
    signal.throwIfAborted();
    if (this.#cell === undefined) return;
    let seen = Atomics.load(this.#cell, 0);
    if (Number(seen) >= bytes) return;
    const aborted = Promise.withResolvers<void>();
    const wake = (): void => aborted.resolve();
    signal.addEventListener('abort', wake, { once: true });
    onWaiting(true);
    try {
      while (Number(seen) < bytes) {
        const change = Atomics.waitAsync(this.#cell, 0, seen, lookAgainMs);
        if (change.async) await Promise.race([change.value, aborted.promise]);
        signal.throwIfAborted();
        seen = Atomics.load(this.#cell, 0);
      }
    } finally {
      onWaiting(false);
      signal.removeEventListener('abort', wake);
    }
  }

  /** Reads what is left and throws dataLoss unless the blob has its digest. A blob of the content store was checked when it came. */
  async check(): Promise<void> {
    if (this.#hash === undefined) return;
    while ((await this.next()) !== undefined);
    const { algorithm } = digestParts(this.#blob.digest);
    this.#found ??= digestOf(algorithm, this.#hash.digest('hex'));
    if (this.#found !== this.#blob.digest) throw new RuntimeError('dataLoss', `verify blob ${this.#blob.digest}: the content is ${this.#found}`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
