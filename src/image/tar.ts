/**
 * A streaming tar reader. In: bytes in pieces of any size. Out: entries and their content, in order, through a handler.
 * Pure and synchronous; memory is bounded by `limits.tarPaxBytesMax`. It judges no names: that is the layer compiler's job.
 */
import { limits } from '#core';
import {
  type PaxRecords,
  type SparseRun,
  type TarEntry,
  type TarHeader,
  decodeGnuSparse,
  decodePaxRecords,
  decodeSparseRuns,
  decodeTarHeader,
  decodeTarName,
  decodeTarNumber,
  tarBlockBytes,
  tarError,
  verifyTarChecksum,
} from './tar-header.ts';

/** Receives what the archive holds. For every file: one `entry`, then `data` pieces that add up to exactly its size. */
export interface TarHandler {
  /** `ordinal` counts the entries of this archive from 0. */
  entry(entry: TarEntry, ordinal: number): void;
  data(chunk: Uint8Array): void;
}

type State =
  | { readonly kind: 'header' }
  | { readonly kind: 'extension'; readonly flag: string; readonly sizeBytes: number }
  | { readonly kind: 'gnuSparse'; readonly header: TarHeader; readonly numbers: number[] }
  | { readonly kind: 'sparseMap'; readonly header: TarHeader; readonly lines: string; readonly newlines: number; readonly usedBytes: number }
  | { readonly kind: 'content' }
  | { readonly kind: 'skip' }
  | { readonly kind: 'ended' };

const zeros = new Uint8Array(256 * 1024);
const emptyPax: PaxRecords = new Map();

/** Reads one archive; feed it the pieces in order, then `finish`. */
export class TarReader {
  readonly #handler: TarHandler;
  #state: State = { kind: 'header' };
  /** Bytes of an incomplete block or extension. */
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Stored bytes and padding of the current entry still to come. */
  #storedLeft = 0;
  #paddingLeft = 0;
  #runs: readonly SparseRun[] = [];
  #run = 0;
  #written = 0;
  #size = 0;
  /** Zeros are due up to here. */
  #holeEnd = 0;
  #pax: PaxRecords = emptyPax;
  #gnuName: string | undefined;
  #gnuLinkName: string | undefined;
  #ordinal = 0;
  #zeroBlocks = 0;

  constructor(handler: TarHandler) {
    this.#handler = handler;
  }

  /** Takes the next piece. Throws invalidArgument on a malformed archive; the reader must not be used afterwards. */
  write(chunk: Uint8Array): void {
    const pauses = this.feed(chunk);
    while (pauses.next().done !== true);
  }

  /** Like `write`, but pauses after each piece of a hole, because a small archive can hold a file of many gigabytes of zeros. */
  *feed(chunk: Uint8Array): Generator<void, void, void> {
    let rest = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    while (rest.length > 0 || this.#written < this.#holeEnd) {
      if (this.#written < this.#holeEnd) {
        const count = Math.min(zeros.length, this.#holeEnd - this.#written);
        this.#handler.data(zeros.subarray(0, count));
        this.#written += count;
        yield;
      } else {
        rest = this.#step(rest);
      }
    }
  }

  /** The archive has ended. Throws where it ended in the middle of something. */
  finish(): void {
    const isClean =
      this.#state.kind === 'ended' ||
      (this.#state.kind === 'header' && this.#pendingBytes === 0 && this.#pax.size === 0 && this.#gnuName === undefined && this.#gnuLinkName === undefined);
    if (!isClean) throw tarError('the archive ends in the middle of an entry');
  }

  /** Consumes something of the piece and returns the rest. */
  #step(rest: Buffer): Buffer {
    switch (this.#state.kind) {
      case 'header':
        return this.#collect(rest, tarBlockBytes, (block) => this.#header(block));
      case 'extension': {
        const { sizeBytes, flag } = this.#state;
        return this.#collect(rest, padded(sizeBytes), (bytes) => this.#extension(flag, bytes.subarray(0, sizeBytes)));
      }
      case 'gnuSparse':
        return this.#collect(rest, tarBlockBytes, (block) => this.#gnuSparse(block));
      case 'sparseMap':
        return this.#collect(rest, tarBlockBytes, (block) => this.#sparseMap(block));
      case 'content':
        return this.#content(rest);
      case 'skip': {
        const count = Math.min(rest.length, this.#paddingLeft);
        this.#paddingLeft -= count;
        if (this.#paddingLeft === 0) this.#state = { kind: 'header' };
        return rest.subarray(count);
      }
      case 'ended':
        return rest.subarray(rest.length);
    }
  }

  /** Gathers exactly `wanted` bytes, then hands them on; they are a view that `take` must not keep. */
  #collect(rest: Buffer, wanted: number, take: (bytes: Buffer) => void): Buffer {
    const missing = wanted - this.#pendingBytes;
    const piece = rest.subarray(0, missing);
    if (piece.length < missing) {
      this.#pending.push(Buffer.from(piece));
      this.#pendingBytes += piece.length;
      return rest.subarray(piece.length);
    }
    const whole = this.#pendingBytes === 0 ? piece : Buffer.concat([...this.#pending, piece]);
    this.#pending = [];
    this.#pendingBytes = 0;
    take(whole);
    return rest.subarray(missing);
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      this.#zeroBlocks += 1;
      if (this.#zeroBlocks === 2) this.#state = { kind: 'ended' };
      return;
    }
    if (this.#zeroBlocks > 0) throw tarError('a single block of zeros inside the archive');
    verifyTarChecksum(block);
    const flag = String.fromCharCode(block[156] ?? 0);
    if ('xgLK'.includes(flag)) {
      const sizeBytes = decodeTarNumber(block.subarray(124, 136), 'size');
      if (sizeBytes < 0 || sizeBytes > limits.tarPaxBytesMax) throw tarError(`extended header of ${sizeBytes} bytes, at most ${limits.tarPaxBytesMax}`);
      this.#state = { kind: 'extension', flag, sizeBytes };
      if (sizeBytes === 0) this.#extension(flag, Buffer.alloc(0));
      return;
    }
    const header = decodeTarHeader(block, { pax: this.#pax, gnuName: this.#gnuName, gnuLinkName: this.#gnuLinkName });
    this.#pax = emptyPax;
    this.#gnuName = undefined;
    this.#gnuLinkName = undefined;
    this.#begin(header);
  }

  #extension(flag: string, bytes: Buffer): void {
    // A copy: the view belongs to the caller's piece. Global headers (g) are passed over, as container tools do.
    if (flag === 'x') this.#pax = decodePaxRecords(Buffer.from(bytes));
    const end = bytes.indexOf(0);
    if (flag === 'L') this.#gnuName = decodeTarName(end < 0 ? bytes : bytes.subarray(0, end), 'name');
    if (flag === 'K') this.#gnuLinkName = decodeTarName(end < 0 ? bytes : bytes.subarray(0, end), 'link target');
    this.#state = { kind: 'header' };
  }

  #begin(header: TarHeader): void {
    const { entry, storedBytes, sparse } = header;
    this.#storedLeft = storedBytes;
    this.#paddingLeft = padded(storedBytes) - storedBytes;
    this.#size = entry.sizeBytes;
    if (sparse.kind === 'inData') {
      this.#state = { kind: 'sparseMap', header, lines: '', newlines: 0, usedBytes: 0 };
    } else if (sparse.kind === 'runs' && sparse.isExtended) {
      this.#state = { kind: 'gnuSparse', header, numbers: sparse.runs.flatMap(({ offset, length }) => [offset, length]) };
    } else {
      this.#start(entry, sparse.kind === 'runs' ? sparse.runs : [{ offset: 0, length: entry.sizeBytes }]);
    }
  }

  #gnuSparse(block: Buffer): void {
    if (this.#state.kind !== 'gnuSparse') return;
    const { header, numbers } = this.#state;
    numbers.push(...decodeGnuSparse(block, 0, 21));
    if (numbers.length * 12 > limits.tarPaxBytesMax) throw tarError(`sparse map of more than ${limits.tarPaxBytesMax} bytes`);
    if (block[504] === 0) this.#start(header.entry, decodeSparseRuns(numbers, header.entry.sizeBytes));
  }

  /** Version 1.0 of the sparse format: the map is text at the beginning of the data, padded to a block. */
  #sparseMap(block: Buffer): void {
    if (this.#state.kind !== 'sparseMap') return;
    const { header } = this.#state;
    const lines = this.#state.lines + block.toString('latin1');
    const usedBytes = this.#state.usedBytes + tarBlockBytes;
    if (usedBytes > this.#storedLeft + this.#paddingLeft || usedBytes > limits.tarPaxBytesMax) throw tarError('sparse map is longer than its file');
    const newlines = this.#state.newlines + block.reduce((sum, byte) => sum + (byte === 0x0a ? 1 : 0), 0);
    const countText = lines.slice(0, Math.max(0, lines.slice(0, 16).indexOf('\n')));
    if (!/^\d{1,7}$/.test(countText)) throw tarError('sparse map without its count');
    const count = Number(countText);
    if (newlines < 1 + count * 2) {
      this.#state = { kind: 'sparseMap', header, lines, newlines, usedBytes };
      return;
    }
    const parts = lines.split('\n');
    const numbers = parts.slice(1, 1 + count * 2).map((text) => {
      if (!/^\d{1,15}$/.test(text)) throw tarError('sparse map has something that is no number');
      return Number(text);
    });
    if (usedBytes > this.#storedLeft) throw tarError('sparse map is longer than its file');
    this.#storedLeft -= usedBytes;
    this.#start(header.entry, decodeSparseRuns(numbers, header.entry.sizeBytes));
  }

  #start(entry: TarEntry, runs: readonly SparseRun[]): void {
    const stored = runs.reduce((sum, run) => sum + run.length, 0);
    if (stored !== this.#storedLeft) throw tarError(`entry ${JSON.stringify(entry.path.slice(0, 200))} stores ${this.#storedLeft} bytes but its map names ${stored}`);
    this.#runs = runs;
    this.#run = 0;
    this.#written = 0;
    this.#holeEnd = 0;
    this.#handler.entry(entry, this.#ordinal);
    this.#ordinal += 1;
    this.#state = { kind: 'content' };
    if (this.#storedLeft === 0) this.#endContent();
  }

  #content(rest: Buffer): Buffer {
    let run = this.#runs[this.#run];
    while (run !== undefined && this.#written >= run.offset + run.length) {
      this.#run += 1;
      run = this.#runs[this.#run];
    }
    if (run === undefined) throw tarError('data beyond the sparse map');
    if (this.#written < run.offset) {
      this.#holeEnd = run.offset;
      return rest;
    }
    const piece = rest.subarray(0, run.offset + run.length - this.#written);
    this.#handler.data(piece);
    this.#written += piece.length;
    this.#storedLeft -= piece.length;
    if (this.#storedLeft === 0) this.#endContent();
    return rest.subarray(piece.length);
  }

  #endContent(): void {
    this.#holeEnd = this.#size;
    this.#state = this.#paddingLeft === 0 ? { kind: 'header' } : { kind: 'skip' };
  }
}

function padded(bytes: number): number {
  return Math.ceil(bytes / tarBlockBytes) * tarBlockBytes;
}

function isZero(block: Buffer): boolean {
  return block[0] === 0 && block.every((byte) => byte === 0);
}
