/**
 * Looks whether a new container may have a group that exists. In: the host's facts and a placement. Out: nothing, or an error. Control files are read, nothing else.
 *
 * A group that others are in would be frozen, limited and killed with the container; one that is frozen would never let it start. Source: runtime-spec, config-linux.md,
 * "Control groups", which lets a runtime check both.
 */
import { RuntimeError } from '#core';
import { type HostFacts, readControlFiles } from '#system';
import { type CgroupPlacement, cgroupComponents } from './cgroup-driver.ts';
import { freezeFileOf, isPaused } from './pause.ts';

/** Throws failedPrecondition where the group, in any hierarchy, holds processes (on v2: or one below it does), or is frozen. One that does not exist is free. */
export async function checkGroupFree(host: HostFacts, placement: CgroupPlacement): Promise<void> {
  const { unified, v1 } = host.cgroups;
  const group = cgroupComponents(placement).join('/');
  const roots = [...(unified === undefined ? [] : [unified.mountpoint]), ...v1.map(({ mountpoint }) => mountpoint)];
  const frozen = freezeFileOf(host, placement);
  const events = unified === undefined ? [] : [`${unified.mountpoint}/${group}/cgroup.events`];
  const members = roots.map((root) => `${root}/${group}/cgroup.procs`);
  const texts = await readControlFiles([...members, ...events, ...(frozen === '' ? [] : [frozen])]);
  for (const file of members) {
    const count = (texts.get(file) ?? '').split('\n').filter((line) => line !== '').length;
    if (count > 0) throw occupied(placement, `container's cgroup is not empty: ${count} process(es) found`);
  }
  if (events.some((file) => /^populated 1$/m.test(texts.get(file) ?? ''))) throw occupied(placement, "container's cgroup is not empty: groups below it have processes");
  if (isPaused(texts.get(frozen))) throw occupied(placement, "container's cgroup unexpectedly frozen");
}

function occupied({ path }: CgroupPlacement, cause: string): RuntimeError {
  return new RuntimeError('failedPrecondition', `linux.cgroupsPath: ${JSON.stringify(path.slice(0, 200))}: ${cause}`);
}
