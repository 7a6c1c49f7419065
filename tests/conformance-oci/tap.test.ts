/** Reading what the validation programs print: lines, plans, and errors that belong to no line. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readVerdicts, wholeProgram } from './tap.ts';

const end = (stdout: string, failure = '', stderr = ''): Parameters<typeof readVerdicts>[0] => ({ stdout, stderr, failure });
const names = (stdout: string): readonly string[] => readVerdicts(end(stdout)).map(({ name, ok }) => `${ok ? '+' : '-'} ${name}`);

test('each line is a verdict with its block as detail, and the program passes at the end', () => {
  const [first, second, whole] = readVerdicts(
    end('TAP version 13\nok 1 - has a name\n  ---\n  {\n    "error": "exit status 1"\n  }\n  ...\nnot ok 2 - has a root\n# expect: 1\n1..2\n'),
  );
  assert.deepEqual(first, { name: 'has a name', ok: true, detail: '{\n  "error": "exit status 1"\n}' });
  assert.deepEqual(second, { name: 'has a root', ok: false, detail: '# expect: 1\n' });
  assert.deepEqual(whole, { name: wholeProgram, ok: true, detail: '' });
});

test('names are the same in every run: identifiers, bundles, inodes and process ids go, repeated ones are counted', () => {
  const text =
    'ok 1 - find /tmp/x/ocitest123/rootfs\nok 2 - id 104d1437-12db-47c4-b9a0-79f498b39f1b\nok 3 - pid:[402] of /proc/77/ns\nok 4 - again\nnot ok 5 - again\nok 6\nok 7 # SKIP not here\n1..7\n';
  assert.deepEqual(names(text), [
    '+ find BUNDLE/rootfs',
    '+ id ID',
    '+ pid:[INODE] of /proc/PID/ns',
    '+ again',
    '- again (2)',
    '+ without a description',
    '+ without a description (2)',
    `+ ${wholeProgram}`,
  ]);
});

test('an empty plan passes without an error block and fails with one', () => {
  assert.deepEqual(names('TAP version 13\n1..0\n'), [`+ ${wholeProgram}`]);
  assert.deepEqual(readVerdicts(end('TAP version 13\n  ---\n  {\n    "error": "hooks MUST run"\n  }\n  ...\n1..0\n', '', 'words')), [
    { name: wholeProgram, ok: false, detail: '{\n  "error": "hooks MUST run"\n}\nwords' },
  ]);
});

test('lines that a plan promises and that are missing, a missing plan, and an exit status fail the program', () => {
  const whole = (stdout: string, failure = ''): string => readVerdicts(end(stdout, failure)).at(-1)?.detail ?? '';
  assert.equal(whole('ok 1 - a\n1..2\n'), 'the plan has 2 lines, and 1 were printed');
  assert.equal(whole('ok 1 - a\n'), 'there is no plan');
  assert.equal(whole('', 'exit status 1'), 'exit status 1');
  assert.equal(whole('ok 1 - a\n1..1\nok 1 - b\n1..1\n'), '');
});
