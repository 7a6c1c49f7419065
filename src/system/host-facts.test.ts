/** Decoding of the kernel's texts about the host. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeArchitecture, decodeCgroupMounts, decodeKernelRelease, decodeLimits, decodeMountInfo, decodeStatusFields, rlimitInfinity } from './host-facts.ts';

const mountinfo = `22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
30 22 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 22 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 22 0:25 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
34 22 0:28 /part /mnt/part rw - cgroup cgroup rw,memory
35 22 0:29 / /mnt/with\\040space\\134 rw - tmpfs tmp\\011fs rw
broken line
`;

test('reads mounts with their propagation and escapes', () => {
  const mounts = decodeMountInfo(mountinfo);
  assert.equal(mounts.length, 7);
  assert.deepEqual(mounts[0], {
    id: 22,
    parent: 1,
    device: '254:0',
    root: '/',
    mountpoint: '/',
    options: ['rw', 'relatime'],
    optional: ['shared:1', 'master:2'],
    type: 'ext4',
    source: '/dev/vda',
    superOptions: ['rw', 'discard'],
  });
  assert.deepEqual([mounts[6]?.mountpoint, mounts[6]?.source], ['/mnt/with space\\', 'tmp\tfs']);
});

test('finds each cgroup hierarchy once, whole ones only', () => {
  assert.deepEqual(decodeCgroupMounts(decodeMountInfo(mountinfo)), {
    v1: [
      { controllers: ['cpu', 'cpuacct'], mountpoint: '/sys/fs/cgroup/cpu,cpuacct' },
      { controllers: ['name=systemd'], mountpoint: '/sys/fs/cgroup/systemd' },
    ],
    unified: '/sys/fs/cgroup/unified',
  });
});

test('reads limits by their kernel numbers', () => {
  const text =
    'Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \nMax open files            1024                 1048576              files     \nMax realtime timeout      unlimited            unlimited            us        \n';
  assert.deepEqual(decodeLimits(text), {
    0: { soft: rlimitInfinity, hard: rlimitInfinity },
    7: { soft: 1024n, hard: 1048576n },
    15: { soft: rlimitInfinity, hard: rlimitInfinity },
  });
});

test('reads status fields, versions and processors', () => {
  assert.deepEqual(decodeStatusFields('Name:\tnode\nCapPrm:\t000001ffffffffff\n'), { Name: 'node', CapPrm: '000001ffffffffff' });
  assert.deepEqual(decodeKernelRelease('6.1.0-18-amd64'), { release: '6.1.0-18-amd64', major: 6, minor: 1 });
  assert.throws(() => decodeKernelRelease('unknown'), { code: 'internal', message: 'decode kernel release "unknown": no version' });
  assert.deepEqual([decodeArchitecture('x64'), decodeArchitecture('arm64')], ['x86_64', 'arm64']);
  assert.throws(() => decodeArchitecture('ia32'), { code: 'unimplemented', message: 'run on ia32: only x86_64 and arm64 are supported' });
});
