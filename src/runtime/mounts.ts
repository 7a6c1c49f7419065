/**
 * The mounts of a container as steps, in two halves: what is opened in the host's mount namespace, and what is attached in the
 * container's. In: the document's mounts. Out: both lists. Pure.
 * Every bind source is cloned by descriptor before the namespaces part, so nothing of a container's root is ever resolved on the host;
 * every target is resolved below the root by the interpreter.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type SpecMount, type SpecResources } from '#oci';
import { type IdMappings, type Step, clone, createTarget, errno, mountAttr, ms, noSlot, open } from '#plan';
import { type CgroupDriver, type CgroupPlacement } from './cgroup-driver.ts';
import { type MountOptions, decodeMountOptions } from './mount-options.ts';
import { type NamespaceTable, type PodSharing } from './namespaces.ts';
import { labelOptions } from './lsm.ts';
import { unsupported } from './refusals.ts';
import { localSlots } from './slots.ts';
import { type ContainerUsers, mapMount } from './user-namespace.ts';
import { type VolumeSource, attachOwn, imageMountAttributes, openLayers, openOwn } from './volumes.ts';

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
}

function slotCounter(first: number): Slots {
  let slot = first;
  return {
    users: [],
    next: (origin) => {
      if (slot === localSlots.end) throw new RuntimeError('resourceExhausted', `${origin}: more than ${localSlots.end - first} bind mounts`);
      slot += 1;
      return slot - 1;
    },
  };
}

const propagationBits = (options: MountOptions): number => (options.propagation === 0 ? ms.private : options.propagation);

/**
 * Attributes and propagation of a bind. A propagation word without `r` on a recursive bind counts for what is mounted below as well: otherwise
 * those mounts would stay peers of the host's.
 */
function bindAttributes(slot: number, options: MountOptions, origin: string): readonly Step[] {
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

/** Attaches a bind; whether its source is a directory is known only when it is open, so the plan looks and takes one of two ways. */
function attachBind(slot: number, target: string, origin: string): readonly Step[] {
  const move = (create: number): Step => ({ kind: 'moveMount', from: slot, root: localSlots.root, target, create, noLinks: 0, origin });
  return [
    {
      kind: 'openPath',
      dir: slot,
      path: '.',
      flags: open.path | open.directory,
      mode: 0,
      resolve: 0,
      out: localSlots.scratch,
      origin,
      ignore: [errno.notDirectory],
      skipOnIgnored: 2,
    },
    move(createTarget.directory),
    { kind: 'skip', count: 1 },
    move(createTarget.file),
  ];
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
  if (options.data.length > 0) throw invalidArgument(`${path}.options`, `unknown option ${JSON.stringify(options.data[0]?.slice(0, 80))} for a bind mount`);
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

/** A clone of something that the pod's mount namespace holds. */
function planPodMount(mount: SpecMount, from: string, options: MountOptions, slot: number, origin: string): MountPlan {
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

/**
 * The procfs of the process whose PID namespace is joined. Only a process inside could mount a new one, and none of ours may be there with the
 * right to mount; so a visit to that process's mount namespace clones its own.
 */
function planJoinedProc(mount: SpecMount, namespacePath: string, options: MountOptions, slot: number, origin: string): MountPlan {
  const noLinks = 0x06; // RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS: /proc there may be anything
  return {
    sources: [
      { kind: 'openNamespace', type: clone.newMount, out: localSlots.ownMount },
      { kind: 'openPath', dir: noSlot, path: namespacePath.replace(/pid$/, 'mnt'), flags: open.readOnly, mode: 0, resolve: 0, out: localSlots.scratch, origin },
      { kind: 'enterNamespace', slot: localSlots.scratch, type: clone.newMount, origin },
      { kind: 'openTree', dir: noSlot, path: '/proc', resolve: noLinks, recursive: 0, out: slot, origin },
      { kind: 'enterNamespace', slot: localSlots.ownMount, type: clone.newMount, origin },
    ],
    podSources: [],
    prepare: [],
    attach: planPodMount(mount, '', options, slot, origin).attach,
  };
}

function planFileSystem(type: string, mount: SpecMount, options: MountOptions, slot: number, origin: string): readonly Step[] {
  const source = mount.source === undefined || mount.source === '' ? [] : [`source=${mount.source}`];
  // /proc and /sys must be plain directories of the root itself (CVE-2023-27561).
  const noLinks = type === 'proc' || type === 'sysfs' ? 1 : 0;
  const propagation: readonly Step[] =
    options.propagation === 0
      ? []
      : [{ kind: 'setMountAttributes', slot, path: '', recursive: 0, set: 0n, clear: 0n, propagation: BigInt(options.propagation), userNamespace: noSlot, origin }];
  const copyUp: readonly Step[] = options.copyUp
    ? [
        // What the image holds at the target is copied into the new file system before that covers it.
        { kind: 'copyTree', fromDir: localSlots.root, from: mount.destination, dir: slot, path: '.', origin },
      ]
    : [];
  // With content to copy the file system must be writable first.
  const late = options.copyUp ? options.set & mountAttr.readOnly : 0;
  const readOnly: readonly Step[] =
    late === 0 ? [] : [{ kind: 'setMountAttributes', slot, path: '', recursive: 0, set: BigInt(late), clear: 0n, propagation: 0n, userNamespace: noSlot, origin }];
  return [
    { kind: 'newFileSystem', type, options: [...source, ...options.data], attributes: (options.set | options.setRecursive) & ~late, out: slot, origin },
    ...copyUp,
    ...propagation,
    { kind: 'moveMount', from: slot, root: localSlots.root, target: mount.destination, create: createTarget.directory, noLinks, origin },
    ...readOnly,
  ];
}

/** Which namespace a file system shows; only who has rights over its user namespace may mount it. */
const shownNamespaces: Readonly<Record<string, 'network' | 'ipc' | 'cgroup'>> = { sysfs: 'network', mqueue: 'ipc', cgroup2: 'cgroup' };

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
      ...planFileSystem('tmpfs', { ...mount, source: 'tmpfs' }, { ...options, set: options.set & ~mountAttr.readOnly, data: ['mode=755'] }, slot, origin),
      ...views.flatMap((view): readonly Step[] => [
        ...bindAttributes(view.slot, inner, origin),
        { kind: 'moveMount', from: view.slot, root: localSlots.root, target: `${mount.destination}/${view.name}`, create: createTarget.directory, noLinks: 0, origin },
      ]),
      ...lock,
    ],
  };
}

function planMount(mount: SpecMount, index: number, slots: Slots, context: MountContext): MountPlan {
  const [path, origin] = [`mounts[${index}]`, `/mounts/${index}`];
  const type = mount.type ?? '';
  const decoded = decodeMountOptions(mount.options, `${path}.options`);
  const options = decoded.bind ? decoded : { ...decoded, data: [...decoded.data, ...labelOptions(type, context.mountLabel)] };
  const { pod, table } = context;
  if (context.users !== undefined && (options.propagation & ms.shared) !== 0) throw unsupported(`${path}.options`, 'passing mounts of a user namespace on to the host');
  if (mount.destination === '/') throw invalidArgument(`${path}.destination`, 'must not be the root');
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
  if (type === 'proc' && table.pid.kind === 'path') return planJoinedProc(mount, table.pid.path, options, slots.next(origin), origin);
  if (type === 'cgroup' || type === 'cgroup2') return planCgroupMount(mount, options, slots, context, origin);
  return planOwnFileSystem(type, mount, options, slots.next(origin), { origin, context });
}

/** All mounts, in the document's order, and the user namespaces to make first, for those with mappings of their own. */
export function planMounts(mounts: readonly SpecMount[], context: MountContext): MountPlan & { readonly users: readonly MountUsers[] } {
  const slots = slotCounter(context.firstSlot ?? localSlots.sources);
  const plans = mounts.map((mount, index) => planMount(mount, index, slots, context));
  return {
    sources: plans.flatMap(({ sources }) => sources),
    podSources: plans.flatMap(({ podSources }) => podSources),
    prepare: plans.flatMap(({ prepare }) => prepare),
    users: slots.users,
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
