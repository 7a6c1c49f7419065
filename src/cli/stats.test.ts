/** `berth stats` over doubles: the table, what is not known, JSON, and looking again until somebody says stop. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerStats, Engine, PodSandboxStats } from '#pod';
import { containerDouble, podDouble, runDouble } from './doubles.ts';

const web = podDouble({ name: 'web' });
const server = containerDouble({ name: 'server' });
const line = { totalNs: 1n, avg10: 12.34, avg60: 0, avg300: 0 };
const running: ContainerStats = {
  id: server.id,
  podSandboxId: web.id,
  metadata: server.metadata,
  state: 'running',
  labels: {},
  annotations: {},
  usage: {
    atNs: 1n,
    cpu: { usageNs: 5n, nanoCores: 1_250_000_000n, pressure: { some: line } },
    memory: { usageBytes: 3_000_000n, workingSetBytes: 2_097_152n, limitBytes: 67_108_864n },
    swap: { usageBytes: 0n },
    io: {
      devices: [
        { device: '/dev/a', major: 1, minor: 0, readBytes: 1024n, writeBytes: 0n, reads: 1n, writes: 0n },
        { device: '/dev/b', major: 2, minor: 0, readBytes: 1024n, writeBytes: 4096n, reads: 1n, writes: 1n },
      ],
    },
    processes: { processes: 3 },
  },
  writableLayer: { atNs: 1n, mountpoint: '/containers', usedBytes: 20_480, inodesUsed: 5 },
};
const { usage: _usage, ...ended } = { ...running, state: 'exited' as const };
const pod: PodSandboxStats = {
  id: web.id,
  metadata: web.metadata,
  labels: {},
  annotations: {},
  usage: { atNs: 1n, cpu: { usageNs: 5n } },
  network: { atNs: 1n, interfaces: [{ name: 'eth0', rxBytes: 2048n, rxPackets: 0n, rxErrors: 0n, rxDropped: 0n, txBytes: 10n, txPackets: 0n, txErrors: 0n, txDropped: 0n }] },
  containers: [running, ended],
};
const listing: Partial<Engine> = { listPodSandboxes: async () => [web], listContainers: async () => [server] };

test('a pod has its own line, then its containers that run; what is not known is a dash', async () => {
  let looks = 0;
  const { status, stdout } = await runDouble(['stats'], { engine: { ...listing, listPodSandboxStats: async () => ((looks += 1), [pod]) } });
  assert.equal(status, 0);
  assert.deepEqual(
    stdout
      .trimEnd()
      .split('\n')
      .map((text) => text.split(/ {2,}/)),
    [
      ['POD', 'CONTAINER', 'CPU', 'MEMORY', 'LIMIT', 'SWAP', 'PIDS', 'READ / WRITTEN', 'RECEIVED / SENT', 'LAYER', 'PRESSURE CPU MEM IO'],
      ['web', '-', '-', '-', '-', '-', '3', '-', '2.0 KiB / 10 B', '-', '-'],
      ['web', 'server', '125.0%', '2.0 MiB', '64 MiB', '0 B', '3', '2.0 KiB / 4.0 KiB', '-', '20 KiB', '12.3% - -'],
    ],
  );
  // The first look of an engine has no rates.
  assert.equal(looks, 2);
});

test('a container is named by its pod, and one that has ended is shown when it is asked for', async () => {
  const { stdout } = await runDouble(['stats', 'web/server'], { engine: { ...listing, containerStats: async (id) => (assert.equal(id, server.id), ended) } });
  assert.match(stdout, /\nweb +server +- .* 20 KiB +-\n$/);
});

test('JSON has every number, with those of 64 bits as texts', async () => {
  const { stdout } = await runDouble(['stats', 'web', '--output', 'json'], { engine: { ...listing, podSandboxStats: async () => pod } });
  // SAFETY: the shape is what this test is about.
  const [found] = JSON.parse(stdout) as [{ readonly kind: string; readonly containers: readonly { readonly usage: { readonly cpu: { readonly nanoCores: string } } }[] }];
  assert.deepEqual([found.kind, found.containers[0]?.usage.cpu.nanoCores], ['pod', '1250000000']);
});

test('looking goes on until Ctrl-C, and nobody listens for signals afterwards', async () => {
  let deliver: (name: 'SIGINT') => void = () => undefined;
  let looks = 0;
  const engine: Partial<Engine> = {
    ...listing,
    listPodSandboxStats: async () => {
      looks += 1;
      if (looks === 4) deliver('SIGINT');
      return [pod];
    },
  };
  const { status, stdout, listeners } = await runDouble(['stats', '--watch'], { engine, onSignals: (given) => (deliver = given) });
  assert.deepEqual([status, looks, listeners, stdout.match(/POD +CONTAINER/g)?.length], [0, 4, 0, 3]);
  assert.ok(!stdout.includes('\u001b'));
  looks = 0;
  const lines = await runDouble(['stats', '-w', '--output', 'json'], { engine, onSignals: (given) => (deliver = given) });
  assert.deepEqual(
    lines.stdout
      .trimEnd()
      .split('\n')
      .map((text) => Array.isArray(JSON.parse(text))),
    [true, true, true],
  );
  looks = 0;
  const terminal = await runDouble(['stats', '--watch'], { engine, isTTY: true, onSignals: (given) => (deliver = given) });
  assert.ok(terminal.stdout.startsWith('\u001b[H\u001b[JPOD'));
});

test('an unknown name is told', async () => {
  const { status, stderr } = await runDouble(['stats', 'nothing'], { engine: listing });
  assert.deepEqual([status === 0, stderr], [false, 'berth: find "nothing": no such pod or container\n']);
});
