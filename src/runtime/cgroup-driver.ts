/**
 * Control groups: placement, limits, attachment and removal as steps. In: the host's cgroup mounts and an OCI resources object.
 * Out: steps. Pure; what the host cannot limit is refused with the document's path before any step exists.
 *
 * Two drivers: v1 hierarchies (alone or beside a cgroup2 mount, "hybrid", where the cgroup2 directory is made too, because killing
 * through it is atomic), and pure v2. Only leaves hold processes.
 */
import { type SpecDeviceRule, type SpecResources } from '#oci';
import { type Step, errno, fileSystem, noSlot, open } from '#plan';
import { invalidArgument } from '#core';
import type { ControlValue } from './cgroup-limits.ts';
import { localSlots } from './slots.ts';

/** Where a process group lives: one absolute path, the same in every hierarchy, such as `/kubepods/pod1/abc`. */
export interface CgroupPlacement {
  readonly path: string;
  /**
   * v1 controllers in which a parent of the group has limits (or statistics are wanted): the group is made there even without limits
   * of its own, since otherwise its processes would live outside the parent. v2 needs none of this.
   */
  readonly controllers?: readonly string[];
}

/** Paths below a placement, such as `/inner`, by controller; an empty key is for every hierarchy, `unifiedTree` for the cgroup2 tree. */
export type SubGroups = ReadonlyMap<string, string>;
/** The key of the cgroup2 tree, beside those of v1 controllers. */
export const unifiedTree = 'unified';

/** How a child gets into its cgroup. */
export interface CgroupAttachment {
  /** Steps of the host section before the child is made. */
  readonly host: readonly Step[];
  /** Slot for `Section.cgroup`, where the kernel can create the child inside. */
  readonly slot?: number;
  /** First steps of the child. */
  readonly child: readonly Step[];
}

/** What is to be made below a placement. */
export interface CgroupRequest {
  readonly placement: CgroupPlacement;
  readonly resources?: SpecResources;
  /** False for a pod's parent group: no device rules, since those of its children decide. */
  readonly limitDevices: boolean;
  /** v2: who the group belongs to, so that who runs as this user inside may make groups of its own below; a user id of the host. */
  readonly owner?: number;
  /** Path of the resources object in its document. */
  readonly path: string;
  readonly origin: string;
}

/** One value that a control file is to have. */
export interface ControlWrite {
  /** Absolute path. */
  readonly file: string;
  readonly value: string;
  readonly origin: string;
  /** A file that is missing is passed over. */
  readonly optional?: true;
}

/** What new resources of a group that exists come down to. */
export interface CgroupUpdate {
  /** Directories and controllers that the values need; what is there already is no error. */
  readonly prepare: readonly Step[];
  /** In the order of the document, which need not be the order in which the kernel takes them; see `orderWrites`. */
  readonly writes: readonly ControlWrite[];
  /** v1: whoever is in the first group belongs into the others too, some of which may be new. Files named `cgroup.procs`. */
  readonly members: { readonly of: string; readonly in: readonly string[] };
}

/** Files that tell how much memory a group uses. */
export interface MemoryFiles {
  readonly usage: string;
  readonly stat: string;
  /** Field of `stat`: page cache that the kernel gives back first. */
  readonly inactiveField: string;
}

/** Planning for one kind of host. */
export interface CgroupDriver {
  /** Makes the directories and sets the limits. Throws failedPrecondition or invalidArgument with the document's path. */
  create(request: CgroupRequest): readonly Step[];
  /** Other limits for a group that exists; what the resources do not name stays. Device rules are not touched. Throws as `create` does. */
  update(request: Omit<CgroupRequest, 'limitDevices'> & { readonly resources: SpecResources }): CgroupUpdate;
  /** undefined where the host does not control memory. */
  memoryFiles(placement: CgroupPlacement): MemoryFiles | undefined;
  /** `optional`: groups that were not made are passed over (an exec does not know which have limits), but for those that `subGroups` names. */
  attach(placement: CgroupPlacement, options: { readonly resources?: SpecResources; readonly optional: boolean; readonly subGroups?: SubGroups }): CgroupAttachment;
  /** Kills everything below the placement and removes it; absence is no error. */
  remove(placement: CgroupPlacement, options: { readonly timeoutMs: number }): readonly Step[];
  /** Kills everything below the placement. */
  kill(placement: CgroupPlacement, options: { readonly timeoutMs: number }): readonly Step[];
  /** The file whose `oom_kill` count grows when the kernel kills a process for memory; empty where the group's memory is not controlled. */
  oomFile(placement: CgroupPlacement, resources: SpecResources | undefined): string;
  /** Files that a process writes `0` to in order to enter the group. */
  procsFiles(placement: CgroupPlacement): readonly string[];
  /** Controllers that the resources limit: what the placements below this group must name. */
  limited(resources: SpecResources): readonly string[];
  /** Controllers that every group is made for, whatever its limits. */
  readonly always: readonly string[];
  /** Directories of the group in mount order for a container's view: name below /sys/fs/cgroup and path on the host. */
  views(placement: CgroupPlacement, resources: SpecResources | undefined): readonly { readonly name: string; readonly path: string }[];
}

/** Devices that every container may use. Source: runtime-spec config-linux.md "Default Devices", and mknod as runc and crun allow it. */
export const defaultDeviceRules: readonly SpecDeviceRule[] = [
  { allow: true, type: 'c', access: 'm' },
  { allow: true, type: 'b', access: 'm' },
  ...(
    [
      [1, 3],
      [1, 5],
      [1, 7],
      [1, 8],
      [1, 9],
      [5, 0],
      [5, 2],
    ] as const
  ).map(([major, minor]): SpecDeviceRule => ({ allow: true, type: 'c', major, minor, access: 'rwm' })),
  { allow: true, type: 'c', major: 136, access: 'rwm' },
];

/** Everything is denied first; then the document's rules, then the defaults, each overriding those before it. */
export function deviceRulesOf(resources: SpecResources | undefined): readonly SpecDeviceRule[] {
  return [{ allow: false, type: 'a' }, ...(resources?.devices ?? []), ...defaultDeviceRules];
}

/** The placement's path as components. Throws invalidArgument unless it is absolute, without `.` and `..`, below the root. */
export function cgroupComponents({ path }: CgroupPlacement): readonly string[] {
  const parts = path.split('/').filter((part) => part !== '');
  if (!path.startsWith('/') || parts.length === 0 || parts.includes('..') || parts.includes('.'))
    throw invalidArgument('linux.cgroupsPath', `must be an absolute path without "..", not ${JSON.stringify(path.slice(0, 200))}`);
  return parts;
}

/** The values of a group's limits as writes. `directoryOf`: the group's directory, by controller. */
export function writesOf(values: readonly ControlValue[], directoryOf: (controller: string) => string, origin: string): readonly ControlWrite[] {
  return values.map(({ controller, file, value, field, optional }) => ({
    file: `${directoryOf(controller)}/${file}`,
    value,
    origin: originOf(origin, field),
    ...(optional === undefined ? {} : { optional }),
  }));
}

/** A write as a step. */
export function stepOfControl({ file, value, origin, optional }: ControlWrite): Step {
  return { ...writeControl(file, value, origin), ...(optional === undefined ? {} : { ignore: missingGroup }) };
}

/** One write to a control file. */
export function writeControl(file: string, value: string, origin: string): Step {
  return { kind: 'writeFile', dir: noSlot, path: file, data: Buffer.from(value), fileSystem: fileSystem.cgroup, origin };
}

/** Origin of a field such as `cpu.shares` below the resources object's. */
export function originOf(origin: string, field: string): string {
  return `${origin}/${field.replaceAll('.', '/')}`;
}

/** Opens the cgroup2 directory that a child is created in. */
export function openCgroup(directory: string): Step {
  return { kind: 'openPath', dir: noSlot, path: directory, flags: open.readOnly | open.directory, mode: 0, resolve: 0, out: localSlots.cgroup };
}

/** Errno of a missing controller directory. */
export const missingGroup: readonly number[] = [errno.noEntry];
