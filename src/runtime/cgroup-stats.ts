/** Where a group's statistics are. In: the host's cgroup mounts and a placement. Out: directories. Pure; `system` reads them. */
import { type CgroupFacts, type StatsGroups } from '#system';
import { type CgroupPlacement, cgroupComponents } from './cgroup-driver.ts';

/** v1 controllers whose files tell of a group what the cgroup2 tree does not. */
const counted = ['cpu', 'cpuacct', 'memory', 'blkio', 'pids', 'devices'] as const;

/** The directories of a group in every hierarchy that may hold it. */
export function statsGroups(facts: CgroupFacts, placement: CgroupPlacement): StatsGroups {
  const relative = cgroupComponents(placement).join('/');
  const v1 = counted.flatMap((name) => {
    const mountpoint = facts.v1.find(({ controllers }) => controllers.includes(name))?.mountpoint;
    return mountpoint === undefined ? [] : [[name, `${mountpoint}/${relative}`] as const];
  });
  return { ...(facts.unified === undefined ? {} : { unified: `${facts.unified.mountpoint}/${relative}` }), v1: Object.fromEntries(v1) };
}
