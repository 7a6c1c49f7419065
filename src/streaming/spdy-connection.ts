/**
 * The server's side of a SPDY/3.1 connection. In: a byte stream after its upgrade. Out: the streams that the client opens. It knows nothing of
 * what they carry. Source: SPDY Protocol Draft 3.1, and how moby/spdystream, the one client in use, reads it.
 *
 * Backpressure: that client neither keeps to windows nor tells of any. So the server enforces the windows of a peer only once that peer has
 * spoken of them, tells of its own until they are overrun, and otherwise leaves the connection unread while one stream's input waits.
 */
import type { Duplex } from 'node:stream';
import { type Clock, RuntimeError, errorMessage, limits } from '#core';
import { mustWait } from './inbox.ts';
import { Outbox } from './outbox.ts';
import { type SpdyFrame, SpdyDecoder, encodeDataHeader, encodeFrame, goAwayStatus, initialWindowSetting, resetStatus } from './spdy-frames.ts';
import { HeaderReader, HeaderWriter } from './spdy-headers.ts';
import { type SpdyStream as Stream, SpdyStream, type StreamCarrier, initialWindowBytes } from './spdy-stream.ts';
import type { StreamSession } from './types.ts';

/** Bytes per data frame: long enough to be cheap, short enough that streams take turns. */
const dataFrameBytes = 32 * 1024;
/** Taken bytes are told in portions of this size. */
const windowUpdateBytes = initialWindowBytes / 2;
const windowMax = 0x7fff_ffff;
/** A connection that is left unread shows the death of its client only when something is written. */
const probeIntervalMs = 5_000;
/** A ping with an odd id is an answer, which a client that never asked must pass over (section 2.6.5): it costs the client nothing. */
const probe = encodeFrame({ kind: 'ping', id: windowMax });

/** What a connection is made of. */
export interface SpdyConnectionOptions {
  readonly duplex: Duplex;
  readonly clock: Clock;
  /** Takes a new stream, already answered. What it throws makes the stream be reset. */
  readonly onStream: (stream: Stream) => void;
  /** Something came or went. */
  readonly onActivity: () => void;
}

/** One connection. Call `run` once. */
export class SpdyConnection implements StreamSession, StreamCarrier {
  readonly #options: SpdyConnectionOptions;
  readonly #outbox: Outbox;
  readonly #streams = new Map<number, Stream>();
  readonly #headerReader = new HeaderReader();
  readonly #headerWriter = new HeaderWriter();
  readonly #controller = new AbortController();
  /** Aborted when the byte stream is gone, which is after the streams' end where something is still to be delivered. */
  readonly #closed = new AbortController();
  #lastId = 0;
  #isFinishing = false;
  #wakeReader: (() => void) | undefined;
  /** The peer has spoken of windows. */
  #hasWindows = false;
  #initialWindow = initialWindowBytes;
  #sendWindow = initialWindowBytes;
  #untoldBytes = 0;
  /** The peer has sent more than it was allowed to, so it does not wait to be told of windows. */
  #isOverrun = false;
  /** Sent without waiting since the peer last kept up. */
  #answerBytes = 0;
  readonly #windowWaiters = new Set<() => void>();

  constructor(options: SpdyConnectionOptions) {
    this.#options = options;
    this.#outbox = new Outbox(options.duplex);
    options.duplex.once('close', () => {
      this.#closed.abort();
      this.#end();
    });
    // Errors end the stream, which `close` tells; without a listener they would end the process.
    options.duplex.on('error', () => undefined);
    void this.#sendProbes();
  }

  get ended(): AbortSignal {
    return this.#controller.signal;
  }

  /** Reads until the connection ends. Resolves with why it was cut, where it was. */
  async run(): Promise<RuntimeError | undefined> {
    const { duplex, onActivity } = this.#options;
    const decoder = new SpdyDecoder();
    try {
      for await (const piece of duplex.iterator({ destroyOnReturn: false })) {
        onActivity();
        // SAFETY: a stream without an encoding yields Buffers; Readable's iterator is typed as any.
        for (const frame of decoder.push(piece as Buffer)) this.#receive(frame);
        await this.#untilRoom();
      }
      // Clients never end one side alone.
      if (!this.#isFinishing) this.abort();
      return undefined;
    } catch (error) {
      if (!(error instanceof RuntimeError)) {
        this.abort();
        return undefined;
      }
      this.#outbox.post(encodeFrame({ kind: 'goAway', lastId: this.#lastId, status: goAwayStatus.protocolError }));
      this.#end();
      // Nobody reads any more, but what comes must go.
      duplex.resume();
      await this.#linger();
      return error;
    }
  }

  async finish(): Promise<void> {
    this.#isFinishing = true;
    for (const stream of this.#streams.values()) stream.discard();
    this.#wakeReader?.();
    this.#outbox.post(encodeFrame({ kind: 'goAway', lastId: this.#lastId, status: goAwayStatus.ok }));
    await this.#linger();
  }

  /** Closing with input unread would reset the connection, and the client might lose what was sent last. */
  async #linger(): Promise<void> {
    const { duplex, clock } = this.#options;
    duplex.end();
    await clock.sleep(limits.streamLingerMs, this.#closed.signal).catch(() => undefined);
    duplex.destroy();
  }

  abort(): void {
    this.#options.duplex.destroy();
    this.#end();
  }

  // --- for streams

  async sendData(stream: Stream, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const room = this.#hasWindows ? Math.min(stream.sendWindow, this.#sendWindow) : dataFrameBytes;
      if (room <= 0) {
        await this.#untilWindow();
        if (stream.failure !== undefined) throw stream.failure;
        continue;
      }
      const piece = bytes.subarray(at, at + Math.min(room, dataFrameBytes));
      at += piece.length;
      stream.sendWindow -= piece.length;
      this.#sendWindow -= piece.length;
      this.#options.onActivity();
      await this.#outbox.write(encodeDataHeader(stream.id, { byteCount: piece.length, fin: false }), piece);
      if (stream.failure !== undefined) throw stream.failure;
    }
  }

  sendEnd(stream: Stream): void {
    this.#answer(encodeDataHeader(stream.id, { byteCount: 0, fin: true }));
    this.#forgetWhenOver(stream);
  }

  sendReset(stream: Stream, status: number): void {
    this.#answer(encodeFrame({ kind: 'rstStream', id: stream.id, status }));
    this.#streams.delete(stream.id);
    this.#wakeReader?.();
  }

  taken(stream: Stream, byteCount: number): void {
    stream.untoldBytes += byteCount;
    this.#untoldBytes += byteCount;
    if (!this.#isOverrun) this.#tellWindows(stream);
    this.#wakeReader?.();
  }

  #tellWindows(stream: Stream): void {
    const updates: Buffer[] = [];
    if (stream.untoldBytes >= windowUpdateBytes) {
      if (!stream.isRemoteEnded && !stream.isOver) updates.push(encodeFrame({ kind: 'windowUpdate', id: stream.id, delta: stream.untoldBytes }));
      stream.untoldBytes = 0;
    }
    if (this.#untoldBytes >= windowUpdateBytes) {
      updates.push(encodeFrame({ kind: 'windowUpdate', id: 0, delta: this.#untoldBytes }));
      this.#untoldBytes = 0;
    }
    if (updates.length > 0) this.#answer(Buffer.concat(updates));
  }

  // --- frames

  #receive(frame: SpdyFrame): void {
    switch (frame.kind) {
      case 'data':
        this.#receiveData(frame.id, frame.bytes, frame.fin);
        return;
      case 'synStream':
        this.#receiveStream(frame);
        return;
      case 'synReply':
        throw new RuntimeError('invalidArgument', 'decode SPDY frame: the server has opened no stream that could be answered');
      case 'headers':
        // Of no use to any protocol here, but part of the compression.
        this.#headerReader.read(frame.headers);
        if (frame.fin) this.#receiveData(frame.id, Buffer.alloc(0), true);
        return;
      case 'rstStream': {
        const stream = this.#streams.get(frame.id);
        this.#streams.delete(frame.id);
        stream?.fail(new RuntimeError('cancelled', 'use a stream: the client gave it up'));
        this.#wakeWindows();
        return;
      }
      case 'ping':
        if (frame.id % 2 === 1) this.#answer(encodeFrame(frame));
        return;
      case 'settings': {
        const window = frame.values.get(initialWindowSetting);
        if (window !== undefined) this.#setInitialWindow(window);
        return;
      }
      case 'windowUpdate':
        this.#addWindow(frame.id, frame.delta);
        return;
      case 'goAway':
        // The client opens no further stream; those that it has go on.
        return;
    }
  }

  #receiveData(id: number, bytes: Buffer, fin: boolean): void {
    const stream = this.#streams.get(id);
    if (stream === undefined || stream.isRemoteEnded) {
      // Of a stream that has just been given up, or of none: it counts against the connection's window alone.
      this.#untoldBytes += bytes.length;
      return;
    }
    if (this.#isFinishing) stream.discard();
    stream.receive(bytes);
    this.#isOverrun ||= stream.isOverrun;
    if (!fin) return;
    stream.receiveEnd();
    this.#forgetWhenOver(stream);
  }

  #receiveStream(frame: Extract<SpdyFrame, { readonly kind: 'synStream' }>): void {
    const { id, fin } = frame;
    // Always, because the next block depends on it.
    const headers = this.#headerReader.read(frame.headers);
    if (id % 2 === 0 || id <= this.#lastId) throw new RuntimeError('invalidArgument', 'decode SPDY frame: the ids of a client are odd and grow');
    this.#lastId = id;
    const stream = new SpdyStream(this, { id, headers, fin, sendWindow: this.#initialWindow });
    if (this.#isFinishing || frame.unidirectional || this.#streams.size >= limits.spdyStreamsMax) {
      stream.discard();
      this.sendReset(stream, resetStatus.refusedStream);
      return;
    }
    this.#streams.set(id, stream);
    this.#answer(encodeFrame({ kind: 'synReply', id, headers: this.#headerWriter.write(new Map()), fin: false }));
    try {
      this.#options.onStream(stream);
    } catch {
      stream.reset();
    }
  }

  // --- windows

  #setInitialWindow(bytes: number): void {
    if (bytes > windowMax) throw new RuntimeError('invalidArgument', 'decode SPDY frame: a window of more than 2 GiB');
    const difference = bytes - this.#initialWindow;
    this.#initialWindow = bytes;
    this.#hasWindows = true;
    for (const stream of this.#streams.values()) stream.sendWindow += difference;
    this.#wakeWindows();
  }

  #addWindow(id: number, delta: number): void {
    this.#hasWindows = true;
    if (id === 0) {
      if (this.#sendWindow + delta > windowMax) throw new RuntimeError('invalidArgument', 'decode SPDY frame: a window of more than 2 GiB');
      this.#sendWindow += delta;
    } else {
      const stream = this.#streams.get(id);
      if (stream !== undefined && stream.sendWindow + delta > windowMax) {
        stream.fail(new RuntimeError('invalidArgument', 'use a stream: its window exceeds 2 GiB'));
        this.sendReset(stream, resetStatus.flowControlError);
      } else if (stream !== undefined) {
        stream.sendWindow += delta;
      }
    }
    this.#wakeWindows();
  }

  async #untilWindow(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#windowWaiters.add(resolve);
    await promise;
  }

  #wakeWindows(): void {
    for (const wake of this.#windowWaiters) wake();
    this.#windowWaiters.clear();
  }

  // --- the connection

  /** What nobody waits for. A client that makes answers necessary and does not read them is cut off. */
  #answer(bytes: Buffer): void {
    this.#answerBytes = this.#outbox.isFull ? this.#answerBytes + bytes.length : 0;
    if (this.#answerBytes > limits.spdyAnswerBytesMax) this.abort();
    else this.#outbox.post(bytes);
  }

  #forgetWhenOver(stream: Stream): void {
    if (stream.isOver) this.#streams.delete(stream.id);
  }

  /** Waits while too much input waits. */
  async #untilRoom(): Promise<void> {
    while (this.#mustWait()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wakeReader = resolve;
      await promise;
    }
    this.#wakeReader = undefined;
  }

  #mustWait(): boolean {
    return !this.ended.aborted && !this.#isFinishing && mustWait(this.#streams.values().map(({ inbox }) => inbox));
  }

  /** One timer for the whole connection: input may stop and go on thousands of times between two probes. */
  async #sendProbes(): Promise<void> {
    const { clock } = this.#options;
    while (!this.#closed.signal.aborted) {
      await clock.sleep(probeIntervalMs, this.#closed.signal).catch(() => undefined);
      if (this.#wakeReader !== undefined) this.#outbox.post(probe);
    }
  }

  #end(): void {
    if (this.ended.aborted) return;
    const error = new RuntimeError('unavailable', 'use a stream: the client has gone');
    for (const stream of this.#streams.values()) stream.fail(error);
    this.#streams.clear();
    this.#controller.abort(new RuntimeError('cancelled', `serve a stream: ${errorMessage(error)}`));
    this.#wakeReader?.();
    this.#wakeWindows();
  }
}
