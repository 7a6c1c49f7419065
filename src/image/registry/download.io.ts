/**
 * One blob from one host into a sink. In: what is wanted and how far it is. Out: every missing byte, once, at its offset. Checks lengths and
 * ranges; digests are the reader's to check.
 *
 * A blob is cut into windows, which are fetched in the order of their offsets. The first answer says whether the host knows ranges: one that does
 * not is read from its start, and what is there already is thrown away.
 */
import { RuntimeError, limits } from '#core';
import type { Digest } from '#oci';
import { acceptRange, decodeLength } from './protocol.ts';
import { retrying } from './retry.io.ts';
import { type HostSession, refusalOf } from './session.io.ts';
import type { Answer } from './transport.io.ts';
import type { BlobSink, WantedBlob } from './types.ts';

/** A host may answer less than it is asked for, but not byte by byte. */
const answersPerPieceMax = 64;

/** Bytes from `at` up to and without `end`; `at` moves as they arrive. */
export interface Piece {
  at: number;
  end: number;
}

/** Missing bytes as windows in the order of their offsets; one only for a blob too small to be worth more. */
export function planPieces(blob: WantedBlob, haveBytes: number): Piece[] {
  if (haveBytes >= blob.sizeBytes) return [];
  if (blob.sizeBytes < limits.rangedBlobBytesMin) return [{ at: haveBytes, end: blob.sizeBytes }];
  const pieces: Piece[] = [];
  for (let at = haveBytes; at < blob.sizeBytes; at += limits.rangeWindowBytes) pieces.push({ at, end: Math.min(at + limits.rangeWindowBytes, blob.sizeBytes) });
  return pieces;
}

/** A download under way, over however many hosts it takes. */
export class Download {
  readonly #blob: WantedBlob;
  readonly #sink: BlobSink;
  /** What is missing. Each lane owns the piece that it took until it is done or the lane ends. */
  readonly #missing: Piece[];
  #received = 0;
  #sinkFailure: { readonly error: unknown } | undefined;

  constructor(blob: WantedBlob, sink: BlobSink) {
    if (sink.haveBytes > blob.sizeBytes) throw new RuntimeError('internal', `bug: ${sink.haveBytes} bytes of a blob of ${blob.sizeBytes}`);
    this.#blob = blob;
    this.#sink = sink;
    this.#missing = planPieces(blob, sink.haveBytes);
  }

  /** The sink's own failure: no other host would mend it. */
  get sinkFailure(): { readonly error: unknown } | undefined {
    return this.#sinkFailure;
  }

  /** Bytes that the sink got so far. */
  get receivedBytes(): number {
    return this.#received;
  }

  /** Brings what is missing from one host. After a failure the same can be asked of another; nothing that arrived is asked again. */
  async from(session: HostSession, path: string, options: { readonly triesMax: number; readonly signal: AbortSignal }): Promise<void> {
    const stop = new AbortController();
    const signal = AbortSignal.any([options.signal, stop.signal]);
    let failure: { readonly error: unknown } | undefined;
    let isParallel = false;
    const lanes: Promise<void>[] = [];
    const lane = async (): Promise<void> => {
      try {
        for (let piece = this.#missing.shift(); piece !== undefined; piece = this.#missing.shift()) {
          // A broken lane gives back what it did not get, for the next host.
          using _rest = this.#giveBack(piece);
          const mine = piece;
          const open = (): void => {
            if (isParallel) return;
            isParallel = true;
            for (let more = 1; more < Math.min(limits.parallelRangesMax, this.#missing.length + 1); more += 1) lanes.push(lane());
          };
          let received = 0;
          const onBytes = (count: number): void => void (received += count);
          const fetch = (): Promise<void> => this.#fetch(mine, { session, path, signal, onRanges: open, onBytes });
          for (let answers = 0; mine.at < mine.end; answers += 1) {
            if (answers === answersPerPieceMax) throw new RuntimeError('unavailable', `blob ${this.#blob.digest}: the registry answers in parts that are too small`);
            await retrying(fetch, { triesMax: options.triesMax, signal, progress: () => received });
          }
        }
      } catch (error) {
        failure ??= { error };
        stop.abort();
      }
    };
    lanes.push(lane());
    // Lanes that begin later are in the list before the one that began them ends.
    for (const running of lanes) await running;
    if (failure === undefined) return;
    options.signal.throwIfAborted();
    throw failure.error;
  }

  #giveBack(piece: Piece): Disposable {
    return {
      [Symbol.dispose]: () => {
        if (piece.at >= piece.end) return;
        this.#missing.push(piece);
        this.#missing.sort((one, other) => one.at - other.at);
      },
    };
  }

  async #fetch(
    piece: Piece,
    context: { readonly session: HostSession; readonly path: string; readonly signal: AbortSignal; readonly onRanges: () => void; readonly onBytes: (count: number) => void },
  ): Promise<void> {
    const { session, path, signal } = context;
    const { sizeBytes, digest } = this.#blob;
    const isWhole = piece.at === 0 && piece.end === sizeBytes;
    using answer = await session.request({ target: path, headers: { accept: '*/*', ...(isWhole ? {} : { range: `bytes=${piece.at}-${piece.end - 1}` }) } }, signal);
    if (answer.status === 416) throw new RuntimeError('dataLoss', `verify blob ${digest}: the registry has less than the ${sizeBytes} bytes that were announced`);
    if (answer.status === 206 && !isWhole) {
      const end = acceptRange({ from: piece.at, end: piece.end, total: sizeBytes }, { range: answer.headers['content-range'], length: answer.headers['content-length'] });
      context.onRanges();
      await this.#take(answer, { piece, skip: 0, end, isPart: true, onBytes: context.onBytes });
      return;
    }
    if (answer.status !== 200) throw await refusalOf(answer);
    const length = decodeLength(answer.headers['content-length']);
    if (length !== undefined && length !== sizeBytes) throw new RuntimeError('dataLoss', `verify blob ${digest}: the registry has ${length} bytes, ${sizeBytes} were announced`);
    await this.#takeWhole(answer, piece, context.onBytes);
  }

  /** A host without ranges: read from the start. Whatever no lane has taken comes with this answer, as it would be read again otherwise. */
  async #takeWhole(answer: Answer, piece: Piece, onBytes: (count: number) => void): Promise<void> {
    while (this.#missing[0]?.at === piece.end) piece.end = this.#missing.shift()?.end ?? piece.end;
    await this.#take(answer, { piece, skip: piece.at, end: piece.end, isPart: false, onBytes });
  }

  /** Reads the answer: after `skip` bytes it has the piece's bytes up to `end`. */
  async #take(
    answer: Answer,
    part: { readonly piece: Piece; readonly skip: number; readonly end: number; readonly isPart: boolean; readonly onBytes: (count: number) => void },
  ): Promise<void> {
    const { piece, end, isPart, onBytes } = part;
    const { sizeBytes, digest } = this.#blob;
    let skip = part.skip;
    for await (const whole of answer.chunks()) {
      const chunk = whole.subarray(Math.min(skip, whole.length));
      skip -= whole.length - chunk.length;
      const wanted = chunk.subarray(0, end - piece.at);
      if (wanted.length > 0) {
        await this.#write(piece.at, wanted);
        piece.at += wanted.length;
        this.#received += wanted.length;
        onBytes(wanted.length);
      }
      if (chunk.length === wanted.length) continue;
      if (isPart || end === sizeBytes)
        throw new RuntimeError('dataLoss', `verify blob ${digest}: more than the ${isPart ? 'bytes of the range' : `${sizeBytes} bytes`} that were announced`);
      // The whole blob is coming, and what follows is another lane's.
      return;
    }
    if (piece.at < end)
      throw new RuntimeError('dataLoss', `verify blob ${digest}: ${isPart ? piece.at : skip > 0 ? part.skip - skip : piece.at} bytes, ${sizeBytes} were announced`);
  }

  async #write(offset: number, chunk: Uint8Array): Promise<void> {
    try {
      await this.#sink.write(offset, chunk);
    } catch (error) {
      this.#sinkFailure ??= { error };
      throw error;
    }
  }
}

/** What names a blob in the protocol. */
export function blobPath(repository: string, digest: Digest): string {
  return `${repository}/blobs/${digest}`;
}
