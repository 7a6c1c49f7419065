/**
 * Headers of a tar archive: ustar, GNU and PAX spellings of one entry's facts.
 * In: one block of 512 bytes and the extended records before it. Out: a `TarEntry`. Pure; everything read here is hostile.
 *
 * Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; tar(5) of libarchive; GNU tar manual, "Storing Sparse Files".
 */
import { RuntimeError, limits } from '#core';

/** Everything in an archive comes in blocks of this many bytes. */
export const tarBlockBytes = 512;

/** What a member is. */
export type TarEntryType = 'file' | 'hardLink' | 'link' | 'characterDevice' | 'blockDevice' | 'directory' | 'fifo';

/** A run of real bytes inside a sparse file; everything between runs is zeros. */
export interface SparseRun {
  readonly offset: number;
  readonly length: number;
}

/** One archive member. `path` and `linkTarget` are exactly as written: unchecked text of a stranger. */
export interface TarEntry {
  readonly type: TarEntryType;
  readonly path: string;
  readonly linkTarget: string;
  /** Permission bits, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Size of the file once written, holes included; 0 for everything but files. */
  readonly sizeBytes: number;
  readonly mtimeNs: bigint;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: readonly { readonly name: string; readonly value: Uint8Array }[];
}

/** What a header says before its sparse map is known. */
export interface TarHeader {
  readonly entry: TarEntry;
  /** Bytes that follow in the archive, padding excluded. */
  readonly storedBytes: number;
  readonly sparse: { readonly kind: 'none' } | { readonly kind: 'runs'; readonly runs: readonly SparseRun[]; readonly isExtended: boolean } | { readonly kind: 'inData' };
}

/** PAX records of one entry: keys to raw values. */
export type PaxRecords = ReadonlyMap<string, Buffer>;

/** An invalidArgument about an archive. */
export function tarError(cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `read tar: ${cause}`);
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** Bytes as a name. Throws on NUL, on what is not UTF-8 and beyond the length bound. */
export function decodeTarName(bytes: Uint8Array, what: string): string {
  if (bytes.length > limits.tarPathBytesMax) throw tarError(`${what} of ${bytes.length} bytes, at most ${limits.tarPathBytesMax}`);
  if (bytes.includes(0)) throw tarError(`${what} contains a NUL byte`);
  try {
    return utf8.decode(bytes);
  } catch {
    throw tarError(`${what} ${JSON.stringify(Buffer.from(bytes).toString('latin1').slice(0, 120))} is not UTF-8`);
  }
}

function untilNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

/** Octal text, or base 256 where the first bit is set (GNU). Throws where the number does not fit a double exactly. */
export function decodeTarNumber(field: Buffer, what: string): number {
  const first = field[0] ?? 0;
  if ((first & 0x80) !== 0) {
    let value = (first & 0x40) === 0 ? BigInt(first & 0x3f) : BigInt((first & 0x3f) - 0x40);
    for (const byte of field.subarray(1)) value = value * 256n + BigInt(byte);
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) throw tarError(`${what} is out of range`);
    return Number(value);
  }
  const text = untilNul(field).toString('latin1').trim();
  if (text === '') return 0;
  if (!/^[0-7]+$/.test(text)) throw tarError(`${what} ${JSON.stringify(text)} is not octal`);
  return Number.parseInt(text, 8);
}

/** Throws unless the checksum field matches the sum of the bytes, unsigned or (old archivers) signed. */
export function verifyTarChecksum(block: Buffer): void {
  const wanted = decodeTarNumber(block.subarray(148, 156), 'checksum');
  let unsigned = 8 * 0x20;
  let signed = unsigned;
  for (let index = 0; index < tarBlockBytes; index += 1) {
    if (index >= 148 && index < 156) continue;
    const byte = block[index] ?? 0;
    unsigned += byte;
    signed += byte < 128 ? byte : byte - 256;
  }
  if (wanted !== unsigned && wanted !== signed) throw tarError('header checksum does not match; the archive is damaged or no tar');
}

/** `length key=value\n` records. Throws on a malformed or contradictory length. */
export function decodePaxRecords(bytes: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  const sparseMap: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at);
    const lengthText = space < 0 || space - at > 10 ? '' : bytes.toString('latin1', at, space);
    const length = /^[1-9]\d*$/.test(lengthText) ? Number(lengthText) : 0;
    const end = at + length;
    const equals = bytes.indexOf(0x3d, space);
    if (length === 0 || end > bytes.length || bytes[end - 1] !== 0x0a || equals < 0 || equals >= end - 1 || equals === space + 1) throw tarError('malformed PAX record');
    const key = decodeTarName(bytes.subarray(space + 1, equals), 'PAX key');
    const value = bytes.subarray(equals + 1, end - 1);
    // Version 0.0 of the sparse format repeats these two keys, once per run.
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') sparseMap.push(value.toString('latin1'));
    else records.set(key, value);
    at = end;
  }
  if (sparseMap.length > 0) records.set('GNU.sparse.map', Buffer.from(sparseMap.join(',')));
  return records;
}

function decimal(value: Buffer, what: string): number {
  const text = value.toString('latin1');
  const number = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(number)) throw tarError(`${what} ${JSON.stringify(text.slice(0, 40))} is no number`);
  return number;
}

/** `seconds[.fraction]` as nanoseconds; digits beyond the ninth are dropped. */
export function decodePaxTime(value: Buffer): bigint {
  const match = /^(-?)(\d{1,12})(?:\.(\d*))?$/.exec(value.toString('latin1'));
  if (match === null) throw tarError('mtime is no time');
  const ns = BigInt(match[2] ?? '0') * 1_000_000_000n + BigInt((match[3] ?? '').padEnd(9, '0').slice(0, 9));
  return match[1] === '-' ? -ns : ns;
}

/** Pairs of `offset,length` numbers as runs. Throws unless ascending, without overlap, within the size. */
export function decodeSparseRuns(numbers: readonly number[], sizeBytes: number): readonly SparseRun[] {
  if (numbers.length % 2 !== 0) throw tarError('sparse map has an odd count of numbers');
  const runs: SparseRun[] = [];
  let end = 0;
  for (let index = 0; index < numbers.length; index += 2) {
    const [offset = 0, length = 0] = [numbers[index], numbers[index + 1]];
    if (offset < end || offset + length > sizeBytes) throw tarError('sparse map is not ascending within the file');
    end = offset + length;
    runs.push({ offset, length });
  }
  return runs;
}

/** Runs in an old GNU header or its extension blocks: `count` pairs of 12-byte numbers. An empty pair ends the list. */
export function decodeGnuSparse(block: Buffer, start: number, count: number): number[] {
  const numbers: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = start + index * 24;
    if (block[at] === 0) break;
    numbers.push(decodeTarNumber(block.subarray(at, at + 12), 'sparse offset'), decodeTarNumber(block.subarray(at + 12, at + 24), 'sparse length'));
  }
  return numbers;
}

const types: Readonly<Record<string, TarEntryType>> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardLink',
  '2': 'link',
  '3': 'characterDevice',
  '4': 'blockDevice',
  '5': 'directory',
  '6': 'fifo',
};

/** Owners are strict 32-bit numbers; 2^32-1 means "leave unchanged" to chown. Source: CVE-2024-40635. */
function decodeOwner(pax: Buffer | undefined, field: Buffer, what: string): number {
  const id = pax === undefined ? decodeTarNumber(field, what) : decimal(pax, what);
  if (id < 0 || id >= 0xffff_ffff) throw tarError(`${what} ${id} is outside 0 to 4294967294`);
  return id;
}

const xattrPrefix = 'SCHILY.xattr.';

function xattrsOf(pax: PaxRecords): { name: string; value: Buffer }[] {
  return [...pax].filter(([key]) => key.startsWith(xattrPrefix)).map(([key, value]) => ({ name: key.slice(xattrPrefix.length), value: Buffer.from(value) }));
}

function nameOf(block: Buffer): Buffer {
  const name = untilNul(block.subarray(0, 100));
  // The prefix belongs to ustar only; GNU keeps other things there.
  const isUstar = block.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = isUstar ? untilNul(block.subarray(345, 500)) : Buffer.alloc(0);
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
}

type Sparse = { readonly sizeBytes: number; readonly sparse: TarHeader['sparse'] };

function sparseOf(block: Buffer, pax: PaxRecords, storedBytes: number): Sparse {
  if (block[156] === 0x53) {
    const numbers = decodeGnuSparse(block, 386, 4);
    const sizeBytes = decodeTarNumber(block.subarray(483, 495), 'real size');
    return { sizeBytes, sparse: { kind: 'runs', runs: decodeSparseRuns(numbers, sizeBytes), isExtended: block[482] !== 0 } };
  }
  const size = pax.get('GNU.sparse.realsize') ?? pax.get('GNU.sparse.size');
  const map = pax.get('GNU.sparse.map');
  if (size !== undefined && map !== undefined) {
    const sizeBytes = decimal(size, 'real size');
    const numbers =
      map.length === 0
        ? []
        : map
            .toString('latin1')
            .split(',')
            .map((text) => decimal(Buffer.from(text), 'sparse map'));
    return { sizeBytes, sparse: { kind: 'runs', runs: decodeSparseRuns(numbers, sizeBytes), isExtended: false } };
  }
  if (size !== undefined && pax.get('GNU.sparse.major')?.toString() === '1') return { sizeBytes: decimal(size, 'real size'), sparse: { kind: 'inData' } };
  return { sizeBytes: storedBytes, sparse: { kind: 'none' } };
}

/** The extended facts that came before a header. */
export interface TarExtensions {
  readonly pax: PaxRecords;
  /** GNU long name and long link name. */
  readonly gnuName: string | undefined;
  readonly gnuLinkName: string | undefined;
}

/** One header block as an entry. Throws invalidArgument on an unknown type or an impossible number. */
export function decodeTarHeader(block: Buffer, { pax, gnuName, gnuLinkName }: TarExtensions): TarHeader {
  const flag = String.fromCharCode(block[156] ?? 0);
  const listed = Object.hasOwn(types, flag) ? types[flag] : undefined;
  const paxName = pax.get('GNU.sparse.name') ?? pax.get('path');
  const path = paxName === undefined ? (gnuName ?? decodeTarName(nameOf(block), 'name')) : decodeTarName(paxName, 'name');
  if (listed === undefined) throw tarError(`entry ${JSON.stringify(path.slice(0, 200))} has the unknown type ${JSON.stringify(flag)}`);
  const type = listed === 'file' && flag !== 'S' && path.endsWith('/') ? 'directory' : listed;
  const paxLink = pax.get('linkpath');
  const linkTarget = paxLink === undefined ? (gnuLinkName ?? decodeTarName(untilNul(block.subarray(157, 257)), 'link target')) : decodeTarName(paxLink, 'link target');
  const paxSize = pax.get('size');
  // Links, devices and directories carry no data whatever their size says, as in every other reader.
  const storedBytes = type !== 'file' ? 0 : paxSize === undefined ? decodeTarNumber(block.subarray(124, 136), 'size') : decimal(paxSize, 'size');
  if (storedBytes < 0) throw tarError('size is negative');
  const paxTime = pax.get('mtime');
  const { sizeBytes, sparse }: Sparse = type === 'file' ? sparseOf(block, pax, storedBytes) : { sizeBytes: 0, sparse: { kind: 'none' } };
  const isDevice = type === 'characterDevice' || type === 'blockDevice';
  return {
    entry: {
      type,
      path,
      linkTarget: type === 'link' || type === 'hardLink' ? linkTarget : '',
      mode: decodeTarNumber(block.subarray(100, 108), 'mode') & 0o7777,
      uid: decodeOwner(pax.get('uid'), block.subarray(108, 116), 'uid'),
      gid: decodeOwner(pax.get('gid'), block.subarray(116, 124), 'gid'),
      sizeBytes,
      mtimeNs: paxTime === undefined ? BigInt(decodeTarNumber(block.subarray(136, 148), 'mtime')) * 1_000_000_000n : decodePaxTime(paxTime),
      major: isDevice ? decodeTarNumber(block.subarray(329, 337), 'device major') : 0,
      minor: isDevice ? decodeTarNumber(block.subarray(337, 345), 'device minor') : 0,
      xattrs: xattrsOf(pax),
    },
    storedBytes,
    sparse,
  };
}
