/**
 * Those specs of the official conformance suite that depend on the kernel, on the one of the test guest: pure cgroup v2, AppArmor, no id-mapped tmpfs.
 * In: what tests/conformance/prepare.sh brought before the guest's disk was made; without that this suite is left out. On the host the whole suite runs in critest.test.ts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConformanceHost } from '../conformance/conformance.ts';
import { readFacts } from '../facts.ts';

const skip = readFacts().host ? 'the whole suite runs here' : false;
const focus = 'AppArmor|Container OOM|listing .*stats|UserNamespaces|readonly mounts|sysctls|Seccomp';

test('specs on resources, memory that runs out, usage, user namespaces and AppArmor do what is expected on an older kernel', { skip }, async () => {
  await using host = await ConformanceHost.open();
  const { outcomes, differences } = await host.run({ peer: 'berth', network: 'bridge', transport: 'spdy', focus, parallel: 2, timeoutMs: 800_000 });
  assert.deepEqual(differences, []);
  assert.ok(outcomes.length >= 30, `only ${outcomes.length} specs ran`);
});
