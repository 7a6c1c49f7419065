/**
 * What the daemon logs: answered calls, changes of pods and containers, failures without a caller. In: reports of the doors, events of
 * the engine. Out: entries. One line for each; what a line says is decided here and nowhere else.
 */
import { type ErrorCode, RuntimeError, errorCode, errorMessage, limits } from '#core';
import type { CallReport } from '#cri';
import type { Engine, EngineEvent } from '#pod';
import type { Log, LogFields } from './log.ts';

/** Failures that are ours or the host's, not the client's. */
const ownFailures: ReadonlySet<ErrorCode> = new Set(['unknown', 'internal', 'dataLoss', 'resourceExhausted', 'unavailable']);

/** A failed call is an error or a warning, an answered one is for debugging. */
export function logCall(log: Log, { error, durationMs, ...fields }: CallReport): void {
  const timed = { ...fields, durationMs: Math.round(durationMs * 10) / 10 };
  if (error === undefined) {
    log.debug('call answered', timed);
    return;
  }
  const code = errorCode(error);
  const text = errorMessage(error).slice(0, limits.logMessageCharactersMax);
  if (ownFailures.has(code)) log.error(text, { ...timed, code });
  else log.warn(text, { ...timed, code });
}

/** A failure of background work, which has no caller. The stack is for debugging. */
export function logFailure(log: Log, error: unknown): void {
  const stack = log.isEnabled('debug') && error instanceof Error && error.stack !== undefined ? { stack: error.stack } : {};
  log.error(errorMessage(error).slice(0, limits.logMessageCharactersMax), { code: errorCode(error), ...stack });
}

const messages: Readonly<Record<EngineEvent['kind'], string>> = {
  podCreated: 'pod sandbox is ready',
  podStopped: 'pod sandbox has stopped',
  podRemoved: 'pod sandbox is removed',
  containerCreated: 'container is created',
  containerStarted: 'container has started',
  containerStopped: 'container has ended',
  containerRemoved: 'container is removed',
};

/** Names of the subject as they were right after the change. */
function describeSubject(event: EngineEvent): LogFields {
  const { snapshot, podSandboxId } = event;
  if (!('containerId' in event)) {
    if (snapshot === undefined) return { podSandboxId };
    const { metadata, runtimeHandler } = snapshot.pod;
    return { podSandboxId, k8sNamespace: metadata.namespace, podName: metadata.name, handler: runtimeHandler };
  }
  const ids = { podSandboxId, containerId: event.containerId };
  const container = snapshot?.containers.find(({ id }) => id === event.containerId);
  if (container === undefined) return ids;
  const { metadata, imageId, exitCode, reason } = container;
  return { ...ids, containerName: metadata.name, imageId, ...(event.kind === 'containerStopped' ? { exitCode, reason } : {}) };
}

/** Logs changes until the signal fires. Never throws; where it falls behind it says so and goes on with what comes then. */
export async function logEvents(log: Log, engine: Pick<Engine, 'events'>, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const event of engine.events(signal)) {
        log.info(messages[event.kind], describeSubject(event));
      }
      return;
    } catch (error) {
      if (signal.aborted) return;
      logFailure(log, error);
      // Only a backlog is over once it has been told of; another failure would come again at once.
      if (!(error instanceof RuntimeError) || error.code !== 'resourceExhausted') return;
    }
  }
}
