/** The kernel's statistics: texts as kernels write them, and directories that look like groups. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type Clock, limits } from '#core';
import { GroupReader } from './cgroup-stats.io.ts';
import { KernelFiles } from './kernel-files.io.ts';
import { countLines, decodeBlkio, decodeCounters, decodeIoStat, decodeLinks, decodeNumber, decodePressure, onlyKnown } from './cgroup-stats.ts';

const scratch = mkdtempSync(`${tmpdir()}/cgroup-stats-`);
after(() => rmSync(scratch, { recursive: true }));

/** A directory with these files. */
function makeGroup(name: string, files: Readonly<Record<string, string>>): string {
  const directory = `${scratch}/${name}`;
  mkdirSync(directory, { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(`${directory}/${file}`, text);
  return directory;
}

/** Time stands still; deadlines pass when they are told to. */
class DeadlineClock implements Clock {
  readonly #sleepers = new Set<() => void>();
  #nowMs = 0;

  nowNs(): bigint {
    return 7n;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  async sleep(_durationMs: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#sleepers.add(resolve);
    signal?.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
    return promise;
  }

  pass(durationMs: number): void {
    this.#nowMs += durationMs;
    for (const wake of this.#sleepers) wake();
    this.#sleepers.clear();
  }

  randomBytes(count: number): Uint8Array {
    return new Uint8Array(count);
  }
}

/** Where a descriptor of this process leads; empty where it is gone meanwhile. */
function linkOf(descriptor: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`);
  } catch {
    return '';
  }
}

/** True once somebody beside the test has opened the file. */
const isRead = (path: string): boolean => readdirSync('/proc/self/fd').filter((name) => linkOf(name) === path).length > 1;

test('numbers are numbers, and max is none', () => {
  assert.deepEqual(
    ['12\n', '18446744073709551615', 'max\n', '', '-1', '1 2', undefined].map((text) => decodeNumber(text)),
    [12n, 18446744073709551615n, undefined, undefined, undefined, undefined, undefined],
  );
});

test('counters are read line by line, whatever else is in between', () => {
  assert.deepEqual(
    [...decodeCounters('usage_usec 5\ngarbage\nx -1\nanon 18446744073709551615\ny 1 2\n')],
    [
      ['usage_usec', 5n],
      ['anon', 18446744073709551615n],
    ],
  );
  assert.equal(countLines('1\n2\n30'), 2);
  assert.equal(countLines(undefined), 0);
});

test('pressure is in nanoseconds, and lines that a kernel does not have are absent', () => {
  assert.deepEqual(decodePressure('some avg10=1.50 avg60=0.02 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n'), {
    some: { totalNs: 12_000n, avg10: 1.5, avg60: 0.02, avg300: 0 },
    full: { totalNs: 3000n, avg10: 0, avg60: 0, avg300: 0 },
  });
  assert.deepEqual(Object.keys(decodePressure('some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n') ?? {}), ['some']);
  assert.equal(decodePressure(''), undefined);
  assert.equal(decodePressure(undefined), undefined);
});

test('devices are read from io.stat and from the two files of blkio', () => {
  assert.deepEqual(decodeIoStat('8:0 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=9 dios=9\n7:1\n259:3 rbytes=1\n'), [
    { major: 8, minor: 0, readBytes: 4096n, writeBytes: 10n, reads: 1n, writes: 2n },
    { major: 259, minor: 3, readBytes: 1n, writeBytes: 0n, reads: 0n, writes: 0n },
  ]);
  assert.deepEqual(decodeBlkio('8:0 Read 4096\n8:0 Write 10\n8:0 Sync 1\nTotal 4106\n', '8:0 Read 1\n8:0 Write 2\nTotal 3\n'), [
    { major: 8, minor: 0, readBytes: 4096n, writeBytes: 10n, reads: 1n, writes: 2n },
  ]);
});

test('interfaces are read with their columns, and headings are none', () => {
  const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0:1234567890123 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
short: 1 2 3
`;
  const [lo, eth0, ...others] = decodeLinks(text);
  assert.equal(lo?.name, 'lo');
  assert.deepEqual(eth0, {
    name: 'eth0',
    rxBytes: 1234567890123n,
    rxPackets: 2n,
    rxErrors: 3n,
    rxDropped: 4n,
    txBytes: 5n,
    txPackets: 6n,
    txErrors: 7n,
    txDropped: 8n,
  });
  assert.deepEqual(others, []);
});

test('only what is undefined is left out', () => {
  assert.deepEqual(Object.entries(onlyKnown({ a: 0n, b: undefined, c: '', d: false })), [
    ['a', 0n],
    ['c', ''],
    ['d', false],
  ]);
});

test('a group of cgroup v2 is read', async () => {
  const unified = makeGroup('v2', {
    'cpu.stat': 'usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 6\n',
    'cpu.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n',
    'memory.current': '1000\n',
    'memory.stat': 'anon 300\nfile 500\nfile_mapped 7\nkernel 90\ninactive_file 400\nactive_file 100\npgfault 11\npgmajfault 2\n',
    'memory.max': '2000\n',
    'memory.events': 'low 0\nmax 5\noom 1\noom_kill 1\n',
    'memory.swap.current': '64\n',
    'memory.swap.max': 'max\n',
    'io.stat': '4095:7 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n',
    'cgroup.stat': 'nr_descendants 1\n',
    'cgroup.procs': '4195001\n4195002\n',
    'cgroup.threads': '4195001\n4195002\n4195003\n',
    'pids.max': '50\n',
  });
  makeGroup('v2/below', { 'cgroup.procs': '4195004\n', 'cgroup.threads': '4195004\n' });
  assert.deepEqual(await new GroupReader(new DeadlineClock()).read({ unified, v1: {} }, { details: true }), {
    atNs: 7n,
    cpu: {
      usageNs: 30_000n,
      userNs: 20_000n,
      systemNs: 10_000n,
      periods: 4n,
      throttledPeriods: 1n,
      throttledNs: 6000n,
      pressure: { some: { totalNs: 1000n, avg10: 0, avg60: 0, avg300: 0 } },
    },
    memory: {
      usageBytes: 1000n,
      workingSetBytes: 600n,
      limitBytes: 2000n,
      rssBytes: 300n,
      cacheBytes: 500n,
      mappedFileBytes: 7n,
      activeFileBytes: 100n,
      inactiveFileBytes: 400n,
      kernelBytes: 90n,
      failures: 5n,
      oomKills: 1n,
      pageFaults: 11n,
      majorPageFaults: 2n,
    },
    swap: { usageBytes: 64n },
    io: { devices: [{ device: '4095:7', major: 4095, minor: 7, readBytes: 1n, writeBytes: 2n, reads: 3n, writes: 4n }] },
    processes: { processes: 3, threads: 4, threadsMax: 50n, fileDescriptors: 0, sockets: 0 },
  });
});

const memoryV1 = {
  'memory.usage_in_bytes': '1000\n',
  'memory.stat': 'total_inactive_file 1200\ntotal_rss 3\ntotal_swap 64\ntotal_pgfault 8\n',
  'memory.limit_in_bytes': '9223372036854771712\n',
  'memory.memsw.limit_in_bytes': '9223372036854771712\n',
  'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
};

test('a group beside a cgroup2 tree has its processor time there and its memory in v1', async () => {
  const unified = makeGroup('hybrid/unified', { 'cpu.stat': 'usage_usec 30\n', 'cgroup.procs': '4195001\n', 'cgroup.threads': '4195001\n' });
  const cpu = makeGroup('hybrid/cpu', { 'cpu.stat': 'nr_periods 4\nnr_throttled 1\nthrottled_time 6\n' });
  const blkio = makeGroup('hybrid/blkio', { 'blkio.throttle.io_service_bytes_recursive': '4095:7 Read 1\nTotal 1\n' });
  const reading = await new GroupReader(new DeadlineClock()).read(
    { unified, v1: { cpu, blkio, memory: makeGroup('hybrid/memory', memoryV1), pids: `${scratch}/none` } },
    { details: true },
  );
  assert.deepEqual(reading, {
    atNs: 7n,
    cpu: { usageNs: 30_000n, periods: 4n, throttledPeriods: 1n, throttledNs: 6n },
    memory: { usageBytes: 1000n, workingSetBytes: 0n, rssBytes: 3n, inactiveFileBytes: 1200n, oomKills: 2n, pageFaults: 8n },
    swap: { usageBytes: 64n },
    io: { devices: [{ device: '4095:7', major: 4095, minor: 7, readBytes: 1n, writeBytes: 0n, reads: 0n, writes: 0n }] },
    processes: { processes: 1, threads: 1, fileDescriptors: 0, sockets: 0 },
  });
});

test('a group of v1 alone has its time from cpuacct, and swap has what the common limit leaves', async () => {
  const cpuacct = makeGroup('v1/cpuacct', { 'cpuacct.usage': '30\n', 'cpuacct.usage_user': '20\n', 'cpuacct.usage_sys': '10\n' });
  const memory = makeGroup('v1/memory', { ...memoryV1, 'memory.limit_in_bytes': '4096\n', 'memory.memsw.limit_in_bytes': '5000\n' });
  const reading = await new GroupReader(new DeadlineClock()).read(
    { v1: { cpuacct, memory, devices: makeGroup('v1/devices', { 'cgroup.procs': '4195001\n4195002\n', tasks: '4195001\n4195002\n4195003\n' }) } },
    { details: true },
  );
  assert.deepEqual(reading.cpu, { usageNs: 30n, userNs: 20n, systemNs: 10n });
  assert.equal(reading.memory?.limitBytes, 4096n);
  assert.deepEqual(reading.swap, { usageBytes: 64n, limitBytes: 904n });
  assert.deepEqual(reading.processes, { processes: 2, threads: 3, fileDescriptors: 0, sockets: 0 });
  assert.equal(reading.io, undefined);
});

test('the memory limit of a group is told alone, by the hierarchy that has its memory', async () => {
  const reader = new GroupReader(new DeadlineClock());
  const [v2, v1] = [makeGroup('limit/v2', { 'memory.max': '8192\n' }), makeGroup('limit/v1', { 'memory.limit_in_bytes': '4096\n' })];
  assert.deepEqual([await reader.memoryLimit({ unified: v2, v1: {} }), await reader.memoryLimit({ unified: v2, v1: { memory: v1 } })], [8192n, 4096n]);
  const unlimited = [{ unified: makeGroup('limit/none', { 'memory.max': 'max\n' }), v1: {} }, { v1: { memory: makeGroup('limit/v1-none', memoryV1) } }, { v1: {} }];
  for (const groups of unlimited) assert.equal(await reader.memoryLimit(groups), undefined);
});

test('a look without details leaves out what takes more files, and a group of groups its processes', async () => {
  const unified = `${scratch}/v2`;
  const { memory, processes } = await new GroupReader(new DeadlineClock()).read({ unified, v1: {} });
  assert.deepEqual([memory?.usageBytes, memory?.oomKills, memory?.failures, processes], [1000n, undefined, undefined, { processes: 3 }]);
  assert.equal((await new GroupReader(new DeadlineClock()).read({ unified, v1: {} }, { details: true, processes: false })).processes, undefined);
});

test('a group that is gone has nothing but the time', async () => {
  assert.deepEqual(await new GroupReader(new DeadlineClock()).read({ unified: `${scratch}/gone`, v1: { memory: `${scratch}/gone` } }), { atNs: 7n });
});

test('descriptors and limits are counted where they are asked for', async () => {
  const unified = makeGroup('self', { 'cgroup.procs': `${process.pid}\n`, 'cgroup.threads': `${process.pid}\n` });
  assert.equal((await new GroupReader(new DeadlineClock()).read({ unified, v1: {} })).processes?.fileDescriptors, undefined);
  const { processes } = await new GroupReader(new DeadlineClock()).read({ unified, v1: {} }, { details: true });
  assert.ok((processes?.fileDescriptors ?? 0) >= 3);
  assert.equal(typeof processes?.sockets, 'number');
});

test('descriptors beyond the bound are counted where the kernel tells their number, and are not listed', async () => {
  const unified = makeGroup('many', { 'cgroup.procs': `${process.pid}\n`, 'cgroup.threads': `${process.pid}\n` });
  const opened = Array.from({ length: limits.statsDescriptorsMax + 50 }, () => openSync('/dev/null', 'r'));
  const { processes } = await new GroupReader(new DeadlineClock()).read({ unified, v1: {} }, { details: true });
  const told = statSync('/proc/self/fd').size;
  for (const descriptor of opened) closeSync(descriptor);
  const count = processes?.fileDescriptors ?? 0;
  if (told === 0) assert.equal(count, limits.statsDescriptorsMax);
  else assert.ok(count >= opened.length && Math.abs(count - told) < 50, `${count} descriptors, ${told} by the kernel`);
});

test('a file that hangs is left out, and after some nothing is begun until one returns', async () => {
  const clock = new DeadlineClock();
  const reader = new GroupReader(clock);
  const read = async (unified: string) => reader.read({ unified, v1: {} });
  const healthy = makeGroup('healthy', { 'cpu.stat': 'usage_usec 1\n' });
  // Nobody writes into these, so whoever reads from them waits. This process holds the other end of each.
  const hung = Array.from({ length: limits.statsReadsMax }, (_, index) => {
    const directory = makeGroup(`hung-${index}`, { 'cpu.stat': 'usage_usec 2\n' });
    execFileSync('mkfifo', [`${directory}/cpu.pressure`]);
    return { directory, descriptor: openSync(`${directory}/cpu.pressure`, constants.O_RDWR) };
  });
  for (const [index, { directory }] of hung.entries()) {
    const isLast = index === hung.length - 1;
    const look = read(directory);
    // While one more may be read, the others go on beside the file that hangs.
    if (!isLast) assert.equal((await read(healthy)).cpu?.usageNs, 1000n);
    while (!isRead(`${directory}/cpu.pressure`)) await setImmediate();
    clock.pass(limits.statsReadTimeoutMs);
    assert.deepEqual(await look, { atNs: 7n, cpu: { usageNs: 2000n } });
  }
  assert.deepEqual(await read(healthy), { atNs: 7n });
  for (const { descriptor } of hung) {
    writeSync(descriptor, '\n');
    closeSync(descriptor);
  }
  while ((await read(healthy)).cpu?.usageNs !== 1000n) await setImmediate();
});

test('a list longer than a buffer is read whole, up to its bound', async () => {
  const files = new KernelFiles(new DeadlineClock());
  const lines = Array.from({ length: 20_000 }, (_, index) => `${100_000 + index}\n`);
  const directory = makeGroup('long', { list: lines.join('') });
  assert.equal(countLines(await files.read(`${directory}/list`)), 20_000);
  assert.ok(((await files.read(`${directory}/list`, 10_000)) ?? '').length < 40_000);
  assert.equal(await files.read(`${directory}/none`), undefined);
  assert.equal(await files.read(directory), undefined);
});

test('interfaces of a process count only while it is in its group', async () => {
  const reader = new GroupReader(new DeadlineClock());
  assert.deepEqual(await reader.processLinks(process.pid, '/no/such/group'), []);
  assert.deepEqual(await reader.processLinks(0, ''), []);
  assert.ok((await Promise.all([reader.hostLinks(), reader.hostLinks()])).every((links) => links.some(({ name }) => name === 'lo')));
});
