/** The decoder of config.json: what is accepted, and the words of every refusal. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeRuntimeSpec } from './runtime-spec-decode.ts';

const minimal = { ociVersion: '1.3.0', root: { path: 'rootfs' } };
const process = { args: ['/bin/true'], cwd: '/' };

test('fills what a minimal document leaves out', () => {
  const spec = decodeRuntimeSpec({ ...minimal, process, annotations: { a: 'b' }, vendorField: { x: 1 } });
  assert.deepEqual(spec.process?.user, { uid: 0, gid: 0, additionalGids: [] });
  assert.equal(spec.process.noNewPrivileges, false);
  assert.deepEqual(spec.linux.namespaces, []);
  assert.deepEqual({ ...spec.annotations }, { a: 'b' });
  assert.equal('vendorField' in spec, false);
});

const refusals: readonly (readonly [document: object, message: string])[] = [
  [{ root: { path: 'x' } }, 'ociVersion: required'],
  [{ ...minimal, ociVersion: '2.0.0' }, 'ociVersion: must be a version 1.x.y, not "2.0.0"'],
  [{ ociVersion: '1.3.0' }, 'root: required'],
  [{ ...minimal, root: {} }, 'root.path: required'],
  [
    { ...minimal, linux: { namespaces: [{ type: 'pid' }, { type: 'ipc' }, { type: 'foo' }] } },
    'linux.namespaces[2].type: unknown namespace "foo" (pid, network, mount, ipc, uts, user, cgroup, time)',
  ],
  [{ ...minimal, linux: { namespaces: [{ type: 'pid' }, { type: 'pid' }] } }, 'linux.namespaces[1].type: namespace "pid" is given twice'],
  [{ ...minimal, process: { ...process, args: [] } }, 'process.args: must have at least one item'],
  [{ ...minimal, process: { ...process, cwd: 'tmp' } }, 'process.cwd: must be an absolute path, not "tmp"'],
  [{ ...minimal, process: { ...process, user: { uid: -1 } } }, 'process.user.uid: -1 is outside 0 to 4294967295'],
  [{ ...minimal, process: { ...process, user: { uid: 4294967296 } } }, 'process.user.uid: 4294967296 is outside 0 to 4294967295'],
  [{ ...minimal, process: { ...process, user: { additionalGids: [1, '2'] } } }, 'process.user.additionalGids[1]: must be a number, not string'],
  [{ ...minimal, process: { ...process, env: ['A=1', 'B'] } }, 'process.env[1]: must have the form NAME=value'],
  [{ ...minimal, process: { ...process, terminal: 'yes' } }, 'process.terminal: must be true or false, not string'],
  [{ ...minimal, process: { ...process, capabilities: { bounding: ['chown'] } } }, 'process.capabilities.bounding[0]: unknown capability "chown" (such as CAP_CHOWN)'],
  [{ ...minimal, process: { ...process, rlimits: [{ type: 'RLIMIT_CORE', soft: 2, hard: 1 }] } }, 'process.rlimits[0].soft: 2 is above the hard limit 1'],
  [{ ...minimal, process: { ...process, oomScoreAdj: 1001 } }, 'process.oomScoreAdj: 1001 is outside -1000 to 1000'],
  [{ ...minimal, mounts: [{ destination: 'proc' }] }, 'mounts[0].destination: must be an absolute path, not "proc"'],
  [{ ...minimal, mounts: [{ destination: '/a/../../b' }] }, 'mounts[0].destination: must not contain "..", found "/a/../../b"'],
  [{ ...minimal, mounts: { destination: '/a' } }, 'mounts: must be an array, not object'],
  [{ ...minimal, linux: { devices: [{ type: 'x', path: '/dev/x' }] } }, 'linux.devices[0].type: unknown device type "x" (c, b, u, p)'],
  [{ ...minimal, linux: { devices: [{ type: 'c', path: '/dev/x', major: 1 }] } }, 'linux.devices[0].minor: required'],
  [{ ...minimal, linux: { resources: { cpu: { cpus: '0;1' } } } }, 'linux.resources.cpu.cpus: must be a list such as "0-3,7", not "0;1"'],
  [{ ...minimal, linux: { resources: { memory: { limit: 'much' } } } }, 'linux.resources.memory.limit: must be a number, not string'],
  [{ ...minimal, linux: { resources: { devices: [{ allow: true, access: 'rwx' }] } } }, 'linux.resources.devices[0].access: must be letters of "rwm", not "rwx"'],
  [
    { ...minimal, linux: { rootfsPropagation: 'both' } },
    'linux.rootfsPropagation: unknown propagation "both" (private, rprivate, slave, rslave, shared, rshared, unbindable, runbindable)',
  ],
  [
    {
      ...minimal,
      linux: { seccomp: { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW', args: [{ index: 6, value: 0, op: 'SCMP_CMP_EQ' }] }] } },
    },
    'linux.seccomp.syscalls[0].args[0].index: 6 is outside 0 to 5',
  ],
  [{ ...minimal, linux: { maskedPaths: ['proc/kcore'] } }, 'linux.maskedPaths[0]: must be an absolute path, not "proc/kcore"'],
];

for (const [document, message] of refusals) {
  test(`refuses with ${message}`, () => {
    assert.throws(() => decodeRuntimeSpec(document), { name: 'RuntimeError', code: 'invalidArgument', message });
  });
}

test('reads 64-bit limits as bigint and nulls as absent', () => {
  const spec = decodeRuntimeSpec({
    ...minimal,
    process: { ...process, rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1, hard: 18446744073709551615n }] },
    mounts: null,
    linux: { resources: { memory: { limit: -1, swap: null } } },
  });
  assert.equal(spec.process?.rlimits[0]?.hard, 18446744073709551615n);
  assert.deepEqual(spec.linux.resources?.memory, { limit: -1n });
  assert.deepEqual(spec.mounts, []);
});

test('keeps what nobody implements by name only, so that it can be refused', () => {
  const spec = decodeRuntimeSpec({
    ...minimal,
    hooks: { prestart: [{ path: '/x' }], poststop: [] },
    process: { ...process, ioPriority: { class: 'IOPRIO_CLASS_IDLE' } },
    linux: { intelRdt: {}, timeOffsets: { boottime: {} } },
  });
  assert.deepEqual(
    [spec.hooks, spec.process?.unsupported, spec.linux.unsupported, spec.linux.hasTimeOffsets],
    [{ prestart: [{ path: '/x', args: [], env: [] }] }, ['ioPriority'], ['intelRdt'], true],
  );
});
