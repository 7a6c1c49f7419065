/** Where hooks stand in plans, what they are told, and what cannot be done. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RuntimeSpec, decodeRuntimeSpec, hookKinds } from '#oci';
import { type Plan, type Step, explainPlan } from '#plan';
import { bundleSteps, hooksTimeoutMs, planCreationHooks, planPoststart, planPoststop, planStartHooks } from './hooks.ts';
import type { NamespaceTable } from './namespaces.ts';

const place = { id: 'c1', bundle: '/pods/c1/bundle' };
const specWith = (hooks: object): RuntimeSpec =>
  decodeRuntimeSpec({
    ociVersion: '1.3.0',
    root: { path: 'x' },
    process: { args: ['x'], cwd: '/', env: ['SECRET=word'] },
    annotations: { k: 'ü' },
    hooks,
    linux: { namespaces: [{ type: 'mount' }] },
  });
const all = specWith(Object.fromEntries(hookKinds.map((kind) => [kind, [{ path: `/${kind}`, args: [kind, 'x'], timeout: 3 }, { path: `/${kind}2` }]])));
const host = { kind: 'host' } as const;
const table: NamespaceTable = { pid: { kind: 'new' }, network: host, mount: { kind: 'new' }, ipc: host, uts: host, user: host, cgroup: host, time: host };
const kindsOf = (steps: readonly Step[]): readonly string[] => steps.map((step) => (step.kind === 'runHook' ? step.file : step.kind));
/** The state as the hook reads it, where the process is number 77. */
const stateOf = (step: Step | undefined): unknown => {
  assert.ok(step?.kind === 'runHook');
  const bytes = Buffer.from(step.state);
  return JSON.parse(step.pidAt === 0xffff_ffff ? bytes.toString() : `${bytes.toString('utf8', 0, step.pidAt)}77${bytes.toString('utf8', step.pidAt)}`);
};
const hooksOf = (plans: readonly Plan[]): readonly Step[] => plans.flatMap(({ sections }) => sections.flatMap(({ steps }) => steps.filter(({ kind }) => kind === 'runHook')));

test('host hooks run beside the waiting process, those of createContainer in it, in the document’s order', () => {
  const { early, late, sections } = planCreationHooks(all, place, table, '/rootfs');
  assert.deepEqual(early, []);
  assert.deepEqual(kindsOf(late), ['barrier', '/createContainer', '/createContainer2']);
  assert.deepEqual(
    sections.map(({ actor, barrier, cloneFlags, steps }) => [actor, barrier, cloneFlags, kindsOf(steps)]),
    [
      ['host', 1000, undefined, ['linkRoot']],
      ['podNamespaces', 1000, undefined, ['newSession', '/prestart', '/prestart2', '/createRuntime', '/createRuntime2']],
    ],
  );
  assert.deepEqual(kindsOf(planStartHooks(all, place)), ['/startContainer', '/startContainer2']);
  assert.deepEqual(planCreationHooks(specWith({ poststop: [{ path: '/x' }] }), place, table, '/r').sections.length, 1);
  assert.deepEqual(planCreationHooks(specWith({}), place, table, '/r'), { early: [], late: [], sections: [] });
  assert.deepEqual(planCreationHooks(all, undefined, table, '/r'), { early: [], late: [], sections: [] });
});

test('each kind is told its status and process, runs where its specification says, and has its time', () => {
  const { late, sections } = planCreationHooks(all, place, table, '/rootfs');
  const common = { ociVersion: '1.3.0', id: 'c1', bundle: place.bundle, annotations: { k: 'ü' } };
  const [onHost] = sections[1]?.steps.slice(1) ?? [];
  assert.deepEqual(stateOf(onHost), { ...common, status: 'created', pid: 77 });
  assert.deepEqual(stateOf(late[1]), { ...common, status: 'creating', pid: 77 });
  const [started] = planStartHooks(all, place);
  assert.deepEqual(stateOf(started), { ...common, status: 'created', pid: 77 });
  const [running] = hooksOf(planPoststart(all, place, 4321));
  assert.deepEqual(stateOf(running), { ...common, status: 'running', pid: 4321 });
  const [stopped] = hooksOf(planPoststop(all, place));
  assert.deepEqual(stateOf(stopped), { ...common, status: 'stopped' });
  const facts = [onHost, late[1], late[2], started].map((step) => (step?.kind === 'runHook' ? [step.process, step.cwd, step.timeoutMs, step.argv, step.origin] : []));
  assert.deepEqual(facts, [
    [255, place.bundle, 3000, ['prestart', 'x'], '/hooks/prestart/0'],
    [65535, place.bundle, 3000, ['createContainer', 'x'], '/hooks/createContainer/0'],
    [65535, place.bundle, 60_000, [], '/hooks/createContainer/1'],
    [65535, '/', 3000, ['startContainer', 'x'], '/hooks/startContainer/0'],
  ]);
  assert.equal(hooksTimeoutMs(all, ['prestart', 'createContainer']), 126_000);
});

test('a hook never enters a PID namespace that others live in with what the host has', () => {
  const { early, late } = planCreationHooks(all, place, { ...table, pid: { kind: 'slot', slot: 4 } }, '/rootfs');
  assert.deepEqual(
    early.map((step) => (step.kind === 'openPath' ? [step.path, step.out] : [])),
    [['/proc/self/ns/pid', 65]],
  );
  assert.deepEqual(
    late.map((step) => (step.kind === 'enterNamespace' ? step.slot : step.kind)),
    ['barrier', 65, 'runHook', 'runHook', 4],
  );
});

test('below a user namespace a child of the shim enters the container’s other namespaces for createContainer hooks, with the host’s tree', () => {
  const visit = (pid: NamespaceTable['pid']): readonly Step[] => {
    const { early, late, sections } = planCreationHooks(all, place, { ...table, user: { kind: 'new' }, pid, network: { kind: 'slot', slot: 1 } }, '/root');
    assert.deepEqual([early, kindsOf(late), sections.length], [[], ['barrier'], 3]);
    assert.deepEqual([sections[2]?.actor, sections[2]?.barrier, sections[2]?.cloneFlags], ['podNamespaces', 1000, undefined]);
    return sections[2]?.steps ?? [];
  };
  const words = (steps: readonly Step[]): readonly unknown[] =>
    steps.map((step) => (step.kind === 'openPath' ? [step.dir, step.path] : step.kind === 'runHook' ? step.file : step.kind));
  assert.deepEqual(words(visit({ kind: 'new' })), [
    'newSession',
    [65535, '/'],
    [255, 'ns/net'],
    [255, 'ns/pid'],
    [255, 'ns/mnt'],
    'enterNamespace',
    'enterNamespace',
    'enterNamespace',
    'changeRoot',
    '/createContainer',
    '/createContainer2',
  ]);
  const [alone, joined] = [visit({ kind: 'new' }), visit({ kind: 'slot', slot: 4 })];
  assert.deepEqual((stateOf(alone.find(({ kind }) => kind === 'runHook')) as { pid: number }).pid, 1);
  assert.deepEqual((stateOf(joined.find(({ kind }) => kind === 'runHook')) as { pid: number }).pid, 77);
  assert.ok(!words(joined).some((word) => Array.isArray(word) && word[1] === 'ns/pid'));
});

test('hooks after the start and after the end are plans of their own, one each', () => {
  assert.deepEqual(
    planPoststart(all, place, 5).map(({ sections }) => sections.map(({ actor, steps }) => [actor, kindsOf(steps)])),
    [[['podNamespaces', ['newSession', 'removeFile', 'makeLink', '/poststart']]], [['podNamespaces', ['newSession', 'removeFile', 'makeLink', '/poststart2']]]],
  );
  assert.equal(planPoststop(all, place).length, 2);
  assert.deepEqual([planPoststart(specWith({}), place, 5), planPoststop(specWith({}), place)], [[], []]);
});

test('the bundle holds the document with `rootfs` as its root, is for root alone, and exists only for documents with hooks', () => {
  const [directory, config] = bundleSteps(all, place);
  assert.ok(directory?.kind === 'makeDirectory' && config?.kind === 'makeFile');
  assert.deepEqual([directory.path, directory.mode, config.path, config.mode], [place.bundle, 0o700, `${place.bundle}/config.json`, 0o600]);
  const document = JSON.parse(Buffer.from(config.data).toString()) as Record<string, Record<string, unknown>>;
  assert.deepEqual([document['root'], document['process']?.['env'], Object.keys(document['hooks'] ?? {})], [{ path: 'rootfs', readonly: false }, ['SECRET=word'], [...hookKinds]]);
  assert.deepEqual(bundleSteps(specWith({}), place), []);
});

test('explained plans tell of hooks and of no secret', () => {
  const { sections } = planCreationHooks(all, place, table, '/rootfs');
  const lines = explainPlan({ sections: [...sections, { actor: 'host', steps: bundleSteps(all, place) }] });
  assert.ok(lines.includes('on the host, beside the waiting child, at barrier 1000'));
  assert.ok(lines.some((line) => line.endsWith('run the hook /prestart  [/hooks/prestart/0]')));
  assert.ok(!lines.join('\n').includes('word'));
});
