/**
 * The unpack child against the kernel: what each layer record makes, and that hostile ones make nothing outside the layer
 * (CVE-2021-32760, CVE-2025-47290).
 */
import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type LayerRecord, encodeLayerRecord } from '#plan';
import { makeScratch, readXattr, removeScratch, runUnpack, skip } from './native-driver.ts';

const [EPERM, ENOENT, ENOTDIR, EINVAL, ELOOP, EPROTO] = [1, 2, 20, 22, 40, 71] as const;
after(removeScratch);

describe('the unpack child', { skip }, () => {
  const attributes = { mode: 0o644, uid: 0, gid: 0, mtimeNs: 1_000_000_000_500_000_000n, xattrs: [] };
  function unpack(records: readonly (LayerRecord | Buffer)[], chunk?: number): { output: string; layer: string } {
    const layer = join(makeScratch(), 'layer');
    mkdirSync(layer);
    return { output: runUnpack(layer, records, chunk), layer };
  }
  /** A record whose body is one byte too long. */
  const withByte = (record: LayerRecord): Buffer => {
    const bytes = Buffer.concat([encodeLayerRecord(record), Buffer.alloc(1)]);
    bytes.writeUInt32LE(bytes.length - 8, 4);
    return bytes;
  };
  const finish: LayerRecord = { op: 'finish' };
  const file = (path: string, content: string): LayerRecord[] => [
    { op: 'file', path, ...attributes, size: BigInt(content.length) },
    ...(content === '' ? [] : [{ op: 'data', data: Buffer.from(content) } as const]),
  ];

  for (const chunk of [1, 7, 1 << 20]) {
    it(`makes every kind of entry from records that arrive in pieces of ${chunk}`, () => {
      const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
      const { output, layer } = unpack(
        [
          { op: 'directory', path: 'd', ...attributes, mode: 0o1770, uid: 5, gid: 6, xattrs: [{ name: 'user.note', value: Buffer.from('hello') }] },
          ...file('d/text', 'content'),
          { op: 'file', path: 'implied/parent/tool', ...attributes, mode: 0o4755, uid: 7, size: 3n, xattrs: [{ name: 'security.capability', value: capability }] },
          { op: 'data', data: Buffer.from('a') },
          { op: 'data', data: Buffer.from('bc') },
          { op: 'link', path: 'd/link', target: '/etc/passwd', ...attributes },
          { op: 'hardLink', path: 'd/hard', target: 'd/text' },
          { op: 'node', path: 'd/null', type: 0o020000, major: 1, minor: 3, ...attributes, mode: 0o666 },
          { op: 'node', path: 'd/fifo', type: 0o010000, major: 0, minor: 0, ...attributes },
          { op: 'whiteout', path: 'gone' },
          { op: 'opaque', path: 'd' },
          { op: 'opaque', path: 'fresh/opaque' },
          finish,
        ],
        chunk,
      );
      assert.equal(output, 'ok 10\n');
      const directory = statSync(join(layer, 'd'), { bigint: true });
      assert.deepEqual([directory.mode & 0o7777n, directory.uid, directory.gid, directory.mtimeNs], [0o1770n, 5n, 6n, attributes.mtimeNs]);
      assert.equal(statSync(join(layer, 'd/text'), { bigint: true }).mtimeNs, attributes.mtimeNs);
      assert.equal(readFileSync(join(layer, 'implied/parent/tool'), 'utf8'), 'abc');
      assert.equal(statSync(join(layer, 'implied/parent/tool')).mode & 0o7777, 0o4755);
      assert.equal(statSync(join(layer, 'implied/parent')).mode & 0o7777, 0o755);
      assert.equal(statSync(join(layer, 'd/hard')).ino, statSync(join(layer, 'd/text')).ino);
      assert.equal(statSync(join(layer, 'd/null')).rdev, 0x103);
      assert.ok(lstatSync(join(layer, 'gone')).isCharacterDevice() && lstatSync(join(layer, 'gone')).rdev === 0);
      assert.equal(readXattr(join(layer, 'd'), 'user.note'), Buffer.from('hello').toString('hex'));
      for (const path of ['d', 'fresh/opaque']) assert.equal(readXattr(join(layer, path), 'trusted.overlay.opaque'), '79');
      assert.equal(readXattr(join(layer, 'implied/parent/tool'), 'security.capability'), capability.toString('hex'));
    });
  }

  it('replaces what an earlier record made, and keeps whiteouts apart from entries of the same layer', () => {
    const { output, layer } = unpack([
      { op: 'directory', path: 'tree', ...attributes, mode: 0o755 },
      ...file('tree/a/b', 'x'),
      ...file('tree', 'now a file'),
      ...file('name', 'x'),
      { op: 'directory', path: 'name', ...attributes, mode: 0o700 },
      ...file('name/in', 'y'),
      { op: 'link', path: 'l', target: 'name', ...attributes },
      ...file('l', 'not through the link'),
      ...file('stays', 'x'),
      { op: 'whiteout', path: 'stays' },
      { op: 'whiteout', path: 'again' },
      { op: 'directory', path: 'again', ...attributes, mode: 0o755 },
      finish,
    ]);
    assert.equal(output, 'ok 12\n');
    assert.equal(readFileSync(join(layer, 'tree'), 'utf8'), 'now a file');
    assert.deepEqual(readdirSync(join(layer, 'name')), ['in']);
    assert.equal(readFileSync(join(layer, 'l'), 'utf8'), 'not through the link');
    assert.equal(readFileSync(join(layer, 'stays'), 'utf8'), 'x');
    assert.equal(readXattr(join(layer, 'again'), 'trusted.overlay.opaque'), '79');
  });

  it('gives the root its attributes, whatever is made in it before and after, and the last record counts', () => {
    const root = { op: 'root', mode: 0o700, uid: 1, gid: 2, mtimeNs: 1n, xattrs: [{ name: 'user.first', value: Buffer.from('x') }] } as const;
    const mtimeNs = 1_330_837_567_123_456_789n;
    const { output, layer } = unpack([
      root,
      ...file('before', 'x'),
      { ...root, mode: 0o1711, uid: 3, gid: 4, mtimeNs, xattrs: [{ name: 'user.last', value: Buffer.from('y') }] },
      ...file('after', 'y'),
      finish,
    ]);
    assert.equal(output, 'ok 4\n');
    const info = statSync(layer, { bigint: true });
    assert.deepEqual([info.mode & 0o7777n, info.uid, info.gid, info.mtimeNs], [0o1711n, 3n, 4n, mtimeNs]);
    assert.deepEqual([readXattr(layer, 'user.first'), readXattr(layer, 'user.last')], ['', '79']);
    assert.equal(statSync(join(layer, 'after')).uid, 0);
    const early = unpack([{ ...root, mtimeNs: -1n }, finish]);
    assert.equal(statSync(early.layer, { bigint: true }).mtimeNs, -1n, 'a nanosecond before 1970');
  });

  it('turns blocks of zeros into holes and keeps the length', () => {
    const size = 3 << 20;
    const data = Buffer.alloc(1 << 20);
    const { output, layer } = unpack([
      { op: 'file', path: 'sparse', ...attributes, size: BigInt(size) },
      { op: 'data', data },
      { op: 'data', data: Buffer.concat([Buffer.from('x'), data.subarray(1)]) },
      { op: 'data', data },
      finish,
    ]);
    assert.equal(output, 'ok 1\n');
    const info = statSync(join(layer, 'sparse'));
    assert.equal(info.size, size);
    assert.ok(info.blocks * 512 < 64 * 1024);
    const content = readFileSync(join(layer, 'sparse'));
    assert.equal(content[1 << 20], 0x78);
    assert.equal(
      content.reduce((sum, byte) => sum + byte, 0),
      0x78,
    );
  });

  const hostile: [string, (LayerRecord | Buffer)[], string][] = [
    ['a parent that is ".."', file('a/../../escape', ''), `failed ${EINVAL} a/../../escape`],
    ['an absolute path', file('/etc/escape', ''), `failed ${EINVAL} /etc/escape`],
    ['an empty component', file('a//b', ''), `failed ${EINVAL} a//b`],
    ['a final slash', file('a/', ''), `failed ${EINVAL} a/`],
    ['an empty path', file('', ''), `failed ${EINVAL} `],
    ['a parent that is a link out', [{ op: 'link', path: 'out', target: '/tmp', ...attributes }, ...file('out/escape', '')], `failed ${ELOOP} out/escape`],
    [
      'a parent that is a link inside',
      [{ op: 'directory', path: 'in', ...attributes }, { op: 'link', path: 'l', target: 'in', ...attributes }, ...file('l/x', '')],
      `failed ${ELOOP} l/x`,
    ],
    ['a parent that is a file', [...file('f', 'x'), ...file('f/x', '')], `failed ${ENOTDIR} f/x`],
    ['a hard link out', [{ op: 'hardLink', path: 'h', target: '../../etc/passwd' }], `failed ${EINVAL} h`],
    [
      'a hard link through a link',
      [
        { op: 'link', path: 'l', target: '/etc', ...attributes },
        { op: 'hardLink', path: 'h', target: 'l/passwd' },
      ],
      `failed ${ELOOP} h`,
    ],
    [
      'a hard link to a directory',
      [
        { op: 'directory', path: 'd', ...attributes },
        { op: 'hardLink', path: 'h', target: 'd' },
      ],
      `failed ${EPERM} h`,
    ],
    ['a hard link to nothing', [...file('h', 'x'), { op: 'hardLink', path: 'h', target: 'none' }], `failed ${ENOENT} h`],
    ['a node of another type', [{ op: 'node', path: 'n', type: 0o140000, major: 0, minor: 0, ...attributes }], `failed ${EINVAL} n`],
    [
      'an overlay attribute of its own',
      [{ op: 'directory', path: 'd', ...attributes, xattrs: [{ name: 'trusted.overlay.redirect', value: Buffer.from('/etc') }] }],
      `failed ${EPERM} d`,
    ],
    ['a root with an overlay attribute', [{ op: 'root', ...attributes, xattrs: [{ name: 'trusted.overlay.opaque', value: Buffer.from('y') }] }], `failed ${EPERM} `],
    ['a root with type bits in its mode', [{ op: 'root', ...attributes, mode: 0o40755 }], `failed ${EINVAL} `],
    ['a root of the user id that means no change', [{ op: 'root', ...attributes, uid: 0xffffffff }], `failed ${EINVAL} `],
    ['a root with more than its fields', [withByte({ op: 'root', ...attributes })], `failed ${EPROTO} `],
    ['a root that is cut short', [Buffer.from([12, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0])], `failed ${EPROTO} `],
    ['a mode with type bits', [{ op: 'directory', path: 'd', ...attributes, mode: 0o40755 }], `failed ${EINVAL} d`],
    ['the user id that means no change', [{ op: 'directory', path: 'd', ...attributes, uid: 0xffffffff }], `failed ${EINVAL} d`],
    [
      'more content than said',
      [
        { op: 'file', path: 'f', ...attributes, size: 1n },
        { op: 'data', data: Buffer.from('xy') },
      ],
      `failed ${EPROTO} f`,
    ],
    ['less content than said', [{ op: 'file', path: 'f', ...attributes, size: 2n }, { op: 'data', data: Buffer.from('x') }, finish], `failed ${EPROTO} f`],
    ['content without a file', [{ op: 'data', data: Buffer.from('x') }], `failed ${EPROTO} `],
    ['an unknown record', [Buffer.from([77, 0, 0, 0, 0, 0, 0, 0])], `failed ${EPROTO} `],
    ['a record longer than allowed', [Buffer.from([1, 0, 0, 0, 1, 0, 16, 0])], `failed ${EPROTO} `],
    ['a body that is cut short', [Buffer.concat([Buffer.from([7, 0, 0, 0, 4, 0, 0, 0]), Buffer.from([9, 0, 0, 0])])], `failed ${EPROTO} `],
    ['a stream that ends early', file('f', 'x'), 'failed 104 f'],
  ];
  for (const [what, records, expected] of hostile) {
    it(`refuses ${what}, with the entry's path`, () => {
      const { output, layer } = unpack([...records, ...(what.includes('early') ? [] : [finish])]);
      assert.equal(output, `${expected}\n`);
      assert.ok(!existsSync('/tmp/escape') && !existsSync('/etc/escape') && !existsSync(join(layer, '../../escape')));
    });
  }
});
