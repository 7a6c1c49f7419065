/** Lists in parts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ContainerSchema, RuntimeService } from '#gen/cri-v1_pb.js';
import { limits } from '#core';
import { inBatches, messageBatches, streamOfList } from './batches.ts';

test('batches hold their bound of items, in order, and nothing gives none', () => {
  assert.deepEqual([...inBatches([1, 2, 3, 4, 5], 2)], [[1, 2], [3, 4], [5]]);
  assert.deepEqual([...inBatches([1, 2], 2)], [[1, 2]]);
  assert.deepEqual([...inBatches([], 2)], []);
});

test('batches hold their bound of bytes, and what is larger goes alone', () => {
  assert.deepEqual([...inBatches([3, 3, 5, 20, 1, 1], 9, { sizeOf: (item) => item, bytesMax: 10 })], [[3, 3], [5], [20], [1, 1]]);
});

test('messages are measured as they are sent', () => {
  const items = Array.from({ length: 30 }, (_, index) => ({ id: String(index), annotations: { note: 'x'.repeat(limits.streamBatchBytesMax / 4) } }));
  const batches = [...messageBatches(ContainerSchema, items)];
  assert.deepEqual([...new Set(batches.map(({ length }) => length))], [3]);
  assert.deepEqual(batches.flat(), items);
});

test('every list with a stream names it', () => {
  const names = new Set(RuntimeService.methods.map(({ name }) => name));
  const streams = [...names].filter((name) => name.startsWith('Stream'));
  assert.deepEqual(new Set([...streamOfList.values()].filter((name) => name !== 'StreamImages')), new Set(streams));
  for (const list of streamOfList.keys()) if (list !== 'ListImages') assert.ok(names.has(list), list);
});
