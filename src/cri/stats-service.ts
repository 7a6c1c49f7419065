/** The RPCs of observation. In: decoded messages and the engine. Out: handlers. */
import type { RuntimeService } from '#gen/cri-v1_pb.js';
import { ContainerStatsSchema, PodSandboxMetricsSchema, PodSandboxStatsSchema } from '#gen/cri-v1_pb.js';
import type { Engine } from '#pod';
import type { ServiceHandlers } from './adapter.ts';
import { messageBatches } from './batches.ts';
import { requireText } from './decode-common.ts';
import { encodeMetricDescriptor, encodePodSandboxMetrics } from './metrics.ts';
import { decodeContainerStatsFilter, decodePodStatsFilter, encodeContainerStats, encodePodSandboxStats } from './stats.ts';

/** Handlers of stats and metrics. An answer has what can be told now; see docs/stats.md. */
export function buildStatsHandlers(engine: Engine): ServiceHandlers<typeof RuntimeService> {
  return {
    containerStats: async ({ containerId }) => ({ stats: encodeContainerStats(await engine.containerStats(requireText('container_id', containerId))) }),
    listContainerStats: async ({ filter }) => ({ stats: (await engine.listContainerStats(decodeContainerStatsFilter('filter', filter))).map(encodeContainerStats) }),
    async *streamContainerStats({ filter }) {
      const stats = await engine.listContainerStats(decodeContainerStatsFilter('filter', filter));
      for (const containerStats of messageBatches(ContainerStatsSchema, stats.map(encodeContainerStats))) yield { containerStats };
    },
    podSandboxStats: async ({ podSandboxId }) => ({ stats: encodePodSandboxStats(await engine.podSandboxStats(requireText('pod_sandbox_id', podSandboxId))) }),
    listPodSandboxStats: async ({ filter }) => ({ stats: (await engine.listPodSandboxStats(decodePodStatsFilter('filter', filter))).map(encodePodSandboxStats) }),
    async *streamPodSandboxStats({ filter }) {
      const stats = await engine.listPodSandboxStats(decodePodStatsFilter('filter', filter));
      for (const podSandboxStats of messageBatches(PodSandboxStatsSchema, stats.map(encodePodSandboxStats))) yield { podSandboxStats };
    },
    listMetricDescriptors: async () => ({ descriptors: (await engine.metricDescriptors()).map(encodeMetricDescriptor) }),
    listPodSandboxMetrics: async () => ({ podMetrics: (await engine.podSandboxMetrics()).map(encodePodSandboxMetrics) }),
    async *streamPodSandboxMetrics() {
      const metrics = await engine.podSandboxMetrics();
      for (const podSandboxMetrics of messageBatches(PodSandboxMetricsSchema, metrics.map(encodePodSandboxMetrics))) yield { podSandboxMetrics };
    },
  };
}
