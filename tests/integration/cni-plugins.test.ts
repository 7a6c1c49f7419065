/** What plugins are told, and what becomes of a pod when they fail, hang, lie or lose their daemon. The plugins are scripts of this file. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, beforeEach, test } from 'node:test';
import { status } from '@grpc/grpc-js';
import { NamespaceMode } from '#gen/cri-v1_pb.js';
import { CniHost, debianPlugins, isNamespace, method, passOn, pinOf, pins, shell, skipWithout, until } from './cni-host.ts';

const skip = skipWithout(debianPlugins);
let host: CniHost;

/** A plugin that gives the address 10.9.9.9 and passes on what came before. */
const answer = `case $CNI_COMMAND in
  ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"10.9.9.9/24","interface":0}]}' ;;
esac`;
const fail = (message: string, code = 7): string => `echo '{"cniVersion":"1.1.0","code":${code},"msg":"${message}","details":"as told"}'; exit 1`;
const twoPlugins = (more: Record<string, unknown> = {}): Record<string, unknown> => ({
  cniVersion: '1.1.0',
  name: 'scripted',
  plugins: [
    { type: 'first', capabilities: { dns: true, ipRanges: true, 'io.kubernetes.cri.pod-annotations': true, unheardOf: true } },
    { type: 'second', capabilities: { portMappings: true, bandwidth: true, cgroupPath: false } },
  ],
  ...more,
});

before(async () => {
  if (skip === false) host = await CniHost.open({ plugins: debianPlugins });
});
after(async () => {
  if (skip === false) await host[Symbol.asyncDispose]();
});
beforeEach(async () => {
  if (skip !== false) return;
  host.script('first', answer);
  host.script('second', passOn);
  host.configure(twoPlugins());
  await host.ready();
  for (const name of ['first', 'second']) host.forgetCalls(name);
});

const run = async (more: Parameters<CniHost['cri']['podConfig']>[0] = {}): Promise<string> =>
  (await host.cri.call(method.runPodSandbox, { config: host.cri.podConfig(more) })).podSandboxId;
const remove = async (podSandboxId: string): Promise<void> => {
  await host.cri.call(method.removePodSandbox, { podSandboxId });
  assert.equal(existsSync(pinOf(podSandboxId)), false);
};
/** The commands that pods bring about; STATUS and GC have their own times. */
const commands = (name: string): string[] => host.calls(name).flatMap(({ command }) => (/ADD|DEL|CHECK/.test(command) ? [command] : []));

test('plugins get the configuration, the pod, its capabilities and the result before; DEL comes in reverse with the last result', { skip }, async () => {
  const config = host.cri.podConfig({
    dnsConfig: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
    portMappings: [{ containerPort: 80, hostPort: 8080, hostIp: '127.0.0.1' }, { containerPort: 81 }],
    annotations: { 'kubernetes.io/egress-bandwidth': '1.5M', other: 'kept' },
  });
  const { podSandboxId } = await host.cri.call(method.runPodSandbox, { config });
  const [add] = host.calls('first').filter(({ command }) => command === 'ADD');
  const netns = pinOf(podSandboxId);
  const { name, namespace, uid } = config.metadata ?? {};
  assert.equal(
    add?.env,
    `CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_INFRA_CONTAINER_ID=${podSandboxId};K8S_POD_UID=${uid} CNI_COMMAND=ADD CNI_CONTAINERID=${podSandboxId} CNI_IFNAME=eth0 CNI_NETNS=${netns} CNI_PATH=${host.directory}/bin:${debianPlugins} `,
  );
  assert.deepEqual(add?.input, {
    type: 'first',
    name: 'scripted',
    cniVersion: '1.1.0',
    runtimeConfig: {
      dns: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
      'io.kubernetes.cri.pod-annotations': { 'kubernetes.io/egress-bandwidth': '1.5M', other: 'kept' },
    },
  });
  const result = { cniVersion: '1.1.0', interfaces: [{ name: 'eth0', sandbox: netns }], ips: [{ address: '10.9.9.9/24', interface: 0 }] };
  const second = host.calls('second').find(({ command }) => command === 'ADD');
  assert.deepEqual(second?.input['runtimeConfig'], {
    portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '127.0.0.1' }],
    bandwidth: { egressRate: 1_500_000, egressBurst: 4_294_967_295 },
  });
  assert.deepEqual(second?.input['prevResult'], result);
  assert.deepEqual(await host.addresses(podSandboxId), ['10.9.9.9']);

  // Whatever the administrator does now, the pod is detached by what it was attached with.
  host.configure({ cniVersion: '1.0.0', name: 'other', plugins: [{ type: 'first' }] });
  host.script('first', `${answer}\n[ $CNI_COMMAND != DEL ] || cat /proc/self/mounts | grep -c "$CNI_NETNS" >> ${host.directory}/state/order`);
  host.script('second', `[ $CNI_COMMAND != DEL ] || echo second >> ${host.directory}/state/order`);
  await remove(podSandboxId);
  const del = host.calls('first').find(({ command }) => command === 'DEL');
  assert.equal(del?.input['name'], 'scripted');
  assert.deepEqual(del?.input['prevResult'], result);
  assert.deepEqual(del?.input['runtimeConfig'], add?.input['runtimeConfig']);
  assert.equal(readFileSync(`${host.directory}/state/order`, 'utf8'), 'second\n1\n');
  assert.deepEqual(pins(), []);
});

test('without a configuration, or with a broken first one, the network is not ready, says why, and pods are refused; those on the host run', { skip }, async () => {
  host.configure(undefined);
  const none = `no CNI configuration (.conflist, .conf or .json) in ${host.configDir}`;
  await host.notReady(none);
  assert.equal((await host.networkCondition()).reason, 'NetworkPluginNotReady');
  const config = host.cri.podConfig();
  await assert.rejects(host.cri.call(method.runPodSandbox, { config }), (error: { code: number; details: string }) => {
    assert.equal(error.code, status.UNAVAILABLE);
    assert.match(
      error.details,
      new RegExp(`^run pod sandbox default/${config.metadata?.name}: attach pod [0-9a-f]{64}: network is not ready: ${none.replaceAll(/[().]/g, '\\$&')}$`),
    );
    return true;
  });
  await remove(await run({ linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } }));
  writeFileSync(`${host.configDir}/00-broken.conflist`, '{"cniVersion": "9.9.9", "name": "x", "plugins": [{"type": "first"}]}');
  writeFileSync(`${host.configDir}/10-good.conflist`, JSON.stringify(twoPlugins()));
  await host.notReady(`CNI configuration ${host.configDir}/00-broken.conflist: cniVersion: "9.9.9" is none of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0`);
  rmSync(`${host.configDir}/00-broken.conflist`);
  await host.ready();
  host.configure(twoPlugins({ plugins: [{ type: 'absent' }] }));
  await host.notReady(`CNI plugin absent: no such executable in ${host.directory}/bin, ${debianPlugins}`);
  host.configure(twoPlugins({ plugins: [{ type: '../bin/first' }] }));
  await host.notReady(/plugins\[0\]\.type: "\.\.\/bin\/first" does not match/);
  // Debian's plugins end at 1.0.0; a list may offer several versions.
  host.configure(twoPlugins({ plugins: [{ type: 'bridge' }] }));
  await host.notReady(/^CNI plugin bridge: has versions .*1\.0\.0, and not 1\.1\.0$/);
  host.configure(twoPlugins({ cniVersions: ['1.0.0', '0.4.0'], plugins: [{ type: 'bridge' }] }));
  await host.ready();
});

test('what STATUS says is the condition, until it says otherwise', { skip }, async () => {
  host.script('first', `${answer}\n[ $CNI_COMMAND != STATUS ] || [ -e ${host.directory}/state/up ] || { ${fail('the agent is not there', 50)}; }`);
  host.configure(twoPlugins({ name: 'with-status' }));
  await host.notReady('CNI plugin first: STATUS: the agent is not there; as told');
  await assert.rejects(run(), /UNAVAILABLE.*network is not ready: CNI plugin first: STATUS: the agent is not there; as told/);
  writeFileSync(`${host.directory}/state/up`, '');
  await remove(await run());
  await host.ready();
});

for (const { name, body, words } of [
  { name: 'fails', body: `[ $CNI_COMMAND != ADD ] || { ${fail('no address left')}; }`, words: 'CNI plugin second: ADD: no address left; as told' },
  { name: 'prints garbage', body: "[ $CNI_COMMAND != ADD ] || printf 'half a \\033[1mresult'", words: 'CNI plugin second: ADD: printed no result but "half a  [1mresult"' },
  { name: 'prints nothing', body: '', words: 'CNI plugin second: ADD: printed no result' },
  { name: 'is killed', body: '[ $CNI_COMMAND != ADD ] || { echo oh >&2; kill -9 $$; }', words: 'CNI plugin second: ADD: exit code 137: oh' },
  { name: 'gives no address', body: '[ $CNI_COMMAND != ADD ] || echo \'{"cniVersion":"1.1.0"}\'', words: 'the CNI plugins gave eth0 no address' },
  {
    name: 'gives a word as the address',
    body: '[ $CNI_COMMAND != ADD ] || echo \'{"ips":[{"address":"evil\\\\nhosts"}]}\'',
    words: 'ips[0].address: "evil\\nhosts" is no address',
  },
  { name: 'prints without an end', body: '[ $CNI_COMMAND != ADD ] || head -c 3000000 /dev/zero', words: 'CNI plugin second: ADD: printed more than 1048576 bytes' },
]) {
  test(`a plugin that ${name} fails the pod with its words; every plugin gets DEL and nothing is left`, { skip }, async () => {
    host.script('second', body);
    await assert.rejects(run(), (error: { details: string }) => {
      assert.ok(error.details.endsWith(`: ${words}`), error.details);
      return true;
    });
    assert.deepEqual(
      [commands('first'), commands('second')],
      [
        ['ADD', 'DEL'],
        ['ADD', 'DEL'],
      ],
    );
    assert.deepEqual(pins(), []);
    host.script('second', passOn);
    await remove(await run());
  });
}

test('a DEL that fails fails Stop and Remove, keeps the namespace, and is tried again until it succeeds, by the next daemon too', { skip }, async () => {
  const { podSandboxId, containerId } = await host.cri.startContainer('sleep 1000');
  host.script('first', `${answer}\n[ $CNI_COMMAND != DEL ] || { ${fail('not now', 11)}; }`);
  await assert.rejects(host.cri.call(method.stopPodSandbox, { podSandboxId }), /UNAVAILABLE: detach pod [0-9a-f]{64}: CNI plugin first: DEL: not now; as told/);
  assert.equal((await host.cri.ended(containerId)).exitCode, 137);
  assert.equal((await host.podStatus(podSandboxId)).status?.state, 1);
  await assert.rejects(host.cri.call(method.removePodSandbox, { podSandboxId }), /DEL: not now/);
  assert.ok(isNamespace(pinOf(podSandboxId)));
  host.forgetCalls('first');
  await host.cri.restart('SIGTERM');
  await until('the next daemon has tried', () => commands('first').includes('DEL'));
  await assert.rejects(host.cri.call(method.removePodSandbox, { podSandboxId }), /DEL: not now/);
  host.script('first', answer);
  await remove(podSandboxId);
  assert.deepEqual(pins(), []);
});

test('a daemon that is killed in the midst of ADD takes the plugin with it, and the next one undoes what was done', { skip }, async () => {
  host.script('second', `[ $CNI_COMMAND != ADD ] || { sleep 1000 & echo $! > ${host.directory}/state/child; wait; }`);
  const lost = run().catch((error: unknown) => error);
  await until('the plugin runs', () => existsSync(`${host.directory}/state/child`) && readFileSync(`${host.directory}/state/child`, 'utf8').endsWith('\n'));
  const pids = [Number(readFileSync(`${host.directory}/state/child`, 'utf8')), host.calls('second').findLast(({ command }) => command === 'ADD')?.pid ?? 0];
  assert.ok(pids.every((pid) => existsSync(`/proc/${pid}`)));
  await host.cri.restart('SIGKILL');
  await lost;
  // A zombie whose new parent has not looked yet does nothing more.
  const isDead = (pid: number): boolean => !existsSync(`/proc/${pid}/stat`) || / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  assert.ok(pids.every(isDead));
  await until('DEL has come', () => commands('first').includes('DEL') && pins().length === 0);
  assert.deepEqual(
    [commands('first'), commands('second')],
    [
      ['ADD', 'DEL'],
      ['ADD', 'DEL'],
    ],
  );
  assert.deepEqual((await host.cri.call(method.listPodSandbox, {})).items, []);
});

test('a pod whose shim was killed is detached, with its namespace still there for the plugins', { skip }, async () => {
  host.script('first', `${answer}\n[ $CNI_COMMAND != DEL ] || stat -f -c %t "$CNI_NETNS" > ${host.directory}/state/seen`);
  const podSandboxId = await run();
  const { shimPid } = JSON.parse((await host.podStatus(podSandboxId)).info['info'] ?? '{}') as { shimPid: number };
  process.kill(shimPid, 'SIGKILL');
  await until('the pod is detached', () => pins().length === 0 && commands('first').includes('DEL'));
  assert.equal(readFileSync(`${host.directory}/state/seen`, 'utf8').trim(), '6e736673');
  await remove(podSandboxId);
});

for (const { name, damage } of [
  { name: 'is gone', damage: 'umount -l PATH; rm PATH' },
  { name: 'is an ordinary file now', damage: 'umount -l PATH' },
]) {
  test(`DEL comes also where the pinned namespace ${name}`, { skip }, async () => {
    const podSandboxId = await run();
    shell(damage.replaceAll('PATH', pinOf(podSandboxId)));
    host.script('first', `${answer}\n[ $CNI_COMMAND != DEL ] || { [ ! -e "$CNI_NETNS" ] || exit 9; }`);
    await remove(podSandboxId);
    assert.deepEqual([commands('first'), pins()], [['ADD', 'DEL'], []]);
  });
}

test('a daemon that starts asks for CHECK of what lives and for GC of everything else', { skip }, async () => {
  const podSandboxId = await run();
  assert.deepEqual(commands('first'), ['ADD']);
  // The daemon before may still have to collect for an earlier test.
  for (const name of ['first', 'second']) rmSync(`${host.directory}/state/${name}.calls`);
  await host.cri.restart('SIGKILL');
  await until('both plugins collect', () => ['first', 'second'].every((name) => commands(name).includes('CHECK') && host.calls(name).some(({ command }) => command === 'GC')));
  const collect = host.calls('second').find(({ command }) => command === 'GC');
  assert.deepEqual(collect?.input['cni.dev/valid-attachments'], [{ containerID: podSandboxId, ifname: 'eth0' }]);
  assert.doesNotMatch(collect?.env ?? '', /CNI_NETNS|CNI_CONTAINERID/);
  assert.deepEqual(commands('first'), ['CHECK']);
  await remove(podSandboxId);
});

test('a name that CNI_ARGS cannot carry is refused before anything is made', { skip }, async () => {
  await assert.rejects(
    run({ metadata: { name: 'a;K8S_POD_NAME=b', uid: 'u', namespace: 'default', attempt: 0 } }),
    /INVALID_ARGUMENT.*metadata\.name: must not have ";", "=" or control characters: network plugins are told it/,
  );
  await assert.rejects(
    run({ annotations: { 'kubernetes.io/ingress-bandwidth': 'fast' } }),
    /INVALID_ARGUMENT.*annotations\[kubernetes\.io\/ingress-bandwidth\]: "fast" is no quantity, such as 10M/,
  );
  assert.deepEqual(commands('first'), []);
});

test('the pod ranges of the node are kept, and given to plugins with the capability ipRanges', { skip }, async () => {
  await assert.rejects(
    host.cri.call(method.updateRuntimeConfig, { runtimeConfig: { networkConfig: { podCidr: '10.1.0.0/33' } } }),
    /INVALID_ARGUMENT: runtimeConfig\.networkConfig\.podCidr: "10\.1\.0\.0\/33" is no range/,
  );
  await host.cri.call(method.updateRuntimeConfig, { runtimeConfig: { networkConfig: { podCidr: '10.1.0.0/24,fd01::/64' } } });
  await host.cri.restart('SIGTERM');
  await host.cri.call(method.updateRuntimeConfig, {});
  const podSandboxId = await run();
  const add = host.calls('first').find(({ command }) => command === 'ADD');
  assert.deepEqual(add?.input['runtimeConfig'], { ipRanges: [[{ subnet: '10.1.0.0/24' }], [{ subnet: 'fd01::/64' }]] });
  await remove(podSandboxId);
});

test('a network may have its plugins in a directory of its name', { skip }, async () => {
  host.configure({ cniVersion: '1.1.0', name: 'spread' });
  mkdirSync(`${host.configDir}/spread`);
  writeFileSync(`${host.configDir}/spread/10-first.conf`, '{"type": "first"}');
  await host.ready();
  await remove(await run());
  assert.deepEqual(commands('first'), ['ADD', 'DEL']);
  rmSync(`${host.configDir}/spread`, { recursive: true });
});
