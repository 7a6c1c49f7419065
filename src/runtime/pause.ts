/**
 * Pausing and resuming the processes of a container. In: the host's facts and a placement. Out: plans, and the file that tells the state. Pure.
 *
 * Where a cgroup2 tree is mounted, alone or beside v1 hierarchies, its freezer is used: what it stops can still be killed. Else the v1 freezer, whose processes
 * must be thawed before they die.
 */
import { RuntimeError } from '#core';
import { type Plan, type Step, errno } from '#plan';
import { type HostFacts } from '#system';
import { type CgroupPlacement, cgroupComponents } from './cgroup-driver.ts';

interface Freezer {
  readonly cgroup: string;
  /** Holds the state: `1`, or `FROZEN`. */
  readonly file: string;
}

function freezerOf(host: HostFacts, placement: CgroupPlacement): Freezer | undefined {
  const { unified, v1 } = host.cgroups;
  const group = cgroupComponents(placement).join('/');
  if (unified !== undefined) return { cgroup: `${unified.mountpoint}/${group}`, file: `${unified.mountpoint}/${group}/cgroup.freeze` };
  const mountpoint = v1.find(({ controllers }) => controllers.includes('freezer'))?.mountpoint;
  return mountpoint === undefined ? undefined : { cgroup: `${mountpoint}/${group}`, file: `${mountpoint}/${group}/freezer.state` };
}

function stepOf(host: HostFacts, placement: CgroupPlacement, frozen: boolean, timeoutMs: number): Step {
  const freezer = freezerOf(host, placement);
  if (freezer === undefined) throw new RuntimeError('failedPrecondition', `${frozen ? 'pause' : 'resume'} container: this host has no freezer controller`);
  return { kind: 'freezeCgroup', cgroup: freezer.cgroup, frozen: frozen ? 1 : 0, timeoutMs };
}

/** Stops every process of the group, and returns when they have stopped; after the time-out they run on and the plan has failed. Throws failedPrecondition. */
export function planFreeze(host: HostFacts, placement: CgroupPlacement, options: { readonly timeoutMs: number }): Plan {
  return { sections: [{ actor: 'host', steps: [stepOf(host, placement, true, options.timeoutMs)] }] };
}

/** Lets every process of the group go on. Throws failedPrecondition. */
export function planThaw(host: HostFacts, placement: CgroupPlacement): Plan {
  return { sections: [{ actor: 'host', steps: [stepOf(host, placement, false, 0)] }] };
}

/** Steps that thaw a group which is about to be killed, where a frozen process would not die; what is not there is no error. */
export function thawForKill(cgroup: string): readonly Step[] {
  return [{ kind: 'freezeCgroup', cgroup, frozen: 0, timeoutMs: 0, ignore: [errno.noEntry] }];
}

/** The file whose content is `1` or `FROZEN` while the group is paused, any other word while it is not; empty where nothing can be paused. */
export function freezeFileOf(host: HostFacts, placement: CgroupPlacement): string {
  return freezerOf(host, placement)?.file ?? '';
}

/** True where the text of that file says that the group is paused. */
export function isPaused(text: string | undefined): boolean {
  return ['1', 'FROZEN'].includes(text?.trim() ?? '');
}
