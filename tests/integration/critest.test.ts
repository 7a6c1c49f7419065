/**
 * The official conformance suite of CRI against `berth daemon`: all of it with the built-in network over SPDY; what is about networks and streams
 * again with CNI plugins and over WebSocket. In: what tests/conformance/prepare.sh brings. The same and more, with the newest containerd beside it,
 * is `npm run conformance:cri`.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { readFacts } from '../facts.ts';

const main = new URL('../conformance/main.ts', import.meta.url).pathname;
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;

/** Runs the suite and gives the report; fails with it for any difference. It leaves shared memory behind, and the plugins rules: both end with namespaces. */
async function conforms(namespaces: readonly string[], args: readonly string[]): Promise<string> {
  const command = ['sh', '-c', 'ip link set lo up && exec "$@"', 'sh', process.execPath, main, '--peer', 'berth', ...args];
  const { stdout } = await promisify(execFile)('unshare', [...namespaces, '--', ...command], { maxBuffer: 64 * 1024 * 1024 }).catch(
    (error: Error & { readonly stdout?: string; readonly stderr?: string }) => assert.fail(`${error.stdout}${error.stderr}`),
  );
  return stdout;
}

test('every spec of the suite does what is expected, with the built-in network and over SPDY', { skip }, async () => {
  assert.match(await conforms(['--ipc'], ['--network', 'bridge', '--transport', 'spdy']), /^berth-bridge-spdy +\d+ passed, \d+ failed, \d+ skipped; as expected/m);
});

test('specs on streams and networks do so with CNI plugins and over WebSocket', { skip }, async () => {
  const report = await conforms(['--ipc', '--net'], ['--network', 'cni', '--transport', 'websocket', '--focus', 'Streaming|Networking|Multiple Containers']);
  assert.match(report, /^berth-cni-websocket +[1-9]\d* passed, 0 failed, 0 skipped; as expected/m);
});
