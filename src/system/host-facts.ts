/**
 * What the host offers, as data, and the pure decoding of the kernel's texts into it. In: contents of files below /proc and /sys.
 * Out: HostFacts. This file reads nothing itself; host.io.ts does.
 */
import { RuntimeError } from '#core';

/** Processors that Berth runs on, by the kernel's names of their system call tables. */
export type Architecture = 'x86_64' | 'arm64';

/** One mounted cgroup v1 hierarchy. */
export interface CgroupV1Hierarchy {
  /** Such as `['cpu', 'cpuacct']`, or `['name=systemd']`. */
  readonly controllers: readonly string[];
  readonly mountpoint: string;
}

/** How control groups are mounted. `hybrid`: v1 hierarchies beside a cgroup2 mount. */
export interface CgroupFacts {
  readonly mode: 'v1' | 'hybrid' | 'v2';
  readonly v1: readonly CgroupV1Hierarchy[];
  /** The cgroup2 mount, with the controllers that it may enable. */
  readonly unified?: { readonly mountpoint: string; readonly controllers: readonly string[]; readonly canKill: boolean };
  /** CPUs and memory nodes of the v1 cpuset root, which a new cpuset below it must be given; empty where there is none. */
  readonly cpusetCpus: string;
  readonly cpusetMems: string;
  /** True where swap can be limited (memory.memsw.* on v1, memory.swap.max on v2). */
  readonly swapLimit: boolean;
  /** Page sizes of the hugetlb controller such as `2MB`. */
  readonly hugepageSizes: readonly string[];
  /**
   * Names of control files that some groups below the roots have: which there are depends on how the kernel was built and what it has loaded. Of a controller without any,
   * nothing is known: no group has it.
   */
  readonly controlFiles?: ReadonlySet<string>;
  /** Control files that whom a group is given to may own, as the kernel lists them. Source: cgroups(7), /sys/kernel/cgroup/delegate. */
  readonly delegated?: readonly string[];
}

/** Soft and hard limit of one resource; 2^64-1 is infinity. */
export interface RlimitCeiling {
  readonly soft: bigint;
  readonly hard: bigint;
}

/** Everything that planning needs to know of the host, read once at start. */
export interface HostFacts {
  readonly architecture: Architecture;
  readonly kernel: { readonly release: string; readonly major: number; readonly minor: number };
  readonly cgroups: CgroupFacts;
  /** Active security modules such as `apparmor`; empty where unknown. */
  readonly securityModules: readonly string[];
  /** Number of the last capability that the kernel knows, and the permitted set of this process as a bit mask. */
  readonly capabilities: { readonly last: number; readonly own: bigint };
  readonly oomScoreAdj: number;
  /** Limits of this process by the kernel's resource number. Raising a hard one needs CAP_SYS_RESOURCE. */
  readonly rlimits: Readonly<Record<number, RlimitCeiling>>;
  readonly seccomp: boolean;
  /** Where the resctrl file system is mounted; absent: nowhere. */
  readonly resctrl?: string;
}

/** One line of /proc/<pid>/mountinfo; see proc_pid_mountinfo(5). */
export interface MountInfo {
  readonly id: number;
  readonly parent: number;
  readonly device: string;
  readonly root: string;
  readonly mountpoint: string;
  readonly options: readonly string[];
  /** Such as `shared:12` or `master:3`. */
  readonly optional: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** Undoes the octal escapes (`\040`) of mountinfo. */
const unescape = (text: string): string => text.replaceAll(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCodePoint(Number.parseInt(digits, 8)));

/** The text of mountinfo as mounts, in order. Lines that are no mount are passed over. */
export function decodeMountInfo(text: string): readonly MountInfo[] {
  return text.split('\n').flatMap((line) => {
    const [left, right] = line.split(' - ', 2);
    if (left === undefined || right === undefined) return [];
    const [id, parent, device, root, mountpoint, options, ...optional] = left.split(' ');
    const [type, source, superOptions] = right.split(' ');
    if (device === undefined || root === undefined || mountpoint === undefined || options === undefined || type === undefined) return [];
    return [
      {
        id: Number(id),
        parent: Number(parent),
        device,
        root: unescape(root),
        mountpoint: unescape(mountpoint),
        options: options.split(','),
        optional,
        type,
        source: unescape(source ?? ''),
        superOptions: (superOptions ?? '').split(','),
      },
    ];
  });
}

const knownControllers = new Set(['cpu', 'cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio', 'pids', 'hugetlb', 'net_cls', 'net_prio', 'perf_event', 'rdma', 'misc']);

/** Cgroup mounts among the mounts. Where a hierarchy is mounted twice, the first below /sys/fs/cgroup counts. */
export function decodeCgroupMounts(mounts: readonly MountInfo[]): { readonly v1: readonly CgroupV1Hierarchy[]; readonly unified?: string } {
  const v1 = new Map<string, CgroupV1Hierarchy>();
  let unified: string | undefined;
  for (const mount of [...mounts].sort((a, b) => Number(b.mountpoint.startsWith('/sys/fs/cgroup')) - Number(a.mountpoint.startsWith('/sys/fs/cgroup')))) {
    if (mount.root !== '/') continue;
    if (mount.type === 'cgroup2') unified ??= mount.mountpoint;
    if (mount.type !== 'cgroup') continue;
    const controllers = mount.superOptions.filter((option) => knownControllers.has(option) || option.startsWith('name='));
    const key = controllers.join(',');
    if (controllers.length > 0 && !v1.has(key)) v1.set(key, { controllers, mountpoint: mount.mountpoint });
  }
  return { v1: [...v1.values()], ...(unified === undefined ? {} : { unified }) };
}

/** The `Name:\tvalue` lines of /proc/<pid>/status. */
export function decodeStatusFields(text: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    text.split('\n').flatMap((line) => {
      const colon = line.indexOf(':');
      return colon < 0 ? [] : [[line.slice(0, colon), line.slice(colon + 1).trim()] as const];
    }),
  );
}

/** Titles of /proc/<pid>/limits by resource number (asm-generic/resource.h). */
const limitTitles = [
  'Max cpu time',
  'Max file size',
  'Max data size',
  'Max stack size',
  'Max core file size',
  'Max resident set',
  'Max processes',
  'Max open files',
  'Max locked memory',
  'Max address space',
  'Max file locks',
  'Max pending signals',
  'Max msgqueue size',
  'Max nice priority',
  'Max realtime priority',
  'Max realtime timeout',
];

/** 2^64-1: the kernel's RLIM_INFINITY. */
export const rlimitInfinity: bigint = (1n << 64n) - 1n;

/** /proc/<pid>/limits by resource number; `unlimited` is 2^64-1. */
export function decodeLimits(text: string): Readonly<Record<number, RlimitCeiling>> {
  const value = (word: string): bigint => (word === 'unlimited' ? rlimitInfinity : BigInt(word));
  return Object.fromEntries(
    text.split('\n').flatMap((line) => {
      const resource = limitTitles.findIndex((title) => line.startsWith(`${title} `));
      const match = /^ *(\d+|unlimited) +(\d+|unlimited)/.exec(line.slice(limitTitles[resource]?.length ?? 0));
      return resource < 0 || match?.[1] === undefined || match[2] === undefined ? [] : [[resource, { soft: value(match[1]), hard: value(match[2]) }] as const];
    }),
  );
}

/** `6.1.0-18-amd64` as numbers. Throws internal on a release without them. */
export function decodeKernelRelease(release: string): HostFacts['kernel'] {
  const match = /^(\d+)\.(\d+)/.exec(release);
  if (match === null) throw new RuntimeError('internal', `decode kernel release ${JSON.stringify(release)}: no version`);
  return { release, major: Number(match[1]), minor: Number(match[2]) };
}

/** Node's name of the processor as the project's. Throws unimplemented for any other. */
export function decodeArchitecture(name: string): Architecture {
  if (name === 'x64') return 'x86_64';
  if (name === 'arm64') return 'arm64';
  throw new RuntimeError('unimplemented', `run on ${name}: only x86_64 and arm64 are supported`);
}
