/**
 * SPDY/3.1 frames as bytes, and back. In: bytes as they come, or a frame. Out: frames, or bytes. Pure. Data is handed on as it comes and never
 * collected, a control frame is at most `limits.spdyControlBytesMax` long. Headers stay compressed here. Source: SPDY Protocol Draft 3.1.
 */
import { RuntimeError, limits } from '#core';

/** What comes or goes. `headers` is a compressed block. */
export type SpdyFrame =
  | { readonly kind: 'data'; readonly id: number; readonly bytes: Buffer; readonly fin: boolean }
  | { readonly kind: 'synStream'; readonly id: number; readonly headers: Buffer; readonly fin: boolean; readonly unidirectional: boolean }
  | { readonly kind: 'synReply'; readonly id: number; readonly headers: Buffer; readonly fin: boolean }
  | { readonly kind: 'rstStream'; readonly id: number; readonly status: number }
  | { readonly kind: 'settings'; readonly values: ReadonlyMap<number, number> }
  | { readonly kind: 'ping'; readonly id: number }
  | { readonly kind: 'goAway'; readonly lastId: number; readonly status: number }
  | { readonly kind: 'headers'; readonly id: number; readonly headers: Buffer; readonly fin: boolean }
  | { readonly kind: 'windowUpdate'; readonly id: number; readonly delta: number };

/** Reasons in RST_STREAM. */
export const resetStatus = { protocolError: 1, invalidStream: 2, refusedStream: 3, cancel: 5, flowControlError: 7 } as const;
/** Reasons in GOAWAY. */
export const goAwayStatus = { ok: 0, protocolError: 1 } as const;
/** Identifier of SETTINGS_INITIAL_WINDOW_SIZE. */
export const initialWindowSetting = 7;

const version = 3;
const types = { synStream: 1, synReply: 2, rstStream: 3, settings: 4, ping: 6, goAway: 7, headers: 8, windowUpdate: 9 } as const;
const flagFin = 1;
const flagUnidirectional = 2;
const headerBytes = 8;
const controlBit = 0x8000_0000;
const idMask = 0x7fff_ffff;
const lengthMask = 0xff_ffff;

function malformed(cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `decode SPDY frame: ${cause}`);
}

/** Takes the bytes of a connection apart. */
export class SpdyDecoder {
  #pending: Buffer = Buffer.alloc(0);
  /** The data frame that is under way. */
  #data: { readonly id: number; readonly fin: boolean; left: number } | undefined;

  /** Frames that the bytes complete; a piece of data is one too, and only its last one has `fin`. Throws invalidArgument, resourceExhausted. */
  *push(bytes: Buffer): Generator<SpdyFrame, void, void> {
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    for (;;) {
      const frame = this.#data === undefined ? this.#readFrame() : this.#readData(this.#data);
      if (frame === undefined) return;
      if (frame !== 'unknown') yield frame;
    }
  }

  #take(byteCount: number): Buffer {
    const taken = this.#pending.subarray(0, byteCount);
    this.#pending = this.#pending.subarray(byteCount);
    return taken;
  }

  #readData(data: { readonly id: number; readonly fin: boolean; left: number }): SpdyFrame | undefined {
    if (this.#pending.length === 0 && data.left > 0) return undefined;
    const bytes = this.#take(Math.min(data.left, this.#pending.length));
    data.left -= bytes.length;
    if (data.left === 0) this.#data = undefined;
    return { kind: 'data', id: data.id, bytes, fin: data.fin && data.left === 0 };
  }

  #readFrame(): SpdyFrame | 'unknown' | undefined {
    if (this.#pending.length < headerBytes) return undefined;
    const first = this.#pending.readUInt32BE(0);
    const second = this.#pending.readUInt32BE(4);
    const [flags, length] = [second >>> 24, second & lengthMask];
    if (first < controlBit) {
      this.#take(headerBytes);
      this.#data = { id: first, fin: (flags & flagFin) !== 0, left: length };
      return this.#readData(this.#data);
    }
    if (((first >>> 16) & 0x7fff) !== version) throw malformed('another version than SPDY/3');
    if (length > limits.spdyControlBytesMax) throw new RuntimeError('resourceExhausted', `decode SPDY frame: ${length} bytes, at most ${limits.spdyControlBytesMax}`);
    if (this.#pending.length < headerBytes + length) return undefined;
    this.#take(headerBytes);
    return decodeControl({ type: first & 0xffff, flags, body: this.#take(length) });
  }
}

/** Types that are not known are to be passed over. */
function decodeControl({ type, flags, body }: { readonly type: number; readonly flags: number; readonly body: Buffer }): SpdyFrame | 'unknown' {
  const need = (bytes: number, { exactly = false } = {}): void => {
    if (body.length < bytes || (exactly && body.length !== bytes)) throw malformed('a control frame of the wrong length');
  };
  const fin = (flags & flagFin) !== 0;
  const id = (): number => body.readUInt32BE(0) & idMask;
  switch (type) {
    case types.synStream:
      need(10);
      return { kind: 'synStream', id: id(), headers: body.subarray(10), fin, unidirectional: (flags & flagUnidirectional) !== 0 };
    case types.synReply:
      need(4);
      return { kind: 'synReply', id: id(), headers: body.subarray(4), fin };
    case types.rstStream:
      need(8, { exactly: true });
      return { kind: 'rstStream', id: id(), status: body.readUInt32BE(4) };
    case types.settings: {
      need(4);
      const count = body.readUInt32BE(0);
      if (body.length !== 4 + count * 8) throw malformed('settings of the wrong length');
      return { kind: 'settings', values: new Map(Array.from({ length: count }, (_, index) => [body.readUInt32BE(4 + index * 8) & lengthMask, body.readUInt32BE(8 + index * 8)])) };
    }
    case types.ping:
      need(4, { exactly: true });
      return { kind: 'ping', id: body.readUInt32BE(0) };
    case types.goAway:
      need(8, { exactly: true });
      return { kind: 'goAway', lastId: id(), status: body.readUInt32BE(4) };
    case types.headers:
      need(4);
      return { kind: 'headers', id: id(), headers: body.subarray(4), fin };
    case types.windowUpdate:
      need(8, { exactly: true });
      return { kind: 'windowUpdate', id: id(), delta: body.readUInt32BE(4) & idMask };
    default:
      return 'unknown';
  }
}

function control(type: number, body: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(headerBytes);
  head.writeUInt32BE((controlBit + version * 65_536 + type) >>> 0, 0);
  head.writeUInt32BE(((flags << 24) | body.length) >>> 0, 4);
  return Buffer.concat([head, body]);
}

function numbers(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}

/** The eight bytes before a piece of data of at most 16 MiB - 1. */
export function encodeDataHeader(id: number, { byteCount, fin }: { readonly byteCount: number; readonly fin: boolean }): Buffer {
  return numbers(id, (((fin ? flagFin : 0) << 24) | byteCount) >>> 0);
}

/** A frame as bytes. */
export function encodeFrame(frame: SpdyFrame): Buffer {
  switch (frame.kind) {
    case 'data':
      return Buffer.concat([encodeDataHeader(frame.id, { byteCount: frame.bytes.length, fin: frame.fin }), frame.bytes]);
    case 'synStream': {
      const flags = (frame.fin ? flagFin : 0) | (frame.unidirectional ? flagUnidirectional : 0);
      return control(types.synStream, Buffer.concat([numbers(frame.id, 0), Buffer.alloc(2), frame.headers]), flags);
    }
    case 'synReply':
      return control(types.synReply, Buffer.concat([numbers(frame.id), frame.headers]), frame.fin ? flagFin : 0);
    case 'rstStream':
      return control(types.rstStream, numbers(frame.id, frame.status));
    case 'settings':
      return control(types.settings, numbers(frame.values.size, ...[...frame.values].flat()));
    case 'ping':
      return control(types.ping, numbers(frame.id));
    case 'goAway':
      return control(types.goAway, numbers(frame.lastId, frame.status));
    case 'headers':
      return control(types.headers, Buffer.concat([numbers(frame.id), frame.headers]), frame.fin ? flagFin : 0);
    case 'windowUpdate':
      return control(types.windowUpdate, numbers(frame.id, frame.delta));
  }
}
