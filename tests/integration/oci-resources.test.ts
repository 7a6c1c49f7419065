/**
 * linux.resources against the kernel, on the cgroup version of this machine: every group of limits lands in its control files, device rules decide, pausing stops and
 * resuming goes on, an update is put back where the kernel takes it in part, and what a host lacks is refused before a group exists.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeResources } from '#oci';
import { type CgroupPlacement, type PlanContainerInput, checkGroupFree, freezeFileOf, isPaused, planContainer, planFreeze, planThaw, updateLimits } from '#runtime';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost } from './runtime-host.ts';

const mebibyte = 1 << 20;

/** A disk of this machine by its numbers; there is none like the other one. */
const disk = readdirSync('/sys/block').flatMap((name) => {
  const [major = '', minor = ''] = readFileSync(`/sys/block/${name}/dev`, 'utf8').trim().split(':');
  return /^(vd|sd|nvme|loop|ram)/.test(name) ? [{ major: Number(major), minor: Number(minor) }] : [];
})[0];
const noDisk = { major: 4000, minor: 1 };

describe('resources', { skip: skipReason() }, () => {
  let runtime: RuntimeHost;
  let pod: TestPod;
  let count = 0;
  before(async () => {
    runtime = await startRuntimeHost();
    pod = await runtime.makePod();
  });
  after(async () => {
    await pod[Symbol.asyncDispose]();
    await runtime[Symbol.asyncDispose]();
  });

  const isV2 = (): boolean => runtime.host.cgroups.mode === 'v2';
  const fileOf = ({ path }: CgroupPlacement, controller: string, file: string): string => {
    const root = isV2() ? runtime.host.cgroups.unified?.mountpoint : runtime.host.cgroups.v1.find(({ controllers }) => controllers.includes(controller))?.mountpoint;
    return `${root}${path}/${file}`;
  };
  const read = (group: CgroupPlacement, controller: string, file: string): string => readFileSync(fileOf(group, controller, file), 'utf8').trim();
  const start = async (
    resources: object,
    script = 'exec sleep 1000',
    linux: object = {},
  ): Promise<{ readonly name: string; readonly group: CgroupPlacement; readonly pid: number }> => {
    const name = `c${(count += 1)}`;
    const { pid, input } = await pod.start(name, makeSpec(runtime.host, { args: ['sh', '-c', script], linux: { resources, ...linux } }));
    return { name, group: input.cgroup, pid };
  };
  const inputOf = (resources: object): PlanContainerInput => ({
    spec: makeSpec(runtime.host, { args: ['true'], linux: { resources } }),
    rootfs: { kind: 'directory', path: runtime.root },
    host: runtime.host,
    cgroup: { path: '/berth-test/never' },
    askIdentity: false,
  });
  const refuses = (resources: object, code: string, message: string | RegExp): void => assert.throws(() => planContainer(inputOf(resources)), { code, message });
  const update = async (placement: CgroupPlacement, resources: object, checkMemory = false): Promise<void> =>
    updateLimits(runtime.host, async (steps) => pod.execute({ sections: [{ actor: 'podNamespaces', steps }] }), {
      placement,
      resources: decodeResources(resources, 'linux.resources'),
      checkMemory,
    });
  /** Waits for what other processes bring about. */
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await sleep(20);
  };

  it('of processors, memory and processes are in the control files', async () => {
    const limit = 64 * mebibyte;
    const { swapLimit } = runtime.host.cgroups;
    const { group } = await start({
      cpu: { shares: 512, quota: 50_000, period: 100_000, burst: 10_000, cpus: '0', mems: '0' },
      // Kernel memory is passed over.
      memory: { limit, reservation: limit * 2, kernel: limit, kernelTCP: -1, checkBeforeUpdate: true, useHierarchy: true, ...(swapLimit ? { swap: limit * 2 } : {}) },
      pids: { limit: 33 },
    });
    const wanted = isV2()
      ? {
          cpu: { 'cpu.weight': '59', 'cpu.max': '50000 100000', 'cpu.max.burst': '10000' },
          cpuset: { 'cpuset.cpus': '0', 'cpuset.mems': '0' },
          memory: { 'memory.max': String(limit), 'memory.low': String(limit * 2), ...(swapLimit ? { 'memory.swap.max': String(limit) } : {}) },
          pids: { 'pids.max': '33' },
        }
      : {
          cpu: { 'cpu.shares': '512', 'cpu.cfs_quota_us': '50000', 'cpu.cfs_period_us': '100000', 'cpu.cfs_burst_us': '10000' },
          cpuset: { 'cpuset.cpus': '0', 'cpuset.mems': '0' },
          memory: {
            'memory.limit_in_bytes': String(limit),
            'memory.soft_limit_in_bytes': String(limit * 2),
            ...(swapLimit ? { 'memory.memsw.limit_in_bytes': String(limit * 2) } : {}),
          },
          pids: { 'pids.max': '33' },
        };
    for (const [controller, files] of Object.entries(wanted)) for (const [file, value] of Object.entries(files)) assert.equal(read(group, controller, file), value, file);
    await update(group, { memory: { limit: -1 } });
    assert.equal(isV2() ? read(group, 'memory', 'memory.max') : read(group, 'memory', 'memory.limit_in_bytes'), isV2() ? 'max' : '9223372036854771712');
    if (swapLimit && !isV2()) assert.equal(read(group, 'memory', 'memory.memsw.limit_in_bytes'), '9223372036854771712');
  });

  it('an idle group has no weight, and gets one when it is idle no more', async () => {
    const { group } = await start({ cpu: { idle: 1, shares: 512 } });
    const weight = isV2() ? 'cpu.weight' : 'cpu.shares';
    assert.equal(read(group, 'cpu', 'cpu.idle'), '1');
    await update(group, { cpu: { idle: 0, shares: 2048 } });
    assert.deepEqual([read(group, 'cpu', 'cpu.idle'), read(group, 'cpu', weight)], ['0', isV2() ? '174' : '2048']);
    await update(group, { cpu: { idle: 1, shares: 2048 } });
    assert.equal(read(group, 'cpu', 'cpu.idle'), '1');
    // The new group of processors does not exist: what was written before is put back.
    await assert.rejects(update(group, { cpu: { idle: 0, shares: 1024, cpus: '4095' } }), /cpuset\.cpus/);
    assert.equal(read(group, 'cpu', 'cpu.idle'), '1');
  });

  it('of block devices are in the control files, and are put back as a whole', async (t) => {
    if (disk === undefined) {
      t.diagnostic('this machine has no disk');
      return;
    }
    const { controlFiles } = runtime.host.cgroups;
    const key = `${disk.major}:${disk.minor}`;
    const { group } = await start({ blockIO: { throttleReadBpsDevice: [{ ...disk, rate: 1048576 }], throttleWriteIOPSDevice: [{ ...disk, rate: 100 }] } });
    const [reads, writes] = isV2() ? ['io.max', 'io.max'] : ['blkio.throttle.read_bps_device', 'blkio.throttle.write_iops_device'];
    const now = (): readonly string[] => [read(group, isV2() ? 'io' : 'blkio', reads), read(group, isV2() ? 'io' : 'blkio', writes)];
    const before = now();
    const line = `${key} rbps=1048576 wbps=max riops=max wiops=100`;
    assert.deepEqual(before, isV2() ? [line, line] : [`${key} 1048576`, `${key} 100`]);
    const change = { throttleReadBpsDevice: [{ ...disk, rate: 2097152 }], throttleReadIOPSDevice: [{ ...disk, rate: 5 }] };
    await assert.rejects(update(group, { blockIO: { ...change, throttleWriteIOPSDevice: [{ ...noDisk, rate: 5 }] } }), (error: Error) =>
      /\/linux\/resources\/blockIO\/throttleWriteIOPSDevice/.test(error.message),
    );
    assert.deepEqual(now(), before);
    if (!isV2()) assert.equal(read(group, 'blkio', 'blkio.throttle.read_iops_device'), '');
    await update(group, { blockIO: { throttleReadBpsDevice: [{ ...disk, rate: 0 }], throttleWriteIOPSDevice: [{ ...disk, rate: 0 }] } });
    assert.deepEqual(now(), ['', '']);
    const weightFile = isV2()
      ? ['io.bfq.weight', 'io.weight'].find((file) => controlFiles?.has(file))
      : controlFiles?.has('blkio.bfq.weight') === true
        ? 'blkio.bfq.weight'
        : undefined;
    if (weightFile === undefined) {
      if (controlFiles?.has(isV2() ? 'io.max' : 'blkio.throttle.read_bps_device') === true)
        refuses({ blockIO: { weight: 500 } }, 'failedPrecondition', /^linux\.resources\.blockIO\.weight: this kernel has no \S+$/);
      return;
    }
    await update(group, { blockIO: { weight: 505 } });
    assert.match(read(group, isV2() ? 'io' : 'blkio', weightFile), weightFile === 'io.weight' ? /^default 5000$/m : /^(default )?505$/m);
  });

  it('of what this host lacks, or nobody has any more, are refused before a group exists', () => {
    const needsV2 = isV2() ? 'failedPrecondition' : '';
    refuses({ blockIO: { leafWeight: 500 } }, 'failedPrecondition', 'linux.resources.blockIO.leafWeight: weights of leaves are gone from Linux');
    refuses({ blockIO: { weight: 5 } }, 'invalidArgument', 'linux.resources.blockIO.weight: 5 is outside 10 to 1000');
    if (needsV2 !== '') {
      refuses({ network: { classID: 5 } }, needsV2, 'linux.resources.network.classID: does not exist on cgroup v2');
      refuses({ memory: { swappiness: 5 } }, needsV2, 'linux.resources.memory.swappiness: does not exist on cgroup v2');
      refuses({ cpu: { realtimeRuntime: 5 } }, needsV2, 'linux.resources.cpu.realtimeRuntime: does not exist on cgroup v2');
    } else refuses({ unified: { 'memory.high': '5' } }, 'failedPrecondition', 'linux.resources.unified: needs cgroup v2');
    const available = new Set([...runtime.host.cgroups.v1.flatMap(({ controllers }) => controllers), ...(isV2() ? (runtime.host.cgroups.unified?.controllers ?? []) : [])]);
    if (!isV2() && !available.has('net_prio'))
      refuses({ network: { priorities: [{ name: 'lo', priority: 5 }] } }, 'failedPrecondition', 'linux.resources.network.priorities[0]: this host has no net_prio controller');
    if (!available.has('rdma')) refuses({ rdma: { mlx5_0: { hcaHandles: 5 } } }, 'failedPrecondition', 'linux.resources.rdma["mlx5_0"]: this host has no rdma controller');
    refuses({ hugepageLimits: [{ pageSize: '3MB', limit: 5 }] }, 'failedPrecondition', 'linux.resources.hugepageLimits[0].pageSize: this host controls no huge pages of 3MB');
    assert.ok(!existsSync(fileOf({ path: '/berth-test/never' }, 'cpu', '')) && !existsSync(fileOf({ path: '/berth-test/never' }, 'devices', '')));
  });

  it('that the kernel refuses leave no container', async () => {
    await assert.rejects(start({ blockIO: { throttleReadBpsDevice: [{ ...noDisk, rate: 5 }] } }), /\/linux\/resources\/blockIO\/throttleReadBpsDevice/);
  });

  /** Which of reading, writing and both the container may do with two devices that no driver stands behind. */
  const probe = async (devices: readonly object[]): Promise<string> => {
    const script =
      'mknod /dev/a c 1 40; mknod /dev/b c 1 41; for n in a b; do for how in "<" ">" "<>"; do if eval ": $how /dev/$n" 2>&1 | grep -q "not permitted"; then echo -n -; else echo -n +; fi; done; done';
    const spec = makeSpec(runtime.host, { args: ['sh', '-c', script], linux: { resources: { devices } } });
    return (await pod.run(`d${(count += 1)}`, spec)).output.trim();
  };
  const one = { type: 'c', major: 1 };

  it('of devices decide what a container may open', async () => {
    assert.equal(await probe([]), '------');
    assert.equal(
      await probe([
        { allow: false, access: 'rwm' },
        { allow: true, ...one, minor: 40, access: 'r' },
      ]),
      '+-----',
    );
    assert.equal(
      await probe([
        { allow: true, ...one, minor: 40, access: 'r' },
        { allow: true, ...one, minor: 40, access: 'w' },
      ]),
      '+++---',
    );
    assert.equal(await probe([{ allow: true, ...one, access: 'rwm' }]), '++++++');
    assert.equal(
      await probe([
        { allow: true, access: 'rwm' },
        { allow: false, ...one, minor: 41, access: 'w' },
      ]),
      '++++--',
    );
    assert.equal(
      await probe([
        { allow: true, access: 'rwm' },
        { allow: false, ...one, minor: 41, access: 'w' },
        { allow: true, ...one, minor: 41, access: 'w' },
      ]),
      '++++++',
    );
    assert.equal(await probe([{ allow: true, ...one, minor: 40 }, { allow: false }]), '------');
  });

  it('of devices within a wider rule are refused where the kernel would ignore them', async () => {
    const devices = [
      { allow: true, ...one, access: 'rwm' },
      { allow: false, ...one, minor: 41, access: 'w' },
    ];
    if (isV2()) assert.equal(await probe(devices), '++++--');
    else refuses({ devices }, 'failedPrecondition', 'linux.resources.devices: cgroup v1 cannot allow c 1:* and deny c 1:41 of it');
  });

  it('let a container be paused and resumed', async () => {
    const { name, group } = await start({}, 'i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done');
    const counter = (): string => readFileSync(`/proc/${pid}/root/tmp/count`, 'utf8');
    const { pid = 0 } = (await pod.shim.state()).find(({ processId }) => processId === name) ?? {};
    const file = freezeFileOf(runtime.host, group);
    assert.ok(statSync(file).isFile() && !isPaused(readFileSync(file, 'utf8')));
    await until(() => existsSync(`/proc/${pid}/root/tmp/count`));
    await pod.execute(planFreeze(runtime.host, group, { timeoutMs: 20_000 }));
    assert.ok(isPaused(readFileSync(file, 'utf8')));
    const stopped = counter();
    await sleep(100);
    assert.equal(counter(), stopped);
    await assert.rejects(checkGroupFree(runtime.host, group), {
      code: 'failedPrecondition',
      message: /^linux\.cgroupsPath: "\S+": container's cgroup is not empty: 1 process\(es\) found$/,
    });
    await pod.execute(planThaw(runtime.host, group));
    assert.ok(!isPaused(readFileSync(file, 'utf8')));
    await until(() => counter() !== stopped && counter() !== '');
    await pod.execute(planFreeze(runtime.host, group, { timeoutMs: 20_000 }));
    await pod.shim.removeProcess(name).catch(() => undefined);
  });

  it('give a group to the user who may divide it, on v2 alone', async () => {
    const spec = makeSpec(runtime.host, {
      args: ['sleep', '1000'],
      namespaces: ['pid', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
      mounts: [{ destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['rw'] }],
      process: { user: { uid: 1000, gid: 1001 } },
    });
    const { input } = await pod.start('owned', spec);
    const owner = (file: string): number => statSync(fileOf(input.cgroup, 'memory', file)).uid;
    if (!isV2()) assert.deepEqual([owner(''), owner('cgroup.procs')], [0, 0]);
    else {
      assert.deepEqual(['', 'cgroup.procs', 'cgroup.subtree_control', 'cgroup.threads'].map(owner), [1000, 1000, 1000, 1000]);
      assert.deepEqual(['memory.max', 'cgroup.freeze', 'pids.max'].map(owner), [0, 0, 0]);
    }
  });
});
