/** Which groups and interfaces are looked at for a pod, over a reader that answers from memory. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerId, podSandboxId } from '#core';
import type { SandboxRecord, UsageRequest } from '#pod';
import type { GroupReader, HostFacts, LinkCounters } from '#system';
import { readUsage } from './usage.ts';

const [one, two] = [containerId('1'.repeat(64)), containerId('2'.repeat(64))];
const record: SandboxRecord = {
  podId: podSandboxId('d'.repeat(64)),
  cgroupPath: '/kubepods/pod1',
  secret: '',
  podDir: '/run/pod1',
  hostNetwork: false,
  foreground: false,
  shimPid: 1,
};
const cgroups: HostFacts['cgroups'] = {
  mode: 'v2',
  v1: [],
  unified: { mountpoint: '/sys/fs/cgroup', controllers: [], canKill: true },
  cpusetCpus: '',
  cpusetMems: '',
  swapLimit: true,
  hugepageSizes: [],
};
const counters = (name: string): LinkCounters => ({ name, rxBytes: 1n, rxPackets: 2n, rxErrors: 3n, rxDropped: 4n, txBytes: 5n, txPackets: 6n, txErrors: 7n, txDropped: 8n });

/** What was asked, and the answers: `host` are the links of each look at the host in turn, `inside` those that a process sees. */
function setUp({
  host = [],
  inside = {},
  memory,
}: {
  readonly host?: readonly (readonly string[])[];
  readonly inside?: Readonly<Record<number, readonly string[]>>;
  readonly memory?: { readonly usageBytes: bigint; readonly workingSetBytes: bigint; readonly limitBytes?: bigint };
} = {}) {
  const asked: string[] = [];
  const looks = [...host];
  const reader: Pick<GroupReader, 'read' | 'memoryLimit' | 'hostLinks' | 'processLinks'> = {
    read: async ({ unified }, options) => {
      asked.push(`${unified} ${JSON.stringify(options)}`);
      return { atNs: 9n, ...(memory === undefined ? {} : { memory }) };
    },
    memoryLimit: async ({ unified }) => {
      asked.push(`limit ${unified}`);
      return 4096n;
    },
    hostLinks: async () => {
      asked.push('host');
      return (looks.shift() ?? []).map(counters);
    },
    processLinks: async (pid, path) => {
      asked.push(`${pid} ${path}`);
      return (inside[pid] ?? []).map(counters);
    },
  };
  const look = async (request: UsageRequest, change: Partial<SandboxRecord> = {}) =>
    readUsage(
      // SAFETY: a look uses nothing of the host but its cgroups, and nothing of the reader but these methods.
      { host: { cgroups } as HostFacts, record: { ...record, ...change }, reader: reader as GroupReader, pidOf: (id) => (id === one ? 11 : 22) },
      request,
    );
  return { asked, look };
}

test('containers are looked at alone where the pod is not asked for', async () => {
  const { asked, look } = setUp();
  assert.deepEqual(await look({ containerIds: [one] }), { containers: { [one]: { atNs: 9n } } });
  assert.deepEqual(asked, [`/sys/fs/cgroup/kubepods/pod1/${one} {"details":false,"processes":true}`]);
});

test("the host's end of the link is counted the other way round", async () => {
  const { asked, look } = setUp({ host: [['lo', 'veth7']] });
  const { pod, network, containers } = await look({ containerIds: [one], pod: { link: { name: 'eth0', hostInterface: 'veth7' } }, details: true });
  assert.deepEqual(pod, { atNs: 9n });
  assert.deepEqual(Object.keys(containers), [one]);
  assert.deepEqual(network, {
    atNs: 9n,
    interfaces: [{ name: 'eth0', rxBytes: 5n, rxPackets: 6n, rxErrors: 7n, rxDropped: 8n, txBytes: 1n, txPackets: 2n, txErrors: 3n, txDropped: 4n }],
  });
  assert.deepEqual(
    asked.toSorted((a, b) => a.localeCompare(b)),
    ['/sys/fs/cgroup/kubepods/pod1 {"details":true,"processes":false}', `/sys/fs/cgroup/kubepods/pod1/${one} {"details":true,"processes":true}`, 'host'],
  );
});

test('a link that a shared look does not have yet is looked for again, then a process is asked', async () => {
  const again = setUp({ host: [['lo'], ['veth7']] });
  assert.equal((await again.look({ containerIds: [], pod: { link: { name: 'eth0', hostInterface: 'veth7' } } })).network?.interfaces[0]?.rxBytes, 5n);
  const inside = setUp({ inside: { 22: ['lo', 'net1', 'eth0'] } });
  const { network } = await inside.look({ containerIds: [one, two], pod: { link: { name: 'eth0', hostInterface: 'veth7' } } });
  assert.deepEqual(
    network?.interfaces.map(({ name, rxBytes }) => [name, rxBytes]),
    [
      ['eth0', 1n],
      ['net1', 1n],
    ],
  );
  assert.deepEqual(
    inside.asked.filter((text) => text === 'host' || /^\d/.test(text)),
    ['host', 'host', '11 /kubepods/pod1', '22 /kubepods/pod1'],
  );
});

test('a pod without a limit of its own has that of the group above, where a kubelet limits it', async () => {
  const memory = { usageBytes: 2n, workingSetBytes: 1n };
  const unlimited = setUp({ memory });
  const { pod, containers } = await unlimited.look({ containerIds: [one], pod: {} });
  assert.deepEqual([pod?.memory, containers[one]?.memory], [{ ...memory, limitBytes: 4096n }, memory]);
  assert.deepEqual(
    unlimited.asked.filter((text) => text.startsWith('limit')),
    ['limit /sys/fs/cgroup/kubepods'],
  );
  const limited = setUp({ memory: { ...memory, limitBytes: 50n } });
  assert.equal((await limited.look({ containerIds: [], pod: {} })).pod?.memory?.limitBytes, 50n);
  assert.equal((await unlimited.look({ containerIds: [], pod: {} }, { cgroupPath: '/pod1' })).pod?.memory?.limitBytes, undefined);
});

test('a pod with the network of the host, or without any process, has none', async () => {
  const { asked, look } = setUp({ inside: { 11: ['eth0'] } });
  assert.equal((await look({ containerIds: [one], pod: {} }, { hostNetwork: true })).network, undefined);
  assert.equal((await look({ containerIds: [], pod: {} })).network, undefined);
  assert.deepEqual(
    asked.filter((text) => !text.startsWith('/sys')),
    [],
  );
});
