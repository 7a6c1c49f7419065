/**
 * The plans of the native class, put together from those of `runtime`. In: a pod's or a container's request. Out: plans. Pure.
 */
import { RuntimeError } from '#core';
import type { ContainerRequest, VolumeSource as ContainerVolume, PodFiles, SandboxRecord, SandboxRequest, UserMappings } from '#pod';
import { type Plan, type Section, type Step, errno, noSlot } from '#plan';
import { type PlanContainerInput, type SandboxPlans, type UserRequest, type VolumeSource, bundleSteps, cgroupDriver, planSandbox } from '#runtime';
import type { HostFacts } from '#system';
import { hookPlaceOf } from './hooks.ts';
import { type NativeLayout, containerPaths, podPaths } from './layout.ts';

/** Size of a pod's /dev/shm. Source: the default of every CRI runtime. */
const shmSizeBytes = 64 * 1024 * 1024;
/** How long a cgroup may take to become empty and be removed. */
const cgroupTimeoutMs = 5_000;

/** What every plan of a pod depends on. */
export interface PodContext {
  readonly host: HostFacts;
  readonly layout: NativeLayout;
  readonly record: SandboxRecord;
  readonly request: SandboxRequest;
}

const makeDirectory = (path: string, mode: number): Step => ({ kind: 'makeDirectory', dir: noSlot, path, mode, parents: 1 });
const onHost = (steps: readonly Step[]): Section => ({ actor: 'host', steps });

/** The mappings of the pod's own user namespace; without ranges it is the host's. */
export function userMappingsOf({ config }: Pick<SandboxRequest, 'config'>): UserMappings | undefined {
  const { user } = config.security.namespaces;
  return user === undefined || user.uids.length === 0 ? undefined : user;
}

/** The pod's own plans: namespaces, shared memory, pause process, release. */
export function planPod({ host, layout, record, request }: PodContext): SandboxPlans {
  const { namespaces } = request.config.security;
  const isPodNetwork = namespaces.network === 'pod';
  const userMappings = userMappingsOf(request);
  return planSandbox({
    host,
    ...(userMappings === undefined ? {} : { userMappings }),
    namespaces: { net: isPodNetwork, ipc: namespaces.ipc === 'pod', uts: isPodNetwork },
    hostname: request.hostname,
    sysctls: request.config.sysctls,
    ...(request.resources === undefined ? {} : { resources: request.resources }),
    ...(namespaces.ipc === 'pod' ? { shm: { sizeBytes: shmSizeBytes, ...(request.mountLabel === undefined ? {} : { mountLabel: request.mountLabel }) } } : {}),
    mountpoint: layout.rootfs,
    sharePid: namespaces.pid === 'pod',
    cgroup: { path: record.cgroupPath, ...(request.config.cgroupParent === '' ? {} : { controllers: allControllers(host) }) },
  });
}

/** Where somebody else made the parent, any hierarchy may hold limits for the pod. */
function allControllers({ cgroups }: HostFacts): readonly string[] {
  return cgroups.v1.flatMap(({ controllers }) => controllers.filter((name) => !name.startsWith('name=')));
}

/** What the network does in the pod, if anything; the pod's small files, written once its address is known; its sysctls. */
export function planCommit(context: PodContext, files: PodFiles, network?: Plan): Plan {
  const paths = podPaths(context.record.podDir);
  const file = (path: string, text: string): Step => ({ kind: 'makeFile', dir: noSlot, path, mode: 0o644, data: Buffer.from(text) });
  const write = onHost([file(paths.hosts, files.hosts), file(paths.hostname, files.hostname), file(paths.resolvConf, files.resolvConf)]);
  return { sections: [...(network?.sections ?? []), write, ...(planPod(context).sysctls?.sections ?? [])] };
}

/** The input of a container's plan: what the pod shares, its overlay, its cgroup. */
export function containerInput(context: PodContext, container: ContainerRequest): PlanContainerInput {
  const { host, layout, record, request } = context;
  const paths = containerPaths(layout, { podId: request.podId, containerId: container.containerId });
  const { sharing, controllers } = planPod(context);
  const { pid, ...slots } = sharing.slots;
  const mapLower = isMapped(request, container.layers);
  return {
    spec: container.runtimeSpec,
    rootfs: {
      kind: 'overlay',
      storeDir: container.layers.storeDir,
      // Its owners would be nobody's in copies; the container's root makes the targets of mounts itself there.
      lower: mapLower === false ? container.layers.lower : [...container.layers.lower, layout.skeleton],
      ...(mapLower === undefined ? {} : { mapLower }),
      upper: paths.upper,
      work: paths.work,
      mountpoint: layout.rootfs,
      volatile: true,
    },
    pod: { ...sharing, slots: { ...slots, ...(container.sharesPodPid && pid !== undefined ? { pid } : {}) } },
    host,
    cgroup: { path: `${record.cgroupPath}/${container.containerId}`, controllers },
    hookPlace: hookPlaceOf(layout, { podId: request.podId, containerId: container.containerId }),
    terminal: container.terminal,
    askIdentity: true,
    volumes: Object.fromEntries(
      Object.entries(container.volumes).map(([name, source]) => [
        name,
        volumeOf(source, {
          path: `${paths.volumes}/${name}`,
          mountpoint: layout.rootfs,
          ...(mapLower === undefined ? {} : { mapOwners: source.kind === 'layers' ? isMapped(request, source.layers) === true : mapLower }),
        }),
      ]),
    ),
  };
}

/** Whether layers are mapped at the mount; undefined without a user namespace. */
function isMapped(request: SandboxRequest, { mapLower = true }: ContainerRequest['layers']): boolean | undefined {
  return userMappingsOf(request) === undefined ? undefined : mapLower;
}

/**
 * `path`: where a directory of the container's own is; `mountpoint`: empty, as nothing is ever mounted there but in a container; `mapOwners`: with a user
 * namespace, whether the kernel maps owners there.
 */
function volumeOf(source: ContainerVolume, { path, mountpoint, mapOwners }: { readonly path: string; readonly mountpoint: string; readonly mapOwners?: boolean }): VolumeSource {
  const { origin } = source;
  switch (source.kind) {
    case 'layers': {
      const { storeDir, lower } = source.layers;
      return { kind: 'layers', storeDir, lower, subPath: source.subPath, mountpoint, origin, ...(mapOwners === undefined ? {} : { mapLower: mapOwners }) };
    }
    case 'directory':
      return { kind: 'directory', path, bytesMax: source.bytesMax, origin, ...(mapOwners === undefined ? {} : { mapOwners }) };
    case 'memory':
      return { kind: 'memory', bytesMax: source.bytesMax, origin };
  }
}

/** Directories of a container's writable layer and of its own volumes. The upper's mode is that of the root directory that the container sees. */
export function planWritableLayer(
  { layout, request }: PodContext,
  { containerId, volumes, runtimeSpec }: Pick<ContainerRequest, 'containerId' | 'volumes' | 'runtimeSpec'>,
): Section {
  const ids = { podId: request.podId, containerId };
  const paths = containerPaths(layout, ids);
  const own = Object.entries(volumes).flatMap(([name, { kind }]) => (kind === 'directory' ? [makeDirectory(`${paths.volumes}/${name}`, 0o755)] : []));
  return onHost([
    makeDirectory(paths.directory, 0o700),
    makeDirectory(paths.upper, 0o755),
    makeDirectory(paths.work, 0o700),
    ...own,
    ...bundleSteps(runtimeSpec, hookPlaceOf(layout, ids)),
  ]);
}

/** Who a container asks to run as. */
export function userRequest({ user, group, supplementalGroups, policy }: ContainerRequest['identity']): UserRequest {
  return { username: user, groupname: group, supplementalGroups, policy: policy === 'strict' ? 'Strict' : 'Merge' };
}

/** Leaf cgroup of all shims: never the daemon's, never a pod's. Only the hierarchies that account for memory count. */
export function shimCgroups(host: HostFacts, layout: NativeLayout): { readonly make: Section; readonly files: readonly string[]; readonly remove: readonly Step[] } {
  const { cgroups } = host;
  const memory = cgroups.v1.find(({ controllers }) => controllers.includes('memory'));
  const mountpoint = cgroups.mode === 'v2' ? cgroups.unified?.mountpoint : memory?.mountpoint;
  if (mountpoint === undefined) return { make: onHost([]), files: [], remove: [] };
  const directory = `${mountpoint}${layout.cgroup}/shims`;
  const file = cgroups.mode === 'v2' ? 'cgroup.procs' : 'tasks';
  const ignoreInUse = [errno.noEntry, errno.busy, errno.notEmpty];
  return {
    make: onHost([makeDirectory(directory, 0o755)]),
    files: [`${directory}/${file}`],
    remove: [
      { kind: 'removeDirectory', dir: noSlot, path: directory, ignore: ignoreInUse },
      ...cgroupRoots(host).map((root): Step => ({ kind: 'removeDirectory', dir: noSlot, path: `${root}${layout.cgroup}`, ignore: ignoreInUse })),
    ],
  };
}

/** Mount points of every hierarchy that may hold a pod's cgroup. */
function cgroupRoots({ cgroups }: HostFacts): readonly string[] {
  return [...cgroups.v1.map(({ mountpoint }) => mountpoint), ...(cgroups.unified === undefined ? [] : [cgroups.unified.mountpoint])];
}

/** Kills what is left in the pod's cgroups and removes them. */
export function planRelease({ host, record }: Pick<PodContext, 'host' | 'record'>): Plan {
  return { sections: [onHost(cgroupDriver(host.cgroups).remove({ path: record.cgroupPath }, { timeoutMs: cgroupTimeoutMs }))] };
}

/** The last plan of a shim that is told to end: nothing of the pod stays but its containers' writable layers. */
export function planShutdown(context: Pick<PodContext, 'host' | 'record'>, network?: Plan): Plan {
  return { sections: [...planRelease(context).sections, ...(network?.sections ?? []), onHost([{ kind: 'removeTree', dir: noSlot, path: context.record.podDir }])] };
}

/** What the shim of a foreground pod runs by itself when its starter is killed: everything of the pod goes. */
export function planUndo(context: PodContext, network: Plan | undefined): Plan {
  const { host, layout, record, request } = context;
  const shims = shimCgroups(host, layout);
  const [shimFile] = shims.files;
  const root = host.cgroups.mode === 'v2' ? host.cgroups.unified?.mountpoint : host.cgroups.v1.find(({ controllers }) => controllers.includes('memory'))?.mountpoint;
  const leave: readonly Step[] =
    shimFile === undefined || root === undefined
      ? []
      : [
          // The shim leaves its own cgroup, so that the last one can remove it.
          {
            kind: 'writeFile',
            dir: noSlot,
            path: `${root}/${shimFile.slice(shimFile.lastIndexOf('/') + 1)}`,
            data: Buffer.from('0'),
            fileSystem: 3,
            ignore: [errno.perm, errno.access, errno.busy, errno.notSupported],
          },
          ...shims.remove,
        ];
  return {
    sections: [
      ...planRelease(context).sections,
      ...(network?.sections ?? []),
      onHost([{ kind: 'removeTree', dir: noSlot, path: `${layout.containers}/${request.podId}` }, { kind: 'removeTree', dir: noSlot, path: record.podDir }, ...leave]),
    ],
  };
}

/** A host section in front of a plan's own. */
export function prepend(section: Section, plan: Plan): Plan {
  const [first, ...rest] = plan.sections;
  // Sections are few by their bound, so neighbours of one actor become one.
  if (first?.actor === 'host' && (first.barrier ?? 0) === 0) return { sections: [{ ...first, steps: [...section.steps, ...first.steps] }, ...rest] };
  return { sections: [section, ...plan.sections] };
}

/** The engine hands network plans on as opaque objects. */
export function asPlan(plan: object): Plan {
  if (!('sections' in plan) || !Array.isArray(plan.sections)) throw new RuntimeError('internal', 'bug: the network gave something else than a plan');
  // SAFETY: only the network makes these, and its type is Plan; the pod layer must not know it.
  return plan as Plan;
}
