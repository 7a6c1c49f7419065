/** Block devices, packets, remote memory: what lands in which file of which version, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeResources } from '#oci';
import { type HostFacts } from '#system';
import { ioWeightOf } from './block-io.ts';
import { cgroupDriver } from './cgroup.ts';
import { hybridHost, v1Host, v2Host } from './testdata/hosts.ts';

const create = (host: HostFacts, resources: object): readonly string[] =>
  cgroupDriver(host.cgroups)
    .create({ placement: { path: '/c' }, resources: decodeResources(resources, 'linux.resources'), limitDevices: false, path: 'linux.resources', origin: '/linux/resources' })
    .flatMap((step) =>
      step.kind === 'writeFile' && /\/c\/[^/]+$/.test(step.path)
        ? [`${step.path.replace(/.*\/c\//, '')}=${Buffer.from(step.data).toString('utf8')}${step.ignore === undefined ? '' : ' or nothing'}`]
        : [],
    );
const having = (host: HostFacts, more: Partial<HostFacts['cgroups']>): HostFacts => ({ ...host, cgroups: { ...host.cgroups, ...more } });
const v1With = (...controllers: readonly string[]): HostFacts =>
  having(v1Host, { v1: [...v1Host.cgroups.v1, ...controllers.map((name) => ({ controllers: [name], mountpoint: `/sys/fs/cgroup/${name}` }))] });

const blockIO = {
  weight: 500,
  weightDevice: [{ major: 8, minor: 0, weight: 300 }],
  throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 600 }],
  throttleWriteBpsDevice: [{ major: 8, minor: 0, rate: 0 }],
  throttleReadIOPSDevice: [{ major: 8, minor: 16, rate: 18446744073709551615n }],
  throttleWriteIOPSDevice: [{ major: 8, minor: 16, rate: 7 }],
};

test('block devices on v1', () => {
  assert.deepEqual(create(v1Host, { blockIO }), [
    'blkio.bfq.weight=500',
    'blkio.bfq.weight_device=8:0 300',
    'blkio.throttle.read_bps_device=8:0 600',
    'blkio.throttle.write_bps_device=8:0 0',
    'blkio.throttle.read_iops_device=8:16 18446744073709551615',
    'blkio.throttle.write_iops_device=8:16 7',
  ]);
});

test('block devices on v2, with the weights of the kernel itself or of the BFQ scheduler', () => {
  const limits = ['io.max=8:0 rbps=600', 'io.max=8:0 wbps=max', 'io.max=8:16 riops=18446744073709551615', 'io.max=8:16 wiops=7'];
  assert.deepEqual(create(v2Host, { blockIO }), ['io.weight=4950', 'io.weight=8:0 2930', ...limits]);
  const bfq = having(v2Host, { controlFiles: new Set(['io.max', 'io.bfq.weight']) });
  assert.deepEqual(create(bfq, { blockIO }), ['io.bfq.weight=500', 'io.bfq.weight=8:0 300', ...limits]);
  assert.deepEqual([10, 11, 500, 1000].map(ioWeightOf), [1, 11, 4950, 10_000]);
});

test('nothing that is 0 is written', () => {
  const nothing = { weight: 0, leafWeight: 0, weightDevice: [{ major: 8, minor: 0, weight: 0, leafWeight: 0 }] };
  for (const host of [v1Host, v2Host]) assert.deepEqual(create(host, { blockIO: nothing, network: { classID: 0, priorities: [] }, rdma: {} }), []);
});

test('packets on v1, remote memory on both', () => {
  const rdma = { mlx5_0: { hcaHandles: 2, hcaObjects: 2000 }, rxe3: { hcaObjects: 1 } };
  const network = { classID: 0x100001, priorities: [{ name: 'lo', priority: 5 }] };
  const lines = ['rdma.max=mlx5_0 hca_handle=2 hca_object=2000', 'rdma.max=rxe3 hca_object=1'];
  assert.deepEqual(create(v1With('net_cls', 'net_prio', 'rdma'), { network, rdma }), ['net_cls.classid=1048577', 'net_prio.ifpriomap=lo 5', ...lines]);
  assert.ok(v2Host.cgroups.unified !== undefined);
  assert.deepEqual(create(having(v2Host, { unified: { ...v2Host.cgroups.unified, controllers: ['io', 'rdma'] } }), { rdma }), lines);
});

test('values that mean nothing, or what the kernel does anyway, are passed over', () => {
  const unset = { swappiness: 18446744073709551615n, kernel: 100, kernelTCP: 100 };
  assert.deepEqual(create(v2Host, { memory: unset }), []);
  assert.deepEqual(create(hybridHost, { memory: unset }), ['memory.kmem.tcp.limit_in_bytes=100 or nothing']);
  assert.deepEqual(create(having(v2Host, { swapLimit: false }), { memory: { limit: 100, swap: 100 } }), ['memory.max=100']);
  assert.deepEqual(create(hybridHost, { memory: { limit: -1 } }), ['memory.limit_in_bytes=-1', 'memory.memsw.limit_in_bytes=-1']);
  assert.deepEqual(create(v2Host, { memory: { limit: -1 } }), ['memory.max=max', 'memory.swap.max=max']);
  assert.deepEqual(create(v2Host, { pids: { limit: 0 } }), ['pids.max=1']);
  assert.deepEqual(create(v2Host, { cpu: { burst: 0, idle: 0 } }), ['cpu.idle=0', 'cpu.max.burst=0']);
});

const known = new Set(['cpu.shares', 'blkio.throttle.read_bps_device', 'memory.limit_in_bytes']);
const refusals: readonly (readonly [host: HostFacts, resources: object, code: string, message: string])[] = [
  [v2Host, { blockIO: { weight: 9 } }, 'invalidArgument', 'linux.resources.blockIO.weight: 9 is outside 10 to 1000'],
  [v1Host, { blockIO: { leafWeight: 10 } }, 'failedPrecondition', 'linux.resources.blockIO.leafWeight: weights of leaves are gone from Linux'],
  [
    v1Host,
    { blockIO: { weightDevice: [{ major: 1, minor: 2, leafWeight: 10 }] } },
    'failedPrecondition',
    'linux.resources.blockIO.weightDevice[0].leafWeight: weights of leaves are gone from Linux',
  ],
  [having(v1Host, { controlFiles: known }), { blockIO: { weight: 10 } }, 'failedPrecondition', 'linux.resources.blockIO.weight: this kernel has no blkio.bfq.weight'],
  [having(v1Host, { controlFiles: known }), { cpu: { realtimeRuntime: 10 } }, 'failedPrecondition', 'linux.resources.cpu.realtimeRuntime: this kernel has no cpu.rt_runtime_us'],
  [having(v2Host, { controlFiles: new Set(['io.max']) }), { blockIO: { weight: 10 } }, 'failedPrecondition', 'linux.resources.blockIO.weight: this kernel has no io.weight'],
  [v2Host, { network: { classID: 1 } }, 'failedPrecondition', 'linux.resources.network.classID: does not exist on cgroup v2'],
  [v2Host, { network: { priorities: [{ name: 'lo', priority: 0 }] } }, 'failedPrecondition', 'linux.resources.network.priorities[0]: does not exist on cgroup v2'],
  [v1Host, { network: { classID: 1 } }, 'failedPrecondition', 'linux.resources.network.classID: this host has no net_cls controller'],
  [v1Host, { rdma: { mlx5_0: { hcaHandles: 1 } } }, 'failedPrecondition', 'linux.resources.rdma["mlx5_0"]: this host has no rdma controller'],
  [v2Host, { memory: { reservation: -2 } }, 'invalidArgument', 'linux.resources.memory.reservation: -2 is neither a number of bytes nor -1, which is unlimited'],
  [hybridHost, { memory: { limit: 100, swap: 50 } }, 'invalidArgument', 'linux.resources.memory.swap: 50 is below memory.limit 100; it is memory plus swap'],
];
for (const [host, resources, code, message] of refusals)
  test(`refuses on ${host.cgroups.mode} with ${message}`, () => assert.throws(() => create(host, resources), { code, message }));

for (const [resources, message] of [
  [{ blockIO: { weight: 65536 } }, 'r.blockIO.weight: 65536 is outside 0 to 65535'],
  [{ blockIO: { weightDevice: [{ major: 8, minor: 0 }] } }, 'r.blockIO.weightDevice[0]: needs a weight or a leafWeight'],
  [{ blockIO: { throttleReadBpsDevice: [{ major: 8, minor: 0 }] } }, 'r.blockIO.throttleReadBpsDevice[0].rate: required'],
  [{ blockIO: { throttleReadBpsDevice: [{ major: -1, minor: 0, rate: 1 }] } }, 'r.blockIO.throttleReadBpsDevice[0].major: -1 is outside 0 to 4294967295'],
  [{ blockIO: [] }, 'r.blockIO: must be an object, not array'],
  [{ network: { classID: -1 } }, 'r.network.classID: -1 is outside 0 to 4294967295'],
  [{ network: { priorities: [{ name: 'a b', priority: 1 }] } }, 'r.network.priorities[0].name: no interface is named "a b"'],
  [{ network: { priorities: [{ name: 'x'.repeat(16), priority: 1 }] } }, `r.network.priorities[0].name: no interface is named "${'x'.repeat(16)}"`],
  [{ unified: Object.fromEntries(Array.from({ length: 1025 }, (_none, index) => [`memory.${index}`, '1'])) }, 'r.unified: 1025 entries, at most 1024'],
  [{ rdma: { mlx: {} } }, 'r.rdma.mlx: needs hcaHandles or hcaObjects'],
  [{ rdma: { 'a b': { hcaHandles: 1 } } }, 'r.rdma: no device is named "a b"'],
  [{ rdma: { mlx: { hcaHandles: 1.5 } } }, 'r.rdma.mlx.hcaHandles: must be an integer, not 1.5'],
] as const)
  test(`refuses to read ${JSON.stringify(resources).slice(0, 80)}`, () => assert.throws(() => decodeResources(resources, 'r'), { code: 'invalidArgument', message }));
