/** The gate between operations and collections: order, cancellation, failure. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ContentGate } from './content-gate.ts';

test('a collection waits for every operation, and an operation for the collection under way', async () => {
  const gate = new ContentGate();
  const order: string[] = [];
  const first = Promise.withResolvers<void>();
  const collecting = Promise.withResolvers<void>();
  const using = gate.use(async () => {
    await first.promise;
    order.push('used');
  });
  const alone = gate.alone(async () => {
    order.push('collecting');
    await collecting.promise;
    order.push('collected');
  });
  assert.equal(gate.isWanted, true);
  first.resolve();
  await using;
  await Promise.resolve();
  const later = gate.use(async () => void order.push('used later'));
  assert.equal(gate.isWanted, true);
  collecting.resolve();
  await Promise.all([alone, later]);
  assert.deepEqual(order, ['used', 'collecting', 'collected', 'used later']);
  assert.equal(gate.isWanted, false);
});

test('a collection that is cancelled while it waits never begins', async () => {
  const gate = new ContentGate();
  const blocked = Promise.withResolvers<void>();
  const using = gate.use(async () => blocked.promise);
  const controller = new AbortController();
  const alone = gate.alone(async () => assert.fail('it began'), controller.signal);
  controller.abort(new Error('enough'));
  await assert.rejects(alone, /enough/);
  blocked.resolve();
  await using;
  assert.equal(await gate.alone(async () => 7), 7);
});

test('an operation that fails lets the next collection begin', async () => {
  const gate = new ContentGate();
  await assert.rejects(
    gate.use(async () => {
      throw new Error('broken');
    }),
    /broken/,
  );
  assert.equal(await gate.alone(async () => 'through'), 'through');
});
