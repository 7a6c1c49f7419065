/** What pod and container configurations share. In: CRI messages. Out: the engine's values, or errors with the path in the request. Pure. */
import type { SecurityProfile as SecurityProfileMessage, LinuxContainerResources, NamespaceOption, Int64Value } from '#gen/cri-v1_pb.js';
import { NamespaceMode as NamespaceModeEnum, SecurityProfile_ProfileType as ProfileType } from '#gen/cri-v1_pb.js';
import { RuntimeError, invalidArgument } from '#core';
import type { LinuxResources, NamespaceMode, NamespaceOptions, SeccompProfile } from '#pod';
import { decodeUserNamespace } from './decode-userns.ts';

/** unimplemented, with the path of the field that asks for what this version does not do. */
export function unimplementedField(path: string, what: string): RuntimeError {
  return new RuntimeError('unimplemented', `${path}: ${what} not implemented`);
}

/** The text, which must not be empty nor hold a NUL byte. */
export function requireText(path: string, text: string): string {
  if (text === '') throw invalidArgument(path, 'required');
  return decodeText(path, text);
}

/** A string that reaches the kernel: no NUL byte, which would end it early there. */
export function decodeText(path: string, text: string): string {
  if (text.includes('\0')) throw invalidArgument(path, 'must not contain a NUL byte');
  return text;
}

/** The text, which must start with a slash. Links and `..` are for whoever opens it below a root. */
export function requireAbsolutePath(path: string, text: string): string {
  if (!requireText(path, text).startsWith('/')) throw invalidArgument(path, `must be an absolute path, not ${JSON.stringify(text.slice(0, 200))}`);
  return text;
}

/** User and group ids: strictly uint32 without its last value, which means "unchanged" to the kernel. Source: CVE-2024-40635. */
export function decodeUserId(path: string, value: bigint): number {
  if (value < 0n || value >= 0xffff_ffffn) throw invalidArgument(path, `must be 0 to 4294967294, not ${value}`);
  return Number(value);
}

/** An id in CRI's wrapper, where absent differs from 0 (root). */
export function decodeOptionalUserId(path: string, wrapped: Int64Value | undefined): number | undefined {
  return wrapped === undefined ? undefined : decodeUserId(`${path}.value`, wrapped.value);
}

/** Group ids, each as strict as a user id. */
export function decodeSupplementalGroups(path: string, groups: readonly bigint[]): number[] {
  return groups.map((group, index) => decodeUserId(`${path}[${index}]`, group));
}

/** Seconds of a request as milliseconds. */
export function decodeTimeoutMs(path: string, seconds: bigint): number {
  // A hundred years: beyond any use, and far inside what a number holds exactly.
  if (seconds < 0n || seconds > 3_155_760_000n) throw invalidArgument(path, `must be 0 to 3155760000 seconds, not ${seconds}`);
  return Number(seconds) * 1000;
}

const namespaceModes = new Map<NamespaceModeEnum, NamespaceMode>([
  [NamespaceModeEnum.POD, 'pod'],
  [NamespaceModeEnum.CONTAINER, 'container'],
  [NamespaceModeEnum.NODE, 'node'],
  [NamespaceModeEnum.TARGET, 'target'],
]);

function decodeNamespaceMode<Mode extends NamespaceMode>(path: string, value: NamespaceModeEnum, allowed: readonly Mode[]): Mode {
  const mode = namespaceModes.get(value);
  const found = allowed.find((candidate) => candidate === mode);
  if (found === undefined) throw invalidArgument(path, `must be one of ${allowed.join(', ').toUpperCase()}, not ${mode?.toUpperCase() ?? value}`);
  return found;
}

/** Namespaces of a pod or a container. An absent message means its zero values, as for every CRI runtime: all of the pod's. */
export function decodeNamespaceOptions(path: string, options: NamespaceOption | undefined, owner: 'pod' | 'container'): NamespaceOptions {
  if (options === undefined) return { network: 'pod', pid: 'pod', ipc: 'pod' };
  const user = decodeUserNamespace(`${path}.userns_options`, options.usernsOptions);
  const pidModes: readonly NamespaceMode[] = owner === 'pod' ? ['pod', 'container', 'node'] : ['pod', 'container', 'node', 'target'];
  const namespaces: NamespaceOptions = {
    network: decodeNamespaceMode(`${path}.network`, options.network, ['pod', 'node']),
    pid: decodeNamespaceMode(`${path}.pid`, options.pid, pidModes),
    ipc: decodeNamespaceMode(`${path}.ipc`, options.ipc, ['pod', 'node']),
    ...(user === undefined ? {} : { user }),
  };
  if (user !== undefined && user.uids.length > 0 && namespaces.pid === 'node') throw invalidArgument(`${path}.pid`, 'must not be NODE with a user namespace');
  return namespaces.pid === 'target' ? { ...namespaces, targetId: requireText(`${path}.target_id`, options.targetId) } : namespaces;
}

/** The profile, or that of the deprecated field, or undefined where neither is set. */
export function decodeSeccomp(path: string, profile: SecurityProfileMessage | undefined, deprecated: string): SeccompProfile | undefined {
  if (profile === undefined) return decodeDeprecatedSeccomp(`${path}.seccomp_profile_path`, deprecated);
  switch (profile.profileType) {
    case ProfileType.RuntimeDefault:
      return { kind: 'runtimeDefault' };
    case ProfileType.Unconfined:
      return { kind: 'unconfined' };
    case ProfileType.Localhost:
      return { kind: 'localhost', path: requireAbsolutePath(`${path}.seccomp.localhost_ref`, profile.localhostRef) };
    default:
      throw invalidArgument(`${path}.seccomp.profile_type`, `unknown value ${String(profile.profileType)}`);
  }
}

function decodeDeprecatedSeccomp(path: string, text: string): SeccompProfile | undefined {
  if (text === '') return undefined;
  if (text === 'runtime/default' || text === 'docker/default') return { kind: 'runtimeDefault' };
  if (text === 'unconfined') return { kind: 'unconfined' };
  if (text.startsWith('localhost/')) return { kind: 'localhost', path: requireAbsolutePath(path, text.slice('localhost/'.length)) };
  throw invalidArgument(path, `unknown profile ${JSON.stringify(text.slice(0, 200))}`);
}

/** Resources with what is 0 or empty left out; undefined where nothing is set. */
export function decodeResources(path: string, message: LinuxContainerResources | undefined): LinuxResources | undefined {
  if (message === undefined) return undefined;
  const resources: LinuxResources = {
    ...positive(`${path}.cpu_period`, 'cpuPeriod', message.cpuPeriod),
    // A negative quota is the kernel's way to say "no limit".
    ...(message.cpuQuota === 0n ? {} : { cpuQuota: message.cpuQuota }),
    ...positive(`${path}.cpu_shares`, 'cpuShares', message.cpuShares),
    ...(message.memoryLimitInBytes === -1n ? { memoryLimitBytes: -1n } : positive(`${path}.memory_limit_in_bytes`, 'memoryLimitBytes', message.memoryLimitInBytes)),
    // -1 is no limit, as the kubelet sends it for swap.
    ...(message.memorySwapLimitInBytes === -1n
      ? { memorySwapLimitBytes: -1n }
      : positive(`${path}.memory_swap_limit_in_bytes`, 'memorySwapLimitBytes', message.memorySwapLimitInBytes)),
    ...decodeOomScoreAdj(`${path}.oom_score_adj`, message.oomScoreAdj),
    ...(message.cpusetCpus === '' ? {} : { cpusetCpus: decodeText(`${path}.cpuset_cpus`, message.cpusetCpus) }),
    ...(message.cpusetMems === '' ? {} : { cpusetMems: decodeText(`${path}.cpuset_mems`, message.cpusetMems) }),
    ...(message.hugepageLimits.length === 0
      ? {}
      : {
          hugepageLimits: message.hugepageLimits.map(({ pageSize, limit }, index) => ({ pageSize: requireText(`${path}.hugepage_limits[${index}].page_size`, pageSize), limit })),
        }),
    ...(Object.keys(message.unified).length === 0 ? {} : { unified: decodeMap(`${path}.unified`, message.unified) }),
  };
  return Object.keys(resources).length === 0 ? undefined : resources;
}

function positive<Key extends string>(path: string, key: Key, value: bigint): { readonly [K in Key]?: bigint } {
  if (value < 0n) throw invalidArgument(path, `must not be negative, not ${value}`);
  if (value === 0n) return {};
  // SAFETY: a computed key widens to an index signature; the object has exactly this key.
  return { [key]: value } as { readonly [K in Key]?: bigint };
}

function decodeOomScoreAdj(path: string, value: bigint): { readonly oomScoreAdj?: number } {
  if (value < -1000n || value > 1000n) throw invalidArgument(path, `must be -1000 to 1000, not ${value}`);
  return value === 0n ? {} : { oomScoreAdj: Number(value) };
}

/** A map of strings as a plain object of its own keys. */
export function decodeMap(path: string, map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [requireText(`${path} key`, key), decodeText(`${path}[${JSON.stringify(key)}]`, value)]));
}
