/**
 * The ledger against the real host: each thing that could be left behind is made, seen, and gone again.
 * Runs in namespaces of its own (scripts/in-namespaces.sh); needs root, `ip`, `mount` and `nft`.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import { compareLedger, describeLedgerDifference, readLedger } from '../ledger.ts';

const run = (file: string, ...args: readonly string[]): string =>
  execFileSync(file, args, { encoding: 'utf8', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });

test('the ledger is equal to itself while nothing happens', async () => {
  assert.deepEqual(await compareLedger(await readLedger('all'), 'all', { settleMs: 2000 }), []);
});

test('a link, a mount, a rule, a directory and a process are seen, and seen to be gone', async () => {
  const before = await readLedger('all');
  run('ip', 'link', 'add', 'ledger0', 'type', 'veth', 'peer', 'name', 'ledger1');
  const directory = mkdtempSync('/tmp/berth-ledger-');
  run('mount', '-t', 'tmpfs', 'none', directory);
  run('nft', 'add', 'table', 'ip', 'ledger');
  const child = spawn('sleep', ['1000']);
  await once(child, 'spawn');
  const difference = describeLedgerDifference(before, await readLedger('all'))
    .map((line) => line.replace(/ledger-\w+/, 'ledger-X').replace(/\d+ (sleep) .*/, '$1'))
    .sort();
  assert.deepEqual(difference, [
    'left behind: file /tmp/berth-ledger-X',
    'left behind: link ledger0',
    'left behind: link ledger1',
    'left behind: mount /tmp/berth-ledger-X (tmpfs)',
    'left behind: process sleep',
    'left behind: rule table ip ledger {',
  ]);
  child.kill();
  await once(child, 'exit');
  run('nft', 'delete', 'table', 'ip', 'ledger');
  run('umount', directory);
  rmSync(directory, { recursive: true });
  run('ip', 'link', 'delete', 'ledger0');
  assert.deepEqual(await compareLedger(before, 'all', { settleMs: 5000 }), []);
});

test('a network namespace that only a process holds is seen', async () => {
  const before = await readLedger('all');
  const child = spawn('unshare', ['-n', 'sleep', '1000']);
  await once(child, 'spawn');
  let difference: string[] = [];
  for (let attempt = 0; attempt < 100 && !difference.some((line) => line.startsWith('left behind: netns net:')); attempt += 1) {
    difference = describeLedgerDifference(before, await readLedger('all'));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(difference.filter((line) => line.startsWith('left behind: netns net:[')).length, 1);
  child.kill();
  await once(child, 'exit');
  assert.deepEqual(await compareLedger(before, 'all', { settleMs: 5000 }), []);
});
