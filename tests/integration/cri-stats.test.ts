/** Stats and metrics through CRI: a daemon, its pods, and whether what it tells of them is what they did. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import type { StreamContainerStatsResponse, StreamPodSandboxMetricsResponse, StreamPodSandboxStatsResponse } from '#gen/cri-v1_pb.js';
import { LinuxContainerResourcesSchema, MetricType, NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { create } from '@bufbuild/protobuf';
import { busybox, image, patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const skip = skipReason();
const rpc = RuntimeService.method;
const mebibyte = 1024 * 1024;
/** Where the kernel counts pressure, every group has it: this host has a cgroup2 tree in any case. */
const hasPressure = existsSync('/proc/pressure/cpu');

let host: CriHost;

before(async () => {
  if (skip === false) host = await CriHost.open();
});
after(async () => {
  if (skip === false) await host[Symbol.asyncDispose]();
});

async function statsOf(containerId: string) {
  const { stats } = await host.call(rpc.containerStats, { containerId });
  assert.ok(stats);
  return stats;
}

async function podStatsOf(podSandboxId: string) {
  const { stats } = await host.call(rpc.podSandboxStats, { podSandboxId });
  assert.ok(stats?.linux);
  return { ...stats, linux: stats.linux };
}

async function shell(containerId: string, script: string): Promise<string> {
  const { exitCode, stdout, stderr } = await host.call(rpc.execSync, { containerId, cmd: [busybox, 'sh', '-c', script] });
  assert.equal(exitCode, 0, Buffer.from(stderr).toString());
  return Buffer.from(stdout).toString();
}

/** Looks again until the condition holds. */
async function until<T>(look: () => Promise<T>, holds: (seen: T) => boolean): Promise<T> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const seen = await look();
    if (holds(seen)) return seen;
    assert.ok(performance.now() < deadline, `never seen; last: ${JSON.stringify(seen, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))}`);
    await sleep(50);
  }
}

test('processor time grows with work, and its rate is known from the second look on', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('while :; do :; done');
  const first = await statsOf(containerId);
  assert.deepEqual([first.attributes?.id, first.attributes?.metadata?.name, first.cpu?.usageNanoCores], [containerId, 'main', undefined]);
  assert.ok((first.cpu?.timestamp ?? 0n) > 1_600_000_000_000_000_000n);
  const busy = await until(
    async () => statsOf(containerId),
    ({ cpu }) => (cpu?.usageNanoCores?.value ?? 0n) > 0n,
  );
  assert.ok((busy.cpu?.usageCoreNanoSeconds?.value ?? 0n) > (first.cpu?.usageCoreNanoSeconds?.value ?? 0n));
  assert.ok((busy.cpu?.timestamp ?? 0n) > (first.cpu?.timestamp ?? 0n));
  assert.equal(busy.cpu?.psi?.Some === undefined, !hasPressure);
  assert.equal(busy.memory?.psi?.Full === undefined, !hasPressure);
  assert.equal(busy.io?.psi?.Some === undefined, !hasPressure);
  const pod = await podStatsOf(podSandboxId);
  assert.ok((pod.linux.cpu?.usageCoreNanoSeconds?.value ?? 0n) >= (busy.cpu?.usageCoreNanoSeconds?.value ?? 0n));
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('memory is what was taken, and available is the limit less the working set', { skip }, async () => {
  const resources = create(LinuxContainerResourcesSchema, { memoryLimitInBytes: BigInt(64 * mebibyte) });
  const { containerId, podSandboxId } = await host.startContainer('sleep 100000', { container: { linux: { resources } } });
  await shell(containerId, 'head -c 16777216 /dev/zero > /dev/shm/taken');
  const { memory } = await statsOf(containerId);
  assert.ok((memory?.usageBytes?.value ?? 0n) >= BigInt(16 * mebibyte));
  assert.ok((memory?.workingSetBytes?.value ?? 0n) >= BigInt(16 * mebibyte));
  assert.equal(memory?.availableBytes?.value, BigInt(64 * mebibyte) - (memory?.workingSetBytes?.value ?? 0n));
  assert.ok((memory?.pageFaults?.value ?? 0n) > 0n);
  const pod = await podStatsOf(podSandboxId);
  assert.ok((pod.linux.memory?.usageBytes?.value ?? 0n) >= BigInt(16 * mebibyte));
  assert.equal(pod.linux.memory?.availableBytes, undefined);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('processes of all containers are counted, and the writable layer is measured', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('sleep 100000 & sleep 100000 & wait');
  await shell(containerId, 'head -c 2097152 /dev/zero > /written');
  const pod = await until(
    async () => podStatsOf(podSandboxId),
    ({ linux }) => linux.process?.processCount?.value === 3n && linux.containers[0]?.writableLayer !== undefined,
  );
  const [container] = pod.linux.containers;
  assert.equal(container?.attributes?.id, containerId);
  assert.ok((container?.writableLayer?.usedBytes?.value ?? 0n) >= BigInt(2 * mebibyte));
  assert.ok((container?.writableLayer?.inodesUsed?.value ?? 0n) >= 1n);
  assert.ok((container?.writableLayer?.timestamp ?? 0n) > 0n);
  assert.match(container?.writableLayer?.fsId?.mountpoint ?? '', /\/images$/, 'the one disk that ImageFsInfo names');
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('the network is as the pod itself sees it', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('sleep 100000');
  const { status } = await host.call(rpc.podSandboxStatus, { podSandboxId });
  const gateway = (status?.network?.ip ?? '').replace(/\.\d+$/, '.1');
  await shell(containerId, `ping -c 2 -W 1 ${gateway} > /dev/null; true`);
  const seenInside = async (): Promise<readonly bigint[]> => {
    const fields = (/eth0: *(.*)/.exec(await shell(containerId, 'cat /proc/net/dev'))?.[1] ?? '').split(/ +/);
    return [BigInt(fields[0] ?? 0), BigInt(fields[8] ?? 0)];
  };
  const [rxBefore = 0n, txBefore = 0n] = await seenInside();
  const { linux } = await podStatsOf(podSandboxId);
  const [rxAfter = 0n, txAfter = 0n] = await seenInside();
  const link = linux.network?.defaultInterface;
  assert.equal(link?.name, 'eth0');
  assert.deepEqual(
    linux.network?.interfaces.map(({ name }) => name),
    ['eth0'],
  );
  const [rx, tx] = [link?.rxBytes?.value ?? -1n, link?.txBytes?.value ?? -1n];
  assert.ok(txBefore > 0n);
  assert.ok(rxBefore <= rx && rx <= rxAfter, `received ${rxBefore} <= ${rx} <= ${rxAfter}`);
  assert.ok(txBefore <= tx && tx <= txAfter, `sent ${txBefore} <= ${tx} <= ${txAfter}`);
  assert.deepEqual([link?.rxErrors?.value, link?.txErrors?.value], [0n, 0n]);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test("the host network is not the pod's", { skip }, async () => {
  const securityContext = { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } };
  const { podSandboxId } = await host.startContainer('sleep 100000', { pod: { linux: { securityContext } }, container: { linux: { securityContext } } });
  const { linux } = await podStatsOf(podSandboxId);
  assert.equal(linux.network, undefined);
  assert.ok(linux.cpu);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('a pod without containers has its network and no process', { skip }, async () => {
  const { podSandboxId } = await host.call(rpc.runPodSandbox, { config: host.podConfig() });
  const { linux } = await podStatsOf(podSandboxId);
  assert.deepEqual([linux.containers.length, linux.process?.processCount?.value, linux.network?.defaultInterface?.name], [0, 0n, 'eth0']);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('what has ended has its layer and nothing else, and holds up no list', { skip }, async () => {
  const labels = { suite: 'ended' };
  const { containerId, podSandboxId } = await host.startContainer('true', { container: { labels } });
  await host.ended(containerId);
  // The first measurement of the layer may take longer than an answer waits for it.
  const { stats } = await until(
    async () => host.call(rpc.listContainerStats, { filter: { labelSelector: labels } }),
    (answer) => answer.stats[0]?.writableLayer !== undefined,
  );
  assert.deepEqual(
    stats.map(({ attributes, cpu, memory }) => [attributes?.id, cpu, memory]),
    [[containerId, undefined, undefined]],
  );
  await host.call(rpc.stopPodSandbox, { podSandboxId });
  assert.equal((await statsOf(containerId)).attributes?.id, containerId);
  assert.deepEqual((await podStatsOf(podSandboxId)).linux.cpu, undefined);
  const { stats: pods } = await host.call(rpc.listPodSandboxStats, { filter: { id: podSandboxId } });
  assert.deepEqual(pods, []);
  await host.call(rpc.removePodSandbox, { podSandboxId });
  await assert.rejects(statsOf(containerId), { details: `container ${JSON.stringify(containerId)}: container does not exist` });
  await assert.rejects(podStatsOf(podSandboxId), { details: `pod sandbox ${JSON.stringify(podSandboxId)}: pod sandbox does not exist` });
});

test('filters choose, and streams give what lists give', { skip }, async () => {
  const one = await host.startContainer('sleep 100000', { pod: { labels: { which: 'one' } }, container: { labels: { which: 'one' } } });
  const two = await host.startContainer('sleep 100000', { pod: { labels: { which: 'two' } }, container: { labels: { which: 'two' } } });
  const list = async (filter: { readonly id?: string; readonly podSandboxId?: string; readonly labelSelector?: Record<string, string> }): Promise<(string | undefined)[]> =>
    (await host.call(rpc.listContainerStats, { filter })).stats.map(({ attributes }) => attributes?.id);
  assert.deepEqual(await list({ labelSelector: { which: 'one' } }), [one.containerId]);
  assert.deepEqual(await list({ podSandboxId: two.podSandboxId }), [two.containerId]);
  assert.deepEqual(await list({ id: one.containerId.slice(0, 13) }), [one.containerId]);
  assert.deepEqual(await list({ id: one.containerId, podSandboxId: two.podSandboxId }), []);
  assert.deepEqual(
    (await host.call(rpc.listPodSandboxStats, { filter: { labelSelector: { which: 'two' } } })).stats.map(({ attributes }) => attributes?.id),
    [two.podSandboxId],
  );
  const both = [one, two];
  const containers = await Array.fromAsync<StreamContainerStatsResponse>(host.client.stream(rpc.streamContainerStats, {}));
  assert.deepEqual(new Set(containers.flatMap((message) => message.containerStats.map(({ attributes }) => attributes?.id))), new Set(both.map(({ containerId }) => containerId)));
  const pods = await Array.fromAsync<StreamPodSandboxStatsResponse>(host.client.stream(rpc.streamPodSandboxStats, { filter: { id: one.podSandboxId } }));
  assert.deepEqual(
    pods.flatMap((message) => message.podSandboxStats.map(({ attributes }) => attributes?.id)),
    [one.podSandboxId],
  );
  const metrics = await Array.fromAsync<StreamPodSandboxMetricsResponse>(host.client.stream(rpc.streamPodSandboxMetrics, {}));
  assert.deepEqual(new Set(metrics.flatMap((message) => message.podSandboxMetrics.map(({ podSandboxId }) => podSandboxId))), new Set(both.map(({ podSandboxId }) => podSandboxId)));
  for (const { podSandboxId } of both) await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('metrics are described, labelled and counted', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('sleep 100000', { container: { image: { image, userSpecifiedImage: 'busybox' } } });
  await shell(containerId, 'head -c 4194304 /dev/zero > /dev/shm/taken');
  const { descriptors } = await host.call(rpc.listMetricDescriptors, {});
  const { podMetrics } = await until(
    async () => host.call(rpc.listPodSandboxMetrics, {}),
    (answer) => answer.podMetrics[0]?.containerMetrics[0]?.metrics.some(({ name }) => name === 'container_fs_limit_bytes') === true,
  );
  const [pod] = podMetrics;
  assert.equal(pod?.podSandboxId, podSandboxId);
  const [container] = pod.containerMetrics;
  assert.equal(container?.containerId, containerId);
  const keysOf = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys]));
  for (const { name, labelValues, value } of [...pod.metrics, ...container.metrics]) {
    assert.equal(labelValues.length, keysOf.get(name)?.length, name);
    assert.ok(value, name);
  }
  const find = (metrics: typeof pod.metrics, name: string) => {
    const metric = metrics.find((candidate) => candidate.name === name);
    assert.ok(metric, name);
    const keys = keysOf.get(name) ?? [];
    return { value: metric.value?.value ?? -1n, kind: metric.metricType, labels: Object.fromEntries(keys.map((key, index) => [key, metric.labelValues[index]])) };
  };
  const memory = find(container.metrics, 'container_memory_usage_bytes');
  assert.ok(memory.value >= BigInt(4 * mebibyte));
  assert.equal(memory.kind, MetricType.GAUGE);
  assert.deepEqual(
    { ...memory.labels, id: undefined, pod: undefined },
    { id: undefined, name: containerId, image: 'busybox', container: 'main', pod: undefined, namespace: 'default' },
  );
  assert.match(memory.labels['id'] ?? '', new RegExp(`/${podSandboxId}/${containerId}$`));
  assert.equal(find(container.metrics, 'container_processes').value, 1n);
  assert.ok(find(container.metrics, 'container_file_descriptors').value >= 3n);
  assert.ok(find(container.metrics, 'container_ulimits_soft').value > 0n);
  assert.ok(find(container.metrics, 'container_start_time_seconds').value > 1_600_000_000n);
  assert.ok(find(container.metrics, 'container_fs_limit_bytes').value > 0n);
  const sent = find(pod.metrics, 'container_network_transmit_bytes_total');
  assert.deepEqual([sent.kind, sent.labels['interface'], sent.labels['container']], [MetricType.COUNTER, 'eth0', '']);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('the daemon that comes after a killed one sees the same', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('sleep 100000');
  await host.restart('SIGKILL');
  const { linux } = await podStatsOf(podSandboxId);
  assert.deepEqual([linux.process?.processCount?.value, linux.network?.defaultInterface?.name, linux.containers[0]?.attributes?.id], [1n, 'eth0', containerId]);
  assert.ok((linux.containers[0]?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});

test('berth stats shows the same to people and programs', { skip }, async () => {
  const { containerId, podSandboxId } = await host.startContainer('while :; do :; done');
  const table = (await host.host.ok(['stats'])).trimEnd().split('\n');
  assert.match(table[0] ?? '', /^POD +CONTAINER +CPU +MEMORY +LIMIT +SWAP +PIDS +READ \/ WRITTEN +RECEIVED \/ SENT +LAYER +PRESSURE CPU MEM IO$/);
  assert.equal(table.length, 3);
  assert.match(table[1] ?? '', /^pod-\d+ +- +\d+\.\d% +/);
  assert.match(table[2] ?? '', /^pod-\d+ +main +\d+\.\d% +/);
  const [stats] = await host.host.json(['stats', containerId]);
  assert.deepEqual([stats?.['kind'], stats?.['id'], stats?.['podSandboxId']], ['container', containerId, podSandboxId]);
  const { status, stderr } = await host.host.berth(['stats', 'nothing']);
  assert.deepEqual([status === 0, stderr], [false, 'berth: find "nothing": no such pod or container\n']);
  await host.call(rpc.removePodSandbox, { podSandboxId });
});
