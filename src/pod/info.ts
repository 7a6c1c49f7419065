/**
 * Verbose facts of pods and containers: what is too much for every status. In: records and live sandboxes. Out: objects for people and for tools that
 * look at nodes. They hold whatever the creator gave, the environment too, so only who may ask the engine for anything sees them.
 */
import type { EngineState } from './engine-state.ts';
import { describePod } from './status.ts';
import { currentPodResources, currentResources } from './update-operations.ts';

/** Facts of a container. Throws notFound. */
export function containerInfo(state: EngineState, id: string): Readonly<Record<string, unknown>> {
  const container = state.store.getContainer(id);
  const pod = state.store.findPod(container.podId);
  const resources = currentResources(container);
  return {
    sandboxID: container.podId,
    pid: container.state === 'exited' ? 0 : container.pid,
    state: container.state,
    stopSignal: container.stopSignal,
    ...(pod === undefined ? {} : { cgroupPath: `${pod.sandbox.cgroupPath}/${container.id}`, runtimeHandler: pod.runtimeHandler }),
    ...(resources === undefined ? {} : { resources }),
    ...(container.mountedImages === undefined ? {} : { mountedImages: container.mountedImages }),
    config: container.config,
    ...state.sandboxes.get(container.podId)?.describe(container.id),
  };
}

/** Facts of a pod. Throws notFound. */
export function podSandboxInfo(state: EngineState, id: string): Readonly<Record<string, unknown>> {
  const pod = state.store.getPod(id);
  return {
    ...describePod(pod).info,
    ...currentPodResources(pod),
    ...(pod.attachment === undefined ? {} : { network: pod.attachment }),
    config: pod.config,
    containers: state.store.containers(pod.id).map((container) => container.id),
  };
}
