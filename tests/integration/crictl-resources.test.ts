/** The official crictl on what runs: updates, events, verbose facts of the runtime, pods and containers. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { readFacts } from '../facts.ts';
import { patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const run = promisify(execFile);
const crictlPath = fileURLToPath(new URL('../../build/go/crictl', import.meta.url));
const skip = readFacts()['no-go'] ? 'Go is not installed' : skipReason();

let cri: CriHost;
before(async () => {
  if (skip !== false) return;
  cri = await CriHost.open();
  writeFileSync(`${cri.host.directory}/crictl.yaml`, `runtime-endpoint: unix://${cri.socketPath}\ntimeout: 60\n`);
});
after(async () => {
  if (skip === false) await cri[Symbol.asyncDispose]();
});

const flags = (): readonly string[] => ['--config', `${cri.host.directory}/crictl.yaml`];
const crictl = async (...args: readonly string[]): Promise<string> => (await run(crictlPath, [...flags(), ...args])).stdout;
// SAFETY: crictl prints one JSON object.
const json = async (...args: readonly string[]): Promise<Record<string, Record<string, unknown>>> => JSON.parse(await crictl(...args)) as Record<string, Record<string, unknown>>;

test('crictl update changes a running container, and inspect shows it', { skip }, async () => {
  const { podSandboxId, containerId } = await cri.startContainer('sleep 1000; :', { container: { linux: { resources: { memoryLimitInBytes: 64n << 20n } } } });
  await crictl('update', '--memory', '100663296', '--cpu-quota', '30000', '--cpu-period', '100000', '--cpu-share', '256', '--cpuset-cpus', '0', containerId);
  const { status, info } = await json('inspect', containerId);
  assert.partialDeepStrictEqual(status, { resources: { linux: { memoryLimitInBytes: '100663296', cpuQuota: '30000', cpuPeriod: '100000', cpuShares: '256', cpusetCpus: '0' } } });
  assert.equal(readFileSync(`/proc/${String(info?.['pid'])}/comm`, 'utf8').trim(), 'busybox');
  assert.ok('runtimeSpec' in (info ?? {}));
  const pod = await json('inspectp', podSandboxId);
  assert.deepEqual([pod['status']?.['id'], pod['info']?.['hostname'], pod['info']?.['containers']], [podSandboxId, 'pod-1', [containerId]]);
  const runtime = await json('info');
  assert.ok(JSON.stringify(runtime).includes(cri.host.root), 'the configuration is told');
  await cri.call(RuntimeService.method.removePodSandbox, { podSandboxId });
});

test('crictl events prints the life of a container', { skip }, async () => {
  const events = spawn(crictlPath, [...flags(), 'events', '--output', 'json'], { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  events.stdout.setEncoding('utf8').on('data', (part: string) => (text += part));
  const closed = new Promise<void>((resolve) => void events.once('close', () => resolve()));
  try {
    const deadline = performance.now() + patienceMs;
    const wanted = ['CONTAINER_CREATED_EVENT', 'CONTAINER_STARTED_EVENT', 'CONTAINER_STOPPED_EVENT', 'CONTAINER_DELETED_EVENT'];
    // Once more where the stream was not there yet.
    for (;;) {
      const { podSandboxId, containerId } = await cri.startContainer('exit 0');
      await cri.ended(containerId);
      await cri.call(RuntimeService.method.removePodSandbox, { podSandboxId });
      await sleep(100);
      if (text.includes(podSandboxId) && wanted.every((type) => text.includes(type))) break;
      assert.ok(performance.now() < deadline, text);
    }
  } finally {
    events.kill('SIGTERM');
    await closed;
  }
});
