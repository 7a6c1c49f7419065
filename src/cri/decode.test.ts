/** What pod and container requests become, and the path and words of every refusal. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  ContainerConfigSchema,
  ContainerFilterSchema,
  ContainerState,
  MountPropagation,
  NamespaceMode,
  PodSandboxConfigSchema,
  PodSandboxFilterSchema,
  PodSandboxState,
  Protocol,
  SecurityProfile_ProfileType,
  Signal,
  SupplementalGroupsPolicy,
} from '#gen/cri-v1_pb.js';
import type { ContainerConfig, PodSandboxConfig } from '#pod';
import { decodeTimeoutMs } from './decode-common.ts';
import { decodeContainerConfig, decodeContainerFilter } from './decode-container.ts';
import { decodePodFilter, decodePodSandboxConfig } from './decode-pod.ts';

/** Initialisers alone, without finished messages, so that they can be merged. */
type PodFields = Exclude<MessageInitShape<typeof PodSandboxConfigSchema>, { readonly $typeName: string }>;
type ContainerFields = Exclude<MessageInitShape<typeof ContainerConfigSchema>, { readonly $typeName: string }>;

// SAFETY: a peer of another version may send any number for an enum; protobuf keeps it.
const unknownValue = 99 as never;
const metadata = { name: 'web', uid: 'u-1', namespace: 'default', attempt: 2 };

/** Through the wire, so that the test sees what a server sees. */
function pod(init: PodFields): PodSandboxConfig {
  const message = create(PodSandboxConfigSchema, init);
  return decodePodSandboxConfig('config', fromBinary(PodSandboxConfigSchema, toBinary(PodSandboxConfigSchema, message)));
}

function container(init: ContainerFields): ContainerConfig {
  const fields: ContainerFields = { metadata: { name: 'c' }, image: { image: 'busybox' }, ...init };
  const message = create(ContainerConfigSchema, fields);
  return decodeContainerConfig('config', fromBinary(ContainerConfigSchema, toBinary(ContainerConfigSchema, message)));
}

test('a pod with every field set is decoded', () => {
  const config = pod({
    metadata,
    hostname: 'web',
    logDirectory: '/var/log/pods/web',
    dnsConfig: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
    portMappings: [{ protocol: Protocol.UDP, containerPort: 53, hostPort: 5353, hostIp: '127.0.0.1' }],
    labels: { app: 'web' },
    annotations: { a: '' },
    linux: {
      cgroupParent: '/kubepods/pod1',
      sysctls: { 'net.ipv4.ip_forward': '1' },
      overhead: { memoryLimitInBytes: 5n },
      resources: { cpuShares: 10n, oomScoreAdj: -998n },
      securityContext: {
        namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.NODE, usernsOptions: { mode: NamespaceMode.NODE } },
        runAsUser: { value: 0n },
        runAsGroup: { value: 4294967294n },
        readonlyRootfs: true,
        supplementalGroups: [5n],
        privileged: true,
        seccomp: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: '/p.json' },
        apparmor: { profileType: SecurityProfile_ProfileType.RuntimeDefault },
        selinuxOptions: {},
      },
    },
  });
  assert.deepEqual(config, {
    metadata,
    hostname: 'web',
    logDirectory: '/var/log/pods/web',
    dns: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
    portMappings: [{ protocol: 'udp', containerPort: 53, hostPort: 5353, hostIp: '127.0.0.1' }],
    hostAliases: [],
    labels: { app: 'web' },
    annotations: { a: '' },
    cgroupParent: '/kubepods/pod1',
    sysctls: { 'net.ipv4.ip_forward': '1' },
    security: {
      namespaces: { network: 'node', pid: 'container', ipc: 'node', user: { uids: [], gids: [] } },
      runAsUser: 0,
      runAsGroup: 4294967294,
      readonlyRootfs: true,
      supplementalGroups: [5],
      privileged: true,
      seccomp: { kind: 'localhost', path: '/p.json' },
      apparmor: { kind: 'runtimeDefault' },
    },
    resources: { cpuShares: 10n, oomScoreAdj: -998 },
    overhead: { memoryLimitBytes: 5n },
  });
});

test('a pod of metadata alone gets the zero values of CRI', () => {
  assert.deepEqual(pod({ metadata }).security, { namespaces: { network: 'pod', pid: 'pod', ipc: 'pod' }, readonlyRootfs: false, supplementalGroups: [], privileged: false });
});

const podRefusals: readonly (readonly [title: string, init: PodFields, code: string, message: string])[] = [
  ['no metadata', {}, 'invalidArgument', 'config.metadata: required'],
  ['no uid', { metadata: { ...metadata, uid: '' } }, 'invalidArgument', 'config.metadata.uid: required'],
  ['a relative log directory', { metadata, logDirectory: 'logs' }, 'invalidArgument', 'config.log_directory: must be an absolute path, not "logs"'],
  ['a port out of range', { metadata, portMappings: [{ containerPort: 70_000 }] }, 'invalidArgument', 'config.port_mappings[0].container_port: must be 1 to 65535, not 70000'],
  ['a line break in DNS', { metadata, dnsConfig: { servers: ['1.1.1.1\nnameserver 6.6.6.6'] } }, 'invalidArgument', 'config.dns_config.servers[0]: must not contain a line break'],
  [
    'a target PID namespace',
    { metadata, linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET } } } },
    'invalidArgument',
    'config.linux.security_context.namespace_options.pid: must be one of POD, CONTAINER, NODE, not TARGET',
  ],
  [
    'a user id that wraps to root',
    { metadata, linux: { securityContext: { runAsUser: { value: 4294967296n } } } },
    'invalidArgument',
    'config.linux.security_context.run_as_user.value: must be 0 to 4294967294, not 4294967296',
  ],
  [
    'a group without a user',
    { metadata, linux: { securityContext: { runAsGroup: { value: 1n } } } },
    'invalidArgument',
    'config.linux.security_context.run_as_group: needs run_as_user',
  ],
  [
    'an unknown seccomp profile',
    { metadata, linux: { securityContext: { seccompProfilePath: 'what' } } },
    'invalidArgument',
    'config.linux.security_context.seccomp_profile_path: unknown profile "what"',
  ],
  [
    'a cgroup parent that climbs',
    { metadata, linux: { cgroupParent: '/kubepods/../..' } },
    'invalidArgument',
    'config.linux.cgroup_parent: must name a group below the root, not "/kubepods/../.."',
  ],
  ['a relative cgroup parent', { metadata, linux: { cgroupParent: 'pods' } }, 'invalidArgument', 'config.linux.cgroup_parent: must be an absolute path, not "pods"'],
  ['a NUL byte in an annotation', { metadata, annotations: { a: 'x\0y' } }, 'invalidArgument', 'config.annotations["a"]: must not contain a NUL byte'],
  ['Windows', { metadata, windows: {} }, 'invalidArgument', 'config.windows: not on Linux'],
];

for (const [title, init, code, message] of podRefusals) {
  test(`a pod with ${title} is refused`, () => {
    assert.throws(() => pod(init), { code, message });
  });
}

test('a container with every field set is decoded', () => {
  const config = container({
    metadata: { name: 'c', attempt: 3 },
    image: { image: 'sha256:1', userSpecifiedImage: 'busybox:1' },
    command: ['sh'],
    args: ['-c', ''],
    workingDir: '/w',
    envs: [{ key: 'A', value: Buffer.from('ä=b') }],
    mounts: [
      {
        containerPath: '/data',
        hostPath: '/srv',
        readonly: true,
        propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL,
        selinuxRelabel: true,
        mountOptions: ['noexec', 'nodev'],
      },
      { containerPath: '/models', image: { image: 'sha256:2', userSpecifiedImage: 'models:1' }, imageSubPath: 'a/b' },
      { containerPath: '/all', hostPath: '/all', readonly: true, recursiveReadOnly: true },
    ],
    devices: [{ containerPath: '/dev/x', hostPath: '/dev/null', permissions: 'mrw' }],
    CDIDevices: [{ name: 'vendor.com/gpu=0' }],
    labels: { l: '1' },
    annotations: { n: '2' },
    logPath: 'c/0.log',
    stdin: true,
    stdinOnce: true,
    tty: true,
    stopSignal: Signal.SIGRTMINPLUS3,
    linux: {
      resources: {
        cpuPeriod: 100_000n,
        cpuQuota: -1n,
        memoryLimitInBytes: 1n << 33n,
        memorySwapLimitInBytes: -1n,
        cpusetCpus: '0-1',
        hugepageLimits: [{ pageSize: '2MB', limit: 4n }],
        unified: { 'memory.high': 'max' },
      },
      securityContext: {
        capabilities: { addCapabilities: ['NET_ADMIN'], dropCapabilities: ['ALL'], addAmbientCapabilities: [] },
        namespaceOptions: { pid: NamespaceMode.TARGET, targetId: 'abc' },
        runAsUsername: 'www-data',
        runAsGroup: { value: 7n },
        supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
        noNewPrivs: true,
        maskedPaths: ['/proc/kcore'],
        seccomp: { profileType: SecurityProfile_ProfileType.Unconfined },
      },
    },
  });
  assert.deepEqual(config, {
    metadata: { name: 'c', attempt: 3 },
    image: 'sha256:1',
    userSpecifiedImage: 'busybox:1',
    command: ['sh'],
    args: ['-c', ''],
    workingDir: '/w',
    env: [{ key: 'A', value: 'ä=b' }],
    mounts: [
      { containerPath: '/data', hostPath: '/srv', readonly: true, propagation: 'bidirectional', restrictions: ['noexec', 'nodev'] },
      { containerPath: '/models', hostPath: '', readonly: true, image: { image: 'sha256:2', userSpecifiedImage: 'models:1', subPath: 'a/b' }, propagation: 'private' },
      { containerPath: '/all', hostPath: '/all', readonly: true, propagation: 'private', recursiveReadonly: true },
    ],
    devices: [{ containerPath: '/dev/x', hostPath: '/dev/null', permissions: 'mrw' }],
    cdiDevices: ['vendor.com/gpu=0'],
    labels: { l: '1' },
    annotations: { n: '2' },
    logPath: 'c/0.log',
    stdin: true,
    stdinOnce: true,
    tty: true,
    resources: {
      cpuPeriod: 100_000n,
      cpuQuota: -1n,
      memoryLimitBytes: 1n << 33n,
      memorySwapLimitBytes: -1n,
      cpusetCpus: '0-1',
      hugepageLimits: [{ pageSize: '2MB', limit: 4n }],
      unified: { 'memory.high': 'max' },
    },
    security: {
      capabilities: { add: ['NET_ADMIN'], drop: ['ALL'], addAmbient: [] },
      privileged: false,
      namespaces: { network: 'pod', pid: 'target', ipc: 'pod', targetId: 'abc' },
      runAsGroup: 7,
      runAsUsername: 'www-data',
      readonlyRootfs: false,
      supplementalGroups: [],
      supplementalGroupsPolicy: 'strict',
      noNewPrivileges: true,
      maskedPaths: ['/proc/kcore'],
      readonlyPaths: [],
      seccomp: { kind: 'unconfined' },
    },
    stopSignal: 'SIGRTMIN+3',
  });
});

test('without a security context the default masked paths hold, with an empty one none', () => {
  assert.equal(container({}).security.maskedPaths, undefined);
  assert.deepEqual(container({ linux: { securityContext: {} } }).security.maskedPaths, []);
});

const containerRefusals: readonly (readonly [title: string, init: ContainerFields, code: string, message: string])[] = [
  ['no image', { image: {} }, 'invalidArgument', 'config.image.image: required'],
  ['no name', { metadata: {} }, 'invalidArgument', 'config.metadata.name: required'],
  ['an environment name with =', { envs: [{ key: 'A=B' }] }, 'invalidArgument', 'config.envs[0].key: must not contain ='],
  ['an environment value that is no UTF-8', { envs: [{ key: 'A', value: new Uint8Array([0xff]) }] }, 'invalidArgument', 'config.envs[0].value: must be UTF-8'],
  ['an image volume without image', { mounts: [{ containerPath: '/a', image: {} }] }, 'invalidArgument', 'config.mounts[0].image.image: required'],
  ['a part of no image', { mounts: [{ containerPath: '/a', hostPath: '/a', imageSubPath: 'x' }] }, 'invalidArgument', 'config.mounts[0].image_sub_path: needs an image'],
  [
    'a recursive read-only mount that may be written to',
    { mounts: [{ containerPath: '/a', hostPath: '/a', recursiveReadOnly: true }] },
    'invalidArgument',
    'config.mounts[0].recursive_read_only: needs readonly and private propagation',
  ],
  [
    'a recursive read-only mount that propagates',
    { mounts: [{ containerPath: '/a', hostPath: '/a', readonly: true, recursiveReadOnly: true, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER }] },
    'invalidArgument',
    'config.mounts[0].recursive_read_only: needs readonly and private propagation',
  ],
  ['a mount without host path', { mounts: [{ containerPath: '/a' }] }, 'invalidArgument', 'config.mounts[0].host_path: required'],
  [
    'a mount option that lifts a restriction',
    { mounts: [{ containerPath: '/a', hostPath: '/a', mountOptions: ['noexec', 'suid'] }] },
    'invalidArgument',
    'config.mounts[0].mount_options[1]: must be one of noexec, nosuid, nodev, not "suid"',
  ],
  [
    'bad device permissions',
    { devices: [{ containerPath: '/a', hostPath: '/a', permissions: 'rr' }] },
    'invalidArgument',
    'config.devices[0].permissions: must be one or more of r, w and m, not "rr"',
  ],
  ['a log path that climbs', { logPath: 'a/../../etc/cron.d/x' }, 'invalidArgument', 'config.log_path: must be relative to log_directory and stay below it'],
  [
    'user and user name',
    { linux: { securityContext: { runAsUser: { value: 1n }, runAsUsername: 'a' } } },
    'invalidArgument',
    'config.linux.security_context.run_as_username: excludes run_as_user',
  ],
  [
    'a target without id',
    { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET } } } },
    'invalidArgument',
    'config.linux.security_context.namespace_options.target_id: required',
  ],
  ['negative memory', { linux: { resources: { memoryLimitInBytes: -5n } } }, 'invalidArgument', 'config.linux.resources.memory_limit_in_bytes: must not be negative, not -5'],
  ['an oom score out of range', { linux: { resources: { oomScoreAdj: 1001n } } }, 'invalidArgument', 'config.linux.resources.oom_score_adj: must be -1000 to 1000, not 1001'],
  ['a CDI device with a NUL byte', { CDIDevices: [{ name: 'vendor.com/gpu=\0' }] }, 'invalidArgument', 'config.CDI_devices[0].name: must not contain a NUL byte'],
  ['an unknown stop signal', { stopSignal: unknownValue }, 'invalidArgument', 'config.stop_signal: unknown value 99'],
];

for (const [title, init, code, message] of containerRefusals) {
  test(`a container with ${title} is refused`, () => {
    assert.throws(() => container(init), { code, message });
  });
}

test('filters decode what is set, and absent ones match everything', () => {
  assert.deepEqual(decodePodFilter('filter', undefined), {});
  assert.deepEqual(decodePodFilter('filter', create(PodSandboxFilterSchema, { id: 'a', state: { state: PodSandboxState.SANDBOX_NOTREADY }, labelSelector: { a: 'b' } })), {
    id: 'a',
    state: 'notReady',
    labels: { a: 'b' },
  });
  assert.deepEqual(decodeContainerFilter('filter', create(ContainerFilterSchema, { podSandboxId: 'p', state: { state: ContainerState.CONTAINER_CREATED } })), {
    podSandboxId: 'p',
    state: 'created',
  });
  assert.throws(() => decodeContainerFilter('filter', create(ContainerFilterSchema, { state: { state: unknownValue } })), {
    code: 'invalidArgument',
    message: 'filter.state: unknown value 99',
  });
});

test('seconds become milliseconds within bounds', () => {
  assert.equal(decodeTimeoutMs('timeout', 30n), 30_000);
  assert.throws(() => decodeTimeoutMs('timeout', -1n), { code: 'invalidArgument', message: 'timeout: must be 0 to 3155760000 seconds, not -1' });
  assert.throws(() => decodeTimeoutMs('timeout', 1n << 62n), { code: 'invalidArgument' });
});
