/** The tar reader against crafted archives, in pieces of every awkward size. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { TarEntry } from './tar-header.ts';
import { encodeTarHeader } from './tar-writer.ts';
import { TarReader } from './tar.ts';
import { type CraftedEntry, craftTar, paxRecord } from './testing/tar-build.ts';

interface Member extends TarEntry {
  readonly content: string;
}

function readTar(archive: Uint8Array, pieceBytes = archive.length): Member[] {
  const members: { entry: TarEntry; chunks: Buffer[] }[] = [];
  const reader = new TarReader({
    entry: (entry, ordinal) => {
      assert.equal(ordinal, members.length);
      members.push({ entry, chunks: [] });
    },
    data: (chunk) => void members.at(-1)?.chunks.push(Buffer.from(chunk)),
  });
  for (let at = 0; at < archive.length; at += pieceBytes) reader.write(archive.subarray(at, at + pieceBytes));
  reader.finish();
  return members.map(({ entry, chunks }) => ({ ...entry, content: Buffer.concat(chunks).toString('latin1') }));
}

const readOne = (entry: CraftedEntry): Member => {
  const [member] = readTar(craftTar([entry]));
  assert.ok(member !== undefined);
  return member;
};

function refuses(archive: Uint8Array, message: string): void {
  assert.throws(
    () => readTar(archive),
    (error) => {
      assert.ok(error instanceof RuntimeError);
      assert.deepEqual([error.code, error.message], ['invalidArgument', `read tar: ${message}`]);
      return true;
    },
  );
}

test('members and their content come out the same whatever the pieces', () => {
  const archive = craftTar([
    { name: 'dir/', type: '5', mode: 0o755 },
    { name: 'dir/file', content: 'x'.repeat(1500), uid: 12, gid: 34, mode: 0o4755 },
    { name: 'empty' },
    { name: 'link', type: '2', link: 'dir/file' },
    { name: 'hard', type: '1', link: 'dir/file', sizeBytes: 1500 },
    { name: 'long', content: 'y'.repeat(512), pax: { path: 'p/'.repeat(120) + 'long' } },
    { name: 'null', type: '3', device: [1, 3] },
    { name: 'pipe', type: '6' },
  ]);
  const whole = readTar(archive);
  assert.deepEqual(
    whole.map(({ path, type, content, linkTarget }) => [path.slice(-8), type, content.length, linkTarget]),
    [
      ['dir/', 'directory', 0, ''],
      ['dir/file', 'file', 1500, ''],
      ['empty', 'file', 0, ''],
      ['link', 'link', 0, 'dir/file'],
      ['hard', 'hardLink', 0, 'dir/file'],
      ['p/p/long', 'file', 512, ''],
      ['null', 'characterDevice', 0, ''],
      ['pipe', 'fifo', 0, ''],
    ],
  );
  assert.deepEqual([whole[1]?.uid, whole[1]?.gid, whole[1]?.mode, whole[6]?.major, whole[6]?.minor], [12, 34, 0o4755, 1, 3]);
  for (const pieceBytes of [1, 7, 511, 512, 513, 4096]) assert.deepEqual(readTar(archive, pieceBytes), whole, `pieces of ${pieceBytes}`);
});

test('PAX records give long names, large owners, nanoseconds and extended attributes', () => {
  const member = readOne({
    name: 'x',
    pax: { path: 'ä/€', uid: '4000000000', gid: '7', mtime: '1600000000.123456789', 'SCHILY.xattr.security.capability': 'a\u0000b', 'SCHILY.xattr.user.eq': 'k=v\nw' },
  });
  assert.deepEqual([member.path, member.uid, member.gid, member.mtimeNs], ['ä/€', 4_000_000_000, 7, 1_600_000_000_123_456_789n]);
  assert.deepEqual(
    member.xattrs.map(({ name, value }) => [name, Buffer.from(value).toString('latin1')]),
    [
      ['security.capability', 'a\0b'],
      ['user.eq', 'k=v\nw'],
    ],
  );
  assert.equal(readOne({ name: 'x', pax: { mtime: '-1.5' } }).mtimeNs, -1_500_000_000n);
});

test('GNU long names, base-256 numbers and the ustar prefix are understood', () => {
  const name = 'n'.repeat(300);
  const [member] = readTar(
    craftTar([
      { name: '././@LongLink', type: 'L', content: `${name}\0` },
      { name: '././@LongLink', type: 'K', content: 'target\0' },
      { name: 'short', type: '2', link: 'cut' },
    ]),
  );
  assert.deepEqual([member?.path, member?.linkTarget], [name, 'target']);
  assert.equal(readOne({ name: 'x', patch: [[108, Uint8Array.of(0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0x00)]] }).uid, 4_000_000_000);
  assert.equal(readOne({ name: 'x', patch: [[136, Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)]] }).mtimeNs, -1_000_000_000n);
  assert.equal(readOne({ name: 'base', patch: [[345, Buffer.from('some/prefix')]] }).path, 'some/prefix/base');
});

test('sparse files of every format become the file with its zeros', () => {
  const wanted = `${'\0'.repeat(1000)}abcde${'\0'.repeat(3000)}fg${'\0'.repeat(993)}`;
  const octal = (value: number): Buffer => Buffer.from(`${value.toString(8).padStart(11, '0')}\0`);
  const gnu = readOne({
    name: 's',
    type: 'S',
    content: 'abcdefg',
    patch: [
      [386, Buffer.concat([octal(1000), octal(5), octal(4005), octal(2)])],
      [483, octal(5000)],
      [345, Buffer.alloc(0)],
    ],
  });
  assert.equal(gnu.content, wanted);
  const pax01 = readOne({ name: 's', content: 'abcdefg', pax: { 'GNU.sparse.map': '1000,5,4005,2', 'GNU.sparse.size': '5000', 'GNU.sparse.name': 'real' } });
  assert.deepEqual([pax01.path, pax01.content], ['real', wanted]);
  const map = Buffer.alloc(512);
  map.write('2\n1000\n5\n4005\n2\n');
  const pax10 = readOne({
    name: 's',
    content: Buffer.concat([map, Buffer.from('abcdefg')]),
    pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '5000', 'GNU.sparse.name': 'real' },
  });
  assert.deepEqual([pax10.path, pax10.content], ['real', wanted]);
  const hole = readOne({ name: 's', pax: { 'GNU.sparse.map': '', 'GNU.sparse.size': '700000' } });
  assert.equal(hole.content, '\0'.repeat(700_000));
});

test('a hole pauses the reader, so that a small archive cannot fill memory', () => {
  const archive = craftTar([{ name: 's', pax: { 'GNU.sparse.map': '', 'GNU.sparse.size': String(2 ** 40) } }]);
  let bytes = 0;
  const reader = new TarReader({ entry: () => undefined, data: (chunk) => void (bytes += chunk.length) });
  const pauses = reader.feed(archive);
  for (let count = 0; count < 4; count += 1) assert.equal(pauses.next().done, false);
  assert.ok(bytes <= 4 * 256 * 1024, `${bytes} bytes in four pauses`);
});

test('damaged and dishonest archives are refused', () => {
  const good = craftTar([{ name: 'file', content: 'content' }]);
  const flipped = Buffer.from(good);
  flipped[0] = 0x7a;
  refuses(flipped, 'header checksum does not match; the archive is damaged or no tar');
  refuses(good.subarray(0, 700), 'the archive ends in the middle of an entry');
  refuses(craftTar([{ name: 'x', type: 'M' }]), 'entry "x" has the unknown type "M"');
  refuses(craftTar([{ name: 'x', pax: { uid: '4294967295' } }]), 'uid 4294967295 is outside 0 to 4294967294');
  refuses(craftTar([{ name: 'x', pax: { path: 'a\0b' } }]), 'name contains a NUL byte');
  refuses(craftTar([{ name: 'x', patch: [[0, Uint8Array.of(0xff, 0xfe)]] }]), 'name "ÿþ" is not UTF-8');
  refuses(craftTar([{ name: 'x', pax: { path: 'p'.repeat(5000) } }]), 'name of 5000 bytes, at most 4096');
  refuses(craftTar([{ name: 'x', type: 'x', sizeBytes: 2 ** 21 }]), 'extended header of 2097152 bytes, at most 1048576');
  refuses(craftTar([{ name: 'pax', type: 'x', content: '99 path=x\n' }]), 'malformed PAX record');
  refuses(craftTar([{ name: 'pax', type: 'x', content: `${paxRecord('a', 'b')}x` }]), 'malformed PAX record');
  refuses(craftTar([{ name: 's', content: 'abc', pax: { 'GNU.sparse.map': '10,3,5,1', 'GNU.sparse.size': '20' } }]), 'sparse map is not ascending within the file');
  refuses(craftTar([{ name: 's', content: 'abc', pax: { 'GNU.sparse.map': '0,2', 'GNU.sparse.size': '20' } }]), 'entry "s" stores 3 bytes but its map names 2');
  refuses(Buffer.concat([Buffer.alloc(512), good]), 'a single block of zeros inside the archive');
});

test('what our own writer makes is read back', () => {
  const long = `${'d/'.repeat(90)}file`;
  const archive = Buffer.concat([
    encodeTarHeader({ kind: 'directory', path: 'tmp', mode: 0o1777 }),
    encodeTarHeader({ kind: 'link', path: 'lib', target: 'usr/lib' }),
    encodeTarHeader({ kind: 'file', path: long, mode: 0o755, sizeBytes: 3 }),
    Buffer.from('abc'),
    Buffer.alloc(509),
    Buffer.alloc(1024),
  ]);
  assert.deepEqual(
    readTar(archive).map(({ path, type, mode, content, linkTarget }) => [path, type, mode, content, linkTarget]),
    [
      ['tmp/', 'directory', 0o1777, '', ''],
      ['lib', 'link', 0o777, '', 'usr/lib'],
      [long, 'file', 0o755, 'abc', ''],
    ],
  );
});
