/** Readers of the engine's events. In: the engine's state. Out: one bounded stream per reader. */
import { BoundedQueue, RuntimeError, limits } from '#core';
import type { EngineState } from './engine-state.ts';
import type { EngineEvent } from './types.ts';

/** Events from now on, until the signal. A reader that falls too far behind gets resourceExhausted: it has to look at everything anew. */
export async function* readEvents(state: EngineState, signal: AbortSignal): AsyncGenerator<EngineEvent, void, void> {
  if (state.subscribers.size >= limits.eventReadersMax) throw new RuntimeError('resourceExhausted', `read events: ${limits.eventReadersMax} readers are there already`);
  const queue = new BoundedQueue<EngineEvent>({
    capacity: limits.eventBacklogMax,
    overflowError: () => new RuntimeError('resourceExhausted', `read events: the reader fell ${limits.eventBacklogMax} events behind`),
  });
  state.subscribers.add(queue);
  const onAbort = (): void => queue.end();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (!signal.aborted) yield* queue;
  } finally {
    signal.removeEventListener('abort', onAbort);
    state.subscribers.delete(queue);
  }
}
