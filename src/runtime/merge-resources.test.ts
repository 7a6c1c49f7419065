/** What an update leaves of the old limits, and what it changes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeResources } from '#oci';
import { mergeResourceChange } from './merge-resources.ts';

const merge = (old: object | undefined, change: object) => mergeResourceChange(old === undefined ? undefined : decodeResources(old, ''), decodeResources(change, ''));

test('what an update does not name stays, and so does what it names with a zero that limits nothing', () => {
  const old = { devices: [{ allow: true, type: 'a' }], cpu: { shares: 5, quota: 100, burst: 7, cpus: '0', idle: 1 }, memory: { limit: 10, reservation: 4 }, pids: { limit: 9 } };
  const merged = merge(old, { devices: [], cpu: { shares: 0, quota: -1, period: 0, burst: 0, cpus: '', idle: 0 }, memory: { limit: 0, reservation: 0 } });
  assert.deepEqual(merged, {
    devices: [{ allow: true, type: 'a' }],
    cpu: { shares: 5n, quota: -1n, burst: 0n, cpus: '0', idle: 0n },
    memory: { limit: 10n, reservation: 4n },
    pids: { limit: 9n },
    hugepageLimits: [],
    unified: {},
  });
  assert.deepEqual(merge(undefined, { pids: { limit: 0 } }), { devices: [], hugepageLimits: [], unified: {}, pids: { limit: 0n } });
});

test('the room for swap moves with the memory unless the update names it', () => {
  const memoryOf = (old: object, change: object) => {
    const { limit, swap } = merge({ memory: old }, { memory: change }).memory ?? {};
    return [limit, swap];
  };
  assert.deepEqual(memoryOf({ limit: 100, swap: 150 }, { limit: 300 }), [300n, 350n]);
  assert.deepEqual(memoryOf({ limit: 100, swap: 100 }, { limit: 50 }), [50n, 50n]);
  assert.deepEqual(memoryOf({ limit: 100, swap: -1 }, { limit: 50 }), [50n, -1n]);
  assert.deepEqual(memoryOf({ limit: 100, swap: 150 }, { limit: -1 }), [-1n, -1n]);
  assert.deepEqual(memoryOf({ limit: 100, swap: 150 }, { limit: 120, swap: 120 }), [120n, 120n]);
  assert.deepEqual(memoryOf({ limit: 100 }, { limit: 50 }), [50n, undefined]);
});

test('lists are merged by device, size, interface and file', () => {
  const device = (minor: number, rate: number): object => ({ major: 8, minor, rate });
  const merged = merge(
    {
      blockIO: { weight: 20, throttleReadBpsDevice: [device(0, 1), device(1, 2)] },
      hugepageLimits: [{ pageSize: '2MB', limit: 1 }],
      network: { classID: 3, priorities: [{ name: 'lo', priority: 1 }] },
      rdma: { mlx: { hcaHandles: 1, hcaObjects: 2 } },
      unified: { 'memory.high': '5', 'pids.max': '6' },
    },
    {
      blockIO: { throttleReadBpsDevice: [device(1, 0), device(2, 9)] },
      hugepageLimits: [{ pageSize: '1GB', limit: 2 }],
      network: { priorities: [{ name: 'lo', priority: 4 }] },
      rdma: { mlx: { hcaObjects: 7 } },
      unified: { 'pids.max': 'max' },
    },
  );
  assert.deepEqual(merged, {
    devices: [],
    blockIO: {
      weight: 20,
      weightDevice: [],
      throttleReadBpsDevice: [
        { major: 8, minor: 0, rate: 1n },
        { major: 8, minor: 1, rate: 0n },
        { major: 8, minor: 2, rate: 9n },
      ],
      throttleWriteBpsDevice: [],
      throttleReadIOPSDevice: [],
      throttleWriteIOPSDevice: [],
    },
    hugepageLimits: [
      { pageSize: '2MB', limit: 1n },
      { pageSize: '1GB', limit: 2n },
    ],
    network: { classID: 3, priorities: [{ name: 'lo', priority: 4 }] },
    rdma: { mlx: { hcaHandles: 1, hcaObjects: 7 } },
    unified: { 'memory.high': '5', 'pids.max': 'max' },
  });
});
