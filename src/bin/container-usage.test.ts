/** Space of writable layers: what is counted, and that no link leads out. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, test } from 'node:test';
import type { Clock } from '#core';
import { ContainerUsage } from './container-usage.ts';

const scratch = mkdtempSync(`${tmpdir()}/container-usage-`);
after(() => rmSync(scratch, { recursive: true }));
let nowMs = 0;
const clock: Clock = { nowNs: () => 5n, monotonicMs: () => nowMs, sleep: async () => undefined, randomBytes: (count) => new Uint8Array(count) };

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
  const usage = new ContainerUsage({ directory, clock });
  const expected = { atNs: 5n, mountpoint: directory, usedBytes: paths.reduce((sum, path) => sum + statSync(path).blocks * 512, 0), inodesUsed: paths.length + 2 };
  assert.deepEqual(await usage.measure(), expected);
  writeFileSync(`${directory}/c1/upper/more`, 'y');
  assert.deepEqual(await usage.measure(), expected);
  nowMs = 31_000;
  assert.equal((await usage.measure()).inodesUsed, expected.inodesUsed + 1);
});

test('a directory that is not there takes nothing', async () => {
  assert.deepEqual(await new ContainerUsage({ directory: `${scratch}/none`, clock }).measure(), { atNs: 5n, mountpoint: `${scratch}/none`, usedBytes: 0, inodesUsed: 0 });
});
