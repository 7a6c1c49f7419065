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

const scheduled = (scheduler: object): object => ({ ...minimal, process: { ...process, scheduler } });
const inLinux = (linux: object): object => ({ ...minimal, linux });
const features: readonly (readonly [document: object, message: string])[] = [
  [scheduled({}), 'process.scheduler.policy: required'],
  [
    scheduled({ policy: 'SCHED_FAIR' }),
    'process.scheduler.policy: unknown scheduling policy "SCHED_FAIR" (SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_ISO, SCHED_IDLE, SCHED_DEADLINE)',
  ],
  [scheduled({ policy: 'SCHED_OTHER', nice: -21 }), 'process.scheduler.nice: -21 is outside -20 to 19'],
  [scheduled({ policy: 'SCHED_OTHER', priority: 1 }), 'process.scheduler.priority: only with SCHED_FIFO or SCHED_RR, not with SCHED_OTHER'],
  [scheduled({ policy: 'SCHED_FIFO' }), 'process.scheduler.priority: 0 is outside 1 to 99'],
  [scheduled({ policy: 'SCHED_BATCH', deadline: 1 }), 'process.scheduler.deadline: only with SCHED_DEADLINE, not with SCHED_BATCH'],
  [scheduled({ policy: 'SCHED_DEADLINE', runtime: -1 }), 'process.scheduler.runtime: -1 is outside 0 to 18446744073709551615'],
  [
    { ...minimal, process: { ...process, ioPriority: { class: 'IOPRIO_CLASS_NONE' } } },
    'process.ioPriority.class: unknown I/O priority class "IOPRIO_CLASS_NONE" (IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE)',
  ],
  [{ ...minimal, process: { ...process, ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 8 } } }, 'process.ioPriority.priority: 8 is outside 0 to 7'],
  [{ ...minimal, process: { ...process, execCPUAffinity: { initial: '0,x' } } }, 'process.execCPUAffinity.initial: must be a list such as "0-3,7", not "0,x"'],
  [{ ...minimal, process: { ...process, execCPUAffinity: { final: '3-1' } } }, 'process.execCPUAffinity.final: the range 3-1 ends before it begins'],
  [{ ...minimal, process: { ...process, execCPUAffinity: { final: '65536' } } }, 'process.execCPUAffinity.final: 65536 is above 65535'],
  [inLinux({ timeOffsets: { realtime: { secs: 1 } } }), 'linux.timeOffsets.realtime: unknown clock "realtime" (monotonic, boottime)'],
  [inLinux({ timeOffsets: { boottime: { nanosecs: 1_000_000_000 } } }), 'linux.timeOffsets.boottime.nanosecs: 1000000000 is outside 0 to 999999999'],
  [inLinux({ netDevices: { 'a/b': {} } }), 'linux.netDevices["a/b"]: is no name of a network device: "a/b"'],
  [inLinux({ netDevices: { eth0: { name: 'sixteencharacter' } } }), 'linux.netDevices.eth0.name: is no name of a network device: "sixteencharacter"'],
  [inLinux({ netDevices: { a: { name: 'b' }, b: {} } }), 'linux.netDevices.b: would have the name "b" in the container, as linux.netDevices.a has'],
  [inLinux({ memoryPolicy: { mode: 'MPOL_BIND', nodes: '' } }), 'linux.memoryPolicy.nodes: at least one node with MPOL_BIND'],
  [inLinux({ memoryPolicy: { mode: 'MPOL_LOCAL', nodes: '0' } }), 'linux.memoryPolicy.nodes: must be empty with MPOL_LOCAL'],
  [inLinux({ intelRdt: { closID: '../x' } }), 'linux.intelRdt.closID: is no name of a group: "../x"'],
  [inLinux({ intelRdt: { schemata: ['L3:0=f\nMB:0=1'] } }), 'linux.intelRdt.schemata[0]: must be one line'],
  [inLinux({ personality: { domain: 'LINUX', flags: ['X'] } }), 'linux.personality.flags[0]: unknown personality flag "X" (there are none)'],
  [inLinux({ personality: {} }), 'linux.personality.domain: required'],
];

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
  ...features,
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

test('reads what stands for itself, with 64-bit numbers in full', () => {
  const spec = decodeRuntimeSpec({
    ...minimal,
    process: {
      ...process,
      scheduler: { policy: 'SCHED_RR', priority: 7, flags: ['SCHED_FLAG_RESET_ON_FORK'] },
      ioPriority: { class: 'IOPRIO_CLASS_IDLE' },
      execCPUAffinity: { initial: '0-2, 5', final: '' },
    },
    linux: {
      timeOffsets: { boottime: { secs: -5, nanosecs: 1 }, monotonic: null },
      netDevices: { eth0: { name: 'net1' }, eth1: {} },
      memoryPolicy: { mode: 'MPOL_INTERLEAVE', nodes: '0,2-3', flags: ['MPOL_F_STATIC_NODES'] },
      intelRdt: { closID: 'gold', schemata: ['L3:0=f'] },
      personality: { domain: 'LINUX32', flags: [] },
    },
  });
  const { linux } = spec;
  assert.deepEqual(spec.process?.scheduler, { policy: 'SCHED_RR', nice: 0, priority: 7, flags: ['SCHED_FLAG_RESET_ON_FORK'], runtime: 0n, deadline: 0n, period: 0n });
  assert.deepEqual([spec.process.ioPriority, spec.process.execCPUAffinity], [{ class: 'IOPRIO_CLASS_IDLE', priority: 0 }, { initial: [0, 1, 2, 5] }]);
  assert.deepEqual([linux.timeOffsets, linux.personality], [{ boottime: { secs: -5n, nanosecs: 1 } }, { domain: 'LINUX32' }]);
  assert.deepEqual({ ...linux.netDevices }, { eth0: { name: 'net1' }, eth1: {} });
  assert.deepEqual(linux.memoryPolicy, { mode: 'MPOL_INTERLEAVE', nodes: [0, 2, 3], flags: ['MPOL_F_STATIC_NODES'] });
  assert.deepEqual(linux.intelRdt, { closID: 'gold', schemata: ['L3:0=f'], enableMonitoring: false });
  assert.deepEqual([spec.process.unsupported, linux.unsupported], [[], []]);
});
