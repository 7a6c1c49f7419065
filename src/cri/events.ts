/** The stream of container events over CRI. In: the engine's events. Out: messages. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ContainerEventResponseSchema, RuntimeService } from '#gen/cri-v1_pb.js';
import { ContainerEventType } from '#gen/cri-v1_pb.js';
import { assertNever } from '#core';
import type { Engine, EngineEvent } from '#pod';
import type { ServiceHandlers } from './adapter.ts';
import { encodeContainersStatuses, encodePodSandboxStatus } from './encode.ts';

type EventMessage = MessageInitShape<typeof ContainerEventResponseSchema>;

/** The sandbox counts as a container of its own, which has the pod's id: made and started at once. Source: the kubelet's evented PLEG, containerd, CRI-O. */
function typesOf(event: EngineEvent): readonly ContainerEventType[] {
  switch (event.kind) {
    case 'podCreated':
      return [ContainerEventType.CONTAINER_CREATED_EVENT, ContainerEventType.CONTAINER_STARTED_EVENT];
    case 'containerCreated':
      return [ContainerEventType.CONTAINER_CREATED_EVENT];
    case 'containerStarted':
      return [ContainerEventType.CONTAINER_STARTED_EVENT];
    case 'podStopped':
    case 'containerStopped':
      return [ContainerEventType.CONTAINER_STOPPED_EVENT];
    case 'podRemoved':
    case 'containerRemoved':
      return [ContainerEventType.CONTAINER_DELETED_EVENT];
    default:
      return assertNever(event);
  }
}

/** One event of the engine as the messages that tell it: with the pod and its containers as they were right after it. */
export function encodeEvent(event: EngineEvent): EventMessage[] {
  const { snapshot } = event;
  return typesOf(event).map((containerEventType) => ({
    containerId: 'containerId' in event ? event.containerId : event.podSandboxId,
    containerEventType,
    createdAt: event.atNs,
    ...(snapshot === undefined ? {} : { podSandboxStatus: encodePodSandboxStatus(snapshot.pod), containersStatuses: encodeContainersStatuses(snapshot.containers) }),
  }));
}

/** The handler of GetContainerEvents: events from now on until `closing`, to any number of readers. One that falls too far behind gets resourceExhausted, and asks again. */
export function buildEventHandlers(engine: Engine, closing?: AbortSignal): ServiceHandlers<typeof RuntimeService> {
  return {
    async *getContainerEvents(_request, { signal }) {
      for await (const event of engine.events(closing === undefined ? signal : AbortSignal.any([signal, closing]))) yield* encodeEvent(event);
    },
  };
}
