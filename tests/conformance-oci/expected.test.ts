/** The list of what the validation programs are expected to do, and that every difference from it is told. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { type ExpectedVerdicts, compareVerdicts, readExpectedVerdicts } from './expected.ts';
import type { Line } from './tap.ts';

const facts = { always: true, 'cgroup-v1': true, 'cgroup-v2': false, 'no-sys-resource': true } as const;
const expected: ExpectedVerdicts = {
  suite: 'x',
  programs: ['p'],
  failures: [
    { program: 'p', line: 'b', outcome: 'fails', when: 'always', reason: 'cannot be' },
    { program: 'p', line: 'c', outcome: 'fails', when: 'cgroup-v2', reason: 'the kernel' },
    { program: 'p', line: 'd', outcome: 'either', when: 'always', reason: 'a race' },
    { program: 'p', line: 'f', outcome: 'forbidden', when: 'cgroup-v1', reason: 'the specification' },
  ],
};
const lines = (text: string): readonly Line[] => text.split(' ').map((word) => ({ name: word.slice(1), ok: word.startsWith('+'), detail: 'why' }));
const compare = (berth: string, peers: Readonly<Record<string, string>> = {}): readonly string[] =>
  compareVerdicts({ program: 'p', berth: lines(berth), peers: new Map(Object.entries(peers).map(([name, text]) => [name, lines(text)])) }, expected, facts);

test('every listed failure is one of a listed program and has a reason', () => {
  const { programs, failures, suite } = readExpectedVerdicts();
  assert.deepEqual([...new Set(programs)].sort(), programs);
  assert.equal(new Set(failures.map(({ program, line, when }) => `${program} ${line} ${when}`)).size, failures.length);
  for (const { program, line, reason } of failures) {
    assert.ok(programs.includes(program), `${program} is not among the programs`);
    assert.ok(reason.length > 20, `${program}: ${line}: has no reason`);
  }
  const module = readFileSync(new URL('go/go.mod', import.meta.url), 'utf8');
  assert.ok(module.includes(`\t${suite} `), `go.mod does not have ${suite}`);
  for (const program of programs) assert.ok(module.includes(`/validation/${program}\n`), `go.mod does not have ${program}`);
});

test('what is as expected gives no difference', () => {
  assert.deepEqual(compare('+a -b +c +d -f', { runc: '+a -b -c +f' }), []);
  assert.deepEqual(compare('+a -b +c -d -f', { runc: '+d' }), []);
});

test('failures, lines that pass though listed, missing lines and better peers are differences', () => {
  assert.deepEqual(compare('-a -b +d -f'), ['p: a: fails: why']);
  assert.deepEqual(compare('+a +b +d -f'), ['p: b: passes, but expected.json lists it as a failure (cannot be)']);
  assert.deepEqual(compare('-b -c +d -f'), ['p: c: fails: why']);
  assert.deepEqual(compare('+a +d -f'), ['p: b: does not come, but expected.json lists it as a failure']);
  assert.deepEqual(compare('+a -b +d -f', { crun: '+b +e', runc: '+b' }), ['p: b: fails, passes with crun and runc: why', 'p: e: does not come, passes with crun']);
  assert.deepEqual(compareVerdicts({ program: 'q', berth: [], peers: new Map() }, expected, facts), ['q: expected.json does not list it']);
});
