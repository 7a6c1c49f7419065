/** Looks at pods and containers over in-memory ports: what is asked of a sandbox, what is told, and what happens when it fails. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PodEngine } from './engine.ts';
import { linkOfAttachment } from './stats-link.ts';
import { CpuRates } from './stats-rates.ts';
import type { GroupUsage, LayerUsage, Metric } from './stats-types.ts';
import { FakeDriver, FakeNetwork, Journal, ManualClock, containerConfig, podConfig } from './testing/doubles.ts';
import { fakeDependencies } from './testing/engine-doubles.ts';

const layer: LayerUsage = { atNs: 9n, mountpoint: '/containers', usedBytes: 4096, inodesUsed: 3, device: '/dev/vda', capacityBytes: 100n, inodesTotal: 50n, inodesFree: 40n };

/** Names both ends of the link, as the built-in bridge does. */
class LinkedNetwork extends FakeNetwork {
  override async attach(...args: Parameters<FakeNetwork['attach']>): ReturnType<FakeNetwork['attach']> {
    return { ...(await super.attach(...args)), details: { interface: 'eth0', gateway: '10.88.0.1', hostInterface: 'veth7' } };
  }
}

async function setUp() {
  const journal = new Journal();
  const clock = new ManualClock();
  const driver = new FakeDriver(journal, clock);
  const reported: unknown[] = [];
  const measured: string[] = [];
  const layers = { answer: async (): Promise<LayerUsage | undefined> => layer };
  const engine = new PodEngine(
    fakeDependencies(journal, clock, {
      drivers: new Map([['native', driver]]),
      network: new LinkedNetwork(journal),
      layerUsage: async ({ containerId }) => {
        measured.push(containerId);
        return layers.answer();
      },
      report: (error) => reported.push(error),
    }),
  );
  const podId = await engine.runPodSandbox(podConfig());
  const id = await engine.createContainer(podId, containerConfig());
  await engine.startContainer(id);
  const sandbox = driver.alive.get(podId);
  assert.ok(sandbox);
  return { engine, podId, id, sandbox, clock, reported, measured, layers };
}

const group = (atMs: number, usageNs: bigint): GroupUsage => ({ atNs: BigInt(atMs) * 1_000_000n, cpu: { usageNs } });

test('a rate is that between two looks, and neither a short nor a long time gives one', () => {
  const rates = new CpuRates();
  const rate = (id: string, atMs: number, usageNs: bigint): bigint | undefined => rates.withRate(id, group(atMs, usageNs)).cpu?.nanoCores;
  assert.equal(rate('a', 0, 0n), undefined);
  assert.equal(rate('a', 2000, 1_000_000_000n), 500_000_000n);
  assert.equal(rate('b', 2000, 5n), undefined);
  // Too soon: what was said before.
  assert.equal(rate('a', 2010, 1_010_000_000n), 500_000_000n);
  assert.equal(rate('a', 3000, 1_000_000_000n), 0n);
  // Another group under the same id, a clock that went back, a pause.
  assert.equal(rate('a', 4000, 7n), undefined);
  assert.equal(rate('a', 3000, 8n), undefined);
  assert.equal(rate('a', 400_000, 9n), undefined);
  assert.deepEqual(rates.withRate('a', { atNs: 1n }), { atNs: 1n });
  rates.retain(0, (id) => id === 'b');
  assert.notEqual(rate('a', 401_000, 1_000_000_009n), undefined);
});

test('rates of what is gone are forgotten', () => {
  const rates = new CpuRates();
  for (let index = 0; index < 40; index += 1) rates.withRate(`c${index}`, group(0, 0n));
  rates.retain(1, (id) => id === 'c1');
  assert.equal(rates.withRate('c2', group(1000, 1000n)).cpu?.nanoCores, undefined);
  assert.equal(rates.withRate('c1', group(1000, 1000n)).cpu?.nanoCores, 1000n);
});

test('one container is looked at alone, with its layer', async () => {
  const { engine, id, podId, sandbox } = await setUp();
  sandbox.seen = { containers: { [id]: group(1, 5n) } };
  const stats = await engine.containerStats(id.slice(0, 12));
  assert.deepEqual(stats, {
    id,
    podSandboxId: podId,
    metadata: { name: 'app', attempt: 0 },
    state: 'running',
    labels: {},
    annotations: {},
    usage: group(1, 5n),
    writableLayer: layer,
  });
  assert.deepEqual(sandbox.usageRequests, [{ containerIds: [id] }]);
});

test('a pod is looked at with its containers and the link that its network named', async () => {
  const { engine, id, podId, sandbox } = await setUp();
  const network = { atNs: 1n, interfaces: [] };
  sandbox.seen = { pod: group(1, 6n), network, containers: { [id]: group(1, 5n) } };
  const stats = await engine.podSandboxStats(podId);
  assert.deepEqual([stats.metadata, stats.usage, stats.network, stats.containers.length], [podConfig().metadata, group(1, 6n), network, 1]);
  assert.deepEqual(sandbox.usageRequests, [{ containerIds: [id], pod: { link: { name: 'eth0', hostInterface: 'veth7' } } }]);
  assert.deepEqual(
    (await engine.listPodSandboxStats()).map((pod) => pod.id),
    [podId],
  );
  assert.deepEqual(await engine.listPodSandboxStats({ labels: { no: 'such' } }), []);
});

test('a container that has ended has its layer, and a pod that is not ready is told of only when it is named', async () => {
  const { engine, id, podId, sandbox } = await setUp();
  sandbox.end(id, 0);
  assert.deepEqual(
    (await engine.listContainerStats()).map(({ state, usage, writableLayer }) => [state, usage, writableLayer]),
    [['exited', undefined, layer]],
  );
  assert.equal(sandbox.usageRequests.length, 0);
  await engine.stopPodSandbox(podId);
  assert.deepEqual(await engine.listPodSandboxStats(), []);
  const stats = await engine.podSandboxStats(podId);
  assert.deepEqual([stats.usage, stats.network, stats.containers.length], [undefined, undefined, 1]);
});

test('filters are those of lists', async () => {
  const { engine, id, podId, sandbox } = await setUp();
  sandbox.seen = { containers: {} };
  const count = async (filter: Parameters<typeof engine.listContainerStats>[0]): Promise<number> => (await engine.listContainerStats(filter)).length;
  assert.deepEqual(
    [await count({ id }), await count({ id: 'none' }), await count({ podSandboxId: podId, id: '' }), await count({ podSandboxId: 'none' }), await count({ labels: { a: 'b' } })],
    [1, 0, 1, 0, 0],
  );
  await assert.rejects(engine.containerStats('none'), { code: 'notFound', message: 'container "none": container does not exist' });
  await assert.rejects(engine.podSandboxStats('none'), { code: 'notFound', message: 'pod sandbox "none": pod sandbox does not exist' });
});

test('a look that fails is reported and leaves out what it would have told', async () => {
  const { engine, reported, layers } = await setUp();
  layers.answer = async () => Promise.reject(new Error('no disk'));
  const [stats] = await engine.listContainerStats();
  assert.deepEqual([stats?.usage, stats?.writableLayer, stats?.state], [undefined, undefined, 'running']);
  assert.deepEqual(reported.map(String).toSorted(), ['Error: no disk', 'RuntimeError: usage: nothing to tell']);
});

test('a layer that takes long to measure is left out', async () => {
  const { engine, id, sandbox, clock, layers } = await setUp();
  sandbox.seen = { containers: {} };
  layers.answer = async () => new Promise(() => undefined);
  const stats = engine.containerStats(id);
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  clock.advance(1001);
  assert.equal((await stats).writableLayer, undefined);
});

test('equal looks at once are one', async () => {
  const { engine, id, sandbox } = await setUp();
  sandbox.seen = { containers: { [id]: group(1, 5n) } };
  await Promise.all([engine.containerStats(id), engine.containerStats(id), engine.listContainerStats()]);
  assert.equal(sandbox.usageRequests.length, 1);
});

test('metrics carry the labels of their descriptors, in order', async () => {
  const { engine, id, podId, sandbox } = await setUp();
  sandbox.seen = {
    pod: { atNs: 1n, cpu: { usageNs: 2_900_000_000n, pressure: { some: { totalNs: 3_000_000_000n, avg10: 0, avg60: 0, avg300: 0 } } } },
    network: {
      atNs: 1n,
      interfaces: [{ name: 'eth0', rxBytes: 1n, rxPackets: 2n, rxErrors: 3n, rxDropped: 4n, txBytes: 5n, txPackets: 6n, txErrors: 7n, txDropped: 8n }],
    },
    containers: {
      [id]: {
        atNs: 1n,
        memory: { usageBytes: 10n, workingSetBytes: 8n, pageFaults: 4n },
        swap: { usageBytes: 0n },
        io: { devices: [{ device: '/dev/vda', major: 254, minor: 0, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n }] },
        processes: { processes: 2, threads: 3, fileDescriptors: 5, sockets: 1, openFilesMax: 1024n },
      },
    },
  };
  const [pod, ...others] = await engine.podSandboxMetrics();
  assert.ok(pod);
  assert.deepEqual(others, []);
  assert.equal(pod.podSandboxId, podId);
  assert.equal(sandbox.usageRequests[0]?.details, true);
  const descriptors = await engine.metricDescriptors();
  const [container] = pod.containers;
  assert.ok(container);
  assert.equal(container.containerId, id);
  const labelled = ({ name, labelValues }: Metric): Record<string, string> => {
    const keys = descriptors.find((descriptor) => descriptor.name === name)?.labelKeys ?? [];
    assert.equal(keys.length, labelValues.length, name);
    return Object.fromEntries(keys.map((key, index) => [key, labelValues[index] ?? '']));
  };
  for (const metric of [...pod.metrics, ...container.metrics]) {
    const labels = labelled(metric);
    assert.deepEqual([labels['pod'], labels['namespace']], ['web', 'default'], metric.name);
  }
  const find = (metrics: readonly Metric[], name: string): Metric => {
    const metric = metrics.find((candidate) => candidate.name === name);
    assert.ok(metric, name);
    return metric;
  };
  const usage = find(pod.metrics, 'container_cpu_usage_seconds_total');
  assert.deepEqual([usage.kind, usage.value, usage.atNs, labelled(usage)['container'], labelled(usage)['name']], ['counter', 2n, 0n, '', podId]);
  assert.equal(find(pod.metrics, 'container_pressure_cpu_waiting_seconds_total').value, 3n);
  const sent = find(pod.metrics, 'container_network_transmit_bytes_total');
  assert.deepEqual([sent.value, labelled(sent)['interface']], [5n, 'eth0']);
  const faults = find(container.metrics, 'container_memory_failures_total');
  assert.deepEqual([faults.value, labelled(faults)['failure_type'], labelled(faults)['container']], [4n, 'pgfault', 'app']);
  assert.match(labelled(faults)['id'] ?? '', new RegExp(`/${id}$`));
  const written = find(container.metrics, 'container_fs_writes_bytes_total');
  assert.deepEqual([written.value, labelled(written)['device']], [2n, '/dev/vda']);
  const layerBytes = find(container.metrics, 'container_fs_usage_bytes');
  assert.deepEqual([layerBytes.kind, layerBytes.value, layerBytes.atNs], ['gauge', 4096n, 9n]);
  assert.deepEqual([find(container.metrics, 'container_threads_max').value, labelled(find(container.metrics, 'container_ulimits_soft'))['ulimit']], [0n, 'max_open_files']);
  assert.equal(
    container.metrics.some(({ name }) => name === 'container_memory_rss'),
    false,
  );
});

test('descriptors have unique names, and a help text each', async () => {
  const { engine } = await setUp();
  const descriptors = await engine.metricDescriptors();
  assert.equal(new Set(descriptors.map(({ name }) => name)).size, descriptors.length);
  for (const { name, help, labelKeys } of descriptors) {
    assert.match(name, /^container_[a-z0-9_]+$/);
    assert.match(help, /^[A-Z].*\.$/);
    assert.deepEqual(labelKeys.slice(0, 6), ['id', 'name', 'image', 'container', 'pod', 'namespace']);
  }
});

test('both ends of a link are those that the network named, and none where the pod has several', () => {
  const cni = (...interfaces: readonly unknown[]): unknown => ({ interface: 'eth0', hostInterface: 'veth7', cniResult: { cniVersion: '1.1.0', interfaces } });
  const inside = { name: 'eth0', sandbox: '/run/netns/x' };
  const link = { name: 'eth0', hostInterface: 'veth7' };
  assert.deepEqual(linkOfAttachment({ interface: 'eth0', hostInterface: 'veth7' }), link);
  assert.deepEqual(linkOfAttachment(cni({ name: 'cni0' }, { name: 'veth7', sandbox: '' }, inside, null, 7)), link);
  const unclear: readonly unknown[] = [
    undefined,
    null,
    'text',
    {},
    { interface: 'lo' },
    { hostInterface: 'veth7' },
    cni({ name: 'veth7' }, inside, { name: 'net1', sandbox: '/run/netns/x' }),
  ];
  for (const details of unclear) assert.equal(linkOfAttachment(details), undefined, JSON.stringify(details));
});
