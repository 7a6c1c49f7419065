/** What of a document's id mappings is taken, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeIdMappings } from './id-mappings.ts';
import { decodeRuntimeSpec } from './runtime-spec-decode.ts';

const range = (containerID: unknown, hostID: unknown, size: unknown): object => ({ containerID, hostID, size });

test('takes ranges as the kernel does', () => {
  assert.deepEqual(decodeIdMappings([range(0, 100_000, 65_536), range(65_536, 0, 1)], 'm'), [
    { containerId: 0, hostId: 100_000, size: 65_536 },
    { containerId: 65_536, hostId: 0, size: 1 },
  ]);
  assert.deepEqual(decodeIdMappings([range(0, 0, 0xffff_ffff)], 'm'), [{ containerId: 0, hostId: 0, size: 0xffff_ffff }]);
});

const refusals: readonly (readonly [ranges: unknown, message: string])[] = [
  [[range(0, 1, 0)], 'm[0].size: must be at least 1'],
  [[range(0, 0xffff_fff0, 0x10)], 'm[0].size: 16 ids from hostID 4294967280 on are more than there are'],
  [[range(0xffff_fff0, 0, 0x10)], 'm[0].size: 16 ids from containerID 4294967280 on are more than there are'],
  [[range(0, 100, 10), range(20, 105, 10)], 'm[1]: overlaps m[0]'],
  [[range(0, 100, 10), range(9, 200, 10)], 'm[1]: overlaps m[0]'],
  [Array.from({ length: 300 }, (_item, index) => range(index * 10, 4_000_000_000 + index * 10, 1)), 'm: the ranges take 5289 bytes, the kernel at most 4095'],
];
for (const [ranges, message] of refusals) {
  test(`refuses with ${message}`, () => assert.throws(() => decodeIdMappings(ranges, 'm'), { code: 'invalidArgument', message }));
}

test('keeps the mappings of a document and of its mounts, and leaves them out where there are none', () => {
  const minimal = { ociVersion: '1.3.0', root: { path: 'x' } };
  const spec = decodeRuntimeSpec({
    ...minimal,
    mounts: [{ destination: '/a', uidMappings: [range(0, 5, 1)], gidMappings: [range(0, 6, 1)] }, { destination: '/b' }],
    linux: { uidMappings: [range(0, 7, 1)] },
  });
  assert.deepEqual(
    spec.mounts.map(({ idMapped, idMappings }) => [idMapped, idMappings]),
    [
      [true, { uids: [{ containerId: 0, hostId: 5, size: 1 }], gids: [{ containerId: 0, hostId: 6, size: 1 }] }],
      [false, undefined],
    ],
  );
  assert.deepEqual([spec.linux.hasIdMappings, spec.linux.uidMappings, spec.linux.gidMappings], [true, [{ containerId: 0, hostId: 7, size: 1 }], []]);
  assert.equal(decodeRuntimeSpec(minimal).linux.uidMappings, undefined);
  assert.throws(() => decodeRuntimeSpec({ ...minimal, mounts: [{ destination: '/a', uidMappings: [range(0, 5, 1)] }] }), { message: 'mounts[0].gidMappings: required' });
});
