/**
 * What is observed of pods and containers: what their control groups, interfaces and writable layers say. Types only.
 * Bytes, counts and nanoseconds are bigint; a field that is absent is one that this kernel, or this moment, does not tell.
 */
import type { ContainerId, PodSandboxId } from '#core';
import type { ImageFileSystemUsage } from './image-types.ts';
import type { ContainerMetadata, ContainerState, PodMetadata } from './types.ts';

/** One line of a pressure file: the time in which some or all tasks waited. Source: the kernel's Documentation/accounting/psi.rst. */
export interface PressureLine {
  readonly totalNs: bigint;
  /** Percent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

/** Pressure on one resource; absent lines do not exist on this kernel. */
export interface Pressure {
  readonly some?: PressureLine;
  readonly full?: PressureLine;
}

/** Processor time since the group was made. */
export interface CpuUsage {
  readonly usageNs: bigint;
  readonly userNs?: bigint;
  readonly systemNs?: bigint;
  /** Enforcement periods of a quota, those in which it was used up, and the time that was waited then. */
  readonly periods?: bigint;
  readonly throttledPeriods?: bigint;
  readonly throttledNs?: bigint;
  /** Billionths of one processor between the last two looks; absent at the first. */
  readonly nanoCores?: bigint;
  readonly pressure?: Pressure;
}

/** Memory of the group and of everything below it. */
export interface MemoryUsage {
  readonly usageBytes: bigint;
  /** Without what the kernel would drop first: usage less the inactive file pages. Source: the kubelet's and cAdvisor's definition. */
  readonly workingSetBytes: bigint;
  /** Absent: unlimited. */
  readonly limitBytes?: bigint;
  readonly rssBytes?: bigint;
  readonly cacheBytes?: bigint;
  readonly mappedFileBytes?: bigint;
  readonly activeFileBytes?: bigint;
  readonly inactiveFileBytes?: bigint;
  readonly kernelBytes?: bigint;
  /** These three only in a look at details. */
  readonly maxUsageBytes?: bigint;
  /** How often the limit was hit. */
  readonly failures?: bigint;
  readonly oomKills?: bigint;
  readonly pageFaults?: bigint;
  readonly majorPageFaults?: bigint;
  readonly pressure?: Pressure;
}

/** Swap of the group; absent as a whole where the host does not account it. */
export interface SwapUsage {
  readonly usageBytes: bigint;
  /** Of swap alone; absent: unlimited. */
  readonly limitBytes?: bigint;
}

/** What one block device was asked for. */
export interface DeviceIo {
  /** `/dev/vda`, or `MAJOR:MINOR` where it has no name. */
  readonly device: string;
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

/** Input and output of block devices. */
export interface IoUsage {
  readonly devices: readonly DeviceIo[];
  readonly pressure?: Pressure;
}

/** Processes of the group and of everything below it. */
export interface ProcessUsage {
  readonly processes: number;
  /** These only in a look at details. */
  readonly threads?: number;
  /** Absent: unlimited. */
  readonly threadsMax?: bigint;
  readonly fileDescriptors?: number;
  readonly sockets?: number;
  /** Soft limit of open files of the first process. */
  readonly openFilesMax?: bigint;
}

/** One look at a control group. */
export interface GroupUsage {
  /** Unix nanoseconds of the look. */
  readonly atNs: bigint;
  readonly cpu?: CpuUsage;
  readonly memory?: MemoryUsage;
  readonly swap?: SwapUsage;
  readonly io?: IoUsage;
  readonly processes?: ProcessUsage;
}

/** Counters of one network interface, as the pod sees it. */
export interface InterfaceUsage {
  readonly name: string;
  readonly rxBytes: bigint;
  readonly rxPackets: bigint;
  readonly rxErrors: bigint;
  readonly rxDropped: bigint;
  readonly txBytes: bigint;
  readonly txPackets: bigint;
  readonly txErrors: bigint;
  readonly txDropped: bigint;
}

/** The interfaces of a pod but for its loopback; the first is the default one. */
export interface NetworkUsage {
  readonly atNs: bigint;
  readonly interfaces: readonly InterfaceUsage[];
}

/** Both ends of a pod's link: the interface in the pod and its peer on the host. */
export interface PodLink {
  readonly name: string;
  readonly hostInterface: string;
}

/** What a sandbox is asked to look at. */
export interface UsageRequest {
  readonly containerIds: readonly ContainerId[];
  /** The group and the network of the whole pod too; with `link` its counters are read on the host. */
  readonly pod?: { readonly link?: PodLink };
  /** Also peaks, events, threads and open descriptors, which takes a look at every process. */
  readonly details?: boolean;
}

/** What a sandbox saw. Whatever could not be read in time is absent; it never throws for that. */
export interface SandboxUsage {
  readonly pod?: GroupUsage;
  /** None with the host's network, which is not the pod's. */
  readonly network?: NetworkUsage;
  readonly containers: Readonly<Record<string, GroupUsage>>;
}

/** Space of one writable layer, and the file system that it is on. */
export interface LayerUsage extends ImageFileSystemUsage {
  /** Name of its block device, where it has one. */
  readonly device?: string;
  readonly capacityBytes?: bigint;
  readonly inodesTotal?: bigint;
  readonly inodesFree?: bigint;
}

/** A container as it was seen. One that does not run has no `usage`. */
export interface ContainerStats {
  readonly id: ContainerId;
  readonly podSandboxId: PodSandboxId;
  readonly metadata: ContainerMetadata;
  readonly state: ContainerState;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly usage?: GroupUsage;
  /** Absent until it has been measured once. */
  readonly writableLayer?: LayerUsage;
}

/** A pod as it was seen, with its containers. One that is not ready has no `usage`. */
export interface PodSandboxStats {
  readonly id: PodSandboxId;
  readonly metadata: PodMetadata;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly usage?: GroupUsage;
  readonly network?: NetworkUsage;
  readonly containers: readonly ContainerStats[];
}

/** Which containers to look at; as ContainerFilter. */
export interface ContainerStatsFilter {
  readonly id?: string;
  readonly podSandboxId?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Which pods to look at; as PodFilter. */
export interface PodStatsFilter {
  readonly id?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A metric that may appear, and the names of its labels in order. */
export interface MetricDescriptor {
  readonly name: string;
  readonly help: string;
  readonly labelKeys: readonly string[];
}

/** One value of a metric. */
export interface Metric {
  readonly name: string;
  readonly kind: 'counter' | 'gauge';
  /** In the order of the descriptor's keys. */
  readonly labelValues: readonly string[];
  readonly value: bigint;
  /** When a kept value was measured; 0n: now. */
  readonly atNs: bigint;
}

/** Metrics of a pod and of its containers. */
export interface PodSandboxMetrics {
  readonly podSandboxId: PodSandboxId;
  readonly metrics: readonly Metric[];
  readonly containers: readonly { readonly containerId: ContainerId; readonly metrics: readonly Metric[] }[];
}

/** What of the engine observes; every method gives what it can tell now and never waits for storage that hangs. */
export interface StatsEngine {
  /** Throws notFound. */
  containerStats(id: string): Promise<ContainerStats>;
  /** Every container that matches, also those that have ended: of them only the writable layer. */
  listContainerStats(filter?: ContainerStatsFilter): Promise<ContainerStats[]>;
  /** Throws notFound. */
  podSandboxStats(id: string): Promise<PodSandboxStats>;
  /** The pods that are ready. */
  listPodSandboxStats(filter?: PodStatsFilter): Promise<PodSandboxStats[]>;
  /** The same as long as the engine runs. */
  metricDescriptors(): Promise<MetricDescriptor[]>;
  podSandboxMetrics(): Promise<PodSandboxMetrics[]>;
}
