/** The engine's states → CRI messages. In: what the engine tells. Out: initialisers of messages. Pure. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type {
  ContainerSchema,
  ContainerStatusSchema,
  FilesystemUsageSchema,
  IDMappingSchema,
  ImageSchema,
  ImageSpecSchema,
  LinuxContainerResourcesSchema,
  MountSchema,
  NamespaceOptionSchema,
  PodSandboxSchema,
  PodSandboxStatusSchema,
  StatusResponseSchema,
} from '#gen/cri-v1_pb.js';
import { ContainerState as ContainerStateEnum, MountPropagation as MountPropagationEnum, NamespaceMode as NamespaceModeEnum, PodSandboxState, Signal } from '#gen/cri-v1_pb.js';
import { limits } from '#core';
import type {
  ContainerState,
  ContainerStatus,
  EngineStatus,
  ExecSyncResult,
  ImageFileSystemUsage,
  ImageSummary,
  LinuxResources,
  Mount,
  MountPropagation,
  NamespaceMode,
  PodSandboxStatus,
  PodState,
  UserMappings,
} from '#pod';

const podStates: Readonly<Record<PodState, PodSandboxState>> = { ready: PodSandboxState.SANDBOX_READY, notReady: PodSandboxState.SANDBOX_NOTREADY };

const containerStates: Readonly<Record<ContainerState, ContainerStateEnum>> = {
  created: ContainerStateEnum.CONTAINER_CREATED,
  running: ContainerStateEnum.CONTAINER_RUNNING,
  exited: ContainerStateEnum.CONTAINER_EXITED,
  unknown: ContainerStateEnum.CONTAINER_UNKNOWN,
};

const namespaceModes: Readonly<Record<NamespaceMode, NamespaceModeEnum>> = {
  pod: NamespaceModeEnum.POD,
  container: NamespaceModeEnum.CONTAINER,
  node: NamespaceModeEnum.NODE,
  target: NamespaceModeEnum.TARGET,
};

const propagations: Readonly<Record<MountPropagation, MountPropagationEnum>> = {
  private: MountPropagationEnum.PROPAGATION_PRIVATE,
  hostToContainer: MountPropagationEnum.PROPAGATION_HOST_TO_CONTAINER,
  bidirectional: MountPropagationEnum.PROPAGATION_BIDIRECTIONAL,
};

/** Verbose facts as CRI wants them: one JSON document under `info`. Integers beyond a JSON number's precision become strings. */
export function encodeInfo(facts: Readonly<Record<string, unknown>>): Record<string, string> {
  const text = JSON.stringify(facts, (_key, value: unknown) => {
    if (typeof value !== 'bigint') return value;
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value.toString();
  });
  return { info: text };
}

/** A pod as ListPodSandbox shows it. */
export function encodePodSandbox(pod: PodSandboxStatus): MessageInitShape<typeof PodSandboxSchema> {
  return commonPodFields(pod);
}

function commonPodFields(pod: PodSandboxStatus) {
  return {
    id: pod.id,
    metadata: { ...pod.metadata },
    state: podStates[pod.state],
    createdAt: pod.createdAtNs,
    labels: { ...pod.labels },
    annotations: { ...pod.annotations },
    runtimeHandler: pod.runtimeHandler,
  };
}

/** A pod as PodSandboxStatus shows it: also its addresses, the first as primary, and its namespaces. */
export function encodePodSandboxStatus(pod: PodSandboxStatus): MessageInitShape<typeof PodSandboxStatusSchema> {
  const [ip = '', ...additionalIps] = pod.ips;
  const { network, pid, ipc, targetId = '', user } = pod.namespaces;
  return {
    ...commonPodFields(pod),
    network: { ip, additionalIps: additionalIps.map((address) => ({ ip: address })) },
    linux: {
      namespaces: { options: { network: namespaceModes[network], pid: namespaceModes[pid], ipc: namespaceModes[ipc], targetId, ...encodeUserNamespace(user) } },
    },
  };
}

const encodeMappings = (mappings: UserMappings['uids']): MessageInitShape<typeof IDMappingSchema>[] =>
  mappings.map(({ containerId, hostId, size }) => ({ containerId, hostId, length: size }));

/** The pod's user namespace as it was asked for; nothing where nothing was said. */
function encodeUserNamespace(user: UserMappings | undefined): MessageInitShape<typeof NamespaceOptionSchema> {
  if (user === undefined) return {};
  const mode = user.uids.length === 0 ? NamespaceModeEnum.NODE : NamespaceModeEnum.POD;
  return { usernsOptions: { mode, uids: encodeMappings(user.uids), gids: encodeMappings(user.gids) } };
}

/** An id or a digest alone: what the kubelet puts in place of the name once it has pulled the image. */
const imageIdPattern = /^(?:sha(?:256|512):)?[0-9a-f]{64,128}$/;

/**
 * The image of a container: a name that people know, what was asked for, and the digest. The name is that of the pod's manifest where the request
 * has only an id, as the kubelet shows it to its users.
 */
function encodeContainerImage(container: ContainerStatus): MessageInitShape<typeof ImageSpecSchema> {
  const { image, userSpecifiedImage, imageRef, imageAnnotations } = container;
  return { image: imageIdPattern.test(image) && userSpecifiedImage !== '' ? userSpecifiedImage : image, userSpecifiedImage, imageRef, annotations: { ...imageAnnotations } };
}

/** A container as ListContainers shows it. */
export function encodeContainer(container: ContainerStatus): MessageInitShape<typeof ContainerSchema> {
  return {
    id: container.id,
    podSandboxId: container.podSandboxId,
    metadata: { ...container.metadata },
    image: encodeContainerImage(container),
    imageRef: container.imageRef,
    imageId: container.imageId,
    state: containerStates[container.state],
    createdAt: container.createdAtNs,
    labels: { ...container.labels },
    annotations: { ...container.annotations },
  };
}

/** A pod's containers, the newest first: a kubelet that follows events takes the first one of a name for the one that counts. Source: its GetPodStatus. */
export function encodeContainersStatuses(containers: readonly ContainerStatus[]): MessageInitShape<typeof ContainerStatusSchema>[] {
  return containers.toSorted((a, b) => (a.createdAtNs < b.createdAtNs ? 1 : a.createdAtNs > b.createdAtNs ? -1 : 0)).map(encodeContainerStatus);
}

/** A container as ContainerStatus shows it: also times, exit, mounts, log path, resources and user. */
export function encodeContainerStatus(container: ContainerStatus): MessageInitShape<typeof ContainerStatusSchema> {
  const user = container.user;
  return {
    id: container.id,
    metadata: { ...container.metadata },
    state: containerStates[container.state],
    createdAt: container.createdAtNs,
    startedAt: container.startedAtNs,
    finishedAt: container.finishedAtNs,
    exitCode: container.exitCode,
    image: encodeContainerImage(container),
    imageRef: container.imageRef,
    imageId: container.imageId,
    reason: container.reason,
    message: container.message,
    labels: { ...container.labels },
    annotations: { ...container.annotations },
    mounts: container.mounts.map(encodeMount),
    logPath: container.logPath,
    stopSignal: encodeStopSignal(container.stopSignal),
    ...(container.resources === undefined ? {} : { resources: { linux: encodeResources(container.resources) } }),
    ...(user === undefined ? {} : { user: { linux: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: user.groups.map(BigInt) } } }),
  };
}

const stopSignals: ReadonlyMap<string, Signal> = new Map(Object.values(Signal).flatMap((value) => (typeof value === 'number' ? [[Signal[value], value] as const] : [])));

/** `SIGRTMIN+3` as CRI's enum has it; the first value for a name that it lacks. */
function encodeStopSignal(name: string | undefined): Signal {
  return stopSignals.get((name ?? '').replace('+', 'PLUS').replace('-', 'MINUS')) ?? Signal.RUNTIME_DEFAULT;
}

function encodeMount(mount: Mount): MessageInitShape<typeof MountSchema> {
  const { image } = mount;
  return {
    containerPath: mount.containerPath,
    hostPath: mount.hostPath,
    readonly: mount.readonly,
    propagation: propagations[mount.propagation],
    mountOptions: [...(mount.restrictions ?? [])],
    recursiveReadOnly: mount.recursiveReadonly ?? false,
    ...(mount.idMappings === undefined ? {} : { uidMappings: encodeMappings(mount.idMappings.uids), gidMappings: encodeMappings(mount.idMappings.gids) }),
    ...(image === undefined
      ? {}
      : { image: { image: image.image, userSpecifiedImage: image.userSpecifiedImage ?? '', imageRef: image.imageRef ?? '' }, imageSubPath: image.subPath }),
  };
}

function encodeResources(resources: LinuxResources): MessageInitShape<typeof LinuxContainerResourcesSchema> {
  return {
    cpuPeriod: resources.cpuPeriod ?? 0n,
    cpuQuota: resources.cpuQuota ?? 0n,
    cpuShares: resources.cpuShares ?? 0n,
    memoryLimitInBytes: resources.memoryLimitBytes ?? 0n,
    memorySwapLimitInBytes: resources.memorySwapLimitBytes ?? 0n,
    oomScoreAdj: BigInt(resources.oomScoreAdj ?? 0),
    cpusetCpus: resources.cpusetCpus ?? '',
    cpusetMems: resources.cpusetMems ?? '',
    hugepageLimits: (resources.hugepageLimits ?? []).map(({ pageSize, limit }) => ({ pageSize, limit })),
    unified: { ...resources.unified },
  };
}

/**
 * An image as ListImages and ImageStatus show it. `id` is what PullImage answers and what containers have as `image_id`; `spec.image_ref` is what
 * containers made of it have as `image_ref`. `annotations` are those of the request, given back.
 */
export function encodeImage(image: ImageSummary, annotations: Readonly<Record<string, string>> = {}): MessageInitShape<typeof ImageSchema> {
  return {
    id: image.id,
    repoTags: [...image.names],
    repoDigests: [...image.digests],
    size: BigInt(image.sizeBytes),
    ...(image.uid === undefined ? {} : { uid: { value: BigInt(image.uid) } }),
    username: image.username ?? '',
    spec: { image: image.names[0] ?? image.digests[0] ?? image.id, imageRef: image.digests[0] ?? image.id, annotations: { ...annotations } },
    pinned: image.pinned,
  };
}

/** Usage of a file system, for the kubelet's eviction. */
export function encodeFilesystemUsage(usage: ImageFileSystemUsage): MessageInitShape<typeof FilesystemUsageSchema> {
  return {
    timestamp: usage.atNs,
    fsId: { mountpoint: usage.mountpoint },
    usedBytes: { value: BigInt(usage.usedBytes) },
    inodesUsed: { value: BigInt(usage.inodesUsed) },
  };
}

/** The conditions that the kubelet requires, and what this node can do. */
export function encodeEngineStatus(engine: EngineStatus, options: { readonly verbose: boolean }): MessageInitShape<typeof StatusResponseSchema> {
  const runtimeReason = engine.runtimeReady ? {} : { reason: engine.runtimeReason ?? 'RuntimeNotReady', message: engine.runtimeMessage ?? 'the engine is not ready' };
  return {
    status: {
      conditions: [
        { type: 'RuntimeReady', status: engine.runtimeReady, ...runtimeReason },
        { type: 'NetworkReady', status: engine.networkReady, reason: engine.networkReason, message: engine.networkMessage },
      ],
    },
    ...(options.verbose ? { info: encodeInfo(engine.info) } : {}),
    runtimeHandlers: engine.runtimeHandlers.map((handler) => ({
      name: handler.name,
      features: { recursiveReadOnlyMounts: handler.recursiveReadOnlyMounts, userNamespaces: handler.userNamespaces },
    })),
    features: { supplementalGroupsPolicy: true, mountOptions: true },
  };
}

/** Room for the exit code and the framing of the two outputs. */
const execReplyOverheadBytes = 64;

/** Both outputs cut so that the reply fits one gRPC message: stderr keeps what stdout leaves, and at least half. */
export function fitExecOutput(result: ExecSyncResult): ExecSyncResult {
  const room = limits.grpcMessageBytesMax - execReplyOverheadBytes;
  if (result.stdout.length + result.stderr.length <= room) return result;
  const half = room / 2;
  const stderrBytes = Math.min(result.stderr.length, Math.max(half, room - result.stdout.length));
  return { ...result, stdout: result.stdout.subarray(0, room - stderrBytes), stderr: result.stderr.subarray(0, stderrBytes) };
}
