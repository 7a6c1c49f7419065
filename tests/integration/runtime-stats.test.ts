/** Statistics of a group and of a network namespace, read from this kernel's own files while a process makes them grow. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { statsGroups } from '#runtime';
import { type GroupReading, GroupReader, systemClock } from '#system';
import { skipReason, patienceMs } from './berth-host.ts';
import { type RuntimeHost, type TestPod, makeSpec, startRuntimeHost } from './runtime-host.ts';

const skip = skipReason();
const mebibyte = 1024 * 1024;
const reader = new GroupReader(systemClock);
let runtime: RuntimeHost;
let pod: TestPod;

before(async () => {
  if (skip !== false) return;
  runtime = await startRuntimeHost();
  pod = await runtime.makePod();
});
after(async () => {
  if (skip !== false) return;
  await pod[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
});

const cgroupOf = (name: string): string => `/berth-test/${pod.id}/${name}`;
const read = async (path: string): Promise<GroupReading> => reader.read(statsGroups(runtime.host.cgroups, { path }), { details: true });

async function until(path: string, holds: (reading: GroupReading) => boolean): Promise<GroupReading> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const reading = await read(path);
    if (holds(reading)) return reading;
    assert.ok(performance.now() < deadline, `never seen in ${path}`);
    await sleep(20);
  }
}

test('a group tells of its time, memory, swap, pressure and processes', { skip }, async () => {
  const limit = 64 * mebibyte;
  const resources = { memory: { limit }, pids: { limit: 100 } };
  const { pid } = await pod.start(
    'busy',
    makeSpec(runtime.host, { args: ['/bin/sh', '-c', 'dd if=/dev/zero of=/dev/shm/taken bs=64k count=8; sleep 100000 & while :; do :; done'], linux: { resources } }),
  );
  const reading = await until(cgroupOf('busy'), ({ cpu, processes }) => (cpu?.usageNs ?? 0n) > 50_000_000n && processes?.processes === 2);
  assert.ok(reading.atNs > 0n);
  assert.ok((reading.cpu?.userNs ?? -1n) >= 0n && (reading.cpu?.systemNs ?? -1n) >= 0n);
  assert.equal(reading.memory?.limitBytes, BigInt(limit));
  assert.ok((reading.memory?.usageBytes ?? 0n) >= 524_288n && (reading.memory?.usageBytes ?? 0n) <= BigInt(limit));
  assert.ok((reading.memory?.workingSetBytes ?? 0n) <= (reading.memory?.usageBytes ?? 0n));
  assert.ok((reading.memory?.rssBytes ?? -1n) >= 0n && (reading.memory?.pageFaults ?? 0n) > 0n);
  assert.equal(reading.memory?.oomKills, 0n);
  assert.equal(reading.processes?.threadsMax, 100n);
  assert.ok((reading.processes?.threads ?? 0) >= (reading.processes?.processes ?? 1));
  const counts = existsSync('/proc/pressure/cpu') && runtime.host.cgroups.unified !== undefined;
  assert.equal(reading.cpu?.pressure?.some !== undefined, counts);
  assert.equal(reading.memory?.pressure?.some !== undefined, counts);
  assert.equal(reading.io?.pressure?.some !== undefined, counts);
  const detailed = await read(cgroupOf('busy'));
  assert.ok((detailed.processes?.fileDescriptors ?? 0) >= 3 && (detailed.processes?.openFilesMax ?? 0n) > 0n);
  const whole = await read(`/berth-test/${pod.id}`);
  assert.ok((whole.cpu?.usageNs ?? 0n) >= (detailed.cpu?.usageNs ?? 0n) && (whole.memory?.usageBytes ?? 0n) > 0n);
  const links = await reader.processLinks(pid, `/berth-test/${pod.id}`);
  assert.deepEqual(links.map(({ name }) => name).includes('lo'), true);
  assert.deepEqual(await reader.processLinks(pid, '/berth-test/another'), []);
  await pod.shim.signalProcess('busy', 9);
});

test('what the kernel killed for memory is counted', { skip }, async () => {
  const resources = { memory: { limit: 16 * mebibyte } };
  // The shell stays; its child takes more than there is.
  await pod.start('greedy', makeSpec(runtime.host, { args: ['/bin/sh', '-c', 'dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 100000'], linux: { resources } }));
  const { memory: seen } = await until(cgroupOf('greedy'), (reading) => (reading.memory?.oomKills ?? 0n) > 0n);
  assert.ok((seen?.failures ?? 0n) > 0n);
  await pod.shim.signalProcess('greedy', 9);
});

test('a group that is not there has nothing but the time', { skip }, async () => {
  const { atNs, ...rest } = await read(cgroupOf('none'));
  assert.ok(atNs > 0n);
  assert.deepEqual(rest, {});
});
