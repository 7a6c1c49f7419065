/**
 * The statistics that `events` prints. In: where a group's files are, and their texts. Out: names of files, and the document. Pure. The form is that of runc's `events --stats`, which
 * programs decode: values of both kinds of control groups under the names of v1, and nothing for a number that is 0 where runc leaves it out.
 */
import { type CgroupPlacement, cgroupComponents } from '#runtime';
import { type CgroupFacts, decodeBlkio, decodeCounters, decodeIoStat, decodeNumber, decodePressure, microseconds } from '#system';

/** Texts of control files by their absolute paths. */
export type ControlTexts = ReadonlyMap<string, string>;

const unlimited = (1n << 64n) - 1n;

/** Reads one file of a group's directory; undefined where it is not there. */
type Reader = (name: string) => string | undefined;

/** Which files tell, and how a file of a controller is found among their texts. */
export interface StatsSource {
  readonly files: readonly string[];
  readonly describe: (texts: ControlTexts) => Readonly<Record<string, unknown>>;
  /** The file that counts the processes that the kernel has killed for memory; empty where nobody counts. */
  readonly oomFile: string;
}

/** Fields that are 0 or undefined are left out, as runc leaves them out. */
function sparse(fields: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== 0n && value !== 0 && !(Array.isArray(value) && value.length === 0)));
}

const numbersOf = (text: string | undefined): readonly bigint[] =>
  (text ?? '')
    .trim()
    .split(/\s+/)
    .filter((word) => /^[0-9]+$/.test(word))
    .map(BigInt);

/** `max` counts as the largest number. */
const limitOf = (text: string | undefined): bigint => (text?.trim() === 'max' ? unlimited : (decodeNumber(text) ?? 0n));

function pressureOf(text: string | undefined): Readonly<Record<string, unknown>> {
  const pressure = decodePressure(text);
  if (pressure === undefined) return {};
  const line = (kind: 'some' | 'full'): Readonly<Record<string, unknown>> => {
    const of = pressure[kind];
    return { avg10: of?.avg10 ?? 0, avg60: of?.avg60 ?? 0, avg300: of?.avg300 ?? 0, total: (of?.totalNs ?? 0n) / 1000n };
  };
  return { psi: { some: line('some'), full: line('full') } };
}

interface Memory {
  readonly limit: bigint;
  readonly usage: bigint;
  readonly max: bigint;
  readonly failcnt: bigint;
}

const memoryEntry = ({ limit, usage, max, failcnt }: Memory): Readonly<Record<string, unknown>> => ({ limit, failcnt, ...sparse({ usage, max }) });

function memoryV1(read: Reader, name: string): Memory {
  const of = (file: string): bigint => decodeNumber(read(`${name}.${file}`)) ?? 0n;
  return { limit: of('limit_in_bytes'), usage: of('usage_in_bytes'), max: of('max_usage_in_bytes'), failcnt: of('failcnt') };
}

function memoryV2(read: Reader, name: string): Memory {
  return { limit: limitOf(read(`${name}.max`)), usage: decodeNumber(read(`${name}.current`)) ?? 0n, max: decodeNumber(read(`${name}.peak`)) ?? 0n, failcnt: 0n };
}

const rawCounters = (text: string | undefined): Readonly<Record<string, unknown>> => Object.fromEntries(decodeCounters(text));

function describeMemory(read: Reader, isV2: boolean): Readonly<Record<string, unknown>> {
  const counters = decodeCounters(read('memory.stat'));
  const raw = rawCounters(read('memory.stat'));
  const nothing: Memory = { limit: 0n, usage: 0n, max: 0n, failcnt: 0n };
  if (!isV2) {
    const kinds = { usage: 'memory', swap: 'memory.memsw', kernel: 'memory.kmem', kernelTCP: 'memory.kmem.tcp' };
    const entries = Object.fromEntries(Object.entries(kinds).map(([key, name]) => [key, memoryEntry(memoryV1(read, name))]));
    return { ...sparse({ cache: counters.get('cache') }), ...entries, raw };
  }
  const [usage, swap] = [memoryV2(read, 'memory'), memoryV2(read, 'memory.swap')];
  // v1 counts memory and swap together, and its readers expect that.
  const both = { limit: swap.limit === unlimited || usage.limit === unlimited ? unlimited : swap.limit + usage.limit, usage: swap.usage + usage.usage, max: 0n, failcnt: 0n };
  return {
    ...sparse({ cache: counters.get('file') }),
    ...{ usage: memoryEntry(usage), swap: memoryEntry(both), kernel: memoryEntry(nothing), kernelTCP: memoryEntry(nothing), raw },
    ...pressureOf(read('memory.pressure')),
  };
}

function describeCpu(stat: string | undefined, account: Reader, isV2: boolean, pressure: string | undefined): Readonly<Record<string, unknown>> {
  const counters = decodeCounters(stat);
  const throttling = sparse({
    periods: counters.get('nr_periods'),
    throttledPeriods: counters.get('nr_throttled'),
    throttledTime: microseconds(counters.get('throttled_usec')) ?? counters.get('throttled_time'),
  });
  const [total, user, kernel] = isV2
    ? ['usage_usec', 'user_usec', 'system_usec'].map((name) => microseconds(counters.get(name)))
    : ['cpuacct.usage', 'cpuacct.usage_user', 'cpuacct.usage_sys'].map((name) => decodeNumber(account(name)));
  const percpu = isV2 ? [] : numbersOf(account('cpuacct.usage_percpu'));
  return {
    usage: { ...sparse({ total, percpu }), kernel: kernel ?? 0n, user: user ?? 0n },
    ...(Object.keys(throttling).length === 0 ? {} : { throttling }),
    ...pressureOf(pressure),
  };
}

function describeIo(read: Reader, isV2: boolean): Readonly<Record<string, unknown>> {
  const devices = isV2 ? decodeIoStat(read('io.stat')) : decodeBlkio(read('blkio.throttle.io_service_bytes_recursive'), read('blkio.throttle.io_serviced_recursive'));
  const table = (reading: 'readBytes' | 'reads', writing: 'writeBytes' | 'writes'): readonly unknown[] =>
    devices.flatMap((device) => {
      const { major, minor } = device;
      return [
        { ...sparse({ major, minor }), op: 'Read', ...sparse({ value: device[reading] }) },
        { ...sparse({ major, minor }), op: 'Write', ...sparse({ value: device[writing] }) },
      ];
    });
  return { ...sparse({ ioServiceBytesRecursive: table('readBytes', 'writeBytes'), ioServicedRecursive: table('reads', 'writes') }), ...pressureOf(read('io.pressure')) };
}

/** `0-2,5` as numbers. */
function listOf(text: string | undefined): readonly number[] {
  return (text ?? '')
    .trim()
    .split(',')
    .flatMap((part) => {
      const match = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(part);
      if (match?.[1] === undefined) return [];
      const [from, to] = [Number(match[1]), Number(match[2] ?? match[1])];
      return Array.from({ length: Math.max(0, to - from + 1) }, (_item, index) => from + index);
    });
}

const cpusetNumbers = ['cpu_exclusive', 'mem_hardwall', 'mem_exclusive', 'memory_migrate', 'memory_spread_page', 'memory_spread_slab', 'memory_pressure', 'sched_load_balance'];

function describeCpuset(read: Reader): Readonly<Record<string, unknown>> {
  const numbers = cpusetNumbers.map((name) => [name, decodeNumber(read(`cpuset.${name}`)) ?? 0n] as const);
  const level = Number((read('cpuset.sched_relax_domain_level') ?? '0').trim());
  return { ...sparse({ cpus: listOf(read('cpuset.cpus')), mems: listOf(read('cpuset.mems')) }), ...Object.fromEntries(numbers), sched_relax_domain_level: level };
}

function describeHugepages(read: Reader, sizes: readonly string[], isV2: boolean): Readonly<Record<string, unknown>> {
  const entries = sizes.flatMap((size) => {
    const usage = decodeNumber(read(`hugetlb.${size}.${isV2 ? 'current' : 'usage_in_bytes'}`));
    // The kernel has pages of that size and no controller that counts them.
    if (usage === undefined) return [];
    const failcnt = isV2 ? decodeCounters(read(`hugetlb.${size}.events`)).get('max') : decodeNumber(read(`hugetlb.${size}.failcnt`));
    return [[size, { ...sparse({ usage, max: isV2 ? 0n : decodeNumber(read(`hugetlb.${size}.max_usage_in_bytes`)) }), failcnt: failcnt ?? 0n }] as const];
  });
  return Object.fromEntries(entries);
}

const memoryNames = ['memory', 'memory.memsw', 'memory.kmem', 'memory.kmem.tcp'].flatMap((name) =>
  ['limit_in_bytes', 'usage_in_bytes', 'max_usage_in_bytes', 'failcnt'].map((file) => `${name}.${file}`),
);

/** Files of each v1 controller. */
const filesV1: Readonly<Record<string, readonly string[]>> = {
  cpu: ['cpu.stat'],
  cpuacct: ['cpuacct.usage', 'cpuacct.usage_user', 'cpuacct.usage_sys', 'cpuacct.usage_percpu'],
  cpuset: [...cpusetNumbers, 'cpus', 'mems', 'sched_relax_domain_level'].map((name) => `cpuset.${name}`),
  memory: ['memory.stat', 'memory.oom_control', ...memoryNames],
  pids: ['pids.current', 'pids.max'],
  blkio: ['blkio.throttle.io_service_bytes_recursive', 'blkio.throttle.io_serviced_recursive'],
};

const filesV2: readonly string[] = [
  ...['cpu.stat', 'cpu.pressure', 'io.stat', 'io.pressure', 'pids.current', 'pids.max', 'memory.stat', 'memory.events', 'memory.pressure', 'cpuset.cpus', 'cpuset.mems'],
  ...['memory', 'memory.swap'].flatMap((name) => ['current', 'max', 'peak'].map((file) => `${name}.${file}`)),
];

/** Where the statistics of a placement come from on this host. */
export function statsSource(facts: CgroupFacts, placement: CgroupPlacement): StatsSource {
  const relative = cgroupComponents(placement).join('/');
  const isV2 = facts.mode === 'v2';
  const directoryOf = (controller: string): string | undefined => {
    const mountpoint = isV2 ? facts.unified?.mountpoint : facts.v1.find(({ controllers }) => controllers.includes(controller))?.mountpoint;
    return mountpoint === undefined ? undefined : `${mountpoint}/${relative}`;
  };
  const pathOf = (controller: string, name: string): string | undefined => {
    const directory = directoryOf(controller);
    return directory === undefined ? undefined : `${directory}/${name}`;
  };
  const hugepages = facts.hugepageSizes.flatMap((size) =>
    (isV2 ? ['current', 'events'] : ['usage_in_bytes', 'max_usage_in_bytes', 'failcnt']).map((file) => `hugetlb.${size}.${file}`),
  );
  const names: readonly (readonly [controller: string, name: string])[] = [
    ...(isV2 ? filesV2.map((name) => ['', name] as const) : Object.entries(filesV1).flatMap(([controller, files]) => files.map((name) => [controller, name] as const))),
    ...hugepages.map((name) => ['hugetlb', name] as const),
  ];
  return {
    files: names.flatMap(([controller, name]) => pathOf(controller, name) ?? []),
    oomFile: pathOf('memory', isV2 ? 'memory.events' : 'memory.oom_control') ?? '',
    describe: (texts) => {
      const of =
        (controller: string): Reader =>
        (name) =>
          texts.get(pathOf(controller, name) ?? '');
      const pids = of('pids');
      return {
        cpu: describeCpu(of('cpu')('cpu.stat'), of('cpuacct'), isV2, of('cpu')('cpu.pressure')),
        cpuset: describeCpuset(of('cpuset')),
        memory: describeMemory(of('memory'), isV2),
        pids: sparse({ current: decodeNumber(pids('pids.current')), limit: decodeNumber(pids('pids.max')) }),
        blkio: describeIo(of(isV2 ? 'io' : 'blkio'), isV2),
        hugetlb: describeHugepages(of('hugetlb'), facts.hugepageSizes, isV2),
        intel_rdt: {},
        network_interfaces: null,
      };
    },
  };
}
