/** What the engine tells of itself: whether it can work, and changes of pods and containers. Types only. */
import type { ContainerId, PodSandboxId } from '#core';
import type { ContainerStatus, PodSandboxStatus } from './types.ts';

/** The pod and its containers as they were right after a change. */
export interface EventSnapshot {
  /** Of a removed pod: as it was last. */
  readonly pod: PodSandboxStatus;
  /** Without what has been removed. */
  readonly containers: readonly ContainerStatus[];
}

/** A change of a pod or container. */
export type EngineChange =
  | { readonly kind: 'podCreated' | 'podStopped' | 'podRemoved'; readonly podSandboxId: PodSandboxId }
  | {
      readonly kind: 'containerCreated' | 'containerStarted' | 'containerStopped' | 'containerRemoved';
      readonly podSandboxId: PodSandboxId;
      readonly containerId: ContainerId;
    };

/** A change as it is told, in the order in which it was recorded. */
export type EngineEvent = EngineChange & {
  /**
   * Unix nanoseconds of the record, not of what happened: a kubelet passes over an event that is older than the last status it has seen of the pod,
   * and an end that is recorded a moment later would be lost. Source: the kubelet's pod cache with evented PLEG.
   */
  readonly atNs: bigint;
  /** Absent where the pod's record is gone before its container's. */
  readonly snapshot?: EventSnapshot;
};

/** Whether pods can be made. `runtimeReason` is one word, `runtimeMessage` a sentence; absent where all is well. */
export interface RuntimeReadiness {
  readonly runtimeReady: boolean;
  readonly runtimeReason?: string;
  readonly runtimeMessage?: string;
}
