/**
 * Bytes that have come for one stream and wait for their reader. In: pieces, the end, a failure. Out: the same, in order, once. It bounds
 * nothing itself: it tells how much waits, and whoever fills it stops reading.
 */
import { type RuntimeError, limits } from '#core';

/** What a piece costs besides its bytes. */
const pieceBytes = 256;
/** A piece of this length is worth a step of its own, and a copy costs more. */
const ownStepBytes = 16 * 1024;
/** Shorter pieces are put together up to this. */
const togetherBytesMax = 256 * 1024;

/** Whether so much waits for the streams of one connection that it is to be left unread. */
export function mustWait(inboxes: Iterable<ByteInbox>): boolean {
  let weight = 0;
  for (const inbox of inboxes) {
    if (inbox.weight > limits.streamInputBytesMax) return true;
    weight += inbox.weight;
  }
  return weight > limits.streamConnectionInputBytesMax;
}

/** A queue of bytes with one reader. */
export class ByteInbox implements AsyncIterable<Uint8Array> {
  #pieces: Uint8Array[] = [];
  #bytes = 0;
  #isEnded = false;
  #isDiscarding = false;
  #failure: RuntimeError | undefined;
  #wake: (() => void) | undefined;
  readonly #onTaken: (byteCount: number) => void;

  /** `onTaken` is called with the number of bytes that were read or dropped. */
  constructor(onTaken: (byteCount: number) => void) {
    this.#onTaken = onTaken;
  }

  /** How much memory waits, in bytes: what came in crumbs weighs more than it says. */
  get weight(): number {
    return this.#bytes + this.#pieces.length * pieceBytes;
  }

  /** Bytes that wait. */
  get byteCount(): number {
    return this.#bytes;
  }

  push(piece: Uint8Array): void {
    if (piece.length === 0) return;
    if (this.#isDiscarding || this.#isEnded) {
      this.#onTaken(piece.length);
      return;
    }
    // A short piece that has to wait would hold the whole chunk that it came in, which may be a thousand times as long.
    this.#pieces.push(this.#pieces.length > 0 && piece.length < ownStepBytes ? Buffer.from(piece) : piece);
    this.#bytes += piece.length;
    this.#wake?.();
  }

  /** The reader finishes after what waits. */
  end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }

  /** The reader gets the error at once; what waits is dropped. Nothing after `end`. */
  fail(error: RuntimeError): void {
    if (this.#isEnded) return;
    this.#failure = error;
    this.#drop();
    this.end();
  }

  discard(): void {
    this.#isDiscarding = true;
    this.#drop();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void> {
    for (;;) {
      const piece = this.#take();
      if (piece !== undefined) {
        this.#bytes -= piece.length;
        this.#onTaken(piece.length);
        yield piece;
      } else if (this.#failure !== undefined) {
        throw this.#failure;
      } else if (this.#isEnded) {
        return;
      } else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#wake = resolve;
        await promise;
        this.#wake = undefined;
      }
    }
  }

  /** The next piece; short ones together, so that who is behind catches up in fewer steps. */
  #take(): Uint8Array | undefined {
    const [first] = this.#pieces;
    if (first === undefined || first.length >= ownStepBytes) return this.#pieces.shift();
    let [count, bytes] = [0, 0];
    for (const { length } of this.#pieces) {
      if (length >= ownStepBytes || bytes + length > togetherBytesMax) break;
      count += 1;
      bytes += length;
    }
    return count === 1 ? this.#pieces.shift() : Buffer.concat(this.#pieces.splice(0, count), bytes);
  }

  #drop(): void {
    const dropped = this.#bytes;
    this.#pieces = [];
    this.#bytes = 0;
    if (dropped > 0) this.#onTaken(dropped);
  }
}
