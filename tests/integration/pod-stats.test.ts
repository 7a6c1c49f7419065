/** `berth stats` without a daemon: each command is an engine of its own that finds the pod and looks at it. */
import assert from 'node:assert/strict';
import { existsSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthHost, busybox, image, patienceMs, skipReason } from './berth-host.ts';

interface Seen {
  readonly kind: string;
  readonly usage?: { readonly cpu?: { readonly usageNs: string; readonly nanoCores?: string; readonly pressure?: object }; readonly memory?: { readonly usageBytes: string } };
  readonly network?: { readonly interfaces: readonly { readonly name: string }[] };
  readonly containers: readonly (Pick<Seen, 'usage'> & {
    readonly usage?: {
      readonly memory?: { readonly limitBytes?: string };
      readonly io?: { readonly devices: readonly { readonly writeBytes: string }[] };
      readonly processes?: { readonly processes: number };
    };
    readonly writableLayer?: { readonly usedBytes: number };
  })[];
}

test('a pod that another engine made is looked at', { skip: skipReason() }, async () => {
  await using host = await BerthHost.open();
  // The writable layer of a container passes syncs over.
  const data = host.scratch('data');
  await host.ok([
    'run',
    '-d',
    '--name',
    'busy',
    '--memory',
    '64Mi',
    '-v',
    `${data}:/data`,
    image,
    busybox,
    'sh',
    '-c',
    'head -c 1048576 /dev/zero > /written; dd if=/dev/zero of=/data/written bs=65536 count=16 conv=fsync; : > /data/done; while :; do :; done',
  ]);
  const deadline = performance.now() + patienceMs;
  while (!existsSync(`${data}/done`)) {
    assert.ok(performance.now() < deadline, 'the container has written nothing');
    await sleep(50);
  }
  // SAFETY: the command prints what the engine's types say; a wrong shape fails the assertions.
  const [pod] = (await host.json(['stats'])) as unknown as readonly Seen[];
  assert.equal(pod?.kind, 'pod');
  assert.ok(BigInt(pod.usage?.cpu?.usageNs ?? 0) > 0n);
  assert.ok(BigInt(pod.usage?.cpu?.nanoCores ?? 0) > 0n);
  assert.ok(BigInt(pod.usage?.memory?.usageBytes ?? 0) > 0n);
  assert.equal(pod.usage?.cpu?.pressure !== undefined, existsSync('/proc/pressure/cpu'));
  assert.deepEqual(
    pod.network?.interfaces.map(({ name }) => name),
    ['eth0'],
  );
  const [container] = pod.containers;
  assert.deepEqual([container?.usage?.memory?.limitBytes, container?.usage?.processes?.processes], [String(64 * 1024 * 1024), 1]);
  // Newer kernels count no input and output in v1 groups; a memory file system has no device, whose major number is 0 then.
  if (existsSync('/sys/fs/cgroup/cgroup.controllers') && statSync(data).dev > 255) {
    const written = (container?.usage?.io?.devices ?? []).map(({ writeBytes }) => BigInt(writeBytes)).reduce((sum, bytes) => sum + bytes, 0n);
    assert.ok(written >= 1_048_576n, `${written} bytes written`);
  }
  assert.ok((container?.writableLayer?.usedBytes ?? 0) > 0);
});
