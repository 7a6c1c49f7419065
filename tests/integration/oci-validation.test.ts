/**
 * Those validation programs of the OCI runtime specification that depend on the kernel, on the one of the test guest: pure cgroup v2. In: what scripts/build-go-tools.sh oci brought
 * before the guest's disk was made; without that this suite is left out. On the host all of them run in ociconformance.test.ts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compareVerdicts, readExpectedVerdicts } from '../conformance-oci/expected.ts';
import { openRuntime, runProgram } from '../conformance-oci/runtimes.ts';
import { readFacts } from '../facts.ts';

const facts = readFacts();
const skip = facts.host ? 'all programs run here in another suite' : false;
const programs = [
  'default',
  'delete',
  'hooks_stdin',
  'linux_devices',
  'linux_masked_paths',
  'linux_mount_label',
  'linux_ns_path',
  'linux_rootfs_propagation',
  'linux_seccomp',
  'linux_sysctl',
  'linux_uid_mappings',
  'mounts',
  'poststart',
  'process_oom_score_adj',
  'state',
];

test('programs on devices, mounts, namespaces, hooks, seccomp and the life of a container say what is expected on an older kernel', { skip }, async () => {
  const runtime = openRuntime('berth');
  assert.ok(runtime !== undefined, 'dist/berth-oci is not there');
  const expected = readExpectedVerdicts();
  const differences: string[] = [];
  for (const program of programs) {
    const berth = await runProgram({ program, runtime, timeoutMs: 400_000 });
    differences.push(
      ...compareVerdicts({ program, berth, peers: new Map() }, expected, {
        always: true,
        'cgroup-v1': !facts['cgroup-v2'],
        'cgroup-v2': facts['cgroup-v2'],
        'no-sys-resource': facts['no-sys-resource'],
      }),
    );
  }
  assert.deepEqual(differences, []);
});
