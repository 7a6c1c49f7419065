/**
 * New limits for a control group with its processes. In: the group, its resources, the pod's shim. Out: control files that hold them all, or as
 * before, and an error. The shim writes; this process only reads control files.
 */
import { RuntimeError, errnoName, withRollback } from '#core';
import type { SpecResources } from '#oci';
import type { Step } from '#plan';
import {
  type CgroupPlacement,
  type CgroupUpdate,
  type ControlWrite,
  cgroupDriver,
  checkMemoryInUse,
  filesToRead,
  joinSteps,
  oomScoreWrite,
  orderWrites,
  stepOfWrite,
  undoWrites,
} from '#runtime';
import { type HostFacts, type ShimConnection, readControlFiles } from '#system';

/** A process that forks while it is moved leaves a child behind; after so many rounds it is up to no good. */
const moveRoundsMax = 32;

/** What an update needs of its sandbox. */
export interface UpdateParts {
  readonly shim: Pick<ShimConnection, 'execute'>;
  readonly host: HostFacts;
}

/** The group and what it is to have. */
export interface GroupUpdate {
  readonly placement: CgroupPlacement;
  /** All of them, also those that stay as they are. */
  readonly resources: SpecResources;
  /** A process, and the score by which the kernel chooses whom to kill. */
  readonly oomScore?: { readonly pid: number; readonly value: number };
}

/**
 * Brings the group to these limits. What holds already is not written; where a write fails, what was written before is put back. Throws invalidArgument and failedPrecondition
 * with the document's path for what cannot be, failedPrecondition for memory in use, and what the kernel answers.
 */
export async function updateGroup({ shim, host }: UpdateParts, { placement, resources, oomScore }: GroupUpdate): Promise<void> {
  const driver = cgroupDriver(host.cgroups);
  const update = driver.update({ placement, resources, path: 'linux.resources', origin: '/linux/resources' });
  // In a child of the shim: the kernel may reclaim memory, or wait for a grace period, before a write returns.
  const execute = async (steps: readonly Step[]): Promise<void> => {
    if (steps.length === 0) return;
    await shim.execute({ sections: [{ actor: 'podNamespaces', steps }] }).catch((error: unknown) => {
      throw explainRefusal(error);
    });
  };
  await execute(update.prepare);
  await moveMembers(update, execute);
  const writes: readonly ControlWrite[] = [...update.writes, ...(oomScore === undefined ? [] : [oomScoreWrite(oomScore.pid, oomScore.value, host)])];
  const memory = driver.memoryFiles(placement);
  const files = filesToRead(writes, memory);
  const before = await readControlFiles(files);
  if (memory !== undefined) checkMemoryInUse(writes, before, memory);
  await withRollback(async (rollback) => {
    rollback.defer('put back the limits', async () => execute(orderWrites(undoWrites(writes, before), await readControlFiles(files)).map(stepOfWrite)));
    await execute(orderWrites(writes, before).map(stepOfWrite));
  });
}

async function moveMembers({ members }: CgroupUpdate, execute: (steps: readonly Step[]) => Promise<void>): Promise<void> {
  if (members.in.length === 0) return;
  for (let round = 0; round < moveRoundsMax; round += 1) {
    const steps = joinSteps(members, await readControlFiles([members.of, ...members.in]));
    if (steps.length === 0) return;
    await execute(steps);
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

/**
 * On cgroup v1 a limit of the pod counts only where its containers have groups below. Throws failedPrecondition for limits of a controller in which they
 * were not made. `controllers`: those in which they were.
 */
export function checkPodUpdate(host: HostFacts, { resources, controllers }: { readonly resources: SpecResources; readonly controllers: readonly string[] }): void {
  const driver = cgroupDriver(host.cgroups);
  const missing = driver.limited(resources).find((name) => !driver.always.includes(name) && !controllers.includes(name));
  if (missing !== undefined)
    throw new RuntimeError(
      'failedPrecondition',
      `linux.resources: the containers of this pod are in no group of the ${missing} controller, for the pod was made without such a limit`,
    );
}
