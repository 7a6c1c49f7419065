/** New limits for groups whose processes run, on the cgroup version of this machine: what is written, in which order, what is put back, what is refused. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { decodeResources } from '#oci';
import { type CgroupPlacement, cgroupDriver } from '#runtime';
import type { Plan } from '#plan';
import { updateGroup } from '../../src/sandbox/native-update.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const mebibyte = 1 << 20;

describe('new limits', { skip: skipReason() }, () => {
  let runtime: RuntimeHost;
  let pod: TestPod;
  before(async () => {
    runtime = await startRuntimeHost();
    pod = await runtime.makePod({ resources: decodeResources({ memory: { limit: 256 * mebibyte } }, '') });
  });
  after(async () => {
    await pod[Symbol.asyncDispose]();
    await runtime[Symbol.asyncDispose]();
  });

  const isV2 = (): boolean => runtime.host.cgroups.mode === 'v2';
  /** A control file of the group, by its names on both versions. */
  const read = ({ path }: CgroupPlacement, [controller, v1]: readonly [string, string], v2: string): string => {
    const root = isV2() ? runtime.host.cgroups.unified?.mountpoint : runtime.host.cgroups.v1.find(({ controllers }) => controllers.includes(controller))?.mountpoint;
    return readFileSync(`${root}${path}/${isV2() ? v2 : v1}`, 'utf8').trim();
  };
  const memoryOf = (group: CgroupPlacement): string => read(group, ['memory', 'memory.limit_in_bytes'], 'memory.max');
  const quotaOf = (group: CgroupPlacement): string =>
    isV2() ? read(group, ['', ''], 'cpu.max') : `${read(group, ['cpu', 'cpu.cfs_quota_us'], '')} ${read(group, ['cpu', 'cpu.cfs_period_us'], '')}`;
  const start = async (name: string, resources: object, script = 'sleep 1000'): Promise<{ readonly group: CgroupPlacement; readonly pid: number }> => {
    const { pid, input } = await pod.start(name, makeSpec(runtime.host, { args: ['sh', '-c', script], linux: { resources } }));
    return { group: input.cgroup, pid };
  };
  const update = async (placement: CgroupPlacement, resources: object, oomScore?: { readonly pid: number; readonly value: number }): Promise<void> =>
    updateGroup({ shim: pod.shim, host: runtime.host }, { placement, resources: decodeResources(resources, 'linux.resources'), ...(oomScore === undefined ? {} : { oomScore }) });

  it('are raised and lowered together, whatever the kernel wants first', async () => {
    const swap = runtime.host.cgroups.swapLimit;
    const { group } = await start('both', { memory: { limit: 64 * mebibyte, ...(swap ? { swap: 64 * mebibyte } : {}) }, cpu: { quota: 20_000, period: 100_000, shares: 512 } });
    const steps = [
      { mib: 128, quota: 900_000, period: 1_000_000 },
      { mib: 32, quota: 1_000, period: 5_000 },
      { mib: 200, quota: 40_000, period: 50_000 },
    ];
    for (const { mib, quota, period } of steps) {
      const limit = mib * mebibyte;
      await update(group, { memory: { limit, ...(swap ? { swap: limit } : {}) }, cpu: { quota, period, shares: 2048 } });
      assert.deepEqual([memoryOf(group), quotaOf(group)], [String(limit), `${quota} ${period}`]);
      if (swap) assert.equal(read(group, ['memory', 'memory.memsw.limit_in_bytes'], 'memory.swap.max'), isV2() ? '0' : String(limit));
    }
    assert.equal(read(group, ['cpu', 'cpu.shares'], 'cpu.weight'), isV2() ? '174' : '2048');
    await update(group, { memory: { limit: -1, ...(swap ? { swap: -1 } : {}) }, cpu: { quota: -1 } });
    assert.equal(memoryOf(group), isV2() ? 'max' : '9223372036854771712');
    assert.match(quotaOf(group), isV2() ? /^max / : /^-1 /);
  });

  it('below the memory in use are refused, and everything stays', async () => {
    // What is in the container's own tmpfs cannot be dropped.
    const { group } = await start(
      'full',
      { memory: { limit: 128 * mebibyte }, pids: { limit: 50 } },
      'dd if=/dev/zero of=/dev/full-of-it bs=1M count=24 2>/dev/null; echo ready; sleep 1000',
    );
    const used = (): number => Number(read(group, ['memory', 'memory.usage_in_bytes'], 'memory.current'));
    while (used() < 24 * mebibyte) await new Promise((resolve) => setTimeout(resolve, 50));
    await assert.rejects(update(group, { memory: { limit: 8 * mebibyte }, pids: { limit: 60 } }), {
      code: 'failedPrecondition',
      message: /^memory limit of 8388608 bytes: [0-9]+ bytes are in use$/,
    });
    assert.deepEqual([memoryOf(group), read(group, ['pids', 'pids.max'], 'pids.max')], [String(128 * mebibyte), '50']);
    await update(group, { memory: { limit: 64 * mebibyte } });
    assert.equal(memoryOf(group), String(64 * mebibyte));
  });

  it('that the kernel refuses in part are put back as a whole', async () => {
    const { group } = await start('part', { memory: { limit: 64 * mebibyte }, pids: { limit: 20 }, cpu: { shares: 512 } });
    const before = [memoryOf(group), quotaOf(group), read(group, ['pids', 'pids.max'], 'pids.max')];
    const refused = update(group, { memory: { limit: 96 * mebibyte }, pids: { limit: 30 }, cpu: { quota: 50_000, period: 100_000, cpus: '4095' } });
    await assert.rejects(refused, (error: Error) => /cpuset\.cpus/.test(error.message));
    assert.deepEqual([memoryOf(group), quotaOf(group), read(group, ['pids', 'pids.max'], 'pids.max')], before);
  });

  it('of a controller that the group was not made for take its processes along', async () => {
    const { group, pid } = await start('late', {}, 'sleep 1000 & sleep 1000 & wait');
    await update(group, { cpu: { cpus: '0', mems: '0' } });
    assert.equal(read(group, ['cpuset', 'cpuset.cpus'], 'cpuset.cpus'), '0');
    assert.equal(/^Cpus_allowed_list:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1], '0');
    const inside = read(group, ['cpuset', 'cgroup.procs'], 'cgroup.procs').split('\n');
    assert.deepEqual(inside.toSorted(), read(group, ['devices', 'cgroup.procs'], 'cgroup.procs').split('\n').toSorted());
    assert.ok(inside.length >= 3);
  });

  it('of raw files are refused on v1, and are written and put back on v2', async () => {
    const { group } = await start('raw', {});
    const unified = { 'memory.high': String(48 * mebibyte), 'pids.max': '77' };
    if (!isV2()) {
      await assert.rejects(update(group, { unified }), { code: 'failedPrecondition', message: 'linux.resources.unified: needs cgroup v2' });
      return;
    }
    await update(group, { unified });
    assert.deepEqual([read(group, ['', ''], 'memory.high'), read(group, ['', ''], 'pids.max')], [String(48 * mebibyte), '77']);
    await assert.rejects(update(group, { unified: { 'memory.high': 'max', 'memory.low': 'nonsense' } }), (error: Error) => /memory\.low/.test(error.message));
    assert.equal(read(group, ['', ''], 'memory.high'), String(48 * mebibyte));
  });

  it('of huge pages hold where the host counts them, and are refused elsewhere but for none at all', async () => {
    const { group } = await start('pages', {});
    const pages = (pageSize: string, limit: number): object => ({ hugepageLimits: [{ pageSize, limit }] });
    const counted = isV2() || runtime.host.cgroups.v1.some(({ controllers }) => controllers.includes('hugetlb'));
    for (const size of counted ? runtime.host.cgroups.hugepageSizes : []) {
      for (const limit of [4 * 1024 * mebibyte, 0]) {
        await update(group, pages(size, limit));
        assert.equal(read(group, ['hugetlb', `hugetlb.${size}.limit_in_bytes`], `hugetlb.${size}.max`), String(limit));
      }
    }
    await update(group, pages('3MB', 0));
    await assert.rejects(update(group, pages('3MB', 1)), {
      code: 'failedPrecondition',
      message: 'linux.resources.hugepageLimits[0].pageSize: this host controls no huge pages of 3MB',
    });
  });

  it('tell the kernel whom to kill first', async () => {
    const { group, pid } = await start('score', {});
    await update(group, {}, { pid, value: 321 });
    assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '321');
    await assert.rejects(update(group, { cpu: { cpus: '4095' } }, { pid, value: 400 }));
    assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '321');
  });

  it('of the pod hold for all its containers', async () => {
    const group = { path: `/berth-test/${pod.id}` };
    await update(group, { memory: { limit: 300 * mebibyte }, pids: { limit: 500 } });
    assert.deepEqual([memoryOf(group), read(group, ['pids', 'pids.max'], 'pids.max')], [String(300 * mebibyte), '500']);
  });

  it('of the pod and its containers are lowered from below and raised from above', async () => {
    const parent = { path: `/berth-test/${pod.id}` };
    const { group } = await start('below', {});
    const cpu = (quota: number): object => ({ cpu: { quota, period: 100_000 } });
    await update(parent, cpu(80_000));
    await update(group, cpu(50_000));
    // v1 takes no share above the parent's, nor one below a child's; v2 lets the smaller one count.
    const beside = { code: 'failedPrecondition', message: /EINVAL.*\(no such value, or not possible beside the limits of the group above or of those below\)$/ };
    if (!isV2()) {
      await assert.rejects(update(group, cpu(90_000)), beside);
      await assert.rejects(update(parent, cpu(20_000)), beside);
      assert.deepEqual([quotaOf(parent), quotaOf(group)], ['80000 100000', '50000 100000']);
    }
    await update(group, cpu(10_000));
    await update(parent, cpu(20_000));
    await update(parent, cpu(95_000));
    await update(group, cpu(90_000));
    assert.deepEqual([quotaOf(parent), quotaOf(group)], ['95000 100000', '90000 100000']);
  });

  it('that hold already are not written again', async () => {
    const { group } = await start('same', { memory: { limit: 64 * mebibyte }, cpu: { quota: 20_000, period: 100_000 }, pids: { limit: 9 } });
    const plans: Plan[] = [];
    const shim = { execute: async (plan: Plan): Promise<void> => void plans.push(plan) };
    const resources = decodeResources({ memory: { limit: 64 * mebibyte }, cpu: { quota: 20_000, period: 100_000 }, pids: { limit: 9 } }, '');
    const { prepare } = cgroupDriver(runtime.host.cgroups).update({ placement: group, resources, path: '', origin: '' });
    await updateGroup({ shim, host: runtime.host }, { placement: group, resources });
    assert.deepEqual(
      plans.map(({ sections }) => sections.flatMap(({ steps }) => steps).length),
      [prepare.length],
    );
  });
});
