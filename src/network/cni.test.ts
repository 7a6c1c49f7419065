/** CNI as data: configurations, results, templates; and the network on a host that this file plays. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as settled } from 'node:timers/promises';
import { RuntimeError, limits } from '#core';
import type { ToolRequest, ToolResult } from '#system';
import { decodeCniConfig, isVersionAtLeast, nameOfOpenList } from './cni-config.ts';
import { CniGate } from './cni-gate.ts';
import { CniNetwork } from './cni-network.ts';
import { capabilityArgsOf, encodeCniArgs, encodePluginConfig } from './cni-request.ts';
import { decodeBitRate, describePluginFailure, hostEndOf, isIpAddress, podAddresses, printable } from './cni-result.ts';
import { decodePodCidrs, fillCniTemplate, templateValuesOf } from './cni-template.ts';
import type { CniFiles, CniPod } from './cni-types.ts';
import { fails, makeWorld } from './test-world.ts';

const refuses = (work: () => unknown, message: string | RegExp, code = 'invalidArgument'): void =>
  assert.throws(work, (error: unknown) => {
    assert.ok(error instanceof RuntimeError);
    if (typeof message === 'string') assert.equal(error.message, message);
    else assert.match(error.message, message);
    assert.equal(error.code, code);
    return true;
  });

describe('a configuration', () => {
  const decode = (value: unknown, isList = true) => decodeCniConfig(JSON.stringify(value), { isList });
  const plugin = { type: 'bridge' };

  test('is a list, or one plugin that is a list of itself', () => {
    const list = decode({
      cniVersion: '0.3.1',
      cniVersions: ['1.1.0', '2.0.0'],
      name: 'n',
      disableCheck: 'true',
      plugins: [{ ...plugin, capabilities: { dns: true, bandwidth: false } }],
    });
    assert.deepEqual(list, {
      name: 'n',
      cniVersions: ['1.1.0', '0.3.1'],
      disableCheck: true,
      disableGc: false,
      plugins: [{ type: 'bridge', capabilities: ['dns'], config: { ...plugin, capabilities: { dns: true, bandwidth: false } } }],
    });
    assert.deepEqual(decode({ cniVersion: '1.0.0', name: 'n', ...plugin }, false).plugins[0]?.config, { cniVersion: '1.0.0', name: 'n', type: 'bridge' });
  });

  test('takes plugins of its directory unless it says that it has all', () => {
    const inDirectory = [{ type: 'tuning', capabilities: [], config: { type: 'tuning' } }];
    const types = (value: unknown): string[] => decodeCniConfig(JSON.stringify(value), { isList: true, inDirectory }).plugins.map(({ type }) => type);
    assert.deepEqual(types({ cniVersion: '1.1.0', name: 'n', plugins: [plugin] }), ['bridge', 'tuning']);
    assert.deepEqual(types({ cniVersion: '1.1.0', name: 'n', plugins: [plugin], loadOnlyInlinedPlugins: true }), ['bridge']);
    // The first name in the text is not the list's own.
    const nested = { plugins: [{ ...plugin, name: 'other' }], name: 'n' };
    assert.deepEqual([nameOfOpenList(JSON.stringify(nested)), nameOfOpenList(JSON.stringify({ ...nested, loadOnlyInlinedPlugins: true }))], ['n', undefined]);
    assert.equal(nameOfOpenList('{"name": "../n"}'), undefined);
  });

  for (const [what, value, message] of [
    ['no version', { name: 'n', plugins: [plugin] }, 'cniVersion: required'],
    ['an unknown version', { cniVersion: '0.2.0', name: 'n', plugins: [plugin] }, 'cniVersion: "0.2.0" is none of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0'],
    ['no name', { cniVersion: '1.0.0', plugins: [plugin] }, 'name: required'],
    ['a path as its name', { cniVersion: '1.0.0', name: '../etc', plugins: [plugin] }, /^name: "\.\.\/etc" does not match /],
    ['a path as a type', { cniVersion: '1.0.0', name: 'n', plugins: [{ type: '/bin/sh' }] }, /^plugins\[0\]\.type: "\/bin\/sh" does not match /],
    ['no plugin', { cniVersion: '1.0.0', name: 'n', plugins: [] }, 'plugins: must have at least one'],
    ['too many plugins', { cniVersion: '1.0.0', name: 'n', plugins: Array.from({ length: limits.cniPluginsMax + 1 }, () => plugin) }, 'plugins: 33 plugins, at most 32'],
    [
      'a capability that is a word',
      { cniVersion: '1.0.0', name: 'n', plugins: [{ ...plugin, capabilities: { dns: 'yes' } }] },
      'plugins[0].capabilities.dns: must be true or false',
    ],
    ['a list of lists', [], 'must be an object'],
  ] as const) {
    test(`with ${what} is refused`, () => refuses(() => decode(value), typeof message === 'string' && message === 'must be an object' ? /must be an object$/ : message));
  }

  test('that is no JSON is refused', () => refuses(() => decodeCniConfig('{', { isList: true }), /^not JSON: /));

  test('versions are compared as numbers', () => {
    assert.deepEqual([isVersionAtLeast('1.1.0', '1.1.0'), isVersionAtLeast('1.10.0', '1.9.0'), isVersionAtLeast('0.4.0', '1.0.0')], [true, true, false]);
  });
});

describe('what a plugin prints', () => {
  test('gives the addresses of the pod, IPv4 first, and not those of the host', () => {
    const interfaces = [
      { name: 'cni0', mac: '' },
      { name: 'eth0', sandbox: '/run/netns/x' },
    ];
    const ips = [
      { address: '10.1.0.1/24', interface: 0 },
      { address: 'fd00::5/64', interface: 1 },
      { version: '4', address: '10.1.0.5/24', interface: 1 },
    ];
    assert.deepEqual(podAddresses({ interfaces, ips }, 'eth0'), ['10.1.0.5', 'fd00::5']);
    assert.deepEqual(podAddresses({ ips: [{ address: '10.1.0.5/24' }] }, 'eth0'), ['10.1.0.5']);
    assert.deepEqual(podAddresses({ interfaces, ips: [{ address: '10.1.0.1/24', interface: 0 }] }, 'eth0'), []);
    assert.equal(hostEndOf({ interfaces: [...interfaces, { name: 'veth1a2b', sandbox: '' }] }), 'veth1a2b');
    assert.equal(hostEndOf({ interfaces: [{ name: 'veth1' }, { name: 'veth2' }] }), undefined);
    assert.equal(hostEndOf({ interfaces: [{ name: 'vethX', sandbox: '/run/netns/x' }, { name: '../eth0' }] }), undefined);
    refuses(() => podAddresses({ ips: [{ address: '10.1.0.300/24' }] }, 'eth0'), 'ips[0].address: "10.1.0.300/24" is no address', 'internal');
  });

  test('is an address or not', () => {
    for (const good of ['0.0.0.0', '10.88.0.2', '::', '::1', 'fd00::1', '::ffff:10.0.0.1', '2001:db8:0:0:0:0:0:1']) assert.ok(isIpAddress(good), good);
    for (const bad of ['', '10.0.0', '1.2.3.4.5', '::g', 'fe80::1%eth0', ':::', '1:2:3:4:5:6:7:8:9', '[::1]', '10.0.0.1 evil', 'a:b\n']) assert.ok(!isIpAddress(bad), bad);
  });

  test('is an error in its own words, in one line', () => {
    const words = (stdout: string, stderr = ''): string => describePluginFailure({ stdout, stderr, exitCode: 2 });
    assert.equal(words('{"code":7,"msg":"no room","details":"in\\nhere"}'), 'no room; in here');
    assert.equal(words('', 'panic: x\n'), 'exit code 2: panic: x');
    assert.equal(words(''), 'exit code 2');
    assert.equal(printable(`a\u001b[31m\u202eb${'x'.repeat(1000)}`).length, 601);
    assert.equal(printable('a\u001b[31m\u202eb'), 'a [31m b');
  });
});

describe('what a plugin is told', () => {
  const pod: CniPod = { podId: 'id', name: 'web', namespace: 'prod', uid: 'u1', annotations: {}, portMappings: [], cgroupPath: '' };

  test('of the pod is refused where it cannot be told', () => {
    assert.equal(encodeCniArgs(pod), 'IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u1');
    refuses(() => encodeCniArgs({ ...pod, uid: 'u;IgnoreUnknown=0' }), 'metadata.uid: must not have ";", "=" or control characters: network plugins are told it');
  });

  test('has what its capabilities ask for, and not the word itself', () => {
    const config = { cniVersion: '0.1.0', type: 'portmap', capabilities: { portMappings: true, dns: true }, snat: true };
    const list = decodeCniConfig(JSON.stringify({ cniVersion: '1.0.0', name: 'n', plugins: [config] }), { isList: true });
    const told = list.plugins.map((plugin): unknown => JSON.parse(encodePluginConfig(list, plugin, { capabilityArgs: { portMappings: [], bandwidth: {} } }).toString()));
    assert.deepEqual(told, [{ cniVersion: '1.0.0', name: 'n', type: 'portmap', snat: true, runtimeConfig: { portMappings: [] } }]);
  });

  test('by capability is there only where the pod has it', () => {
    assert.deepEqual(capabilityArgsOf(pod, []), {});
    assert.deepEqual(capabilityArgsOf({ ...pod, cgroupPath: '/kubepods/pod1', annotations: { 'kubernetes.io/ingress-bandwidth': '1G' } }, ['10.0.0.0/24']), {
      bandwidth: { ingressRate: 1e9, ingressBurst: 4_294_967_295 },
      ipRanges: [[{ subnet: '10.0.0.0/24' }]],
      cgroupPath: '/kubepods/pod1',
      'io.kubernetes.cri.pod-annotations': { 'kubernetes.io/ingress-bandwidth': '1G' },
    });
  });

  test('of rates is in bits per second', () => {
    for (const [text, rate] of [
      ['10M', 10_000_000],
      ['1.5k', 1500],
      ['1Mi', 1_048_576],
      ['1000', 1000],
      ['2500000m', 2500],
      ['1P', 1e15],
    ] as const)
      assert.equal(decodeBitRate('a', text), rate);
    for (const text of ['', 'M', '-1M', '1e6', '1 M']) refuses(() => decodeBitRate('a', text), /^a: ".*" is no quantity, such as 10M$/);
    for (const text of ['999', '2P', '10m']) refuses(() => decodeBitRate('a', text), /^a: ".*" is not between 1k and 1P bits per second$/);
  });
});

describe('a template', () => {
  const both = templateValuesOf(['10.1.0.0/24', 'fd00::/64']);

  test('is filled with one range or both, and with the routes of their families', () => {
    assert.equal(fillCniTemplate('{"subnet": "{{.PodCIDR}}"}', templateValuesOf(['10.1.0.0/24'])), '{"subnet": "10.1.0.0/24"}');
    const ranges = '[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]';
    assert.equal(fillCniTemplate(ranges, both), '[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]');
    assert.equal(fillCniTemplate('["{{.PodCIDR}}"{{range .Routes}}, "{{.}}"{{end}}]', both), '["10.1.0.0/24", "0.0.0.0/0", "::/0"]');
    assert.equal(fillCniTemplate('[ {{- range $r := .Routes -}} "{{$r}}", {{- end}} 1]', templateValuesOf(['fd00::/64'])), '["::/0", 1]');
    assert.equal(fillCniTemplate('[{{range $i, $a := .Routes}}{{range $j, $b := .PodCIDRRanges}}{{if $j}}1,{{end}}{{end}}{{end}}2]', both), '[1,1,2]');
    assert.equal(fillCniTemplate('[{{range .PodCIDRRanges}}{{.}}{{end}}]', templateValuesOf([])), '[]');
  });

  for (const [template, message] of [
    ['{{.Other}}', 'template: {{.Other}} is not understood; see docs/networks.md for what is'],
    ['{{exec "x"}}', 'template: {{exec "x"}} is not understood; see docs/networks.md for what is'],
    ['{{$x}}', 'template: $x stands for nothing here'],
    ['{{.}}', 'template: {{.}} stands for nothing here'],
    ['{{range .Routes}}', 'template: has a "range" or an "if" without its "end"'],
    ['{{end}}', 'template: has an "end" that ends nothing'],
    ['{"a": "{{.PodCIDR"}', 'template: has a "{{" without its "}}"'],
    ['{"a": {{.PodCIDR}}}', 'template: what comes of it is not JSON'],
  ] as const) {
    test(`such as ${template} is refused`, () => refuses(() => fillCniTemplate(template, both), message));
  }

  test('is not filled with what is no range', () => {
    assert.deepEqual(decodePodCidrs('10.1.0.0/24, fd00::/64'), ['10.1.0.0/24', 'fd00::/64']);
    assert.deepEqual(decodePodCidrs(''), []);
    for (const text of ['10.1.0.0', '10.1.0.0/33', 'fd00::/129', '10.1.0.0/24"', '/24', '10.1.0.0/24/1', ','])
      refuses(() => decodePodCidrs(text), /^runtimeConfig\.networkConfig\.podCidr: ".*" is no range of addresses, such as 10\.1\.0\.0\/24$/);
    refuses(() => decodePodCidrs('10.1.0.0/24,10.2.0.0/24,10.3.0.0/24'), 'runtimeConfig.networkConfig.podCidr: 3 ranges, at most 2');
  });
});

describe('the gate', () => {
  test('lets operations overlap, keeps a collection apart and gives up where no moment comes', async () => {
    const gate = new CniGate();
    const log: string[] = [];
    const [one, two] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const first = gate.pass(async () => one.promise);
    const collection = gate.collect(
      async () => {
        log.push('collect');
        await two.promise;
      },
      { tries: 10 },
    );
    await gate.pass(async () => void log.push('while it waits'));
    one.resolve();
    await first;
    while (!log.includes('collect')) await Promise.resolve();
    const late = gate.pass(async () => void log.push('after'));
    two.resolve();
    assert.equal(await collection, true);
    await late;
    assert.deepEqual(log, ['while it waits', 'collect', 'after']);
    const endless = Promise.withResolvers<void>();
    const running = gate.pass(async () => endless.promise);
    assert.equal(await gate.collect(async () => undefined, { tries: 0 }), false);
    endless.resolve();
    await running;
    await gate.idle();
  });
});

describe('the network', () => {
  const pod = (podId: string): CniPod => ({ podId, name: 'web', namespace: 'prod', uid: 'u1', annotations: {}, portMappings: [], cgroupPath: '' });
  const list = { cniVersion: '1.0.0', name: 'n', plugins: [{ type: 'one' }, { type: 'two' }] };
  const okay: Omit<ToolResult, 'stdout'> = { exitCode: 0, signal: undefined, timedOut: false, stdoutTruncated: false, stderrTruncated: false, stderr: Buffer.alloc(0) };

  /** A host whose plugins do what `answers` says, once what `holds` has is over; by default they give one address. Waiting takes for ever unless `isFast`. */
  function open({ isFast = false }: { readonly isFast?: boolean } = {}) {
    const world = makeWorld();
    const calls: string[] = [];
    const state = { text: JSON.stringify(list), stamp: '1', answers: new Map<string, Partial<ToolResult>>(), holds: new Map<string, Promise<void>>() };
    const files: CniFiles = {
      listConfigs: async () => (state.text === '' ? [] : [{ path: '/net.d/10-n.conflist', stamp: state.stamp }]),
      readText: async () => state.text,
      findPlugin: async (type) => ({ path: `/bin/${type}`, stamp: '1' }),
      lookAtPin: async () => 'namespace',
      replaceFile: async () => undefined,
    };
    const runTool = async ({ path, env, timeoutMs }: ToolRequest): Promise<ToolResult> => {
      const call = `${env['CNI_COMMAND']} ${path.slice(5)}`;
      calls.push(call);
      await state.holds.get(call);
      assert.equal(timeoutMs, /ADD|DEL|CHECK/.test(call) ? limits.cniCommandTimeoutMs : limits.cniQueryTimeoutMs);
      const stdout = call.startsWith('VERSION') ? '{"supportedVersions":["0.4.0","1.0.0"]}' : call.startsWith('ADD') ? '{"ips":[{"address":"10.1.0.9/24"}]}' : '';
      return { ...okay, stdout: Buffer.from(stdout), ...state.answers.get(call) };
    };
    const reported: string[] = [];
    const openNetwork = (): CniNetwork =>
      new CniNetwork({
        records: world.records,
        clock: {
          nowNs: () => 0n,
          monotonicMs: () => 0,
          randomBytes: (count) => new Uint8Array(count),
          sleep: async (_ms, signal) =>
            new Promise((resolve, reject) => (isFast || signal === undefined ? resolve() : signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true }))),
        },
        files,
        runTool,
        runOnHost: world.run,
        configDir: '/net.d',
        binDirs: ['/bin'],
        searchPath: '/bin',
        report: (error) => reported.push(String(error)),
      });
    return { world, calls, state, reported, openNetwork, network: openNetwork() };
  }
  const records = (world: ReturnType<typeof makeWorld>): unknown[] => world.records.list('cniAttachment');

  test('records before it pins, pins before ADD, and forgets after DEL', async () => {
    const { world, calls, network } = open();
    await network.attach({ pod: pod('p1'), netnsSlot: 1 }, async (plan) => {
      assert.equal(records(world).length, 1);
      assert.deepEqual(calls, ['VERSION one', 'VERSION two']);
      await world.run(plan);
    });
    assert.deepEqual(world.take(), [
      'make the directory /run/netns with mode 0755',
      'write the file /run/netns/berth-p1 with mode 0444 (0 bytes)',
      'pin the namespace of slot 1 at /run/netns/berth-p1',
      'enter the net namespace of slot 1',
      'bring link lo up',
    ]);
    await fails(network.attach({ pod: pod('p1'), netnsSlot: 1 }, world.run), 'alreadyExists', 'attach pod p1: it is attached');
    await network.detach('p1', async (plan) => {
      assert.deepEqual(plan, { sections: [] });
      assert.ok(!calls.includes('DEL two'));
    });
    assert.deepEqual(calls.slice(2), ['ADD one', 'ADD two', 'DEL two', 'DEL one']);
    assert.deepEqual(world.take(), ['unmount /run/netns/berth-p1', 'remove the file /run/netns/berth-p1']);
    assert.deepEqual(records(world), []);
    await network.detach('p1', async () => assert.fail('nothing is attached'));
  });

  test('tells a hanging plugin by its name and what it was asked, and undoes', async () => {
    const { world, calls, state, network } = open();
    state.answers.set('ADD two', { timedOut: true, exitCode: 137 });
    await fails(network.attach({ pod: pod('p1'), netnsSlot: 1 }, world.run), 'deadlineExceeded', 'attach pod p1: CNI plugin two: ADD: not done after 100 s, killed');
    assert.deepEqual(calls.slice(-2), ['DEL two', 'DEL one']);
    assert.deepEqual(records(world), []);
  });

  test('keeps what DEL could not undo, through restarts, until it can', async () => {
    const { world, state, calls, reported, network, openNetwork } = open();
    await network.attach({ pod: pod('p1'), netnsSlot: 1 }, world.run);
    state.answers.set('DEL one', { exitCode: 1, stdout: Buffer.from('{"code":11,"msg":"busy"}') });
    await fails(network.detach('p1'), 'unavailable', 'detach pod p1: CNI plugin one: DEL: busy');
    const next = openNetwork();
    assert.ok(next.has('p1'));
    await next.reconcile(new Set(), { isChosen: true });
    await next.close();
    assert.deepEqual(reported, ['RuntimeError: detach pod p1: CNI plugin one: DEL: busy']);
    state.answers.clear();
    const last = openNetwork();
    await last.reconcile(new Set(), { isChosen: true });
    await last.close();
    assert.deepEqual([records(world), calls.slice(-2)], [[], ['DEL two', 'DEL one']]);
  });

  test('reads its configuration again when it has changed, and asks for versions once per executable', async () => {
    const { state, calls, network } = open();
    assert.deepEqual(await network.status(), { ready: true, reason: '', message: '' });
    assert.deepEqual(await network.status(), { ready: true, reason: '', message: '' });
    assert.deepEqual(calls, ['VERSION one', 'VERSION two']);
    state.text = JSON.stringify({ ...list, cniVersion: '1.1.0' });
    assert.deepEqual(await network.status(), { ready: false, reason: 'NetworkPluginNotReady', message: 'CNI plugin one: has versions 0.4.0, 1.0.0, and not 1.1.0' });
    state.text = '';
    assert.deepEqual(await network.status(), { ready: false, reason: 'NetworkPluginNotReady', message: 'no CNI configuration (.conflist, .conf or .json) in /net.d' });
    state.text = JSON.stringify({ ...list, cniVersions: ['1.1.0'], plugins: [{ type: 'two' }] });
    assert.deepEqual(await network.status(), { ready: true, reason: '', message: '' });
    assert.deepEqual(network.info()['cniVersion'], '1.0.0');
    assert.deepEqual(calls, ['VERSION one', 'VERSION two']);
  });

  const newest = { stdout: Buffer.from('{"supportedVersions":["1.1.0"]}') };

  test('collects for its own pods where it is chosen, and else leaves alone what belongs to others', async () => {
    for (const isChosen of [true, false]) {
      const { state, calls, reported, network } = open({ isFast: true });
      state.text = JSON.stringify({ ...list, cniVersion: '1.1.0' });
      for (const { type } of list.plugins) state.answers.set(`VERSION ${type}`, newest);
      await network.reconcile(new Set(), { isChosen });
      await settled();
      assert.deepEqual(calls, isChosen ? ['VERSION one', 'VERSION two', 'GC one', 'GC two'] : []);
      assert.deepEqual(reported, []);
      await network.close();
    }
  });

  test('does not take the answer of a list that has been replaced for that of its successor', async () => {
    const { world, state, calls, network } = open();
    const old = Promise.withResolvers<void>();
    for (const type of ['one', 'two']) state.answers.set(`VERSION ${type}`, newest);
    state.text = JSON.stringify({ ...list, cniVersion: '1.1.0', plugins: [{ type: 'one' }] });
    state.holds.set('STATUS one', old.promise);
    const first = network.attach({ pod: pod('p1'), netnsSlot: 1 }, world.run);
    while (!calls.includes('STATUS one')) await Promise.resolve();
    state.text = JSON.stringify({ ...list, cniVersion: '1.1.0', plugins: [{ type: 'two' }] });
    state.answers.set('STATUS two', { exitCode: 1, stdout: Buffer.from('{"code":50,"msg":"no agent yet"}') });
    const second = fails(network.attach({ pod: pod('p2'), netnsSlot: 1 }, world.run), 'unavailable', 'attach pod p2: network is not ready: CNI plugin two: STATUS: no agent yet');
    old.resolve();
    await first;
    await second;
  });
});
