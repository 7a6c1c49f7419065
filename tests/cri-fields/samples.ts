/**
 * Requests that have a value in every field that is not refused; where fields exclude each other there are several. In: nothing. Out: for each
 * RPC its requests, in protobuf's JSON form with the names of proto/cri-v1.proto.
 */
import type { JsonValue } from '@bufbuild/protobuf';

const metadata = { name: 'web', uid: 'u1', namespace: 'shop', attempt: 1 };
const mapping = { host_id: 65_536, container_id: 0, length: 65_536 };
const userNamespace = { mode: 'POD', uids: [mapping], gids: [mapping] };
const label = { user: 'system_u', role: 'system_r', type: 'container_t', level: 's0:c1,c2' };
const resources = {
  cpu_period: '100000',
  cpu_quota: '50000',
  cpu_shares: '512',
  memory_limit_in_bytes: '67108864',
  oom_score_adj: '500',
  cpuset_cpus: '0',
  cpuset_mems: '0',
  hugepage_limits: [{ page_size: '2MB', limit: '2097152' }],
  unified: { 'memory.high': '1048576' },
  memory_swap_limit_in_bytes: '67108864',
};
const localhost = { profile_type: 'Localhost', localhost_ref: '/profiles/one' };
const image = { image: 'busybox', annotations: { a: 'b' }, user_specified_image: 'busybox:1', runtime_handler: 'native', image_ref: 'busybox@sha256:1' };

/** A pod's configuration with everything. */
export const podConfig: Readonly<Record<string, JsonValue>> = {
  metadata,
  hostname: 'web',
  log_directory: '/logs',
  dns_config: { servers: ['10.0.0.1'], searches: ['a.example'], options: ['ndots:5'] },
  port_mappings: [{ protocol: 'UDP', container_port: 53, host_port: 5353, host_ip: '127.0.0.1' }],
  labels: { a: 'b' },
  annotations: { c: 'd' },
  linux: {
    cgroup_parent: '/kubepods',
    sysctls: { 'net.ipv4.ip_forward': '1' },
    overhead: resources,
    resources,
    security_context: {
      namespace_options: { network: 'POD', pid: 'CONTAINER', ipc: 'POD', userns_options: userNamespace },
      selinux_options: label,
      run_as_user: { value: '1000' },
      run_as_group: { value: '1000' },
      readonly_rootfs: true,
      supplemental_groups: ['2000'],
      supplemental_groups_policy: 'Strict',
      privileged: true,
      seccomp: localhost,
      apparmor: localhost,
    },
  },
};

/** A container's configuration with everything. */
export const containerConfig: Readonly<Record<string, JsonValue>> = {
  metadata: { name: 'main', attempt: 1 },
  image,
  command: ['a'],
  args: ['b'],
  working_dir: '/w',
  envs: [{ key: 'A', value: Buffer.from('B').toString('base64') }],
  mounts: [
    { container_path: '/a', host_path: '/b', readonly: true, selinux_relabel: true, recursive_read_only: true, mount_options: ['noexec'] },
    { container_path: '/c', host_path: '/d', propagation: 'PROPAGATION_BIDIRECTIONAL', uidMappings: [{ ...mapping, container_id: 1 }], gidMappings: [mapping] },
    { container_path: '/e', image, image_sub_path: 'sub' },
  ],
  devices: [{ container_path: '/dev/a', host_path: '/dev/b', permissions: 'rwm' }],
  labels: { a: 'b' },
  annotations: { c: 'd' },
  log_path: 'main.log',
  stdin: true,
  stdin_once: true,
  tty: true,
  linux: {
    resources,
    security_context: {
      capabilities: { add_capabilities: ['NET_ADMIN'], drop_capabilities: ['CHOWN'], add_ambient_capabilities: ['NET_RAW'] },
      privileged: true,
      namespace_options: { network: 'POD', pid: 'TARGET', ipc: 'POD', target_id: 'c1', userns_options: userNamespace },
      selinux_options: label,
      run_as_user: { value: '1000' },
      run_as_group: { value: '1000' },
      readonly_rootfs: true,
      supplemental_groups: ['2000'],
      supplemental_groups_policy: 'Strict',
      no_new_privs: true,
      masked_paths: ['/proc/kcore'],
      readonly_paths: ['/proc/sys'],
      seccomp: localhost,
      apparmor: localhost,
    },
  },
  CDI_devices: [{ name: 'vendor.com/gpu=0' }],
  stop_signal: 'SIGNAL_SIGINT',
};

const containerId = { container_id: 'c1' };
const podId = { pod_sandbox_id: 'p1' };
const podFilter = { filter: { id: 'p1', state: { state: 'SANDBOX_NOTREADY' }, label_selector: { a: 'b' } } };
const containerFilter = { filter: { id: 'c1', state: { state: 'CONTAINER_EXITED' }, pod_sandbox_id: 'p1', label_selector: { a: 'b' } } };
const containerStatsFilter = { filter: { id: 'c1', pod_sandbox_id: 'p1', label_selector: { a: 'b' } } };
const podStatsFilter = { filter: { id: 'p1', label_selector: { a: 'b' } } };
const imageFilter = { filter: { image } };
/** Names instead of numbers, and the deprecated ways to name profiles. */
const named = { security_context: { run_as_username: 'me', seccomp_profile_path: 'runtime/default', apparmor_profile: 'runtime/default' } };

const ofTheNode = { network: 'NODE', ipc: 'NODE', userns_options: { mode: 'NODE' } };

/** By RPC. */
export const samples: Readonly<Record<string, readonly JsonValue[]>> = {
  Version: [{ version: 'v1' }],
  RunPodSandbox: [
    { config: podConfig, runtime_handler: 'native' },
    { config: { metadata, linux: { security_context: { seccomp_profile_path: 'runtime/default', namespace_options: ofTheNode } } } },
  ],
  StopPodSandbox: [podId],
  RemovePodSandbox: [podId],
  PodSandboxStatus: [{ ...podId, verbose: true }],
  ListPodSandbox: [podFilter],
  StreamPodSandboxes: [podFilter],
  CreateContainer: [
    { ...podId, config: containerConfig, sandbox_config: podConfig },
    { ...podId, config: { metadata: { name: 'main' }, image: { image: 'busybox' }, linux: named } },
  ],
  StartContainer: [containerId],
  StopContainer: [{ ...containerId, timeout: '3' }],
  RemoveContainer: [containerId],
  ListContainers: [containerFilter],
  StreamContainers: [containerFilter],
  ContainerStatus: [{ ...containerId, verbose: true }],
  UpdateContainerResources: [{ ...containerId, linux: resources, annotations: { a: 'b' } }],
  ReopenContainerLog: [containerId],
  ExecSync: [{ ...containerId, cmd: ['a'], timeout: '1' }],
  Exec: [
    { ...containerId, cmd: ['a'], tty: true, stdin: true, stdout: true },
    { ...containerId, cmd: ['a'], stderr: true },
  ],
  Attach: [
    { ...containerId, stdin: true, stdout: true, stderr: true },
    { ...containerId, tty: true, stdout: true },
  ],
  PortForward: [{ ...podId, port: [80] }],
  ContainerStats: [containerId],
  ListContainerStats: [containerStatsFilter],
  StreamContainerStats: [containerStatsFilter],
  PodSandboxStats: [podId],
  ListPodSandboxStats: [podStatsFilter],
  StreamPodSandboxStats: [podStatsFilter],
  UpdateRuntimeConfig: [{ runtime_config: { network_config: { pod_cidr: '10.0.0.0/16' } } }],
  Status: [{ verbose: true }],
  GetContainerEvents: [{}],
  ListMetricDescriptors: [{}],
  ListPodSandboxMetrics: [{}],
  StreamPodSandboxMetrics: [{}],
  RuntimeConfig: [{}],
  UpdatePodSandboxResources: [{ ...podId, overhead: resources, resources }],
  ListImages: [imageFilter],
  StreamImages: [imageFilter],
  ImageStatus: [{ image, verbose: true }],
  PullImage: [
    { image, auth: { username: 'me', password: 'p', server_address: 'docker.io', identity_token: 'i', registry_token: 'r' }, sandbox_config: podConfig },
    { image, auth: { auth: Buffer.from('me:p').toString('base64') } },
  ],
  RemoveImage: [{ image }],
  ImageFsInfo: [{}],
};
