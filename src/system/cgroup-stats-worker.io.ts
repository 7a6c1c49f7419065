/**
 * Entry of the thread that reads statistics. In: looks. Out: one answer each, in their order. It holds nothing between them. A file that hangs
 * holds this thread and nobody else; whoever started it notices.
 */
import { parentPort } from 'node:worker_threads';
import { RuntimeError } from '#core';
import { type GroupReadOptions, type GroupReading, type StatsGroups, readGroup, readOwnLinks, readProcessLinks } from './cgroup-stats-read.io.ts';
import type { LinkCounters } from './cgroup-stats.ts';
import { systemClock } from './clock.io.ts';

/** What is to be looked at. */
export type StatsLook =
  | { readonly kind: 'group'; readonly groups: StatsGroups; readonly options: GroupReadOptions }
  | { readonly kind: 'ownLinks' }
  | { readonly kind: 'processLinks'; readonly pid: number; readonly cgroupPath: string };

/** What was seen: a group, or interfaces. */
export type StatsAnswer = { readonly group: GroupReading } | { readonly links: readonly LinkCounters[] };

function take(look: StatsLook): StatsAnswer {
  switch (look.kind) {
    case 'group':
      return { group: readGroup(look.groups, look.options, systemClock.nowNs()) };
    case 'ownLinks':
      return { links: readOwnLinks() };
    case 'processLinks':
      return { links: readProcessLinks(look.pid, look.cgroupPath) };
  }
}

const port = parentPort;
if (port === null) throw new RuntimeError('failedPrecondition', 'start statistics reader: this file runs as a worker thread only');
port.on('message', ({ id, look }: { readonly id: number; readonly look: StatsLook }) => port.postMessage({ id, answer: take(look) }));
