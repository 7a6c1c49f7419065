/** Processes whose maker does not stay: where they wait, what is known to be right by then, and which signal they lose. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import type { Plan, Step } from '#plan';
import { planContainer } from './container.ts';
import { planExec } from './exec.ts';
import { localSlots } from './slots.ts';
import { v2Host } from './testdata/hosts.ts';

const host = v2Host;
const specWith = (process: object, namespaces: readonly object[] = [{ type: 'pid' }, { type: 'mount' }], more: object = {}): RuntimeSpec =>
  decodeRuntimeSpec({ ociVersion: '1.3.0', root: { path: '/r' }, process: { args: ['tool'], cwd: '/', env: ['PATH=/bin'], ...process }, linux: { namespaces, ...more } });
const common = { rootfs: { kind: 'directory', path: '/r' }, host, cgroup: { path: '/c' }, askIdentity: false, start: { kind: 'socket', path: '/s/start.sock' } } as const;
const kindsFrom = (plan: Plan, first: Step['kind']): readonly string[] => {
  const kinds = (plan.sections.at(-1)?.steps ?? []).map(({ kind }) => kind);
  return kinds.slice(kinds.indexOf(first));
};
const seccomp = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [] };

test('a container listens before anything else is made, and waits with a session and a program that is there', () => {
  const plan = planContainer({ ...common, spec: specWith({}), preserveFds: 2 });
  assert.deepEqual(plan.sections[0]?.steps[0], { kind: 'listen', path: '/s/start.sock', out: localSlots.startSocket });
  assert.deepEqual(kindsFrom(plan, 'changeDirectory'), ['changeDirectory', 'keepDescriptors', 'newSession', 'findExecutable', 'awaitStart', 'execute']);
  assert.ok(!plan.sections.some(({ steps }) => steps.some((step) => step.kind === 'barrier' && step.barrier === 1)));
});

test('in a PID namespace that it joins it has its number before it waits', () => {
  const joined = specWith({}, [{ type: 'pid', path: '/proc/5/ns/pid' }, { type: 'mount' }]);
  assert.deepEqual(kindsFrom(planContainer({ ...common, spec: joined }), 'changeDirectory'), [
    'changeDirectory',
    'fork',
    'setParentDeathSignal',
    'newSession',
    'findExecutable',
    'awaitStart',
    'execute',
  ]);
});

test('a filter that needs no rights comes after the wait, which it might forbid', () => {
  const filtered = specWith({ noNewPrivileges: true }, undefined, { seccomp });
  assert.deepEqual(kindsFrom(planContainer({ ...common, spec: filtered }), 'findExecutable'), ['findExecutable', 'awaitStart', 'setSeccomp', 'execute']);
});

test('the keyring and the root are changed as the caller wants them', () => {
  const kindsOf = (plan: Plan): readonly string[] => plan.sections.flatMap(({ steps }) => steps.map(({ kind }) => kind));
  const usual = kindsOf(planContainer({ ...common, spec: specWith({}) }));
  assert.ok(usual.includes('joinKeyring') && usual.includes('pivotRoot') && !usual.includes('moveRoot'));
  const other = kindsOf(planContainer({ ...common, spec: specWith({}), newKeyring: false, pivot: false }));
  assert.ok(!other.includes('joinKeyring') && !other.includes('pivotRoot') && other.includes('moveRoot'));
});

test('a container has the standard mask, an exec its caller’s, where the document says nothing', () => {
  const masks = (plan: Plan): readonly number[] => plan.sections.flatMap(({ steps }) => steps.flatMap((step) => (step.kind === 'setUmask' ? [step.mask] : [])));
  const spec = specWith({});
  const { process } = spec;
  assert.ok(process !== undefined);
  assert.deepEqual(masks(planContainer({ ...common, spec })), [0o022]);
  assert.deepEqual(masks(planContainer({ ...common, spec: specWith({ user: { uid: 0, gid: 0, umask: 0o77 } }) })), [0o77]);
  assert.deepEqual(masks(planExec({ process, spec, initPid: 7, host, cgroup: { path: '/c' }, standalone: { preserveFds: 0, outlivesMaker: true } })), []);
});

test('an exec is into the process that was meant, whoever has its number by then', () => {
  const spec = specWith({});
  const { process } = spec;
  assert.ok(process !== undefined);
  const plan = planExec({ process, spec, initPid: 7, initStartTime: 99n, host, cgroup: { path: '/c' }, standalone: { preserveFds: 0, outlivesMaker: true } });
  const steps = plan.sections.flatMap((section) => section.steps);
  const at = steps.findIndex(({ kind }) => kind === 'signalProcess');
  assert.deepEqual(steps[at], { kind: 'signalProcess', pid: 7, startTime: 99n, signal: 0 });
  // With the directory open and nothing of it used.
  assert.deepEqual(
    [steps[at - 1], steps[at + 1]].map((step) => (step?.kind === 'openPath' ? step.path : undefined)),
    ['/proc/7', 'ns/pid'],
  );
});

test('an exec that is detached outlives its maker, another one does not', () => {
  const spec = specWith({});
  const process = spec.process;
  assert.ok(process !== undefined);
  const planWith = (outlivesMaker: boolean): Plan => planExec({ process, spec, initPid: 7, host, cgroup: { path: '/c' }, standalone: { preserveFds: 0, outlivesMaker } });
  assert.deepEqual(kindsFrom(planWith(true), 'newSession'), ['newSession', 'findExecutable', 'setParentDeathSignal', 'execute']);
  assert.deepEqual(kindsFrom(planWith(false), 'newSession'), ['newSession', 'findExecutable', 'execute']);
  const asked = planExec({ process, spec, initPid: 7, host, cgroup: { path: '/c' }, standalone: { preserveFds: 0, outlivesMaker: false }, askIdentity: true });
  assert.deepEqual([asked.sections.at(-1)?.actor, asked.sections.at(-1)?.steps.at(-1)?.kind], ['containerSetup', 'ask']);
});
