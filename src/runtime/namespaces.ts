/**
 * Namespaces of a container: which are new, which are joined and how. In: the document's list and the pod's slots. Out: a resolved
 * table and the steps. Pure. A namespace that is listed without a path is the pod's where the pod has a slot for it, else a new one; one that is not
 * listed is the host's.
 */
import { type NamespaceType, type RuntimeSpec, namespaceTypes } from '#oci';
import { type Step, clone, noSlot, open } from '#plan';
import { invalidArgument } from '#core';
import { localSlots } from './slots.ts';
import { unsupported } from './refusals.ts';
import { hasTimeOffsets } from './time-namespace.ts';

/** What a pod shares with its containers; numbers are slots of its shim. */
export interface PodSharing {
  readonly slots: {
    readonly net?: number;
    readonly ipc?: number;
    readonly uts?: number;
    readonly pid?: number;
    readonly user?: number;
    /** Mount namespace that holds the pod's /dev/shm and, with a shared PID namespace, its /proc. */ readonly mount?: number;
  };
  /** Path of the pod's shared memory inside that mount namespace. */
  readonly shmPath?: string;
  /** Path of the pod's procfs inside that mount namespace. */
  readonly procPath?: string;
}

/** Where one namespace comes from. */
export type NamespaceSource =
  | { readonly kind: 'host' }
  | { readonly kind: 'new' }
  | { readonly kind: 'slot'; readonly slot: number }
  | { readonly kind: 'path'; readonly path: string; readonly slot: number; readonly origin: string };

/** Sources by type. */
export type NamespaceTable = Readonly<Record<NamespaceType, NamespaceSource>>;

/** CLONE_* bit of each type. */
export const cloneFlagOf: Readonly<Record<NamespaceType, number>> = {
  pid: clone.newPid,
  network: clone.newNet,
  mount: clone.newMount,
  ipc: clone.newIpc,
  uts: clone.newUts,
  user: clone.newUser,
  cgroup: clone.newCgroup,
  time: clone.newTime,
};

const podSlotNames: Readonly<Partial<Record<NamespaceType, keyof PodSharing['slots']>>> = { network: 'net', ipc: 'ipc', uts: 'uts', pid: 'pid', user: 'user' };

/** The table, or an error for a combination that cannot be run. */
export function resolveNamespaces(spec: RuntimeSpec, pod: PodSharing | undefined): NamespaceTable {
  const sourceOf = (type: NamespaceType): NamespaceSource => {
    const index = spec.linux.namespaces.findIndex((namespace) => namespace.type === type);
    const found = spec.linux.namespaces[index];
    if (found === undefined) return { kind: 'host' };
    if (found.path !== undefined) return { kind: 'path', path: found.path, slot: localSlots.namespaces + namespaceTypes.indexOf(type), origin: `/linux/namespaces/${index}` };
    const name = podSlotNames[type];
    const slot = name === undefined ? undefined : pod?.slots[name];
    return slot === undefined ? { kind: 'new' } : { kind: 'slot', slot };
  };
  const table: NamespaceTable = {
    pid: sourceOf('pid'),
    network: sourceOf('network'),
    mount: sourceOf('mount'),
    ipc: sourceOf('ipc'),
    uts: sourceOf('uts'),
    user: sourceOf('user'),
    cgroup: sourceOf('cgroup'),
    time: sourceOf('time'),
  };
  const placeOf = (type: NamespaceType): string => `linux.namespaces[${spec.linux.namespaces.findIndex((namespace) => namespace.type === type)}]`;
  if (pod !== undefined) checkPodNamespaces(table, placeOf);
  if (table.user.kind === 'host' && spec.linux.hasIdMappings) throw invalidArgument('linux.uidMappings', 'needs a user namespace');
  if (table.user.kind === 'path' && !spec.linux.hasIdMappings)
    throw invalidArgument(`${placeOf('user')}.path`, 'the mappings of this user namespace are not known: no process is in it');
  if (table.user.kind !== 'host' && table.mount.kind !== 'new') throw unsupported(placeOf('user'), 'a user namespace without a mount namespace of its own');
  if (!hasTimeOffsets(spec.linux)) return table;
  if (table.time.kind === 'host') throw invalidArgument('linux.timeOffsets', 'needs a time namespace');
  if (table.time.kind === 'path') throw invalidArgument('linux.timeOffsets', `the clocks of ${placeOf('time')}.path cannot be shifted any more`);
  // Made by `planTimeOffsets`, and entered with those that exist.
  return { ...table, time: { kind: 'slot', slot: localSlots.namespaces + namespaceTypes.indexOf('time') } };
}

/** What a pod's container may not have. */
function checkPodNamespaces(table: NamespaceTable, placeOf: (type: NamespaceType) => string): void {
  if (table.mount.kind === 'host') throw invalidArgument('linux.namespaces', 'a container needs a mount namespace');
  // Its procfs is cloned from the process that is named, because nobody of ours may be in a PID namespace with the right to mount.
  if (table.pid.kind === 'path' && !/^\/proc\/\d+\/ns\/pid$/.test(table.pid.path)) throw unsupported(`${placeOf('pid')}.path`, 'only /proc/<pid>/ns/pid');
  if (table.mount.kind !== 'new') throw unsupported(placeOf('mount'), 'joining a mount namespace by path');
  if (table.user.kind === 'path') throw unsupported(`${placeOf('user')}.path`, 'joining a user namespace by path');
  // Only a PID namespace below the user namespace lets a procfs be mounted in it.
  if (table.user.kind !== 'host' && table.pid.kind === 'host') throw unsupported(placeOf('user'), "a user namespace beside the host's PID namespace");
}

/** Opens the files of namespaces that are joined by path: the user namespace, which mounts may be mapped to, or all others. Done in the host's mount namespace. */
export function openJoinedNamespaces(table: NamespaceTable, which: 'user' | 'others'): readonly Step[] {
  return namespaceTypes
    .filter((type) => (type === 'user') === (which === 'user'))
    .flatMap((type): readonly Step[] => {
      const source = table[type];
      return source.kind === 'path'
        ? [{ kind: 'openPath', dir: noSlot, path: source.path, flags: open.readOnly, mode: 0, resolve: 0, out: source.slot, origin: source.origin }]
        : [];
    });
}

/**
 * Enters what is joined and creates the rest, the mount namespace included. A joined PID namespace takes effect at the later fork: until then
 * the child holds the host's mounts and every capability, and a container with SYS_PTRACE in that namespace could take it over.
 */
export function enterNamespaces(table: NamespaceTable, except: readonly NamespaceType[] = []): readonly Step[] {
  const created = createdNamespaces(table, ['pid', 'time', 'user', ...except]);
  return [...joinNamespaces(table), ...(created === 0 ? [] : [{ kind: 'unshare', flags: created, origin: '/linux/namespaces' } as const])];
}

/** Enters what is joined, but for a user namespace: with that the rights go that the others need. */
export function joinNamespaces(table: NamespaceTable): readonly Step[] {
  return namespaceTypes.flatMap((type): readonly Step[] => {
    const source = table[type];
    if (type === 'user' || source.kind === 'host' || source.kind === 'new') return [];
    return [{ kind: 'enterNamespace', slot: source.slot, type: cloneFlagOf[type], ...(source.kind === 'path' ? { origin: source.origin } : {}) }];
  });
}

/** CLONE_* bits of the namespaces that are new, without the types in `except`. */
export function createdNamespaces(table: NamespaceTable, except: readonly NamespaceType[]): number {
  return namespaceTypes.filter((type) => table[type].kind === 'new' && !except.includes(type)).reduce((flags, type) => flags | cloneFlagOf[type], 0);
}
