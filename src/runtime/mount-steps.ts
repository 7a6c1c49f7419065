/**
 * What the mounts of a container are made of: a bind, a new file system, a clone of a pod's mount. In: decoded options, a slot. Out: steps of the container's process. Pure.
 */
import { invalidArgument } from '#core';
import { type SpecMount } from '#oci';
import { type Step, createTarget, mountAttr, ms, noSlot } from '#plan';
import { type MountOptions } from './mount-options.ts';
import { localSlots } from './slots.ts';

/** Steps by the mount namespace that they run in. */
export interface MountPlan {
  /** In the host's. */
  readonly sources: readonly Step[];
  /** In the pod's, which the child visits before it makes its own. */
  readonly podSources: readonly Step[];
  /** In the container's, before its root is made. */
  readonly prepare: readonly Step[];
  /** In the container's, before the pivot. */
  readonly attach: readonly Step[];
}

/** Files of procfs that may be covered by a bind, as lxcfs does. */
const coveredFiles = new Set(
  ['cpuinfo', 'diskstats', 'meminfo', 'stat', 'swaps', 'uptime', 'loadavg', 'slabinfo', 'sys/kernel/ns_last_pid', 'sys/crypto/fips_enabled'].map((name) => `/proc/${name}`),
);

/** Refuses what would stand in the way of procfs: other mounts on /proc are not what they seem to be, and writes to it are relied on (CVE-2019-16884). */
export function checkProcTarget({ destination }: SpecMount, { type, isBind }: { readonly type: string; readonly isBind: boolean }, path: string): void {
  if (destination === '/proc' && !isBind && type !== 'proc')
    throw invalidArgument(`${path}.destination`, `only procfs may be mounted on /proc, not ${JSON.stringify(type.slice(0, 80))}`);
  if (destination.startsWith('/proc/') && !(isBind && coveredFiles.has(destination)))
    throw invalidArgument(`${path}.destination`, `nothing may be mounted on ${JSON.stringify(destination.slice(0, 200))} inside of procfs`);
}

/** Other flags for what is mounted at the destination already. */
export function planRemount({ destination }: SpecMount, options: MountOptions, path: string, origin: string): readonly Step[] {
  const [word] = [...options.superblock, ...options.data];
  if (word !== undefined)
    throw invalidArgument(`${path}.options`, `the option ${JSON.stringify(word.slice(0, 80))} cannot be changed by a remount, only those of the mount itself`);
  const of = (recursive: number, set: number, clear: number, propagation: number): readonly Step[] =>
    set === 0 && clear === 0 && propagation === 0
      ? []
      : [
          {
            kind: 'setMountAttributes',
            slot: localSlots.root,
            path: destination,
            recursive,
            set: BigInt(set),
            clear: BigInt(clear),
            propagation: BigInt(propagation),
            userNamespace: noSlot,
            origin,
          },
        ];
  return [
    ...of(1, options.setRecursive, options.clearRecursive, 0),
    ...of(0, options.set, options.clear, 0),
    ...of(options.propagationRecursive ? 1 : 0, 0, 0, options.propagation),
  ];
}

const propagationBits = (options: MountOptions): number => (options.propagation === 0 ? ms.private : options.propagation);

/**
 * Attributes and propagation of a bind. A propagation word without `r` on a recursive bind counts for what is mounted below as well: otherwise
 * those mounts would stay peers of the host's.
 */
export function bindAttributes(slot: number, options: MountOptions, origin: string): readonly Step[] {
  const of = (recursive: number, set: number, clear: number, propagation: number): Step => ({
    kind: 'setMountAttributes',
    slot,
    path: '',
    recursive,
    set: BigInt(set),
    clear: BigInt(clear),
    propagation: BigInt(propagation),
    userNamespace: noSlot,
    origin,
  });
  // `rw` on a bind never lifts the source's own read-only state.
  const clear = options.clear & ~mountAttr.readOnly;
  if (!options.recursive) return [of(0, options.set | options.setRecursive, clear | options.clearRecursive, propagationBits(options))];
  return [of(1, options.setRecursive, options.clearRecursive, propagationBits(options)), ...(options.set === 0 && clear === 0 ? [] : [of(0, options.set, clear, 0)])];
}

/** Attaches a bind, on a directory or a file as its source is one. */
export function attachBind(slot: number, target: string, origin: string): readonly Step[] {
  // Files that others make up for a container cover those of its procfs, which is no target otherwise.
  const isCover = coveredFiles.has(target);
  return [{ kind: 'moveMount', from: slot, root: localSlots.root, target, create: isCover ? createTarget.none : createTarget.asSource, noLinks: isCover ? 2 : 0, origin }];
}

/** A clone of something that the pod's mount namespace holds. */
export function planPodMount(mount: SpecMount, from: string, options: MountOptions, slot: number, origin: string): MountPlan {
  return {
    sources: [],
    podSources: [{ kind: 'openTree', dir: noSlot, path: from, resolve: 0, recursive: 0, out: slot, origin }],
    prepare: [],
    attach: [
      ...bindAttributes(slot, { ...options, recursive: false }, origin),
      { kind: 'moveMount', from: slot, root: localSlots.root, target: mount.destination, create: createTarget.directory, noLinks: mount.type === 'proc' ? 1 : 0, origin },
    ],
  };
}

/** What a mount(8) word of a whole file system comes down to, where it says nothing of a bind: only types that store data care for `ro` beyond their mount. */
const withoutStore = new Set(['proc', 'sysfs', 'tmpfs', 'ramfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2', 'devtmpfs', 'overlay']);

/** A new file system, made and attached. */
export function planFileSystem(type: string, mount: SpecMount, options: MountOptions, slot: number, origin: string): readonly Step[] {
  const source = mount.source === undefined || mount.source === '' ? [] : [`source=${mount.source}`];
  // /proc and /sys must be plain directories of the root itself (CVE-2023-27561).
  const noLinks = type === 'proc' || type === 'sysfs' ? 1 : 0;
  const attributes = (set: number, propagation: number): Step => ({
    kind: 'setMountAttributes',
    slot,
    path: '',
    recursive: 0,
    set: BigInt(set),
    clear: 0n,
    propagation: BigInt(propagation),
    userNamespace: noSlot,
    origin,
  });
  // Memory that covers a directory has its mode unless it is told another: /tmp stays what it was, and /run too.
  const takesMode = type === 'tmpfs' && !options.data.some((word) => word.startsWith('mode='));
  const fill: readonly Step[] = [
    ...(takesMode ? [{ kind: 'copyMode', fromDir: localSlots.root, from: mount.destination, slot, origin } as const] : []),
    // What the image holds at the target is copied into the new file system before that covers it.
    ...(options.copyUp ? [{ kind: 'copyTree', fromDir: localSlots.root, from: mount.destination, dir: slot, path: '.', origin } as const] : []),
  ];
  // To be filled the file system must be writable first.
  const late = fill.length > 0 ? options.set & mountAttr.readOnly : 0;
  const readOnly = (options.set & mountAttr.readOnly) !== 0 && !withoutStore.has(type) ? ['ro'] : [];
  return [
    {
      kind: 'newFileSystem',
      type,
      options: [...source, ...readOnly, ...options.superblock, ...options.data],
      attributes: (options.set | options.setRecursive) & ~late,
      out: slot,
      origin,
    },
    ...fill,
    ...(options.propagation === 0 ? [] : [attributes(0, options.propagation)]),
    { kind: 'moveMount', from: slot, root: localSlots.root, target: mount.destination, create: createTarget.directory, noLinks, origin },
    ...(late === 0 ? [] : [attributes(late, 0)]),
  ];
}
