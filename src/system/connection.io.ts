/**
 * A Unix socket that carries frames. In: requests. Out: their answers, and events to a handler. Nothing here blocks: answers
 * are matched by id, writes wait for the peer only where the caller awaits them. It knows no request's meaning.
 */
import { type Socket, createConnection } from 'node:net';
import { RuntimeError, wrapError } from '#core';
import { type ByteWriter } from '#plan';
import { type Frame, FrameDecoder, decodeRequestError, encodeFrame, encodeFrameHeader, frameTypes } from './frames.ts';

/** Longest path that fits into a Unix socket address with its final NUL. Source: unix(7). */
const socketPathBytesMax = 107;
const unsentBytesMax = 1024 * 1024;

interface Waiting {
  readonly what: string;
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: Error) => void;
  /** Sees frames with this id that are not the final answer (ASK). */
  readonly onFrame: ((frame: Frame) => boolean) | undefined;
}

/** Opens a socket; throws unavailable when nobody listens, with the path in the message. */
export async function openSocket(path: string, signal?: AbortSignal): Promise<Socket> {
  if (Buffer.byteLength(path) > socketPathBytesMax) throw new RuntimeError('invalidArgument', `connect ${path}: a socket path has at most ${socketPathBytesMax} bytes`);
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = createConnection(path);
  const abort = (): void => void socket.destroy(new RuntimeError('cancelled', `connect ${path}: cancelled`));
  signal?.addEventListener('abort', abort, { once: true });
  socket.once('connect', resolve).once('error', reject);
  try {
    await promise;
    return socket;
  } catch (error) {
    socket.destroy();
    throw wrapError(`connect ${path}`, error, error instanceof RuntimeError ? undefined : 'unavailable');
  } finally {
    signal?.removeEventListener('abort', abort);
    socket.removeListener('connect', resolve).removeListener('error', reject);
  }
}

/**
 * Requests and answers over one socket. The socket keeps the event loop alive only while an answer is awaited, or while the
 * owner says so with `hold`: a program that has finished its work can end without closing every connection first.
 */
export class FrameConnection {
  readonly #socket: Socket;
  readonly #peer: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended = Promise.withResolvers<void>();
  /** Called at the end. Not reactions of `ended`: those of a long connection's every wait would stay until then. */
  readonly #endWaiters = new Set<() => void>();
  readonly #decoder = new FrameDecoder();
  #nextId = 1;
  #held = 0;
  #failure: Error | undefined;
  #isEnding = false;
  /** Ends of batches of pieces that may still wait, the oldest first. */
  readonly #unsent: Promise<void>[] = [];
  /** Called for events (id 0). */
  onEvent: ((frame: Frame) => void) | undefined;

  /** `peer` names the other side in errors, such as `shim of pod abc`. */
  constructor(socket: Socket, peer: string) {
    this.#socket = socket;
    this.#peer = peer;
    socket.unref();
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#end(wrapError(`talk to the ${peer}`, error, 'unavailable')));
    socket.on('close', () => this.#end(new RuntimeError('unavailable', `talk to the ${peer}: the connection has ended`)));
  }

  /** Resolves when the connection has ended, for whatever reason; never rejects. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  get isOpen(): boolean {
    return this.#failure === undefined;
  }

  #assertOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#isEnding) throw new RuntimeError('unavailable', `talk to the ${this.#peer}: it is ending`);
  }

  /** Keeps the event loop alive until the matching `release`. */
  hold(): void {
    this.#held += 1;
    this.#socket.ref();
  }

  release(): void {
    this.#held -= 1;
    if (this.#held === 0) this.#socket.unref();
  }

  /**
   * Sends a request and waits for its answer: OK or another final frame. ERROR is thrown as `what: …`; FAILED is returned, for
   * only the caller knows the plan. `onFrame` returns true for frames that are not the answer.
   */
  async request(what: string, type: number, body?: (out: ByteWriter) => void, onFrame?: (frame: Frame) => boolean): Promise<Frame> {
    this.#assertOpen();
    const id = this.#nextId;
    this.#nextId = id === 0xffff_ffff ? 1 : id + 1;
    const bytes = encodeFrame(type, id, body);
    const { promise, resolve, reject } = Promise.withResolvers<Frame>();
    this.#waiting.set(id, { what, resolve, reject, onFrame });
    this.hold();
    try {
      this.#socket.write(bytes);
      return await promise;
    } finally {
      this.#waiting.delete(id);
      this.release();
    }
  }

  /**
   * A request after which the peer ends. Until it is answered nothing else is written, but fails as unavailable: a write that meets the
   * peer's end breaks the connection here, and with it goes the answer that has come already.
   */
  async lastRequest(what: string, type: number, body?: (out: ByteWriter) => void): Promise<Frame> {
    const answer = this.request(what, type, body);
    this.#isEnding = true;
    try {
      return await answer;
    } finally {
      this.#isEnding = false;
    }
  }

  /**
   * Sends what `body` sends as one piece. Where the peer refuses the first frame and ends the connection, its answer is thus in our
   * hands, and not lost to the broken pipe of a later write.
   */
  together<T>(body: () => T): T {
    this.#socket.cork();
    try {
      return body();
    } finally {
      this.#socket.uncork();
    }
  }

  /** Sends a frame that has no answer of its own; resolves once the peer has taken enough of what waits. */
  async send(type: number, id: number, body?: (out: ByteWriter) => void): Promise<void> {
    this.#assertOpen();
    if (!this.#socket.write(encodeFrame(type, id, body))) await this.#untilDrained();
  }

  /** The same with a payload that is not copied: its bytes must not change any more. It has at most `limits.frameBytesMax` bytes. */
  async sendUncopied(type: number, id: number, payload: Uint8Array): Promise<void> {
    this.#assertOpen();
    this.together(() => {
      this.#socket.write(encodeFrameHeader(type, id, payload.length));
      this.#socket.write(payload);
    });
    if (this.#socket.writableNeedDrain) await this.#untilDrained();
  }

  async #untilDrained(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.once('drain', resolve);
    try {
      await this.#heldUntil(promise);
    } finally {
      this.#socket.removeListener('drain', resolve);
    }
  }

  /**
   * Sends bytes that are not frames: layer records. All pieces go in one system call where they can, and are not copied. A little may wait in
   * this process, so that the peer has work while more is made.
   */
  async sendPieces(pieces: readonly Uint8Array[]): Promise<void> {
    this.#assertOpen();
    if (pieces.length === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.together(() => {
      for (const [index, piece] of pieces.entries()) this.#socket.write(piece, index === pieces.length - 1 ? () => resolve() : undefined);
    });
    this.#unsent.push(promise);
    while (this.#socket.writableLength > unsentBytesMax) {
      const oldest = this.#unsent.shift();
      if (oldest === undefined) return;
      await this.#heldUntil(oldest);
    }
    if (this.#socket.writableLength === 0) this.#unsent.length = 0;
  }

  /** Waits without letting the process end; throws when the connection ends first. */
  async #heldUntil(promise: Promise<void>): Promise<void> {
    const end = Promise.withResolvers<void>();
    this.#endWaiters.add(end.resolve);
    this.hold();
    try {
      await Promise.race([promise, end.promise]);
    } finally {
      this.#endWaiters.delete(end.resolve);
      this.release();
    }
    this.#assertOpen();
  }

  /** Stops and continues reading, so that a slow consumer slows the peer. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Ends the connection; requests in flight fail with unavailable. */
  close(): void {
    this.#socket.destroy();
    this.#end(new RuntimeError('unavailable', `talk to the ${this.#peer}: closed`));
  }

  #receive(chunk: Buffer): void {
    try {
      for (const frame of this.#decoder.push(chunk)) this.#dispatch(frame);
    } catch (error) {
      this.#end(wrapError(`talk to the ${this.#peer}`, error));
      this.#socket.destroy();
    }
  }

  #dispatch(frame: Frame): void {
    if (frame.id === 0) {
      this.onEvent?.(frame);
      return;
    }
    const waiting = this.#waiting.get(frame.id);
    if (waiting === undefined || waiting.onFrame?.(frame) === true) return;
    if (frame.type === frameTypes.error) waiting.reject(decodeRequestError(waiting.what, frame.payload));
    else waiting.resolve({ ...frame, payload: Buffer.from(frame.payload) });
  }

  #end(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const { reject } of this.#waiting.values()) reject(error);
    for (const wake of this.#endWaiters) wake();
    this.#ended.resolve();
  }
}
