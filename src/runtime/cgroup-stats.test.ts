/** Where statistics are on the three kinds of hosts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { statsGroups } from './cgroup-stats.ts';
import { hybridHost, v1Host, v2Host } from './testdata/hosts.ts';

const placement = { path: '/kubepods/pod1/c' };

test('cgroup v2 has one directory', () => {
  assert.deepEqual(statsGroups(v2Host.cgroups, placement), { unified: '/sys/fs/cgroup/kubepods/pod1/c', v1: {} });
});

test('beside v1 hierarchies there are several', () => {
  const v1 = Object.fromEntries(['cpu', 'cpuacct', 'memory', 'blkio', 'pids', 'devices'].map((name) => [name, `/sys/fs/cgroup/${name}/kubepods/pod1/c`]));
  assert.deepEqual(statsGroups(hybridHost.cgroups, placement), { unified: '/sys/fs/cgroup/unified/kubepods/pod1/c', v1 });
  assert.deepEqual(statsGroups(v1Host.cgroups, placement), { v1 });
});

test('a path that leaves the root is refused', () => {
  assert.throws(() => statsGroups(v2Host.cgroups, { path: '/a/../../etc' }), { code: 'invalidArgument', message: /linux\.cgroupsPath: must be an absolute path without "\.\."/ });
});
