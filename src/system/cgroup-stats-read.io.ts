/**
 * Reads statistics of control groups and interfaces at once. In: directories of the kernel's cgroup file systems, pids. Out: numbers. Only files
 * of the kernel are read, each up to a bound; nothing is written. What cannot be read is absent. It blocks its thread, which is one of its own: see
 * cgroup-stats-worker.io.ts. A group has about twenty files, and through Node's file threads each of them would be three trips.
 */
import { closeSync, openSync, readSync, readdirSync, readlinkSync } from 'node:fs';
import { limits } from '#core';
import { type LinkCounters, countLines, decodeBlkio, decodeCounters, decodeIoStat, decodeLinks, decodeNumber, decodePressure, microseconds, onlyKnown } from './cgroup-stats.ts';
import { decodeLimits, rlimitInfinity } from './host-facts.ts';

/** Directories of one group. A v1 controller that is absent does not hold the group, or has no hierarchy on this host. */
export interface StatsGroups {
  /** In the cgroup2 tree, alone or beside v1 hierarchies. */
  readonly unified?: string;
  readonly v1: Readonly<Partial<Record<'cpu' | 'cpuacct' | 'memory' | 'blkio' | 'pids' | 'devices', string>>>;
}

/** What a look takes besides the counters. */
export interface GroupReadOptions {
  /** Descriptors of every process, and the limits of the first: many files. */
  readonly processDetails?: boolean;
}

/** One look at a group; every part may be absent. */
export type GroupReading = { readonly atNs: bigint } & Partial<{
  readonly cpu: NonNullable<ReturnType<typeof readCpu>>;
  readonly memory: NonNullable<ReturnType<typeof readMemory>>['memory'];
  readonly swap: NonNullable<NonNullable<ReturnType<typeof readMemory>>['swap']>;
  readonly io: NonNullable<ReturnType<typeof readIo>>;
  readonly processes: NonNullable<ReturnType<typeof readProcesses>>;
}>;

const pageBytes = 4096;
/** Numbers that the v1 memory controller means as "none": the largest that its counter holds, a multiple of the page size. */
const unlimitedBytes = 1n << 62n;
const openFilesResource = 7;

/** One for all reads: this thread does one after the other. */
const page = Buffer.alloc(4 * pageBytes);

/** Text of a kernel file, up to a bound; undefined where it cannot be read. */
function readText(path: string, bytesMax: number = limits.statsFileBytesMax): string | undefined {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, 'r');
    let text = '';
    while (text.length < bytesMax) {
      const bytes = readSync(descriptor, page, 0, page.length, null);
      text += page.toString('latin1', 0, bytes);
      // A text of one record comes whole; only lists go on beyond a page.
      if (bytes < pageBytes / 2) break;
    }
    return text;
  } catch {
    return undefined;
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

const readNumber = (path: string): bigint | undefined => decodeNumber(readText(path));

/** Names in a directory of the kernel; none where it cannot be read. */
function listDirectories(path: string): readonly string[] {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch {
    return [];
  }
}

function readCpu({ unified, v1 }: StatsGroups) {
  const pressure = unified === undefined ? undefined : decodePressure(readText(`${unified}/cpu.pressure`));
  if (unified !== undefined) {
    const counters = decodeCounters(readText(`${unified}/cpu.stat`));
    const usage = microseconds(counters.get('usage_usec'));
    if (usage !== undefined)
      return onlyKnown({
        usageNs: usage,
        userNs: microseconds(counters.get('user_usec')),
        systemNs: microseconds(counters.get('system_usec')),
        ...(v1.cpu === undefined ? throttling(counters, { unit: 'usec' }) : throttling(decodeCounters(readText(`${v1.cpu}/cpu.stat`)), { unit: 'time' })),
        pressure,
      });
  }
  const usage = v1.cpuacct === undefined ? undefined : readNumber(`${v1.cpuacct}/cpuacct.usage`);
  if (usage === undefined) return undefined;
  return onlyKnown({
    usageNs: usage,
    userNs: readNumber(`${v1.cpuacct}/cpuacct.usage_user`),
    systemNs: readNumber(`${v1.cpuacct}/cpuacct.usage_sys`),
    ...(v1.cpu === undefined ? {} : throttling(decodeCounters(readText(`${v1.cpu}/cpu.stat`)), { unit: 'time' })),
    pressure,
  });
}

/** v2 counts the waiting in microseconds, v1 in nanoseconds. */
function throttling(counters: ReadonlyMap<string, bigint>, { unit }: { readonly unit: 'usec' | 'time' }) {
  return {
    periods: counters.get('nr_periods'),
    throttledPeriods: counters.get('nr_throttled'),
    throttledNs: unit === 'usec' ? microseconds(counters.get('throttled_usec')) : counters.get('throttled_time'),
  };
}

function readMemory(groups: StatsGroups) {
  const { unified, v1 } = groups;
  const reading = v1.memory !== undefined ? readMemoryV1(v1.memory) : unified === undefined ? undefined : readMemoryV2(unified);
  const pressure = reading === undefined || unified === undefined ? undefined : decodePressure(readText(`${unified}/memory.pressure`));
  return reading === undefined ? undefined : { ...reading, memory: onlyKnown({ ...reading.memory, pressure }) };
}

const workingSet = (usage: bigint, inactiveFile: bigint | undefined): bigint => (inactiveFile === undefined ? usage : inactiveFile < usage ? usage - inactiveFile : 0n);
const limited = (bytes: bigint | undefined): bigint | undefined => (bytes === undefined || bytes >= unlimitedBytes ? undefined : bytes);

function readMemoryV2(group: string) {
  const usage = readNumber(`${group}/memory.current`);
  if (usage === undefined) return undefined;
  const stat = decodeCounters(readText(`${group}/memory.stat`));
  const events = decodeCounters(readText(`${group}/memory.events`));
  const swap = readNumber(`${group}/memory.swap.current`);
  return {
    memory: {
      usageBytes: usage,
      workingSetBytes: workingSet(usage, stat.get('inactive_file')),
      limitBytes: readNumber(`${group}/memory.max`),
      rssBytes: stat.get('anon'),
      cacheBytes: stat.get('file'),
      mappedFileBytes: stat.get('file_mapped'),
      activeFileBytes: stat.get('active_file'),
      inactiveFileBytes: stat.get('inactive_file'),
      kernelBytes: stat.get('kernel') ?? stat.get('kernel_stack'),
      maxUsageBytes: readNumber(`${group}/memory.peak`),
      failures: events.get('max'),
      oomKills: events.get('oom_kill'),
      pageFaults: stat.get('pgfault'),
      majorPageFaults: stat.get('pgmajfault'),
    },
    ...(swap === undefined ? {} : { swap: onlyKnown({ usageBytes: swap, limitBytes: readNumber(`${group}/memory.swap.max`) }) }),
  };
}

function readMemoryV1(group: string) {
  const usage = readNumber(`${group}/memory.usage_in_bytes`);
  if (usage === undefined) return undefined;
  const stat = decodeCounters(readText(`${group}/memory.stat`));
  const limitBytes = limited(readNumber(`${group}/memory.limit_in_bytes`));
  const both = limited(readNumber(`${group}/memory.memsw.limit_in_bytes`));
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
      kernelBytes: readNumber(`${group}/memory.kmem.usage_in_bytes`),
      maxUsageBytes: readNumber(`${group}/memory.max_usage_in_bytes`),
      failures: readNumber(`${group}/memory.failcnt`),
      oomKills: decodeCounters(readText(`${group}/memory.oom_control`)).get('oom_kill'),
      pageFaults: stat.get('total_pgfault'),
      majorPageFaults: stat.get('total_pgmajfault'),
    },
    // v1 limits memory and swap together; what is left for swap alone is the difference.
    ...(swap === undefined ? {} : { swap: onlyKnown({ usageBytes: swap, limitBytes: both === undefined || limitBytes === undefined ? undefined : both - limitBytes }) }),
  };
}

/** Names of block devices by their numbers; they do not change while a device is there. */
const deviceNames = new Map<string, string>();

function nameDevice(major: number, minor: number): string {
  const numbers = `${major}:${minor}`;
  const known = deviceNames.get(numbers);
  if (known !== undefined) return known;
  const name = /^DEVNAME=([\w/!.-]{1,64})$/m.exec(readText(`/sys/dev/block/${numbers}/uevent`) ?? '')?.[1];
  if (name === undefined) return numbers;
  if (deviceNames.size < limits.statsDevicesMax) deviceNames.set(numbers, `/dev/${name}`);
  return `/dev/${name}`;
}

function readIo({ unified, v1 }: StatsGroups) {
  const pressure = unified === undefined ? undefined : decodePressure(readText(`${unified}/io.pressure`));
  const text = v1.blkio === undefined && unified !== undefined ? readText(`${unified}/io.stat`) : undefined;
  const bytes = v1.blkio === undefined ? undefined : readText(`${v1.blkio}/blkio.throttle.io_service_bytes_recursive`);
  if (text === undefined && bytes === undefined && pressure === undefined) return undefined;
  const counters = bytes === undefined ? decodeIoStat(text) : decodeBlkio(bytes, readText(`${v1.blkio}/blkio.throttle.io_serviced_recursive`));
  const devices = [];
  for (const device of counters.slice(0, limits.statsDevicesMax)) devices.push({ ...device, device: nameDevice(device.major, device.minor) });
  return onlyKnown({ devices, pressure });
}

/** Groups below one, itself included; a container may make its own. */
function listGroups(group: string): readonly string[] {
  const descendants = decodeCounters(readText(`${group}/cgroup.stat`)).get('nr_descendants');
  if (descendants === 0n) return [group];
  const found = [group];
  for (let index = 0; index < found.length && found.length < limits.statsGroupsMax; index += 1) {
    for (const name of listDirectories(found[index] ?? group)) if (found.length < limits.statsGroupsMax) found.push(`${found[index]}/${name}`);
  }
  return found;
}

function readProcesses({ unified, v1 }: StatsGroups, { processDetails = false }: GroupReadOptions) {
  const root = unified ?? v1.devices;
  if (root === undefined) return undefined;
  const pidsGroup = v1.pids ?? unified ?? root;
  const lists: string[] = [];
  let threads = 0;
  for (const group of listGroups(root)) {
    const list = readText(`${group}/cgroup.procs`);
    if (list !== undefined) lists.push(list);
    threads += countLines(readText(unified === undefined ? `${group}/tasks` : `${group}/cgroup.threads`));
  }
  if (lists.length === 0) return undefined;
  const text = lists.join('');
  return onlyKnown({
    processes: countLines(text),
    threads,
    threadsMax: readNumber(`${pidsGroup}/pids.max`),
    ...(processDetails ? countDescriptors(text.split('\n').filter((pid) => /^[1-9]\d*$/.test(pid))) : {}),
  });
}

/** Descriptors of a process, and how many of them are sockets. */
function countDescriptorsOf(pid: string): { readonly all: number; readonly sockets: number } {
  try {
    const names = readdirSync(`/proc/${pid}/fd`);
    const isSocket = (name: string): boolean => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${name}`).startsWith('socket:');
      } catch {
        return false;
      }
    };
    return { all: names.length, sockets: names.slice(0, limits.statsDescriptorsMax).filter(isSocket).length };
  } catch {
    return { all: 0, sockets: 0 };
  }
}

function countDescriptors(pids: readonly string[]) {
  const counts = pids.slice(0, limits.statsProcessesMax).map(countDescriptorsOf);
  const soft = decodeLimits(readText(`/proc/${pids[0] ?? 'none'}/limits`) ?? '')[openFilesResource]?.soft;
  return {
    fileDescriptors: counts.reduce((sum, { all }) => sum + all, 0),
    sockets: counts.reduce((sum, { sockets }) => sum + sockets, 0),
    openFilesMax: soft === undefined || soft === rlimitInfinity ? undefined : soft,
  };
}

/** One look at a group; `atNs` is the time to note with it. */
export function readGroup(groups: StatsGroups, options: GroupReadOptions, atNs: bigint): GroupReading {
  const memory = readMemory(groups);
  return onlyKnown({ atNs, cpu: readCpu(groups), memory: memory?.memory, swap: memory?.swap, io: readIo(groups), processes: readProcesses(groups, options) });
}

/** Interfaces of the network namespace that this process is in. */
export function readOwnLinks(): readonly LinkCounters[] {
  return decodeLinks(readText('/proc/self/net/dev', limits.statsLinksBytesMax));
}

/** Interfaces that a process sees, provided that it is in a group below `cgroupPath`, before and after: pids are used again. */
export function readProcessLinks(pid: number, cgroupPath: string): readonly LinkCounters[] {
  const isInside = (): boolean => (readText(`/proc/${pid}/cgroup`) ?? '').includes(`:${cgroupPath}/`);
  if (pid <= 0 || !isInside()) return [];
  const links = decodeLinks(readText(`/proc/${pid}/net/dev`, limits.statsLinksBytesMax));
  return isInside() ? links : [];
}
