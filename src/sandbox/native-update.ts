/**
 * New limits for a control group with its processes, and limits of a pod. In: the group, its resources, the pod's shim. Out: control files that hold them all, or as
 * before, and an error. The shim writes; this process only reads control files.
 */
import { RuntimeError } from '#core';
import type { SpecResources } from '#oci';
import { type GroupUpdate, cgroupDriver, updateLimits } from '#runtime';
import type { HostFacts, ShimConnection } from '#system';

/** What an update needs of its sandbox. */
export interface UpdateParts {
  readonly shim: Pick<ShimConnection, 'execute'>;
  readonly host: HostFacts;
}

/** Brings the group to these limits; see `updateLimits`. A memory limit below what is in use is refused. */
export async function updateGroup({ shim, host }: UpdateParts, update: Omit<GroupUpdate, 'checkMemory'>): Promise<void> {
  // In a child of the shim: the kernel may reclaim memory, or wait for a grace period, before a write returns.
  await updateLimits(host, async (steps) => shim.execute({ sections: [{ actor: 'podNamespaces', steps }] }), { ...update, checkMemory: true });
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
