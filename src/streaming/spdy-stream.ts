/**
 * One stream of a SPDY connection. In: data and the end of the peer's side from the connection; bytes to send. Out: the same to its reader,
 * and frames. It knows its windows; what goes over the connection as a whole is the connection's to know.
 */
import { RuntimeError } from '#core';
import { ByteInbox } from './inbox.ts';
import { resetStatus } from './spdy-frames.ts';
import type { StreamChannel } from './types.ts';

/** What a stream needs of its connection. */
export interface StreamCarrier {
  sendData(stream: SpdyStream, bytes: Uint8Array): Promise<void>;
  sendEnd(stream: SpdyStream): void;
  sendReset(stream: SpdyStream, status: number): void;
  /** That many bytes were read or dropped. */
  taken(stream: SpdyStream, byteCount: number): void;
}

/** Window of a stream and of a connection before anything is said of it. Source: SPDY/3.1, section 2.6.8. */
export const initialWindowBytes = 64 * 1024;

/** A stream that the peer has opened. */
export class SpdyStream implements StreamChannel {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly inbox: ByteInbox;
  readonly #carrier: StreamCarrier;
  /** Bytes that the peer is ready to take; without meaning where it has not spoken of windows. */
  sendWindow: number;
  /** Bytes taken that the peer was not told of. */
  untoldBytes = 0;
  #isRemoteEnded: boolean;
  #isLocalEnded = false;
  #failure: RuntimeError | undefined;

  constructor(carrier: StreamCarrier, options: { readonly id: number; readonly headers: ReadonlyMap<string, string>; readonly fin: boolean; readonly sendWindow: number }) {
    this.#carrier = carrier;
    this.id = options.id;
    this.headers = options.headers;
    this.sendWindow = options.sendWindow;
    this.#isRemoteEnded = options.fin;
    this.inbox = new ByteInbox((byteCount) => carrier.taken(this, byteCount));
    if (options.fin) this.inbox.end();
  }

  get incoming(): AsyncIterable<Uint8Array> {
    return this.inbox;
  }

  /** The peer has sent more than the stream's window allows. */
  get isOverrun(): boolean {
    return this.inbox.byteCount + this.untoldBytes > initialWindowBytes;
  }

  get isRemoteEnded(): boolean {
    return this.#isRemoteEnded;
  }

  /** Neither side says anything any more. */
  get isOver(): boolean {
    return this.#failure !== undefined || (this.#isRemoteEnded && this.#isLocalEnded);
  }

  get failure(): RuntimeError | undefined {
    return this.#failure;
  }

  receive(bytes: Uint8Array): void {
    this.inbox.push(bytes);
  }

  receiveEnd(): void {
    this.#isRemoteEnded = true;
    this.inbox.end();
  }

  /** The peer has given the stream up, or the connection has ended. */
  fail(error: RuntimeError): void {
    this.#failure ??= error;
    this.inbox.fail(error);
  }

  discard(): void {
    this.inbox.discard();
  }

  async write(data: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#isLocalEnded) throw new RuntimeError('failedPrecondition', 'write to a stream: it has ended');
    if (data.length > 0) await this.#carrier.sendData(this, data);
  }

  end(): void {
    if (this.#isLocalEnded || this.#failure !== undefined) return;
    this.#isLocalEnded = true;
    this.#carrier.sendEnd(this);
  }

  reset(): void {
    if (this.isOver) return;
    this.fail(new RuntimeError('cancelled', 'use a stream: it was given up'));
    this.#carrier.sendReset(this, resetStatus.cancel);
  }
}
