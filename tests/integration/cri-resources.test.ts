/** Resources over CRI: at creation, changed while containers are created and running, after a restart of the daemon; the pod's own group and its parent. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { status as grpcStatus } from '@grpc/grpc-js';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { readHostFacts } from '#system';
import { skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const {
  runPodSandbox,
  removePodSandbox,
  createContainer,
  startContainer,
  containerStatus,
  updateContainerResources,
  updatePodSandboxResources,
  podSandboxStats,
  podSandboxStatus,
  removeContainer,
} = RuntimeService.method;
const mebibyte = 1n << 20n;
/** The plain form of the request. */
type Init = Exclude<MessageInitShape<typeof updateContainerResources.input>, MessageShape<typeof updateContainerResources.input>>;

describe('resources', { skip: skipReason() }, () => {
  let cri: CriHost;
  let facts: ReturnType<typeof readHostFacts>['cgroups'];
  before(async () => {
    cri = await CriHost.open();
    facts = readHostFacts().cgroups;
  });
  after(async () => cri[Symbol.asyncDispose]());

  const isV2 = (): boolean => facts.mode === 'v2';
  const rootOf = (controller: string): string => {
    const mount = isV2() ? facts.unified?.mountpoint : facts.v1.find(({ controllers }) => controllers.includes(controller))?.mountpoint;
    assert.ok(mount !== undefined);
    return mount;
  };
  /** Verbose facts of a container. */
  const infoOf = async (containerId: string): Promise<{ readonly pid: number; readonly cgroupPath: string }> => {
    const { info } = await cri.call(containerStatus, { containerId, verbose: true });
    // SAFETY: one JSON object, with these among its fields; see docs/cri.md.
    return JSON.parse(info['info'] ?? '') as { pid: number; cgroupPath: string };
  };
  const read = (path: string, [controller, v1]: readonly [string, string], v2: string): string => readFileSync(`${rootOf(controller)}${path}/${isV2() ? v2 : v1}`, 'utf8').trim();
  const memoryOf = (path: string): string => read(path, ['memory', 'memory.limit_in_bytes'], 'memory.max');
  const quotaOf = (path: string): string =>
    isV2() ? read(path, ['cpu', ''], 'cpu.max') : `${read(path, ['cpu', 'cpu.cfs_quota_us'], '')} ${read(path, ['cpu', 'cpu.cfs_period_us'], '')}`;
  const resourcesOf = async (containerId: string) => (await cri.call(containerStatus, { containerId })).status?.resources?.linux;

  test('of a running container change in place and are told, also by the next daemon', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', {
      container: {
        annotations: { a: '1', b: '1' },
        linux: { resources: { memoryLimitInBytes: 64n * mebibyte, cpuQuota: 50_000n, cpuPeriod: 100_000n, cpuShares: 512n, oomScoreAdj: 500n } },
      },
    });
    const { pid, cgroupPath } = await infoOf(containerId);
    assert.deepEqual([memoryOf(cgroupPath), quotaOf(cgroupPath)], [String(64n * mebibyte), '50000 100000']);
    await cri.call(updateContainerResources, {
      containerId,
      linux: { memoryLimitInBytes: 96n * mebibyte, cpuQuota: 20_000n, oomScoreAdj: 700n, cpusetCpus: '0' },
      annotations: { b: '2', c: '3' },
    });
    const check = async (): Promise<void> => {
      assert.deepEqual([memoryOf(cgroupPath), quotaOf(cgroupPath)], [String(96n * mebibyte), '20000 100000']);
      assert.equal(read(cgroupPath, ['cpuset', 'cpuset.cpus'], 'cpuset.cpus'), '0');
      assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '700');
      const { status } = await cri.call(containerStatus, { containerId });
      const linux = status?.resources?.linux;
      assert.deepEqual(
        [linux?.memoryLimitInBytes, linux?.cpuQuota, linux?.cpuPeriod, linux?.cpuShares, linux?.oomScoreAdj, linux?.cpusetCpus],
        [96n * mebibyte, 20_000n, 100_000n, 512n, 700n, '0'],
      );
      assert.deepEqual(status?.annotations, { a: '1', b: '2', c: '3' });
    };
    await check();
    await cri.restart('SIGKILL');
    await check();
    await cri.call(updateContainerResources, { containerId, linux: { cpuQuota: -1n } });
    assert.match(quotaOf(cgroupPath), isV2() ? /^max 100000$/ : /^-1 100000$/);
    assert.equal((await resourcesOf(containerId))?.memoryLimitInBytes, 96n * mebibyte);
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('of a container that has not started hold when it does, and an ended one takes none', async () => {
    const config = cri.podConfig();
    const { podSandboxId } = await cri.call(runPodSandbox, { config });
    const { containerId } = await cri.call(createContainer, { podSandboxId, config: cri.containerConfig('true'), sandboxConfig: config });
    await cri.call(updateContainerResources, { containerId, linux: { memoryLimitInBytes: 48n * mebibyte, cpusetCpus: '0', cpusetMems: '0' } });
    const { cgroupPath } = await infoOf(containerId);
    assert.equal(memoryOf(cgroupPath), String(48n * mebibyte));
    await cri.call(startContainer, { containerId });
    await cri.ended(containerId);
    await assert.rejects(cri.call(updateContainerResources, { containerId, linux: { cpuShares: 2n } }), {
      code: grpcStatus.FAILED_PRECONDITION,
      details: `update container ${containerId}: container is exited, not created or running`,
    });
    await cri.call(removeContainer, { containerId });
    await assert.rejects(cri.call(updateContainerResources, { containerId, linux: {} }), { code: grpcStatus.NOT_FOUND, details: /container does not exist$/ });
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('that cannot be are refused with their field, and change nothing', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { container: { linux: { resources: { memoryLimitInBytes: 64n * mebibyte, cpuShares: 512n } } } });
    const { cgroupPath } = await infoOf(containerId);
    const refusals: readonly (readonly [request: Init, code: grpcStatus | undefined, details: RegExp])[] = [
      [{ linux: { memoryLimitInBytes: -2n } }, grpcStatus.INVALID_ARGUMENT, /^linux\.memory_limit_in_bytes: must not be negative, not -2$/],
      [{ linux: { cpuPeriod: 5n } }, grpcStatus.INVALID_ARGUMENT, /linux\.resources\.cpu\.period: 5 is outside 1000 to 1000000 microseconds$/],
      [{ linux: { oomScoreAdj: 1001n } }, grpcStatus.INVALID_ARGUMENT, /^linux\.oom_score_adj: must be -1000 to 1000, not 1001$/],
      [{ linux: { cpusetCpus: '4095', memoryLimitInBytes: 80n * mebibyte } }, undefined, /update container main: .*cpuset\.cpus/],
      [{ linux: { memoryLimitInBytes: 4096n } }, grpcStatus.FAILED_PRECONDITION, /^update container main: memory limit of 4096 bytes: [0-9]+ bytes are in use$/],
      [{ linux: { hugepageLimits: [{ pageSize: '3MB', limit: 1n }] } }, grpcStatus.FAILED_PRECONDITION, /this host controls no huge pages of 3MB$/],
      [{ linux: { unified: { 'cgroup.procs': '1' } } }, isV2() ? grpcStatus.INVALID_ARGUMENT : grpcStatus.FAILED_PRECONDITION, /linux\.resources\.unified/],
      [{ windows: {} }, grpcStatus.INVALID_ARGUMENT, /^windows: not on Linux$/],
    ];
    for (const [request, code, details] of refusals)
      await assert.rejects(cri.call(updateContainerResources, { ...request, containerId }), { ...(code === undefined ? {} : { code }), details });
    assert.equal(memoryOf(cgroupPath), String(64n * mebibyte));
    const linux = await resourcesOf(containerId);
    assert.deepEqual([linux?.memoryLimitInBytes, linux?.cpuShares, linux?.cpuPeriod, linux?.cpusetCpus], [64n * mebibyte, 512n, 0n, '']);
    // What the kubelet sends for every size that a pod does not use.
    await cri.call(updateContainerResources, { containerId, linux: { hugepageLimits: ['2MB', '3MB'].map((pageSize) => ({ pageSize, limit: 0n })) } });
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('of many updates at once end at one of them, whole', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { container: { linux: { resources: { memoryLimitInBytes: 64n * mebibyte } } } });
    const { cgroupPath } = await infoOf(containerId);
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        cri.call(updateContainerResources, { containerId, linux: { memoryLimitInBytes: BigInt(50 + index) * mebibyte, cpuQuota: BigInt(50 + index) * 1000n } }),
      ),
    );
    const linux = await resourcesOf(containerId);
    assert.ok(linux !== undefined);
    assert.equal(memoryOf(cgroupPath), String(linux.memoryLimitInBytes));
    assert.equal(quotaOf(cgroupPath), `${linux.cpuQuota} 100000`);
    assert.equal(linux.memoryLimitInBytes / mebibyte, linux.cpuQuota / 1000n);
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('of a pod limit its own group where it has no parent', async () => {
    const config = cri.podConfig({
      linux: { resources: { memoryLimitInBytes: 128n * mebibyte, cpuQuota: 100_000n, cpuPeriod: 100_000n }, overhead: { memoryLimitInBytes: 16n * mebibyte, cpuQuota: 10_000n } },
    });
    const { podSandboxId } = await cri.call(runPodSandbox, { config });
    const { containerId } = await cri.call(createContainer, { podSandboxId, config: cri.containerConfig('sleep 1000'), sandboxConfig: config });
    const group = (await infoOf(containerId)).cgroupPath.replace(/\/[^/]+$/, '');
    assert.deepEqual([memoryOf(group), quotaOf(group)], [String(144n * mebibyte), '110000 100000']);
    await cri.call(updatePodSandboxResources, { podSandboxId, resources: { memoryLimitInBytes: 256n * mebibyte } });
    assert.deepEqual([memoryOf(group), quotaOf(group)], [String(272n * mebibyte), '110000 100000']);
    await cri.call(updatePodSandboxResources, { podSandboxId, overhead: { memoryLimitInBytes: 32n * mebibyte } });
    assert.equal(memoryOf(group), String(288n * mebibyte));
    const { info } = await cri.call(podSandboxStatus, { podSandboxId, verbose: true });
    // SAFETY: one JSON object, with these among its fields; see docs/cri.md.
    const { resources, overhead } = JSON.parse(info['info'] ?? '') as Record<string, { readonly memoryLimitBytes: number }>;
    assert.deepEqual([resources?.memoryLimitBytes, overhead?.memoryLimitBytes], [256 * 1024 * 1024, 32 * 1024 * 1024]);
    await cri.call(removePodSandbox, { podSandboxId });
    await assert.rejects(cri.call(updatePodSandboxResources, { podSandboxId, resources: { cpuShares: 2n } }), { code: grpcStatus.NOT_FOUND });
  });

  test('of a pod below a parent are the parent’s: the group gets no limit, and the parent stays', async () => {
    const parent = `/berth-test-kubepods-${process.pid}`;
    const burstable = `${parent}/burstable`;
    for (const controller of ['memory', 'cpu']) mkdirSync(`${rootOf(controller)}${burstable}`, { recursive: true });
    try {
      const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', {
        pod: { linux: { cgroupParent: burstable, resources: { memoryLimitInBytes: 128n * mebibyte } } },
      });
      const { pid, cgroupPath } = await infoOf(containerId);
      assert.ok(cgroupPath.startsWith(`${burstable}/${podSandboxId}/`));
      assert.ok(readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`:${cgroupPath}\n`));
      assert.equal(memoryOf(`${burstable}/${podSandboxId}`), isV2() ? 'max' : '9223372036854771712');
      // Where a kubelet limits the pod, and what is available to it is counted from.
      writeFileSync(`${rootOf('memory')}${burstable}/${isV2() ? 'memory.max' : 'memory.limit_in_bytes'}`, String(512n * mebibyte));
      const { stats } = await cri.call(podSandboxStats, { podSandboxId });
      const memory = stats?.linux?.memory;
      assert.equal(memory?.availableBytes?.value, 512n * mebibyte - (memory?.workingSetBytes?.value ?? 0n));
      await cri.call(updatePodSandboxResources, { podSandboxId, resources: { memoryLimitInBytes: 64n * mebibyte } });
      assert.equal(memoryOf(`${burstable}/${podSandboxId}`), isV2() ? 'max' : '9223372036854771712');
      await cri.call(removePodSandbox, { podSandboxId });
      assert.ok(!existsSync(`${rootOf('memory')}${burstable}/${podSandboxId}`));
      assert.ok(existsSync(`${rootOf('memory')}${burstable}`));
    } finally {
      const roots = [...facts.v1.map(({ mountpoint }) => mountpoint), ...(facts.unified === undefined ? [] : [facts.unified.mountpoint])];
      for (const path of roots.flatMap((root) => [`${root}${burstable}`, `${root}${parent}`])) if (existsSync(path)) rmdirSync(path);
    }
  });

  test('an OOM kill is told with reason and exit code, a signal with 128 and its number', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('cat /dev/zero | head -c 200m | tail >/dev/null', {
      container: { linux: { resources: { memoryLimitInBytes: 24n * mebibyte, memorySwapLimitInBytes: facts.swapLimit ? 24n * mebibyte : 0n } } },
    });
    const killed = await cri.ended(containerId);
    assert.equal(killed.reason, 'OOMKilled');
    assert.equal(killed.exitCode, 137);
    await cri.call(removePodSandbox, { podSandboxId });
  });
});
