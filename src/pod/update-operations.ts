/**
 * New resources for containers and pods. In: requests. Out: calls of the sandbox, records. The wanted resources are recorded before the host is
 * touched: an engine that dies in between leaves them to its successor, which finishes the change.
 */
import { type ContainerId, RuntimeError, errorCode, wrapError } from '#core';
import type { EngineState } from './engine-state.ts';
import { abandonable } from './joins.ts';
import type { Sandbox } from './ports.ts';
import { planResources } from './runtime-spec.ts';
import type { ContainerRecord, PodRecord, UpdatedContainer } from './store.ts';
import type { LinuxResources } from './types.ts';
import { type ContainerUpdate, type PodSandboxUpdate, mergeResources, podLimits } from './update.ts';

/** One per engine. Ids may be shortened to a unique prefix; every method rejects with RuntimeError. */
export class UpdateOperations {
  readonly #state: EngineState;

  constructor(state: EngineState) {
    this.#state = state;
  }

  async container(id: string, update: ContainerUpdate, signal?: AbortSignal): Promise<void> {
    const { id: containerId } = this.#state.store.getContainer(id);
    // The lock of start and of other updates, so that neither sees half of this one.
    const updated = this.#state.locks.run(containerId, async () => this.#updateContainer(containerId, update));
    await (signal === undefined ? updated : abandonable(updated, signal));
  }

  async #updateContainer(id: string, update: ContainerUpdate): Promise<void> {
    const container = this.#state.store.getContainer(id);
    if (container.state !== 'created' && container.state !== 'running')
      throw new RuntimeError('failedPrecondition', `update container ${container.id}: container is ${container.state}, not created or running`);
    const resources = mergeResources(currentResources(container), update.resources);
    const annotations = { ...(container.updated?.annotations ?? container.config.annotations), ...update.annotations };
    const updated: UpdatedContainer = { ...(resources === undefined ? {} : { resources }), annotations };
    if (update.resources !== undefined) {
      this.#state.store.putContainer({ ...container, pendingUpdate: updated });
      try {
        // The score only where it is named: a process may have raised its own.
        await applyResources(this.#state.sandbox(container.podId), container.id, updated.resources, update.resources.oomScoreAdj);
      } catch (error) {
        // Without an answer nobody knows what was written; as after a crash the next engine finishes it.
        if (errorCode(error) !== 'unavailable') settleUpdate(this.#state, container.id);
        throw wrapError(`update container ${container.config.metadata.name}`, error);
      }
    }
    settleUpdate(this.#state, container.id, updated);
  }

  async pod(id: string, update: PodSandboxUpdate, signal?: AbortSignal): Promise<void> {
    const { id: podId } = this.#state.store.getPod(id);
    const updated = this.#state.locks.run(podId, async () => this.#updatePod(podId, update));
    await (signal === undefined ? updated : abandonable(updated, signal));
  }

  async #updatePod(id: string, update: PodSandboxUpdate): Promise<void> {
    const pod = this.#state.store.getPod(id);
    if (pod.state !== 'ready') throw new RuntimeError('failedPrecondition', `update pod sandbox ${pod.id}: pod sandbox is not ready`);
    const old = currentPodResources(pod);
    const overhead = mergeResources(old.overhead, update.overhead);
    const resources = mergeResources(old.resources, update.resources);
    const updated = { ...(overhead === undefined ? {} : { overhead }), ...(resources === undefined ? {} : { resources }) };
    this.#state.store.putPod({ ...pod, updated });
    try {
      await applyPodLimits(this.#state.sandbox(pod.id), { ...pod, updated });
    } catch (error) {
      const { updated: _updated, ...now } = this.#state.store.findPod(pod.id) ?? pod;
      // As with containers: without an answer the next engine finishes it.
      if (errorCode(error) !== 'unavailable') this.#state.store.putPod(pod.updated === undefined ? now : { ...now, updated: pod.updated });
      throw wrapError(`update pod sandbox ${pod.config.metadata.namespace}/${pod.config.metadata.name}`, error);
    }
  }
}

/** The resources that a container has been given last. */
export function currentResources({ config, updated }: Pick<ContainerRecord, 'config' | 'updated'>): LinuxResources | undefined {
  return updated?.resources ?? config.resources;
}

/** The resources that a pod has been given last. */
export function currentPodResources({ config, updated }: Pick<PodRecord, 'config' | 'updated'>): PodSandboxUpdate {
  return updated ?? { ...(config.overhead === undefined ? {} : { overhead: config.overhead }), ...(config.resources === undefined ? {} : { resources: config.resources }) };
}

/**
 * Limits for the pod's own group. Beside a cgroup parent there are none: whoever made the parent limits the pod there, and the kubelet's sum leaves out
 * the containers that have no limit, which a limit of that size would kill.
 */
export function limitsOfPod(pod: Pick<PodRecord, 'config' | 'updated'>): ReturnType<typeof podLimits> {
  return pod.config.cgroupParent === '' ? podLimits(currentPodResources(pod)) : undefined;
}

/** No update is under way any more; `updated` holds from now on, if given. The record is the one of this moment: the container may have ended meanwhile. */
function settleUpdate(state: EngineState, id: string, updated?: UpdatedContainer): void {
  const container = state.store.findContainer(id);
  if (container === undefined) return;
  const { pendingUpdate: _pending, ...rest } = container;
  state.store.putContainer(updated === undefined ? rest : { ...rest, updated });
}

/** Finishes the update that a dead engine had under way, or where that cannot be, takes it back and tells. */
export async function finishUpdate(state: EngineState, sandbox: Sandbox, { id, pendingUpdate, ...container }: ContainerRecord): Promise<void> {
  if (pendingUpdate === undefined) return;
  try {
    await applyResources(sandbox, id, pendingUpdate.resources, pendingUpdate.resources?.oomScoreAdj);
    settleUpdate(state, id, pendingUpdate);
  } catch (error) {
    state.deps.report(wrapError(`finish the update of container ${id}`, error));
    settleUpdate(state, id);
    const resources = currentResources(container);
    await applyResources(sandbox, id, resources, resources?.oomScoreAdj).catch((failure: unknown) =>
      state.deps.report(wrapError(`take back the update of container ${id}`, failure)),
    );
  }
}

async function applyResources(sandbox: Sandbox, id: ContainerId, resources: LinuxResources | undefined, score: number | undefined): Promise<void> {
  await sandbox.update(id, planResources(resources, []), score === undefined ? {} : { oomScoreAdj: score });
}

async function applyPodLimits(sandbox: Sandbox, pod: Pick<PodRecord, 'config' | 'updated'>): Promise<void> {
  const limits = limitsOfPod(pod);
  if (limits !== undefined) await sandbox.updatePod(planResources(limits, []));
}

/** Brings a pod that was updated to what its record says, which an engine that died may not have done. */
export async function finishPodUpdate(state: EngineState, sandbox: Sandbox, pod: PodRecord): Promise<void> {
  if (pod.updated === undefined) return;
  await applyPodLimits(sandbox, pod).catch((error: unknown) => state.deps.report(wrapError(`finish the update of pod sandbox ${pod.id}`, error)));
}
