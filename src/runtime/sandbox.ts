/**
 * A pod's own namespaces, shared memory and pause process. In: what the pod shares. Out: the plans to make and to release them, and the
 * slots that its containers' plans refer to. Pure.
 *
 * The pod's mount namespace has pivoted into a small tmpfs that holds the shared memory and, with a shared PID namespace, a
 * procfs of it; nothing of the host is reachable or pinned there. Containers clone from it.
 */
import { invalidArgument } from '#core';
import { type SpecResources } from '#oci';
import { type IdMappings, type Plan, type Section, type Step, clone, createTarget, mapId, mountAttr, ms, noSlot, startBarrier, userNamespaceSections } from '#plan';
import { type HostFacts } from '#system';
import { cgroupDriver } from './cgroup.ts';
import { type CgroupPlacement } from './cgroup-driver.ts';
import { type PodSharing } from './namespaces.ts';
import { labelOptions } from './lsm.ts';
import { planOomWrite } from './process.ts';
import { localSlots, podSlots } from './slots.ts';
import { planSysctls } from './sysctl.ts';

/** What a pod shares. */
export interface PlanSandboxInput {
  readonly host: HostFacts;
  /** Which namespaces are made for the pod; false: its containers use the host's. */
  readonly namespaces: { readonly net: boolean; readonly ipc: boolean; readonly uts: boolean };
  readonly hostname?: string;
  readonly sysctls: Readonly<Record<string, string>>;
  /** Size of the pod's /dev/shm; absent: none is made. */
  readonly shm?: {
    readonly sizeBytes: number;
    /** SELinux label of everything in it, as its containers may use it. */
    readonly mountLabel?: string;
  };
  /** An existing directory of the host, covered inside the pod's mount namespace only. */
  readonly mountpoint: string;
  /** One PID namespace for all containers, with a pause process as its init. */
  readonly sharePid: boolean;
  /** The pod's group; its containers and the pause process live in leaves below it. */
  readonly cgroup: CgroupPlacement;
  /** A user namespace for the pod: its other namespaces are made below it, and its containers' documents have these mappings. */
  readonly userMappings?: IdMappings;
  /** Limits of the whole pod. */
  readonly resources?: SpecResources;
}

/** The plans of a pod. */
export interface SandboxPlans {
  /** For EXECUTE, first. */
  readonly prepare: Plan;
  /** For CREATE and START of the pause process, after `prepare` and before any container; absent unless sharePid. */
  readonly pause?: Plan;
  /** For EXECUTE once the pod has its network, so that parameters of its interfaces exist; absent without sysctls. */
  readonly sysctls?: Plan;
  /** For the input of `planContainer`. */
  readonly sharing: PodSharing;
  /** For `CgroupPlacement.controllers` of the pod's containers: where the pod, or a parent that the caller named, has limits. */
  readonly controllers: readonly string[];
  /** For SHUTDOWN: kills what is left below the pod's group and removes it; absence is no error. */
  readonly release: Plan;
}

/** User and group of the pause process, the numbers of Kubernetes' own pause image. */
const pauseUser = 65535;
const pauseOomScore = -998;
const removeTimeoutMs = 5_000;
const [podRoot, scratch] = [localSlots.sources, localSlots.sources + 1];
const protectedAttributes = mountAttr.noSuid | mountAttr.noDev | mountAttr.noExec;

/** Keeps an own namespace of the executing child in the shim. */
function exportNamespace(type: number, podSlot: number): readonly Step[] {
  return [
    { kind: 'openNamespace', type, out: podSlot },
    { kind: 'exportSlot', slot: podSlot, podSlot },
  ];
}

function planPodMounts({ shm, mountpoint, sharePid, userMappings }: PlanSandboxInput): readonly Step[] {
  if (shm === undefined && !sharePid) return [];
  // The mounts are made with the host's rights; what they hold belongs to the pod.
  const owner = userMappings === undefined ? [] : [`uid=${rootId(userMappings, 'uids')}`, `gid=${rootId(userMappings, 'gids')}`];
  const directory = (path: string): Step => ({ kind: 'makeDirectory', dir: podRoot, path, mode: 0o755, parents: 0 });
  return [
    { kind: 'unshare', flags: clone.newMount },
    // Now, because there is no procfs after the pivot.
    ...exportNamespace(clone.newMount, podSlots.mount),
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    { kind: 'newFileSystem', type: 'tmpfs', options: ['source=berth-pod', 'size=64k', 'nr_inodes=8', 'mode=755'], attributes: protectedAttributes, out: podRoot },
    { kind: 'moveMount', from: podRoot, root: noSlot, target: mountpoint, create: createTarget.none, noLinks: 0 },
    ...['/shm', '/proc', '/pause'].map(directory),
    ...(shm === undefined
      ? []
      : ([
          {
            kind: 'newFileSystem',
            type: 'tmpfs',
            options: ['source=shm', 'mode=1777', `size=${shm.sizeBytes}`, ...owner, ...labelOptions('tmpfs', shm.mountLabel)],
            attributes: protectedAttributes,
            out: scratch,
          },
          { kind: 'moveMount', from: scratch, root: podRoot, target: '/shm', create: createTarget.none, noLinks: 1 },
        ] as const)),
    { kind: 'pivotRoot', root: podRoot },
    { kind: 'setMountAttributes', slot: podRoot, path: '', recursive: 0, set: BigInt(mountAttr.readOnly), clear: 0n, propagation: 0n, userNamespace: noSlot },
  ];
}

/** What user or group 0 of the pod is outside. */
function rootId(mappings: IdMappings, kind: keyof IdMappings): number {
  const id = mapId(mappings[kind], 0);
  if (id === undefined) throw invalidArgument(`userMappings.${kind}`, 'must map id 0');
  return id;
}

const mapsBarrier = 2;
/** Into the pod's user namespace. */
const becomePodRoot: readonly Step[] = [
  { kind: 'enterNamespace', slot: podSlots.user, type: clone.newUser },
  { kind: 'setUser', uid: 0, gid: 0 },
];

/** With a user namespace that comes first and the others are made below it; the mounts stay with the host's rights. */
function planNamespaces(input: PlanSandboxInput): readonly Section[] {
  const { namespaces, hostname, userMappings } = input;
  const flags = (namespaces.net ? clone.newNet : 0) | (namespaces.ipc ? clone.newIpc : 0) | (namespaces.uts ? clone.newUts : 0);
  const own: readonly Step[] = [
    ...(namespaces.uts && hostname !== undefined && hostname !== '' ? [{ kind: 'setHostname', name: hostname, origin: '/hostname' } as const] : []),
    ...(namespaces.net ? exportNamespace(clone.newNet, podSlots.net) : []),
    ...(namespaces.ipc ? exportNamespace(clone.newIpc, podSlots.ipc) : []),
    ...(namespaces.uts ? exportNamespace(clone.newUts, podSlots.uts) : []),
  ];
  const mounts = planPodMounts(input);
  const section = (steps: readonly Step[], cloneFlags = 0): readonly Section[] =>
    steps.length === 0 ? [] : [{ actor: 'podNamespaces', ...(cloneFlags === 0 ? {} : { cloneFlags }), steps }];
  if (userMappings === undefined) return section([...own, ...mounts], flags);
  const enter: readonly Step[] = [...becomePodRoot, { kind: 'unshare', flags }];
  return [
    ...userNamespaceSections(userMappings, { slot: podSlots.user, barrier: mapsBarrier, origin: '/userMappings' }),
    ...section(own.length === 0 ? [] : [...enter, ...own]),
    ...section(mounts),
  ];
}

/** The sysctls, written inside the pod's namespaces. */
function planPodSysctls({ sysctls, namespaces, userMappings }: PlanSandboxInput): Plan | undefined {
  const writes = planSysctls(sysctls, namespaces, { path: 'linux.sysctls', origin: '/linux/sysctls' });
  const enter = (wanted: boolean, slot: number, type: number): readonly Step[] => (wanted ? [{ kind: 'enterNamespace', slot, type }] : []);
  const joins = [...enter(namespaces.net, podSlots.net, clone.newNet), ...enter(namespaces.ipc, podSlots.ipc, clone.newIpc), ...enter(namespaces.uts, podSlots.uts, clone.newUts)];
  // Those of IPC belong to the root of the user namespace and to nobody above it.
  const owner = userMappings === undefined ? [] : becomePodRoot;
  return writes.length === 0 ? undefined : { sections: [{ actor: 'podNamespaces', steps: [...joins, ...owner, ...writes] }] };
}

/** Where the pause process lives. */
function pausePlacement(input: PlanSandboxInput): CgroupPlacement {
  return { path: `${input.cgroup.path}/pause`, controllers: controllersOf(input) };
}

function controllersOf({ host, cgroup, resources }: PlanSandboxInput): readonly string[] {
  const own = resources === undefined ? [] : cgroupDriver(host.cgroups).limited(resources);
  return [...new Set([...(cgroup.controllers ?? []), ...own])];
}

function planPause(input: PlanSandboxInput): Plan {
  const { host, namespaces } = input;
  const driver = cgroupDriver(host.cgroups);
  const place = pausePlacement(input);
  const attachment = driver.attach(place, { optional: false });
  const join = (wanted: boolean, slot: number, type: number): readonly Step[] => (wanted ? [{ kind: 'enterNamespace', slot, type }] : []);
  const steps: readonly Step[] = [
    ...attachment.child,
    ...planOomWrite(pauseOomScore, host),
    ...exportNamespace(clone.newPid, podSlots.pid),
    // Whoever can look at /proc/<pause>/ns must find nothing of the host there.
    ...join(namespaces.net, podSlots.net, clone.newNet),
    ...join(namespaces.ipc, podSlots.ipc, clone.newIpc),
    ...join(namespaces.uts, podSlots.uts, clone.newUts),
    ...join(true, podSlots.mount, clone.newMount),
    { kind: 'newFileSystem', type: 'proc', options: ['source=proc'], attributes: protectedAttributes, out: scratch },
    { kind: 'moveMount', from: scratch, root: noSlot, target: '/proc', create: createTarget.none, noLinks: 0 },
    { kind: 'unshare', flags: clone.newMount | clone.newCgroup },
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    {
      kind: 'newFileSystem',
      type: 'tmpfs',
      options: ['source=berth-pause', 'size=4k', 'nr_inodes=1', 'mode=555'],
      attributes: protectedAttributes | mountAttr.readOnly,
      out: podRoot,
    },
    { kind: 'moveMount', from: podRoot, root: noSlot, target: '/pause', create: createTarget.none, noLinks: 0 },
    { kind: 'pivotRoot', root: podRoot },
    { kind: 'newSession', controllingTerminal: 0 },
    { kind: 'limitCapabilities', bounding: 0n },
    { kind: 'setGroups', gids: [] },
    { kind: 'setUser', uid: pauseUser, gid: pauseUser },
    { kind: 'setCapabilities', effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n },
    { kind: 'setParentDeathSignal', signal: 9 },
    { kind: 'setNoNewPrivileges' },
    { kind: 'barrier', barrier: startBarrier },
    { kind: 'executePause' },
  ];
  const create = driver.create({ placement: place, limitDevices: true, path: 'linux.resources', origin: '/linux/resources' });
  return {
    sections: [
      { actor: 'host', steps: [...create, ...attachment.host] },
      { actor: 'containerSetup', cloneFlags: clone.newPid, ...(attachment.slot === undefined ? {} : { cgroup: attachment.slot }), steps },
    ],
  };
}

/** Slots and paths that the pod's containers are compiled with. */
function sharingOf({ namespaces, shm, sharePid, userMappings }: PlanSandboxInput): PodSharing {
  return {
    slots: {
      ...(namespaces.net ? { net: podSlots.net } : {}),
      ...(namespaces.ipc ? { ipc: podSlots.ipc } : {}),
      ...(namespaces.uts ? { uts: podSlots.uts } : {}),
      ...(sharePid ? { pid: podSlots.pid } : {}),
      ...(userMappings === undefined ? {} : { user: podSlots.user }),
      ...(shm === undefined && !sharePid ? {} : { mount: podSlots.mount }),
    },
    ...(shm === undefined ? {} : { shmPath: '/shm' }),
    ...(sharePid ? { procPath: '/proc' } : {}),
  };
}

/** The plans of a pod. Throws invalidArgument or failedPrecondition with the document's path before anything exists. */
export function planSandbox(input: PlanSandboxInput): SandboxPlans {
  const driver = cgroupDriver(input.host.cgroups);
  // Without limits the pod's group comes into being with the first leaf below it.
  const limits =
    input.resources === undefined
      ? []
      : driver.create({ placement: input.cgroup, resources: input.resources, limitDevices: false, path: 'linux.resources', origin: '/linux/resources' });
  const namespaces = planNamespaces(input);
  const sysctls = planPodSysctls(input);
  return {
    prepare: { sections: [...(limits.length === 0 ? [] : [{ actor: 'host', steps: limits } as const]), ...namespaces] },
    ...(input.sharePid ? { pause: planPause(input) } : {}),
    ...(sysctls === undefined ? {} : { sysctls }),
    sharing: sharingOf(input),
    controllers: controllersOf(input),
    release: { sections: [{ actor: 'host', steps: driver.remove(input.cgroup, { timeoutMs: removeTimeoutMs }) }] },
  };
}
