/**
 * How a process object wants to be scheduled: scheduler, I/O priority, CPU affinity of an exec. In: unknown JSON. Out: typed values, or
 * invalidArgument with the document's path. No policy beyond what sched_setattr(2) says of values that exclude each other. Pure.
 * Source: opencontainers/runtime-spec 1.3, config.md "Linux Process"; sched(7), ioprio_set(2), sched_setaffinity(2).
 */
import { invalidArgument, limits } from '#core';
import { type Decoder, arrayOf, compact, decodeInt32, decodeString, decodeUint64, fieldsOf, integerBetween, oneOf, pathOf } from './decode.ts';

/** Scheduling policies in the order of their kernel numbers, 0 to 6. */
export const schedulerPolicies = ['SCHED_OTHER', 'SCHED_FIFO', 'SCHED_RR', 'SCHED_BATCH', 'SCHED_ISO', 'SCHED_IDLE', 'SCHED_DEADLINE'] as const;
/** One of `schedulerPolicies`. */
export type SchedulerPolicy = (typeof schedulerPolicies)[number];

/** Flags of sched_setattr(2); the first is bit 0, and so on. */
export const schedulerFlags = [
  'SCHED_FLAG_RESET_ON_FORK',
  'SCHED_FLAG_RECLAIM',
  'SCHED_FLAG_DL_OVERRUN',
  'SCHED_FLAG_KEEP_POLICY',
  'SCHED_FLAG_KEEP_PARAMS',
  'SCHED_FLAG_UTIL_CLAMP_MIN',
  'SCHED_FLAG_UTIL_CLAMP_MAX',
] as const;
/** One of `schedulerFlags`. */
export type SchedulerFlag = (typeof schedulerFlags)[number];

/** process.scheduler; times in nanoseconds. */
export interface SpecScheduler {
  readonly policy: SchedulerPolicy;
  /** -20 to 19 with SCHED_OTHER and SCHED_BATCH. */
  readonly nice: number;
  /** Of SCHED_FIFO and SCHED_RR, 1 to 99 there; 0 elsewhere. */
  readonly priority: number;
  readonly flags: readonly SchedulerFlag[];
  readonly runtime: bigint;
  readonly deadline: bigint;
  readonly period: bigint;
}

/** Classes of I/O priority; the kernel's numbers begin with 1. */
export const ioPriorityClasses = ['IOPRIO_CLASS_RT', 'IOPRIO_CLASS_BE', 'IOPRIO_CLASS_IDLE'] as const;

/** process.ioPriority. */
export interface SpecIoPriority {
  readonly class: (typeof ioPriorityClasses)[number];
  /** 0 (first) to 7. */
  readonly priority: number;
}

/** process.execCPUAffinity: numbers of CPUs, sorted. */
export interface SpecCpuAffinity {
  /** Before the process is in the container's cgroup. */
  readonly initial?: readonly number[];
  /** Once it is. */
  readonly final?: readonly number[];
}

/**
 * A list of numbers such as `0-3,7`, sorted, each once; an empty text is an empty list. Used for CPUs and memory nodes.
 * Throws invalidArgument for anything else, and for numbers above `limits.cpuNumberMax`.
 */
export const decodeNumberList: Decoder<readonly number[]> = (value, path) => {
  const text = decodeString(value, path);
  const numbers = new Set<number>();
  for (const part of text === '' ? [] : text.split(',')) {
    const match = /^\s*(\d{1,9})(?:-(\d{1,9}))?\s*$/.exec(part);
    if (match?.[1] === undefined) throw invalidArgument(path, `must be a list such as "0-3,7", not ${JSON.stringify(text.slice(0, 80))}`);
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last < first) throw invalidArgument(path, `the range ${first}-${last} ends before it begins`);
    if (last > limits.cpuNumberMax) throw invalidArgument(path, `${last} is above ${limits.cpuNumberMax}`);
    for (let number = first; number <= last; number += 1) numbers.add(number);
  }
  return [...numbers].toSorted((a, b) => a - b);
};

/** process.scheduler. */
export const decodeScheduler: Decoder<SpecScheduler> = (value, path) => {
  const fields = fieldsOf(value, path);
  const scheduler: SpecScheduler = {
    policy: fields.required('policy', oneOf('scheduling policy', schedulerPolicies)),
    nice: fields.withDefault('nice', decodeInt32, 0),
    priority: fields.withDefault('priority', decodeInt32, 0),
    flags: fields.withDefault('flags', arrayOf(oneOf('scheduler flag', schedulerFlags), 16), []),
    runtime: fields.withDefault('runtime', decodeUint64, 0n),
    deadline: fields.withDefault('deadline', decodeUint64, 0n),
    period: fields.withDefault('period', decodeUint64, 0n),
  };
  const { policy, nice, priority } = scheduler;
  const refuse = (field: string, cause: string): never => {
    throw invalidArgument(pathOf(path, field), cause);
  };
  if ((policy === 'SCHED_OTHER' || policy === 'SCHED_BATCH') && (nice < -20 || nice > 19)) refuse('nice', `${nice} is outside -20 to 19`);
  const isRealTime = policy === 'SCHED_FIFO' || policy === 'SCHED_RR';
  if (!isRealTime && priority !== 0) refuse('priority', `only with SCHED_FIFO or SCHED_RR, not with ${policy}`);
  if (isRealTime && (priority < 1 || priority > 99)) refuse('priority', `${priority} is outside 1 to 99`);
  for (const field of ['runtime', 'deadline', 'period'] as const)
    if (policy !== 'SCHED_DEADLINE' && scheduler[field] !== 0n) refuse(field, `only with SCHED_DEADLINE, not with ${policy}`);
  return scheduler;
};

/** process.ioPriority. */
export const decodeIoPriority: Decoder<SpecIoPriority> = (value, path) => {
  const fields = fieldsOf(value, path);
  return { class: fields.required('class', oneOf('I/O priority class', ioPriorityClasses)), priority: fields.withDefault('priority', integerBetween(0, 7), 0) };
};

/** process.execCPUAffinity. */
export const decodeCpuAffinity: Decoder<SpecCpuAffinity> = (value, path) => {
  const fields = fieldsOf(value, path);
  const list = (name: string): readonly number[] | undefined => {
    const numbers = fields.optional(name, decodeNumberList);
    return numbers?.length === 0 ? undefined : numbers;
  };
  return compact({ initial: list('initial'), final: list('final') });
};
