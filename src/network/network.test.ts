/** The network over records and a played host. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { Plan } from '#plan';
import { attach, fails, makeWorld, web } from './test-world.ts';

test('the first pod makes the bridge, later ones only their own link', async () => {
  const world = makeWorld();
  const network = world.open();
  const attachment = await attach(world, network, 'one');
  assert.deepEqual(attachment, { podId: 'one', interfaceName: 'eth0', addresses: ['10.88.0.2/16'], gateway: '10.88.0.1', hostInterface: 'veth7692c3ad354', portMappings: [] });
  const first = world.take();
  assert.match(
    first.join('\n'),
    /create bridge berth0, .*\nadd address 10\.88\.0\.1\/16[^]*write "1" to \/proc\/sys\/net\/ipv4\/conf\/berth0\/route_localnet[^]*write "1" to \/proc\/sys\/net\/ipv4\/ip_forward\n/,
  );
  await attach(world, network, 'two');
  assert.deepEqual(
    world.take().map((line) => line.replace(/ \(.*| with index 64.*/, '')),
    [
      'make the directory /run/berth/network with mode 0700',
      'write the file /run/berth/network/two with mode 0600',
      "create veth veth3fc4ccfe745 with peer eth0 in the pod's network namespace",
      'let bridge port with index 1340080131 send back to where a frame came from',
      'enter the net namespace of slot 3',
      'bring link lo up',
      'bring link',
      'add address 10.88.0.3/16 to',
      'add a default route through 10.88.0.1 by',
    ],
  );
});

test('the record is stored before anything is done', async () => {
  const world = makeWorld();
  const seen: unknown[] = [];
  const network = world.open();
  await network.attach({ podId: 'one', netnsSlot: 3, portMappings: [] }, async (plan) => {
    seen.push(world.records.get('networkAttachment', 'one'));
    await world.run(plan);
  });
  assert.equal(seen.length, 1);
  assert.ok(seen[0] !== undefined);
});

test('the undo plan is deposited before the pod is attached, and closes ports and the bridge of the last pod', async () => {
  const world = makeWorld();
  const network = world.open();
  const deposits: Plan[] = [];
  await network.attach({ podId: 'one', netnsSlot: 3, portMappings: [web] }, world.run, (plan) => {
    assert.equal(
      world.log.some((line) => line.startsWith('create veth')),
      false,
    );
    deposits.push(plan);
    return Promise.resolve();
  });
  const [undo] = deposits;
  assert.ok(undo !== undefined);
  world.take();
  await world.run(undo);
  assert.deepEqual(world.take(), [
    'remove 8080/tcp from map ports of table berth',
    'remove the file /run/berth/network/one',
    'remove the empty directory /run/berth/network',
    'write "0" to /proc/sys/net/ipv4/ip_forward',
    'remove table berth with all it holds',
    'delete link with index 1340080129',
  ]);
  const [, , directory, ...removal] = undo.sections[0]?.steps ?? [];
  assert.deepEqual({ ignore: directory?.ignore, skipOnIgnored: directory?.skipOnIgnored }, { ignore: [39, 2], skipOnIgnored: removal.length });
});

test('forwarding that was on before is left on', async () => {
  const world = makeWorld();
  world.ipForward = '1\n';
  const network = world.open();
  await attach(world, network, 'one');
  await network.detach('one');
  await network.close();
  assert.equal(
    world.log.some((line) => line.includes('ip_forward')),
    false,
  );
});

test('after the last pod, closing removes bridge and table and switches forwarding off again', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one', web);
  await network.close();
  assert.ok(world.links.has('berth0'), 'a pod still needs it');
  world.take();
  await network.detach('one');
  assert.deepEqual(world.take(), ['remove 8080/tcp from map ports of table berth', 'remove the file /run/berth/network/one']);
  await network.close();
  assert.deepEqual(world.take(), [
    'remove the tree /run/berth/network',
    'write "0" to /proc/sys/net/ipv4/ip_forward',
    'remove table berth with all it holds',
    'delete link with index 1340080129',
  ]);
  assert.deepEqual(world.records.list('networkBridge'), []);
  await network.close();
  assert.deepEqual(world.take(), []);
});

test('detaching twice, or what was never attached, is no error', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one');
  await network.detach('one');
  world.take();
  await network.detach('one');
  await network.detach('never');
  assert.deepEqual(world.take(), []);
});

test('a detach that fails keeps the record and can be repeated', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one');
  world.failAt = { text: 'remove the file', errno: 'EIO', times: 1 };
  await fails(network.detach('one'), 'unknown', 'detach pod one: remove the file /run/berth/network/one: EIO');
  assert.ok(world.records.get('networkAttachment', 'one') !== undefined);
  await network.detach('one');
  assert.equal(world.records.get('networkAttachment', 'one'), undefined);
});

test('a host port belongs to one pod at a time', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one', web);
  await fails(attach(world, network, 'two', { ...web, hostIp: '127.0.0.1' }), 'alreadyExists', 'attach pod two: host port 127.0.0.1:8080/tcp is used by pod one');
  await fails(attach(world, network, 'two', web), 'alreadyExists', 'attach pod two: host port 8080/tcp is used by pod one');
  await attach(world, network, 'two', { ...web, protocol: 'udp' });
  await network.detach('one');
  await attach(world, network, 'three', web);
});

test('two addresses of the host may have the same port', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one', { ...web, hostIp: '192.0.2.1' });
  await attach(world, network, 'two', { ...web, hostIp: '192.0.2.2' });
  await fails(attach(world, network, 'three', web), 'alreadyExists', 'attach pod three: host port 8080/tcp is used by pod one');
});

test('a host port of a process is refused, and nothing is left', async () => {
  const world = makeWorld();
  world.busyPorts.add(8080);
  await fails(attach(world, world.open(), 'one', web), 'failedPrecondition', 'attach pod one: host port 8080/tcp is in use on the host');
  assert.deepEqual([world.log, world.records.list('networkAttachment')], [[], []]);
});

for (const [mapping, cause] of [
  [{ ...web, containerPort: 0 }, 'portMappings[0].containerPort: 0 is not between 1 and 65535'],
  [{ ...web, hostPort: 65_536 }, 'portMappings[0].hostPort: 65536 is not between 1 and 65535'],
  [{ ...web, hostIp: '::1' }, 'portMappings[0].hostIp: "::1" is not an IPv4 address'],
] as const) {
  test(`a mapping is refused: ${cause}`, async () => {
    const world = makeWorld();
    await fails(attach(world, world.open(), 'one', mapping), 'invalidArgument', `attach pod one: ${cause}`);
  });
}

test('the same port twice in one pod is refused, a mapping without host port is passed over', async () => {
  const world = makeWorld();
  const network = world.open();
  await fails(attach(world, network, 'one', web, { ...web, containerPort: 81 }), 'alreadyExists', 'attach pod one: host port 8080/tcp is mapped twice');
  assert.deepEqual((await attach(world, network, 'one', { ...web, hostPort: 0 })).portMappings, []);
});

for (const errno of ['EEXIST', 'ENOENT'])
  test(`a table that is not as the records say is made anew (${errno})`, async () => {
    const world = makeWorld();
    const network = world.open();
    world.failAt = { text: 'add 8080/tcp', errno, times: 1 };
    await attach(world, network, 'one', web);
    const lines = world.take();
    assert.equal(lines.filter((line) => line === 'create table berth').length, 4, 'made, and made anew');
    assert.equal(lines.at(-1), 'add 8080/tcp to 10.88.0.2:80 in map ports of table berth');
  });

test('a failed attach takes back what it did, and its address rests', async () => {
  const world = makeWorld();
  const network = world.open();
  world.failAt = { text: 'default route', errno: 'ENETUNREACH', times: 1 };
  await fails(attach(world, network, 'one', web), 'unknown', 'attach pod one: add a default route through 10.88.0.1 by with index 64: ENETUNREACH');
  assert.equal(world.log.at(-1), 'remove the file /run/berth/network/one');
  assert.equal(
    world.log.some((line) => line.startsWith('remove 8080')),
    false,
    'ports that were not opened are not closed',
  );
  assert.deepEqual(world.records.list('networkAttachment'), []);
  assert.deepEqual((await attach(world, network, 'one')).addresses, ['10.88.0.3/16']);
});

test('an attach whose undo fails reports both and keeps the record', async () => {
  const world = makeWorld();
  const network = world.open();
  await network.attach({ podId: 'zero', netnsSlot: 3, portMappings: [] }, world.run);
  world.failAt = { text: 'pod-x', errno: 'EIO', times: 2 };
  await assert.rejects(
    attach(world, network, 'pod-x'),
    (error: unknown) => error instanceof RuntimeError && error.message.startsWith('attach pod pod-x: write the file') && error.cleanupFailures.length === 1,
  );
  assert.ok(world.records.get('networkAttachment', 'pod-x') !== undefined);
});

test('an address whose link exists already is passed over', async () => {
  const world = makeWorld();
  const network = world.open();
  world.failAt = { text: 'create veth', errno: 'EEXIST', times: 2 };
  assert.deepEqual((await attach(world, network, 'one')).addresses, ['10.88.0.4/16']);
});

test('a bridge that was taken away is made again', async () => {
  const world = makeWorld();
  const network = world.open();
  await attach(world, network, 'one');
  world.take();
  world.links.delete('berth0');
  // What the kernel says of a master that does not exist.
  world.failAt = { text: 'create veth', errno: 'EINVAL', times: 1 };
  await attach(world, network, 'two');
  assert.equal(world.take().filter((line) => line.startsWith('create bridge')).length, 1);
  await network.detach('one');
  await network.detach('two');
  await network.close();
  assert.equal(world.ipForward, '0\n', 'what was before the first bridge');
});

test("a foreign link of the bridge's name is an error that says so", async () => {
  const world = makeWorld();
  world.failAt = { text: 'add address 10.88.0.1', errno: 'ENODEV', times: 1 };
  const network = world.open();
  const message = 'set up network berth0: a link of this name exists that Berth did not make';
  await fails(attach(world, network, 'one'), 'failedPrecondition', `attach pod one: ${message}`);
  assert.deepEqual({ ready: network.status().ready, reason: network.status().reason, message: network.status().message }, { ready: false, reason: 'BridgeFailed', message });
});

test('a full pool is an error with its size', async () => {
  const world = makeWorld({ subnet: '10.88.0.0/29' });
  const network = world.open();
  for (const podId of ['a', 'b', 'c', 'd', 'e']) await attach(world, network, podId);
  await fails(attach(world, network, 'f'), 'resourceExhausted', 'attach pod f: no free address in 10.88.0.0/29 (5 in use)');
});

test('an attach waits for resting addresses, and not for ever', async () => {
  const world = makeWorld({ subnet: '10.88.0.0/30' });
  const network = world.open();
  const { hostInterface } = await attach(world, network, 'a');
  await network.detach('a');
  await fails(attach(world, network, 'b'), 'resourceExhausted', 'attach pod b: no free address in 10.88.0.0/30 (0 in use, 1 not released by the kernel yet)');
  world.links.delete(hostInterface);
  assert.deepEqual((await attach(world, network, 'b')).addresses, ['10.88.0.2/30']);
});

test('a new owner knows the addresses in use and the resting ones', async () => {
  const world = makeWorld();
  const before = world.open();
  await attach(world, before, 'one', web);
  await attach(world, before, 'two');
  await before.detach('two');
  const network = world.open();
  assert.deepEqual(network.status(), {
    ready: true,
    reason: '',
    message: '',
    bridge: 'berth0',
    subnet: '10.88.0.0/16',
    gateway: '10.88.0.1',
    addressesInUse: 1,
    addressesResting: 1,
    addressCount: 65_533,
  });
  assert.deepEqual((await attach(world, network, 'three')).addresses, ['10.88.0.4/16']);
  await fails(attach(world, network, 'four', web), 'alreadyExists', 'attach pod four: host port 8080/tcp is used by pod one');
});

test('reconcile frees what dead pods had and opens exactly the ports of the living', async () => {
  const world = makeWorld();
  const before = world.open();
  await attach(world, before, 'dead', web);
  await attach(world, before, 'alive', { ...web, hostPort: 9090 });
  world.take();
  const network = world.open();
  await network.reconcile(new Set(['alive', 'unattached']));
  const lines = world.take();
  assert.deepEqual(
    lines.filter((line) => /map ports of|the file|the tree/.test(line)),
    ['add 9090/tcp to 10.88.0.3:80 in map ports of table berth', 'remove the tree /run/berth/network', 'write the file /run/berth/network/alive with mode 0600 (0 bytes)'],
  );
  assert.deepEqual(
    world.records.list('networkAttachment').map(({ id }) => id),
    ['alive'],
  );
  await network.detach('alive');
  await network.close();
  assert.equal(world.ipForward, '0\n', 'forwarding was switched on by the owner that died');
});

test('reconcile without living pods removes the bridge; without records it does nothing', async () => {
  const world = makeWorld();
  await attach(world, world.open(), 'dead', web);
  await world.open().reconcile(new Set());
  assert.equal(world.links.has('berth0'), false);
  world.take();
  await world.open().reconcile(new Set());
  assert.deepEqual(world.take(), []);
});

test('forwarding that somebody switched on after the undo plan ran is not touched', async () => {
  const world = makeWorld();
  const network = world.open();
  const attachment = await attach(world, network, 'one');
  await world.run(network.undoPlan(attachment));
  world.ipForward = '1\n';
  await world.open().reconcile(new Set());
  assert.equal(world.ipForward, '1\n');
  assert.deepEqual(world.records.list('networkBridge'), []);
});

test('explain prints the plans with every message and changes nothing', () => {
  const world = makeWorld();
  const lines = world.open().explain({ podId: 'one', portMappings: [web] });
  assert.ok(lines.includes("    - create veth veth7692c3ad354 with peer eth0 in the pod's network namespace (address be:57:0a:58:00:02), master berth0, index 1340080130, up"));
  assert.ok(lines.includes('    - add 8080/tcp to 10.88.0.2:80 in map ports of table berth'));
  assert.ok(lines.includes("in the pod's namespaces"));
  assert.deepEqual([world.log, world.records.values.size], [[], 0]);
});

for (const [change, message] of [
  [{ name: 'berth/0' }, 'network.name: "berth/0" does not match ^[a-z][a-z0-9_-]{0,14}$'],
  [{ name: 'berth0123456789a' }, 'network.name: "berth0123456789a" does not match ^[a-z][a-z0-9_-]{0,14}$'],
  [{ tableName: '' }, 'network.tableName: "" does not match ^[a-z][a-z0-9_-]{0,30}$'],
  [{ mtu: 100 }, 'network.mtu: 100 is not between 576 and 65535'],
  [{ markerDir: 'run' }, 'network.markerDir: "run" is not absolute'],
] as const) {
  test(`bad options are refused: ${message}`, () => {
    assert.throws(
      () => makeWorld(change).open(),
      (error: unknown) => error instanceof RuntimeError && error.code === 'invalidArgument' && error.message === message,
    );
  });
}
