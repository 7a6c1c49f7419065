/**
 * The mounts of a container as steps, in two halves: what is opened in the host's mount namespace, and what is attached in the
 * container's. In: the document's mounts. Out: both lists. Pure.
 * Every bind source is cloned by descriptor before the namespaces part, so nothing of a container's root is ever resolved on the host;
 * every target is resolved below the root by the interpreter.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type SpecMount, type SpecResources } from '#oci';
import { type IdMappings, type Section, type Step, clone, createTarget, errno, mountAttr, ms, noSlot } from '#plan';
import { type CgroupDriver, type CgroupPlacement } from './cgroup-driver.ts';
import { attachJoinedProc, makeJoinedProc, planJoinedProc } from './joined-proc.ts';
import { type MountOptions, decodeMountOptions } from './mount-options.ts';
import { type MountPlan, attachBind, bindAttributes, checkProcTarget, planFileSystem, planPodMount, planRemount } from './mount-steps.ts';
import { type NamespaceTable, type PodSharing } from './namespaces.ts';
import { labelOptions } from './lsm.ts';
import { unsupported } from './refusals.ts';
import { localSlots } from './slots.ts';
import { type ContainerUsers, mapMount } from './user-namespace.ts';
import { type VolumeSource, attachOwn, imageMountAttributes, openLayers, openOwn } from './volumes.ts';

/** The user namespace that holds a mount's mappings. */
export interface MountUsers {
  readonly slot: number;
  readonly mappings: IdMappings;
  readonly origin: string;
}

/** What mounts depend on besides themselves. */
export interface MountContext {
  /** The container's user namespace, where it has one. */
  readonly users?: ContainerUsers | undefined;
  /**
   * New file systems are made with the sources, in the document's order: since Linux 6.8 mountinfo shows mounts by when they were made, and who reads it expects that order. They show the namespaces of whoever
   * makes them, so those must have been entered.
   */
  readonly inOrder?: boolean;
  /** Slots below this one are taken; default: the first for sources. */
  readonly firstSlot?: number;
  readonly table: NamespaceTable;
  readonly pod: PodSharing | undefined;
  readonly bundle: string | undefined;
  /** By the `source` of bind mounts. */
  readonly volumes: Readonly<Record<string, VolumeSource>>;
  /** SELinux label of new file systems. */
  readonly mountLabel?: string | undefined;
  readonly cgroups: { readonly mode: 'v1' | 'hybrid' | 'v2'; readonly driver: CgroupDriver; readonly placement: CgroupPlacement; readonly resources: SpecResources | undefined };
}

interface Slots {
  next(origin: string): number;
  /** User namespaces that mounts have asked for so far. */
  readonly users: MountUsers[];
  /** What goes before the container's process. */
  readonly sections: Section[];
}

function slotCounter(first: number): Slots {
  let slot = first;
  return {
    users: [],
    sections: [],
    next: (origin) => {
      if (slot === localSlots.end) throw new RuntimeError('resourceExhausted', `${origin}: more than ${localSlots.end - first} bind mounts`);
      slot += 1;
      return slot - 1;
    },
  };
}

interface MountPlace {
  readonly path: string;
  readonly origin: string;
}

const sameMappings = (one: IdMappings, other: IdMappings): boolean => JSON.stringify([one.uids, one.gids]) === JSON.stringify([other.uids, other.gids]);

/** Slot of the user namespace that a bind is mapped by, undefined where it is not: the container's, or one that is made for mounts with these mappings. */
function planIdMap(mount: SpecMount, options: MountOptions, slots: Slots, users: ContainerUsers | undefined, { path, origin }: MountPlace): number | undefined {
  if (!mount.idMapped && options.idMap === undefined) return undefined;
  const own = mount.idMappings;
  if (own === undefined || own.uids.length + own.gids.length === 0) {
    if (users === undefined) throw invalidArgument(`${path}.uidMappings`, 'required where the container has no user namespace');
    return users.slot;
  }
  if (users !== undefined && sameMappings(users.mappings, own)) return users.slot;
  const known = slots.users.find(({ mappings }) => sameMappings(mappings, own));
  if (known !== undefined) return known.slot;
  const slot = slots.next(origin);
  slots.users.push({ slot, mappings: own, origin: `${origin}/uidMappings` });
  return slot;
}

/**
 * The clone of a bind's source. Links of the host are followed, once. A pod's volume is made where it is missing, and is refused where mounts shall cross
 * and cannot: a copy of a private mount would silently see nothing.
 */
function openSource(path: string, slot: number, options: MountOptions, { origin, volume }: { readonly origin: string; readonly volume: boolean }): readonly Step[] {
  const open: Step = { kind: 'openTree', dir: noSlot, path, resolve: 0, recursive: options.recursive ? 1 : 0, out: slot, origin };
  if (!volume) return [open];
  const wanted = options.propagation & (ms.shared | ms.slave);
  return [
    { ...open, ignore: [errno.noEntry], skipOnIgnored: 1 },
    { kind: 'skip', count: 2 },
    { kind: 'makeDirectory', dir: noSlot, path, mode: 0o755, parents: 1, origin },
    open,
    ...(wanted === 0 ? [] : [{ kind: 'requirePropagation', dir: noSlot, path, wanted, origin } as const]),
  ];
}

function planBind(mount: SpecMount, options: MountOptions, slots: Slots, context: MountContext, { path, origin }: MountPlace): MountPlan {
  const slot = slots.next(origin);
  const idMap = planIdMap(mount, options, slots, context.users, { path, origin });
  const source = mount.source ?? '';
  if (source === '') throw invalidArgument(`${path}.source`, 'required for a bind mount');
  // Values such as `size=1k`, which mount(2) passes over, are passed over in documents that callers of other runtimes write; a word alone may be a misspelled `ro`.
  const unknown = options.data.find((word) => context.pod !== undefined || !word.includes('='));
  if (unknown !== undefined) throw invalidArgument(`${path}.options`, `unknown option ${JSON.stringify(unknown.slice(0, 80))} for a bind mount`);
  if (!source.startsWith('/') && context.bundle === undefined) throw invalidArgument(`${path}.source`, 'must be an absolute path');
  const absolute = source.startsWith('/') ? source : `${context.bundle}/${source}`;
  return {
    sources: [
      ...openSource(absolute, slot, options, { origin, volume: mount.volume === true }),
      ...(idMap === undefined ? [] : [mapMount(slot, idMap, origin, options.idMap === 'tree')]),
    ],
    podSources: [],
    prepare: [],
    attach: [...bindAttributes(slot, options, origin), ...attachBind(slot, mount.destination, origin)],
  };
}

/** A directory of the engine's own for a user namespace: mapped, or given to its root where the kernel cannot map. */
function settleOwners({ path, mapOwners = true, origin }: Extract<VolumeSource, { kind: 'directory' }>, slot: number, users: ContainerUsers): Step {
  return mapOwners ? mapMount(slot, users.slot, origin) : { kind: 'changeOwner', dir: noSlot, path, ...users.root, origin };
}

/** What the engine put behind the mount in place of a path. */
function planVolume(mount: SpecMount, source: VolumeSource, options: MountOptions, slot: number, { users, mountLabel }: Pick<MountContext, 'users' | 'mountLabel'>): MountPlan {
  const alone: MountOptions = { ...options, recursive: false };
  if (source.kind === 'layers') {
    const { origin } = source;
    const attributes = bindAttributes(slot, { ...alone, set: imageMountAttributes(options.set) }, origin);
    return {
      sources: [],
      podSources: [],
      prepare: openLayers(source, slot, { userNamespace: users?.slot, mountLabel }),
      attach: [...attributes, ...attachBind(slot, mount.destination, origin)],
    };
  }
  const { sources, attach } = openOwn(source, slot, mountLabel);
  // Owners in a directory of the engine's are numbers of the container.
  const mapped = source.kind === 'directory' && users !== undefined ? [settleOwners(source, slot, users)] : [];
  return {
    sources: [...sources, ...mapped],
    podSources: [],
    prepare: [],
    attach: [...attach, ...attachOwn(source, slot, mount.destination, bindAttributes(slot, alone, source.origin))],
  };
}

/** Which namespace a file system shows; only who has rights over its user namespace may mount it. */
const shownNamespaces: Readonly<Record<string, 'network' | 'ipc' | 'cgroup' | 'pid'>> = { sysfs: 'network', mqueue: 'ipc', cgroup2: 'cgroup', proc: 'pid' };

/** A new file system; one that shows a namespace of the host's is made before the container's user namespace is entered. */
function planOwnFileSystem(
  type: string,
  mount: SpecMount,
  options: MountOptions,
  slot: number,
  { origin, context: { table, users } }: { readonly origin: string; readonly context: MountContext },
): MountPlan {
  const steps = planFileSystem(type, mount, options, slot, origin);
  const shown = shownNamespaces[type];
  const source = shown === undefined ? undefined : table[shown];
  const isInside = source === undefined || source.kind === 'new' || (source.kind === 'slot' && table.user.kind === 'slot');
  const early = users === undefined || isInside ? 0 : 1;
  return { sources: [], podSources: [], prepare: steps.slice(0, early), attach: steps.slice(early) };
}

/** Controllers of one hierarchy have their names as links to it, as on the host. */
function linkControllers(name: string, slot: number, origin: string): readonly Step[] {
  if (!name.includes(',')) return [];
  return name.split(',').map((controller): Step => ({ kind: 'makeLink', dir: slot, path: `/${controller}`, target: name, origin, ignore: [errno.exists] }));
}

/** v1: a tmpfs with one bind per hierarchy that holds the container. v2: the tree, which the cgroup namespace cuts off at the container. */
function planCgroupMount(mount: SpecMount, options: MountOptions, slots: Slots, context: MountContext, origin: string): MountPlan {
  const { cgroups } = context;
  const slot = slots.next(origin);
  if (cgroups.mode === 'v2') return planOwnFileSystem('cgroup2', { ...mount, source: 'cgroup' }, options, slot, { origin, context });
  const views = cgroups.driver.views(cgroups.placement, cgroups.resources).map((view) => ({ ...view, slot: slots.next(origin) }));
  const inner: MountOptions = { ...options, recursive: false, propagation: 0, data: [] };
  const lock: readonly Step[] =
    (options.set & mountAttr.readOnly) === 0
      ? []
      : [{ kind: 'setMountAttributes', slot, path: '', recursive: 0, set: BigInt(mountAttr.readOnly), clear: 0n, propagation: 0n, userNamespace: noSlot, origin }];
  return {
    sources: views.map((view): Step => ({ kind: 'openTree', dir: noSlot, path: view.path, resolve: 0, recursive: 0, out: view.slot, origin })),
    podSources: [],
    prepare: [],
    attach: [
      ...planFileSystem('tmpfs', { ...mount, source: 'tmpfs' }, { ...options, set: options.set & ~mountAttr.readOnly, superblock: [], data: ['mode=755'] }, slot, origin),
      ...views.flatMap((view): readonly Step[] => [
        ...bindAttributes(view.slot, inner, origin),
        { kind: 'moveMount', from: view.slot, root: localSlots.root, target: `${mount.destination}/${view.name}`, create: createTarget.directory, noLinks: 0, origin },
        ...linkControllers(view.name, slot, origin),
      ]),
      ...lock,
    ],
  };
}

function planMount(mount: SpecMount, index: number, slots: Slots, context: MountContext): MountPlan {
  const [path, origin] = [`mounts[${index}]`, `/mounts/${index}`];
  const type = mount.type ?? '';
  const decoded = decodeMountOptions(mount.options);
  const options = decoded.bind ? decoded : { ...decoded, data: [...decoded.data, ...labelOptions(type, context.mountLabel)] };
  const { pod, table } = context;
  if (context.users !== undefined && (options.propagation & ms.shared) !== 0) throw unsupported(`${path}.options`, 'passing mounts of a user namespace on to the host');
  if (mount.destination === '/') throw invalidArgument(`${path}.destination`, 'must not be the root');
  if (options.remount) return { sources: [], podSources: [], prepare: [], attach: planRemount(mount, options, path, origin) };
  checkProcTarget(mount, { type, isBind: options.bind || type === 'bind' }, path);
  const volume = Object.hasOwn(context.volumes, mount.source ?? '') ? context.volumes[mount.source ?? ''] : undefined;
  if (volume !== undefined) return planVolume(mount, volume, options, slots.next(origin), context);
  if (options.bind || type === 'bind') return planBind(mount, options, slots, context, { path, origin });
  if (mount.idMapped || options.idMap !== undefined) throw unsupported(`${path}.uidMappings`, 'only binds are mapped');
  if (type === '' || type === 'none') throw invalidArgument(`${path}.type`, 'required unless the mount is a bind');
  if (!/^[a-z0-9_.-]{1,32}$/.test(type)) throw invalidArgument(`${path}.type`, `is no name of a file system: ${JSON.stringify(type.slice(0, 80))}`);
  if (mount.destination === '/dev/shm' && type === 'tmpfs' && pod?.slots.mount !== undefined && pod.shmPath !== undefined)
    return planPodMount(mount, pod.shmPath, options, slots.next(origin), origin);
  if (type === 'proc' && table.pid.kind === 'slot') {
    if (pod?.slots.mount === undefined || pod.procPath === undefined) throw invalidArgument(path, "a shared PID namespace needs the pod's own /proc");
    return planPodMount(mount, pod.procPath, options, slots.next(origin), origin);
  }
  if (type === 'proc' && table.pid.kind === 'path') {
    const slot = slots.next(origin);
    if (pod !== undefined) return planJoinedProc(mount, table.pid.path, options, slot, origin);
    slots.sections.push(...makeJoinedProc(table.pid.path, options, slot, origin));
    return attachJoinedProc(mount, options, slot, origin);
  }
  if (type === 'cgroup' || type === 'cgroup2') return planCgroupMount(mount, options, slots, context, origin);
  return planOwnFileSystem(type, mount, options, slots.next(origin), { origin, context });
}

/** All mounts, in the document's order; the user namespaces to make first, for those with mappings of their own; and the sections that go before the container's. */
export function planMounts(mounts: readonly SpecMount[], context: MountContext): MountPlan & { readonly users: readonly MountUsers[]; readonly sections: readonly Section[] } {
  const slots = slotCounter(context.firstSlot ?? localSlots.sources);
  const plans = mounts.map((mount, index): MountPlan => {
    const plan = planMount(mount, index, slots, context);
    const [first, ...rest] = plan.attach;
    return context.inOrder === true && first?.kind === 'newFileSystem' ? { ...plan, sources: [first, ...plan.sources], attach: rest } : plan;
  });
  return {
    sources: plans.flatMap(({ sources }) => sources),
    podSources: plans.flatMap(({ podSources }) => podSources),
    prepare: plans.flatMap(({ prepare }) => prepare),
    users: slots.users,
    sections: slots.sections,
    attach: plans.flatMap(({ attach }) => attach),
  };
}

/** The visit to the pod's mount namespace and back to the host's, around the steps that clone from it. */
export function visitPod(pod: PodSharing | undefined, steps: readonly Step[]): readonly Step[] {
  if (steps.length === 0 || pod?.slots.mount === undefined) return [];
  return [
    { kind: 'openNamespace', type: clone.newMount, out: localSlots.ownMount },
    { kind: 'enterNamespace', slot: pod.slots.mount, type: clone.newMount },
    ...steps,
    { kind: 'enterNamespace', slot: localSlots.ownMount, type: clone.newMount },
  ];
}
