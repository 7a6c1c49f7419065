/** Records as the statuses that doors show. Pure. */
import type { ContainerRecord, PodRecord } from './store.ts';
import type { ContainerFilter, ContainerStatus, EventSnapshot, Mount, PodFilter, PodSandboxStatus } from './types.ts';

/** A pod's status. While it is being created it has none; callers leave those out. */
export function describePod(pod: PodRecord): PodSandboxStatus {
  return {
    id: pod.id,
    metadata: pod.config.metadata,
    state: pod.state === 'ready' ? 'ready' : 'notReady',
    createdAtNs: pod.createdAtNs,
    ips: pod.state === 'ready' ? (pod.attachment?.ips ?? []) : [],
    namespaces: pod.config.security.namespaces,
    labels: pod.config.labels,
    annotations: pod.config.annotations,
    runtimeHandler: pod.runtimeHandler,
    portMappings: pod.config.portMappings,
    info: {
      hostname: pod.hostname,
      shimPid: pod.sandbox.shimPid,
      cgroupPath: pod.sandbox.cgroupPath,
      foreground: pod.foreground,
      ...(pod.networkMs === undefined ? {} : { networkMs: pod.networkMs }),
    },
  };
}

/** Absolute path of a container's log file, or empty. */
export function logPathOf(pod: PodRecord, container: ContainerRecord): string {
  return pod.config.logDirectory === '' || container.config.logPath === '' ? '' : `${pod.config.logDirectory.replace(/\/+$/, '')}/${container.config.logPath}`;
}

function describeMount(mount: Mount, imageRef: string | undefined): Mount {
  return mount.image === undefined || imageRef === undefined ? mount : { ...mount, image: { ...mount.image, imageRef } };
}

/** A container's status; without its pod the log path is unknown. */
export function describeContainer(container: ContainerRecord, pod: PodRecord | undefined): ContainerStatus {
  const { config } = container;
  const resources = container.updated?.resources ?? config.resources;
  return {
    id: container.id,
    podSandboxId: container.podId,
    metadata: config.metadata,
    state: container.state === 'creating' ? 'created' : container.state,
    pid: container.state === 'exited' ? 0 : container.pid,
    createdAtNs: container.createdAtNs,
    startedAtNs: container.startedAtNs,
    finishedAtNs: container.finishedAtNs,
    exitCode: container.exitCode,
    reason: container.reason,
    message: container.message,
    image: config.image,
    imageId: container.imageId,
    imageRef: container.imageRef,
    userSpecifiedImage: config.userSpecifiedImage ?? config.image,
    ...(config.imageAnnotations === undefined ? {} : { imageAnnotations: config.imageAnnotations }),
    labels: config.labels,
    annotations: container.updated?.annotations ?? config.annotations,
    mounts: config.mounts.map((mount, index) => describeMount(mount, container.mountedImages?.find((mounted) => mounted.mount === index)?.imageRef)),
    logPath: pod === undefined ? '' : logPathOf(pod, container),
    tty: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    ...(resources === undefined ? {} : { resources }),
    stopSignal: container.stopSignal,
    ...(container.identity === undefined ? {} : { user: container.identity }),
    info: { pid: container.pid, sandboxId: container.podId },
  };
}

/** A pod with those of its containers that have been made. */
export function snapshotOf(pod: PodRecord, containers: readonly ContainerRecord[]): EventSnapshot {
  return { pod: describePod(pod), containers: containers.filter(({ state }) => state !== 'creating').map((container) => describeContainer(container, pod)) };
}

function matchesLabels(labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>> | undefined): boolean {
  return Object.entries(wanted ?? {}).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}

/** True where the pod fits every part of the filter. */
export function matchesPod(pod: PodSandboxStatus, filter: PodFilter): boolean {
  return (
    (filter.id === undefined || filter.id === '' || pod.id.startsWith(filter.id)) &&
    (filter.state === undefined || pod.state === filter.state) &&
    matchesLabels(pod.labels, filter.labels)
  );
}

/** True where the container fits every part of the filter. */
export function matchesContainer(container: ContainerStatus, filter: ContainerFilter): boolean {
  return (
    (filter.id === undefined || filter.id === '' || container.id.startsWith(filter.id)) &&
    (filter.podSandboxId === undefined || filter.podSandboxId === '' || container.podSandboxId.startsWith(filter.podSandboxId)) &&
    (filter.state === undefined || container.state === filter.state) &&
    matchesLabels(container.labels, filter.labels)
  );
}
