/**
 * New limits for processes that run: what has to be written, in which order, and how it is taken back. In: a group's driver, the wanted values, the
 * texts that the control files hold now. Out: steps, or a refusal with the document's path. Pure.
 *
 * The kernel checks every single write against what holds at that moment, so that a valid end may lie behind an invalid step: memory may not
 * exceed memory plus swap (v1), a share of processor time may not exceed the parent's at any time (v1), a burst may not exceed the quota.
 */
import { RuntimeError } from '#core';
import { type Step, errno, fileSystem, noSlot } from '#plan';
import { type HostFacts } from '#system';
import { type ControlWrite, type MemoryFiles } from './cgroup-driver.ts';
import { capabilityBit } from './capabilities.ts';

/** Texts of control files by absolute path; a file that is not there has none. */
export type ControlTexts = ReadonlyMap<string, string>;

const infinity = 1n << 62n;
/** A number, with everything that stands for "no limit" as one that no limit reaches. */
function numberOf(text: string | undefined): bigint {
  const word = text?.trim().split(/\s/)[0] ?? '';
  if (!/^-?[0-9]+$/.test(word)) return infinity;
  const value = BigInt(word);
  return value < 0n || value > infinity ? infinity : value;
}

/** What a file must not exceed, or must not have less of, at any time: `low` stays at or below `high`. Names of files of one directory. */
const bounds: readonly (readonly [low: string, high: string])[] = [
  ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'],
  ['cpu.cfs_burst_us', 'cpu.cfs_quota_us'],
  ['cpu.max.burst', 'cpu.max'],
  ['cpu.rt_runtime_us', 'cpu.rt_period_us'],
];

const weightFiles: readonly string[] = ['cpu.weight', 'cpu.shares'];
const [quotaFile, periodFile] = ['cpu.cfs_quota_us', 'cpu.cfs_period_us'];
const siblingOf = (file: string, name: string): string => `${file.slice(0, file.lastIndexOf('/'))}/${name}`;
const nameOf = (file: string): string => file.slice(file.lastIndexOf('/') + 1);

/** True where `first` has to be written before `second` for the state between the two to be valid. */
function mustPrecede(first: ControlWrite, second: ControlWrite, current: ControlTexts): boolean {
  const [a, b] = [nameOf(first.file), nameOf(second.file)];
  if (siblingOf(first.file, b) !== second.file) return false;
  for (const [low, high] of bounds) {
    // The bound moves first where the value would pass it; else the value does.
    if (a === high && b === low) return numberOf(second.value) > numberOf(current.get(first.file));
    if (a === low && b === high) return numberOf(first.value) <= numberOf(current.get(second.file));
  }
  // A group that is idle takes no weight.
  if (a === 'cpu.idle' && weightFiles.includes(b)) return first.value === '0';
  if (weightFiles.includes(a) && b === 'cpu.idle') return second.value !== '0';
  // The smaller share of the two that may lie between: it is below the old one or the new one, and those are both allowed.
  const quotaFirst = (quota: ControlWrite, period: ControlWrite): boolean => {
    const [newQuota, oldQuota] = [numberOf(quota.value), numberOf(current.get(quota.file))];
    const [newPeriod, oldPeriod] = [numberOf(period.value), numberOf(current.get(period.file))];
    // Without a quota a group has what its parent has, whatever the period.
    if (newQuota === infinity || oldQuota === infinity) return newQuota === infinity;
    return newQuota * newPeriod <= oldQuota * oldPeriod;
  };
  if (a === quotaFile && b === periodFile) return quotaFirst(first, second);
  return a === periodFile && b === quotaFile && !quotaFirst(second, first);
}

/** True where the file holds the value already, as far as one can tell from its text. */
function holds(text: string | undefined, value: string): boolean {
  if (text === undefined) return false;
  const [now, wanted] = [text.trim(), value.trim()];
  const [key, ...words] = wanted.split(' ');
  // A line per device, of which the value may name a part: `8:0 rbps=5`.
  if (words.length > 0 && now.split('\n').some((line) => line.startsWith(`${key} `) && words.every((word) => line.split(' ').includes(word)))) return true;
  return now === wanted || (/^-?[0-9]+$|^max$/.test(now) && /^-?[0-9]+$|^max$/.test(wanted) && numberOf(now) === numberOf(wanted) && numberOf(now) === infinity);
}

/** The writes that change something, in an order in which every state between is valid when both ends are. */
export function orderWrites(writes: readonly ControlWrite[], current: ControlTexts): readonly ControlWrite[] {
  const left = writes.filter(({ file, value, optional }) => !holds(current.get(file), value) && !(optional === true && !current.has(file)));
  const ordered: ControlWrite[] = [];
  while (left.length > 0) {
    const index = left.findIndex((write) => !left.some((other) => other !== write && mustPrecede(other, write, current)));
    ordered.push(...left.splice(Math.max(index, 0), 1));
  }
  return ordered;
}

/** Files whose text is a line per device, and what stands in a line that limits nothing. */
const keyedDefaults: Readonly<Record<string, string>> = {
  'io.max': 'rbps=max wbps=max riops=max wiops=max',
  'io.weight': 'default',
  'io.bfq.weight': 'default',
  'rdma.max': 'hca_handle=max hca_object=max',
  'blkio.bfq.weight_device': 'default',
  'blkio.throttle.read_bps_device': '0',
  'blkio.throttle.write_bps_device': '0',
  'blkio.throttle.read_iops_device': '0',
  'blkio.throttle.write_iops_device': '0',
};

/** Writes that bring back what the files held. For `orderWrites`, with what they hold by then. */
export function undoWrites(writes: readonly ControlWrite[], before: ControlTexts): readonly ControlWrite[] {
  const files = new Map(writes.map((write) => [write.file, write]));
  return [...files].flatMap(([file, { origin }]) => {
    const text = before.get(file);
    if (text === undefined) return [];
    const lines = text.split('\n').filter((line) => line !== '');
    if (nameOf(file) === 'memory.oom_control') return [{ file, value: /oom_kill_disable ([01])/.exec(text)?.[1] ?? '0', origin }];
    // What a group that is idle shows; it is no value to write.
    if (nameOf(file) === 'cpu.weight' && text.trim() === '0') return [];
    const rest = keyedDefaults[nameOf(file)];
    // A weight without a device is the one that the file calls its default.
    const keys = rest === undefined ? [] : writes.flatMap((write) => (write.file === file && write.value.includes(' ') ? [write.value.split(' ')[0] ?? ''] : []));
    const added = [...new Set(keys)].filter((key) => !lines.some((line) => line.startsWith(`${key} `))).map((key) => `${key} ${rest}`);
    // An empty write does nothing; a line without content empties a set.
    return [...(lines.length === 0 && rest === undefined ? ['\n'] : lines), ...added].map((value) => ({ file, value, origin }));
  });
}

const limitFiles: readonly string[] = ['memory.max', 'memory.limit_in_bytes'];

/**
 * Refuses a memory limit below what is in use, whose writing would kill the processes (v2) or fail (v1). Page cache that the kernel gives back at
 * once does not count. Throws failedPrecondition.
 */
export function checkMemoryInUse(writes: readonly ControlWrite[], current: ControlTexts, files: MemoryFiles): void {
  const limit = writes.find(({ file }) => limitFiles.includes(nameOf(file)));
  if (limit === undefined || numberOf(limit.value) >= numberOf(current.get(limit.file))) return;
  const inactive = new RegExp(`^${files.inactiveField} ([0-9]+)$`, 'm').exec(current.get(files.stat) ?? '')?.[1] ?? '0';
  const usage = current.get(files.usage);
  if (usage === undefined) return;
  const used = numberOf(usage) - BigInt(inactive);
  if (numberOf(limit.value) < used) throw new RuntimeError('failedPrecondition', `memory limit of ${limit.value} bytes: ${used} bytes are in use`);
}

/** Files to read before `orderWrites` and `checkMemoryInUse`. */
export function filesToRead(writes: readonly ControlWrite[], memory: MemoryFiles | undefined): readonly string[] {
  const partners = writes.flatMap(({ file }) => bounds.flatMap(([low, high]) => ([low, high].includes(nameOf(file)) ? [siblingOf(file, low), siblingOf(file, high)] : [])));
  return [...new Set([...writes.map(({ file }) => file), ...partners, ...(memory === undefined ? [] : [memory.usage, memory.stat])])];
}

/** The write as a step: of a control file, or of a file of a process in procfs. */
export function stepOfWrite({ file, value, origin, optional }: ControlWrite): Step {
  return {
    ...(optional === undefined ? {} : { ignore: [errno.noEntry] }),
    kind: 'writeFile',
    dir: noSlot,
    path: file,
    data: Buffer.from(value),
    fileSystem: file.startsWith('/proc/') ? fileSystem.proc : fileSystem.cgroup,
    origin,
  };
}

/** oom_score_adj of a process that runs. Without CAP_SYS_RESOURCE the lowest possible value is that of this process. */
export function oomScoreWrite(pid: number, wanted: number, host: HostFacts): ControlWrite {
  const canLower = (host.capabilities.own & (capabilityBit('CAP_SYS_RESOURCE') ?? 0n)) !== 0n;
  return { file: `/proc/${pid}/oom_score_adj`, value: String(canLower ? wanted : Math.max(wanted, host.oomScoreAdj)), origin: '/process/oomScoreAdj' };
}

/** Processes that are in the first group and not in the others, as steps that bring them there. One that has ended meanwhile is passed over. */
export function joinSteps(members: { readonly of: string; readonly in: readonly string[] }, texts: ControlTexts): readonly Step[] {
  const pids = (file: string): readonly string[] => (texts.get(file) ?? '').split('\n').filter((line) => /^[1-9][0-9]*$/.test(line));
  return members.in.flatMap((file) => {
    const inside = new Set(pids(file));
    return pids(members.of)
      .filter((pid) => !inside.has(pid))
      .map((pid): Step => ({ ...stepOfWrite({ file, value: pid, origin: '/linux/resources' }), ignore: [errno.noProcess] }));
  });
}
