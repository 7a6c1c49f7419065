/** Pods on the real plugins of containernetworking-plugins, Debian's and the newest: what they get, what is left, what the kubelet sees. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { readFacts } from '../facts.ts';
import { busybox } from './berth-host.ts';
import { CniHost, debianPlugins, method, newestPlugins, passOn, pinOf, pins, shell, skipWithout, until } from './cni-host.ts';

const sets = [
  { name: "Debian's plugins", plugins: debianPlugins, cniVersion: '1.0.0', skip: skipWithout(debianPlugins), build: false },
  // For STATUS and GC, which came with 1.1.0. Built from the Go module.
  { name: 'the newest plugins', plugins: newestPlugins, cniVersion: '1.1.0', skip: readFacts()['no-go'] ? 'Go is not installed' : false, build: true },
];

for (const { name, plugins, cniVersion, skip, build } of sets) {
  describe(name, { skip }, () => {
    let host: CniHost;
    const rules = (): string => shell('iptables-save 2>/dev/null; ip6tables-save 2>/dev/null; nft list ruleset 2>/dev/null');
    const ipam = (): string[] => readdirSync(`${host.directory}/state/ipam`, { recursive: true, encoding: 'utf8' }).filter((file) => /\/(10\.|fd)/.test(file));
    /** Both families, as most clusters have them. */
    const hostLocal = (third: number): Record<string, unknown> => ({
      type: 'host-local',
      dataDir: `${host.directory}/state/ipam`,
      ranges: [[{ subnet: `10.77.${third}.0/24` }], [{ subnet: `fd77:${third}::/64` }]],
      routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
    });
    const bridge = (third: number): Record<string, unknown> => ({ type: 'bridge', bridge: 'cnitest0', isGateway: true, ipMasq: true, hairpinMode: true, ipam: hostLocal(third) });

    const tables = (): string[] => shell('nft list tables').trim().split('\n');
    let tablesBefore: readonly string[] = [];

    before(async () => {
      tablesBefore = tables();
      if (build) await promisify(execFile)(new URL('../../scripts/build-go-tools.sh', import.meta.url).pathname, ['cni'], { timeout: 280_000 });
      host = await CniHost.open({ plugins });
    });
    after(async () => {
      await host[Symbol.asyncDispose]();
      // Plugins keep the chains that all pods share, by design.
      for (const table of tables().filter((line) => !tablesBefore.includes(line))) shell(`nft delete ${table}`);
    });

    test('bridge, portmap, bandwidth, firewall and tuning give a pod both families, a port, a rate and parameters, and nothing is left', async () => {
      host.configure({
        cniVersion,
        name: 'full',
        plugins: [
          bridge(1),
          { type: 'portmap', capabilities: { portMappings: true }, snat: true },
          { type: 'bandwidth', capabilities: { bandwidth: true } },
          { type: 'firewall' },
          { type: 'tuning', dataDir: `${host.directory}/state/tuning`, sysctl: { 'net.ipv4.conf.IFNAME.arp_filter': '1' } },
        ],
      });
      await host.ready();
      const { podSandboxId, containerId } = await host.cri.startContainer(`while :; do ${busybox} nc -l -p 80 -e ${busybox} echo hello; done`, {
        pod: { portMappings: [{ containerPort: 80, hostPort: 18080 }], annotations: { 'kubernetes.io/ingress-bandwidth': '100M', 'kubernetes.io/egress-bandwidth': '50M' } },
      });
      const [ip, ip6] = await host.addresses(podSandboxId);
      assert.match(ip ?? '', /^10\.77\.1\.\d+$/);
      assert.match(ip6 ?? '', /^fd77:1::/);
      assert.match(
        await host.exec(containerId, `${busybox} ip addr show dev eth0; ${busybox} ip addr show dev lo`),
        new RegExp(`inet ${ip}/24[^]*inet6 ${ip6}/64[^]*127\\.0\\.0\\.1/8`),
      );
      assert.equal((await host.exec(containerId, `${busybox} cat /proc/sys/net/ipv4/conf/eth0/arp_filter`)).trim(), '1');
      await until('the port is served', () => shell(`${busybox} nc -w 5 10.77.1.1 18080 </dev/null || true`).includes('hello'));
      assert.match(shell('tc qdisc show'), /tbf[^\n]*rate (100|50)Mbit/);
      const { info } = await host.podStatus(podSandboxId);
      assert.match(info['info'] ?? '', /"cniResult"/);
      assert.deepEqual(pins(), [pinOf(podSandboxId)]);
      await host.cri.call(method.stopPodSandbox, { podSandboxId });
      assert.deepEqual([pins(), existsSync(pinOf(podSandboxId))], [[], false]);
      assert.deepEqual(ipam(), []);
      assert.doesNotMatch(rules(), /18080|10\.77\.1\./);
      assert.doesNotMatch(shell('ip -o link'), /veth|bwp|ifb/);
      await host.cri.call(method.removePodSandbox, { podSandboxId });
      shell('ip link del cnitest0');
    });

    test('ptp gives each of several pods at once its own addresses, and they reach each other and the host', async () => {
      host.configure({ cniVersion, name: 'routed', plugins: [{ type: 'ptp', ipMasq: false, ipam: hostLocal(2) }] });
      await host.ready();
      const pods = await Promise.all([1, 2, 3].map(async () => host.cri.startContainer(`while :; do ${busybox} nc -l -p 80 -e ${busybox} echo hello; done`)));
      const addresses = await Promise.all(pods.map(async ({ podSandboxId }) => host.addresses(podSandboxId)));
      assert.equal(new Set(addresses.flat()).size, 6);
      shell('sysctl -qw net.ipv4.ip_forward=1');
      await until('a pod reaches another', async () =>
        (await host.exec(pods[0]?.containerId ?? '', `${busybox} nc -w 5 ${addresses[1]?.[0]} 80 </dev/null || true`)).includes('hello'),
      );
      await until('the host reaches a pod', () => shell(`${busybox} nc -w 5 ${addresses[2]?.[0]} 80 </dev/null || true`).includes('hello'));
      await Promise.all(pods.map(async ({ podSandboxId }) => host.cri.call(method.removePodSandbox, { podSandboxId })));
      assert.deepEqual([ipam(), pins()], [[], []]);
    });

    test("a pool without addresses left refuses the pod in the plugin's words, and the next pod gets what a removed one had", async () => {
      const range = { subnet: '10.77.3.0/24', rangeStart: '10.77.3.9', rangeEnd: '10.77.3.9' };
      host.configure({ cniVersion, name: 'narrow', plugins: [{ type: 'ptp', ipam: { type: 'host-local', dataDir: `${host.directory}/state/ipam`, ranges: [[range]] } }] });
      await host.ready();
      const run = async (): Promise<string> => (await host.cri.call(method.runPodSandbox, { config: host.cri.podConfig() })).podSandboxId;
      const podSandboxId = await run();
      await assert.rejects(run(), /CNI plugin ptp: ADD: failed to allocate for range 0: no IP addresses available in range set: 10\.77\.3\.9-10\.77\.3\.9/);
      await host.cri.call(method.stopPodSandbox, { podSandboxId });
      const next = await run();
      assert.deepEqual(await host.addresses(next), ['10.77.3.9']);
      for (const id of [podSandboxId, next]) await host.cri.call(method.removePodSandbox, { podSandboxId: id });
      assert.deepEqual([ipam(), pins()], [[], []]);
    });

    test('what a daemon that was killed in the midst of ADD had made by then is undone by the next one, and the pods that live keep theirs', async () => {
      host.script('hangs', passOn);
      host.configure({ cniVersion, name: 'leaky', plugins: [bridge(4), { type: 'portmap', capabilities: { portMappings: true } }, { type: 'hangs' }] });
      await host.ready();
      const { podSandboxId } = await host.cri.startContainer('sleep 100000');
      const [address] = await host.addresses(podSandboxId);
      host.script('hangs', `[ $CNI_COMMAND != ADD ] || { : > ${host.directory}/hangs; sleep 100000; }`);
      const lost = host.cri.call(method.runPodSandbox, { config: host.cri.podConfig({ portMappings: [{ containerPort: 80, hostPort: 18081 }] }) }).catch((error: unknown) => error);
      await until('the last plugin hangs', () => existsSync(`${host.directory}/hangs`));
      assert.deepEqual([ipam().filter((file) => file.includes('10.')).length, pins().length], [2, 2]);
      assert.match(rules(), /18081/);
      // The daemon's new self asks the newest plugins for GC too, which they answer since 1.1.0.
      await host.cri.restart('SIGKILL');
      await lost;
      await until('the half attachment is gone', () => pins().length === 1 && ipam().filter((file) => file.includes('10.')).length === 1);
      assert.doesNotMatch(rules(), /18081/);
      assert.ok(ipam().includes(`leaky/${address}`));
      await host.cri.call(method.removePodSandbox, { podSandboxId });
      assert.deepEqual([ipam(), pins()], [[], []]);
      shell('ip link del cnitest0');
    });
  });
}
