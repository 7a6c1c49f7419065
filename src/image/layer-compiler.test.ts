/** From crafted archives to layer records: what depends on the layers below, what is hidden, what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { LayerRecord } from '#plan';
import { LayerCompiler, type PlacedEntry } from './layer-compiler.ts';
import { decodeIndexTree, encodeIndexLine } from './layer-index.ts';
import { type DirectoryNode, findBelow } from './layer-tree.ts';
import { TarReader } from './tar.ts';
import { type CraftedEntry, craftTar } from './testing/tar-build.ts';

interface Compiled {
  /** `op path`, with what matters of the op. */
  readonly records: readonly string[];
  readonly compiler: LayerCompiler;
  /** As the layers above read it from disk. */
  readonly tree: DirectoryNode;
}

function describe(record: LayerRecord): string {
  switch (record.op) {
    case 'directory':
      return `directory ${record.path} ${record.mode.toString(8)} ${record.uid}:${record.gid}`;
    case 'file':
      return `file ${record.path} ${record.size}`;
    case 'data':
      return `data ${record.data.length}`;
    case 'link':
    case 'hardLink':
      return `${record.op} ${record.path} -> ${record.target}`;
    case 'node':
      return `node ${record.path} ${record.type.toString(8)} ${record.major}:${record.minor}`;
    case 'whiteout':
    case 'opaque':
      return `${record.op} ${record.path}`;
    case 'style':
      return `style ${record.style}`;
    case 'root':
    case 'finish':
    case 'inspect':
      return record.op;
  }
}

function compile(entries: readonly CraftedEntry[], parents?: readonly DirectoryNode[]): Compiled {
  const records: string[] = [];
  const placed: PlacedEntry[] = [];
  const compiler = new LayerCompiler({
    isBase: parents === undefined,
    parents: () => parents ?? [],
    emit: (record) => void records.push(describe(record)),
    onPlaced: (entry) => void placed.push(entry),
  });
  const reader = new TarReader(compiler);
  reader.write(craftTar(entries));
  reader.finish();
  return { records, compiler, tree: decodeIndexTree(placed.map((entry) => encodeIndexLine(entry)).join('')) };
}

const directory = (name: string, more: Partial<CraftedEntry> = {}): CraftedEntry => ({ name: `${name}/`, type: '5', mode: 0o755, ...more });
const link = (name: string, target: string): CraftedEntry => ({ name, type: '2', link: target });
const hardLink = (name: string, target: string): CraftedEntry => ({ name, type: '1', link: target });

function refuses(entries: readonly CraftedEntry[], message: string, parents?: readonly DirectoryNode[]): void {
  assert.throws(
    () => compile(entries, parents),
    (error) => {
      assert.ok(error instanceof RuntimeError);
      assert.deepEqual([error.code, error.message], ['invalidArgument', message]);
      return true;
    },
  );
}

test('an archive that names its directories is self-contained', () => {
  const { records, compiler } = compile(
    [
      directory('./', { mode: 0o700, uid: 3 }),
      directory('a', { uid: 5, gid: 6 }),
      { name: './a//f', content: 'abc' },
      hardLink('a/g', '/a/f'),
      link('l', '../../etc'),
      { name: 'null', type: '3', device: [1, 3] },
    ],
    [],
  );
  assert.deepEqual(records, ['directory a 755 5:6', 'file a/f 3', 'data 3', 'hardLink a/g -> a/f', 'link l -> ../../etc', 'node null 20000 1:3']);
  assert.equal(compiler.needsParents, false);
  assert.deepEqual([compiler.rootAttributes?.mode, compiler.rootAttributes?.uid], [0o700, 3]);
});

test('a parent that is not named gets the attributes it has below', () => {
  const base = compile([directory('a', { mode: 0o2710, uid: 7, gid: 8, pax: { 'SCHILY.xattr.user.x': 'y' } })]).tree;
  const { records, compiler } = compile([{ name: 'a/new/f' }], [base]);
  assert.deepEqual(records, ['directory a 2710 7:8', 'directory a/new 755 0:0', 'file a/new/f 0']);
  assert.equal(compiler.needsParents, true);
  const middle = compile([{ name: '.wh.a' }], [base]).tree;
  assert.deepEqual(compile([{ name: 'a/f' }], [base, middle]).records[0], 'directory a 755 0:0', 'a whiteout between hides them');
});

test('linked parents are followed below the root, in this layer and below', () => {
  const base = compile([directory('usr'), directory('usr/bin', { uid: 9 }), link('bin', 'usr/bin'), link('abs', '/usr/../../usr/bin')]).tree;
  assert.deepEqual(compile([{ name: 'bin/sh' }], [base]).records, ['directory usr 755 0:0', 'directory usr/bin 755 9:0', 'file usr/bin/sh 0']);
  assert.deepEqual(compile([{ name: 'abs/sh' }], [base]).records.at(-1), 'file usr/bin/sh 0');
  assert.deepEqual(compile([link('out', '../../../outside'), { name: 'out/f' }], []).records, ['link out -> ../../../outside', 'directory outside 755 0:0', 'file outside/f 0']);
  refuses([link('a', 'b'), link('b', 'a'), { name: 'a/f' }], 'unpack layer entry "a/f": too many symbolic links in its path');
  refuses([{ name: 'file' }, { name: 'file/f' }], 'unpack layer entry "file/f": "file" is not a directory');
});

test('a hard link to a lower file brings it up under both names, after the archive', () => {
  const base = compile([directory('d', { mode: 0o750 }), { name: 'x' }, { name: 'd/low', content: 'low' }]).tree;
  const { records, compiler } = compile([hardLink('one', 'd/low'), hardLink('two', 'one')], [base]);
  assert.deepEqual(records, ['directory d 750 0:0']);
  assert.deepEqual(compiler.pendingCopies(), [{ layer: 0, ordinal: 2, paths: ['d/low', 'one', 'two'] }]);
  const replaced = compile([hardLink('one', 'd/low'), { name: 'one', content: 'own' }], [base]);
  assert.deepEqual(replaced.compiler.pendingCopies(), [{ layer: 0, ordinal: 2, paths: ['d/low'] }]);
  refuses([hardLink('one', 'd/none')], 'unpack layer entry "one": is a hard link to "d/none", which does not exist', [base]);
  refuses([{ name: 'd/.wh.low' }, hardLink('one', 'd/low')], 'unpack layer entry "one": is a hard link to "d/low", which does not exist', [base]);
  refuses([hardLink('one', 'd')], 'unpack layer entry "one": is a hard link to a directory', [base]);
});

test('whiteouts hide lower layers only', () => {
  const base = compile([directory('a'), { name: 'a/f' }, { name: 'b' }]).tree;
  const plain = compile([{ name: '.wh.b' }, directory('a'), { name: 'a/.wh..wh..opq' }, { name: 'a/new' }], [base]);
  assert.deepEqual(plain.records, ['whiteout b', 'directory a 755 0:0', 'opaque a', 'file a/new 0']);
  assert.equal(plain.compiler.needsParents, false);
  assert.equal(findBelow([base, plain.tree], ['b']), undefined);
  assert.equal(findBelow([base, plain.tree], ['a', 'f']), undefined);
  assert.notEqual(findBelow([base, plain.tree], ['a', 'new']), undefined);
  assert.deepEqual(compile([{ name: 'b' }, { name: '.wh.b' }], [base]).records, ['file b 0'], 'what the layer itself puts there stays');
  assert.deepEqual(compile([{ name: '.wh.a' }, directory('a')], [base]).records, ['whiteout a', 'directory a 755 0:0', 'opaque a']);
  assert.deepEqual(compile([directory('a'), { name: '.wh.a' }], [base]).records, ['directory a 755 0:0', 'opaque a']);
  assert.deepEqual(compile([{ name: '.wh..wh.plnk' }, { name: '.wh..wh.aufs', type: '5' }], [base]).records, [], 'bookkeeping means nothing');
  const lowest = compile([{ name: '.wh.b' }, { name: 'b' }]);
  assert.deepEqual([lowest.records, lowest.compiler.needsParents], [['file b 0'], true], 'the lowest layer has nothing to hide');
});

test('hostile names, devices and attributes are refused or taken out', () => {
  refuses([{ name: '../x' }], 'unpack layer entry "../x": names must not contain ".."');
  refuses([{ name: 'a/../../x' }], 'unpack layer entry "a/../../x": names must not contain ".."');
  refuses([hardLink('x', '../../etc/shadow')], 'unpack layer entry "../../etc/shadow": names must not contain ".."');
  refuses([hardLink('x', 'x')], 'unpack layer entry "x": is a hard link to itself');
  refuses([{ name: '.wh.' }], 'unpack layer entry ".wh.": is a whiteout of no name');
  refuses([{ name: '.wh...' }], 'unpack layer entry ".wh...": is a whiteout of no name');
  refuses([{ name: '.wh.x', content: 'data' }], 'unpack layer entry ".wh.x": a whiteout must be empty');
  refuses([{ name: '.wh.x/y' }], 'unpack layer entry ".wh.x/y": lies below a whiteout name');
  refuses([{ name: 'dev', type: '3' }], 'unpack layer entry "dev": character device 0:0 is reserved');
  refuses([{ name: '.' }], 'unpack layer entry ".": the root must be a directory');
  refuses([{ name: 'x', pax: { path: 'd/'.repeat(300) + 'f' } }], `unpack layer entry "${'d/'.repeat(150)}": 301 directories deep, at most 256`);
  refuses([{ name: 'x', pax: { path: 'n'.repeat(256) } }], `unpack layer entry "${'n'.repeat(256)}": a name is longer than 255 bytes`);
  assert.deepEqual(compile([{ name: '/etc/x' }]).records.at(-1), 'file etc/x 0', 'a leading slash means the root of the layer');
  const seen: LayerRecord[] = [];
  const compiler = new LayerCompiler({ isBase: true, parents: () => [], emit: (record) => void seen.push(record) });
  new TarReader(compiler).write(
    craftTar([{ name: 'd/', type: '5', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc', 'SCHILY.xattr.user.overlay.opaque': 'y', 'SCHILY.xattr.user.ok': '1' } }]),
  );
  assert.deepEqual(
    seen.map((record) => (record.op === 'directory' ? record.xattrs.map(({ name }) => name) : [])),
    [['user.ok']],
  );
});

test('a damaged index is data loss, never a guess', () => {
  for (const text of ['{', '["f","a/b"]', '["d"]', '["d","a",1]']) {
    assert.throws(
      () => decodeIndexTree(text),
      (error) => {
        assert.ok(error instanceof RuntimeError);
        assert.equal(error.code, 'dataLoss');
        assert.match(error.message, /^read layer index: /);
        return true;
      },
    );
  }
});
