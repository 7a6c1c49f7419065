/** Resources that change: what a request replaces, and what a pod's limits are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mergeResources, podLimits } from './update.ts';

test('what a request names replaces, the rest stays', () => {
  const old = { cpuShares: 512n, cpuQuota: 10n, unified: { a: '1', b: '1' }, hugepageLimits: [{ pageSize: '2MB', limit: 1n }] };
  const change = { cpuQuota: -1n, unified: { b: '2' }, hugepageLimits: [{ pageSize: '1GB', limit: 0n }] };
  assert.deepEqual(mergeResources(old, change), {
    cpuShares: 512n,
    cpuQuota: -1n,
    unified: { a: '1', b: '2' },
    hugepageLimits: [
      { pageSize: '2MB', limit: 1n },
      { pageSize: '1GB', limit: 0n },
    ],
  });
  assert.deepEqual(
    [mergeResources(undefined, { cpuShares: 2n }), mergeResources({ cpuShares: 2n }, undefined), mergeResources(undefined, undefined)],
    [{ cpuShares: 2n }, { cpuShares: 2n }, undefined],
  );
});

test('the room for swap stays when the memory limit moves', () => {
  const swapAfter = (old: object, change: object): unknown => mergeResources(old, change)?.memorySwapLimitBytes;
  assert.equal(swapAfter({ memoryLimitBytes: 100n, memorySwapLimitBytes: 150n }, { memoryLimitBytes: 300n }), 350n);
  assert.equal(swapAfter({ memoryLimitBytes: 100n, memorySwapLimitBytes: 100n }, { memoryLimitBytes: 50n }), 50n);
  assert.equal(swapAfter({ memoryLimitBytes: 100n, memorySwapLimitBytes: 150n }, { memoryLimitBytes: 300n, memorySwapLimitBytes: 310n }), 310n);
  assert.equal(swapAfter({ memoryLimitBytes: 100n, memorySwapLimitBytes: 150n }, { memoryLimitBytes: -1n }), -1n);
  assert.equal(swapAfter({ memoryLimitBytes: 100n, memorySwapLimitBytes: -1n }, { memoryLimitBytes: 300n }), -1n);
  assert.equal(swapAfter({ memoryLimitBytes: 100n }, { memoryLimitBytes: 300n }), undefined);
});

test('a pod may use what its containers may and its overhead, and without a limit any amount', () => {
  const overhead = { memoryLimitBytes: 10n, cpuQuota: 5_000n, cpuPeriod: 50_000n, cpuShares: 4n };
  assert.deepEqual(
    podLimits({ resources: { memoryLimitBytes: 100n, memorySwapLimitBytes: 120n, cpuQuota: 20_000n, cpuPeriod: 100_000n, cpuShares: 512n, oomScoreAdj: 3 }, overhead }),
    {
      memoryLimitBytes: 110n,
      memorySwapLimitBytes: 130n,
      cpuQuota: 30_000n,
      cpuPeriod: 100_000n,
      cpuShares: 516n,
    },
  );
  assert.deepEqual(podLimits({ resources: { cpuQuota: -1n }, overhead }), { cpuQuota: -1n });
  assert.deepEqual(podLimits({ resources: { memoryLimitBytes: 100n } }), { memoryLimitBytes: 100n });
  assert.equal(podLimits({ overhead }), undefined);
});
