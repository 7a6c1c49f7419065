/**
 * Lets clients connect whose `:authority` is a socket path. In: the bytes that an HTTP/2 client sends. Out: the same bytes, with such
 * an authority replaced by a valid host of the same length. No I/O here.
 *
 * Why: kubelets and crictl before Kubernetes 1.31 send the path of the socket (or its percent-encoding) as the authority, and Node's
 * HTTP/2 answers that with PROTOCOL_ERROR. Header compression is stateful (RFC 7541): the value enters the dynamic table on both sides,
 * and the table evicts by size, so the replacement must have the length of the original or the tables would part later.
 */

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const frameHeaderBytes = 9;
const headersFrameType = 1;
const paddedFlag = 0x08;
const priorityFlag = 0x20;
/** The largest frame that a server must accept before it allows more. Source: RFC 9113, section 4.2. */
const framePayloadBytesMax = 16_384;
/** Index of `:authority` in the static table. Source: RFC 7541, appendix A. */
const authorityIndex = 1n;

/**
 * Symbols of the static Huffman code with 5, 6, 7 and 8 bits, in the order of their codes, which is that of the characters.
 * Source: RFC 7541, appendix B. Longer codes stand for characters that no host and hardly a path contains.
 */
const huffmanSymbols: readonly (readonly [bits: number, symbols: string])[] = [
  [5, '012aceiost'],
  [6, ' %-./3456789=A_bdfghlmnpru'],
  [7, ':BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz'],
  [8, '&*,;XZ'],
];

/** Follows one connection from its first byte. */
export class AuthorityRewriter {
  #buffered: Buffer = Buffer.alloc(0);
  /** Payload bytes of the current frame that pass untouched. */
  #passBytes = 0;
  #phase: 'preface' | 'frames' | 'passThrough' = 'preface';

  /** What to hand on for the next bytes of the client. It keeps back at most one HEADERS frame. */
  push(bytes: Buffer): Buffer[] {
    const output: Buffer[] = [];
    this.#buffered = this.#buffered.length === 0 ? bytes : Buffer.concat([this.#buffered, bytes]);
    while (this.#buffered.length > 0 && this.#step(output));
    return output;
  }

  /** One step over what is buffered; false where more bytes are needed. */
  #step(output: Buffer[]): boolean {
    if (this.#phase === 'passThrough') return this.#pass(this.#buffered.length, output);
    if (this.#phase === 'preface') return this.#stepPreface(output);
    if (this.#passBytes > 0) {
      const byteCount = Math.min(this.#passBytes, this.#buffered.length);
      this.#passBytes -= byteCount;
      return this.#pass(byteCount, output);
    }
    return this.#stepFrame(output);
  }

  #stepPreface(output: Buffer[]): boolean {
    const known = Math.min(preface.length, this.#buffered.length);
    if (!this.#buffered.subarray(0, known).equals(preface.subarray(0, known))) {
      // Not HTTP/2; the server behind says so better than we could.
      this.#phase = 'passThrough';
      return true;
    }
    if (known < preface.length) return false;
    this.#phase = 'frames';
    return this.#pass(preface.length, output);
  }

  #stepFrame(output: Buffer[]): boolean {
    if (this.#buffered.length < frameHeaderBytes) return false;
    const payloadBytes = this.#buffered.readUIntBE(0, 3);
    const type = this.#buffered.readUInt8(3);
    if (type !== headersFrameType || payloadBytes > framePayloadBytesMax) {
      this.#passBytes = payloadBytes;
      return this.#pass(frameHeaderBytes, output);
    }
    const frameBytes = frameHeaderBytes + payloadBytes;
    if (this.#buffered.length < frameBytes) return false;
    output.push(rewriteHeadersFrame(this.#buffered.subarray(0, frameBytes)));
    this.#buffered = this.#buffered.subarray(frameBytes);
    return true;
  }

  #pass(byteCount: number, output: Buffer[]): boolean {
    output.push(this.#buffered.subarray(0, byteCount));
    this.#buffered = this.#buffered.subarray(byteCount);
    return true;
  }
}

/** The frame with its authority replaced, or the frame itself where nothing needs it or it cannot be understood. */
function rewriteHeadersFrame(frame: Buffer): Buffer {
  const flags = frame.readUInt8(4);
  const isPadded = (flags & paddedFlag) !== 0;
  const start = frameHeaderBytes + (isPadded ? 1 : 0) + ((flags & priorityFlag) === 0 ? 0 : 5);
  const end = frame.length - (isPadded ? (frame[frameHeaderBytes] ?? 0) : 0);
  const value = findAuthorityValue(frame, start, end);
  if (value === undefined || !/[/%]/.test(value.text)) return frame;
  const host = Buffer.from(value.text.replaceAll(/[^a-zA-Z0-9.-]/g, '-'), 'latin1');
  const payload = Buffer.concat([frame.subarray(frameHeaderBytes, value.start), encodeString(host), frame.subarray(value.end)]);
  if (payload.length > framePayloadBytesMax) return frame;
  const header = Buffer.from(frame.subarray(0, frameHeaderBytes));
  header.writeUIntBE(payload.length, 0, 3);
  return Buffer.concat([header, payload]);
}

interface StringValue {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

/** The literal value of `:authority` in a header block; undefined where it is absent, indexed, or the block makes no sense. */
function findAuthorityValue(bytes: Buffer, start: number, end: number): StringValue | undefined {
  let offset = start;
  while (offset < end) {
    const first = bytes[offset] ?? 0;
    // The four representations of RFC 7541, section 6: indexed, literal that is added, table size update, literal that is not.
    const prefixBits = first >= 0x80 ? 7 : first >= 0x40 ? 6 : first >= 0x20 ? 5 : 4;
    const index = readInteger(bytes, offset, end, prefixBits);
    if (index === undefined) return undefined;
    offset = index.end;
    if (first >= 0x80 || (first >= 0x20 && first < 0x40)) continue;
    if (index.value === 0n) {
      const name = readStringEnd(bytes, offset, end);
      if (name === undefined) return undefined;
      offset = name;
    }
    const valueEnd = readStringEnd(bytes, offset, end);
    if (valueEnd === undefined) return undefined;
    if (index.value === authorityIndex) return readString(bytes, offset, valueEnd);
    offset = valueEnd;
  }
  return undefined;
}

/** Prefixed integers of RFC 7541, section 5.1, bounded to what fits a frame many times over. */
function readInteger(bytes: Buffer, offset: number, end: number, prefixBits: number): { readonly value: bigint; readonly end: number } | undefined {
  const mask = (1 << prefixBits) - 1;
  const first = (bytes[offset] ?? 0) & mask;
  if (first < mask) return { value: BigInt(first), end: offset + 1 };
  let value = BigInt(mask);
  for (let index = 0; index < 5; index++) {
    const position = offset + 1 + index;
    const byte = bytes[position];
    if (byte === undefined || position >= end) return undefined;
    value += BigInt(byte & 0x7f) << BigInt(7 * index);
    if (byte < 0x80) return { value, end: position + 1 };
  }
  return undefined;
}

function readStringEnd(bytes: Buffer, offset: number, end: number): number | undefined {
  if (offset >= end) return undefined;
  const length = readInteger(bytes, offset, end, 7);
  if (length === undefined) return undefined;
  const stringEnd = length.end + Number(length.value);
  return stringEnd > end ? undefined : stringEnd;
}

function readString(bytes: Buffer, offset: number, end: number): StringValue | undefined {
  const length = readInteger(bytes, offset, end, 7);
  if (length === undefined) return undefined;
  const encoded = bytes.subarray(length.end, end);
  const isHuffman = ((bytes[offset] ?? 0) & 0x80) !== 0;
  const text = isHuffman ? decodeHuffman(encoded) : encoded.toString('latin1');
  return text === undefined ? undefined : { start: offset, end, text };
}

/** The code is canonical: the codes of one length are consecutive, and each length starts where the one before ended, shifted. */
function decodeHuffman(encoded: Buffer): string | undefined {
  const bits = [...encoded].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  let text = '';
  let offset = 0;
  for (;;) {
    const rest = bits.slice(offset);
    // Padding is the start of the all-ones code, at most seven bits of it.
    if (rest.length < 8 && !rest.includes('0')) return text;
    const symbol = decodeSymbol(rest);
    if (symbol === undefined) return undefined;
    text += symbol.character;
    offset += symbol.bits;
  }
}

function decodeSymbol(rest: string): { readonly character: string; readonly bits: number } | undefined {
  let firstCode = 0;
  let previousBits = 0;
  for (const [bits, symbols] of huffmanSymbols) {
    firstCode <<= bits - previousBits;
    previousBits = bits;
    const code = rest.length < bits ? Infinity : Number.parseInt(rest.slice(0, bits), 2);
    const character = symbols[code - firstCode];
    if (character !== undefined) return { character, bits };
    firstCode += symbols.length;
  }
  return undefined;
}

/** A string literal without Huffman coding. */
function encodeString(text: Buffer): Buffer {
  if (text.length < 127) return Buffer.concat([Buffer.from([text.length]), text]);
  const length = [127];
  let rest = text.length - 127;
  while (rest >= 128) {
    length.push((rest & 0x7f) | 0x80);
    rest >>= 7;
  }
  return Buffer.concat([Buffer.from([...length, rest]), text]);
}
