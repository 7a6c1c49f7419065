/**
 * New limits for a control group with its processes. In: the group, its resources, who executes steps. Out: control files that hold them all, or as
 * before, and an error. Steps are executed by somebody else; this process only reads control files.
 */
import { RuntimeError, errnoName, withRollback } from '#core';
import type { SpecResources } from '#oci';
import type { Step } from '#plan';
import { type HostFacts, readControlFiles } from '#system';
import { cgroupDriver } from './cgroup.ts';
import type { CgroupPlacement, CgroupUpdate, ControlWrite } from './cgroup-driver.ts';
import { checkMemoryInUse, filesToRead, joinSteps, oomScoreWrite, orderWrites, stepOfWrite, undoWrites } from './update.ts';

/** A process that forks while it is moved leaves a child behind; after so many rounds it is up to no good. */
const moveRoundsMax = 32;

/** Executes steps in the host's namespaces, all or up to the first that fails, which is the error. */
export type ExecuteSteps = (steps: readonly Step[]) => Promise<void>;

/** The group and what it is to have. */
export interface GroupUpdate {
  readonly placement: CgroupPlacement;
  /** All of them, also those that stay as they are. */
  readonly resources: SpecResources;
  /** A process, and the score by which the kernel chooses whom to kill. */
  readonly oomScore?: { readonly pid: number; readonly value: number };
  /** Refuse a memory limit below what is in use, which on v2 makes the kernel kill processes; v1 refuses it by itself. */
  readonly checkMemory: boolean;
}

/**
 * Brings the group to these limits. What holds already is not written; where a write fails, what was written before is put back. Throws invalidArgument and failedPrecondition
 * with the document's path for what cannot be, failedPrecondition for memory in use, and what the kernel answers.
 */
export async function updateLimits(host: HostFacts, execute: ExecuteSteps, { placement, resources, oomScore, checkMemory }: GroupUpdate): Promise<void> {
  const driver = cgroupDriver(host.cgroups);
  const update = driver.update({ placement, resources, path: 'linux.resources', origin: '/linux/resources' });
  const run: ExecuteSteps = async (steps) => {
    if (steps.length === 0) return;
    await execute(steps).catch((error: unknown) => {
      throw explainRefusal(error);
    });
  };
  await run(update.prepare);
  await moveMembers(update, run);
  const writes: readonly ControlWrite[] = [...update.writes, ...(oomScore === undefined ? [] : [oomScoreWrite(oomScore.pid, oomScore.value, host)])];
  const memory = driver.memoryFiles(placement);
  const files = filesToRead(writes, memory);
  const before = await readControlFiles(files);
  if (checkMemory && memory !== undefined) checkMemoryInUse(writes, before, memory);
  await withRollback(async (rollback) => {
    rollback.defer('put back the limits', async () => run(orderWrites(undoWrites(writes, before), await readControlFiles(files)).map(stepOfWrite)));
    await run(orderWrites(writes, before).map(stepOfWrite));
  });
}

async function moveMembers({ members }: CgroupUpdate, run: ExecuteSteps): Promise<void> {
  if (members.in.length === 0) return;
  for (let round = 0; round < moveRoundsMax; round += 1) {
    const steps = joinSteps(members, await readControlFiles([members.of, ...members.in]));
    if (steps.length === 0) return;
    await run(steps);
  }
  throw new RuntimeError('aborted', `move the processes of ${members.of}: new ones keep coming; nothing was changed`);
}

const refusals: ReadonlyMap<string, string> = new Map([
  ['EBUSY', 'what is in use does not fit'],
  ['EACCES', 'not within what the group above has'],
  // A container that has ended is there all the same: notFound would say that it is not.
  ['ENOENT', 'it has ended, or this kernel has no such file'],
  ['ESRCH', 'it has ended'],
  ['ENODEV', 'it has ended'],
  ['EINVAL', 'no such value, or not possible beside the limits of the group above or of those below'],
]);

/** What the kernel means by an errno that says little. */
function explainRefusal(error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const meaning = refusals.get(errnoName(error) ?? '');
  return meaning === undefined
    ? error
    : new RuntimeError('failedPrecondition', `${error.message} (${meaning})`, { cause: error, ...(error.errno === undefined ? {} : { errno: error.errno }) });
}

/** The resources that a runtime spec has after an update; device rules stay. */
export function mergeSpecResources(old: SpecResources | undefined, next: SpecResources): SpecResources {
  return { ...old, ...next, devices: old?.devices ?? next.devices };
}
