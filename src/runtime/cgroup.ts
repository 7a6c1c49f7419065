/** Chooses the cgroup driver for a host. In: CgroupFacts. Out: CgroupDriver. Pure. */
import { type CgroupFacts } from '#system';
import { type CgroupDriver } from './cgroup-driver.ts';
import { v1Driver } from './cgroup-v1.ts';
import { v2Driver } from './cgroup-v2.ts';

/** The driver for this host. */
export function cgroupDriver(facts: CgroupFacts): CgroupDriver {
  return facts.mode === 'v2' ? v2Driver(facts) : v1Driver(facts);
}
