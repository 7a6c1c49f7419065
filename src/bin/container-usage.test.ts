/** Space of writable layers: what is counted, and that no link leads out. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, rmSync, statSync, statfsSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '#core';
import { ContainerUsage } from './container-usage.ts';

const scratch = mkdtempSync(`${tmpdir()}/container-usage-`);
after(() => rmSync(scratch, { recursive: true }));
let nowMs = 0;
/** Nobody's patience ends. */
const clock: Clock = { nowNs: () => 5n, monotonicMs: () => nowMs, sleep: async () => new Promise(() => undefined), randomBytes: (count) => new Uint8Array(count) };

test('files count once, links and FIFOs are not opened, and an answer is kept for a while', async () => {
  mkdirSync(`${scratch}/outside`);
  writeFileSync(`${scratch}/outside/big`, 'x'.repeat(100_000));
  const directory = `${scratch}/containers`;
  mkdirSync(`${directory}/c1/upper/etc`, { recursive: true });
  writeFileSync(`${directory}/c1/upper/etc/file`, 'x'.repeat(10_000));
  linkSync(`${directory}/c1/upper/etc/file`, `${directory}/c1/upper/etc/again`);
  symlinkSync(`${scratch}/outside`, `${directory}/c1/upper/link`);
  execFileSync('mkfifo', [`${directory}/c1/upper/fifo`]);
  const paths = ['c1', 'c1/upper', 'c1/upper/etc', 'c1/upper/etc/file'].map((path) => `${directory}/${path}`);
  const usage = new ContainerUsage({ mountpoint: '/disk', directory, clock });
  const expected = { atNs: 5n, mountpoint: '/disk', usedBytes: paths.reduce((sum, path) => sum + statSync(path).blocks * 512, 0), inodesUsed: paths.length + 2 };
  assert.deepEqual(await usage.measure(), expected);
  writeFileSync(`${directory}/c1/upper/more`, 'y');
  assert.deepEqual(await usage.measure(), expected);
  nowMs = 31_000;
  assert.equal((await usage.measure()).inodesUsed, expected.inodesUsed + 1);
});

test('a measurement that lasts is not waited for where there is an old answer', async () => {
  const directory = `${scratch}/large`;
  mkdirSync(`${directory}/c`, { recursive: true });
  const hasty = new ContainerUsage({ mountpoint: '/disk', directory, clock: { ...clock, sleep: async () => undefined } });
  assert.equal((await hasty.measure()).inodesUsed, 1);
  writeFileSync(`${directory}/c/more`, 'y');
  nowMs += 31_000;
  assert.equal((await hasty.measure()).inodesUsed, 1);
  while ((await hasty.measure()).inodesUsed !== 2) await setImmediate();
});

test('trees rest as long as all of them together ask for', async () => {
  const directory = `${scratch}/many`;
  for (const id of ['a', 'b', 'c']) mkdirSync(`${directory}/p/${id}`, { recursive: true });
  let measurements = 0;
  const slow = new ContainerUsage({
    mountpoint: '/disk',
    directory,
    clock: {
      ...clock,
      // Asked once in each measurement, which takes four seconds.
      nowNs: () => {
        measurements += 1;
        nowMs += 4_000;
        return 5n;
      },
    },
  });
  const measure = async (containerId: string) => slow.measureLayer({ podId: 'p', containerId });
  await measure('a');
  await measure('b');
  // More than ten times what each took, less than ten times what both took.
  nowMs += 50_000;
  await measure('a');
  await measure('b');
  // Trees are measured in turn: this one would come after those.
  await measure('c');
  assert.equal(measurements, 3);
  nowMs += 121_000;
  await measure('a');
  while (measurements < 4) await setImmediate();
});

test('a directory that is not there takes nothing', async () => {
  assert.deepEqual(await new ContainerUsage({ mountpoint: '/disk', directory: `${scratch}/none`, clock }).measure(), {
    atNs: 5n,
    mountpoint: '/disk',
    usedBytes: 0,
    inodesUsed: 0,
  });
});

test('one layer is measured alone, with its file system, and an old answer is given at once', async () => {
  const directory = `${scratch}/layers`;
  mkdirSync(`${directory}/p/c/upper`, { recursive: true });
  writeFileSync(`${directory}/p/c/upper/file`, 'x'.repeat(10_000));
  mkdirSync(`${directory}/p/other/upper`, { recursive: true });
  const usage = new ContainerUsage({ mountpoint: '/disk', directory, clock });
  const first = await usage.measureLayer({ podId: 'p', containerId: 'c' });
  assert.ok(first);
  const blocks = [`${directory}/p/c/upper`, `${directory}/p/c/upper/file`].map((path) => statSync(path).blocks);
  assert.deepEqual([first.usedBytes, first.inodesUsed, first.mountpoint], [blocks.reduce((sum, count) => sum + count * 512, 0), 2, '/disk']);
  const { blocks: total, bsize } = statfsSync(directory, { bigint: true });
  assert.equal(first.capacityBytes, total * bsize);
  writeFileSync(`${directory}/p/c/upper/more`, 'y');
  nowMs += 31_000;
  // It begins to measure, and does not wait for it.
  assert.equal((await usage.measureLayer({ podId: 'p', containerId: 'c' }))?.inodesUsed, 2);
  while ((await usage.measureLayer({ podId: 'p', containerId: 'c' }))?.inodesUsed !== 3) await setImmediate();
});

test('a container without a layer has none', async () => {
  const usage = new ContainerUsage({ mountpoint: '/disk', directory: `${scratch}/none`, clock });
  assert.equal(await usage.measureLayer({ podId: 'p', containerId: 'c' }), undefined);
});
