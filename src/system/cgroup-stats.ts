/**
 * The kernel's statistics files, decoded. In: texts of files of control groups, of pressure files and of /proc/<pid>/net/dev. Out:
 * values; what is not in a text is absent. Pure: cgroup-stats.io.ts reads.
 */

/** One line of a pressure file. Times in nanoseconds, averages in percent. */
export interface PressureText {
  readonly some?: { readonly totalNs: bigint; readonly avg10: number; readonly avg60: number; readonly avg300: number };
  readonly full?: { readonly totalNs: bigint; readonly avg10: number; readonly avg60: number; readonly avg300: number };
}

/** What one block device was asked for. */
export interface DeviceCounters {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

/** One line of /proc/<pid>/net/dev. */
export interface LinkCounters {
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

const microsecond = 1000n;

/** Fields that may be undefined become fields that may be absent. */
export type Known<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };

/** The same object without what is undefined. */
export function onlyKnown<T extends object>(fields: T): Known<T> {
  // SAFETY: exactly the fields whose value is undefined are left out, which is what Known says.
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Known<T>;
}

/** A file with one number. `max`, and what is no number, is absent. */
export function decodeNumber(text: string | undefined): bigint | undefined {
  const trimmed = text?.trim() ?? '';
  return /^\d{1,20}$/.test(trimmed) ? BigInt(trimmed) : undefined;
}

/** Lines of `name number`, as cpu.stat, memory.stat, memory.events and memory.oom_control have them. Other lines are passed over. */
export function decodeCounters(text: string | undefined): ReadonlyMap<string, bigint> {
  const counters = new Map<string, bigint>();
  for (const match of (text ?? '').matchAll(/^(\S+) (\d{1,20})$/gm)) if (match[1] !== undefined && match[2] !== undefined) counters.set(match[1], BigInt(match[2]));
  return counters;
}

/** Number of lines of a list of processes or threads. */
export function countLines(text: string | undefined): number {
  let lines = 0;
  for (let at = text?.indexOf('\n') ?? -1; at >= 0; at = text?.indexOf('\n', at + 1) ?? -1) lines += 1;
  return lines;
}

/** Microseconds of cpu.stat as nanoseconds. */
export function microseconds(value: bigint | undefined): bigint | undefined {
  return value === undefined ? undefined : value * microsecond;
}

/** A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, with the total in microseconds. Absent where no line is one. */
export function decodePressure(text: string | undefined): PressureText | undefined {
  const line = (kind: 'some' | 'full'): PressureText['some'] => {
    const match = new RegExp(`^${kind} avg10=([\\d.]+) avg60=([\\d.]+) avg300=([\\d.]+) total=(\\d{1,20})$`, 'm').exec(text ?? '');
    if (match?.[4] === undefined) return undefined;
    return { totalNs: BigInt(match[4]) * microsecond, avg10: Number(match[1]), avg60: Number(match[2]), avg300: Number(match[3]) };
  };
  const [some, full] = [line('some'), line('full')];
  return some === undefined && full === undefined ? undefined : { ...(some === undefined ? {} : { some }), ...(full === undefined ? {} : { full }) };
}

/** io.stat of cgroup v2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. Devices without counters are passed over. */
export function decodeIoStat(text: string | undefined): readonly DeviceCounters[] {
  return [...(text ?? '').matchAll(/^(\d{1,9}):(\d{1,9}) (.*)$/gm)].flatMap(([, major, minor, fields = '']) => {
    const value = (name: string): bigint => BigInt(new RegExp(`(?:^| )${name}=(\\d{1,20})(?: |$)`).exec(fields)?.[1] ?? 0);
    if (!fields.includes('=')) return [];
    return [{ major: Number(major), minor: Number(minor), readBytes: value('rbytes'), writeBytes: value('wbytes'), reads: value('rios'), writes: value('wios') }];
  });
}

/** The two files of the v1 blkio controller: `8:0 Read 4096`, one of bytes and one of operations. */
export function decodeBlkio(bytes: string | undefined, operations: string | undefined): readonly DeviceCounters[] {
  const devices = new Map<string, { -readonly [K in keyof DeviceCounters]: DeviceCounters[K] }>();
  const add = (text: string | undefined, read: 'readBytes' | 'reads', write: 'writeBytes' | 'writes'): void => {
    for (const [, major, minor, operation, value = '0'] of (text ?? '').matchAll(/^(\d{1,9}):(\d{1,9}) (Read|Write) (\d{1,20})$/gm)) {
      const key = `${major}:${minor}`;
      const device = devices.get(key) ?? { major: Number(major), minor: Number(minor), readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };
      device[operation === 'Read' ? read : write] = BigInt(value);
      devices.set(key, device);
    }
  };
  add(bytes, 'readBytes', 'writeBytes');
  add(operations, 'reads', 'writes');
  return [...devices.values()];
}

/** Every interface of a /proc/<pid>/net/dev; see proc_pid_net(5). */
export function decodeLinks(text: string | undefined): readonly LinkCounters[] {
  return [...(text ?? '').matchAll(/^ *([^\s:/]{1,15}):\s*(\d[\d ]*)$/gm)].flatMap(([, name, fields]) => {
    if (name === undefined || fields === undefined) return [];
    const numbers = fields.trim().split(/ +/).map(BigInt);
    const [rxBytes, rxPackets, rxErrors, rxDropped, , , , , txBytes, txPackets, txErrors, txDropped] = numbers;
    if (rxBytes === undefined || rxPackets === undefined || rxErrors === undefined || rxDropped === undefined) return [];
    if (txBytes === undefined || txPackets === undefined || txErrors === undefined || txDropped === undefined) return [];
    return [{ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped }];
  });
}
