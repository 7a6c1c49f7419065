/**
 * OCI resources as control files and values. In: SpecResources. Out: file and value pairs in the order to write them, or an error with
 * the document's path. Pure. Conversions follow runc and crun: shares to weight by the curve that maps 1024 to 100.
 */
import { invalidArgument } from '#core';
import type { SpecNetworkClass, SpecRdmaLimit, SpecResources } from '#oci';
import { type CgroupFacts } from '#system';
import { blockIoV1, blockIoV2 } from './block-io.ts';
import { hostLacks } from './refusals.ts';

/** One control file of one controller. */
export interface ControlValue {
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** Field below the resources object, such as `cpu.shares`. */
  readonly field: string;
  /** Not every kernel has the file, and nothing is missed without it. */
  readonly optional?: true;
}

/**
 * cpu.weight (1 to 10000) for cpu.shares (2 to 262144). A quadratic curve in log2 that keeps both ends and maps the default 1024 to the
 * default 100. Source: opencontainers/cgroups ConvertCPUSharesToCgroupV2Value since v0.0.5, crun since 1.23.
 */
export function weightOfShares(shares: bigint): number {
  if (shares <= 2n) return 1;
  if (shares >= 262144n) return 10000;
  const log = Math.log2(Number(shares));
  return Math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34));
}

const bytes = (value: bigint): string => (value < 0n ? 'max' : String(value));

interface Builder {
  readonly values: ControlValue[];
  add(controller: string, file: string, value: bigint | string | number | undefined, field: string): void;
}

function builder(): Builder {
  const values: ControlValue[] = [];
  return { values, add: (controller, file, value, field) => void (value === undefined ? undefined : values.push({ controller, file, value: String(value), field })) };
}

function checkMemory(memory: NonNullable<SpecResources['memory']>, facts: CgroupFacts, path: string): void {
  const { limit = 0n, swap = 0n } = memory;
  for (const field of ['limit', 'reservation', 'swap'] as const)
    if ((memory[field] ?? 0n) < -1n) throw invalidArgument(`${path}.memory.${field}`, `${memory[field]} is neither a number of bytes nor -1, which is unlimited`);
  // `kernel` is gone from Linux, and so is `kernelTCP` where its file is missing. They are passed over, as runc does: older callers name them always.
  if (swap > 0n && limit <= 0n) throw invalidArgument(`${path}.memory.swap`, 'needs memory.limit, since it is memory plus swap');
  if (swap > 0n && swap < limit) throw invalidArgument(`${path}.memory.swap`, `${swap} is below memory.limit ${limit}; it is memory plus swap`);
  // No swap at all is what a host without it gives anyway.
  if (swap > 0n && !facts.swapLimit && (swap !== limit || facts.mode !== 'v2')) throw hostLacks(`${path}.memory.swap`, 'this host does not account swap');
  if ((swappinessOf(memory) ?? 0n) > 100n) throw invalidArgument(`${path}.memory.swappiness`, `${memory.swappiness} is outside 0 to 100`);
}

/** -1 is how callers say "not set", which JSON carries as the largest number of 64 bits. */
function swappinessOf({ swappiness }: NonNullable<SpecResources['memory']>): bigint | undefined {
  return swappiness === (1n << 64n) - 1n ? undefined : swappiness;
}

/** Memory and swap together. Memory without a limit would stay limited by an older one of both together. */
function swapOf({ limit = 0n, swap = 0n }: NonNullable<SpecResources['memory']>): bigint {
  return limit < 0n && swap === 0n ? -1n : swap;
}

function checkCpu(cpu: NonNullable<SpecResources['cpu']>, path: string): void {
  if (cpu.period !== undefined && cpu.period !== 0n && (cpu.period < 1000n || cpu.period > 1_000_000n))
    throw invalidArgument(`${path}.cpu.period`, `${cpu.period} is outside 1000 to 1000000 microseconds`);
  if (cpu.quota !== undefined && cpu.quota > 0n && cpu.quota < 1000n) throw invalidArgument(`${path}.cpu.quota`, `${cpu.quota} is below 1000 microseconds`);
  if (cpu.idle !== undefined && cpu.idle !== 0n && cpu.idle !== 1n) throw invalidArgument(`${path}.cpu.idle`, `must be 0 or 1, not ${cpu.idle}`);
}

const nonZero = (value: bigint | undefined): bigint | undefined => (value === 0n ? undefined : value);
const nonEmpty = (value: string | undefined): string | undefined => (value === '' ? undefined : value);

/** Control values for cgroup v1. */
export function v1Values(resources: SpecResources, facts: CgroupFacts, path: string): readonly ControlValue[] {
  const { values, add } = builder();
  const { cpu, memory } = resources;
  if (cpu !== undefined) {
    checkCpu(cpu, path);
    const shares = nonZero(cpu.shares);
    add('cpu', 'cpu.idle', cpu.idle, 'cpu.idle');
    add('cpu', 'cpu.shares', shares === undefined || cpu.idle === 1n ? undefined : shares < 2n ? 2n : shares > 262144n ? 262144n : shares, 'cpu.shares');
    add('cpu', 'cpu.rt_period_us', nonZero(cpu.realtimePeriod), 'cpu.realtimePeriod');
    add('cpu', 'cpu.rt_runtime_us', nonZero(cpu.realtimeRuntime), 'cpu.realtimeRuntime');
    add('cpu', 'cpu.cfs_period_us', nonZero(cpu.period), 'cpu.period');
    add('cpu', 'cpu.cfs_quota_us', nonZero(cpu.quota), 'cpu.quota');
    add('cpu', 'cpu.cfs_burst_us', cpu.burst, 'cpu.burst');
    add('cpuset', 'cpuset.cpus', nonEmpty(cpu.cpus), 'cpu.cpus');
    add('cpuset', 'cpuset.mems', nonEmpty(cpu.mems), 'cpu.mems');
  }
  if (memory !== undefined) {
    checkMemory(memory, facts, path);
    add('memory', 'memory.limit_in_bytes', nonZero(memory.limit), 'memory.limit');
    // Unlimited swap where swap is not accounted is what the host does anyway.
    add('memory', 'memory.memsw.limit_in_bytes', facts.swapLimit ? nonZero(swapOf(memory)) : undefined, 'memory.swap');
    add('memory', 'memory.soft_limit_in_bytes', nonZero(memory.reservation), 'memory.reservation');
    const kernelTcp = nonZero(memory.kernelTCP);
    if (kernelTcp !== undefined) values.push({ controller: 'memory', file: 'memory.kmem.tcp.limit_in_bytes', value: String(kernelTcp), field: 'memory.kernelTCP', optional: true });
    add('memory', 'memory.swappiness', swappinessOf(memory), 'memory.swappiness');
    add('memory', 'memory.oom_control', memory.disableOOMKiller === true ? 1 : undefined, 'memory.disableOOMKiller');
  }
  addPidsAndPages(resources, facts, path, { add, values }, 'limit_in_bytes');
  if (resources.blockIO !== undefined) values.push(...blockIoV1(resources.blockIO, path));
  if (resources.network !== undefined) values.push(...networkValues(resources.network));
  values.push(...rdmaValues(resources.rdma));
  return values;
}

/** 0 forbids every process but the first, and that one is in the group already when it is counted: as runc does, 1 is written. */
function pidsOf(limit: bigint): string {
  return limit < 0n ? 'max' : String(limit === 0n ? 1n : limit);
}

/** The class and the priorities of a group's packets; both are of cgroup v1 alone. */
function networkValues({ classID, priorities }: SpecNetworkClass): readonly ControlValue[] {
  return [
    ...(classID === undefined || classID === 0 ? [] : [{ controller: 'net_cls', file: 'net_cls.classid', value: String(classID), field: 'network.classID' }]),
    ...priorities.map(({ name, priority }, index) => ({ controller: 'net_prio', file: 'net_prio.ifpriomap', value: `${name} ${priority}`, field: `network.priorities[${index}]` })),
  ];
}

/** The same file on both versions. Source: the kernel's Documentation/admin-guide/cgroup-v1/rdma.rst. */
function rdmaValues(rdma: Readonly<Record<string, SpecRdmaLimit>> = {}): readonly ControlValue[] {
  return Object.entries(rdma).map(([device, { hcaHandles, hcaObjects }]) => ({
    controller: 'rdma',
    file: 'rdma.max',
    value: [device, ...(hcaHandles === undefined ? [] : [`hca_handle=${hcaHandles}`]), ...(hcaObjects === undefined ? [] : [`hca_object=${hcaObjects}`])].join(' '),
    field: `rdma[${JSON.stringify(device)}]`,
  }));
}

function addPidsAndPages(resources: SpecResources, facts: CgroupFacts, path: string, { add, values }: Builder, suffix: string): void {
  if (resources.pids !== undefined) add('pids', 'pids.max', pidsOf(resources.pids.limit), 'pids.limit');
  // Beside v1 hierarchies, processes are in the cgroup2 tree for being killed alone.
  const counted = facts.mode === 'v2' || facts.v1.some(({ controllers }) => controllers.includes('hugetlb')) ? facts.hugepageSizes : [];
  for (const [index, { pageSize, limit }] of resources.hugepageLimits.entries()) {
    if (!/^[1-9][0-9]*[KMG]B$/.test(pageSize))
      throw invalidArgument(`${path}.hugepageLimits[${index}].pageSize`, `must be a size such as "2MB", not ${JSON.stringify(pageSize.slice(0, 40))}`);
    // The kubelet forbids every size that a pod does not ask for; what the host does not count needs no forbidding.
    if (limit === 0n && !counted.includes(pageSize)) continue;
    if (!counted.includes(pageSize)) throw hostLacks(`${path}.hugepageLimits[${index}].pageSize`, `this host controls no huge pages of ${pageSize}`);
    add('hugetlb', `hugetlb.${pageSize}.${suffix}`, limit, `hugepageLimits[${index}]`);
    // Pages are refused when they are asked for, not when they are touched, which would kill the process.
    values.push({ controller: 'hugetlb', file: `hugetlb.${pageSize}.rsvd.${suffix}`, value: String(limit), field: `hugepageLimits[${index}]`, optional: true });
  }
}

/** Control values for cgroup v2. */
export function v2Values(resources: SpecResources, facts: CgroupFacts, path: string): readonly ControlValue[] {
  const { values, add } = builder();
  const { cpu, memory } = resources;
  if (cpu !== undefined) {
    checkCpu(cpu, path);
    for (const field of ['realtimeRuntime', 'realtimePeriod'] as const) if ((cpu[field] ?? 0n) !== 0n) throw hostLacks(`${path}.cpu.${field}`, 'does not exist on cgroup v2');
    const shares = nonZero(cpu.shares);
    const [quota, period] = [nonZero(cpu.quota), nonZero(cpu.period)];
    // An idle group takes no weight: the kernel refuses the write.
    add('cpu', 'cpu.idle', cpu.idle, 'cpu.idle');
    add('cpu', 'cpu.weight', shares === undefined || cpu.idle === 1n ? undefined : weightOfShares(shares), 'cpu.shares');
    add(
      'cpu',
      'cpu.max',
      quota === undefined && period === undefined ? undefined : `${bytes(quota ?? -1n)} ${period ?? 100_000n}`,
      quota === undefined ? 'cpu.period' : 'cpu.quota',
    );
    add('cpu', 'cpu.max.burst', cpu.burst, 'cpu.burst');
    add('cpuset', 'cpuset.cpus', nonEmpty(cpu.cpus), 'cpu.cpus');
    add('cpuset', 'cpuset.mems', nonEmpty(cpu.mems), 'cpu.mems');
  }
  if (memory !== undefined) {
    checkMemory(memory, facts, path);
    if (swappinessOf(memory) !== undefined) throw hostLacks(`${path}.memory.swappiness`, 'does not exist on cgroup v2');
    if (memory.disableOOMKiller === true) throw hostLacks(`${path}.memory.disableOOMKiller`, 'does not exist on cgroup v2');
    const [limit, swap] = [memory.limit ?? 0n, swapOf(memory)];
    add('memory', 'memory.max', limit === 0n ? undefined : bytes(limit), 'memory.limit');
    // v1 counts memory plus swap, v2 swap alone.
    add('memory', 'memory.swap.max', swap === 0n || !facts.swapLimit ? undefined : swap < 0n ? 'max' : String(swap - limit), 'memory.swap');
    const reservation = nonZero(memory.reservation);
    add('memory', 'memory.low', reservation === undefined ? undefined : bytes(reservation), 'memory.reservation');
  }
  addPidsAndPages(resources, facts, path, { add, values }, 'max');
  if (resources.blockIO !== undefined) values.push(...blockIoV2(resources.blockIO, facts, path));
  const [packets] = resources.network === undefined ? [] : networkValues(resources.network);
  if (packets !== undefined) throw hostLacks(`${path}.${packets.field}`, 'does not exist on cgroup v2');
  values.push(...rdmaValues(resources.rdma));
  for (const [file, text] of Object.entries(resources.unified)) {
    const controller = /^([a-z_]+)(\.[a-zA-Z0-9_]+)+$/.exec(file)?.[1];
    const reserved = controller === 'cgroup' && !['cgroup.max.depth', 'cgroup.max.descendants'].includes(file);
    if (controller === undefined || reserved) throw invalidArgument(`${path}.unified[${JSON.stringify(file.slice(0, 80))}]`, 'is no resource file of a controller');
    for (const line of text.split('\n').filter((part) => part !== '')) add(controller, file, line, `unified[${JSON.stringify(file)}]`);
  }
  return values;
}

/** A file that every group of the controller has: it tells whether anything is known of the controller. */
const landmarks: Readonly<Record<string, readonly string[]>> = {
  cpu: ['cpu.shares', 'cpu.weight'],
  memory: ['memory.limit_in_bytes', 'memory.max'],
  blkio: ['blkio.throttle.read_bps_device'],
  io: ['io.max'],
};

/** Refuses values whose controller, or whose file, this host lacks. Throws failedPrecondition. */
export function checkControllers(values: readonly ControlValue[], controllers: ReadonlySet<string>, facts: CgroupFacts, path: string): void {
  const { controlFiles } = facts;
  const missing = values.find(({ controller }) => controller !== 'cgroup' && !controllers.has(controller));
  if (missing !== undefined) throw hostLacks(`${path}.${missing.field}`, `this host has no ${missing.controller} controller`);
  const known = (controller: string): boolean => landmarks[controller]?.some((file) => controlFiles?.has(file) === true) === true;
  const lacking = values.find(({ controller, file, optional }) => optional !== true && known(controller) && controlFiles?.has(file) === false);
  if (lacking !== undefined) throw hostLacks(`${path}.${lacking.field}`, `this kernel has no ${lacking.file}`);
}
