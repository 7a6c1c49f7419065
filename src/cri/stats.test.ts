/** Stats and metrics as CRI messages, and the RPCs over an engine that answers from memory. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  ContainerStatsFilterSchema,
  ContainerStatsRequestSchema,
  ContainerStatsSchema,
  ListContainerStatsRequestSchema,
  ListMetricDescriptorsRequestSchema,
  ListPodSandboxMetricsRequestSchema,
  ListPodSandboxStatsRequestSchema,
  MetricType,
  PodSandboxMetricsSchema,
  PodSandboxStatsRequestSchema,
  PodSandboxStatsSchema,
  StreamContainerStatsRequestSchema,
  StreamPodSandboxMetricsRequestSchema,
  StreamPodSandboxStatsRequestSchema,
} from '#gen/cri-v1_pb.js';
import { containerId, podSandboxId } from '#core';
import type { ContainerStats, Engine, PodSandboxStats } from '#pod';
import { encodePodSandboxMetrics } from './metrics.ts';
import { buildStatsHandlers } from './stats-service.ts';
import { decodeContainerStatsFilter, encodeContainerStats, encodePodSandboxStats } from './stats.ts';

const context = { signal: new AbortController().signal };
const ids = { container: containerId('c'.repeat(64)), pod: podSandboxId('d'.repeat(64)) };
const line = { totalNs: 12_000n, avg10: 1.5, avg60: 0.25, avg300: 0 };

const container: ContainerStats = {
  id: ids.container,
  podSandboxId: ids.pod,
  metadata: { name: 'main', attempt: 2 },
  state: 'running',
  labels: { a: 'b' },
  annotations: { c: 'd' },
  usage: {
    atNs: 7n,
    cpu: { usageNs: 5n, nanoCores: 6n, pressure: { some: line } },
    memory: { usageBytes: 1000n, workingSetBytes: 600n, limitBytes: 2000n, rssBytes: 300n, pageFaults: 11n, majorPageFaults: 2n, pressure: { some: line, full: line } },
    swap: { usageBytes: 64n, limitBytes: 60n },
    io: { devices: [], pressure: { full: line } },
    processes: { processes: 3 },
  },
  writableLayer: { atNs: 9n, mountpoint: '/containers', usedBytes: 4096, inodesUsed: 3 },
};
const ended: ContainerStats = { id: ids.container, podSandboxId: ids.pod, metadata: { name: 'main', attempt: 2 }, state: 'exited', labels: {}, annotations: {} };
const pod: PodSandboxStats = {
  id: ids.pod,
  metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
  labels: {},
  annotations: {},
  usage: { atNs: 8n, cpu: { usageNs: 10n } },
  network: {
    atNs: 8n,
    interfaces: [{ name: 'eth0', rxBytes: 1n, rxPackets: 2n, rxErrors: 3n, rxDropped: 4n, txBytes: 5n, txPackets: 6n, txErrors: 7n, txDropped: 8n }],
  },
  containers: [container, ended],
};

/** As a client reads it. */
const throughWire = (stats: ContainerStats) => fromBinary(ContainerStatsSchema, toBinary(ContainerStatsSchema, create(ContainerStatsSchema, encodeContainerStats(stats))));

test('a container has its numbers, available being the limit less what is used', () => {
  const { attributes, cpu, memory, swap, io, writableLayer } = throughWire(container);
  assert.deepEqual(
    [attributes?.id, attributes?.metadata?.name, attributes?.metadata?.attempt, attributes?.labels, attributes?.annotations],
    [ids.container, 'main', 2, { a: 'b' }, { c: 'd' }],
  );
  assert.deepEqual([cpu?.timestamp, cpu?.usageCoreNanoSeconds?.value, cpu?.usageNanoCores?.value], [7n, 5n, 6n]);
  assert.deepEqual([cpu?.psi?.Some?.Total, cpu?.psi?.Some?.Avg10, cpu?.psi?.Some?.Avg60, cpu?.psi?.Full], [12_000n, 1.5, 0.25, undefined]);
  assert.deepEqual(
    [
      memory?.timestamp,
      memory?.usageBytes?.value,
      memory?.workingSetBytes?.value,
      memory?.availableBytes?.value,
      memory?.rssBytes?.value,
      memory?.pageFaults?.value,
      memory?.majorPageFaults?.value,
    ],
    [7n, 1000n, 600n, 1400n, 300n, 11n, 2n],
  );
  assert.equal(memory?.psi?.Full?.Total, 12_000n);
  // Above its limit nothing is available.
  assert.deepEqual([swap?.timestamp, swap?.swapUsageBytes?.value, swap?.swapAvailableBytes?.value], [7n, 64n, 0n]);
  assert.deepEqual([io?.timestamp, io?.psi?.Full?.Avg10, io?.psi?.Some], [7n, 1.5, undefined]);
  assert.deepEqual([writableLayer?.timestamp, writableLayer?.fsId?.mountpoint, writableLayer?.usedBytes?.value, writableLayer?.inodesUsed?.value], [9n, '/containers', 4096n, 3n]);
});

test('what is not known is absent, and no zero', () => {
  const { attributes, cpu, memory, swap, io, writableLayer } = throughWire(ended);
  assert.equal(attributes?.id, ids.container);
  assert.deepEqual([cpu, memory, swap, io, writableLayer], [undefined, undefined, undefined, undefined, undefined]);
  const bare = throughWire({ ...ended, usage: { atNs: 7n, cpu: { usageNs: 5n }, memory: { usageBytes: 1n, workingSetBytes: 1n }, swap: { usageBytes: 0n }, io: { devices: [] } } });
  assert.deepEqual(
    [bare.cpu?.usageNanoCores, bare.cpu?.psi, bare.memory?.availableBytes, bare.memory?.rssBytes, bare.memory?.psi, bare.io],
    [undefined, undefined, undefined, undefined, undefined, undefined],
  );
  assert.deepEqual([bare.swap?.swapUsageBytes?.value, bare.swap?.swapAvailableBytes], [0n, undefined]);
});

test('a pod has its interfaces, the sum of its processes, and its containers', () => {
  const { attributes, linux } = fromBinary(PodSandboxStatsSchema, toBinary(PodSandboxStatsSchema, create(PodSandboxStatsSchema, encodePodSandboxStats(pod))));
  assert.deepEqual([attributes?.id, attributes?.metadata?.namespace], [ids.pod, 'default']);
  assert.deepEqual([linux?.cpu?.usageCoreNanoSeconds?.value, linux?.process?.timestamp, linux?.process?.processCount?.value, linux?.containers.length], [10n, 8n, 3n, 2]);
  const { defaultInterface, interfaces } = linux?.network ?? {};
  assert.deepEqual(interfaces?.length, 1);
  assert.deepEqual(
    [defaultInterface?.name, defaultInterface?.rxBytes?.value, defaultInterface?.rxErrors?.value, defaultInterface?.txBytes?.value, defaultInterface?.txErrors?.value],
    ['eth0', 1n, 3n, 5n, 7n],
  );
  const { usage: _usage, network: _network, ...notReady } = pod;
  const bare = create(PodSandboxStatsSchema, encodePodSandboxStats(notReady));
  assert.deepEqual([bare.linux?.cpu, bare.linux?.network, bare.linux?.process, bare.linux?.containers.length], [undefined, undefined, undefined, 2]);
});

test('metrics keep their kind, labels and time', () => {
  const message = create(
    PodSandboxMetricsSchema,
    encodePodSandboxMetrics({
      podSandboxId: ids.pod,
      metrics: [{ name: 'a', kind: 'counter', labelValues: ['x', ''], value: 1n, atNs: 0n }],
      containers: [{ containerId: ids.container, metrics: [{ name: 'b', kind: 'gauge', labelValues: [], value: 2n, atNs: 3n }] }],
    }),
  );
  const [first] = message.metrics;
  const [second] = message.containerMetrics[0]?.metrics ?? [];
  assert.deepEqual([first?.name, first?.metricType, first?.labelValues, first?.value?.value, first?.timestamp], ['a', MetricType.COUNTER, ['x', ''], 1n, 0n]);
  assert.deepEqual([second?.name, second?.metricType, second?.value?.value, second?.timestamp], ['b', MetricType.GAUGE, 2n, 3n]);
});

test('a filter is decoded, and a bad text is refused by its path', () => {
  assert.deepEqual(decodeContainerStatsFilter('filter', create(ContainerStatsFilterSchema, { id: 'a', podSandboxId: 'b', labelSelector: { c: 'd' } })), {
    id: 'a',
    podSandboxId: 'b',
    labels: { c: 'd' },
  });
  assert.throws(() => decodeContainerStatsFilter('filter', create(ContainerStatsFilterSchema, { podSandboxId: 'a\0' })), {
    code: 'invalidArgument',
    message: /^filter\.pod_sandbox_id: /,
  });
});

test('each RPC asks the engine and gives its answer; streams give all in messages', async () => {
  const asked: unknown[] = [];
  const engine: Partial<Engine> = {
    containerStats: async (id) => (asked.push(id), container),
    listContainerStats: async (filter) => (asked.push(filter), [container, ended]),
    podSandboxStats: async (id) => (asked.push(id), pod),
    listPodSandboxStats: async (filter) => (asked.push(filter), [pod]),
    metricDescriptors: async () => [{ name: 'a', help: 'A.', labelKeys: ['id'] }],
    podSandboxMetrics: async () => [{ podSandboxId: ids.pod, metrics: [], containers: [] }],
  };
  // SAFETY: the handlers under test call no other method; one that did would throw a TypeError.
  const handlers = buildStatsHandlers(engine as Engine) as Required<ReturnType<typeof buildStatsHandlers>>;
  assert.equal((await handlers.containerStats(create(ContainerStatsRequestSchema, { containerId: 'c' }), context)).stats?.attributes?.id, ids.container);
  assert.equal((await handlers.listContainerStats(create(ListContainerStatsRequestSchema, { filter: { id: 'c' } }), context)).stats?.length, 2);
  assert.equal((await handlers.podSandboxStats(create(PodSandboxStatsRequestSchema, { podSandboxId: 'd' }), context)).stats?.attributes?.id, ids.pod);
  assert.equal((await handlers.listPodSandboxStats(create(ListPodSandboxStatsRequestSchema, { filter: { labelSelector: { a: 'b' } } }), context)).stats?.length, 1);
  assert.deepEqual(await handlers.listMetricDescriptors(create(ListMetricDescriptorsRequestSchema), context), { descriptors: [{ name: 'a', help: 'A.', labelKeys: ['id'] }] });
  assert.equal((await handlers.listPodSandboxMetrics(create(ListPodSandboxMetricsRequestSchema), context)).podMetrics?.length, 1);
  const containers = await Array.fromAsync(handlers.streamContainerStats(create(StreamContainerStatsRequestSchema), context));
  assert.deepEqual(
    containers.map((message) => message.containerStats?.length),
    [2],
  );
  const pods = await Array.fromAsync(handlers.streamPodSandboxStats(create(StreamPodSandboxStatsRequestSchema), context));
  assert.deepEqual(
    pods.map((message) => message.podSandboxStats?.length),
    [1],
  );
  const metrics = await Array.fromAsync(handlers.streamPodSandboxMetrics(create(StreamPodSandboxMetricsRequestSchema), context));
  assert.deepEqual(
    metrics.map((message) => message.podSandboxMetrics?.length),
    [1],
  );
  assert.deepEqual(asked, ['c', { id: 'c', podSandboxId: '', labels: {} }, 'd', { id: '', labels: { a: 'b' } }, {}, {}]);
});

test('an empty id is refused', async () => {
  // SAFETY: the handlers refuse before they call the engine.
  const handlers = buildStatsHandlers({} as Engine) as Required<ReturnType<typeof buildStatsHandlers>>;
  await assert.rejects(handlers.containerStats(create(ContainerStatsRequestSchema), context), { code: 'invalidArgument', message: 'container_id: required' });
  await assert.rejects(handlers.podSandboxStats(create(PodSandboxStatsRequestSchema), context), { code: 'invalidArgument', message: 'pod_sandbox_id: required' });
});
