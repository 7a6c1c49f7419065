/** Writing to a byte stream with its backpressure. In: pieces. Out: the same pieces on the stream, in order. */
import type { Duplex } from 'node:stream';
import { RuntimeError } from '#core';

/** The writing side of a connection. Create it before anything can end the stream. */
export class Outbox {
  readonly #duplex: Duplex;
  #drained: PromiseWithResolvers<void> | undefined;

  constructor(duplex: Duplex) {
    this.#duplex = duplex;
    const wake = (): void => {
      this.#drained?.resolve();
      this.#drained = undefined;
    };
    duplex.on('drain', wake);
    duplex.once('close', wake);
  }

  /** The peer does not keep up. */
  get isFull(): boolean {
    return this.#duplex.writableNeedDrain;
  }

  /** Hands the pieces on without waiting; false where the connection has ended. */
  post(...pieces: readonly Uint8Array[]): boolean {
    if (!this.#duplex.writable) return false;
    this.#duplex.cork();
    for (const piece of pieces) this.#duplex.write(piece);
    this.#duplex.uncork();
    return true;
  }

  /** The same, and resolves when more may be written. Rejects with unavailable when the connection has ended. */
  async write(...pieces: readonly Uint8Array[]): Promise<void> {
    const isTaken = this.post(...pieces);
    if (isTaken && this.#duplex.writableNeedDrain) {
      this.#drained ??= Promise.withResolvers();
      await this.#drained.promise;
    }
    if (!isTaken || this.#duplex.destroyed) throw new RuntimeError('unavailable', 'write to the stream: the client has gone');
  }
}
