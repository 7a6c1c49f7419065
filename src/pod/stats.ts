/**
 * Looks at pods and containers. In: records, sandboxes, the measurement of writable layers. Out: stats. Nothing here waits for a lock, and a part
 * that cannot be told in time is left out, so that no container holds up a list.
 */
import { type ContainerId, limits } from '#core';
import type { EngineState } from './engine-state.ts';
import { describeMetrics, metricDescriptors } from './metrics.ts';
import { linkOfAttachment } from './stats-link.ts';
import { CpuRates } from './stats-rates.ts';
import type {
  ContainerStats,
  ContainerStatsFilter,
  GroupUsage,
  LayerUsage,
  MetricDescriptor,
  PodSandboxMetrics,
  PodSandboxStats,
  PodStatsFilter,
  SandboxUsage,
  UsageRequest,
} from './stats-types.ts';
import { describeContainer, describePod, matchesContainer, matchesPod } from './status.ts';
import type { ContainerRecord, PodRecord } from './store.ts';

/** One per engine. */
export class StatsOperations {
  readonly #state: EngineState;
  readonly #rates = new CpuRates();
  /** Looks under way: equal ones are joined. */
  readonly #looks = new Map<string, Promise<SandboxUsage>>();

  constructor(state: EngineState) {
    this.#state = state;
  }

  async container(id: string): Promise<ContainerStats> {
    const container = this.#state.store.getContainer(id);
    const [stats] = await this.#containersOf(container.podId, [container], {});
    // SAFETY: one answer for each container that is asked for.
    return stats as ContainerStats;
  }

  async listContainers(filter: ContainerStatsFilter = {}): Promise<ContainerStats[]> {
    const byPod = new Map<string, ContainerRecord[]>();
    for (const container of this.#state.store.containers()) {
      if (container.state === 'creating' || !matchesContainer(describeContainer(container, undefined), filter)) continue;
      const siblings = byPod.get(container.podId);
      if (siblings === undefined) byPod.set(container.podId, [container]);
      else siblings.push(container);
    }
    const lists = await Promise.all([...byPod].map(async ([podId, containers]) => this.#containersOf(podId, containers, {})));
    return lists.flat();
  }

  async pod(id: string): Promise<PodSandboxStats> {
    return this.#pod(this.#state.store.getPod(id), {});
  }

  async listPods(filter: PodStatsFilter = {}): Promise<PodSandboxStats[]> {
    const pods = this.#state.store.pods().filter((pod) => pod.state === 'ready' && matchesPod(describePod(pod), filter));
    return Promise.all(pods.map(async (pod) => this.#pod(pod, {})));
  }

  descriptors(): MetricDescriptor[] {
    return [...metricDescriptors];
  }

  async metrics(): Promise<PodSandboxMetrics[]> {
    const pods = this.#state.store.pods().filter((pod) => pod.state === 'ready');
    return Promise.all(
      pods.map(async (pod) => {
        const stats = await this.#pod(pod, { details: true });
        const containers = this.#state.store.containers(pod.id).map((container) => describeContainer(container, pod));
        return describeMetrics({ stats, cgroupPath: pod.sandbox.cgroupPath, containers, nowNs: this.#state.deps.clock.nowNs() });
      }),
    );
  }

  async #pod(pod: PodRecord, options: Pick<UsageRequest, 'details'>): Promise<PodSandboxStats> {
    const containers = this.#state.store.containers(pod.id).filter(({ state }) => state !== 'creating');
    const link = linkOfAttachment(pod.attachment?.details);
    const looked = this.#look(pod.id, { containerIds: counted(containers), pod: link === undefined ? {} : { link }, ...options });
    const [usage, stats] = await Promise.all([looked, this.#describe(containers, looked)]);
    const { id, metadata, labels, annotations } = describePod(pod);
    return {
      id,
      metadata,
      labels,
      annotations,
      ...(usage.pod === undefined ? {} : { usage: this.#rates.withRate(pod.id, usage.pod) }),
      ...(usage.network === undefined ? {} : { network: usage.network }),
      containers: stats,
    };
  }

  async #containersOf(podId: string, containers: readonly ContainerRecord[], options: Pick<UsageRequest, 'details'>): Promise<ContainerStats[]> {
    return this.#describe(containers, this.#look(podId, { containerIds: counted(containers), ...options }));
  }

  async #describe(containers: readonly ContainerRecord[], looked: Promise<SandboxUsage>): Promise<ContainerStats[]> {
    const [usage, ...layers] = await Promise.all([looked, ...containers.map(async (container) => this.#layer(container))]);
    this.#forget();
    return containers.map((container, index) => {
      const { id, podSandboxId, metadata, state, labels, annotations } = describeContainer(container, undefined);
      const group: GroupUsage | undefined = usage.containers[container.id];
      const layer = layers[index];
      return {
        id,
        podSandboxId,
        metadata,
        state,
        labels,
        annotations,
        ...(group === undefined ? {} : { usage: this.#rates.withRate(container.id, group) }),
        ...(layer === undefined ? {} : { writableLayer: layer }),
      };
    });
  }

  /** Nothing for a pod without a sandbox. A failed look is nobody's failure. */
  async #look(podId: string, request: UsageRequest): Promise<SandboxUsage> {
    const sandbox = this.#state.sandboxes.get(podId);
    if (sandbox === undefined || (request.pod === undefined && request.containerIds.length === 0)) return { containers: {} };
    const key = JSON.stringify([podId, request]);
    const running = this.#looks.get(key);
    if (running !== undefined) return running;
    const look = sandbox
      .usage(request)
      .catch((error: unknown): SandboxUsage => {
        this.#state.deps.report(error);
        return { containers: {} };
      })
      .finally(() => this.#looks.delete(key));
    this.#looks.set(key, look);
    return look;
  }

  /** What is known of the layer after a moment; a measurement that takes longer is there the next time. */
  async #layer({ id, podId }: ContainerRecord): Promise<LayerUsage | undefined> {
    const { clock, layerUsage, report } = this.#state.deps;
    const measured = layerUsage({ podId, containerId: id }).catch((error: unknown) => {
      report(error);
      return undefined;
    });
    const cancel = new AbortController();
    const late = clock.sleep(limits.layerMeasureWaitMs, cancel.signal).catch(() => undefined);
    const layer = await Promise.race([measured, late.then(() => undefined)]);
    cancel.abort();
    return layer;
  }

  /** Rates of what is gone. */
  #forget(): void {
    const { store } = this.#state;
    this.#rates.retain(store.pods().length + store.containers().length, (id) => store.findPod(id) !== undefined || store.findContainer(id) !== undefined);
  }
}

/** Containers that have a process. */
function counted(containers: readonly ContainerRecord[]): ContainerId[] {
  return containers.filter(({ state }) => state === 'created' || state === 'running').map(({ id }) => id);
}
