/**
 * What the engine needs from below, as interfaces: sandbox drivers, images, the network. Wired by constructor arguments in
 * `bin/`; each has a real implementation in its own folder. Types only.
 */
import type { ContainerId, PodSandboxId } from '#core';
import type { RuntimeSpec, SpecResources, SpecSeccomp } from '#oci';
import type { CdiFile } from './cdi-types.ts';
import type { RootfsLayers } from './image-port.ts';
import type { SandboxUsage, UsageRequest } from './stats-types.ts';
import type { DnsConfig, PodSandboxConfig, PortMapping } from './types.ts';

export type * from './image-port.ts';

/** A plan as `plan` makes it; the engine only hands it on. */
export type OpaquePlan = object;

/** What a pod has got from the network. */
export interface NetworkAttachment {
  /** Without prefix lengths, the primary first. */
  readonly ips: readonly string[];
  /** Record of the network, handed back unchanged. */
  readonly details: unknown;
}

/** Whether pods can be attached, and facts for verbose status. */
export interface NetworkConditions {
  readonly ready: boolean;
  /** One word in camel case and a sentence; both empty when ready. */
  readonly reason: string;
  readonly message: string;
  readonly info?: Readonly<Record<string, unknown>>;
}

/** The network of the pods. One record per attached pod, kept by the network itself. */
export interface NetworkPort {
  /**
   * Records the attachment, then runs its plan through `execute`, which may be told what the pod has got once that plan has run. `deposit`, where given, gets the undo plan before anything is made: what
   * the pod's shim runs by itself when its starter is killed. Throws resourceExhausted, alreadyExists.
   */
  attach(
    request: { readonly podId: PodSandboxId; readonly portMappings: readonly PortMapping[]; readonly config: PodSandboxConfig },
    execute: (plan: OpaquePlan, attachment?: NetworkAttachment) => Promise<void>,
    deposit?: (undo: OpaquePlan) => Promise<void>,
  ): Promise<NetworkAttachment>;
  /**
   * The pod's namespace is gone or going. No error when nothing is attached. `execute` ends the sandbox and runs the plan as its last act; without it the
   * host does. What could not be undone stays recorded, and the next call tries again.
   */
  detach(podId: PodSandboxId, execute?: (plan: OpaquePlan) => Promise<void>): Promise<void>;
  /** At the start of an owner: undoes what no live pod has; that may go on in the background. */
  reconcile(livePodIds: ReadonlySet<string>): Promise<void>;
  explain(request: { readonly podId: PodSandboxId; readonly portMappings: readonly PortMapping[] }): readonly string[];
  status(): NetworkConditions | Promise<NetworkConditions>;
  /** The ranges that the node's pods have their addresses of, comma-separated; empty: no change. Throws invalidArgument. */
  updateRuntimeConfig(config: { readonly podCidr: string }): Promise<void>;
  /** Removes what only existed for pods, where none is left. */
  close(): Promise<void>;
}

/** What a driver needs to make a pod's sandbox. Paths are host paths of the engine. */
export interface SandboxRequest {
  readonly podId: PodSandboxId;
  readonly config: PodSandboxConfig;
  readonly hostname: string;
  /** The sandbox ends with this engine. */
  readonly foreground: boolean;
  /** Limits of the whole pod; absent: none of its own. */
  readonly resources?: SpecResources;
  /** SELinux label of the pod's shared memory; absent without SELinux, and where the sandbox exists already. */
  readonly mountLabel?: string;
}

/** What a driver must be told to find a sandbox again, or what is left of it. Stored with the pod's record before it is made. */
export interface SandboxRecord {
  readonly podId: PodSandboxId;
  readonly cgroupPath: string;
  readonly secret: string;
  readonly podDir: string;
  readonly hostNetwork: boolean;
  readonly foreground: boolean;
  /** 0 until known. */
  readonly shimPid: number;
}

/** Files of a pod that containers mount: known only once the pod has its address. */
export interface PodFiles {
  readonly hosts: string;
  readonly resolvConf: string;
  readonly hostname: string;
}

/** What becomes of the volumes that an image declares; see docs/decisions/0010. */
export type ImageVolumePolicy = 'anonymous' | 'tmpfs' | 'ignore';

/**
 * What stands behind a mount of the runtime spec that no host path does, found by the mount's `source`. `layers`: an image, read-only.
 * `directory`, `memory`: the container's own, made with it, filled with what its image holds there, gone with it. `origin` begins errors.
 */
export type VolumeSource =
  | { readonly kind: 'layers'; readonly layers: RootfsLayers; readonly subPath: string; readonly origin: string }
  | { readonly kind: 'directory' | 'memory'; readonly bytesMax: number; readonly origin: string };

/** Everything that a sandbox needs to create a container. */
export interface ContainerRequest {
  readonly containerId: ContainerId;
  readonly runtimeSpec: RuntimeSpec;
  readonly layers: RootfsLayers;
  /** By the `source` of the spec's mounts. */
  readonly volumes: Readonly<Record<string, VolumeSource>>;
  /** `user[:group]` to be resolved inside the root, and the groups that the request adds. */
  readonly identity: { readonly user: string; readonly group: string; readonly supplementalGroups: readonly number[]; readonly policy: 'merge' | 'strict' };
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly terminal: boolean;
  readonly log?: { readonly directory: string; readonly path: string };
  /** Share the pod's PID namespace; the spec then lists `pid` without a path. */
  readonly sharesPodPid: boolean;
}

/** Who a process runs as, in the container's numbers. */
export interface Identity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** A further process in a running container. */
export interface ExecProcess {
  readonly command: readonly string[];
  readonly terminal: boolean;
  readonly columns: number;
  readonly rows: number;
  readonly stdin: boolean;
}

/** The end of a process: exit code as shells show it (128 and the signal). */
export interface ProcessEnd {
  readonly processId: string;
  readonly exitCode: number;
  readonly oomKilled: boolean;
  readonly endedAtNs: bigint;
}

/** A process as its shim knows it now; 0n for times that have not come. */
export interface ProcessSnapshot {
  readonly processId: string;
  readonly pid: number;
  readonly state: 'created' | 'running' | 'ended';
  readonly exitCode: number;
  readonly oomKilled: boolean;
  readonly startedAtNs: bigint;
  readonly endedAtNs: bigint;
}

/** A byte stream pair as the shim client offers it. */
export interface SandboxStreams {
  readonly output: AsyncIterable<{ readonly stream: 1 | 2; readonly data: Uint8Array }>;
  write(data: Uint8Array): Promise<void>;
  closeInput(): Promise<void>;
  readonly exited: Promise<number>;
  close(): void;
}

/** One live sandbox. Methods reject with RuntimeError. */
export interface Sandbox {
  readonly record: SandboxRecord;
  /** Runs a plan of the network in the sandbox's context. */
  execute(plan: OpaquePlan): Promise<void>;
  /** Runs the network's plan, if one is given, and writes the pod's files and sysctls, all in one message. */
  commit(files: PodFiles, sysctls: Readonly<Record<string, string>>, network?: OpaquePlan): Promise<void>;
  /** With foreground: adds the network's part to what the shim runs by itself when this engine dies. */
  deposit(networkUndo: OpaquePlan): Promise<void>;
  /** Runs up to the start barrier. */
  createContainer(request: ContainerRequest): Promise<{ readonly pid: number; readonly identity: Identity }>;
  /** Gives the pid, which may differ from that at creation. */
  startContainer(id: ContainerId): Promise<{ readonly pid: number }>;
  /** No error when the process has ended. */
  signal(processId: string, signalNumber: number): Promise<void>;
  /** Kills the process and everything in its cgroup. */
  killAll(id: ContainerId): Promise<void>;
  execSync(
    id: ContainerId,
    command: readonly string[],
    options: { readonly timeoutMs: number },
  ): Promise<{ readonly exitCode: number; readonly timedOut: boolean; readonly stdout: Uint8Array; readonly stderr: Uint8Array }>;
  exec(id: ContainerId, process: ExecProcess): Promise<{ readonly processId: string; readonly streams: SandboxStreams }>;
  attach(id: ContainerId, options: { readonly stdin: boolean }): Promise<SandboxStreams>;
  /** Connects to the port at the pod's own loopback. Rejects with unavailable where nobody listens. */
  connectPort(port: number): Promise<SandboxStreams>;
  resize(processId: string, size: { readonly columns: number; readonly rows: number }): Promise<void>;
  reopenLog(id: ContainerId, log: { readonly directory: string; readonly path: string }): Promise<void>;
  /** Brings the container to these limits, or leaves it as it is and rejects. `oomScoreAdj` is that of its first process. */
  update(id: ContainerId, resources: SpecResources, options: { readonly oomScoreAdj?: number }): Promise<void>;
  /** The same for the pod's own group. */
  updatePod(resources: SpecResources): Promise<void>;
  /** What the sandbox knows of a container, for people; empty where it knows none. */
  describe(id: ContainerId): Readonly<Record<string, unknown>>;
  /** Forgets an ended container and removes its cgroup and writable layer. */
  removeContainer(id: ContainerId): Promise<void>;
  processes(): Promise<ProcessSnapshot[]>;
  /** What groups and interfaces say now; parts that cannot be read in time are absent. */
  usage(request: UsageRequest): Promise<SandboxUsage>;
  /** One listener; called once per ended process, after its last output was logged. */
  onProcessEnd(listener: (end: ProcessEnd) => void): Promise<void>;
  /** Kills everything, releases namespaces and cgroups, runs the network's plan, if one is given, and ends the shim. */
  shutdown(network?: OpaquePlan): Promise<void>;
  /** Leaves the sandbox running and drops the connection. */
  detach(): void;
  /** Resolves when the shim is gone, for whatever reason. */
  readonly ended: Promise<void>;
}

/** A sandbox class: how pods of one runtime handler come to be. */
export interface SandboxDriver {
  readonly name: string;
  /** The record to store before `prepare` is called. */
  plan(request: SandboxRequest): SandboxRecord;
  prepare(record: SandboxRecord, request: SandboxRequest): Promise<Sandbox>;
  /** undefined where the shim is gone. */
  reattach(record: SandboxRecord, request: SandboxRequest): Promise<Sandbox | undefined>;
  /**
   * Removes everything that a sandbox without a shim left: processes, cgroups, directories. Absence is success. Without ids its containers keep what they
   * wrote: each goes by `cleanUpContainer`, which may run meanwhile.
   */
  cleanUp(record: SandboxRecord, containerIds?: readonly ContainerId[]): Promise<void>;
  /** Removes what one container of a gone sandbox left. */
  cleanUpContainer(record: SandboxRecord, containerId: ContainerId): Promise<void>;
  /** The plan of a sandbox before its network, in words. */
  explainSandbox(request: SandboxRequest, options: { readonly showSecrets: boolean }): readonly string[];
  explainContainer(request: SandboxRequest, container: ContainerRequest, options: { readonly showSecrets: boolean }): readonly string[];
  /** What its pods may ask for. Found when it is first asked for; few commands ask. */
  features(): Promise<{ readonly recursiveReadOnlyMounts: boolean; readonly userNamespaces: boolean }>;
}

/** Facts and defaults for building a runtime spec, from below. */
export interface SpecDefaults {
  readonly capabilities: readonly string[];
  /** Everything this engine's own process may grant. */
  readonly allCapabilities: readonly string[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  /** The default seccomp profile for a process with these capabilities. */
  readonly seccomp: (capabilities: readonly string[]) => SpecSeccomp;
  /** Reads and decodes a localhost profile. */
  readonly readSeccompProfile: (path: string) => Promise<SpecSeccomp>;
  /** Absent where the kernel has no AppArmor. `defaultProfile`: name of the profile for containers that name none; undefined where it cannot be loaded. */
  readonly apparmor?: { readonly defaultProfile: () => Promise<string | undefined> };
  /** Absent where SELinux is not enabled. Labels of a container's processes and files, of which the level is a pod's own; the type of privileged processes. */
  readonly selinux?: { readonly process: string; readonly mount: string; readonly privilegedType: string };
  readonly imageVolumes: ImageVolumePolicy;
  /** The device node at a host path, or every one below it when it is a directory. Throws notFound, invalidArgument. */
  readonly readDevices: (path: string) => Promise<readonly HostDevice[]>;
  /** The files of every directory of CDI specifications, as they are now. Never rejects: what cannot be read is among the files. */
  readonly readCdiSpecs: () => Promise<readonly CdiFile[]>;
  readonly nodeHostname: string;
  readonly readHostDns: () => Promise<DnsConfig>;
  readonly readHostHosts: () => Promise<string>;
}

/** A device node of the host; `mode` holds the permission bits. */
export interface HostDevice {
  readonly path: string;
  readonly type: 'c' | 'b' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}
