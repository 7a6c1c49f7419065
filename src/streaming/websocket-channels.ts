/**
 * Streams as channels of one WebSocket: the first byte of a message is the channel's number. In: an open WebSocket and which channels there
 * are. Out: one stream per channel. It knows nothing of what they carry. Source: the channel.k8s.io subprotocols of Kubernetes.
 *
 * In the base64 forms a message is text: the number as a digit, then base64. Version 5 adds messages of the byte 255 and a number, by which
 * a client ends one channel.
 */
import type { WebSocket } from 'ws';
import { type Clock, RuntimeError, limits } from '#core';
import { ByteInbox, mustWait } from './inbox.ts';
import type { StreamChannel, StreamSession } from './types.ts';

/** How messages are written. */
export interface ChannelEncoding {
  readonly base64: boolean;
  /** The client may end a channel. */
  readonly closeSignal: boolean;
}

/** What a set of channels is made of. */
export interface WebSocketChannelsOptions {
  readonly socket: WebSocket;
  readonly clock: Clock;
  readonly count: number;
  readonly encoding: ChannelEncoding;
  readonly onActivity: () => void;
}

const closeSignal = 255;
const digitZero = 48;
/** Bytes in the socket's own queue before a writer waits. */
const waitingBytesMax = 256 * 1024;
/** Clients give up a connection without pongs; one that is left unread sends them unasked. They also show that the client is dead. */
const pongIntervalMs = 5_000;
const normalClosure = 1000;
const protocolError = 1002;

/** The channels of one WebSocket. */
export class WebSocketChannels implements StreamSession {
  readonly #options: WebSocketChannelsOptions;
  readonly #controller = new AbortController();
  readonly #closed = new AbortController();
  readonly #channels: readonly Channel[];
  #isPaused = false;
  #isFinishing = false;

  constructor(options: WebSocketChannelsOptions) {
    this.#options = options;
    const { socket, count } = options;
    this.#channels = Array.from({ length: count }, (_, number) => new Channel(this, number));
    socket.on('message', (data, isBinary) => this.#receive(asBuffer(data), isBinary));
    // Errors end the socket, which `close` tells; without a listener they would end the process.
    socket.on('error', () => undefined);
    void this.#sendPongs();
    socket.once('close', () => {
      this.#closed.abort();
      this.#end();
    });
  }

  get ended(): AbortSignal {
    return this.#controller.signal;
  }

  /** The channel of this number, which is below the count. */
  channel(number: number): StreamChannel {
    const channel = this.#channels[number];
    if (channel === undefined) throw new RuntimeError('internal', `bug: no channel ${number}`);
    return channel;
  }

  async finish(): Promise<void> {
    this.#isFinishing = true;
    for (const channel of this.#channels) channel.discard();
    await this.#close(normalClosure, '');
  }

  abort(): void {
    this.#options.socket.terminate();
    this.#end();
  }

  /** For channels: bytes of one. */
  async send(number: number, data: Uint8Array): Promise<void> {
    const { socket, encoding, onActivity } = this.#options;
    if (socket.readyState !== socket.OPEN) throw new RuntimeError('unavailable', 'write to the stream: the client has gone');
    onActivity();
    const message = encoding.base64 ? `${number}${Buffer.from(data.buffer, data.byteOffset, data.length).toString('base64')}` : Buffer.concat([Buffer.of(number), data]);
    const { promise, resolve } = Promise.withResolvers<void>();
    // An error of one write is the end of the socket, which the next write finds.
    socket.send(message, { binary: !encoding.base64 }, () => resolve());
    if (socket.bufferedAmount > waitingBytesMax) await promise;
  }

  /** For channels: something was read or dropped. */
  taken(): void {
    if (!this.#isPaused || this.#mustWait()) return;
    this.#isPaused = false;
    this.#options.socket.resume();
  }

  #mustWait(): boolean {
    return mustWait(this.#channels.values().map(({ inbox }) => inbox));
  }

  #receive(data: Buffer, isBinary: boolean): void {
    const { encoding, onActivity } = this.#options;
    onActivity();
    const [first] = data;
    if (first === undefined || this.#isFinishing) return;
    if (encoding.closeSignal && first === closeSignal) {
      const number = data[1];
      const channel = data.length === 2 && number !== undefined ? this.#channels[number] : undefined;
      if (channel === undefined) void this.#close(protocolError, 'a close signal names one channel');
      else channel.inbox.end();
      return;
    }
    if (encoding.base64 === isBinary && encoding.base64) {
      void this.#close(protocolError, 'messages of this protocol are text');
      return;
    }
    const channel = this.#channels[encoding.base64 ? first - digitZero : first];
    // Bytes for a channel that does not exist concern nobody.
    if (channel === undefined) return;
    channel.inbox.push(encoding.base64 ? Buffer.from(data.toString('latin1', 1), 'base64') : data.subarray(1));
    if (this.#isPaused || !this.#mustWait()) return;
    this.#isPaused = true;
    this.#options.socket.pause();
  }

  /** One timer for the whole connection: input may stop and go on thousands of times between two pongs. */
  async #sendPongs(): Promise<void> {
    const { socket, clock } = this.#options;
    while (!this.#closed.signal.aborted) {
      await clock.sleep(pongIntervalMs, this.#closed.signal).catch(() => undefined);
      if (this.#isPaused && socket.readyState === socket.OPEN) socket.pong();
    }
  }

  async #close(code: number, reason: string): Promise<void> {
    const { socket, clock } = this.#options;
    this.#isPaused = false;
    // The client's own closing message comes after what it has sent before.
    if (socket.isPaused) socket.resume();
    socket.close(code, reason);
    if (code !== normalClosure) this.#end();
    await clock.sleep(limits.streamLingerMs, this.#closed.signal).catch(() => undefined);
    socket.terminate();
  }

  #end(): void {
    if (this.ended.aborted) return;
    for (const channel of this.#channels) channel.inbox.fail(new RuntimeError('unavailable', 'use a stream: the client has gone'));
    this.#controller.abort(new RuntimeError('cancelled', 'serve a stream: the client has gone'));
  }
}

class Channel implements StreamChannel {
  readonly inbox: ByteInbox;
  readonly #channels: WebSocketChannels;
  readonly #number: number;

  constructor(channels: WebSocketChannels, number: number) {
    this.#channels = channels;
    this.#number = number;
    this.inbox = new ByteInbox(() => channels.taken());
  }

  get incoming(): AsyncIterable<Uint8Array> {
    return this.inbox;
  }

  discard(): void {
    this.inbox.discard();
  }

  async write(data: Uint8Array): Promise<void> {
    await this.#channels.send(this.#number, data);
  }

  /** The protocol has no word for it: the connection's end is the end of its channels. */
  end(): void {}

  reset(): void {
    this.discard();
  }
}

function asBuffer(data: Buffer | ArrayBuffer | Buffer[]): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}
