/** Changes of the network's setting, the template of a configuration, and pods that belong to one command. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, test } from 'node:test';
import { BerthHost, busybox, image } from './berth-host.ts';
import { CniHost, debianPlugins, method, pins, shell, skipWithout, until } from './cni-host.ts';

const skip = skipWithout(debianPlugins);
const template = `{
  "cniVersion": "1.0.0", "name": "made",
  "plugins": [{ "type": "ptp", "ipam": {
    "type": "host-local", "dataDir": "STATE/ipam",
    "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
    "routes": [{{- range $i, $route := .Routes -}} {{if $i}}, {{end}}{"dst": "{{$route}}"} {{- end -}}]
  }}]
}`;

afterEach(() => {
  for (const name of ['BERTH_NETWORK_MODE', 'BERTH_CNI_CONFIG_DIR', 'BERTH_CNI_BIN_DIRS', 'BERTH_CNI_TEMPLATE']) delete process.env[name];
});

const range = async (host: CniHost, podCidr: string): Promise<void> => void (await host.cri.call(method.updateRuntimeConfig, { runtimeConfig: { networkConfig: { podCidr } } }));
const run = async (host: CniHost): Promise<string> => (await host.cri.call(method.runPodSandbox, { config: host.cri.podConfig() })).podSandboxId;

test('a template becomes the configuration once the ranges of the node are told, again when they change, and never against another file', { skip }, async () => {
  await using host = await CniHost.open({ plugins: debianPlugins, template: (directory) => template.replace('STATE', directory) });
  await host.notReady(/^no CNI configuration/);
  await range(host, '10.78.1.0/24,fd78::/64');
  await host.ready();
  const first = await run(host);
  const [ip, ip6] = await host.addresses(first);
  assert.match(`${ip} ${ip6}`, /^10\.78\.1\.\d+ fd78::/);
  await range(host, '10.78.2.0/24');
  const second = await run(host);
  assert.match((await host.addresses(second)).join(' '), /^10\.78\.2\.\d+$/);
  for (const podSandboxId of [first, second]) await host.cri.call(method.removePodSandbox, { podSandboxId });

  writeFileSync(`${host.directory}/template`, '{"name": "{{template}}"}');
  await assert.rejects(range(host, '10.78.3.0/24'), /INVALID_ARGUMENT: make a CNI configuration of .*\/template: template: \{\{template\}\} is not understood/);
  writeFileSync(`${host.configDir}/00-other.conflist`, JSON.stringify({ cniVersion: '1.0.0', name: 'other', plugins: [{ type: 'ptp' }] }));
  const before = readFileSync(`${host.configDir}/10-berth.conflist`, 'utf8');
  await range(host, '10.78.4.0/24');
  assert.equal(readFileSync(`${host.configDir}/10-berth.conflist`, 'utf8'), before);
});

test('pods of the built-in bridge and of plugins are detached by whoever attached them when the setting has changed meanwhile', { skip }, async () => {
  await using host = await CniHost.open({ plugins: debianPlugins });
  host.configure({
    cniVersion: '1.0.0',
    name: 'kept',
    plugins: [{ type: 'ptp', ipam: { type: 'host-local', dataDir: `${host.directory}/state/ipam`, subnet: '10.79.0.0/24' } }],
  });
  await host.ready();
  const byPlugins = await run(host);
  process.env['BERTH_NETWORK_MODE'] = 'bridge';
  await host.cri.restart('SIGTERM');
  const byBridge = await run(host);
  assert.match(shell('ip -o link'), /berth/);
  process.env['BERTH_NETWORK_MODE'] = 'none';
  await host.cri.restart('SIGTERM');
  const { podSandboxId: alone, containerId } = await host.cri.startContainer('sleep 100000');
  assert.deepEqual(await host.addresses(alone), ['']);
  assert.match(await host.exec(containerId, `${busybox} ip -o addr`), /^1: lo +inet 127\.0\.0\.1\/8/);
  assert.doesNotMatch(await host.exec(containerId, `${busybox} ip -o link`), /eth0/);
  assert.match((await host.addresses(byPlugins))[0] ?? '', /^10\.79\.0\./);
  for (const podSandboxId of [byPlugins, byBridge, alone]) await host.cri.call(method.removePodSandbox, { podSandboxId });
  assert.deepEqual(pins(), []);
  assert.equal(existsSync(`${host.directory}/state/ipam/kept/10.79.0.2`), false);
});

test('a pod of one command is detached at its end, and after a kill by the next command', { skip }, async () => {
  await using host = await CniHost.open({ plugins: debianPlugins });
  host.configure({
    cniVersion: '1.0.0',
    name: 'brief',
    plugins: [{ type: 'ptp', ipam: { type: 'host-local', dataDir: `${host.directory}/state/ipam`, subnet: '10.80.0.0/24' } }],
  });
  const berth = await BerthHost.open();
  try {
    const done = await berth.shell(`${busybox} ip -o addr show dev eth0`);
    assert.match(`${done.stdout}${done.stderr}`, /inet 10\.80\.0\.2\/24/);
    assert.equal(existsSync(`${host.directory}/state/ipam/brief/10.80.0.2`), false);
    const killed = berth.start(['run', '--rm', image, busybox, 'sh', '-c', 'echo here; sleep 100000']);
    await killed.untilOutput('here');
    assert.equal(pins().length, 1);
    killed.child.kill('SIGKILL');
    await killed.finished;
    await until('the shim has taken the pin away', () => pins().length === 0);
    assert.equal(existsSync(`${host.directory}/state/ipam/brief/10.80.0.3`), true);
    await berth.ok(['pods']);
    assert.equal(existsSync(`${host.directory}/state/ipam/brief/10.80.0.3`), false);
  } finally {
    // Its own disposal would take the daemon of this test for something left behind.
    rmSync(berth.directory, { recursive: true, force: true });
  }
});

test('doctor tells which network pods would get, or why they would get none', { skip }, async () => {
  await using host = await CniHost.open({ plugins: debianPlugins });
  const told = async (): Promise<string> => (await host.cri.host.berth(['doctor'])).stdout.replaceAll(/ +/g, ' ');
  assert.match(await told(), new RegExp(`limited network no CNI configuration \\(\\.conflist, \\.conf or \\.json\\) in ${host.configDir}\n see docs/networks\\.md`));
  host.configure({ cniVersion: '1.0.0', name: 'shown', plugins: [{ type: 'ptp' }, { type: 'portmap' }] });
  assert.match(await told(), new RegExp(`ok network CNI 1\\.0\\.0 network shown of ${host.configDir}/10-test\\.conflist: ptp, portmap`));
});
