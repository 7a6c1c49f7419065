/**
 * The options of `run IMAGE` as a Pod manifest with one container, so that images and manifests take one way.
 * In: parsed options. Out: typed values, or invalidArgument. Pure.
 */
import { RuntimeError } from '#core';
import { decodeCapability, decodeCpuMilli, decodeEnvName, decodeId, decodeImage, decodeIpAddress, decodeMemoryBytes, defaultPullPolicy } from '#podrun';
import type { ContainerPlan, EnvManifest, ImagePullPolicy, PodManifest, PodPlan, PortManifest, VolumeManifest, VolumeMountManifest } from '#podrun';

const bad = (message: string): RuntimeError => new RuntimeError('invalidArgument', message);

/** `[IP:][HOST_PORT:]CONTAINER_PORT[/PROTOCOL]`; a single port is published under the same number. */
export function decodePublish(text: string): PortManifest {
  const match = /^(?:(?:(\[[^\]]+\]|[^:[\]]+):)?(\d{1,5}):)?(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text);
  const port = (digits: string): number => {
    const number = Number(digits);
    if (number < 1 || number > 65_535) throw bad(`port ${digits} is outside 1 to 65535`);
    return number;
  };
  if (match === null || match[3] === undefined) throw bad('must be [IP:][HOST_PORT:]CONTAINER_PORT[/tcp|udp|sctp]');
  const hostIp = match[1] === undefined ? undefined : decodeIpAddress(match[1].replace(/^\[|\]$/g, ''), 'IP');
  const protocol = match[4] === 'udp' ? 'udp' : match[4] === 'sctp' ? 'sctp' : 'tcp';
  return { containerPort: port(match[3]), hostPort: port(match[2] ?? match[3]), protocol, ...(hostIp === undefined ? {} : { hostIp }) };
}

/** A host path in a container. */
export interface BindFlag {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly readOnly: boolean;
  readonly propagation: VolumeMountManifest['propagation'];
}

/** `HOST_PATH:CONTAINER_PATH[:ro|rw|rslave|rshared,…]`. */
export function decodeVolume(text: string): BindFlag {
  const [hostPath = '', containerPath = '', modes, ...more] = text.split(':');
  if (hostPath === '' || containerPath === '' || more.length > 0) throw bad('must be HOST_PATH:CONTAINER_PATH[:ro|rw|rslave|rshared]');
  if (!containerPath.startsWith('/') || containerPath === '/' || containerPath.split('/').includes('..'))
    throw bad(`container path ${JSON.stringify(containerPath)} must be absolute, without "..", and not the root`);
  let readOnly = false;
  let propagation: BindFlag['propagation'] = 'private';
  for (const mode of modes?.split(',') ?? []) {
    if (mode === 'ro') readOnly = true;
    else if (mode === 'rslave') propagation = 'hostToContainer';
    else if (mode === 'rshared') propagation = 'bidirectional';
    else if (mode !== 'rw') throw bad(`unknown mode ${JSON.stringify(mode)} (ro, rw, rslave, rshared)`);
  }
  return { hostPath, containerPath, readOnly, propagation };
}

/** `NAME=VALUE`, or `NAME` for the value that this process has. */
export function envDecoder(env: Readonly<Record<string, string | undefined>>): (text: string) => EnvManifest | undefined {
  return (text) => {
    const equals = text.indexOf('=');
    const name = decodeEnvName(equals < 0 ? text : text.slice(0, equals), 'name');
    const value = equals < 0 ? env[name] : text.slice(equals + 1);
    // `$` is shielded, because the value is meant as it stands and manifests expand `$(NAME)`.
    return value === undefined ? undefined : { kind: 'literal', name, value: value.replaceAll('$', '$$$$') };
  };
}

/** `UID[:GID]` or a name that the container's passwd file has. */
export function decodeUser(text: string): { readonly uid?: number; readonly gid?: number; readonly username?: string } {
  const [user = '', group, ...more] = text.split(':');
  if (user === '' || more.length > 0) throw bad('must be UID[:GID] or a user name');
  const numeric = (word: string): number => decodeId(Number(word), '');
  if (!/^\d+$/.test(user)) {
    if (group !== undefined) throw bad('a group needs a numeric user');
    if (!/^[A-Za-z_][\w.-]{0,63}\$?$/.test(user)) throw bad(`${JSON.stringify(user.slice(0, 80))} is no user name`);
    return { username: user };
  }
  if (group === undefined) return { uid: numeric(user) };
  if (!/^\d+$/.test(group)) throw bad('the group must be numeric');
  return { uid: numeric(user), gid: numeric(group) };
}

/** A Kubernetes quantity; the lower-case `m` of other tools means thousandths there, so tiny values are refused with a hint. */
export function decodeMemory(text: string): bigint {
  const bytes = decodeMemoryBytes(text, 'size');
  if (bytes < 512n * 1024n)
    throw bad(`${text} is ${bytes} bytes, too little to run anything${/^[\d.]+[kmg]$/.test(text) ? `; did you mean ${text.slice(0, -1)}${text.slice(-1).toUpperCase()}i?` : ''}`);
  return bytes;
}

/** A CPU limit in thousandths of a core; at least 0.01 of one, the kernel's smallest quota. */
export const decodeCpus = (text: string): bigint => {
  const milli = decodeCpuMilli(text, 'cpus');
  if (milli < 10n) throw bad(`${text} is less than 0.01 of a CPU`);
  return milli;
};

/** Most processes of a container, 1 or more. */
export const decodePidsLimit = (text: string): bigint => {
  if (!/^[1-9]\d{0,6}$/.test(text)) throw bad('must be a number of 1 or more');
  return BigInt(text);
};

/** A name for a pod, its container and its host: one DNS label. */
export const decodePodName = (text: string): string => {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text)) throw bad('must be at most 63 lower-case letters, digits or "-", and start and end with a letter or digit');
  return text;
};

/** A capability by its name, with or without `CAP_`. */
export const decodeCapabilityFlag = (text: string): string => decodeCapability(text, 'capability');

/** Options of `run IMAGE` after parsing. */
export interface ImageRunFlags {
  readonly env?: readonly (EnvManifest | undefined)[];
  readonly volume?: readonly BindFlag[];
  readonly publish?: readonly PortManifest[];
  readonly hostname?: string;
  readonly network?: 'pod' | 'host';
  readonly user?: ReturnType<typeof decodeUser>;
  readonly workdir?: string;
  readonly entrypoint?: string;
  readonly memory?: bigint;
  readonly cpus?: bigint;
  readonly pidsLimit?: bigint;
  readonly readOnly?: boolean;
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  readonly privileged?: boolean;
  readonly pull?: 'always' | 'missing' | 'never';
  readonly restart?: 'no' | 'on-failure' | 'always';
  readonly stopTimeout?: number;
  readonly interactive?: boolean;
  readonly tty?: boolean;
}

const pullPolicies: Readonly<Record<NonNullable<ImageRunFlags['pull']>, ImagePullPolicy>> = { always: 'Always', missing: 'IfNotPresent', never: 'Never' };
const restartPolicies = { no: 'Never', 'on-failure': 'OnFailure', always: 'Always' } as const;

/** `$(NAME)` is not expanded in words that the shell has expanded already. */
const shield = (word: string): string => word.replaceAll('$', '$$$$');

/** A manifest with one container that has the pod's name. */
export function buildImageManifest(
  { image, words, name, workingDirectory }: { readonly image: string; readonly words: readonly string[]; readonly name: string; readonly workingDirectory: string },
  options: ImageRunFlags,
): PodManifest {
  const binds = options.volume ?? [];
  const privileged = options.privileged === true;
  if (!privileged && binds.some((bind) => bind.propagation === 'bidirectional')) throw bad('--volume with rshared needs --privileged');
  const doubled = binds.find((bind, index) => binds.findIndex((other) => other.containerPath === bind.containerPath) < index);
  if (doubled !== undefined) throw bad(`--volume: ${doubled.containerPath} is mounted twice`);
  if (options.network === 'host' && (options.publish ?? []).length > 0) throw bad('--publish has no meaning with --network host: the container listens on the host itself');
  const volumes = binds.map((bind, index): VolumeManifest => ({
    kind: 'hostPath',
    name: `volume-${index + 1}`,
    path: bind.hostPath.startsWith('/') ? bind.hostPath : `${workingDirectory}/${bind.hostPath}`,
    type: '',
  }));
  return {
    name,
    namespace: 'default',
    labels: {},
    annotations: {},
    hostname: options.hostname ?? '',
    volumes,
    initContainers: [],
    containers: [
      {
        name,
        image: decodeImage(image, 'image'),
        // Below localhost/ there is no registry to ask, so the answer of one would only confuse.
        imagePullPolicy: options.pull !== undefined ? pullPolicies[options.pull] : defaultPullPolicy(image) === 'Never' ? 'Never' : 'IfNotPresent',
        sidecar: false,
        command: options.entrypoint === undefined ? [] : [shield(options.entrypoint)],
        args: words.map(shield),
        workingDir: options.workdir ?? '',
        env: (options.env ?? []).filter((entry) => entry !== undefined),
        resources: { ...(options.cpus === undefined ? {} : { cpuLimitMilli: options.cpus }), ...(options.memory === undefined ? {} : { memoryLimitBytes: options.memory }) },
        security: {
          privileged,
          capabilitiesAdd: options.capAdd ?? [],
          capabilitiesDrop: options.capDrop ?? [],
          readOnlyRootFilesystem: options.readOnly === true,
          ...(options.user?.uid === undefined ? {} : { runAsUser: options.user.uid }),
          ...(options.user?.gid === undefined ? {} : { runAsGroup: options.user.gid }),
        },
        volumeMounts: binds.map((bind, index) => ({ name: `volume-${index + 1}`, mountPath: bind.containerPath, readOnly: bind.readOnly, propagation: bind.propagation })),
        ports: options.publish ?? [],
        stdin: options.interactive === true,
        stdinOnce: options.interactive === true,
        tty: options.tty === true,
      },
    ],
    restartPolicy: restartPolicies[options.restart ?? 'no'],
    terminationGracePeriodSeconds: options.stopTimeout ?? 10,
    security: { supplementalGroups: [], supplementalGroupsPolicy: 'merge', sysctls: {} },
    hostNetwork: options.network === 'host',
    hostPid: false,
    hostUsers: true,
    hostIpc: false,
    shareProcessNamespace: false,
    dnsPolicy: 'host',
    hostAliases: [],
  };
}

function withoutOomScore(container: ContainerPlan): ContainerPlan {
  const { oomScoreAdj: _unused, ...rest } = container;
  return rest;
}

/** What a manifest cannot say: a limit on processes, a user by name; and no OOM score, which only has a meaning among a kubelet's pods. */
export function adjustImagePlan(plan: PodPlan, options: ImageRunFlags): PodPlan {
  const adjust = (container: ContainerPlan): ContainerPlan => ({
    ...withoutOomScore(container),
    ...(options.pidsLimit === undefined ? {} : { pidsLimit: options.pidsLimit }),
    ...(options.user?.username === undefined ? {} : { runAsUsername: options.user.username }),
  });
  return { ...plan, containers: plan.containers.map(adjust) };
}

/** A pod's name made from the image's, such as `busybox-3f9a`. */
export function nameFromImage(image: string, randomBytes: Uint8Array): string {
  const base =
    image
      .replace(/@.*$/, '')
      .replace(/:[^/:]*$/, '')
      .split('/')
      .at(-1) ?? '';
  const clean = base
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]+/g, '-')
    .replaceAll(/^-+|-+$/g, '')
    .slice(0, 40);
  return `${clean === '' ? 'pod' : clean}-${Buffer.from(randomBytes).toString('hex')}`;
}
