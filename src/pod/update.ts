/** Resources of containers and pods that change while they run: what a request adds to what holds. Pure. */
import type { LinuxResources } from './types.ts';

/** New values for a container that runs. What is not named stays. */
export interface ContainerUpdate {
  readonly resources?: LinuxResources;
  /** Added to the container's annotations; equal keys are replaced. */
  readonly annotations?: Readonly<Record<string, string>>;
}

/** New values for a pod. What is not named stays. */
export interface PodSandboxUpdate {
  /** What the sandbox itself may use, beside its containers. */
  readonly overhead?: LinuxResources;
  /** What all containers may use together. */
  readonly resources?: LinuxResources;
}

/** The swap limit, which is memory plus swap, moves with the memory limit unless it is named: the room for swap stays what it was. */
function movedSwap(old: LinuxResources, change: LinuxResources): Pick<LinuxResources, 'memorySwapLimitBytes'> {
  const { memoryLimitBytes: limit = 0n, memorySwapLimitBytes: swap = 0n } = old;
  const next = change.memoryLimitBytes ?? 0n;
  if (change.memorySwapLimitBytes !== undefined || swap <= 0n || next === 0n) return {};
  return { memorySwapLimitBytes: next < 0n || limit <= 0n ? -1n : swap - limit + next };
}

/** The resources that hold after a change: named values replace old ones, raw files and sizes of huge pages each for themselves. */
export function mergeResources(old: LinuxResources | undefined, change: LinuxResources | undefined): LinuxResources | undefined {
  if (old === undefined || change === undefined) return change ?? old;
  const sizes = new Map([...(old.hugepageLimits ?? []), ...(change.hugepageLimits ?? [])].map((entry) => [entry.pageSize, entry]));
  const unified = { ...old.unified, ...change.unified };
  return {
    ...old,
    ...change,
    ...movedSwap(old, change),
    ...(sizes.size === 0 ? {} : { hugepageLimits: [...sizes.values()] }),
    ...(Object.keys(unified).length === 0 ? {} : { unified }),
  };
}

/** The period where none is named, in microseconds. Source: the kernel's default for cpu.max and cpu.cfs_period_us. */
const defaultPeriod = 100_000n;

function sumOf(a: bigint | undefined, b: bigint | undefined): bigint | undefined {
  if (a === undefined || a === 0n) return undefined;
  return a < 0n ? a : a + (b === undefined || b < 0n ? 0n : b);
}

/** The limits of a pod as a whole: its containers' and, where those are limited, its overhead on top. undefined: none. */
export function podLimits({ resources, overhead }: PodSandboxUpdate): LinuxResources | undefined {
  if (resources === undefined) return undefined;
  const period = resources.cpuPeriod ?? defaultPeriod;
  const overheadQuota = overhead?.cpuQuota === undefined || overhead.cpuQuota <= 0n ? 0n : (overhead.cpuQuota * period) / (overhead.cpuPeriod ?? defaultPeriod);
  const memory = sumOf(resources.memoryLimitBytes, overhead?.memoryLimitBytes);
  const swap = sumOf(resources.memorySwapLimitBytes, overhead?.memoryLimitBytes);
  const quota = sumOf(resources.cpuQuota, overheadQuota);
  const shares = sumOf(resources.cpuShares, overhead?.cpuShares);
  const { oomScoreAdj: _score, ...limits } = resources;
  return {
    ...limits,
    ...(memory === undefined ? {} : { memoryLimitBytes: memory }),
    ...(swap === undefined ? {} : { memorySwapLimitBytes: swap }),
    ...(quota === undefined ? {} : { cpuQuota: quota }),
    ...(shares === undefined ? {} : { cpuShares: shares }),
  };
}
