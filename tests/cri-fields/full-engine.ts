/** An engine whose answers have a value in everything that an answer can have. In: nothing. Out: an Engine for tests of the doors. */
import { containerId, podSandboxId } from '#core';
import type { ContainerStats, ContainerStatus, Engine, EngineEvent, GroupUsage, ImageSummary, LayerUsage, PodSandboxStats, PodSandboxStatus, Pressure, PressureLine } from '#pod';
import { fakeEngine } from '../fake-engine.ts';

const line = (totalNs: bigint): PressureLine => ({ totalNs, avg10: 1, avg60: 2, avg300: 3 });
const pressure = (firstNs: bigint): Pressure => ({ some: line(firstNs), full: line(firstNs + 1n) });
const user = { uids: [{ containerId: 1, hostId: 65_536, size: 65_535 }], gids: [{ containerId: 2, hostId: 131_072, size: 65_534 }] };
const pod: PodSandboxStatus = {
  id: podSandboxId('p1'),
  metadata: { name: 'web', uid: 'u1', namespace: 'shop', attempt: 1 },
  state: 'notReady',
  createdAtNs: 1n,
  ips: ['10.88.0.2', 'fd00::2'],
  namespaces: { network: 'node', pid: 'target', ipc: 'node', targetId: 'c1', user },
  labels: { a: 'b' },
  annotations: { c: 'd' },
  runtimeHandler: 'native',
  portMappings: [],
  observedAtNs: 2n,
  info: { pid: 1 },
};

/** A container of that pod. */
const container: ContainerStatus = {
  id: containerId('c1'),
  podSandboxId: pod.id,
  metadata: { name: 'main', attempt: 1 },
  state: 'exited',
  pid: 1,
  createdAtNs: 1n,
  startedAtNs: 2n,
  finishedAtNs: 3n,
  exitCode: 137,
  reason: 'OOMKilled',
  message: 'why',
  image: 'busybox',
  imageId: 'sha256:1',
  imageRef: 'busybox@sha256:2',
  userSpecifiedImage: 'busybox:1',
  imageAnnotations: { e: 'f' },
  labels: { a: 'b' },
  annotations: { c: 'd' },
  mounts: [
    { containerPath: '/a', hostPath: '/b', readonly: true, recursiveReadonly: true, propagation: 'bidirectional', restrictions: ['noexec'], idMappings: user },
    { containerPath: '/c', hostPath: '', readonly: true, propagation: 'private', image: { image: 'i', userSpecifiedImage: 'j', imageRef: 'k', subPath: 'l' } },
  ],
  logPath: '/logs/main',
  tty: true,
  stdin: true,
  stdinOnce: true,
  resources: {
    cpuPeriod: 1n,
    cpuQuota: 2n,
    cpuShares: 3n,
    memoryLimitBytes: 4n,
    memorySwapLimitBytes: 5n,
    oomScoreAdj: 6,
    cpusetCpus: '0',
    cpusetMems: '1',
    hugepageLimits: [{ pageSize: '2MB', limit: 7n }],
    unified: { 'memory.high': '1' },
  },
  stopSignal: 'SIGINT',
  user: { uid: 1, gid: 2, groups: [3] },
  info: { pid: 1 },
};

/** The same while it runs. */
const running: ContainerStatus = { ...container, state: 'running' };

const image: ImageSummary = {
  id: 'sha256:1',
  kind: 'image',
  names: ['busybox:1'],
  digests: ['busybox@sha256:2'],
  sizeBytes: 1,
  createdAtNs: 1n,
  pinned: true,
  uid: 1000,
  username: 'me',
};

const usage: GroupUsage = {
  atNs: 100n,
  cpu: { usageNs: 101n, nanoCores: 102n, pressure: pressure(10n) },
  memory: { usageBytes: 203n, workingSetBytes: 201n, limitBytes: 900n, rssBytes: 204n, pageFaults: 205n, majorPageFaults: 206n, pressure: pressure(20n) },
  swap: { usageBytes: 302n, limitBytes: 1000n },
  io: { devices: [], pressure: pressure(30n) },
  processes: { processes: 3 },
};
const writableLayer: LayerUsage = { atNs: 401n, mountpoint: '/layers', usedBytes: 402, inodesUsed: 403 };
const containerStats: ContainerStats = {
  id: container.id,
  podSandboxId: pod.id,
  metadata: container.metadata,
  state: 'running',
  labels: container.labels,
  annotations: container.annotations,
  usage,
  writableLayer,
};
const podStats: PodSandboxStats = {
  id: pod.id,
  metadata: pod.metadata,
  labels: pod.labels,
  annotations: pod.annotations,
  usage,
  network: { atNs: 501n, interfaces: [{ name: 'eth0', rxBytes: 1n, rxPackets: 2n, rxErrors: 3n, rxDropped: 4n, txBytes: 5n, txPackets: 6n, txErrors: 7n, txDropped: 8n }] },
  containers: [containerStats],
};
const metric = { name: 'm', kind: 'gauge', labelValues: ['l'], value: 601n, atNs: 602n } as const;
/** Its user namespace is the node's, by name. */
const ofTheNode: PodSandboxStatus = { ...pod, namespaces: { ...pod.namespaces, user: { uids: [], gids: [] } } };
const event: EngineEvent = { kind: 'containerStopped', podSandboxId: pod.id, containerId: container.id, atNs: 1n, snapshot: { pod: ofTheNode, containers: [container] } };
const nothing = async (): Promise<void> => undefined;

/** Answers every call that the doors make. */
export const fullEngine: Engine = fakeEngine({
  status: async () => ({
    version: '1',
    runtimeReady: false,
    networkReady: true,
    networkReason: 'r',
    networkMessage: 'm',
    defaultRuntimeHandler: 'native',
    runtimeHandlers: [{ name: 'native', recursiveReadOnlyMounts: true, userNamespaces: true }],
    info: { pid: 1 },
  }),
  updateRuntimeConfig: nothing,
  runPodSandbox: async () => pod.id,
  stopPodSandbox: nothing,
  removePodSandbox: nothing,
  podSandboxStatus: async () => ({ ...pod, state: 'ready' }),
  listPodSandboxes: async () => [pod],
  createContainer: async () => container.id,
  startContainer: nothing,
  stopContainer: nothing,
  removeContainer: nothing,
  containerStatus: async () => running,
  listContainers: async () => [container],
  execSync: async () => ({ stdout: Buffer.from('a'), stderr: Buffer.from('b'), exitCode: 1 }),
  reopenContainerLog: nothing,
  updateContainer: nothing,
  updatePodSandbox: nothing,
  containerInfo: async () => ({ pid: 1 }),
  podSandboxInfo: async () => ({ pid: 1 }),
  async *events() {
    yield event;
  },
  containerStats: async () => containerStats,
  listContainerStats: async () => [containerStats],
  podSandboxStats: async () => podStats,
  listPodSandboxStats: async () => [podStats],
  metricDescriptors: async () => [{ name: 'm', help: 'h', labelKeys: ['l'] }],
  podSandboxMetrics: async () => [{ podSandboxId: pod.id, metrics: [metric], containers: [{ containerId: container.id, metrics: [metric] }] }],
  listImages: async () => [image],
  imageStatus: async () => image,
  imageInfo: async () => ({ imageSpec: {} }),
  pullImage: async () => image,
  removeImage: nothing,
  imageUsage: async () => ({ images: writableLayer, containers: writableLayer }),
});
