/**
 * Containers in a user namespace. In: the document's mappings, where the root comes from. Out: sections and steps. Pure.
 *
 * Whatever needs rights on the host is done first: sources are opened, layers are mapped to the container's ids, the overlay is mounted, device nodes
 * are made. All of it comes together on a small file system (the stage), which becomes the root before the user namespace is entered; from then on
 * nothing of the host can be reached. A mount namespace below the user namespace follows, and there the container's root is put together
 * as any other.
 *
 * The stage shows the host's procfs and sysfs whole: the kernel lets a user namespace mount new ones only where those can be seen.
 */
import { invalidArgument } from '#core';
import { type RuntimeSpec, type SpecDevice, type SpecMount, type SpecProcess, rlimitTypes } from '#oci';
import { type IdMappings, type Section, type Step, clone, createTarget, errno, mapId, mountAttr, ms, noSlot, userNamespaceSections } from '#plan';
import { type HostFacts } from '#system';
import type { RootfsSource } from './container.ts';
import { listDevices, makeLinks } from './devices.ts';
import { type NamespaceTable, createdNamespaces, joinNamespaces } from './namespaces.ts';
import { overlayOptions, rootOptions } from './overlay.ts';
import { planScheduling } from './scheduler.ts';
import { localSlots } from './slots.ts';

/** The user namespace of a container: its slot, and how it maps ids. */
export interface ContainerUsers {
  readonly slot: number;
  readonly mappings: IdMappings;
  /** What the container's user and group 0 are outside. */
  readonly root: { readonly uid: number; readonly gid: number };
}

/** Barrier at which the host's side writes the maps of the container's own user namespace; those of mounts have the numbers from the next on. */
const mapsBarrier = 2;
const killSignal = 9;

/** The mappings of a document, undefined where it has none. Throws where they do not map user and group 0. */
export function mappingsOf(spec: RuntimeSpec): IdMappings | undefined {
  const { uidMappings: uids = [], gidMappings: gids = [] } = spec.linux;
  return uids.length === 0 && gids.length === 0 ? undefined : { uids, gids };
}

function rootOf({ uids, gids }: IdMappings): ContainerUsers['root'] {
  const [uid, gid] = [mapId(uids, 0), mapId(gids, 0)];
  if (uid === undefined) throw invalidArgument('linux.uidMappings', 'must map user 0');
  if (gid === undefined) throw invalidArgument('linux.gidMappings', 'must map group 0');
  return { uid, gid };
}

/** What user and group 0 of the document's user namespace are outside. Throws invalidArgument where it has no mappings. */
export function containerRootOf(spec: RuntimeSpec): ContainerUsers['root'] {
  const mappings = mappingsOf(spec);
  if (mappings === undefined) throw invalidArgument('linux.uidMappings', 'required with a user namespace');
  return rootOf(mappings);
}

/**
 * The document with the mappings of the user namespace that it joins by path, read by the caller. Throws invalidArgument where it has others itself; the same ones are
 * fine, for callers give both.
 */
export function withUserMappings(spec: RuntimeSpec, mappings: IdMappings): RuntimeSpec {
  const own = mappingsOf(spec);
  const same = (one: IdMappings['uids'], other: IdMappings['uids']): boolean =>
    one.length === other.length &&
    one.every((range) => other.some((candidate) => candidate.containerId === range.containerId && candidate.hostId === range.hostId && candidate.size === range.size));
  if (own !== undefined && !(same(own.uids, mappings.uids) && same(own.gids, mappings.gids)))
    throw invalidArgument('linux.uidMappings', 'differ from those of the user namespace that is joined');
  return { ...spec, linux: { ...spec.linux, hasIdMappings: true, uidMappings: mappings.uids, gidMappings: mappings.gids } };
}

/** The user namespace that the table asks for; undefined where it is the host's. */
export function usersOf(spec: RuntimeSpec, table: Pick<NamespaceTable, 'user'>): ContainerUsers | undefined {
  if (table.user.kind === 'host') return undefined;
  const [root, mappings] = [containerRootOf(spec), mappingsOf(spec) ?? { uids: [], gids: [] }];
  return { slot: table.user.kind === 'new' ? localSlots.userNamespace : table.user.slot, mappings, root };
}

/** The sections that make the namespaces of the container and of its mounts; they come before the container's own. */
export function planUserNamespaces(
  users: ContainerUsers | undefined,
  table: NamespaceTable,
  mounts: readonly { readonly slot: number; readonly mappings: IdMappings; readonly origin: string }[],
): readonly Section[] {
  return [
    ...(users === undefined || table.user.kind !== 'new' ? [] : userNamespaceSections(users.mappings, { slot: users.slot, barrier: mapsBarrier, origin: '/linux/uidMappings' })),
    ...mounts.flatMap(({ slot, mappings, origin }, index) => userNamespaceSections(mappings, { slot, barrier: mapsBarrier + 1 + index, origin })),
  ];
}

/** Maps the mount of a slot to the ids of a user namespace. */
export function mapMount(slot: number, userNamespace: number, origin: string, recursive = false): Step {
  return { kind: 'setMountAttributes', slot, path: '', recursive: recursive ? 1 : 0, set: BigInt(mountAttr.idmap), clear: 0n, propagation: 0n, userNamespace, origin };
}

/** Where the stage is attached: a directory of the host, covered in the container's mount namespace only. */
const stagePlace = (rootfs: RootfsSource): string => (rootfs.kind === 'directory' ? rootfs.path : rootfs.mountpoint);

/** A clone of a file system of the host on the stage, without what the host's mount of it forbids. */
function showWhole(path: string): readonly Step[] {
  const { scratch, staging } = localSlots;
  const clear = BigInt(mountAttr.readOnly | mountAttr.atimeMask | mountAttr.noDirAtime);
  return [
    { kind: 'makeDirectory', dir: staging, path, mode: 0o555, parents: 0 },
    { kind: 'openTree', dir: noSlot, path, resolve: 0, recursive: 0, out: scratch },
    { kind: 'setMountAttributes', slot: scratch, path: '', recursive: 0, set: 0n, clear, propagation: 0n, userNamespace: noSlot },
    { kind: 'moveMount', from: scratch, root: staging, target: path, create: createTarget.none, noLinks: 1 },
  ];
}

const absolutePath = ({ storeDir }: { readonly storeDir: string }, path: string): string => (path.startsWith('/') ? path : `${storeDir}/${path}`);

/** Each layer mapped and attached: an overlay over layers that are attached nowhere fails on Linux 6.1. */
function mapLayers(rootfs: Extract<RootfsSource, { kind: 'overlay' }>, users: ContainerUsers): readonly Step[] {
  const { scratch, staging } = localSlots;
  const origin = '/root';
  return rootfs.lower.flatMap((name, index): readonly Step[] => [
    { kind: 'makeDirectory', dir: staging, path: `/layers/${index}`, mode: 0o755, parents: 0 },
    { kind: 'openTree', dir: noSlot, path: absolutePath(rootfs, name), resolve: 0, recursive: 0, out: scratch, origin },
    mapMount(scratch, users.slot, origin),
    { kind: 'moveMount', from: scratch, root: staging, target: `/layers/${index}`, create: createTarget.none, noLinks: 1, origin },
  ]);
}

/** The overlay on the stage and a clone of it in slot `root`. Its upper directory is the container's root directory, so it belongs to that root. */
function stageOverlay(rootfs: Extract<RootfsSource, { kind: 'overlay' }>, users: ContainerUsers): readonly Step[] {
  const { root, staging } = localSlots;
  const origin = '/root';
  const isMapped = rootfs.mapLower === true;
  const [upper, work] = [absolutePath(rootfs, rootfs.upper), absolutePath(rootfs, rootfs.work)];
  const lower = isMapped ? rootfs.lower.map((_name, index) => String(index)) : rootfs.lower;
  const data = overlayOptions({ lower, writable: { upper, work }, options: rootOptions(rootfs) }, 'mount the root');
  const cwd = isMapped ? `${rootfs.mountpoint}/layers` : rootfs.storeDir;
  return [
    { kind: 'makeDirectory', dir: staging, path: '/layers', mode: 0o755, parents: 0 },
    ...(isMapped ? mapLayers(rootfs, users) : []),
    { kind: 'changeOwner', dir: noSlot, path: upper, ...users.root, origin },
    { kind: 'mount', cwd, source: 'overlay', target: `${rootfs.mountpoint}/root`, type: 'overlay', flags: 0, data, origin },
    { kind: 'openTree', dir: staging, path: 'root', resolve: 0, recursive: 0, out: root, origin },
  ];
}

/** A directory that was cloned as it is: its files belong to the container's ids, or are mapped to them. */
function settleDirectory(rootfs: Extract<RootfsSource, { kind: 'directory' }>, users: ContainerUsers): readonly Step[] {
  const { root } = localSlots;
  return [
    { kind: 'setMountAttributes', slot: root, path: '', recursive: 1, set: 0n, clear: 0n, propagation: BigInt(ms.private), userNamespace: noSlot, origin: '/root' },
    ...(rootfs.mapOwners === true ? [mapMount(root, users.slot, '/root')] : []),
  ];
}

/** Device nodes, which nobody inside can make: made on the stage, with the owners that the container sees, and cloned one by one. */
function stageDevices(devices: readonly StagedDevice[], { mappings }: ContainerUsers): readonly Step[] {
  return devices.flatMap(({ device, typeBits, slot, origin }, index): readonly Step[] => {
    const [uid, gid] = [mapId(mappings.uids, device.uid ?? 0), mapId(mappings.gids, device.gid ?? 0)];
    if (uid === undefined || gid === undefined) throw invalidArgument(`linux.devices: ${device.path}`, `owner ${device.uid ?? 0}:${device.gid ?? 0} has no mapping`);
    const path = `/dev/${index}`;
    const place = origin === undefined ? {} : { origin };
    return [
      { kind: 'makeNode', dir: localSlots.staging, path, mode: typeBits | ((device.fileMode ?? 0o666) & 0o7777), major: device.major, minor: device.minor, uid, gid, ...place },
      { kind: 'openTree', dir: localSlots.staging, path: path.slice(1), resolve: 0, recursive: 0, out: slot, ...place },
    ];
  });
}

interface StagedDevice {
  readonly device: SpecDevice;
  readonly typeBits: number;
  readonly slot: number;
  readonly origin: string | undefined;
}

/** The devices of a container in a user namespace. */
export interface UserDevices {
  /** On the stage, with the host's rights. */
  readonly stage: readonly Step[];
  /** In the container's root. */
  readonly furnish: readonly Step[];
}

/** Nodes are staged and covered over empty files; FIFOs and links are made as everywhere. `nextSlot` gives free slots. */
export function planUserDevices(
  spec: { readonly devices: readonly SpecDevice[]; readonly mounts: readonly SpecMount[] },
  users: ContainerUsers,
  nextSlot: (origin: string) => number,
): UserDevices {
  const listed = listDevices(spec.devices, spec.mounts);
  const nodes = listed.filter(({ device }) => device.type !== 'p').map((entry): StagedDevice => ({ ...entry, slot: nextSlot(entry.origin ?? '/linux/devices') }));
  const { root } = localSlots;
  return {
    stage: stageDevices(nodes, users),
    furnish: [
      ...nodes.map(({ device, slot, origin }): Step => ({
        kind: 'moveMount',
        from: slot,
        root,
        target: device.path,
        create: createTarget.file,
        noLinks: 0,
        ...(origin === undefined ? {} : { origin }),
      })),
      ...listed
        .filter(({ device }) => device.type === 'p')
        .map(({ device, typeBits, origin }): Step => ({
          kind: 'makeNode',
          dir: root,
          path: device.path,
          mode: typeBits | ((device.fileMode ?? 0o666) & 0o7777),
          major: 0,
          minor: 0,
          uid: device.uid ?? 0,
          gid: device.gid ?? 0,
          ignore: [errno.exists],
          ...(origin === undefined ? {} : { origin }),
        })),
      ...makeLinks(spec.mounts),
    ],
  };
}

/** Limits that only the host's side may raise, the soft ones come down later; and priorities, which are the host's alone to give: the same ones may be set again inside. */
export function raiseLimits(process: SpecProcess, host: HostFacts, path: string): readonly Step[] {
  const limits = process.rlimits.flatMap(({ type, hard }, index): readonly Step[] => {
    const resource = rlimitTypes.indexOf(type);
    const ceiling = host.rlimits[resource]?.hard;
    return ceiling === undefined || hard <= ceiling ? [] : [{ kind: 'setRlimit', resource, soft: hard, hard, origin: `/${path}/rlimits/${index}` }];
  });
  // More forks follow.
  return [...limits, ...planScheduling(process, { forks: true, path }).privileged];
}

/** From the host's ids to the container's: user and group 0 there, a keyring of that user unless the caller's is to stay. */
export function becomeContainerRoot(slot: number, { newKeyring = true }: { readonly newKeyring?: boolean } = {}): readonly Step[] {
  return [
    { kind: 'enterNamespace', slot, type: clone.newUser, origin: '/linux/namespaces' },
    // A change of credentials clears the signal, so it is set again.
    { kind: 'setParentDeathSignal', signal: killSignal },
    // A namespace that somebody else made may forbid it, see `setgroups` in user_namespaces(7); nothing is gained by those groups there.
    { kind: 'setGroups', gids: [], ignore: [errno.perm] },
    { kind: 'setUser', uid: 0, gid: 0 },
    ...(newKeyring ? [{ kind: 'joinKeyring', name: '', ignore: [errno.noSystemCall] } as const] : []),
  ];
}

/** What goes into `enterUserNamespace`. */
export interface UserEntry {
  readonly table: NamespaceTable;
  readonly rootfs: RootfsSource;
  readonly users: ContainerUsers;
  readonly devices: UserDevices;
  /** Runs in the mount namespace of the stage, with the host's rights and mounts. */
  readonly prepare: readonly Step[];
  /** Runs below the user namespace, before the mount namespace is made. */
  readonly names: readonly Step[];
  readonly newKeyring: boolean;
}

/**
 * The way into the container's namespaces. Afterwards the executing process is the container's user 0 in a mount namespace of its own, slot `root` is
 * the container's root, attached where `pivotRoot` may take it.
 */
export function enterUserNamespace({ table, rootfs, users, devices, prepare, names, newKeyring }: UserEntry): readonly Step[] {
  const { root, staging } = localSlots;
  const place = stagePlace(rootfs);
  const alone: readonly Step[] = [
    { kind: 'unshare', flags: clone.newMount, origin: '/linux/namespaces' },
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
  ];
  const created = createdNamespaces(table, ['pid', 'user', 'mount']);
  return [
    ...joinNamespaces(table),
    ...alone,
    ...prepare,
    {
      kind: 'newFileSystem',
      type: 'tmpfs',
      options: ['source=berth-stage', 'size=1m', 'nr_inodes=4096', 'mode=755'],
      attributes: mountAttr.noSuid | mountAttr.noExec,
      out: staging,
    },
    { kind: 'moveMount', from: staging, root: noSlot, target: place, create: createTarget.none, noLinks: 0 },
    { kind: 'makeDirectory', dir: staging, path: '/root', mode: 0o755, parents: 0 },
    ...showWhole('/proc'),
    ...showWhole('/sys'),
    ...devices.stage,
    ...(rootfs.kind === 'overlay' ? stageOverlay(rootfs, users) : settleDirectory(rootfs, users)),
    { kind: 'pivotRoot', root: staging },
    ...becomeContainerRoot(users.slot, { newKeyring }),
    ...(created === 0 ? [] : [{ kind: 'unshare', flags: created, origin: '/linux/namespaces' } as const]),
    ...names,
    ...(table.pid.kind === 'new' ? [{ kind: 'forkInside', flags: clone.newPid, origin: '/linux/namespaces' } as const] : []),
    ...alone,
    { kind: 'moveMount', from: root, root: noSlot, target: '/root', create: createTarget.none, noLinks: 0, origin: '/root' },
  ];
}
