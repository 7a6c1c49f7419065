/**
 * What is observed → CRI messages. In: stats and metrics of the engine, filters of requests. Out: initialisers of messages, filters. Pure.
 */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type {
  ContainerStatsFilter as ContainerStatsFilterMessage,
  ContainerStatsSchema,
  CpuUsageSchema,
  IoUsageSchema,
  MemoryUsageSchema,
  NetworkInterfaceUsageSchema,
  NetworkUsageSchema,
  PodSandboxStatsFilter,
  PodSandboxStatsSchema,
  PsiStatsSchema,
  SwapUsageSchema,
} from '#gen/cri-v1_pb.js';
import type { ContainerStats, ContainerStatsFilter, GroupUsage, InterfaceUsage, NetworkUsage, PodSandboxStats, PodStatsFilter, Pressure } from '#pod';
import { decodeMap, decodeText } from './decode-common.ts';
import { encodeFilesystemUsage } from './encode.ts';

const wrapped = (value: bigint | undefined): { readonly value: bigint } | undefined => (value === undefined ? undefined : { value });

/** Fields whose value is known. */
function present<T extends Readonly<Record<string, unknown>>>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  // SAFETY: what is undefined is left out, the rest stays as it is.
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** Limit less usage, as CRI defines what is available; undefined without a limit. */
function available(limit: bigint | undefined, used: bigint): bigint | undefined {
  if (limit === undefined) return undefined;
  return limit > used ? limit - used : 0n;
}

function encodePressure(pressure: Pressure | undefined): MessageInitShape<typeof PsiStatsSchema> | undefined {
  if (pressure === undefined) return undefined;
  const line = (data: Pressure['some']) => (data === undefined ? undefined : { Total: data.totalNs, Avg10: data.avg10, Avg60: data.avg60, Avg300: data.avg300 });
  return present({ Some: line(pressure.some), Full: line(pressure.full) });
}

function encodeCpu({ atNs, cpu }: GroupUsage): MessageInitShape<typeof CpuUsageSchema> | undefined {
  if (cpu === undefined) return undefined;
  return { timestamp: atNs, ...present({ usageCoreNanoSeconds: wrapped(cpu.usageNs), usageNanoCores: wrapped(cpu.nanoCores), psi: encodePressure(cpu.pressure) }) };
}

function encodeMemory({ atNs, memory }: GroupUsage): MessageInitShape<typeof MemoryUsageSchema> | undefined {
  if (memory === undefined) return undefined;
  return {
    timestamp: atNs,
    ...present({
      workingSetBytes: wrapped(memory.workingSetBytes),
      availableBytes: wrapped(available(memory.limitBytes, memory.workingSetBytes)),
      usageBytes: wrapped(memory.usageBytes),
      rssBytes: wrapped(memory.rssBytes),
      pageFaults: wrapped(memory.pageFaults),
      majorPageFaults: wrapped(memory.majorPageFaults),
      psi: encodePressure(memory.pressure),
    }),
  };
}

function encodeSwap({ atNs, swap }: GroupUsage): MessageInitShape<typeof SwapUsageSchema> | undefined {
  if (swap === undefined) return undefined;
  return { timestamp: atNs, ...present({ swapUsageBytes: wrapped(swap.usageBytes), swapAvailableBytes: wrapped(available(swap.limitBytes, swap.usageBytes)) }) };
}

/** CRI tells nothing of input and output but its pressure. */
function encodeIo({ atNs, io }: GroupUsage): MessageInitShape<typeof IoUsageSchema> | undefined {
  const psi = encodePressure(io?.pressure);
  return psi === undefined ? undefined : { timestamp: atNs, psi };
}

/** A container's stats; of one that does not run its attributes and its writable layer. */
export function encodeContainerStats(stats: ContainerStats): MessageInitShape<typeof ContainerStatsSchema> {
  const { usage, writableLayer } = stats;
  return {
    attributes: { id: stats.id, metadata: { ...stats.metadata }, labels: { ...stats.labels }, annotations: { ...stats.annotations } },
    ...(usage === undefined ? {} : present({ cpu: encodeCpu(usage), memory: encodeMemory(usage), swap: encodeSwap(usage), io: encodeIo(usage) })),
    ...(writableLayer === undefined ? {} : { writableLayer: encodeFilesystemUsage(writableLayer) }),
  };
}

function encodeInterface(link: InterfaceUsage): MessageInitShape<typeof NetworkInterfaceUsageSchema> {
  return {
    name: link.name,
    rxBytes: { value: link.rxBytes },
    rxErrors: { value: link.rxErrors },
    txBytes: { value: link.txBytes },
    txErrors: { value: link.txErrors },
  };
}

/** The default interface is listed too, as other runtimes do it. */
function encodeNetwork({ atNs, interfaces }: NetworkUsage): MessageInitShape<typeof NetworkUsageSchema> {
  const [first] = interfaces;
  return { timestamp: atNs, ...(first === undefined ? {} : { defaultInterface: encodeInterface(first) }), interfaces: interfaces.map(encodeInterface) };
}

/** A pod's stats with those of its containers; a pod that is not ready has only attributes and containers. */
export function encodePodSandboxStats(stats: PodSandboxStats): MessageInitShape<typeof PodSandboxStatsSchema> {
  const { usage, network, containers } = stats;
  const counts = containers.flatMap((container) => container.usage?.processes?.processes ?? []);
  return {
    attributes: { id: stats.id, metadata: { ...stats.metadata }, labels: { ...stats.labels }, annotations: { ...stats.annotations } },
    linux: {
      ...(usage === undefined ? {} : present({ cpu: encodeCpu(usage), memory: encodeMemory(usage), io: encodeIo(usage) })),
      ...(network === undefined ? {} : { network: encodeNetwork(network) }),
      ...(usage === undefined ? {} : { process: { timestamp: usage.atNs, processCount: { value: BigInt(counts.reduce((sum, count) => sum + count, 0)) } } }),
      containers: containers.map(encodeContainerStats),
    },
  };
}

/** Which containers a request means. */
export function decodeContainerStatsFilter(path: string, filter: ContainerStatsFilterMessage | undefined): ContainerStatsFilter {
  if (filter === undefined) return {};
  return {
    id: decodeText(`${path}.id`, filter.id),
    podSandboxId: decodeText(`${path}.pod_sandbox_id`, filter.podSandboxId),
    labels: decodeMap(`${path}.label_selector`, filter.labelSelector),
  };
}

/** Which pods a request means. */
export function decodePodStatsFilter(path: string, filter: PodSandboxStatsFilter | undefined): PodStatsFilter {
  if (filter === undefined) return {};
  return { id: decodeText(`${path}.id`, filter.id), labels: decodeMap(`${path}.label_selector`, filter.labelSelector) };
}
