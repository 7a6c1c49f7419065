/**
 * The OCI runtime specification 1.3, Linux part, as types. In: nothing. Out: types and the word lists that the decoder accepts.
 * Names are those of the specification. 64-bit quantities (limits, rlimits, quotas, seccomp values) are bigint; ids, modes and device
 * numbers are JavaScript numbers, checked to be 32-bit. Properties that the project does not act on are kept out by the decoder.
 */
import type { SpecHooks } from './hooks.ts';
import type { SpecIdMapping } from './id-mappings.ts';
import type { SpecResources } from './resources.ts';
import type { SpecIntelRdt, SpecMemoryPolicy, SpecNetDevices, SpecPersonality, SpecTimeOffsets } from './linux-features.ts';
import type { SpecCpuAffinity, SpecIoPriority, SpecScheduler } from './scheduling.ts';

/** Kinds of namespaces. */
export const namespaceTypes = ['pid', 'network', 'mount', 'ipc', 'uts', 'user', 'cgroup', 'time'] as const;
/** One of `namespaceTypes`. */
export type NamespaceType = (typeof namespaceTypes)[number];

/** One entry of linux.namespaces. */
export interface SpecNamespace {
  readonly type: NamespaceType;
  /** A namespace file to join; absent: a new one. */
  readonly path?: string;
}

/** process.user; ids are 32-bit. */
export interface SpecUser {
  readonly uid: number;
  readonly gid: number;
  readonly umask?: number;
  readonly additionalGids: readonly number[];
}

/** Capability names such as `CAP_CHOWN`, one list per set. */
export interface SpecCapabilities {
  readonly bounding: readonly string[];
  readonly effective: readonly string[];
  readonly permitted: readonly string[];
  readonly inheritable: readonly string[];
  readonly ambient: readonly string[];
}

/** One entry of process.rlimits; 2^64-1 is infinity. */
export interface SpecRlimit {
  /** Such as `RLIMIT_NOFILE`. */
  readonly type: RlimitType;
  readonly soft: bigint;
  readonly hard: bigint;
}

/** Resource limits in the order of their kernel numbers (asm-generic/resource.h). */
export const rlimitTypes = [
  'RLIMIT_CPU',
  'RLIMIT_FSIZE',
  'RLIMIT_DATA',
  'RLIMIT_STACK',
  'RLIMIT_CORE',
  'RLIMIT_RSS',
  'RLIMIT_NPROC',
  'RLIMIT_NOFILE',
  'RLIMIT_MEMLOCK',
  'RLIMIT_AS',
  'RLIMIT_LOCKS',
  'RLIMIT_SIGPENDING',
  'RLIMIT_MSGQUEUE',
  'RLIMIT_NICE',
  'RLIMIT_RTPRIO',
  'RLIMIT_RTTIME',
] as const;
/** One of `rlimitTypes`. */
export type RlimitType = (typeof rlimitTypes)[number];

/** The process object; lists that the document leaves out are empty. */
export interface SpecProcess {
  readonly terminal: boolean;
  readonly consoleSize?: { readonly height: number; readonly width: number };
  readonly user: SpecUser;
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities?: SpecCapabilities;
  readonly rlimits: readonly SpecRlimit[];
  readonly noNewPrivileges: boolean;
  /** -1000 to 1000. */
  readonly oomScoreAdj?: number;
  readonly apparmorProfile?: string;
  readonly selinuxLabel?: string;
  readonly scheduler?: SpecScheduler;
  readonly ioPriority?: SpecIoPriority;
  /** For an exec only. */
  readonly execCPUAffinity?: SpecCpuAffinity;
  /** Names of further fields that are present and that nobody here implements. */
  readonly unsupported: readonly string[];
}

/** One entry of mounts. */
export interface SpecMount {
  /** Absolute, without `..`. */
  readonly destination: string;
  readonly type?: string;
  readonly source?: string;
  readonly options: readonly string[];
  /** True where the mount asks for id mapping of its own. */
  readonly idMapped: boolean;
  /** The mapping that it asks for; absent where it asks for none. */
  readonly idMappings?: { readonly uids: readonly SpecIdMapping[]; readonly gids: readonly SpecIdMapping[] };
  /**
   * A pod's volume, never said by a document: a source that is missing is made as an empty directory, and where mounts shall cross, those of the source
   * must be able to.
   */
  readonly volume?: true;
}

/** One entry of linux.devices. */
export interface SpecDevice {
  readonly type: 'c' | 'b' | 'u' | 'p';
  readonly path: string;
  readonly major: number;
  readonly minor: number;
  readonly fileMode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

/** What a filter may answer. */
export const seccompActions = [
  'SCMP_ACT_KILL',
  'SCMP_ACT_KILL_PROCESS',
  'SCMP_ACT_KILL_THREAD',
  'SCMP_ACT_TRAP',
  'SCMP_ACT_ERRNO',
  'SCMP_ACT_TRACE',
  'SCMP_ACT_ALLOW',
  'SCMP_ACT_LOG',
  'SCMP_ACT_NOTIFY',
] as const;
/** One of `seccompActions`. */
export type SeccompAction = (typeof seccompActions)[number];

/** How an argument is compared. */
export const seccompOperators = ['SCMP_CMP_NE', 'SCMP_CMP_LT', 'SCMP_CMP_LE', 'SCMP_CMP_EQ', 'SCMP_CMP_GE', 'SCMP_CMP_GT', 'SCMP_CMP_MASKED_EQ'] as const;
/** One of `seccompOperators`. */
export type SeccompOperator = (typeof seccompOperators)[number];

/** Calling conventions as libseccomp names them. */
export const seccompArchitectures = [
  'SCMP_ARCH_X86',
  'SCMP_ARCH_X86_64',
  'SCMP_ARCH_X32',
  'SCMP_ARCH_ARM',
  'SCMP_ARCH_AARCH64',
  'SCMP_ARCH_MIPS',
  'SCMP_ARCH_MIPS64',
  'SCMP_ARCH_MIPS64N32',
  'SCMP_ARCH_MIPSEL',
  'SCMP_ARCH_MIPSEL64',
  'SCMP_ARCH_MIPSEL64N32',
  'SCMP_ARCH_PPC',
  'SCMP_ARCH_PPC64',
  'SCMP_ARCH_PPC64LE',
  'SCMP_ARCH_S390',
  'SCMP_ARCH_S390X',
  'SCMP_ARCH_PARISC',
  'SCMP_ARCH_PARISC64',
  'SCMP_ARCH_RISCV64',
  'SCMP_ARCH_LOONGARCH64',
  'SCMP_ARCH_M68K',
  'SCMP_ARCH_SH',
  'SCMP_ARCH_SHEB',
] as const;
/** One of `seccompArchitectures`. */
export type SeccompArchitecture = (typeof seccompArchitectures)[number];

/** Flags of seccomp(2). */
export const seccompFlags = ['SECCOMP_FILTER_FLAG_TSYNC', 'SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_SPEC_ALLOW', 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'] as const;
/** One of `seccompFlags`. */
export type SeccompFlag = (typeof seccompFlags)[number];

/** One comparison of an argument. */
export interface SeccompArg {
  /** 0 to 5. */
  readonly index: number;
  readonly value: bigint;
  readonly valueTwo: bigint;
  readonly op: SeccompOperator;
}

/** One entry of linux.seccomp.syscalls. */
export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: SeccompAction;
  readonly errnoRet?: number;
  /** All must hold. */
  readonly args: readonly SeccompArg[];
}

/** linux.seccomp. */
export interface SpecSeccomp {
  readonly defaultAction: SeccompAction;
  readonly defaultErrnoRet?: number;
  /** Empty: the native architecture only. */
  readonly architectures: readonly SeccompArchitecture[];
  readonly flags: readonly SeccompFlag[];
  readonly syscalls: readonly SeccompRule[];
  /** Socket of the agent that answers for SCMP_ACT_NOTIFY; relative to the bundle. */
  readonly listenerPath?: string;
  /** Handed to the agent as it is. */
  readonly listenerMetadata?: string;
}

/** Words of linux.rootfsPropagation. */
export const propagations = ['private', 'rprivate', 'slave', 'rslave', 'shared', 'rshared', 'unbindable', 'runbindable'] as const;
/** One of `propagations`. */
export type Propagation = (typeof propagations)[number];

/** The linux object. */
export interface SpecLinux {
  readonly namespaces: readonly SpecNamespace[];
  readonly hasIdMappings: boolean;
  /** Of the user namespace; absent like empty. */
  readonly uidMappings?: readonly SpecIdMapping[];
  readonly gidMappings?: readonly SpecIdMapping[];
  readonly timeOffsets?: SpecTimeOffsets;
  readonly netDevices?: SpecNetDevices;
  readonly memoryPolicy?: SpecMemoryPolicy;
  readonly intelRdt?: SpecIntelRdt;
  readonly devices: readonly SpecDevice[];
  readonly cgroupsPath?: string;
  readonly resources?: SpecResources;
  readonly sysctl: Readonly<Record<string, string>>;
  readonly rootfsPropagation?: Propagation;
  readonly seccomp?: SpecSeccomp;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly mountLabel?: string;
  readonly personality?: SpecPersonality;
  readonly unsupported: readonly string[];
}

/** A decoded config.json. */
export interface RuntimeSpec {
  readonly ociVersion: string;
  readonly hostname?: string;
  readonly domainname?: string;
  /** Optional by the specification at create; needed to plan a container. */
  readonly process?: SpecProcess;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly mounts: readonly SpecMount[];
  readonly hooks: SpecHooks;
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: SpecLinux;
}
