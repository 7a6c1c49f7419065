/** A layer's index against what is found: later lines replace earlier ones, links share, and every difference is told. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { InspectedEntry } from '#system';
import { LayerComparison } from './compare-layer.ts';
import { type PlacedEntry } from './layer-compiler.ts';
import { encodeIndexLine } from './layer-index.ts';

const attributes = { mode: 0o644, uid: 1, gid: 2, mtimeNs: 1_500_000_001n, xattrs: [{ name: 'user.a', value: Buffer.from([1, 255]) }] };
const origin = { ordinal: 0 };
const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');
const file = (path: string, text: string): string => encodeIndexLine({ kind: 'file', path, attributes, origin, sizeBytes: text.length }, hashOf(text));
const line = (placed: PlacedEntry): string => encodeIndexLine(placed);
const found = (path: string, more: Partial<InspectedEntry> = {}): InspectedEntry => ({
  path,
  mode: 0o100644,
  uid: 1,
  gid: 2,
  mtimeNs: 1_500_000_001n,
  sizeBytes: 1n,
  device: { major: 0, minor: 0 },
  inode: BigInt(path.length * 1000 + path.charCodeAt(0)),
  target: '',
  xattrs: attributes.xattrs,
  ...more,
});
const differences = (index: string, entries: readonly (readonly [InspectedEntry, string?])[]): readonly string[] => {
  const comparison = new LayerComparison(index);
  for (const [entry, text] of entries) {
    comparison.entry(entry);
    if (text === undefined) continue;
    comparison.content(Buffer.from(text));
    comparison.content(Buffer.alloc(0));
  }
  return comparison.finish();
};

test('equal trees have no difference, whatever the order', () => {
  const index = [
    line({ kind: 'directory', path: 'd', attributes: { ...attributes, mode: 0o755, xattrs: [] }, isOpaque: true }),
    file('d/f', 'x'),
    line({ kind: 'hardLink', path: 'd/g', target: 'd/f' }),
    line({ kind: 'link', path: 'l', attributes: { ...attributes, mode: 0o777 }, origin, target: 'd/f' }),
    line({ kind: 'node', path: 'n', attributes, origin, device: 'c 1:3' }),
    line({ kind: 'whiteout', path: 'w' }),
    line({ kind: 'whiteout', path: 'v' }),
  ].join('');
  const entries: (readonly [InspectedEntry, string?])[] = [
    [found('v', { mode: 0o100000, sizeBytes: 0n, xattrs: [{ name: 'user.overlay.whiteout', value: Buffer.from('y') }] }), ''],
    [found('w', { mode: 0o020000, xattrs: [] })],
    [found('d/g', { inode: 7n }), 'x'],
    [found('d/f', { inode: 7n })],
    [found('n', { mode: 0o020644, device: { major: 1, minor: 3 } })],
    [found('l', { mode: 0o120777, target: 'd/f' })],
    [
      found('d', {
        mode: 0o040755,
        xattrs: [
          { name: 'trusted.overlay.opaque', value: Buffer.from('y') },
          { name: 'security.selinux', value: Buffer.from('x') },
        ],
      }),
    ],
  ];
  assert.deepEqual(differences(index, entries), []);
});

test('a later line replaces an earlier one with everything below it, and a link keeps the file that it was made of', () => {
  const index = [
    line({ kind: 'directory', path: 'a', attributes, isOpaque: false }),
    file('a/below', 'x'),
    file('a', 'y'),
    file('f', '1'),
    line({ kind: 'hardLink', path: 'g', target: 'f' }),
    file('f', '2'),
  ].join('');
  const right: (readonly [InspectedEntry, string?])[] = [
    [found('a'), 'y'],
    [found('f', { inode: 1n }), '2'],
    [found('g', { inode: 2n }), '1'],
  ];
  assert.deepEqual(differences(index, right), []);
  assert.deepEqual(differences(index, [...right, [found('a/below'), 'x']]), ['"a/below" is not in the index']);
});

test('each difference is told once with its path, the first ten of them', () => {
  const index = file('f', 'x');
  const one = (more: Partial<InspectedEntry>, text = 'x'): readonly string[] => differences(index, [[found('f', more), text]]);
  assert.deepEqual(one({}, 'y'), ['"f" has other content']);
  assert.deepEqual(one({ sizeBytes: 2n }, 'xx'), ['"f" has 2 bytes instead of 1']);
  assert.deepEqual(one({ mode: 0o104644 }), ['"f" has mode 4644 instead of 644']);
  assert.deepEqual(one({ gid: 0 }), ['"f" belongs to 1:0 instead of 1:2']);
  assert.deepEqual(one({ mtimeNs: 1n }), ['"f" was changed at 1 ns instead of 1500000001']);
  assert.deepEqual(one({ xattrs: [] }), ['"f" has another "user.a"']);
  assert.deepEqual(one({ mode: 0o140644 }), ['"f" is a socket instead of a file']);
  assert.deepEqual(differences(index, []), ['"f" is missing']);
  const many = Array.from({ length: 12 }, (_none, at) => file(`f${at}`, 'x')).join('');
  const told = differences(many, []);
  assert.equal(told.length, 11);
  assert.equal(told.at(-1), 'and 2 more');
});

test('an index that cannot be read is data loss, never a guess', () => {
  for (const text of ['{', '["x","a"]\n', '["h","a","nowhere"]\n', '[1]\n', '["f"]\n'])
    assert.throws(
      () => new LayerComparison(text),
      (error: unknown) => error instanceof RuntimeError && error.code === 'dataLoss' && error.message.startsWith('read layer index: '),
    );
});

test('a line that was cut short in its middle is an error of the index, not of the tree', () => {
  const comparison = new LayerComparison('["f","a",420,1]\n');
  assert.throws(
    () => comparison.entry(found('a')),
    (error: unknown) => error instanceof RuntimeError,
  );
});
