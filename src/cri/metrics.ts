/** Metrics of the engine → CRI messages. Pure. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MetricDescriptorSchema, MetricSchema, PodSandboxMetricsSchema } from '#gen/cri-v1_pb.js';
import { MetricType } from '#gen/cri-v1_pb.js';
import type { Metric, MetricDescriptor, PodSandboxMetrics } from '#pod';

/** A metric's name, help text and label names. */
export function encodeMetricDescriptor({ name, help, labelKeys }: MetricDescriptor): MessageInitShape<typeof MetricDescriptorSchema> {
  return { name, help, labelKeys: [...labelKeys] };
}

/** The time is 0 for what was just read, and otherwise that of the measurement. Source: CRI, Metric.timestamp. */
function encodeMetric({ name, kind, labelValues, value, atNs }: Metric): MessageInitShape<typeof MetricSchema> {
  return { name, timestamp: atNs, metricType: kind === 'counter' ? MetricType.COUNTER : MetricType.GAUGE, labelValues: [...labelValues], value: { value } };
}

/** The metrics of a pod and of its containers. */
export function encodePodSandboxMetrics({ podSandboxId, metrics, containers }: PodSandboxMetrics): MessageInitShape<typeof PodSandboxMetricsSchema> {
  return {
    podSandboxId,
    metrics: metrics.map(encodeMetric),
    containerMetrics: containers.map((container) => ({ containerId: container.containerId, metrics: container.metrics.map(encodeMetric) })),
  };
}
