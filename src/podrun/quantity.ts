/**
 * Kubernetes quantities, and what the kubelet makes of them for a cgroup. Pure.
 * In: texts such as `500m` or `64Mi`. Out: exact integers. Source: Kubernetes API, "Quantity"; kubelet pkg/kubelet/cm/helpers_linux.go for the constants.
 */
import { invalidArgument } from '#core';
import { type Decoder, kindOf } from '#oci';
import type { LinuxResources } from '#pod';
import type { ResourcesManifest } from './manifest-types.ts';

const binarySuffixes = ['Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];
const decimalSuffixes: Readonly<Record<string, number>> = { n: -9, u: -6, m: -3, '': 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };
const quantityPattern = /^([+-]?)(\d{1,30})?(?:\.(\d{0,30}))?([KMGTPE]i|[numkMGTPE]?|[eE][+-]?\d{1,2})$/;

/** The quantity times `scale`, rounded up, as the API server rounds. Undefined where the text is no quantity. */
export function parseQuantity(text: string, scale: bigint): bigint | undefined {
  const match = quantityPattern.exec(text);
  if (match === null || (match[2] === undefined && (match[3] ?? '') === '')) return undefined;
  const [, sign = '', whole = '', fraction = '', suffix = ''] = match;
  const power = binarySuffixes.indexOf(suffix) + 1;
  const exponent = power > 0 ? 0 : /^[eE][+-]?\d/.test(suffix) ? Number(suffix.slice(1)) : (decimalSuffixes[suffix] ?? 0);
  let numerator = BigInt(`${whole}${fraction}`) * scale * 1024n ** BigInt(power);
  let denominator = 10n ** BigInt(fraction.length);
  if (exponent >= 0) numerator *= 10n ** BigInt(exponent);
  else denominator *= 10n ** BigInt(-exponent);
  const rounded = (numerator + denominator - 1n) / denominator;
  return sign === '-' ? -rounded : rounded;
}

function quantity(scale: bigint): Decoder<bigint> {
  return (value, path) => {
    if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'bigint')
      throw invalidArgument(path, `must be a quantity such as 500m or 64Mi, not ${kindOf(value)}`);
    const parsed = parseQuantity(String(value), scale);
    if (parsed === undefined) throw invalidArgument(path, `${JSON.stringify(String(value).slice(0, 80))} is no quantity, such as 500m or 64Mi`);
    if (parsed < 0n) throw invalidArgument(path, `${String(value)} must not be negative`);
    if (parsed > (1n << 63n) - 1n) throw invalidArgument(path, `${String(value).slice(0, 80)} is too large`);
    return parsed;
  };
}

/** CPU in thousandths of a core. */
export const decodeCpuMilli: Decoder<bigint> = quantity(1000n);
/** Memory in bytes. */
export const decodeMemoryBytes: Decoder<bigint> = quantity(1n);

const sharesMin = 2n;
const sharesMax = 262_144n;
const quotaMin = 1_000n;
const periodUs = 100_000n;

/** `cpu.shares` for a request in thousandths of a core: 1024 per core, 2 to 262144. */
export function cpuSharesOf(cpuMilli: bigint): bigint {
  const shares = (cpuMilli * 1024n) / 1000n;
  return shares < sharesMin ? sharesMin : shares > sharesMax ? sharesMax : shares;
}

/** CPU quota per period of 100 ms for a limit in thousandths of a core; at least 1 ms. */
export function cpuQuotaOf(cpuMilli: bigint): bigint {
  const quota = (cpuMilli * periodUs) / 1000n;
  return quota < quotaMin ? quotaMin : quota;
}

/**
 * CRI resources as the kubelet computes them: without a CPU request the limit counts as one; a limit of 0 is none. Unlike the kubelet, which
 * asks for the least shares then, a container without both gets no shares, and so no cgroup for them.
 */
export function planResources(resources: ResourcesManifest): LinuxResources {
  const { cpuLimitMilli = 0n, memoryLimitBytes = 0n } = resources;
  const cpuRequestMilli = resources.cpuRequestMilli ?? resources.cpuLimitMilli;
  return {
    ...(cpuRequestMilli === undefined ? {} : { cpuShares: cpuSharesOf(cpuRequestMilli) }),
    ...(cpuLimitMilli > 0n ? { cpuPeriod: periodUs, cpuQuota: cpuQuotaOf(cpuLimitMilli) } : {}),
    ...(memoryLimitBytes > 0n ? { memoryLimitBytes } : {}),
  };
}

/** Requests with the limits standing in where a request is missing, as the API server fills them in. */
function effectiveRequests(resources: ResourcesManifest): { readonly cpu: bigint; readonly memory: bigint } {
  return { cpu: resources.cpuRequestMilli ?? resources.cpuLimitMilli ?? 0n, memory: resources.memoryRequestBytes ?? resources.memoryLimitBytes ?? 0n };
}

/** Quality of service of a pod, from all its containers. Source: Kubernetes, "Pod Quality of Service Classes". */
export function serviceClassOf(containers: readonly ResourcesManifest[]): 'guaranteed' | 'burstable' | 'bestEffort' {
  const guaranteed = containers.every((resources) => {
    const { cpu, memory } = effectiveRequests(resources);
    return cpu > 0n && memory > 0n && cpu === resources.cpuLimitMilli && memory === resources.memoryLimitBytes;
  });
  if (guaranteed && containers.length > 0) return 'guaranteed';
  return containers.every((resources) => effectiveRequests(resources).cpu === 0n && effectiveRequests(resources).memory === 0n) ? 'bestEffort' : 'burstable';
}

/** `oom_score_adj` of a container as the kubelet sets it: the less of the machine's memory it asks for, the sooner it is killed. */
export function oomScoreAdjOf(resources: ResourcesManifest, serviceClass: ReturnType<typeof serviceClassOf>, machineMemoryBytes: bigint): number {
  if (serviceClass === 'guaranteed') return -997;
  if (serviceClass === 'bestEffort') return 1000;
  const score = 1000 - Number((1000n * effectiveRequests(resources).memory) / machineMemoryBytes);
  return Math.min(Math.max(score, 3), 999);
}
