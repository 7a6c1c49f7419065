/**
 * Netlink messages as bytes, and back. In: message types, flags and attributes as data. Out: a batch as one datagram with the
 * places where slot descriptors belong. This file knows the frame (netlink(7), linux/netlink.h), not what any message means.
 * Host byte order is little-endian on every machine that Berth supports.
 */
import { RuntimeError, assert } from '#core';

/** NLM_F_* flags of a request. */
export const nlm = { request: 1, acknowledge: 4, exclusive: 0x200, create: 0x400, append: 0x800 } as const;
/** Protocols of the `netlink` step: NETLINK_ROUTE and NETLINK_NETFILTER. */
export const netlinkProtocol = { route: 0, netfilter: 12 } as const;

const headerLength = 16;
const attributeHeaderLength = 4;
/** NLA_F_NESTED; the kernel masks it and NLA_F_NET_BYTEORDER out of the type. */
const nestedFlag = 0x8000;
const typeMask = 0x3fff;

/** A descriptor that only the interpreter knows: four bytes that it patches with the number of the slot. */
export interface SlotReference {
  readonly slot: number;
}

/** One attribute: a type and its payload in order. */
export interface Attribute {
  readonly type: number;
  /** Sets NLA_F_NESTED, which nftables wants and rtnetlink does without. */
  readonly nested?: boolean;
  readonly parts: readonly Part[];
}

/** What a message or an attribute consists of; each part begins on a four-byte boundary. */
export type Part = Uint8Array | SlotReference | Attribute;

/** One message. `request` and `acknowledge` are set by the encoder where `control` is not. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly parts: readonly Part[];
  /** Frames a batch; not acknowledged. */
  readonly control?: boolean;
}

/** A batch as the `netlink` step takes it. */
export interface EncodedMessages {
  readonly messages: Buffer;
  /** Pairs: byte offset, slot. */
  readonly slotPatches: readonly number[];
}

/** One byte. */
export const u8 = (value: number): Buffer => Buffer.from([value]);

/** 16 bits in network byte order. */
export function be16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

/** 32 bits in host byte order. */
export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

/** 32 bits in network byte order, signed or not. */
export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

/** A name with the NUL that ends it. */
export function cString(text: string): Buffer {
  assert(!text.includes('\0'), 'a netlink name contains NUL');
  return Buffer.from(`${text}\0`);
}

/** An attribute with plain content. */
export const attribute = (type: number, ...parts: readonly Part[]): Attribute => ({ type, parts });
/** An attribute marked as holding attributes. */
export const nested = (type: number, ...parts: readonly Part[]): Attribute => ({ type, nested: true, parts });

const padded = (length: number): number => (length + 3) & ~3;

function isAttribute(part: Part): part is Attribute {
  return 'parts' in part;
}

function isSlot(part: Part): part is SlotReference {
  return 'slot' in part;
}

/** Collects chunks and remembers where descriptors go. */
class Encoder {
  readonly slotPatches: number[] = [];
  readonly #chunks: Buffer[] = [];
  #length = 0;

  #push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  #part(part: Part): void {
    if (isSlot(part)) {
      this.slotPatches.push(this.#length, part.slot);
      this.#push(Buffer.alloc(4));
    } else if (isAttribute(part)) {
      const header = Buffer.alloc(attributeHeaderLength);
      this.#push(header);
      const length = attributeHeaderLength + this.#parts(part.parts);
      header.writeUInt16LE(length, 0);
      header.writeUInt16LE(part.nested === true ? part.type | nestedFlag : part.type, 2);
    } else {
      this.#push(Buffer.from(part.buffer, part.byteOffset, part.byteLength));
    }
  }

  /** Writes the parts and returns their length. As iproute2 and nft do, it counts the padding of attributes and not that of plain content. */
  #parts(parts: readonly Part[]): number {
    const start = this.#length;
    let end = start;
    for (const part of parts) {
      this.#part(part);
      end = this.#length;
      this.#push(Buffer.alloc(padded(end - start) - (end - start)));
      if (isAttribute(part)) end = this.#length;
    }
    return end - start;
  }

  message(message: NetlinkMessage, sequence: number): void {
    const header = Buffer.alloc(headerLength);
    this.#push(header);
    const length = headerLength + this.#parts(message.parts);
    header.writeUInt32LE(length, 0);
    header.writeUInt16LE(message.type, 4);
    header.writeUInt16LE(message.flags | nlm.request | (message.control === true ? 0 : nlm.acknowledge), 6);
    header.writeUInt32LE(sequence, 8);
  }

  take(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

/** The messages as one datagram, numbered from 1, each but control messages asking for an acknowledgement. */
export function encodeMessages(messages: readonly NetlinkMessage[]): EncodedMessages {
  const encoder = new Encoder();
  for (const [index, message] of messages.entries()) encoder.message(message, index + 1);
  return { messages: encoder.take(), slotPatches: encoder.slotPatches };
}

/** A message as it was read. Buffers are views. */
export interface DecodedMessage {
  readonly type: number;
  readonly flags: number;
  readonly body: Buffer;
}

const malformed = (what: string): RuntimeError => new RuntimeError('internal', `decode netlink: ${what}`);

/** Splits a datagram into messages. Throws internal on a length that does not fit. */
export function decodeMessages(bytes: Uint8Array): DecodedMessage[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const messages: DecodedMessage[] = [];
  for (let offset = 0; offset < buffer.length;) {
    if (buffer.length - offset < headerLength) throw malformed(`${buffer.length - offset} bytes after the last message`);
    const length = buffer.readUInt32LE(offset);
    if (length < headerLength || length > buffer.length - offset) throw malformed(`a message of ${length} bytes in ${buffer.length - offset}`);
    messages.push({ type: buffer.readUInt16LE(offset + 4), flags: buffer.readUInt16LE(offset + 6), body: buffer.subarray(offset + headerLength, offset + length) });
    offset += padded(length);
  }
  return messages;
}

/** Attributes by type; of equal types the last one counts. Throws internal on a length that does not fit. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  return new Map(listAttributes(bytes).map(({ type, value }) => [type, value]));
}

/** Attributes in order, where a type may repeat. */
export function listAttributes(bytes: Buffer): { readonly type: number; readonly value: Buffer }[] {
  const attributes: { type: number; value: Buffer }[] = [];
  for (let offset = 0; offset < bytes.length;) {
    if (bytes.length - offset < attributeHeaderLength) throw malformed(`${bytes.length - offset} bytes after the last attribute`);
    const length = bytes.readUInt16LE(offset);
    if (length < attributeHeaderLength || length > bytes.length - offset) throw malformed(`an attribute of ${length} bytes in ${bytes.length - offset}`);
    attributes.push({ type: bytes.readUInt16LE(offset + 2) & typeMask, value: bytes.subarray(offset + attributeHeaderLength, offset + length) });
    offset += padded(length);
  }
  return attributes;
}

/** Text up to the first NUL; empty where the attribute is missing. */
export function textOf(value: Buffer | undefined): string {
  if (value === undefined) return '';
  const end = value.indexOf(0);
  return value.toString('utf8', 0, end === -1 ? value.length : end);
}
