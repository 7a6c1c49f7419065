/** Writes of an update: order, what is left out, what brings the old state back, what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeStep } from '#plan';
import { type ControlWrite } from './cgroup-driver.ts';
import { hybridHost, v2Host } from './testdata/hosts.ts';
import { checkMemoryInUse, filesToRead, joinSteps, oomScoreWrite, orderWrites, undoWrites } from './update.ts';

const texts = (files: Readonly<Record<string, string>>): ReadonlyMap<string, string> => new Map(Object.entries(files).map(([name, text]) => [`/g/${name}`, text]));
const writes = (files: Readonly<Record<string, string>>): readonly ControlWrite[] => Object.entries(files).map(([name, value]) => ({ file: `/g/${name}`, value, origin: '/r' }));
const order = (wanted: Readonly<Record<string, string>>, now: Readonly<Record<string, string>>): string[] =>
  orderWrites(writes(wanted), texts(now)).map(({ file, value }) => `${file.slice(3)}=${value}`);

const [limit, both] = ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'];
const [quota, period] = ['cpu.cfs_quota_us', 'cpu.cfs_period_us'];

test('memory never exceeds memory plus swap between two writes', () => {
  assert.deepEqual(order({ [limit]: '200', [both]: '300' }, { [limit]: '100', [both]: '100' }), [`${both}=300`, `${limit}=200`]);
  assert.deepEqual(order({ [limit]: '50', [both]: '60' }, { [limit]: '100', [both]: '100' }), [`${limit}=50`, `${both}=60`]);
  assert.deepEqual(order({ [limit]: '-1', [both]: '-1' }, { [limit]: '100', [both]: '100' }), [`${both}=-1`, `${limit}=-1`]);
  assert.deepEqual(order({ [limit]: '100', [both]: '100' }, { [limit]: '9223372036854771712', [both]: '9223372036854771712' }), [`${limit}=100`, `${both}=100`]);
});

test('the share of processor time between two writes is the smaller one', () => {
  // Half of one processor becomes a fifth of one in another period.
  assert.deepEqual(order({ [quota]: '2000', [period]: '10000' }, { [quota]: '50000', [period]: '100000' }), [`${quota}=2000`, `${period}=10000`]);
  assert.deepEqual(order({ [quota]: '500000', [period]: '1000000' }, { [quota]: '2000', [period]: '10000' }), [`${period}=1000000`, `${quota}=500000`]);
  assert.deepEqual(order({ [quota]: '-1', [period]: '10000' }, { [quota]: '2000', [period]: '100000' }), [`${quota}=-1`, `${period}=10000`]);
  assert.deepEqual(order({ [quota]: '2000', [period]: '10000' }, { [quota]: '-1', [period]: '100000' }), [`${period}=10000`, `${quota}=2000`]);
});

test('a burst stays within its quota', () => {
  assert.deepEqual(order({ 'cpu.max.burst': '900', 'cpu.max': '1000 100000' }, { 'cpu.max': '500 100000', 'cpu.max.burst': '0' }), ['cpu.max=1000 100000', 'cpu.max.burst=900']);
  assert.deepEqual(order({ 'cpu.max': '100 100000', 'cpu.max.burst': '50' }, { 'cpu.max': '500 100000', 'cpu.max.burst': '400' }), ['cpu.max.burst=50', 'cpu.max=100 100000']);
});

test('what a file holds already is not written', () => {
  const now = { 'memory.max': 'max\n', 'cpu.weight': '100\n', 'cpuset.cpus': '0-1\n', [limit]: '9223372036854771712\n' };
  assert.deepEqual(order({ 'memory.max': 'max', 'cpu.weight': '100', 'cpuset.cpus': '0', [limit]: '-1' }, now), ['cpuset.cpus=0']);
  assert.deepEqual(order({ 'pids.max': '5' }, {}), ['pids.max=5']);
  const lines = { 'io.max': '8:0 rbps=5 wbps=max riops=max wiops=7\n8:16 rbps=9 wbps=max riops=max wiops=max\n', 'blkio.throttle.read_bps_device': '8:0 5\n8:16 7\n' };
  assert.deepEqual(order({ 'io.max': '8:0 wiops=7', 'blkio.throttle.read_bps_device': '8:16 7' }, lines), []);
  assert.deepEqual(order({ 'io.max': '8:16 rbps=5', 'blkio.throttle.read_bps_device': '8:16 5' }, lines), ['io.max=8:16 rbps=5', 'blkio.throttle.read_bps_device=8:16 5']);
});

test('the old state is what the files held, also where they held nothing', () => {
  const wanted = writes({ 'cpuset.cpus': '0', 'memory.max': '5', 'memory.oom_control': '1', 'gone.max': '1' });
  const before = texts({ 'cpuset.cpus': '\n', 'memory.max': 'max\n', 'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\n' });
  assert.deepEqual(
    undoWrites(wanted, before).map(({ file, value }) => [file, value]),
    [
      ['/g/cpuset.cpus', '\n'],
      ['/g/memory.max', 'max'],
      ['/g/memory.oom_control', '0'],
    ],
  );
  const devices = [
    { file: '/g/io.max', value: '8:0 rbps=5', origin: '/r' },
    { file: '/g/io.max', value: '8:16 wbps=5', origin: '/r' },
  ];
  assert.deepEqual(
    undoWrites(devices, texts({ 'io.max': '8:0 rbps=9 wbps=max riops=max wiops=max\n' })).map(({ value }) => value),
    ['8:0 rbps=9 wbps=max riops=max wiops=max', '8:16 rbps=max wbps=max riops=max wiops=max'],
  );
});

test('a limit below what is in use is refused, page cache aside', () => {
  const files = { usage: '/g/memory.current', stat: '/g/memory.stat', inactiveField: 'inactive_file' };
  const now = (inactive: number): ReadonlyMap<string, string> =>
    texts({ 'memory.max': 'max', 'memory.current': '1000\n', 'memory.stat': `anon 1\ninactive_file ${inactive}\nx 9\n` });
  assert.throws(() => checkMemoryInUse(writes({ 'memory.max': '900' }), now(50), files), {
    code: 'failedPrecondition',
    message: 'memory limit of 900 bytes: 950 bytes are in use',
  });
  checkMemoryInUse(writes({ 'memory.max': '900' }), now(200), files);
  checkMemoryInUse(writes({ 'memory.max': 'max' }), now(0), files);
  checkMemoryInUse(writes({ 'cpu.weight': '1' }), now(0), files);
  // Raising the limit of a group that is over it is no harm.
  checkMemoryInUse(writes({ 'memory.max': '900' }), new Map([...now(0), ['/g/memory.max', '800']]), files);
});

test('both sides of a bound are read, and the memory in use', () => {
  const memory = { usage: '/g/u', stat: '/g/s', inactiveField: 'x' };
  assert.deepEqual(filesToRead(writes({ [limit]: '5', 'pids.max': '1' }), memory), [`/g/${limit}`, '/g/pids.max', `/g/${both}`, '/g/u', '/g/s']);
});

test('without the capability a score is not lowered below that of this process', () => {
  assert.equal(oomScoreWrite(7, -500, v2Host).value, '-500');
  assert.deepEqual(oomScoreWrite(7, -500, hybridHost), { file: '/proc/7/oom_score_adj', value: '0', origin: '/process/oomScoreAdj' });
});

test('who is missing in a group is brought there, and who has ended is passed over', () => {
  const members = { of: '/d/cgroup.procs', in: ['/c/cgroup.procs', '/m/cgroup.procs'] };
  const now = new Map([
    ['/d/cgroup.procs', '4\n5\n'],
    ['/c/cgroup.procs', '5\n'],
    ['/m/cgroup.procs', '4\n5\n'],
  ]);
  const steps = joinSteps(members, now);
  assert.deepEqual(
    steps.map((step) => [describeStep(step), step.ignore]),
    [['write "4" to /c/cgroup.procs', [3]]],
  );
});

test('a group that is idle takes no weight', () => {
  assert.deepEqual(order({ 'cpu.weight': '174', 'cpu.idle': '0' }, { 'cpu.weight': '0', 'cpu.idle': '1' }), ['cpu.idle=0', 'cpu.weight=174']);
  assert.deepEqual(order({ 'cpu.idle': '1', 'cpu.shares': '3' }, { 'cpu.shares': '512', 'cpu.idle': '0' }), ['cpu.shares=3', 'cpu.idle=1']);
  assert.deepEqual(
    undoWrites(writes({ 'cpu.idle': '0', 'cpu.weight': '174' }), texts({ 'cpu.idle': '1\n', 'cpu.weight': '0\n' })).map(({ file, value }) => `${file}=${value}`),
    ['/g/cpu.idle=1'],
  );
});

test('a device without a line had no limit', () => {
  const undo = (file: string, values: readonly string[], before: string): readonly string[] =>
    undoWrites(
      values.map((value) => ({ file: `/g/${file}`, value, origin: '/r' })),
      texts({ [file]: before }),
    ).map(({ value }) => value);
  assert.deepEqual(undo('io.max', ['8:0 rbps=5', '8:0 wbps=5'], ''), ['8:0 rbps=max wbps=max riops=max wiops=max']);
  assert.deepEqual(undo('io.weight', ['200', '8:0 300', '8:16 1'], 'default 100\n8:16 5\n'), ['default 100', '8:16 5', '8:0 default']);
  assert.deepEqual(undo('blkio.throttle.read_bps_device', ['8:0 5'], '8:16 7\n'), ['8:16 7', '8:0 0']);
  assert.deepEqual(undo('blkio.bfq.weight', ['200'], '100\n'), ['100']);
  assert.deepEqual(undo('blkio.bfq.weight_device', ['8:0 200'], ''), ['8:0 default']);
  assert.deepEqual(undo('rdma.max', ['mlx5_0 hca_handle=2'], ''), ['mlx5_0 hca_handle=max hca_object=max']);
});

test('a file that a kernel may lack is passed over where it is missing', () => {
  const optional: readonly ControlWrite[] = [{ file: '/g/hugetlb.2MB.rsvd.max', value: '0', origin: '/r', optional: true }];
  assert.deepEqual(orderWrites(optional, texts({})), []);
  assert.equal(orderWrites(optional, texts({ 'hugetlb.2MB.rsvd.max': 'max\n' })).length, 1);
});
