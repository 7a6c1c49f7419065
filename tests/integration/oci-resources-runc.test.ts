/**
 * linux.resources by this runtime and by runc, side by side: the same document leads to the same values in the control files of every hierarchy that both are in, and what
 * runc refuses is refused. Compares what is set, never what is counted. And where a container's group may be, and what pausing it means to the commands.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { type OciDocument, OciHost, type RuntimeName, cgroupMounts, skipReason } from './oci-host.ts';

const skip = skipReason() === false ? skipReason('runc') : skipReason();
const mebibyte = 1 << 20;
const isV2 = !cgroupMounts().some((mount) => existsSync(`${mount}/tasks`));

/** A disk of this machine by its numbers. */
const disk = readdirSync('/sys/block').flatMap((name) => {
  const [major = '', minor = ''] = readFileSync(`/sys/block/${name}/dev`, 'utf8').trim().split(':');
  return /^(vd|sd|nvme|loop|ram)/.test(name) ? [{ major: Number(major), minor: Number(minor) }] : [];
})[0];

/** Control files that hold what somebody has set; without `cpu.weight`, to which older versions of runc map shares by a straight line. */
const settings =
  /^(cpu\.(shares|max|idle|cfs_.*|rt_.*_us)|cpuset\.(cpus|mems)|memory\.(limit_in_bytes|memsw\.limit_in_bytes|soft_limit_in_bytes|swappiness|oom_control|max|low|high|swap\.max)|pids\.max|(blkio\.throttle\..*_device|blkio\.bfq\.weight.*|io\.max|io\.weight|io\.bfq\.weight)|hugetlb\..*(max|limit_in_bytes)|net_cls\.classid|net_prio\.ifpriomap|devices\.list|cgroup\.freeze|freezer\.state)$/;

/** The value as it is compared: the kernel's order of devices says nothing, and a counter of kills is no setting. */
function normalize(file: string, text: string): string {
  const lines = text.trim().split('\n');
  if (file === 'memory.oom_control') return lines[0] ?? '';
  // runc 1.1 allows network tunnels too; later ones do not.
  return file === 'devices.list' ? [...new Set(lines.filter((line) => line !== 'c 10:200 rwm'))].sort().join(', ') : lines.join(', ');
}

/** Settings of a group by hierarchy and file. */
function readSettings(group: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const mount of cgroupMounts()) {
    const directory = `${mount}${group}`;
    if (!existsSync(directory)) continue;
    for (const file of readdirSync(directory)) if (settings.test(file)) found.set(`${mount}/${file}`, normalize(file, readFileSync(`${directory}/${file}`, 'utf8')));
  }
  return found;
}

const one = { type: 'c', major: 1 };
/** What docker's engine writes for every container. */
const usual = [
  { allow: false, access: 'rwm' },
  { allow: true, type: 'c', major: 1, minor: 5, access: 'rwm' },
  { allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' },
  { allow: true, type: 'c', major: 1, minor: 9, access: 'rwm' },
  { allow: true, type: 'c', major: 1, minor: 8, access: 'rwm' },
  { allow: true, type: 'c', major: 5, minor: 0, access: 'rwm' },
  { allow: true, type: 'c', major: 5, minor: 1, access: 'rwm' },
  { allow: false, type: 'c', major: 10, minor: 229, access: 'rwm' },
];

const documents: Readonly<Record<string, object>> = {
  'no limit at all': {},
  'processors, memory and processes': {
    cpu: { shares: 512, quota: 50_000, period: 100_000, cpus: '0', mems: '0' },
    memory: { limit: 64 * mebibyte, swap: 128 * mebibyte, reservation: 32 * mebibyte },
    pids: { limit: 44 },
  },
  'a quota without a period, and a period without a quota': { cpu: { quota: 30_000 } },
  'a period alone': { cpu: { period: 50_000 } },
  'the fewest shares': { cpu: { shares: 2 } },
  'the most shares': { cpu: { shares: 262_144 } },
  'no limits by -1': { cpu: { quota: -1 }, memory: { limit: -1 }, pids: { limit: -1 } },
  zeros: {
    cpu: { shares: 0, quota: 0, period: 0, cpus: '', mems: '' },
    memory: { limit: 0, swap: 0, reservation: 0, disableOOMKiller: false },
    blockIO: { weight: 0 },
    network: {},
    rdma: {},
  },
  'a reservation above the limit, kernel memory': { memory: { limit: 64 * mebibyte, reservation: 128 * mebibyte, kernel: 32 * mebibyte } },
  // runc passes over them on v2; here they are refused.
  ...(isV2 ? {} : { 'swappiness, no killer': { memory: { limit: 64 * mebibyte, swappiness: 10, disableOOMKiller: true } } }),
  'the devices of an ordinary container': { devices: usual },
  'devices that are merged': {
    devices: [
      { allow: false, access: 'rwm' },
      { allow: true, ...one, minor: 40, access: 'r' },
      { allow: true, ...one, minor: 40, access: 'w' },
      { allow: true, type: 'b', access: 'r' },
    ],
  },
  'devices that are taken back': {
    devices: [
      { allow: false, access: 'rwm' },
      { allow: true, ...one, minor: 40, access: 'rwm' },
      { allow: false, ...one, minor: 40, access: 'w' },
    ],
  },
  'every device': { devices: [{ allow: true, access: 'rwm' }] },
  'every device but one': {
    devices: [
      { allow: true, access: 'rwm' },
      { allow: false, ...one, minor: 41, access: 'w' },
    ],
  },
  ...(disk === undefined
    ? {}
    : {
        'block devices': {
          blockIO: {
            throttleReadBpsDevice: [{ ...disk, rate: 1048576 }],
            throttleWriteBpsDevice: [{ ...disk, rate: 2097152 }],
            throttleReadIOPSDevice: [{ ...disk, rate: 100 }],
            throttleWriteIOPSDevice: [{ ...disk, rate: 200 }],
          },
        },
        'a weight of block devices': { blockIO: { weight: 300 } },
      }),
};

const refused: Readonly<Record<string, object>> = {
  'swap below memory': { memory: { limit: 64 * mebibyte, swap: 32 * mebibyte } },
  'a disk that is not there': { blockIO: { throttleReadBpsDevice: [{ major: 4000, minor: 1, rate: 5 }] } },
  'processors that are not there': { cpu: { cpus: '4000' } },
  'huge pages of a size that is not there': { hugepageLimits: [{ pageSize: '3MB', limit: 5 }] },
  // On v2 there is no realtime, which runc passes over; and device rules are a program there, which can decide about a part.
  ...(isV2
    ? {}
    : {
        'realtime that the group above does not have': { cpu: { realtimePeriod: 1_000_000, realtimeRuntime: 10_000 } },
        'a part of a wider rule for devices': {
          devices: [
            { allow: true, ...one, access: 'rwm' },
            { allow: false, ...one, minor: 41, access: 'w' },
          ],
        },
      }),
};

describe('the same document by this runtime and by runc', { skip }, () => {
  const hosts = new Map<RuntimeName, OciHost>();
  before(() => {
    for (const name of ['berth', 'runc'] as const) hosts.set(name, new OciHost(name));
  });
  after(async () => {
    for (const host of hosts.values()) await host[Symbol.asyncDispose]();
  });

  for (const [title, resources] of Object.entries(documents))
    it(`has the same settings: ${title}`, async () => {
      const found: ReadonlyMap<string, string>[] = [];
      for (const [name, host] of hosts) {
        const group = `/berth-oci-test/same-${name}-${host.directory.slice(-6)}`;
        const bundle = host.makeBundle(['sleep', '1000'], (document) => Object.assign(document.linux, { cgroupsPath: group, resources }));
        const id = await host.create(bundle);
        found.push(readSettings(group));
        await host.ok(['delete', '--force', id]);
        assert.equal(readSettings(group).size, 0, `groups of ${name} are gone`);
      }
      const [ours, theirs] = found;
      assert.ok(ours !== undefined && theirs !== undefined && ours.size >= 8);
      const common = [...ours.keys()].filter((file) => theirs.has(file));
      assert.ok(common.length >= 8);
      assert.deepEqual(new Map(common.map((file) => [file, ours.get(file)])), new Map(common.map((file) => [file, theirs.get(file)])));
    });

  for (const [title, resources] of Object.entries(refused))
    it(`is refused: ${title}`, async () => {
      for (const host of hosts.values()) {
        const bundle = host.makeBundle(['true'], (document) => Object.assign(document.linux, { resources }));
        const { status, stderr } = await host.call(['create', '--bundle', bundle, host.newId()]);
        assert.notEqual(status, 0);
        if (host.runtime === 'berth') assert.match(stderr, /linux[./]resources/);
        assert.deepEqual(host.listCgroups(), []);
      }
    });
});

describe('the group of a container', { skip: skipReason() }, () => {
  let host: OciHost;
  before(() => {
    host = new OciHost();
  });
  after(async () => host[Symbol.asyncDispose]());
  const groupOf = (name: string): string => `/berth-oci-test/${name}-${host.directory.slice(-6)}`;
  const inGroup =
    (group: string) =>
    (document: OciDocument): void => {
      document.linux.cgroupsPath = group;
    };

  it('is refused to a second container, which leaves the first one alone', async () => {
    const group = groupOf('shared');
    const id = await host.start(['sleep', '1000'], inGroup(group));
    const { pid } = await host.state(id);
    const second = host.makeBundle(['true'], inGroup(`/${group}/.`));
    const refusal = await host.fails(['create', '--bundle', second, host.newId()]);
    assert.match(refusal, /linux\.cgroupsPath: \\?"\/berth-oci-test\/shared-\w+\\?": container's cgroup is not empty: 1 process\(es\) found/);
    assert.deepEqual(await host.state(id).then(({ status, pid: now }) => [status, now]), ['running', pid]);
    await host.ok(['delete', '--force', id]);
  });

  it('may exist before, and is below the root of every hierarchy without a slash too', async () => {
    const group = groupOf('early');
    // That of systemd has no controller, and nobody looks there.
    const mounts = cgroupMounts().filter((mount) => !mount.endsWith('/systemd'));
    for (const mount of mounts) mkdirSync(`${mount}${group}`, { recursive: true });
    const id = await host.start(['sleep', '1000'], inGroup(group.slice(1)));
    const { pid } = await host.state(id);
    assert.match(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), new RegExp(`:${group}$`, 'm'));
    await host.ok(['delete', '--force', id]);
    assert.ok(mounts.every((mount) => !existsSync(`${mount}${group}`)));
  });

  it('takes further processes in, or groups below that are named, and follows a first process that has divided it', async () => {
    const group = groupOf('inner');
    const id = await host.start(['sleep', '1000'], inGroup(group));
    const { pid } = await host.state(id);
    const where = async (options: readonly string[]): Promise<string> => host.ok(['exec', ...options, id, 'cat', '/proc/self/cgroup']);
    const tree = cgroupMounts().find((mount) => existsSync(`${mount}/${isV2 ? 'cgroup.controllers' : 'memory.limit_in_bytes'}`));
    const controller = isV2 ? 'inner' : 'memory:inner';
    assert.ok(tree !== undefined);
    mkdirSync(`${tree}${group}/inner`);
    // Inside its cgroup namespace the container's own groups are the roots.
    assert.match(await where([]), /:\/$/m);
    assert.match(await where(['--cgroup', controller]), isV2 ? /^0::\/inner$/m : /:memory:\/inner$/m);
    assert.match(await host.fails(['exec', '--cgroup', `${controller}/none`, id, 'true'], 255), /No such file or directory|ENOENT/i);
    assert.match(await host.fails(['exec', '--cgroup', `${controller}/../..`, id, 'true'], 255), /bad sub cgroup path/);
    // Beside v1 hierarchies there is nothing to divide.
    if (isV2) {
      mkdirSync(`${tree}${group}/init`);
      writeFileSync(`${tree}${group}/init/cgroup.procs`, String(pid));
      writeFileSync(`${tree}${group}/cgroup.subtree_control`, '+pids +memory');
      assert.match(await where([]), /^0::\/init$/m);
    }
    await host.ok(['delete', '--force', id]);
  });

  it('is not made by systemd', async () => {
    const bundle = host.makeBundle(['true'], inGroup('system.slice:berth:x'));
    assert.match(
      await host.fails(['create', '--bundle', bundle, host.newId()]),
      /linux\.cgroupsPath: \\?"system\.slice:berth:x\\?" is for groups that systemd makes, which is not supported/,
    );
    assert.deepEqual(host.listCgroups(), []);
  });

  it('can be paused, resumed, and killed while it is paused', async () => {
    const id = await host.start(['sh', '-c', 'while true; do sleep 1000; done']);
    for (const round of ['first', 'second']) {
      await host.ok(['pause', id]);
      assert.equal((await host.state(id)).status, 'paused', round);
      await host.ok(['resume', id]);
      assert.equal((await host.state(id)).status, 'running', round);
    }
    await host.ok(['pause', id]);
    assert.match(await host.fails(['exec', id, 'true'], 255), /cannot exec in a paused container \(use --ignore-paused to override\)/);
    await host.ok(['kill', id, 'KILL']);
    await host.untilStatus(id, 'stopped');
    await host.ok(['delete', id]);
  });
});
