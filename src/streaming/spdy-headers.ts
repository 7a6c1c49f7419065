/**
 * Names and values in SPDY/3 control frames, compressed as one zlib stream per connection and direction. In: blocks in the order of their
 * frames. Out: maps. Pure, synchronous and bounded: what one block makes of itself never exceeds `limits.spdyControlBytesMax`.
 * Source: SPDY Protocol Draft 3.1, section 2.6.10.
 *
 * Every block ends with a flush, at a byte. So each is inflated by itself, with the last 32 KiB that came before as its dictionary: all
 * that the format can refer to. That needs no stream object, and a block that is too large is refused before it exists.
 */
import { constants, deflateRawSync, inflateRawSync } from 'node:zlib';
import { RuntimeError, limits } from '#core';

/** The names and values that every SPDY/3 endpoint knows before the first block, most of them with their length before them. */
const knownWords =
  'options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status'
    .split(' ')
    .concat('200 OK', 'version', 'HTTP/1.1', 'url', 'public', 'set-cookie', 'keep-alive', 'origin');
const knownTail =
  '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.';

/** The dictionary of the compression. */
export const spdyDictionary: Buffer = Buffer.concat([...knownWords.flatMap((word) => [u32(word.length), Buffer.from(word)]), Buffer.from(knownTail)]);

const windowBytes = 32 * 1024;
/** RFC 1950: deflate with a window of 32 KiB, and with FDICT set. */
const zlibHeader = Buffer.from([0x78, 0xbb]);
const dictionaryFlag = 0x20;
const dictionaryId = u32(adler32(spdyDictionary));

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** RFC 1950, section 8.2. */
function adler32(bytes: Uint8Array): number {
  const base = 65_521;
  let [low, high] = [1, 0];
  for (const byte of bytes) {
    low = (low + byte) % base;
    high = (high + low) % base;
  }
  return high * 65_536 + low;
}

function broken(cause: string, options: { readonly cause?: unknown } = {}): RuntimeError {
  return new RuntimeError('invalidArgument', `decode SPDY headers: ${cause}`, options);
}

const latest = (history: Buffer, block: Buffer): Buffer => Buffer.concat([history, block]).subarray(-windowBytes);

/** Reads the blocks of one direction. */
export class HeaderReader {
  /** undefined: before the first block. */
  #history: Buffer | undefined;

  /** Throws invalidArgument for what is no block, resourceExhausted for one that is too large. The connection cannot go on after that. */
  read(block: Buffer): ReadonlyMap<string, string> {
    const { history, body } = this.#history === undefined ? openStream(block) : { history: this.#history, body: block };
    const bytes = inflate(body, history);
    this.#history = latest(history, bytes);
    return decodeHeaders(bytes);
  }
}

function openStream(block: Buffer): { readonly history: Buffer; readonly body: Buffer } {
  const [method, flags] = block;
  if (method === undefined || flags === undefined || (method & 0x0f) !== 8 || (method * 256 + flags) % 31 !== 0) throw broken('no zlib stream');
  if ((flags & dictionaryFlag) === 0) return { history: Buffer.alloc(0), body: block.subarray(2) };
  if (!block.subarray(2, 6).equals(dictionaryId)) throw broken('a dictionary that is not that of SPDY/3');
  return { history: spdyDictionary, body: block.subarray(6) };
}

function inflate(body: Buffer, history: Buffer): Buffer {
  try {
    return inflateRawSync(body, { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: limits.spdyControlBytesMax, ...(history.length === 0 ? {} : { dictionary: history }) });
  } catch (error) {
    if (error instanceof RangeError) throw new RuntimeError('resourceExhausted', `decode SPDY headers: more than ${limits.spdyControlBytesMax} bytes`, { cause: error });
    throw broken('not compressed as zlib does', { cause: error });
  }
}

function decodeHeaders(bytes: Buffer): ReadonlyMap<string, string> {
  const headers = new Map<string, string>();
  let at = 0;
  const readNumber = (): number => {
    if (at + 4 > bytes.length) throw broken('cut off');
    at += 4;
    return bytes.readUInt32BE(at - 4);
  };
  const readText = (): string => {
    const length = readNumber();
    if (length > bytes.length - at) throw broken('cut off');
    at += length;
    return bytes.toString('latin1', at - length, at);
  };
  const count = readNumber();
  if (count > limits.spdyHeadersMax) throw new RuntimeError('resourceExhausted', `decode SPDY headers: ${count} of them, at most ${limits.spdyHeadersMax}`);
  for (let index = 0; index < count; index += 1) {
    const name = readText();
    const value = readText();
    if (name === '' || name !== name.toLowerCase() || headers.has(name)) throw broken('a name that is empty, not in lower case or there twice');
    headers.set(name, value);
  }
  if (at !== bytes.length) throw broken('something follows');
  return headers;
}

/** Writes the blocks of one direction. */
export class HeaderWriter {
  #history: Buffer | undefined;

  write(headers: ReadonlyMap<string, string>): Buffer {
    const parts = [...headers].flatMap(([name, value]) => [
      u32(Buffer.byteLength(name, 'latin1')),
      Buffer.from(name, 'latin1'),
      u32(Buffer.byteLength(value, 'latin1')),
      Buffer.from(value, 'latin1'),
    ]);
    const bytes = Buffer.concat([u32(headers.size), ...parts]);
    const history = this.#history ?? spdyDictionary;
    const body = deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH, dictionary: history });
    const opening = this.#history === undefined ? [zlibHeader, dictionaryId] : [];
    this.#history = latest(history, bytes);
    return Buffer.concat([...opening, body]);
  }
}
