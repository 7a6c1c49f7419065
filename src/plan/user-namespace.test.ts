/** Ids of user namespaces as numbers, as the kernel's text, and as a plan. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { explainPlan } from './describe.ts';
import { formatIdMap, mapId, mappingTriples, userNamespaceSections } from './user-namespace.ts';

const ranges = [
  { containerId: 0, hostId: 100_000, size: 10 },
  { containerId: 10, hostId: 5, size: 1 },
];

test('an id has the number that its range gives it, or none', () => {
  assert.deepEqual(
    [0, 9, 10, 11].map((id) => mapId(ranges, id)),
    [100_000, 100_009, 5, undefined],
  );
});

test('the text of a map, and the numbers of a copy', () => {
  assert.equal(formatIdMap(ranges), '0 100000 10\n10 5 1\n');
  assert.deepEqual(mappingTriples(ranges), [0, 100_000, 10, 10, 5, 1]);
});

test('a namespace is made by a child that waits for its maps', () => {
  assert.deepEqual(explainPlan({ sections: userNamespaceSections({ uids: ranges, gids: ranges.slice(1) }, { slot: 70, barrier: 4, origin: '/here' }) }), [
    "in the pod's namespaces",
    '    1. wait at barrier 4',
    '    2. keep the own user namespace in slot 70  [/here]',
    '    3. hand slot 70 to the shim as slot 70',
    'on the host, at barrier 4',
    String.raw`    1. write "0 100000 10\n10 5 1" to uid_map below slot 255  [/here]`,
    '    2. write "10 5 1" to gid_map below slot 255  [/here]',
  ]);
});
