/**
 * Looks at control groups and interfaces. In: directories of the kernel's cgroup file systems, pids. Out: numbers. Only files of the kernel are
 * read, each up to a bound; nothing is written. What cannot be read is absent, and so is what does not answer in time: see kernel-files.io.ts.
 */
import { opendirSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { type Clock, limits } from '#core';
import { type LinkCounters, countLines, decodeBlkio, decodeCounters, decodeIoStat, decodeLinks, decodeNumber, decodePressure, microseconds, onlyKnown } from './cgroup-stats.ts';
import { decodeLimits, rlimitInfinity } from './host-facts.ts';
import { KernelFiles } from './kernel-files.io.ts';

/** Directories of one group. A v1 controller that is absent does not hold the group, or has no hierarchy on this host. */
export interface StatsGroups {
  /** In the cgroup2 tree, alone or beside v1 hierarchies. */
  readonly unified?: string;
  readonly v1: Readonly<Partial<Record<'cpu' | 'cpuacct' | 'memory' | 'blkio' | 'pids' | 'devices', string>>>;
}

/** How closely to look: each file takes its time, and a kubelet looks at every group every few seconds. */
export interface GroupReadOptions {
  /** Peaks, events and threads, and the descriptors of every process. */
  readonly details?: boolean;
  /** False for a group that is made of others, whose processes are counted there. */
  readonly processes?: boolean;
}

/** One look at a group; every part may be absent. */
export type GroupReading = { readonly atNs: bigint } & Partial<{
  readonly cpu: NonNullable<Awaited<ReturnType<typeof readCpu>>>;
  readonly memory: NonNullable<Awaited<ReturnType<typeof readMemory>>>['memory'];
  readonly swap: NonNullable<NonNullable<Awaited<ReturnType<typeof readMemory>>>['swap']>;
  readonly io: NonNullable<Awaited<ReturnType<typeof readIo>>>;
  readonly processes: NonNullable<Awaited<ReturnType<typeof readProcesses>>>;
}>;

/** Numbers that the v1 memory controller means as "none": the largest that its counter holds, a multiple of the page size. */
const unlimitedBytes = 1n << 62n;
const openFilesResource = 7;

/** Texts of files in one directory, by name; without a directory none. */
async function readAll<Name extends string>(files: KernelFiles, directory: string | undefined, names: readonly Name[]): Promise<Readonly<Record<Name, string | undefined>>> {
  const texts = await Promise.all(names.map(async (name) => [name, directory === undefined ? undefined : await files.read(`${directory}/${name}`)] as const));
  // SAFETY: one entry for each of the names.
  return Object.fromEntries(texts) as Record<Name, string | undefined>;
}

async function readCpu(files: KernelFiles, { unified, v1 }: StatsGroups) {
  const [group, quota, acct] = await Promise.all([
    readAll(files, unified, ['cpu.stat', 'cpu.pressure']),
    readAll(files, v1.cpu, ['cpu.stat']),
    readAll(files, unified === undefined ? v1.cpuacct : undefined, ['cpuacct.usage', 'cpuacct.usage_user', 'cpuacct.usage_sys']),
  ]);
  const counters = decodeCounters(group['cpu.stat']);
  const usage = microseconds(counters.get('usage_usec')) ?? decodeNumber(acct['cpuacct.usage']);
  if (usage === undefined) return undefined;
  const enforced = v1.cpu === undefined ? counters : decodeCounters(quota['cpu.stat']);
  return onlyKnown({
    usageNs: usage,
    userNs: microseconds(counters.get('user_usec')) ?? decodeNumber(acct['cpuacct.usage_user']),
    systemNs: microseconds(counters.get('system_usec')) ?? decodeNumber(acct['cpuacct.usage_sys']),
    periods: enforced.get('nr_periods'),
    throttledPeriods: enforced.get('nr_throttled'),
    // v2 counts the waiting in microseconds, v1 in nanoseconds.
    throttledNs: microseconds(enforced.get('throttled_usec')) ?? enforced.get('throttled_time'),
    pressure: decodePressure(group['cpu.pressure']),
  });
}

async function readMemory(files: KernelFiles, { unified, v1 }: StatsGroups, options: GroupReadOptions) {
  const [reading, { 'memory.pressure': pressure }] = await Promise.all([
    v1.memory !== undefined ? readMemoryV1(files, v1.memory, options) : unified === undefined ? undefined : readMemoryV2(files, unified, options),
    readAll(files, unified, ['memory.pressure']),
  ]);
  return reading === undefined ? undefined : { memory: onlyKnown({ ...reading.memory, pressure: decodePressure(pressure) }), swap: reading.swap };
}

const workingSet = (usage: bigint, inactiveFile: bigint | undefined): bigint => (inactiveFile === undefined ? usage : inactiveFile < usage ? usage - inactiveFile : 0n);
const limited = (bytes: bigint | undefined): bigint | undefined => (bytes === undefined || bytes >= unlimitedBytes ? undefined : bytes);

async function readMemoryV2(files: KernelFiles, group: string, { details = false }: GroupReadOptions) {
  const [texts, more] = await Promise.all([
    readAll(files, group, ['memory.current', 'memory.stat', 'memory.max', 'memory.swap.current', 'memory.swap.max']),
    readAll(files, details ? group : undefined, ['memory.events', 'memory.peak']),
  ]);
  const usage = decodeNumber(texts['memory.current']);
  if (usage === undefined) return undefined;
  const [stat, events] = [decodeCounters(texts['memory.stat']), decodeCounters(more['memory.events'])];
  const swap = decodeNumber(texts['memory.swap.current']);
  return {
    memory: {
      usageBytes: usage,
      workingSetBytes: workingSet(usage, stat.get('inactive_file')),
      limitBytes: decodeNumber(texts['memory.max']),
      rssBytes: stat.get('anon'),
      cacheBytes: stat.get('file'),
      mappedFileBytes: stat.get('file_mapped'),
      activeFileBytes: stat.get('active_file'),
      inactiveFileBytes: stat.get('inactive_file'),
      kernelBytes: stat.get('kernel') ?? stat.get('kernel_stack'),
      maxUsageBytes: decodeNumber(more['memory.peak']),
      failures: events.get('max'),
      oomKills: events.get('oom_kill'),
      pageFaults: stat.get('pgfault'),
      majorPageFaults: stat.get('pgmajfault'),
    },
    swap: swap === undefined ? undefined : onlyKnown({ usageBytes: swap, limitBytes: decodeNumber(texts['memory.swap.max']) }),
  };
}

async function readMemoryV1(files: KernelFiles, group: string, { details = false }: GroupReadOptions) {
  const [texts, more] = await Promise.all([
    readAll(files, group, ['memory.usage_in_bytes', 'memory.stat', 'memory.limit_in_bytes', 'memory.memsw.limit_in_bytes']),
    readAll(files, details ? group : undefined, ['memory.max_usage_in_bytes', 'memory.kmem.usage_in_bytes', 'memory.failcnt', 'memory.oom_control']),
  ]);
  const usage = decodeNumber(texts['memory.usage_in_bytes']);
  if (usage === undefined) return undefined;
  const stat = decodeCounters(texts['memory.stat']);
  const limitBytes = limited(decodeNumber(texts['memory.limit_in_bytes']));
  const both = limited(decodeNumber(texts['memory.memsw.limit_in_bytes']));
  const swap = stat.get('total_swap');
  return {
    memory: {
      usageBytes: usage,
      workingSetBytes: workingSet(usage, stat.get('total_inactive_file')),
      limitBytes,
      rssBytes: stat.get('total_rss'),
      cacheBytes: stat.get('total_cache'),
      mappedFileBytes: stat.get('total_mapped_file'),
      activeFileBytes: stat.get('total_active_file'),
      inactiveFileBytes: stat.get('total_inactive_file'),
      kernelBytes: decodeNumber(more['memory.kmem.usage_in_bytes']),
      maxUsageBytes: decodeNumber(more['memory.max_usage_in_bytes']),
      failures: decodeNumber(more['memory.failcnt']),
      oomKills: decodeCounters(more['memory.oom_control']).get('oom_kill'),
      pageFaults: stat.get('total_pgfault'),
      majorPageFaults: stat.get('total_pgmajfault'),
    },
    // v1 limits memory and swap together; what is left for swap alone is the difference.
    swap: swap === undefined ? undefined : onlyKnown({ usageBytes: swap, limitBytes: both === undefined || limitBytes === undefined ? undefined : both - limitBytes }),
  };
}

/** Names of block devices by their numbers; they do not change while a device is there. */
const deviceNames = new Map<string, string>();

async function nameDevice(files: KernelFiles, major: number, minor: number): Promise<string> {
  const numbers = `${major}:${minor}`;
  const known = deviceNames.get(numbers);
  if (known !== undefined) return known;
  const name = /^DEVNAME=([\w/!.-]{1,64})$/m.exec((await files.read(`/sys/dev/block/${numbers}/uevent`)) ?? '')?.[1];
  if (name === undefined) return numbers;
  if (deviceNames.size < limits.statsDevicesMax) deviceNames.set(numbers, `/dev/${name}`);
  return `/dev/${name}`;
}

async function readIo(files: KernelFiles, { unified, v1 }: StatsGroups) {
  const [group, throttle] = await Promise.all([
    readAll(files, unified, ['io.pressure', 'io.stat']),
    readAll(files, v1.blkio, ['blkio.throttle.io_service_bytes_recursive', 'blkio.throttle.io_serviced_recursive']),
  ]);
  const pressure = decodePressure(group['io.pressure']);
  const bytes = throttle['blkio.throttle.io_service_bytes_recursive'];
  if (group['io.stat'] === undefined && bytes === undefined && pressure === undefined) return undefined;
  const counters = v1.blkio === undefined ? decodeIoStat(group['io.stat']) : decodeBlkio(bytes, throttle['blkio.throttle.io_serviced_recursive']);
  const devices = [];
  for (const device of counters.slice(0, limits.statsDevicesMax)) devices.push({ ...device, device: await nameDevice(files, device.major, device.minor) });
  return onlyKnown({ devices, pressure });
}

/** Names of directories in one of the kernel's; none where it cannot be read. */
function listDirectories(path: string): readonly string[] {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch {
    return [];
  }
}

/** Groups below one, itself included; a container may make its own. */
async function listGroups(files: KernelFiles, group: string): Promise<readonly string[]> {
  const descendants = decodeCounters(await files.read(`${group}/cgroup.stat`)).get('nr_descendants');
  const found = [group];
  if (descendants === 0n) return found;
  for (let index = 0; index < found.length && found.length < limits.statsGroupsMax; index += 1)
    for (const name of listDirectories(found[index] ?? group)) if (found.length < limits.statsGroupsMax) found.push(`${found[index]}/${name}`);
  return found;
}

async function readProcesses(files: KernelFiles, { unified, v1 }: StatsGroups, { details = false, processes = true }: GroupReadOptions) {
  const root = unified ?? v1.devices;
  if (root === undefined || !processes) return undefined;
  const groups = await listGroups(files, root);
  const lists = (await Promise.all(groups.map(async (group) => files.read(`${group}/cgroup.procs`)))).filter((text) => text !== undefined);
  if (lists.length === 0) return undefined;
  const list = lists.join('');
  return onlyKnown({ processes: countLines(list), ...(details ? await readProcessDetails(files, { groups, pidsGroup: v1.pids ?? unified ?? root, list }) : {}) });
}

async function readProcessDetails(files: KernelFiles, { groups, pidsGroup, list }: { readonly groups: readonly string[]; readonly pidsGroup: string; readonly list: string }) {
  // A group of v1 has the one file, a group of v2 the other.
  const [{ 'pids.max': threadsMax }, ...threads] = await Promise.all([
    readAll(files, pidsGroup, ['pids.max']),
    ...groups.map(async (group) => (await files.read(`${group}/cgroup.threads`)) ?? (await files.read(`${group}/tasks`))),
  ]);
  const pids = list.split('\n').filter((pid) => /^[1-9]\d*$/.test(pid));
  return { threads: threads.reduce((sum, text) => sum + countLines(text), 0), threadsMax: decodeNumber(threadsMax), ...(await countDescriptors(files, pids)) };
}

const isSocket = (path: string): boolean => {
  try {
    return readlinkSync(path).startsWith('socket:');
  } catch {
    return false;
  }
};

/**
 * Descriptors of a process, and how many of the first ones are sockets: links that the kernel makes up, which lead nowhere here. A process may have a
 * million, whose names the kernel would take seconds to list.
 */
function countDescriptorsOf(pid: string): { readonly all: number; readonly sockets: number } {
  const path = `/proc/${pid}/fd`;
  try {
    using directory = opendirSync(path);
    let [seen, sockets] = [0, 0];
    while (seen < limits.statsDescriptorsMax) {
      const entry = directory.readSync();
      if (entry === null) break;
      seen += 1;
      if (isSocket(`${path}/${entry.name}`)) sockets += 1;
    }
    // The directory's size is their number since Linux 6.2, and 0 before. Source: the kernel's Documentation/filesystems/proc.rst.
    return { all: Math.max(seen, statSync(path).size), sockets };
  } catch {
    return { all: 0, sockets: 0 };
  }
}

async function countDescriptors(files: KernelFiles, pids: readonly string[]) {
  let [fileDescriptors, sockets] = [0, 0];
  for (const pid of pids.slice(0, limits.statsProcessesMax)) {
    const counts = countDescriptorsOf(pid);
    fileDescriptors += counts.all;
    sockets += counts.sockets;
    // A container may have many; others have their turn between two of them.
    await setImmediate();
  }
  const soft = decodeLimits((await files.read(`/proc/${pids[0] ?? 'none'}/limits`)) ?? '')[openFilesResource]?.soft;
  return { fileDescriptors, sockets, openFilesMax: soft === undefined || soft === rlimitInfinity ? undefined : soft };
}

/** One per engine, so that its bounds hold for all. No method throws. */
export class GroupReader {
  readonly #clock: Clock;
  readonly #files: KernelFiles;
  #links: Promise<readonly LinkCounters[]> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#files = new KernelFiles(clock);
  }

  /** One look at a group; what cannot be read is absent. */
  async read(groups: StatsGroups, options: GroupReadOptions = {}): Promise<GroupReading> {
    const [cpu, memory, io, processes] = await Promise.all([
      readCpu(this.#files, groups).then((reading) => ({ reading, atNs: this.#clock.nowNs() })),
      readMemory(this.#files, groups, options),
      readIo(this.#files, groups),
      readProcesses(this.#files, groups, options),
    ]);
    // The moment of the processor time, since rates are made of it.
    return onlyKnown({ atNs: cpu.atNs, cpu: cpu.reading, memory: memory?.memory, swap: memory?.swap, io, processes });
  }

  /** The memory limit of a group; undefined: none, or unknown. */
  async memoryLimit({ unified, v1 }: StatsGroups): Promise<bigint | undefined> {
    const file = v1.memory !== undefined ? `${v1.memory}/memory.limit_in_bytes` : unified === undefined ? undefined : `${unified}/memory.max`;
    return file === undefined ? undefined : limited(decodeNumber(await this.#files.read(file)));
  }

  /** Interfaces of the host's own network namespace. Callers at once share one look. */
  async hostLinks(): Promise<readonly LinkCounters[]> {
    this.#links ??= this.#files
      .read('/proc/self/net/dev', limits.statsLinksBytesMax)
      .then(decodeLinks)
      .finally(() => (this.#links = undefined));
    return this.#links;
  }

  /** Interfaces that a process sees, provided that it is in a group below `cgroupPath`, before and after: pids are used again. None otherwise. */
  async processLinks(pid: number, cgroupPath: string): Promise<readonly LinkCounters[]> {
    const isInside = async (): Promise<boolean> => ((await this.#files.read(`/proc/${pid}/cgroup`)) ?? '').includes(`:${cgroupPath}/`);
    if (pid <= 0 || !(await isInside())) return [];
    const links = decodeLinks(await this.#files.read(`/proc/${pid}/net/dev`, limits.statsLinksBytesMax));
    return (await isInside()) ? links : [];
  }
}
