/** Names of mappings: copies of layers are shared by them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mappingKey } from './shift.io.ts';

test('a mapping has one name whatever the order of its ranges, and another one for other ids', () => {
  const [low, high] = [
    { containerId: 0, hostId: 100_000, size: 10 },
    { containerId: 10, hostId: 5, size: 1 },
  ];
  const key = mappingKey({ uids: [low, high], gids: [low] });
  assert.match(key, /^[0-9a-f]{32}$/);
  assert.equal(mappingKey({ uids: [high, low], gids: [low] }), key);
  const others = [
    { uids: [low, high], gids: [high] },
    { uids: [low], gids: [low, high] },
    { uids: [{ ...low, hostId: 1 }, high], gids: [low] },
  ];
  assert.equal(new Set([key, ...others.map(mappingKey)]).size, 4);
});
