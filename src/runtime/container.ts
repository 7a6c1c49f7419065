/**
 * config.json → the plan of a container's first process. In: a decoded runtime-spec, where its root comes from, what the pod shares,
 * the host's facts. Out: a Plan, or an error with the document's path. Pure.
 *
 * The mount order is the only allowed one: open every source in the host's mount namespace; part; make everything private; build overlay and
 * special file systems; attach the clones; pivot; detach the old root. So the overlay exists in the container's namespace alone, and
 * volumes still propagate.
 */
import { invalidArgument, limits } from '#core';
import { type RuntimeSpec, type SpecProcess, namespaceTypes } from '#oci';
import { type Plan, type Section, type Step, clone, createTarget, errno, ms, noSlot, open } from '#plan';
import { type HostFacts } from '#system';
import { cgroupDriver } from './cgroup.ts';
import { type CgroupPlacement } from './cgroup-driver.ts';
import { cgroupOwnerOf } from './cgroup-owner.ts';
import { hasOwnDev, planDevices } from './devices.ts';
import { type HookPlace, hasHooks, planCreationHooks, planStartHooks } from './hooks.ts';
import { type Identity, identityFiles } from './identity.ts';
import { checkMapped } from './identity-mapping.ts';
import { checkMountLabel, planLabels } from './lsm.ts';
import { planIntelRdt } from './intel-rdt.ts';
import { planMemoryPolicy } from './memory-policy.ts';
import { planMounts, visitPod } from './mounts.ts';
import { type NamespaceTable, type PodSharing, enterNamespaces, openJoinedNamespaces, resolveNamespaces } from './namespaces.ts';
import { planLoopback, planNetDevices } from './net-devices.ts';
import { checkProcess, identityOf, planOomScore, planProcess } from './process.ts';
import { overlayOptions, rootOptions } from './overlay.ts';
import { unsupported } from './refusals.ts';
import { planListener } from './seccomp-listener.ts';
import { checkRootPlace, planRootChange } from './root-place.ts';
import { freeCpus } from './scheduler.ts';
import { localSlots } from './slots.ts';
import { planSysctls } from './sysctl.ts';
import { planTimeOffsets } from './time-namespace.ts';
import { enterUserNamespace, planUserDevices, planUserNamespaces, raiseLimits, usersOf } from './user-namespace.ts';
import type { VolumeSource } from './volumes.ts';

/** Where a container's root comes from. */
export type RootfsSource =
  | {
      readonly kind: 'directory';
      readonly path: string;
      /** With a user namespace: the files belong to the image's ids and are mapped; else they belong to the mapped ids already. */
      readonly mapOwners?: boolean;
    }
  | {
      readonly kind: 'overlay';
      /** Working directory of the mount, so that many layers fit into one page of options. */
      readonly storeDir: string;
      /** Short relative names below storeDir, the topmost layer first. */
      readonly lower: readonly string[];
      readonly upper: string;
      readonly work: string;
      /** An existing directory of the host, covered inside the container's mount namespace only. */
      readonly mountpoint: string;
      /** Skip the sync at unmount; for roots that are thrown away. */
      readonly volatile?: boolean;
      /** With a user namespace: the layers belong to the image's ids and are mapped; else they are copies for this mapping. */
      readonly mapLower?: boolean;
      /** The layers speak to the overlay by `user.overlay.*` attributes. */
      readonly userAttributes?: boolean;
      /** SELinux label of everything in the root; absent: each file's own. */
      readonly mountLabel?: string;
    };

/** Everything that one container's plan depends on. */
export interface PlanContainerInput {
  readonly spec: RuntimeSpec;
  readonly rootfs: RootfsSource;
  /** Directory that relative bind sources are below. */
  readonly bundle?: string;
  /** What stands behind bind mounts whose `source` is a name here and no path. */
  readonly volumes?: Readonly<Record<string, VolumeSource>>;
  readonly pod?: PodSharing;
  readonly host: HostFacts;
  readonly cgroup: CgroupPlacement;
  /** Needed for a document with hooks. */
  readonly hookPlace?: HookPlace;
  /** Overrides process.terminal. */
  readonly terminal?: boolean;
  /** How the process is started: by the shim that made it (default), or by whoever connects to a socket at this path, when nobody of ours is left beside it. */
  readonly start?: { readonly kind: 'barrier' } | { readonly kind: 'socket'; readonly path: string };
  /** False: the session keyring stays the caller's. */
  readonly newKeyring?: boolean;
  /** False: the root is moved over the old one, for a host that runs on its first file system in memory, which nothing can be pivoted from. */
  readonly pivot?: boolean;
  /** With a start socket: descriptors from 3 on that the process gets. */
  readonly preserveFds?: number;
  /** Leave the payload section out and ask for /etc/passwd and /etc/group; `planPayload` makes the answer. */
  readonly askIdentity: boolean;
}

const placement = (origin: string): { readonly origin: string } => ({ origin });

function processOf(spec: RuntimeSpec): SpecProcess {
  if (spec.process === undefined) throw invalidArgument('process', 'required');
  return spec.process;
}

/** What the container is called among others on the host. */
const rdtPlace = ({ hookPlace, cgroup, host }: PlanContainerInput): { readonly id: string; readonly host: HostFacts } => ({
  id: hookPlace?.id ?? cgroup.path.slice(cgroup.path.lastIndexOf('/') + 1),
  host,
});

/** Refuses what the specification allows and nobody here implements. */
function checkSpec(spec: RuntimeSpec, host: HostFacts): void {
  const [feature] = spec.linux.unsupported;
  if (feature !== undefined) throw unsupported(`linux.${feature}`);
  checkMountLabel(spec.linux.mountLabel, host);
  checkProcess(processOf(spec), host, 'process');
}

function planNames(spec: RuntimeSpec, { uts }: NamespaceTable): readonly Step[] {
  const names: Step[] = [];
  for (const [field, kind] of [
    ['hostname', 'setHostname'],
    ['domainname', 'setDomainname'],
  ] as const) {
    const name = spec[field];
    if (name === undefined || name === '') continue;
    if (uts.kind === 'host') throw invalidArgument(field, 'needs a uts namespace');
    if (Buffer.byteLength(name) > 64) throw invalidArgument(field, `${Buffer.byteLength(name)} bytes, at most 64`);
    // The pod's own namespace got its name when it was made.
    if (uts.kind !== 'slot') names.push({ kind, name, origin: `/${field}` });
  }
  return names;
}

/** The source with the document's mount label. */
function labelRoot(rootfs: RootfsSource, mountLabel: string | undefined): RootfsSource {
  return rootfs.kind === 'overlay' && mountLabel !== undefined && mountLabel !== '' ? { ...rootfs, mountLabel } : rootfs;
}

/** Where the root is cloned from (directory) and how it is attached; afterwards slot `root` is its top mount. */
function planRoot(rootfs: RootfsSource, spec: RuntimeSpec): { readonly sources: readonly Step[]; readonly attach: readonly Step[] } {
  const { root } = localSlots;
  const origin = placement('/root');
  if (rootfs.kind === 'directory') {
    if (!rootfs.path.startsWith('/')) throw invalidArgument('root.path', `must be absolute here, not ${JSON.stringify(rootfs.path.slice(0, 200))}`);
    const follows = spec.linux.rootfsPropagation?.endsWith('slave') === true;
    return {
      sources: [{ kind: 'openTree', dir: noSlot, path: rootfs.path, resolve: 0, recursive: 1, out: root, ...origin }],
      attach: [
        {
          kind: 'setMountAttributes',
          slot: root,
          path: '',
          recursive: 1,
          set: 0n,
          clear: 0n,
          propagation: BigInt(follows ? ms.slave : ms.private),
          userNamespace: noSlot,
          ...origin,
        },
        { kind: 'moveMount', from: root, root: noSlot, target: rootfs.path, create: createTarget.none, noLinks: 0, ...origin },
      ],
    };
  }
  const { lower, upper, work } = rootfs;
  const data = overlayOptions({ lower, writable: { upper, work }, options: rootOptions(rootfs) }, 'mount the root');
  return {
    sources: [],
    attach: [
      { kind: 'mount', cwd: rootfs.storeDir, source: 'overlay', target: rootfs.mountpoint, type: 'overlay', flags: 0, data, ...origin },
      { kind: 'openPath', dir: noSlot, path: rootfs.mountpoint, flags: open.path | open.directory, mode: 0, resolve: 0, out: root, ...origin },
    ],
  };
}

/** What is made inside the root before the pivot, besides mounts. */
function planFurniture(spec: RuntimeSpec, terminal: boolean, devices: readonly Step[]): readonly Step[] {
  const { root } = localSlots;
  const { cwd } = processOf(spec);
  return [
    ...devices,
    // Only on a /dev of our own: an image's /dev/console may be anything.
    ...(terminal && hasOwnDev(spec.mounts)
      ? [{ kind: 'makeFile', dir: root, path: '/dev/console', mode: 0o620, data: new Uint8Array(), origin: '/process/terminal' } as const]
      : []),
    // A read-only image without the directory fails at the change of directory, with its own words.
    ...(cwd === '/' ? [] : [{ kind: 'makeDirectory', dir: root, path: cwd, mode: 0o755, parents: 1, origin: '/process/cwd', ignore: [errno.readOnly] } as const]),
  ];
}

function planProtection(spec: RuntimeSpec): readonly Step[] {
  const { root } = localSlots;
  const propagation = spec.linux.rootfsPropagation ?? 'private';
  const flag = propagation.endsWith('shared') ? ms.shared : propagation.endsWith('unbindable') ? ms.unbindable : 0;
  return [
    ...spec.linux.readonlyPaths.map((path, index): Step => ({ kind: 'readonlyPath', root, path, origin: `/linux/readonlyPaths/${index}` })),
    ...spec.linux.maskedPaths.map((path, index): Step => ({ kind: 'maskPath', root, path, origin: `/linux/maskedPaths/${index}` })),
    ...(spec.root.readonly
      ? [{ kind: 'setMountAttributes', slot: root, path: '', recursive: 0, set: 1n, clear: 0n, propagation: 0n, userNamespace: noSlot, origin: '/root/readonly' } as const]
      : []),
    ...(flag === 0 ? [] : [{ kind: 'setPropagation', path: '/', flags: flag | (propagation.startsWith('r') ? ms.recursive : 0), origin: '/linux/rootfsPropagation' } as const]),
  ];
}

interface Setup {
  readonly steps: readonly Step[];
  /** What makes the user namespaces that the steps use. */
  readonly userNamespaces: readonly Section[];
  /** What runs on the host while the container waits. */
  readonly barriers: readonly Section[];
}

function planSetup(input: PlanContainerInput, table: NamespaceTable, attachSelf: readonly Step[]): Setup {
  const { spec, host, pod } = input;
  const process = processOf(spec);
  const terminal = input.terminal ?? process.terminal;
  const driver = cgroupDriver(host.cgroups);
  const resources = spec.linux.resources;
  const users = usersOf(spec, table);
  let firstSlot: number = localSlots.sources;
  const devices = users === undefined ? undefined : planUserDevices({ devices: spec.linux.devices, mounts: spec.mounts }, users, () => firstSlot++);
  // A pod's container has its sources opened first, and what it shares with the pod is not here.
  const inOrder = pod === undefined && users === undefined && table.mount.kind === 'new';
  const mounts = planMounts(spec.mounts, {
    inOrder,
    table,
    users,
    firstSlot,
    pod,
    bundle: input.bundle,
    volumes: input.volumes ?? {},
    mountLabel: spec.linux.mountLabel,
    cgroups: { mode: host.cgroups.mode, driver, placement: input.cgroup, resources },
  });
  const rootfs = labelRoot(input.rootfs, spec.linux.mountLabel);
  const root = planRoot(rootfs, spec);
  const own = { net: table.network.kind !== 'host', ipc: table.ipc.kind !== 'host', uts: table.uts.kind !== 'host', user: table.user.kind !== 'host' };
  const sysctls = planSysctls(spec.linux.sysctl, own, { path: 'linux.sysctl', origin: '/linux/sysctl' });
  const sources: readonly Step[] = [
    ...planOomScore(process, host, 'process'),
    ...openJoinedNamespaces(table, 'user'),
    ...(inOrder ? [...openJoinedNamespaces(table, 'others'), ...enterNamespaces(table, ['mount'])] : []),
    ...root.sources,
    ...mounts.sources,
    ...(inOrder ? [] : openJoinedNamespaces(table, 'others')),
    ...visitPod(pod, mounts.podSources),
  ];
  const names = planNames(spec, table);
  // Below a user namespace the root stands on the stage; see `enterUserNamespace`.
  const rootPath = users !== undefined ? '/root' : input.rootfs.kind === 'directory' ? input.rootfs.path : input.rootfs.mountpoint;
  const hooks = planCreationHooks(spec, input.hookPlace, table, rootPath);
  const devicesOfNet = planNetDevices(spec, table);
  const entry: readonly Step[] =
    users === undefined || devices === undefined
      ? [
          // Anonymous: a name would be shared by everyone who knows it.
          ...(input.newKeyring === false ? [] : [{ kind: 'joinKeyring', name: '', ignore: [errno.noSystemCall] } as const]),
          ...sources,
          ...(inOrder ? [{ kind: 'unshare', flags: clone.newMount, origin: '/linux/namespaces' } as const] : enterNamespaces(table)),
          ...names,
          // Without a mount namespace of its own this would be the host's.
          ...(table.mount.kind === 'host' ? [] : [{ kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive } as const]),
          ...sysctls,
          ...mounts.prepare,
          ...root.attach,
        ]
      : [
          ...sources,
          ...raiseLimits(process, host, 'process'),
          { kind: 'giveStreams', ...users.root },
          ...enterUserNamespace({ table, rootfs, users, devices, prepare: mounts.prepare, names, newKeyring: input.newKeyring ?? true }),
          ...sysctls,
        ];
  const steps: readonly Step[] = [
    ...attachSelf,
    ...(input.start?.kind === 'socket' ? [freeCpus] : []),
    ...planIntelRdt(spec.linux, rdtPlace(input)).child,
    ...hooks.early,
    ...planTimeOffsets(spec.linux, localSlots.namespaces + namespaceTypes.indexOf('time')),
    ...entry,
    ...planLoopback(table, pod),
    ...mounts.attach,
    ...planFurniture(spec, terminal, devices?.furnish ?? planDevices(spec.linux.devices, spec.mounts)),
    ...devicesOfNet.wait,
    ...hooks.late,
    // The last moment at which the host's procfs can be reached.
    ...planLabels(process, 'process'),
    ...planRootChange(table, input.pivot ?? true),
    ...planProtection(spec),
    ...(spec.linux.personality === undefined
      ? []
      : [{ kind: 'setPersonality', persona: spec.linux.personality.domain === 'LINUX32' ? 8 : 0, origin: '/linux/personality' } as const]),
    ...planMemoryPolicy(spec.linux),
    ...(input.askIdentity ? [{ kind: 'ask', root: localSlots.root, files: identityFiles, bytesMax: limits.identityFileBytesMax, origin: '/process/user' } as const] : []),
  ];
  return { steps, userNamespaces: [...planUserNamespaces(users, table, mounts.users), ...mounts.sections], barriers: [...devicesOfNet.sections, ...hooks.sections] };
}

function payloadSection(input: PlanContainerInput, identity: Identity): Section {
  const { spec, host } = input;
  const process = processOf(spec);
  const steps = planProcess(process, identity, {
    host,
    terminal: input.terminal ?? process.terminal,
    consoleTarget: hasOwnDev(spec.mounts) ? '/dev/console' : '',
    startBarrier: true,
    fork: ['slot', 'path'].includes(resolveNamespaces(spec, input.pod).pid.kind),
    path: 'process',
    hasUsers: resolveNamespaces(spec, input.pod).user.kind !== 'host',
    beforeExecute: planStartHooks(spec, input.hookPlace),
    ...(input.start?.kind === 'socket' ? { standalone: { startSocket: localSlots.startSocket, preserveFds: input.preserveFds ?? 0, outlivesMaker: true } } : {}),
    ...(spec.linux.seccomp === undefined ? {} : { seccomp: spec.linux.seccomp }),
  });
  return { actor: 'payload', steps };
}

/** The answer to the `ask` of a plan that was compiled with `askIdentity`: the payload section alone. */
export function planPayload(input: PlanContainerInput, identity: Identity): Plan {
  checkMapped(identity, input.spec, 'process.user');
  return { sections: [payloadSection(input, identity)] };
}

/**
 * The plan of a container's first process, up to its start barrier and beyond. Sections: host (cgroup and limits), containerSetup, and, without
 * `askIdentity`, payload. Throws invalidArgument, failedPrecondition or unimplemented with the document's path before anything exists.
 */
export function planContainer(input: PlanContainerInput): Plan {
  const { spec, host } = input;
  checkSpec(spec, host);
  if (hasHooks(spec) && input.hookPlace === undefined) throw unsupported('hooks', 'without a bundle directory');
  const table = resolveNamespaces(spec, input.pod);
  checkRootPlace(spec, input.rootfs, table, input.pivot ?? true);
  const driver = cgroupDriver(host.cgroups);
  const resources = spec.linux.resources;
  const owner = cgroupOwnerOf(spec, host);
  const request = {
    placement: input.cgroup,
    limitDevices: true,
    path: 'linux.resources',
    origin: '/linux/resources',
    ...(resources === undefined ? {} : { resources }),
    ...(owner === undefined ? {} : { owner }),
  };
  const create = driver.create(request);
  const attachment = driver.attach(input.cgroup, { optional: false, ...(resources === undefined ? {} : { resources }) });
  // Compiled even where it is asked for later, so that a bad process object fails before anything exists.
  const payload = payloadSection(input, identityOf(processOf(spec)));
  // Below a user namespace these are made once that is entered.
  const early = table.user.kind === 'host';
  const flags = (early && table.pid.kind === 'new' ? clone.newPid : 0) | (early && table.time.kind === 'new' ? clone.newTime : 0);
  const { steps, userNamespaces, barriers } = planSetup(input, table, attachment.child);
  if (!input.askIdentity) checkMapped(identityOf(processOf(spec)), spec, 'process.user');
  const setup: Section = {
    actor: 'containerSetup',
    ...(flags === 0 ? {} : { cloneFlags: flags }),
    ...(attachment.slot === undefined ? {} : { cgroup: attachment.slot }),
    steps,
  };
  const listen: readonly Step[] = input.start?.kind === 'socket' ? [{ kind: 'listen', path: input.start.path, out: localSlots.startSocket }] : [];
  return {
    sections: [
      { actor: 'host', steps: [...listen, ...create, ...attachment.host, ...planIntelRdt(spec.linux, rdtPlace(input)).host] },
      ...barriers,
      ...planListener(spec, input.hookPlace, { kind: 'init' }),
      ...userNamespaces,
      setup,
      ...(input.askIdentity ? [] : [payload]),
    ],
  };
}

/** The plan that kills what is left of a container and removes its cgroup; absence is no error. */
export function planContainerRemoval(host: HostFacts, cgroup: CgroupPlacement, options: { readonly timeoutMs: number }): Plan {
  return { sections: [{ actor: 'host', steps: cgroupDriver(host.cgroups).remove(cgroup, options) }] };
}

/** The plan that kills every process of a container. */
export function planContainerKill(host: HostFacts, cgroup: CgroupPlacement, options: { readonly timeoutMs: number }): Plan {
  return { sections: [{ actor: 'host', steps: cgroupDriver(host.cgroups).kill(cgroup, options) }] };
}

/** The file to watch for OOM kills, for the shim's CREATE request; empty where the container's memory is not controlled. */
export function oomFileOf(input: Pick<PlanContainerInput, 'spec' | 'host' | 'cgroup'>): string {
  return cgroupDriver(input.host.cgroups).oomFile(input.cgroup, input.spec.linux.resources);
}
