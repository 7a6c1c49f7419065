/** Readers of events: bounded in number and in what waits for each. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BoundedQueue, limits, podSandboxId } from '#core';
import type { EngineState } from './engine-state.ts';
import { readEvents } from './event-readers.ts';
import type { EngineEvent } from './types.ts';

const event: EngineEvent = { kind: 'podCreated', podSandboxId: podSandboxId('a'.repeat(64)), atNs: 1n };

/** What readers need of an engine's state. */
function makeState(): { readonly state: EngineState; readonly subscribers: Set<BoundedQueue<EngineEvent>> } {
  const subscribers = new Set<BoundedQueue<EngineEvent>>();
  // SAFETY: readers touch nothing else.
  return { state: { subscribers } as unknown as EngineState, subscribers };
}

test('a reader that falls too far behind gets an error and is forgotten, the others go on', async () => {
  const { state, subscribers } = makeState();
  const cancel = new AbortController();
  const [slow, quick] = [readEvents(state, cancel.signal), readEvents(state, cancel.signal)];
  const [first, second] = [slow.next(), quick.next()];
  for (let count = 0; count <= limits.eventBacklogMax + 1; count += 1) {
    for (const queue of subscribers) queue.push(event);
    await (count === 0 ? second : quick.next());
  }
  assert.deepEqual((await first).value, event);
  await assert.rejects(slow.next(), { code: 'resourceExhausted', message: 'read events: the reader fell 1024 events behind' });
  assert.equal(subscribers.size, 1);
  cancel.abort();
  assert.deepEqual(await quick.next(), { value: undefined, done: true });
  assert.equal(subscribers.size, 0);
});

test('there are no more readers than the bound, and one that leaves makes room', async () => {
  const { state, subscribers } = makeState();
  const cancel = new AbortController();
  const one = new AbortController();
  const waiting = [readEvents(state, one.signal).next(), ...Array.from({ length: limits.eventReadersMax - 1 }, async () => readEvents(state, cancel.signal).next())];
  await assert.rejects(readEvents(state, cancel.signal).next(), { code: 'resourceExhausted', message: 'read events: 64 readers are there already' });
  one.abort();
  await waiting[0];
  const next = readEvents(state, cancel.signal).next();
  assert.equal(subscribers.size, limits.eventReadersMax);
  cancel.abort();
  await Promise.all([...waiting, next]);
  assert.equal(subscribers.size, 0);
});
