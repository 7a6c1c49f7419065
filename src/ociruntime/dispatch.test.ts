/** How failures of commands are told. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { dispatch } from './dispatch.ts';
import type { ContainerOperations } from './options.ts';
import type { Front, Outcome } from './types.ts';

interface Told {
  readonly outcome: Outcome;
  readonly out: string;
  readonly error: string;
}

/** Runs a command line whose operations all fail with this error. */
async function tellOf(argv: readonly string[], { failure = new RuntimeError('internal', 'no reason'), userId = 0 } = {}): Promise<Told> {
  const told = { 1: '', 2: '' };
  const unused = (): never => assert.fail('the front is asked for nothing');
  const front: Front = {
    request: { argv, cwd: '/', env: {}, terminals: { stdin: false, stdout: false, stderr: false }, size: { columns: 0, rows: 0 }, pid: 1 },
    write: (stream, data) => void (told[stream] += Buffer.from(data).toString()),
    run: unused,
    make: unused,
    makeByProgram: unused,
    adopt: unused,
    lock: async () => Promise.resolve(),
    start: unused,
  };
  const fail = async (): Promise<Outcome> => Promise.reject(failure);
  const operations: ContainerOperations = { create: fail, run: fail, exec: fail, start: fail, state: fail, kill: fail, delete: fail };
  const outcome = await dispatch(front, { operations, version: '1.0.0', userId });
  return { outcome, out: told[1], error: told[2].replace(/^time="[^"]+"/, 'time') };
}

test('the texts that callers look for stand alone, others have their command', async () => {
  const failure = new RuntimeError('notFound', 'container does not exist');
  for (const [argv, message, code] of [
    [['state', 'a'], 'container does not exist', 1],
    [['kill', 'a'], 'container does not exist', 1],
    [['create', 'a'], 'create failed: container does not exist', 1],
    [['run', 'a'], 'run failed: container does not exist', 1],
    [['exec', 'a', 'b'], 'exec failed: container does not exist', 255],
  ] as const)
    assert.deepEqual(await tellOf(argv, { failure }), { outcome: { kind: 'exit', code }, out: '', error: `time level=error msg="${message}"\n` }, argv.join(' '));
});

test('options of exec that are wrong end with its own code', async () => {
  const { outcome, error } = await tellOf(['exec', '-u', 'root', 'a', 'b']);
  assert.deepEqual(outcome, { kind: 'exit', code: 255 });
  assert.equal(error, 'time level=error msg="exec failed: bad uid: \\"root\\" is not a number from 0 to 4294967295"\n');
});

test('a user other than root may look and not act', async () => {
  const { error } = await tellOf(['create', 'a'], { userId: 1000 });
  assert.equal(error, 'time level=error msg="create failed: rootless containers are not supported: run as root"\n');
  assert.deepEqual((await tellOf(['features'], { userId: 1000 })).outcome, { kind: 'exit', code: 0 });
});

test('a log that cannot be opened is an error of its own', async () => {
  const { outcome, error } = await tellOf(['--log', '/no/such/directory/log', 'state', 'a']);
  assert.deepEqual(outcome, { kind: 'exit', code: 1 });
  assert.equal(error, 'time level=error msg="open /no/such/directory/log: no such file or directory"\n');
});

test('wrong words print the help on standard output', async () => {
  const { outcome, out, error } = await tellOf(['start']);
  assert.deepEqual(outcome, { kind: 'exit', code: 1 });
  assert.match(out, /^Incorrect Usage\.\n\nNAME:\n {3}berth-oci start - /);
  assert.equal(error, 'time level=error msg="berth-oci: \\"start\\" requires exactly 1 argument(s)"\n');
});
