/** Control groups: conversions, files, order, and what a host cannot do. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeResources } from '#oci';
import { type Step, describeStep } from '#plan';
import { type HostFacts } from '#system';
import { weightOfShares } from './cgroup-limits.ts';
import { cgroupDriver } from './cgroup.ts';
import { hybridHost, v1Host, v2Host } from './testdata/hosts.ts';

const placement = { path: '/kubepods/pod1/c' };
const create = (host: HostFacts, resources: object, limitDevices = false): readonly Step[] =>
  cgroupDriver(host.cgroups).create({ placement, resources: decodeResources(resources, 'linux.resources'), limitDevices, path: 'linux.resources', origin: '/linux/resources' });
/** `file=value` of every control file that is written, in order. */
const writes = (host: HostFacts, resources: object, limitDevices = false): string[] =>
  create(host, resources, limitDevices).flatMap((step) =>
    step.kind === 'writeFile' ? [`${step.path.replace('/sys/fs/cgroup', '')}=${Buffer.from(step.data).toString('utf8')}`] : [],
  );
const own = (lines: readonly string[]): string[] => lines.flatMap((line) => /\/kubepods\/pod1\/c\/(.*)/.exec(line)?.[1] ?? []);

test('cpu shares become weights on the curve that keeps the defaults', () => {
  assert.deepEqual([0n, 2n, 512n, 1024n, 2048n, 262144n, 1n << 40n].map(weightOfShares), [1, 1, 59, 100, 174, 10_000, 10_000]);
  let last = 0;
  for (let shares = 2n; shares <= 262144n; shares += 997n) {
    const weight = weightOfShares(shares);
    assert(weight >= last && weight >= 1 && weight <= 10_000);
    last = weight;
  }
});

test('writes limits to v2 files', () => {
  const resources = {
    cpu: { shares: 1024, quota: 50_000, period: 100_000, burst: 1000, cpus: '0-1', mems: '0' },
    memory: { limit: 100, reservation: 50, swap: 150 },
    pids: { limit: 10 },
    hugepageLimits: [{ pageSize: '2MB', limit: 0 }],
    unified: { 'memory.high': '90' },
  };
  assert.deepEqual(own(writes(v2Host, resources)), [
    'cpu.weight=100',
    'cpu.max=50000 100000',
    'cpu.max.burst=1000',
    'cpuset.cpus=0-1',
    'cpuset.mems=0',
    'memory.max=100',
    'memory.swap.max=50',
    'memory.low=50',
    'pids.max=10',
    'hugetlb.2MB.max=0',
    'hugetlb.2MB.rsvd.max=0',
    'memory.high=90',
  ]);
});

test('writes limits to v1 files', () => {
  const resources = {
    cpu: { shares: 1, quota: 50_000, period: 100_000 },
    memory: { limit: 100, reservation: 50, swap: 150, disableOOMKiller: true, swappiness: 0 },
    pids: { limit: -1 },
  };
  assert.deepEqual(own(writes(hybridHost, resources)), [
    'cpu.shares=2',
    'cpu.cfs_period_us=100000',
    'cpu.cfs_quota_us=50000',
    'memory.limit_in_bytes=100',
    'memory.memsw.limit_in_bytes=150',
    'memory.soft_limit_in_bytes=50',
    'memory.swappiness=0',
    'memory.oom_control=1',
    'pids.max=max',
  ]);
});

test('unlimited, absent and zero', () => {
  assert.deepEqual(own(writes(v2Host, { cpu: { shares: 0, quota: -1, period: 0 }, memory: { limit: -1, swap: -1 } })), [
    'cpu.max=max 100000',
    'memory.max=max',
    'memory.swap.max=max',
  ]);
  assert.deepEqual(own(writes(v2Host, { memory: { limit: 100, swap: 100 }, cpu: { idle: 1, shares: 512 } })), ['cpu.idle=1', 'memory.max=100', 'memory.swap.max=0']);
  assert.deepEqual(own(writes(v2Host, {})), []);
  assert.deepEqual(own(writes(v1Host, { memory: { limit: 5, swap: -1 } })), ['memory.limit_in_bytes=5']);
});

test('enables controllers from the top and never in the leaf', () => {
  const lines = create(v2Host, { pids: { limit: 5 }, hugepageLimits: [{ pageSize: '2MB', limit: 1 }] }).map((step) => describeStep(step));
  assert.deepEqual(lines, [
    'write "+cpu +io +memory +hugetlb +pids" to /sys/fs/cgroup/cgroup.subtree_control',
    'make the directory /sys/fs/cgroup/kubepods with mode 0755',
    'write "+cpu +io +memory +hugetlb +pids" to /sys/fs/cgroup/kubepods/cgroup.subtree_control',
    'make the directory /sys/fs/cgroup/kubepods/pod1 with mode 0755',
    'write "+cpu +io +memory +hugetlb +pids" to /sys/fs/cgroup/kubepods/pod1/cgroup.subtree_control',
    'make the directory /sys/fs/cgroup/kubepods/pod1/c with mode 0755',
    'write "5" to /sys/fs/cgroup/kubepods/pod1/c/pids.max',
    'write "1" to /sys/fs/cgroup/kubepods/pod1/c/hugetlb.2MB.max',
    'write "1" to /sys/fs/cgroup/kubepods/pod1/c/hugetlb.2MB.rsvd.max',
  ]);
});

test('v1 makes what every container is in and what has limits, and fills every new cpuset', () => {
  const steps = create(v1Host, { cpu: { cpus: '0' } });
  assert.deepEqual(
    steps.flatMap((step) => (step.kind === 'makeDirectory' ? [step.path] : [])),
    [
      ...['devices', 'memory', 'cpu', 'cpuacct'].map((name) => `/sys/fs/cgroup/${name}/kubepods/pod1/c`),
      ...['', '/pod1', '/pod1/c'].map((path) => `/sys/fs/cgroup/cpuset/kubepods${path}`),
      ...['pids', 'blkio'].map((name) => `/sys/fs/cgroup/${name}/kubepods/pod1/c`),
    ],
  );
  assert.deepEqual(writes(v1Host, { cpu: { cpus: '0' } }), [
    '/cpuset/kubepods/cpuset.cpus=0-3',
    '/cpuset/kubepods/cpuset.mems=0',
    '/cpuset/kubepods/cgroup.clone_children=1',
    '/cpuset/kubepods/pod1/cgroup.clone_children=1',
    '/cpuset/kubepods/pod1/c/cpuset.cpus=0',
  ]);
});

test('v1 denies all devices before it allows some', () => {
  const lines = own(writes(hybridHost, { devices: [{ allow: true, type: 'b', major: 8, minor: 0, access: 'r' }] }, true));
  assert.deepEqual(lines.slice(0, 4), ['devices.deny=a', 'devices.allow=b 8:0 r', 'devices.allow=c *:* m', 'devices.allow=b *:* m']);
  assert.equal(lines.at(-1), 'devices.allow=c 136:* rwm');
});

test('a child attaches itself on v1 and is made inside on v2', () => {
  const resources = decodeResources({ pids: { limit: 5 } }, '');
  const v1 = cgroupDriver(v1Host.cgroups).attach(placement, { resources, optional: false });
  assert.deepEqual(
    [v1.host, v1.slot, v1.child.map((step) => describeStep(step))],
    [[], undefined, ['devices', 'memory', 'cpu', 'cpuacct', 'pids', 'blkio'].map((name) => `write "0" to /sys/fs/cgroup/${name}/kubepods/pod1/c/tasks`)],
  );
  const v2 = cgroupDriver(v2Host.cgroups).attach(placement, { resources, optional: false });
  assert.deepEqual([v2.host.length, v2.slot, v2.child], [1, 64, []]);
  const exec = cgroupDriver(hybridHost.cgroups).attach(placement, { optional: true });
  assert(exec.child.length > 3 && exec.child.every(({ ignore }) => ignore?.includes(2)));
});

const refusals: readonly (readonly [host: HostFacts, resources: object, code: string, message: string])[] = [
  [hybridHost, { hugepageLimits: [{ pageSize: '2MB', limit: 1 }] }, 'failedPrecondition', 'linux.resources.hugepageLimits[0].pageSize: this host controls no huge pages of 2MB'],
  [v1Host, { memory: { limit: 100, swap: 200 } }, 'failedPrecondition', 'linux.resources.memory.swap: this host does not account swap'],
  [v2Host, { memory: { limit: 100, swap: 99 } }, 'invalidArgument', 'linux.resources.memory.swap: 99 is below memory.limit 100; it is memory plus swap'],
  [v2Host, { memory: { swap: 99 } }, 'invalidArgument', 'linux.resources.memory.swap: needs memory.limit, since it is memory plus swap'],
  [v2Host, { memory: { swappiness: 5 } }, 'failedPrecondition', 'linux.resources.memory.swappiness: does not exist on cgroup v2'],
  [v2Host, { cpu: { realtimeRuntime: 5 } }, 'failedPrecondition', 'linux.resources.cpu.realtimeRuntime: does not exist on cgroup v2'],
  [v2Host, { cpu: { period: 5 } }, 'invalidArgument', 'linux.resources.cpu.period: 5 is outside 1000 to 1000000 microseconds'],
  [v1Host, { unified: { 'memory.high': '1' } }, 'failedPrecondition', 'linux.resources.unified: needs cgroup v2'],
  [v2Host, { unified: { '../x': '1' } }, 'invalidArgument', 'linux.resources.unified["../x"]: is no resource file of a controller'],
  [v2Host, { unified: { 'cgroup.procs': '1' } }, 'invalidArgument', 'linux.resources.unified["cgroup.procs"]: is no resource file of a controller'],
  [v2Host, { unified: { 'rdma.max': '1' } }, 'failedPrecondition', 'linux.resources.unified["rdma.max"]: this host has no rdma controller'],
];
for (const [host, resources, code, message] of refusals)
  test(`refuses on ${host.cgroups.mode} with ${message}`, () => assert.throws(() => create(host, resources), { code, message }));

test('refuses paths that leave the tree', () => {
  for (const path of ['', '/', 'a/b', '/a/../b', '/a/.'])
    assert.throws(() => cgroupDriver(v2Host.cgroups).procsFiles({ path }), { code: 'invalidArgument', message: /^linux\.cgroupsPath: must be an absolute path/ });
});

test('names the OOM file where the host controls memory', () => {
  const without = { ...v1Host.cgroups, v1: v1Host.cgroups.v1.filter(({ controllers }) => !controllers.includes('memory')) };
  assert.equal(cgroupDriver(v1Host.cgroups).oomFile(placement, undefined), '/sys/fs/cgroup/memory/kubepods/pod1/c/memory.oom_control');
  assert.equal(cgroupDriver(without).oomFile(placement, undefined), '');
  assert.equal(cgroupDriver(v2Host.cgroups).oomFile(placement, undefined), '/sys/fs/cgroup/kubepods/pod1/c/memory.events');
});

test('on v1 a group without limits lives below its limited parent all the same', () => {
  const below = { ...placement, controllers: ['freezer'] };
  const driver = cgroupDriver(v1Host.cgroups);
  const groups = ['devices', 'memory', 'cpu', 'cpuacct', 'pids', 'blkio', 'freezer'].map((name) => `/sys/fs/cgroup/${name}/kubepods/pod1/c`);
  assert.deepEqual(
    driver.create({ placement: below, limitDevices: false, path: 'p', origin: 'o' }).flatMap((step) => (step.kind === 'makeDirectory' ? [step.path] : [])),
    groups,
  );
  assert.deepEqual(
    driver.attach(below, { optional: false }).child.flatMap((step) => (step.kind === 'writeFile' ? [step.path] : [])),
    groups.map((group) => `${group}/tasks`),
  );
  assert.deepEqual(driver.limited(decodeResources({ memory: { limit: 5 }, cpu: { shares: 5, quota: 5000 } }, '')), ['cpu', 'memory']);
});

test('a size of huge pages that the host does not count needs no forbidding', () => {
  assert.deepEqual(
    own(
      writes(v2Host, {
        hugepageLimits: [
          { pageSize: '1GB', limit: 0 },
          { pageSize: '2MB', limit: 0 },
        ],
      }),
    ),
    ['hugetlb.2MB.max=0', 'hugetlb.2MB.rsvd.max=0'],
  );
  const hybrid = { ...hybridHost, cgroups: { ...hybridHost.cgroups, hugepageSizes: ['2MB'] } };
  assert.deepEqual(own(writes(hybrid, { hugepageLimits: [{ pageSize: '2MB', limit: 0 }] })), []);
  assert.throws(() => writes(hybrid, { hugepageLimits: [{ pageSize: '2MB', limit: 1 }] }), {
    message: 'linux.resources.hugepageLimits[0].pageSize: this host controls no huge pages of 2MB',
  });
});

test('an update makes what its values need and names those that belong into the groups', () => {
  const update = (host: HostFacts, resources: object) =>
    cgroupDriver(host.cgroups).update({ placement, resources: decodeResources(resources, ''), path: 'linux.resources', origin: '/linux/resources' });
  const v1 = update(v1Host, { cpu: { cpus: '1' }, pids: { limit: 4 } });
  assert.deepEqual(
    v1.writes.map(({ file, value, origin }) => [file, value, origin]),
    [
      ['/sys/fs/cgroup/cpuset/kubepods/pod1/c/cpuset.cpus', '1', '/linux/resources/cpu/cpus'],
      ['/sys/fs/cgroup/pids/kubepods/pod1/c/pids.max', '4', '/linux/resources/pids/limit'],
    ],
  );
  assert.equal(v1.members.of, '/sys/fs/cgroup/devices/kubepods/pod1/c/cgroup.procs');
  assert.ok(v1.members.in.includes('/sys/fs/cgroup/cpuset/kubepods/pod1/c/cgroup.procs'));
  assert.ok(v1.prepare.every((step) => !(step.kind === 'writeFile' && step.path.endsWith('/c/cpuset.cpus'))));
  const v2 = update(v2Host, { cpu: { cpus: '1' } });
  assert.deepEqual([v2.writes.map(({ file, value }) => `${file}=${value}`), v2.members.in], [['/sys/fs/cgroup/kubepods/pod1/c/cpuset.cpus=1'], []]);
  assert.match(
    v2.prepare.map((step) => describeStep(step)).join('\n'),
    /write "\+cpuset \+cpu \+io \+memory \+pids" to \/sys\/fs\/cgroup\/kubepods\/pod1\/cgroup\.subtree_control/,
  );
  assert.throws(() => update(v1Host, { unified: { 'memory.high': '1' } }), { code: 'failedPrecondition', message: 'linux.resources.unified: needs cgroup v2' });
});
