/** What the front reads of a container, and what is remembered of it between commands. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteReader, decodePlan } from '#plan';
import { describeState, encodeFrontFile, splitState } from './front-file.ts';
import { type ContainerRecord, checkContainerId, decodeRecord, encodeRecord, stateFiles } from './record.ts';

const record: ContainerRecord = {
  id: 'c1',
  ociVersion: '1.3.0',
  bundle: '/b "quoted" ä',
  rootfs: '/b/rootfs',
  created: '2026-01-02T03:04:05.678901234Z',
  annotations: { 'a/b': 'line\none', 'status": "x': '"pid": 1' },
  owner: '',
  pid: 4321,
  startTime: 12_345_678_901_234_567_890n,
  cgroup: { path: '/x/c1', controllers: ['freezer'] },
  freezeFile: '/sys/fs/cgroup/x/c1/cgroup.freeze',
  creation: { noPivot: false, noNewKeyring: true, preserveFds: 2, askHome: true },
};

test('the state document is the same from its parts as from one piece, whatever the texts hold', () => {
  const { prefix, middle, suffix } = splitState(record);
  const document: unknown = JSON.parse(describeState(record, 'running'));
  const { id, ociVersion, bundle, rootfs, created, annotations, owner } = record;
  assert.deepEqual(document, { ociVersion, id, status: 'running', pid: 4321, bundle, rootfs, created, annotations, owner });
  assert.deepEqual(JSON.parse(`${prefix}running${middle}4321${suffix}\n`), document);
  assert.equal(JSON.parse(describeState(record, 'stopped')).pid, 0);
  assert.equal('annotations' in JSON.parse(describeState({ ...record, annotations: {} }, 'created')), false);
});

test('the front’s file has the layout that docs/native.md gives', () => {
  const plan = { sections: [{ actor: 'host', steps: [{ kind: 'signalProcess', pid: 4321, startTime: record.startTime, signal: 9, ignore: [3], skipOnIgnored: 0 }] }] } as const;
  const input = new ByteReader(encodeFrontFile(record, { kill: plan, delete: plan, startByCompiler: true }));
  assert.equal(input.raw(4).toString('latin1'), 'BRTF');
  assert.deepEqual([input.u32(), input.u32(), input.u64(), input.u32(), input.text()], [1, 4321, record.startTime, 1 | 2, record.freezeFile]);
  const { prefix, middle, suffix } = splitState(record);
  assert.deepEqual([input.text(), input.text(), input.text()], [prefix, middle, suffix]);
  assert.deepEqual(decodePlan(input.bytes()), plan);
  assert.deepEqual([input.bytes().length, input.bytes().length], [0, 0]);
  assert.deepEqual(decodePlan(input.bytes()), plan);
  assert.equal(input.remaining, 0);
  const bare = new ByteReader(encodeFrontFile(record, { startByCompiler: false }));
  bare.raw(20);
  assert.equal(bare.u32(), 4, 'a container without a plan for its removal is deleted by the compiler');
});

test('a record survives its file, and another program’s is refused by its path', () => {
  const decoded = decodeRecord(encodeRecord(record), '/r/c1/state.json');
  assert.deepEqual({ ...decoded, annotations: { ...decoded.annotations } }, record);
  const odd = decodeRecord(encodeRecord({ ...record, annotations: { $int: '5' } }), '/r/c1/state.json');
  assert.equal(odd.annotations['$int'], '5');
  for (const [text, cause] of [
    ['{', 'record: not JSON: '],
    ['{"version":2}', 'version: of another program'],
    [encodeRecord(record).replace('"pid":4321', '"pid":-1'), 'pid: '],
  ] as const)
    assert.throws(
      () => decodeRecord(text, '/r/c1/state.json'),
      (error: Error & { code?: string }) => error.code === 'dataLoss' && error.message.startsWith(`read /r/c1/state.json: ${cause}`),
    );
});

test('an id names one directory below the root', () => {
  assert.equal(stateFiles('/run/x', 'c1').socket, '/run/x/c1/start.sock');
  for (const id of ['a', 'A_1+2.3-4', '...', '-x']) checkContainerId(id);
  for (const id of ['', '.', '..', 'a/b', '../a', 'a b', 'ä', 'a\n'])
    assert.throws(() => checkContainerId(id), { code: 'invalidArgument', message: 'invalid container ID format' });
});
