/**
 * Metrics of pods and containers under the names, labels and units that cAdvisor gives them and kubelets pass on. In: stats, statuses. Out: metrics.
 * Pure. Source: cAdvisor's docs/storage/prometheus.md, and CRI's Metric: integers, seconds as whole seconds, no time for what was just read.
 */
import type { ContainerStats, GroupUsage, LayerUsage, Metric, MetricDescriptor, PodSandboxMetrics, PodSandboxStats, Pressure } from './stats-types.ts';
import type { ContainerStatus } from './types.ts';

/** `id` is the control group, `name` the container's or the pod's id; a pod's own metrics have no container and no image. */
const baseLabels = ['id', 'name', 'image', 'container', 'pod', 'namespace'] as const;
const nanosecondsPerSecond = 1_000_000_000n;

/** A metric with the help text and the labels beyond the common ones. */
interface Family {
  readonly kind: Metric['kind'];
  readonly help: string;
  readonly labels?: readonly string[];
}

const counter = (help: string, labels: readonly string[] = []): Family => ({ kind: 'counter', help, labels });
const gauge = (help: string, labels: readonly string[] = []): Family => ({ kind: 'gauge', help, labels });

/** Everything that may appear. */
const families = {
  container_cpu_usage_seconds_total: counter('Cumulative processor time in seconds.'),
  container_cpu_user_seconds_total: counter('Cumulative processor time in user mode in seconds.'),
  container_cpu_system_seconds_total: counter('Cumulative processor time in the kernel in seconds.'),
  container_cpu_cfs_periods_total: counter('Number of enforcement periods of the quota that have passed.'),
  container_cpu_cfs_throttled_periods_total: counter('Number of periods in which the quota was used up.'),
  container_cpu_cfs_throttled_seconds_total: counter('Time for which the group had to wait for its quota, in seconds.'),
  container_pressure_cpu_waiting_seconds_total: counter('Time in which some tasks waited for a processor, in seconds.'),
  container_pressure_cpu_stalled_seconds_total: counter('Time in which all tasks waited for a processor, in seconds.'),
  container_memory_usage_bytes: gauge('Memory in use in bytes, whenever it was accessed.'),
  container_memory_working_set_bytes: gauge('Memory in use in bytes, less inactive file pages.'),
  container_memory_rss: gauge('Anonymous memory in bytes.'),
  container_memory_cache: gauge('Page cache in bytes.'),
  container_memory_mapped_file: gauge('Memory mapped files in bytes.'),
  container_memory_total_active_file_bytes: gauge('Active file pages in bytes.'),
  container_memory_total_inactive_file_bytes: gauge('Inactive file pages in bytes.'),
  container_memory_kernel_usage: gauge('Memory of the kernel in bytes.'),
  container_memory_max_usage_bytes: gauge('The most memory that has been in use, in bytes.'),
  container_memory_swap: gauge('Swap in use in bytes.'),
  container_memory_failcnt: counter('How often memory usage has hit its limit.'),
  container_memory_failures_total: counter('Cumulative count of page faults.', ['failure_type', 'scope']),
  container_oom_events_total: counter('Number of processes that were killed for memory.'),
  container_pressure_memory_waiting_seconds_total: counter('Time in which some tasks waited for memory, in seconds.'),
  container_pressure_memory_stalled_seconds_total: counter('Time in which all tasks waited for memory, in seconds.'),
  container_fs_reads_bytes_total: counter('Cumulative bytes read.', ['device']),
  container_fs_writes_bytes_total: counter('Cumulative bytes written.', ['device']),
  container_fs_reads_total: counter('Cumulative number of reads.', ['device']),
  container_fs_writes_total: counter('Cumulative number of writes.', ['device']),
  container_blkio_device_usage_total: counter('Cumulative bytes by device and operation.', ['device', 'major', 'minor', 'operation']),
  container_pressure_io_waiting_seconds_total: counter('Time in which some tasks waited for input or output, in seconds.'),
  container_pressure_io_stalled_seconds_total: counter('Time in which all tasks waited for input or output, in seconds.'),
  container_fs_usage_bytes: gauge('Bytes of the writable layer.', ['device']),
  container_fs_limit_bytes: gauge('Size of the file system of the writable layer in bytes.', ['device']),
  container_fs_inodes_total: gauge('Inodes of the file system of the writable layer.', ['device']),
  container_fs_inodes_free: gauge('Free inodes of the file system of the writable layer.', ['device']),
  container_processes: gauge('Number of processes.'),
  container_threads: gauge('Number of threads.'),
  container_threads_max: gauge('Most threads that are allowed; 0: no limit.'),
  container_file_descriptors: gauge('Number of open file descriptors.'),
  container_sockets: gauge('Number of open sockets.'),
  container_ulimits_soft: gauge('Soft limits of the first process.', ['ulimit']),
  container_last_seen: gauge('When the container was last seen, in seconds since 1970.'),
  container_start_time_seconds: gauge('When the container was started, in seconds since 1970.'),
  container_spec_cpu_period: gauge('Period of the processor quota in microseconds.'),
  container_spec_cpu_quota: gauge('Processor quota in microseconds in each period.'),
  container_spec_cpu_shares: gauge('Processor shares.'),
  container_spec_memory_limit_bytes: gauge('Memory limit in bytes.'),
  container_spec_memory_swap_limit_bytes: gauge('Limit of memory and swap together in bytes.'),
  container_network_receive_bytes_total: counter('Cumulative bytes received.', ['interface']),
  container_network_receive_packets_total: counter('Cumulative packets received.', ['interface']),
  container_network_receive_packets_dropped_total: counter('Cumulative packets dropped while receiving.', ['interface']),
  container_network_receive_errors_total: counter('Cumulative errors while receiving.', ['interface']),
  container_network_transmit_bytes_total: counter('Cumulative bytes transmitted.', ['interface']),
  container_network_transmit_packets_total: counter('Cumulative packets transmitted.', ['interface']),
  container_network_transmit_packets_dropped_total: counter('Cumulative packets dropped while transmitting.', ['interface']),
  container_network_transmit_errors_total: counter('Cumulative errors while transmitting.', ['interface']),
} as const satisfies Readonly<Record<string, Family>>;

type FamilyName = keyof typeof families;

/** Every metric that may appear, with its labels in order. */
export const metricDescriptors: readonly MetricDescriptor[] = Object.entries(families).map(([name, { help, labels = [] }]) => ({
  name,
  help,
  labelKeys: [...baseLabels, ...labels],
}));

/** Collects the metrics of one pod or container. */
class MetricList {
  readonly metrics: Metric[] = [];
  readonly #labels: readonly string[];

  constructor(labels: Readonly<Record<(typeof baseLabels)[number], string>>) {
    this.#labels = baseLabels.map((key) => labels[key]);
  }

  /** Nothing for an absent value. */
  add(name: FamilyName, value: bigint | number | undefined, labels: readonly string[] = [], atNs = 0n): void {
    if (value !== undefined) this.metrics.push({ name, kind: families[name].kind, labelValues: [...this.#labels, ...labels], value: BigInt(value), atNs });
  }

  seconds(name: FamilyName, ns: bigint | undefined): void {
    this.add(name, ns === undefined ? undefined : ns / nanosecondsPerSecond);
  }

  pressure(resource: 'cpu' | 'memory' | 'io', pressure: Pressure | undefined): void {
    this.seconds(`container_pressure_${resource}_waiting_seconds_total`, pressure?.some?.totalNs);
    this.seconds(`container_pressure_${resource}_stalled_seconds_total`, pressure?.full?.totalNs);
  }
}

function addGroup(list: MetricList, { cpu, memory, swap, io }: GroupUsage): void {
  list.seconds('container_cpu_usage_seconds_total', cpu?.usageNs);
  list.seconds('container_cpu_user_seconds_total', cpu?.userNs);
  list.seconds('container_cpu_system_seconds_total', cpu?.systemNs);
  list.add('container_cpu_cfs_periods_total', cpu?.periods);
  list.add('container_cpu_cfs_throttled_periods_total', cpu?.throttledPeriods);
  list.seconds('container_cpu_cfs_throttled_seconds_total', cpu?.throttledNs);
  list.pressure('cpu', cpu?.pressure);
  list.add('container_memory_usage_bytes', memory?.usageBytes);
  list.add('container_memory_working_set_bytes', memory?.workingSetBytes);
  list.add('container_memory_rss', memory?.rssBytes);
  list.add('container_memory_cache', memory?.cacheBytes);
  list.add('container_memory_mapped_file', memory?.mappedFileBytes);
  list.add('container_memory_total_active_file_bytes', memory?.activeFileBytes);
  list.add('container_memory_total_inactive_file_bytes', memory?.inactiveFileBytes);
  list.add('container_memory_kernel_usage', memory?.kernelBytes);
  list.add('container_memory_max_usage_bytes', memory?.maxUsageBytes);
  list.add('container_memory_swap', swap?.usageBytes);
  list.add('container_memory_failcnt', memory?.failures);
  // The groups' counters are hierarchical: a container's own and those of groups it makes itself are one.
  list.add('container_memory_failures_total', memory?.pageFaults, ['pgfault', 'hierarchy']);
  list.add('container_memory_failures_total', memory?.majorPageFaults, ['pgmajfault', 'hierarchy']);
  list.add('container_oom_events_total', memory?.oomKills);
  list.pressure('memory', memory?.pressure);
  for (const { device, major, minor, readBytes, writeBytes, reads, writes } of io?.devices ?? []) {
    list.add('container_fs_reads_bytes_total', readBytes, [device]);
    list.add('container_fs_writes_bytes_total', writeBytes, [device]);
    list.add('container_fs_reads_total', reads, [device]);
    list.add('container_fs_writes_total', writes, [device]);
    list.add('container_blkio_device_usage_total', readBytes, [device, String(major), String(minor), 'Read']);
    list.add('container_blkio_device_usage_total', writeBytes, [device, String(major), String(minor), 'Write']);
  }
  list.pressure('io', io?.pressure);
}

function addProcesses(list: MetricList, { processes }: GroupUsage): void {
  if (processes === undefined) return;
  list.add('container_processes', processes.processes);
  list.add('container_threads', processes.threads);
  list.add('container_threads_max', processes.threadsMax ?? 0n);
  list.add('container_file_descriptors', processes.fileDescriptors);
  list.add('container_sockets', processes.sockets);
  list.add('container_ulimits_soft', processes.openFilesMax, ['max_open_files']);
}

function addLayer(list: MetricList, layer: LayerUsage): void {
  const device = [layer.device ?? layer.mountpoint];
  list.add('container_fs_usage_bytes', layer.usedBytes, device, layer.atNs);
  list.add('container_fs_limit_bytes', layer.capacityBytes, device, layer.atNs);
  list.add('container_fs_inodes_total', layer.inodesTotal, device, layer.atNs);
  list.add('container_fs_inodes_free', layer.inodesFree, device, layer.atNs);
}

function addSpec(list: MetricList, { startedAtNs, resources = {} }: ContainerStatus, nowNs: bigint): void {
  list.seconds('container_last_seen', nowNs);
  list.seconds('container_start_time_seconds', startedAtNs);
  list.add('container_spec_cpu_period', resources.cpuPeriod);
  list.add('container_spec_cpu_quota', resources.cpuQuota === undefined || resources.cpuQuota < 0n ? undefined : resources.cpuQuota);
  list.add('container_spec_cpu_shares', resources.cpuShares);
  list.add('container_spec_memory_limit_bytes', resources.memoryLimitBytes);
  list.add('container_spec_memory_swap_limit_bytes', resources.memorySwapLimitBytes);
}

/** What the metrics of a pod are made of. */
export interface MetricsInput {
  readonly stats: PodSandboxStats;
  readonly cgroupPath: string;
  /** Of the pod; those without stats are passed over. */
  readonly containers: readonly ContainerStatus[];
  readonly nowNs: bigint;
}

/** The pod's metrics, and those of its containers that run. */
export function describeMetrics({ stats, cgroupPath, containers, nowNs }: MetricsInput): PodSandboxMetrics {
  const common = { pod: stats.metadata.name, namespace: stats.metadata.namespace };
  const own = new MetricList({ ...common, id: cgroupPath, name: stats.id, image: '', container: '' });
  if (stats.usage !== undefined) addGroup(own, stats.usage);
  for (const link of stats.network?.interfaces ?? []) {
    own.add('container_network_receive_bytes_total', link.rxBytes, [link.name]);
    own.add('container_network_receive_packets_total', link.rxPackets, [link.name]);
    own.add('container_network_receive_packets_dropped_total', link.rxDropped, [link.name]);
    own.add('container_network_receive_errors_total', link.rxErrors, [link.name]);
    own.add('container_network_transmit_bytes_total', link.txBytes, [link.name]);
    own.add('container_network_transmit_packets_total', link.txPackets, [link.name]);
    own.add('container_network_transmit_packets_dropped_total', link.txDropped, [link.name]);
    own.add('container_network_transmit_errors_total', link.txErrors, [link.name]);
  }
  const describeOne = (container: ContainerStats): readonly Metric[] | undefined => {
    const status = containers.find(({ id }) => id === container.id);
    if (status === undefined || container.usage === undefined || container.state !== 'running') return undefined;
    const image = status.userSpecifiedImage === '' ? status.image : status.userSpecifiedImage;
    const list = new MetricList({ ...common, id: `${cgroupPath}/${container.id}`, name: container.id, image, container: container.metadata.name });
    addGroup(list, container.usage);
    addProcesses(list, container.usage);
    if (container.writableLayer !== undefined) addLayer(list, container.writableLayer);
    addSpec(list, status, nowNs);
    return list.metrics;
  };
  return {
    podSandboxId: stats.id,
    metrics: own.metrics,
    containers: stats.containers.flatMap((container) => {
      const metrics = describeOne(container);
      return metrics === undefined ? [] : [{ containerId: container.id, metrics }];
    }),
  };
}
