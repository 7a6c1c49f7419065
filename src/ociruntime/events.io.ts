/**
 * `events`: statistics and out-of-memory kills of a container. In: its control groups. Out: a line of JSON for each, until the container has ended or nobody listens.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, errorCode, limits } from '#core';
import { formatJson } from '#oci';
import { decodeCounters, readControlFiles, readHostFacts } from '#system';
import type { EventsOptions, Operation } from './options.ts';
import { readProcess, readRecord, readStatus } from './state-directory.io.ts';
import { type StatsSource, statsSource } from './stats.ts';
import type { OciContext } from './types.ts';

/** How many processes of the group the kernel has ended for want of memory. */
export async function countKills({ oomFile }: StatsSource): Promise<bigint> {
  return oomFile === '' ? 0n : (decodeCounters((await readControlFiles([oomFile])).get(oomFile)).get('oom_kill') ?? 0n);
}

/** A container that was deleted has ended too. */
function hasEnded({ global }: OciContext, id: string): boolean {
  try {
    return readStatus(global.stateRoot, readRecord(global.stateRoot, id)) === 'stopped';
  } catch (error) {
    if (errorCode(error) === 'notFound') return true;
    throw error;
  }
}

/** `events`. Throws failedPrecondition where the container has ended already. */
export const showEvents: Operation<EventsOptions> = async (context, { id, stats, intervalMs }) => {
  const { front, global } = context;
  const record = readRecord(global.stateRoot, id);
  if (readStatus(global.stateRoot, record) === 'stopped') throw new RuntimeError('failedPrecondition', `container with id ${id} is not running`);
  const source = statsSource(readHostFacts().cgroups, record.cgroup);
  const tell = (event: Readonly<Record<string, unknown>>): void => front.write(1, `${formatJson(event)}\n`);
  const tellStats = async (): Promise<void> => tell({ type: 'stats', id, data: source.describe(await readControlFiles(source.files)) });
  if (stats) {
    await tellStats();
    return { kind: 'exit', code: 0 };
  }
  let kills = await countKills(source);
  let next = performance.now() + intervalMs;
  while (!hasEnded(context, id) && readProcess(front.request.pid) !== undefined) {
    const now = await countKills(source);
    for (; kills < now; kills += 1n) tell({ type: 'oom', id });
    if (performance.now() >= next) {
      await tellStats();
      next = performance.now() + intervalMs;
    }
    await sleep(Math.min(limits.ociEventPauseMs, Math.max(1, next - performance.now())));
  }
  return { kind: 'exit', code: 0 };
};
