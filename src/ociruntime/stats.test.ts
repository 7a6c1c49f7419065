/** The statistics document from the texts of both kinds of control groups. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CgroupFacts } from '#system';
import { encodeLogLine } from './log.io.ts';
import { selectProcesses } from './list.ts';
import { statsSource } from './stats.ts';

const common = { cpusetCpus: '', cpusetMems: '', swapLimit: true, hugepageSizes: ['2MB'] };
const v2: CgroupFacts = { ...common, mode: 'v2', v1: [], unified: { mountpoint: '/cg', controllers: ['cpu', 'memory'], canKill: true } };
const v1: CgroupFacts = {
  ...common,
  mode: 'v1',
  v1: ['cpu', 'cpuacct', 'memory', 'pids', 'blkio', 'hugetlb'].map((name) => ({ controllers: [name], mountpoint: `/cg/${name}` })),
};
const placement = { path: '/a/b' };
const texts = (directory: (name: string) => string, files: Readonly<Record<string, string>>): ReadonlyMap<string, string> =>
  new Map(Object.entries(files).map(([name, text]) => [`${directory(name)}/a/b/${name}`, text]));

test('cgroup v2: swap counts with memory, max is the largest number, pressure is told', () => {
  const source = statsSource(v2, placement);
  assert.equal(source.oomFile, '/cg/a/b/memory.events');
  const files = {
    'cpu.stat': 'usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 0\nthrottled_usec 4\n',
    'cpu.pressure': 'some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=8\n',
    'memory.stat': 'anon 1\nfile 4096\n',
    'memory.current': '8192\n',
    'memory.max': 'max\n',
    'memory.swap.current': '100\n',
    'memory.swap.max': '0\n',
    'pids.current': '3\n',
    'pids.max': 'max\n',
    'io.stat': '8:0 rbytes=1 wbytes=2 rios=3 wios=0 dbytes=0 dios=0\n',
    'hugetlb.2MB.current': '2097152\n',
    'hugetlb.2MB.events': 'max 1\n',
  };
  for (const name of Object.keys(files)) assert.ok(source.files.includes(`/cg/a/b/${name}`), name);
  const stats = source.describe(texts(() => '/cg', files));
  const most = 18446744073709551615n;
  assert.deepEqual(stats['cpu'], {
    usage: { total: 5000n, kernel: 2000n, user: 3000n },
    throttling: { periods: 7n, throttledTime: 4000n },
    psi: { some: { avg10: 1.5, avg60: 0, avg300: 0, total: 9n }, full: { avg10: 0, avg60: 0, avg300: 0, total: 8n } },
  });
  assert.deepEqual(stats['memory'], {
    cache: 4096n,
    usage: { limit: most, failcnt: 0n, usage: 8192n },
    swap: { limit: most, failcnt: 0n, usage: 8292n },
    kernel: { limit: 0n, failcnt: 0n },
    kernelTCP: { limit: 0n, failcnt: 0n },
    raw: { anon: 1n, file: 4096n },
  });
  assert.deepEqual(stats['pids'], { current: 3n });
  assert.deepEqual(stats['blkio'], {
    ioServiceBytesRecursive: [
      { major: 8, op: 'Read', value: 1n },
      { major: 8, op: 'Write', value: 2n },
    ],
    ioServicedRecursive: [
      { major: 8, op: 'Read', value: 3n },
      { major: 8, op: 'Write' },
    ],
  });
  assert.deepEqual(stats['hugetlb'], { '2MB': { usage: 2097152n, failcnt: 1n } });
  assert.equal(stats['network_interfaces'], null);
});

test('sizes of huge pages that no controller counts are not told', () => {
  assert.deepEqual(statsSource(v2, placement).describe(new Map())['hugetlb'], {});
});

test('cgroup v1: each controller has its own directory', () => {
  const source = statsSource(v1, placement);
  assert.equal(source.oomFile, '/cg/memory/a/b/memory.oom_control');
  const stats = source.describe(
    texts((name) => `/cg/${name.split('.')[0] ?? ''}`, {
      'cpuacct.usage': '50\n',
      'cpuacct.usage_user': '30\n',
      'cpuacct.usage_sys': '20\n',
      'cpuacct.usage_percpu': '10 40 \n',
      'cpu.stat': 'nr_periods 1\nnr_throttled 1\nthrottled_time 77\n',
      'memory.limit_in_bytes': '9223372036854771712\n',
      'memory.usage_in_bytes': '12\n',
      'memory.max_usage_in_bytes': '13\n',
      'memory.failcnt': '1\n',
    }),
  );
  assert.deepEqual(stats['cpu'], {
    usage: { total: 50n, percpu: [10n, 40n], kernel: 20n, user: 30n },
    throttling: { periods: 1n, throttledPeriods: 1n, throttledTime: 77n },
  });
  const { memory } = stats;
  assert.ok(typeof memory === 'object' && memory !== null && 'usage' in memory);
  assert.deepEqual(memory.usage, { limit: 9223372036854771712n, failcnt: 1n, usage: 12n, max: 13n });
});

test('ps is matched by its column of process ids', () => {
  const output = 'UID PID CMD\nroot 12 a 13\nroot 13 b\n\n';
  assert.equal(selectProcesses(output, new Set([13])), 'UID PID CMD\nroot 13 b\n');
  assert.throws(() => selectProcesses('CMD\na\n', new Set([13])), { code: 'failedPrecondition', message: "couldn't find PID field in ps output" });
});

test('log lines have the forms that callers of runc read', () => {
  const entry = { level: 'error', message: 'say "no"\n', time: new Date('2026-01-02T03:04:05.678Z') } as const;
  assert.equal(encodeLogLine(entry, 'json'), '{"level":"error","msg":"say \\"no\\"\\n","time":"2026-01-02T03:04:05Z"}\n');
  assert.equal(encodeLogLine(entry, 'text'), 'time="2026-01-02T03:04:05Z" level=error msg="say \\"no\\"\\n"\n');
  assert.equal(encodeLogLine({ ...entry, message: 'a\u001b[31mb\u009b' }, 'terminal'), 'ERRO a?[31mb?\n');
  assert.equal(encodeLogLine({ ...entry, message: 'plain' }, 'text'), 'time="2026-01-02T03:04:05Z" level=error msg=plain\n');
});
