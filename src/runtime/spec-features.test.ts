/** Parts of a document that become a few steps of their own: what is planned, in which order, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import { type Plan, type Step, clone, decodePlan, describeStep, encodePlan } from '#plan';
import type { HostFacts } from '#system';
import { type PlanContainerInput, planContainer } from './container.ts';
import { planExec } from './exec.ts';
import { planIntelRdt } from './intel-rdt.ts';
import { checkRootPlace, planRemains } from './root-place.ts';
import { planScheduling } from './scheduler.ts';
import { withUserMappings } from './user-namespace.ts';

const host: HostFacts = {
  architecture: 'x86_64',
  kernel: { release: '6.1.0', major: 6, minor: 1 },
  cgroups: {
    mode: 'v2',
    v1: [],
    unified: { mountpoint: '/sys/fs/cgroup', controllers: ['cpu', 'memory', 'pids', 'cpuset'], canKill: true },
    cpusetCpus: '',
    cpusetMems: '',
    swapLimit: true,
    hugepageSizes: [],
  },
  securityModules: [],
  capabilities: { last: 40, own: (1n << 41n) - 1n },
  oomScoreAdj: 0,
  rlimits: {},
  seccomp: true,
};
const kinds = ['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'];
const list = (types: readonly string[], ...more: readonly object[]): readonly object[] => [...types.map((type) => ({ type })), ...more];
const makeSpec = (linux: object = {}, process: object = {}, mounts: readonly object[] = []): RuntimeSpec =>
  decodeRuntimeSpec({
    ociVersion: '1.3.0',
    root: { path: 'rootfs' },
    process: { args: ['/bin/true'], cwd: '/', ...process },
    mounts,
    linux: { namespaces: list(kinds), ...linux },
  });
const makeInput = (spec: RuntimeSpec, more: Partial<PlanContainerInput> = {}): PlanContainerInput => ({
  spec,
  host,
  rootfs: { kind: 'directory', path: '/b/rootfs' },
  cgroup: { path: '/c/one' },
  askIdentity: false,
  start: { kind: 'socket', path: '/run/s/start.sock' },
  ...more,
});
const stepsOf = ({ sections }: Plan): readonly Step[] => sections.flatMap(({ steps }) => steps);
const sayAll = (steps: readonly Step[]): readonly string[] => steps.map((step) => describeStep(step));
const planned = (spec: RuntimeSpec, more?: Partial<PlanContainerInput>): readonly string[] => {
  const plan = planContainer(makeInput(spec, more));
  assert.equal(stepsOf(decodePlan(encodePlan(plan))).length, stepsOf(plan).length);
  return sayAll(stepsOf(plan));
};

test('a flag that a fork would take back is set after the last one', () => {
  const spec = makeSpec({}, { scheduler: { policy: 'SCHED_FIFO', priority: 9, flags: ['SCHED_FLAG_RESET_ON_FORK'] }, ioPriority: { class: 'IOPRIO_CLASS_RT', priority: 1 } });
  const { process } = spec;
  assert.ok(process !== undefined);
  const alone = planScheduling(process, { forks: false, path: 'process' });
  assert.deepEqual(sayAll(alone.privileged), ['set the I/O priority to 1 of class 1', 'set the scheduler to policy 1, nice 0, priority 9, flags 0x1']);
  assert.deepEqual(alone.late, []);
  const forked = planScheduling(process, { forks: true, path: 'process' });
  assert.deepEqual(sayAll(forked.privileged).at(-1), 'set the scheduler to policy 1, nice 0, priority 9, flags 0x0');
  assert.deepEqual(sayAll(forked.late), ['set the scheduler to policy 0, nice 0, priority 0, flags 0x19']);
  const exec = stepsOf(planExec({ process, spec, initPid: 7, host, cgroup: { path: '/c/one' } })).map(({ kind }) => kind);
  assert.ok(exec.lastIndexOf('setScheduler') > exec.indexOf('fork') && exec.indexOf('setScheduler') < exec.indexOf('limitCapabilities'));
});

test('priorities are given before a user namespace is entered, and I/O priorities only there', () => {
  const range = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
  const users = { namespaces: list(['user', ...kinds]), uidMappings: range, gidMappings: range };
  const kindsOf = stepsOf(planContainer(makeInput(makeSpec(users, { scheduler: { policy: 'SCHED_BATCH' }, ioPriority: { class: 'IOPRIO_CLASS_BE' } })))).map((step) =>
    step.kind === 'enterNamespace' && step.type === clone.newUser ? 'users' : step.kind,
  );
  assert.equal(kindsOf.filter((kind) => kind === 'setIoPriority').length, 1);
  assert.ok(kindsOf.indexOf('setIoPriority') < kindsOf.indexOf('users') && kindsOf.indexOf('setScheduler') < kindsOf.indexOf('users'));
  assert.ok(kindsOf.lastIndexOf('setScheduler') > kindsOf.indexOf('users'));
});

test('the first CPUs of an exec are those of its way into the group', () => {
  const spec = makeSpec({}, { execCPUAffinity: { initial: '0-1', final: '9' } });
  const { process } = spec;
  assert.ok(process !== undefined);
  const plan = planExec({ process, spec, initPid: 7, host, cgroup: { path: '/c/one' } });
  const setup = plan.sections.find(({ actor }) => actor === 'containerSetup');
  assert.equal(setup?.cgroup, undefined);
  assert.deepEqual(sayAll(setup?.steps.slice(0, 3) ?? []), ['run on the CPUs 0-1', 'write "0" to cgroup.procs below slot 64', 'run on the CPUs 9']);
});

test('a container without a shim may use every CPU of its cgroup, and so may an exec that says nothing else', () => {
  const said = planned(makeSpec());
  assert.ok(said.includes('run on the CPUs 0-8191'));
  assert.ok(!planned(makeSpec(), { start: { kind: 'barrier' } }).some((text) => text.startsWith('run on')));
  const { process } = makeSpec();
  assert.ok(process !== undefined);
  const exec = (more: object): boolean =>
    sayAll(stepsOf(planExec({ process, spec: makeSpec(), initPid: 7, host, cgroup: { path: '/c/one' }, ...more }))).includes('run on the CPUs 0-8191');
  assert.deepEqual([exec({}), exec({ standalone: { preserveFds: 0, outlivesMaker: true } })], [false, true]);
});

test('controllers that share a hierarchy are found by each name', () => {
  const v1: HostFacts = {
    ...host,
    cgroups: {
      mode: 'v1',
      v1: [
        { controllers: ['cpu', 'cpuacct'], mountpoint: '/sys/fs/cgroup/cpu,cpuacct' },
        { controllers: ['devices'], mountpoint: '/sys/fs/cgroup/devices' },
      ],
      cpusetCpus: '0',
      cpusetMems: '0',
      swapLimit: false,
      hugepageSizes: [],
    },
  };
  const said = planned(makeSpec({}, {}, [{ destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup' }]), { host: v1 });
  assert.deepEqual(
    said.filter((text) => text.includes(' to cpu,cpuacct')),
    ['make the link /cpu below slot 80 to cpu,cpuacct', 'make the link /cpuacct below slot 80 to cpu,cpuacct'],
  );
});

test('shifted clocks are written before anybody is in their namespace', () => {
  const said = planned(makeSpec({ namespaces: list([...kinds, 'time']), timeOffsets: { monotonic: { secs: -3 }, boottime: { secs: 4, nanosecs: 5 } } }));
  const at = said.indexOf('create new namespaces: time');
  assert.deepEqual(said.slice(at, at + 3), [
    'create new namespaces: time',
    'write "monotonic -3 0\\nboottime 4 5" to /proc/self/timens_offsets',
    'keep the own time namespace in slot 77',
  ]);
  assert.ok(said.indexOf('enter the time namespace of slot 77') > at);
  const plain = planContainer(makeInput(makeSpec({ namespaces: list([...kinds, 'time']) })));
  assert.equal(plain.sections.find(({ actor }) => actor === 'containerSetup')?.cloneFlags, clone.newPid | clone.newTime);
});

test('groups of Intel RDT: one of the container, one with others, the one that everybody is in', () => {
  const rdt = (intelRdt: object): ReturnType<typeof planIntelRdt> => planIntelRdt(makeSpec({ intelRdt }).linux, { id: 'one', host: { resctrl: '/sys/fs/resctrl' } });
  const own = rdt({ l3CacheSchema: 'L3:0=f', schemata: ['MB:0=20'], enableMonitoring: true });
  assert.deepEqual(sayAll(own.host), [
    'make the directory /sys/fs/resctrl/one with mode 0755',
    'write 15 bytes to /sys/fs/resctrl/one/schemata',
    'make the directory /sys/fs/resctrl/one/mon_groups/one with mode 0755',
  ]);
  assert.deepEqual(sayAll(own.child), ['write 1 bytes to /sys/fs/resctrl/one/tasks', 'write 1 bytes to /sys/fs/resctrl/one/mon_groups/one/tasks']);
  assert.deepEqual(sayAll(own.remove), ['remove the empty directory /sys/fs/resctrl/one']);
  const shared = rdt({ closID: 'gold', enableMonitoring: true });
  assert.deepEqual(sayAll(shared.remove), ['remove the empty directory /sys/fs/resctrl/gold/mon_groups/one']);
  assert.deepEqual([sayAll(rdt({ closID: '/' }).host), sayAll(rdt({ closID: '/' }).child)], [[], ['write 1 bytes to /sys/fs/resctrl/tasks']]);
  assert.throws(() => planContainer(makeInput(makeSpec({ intelRdt: {} }))), {
    code: 'failedPrecondition',
    message: 'linux.intelRdt: this host has no resctrl file system mounted',
  });
});

test('network devices are moved while the process waits, each from the namespace of the host', () => {
  const plan = planContainer(makeInput(makeSpec({ netDevices: { eth7: { name: 'eth0' }, eth8: {} } })));
  const section = plan.sections.find(({ barrier }) => barrier === 900);
  assert.equal(section?.actor, 'podNamespaces');
  assert.deepEqual(
    section.steps.map(({ kind }) => kind),
    ['openNamespace', 'openPath', 'moveNetDevice', 'enterNamespace', 'moveNetDevice'],
  );
  assert.ok(stepsOf(plan).some((step) => step.kind === 'barrier' && step.barrier === 900));
});

test('the root without a mount namespace, and without a pivot', () => {
  const own = makeSpec({ namespaces: list(kinds.filter((kind) => kind !== 'mount')) });
  const said = planned(own);
  assert.ok(said.includes('make slot 67 the root of this process alone'));
  assert.ok(!said.some((text) => text.startsWith('make / ')), "the propagation of the host's mounts stays");
  assert.deepEqual(sayAll(planRemains(own, { rootfs: { kind: 'directory', path: '/b/rootfs' }, id: 'one', host })), ['unmount /b/rootfs']);
  assert.deepEqual(planRemains(makeSpec(), { rootfs: { kind: 'directory', path: '/b/rootfs' }, id: 'one', host }), []);
  const moved = planned(makeSpec(), { pivot: false });
  const at = moved.indexOf('move the mount of slot 67 onto the root');
  assert.deepEqual(moved.slice(at - 2, at), ['unmount /proc', 'unmount /sys']);
  const table = { mount: { kind: 'new' } } as const;
  // SAFETY: only the mount namespace is looked at.
  const check = (propagation: string): void => checkRootPlace(makeSpec({ rootfsPropagation: propagation }), { kind: 'directory', path: '/b' }, table as never, false);
  assert.throws(() => check('rprivate'), { code: 'invalidArgument', message: 'linux.rootfsPropagation: rprivate is not safe without a pivot' });
  check('slave');
});

test('a procfs of a PID namespace that is joined is made inside of it by a child without slots', () => {
  const spec = makeSpec({ namespaces: list(kinds.slice(1), { type: 'pid', path: '/run/pins/pid' }) }, {}, [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid'] },
  ]);
  const { sections } = planContainer(makeInput(spec));
  const index = sections.findIndex(({ pidNamespace }) => pidNamespace !== undefined);
  assert.deepEqual(
    sections[index]?.steps.map(({ kind }) => kind),
    ['closeSlots', 'newFileSystem', 'exportSlot'],
  );
  assert.deepEqual(sayAll(sections[index - 1]?.steps ?? []), ['open /run/pins/pid (none) into slot 65']);
});

test('mappings of a user namespace that is joined are those that it has', () => {
  const users = { uids: [{ containerId: 0, hostId: 5, size: 9 }], gids: [{ containerId: 0, hostId: 6, size: 9 }] };
  const joined = { namespaces: list(kinds, { type: 'user', path: '/proc/7/ns/user' }) };
  assert.throws(() => planContainer(makeInput(makeSpec(joined))), {
    code: 'invalidArgument',
    message: 'linux.namespaces[6].path: the mappings of this user namespace are not known: no process is in it',
  });
  const spec = withUserMappings(makeSpec(joined), users);
  const said = planned(spec);
  assert.ok(said.includes('give the standard streams to 5:6') && said.includes('enter the user namespace of slot 75'));
  assert.ok(said.indexOf('open /proc/7/ns/user (none) into slot 75') < said.indexOf('clone the mount at /b/rootfs with what is mounted below it into slot 67'));
  assert.deepEqual(withUserMappings(spec, users), spec);
  assert.throws(() => withUserMappings(spec, { ...users, uids: [] }), {
    code: 'invalidArgument',
    message: 'linux.uidMappings: differ from those of the user namespace that is joined',
  });
});

test('mounts: what is refused before anything exists', () => {
  const refuse = (mount: object): string => {
    try {
      planContainer(makeInput(makeSpec({}, {}, [mount])));
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
    return 'was planned';
  };
  assert.equal(refuse({ destination: '/proc', type: 'tmpfs' }), 'mounts[0].destination: only procfs may be mounted on /proc, not "tmpfs"');
  assert.equal(refuse({ destination: '/proc/sys', source: '/x', options: ['bind'] }), 'mounts[0].destination: nothing may be mounted on "/proc/sys" inside of procfs');
  assert.equal(refuse({ destination: '/proc/cpuinfo', type: 'tmpfs' }), 'mounts[0].destination: nothing may be mounted on "/proc/cpuinfo" inside of procfs');
  assert.equal(refuse({ destination: '/x', options: ['remount', 'sync'] }), 'mounts[0].options: the option "sync" cannot be changed by a remount, only those of the mount itself');
  assert.equal(refuse({ destination: '/proc/cpuinfo', source: '/x', options: ['bind'] }), 'was planned');
});

test('a file system with a store is read-only itself, one in memory by its mount', () => {
  const said = planned(
    makeSpec({}, {}, [
      { destination: '/e', type: 'ext4', source: '/dev/x', options: ['ro', 'sync'] },
      { destination: '/m', type: 'tmpfs', options: ['ro', 'mode=700'] },
    ]),
  );
  assert.ok(said.includes('create a ext4 file system (source=/dev/x, ro, sync, ro) in slot 80'));
  assert.ok(said.includes('create a tmpfs file system (mode=700, ro) in slot 81'));
});
