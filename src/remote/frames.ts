/**
 * Frames of the engine socket. In: bytes as they arrive in pieces. Out: whole frames, or invalidArgument for what no peer of this
 * protocol sends. A frame is one byte of type, four bytes of payload length (big endian) and the payload. No I/O here.
 */
import { RuntimeError, limits } from '#core';

/**
 * Version of everything on the engine socket: frames, values, and the Engine interface behind them. Raise it with any change of
 * these, so that two different programs never misread each other. The `call` frame itself keeps its number and its `protocol`
 * field in every version, because it is what carries the news.
 */
export const engineProtocol = 3;

/** Frame types by name. Client to owner: call, stdin, closeInput, resize. Owner to client: all others. */
export const frameTypes = {
  /** JSON `{protocol, method, args}`: the first frame of a connection and its only one of this type. */
  call: 1,
  /** Bytes for the process. The next input frame may follow only after `inputDone`. */
  stdin: 2,
  closeInput: 3,
  /** JSON `{columns, rows}`; the next one may follow only after `resizeDone`. */
  resize: 4,
  /** The streams are open, or the subscription is in force. */
  opened: 5,
  stdout: 6,
  stderr: 7,
  /** Answer to stdin or closeInput: empty, or JSON of an error. */
  inputDone: 8,
  /** Answer to resize: empty, or JSON of an error. */
  resizeDone: 9,
  /** JSON of one progress report or one event. */
  item: 10,
  /** A piece of a result that is longer than one frame. */
  part: 11,
  /** JSON of the result, or its last piece. Ends the call. */
  result: 12,
  /** JSON of the error. Ends the call. */
  error: 13,
} as const;

/** Any of the names above. */
export type FrameName = keyof typeof frameTypes;

/** One frame. The payload may share memory with what the decoder was given. */
export interface Frame {
  readonly name: FrameName;
  readonly payload: Uint8Array;
}

const frameNames: ReadonlyMap<number, FrameName> = new Map(
  // SAFETY: Object.entries loses the key type of a literal whose keys are all known.
  (Object.entries(frameTypes) as [FrameName, number][]).map(([name, type]) => [type, name]),
);
const headerBytes = 5;

/** Header of a frame with a payload of `payloadBytes`. Throws resourceExhausted above `limits.engineFrameBytesMax`. */
export function encodeFrameHeader(name: FrameName, payloadBytes: number): Uint8Array {
  if (payloadBytes > limits.engineFrameBytesMax) {
    throw new RuntimeError('resourceExhausted', `encode ${name} frame: ${payloadBytes} bytes, the limit is ${limits.engineFrameBytesMax}`);
  }
  const header = Buffer.alloc(headerBytes);
  header.writeUInt8(frameTypes[name], 0);
  header.writeUInt32BE(payloadBytes, 1);
  return header;
}

/** Cuts a byte stream into frames. It never holds more than one frame and the last piece it was given. */
export class FrameDecoder {
  #pieces: Uint8Array[] = [];
  #byteCount = 0;
  /** Bytes that the next step needs: a header, or a payload once `#name` is known. */
  #wanted = headerBytes;
  #name: FrameName | undefined;

  /** Every frame that `piece` completes. Throws invalidArgument for an unknown type or a length above the limit. */
  *push(piece: Uint8Array): Generator<Frame, void, void> {
    this.#pieces.push(piece);
    this.#byteCount += piece.length;
    while (this.#byteCount >= this.#wanted) {
      const bytes = this.#take(this.#wanted);
      if (this.#name === undefined) {
        this.#decodeHeader(bytes);
      } else {
        const frame = { name: this.#name, payload: bytes };
        this.#name = undefined;
        this.#wanted = headerBytes;
        yield frame;
      }
    }
  }

  /** True where the stream may end: no frame has been begun. */
  get isBetweenFrames(): boolean {
    return this.#name === undefined && this.#byteCount === 0;
  }

  #decodeHeader(bytes: Uint8Array): void {
    const header = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const type = header.readUInt8(0);
    const payloadBytes = header.readUInt32BE(1);
    const name = frameNames.get(type);
    if (name === undefined) throw new RuntimeError('invalidArgument', `decode engine frame: unknown type ${type}`);
    if (payloadBytes > limits.engineFrameBytesMax) {
      throw new RuntimeError('invalidArgument', `decode ${name} frame: ${payloadBytes} bytes, the limit is ${limits.engineFrameBytesMax}`);
    }
    this.#name = name;
    this.#wanted = payloadBytes;
  }

  #take(byteCount: number): Uint8Array {
    const all = this.#pieces.length === 1 ? this.#pieces[0] : Buffer.concat(this.#pieces);
    const bytes = all ?? new Uint8Array();
    this.#byteCount -= byteCount;
    this.#pieces = this.#byteCount === 0 ? [] : [bytes.subarray(byteCount)];
    return bytes.subarray(0, byteCount);
  }
}
