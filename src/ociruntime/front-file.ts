/**
 * The file by which the front starts, signals and removes a container without asking anybody: its record and its plans. In: the record. Out: bytes, and the state document. Pure.
 * Layout: docs/native.md.
 */
import { type Plan, ByteWriter, encodePlan } from '#plan';
import type { ContainerRecord } from './record.ts';
import type { ContainerStatus } from './types.ts';

/** `BRTF` read as a little-endian number. */
const frontFileMagic = 0x4654_5242;
const frontFileVersion = 1;
const fileFlags = { killAll: 1, startByCompiler: 2, deleteByCompiler: 4 } as const;

/** What a front does by itself; an absent plan goes through the compiler. */
export interface FrontPlans {
  /** SIGKILL is for everything in the container's group: its processes have no PID namespace of their own. */
  readonly kill?: Plan;
  readonly pause?: Plan;
  readonly resume?: Plan;
  /** Ends what is left, and removes the state directory last. */
  readonly delete?: Plan;
  /** More than releasing the process belongs to a start. */
  readonly startByCompiler: boolean;
}

/** Text of a property that is one of several. */
const property = (name: string, value: unknown): string => `  ${JSON.stringify(name)}: ${JSON.stringify(value, undefined, 2).replaceAll('\n', '\n  ')}`;

/**
 * The state document in three parts, between which its status and its pid belong. Source: runtime-spec 1.3, runtime.md "State"; `rootfs`, `created` and `owner` are what runc adds.
 */
export function splitState(record: ContainerRecord): { readonly prefix: string; readonly middle: string; readonly suffix: string } {
  const { ociVersion, id, bundle, rootfs, created, annotations, owner } = record;
  const rest = { bundle, rootfs, created, ...(Object.keys(annotations).length === 0 ? {} : { annotations }), owner };
  return {
    prefix: `{\n${property('ociVersion', ociVersion)},\n${property('id', id)},\n  "status": "`,
    middle: '",\n  "pid": ',
    suffix: `,\n${Object.entries(rest)
      .map(([name, value]) => property(name, value))
      .join(',\n')}\n}`,
  };
}

/** The state document with its newline; a container that has ended has pid 0. */
export function describeState(record: ContainerRecord, status: ContainerStatus): string {
  const { prefix, middle, suffix } = splitState(record);
  return `${prefix}${status}${middle}${status === 'stopped' ? 0 : record.pid}${suffix}\n`;
}

/** The file as bytes. */
export function encodeFrontFile(record: ContainerRecord, plans: FrontPlans): Uint8Array {
  const planOf = (plan: Plan | undefined): Uint8Array => (plan === undefined ? new Uint8Array() : encodePlan(plan));
  const { prefix, middle, suffix } = splitState(record);
  const flags =
    (plans.kill === undefined ? 0 : fileFlags.killAll) | (plans.startByCompiler ? fileFlags.startByCompiler : 0) | (plans.delete === undefined ? fileFlags.deleteByCompiler : 0);
  return new ByteWriter()
    .u32(frontFileMagic)
    .u32(frontFileVersion)
    .u32(record.pid)
    .u64(record.startTime)
    .u32(flags)
    .text(record.freezeFile)
    .text(prefix)
    .text(middle)
    .text(suffix)
    .bytes(planOf(plans.kill))
    .bytes(planOf(plans.pause))
    .bytes(planOf(plans.resume))
    .bytes(planOf(plans.delete))
    .take();
}
