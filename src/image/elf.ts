/**
 * What an ELF file needs to run: its interpreter and its libraries. In: a reader of the file's bytes. Out: names as written.
 * Pure; every offset is checked, so a damaged file is an error and never a wild read.
 * Source: System V ABI, chapters 4 and 5; elf(5).
 */
import { RuntimeError } from '#core';

/** Reads up to `length` bytes at an offset of the file; shorter at its end. */
export type ReadAt = (offset: number, length: number) => Buffer;

/** What one file names as its needs. */
export interface ElfNeeds {
  /** Machine number of the header; libraries of another machine do not fit. */
  readonly machine: number;
  readonly is64Bit: boolean;
  /** Absent for static programs and for libraries. */
  readonly interpreter?: string;
  /** DT_NEEDED, in order. */
  readonly libraries: readonly string[];
  /** DT_RPATH, used only where there is no RUNPATH. */
  readonly rpath: readonly string[];
  readonly runpath: readonly string[];
}

const stringBytesMax = 4096;
const tableBytesMax = 1024 * 1024;
const segment = { load: 1, dynamic: 2, interpreter: 3 } as const;
const tag = { end: 0, needed: 1, stringTable: 5, rpath: 15, runpath: 29 } as const;

function elfError(cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', `read ELF file: ${cause}`);
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly fileBytes: number;
}

/** True for the four magic bytes. */
export function isElf(head: Buffer): boolean {
  return head.length >= 4 && head.readUInt32BE(0) === 0x7f454c46;
}

/** What the file needs. Throws invalidArgument for anything that is no little-endian ELF file of 32 or 64 bits. */
export function readElfNeeds(readAt: ReadAt): ElfNeeds {
  const header = readAt(0, 64);
  if (!isElf(header) || header.length < 52) throw elfError('no ELF header');
  if (header[5] !== 1) throw elfError('not little-endian');
  const is64Bit = header[4] === 2;
  if (is64Bit && header.length < 64) throw elfError('header is cut off');
  const segments = readSegments(readAt, header, is64Bit);
  const interpreter = segments.find(({ type }) => type === segment.interpreter);
  const dynamic = segments.find(({ type }) => type === segment.dynamic);
  const base = { machine: header.readUInt16LE(18), is64Bit, ...(interpreter === undefined ? {} : { interpreter: readString(readAt, interpreter.offset) }) };
  if (dynamic === undefined) return { ...base, libraries: [], rpath: [], runpath: [] };
  const entries = readDynamic(readAt, dynamic, is64Bit);
  const table = entries.find((entry) => entry.tag === tag.stringTable);
  if (table === undefined) throw elfError('no string table');
  const tableOffset = fileOffset(segments, table.value);
  const texts = (wanted: number): string[] => entries.filter((entry) => entry.tag === wanted).map(({ value }) => readString(readAt, tableOffset + value));
  const paths = (wanted: number): string[] =>
    texts(wanted)
      .flatMap((text) => text.split(':'))
      .filter((path) => path !== '');
  return { ...base, libraries: texts(tag.needed), rpath: paths(tag.rpath), runpath: paths(tag.runpath) };
}

function number64(bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  // Addresses beyond 2^53 occur in no program that the kernel loads.
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw elfError('an offset is out of range');
  return Number(value);
}

function readSegments(readAt: ReadAt, header: Buffer, is64Bit: boolean): Segment[] {
  const offset = is64Bit ? number64(header, 32) : header.readUInt32LE(28);
  const entryBytes = header.readUInt16LE(is64Bit ? 54 : 42);
  const count = header.readUInt16LE(is64Bit ? 56 : 44);
  if (entryBytes < (is64Bit ? 56 : 32)) throw elfError('program headers are too small');
  const table = readAt(offset, entryBytes * count);
  if (table.length < entryBytes * count) throw elfError('program headers are cut off');
  return Array.from({ length: count }, (_, index) => {
    const at = index * entryBytes;
    const type = table.readUInt32LE(at);
    return is64Bit
      ? { type, offset: looseNumber64(table, at + 8), address: looseNumber64(table, at + 16), fileBytes: looseNumber64(table, at + 32) }
      : { type, offset: table.readUInt32LE(at + 4), address: table.readUInt32LE(at + 8), fileBytes: table.readUInt32LE(at + 16) };
  });
}

/** Segments that we do not use may hold anything; an impossible one only never matches. */
function looseNumber64(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

function readDynamic(readAt: ReadAt, dynamic: Segment, is64Bit: boolean): { readonly tag: number; readonly value: number }[] {
  const entryBytes = is64Bit ? 16 : 8;
  const table = readAt(dynamic.offset, Math.min(dynamic.fileBytes, tableBytesMax));
  const entries: { tag: number; value: number }[] = [];
  for (let at = 0; at + entryBytes <= table.length; at += entryBytes) {
    const entry = is64Bit ? { tag: looseNumber64(table, at), value: looseNumber64(table, at + 8) } : { tag: table.readUInt32LE(at), value: table.readUInt32LE(at + 4) };
    if (entry.tag === tag.end) break;
    entries.push(entry);
  }
  return entries;
}

function fileOffset(segments: readonly Segment[], address: number): number {
  const inside = segments.find((one) => one.type === segment.load && address >= one.address && address < one.address + one.fileBytes);
  if (inside === undefined) throw elfError('the string table is in no segment');
  return address - inside.address + inside.offset;
}

function readString(readAt: ReadAt, offset: number): string {
  if (!Number.isSafeInteger(offset)) throw elfError('an offset is out of range');
  const bytes = readAt(offset, stringBytesMax);
  const end = bytes.indexOf(0);
  if (end < 0) throw elfError('a name has no end');
  return bytes.toString('utf8', 0, end);
}

/** Where `$ORIGIN` and `${ORIGIN}` of a search path lead for a file in `directory`. Paths with other tokens are left out. */
export function expandSearchPath(paths: readonly string[], directory: string): readonly string[] {
  return paths.map((path) => path.replaceAll(/\$(?:ORIGIN|\{ORIGIN\})/g, directory)).filter((path) => path.startsWith('/') && !path.includes('$'));
}

/** Directories that the loader searches last, for 64-bit and 32-bit programs. Debian's multiarch ones stand before them. */
export function standardLibraryDirs(needs: Pick<ElfNeeds, 'machine' | 'is64Bit'>): readonly string[] {
  const triplet: Readonly<Record<number, string>> = {
    62: 'x86_64-linux-gnu',
    183: 'aarch64-linux-gnu',
    3: 'i386-linux-gnu',
    40: 'arm-linux-gnueabihf',
    243: 'riscv64-linux-gnu',
    21: 'powerpc64le-linux-gnu',
    22: 's390x-linux-gnu',
  };
  const name = triplet[needs.machine];
  const multiarch = name === undefined ? [] : [`/usr/local/lib/${name}`, `/lib/${name}`, `/usr/lib/${name}`];
  return [...multiarch, '/usr/local/lib', ...(needs.is64Bit ? ['/lib64', '/usr/lib64'] : []), '/lib', '/usr/lib'];
}

/**
 * The loader's cache of library names and paths, best first. Source: glibc's `struct cache_file_new` ("glibc-ld.so.cache1.1").
 * A cache of another shape gives nothing: the standard directories remain.
 */
export function decodeLoaderCache(bytes: Buffer): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  const magic = 'glibc-ld.so.cache1.1';
  const start = bytes.indexOf(magic, 0, 'latin1');
  if (start < 0 || bytes.length < start + 48) return found;
  const text = (at: number): string => {
    const end = at < 0 || at >= bytes.length ? -1 : bytes.indexOf(0, at);
    return end < 0 ? '' : bytes.toString('utf8', at, end);
  };
  const count = Math.min(bytes.readUInt32LE(start + 20), Math.floor((bytes.length - start - 48) / 24));
  for (let index = 0; index < count; index += 1) {
    const at = start + 48 + index * 24;
    const [name, path] = [text(start + bytes.readUInt32LE(at + 4)), text(start + bytes.readUInt32LE(at + 8))];
    if (name !== '' && path.startsWith('/')) found.set(name, [...(found.get(name) ?? []), path]);
  }
  return found;
}
