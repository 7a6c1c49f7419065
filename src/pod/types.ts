/**
 * What the engine takes and gives: pod sandboxes, containers, processes. The doors translate to and from these shapes.
 * They follow CRI's messages, with names in camel case, 64-bit integers as bigint and variants on `kind`. No logic here.
 */
import type { ContainerId, PodSandboxId } from '#core';
import type { EngineEvent, RuntimeReadiness } from './event-types.ts';
import type { ImageEngine } from './image-types.ts';
import type { StatsEngine } from './stats-types.ts';
import type { ContainerUpdate, PodSandboxUpdate } from './update.ts';
import type { ApparmorProfile, SelinuxOptions, UserMappings } from './security-types.ts';

export type * from './image-types.ts';
export type * from './stats-types.ts';
export type * from './security-types.ts';
export type * from './event-types.ts';
export type * from './update.ts';

/** Identity of a pod sandbox as its creator names it. Equal metadata with equal configuration is one pod. */
export interface PodMetadata {
  readonly name: string;
  readonly uid: string;
  readonly namespace: string;
  readonly attempt: number;
}

/** Name of a container in its pod; a retry of the same one has a higher attempt. */
export interface ContainerMetadata {
  readonly name: string;
  readonly attempt: number;
}

/** A port of the pod, and the host's port that leads to it. */
export interface PortMapping {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  /** 0: none. */
  readonly hostPort: number;
  readonly hostIp?: string;
}

/** What goes into resolv.conf. */
export interface DnsConfig {
  readonly servers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}

/** `pod`: the pod's own; `container`: one per container (PID only); `node`: the host's; `target`: that of another container (PID only). */
export type NamespaceMode = 'pod' | 'container' | 'node' | 'target';

/** Which namespaces a pod or container uses. */
export interface NamespaceOptions {
  readonly network: 'pod' | 'node';
  readonly pid: NamespaceMode;
  readonly ipc: 'pod' | 'node';
  /** With `pid: 'target'`. */
  readonly targetId?: string;
  /** The pod's user namespace; absent: the host's for a pod, the pod's for a container. */
  readonly user?: UserMappings;
}

/** Which seccomp profile a process gets. */
export interface SeccompProfile {
  readonly kind: 'runtimeDefault' | 'unconfined' | 'localhost';
  /** Absolute path, with `localhost`. */
  readonly path?: string;
}

/** Resources of a container or pod. 0 or absent means "not set", as in CRI. */
export interface LinuxResources {
  readonly cpuPeriod?: bigint;
  readonly cpuQuota?: bigint;
  readonly cpuShares?: bigint;
  readonly memoryLimitBytes?: bigint;
  readonly memorySwapLimitBytes?: bigint;
  readonly oomScoreAdj?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly pidsLimit?: bigint;
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limit: bigint }[];
  readonly unified?: Readonly<Record<string, string>>;
}

/** Security context of a pod, the default of its containers. */
export interface PodSandboxSecurity {
  readonly namespaces: NamespaceOptions;
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly readonlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly privileged: boolean;
  readonly seccomp?: SeccompProfile;
  readonly apparmor?: ApparmorProfile;
  readonly selinux?: SelinuxOptions;
}

/** Everything a creator says of a pod sandbox. */
export interface PodSandboxConfig {
  readonly metadata: PodMetadata;
  /** Empty: the pod's name, or the node's with host network. */
  readonly hostname: string;
  /** Host directory of the pod's container logs; empty: no log files. */
  readonly logDirectory: string;
  readonly dns?: DnsConfig;
  readonly portMappings: readonly PortMapping[];
  readonly hostAliases: readonly { readonly ip: string; readonly hostnames: readonly string[] }[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** cgroupfs path below each hierarchy's root, such as `/kubepods/burstable/pod1`; empty: the engine's default. */
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly security: PodSandboxSecurity;
  /** What the containers may use together; a limit of the pod's own group only without `cgroupParent`. */
  readonly resources?: LinuxResources;
  /** What the sandbox itself may use on top of that. */
  readonly overhead?: LinuxResources;
}

/** `notReady`: stopped, or its sandbox is gone. */
export type PodState = 'ready' | 'notReady';

/** A pod as the doors show it. */
export interface PodSandboxStatus {
  readonly id: PodSandboxId;
  readonly metadata: PodMetadata;
  readonly state: PodState;
  readonly createdAtNs: bigint;
  /** First is the primary; empty for host network and for a stopped pod. */
  readonly ips: readonly string[];
  readonly namespaces: NamespaceOptions;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly runtimeHandler: string;
  readonly portMappings: readonly PortMapping[];
  /** When this was so; told by `podSandboxStatus` alone. */
  readonly observedAtNs?: bigint;
  /** Verbose facts for people: shim pid, cgroup, netns. */
  readonly info: Readonly<Record<string, unknown>>;
}

/** Whether mounts below a volume cross between host and container; see mount_namespaces(7). */
export type MountPropagation = 'private' | 'hostToContainer' | 'bidirectional';

/** An image, or an artifact, whose content is a volume. */
export interface ImageMount {
  /** Any name, digest or id that the image store resolves. */
  readonly image: string;
  /** As the user wrote it, for status. */
  readonly userSpecifiedImage?: string;
  /** A directory or file inside the image; links and `..` stay inside. Empty: the whole image. */
  readonly subPath: string;
  /** In a status: the image that it was when the container was made, by repository digest or id. */
  readonly imageRef?: string;
}

/** What a mount takes away from what lies on it: execution, set-user-id bits, device nodes. */
export type MountRestriction = 'noexec' | 'nosuid' | 'nodev';

/** What is mounted into a container: a path of the host, or the content of an image. */
export interface Mount {
  readonly containerPath: string;
  /** Host path; empty with `image`. */
  readonly hostPath: string;
  /** An image is read-only in any case, and has `nosuid` and `nodev`. */
  readonly readonly: boolean;
  readonly propagation: MountPropagation;
  readonly image?: ImageMount;
  readonly restrictions?: readonly MountRestriction[];
  /** What is mounted below the host path is read-only too; only with `readonly` and private. */
  readonly recursiveReadonly?: boolean;
  /** Owners on the file system are shown mapped; only in a pod with a user namespace. */
  readonly idMappings?: UserMappings;
}

/** A device of the host in a container. */
export interface Device {
  readonly containerPath: string;
  readonly hostPath: string;
  /** Any of r, w, m. */
  readonly permissions: string;
}

/** Changes to the default capability set; names with or without `CAP_`, `ALL` for every one. */
export interface Capabilities {
  readonly add: readonly string[];
  readonly drop: readonly string[];
  readonly addAmbient: readonly string[];
}

/** Security context of a container. */
export interface ContainerSecurity {
  readonly capabilities?: Capabilities;
  readonly privileged: boolean;
  readonly namespaces: NamespaceOptions;
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsUsername?: string;
  readonly readonlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: 'merge' | 'strict';
  readonly noNewPrivileges: boolean;
  /** Absent: the default lists; an empty list: none. */
  readonly maskedPaths?: readonly string[];
  readonly readonlyPaths?: readonly string[];
  readonly seccomp?: SeccompProfile;
  readonly apparmor?: ApparmorProfile;
  /** Absent: the pod's. */
  readonly selinux?: SelinuxOptions;
}

/** Everything a creator says of a container. */
export interface ContainerConfig {
  readonly metadata: ContainerMetadata;
  /** Any name, digest or id that the image store resolves. */
  readonly image: string;
  /** As the user wrote it, for status. */
  readonly userSpecifiedImage?: string;
  /** Told with the image's name, given back unchanged. */
  readonly imageAnnotations?: Readonly<Record<string, string>>;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDir: string;
  readonly env: readonly { readonly key: string; readonly value: string }[];
  readonly mounts: readonly Mount[];
  readonly devices: readonly Device[];
  /** Names such as `vendor.com/gpu=0` of the Container Device Interface; annotations `cdi.k8s.io/…` name further ones. */
  readonly cdiDevices?: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the pod's log directory; empty: no log file. */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  readonly resources?: LinuxResources;
  readonly security: ContainerSecurity;
  readonly stopSignal?: string;
}

/** `unknown` is for clients of other runtimes; this engine always knows. */
export type ContainerState = 'created' | 'running' | 'exited' | 'unknown';

/** A container as the doors show it. Times are Unix nanoseconds. */
export interface ContainerStatus {
  readonly id: ContainerId;
  readonly podSandboxId: PodSandboxId;
  readonly metadata: ContainerMetadata;
  readonly state: ContainerState;
  readonly pid: number;
  readonly createdAtNs: bigint;
  /** 0n: not yet. */
  readonly startedAtNs: bigint;
  readonly finishedAtNs: bigint;
  /** 128 + signal for a killed process. */
  readonly exitCode: number;
  /** `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `Unknown` or empty. */
  readonly reason: string;
  readonly message: string;
  readonly image: string;
  readonly imageId: string;
  readonly imageRef: string;
  readonly userSpecifiedImage: string;
  readonly imageAnnotations?: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly mounts: readonly Mount[];
  /** Absolute host path; empty: none. */
  readonly logPath: string;
  readonly tty: boolean;
  readonly stdin: boolean;
  /** The end of the first attached client's input is that of the container's. */
  readonly stdinOnce?: boolean;
  /** Those of the creation, or of the last update. */
  readonly resources?: LinuxResources;
  /** What a stop sends first, such as `SIGTERM`. */
  readonly stopSignal?: string;
  readonly user?: { readonly uid: number; readonly gid: number; readonly groups: readonly number[] };
  readonly info: Readonly<Record<string, unknown>>;
}

/** Empty fields match everything; labels must all match. Ids match by prefix when they match exactly one. */
export interface PodFilter {
  readonly id?: string;
  readonly state?: PodState;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Like PodFilter, for containers. */
export interface ContainerFilter {
  readonly id?: string;
  readonly podSandboxId?: string;
  readonly state?: ContainerState;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A command to run in a container, with live streams. */
export interface ExecRequest {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

/** What a command printed (at most 16 MiB per stream) and its exit code. */
export interface ExecSyncResult {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly exitCode: number;
}

/** Live streams of a process: an exec or an attached container. Closing an exec's streams kills it. */
export interface ProcessStreams {
  /** Output in the order it came; `stream` is 1 for stdout (and a terminal), 2 for stderr. Ends with the process. */
  readonly output: AsyncIterable<{ readonly stream: 1 | 2; readonly data: Uint8Array }>;
  /** Resolves once the bytes are handed on; rejects when the process has ended. */
  write(data: Uint8Array): Promise<void>;
  closeInput(): Promise<void>;
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** Exit code of the process, after the last output. */
  readonly exited: Promise<number>;
  close(): void;
}

/** Ranges that the node's pods have their addresses of, comma-separated, one per family; empty: no change. */
export interface RuntimeConfigUpdate {
  readonly podCidr: string;
}

/** Conditions and facts of the engine. */
export interface EngineStatus extends RuntimeReadiness {
  readonly version: string;
  readonly networkReady: boolean;
  readonly networkReason: string;
  readonly networkMessage: string;
  /** Handler of pods that name none; `runtimeHandlers` lists it under the empty name too. */
  readonly defaultRuntimeHandler?: string;
  readonly runtimeHandlers: readonly { readonly name: string; readonly recursiveReadOnlyMounts: boolean; readonly userNamespaces: boolean }[];
  /** Verbose facts: state directories, host facts, owner pid. */
  readonly info: Readonly<Record<string, unknown>>;
}

/**
 * The engine: what every door calls. One object in the owner's process; for a client of another owner the same interface over
 * `engine.sock`. Every method rejects with RuntimeError. Ids may be shortened to a unique prefix. An aborted signal makes the
 * caller's promise reject at once; a joined create still finishes and is kept for the retry.
 */
export interface Engine extends ImageEngine, StatsEngine {
  status(): Promise<EngineStatus>;
  /** Takes what only the cluster knows of this node. Throws invalidArgument. */
  updateRuntimeConfig(config: RuntimeConfigUpdate): Promise<void>;
  /** Equal requests in flight are joined; an equal repeat gives the same id; an unequal one is alreadyExists. `foreground`: the pod dies with the engine (lifeline). */
  runPodSandbox(config: PodSandboxConfig, options?: { readonly runtimeHandler?: string; readonly foreground?: boolean }, signal?: AbortSignal): Promise<PodSandboxId>;
  /** Kills what runs, releases the network. No error when stopped already; notFound for an unknown id is left to the door. */
  stopPodSandbox(id: string, signal?: AbortSignal): Promise<void>;
  /** Stops first when needed. An absent pod is no error. */
  removePodSandbox(id: string, signal?: AbortSignal): Promise<void>;
  podSandboxStatus(id: string): Promise<PodSandboxStatus>;
  listPodSandboxes(filter?: PodFilter): Promise<PodSandboxStatus[]>;
  createContainer(podSandboxId: string, config: ContainerConfig, signal?: AbortSignal): Promise<ContainerId>;
  startContainer(id: string, signal?: AbortSignal): Promise<void>;
  /** The stop signal, then SIGKILL after `timeoutMs`. A later call with a shorter time shortens a running one. */
  stopContainer(id: string, options: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<void>;
  /** Kills a running container first. An absent one is no error. */
  removeContainer(id: string, signal?: AbortSignal): Promise<void>;
  containerStatus(id: string): Promise<ContainerStatus>;
  listContainers(filter?: ContainerFilter): Promise<ContainerStatus[]>;
  /** Resolves with the status once the container has ended. */
  waitContainer(id: string, signal?: AbortSignal): Promise<ContainerStatus>;
  signalContainer(id: string, signalName: string): Promise<void>;
  /** `timeoutMs` 0: none. deadlineExceeded when it passed; the process is killed then. */
  execSync(id: string, command: readonly string[], options: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<ExecSyncResult>;
  exec(id: string, request: ExecRequest, signal?: AbortSignal): Promise<ProcessStreams>;
  attach(id: string, options: { readonly stdin: boolean }, signal?: AbortSignal): Promise<ProcessStreams>;
  /** One connection to a TCP port at the pod's loopback. unavailable where nobody listens; no terminal, so `resize` is failedPrecondition. */
  portForward(podSandboxId: string, port: number, signal?: AbortSignal): Promise<ProcessStreams>;
  reopenContainerLog(id: string): Promise<void>;
  /** New limits for a container that is created or running; what is not named stays. On failure everything is as before. */
  updateContainer(id: string, update: ContainerUpdate, signal?: AbortSignal): Promise<void>;
  /** New resources of a ready pod; they become limits only where the pod has no cgroup parent. */
  updatePodSandbox(id: string, update: PodSandboxUpdate, signal?: AbortSignal): Promise<void>;
  /** What is too much for every status: process, namespaces, cgroup, configuration, runtime spec. Holds the environment. */
  containerInfo(id: string): Promise<Readonly<Record<string, unknown>>>;
  podSandboxInfo(id: string): Promise<Readonly<Record<string, unknown>>>;
  /** Events from now on; the iteration ends with the signal. */
  events(signal: AbortSignal): AsyncIterable<EngineEvent>;
  /** The plans a pod or container would run, as readable lines, without running anything. */
  explain(request: ExplainRequest): Promise<string[]>;
}

/** What to explain. */
export interface ExplainRequest {
  readonly pod: PodSandboxConfig;
  readonly containers: readonly ContainerConfig[];
  readonly showSecrets: boolean;
}
