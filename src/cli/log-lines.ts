/**
 * CRI log files as lines, and lines chosen by age and number. In: bytes. Out: entries. Pure.
 * Source: Kubernetes CRI logging design: `RFC3339Nano stream P|F content`; P marks a part of a longer line.
 */
import { type CliSink } from './dependencies.ts';

/** One record of the file. */
export interface LogEntry {
  readonly timestamp: string;
  readonly stream: 'stdout' | 'stderr';
  /** The line goes on in the next entry of this stream. */
  readonly partial: boolean;
  readonly content: Buffer;
}

/** Longer than any record that the shim writes; a file with longer lines is no log of ours, and they are cut here. */
const recordBytesMax = 64 * 1024;
const recordPattern = /^(\S{20,40}) (stdout|stderr) ([PF])(?::\S*)? ?/;

/** Cuts bytes into records. Lines that are no records are passed over. */
export class LogParser {
  #rest: Buffer = Buffer.alloc(0);

  /** Entries that end within these bytes. */
  push(chunk: Uint8Array): LogEntry[] {
    const bytes = Buffer.concat([this.#rest, chunk]);
    const entries: LogEntry[] = [];
    let start = 0;
    for (let end = bytes.indexOf(10, start); end >= 0; end = bytes.indexOf(10, start)) {
      const entry = parseRecord(bytes.subarray(start, end));
      if (entry !== undefined) entries.push(entry);
      start = end + 1;
    }
    this.#rest = Buffer.from(bytes.subarray(start, start + recordBytesMax));
    return entries;
  }
}

function parseRecord(record: Buffer): LogEntry | undefined {
  const match = recordPattern.exec(record.toString('latin1', 0, 100));
  if (match === null) return undefined;
  return { timestamp: match[1] ?? '', stream: match[2] === 'stderr' ? 'stderr' : 'stdout', partial: match[3] === 'P', content: record.subarray(match[0].length) };
}

/** True where the entry is not older than the moment. Digits beyond milliseconds do not decide. */
export function isSince(entry: LogEntry, sinceMs: number | undefined): boolean {
  return sinceMs === undefined || Date.parse(entry.timestamp) >= sinceMs;
}

/** The last `count` lines of those pushed; parts of one line count as one. */
export class LogTail {
  readonly #count: number;
  readonly #lines: LogEntry[][] = [];

  constructor(count: number) {
    this.#count = count;
  }

  push(entry: LogEntry): void {
    const open = this.#lines.findLast((line) => line[0]?.stream === entry.stream);
    if (open?.at(-1)?.partial === true) open.push(entry);
    else this.#lines.push([entry]);
    if (this.#lines.length > this.#count) this.#lines.shift();
  }

  /** What is kept, and an empty tail after it. */
  take(): LogEntry[] {
    return this.#lines.splice(0).flat();
  }
}

/** Bytes of an entry as `logs` prints it. */
export function encodeEntry(entry: LogEntry, { timestamps, lineStart }: { readonly timestamps: boolean; readonly lineStart: boolean }): Uint8Array {
  return Buffer.concat([Buffer.from(timestamps && lineStart ? `${entry.timestamp} ` : ''), entry.content, Buffer.from(entry.partial ? '' : '\n')]);
}

/** Writes entries to the two sinks, each line once with its time where wanted. */
export class LogPrinter {
  readonly #sinks: Readonly<Record<LogEntry['stream'], CliSink>>;
  readonly #timestamps: boolean;
  readonly #open = { stdout: false, stderr: false };

  constructor(sinks: Readonly<Record<LogEntry['stream'], CliSink>>, options: { readonly timestamps: boolean }) {
    this.#sinks = sinks;
    this.#timestamps = options.timestamps;
  }

  async print(entry: LogEntry): Promise<void> {
    const bytes = encodeEntry(entry, { timestamps: this.#timestamps, lineStart: !this.#open[entry.stream] });
    this.#open[entry.stream] = entry.partial;
    await this.#sinks[entry.stream].write(bytes);
  }
}

const unitsMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of `10m`, `1h30m` or `2d`; undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  if (!/^(\d{1,9}[smhd])+$/.test(text)) return undefined;
  const parts = [...text.matchAll(/(\d+)([smhd])/g)];
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * (unitsMs[unit ?? ''] ?? 0), 0);
}

/** `10m`, `1h30m` before now, or a point in time of RFC 3339; milliseconds since 1970. Undefined where it is neither. */
export function parseSince(text: string, nowMs: number): number | undefined {
  const durationMs = parseDuration(text);
  if (durationMs !== undefined) return nowMs - durationMs;
  if (!/^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$/.test(text)) return undefined;
  const moment = Date.parse(text);
  return Number.isNaN(moment) ? undefined : moment;
}
