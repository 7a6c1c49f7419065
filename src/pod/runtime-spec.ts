/**
 * From a pod, a container request and an image to the runtime spec: the most tested function of the project.
 * In: typed configurations and host facts. Out: a RuntimeSpec. It reads host facts only through `SpecDefaults`; what comes from
 * the image is data and never becomes a host action.
 */
import { invalidArgument } from '#core';
import type { RuntimeSpec, SpecDevice, SpecDeviceRule, SpecMount, SpecNamespace, SpecResources, SpecSeccomp } from '#oci';
import type { ContainerRequest, HostDevice, ImageProcess, SpecDefaults } from './ports.ts';
import type { ContainerConfig, LinuxResources, Mount, PodSandboxConfig, SeccompProfile, UserMappings } from './types.ts';
import { apparmorOf, selinuxOf } from './labels.ts';
import { containerUserNamespace, mountMappings } from './user-namespace.ts';
import { declaredVolumes, planDeclaredVolumes, planImageMount } from './volumes.ts';

/** All that the runtime spec of a container depends on. */
export interface SpecInput {
  readonly pod: PodSandboxConfig;
  readonly podId: string;
  /** Host directory with the pod's hosts, resolv.conf, hostname files and its shm. */
  readonly podDir: string;
  readonly cgroupPath: string;
  readonly hostname: string;
  readonly container: ContainerConfig;
  readonly image: ImageProcess;
  readonly defaults: SpecDefaults;
  /** Process whose PID namespace is joined, with `pid: 'target'`. */
  readonly targetPid?: number;
}

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The request with the namespaces that it gets: network and IPC are the pod's, whatever the container says, as a sandbox has one of each. Clients
 * leave them out of a container in a pod with the host's network; nor may a container ask for the host's where its pod has its own.
 */
function inPod(request: SpecInput): SpecInput {
  const { network, ipc } = request.pod.security.namespaces;
  const { container } = request;
  return { ...request, container: { ...container, security: { ...container.security, namespaces: { ...container.security.namespaces, network, ipc } } } };
}

/** The runtime spec of a container. Throws invalidArgument with the request's path for what cannot be. */
export async function buildRuntimeSpec(request: SpecInput): Promise<RuntimeSpec> {
  const input = inPod(request);
  const { pod, container, image, defaults } = input;
  const { security } = container;
  const user = containerUserNamespace(pod, container);
  if (security.privileged && !pod.security.privileged) throw invalidArgument('config.linux.security_context.privileged', 'needs a privileged pod sandbox');
  const apparmorProfile = await apparmorOf(security, defaults);
  const labels = selinuxOf(input, defaults);
  const capabilities = planCapabilities(container, defaults);
  const devices = await planDevices(container, defaults, user);
  const seccomp = await planSeccomp(security.privileged ? undefined : security.seccomp, capabilities.bounding, defaults);
  return {
    ociVersion: '1.3.0',
    // With the host's network the host's name counts as well.
    ...(container.security.namespaces.network === 'pod' ? { hostname: input.hostname } : {}),
    process: {
      terminal: container.tty,
      // The numbers come from the files inside the root, which only the setup can read; see `containerUser`.
      user: { uid: 0, gid: 0, additionalGids: [] },
      args: planArgs(container, image),
      env: planEnv(input),
      cwd: container.workingDir !== '' ? container.workingDir : image.workingDir !== '' ? image.workingDir : '/',
      capabilities,
      rlimits: [],
      noNewPrivileges: security.noNewPrivileges,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...(labels === undefined ? {} : { selinuxLabel: labels.process }),
      // Never the daemon's own, which a service manager may have made nearly unkillable.
      oomScoreAdj: container.resources?.oomScoreAdj ?? 0,
      unsupported: [],
    },
    root: { path: 'rootfs', readonly: security.readonlyRootfs },
    mounts: [
      ...planDeclaredVolumes(declaredVolumes(image, container.mounts, defaults.imageVolumes)),
      ...baseMounts(input),
      ...podFileMounts(input),
      ...planMounts(container.mounts, user),
    ],
    hooks: {},
    annotations: container.annotations,
    linux: {
      namespaces: [...(user === undefined ? [] : [{ type: 'user' } as const]), ...planNamespaces(container, input.targetPid)],
      hasIdMappings: user !== undefined,
      ...(user === undefined ? {} : { uidMappings: user.uids, gidMappings: user.gids }),
      ...(labels === undefined ? {} : { mountLabel: labels.mount }),
      devices: devices.nodes,
      cgroupsPath: input.cgroupPath,
      resources: planResources(container.resources, devices.rules),
      sysctl: {},
      ...planPropagation(container.mounts),
      ...(seccomp === undefined ? {} : { seccomp }),
      maskedPaths: security.privileged ? [] : (security.maskedPaths ?? defaults.maskedPaths),
      readonlyPaths: security.privileged ? [] : (security.readonlyPaths ?? defaults.readonlyPaths),
      unsupported: [],
    },
  };
}

/** Command and arguments by Kubernetes' rule: a command of the request replaces the image's entrypoint and its default arguments. */
function planArgs(container: ContainerConfig, image: ImageProcess): readonly string[] {
  const args = container.command.length > 0 ? [...container.command, ...container.args] : [...image.entrypoint, ...(container.args.length > 0 ? container.args : image.command)];
  if (args.length === 0) throw invalidArgument('config.command', 'no command: neither the request nor the image has one');
  return args;
}

/** The image's variables, then the request's, each key once; a PATH and HOSTNAME always, TERM with a terminal. */
function planEnv({ container, image, hostname }: SpecInput): readonly string[] {
  const env = new Map<string, string>();
  const add = (entry: string): void => {
    const at = entry.indexOf('=');
    if (at > 0) env.set(entry.slice(0, at), entry.slice(at + 1));
  };
  add(defaultPath);
  add(`HOSTNAME=${hostname}`);
  if (container.tty) add('TERM=xterm');
  image.env.forEach(add);
  for (const [index, { key, value }] of container.env.entries()) {
    if (key === '' || key.includes('=')) throw invalidArgument(`config.envs[${index}].key`, `${JSON.stringify(key)} is not a variable name`);
    env.set(key, value);
  }
  return [...env].map(([key, value]) => `${key}=${value}`);
}

/** A user by number or name and the groups asked for, to be resolved inside the root. */
export function containerUser(container: ContainerConfig, image: ImageProcess): ContainerRequest['identity'] {
  const { security } = container;
  const [imageUser = '', imageGroup = ''] = splitUser(image.user);
  const hasOwnUser = security.runAsUser !== undefined || (security.runAsUsername !== undefined && security.runAsUsername !== '');
  if (security.runAsGroup !== undefined && !hasOwnUser && imageUser === '')
    throw invalidArgument('config.linux.security_context.run_as_group', 'needs run_as_user or run_as_username');
  return {
    user: security.runAsUser !== undefined ? String(security.runAsUser) : hasOwnUser ? (security.runAsUsername ?? '') : imageUser,
    group: security.runAsGroup !== undefined ? String(security.runAsGroup) : hasOwnUser ? '' : imageGroup,
    supplementalGroups: security.supplementalGroups,
    policy: security.supplementalGroupsPolicy,
  };
}

function splitUser(user: string): readonly string[] {
  const at = user.indexOf(':');
  return at < 0 ? [user] : [user.slice(0, at), user.slice(at + 1)];
}

function planCapabilities({ security }: ContainerConfig, defaults: SpecDefaults): NonNullable<NonNullable<RuntimeSpec['process']>['capabilities']> {
  const names = (list: readonly string[] | undefined): string[] =>
    (list ?? []).map((name) => (name.toUpperCase() === 'ALL' || /^CAP_/i.test(name) ? name.toUpperCase() : `CAP_${name.toUpperCase()}`));
  const add = names(security.capabilities?.add);
  const drop = names(security.capabilities?.drop);
  // What is dropped by its name stays away, whoever else asks for it.
  const ambient = names(security.capabilities?.addAmbient).filter((name) => !drop.includes(name));
  for (const name of [...add, ...drop, ...ambient]) {
    if ((name !== 'ALL' || ambient.includes(name)) && !defaults.allCapabilities.includes(name) && !knownCapability.test(name))
      throw invalidArgument('config.linux.security_context.capabilities', `unknown capability ${name}`);
  }
  let set = new Set<string>(security.privileged ? defaults.allCapabilities : defaults.capabilities);
  if (!security.privileged) {
    if (add.includes('ALL')) set = new Set(defaults.allCapabilities);
    if (drop.includes('ALL')) set = new Set();
    for (const name of add) if (name !== 'ALL') set.add(name);
    for (const name of drop) set.delete(name);
  }
  const all = [...set.union(new Set(ambient))];
  return { bounding: all, effective: all, permitted: all, inheritable: ambient, ambient };
}

const knownCapability = /^CAP_[A-Z_]{3,30}$/;

async function planSeccomp(profile: SeccompProfile | undefined, capabilities: readonly string[], defaults: SpecDefaults): Promise<SpecSeccomp | undefined> {
  switch (profile?.kind) {
    case undefined:
    case 'unconfined':
      return undefined;
    case 'runtimeDefault':
      return defaults.seccomp(capabilities);
    case 'localhost':
      return defaults.readSeccompProfile(profile.path ?? '');
  }
}

function planNamespaces({ security }: ContainerConfig, targetPid: number | undefined): readonly SpecNamespace[] {
  const { network, pid, ipc } = security.namespaces;
  // A user of the host's network sees the host's names too, as everywhere else.
  const shared: SpecNamespace[] = network === 'pod' ? [{ type: 'network' }, { type: 'uts' }] : [];
  return [
    ...(pid === 'node' ? [] : [targetPid === undefined ? ({ type: 'pid' } as const) : ({ type: 'pid', path: `/proc/${targetPid}/ns/pid` } as const)]),
    ...(ipc === 'node' ? [] : [{ type: 'ipc' } as const]),
    ...shared,
    { type: 'mount' },
    ...(security.privileged ? [] : [{ type: 'cgroup' } as const]),
  ];
}

function baseMounts({ container }: SpecInput): readonly SpecMount[] {
  const { privileged, namespaces } = container.security;
  const mount = (destination: string, type: string, source: string, options: readonly string[]): SpecMount => ({ destination, type, source, options, idMapped: false });
  const options = ['nosuid', 'noexec', 'nodev'];
  // With the pod's IPC namespace this stands for the one shared memory that the pod already has.
  const shm =
    namespaces.ipc === 'node'
      ? mount('/dev/shm', 'bind', '/dev/shm', ['rbind', 'rprivate', ...options])
      : mount('/dev/shm', 'tmpfs', 'shm', [...options, 'mode=1777', 'size=65536k']);
  const mounts = [
    mount('/proc', 'proc', 'proc', ['nosuid', 'noexec', 'nodev']),
    mount('/dev', 'tmpfs', 'tmpfs', ['nosuid', 'strictatime', 'mode=755', 'size=65536k']),
    mount('/dev/pts', 'devpts', 'devpts', ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']),
    mount('/dev/mqueue', 'mqueue', 'mqueue', ['nosuid', 'noexec', 'nodev']),
    mount('/sys', 'sysfs', 'sysfs', ['nosuid', 'noexec', 'nodev', privileged ? 'rw' : 'ro']),
    mount('/sys/fs/cgroup', 'cgroup', 'cgroup', ['nosuid', 'noexec', 'nodev', 'relatime', privileged ? 'rw' : 'ro']),
    shm,
  ];
  const own = new Set(container.mounts.map(({ containerPath }) => containerPath.replace(/\/+$/, '')));
  return mounts.filter(({ destination }) => !own.has(destination));
}

/** hosts, resolv.conf and hostname of the pod, unless the request brings its own. */
function podFileMounts({ container, podDir }: SpecInput): readonly SpecMount[] {
  const readonly = container.security.readonlyRootfs ? 'ro' : 'rw';
  return ['hosts', 'hostname', 'resolv.conf']
    .filter((name) => !container.mounts.some(({ containerPath }) => containerPath === `/etc/${name}`))
    .map((name) => ({ destination: `/etc/${name}`, type: 'bind', source: `${podDir}/${name}`, options: ['rbind', 'rprivate', readonly], idMapped: false }));
}

const propagationOptions = { private: 'rprivate', hostToContainer: 'rslave', bidirectional: 'rshared' } as const;

/** Host paths are not looked at here: one that is missing or hangs is the helper's to meet, under a deadline. */
function planMounts(mounts: readonly Mount[], user: UserMappings | undefined): readonly SpecMount[] {
  const planned = mounts.map((mount, index): SpecMount => {
    const at = `config.mounts[${index}]`;
    if (!mount.containerPath.startsWith('/')) throw invalidArgument(`${at}.container_path`, `${JSON.stringify(mount.containerPath)} is not absolute`);
    const idMappings = mountMappings(mount, user, at);
    if (user !== undefined && mount.propagation === 'bidirectional') throw invalidArgument(`${at}.propagation`, 'must not be bidirectional in a pod with a user namespace');
    if (mount.image !== undefined) return planImageMount(mount, index);
    if (!mount.hostPath.startsWith('/')) throw invalidArgument(`${at}.host_path`, `${JSON.stringify(mount.hostPath)} is not absolute`);
    return {
      destination: mount.containerPath,
      type: 'bind',
      source: mount.hostPath,
      options: ['rbind', propagationOptions[mount.propagation], mount.recursiveReadonly === true ? 'rro' : mount.readonly ? 'ro' : 'rw', ...(mount.restrictions ?? [])],
      idMapped: idMappings !== undefined,
      ...(idMappings === undefined ? {} : { idMappings }),
      volume: true,
    };
  });
  // Shorter targets first, so that a mount inside another one is not hidden by it.
  return planned.toSorted((a, b) => depthOf(a.destination) - depthOf(b.destination));
}

function depthOf(path: string): number {
  return path.split('/').filter((part) => part !== '').length;
}

function planPropagation(mounts: readonly Mount[]): Pick<RuntimeSpec['linux'], 'rootfsPropagation'> {
  if (mounts.some(({ propagation }) => propagation === 'bidirectional')) return { rootfsPropagation: 'rshared' };
  return mounts.some(({ propagation }) => propagation === 'hostToContainer') ? { rootfsPropagation: 'rslave' } : {};
}

async function planDevices(
  container: ContainerConfig,
  defaults: SpecDefaults,
  user: UserMappings | undefined,
): Promise<{ readonly nodes: readonly SpecDevice[]; readonly rules: readonly SpecDeviceRule[] }> {
  // Below a user namespace its root would own every disk of the host: there a privileged container gets what it lists.
  if (container.security.privileged && user === undefined) {
    const all = await defaults.readDevices('/dev');
    return { nodes: all.map((device) => nodeOf(device, device.path)), rules: [{ allow: true, type: 'a', access: 'rwm' }] };
  }
  const nodes: SpecDevice[] = [];
  const rules: SpecDeviceRule[] = [{ allow: false, type: 'a', access: 'rwm' }];
  for (const [index, device] of container.devices.entries()) {
    if (!/^[rwm]{1,3}$/.test(device.permissions)) throw invalidArgument(`config.devices[${index}].permissions`, `${JSON.stringify(device.permissions)} is not made of r, w and m`);
    const [from, to] = [withoutEnd(device.hostPath), withoutEnd(device.containerPath)];
    for (const host of await defaults.readDevices(from)) {
      nodes.push(nodeOf(host, to + host.path.slice(from.length)));
      if (host.type !== 'p') rules.push({ allow: true, type: host.type, major: host.major, minor: host.minor, access: device.permissions });
    }
  }
  return { nodes, rules };
}

const withoutEnd = (path: string): string => path.replace(/(?<=.)\/+$/, '');

function nodeOf(device: HostDevice, path: string): SpecDevice {
  return { type: device.type, path, major: device.major, minor: device.minor, fileMode: device.mode, uid: device.uid, gid: device.gid };
}

const isSet = (value: bigint | undefined): value is bigint => value !== undefined && value !== 0n;

/** CRI's "0 means not set" becomes absence; a size of huge pages with the limit 0 is forbidden. */
export function planResources(resources: LinuxResources | undefined, deviceRules: readonly SpecDeviceRule[]): SpecResources {
  const cpu = {
    ...(isSet(resources?.cpuShares) ? { shares: resources.cpuShares } : {}),
    ...(isSet(resources?.cpuQuota) ? { quota: resources.cpuQuota } : {}),
    ...(isSet(resources?.cpuPeriod) ? { period: resources.cpuPeriod } : {}),
    ...(resources?.cpusetCpus === undefined || resources.cpusetCpus === '' ? {} : { cpus: resources.cpusetCpus }),
    ...(resources?.cpusetMems === undefined || resources.cpusetMems === '' ? {} : { mems: resources.cpusetMems }),
  };
  const memory = {
    ...(isSet(resources?.memoryLimitBytes) ? { limit: resources.memoryLimitBytes } : {}),
    ...(isSet(resources?.memorySwapLimitBytes) ? { swap: resources.memorySwapLimitBytes } : {}),
  };
  return {
    devices: deviceRules,
    ...(Object.keys(memory).length === 0 ? {} : { memory }),
    ...(Object.keys(cpu).length === 0 ? {} : { cpu }),
    ...(isSet(resources?.pidsLimit) ? { pids: { limit: resources.pidsLimit } } : {}),
    hugepageLimits: resources?.hugepageLimits ?? [],
    unified: resources?.unified ?? {},
  };
}
