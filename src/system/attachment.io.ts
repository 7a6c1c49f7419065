/**
 * The streams of one attached process. In: bytes for its standard input. Out: its output as it comes, and its end. It
 * buffers nothing beyond what arrives before a listener is set: who is slow pauses the connection.
 */
import { RuntimeError } from '#core';
import { ByteReader } from '#plan';
import { type FrameConnection } from './connection.io.ts';
import { type Frame, frameTypes } from './frames.ts';

/** Which stream output came from; a terminal has stdout only. */
export type OutputStream = 'stdout' | 'stderr';

/** How an attached process ended. */
export interface AttachmentEnd {
  readonly waitStatus: number;
  /** 1: an OOM kill happened. */
  readonly flags: number;
}

/** The streams of one process, on a connection of their own. It keeps the event loop alive until it ends or is closed. */
export interface ShimAttachment {
  /** Called for each piece of output; the bytes are the receiver's. Set it before the next turn of the event loop. */
  onOutput: ((stream: OutputStream, bytes: Buffer) => void) | undefined;
  /** Resolves when more may be written; the bytes must not change any more. Bytes for a process without open standard input are dropped. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends the standard input after what was written; no effect on a terminal. */
  closeInput(): void;
  /** After the last output. Rejects with unavailable when the connection ends first. */
  readonly ended: Promise<AttachmentEnd>;
  /** Stops and continues reading output. A client that falls 16 MiB behind is cut off, unless the process is exclusive. */
  pause(): void;
  resume(): void;
  close(): void;
}

/** Streams in ATTACH and OUTPUT. */
export const streamBits = { stdin: 1, stdout: 2, stderr: 4 } as const;

/** Bytes per INPUT frame. */
const inputChunkBytes = 64 * 1024;

/** The client's side of ATTACH, on a connection that is authenticated already. */
export class Attachment implements ShimAttachment {
  readonly ended: Promise<AttachmentEnd>;
  readonly #connection: FrameConnection;
  #onOutput: ((stream: OutputStream, bytes: Buffer) => void) | undefined;
  #early: { readonly stream: OutputStream; readonly bytes: Buffer }[] = [];
  #held = true;

  constructor(connection: FrameConnection) {
    this.#connection = connection;
    connection.hold();
    const { promise, resolve, reject } = Promise.withResolvers<AttachmentEnd>();
    this.ended = promise;
    // A caller that never looks at `ended` has not asked to be told.
    promise.catch(() => {});
    connection.onEvent = (frame) => {
      if (frame.type === frameTypes.output) this.#output(frame);
      if (frame.type !== frameTypes.ended) return;
      const input = new ByteReader(frame.payload);
      resolve({ waitStatus: input.i32(), flags: input.u32() });
      this.#release();
    };
    void connection.ended.then(() => {
      this.#release();
      reject(new RuntimeError('unavailable', 'attach: the connection ended before the process did'));
    });
  }

  get onOutput(): ((stream: OutputStream, bytes: Buffer) => void) | undefined {
    return this.#onOutput;
  }

  /** What arrived with the answer to ATTACH, before anyone could listen, is delivered now. */
  set onOutput(listener: ((stream: OutputStream, bytes: Buffer) => void) | undefined) {
    this.#onOutput = listener;
    const early = this.#early;
    this.#early = [];
    for (const { stream, bytes } of early) listener?.(stream, bytes);
  }

  #output(frame: Frame): void {
    const stream = frame.payload.readUInt32LE(0) === streamBits.stdout ? 'stdout' : 'stderr';
    const bytes = Buffer.from(frame.payload.subarray(4));
    if (this.#onOutput === undefined) this.#early.push({ stream, bytes });
    else this.#onOutput(stream, bytes);
  }

  #release(): void {
    if (this.#held) this.#connection.release();
    this.#held = false;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += inputChunkBytes) {
      await this.#connection.sendUncopied(frameTypes.input, 0, bytes.subarray(at, at + inputChunkBytes));
    }
  }

  closeInput(): void {
    this.#connection.send(frameTypes.inputClose, 0).catch(() => {});
  }

  pause(): void {
    this.#connection.pause();
  }

  resume(): void {
    this.#connection.resume();
  }

  close(): void {
    this.#release();
    this.#connection.close();
  }
}
