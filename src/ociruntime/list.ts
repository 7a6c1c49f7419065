/** What `list` and `ps` print. In: containers, processes, the output of ps(1). Out: text as runc prints it. Pure. */
import { RuntimeError } from '#core';
import type { ContainerRecord } from './record.ts';
import type { ContainerStatus } from './types.ts';

/** One container of a list. */
export interface ListedContainer {
  readonly record: ContainerRecord;
  readonly status: ContainerStatus;
  /** Name of the user whose state directory it is, or `#` and the number. */
  readonly owner: string;
}

const pidOf = ({ record, status }: ListedContainer): number => (status === 'stopped' ? 0 : record.pid);

/** Each column as wide as its widest text and three spaces, at least twelve; the last one is not filled up. */
function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_title, column) => Math.max(12, ...rows.map((row) => (row[column] ?? '').length + 3)));
  return rows.map((row) => `${row.map((text, column) => (column === row.length - 1 ? text : text.padEnd(widths[column] ?? 0))).join('')}\n`).join('');
}

/** Ids alone, a line each. */
export function formatIds(containers: readonly ListedContainer[]): string {
  return containers.map(({ record }) => `${record.id}\n`).join('');
}

/** The table for people. */
export function formatContainers(containers: readonly ListedContainer[]): string {
  const rows = containers.map((container) => {
    const { record, status, owner } = container;
    return [record.id, String(pidOf(container)), status, record.bundle, record.created, owner];
  });
  return formatTable([['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'], ...rows]);
}

/** One JSON array; `null` for none, as programs written in Go have it. */
export function encodeContainers(containers: readonly ListedContainer[]): string {
  const list = containers.map((container) => {
    const { record, status, owner } = container;
    const { ociVersion, id, bundle, rootfs, created, annotations } = record;
    return { ociVersion, id, pid: pidOf(container), status, bundle, rootfs, created, ...(Object.keys(annotations).length === 0 ? {} : { annotations }), owner };
  });
  return `${list.length === 0 ? 'null' : JSON.stringify(list)}\n`;
}

/** The lines of ps(1) whose PID is one of these, below its titles. Throws failedPrecondition where its output has no such column. */
export function selectProcesses(output: string, pids: ReadonlySet<number>): string {
  const [titles = '', ...lines] = output.split('\n');
  const column = titles.trim().split(/\s+/).indexOf('PID');
  if (column < 0) throw new RuntimeError('failedPrecondition', "couldn't find PID field in ps output");
  const own = lines.filter((line) => line !== '' && pids.has(Number(line.trim().split(/\s+/)[column])));
  return [titles, ...own].map((line) => `${line}\n`).join('');
}
