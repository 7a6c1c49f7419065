/**
 * A layer as its index says it is, compared with the tree that is there. In: the index's text, then what was found, entry by entry. Out: differences in
 * words. Pure.
 *
 * The layer's own root is not compared: its attributes are in no index. Attributes that the host's own labels add are passed over.
 */
import { createHash } from 'node:crypto';
import { RuntimeError } from '#core';
import { arrayOf, decodeSafeInteger, decodeString, decodeUint32, parseJson } from '#oci';
import type { InspectedEntry } from '#system';
import { describeDevice } from './layer-compiler.ts';
import { isReservedXattr } from './layer-path.ts';

type Kind = 'd' | 'f' | 'n' | 'l' | 'w';

/** One thing in the layer; hard links share it. */
interface Expected {
  readonly kind: Kind;
  /** Its line in the index, decoded when the entry is found: a million decoded lines would not fit. */
  readonly line: string;
  /** What its first name that was found has; further names must be the same file. */
  inode: bigint | undefined;
}

const typeBits = 0o170000;
const typesByKind: Readonly<Record<Kind, readonly number[]>> = {
  d: [0o040000],
  f: [0o100000],
  n: [0o020000, 0o060000, 0o010000],
  l: [0o120000],
  // Where a device could not be made, a whiteout is a marked empty file.
  w: [0o020000, 0o100000],
};
const typeNames: Readonly<Record<number, string>> = {
  0o040000: 'a directory',
  0o100000: 'a file',
  0o120000: 'a symbolic link',
  0o020000: 'a character device',
  0o060000: 'a block device',
  0o010000: 'a FIFO',
  0o140000: 'a socket',
};
const kindNames: Readonly<Record<Kind, string>> = { d: 'a directory', f: 'a file', n: 'a device or FIFO', l: 'a symbolic link', w: 'a whiteout' };
const differencesMax = 10;
/** Times beyond what common file systems keep are stored as the nearest they can. */
const timeNs = { min: -(2n ** 31n) * 1_000_000_000n, max: 2n ** 31n * 1_000_000_000n };

/** Compares one layer. Feed it the entries and content as they come, then ask for the differences. */
export class LayerComparison {
  readonly #expected: Map<string, Expected>;
  readonly #differences: string[] = [];
  #count = 0;
  #contentBytes = 0;
  #file: { readonly path: string; readonly sha256: string; readonly hash: ReturnType<typeof createHash> } | undefined;

  /** Throws dataLoss on an index that cannot be read. */
  constructor(indexText: string) {
    this.#expected = decodeIndexEntries(indexText);
  }

  /** Bytes of file content seen so far. */
  get contentBytes(): number {
    return this.#contentBytes;
  }

  entry(found: InspectedEntry): void {
    this.#file = undefined;
    const expected = this.#expected.get(found.path);
    if (expected === undefined) {
      this.#differ(found.path, 'is not in the index');
      return;
    }
    this.#expected.delete(found.path);
    const type = found.mode & typeBits;
    if (!typesByKind[expected.kind].includes(type)) {
      this.#differ(found.path, `is ${typeNames[type] ?? 'something else'} instead of ${kindNames[expected.kind]}`);
      return;
    }
    if (expected.inode !== undefined && expected.inode !== found.inode) this.#differ(found.path, 'is no longer the same file as its other names');
    expected.inode ??= found.inode;
    if (expected.kind === 'w') this.#compareWhiteout(found);
    else this.#compare(found, expected.kind, decodeLine(expected.line));
  }

  content(chunk: Uint8Array): void {
    this.#contentBytes += chunk.length;
    if (this.#file === undefined) return;
    if (chunk.length > 0) this.#file.hash.update(chunk);
    else {
      const found = this.#file.hash.digest('hex');
      if (found !== this.#file.sha256) this.#differ(this.#file.path, 'has other content');
      this.#file = undefined;
    }
  }

  /** The first differences in words, with the number of further ones; what was expected and never came is among them. */
  finish(): readonly string[] {
    for (const path of [...this.#expected.keys()].sort()) this.#differ(path, 'is missing');
    const more = this.#count - this.#differences.length;
    return more === 0 ? this.#differences : [...this.#differences, `and ${more} more`];
  }

  #differ(path: string, what: string): void {
    this.#count += 1;
    if (this.#differences.length < differencesMax) this.#differences.push(`${JSON.stringify(path.slice(0, 300))} ${what}`);
  }

  #compareWhiteout(found: InspectedEntry): void {
    const isDevice = (found.mode & typeBits) === 0o020000 && found.device.major === 0 && found.device.minor === 0;
    const isMarkedFile = found.sizeBytes === 0n && found.xattrs.some(({ name }) => name === 'user.overlay.whiteout');
    if (!isDevice && !isMarkedFile) this.#differ(found.path, 'is no whiteout any more');
  }

  #compare(found: InspectedEntry, kind: Exclude<Kind, 'w'>, line: readonly unknown[]): void {
    const differ = (what: string): void => this.#differ(found.path, what);
    const [mode, uid, gid, mtimeNs] = [decodeUint32(line[2], 'mode'), decodeUint32(line[3], 'uid'), decodeUint32(line[4], 'gid'), BigInt(decodeString(line[5], 'mtime'))];
    const permissions = found.mode & 0o7777;
    if (permissions !== mode && kind !== 'l') differ(`has mode ${permissions.toString(8)} instead of ${mode.toString(8)}`);
    if (found.uid !== uid || found.gid !== gid) differ(`belongs to ${found.uid}:${found.gid} instead of ${uid}:${gid}`);
    if (found.mtimeNs !== mtimeNs && mtimeNs >= timeNs.min && mtimeNs < timeNs.max) differ(`was changed at ${found.mtimeNs} ns instead of ${mtimeNs}`);
    this.#compareXattrs(found, decodeXattrs(line[6]));
    if (kind === 'd') this.#compareOpaque(found, line[7] === 1);
    if (kind === 'l' && found.target !== decodeString(line[9], 'target')) differ('leads elsewhere');
    const device = describeDevice({ type: found.mode & typeBits, ...found.device });
    if (kind === 'n' && device !== decodeString(line[9], 'device')) differ(`is the device ${device} instead of ${decodeString(line[9], 'device')}`);
    if (kind !== 'f') return;
    const sizeBytes = decodeSafeInteger(line[9], 'size');
    if (found.sizeBytes !== BigInt(sizeBytes)) differ(`has ${found.sizeBytes} bytes instead of ${sizeBytes}`);
    else this.#file = { path: found.path, sha256: decodeString(line[10], 'sha256'), hash: createHash('sha256') };
  }

  #compareXattrs(found: InspectedEntry, expected: ReadonlyMap<string, string>): void {
    const actual = new Map(found.xattrs.map(({ name, value }) => [name, Buffer.from(value).toString('base64')]));
    for (const [name, value] of expected) if (actual.get(name) !== value) this.#differ(found.path, `has another ${JSON.stringify(name)}`);
    for (const name of actual.keys())
      if (!expected.has(name) && !isReservedXattr(name) && name !== 'security.selinux') this.#differ(found.path, `has an attribute ${JSON.stringify(name.slice(0, 100))} too many`);
  }

  #compareOpaque(found: InspectedEntry, isOpaque: boolean): void {
    const marks = found.xattrs.some(({ name, value }) => /^(trusted|user)\.overlay\.opaque$/.test(name) && Buffer.from(value).toString('latin1') === 'y');
    if (marks !== isOpaque) this.#differ(found.path, isOpaque ? 'no longer hides what is below' : 'hides what is below');
  }
}

function decodeXattrs(value: unknown): ReadonlyMap<string, string> {
  const pairs = arrayOf(arrayOf(decodeString, 2))(value, 'xattrs');
  return new Map(pairs.map(([name = '', text = '']) => [name, text]));
}

function decodeLine(line: string): readonly unknown[] {
  return arrayOf((value) => value)(parseJson(line, 'line'), 'line');
}

/** What the layer must hold once all of the index has happened: a later line replaces an earlier one, and what was below it. */
function decodeIndexEntries(text: string): Map<string, Expected> {
  const entries = new Map<string, Expected>();
  try {
    for (const line of text.split('\n')) {
      if (line === '') continue;
      const row = decodeLine(line);
      const [kind, path] = [decodeString(row[0], 'kind'), decodeString(row[1], 'path')];
      if (entries.get(path)?.kind === 'd' && kind !== 'd') for (const below of [...entries.keys()]) if (below.startsWith(`${path}/`)) entries.delete(below);
      if (kind === 'h') {
        const target = entries.get(decodeString(row[2], 'target'));
        if (target === undefined) throw new RuntimeError('dataLoss', `the link ${JSON.stringify(path.slice(0, 200))} leads nowhere`);
        entries.set(path, target);
      } else if (kind === 'd' || kind === 'f' || kind === 'n' || kind === 'l' || kind === 'w') {
        entries.set(path, { kind, line, inode: undefined });
      } else throw new RuntimeError('dataLoss', `unknown line ${JSON.stringify(kind.slice(0, 20))}`);
    }
  } catch (cause) {
    throw new RuntimeError('dataLoss', `read layer index: ${cause instanceof Error ? cause.message : 'damaged'}`, { cause });
  }
  return entries;
}
