/** The list of what conformance specs are expected to do, and that every difference from it is told. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeReport, type SpecOutcome } from './critest.ts';
import { type ComparisonOptions, compareOutcomes, readExpected } from './expected.ts';

const facts = { always: true, 'no-apparmor': true } as const;
const common = { facts, peer: 'berth', transport: 'spdy' } as const;
const expected = {
  suite: 'x',
  counts: { specs: 3, passed: 1, failed: 1, skipped: 1 },
  exceptions: [
    { spec: 'b', outcome: 'failed', message: 'no digest', when: 'always', reason: 'cannot be' },
    { spec: 'c', outcome: 'skipped', message: 'no kernel', when: 'no-apparmor', reason: 'the kernel' },
    { spec: 'a', outcome: 'failed', message: 'no frames', when: 'always', peer: 'containerd', transport: 'websocket', reason: 'a peer' },
  ],
  specs: ['a', 'b', 'c'],
} as const;
const outcome = (name: string, result: SpecOutcome['outcome'], message = ''): SpecOutcome => ({ name, outcome: result, message, durationMs: 1 });
const asExpected = [outcome('a', 'passed'), outcome('b', 'failed', 'there is no digest'), outcome('c', 'skipped', 'no kernel')];

test('the list counts what it lists, and every exception is a listed spec with a reason', () => {
  const { counts, exceptions, specs } = readExpected();
  assert.equal(new Set(specs).size, specs.length);
  assert.deepEqual([...specs].sort(), specs);
  for (const { spec, reason, message } of exceptions) {
    assert.ok(specs.includes(spec), `${spec} is not among the specs`);
    assert.ok(reason.length > 20 && message !== '', `${spec} has no reason`);
  }
  const own = exceptions.filter(({ peer }) => peer !== 'containerd');
  const of = (kind: string): number => own.filter((exception) => exception.outcome === kind).length;
  assert.deepEqual(counts, { specs: specs.length, passed: specs.length - own.length, failed: of('failed'), skipped: of('skipped') });
});

test('what is as expected gives no difference, in part only where a part was asked for', () => {
  assert.deepEqual(compareOutcomes(asExpected, { ...common, expected, complete: true }), []);
  assert.deepEqual(compareOutcomes(asExpected.slice(0, 1), { ...common, expected, complete: false }), []);
  assert.deepEqual(compareOutcomes(asExpected.slice(0, 1), { ...common, expected, complete: true }), ['b: did not run', 'c: did not run']);
});

test('failures, unexpected passes, other words, unknown specs and exceptions without their fact are differences', () => {
  const compare = (change: readonly SpecOutcome[], here: typeof facts | { always: true; 'no-apparmor': false } = facts): readonly string[] =>
    compareOutcomes(change, { ...common, expected, facts: here, complete: false });
  assert.deepEqual(compare([outcome('a', 'failed', 'no answer')]), ['a: failed: no answer']);
  assert.deepEqual(compare([outcome('a', 'skipped', 'no feature')]), ['a: skipped: no feature']);
  assert.deepEqual(compare([outcome('b', 'passed')]), ['b: passed, but expected.json says failed (cannot be)']);
  assert.deepEqual(compare([outcome('b', 'failed', 'time-out')]), ['b: failed as expected, but with other words than "no digest": time-out']);
  assert.deepEqual(compare([outcome('d', 'passed')]), ['d: passed, but expected.json does not list it']);
  assert.deepEqual(compare([asExpected[2] ?? outcome('', 'passed')], { always: true, 'no-apparmor': false }), ['c: skipped: no kernel']);
  assert.deepEqual(compare([outcome('a', 'passed'), outcome('a', 'passed')]), ['a: two specs have this name']);
});

test('an exception of one peer over one transport holds there alone', () => {
  const failed = [outcome('a', 'failed', 'knows no frames')];
  const compare = (more: Partial<ComparisonOptions>): readonly string[] => compareOutcomes(failed, { ...common, expected, complete: false, ...more });
  assert.deepEqual(compare({ peer: 'containerd', transport: 'websocket' }), []);
  assert.deepEqual(compare({ peer: 'containerd' }), ['a: failed: knows no frames']);
  assert.deepEqual(compare({ transport: 'websocket' }), ['a: failed: knows no frames']);
});

test('a report’s unchosen specs are left out, and failures of the set-up are not', () => {
  const spec = (more: object): object => ({ ContainerHierarchyTexts: ['[k8s.io] A', 'b'], LeafNodeType: 'It', LeafNodeText: 'c', State: 'passed', RunTime: 2e6, ...more });
  const report = JSON.stringify([
    {
      SpecReports: [
        spec({}),
        spec({ State: 'skipped' }),
        spec({ LeafNodeText: 'd', State: 'skipped', Failure: { Message: 'no kernel' } }),
        spec({ LeafNodeText: 'e', State: 'timedout', Failure: { Message: ' too late ', Location: { FileName: '/x/y.go', LineNumber: 7 } } }),
        spec({ ContainerHierarchyTexts: null, LeafNodeType: 'BeforeSuite', LeafNodeText: '' }),
        spec({ ContainerHierarchyTexts: null, LeafNodeType: 'BeforeSuite', LeafNodeText: '', State: 'panicked', Failure: { Message: 'no socket' } }),
      ],
    },
  ]);
  assert.deepEqual(decodeReport(report), [
    { name: 'BeforeSuite', outcome: 'failed', message: 'panicked: no socket', durationMs: 2 },
    { name: '[k8s.io] A > b > c', outcome: 'passed', message: '', durationMs: 2 },
    { name: '[k8s.io] A > b > d', outcome: 'skipped', message: 'no kernel', durationMs: 2 },
    { name: '[k8s.io] A > b > e', outcome: 'failed', message: 'timedout: too late (y.go:7)', durationMs: 2 },
  ]);
});
