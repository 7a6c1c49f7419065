/** Where a filter that asks an agent stands in a plan, and what the agent is told. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RuntimeSpec, type SpecSeccomp, decodeRuntimeSpec } from '#oci';
import { planExec } from './exec.ts';
import { planListener } from './seccomp-listener.ts';
import { v2Host } from './testdata/hosts.ts';

const seccomp = {
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [{ names: ['mkdir'], action: 'SCMP_ACT_NOTIFY' }],
  listenerPath: 'agent.sock',
  listenerMetadata: 'ü',
};
function specWith(noNewPrivileges: boolean, profile: object = seccomp): RuntimeSpec {
  return decodeRuntimeSpec({
    ociVersion: '1.2.0',
    root: { path: '/r' },
    process: { args: ['sh'], cwd: '/', user: { uid: 0, gid: 0 }, noNewPrivileges },
    linux: { namespaces: [{ type: 'pid' }, { type: 'mount' }], seccomp: profile },
    annotations: { a: 'é' },
  });
}
const place = { id: 'c', bundle: '/b' };

/** The document as the agent gets it from a process with this number. */
function told(spec: RuntimeSpec, listened: Parameters<typeof planListener>[2], pid: number): unknown {
  const [step] = planListener(spec, place, listened)[0]?.steps ?? [];
  assert(step?.kind === 'sendListener');
  assert.equal(step.path, '/b/agent.sock');
  const pieces = [0, ...step.pidAt].map((from, index) => Buffer.from(step.state.subarray(from, step.pidAt[index])).toString());
  return JSON.parse(pieces.join(String(pid)));
}

test('the agent is told whose listener it gets', () => {
  const spec = specWith(true);
  const state = { ociVersion: '1.2.0', id: 'c', bundle: '/b', annotations: { a: 'é' } };
  const process = { ociVersion: '1.2.0', fds: ['seccompFd'], metadata: 'ü', pid: 77 };
  assert.deepEqual(told(spec, { kind: 'init' }, 77), { ...process, state: { ...state, status: 'creating', pid: 77 } });
  assert.deepEqual(told(spec, { kind: 'exec', initPid: 5 }, 77), { ...process, state: { ...state, status: 'running', pid: 5 } });
});

test('a profile without questions has no agent, and one with questions needs the name of its container', () => {
  assert.deepEqual(planListener(specWith(true, { ...seccomp, syscalls: [] }), undefined, { kind: 'init' }), []);
  assert.throws(() => planListener(specWith(true), undefined, { kind: 'init' }), {
    code: 'unimplemented',
    message: 'linux.seccomp.listenerPath: not supported (without a bundle directory)',
  });
});

/** The steps of an exec from the first one about its filter on. */
function execSteps(noNewPrivileges: boolean, standalone: boolean): readonly string[] {
  const spec = specWith(noNewPrivileges);
  assert(spec.process !== undefined);
  const plan = planExec({
    process: spec.process,
    spec,
    initPid: 5,
    host: v2Host,
    cgroup: { path: '/c' },
    hookPlace: place,
    ...(standalone ? { standalone: { startSocket: 62, preserveFds: 0, outlivesMaker: true } } : {}),
  });
  const wanted = ['setSeccompListener', 'setUser', 'fork', 'barrier', 'awaitStart', 'execute'];
  return plan.sections.flatMap(({ steps }) => steps.map(({ kind }) => kind)).filter((kind) => wanted.includes(kind));
}

test('the agent hears of a process by its last number, and before it waits for its start', () => {
  assert.deepEqual(execSteps(true, true), ['setUser', 'fork', 'setSeccompListener', 'barrier', 'awaitStart', 'execute']);
  assert.deepEqual(execSteps(false, true), ['setSeccompListener', 'setUser', 'fork', 'barrier', 'awaitStart', 'execute']);
  assert.deepEqual(execSteps(true, false), ['setUser', 'fork', 'setSeccompListener', 'barrier', 'execute']);
});

test('a document without flags has the one that is always wanted; an empty object means no filter', () => {
  const flagsOf = (profile: object): SpecSeccomp['flags'] | undefined => specWith(true, profile).linux.seccomp?.flags;
  assert.deepEqual(
    [flagsOf(seccomp), flagsOf({ ...seccomp, flags: [] }), flagsOf({}), flagsOf({ defaultAction: '', syscalls: null })],
    [['SECCOMP_FILTER_FLAG_SPEC_ALLOW'], [], undefined, undefined],
  );
  assert.throws(() => specWith(true, { syscalls: seccomp.syscalls }), { code: 'invalidArgument', message: 'linux.seccomp.defaultAction: required' });
});
