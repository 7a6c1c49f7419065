/** Where a container's groups are, and the plans that pause and resume it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeRuntimeSpec } from '#oci';
import { describeStep } from '#plan';
import { findExecGroups } from './cgroup-exec.ts';
import { cgroupOwnerOf } from './cgroup-owner.ts';
import { planCgroupPath } from './cgroup-path.ts';
import { cgroupDriver } from './cgroup.ts';
import { freezeFileOf, isPaused, planFreeze, planThaw } from './pause.ts';
import { hybridHost, v1Host, v2Host } from './testdata/hosts.ts';

const specOf = (linux: object, more: object = {}) => decodeRuntimeSpec({ ociVersion: '1.3.0', root: { path: 'rootfs' }, linux, ...more });
const pathOf = (cgroupsPath: string | undefined): string => planCgroupPath(specOf(cgroupsPath === undefined ? {} : { cgroupsPath }), 'web-1', v2Host).path;

test('the path is below the root of every hierarchy', () => {
  assert.deepEqual([undefined, '', '/a/b', 'a/b', '//a/./b/', '/a:b:c'].map(pathOf), ['/web-1', '/web-1', '/a/b', '/a/b', '/a/b', '/a:b:c']);
});

for (const [path, message] of [
  ['system.slice:docker:1', /^linux\.cgroupsPath: "system\.slice:docker:1" is for groups that systemd makes, which is not supported/],
  [':docker:1', /is for groups that systemd makes/],
  ['/', /must name a group below the root, not "\/"/],
  ['/a/../../b', /must not contain "\.\."/],
  ['/a/cgroup.procs', /"cgroup\.procs" cannot be the name of a group/],
  ['/a/tasks', /"tasks" cannot be the name of a group/],
  ['/a\nb', /cannot be the name of a group/],
  [`/${'x'.repeat(256)}`, /component of 256 bytes, at most 255/],
  ['/a'.repeat(65), /65 components, at most 64/],
] as const)
  test(`refuses ${JSON.stringify(path.slice(0, 40))} as a path`, () => assert.throws(() => pathOf(path), { code: 'invalidArgument', message }));

test('the freezer of the cgroup2 tree is used where there is one', () => {
  const group = { path: '/a/b' };
  assert.deepEqual(
    [v2Host, hybridHost, v1Host].map((host) => freezeFileOf(host, group)),
    ['/sys/fs/cgroup/a/b/cgroup.freeze', '/sys/fs/cgroup/unified/a/b/cgroup.freeze', '/sys/fs/cgroup/freezer/a/b/freezer.state'],
  );
  const says = [planFreeze(hybridHost, group, { timeoutMs: 5 }), planThaw(v1Host, group)].flatMap(({ sections }) =>
    sections.flatMap(({ steps }) => steps.map((step) => describeStep(step))),
  );
  assert.deepEqual(says, ['freeze every process in the cgroup /sys/fs/cgroup/unified/a/b', 'thaw every process in the cgroup /sys/fs/cgroup/freezer/a/b']);
  assert.deepEqual(['1\n', 'FROZEN\n', '0\n', 'THAWED\n', 'FREEZING\n', undefined].map(isPaused), [true, true, false, false, false, false]);
});

test('a container on v1 alone is in the freezer, and is thawed before it is killed', () => {
  const placement = planCgroupPath(specOf({}), 'x', v1Host);
  const driver = cgroupDriver(v1Host.cgroups);
  assert.ok(driver.procsFiles(placement).includes('/sys/fs/cgroup/freezer/x/tasks'));
  assert.deepEqual(
    driver.kill(placement, { timeoutMs: 5 }).map((step) => describeStep(step)),
    ['thaw every process in the cgroup /sys/fs/cgroup/freezer/x', 'kill every process in the cgroup /sys/fs/cgroup/devices/x'],
  );
});

test('without a freezer nothing is paused', () => {
  const host = { ...v1Host, cgroups: { ...v1Host.cgroups, v1: [] } };
  assert.equal(freezeFileOf(host, { path: '/a' }), '');
  assert.throws(() => planFreeze(host, { path: '/a' }, { timeoutMs: 5 }), { code: 'failedPrecondition', message: 'pause container: this host has no freezer controller' });
  assert.throws(() => planThaw(host, { path: '/a' }), { code: 'failedPrecondition', message: 'resume container: this host has no freezer controller' });
});

test('a group belongs to whoever may divide it', () => {
  const cgroup = { type: 'cgroup' };
  const mount = { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid'] };
  const process = { args: ['x'], cwd: '/', user: { uid: 7, gid: 0 } };
  const mapped = {
    namespaces: [cgroup, { type: 'user' }],
    uidMappings: [{ containerID: 5, hostID: 1000, size: 10 }],
    gidMappings: [{ containerID: 0, hostID: 1000, size: 10 }],
  };
  const ownerOf = (linux: object, more: object, host = v2Host): number | undefined => cgroupOwnerOf(specOf(linux, more), host);
  assert.equal(ownerOf(mapped, { process, mounts: [mount] }), 1002);
  assert.equal(ownerOf({ namespaces: [cgroup] }, { process, mounts: [mount] }), 7);
  assert.equal(ownerOf({ namespaces: [cgroup] }, { mounts: [mount] }), undefined);
  assert.equal(ownerOf(mapped, { process: { ...process, user: { uid: 99, gid: 0 } }, mounts: [mount] }), undefined);
  assert.equal(ownerOf(mapped, { process, mounts: [mount] }, hybridHost), undefined);
  assert.equal(ownerOf(mapped, { process, mounts: [{ ...mount, options: ['ro'] }] }), undefined);
  assert.equal(ownerOf(mapped, { process }), undefined);
  assert.equal(ownerOf({ namespaces: [{ type: 'cgroup', path: '/proc/1/ns/cgroup' }] }, { process, mounts: [mount] }), undefined);
});

test('what is given away divides a group, and never limits it', () => {
  const give = (cgroups: typeof v2Host.cgroups): readonly string[] =>
    cgroupDriver(cgroups)
      .create({ placement: { path: '/c' }, limitDevices: false, owner: 1000, path: 'linux.resources', origin: '/linux/resources' })
      .flatMap((step) => (step.kind === 'changeOwner' ? [`${step.path} ${step.uid} ${step.gid}${step.ignore === undefined ? '' : ' or none'}`] : []));
  const line = (file: string): string => `/sys/fs/cgroup/c/${file} 1000 4294967295 or none`;
  const directory = '/sys/fs/cgroup/c 1000 4294967295';
  assert.deepEqual(give(v2Host.cgroups), [directory, line('cgroup.procs'), line('cgroup.subtree_control'), line('cgroup.threads')]);
  assert.deepEqual(give({ ...v2Host.cgroups, delegated: ['cgroup.procs', 'memory.oom.group', '../x'] }), [directory, line('cgroup.procs'), line('memory.oom.group')]);
  assert.deepEqual(give(hybridHost.cgroups), []);
});

test('a further process enters the groups below that are named, and then they must exist', () => {
  const group = { path: '/c' };
  const enter = (host: typeof v2Host, subGroups: ReadonlyMap<string, string>): readonly string[] => {
    const { host: opened, child } = cgroupDriver(host.cgroups).attach(group, { optional: true, subGroups });
    return [...opened, ...child].flatMap((step) =>
      step.kind === 'writeFile' || step.kind === 'openPath' ? [`${step.path.replace('/sys/fs/cgroup', '')}${step.ignore === undefined ? '' : ' or not'}`] : [],
    );
  };
  assert.deepEqual(enter(v2Host, new Map([['', '/in/ner']])), ['/c/in/ner']);
  assert.deepEqual(enter(v2Host, new Map([['unified', '/init']])), ['/c/init']);
  assert.deepEqual(enter(hybridHost, new Map([['unified', '/init']])).slice(0, 2), ['/unified/c/init', '/devices/c/tasks or not']);
  const some = enter(hybridHost, new Map([['cpu', '/in']]));
  assert.ok(
    ['/unified/c', '/cpu/c/in/tasks', '/memory/c/tasks or not', '/freezer/c/tasks or not'].every((line) => some.includes(line)),
    some.join(),
  );
  const all = enter(hybridHost, new Map([['', '/in']]));
  assert.ok(
    ['/unified/c', '/cpu/c/in/tasks', '/memory/c/in/tasks', '/freezer/c/in/tasks or not'].every((line) => all.includes(line)),
    all.join(),
  );
});

test('groups that a caller names stay below the container', async () => {
  const find = async (wanted: readonly (readonly [string, string])[]) => findExecGroups(v1Host, { path: '/c' }, { pid: 1, wanted: new Map(wanted) });
  assert.deepEqual(
    await find([
      ['cpu', 'a//b/.'],
      ['', '/'],
    ]),
    new Map([
      ['cpu', '/a/b'],
      ['', ''],
    ]),
  );
  assert.deepEqual(await find([]), new Map());
  await assert.rejects(find([['', '../x']]), { code: 'invalidArgument', message: '--cgroup: bad sub cgroup path: ../x' });
  await assert.rejects(find([['net_cls', 'x']]), { code: 'invalidArgument', message: '--cgroup: unknown controller net_cls' });
});
