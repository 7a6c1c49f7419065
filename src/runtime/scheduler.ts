/**
 * Scheduler, I/O priority and CPUs of a process as steps. In: a decoded process object. Out: steps, or errors with the document's path. Pure.
 * Source: runtime-spec 1.3, config.md "Linux Process"; sched(7), sched_setattr(2), ioprio_set(2).
 *
 * They are set before the rights fall that they need. Two things do not get through a fork, which some processes make later: SCHED_FLAG_RESET_ON_FORK
 * is therefore set afterwards, which needs no right; a process with SCHED_DEADLINE cannot fork at all.
 */
import { type SpecCpuAffinity, type SpecProcess, type SpecScheduler, ioPriorityClasses, schedulerFlags, schedulerPolicies } from '#oci';
import { type Step, errno } from '#plan';
import { bitMask } from './bit-mask.ts';
import { unsupported } from './refusals.ts';

const resetOnFork = 0x01n;
/** SCHED_FLAG_KEEP_POLICY and SCHED_FLAG_KEEP_PARAMS: only the flags change. */
const keepRest = 0x18n;

const flagsOf = ({ flags }: SpecScheduler): bigint => flags.reduce((bits, flag) => bits | (1n << BigInt(schedulerFlags.indexOf(flag))), 0n);

/** What a process object asks, by when it is done. */
export interface SchedulingPlan {
  /** With the rights of the runtime. */
  readonly privileged: readonly Step[];
  /** After the last fork. */
  readonly late: readonly Step[];
}

/** `forks`: the process continues in another one before it executes. `path` names the process object. */
export function planScheduling(process: SpecProcess, { forks, path }: { readonly forks: boolean; readonly path: string }): SchedulingPlan {
  const { scheduler, ioPriority } = process;
  const io: readonly Step[] =
    ioPriority === undefined
      ? []
      : [{ kind: 'setIoPriority', priority: ((ioPriorityClasses.indexOf(ioPriority.class) + 1) << 13) | ioPriority.priority, origin: `/${path}/ioPriority` }];
  if (scheduler === undefined) return { privileged: io, late: [] };
  if (forks && scheduler.policy === 'SCHED_DEADLINE') throw unsupported(`${path}.scheduler.policy`, 'SCHED_DEADLINE in a PID namespace that is joined, which takes a fork');
  const flags = flagsOf(scheduler);
  const { nice, priority, runtime, deadline, period } = scheduler;
  const origin = `/${path}/scheduler`;
  const set: Step = { kind: 'setScheduler', policy: schedulerPolicies.indexOf(scheduler.policy), flags, nice, priority, runtime, deadline, period, origin };
  if (!forks || (flags & resetOnFork) === 0n) return { privileged: [...io, set], late: [] };
  const later: Step = { kind: 'setScheduler', policy: 0, flags: resetOnFork | keepRest, nice: 0, priority: 0, runtime: 0n, deadline: 0n, period: 0n, origin };
  return { privileged: [...io, { ...set, flags: flags & ~resetOnFork }], late: [later] };
}

/** As many CPUs as the kernel's sets can have. */
const everyCpu = new Uint8Array(1024).fill(0xff);

/**
 * All CPUs that the cgroup allows: callers that were bound to some of them would hand that on, and since Linux 6.2 a cpuset does not lift it. Best effort, as with other runtimes; for containers and execs
 * that nobody of ours has started from a process of known affinity.
 */
export const freeCpus: Step = { kind: 'setCpuAffinity', mask: everyCpu, ignore: [errno.invalid, errno.perm] };

/** The CPUs of an exec, before and after it has entered the container's cgroup. */
export function planCpuAffinity(affinity: SpecCpuAffinity | undefined, path: string): { readonly initial: readonly Step[]; readonly final: readonly Step[] } {
  const step = (numbers: readonly number[] | undefined, field: string): readonly Step[] =>
    numbers === undefined ? [] : [{ kind: 'setCpuAffinity', mask: bitMask(numbers), origin: `/${path}/execCPUAffinity/${field}` }];
  return { initial: step(affinity?.initial, 'initial'), final: step(affinity?.final, 'final') };
}
