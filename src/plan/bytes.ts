/**
 * Little-endian byte building and reading, shared by plans, the shim protocol and the layer stream.
 * In: values. Out: bytes, and back. A reader never reads past its end and never allocates by an unchecked length.
 */
import { RuntimeError } from '#core';

/** Grows as needed; `take` returns what was written. */
export class ByteWriter {
  #buffer = Buffer.allocUnsafe(256);
  #length = 0;

  #grow(extra: number): number {
    const start = this.#length;
    const needed = start + extra;
    if (needed > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, start);
      this.#buffer = grown;
    }
    this.#length = needed;
    return start;
  }

  get length(): number {
    return this.#length;
  }

  u8(value: number): this {
    const start = this.#grow(1);
    this.#buffer.writeUInt8(value, start);
    return this;
  }

  u16(value: number): this {
    const start = this.#grow(2);
    this.#buffer.writeUInt16LE(value, start);
    return this;
  }

  u32(value: number): this {
    const start = this.#grow(4);
    this.#buffer.writeUInt32LE(value >>> 0, start);
    return this;
  }

  i32(value: number): this {
    const start = this.#grow(4);
    this.#buffer.writeInt32LE(value, start);
    return this;
  }

  u64(value: bigint): this {
    const start = this.#grow(8);
    this.#buffer.writeBigUInt64LE(BigInt.asUintN(64, value), start);
    return this;
  }

  i64(value: bigint): this {
    return this.u64(value);
  }

  raw(bytes: Uint8Array): this {
    const start = this.#grow(bytes.length);
    this.#buffer.set(bytes, start);
    return this;
  }

  /** u32 length and the bytes. */
  bytes(bytes: Uint8Array): this {
    return this.u32(bytes.length).raw(bytes);
  }

  /** u32 length in bytes, UTF-8, one NUL that the length does not count. Throws invalidArgument on a NUL inside. */
  text(text: string): this {
    if (text.includes('\0')) throw new RuntimeError('invalidArgument', `encode ${JSON.stringify(text.slice(0, 80))}: contains a NUL byte`);
    const length = Buffer.byteLength(text);
    this.u32(length);
    const start = this.#grow(length + 1);
    this.#buffer.write(text, start, 'utf8');
    this.#buffer[start + length] = 0;
    return this;
  }

  texts(texts: readonly string[]): this {
    this.u32(texts.length);
    for (const text of texts) this.text(text);
    return this;
  }

  u32s(values: readonly number[]): this {
    this.u32(values.length);
    for (const value of values) this.u32(value);
    return this;
  }

  /** Overwrites four bytes written before. */
  setU32(offset: number, value: number): void {
    this.#buffer.writeUInt32LE(value >>> 0, offset);
  }

  /** The bytes written so far; the writer must not be used afterwards. */
  take(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

/** Reads what ByteWriter wrote. Every method throws `internal` on a short buffer. */
export class ByteReader {
  readonly #buffer: Buffer;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #advance(count: number): number {
    const start = this.#offset;
    if (count > this.#buffer.length - start) throw new RuntimeError('internal', `decode message: needs ${count} bytes at offset ${start}, has ${this.#buffer.length - start}`);
    this.#offset = start + count;
    return start;
  }

  get remaining(): number {
    return this.#buffer.length - this.#offset;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#advance(1));
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#advance(2));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#advance(4));
  }

  i32(): number {
    return this.#buffer.readInt32LE(this.#advance(4));
  }

  u64(): bigint {
    return this.#buffer.readBigUInt64LE(this.#advance(8));
  }

  i64(): bigint {
    return this.#buffer.readBigInt64LE(this.#advance(8));
  }

  /** A view, not a copy. */
  raw(count: number): Buffer {
    const start = this.#advance(count);
    return this.#buffer.subarray(start, start + count);
  }

  bytes(): Buffer {
    return this.raw(this.u32());
  }

  text(): string {
    const text = this.bytes().toString('utf8');
    if (this.u8() !== 0) throw new RuntimeError('internal', 'decode message: text without its end');
    return text;
  }

  texts(): string[] {
    const count = this.u32();
    if (count * 5 > this.remaining) throw new RuntimeError('internal', `decode message: ${count} texts in ${this.remaining} bytes`);
    return Array.from({ length: count }, () => this.text());
  }

  u32s(): number[] {
    const count = this.u32();
    if (count * 4 > this.remaining) throw new RuntimeError('internal', `decode message: ${count} numbers in ${this.remaining} bytes`);
    return Array.from({ length: count }, () => this.u32());
  }
}
