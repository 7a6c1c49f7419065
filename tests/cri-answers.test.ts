/**
 * What the engine tells, in the fields of the CRI that mean it, and what requests ask the engine for: every value is another one, so that no two fields
 * can be taken for each other. In: an engine whose answers have everything. The table of all fields is tests/cri-fields.json.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type JsonValue, toJson } from '@bufbuild/protobuf';
import { callHandler, callsOf, served } from './cri-fields/observe.ts';

async function answer(name: string, request: JsonValue): Promise<JsonValue | undefined> {
  const method = served.get(name);
  assert.ok(method !== undefined, name);
  const [first] = await callHandler(method, request);
  assert.ok(first !== undefined, `${name} answers nothing`);
  return toJson(method.output, first, { useProtoFieldName: true });
}

async function calls(name: string, request: JsonValue): Promise<readonly (readonly unknown[])[]> {
  const method = served.get(name);
  assert.ok(method !== undefined, name);
  return callsOf(method, request);
}

const labels = { a: 'b' };
const annotations = { c: 'd' };
const uidMappings = [{ host_id: 65_536, container_id: 1, length: 65_535 }];
const gidMappings = [{ host_id: 131_072, container_id: 2, length: 65_534 }];
const podMetadata = { name: 'web', uid: 'u1', namespace: 'shop', attempt: 1 };
const image = { image: 'busybox', annotations: { e: 'f' }, user_specified_image: 'busybox:1', image_ref: 'busybox@sha256:2' };
const container = {
  id: 'c1',
  metadata: { name: 'main', attempt: 1 },
  state: 'CONTAINER_EXITED',
  created_at: '1',
  started_at: '2',
  finished_at: '3',
  exit_code: 137,
  image,
  image_ref: 'busybox@sha256:2',
  reason: 'OOMKilled',
  message: 'why',
  labels,
  annotations,
  mounts: [
    {
      container_path: '/a',
      host_path: '/b',
      readonly: true,
      propagation: 'PROPAGATION_BIDIRECTIONAL',
      uidMappings,
      gidMappings,
      recursive_read_only: true,
      mount_options: ['noexec'],
    },
    { container_path: '/c', readonly: true, image: { image: 'i', user_specified_image: 'j', image_ref: 'k' }, image_sub_path: 'l' },
  ],
  log_path: '/logs/main',
  resources: {
    linux: {
      cpu_period: '1',
      cpu_quota: '2',
      cpu_shares: '3',
      memory_limit_in_bytes: '4',
      memory_swap_limit_in_bytes: '5',
      oom_score_adj: '6',
      cpuset_cpus: '0',
      cpuset_mems: '1',
      hugepage_limits: [{ page_size: '2MB', limit: '7' }],
      unified: { 'memory.high': '1' },
    },
  },
  image_id: 'sha256:1',
  user: { linux: { uid: '1', gid: '2', supplemental_groups: ['3'] } },
  stop_signal: 'SIGNAL_SIGINT',
};
const pod = {
  id: 'p1',
  metadata: podMetadata,
  created_at: '1',
  network: { ip: '10.88.0.2', additional_ips: [{ ip: 'fd00::2' }] },
  linux: { namespaces: { options: { network: 'NODE', pid: 'TARGET', ipc: 'NODE', target_id: 'c1', userns_options: { uids: uidMappings, gids: gidMappings } } } },
  labels,
  annotations,
  runtime_handler: 'native',
};

test('the status of a pod has its addresses, namespaces, containers and the time at which this was so', async () => {
  assert.deepEqual(await answer('PodSandboxStatus', { pod_sandbox_id: 'p1' }), { status: pod, containers_statuses: [container], timestamp: '2' });
  const verbose = await answer('PodSandboxStatus', { pod_sandbox_id: 'p1', verbose: true });
  assert.deepEqual(Object(verbose).info, { info: '{"pid":1}' });
});

test('the status of a container has everything that its creator said and that became of it', async () => {
  const running = { ...container, state: 'CONTAINER_RUNNING' };
  assert.deepEqual(await answer('ContainerStatus', { container_id: 'c1' }), { status: running });
  assert.deepEqual(await answer('ContainerStatus', { container_id: 'c1', verbose: true }), { status: running, info: { info: '{"pid":1}' } });
});

test('lists have the same as the status, and less of it', async () => {
  const { id, metadata, state, created_at, image_ref, image_id } = container;
  assert.deepEqual(await answer('ListContainers', {}), {
    containers: [{ id, pod_sandbox_id: 'p1', metadata, image, image_ref, state, created_at, labels, annotations, image_id }],
  });
  assert.deepEqual(await answer('ListPodSandbox', {}), {
    items: [{ id: 'p1', metadata: podMetadata, state: 'SANDBOX_NOTREADY', created_at: '1', labels, annotations, runtime_handler: 'native' }],
  });
});

test('an event has the pod and its containers as they were', async () => {
  const options = { ...pod.linux.namespaces.options, userns_options: { mode: 'NODE' } };
  assert.deepEqual(await answer('GetContainerEvents', {}), {
    container_id: 'c1',
    container_event_type: 'CONTAINER_STOPPED_EVENT',
    created_at: '1',
    pod_sandbox_status: { ...pod, state: 'SANDBOX_NOTREADY', linux: { namespaces: { options } } },
    containers_statuses: [container],
  });
});

const psi = (first: number): JsonValue => ({ Some: { Total: String(first), Avg10: 1, Avg60: 2, Avg300: 3 }, Full: { Total: String(first + 1), Avg10: 1, Avg60: 2, Avg300: 3 } });
const value = (number: number): JsonValue => ({ value: String(number) });
const groupStats = {
  cpu: { timestamp: '100', usage_core_nano_seconds: value(101), usage_nano_cores: value(102), psi: psi(10) },
  memory: {
    timestamp: '100',
    working_set_bytes: value(201),
    available_bytes: value(699),
    usage_bytes: value(203),
    rss_bytes: value(204),
    page_faults: value(205),
    major_page_faults: value(206),
    psi: psi(20),
  },
  io: { timestamp: '100', psi: psi(30) },
};
const layer = { timestamp: '401', fs_id: { mountpoint: '/layers' }, used_bytes: value(402), inodes_used: value(403) };
const containerStats = {
  attributes: { id: 'c1', metadata: { name: 'main', attempt: 1 }, labels, annotations },
  ...groupStats,
  swap: { timestamp: '100', swap_available_bytes: value(698), swap_usage_bytes: value(302) },
  writable_layer: layer,
};

test('stats have each number in its field', async () => {
  assert.deepEqual(await answer('ContainerStats', { container_id: 'c1' }), { stats: containerStats });
  const link = { name: 'eth0', rx_bytes: value(1), rx_errors: value(3), tx_bytes: value(5), tx_errors: value(7) };
  assert.deepEqual(await answer('PodSandboxStats', { pod_sandbox_id: 'p1' }), {
    stats: {
      attributes: { id: 'p1', metadata: podMetadata, labels, annotations },
      linux: {
        ...groupStats,
        network: { timestamp: '501', default_interface: link, interfaces: [link] },
        process: { timestamp: '100', process_count: value(3) },
        containers: [containerStats],
      },
    },
  });
  assert.deepEqual(await answer('ImageFsInfo', {}), { image_filesystems: [layer], container_filesystems: [layer] });
});

test('metrics have their descriptor, kind, labels, value and time', async () => {
  const metrics = [{ name: 'm', timestamp: '602', metric_type: 'GAUGE', label_values: ['l'], value: value(601) }];
  assert.deepEqual(await answer('ListPodSandboxMetrics', {}), { pod_metrics: [{ pod_sandbox_id: 'p1', metrics, container_metrics: [{ container_id: 'c1', metrics }] }] });
  assert.deepEqual(await answer('ListMetricDescriptors', {}), { descriptors: [{ name: 'm', help: 'h', label_keys: ['l'] }] });
});

test('an image has its names, size, user, pin and the annotations of the request', async () => {
  const told = {
    id: 'sha256:1',
    repo_tags: ['busybox:1'],
    repo_digests: ['busybox@sha256:2'],
    size: '1',
    uid: value(1000),
    username: 'me',
    spec: { image: 'busybox:1', annotations: labels, image_ref: 'busybox@sha256:2' },
    pinned: true,
  };
  assert.deepEqual(await answer('ImageStatus', { image: { image: 'busybox', annotations: labels }, verbose: true }), { image: told, info: { info: '{"imageSpec":{}}' } });
});

test('a runtime that is not ready says why, and what its handlers can do', async () => {
  assert.deepEqual(await answer('Status', { verbose: true }), {
    status: {
      conditions: [
        { type: 'RuntimeReady', reason: 'RuntimeNotReady', message: 'the engine is not ready' },
        { type: 'NetworkReady', status: true, reason: 'r', message: 'm' },
      ],
    },
    info: { info: '{"pid":1}' },
    runtime_handlers: [{ name: 'native', features: { recursive_read_only_mounts: true, user_namespaces: true } }],
    features: { supplemental_groups_policy: true, mount_options: true },
  });
});

test('credentials of a pull reach the engine whole', async () => {
  const auth = { username: 'me', password: 'p', server_address: 'https://docker.io', identity_token: 'i', registry_token: 'r' };
  assert.deepEqual(await calls('PullImage', { image: { image: 'busybox' }, auth }), [
    ['pullImage', 'busybox', { auth: { username: 'me', password: 'p', identityToken: 'i', registryToken: 'r' } }],
  ]);
  const basic = { auth: Buffer.from('me:p').toString('base64') };
  assert.deepEqual(await calls('PullImage', { image: { image: 'busybox' }, auth: basic }), [['pullImage', 'busybox', { auth: { username: 'me', password: 'p' } }]]);
  assert.deepEqual(await calls('PullImage', { image: { image: 'busybox' }, auth: { ...auth, server_address: 'other.example' } }), [['pullImage', 'busybox', {}]]);
});

test('URLs stand for what was asked: command, terminal, streams, ports', async () => {
  const target = async (name: string, request: JsonValue): Promise<unknown> => (await calls(name, request)).find(([method]) => method === 'url')?.[1];
  assert.deepEqual(await target('Exec', { container_id: 'c', cmd: ['a', 'b'], tty: true, stdin: true, stdout: true }), {
    kind: 'exec',
    containerId: 'c1',
    command: ['a', 'b'],
    tty: true,
    stdin: true,
    stdout: true,
    stderr: false,
  });
  assert.deepEqual(await target('Attach', { container_id: 'c', stdout: true, stderr: true }), {
    kind: 'attach',
    containerId: 'c1',
    tty: false,
    stdin: false,
    stdout: true,
    stderr: true,
  });
  assert.deepEqual(await target('PortForward', { pod_sandbox_id: 'p', port: [80, 443] }), { kind: 'portForward', podSandboxId: 'p1', ports: [80, 443] });
});

test('an update names what changes, and nothing else', async () => {
  const linux = { cpu_quota: '-1', memory_limit_in_bytes: '-1', hugepage_limits: [{ page_size: '2MB', limit: '1' }], unified: { 'memory.high': '1' }, cpuset_mems: '0' };
  const resources = { cpuQuota: -1n, memoryLimitBytes: -1n, hugepageLimits: [{ pageSize: '2MB', limit: 1n }], unified: { 'memory.high': '1' }, cpusetMems: '0' };
  assert.deepEqual(await calls('UpdateContainerResources', { container_id: 'c', linux, annotations }), [['updateContainer', 'c', { resources, annotations }]]);
  assert.deepEqual(await calls('UpdatePodSandboxResources', { pod_sandbox_id: 'p', overhead: linux }), [['updatePodSandbox', 'p', { overhead: resources }]]);
  assert.deepEqual(await calls('UpdateRuntimeConfig', { runtime_config: { network_config: { pod_cidr: '10.0.0.0/16,fd00::/64' } } }), [
    ['updateRuntimeConfig', { podCidr: '10.0.0.0/16,fd00::/64' }],
  ]);
});
