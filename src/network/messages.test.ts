/** Our messages against those of iproute2 and nft, and their sentences. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeBridgeOptions } from './bridge.ts';
import { describeNetlink } from './describe.ts';
import golden from './golden.json' with { type: 'json' };
import { type NetlinkMessage, decodeMessages, encodeMessages, netlinkProtocol, nlm } from './netlink.ts';
import { parseIpv4 } from './address.ts';
import { addAddress, addDefaultRoute, createBridge, createVethPair, deleteLink, setLinkUp } from './route.ts';
import { addPorts, removePorts, removeTable, replaceTable } from './ruleset.ts';

const mac = (last: number): Buffer => Buffer.from(`be570a5800${last.toString(16).padStart(2, '0')}`, 'hex');
const address = (text: string): number => parseIpv4(text) ?? assert.fail(text);
const bridge = decodeBridgeOptions({ name: 'berth0', subnet: '10.88.0.0/20', tableName: 'berth', markerDir: '/run/berth/network' });
const veth = createVethPair({ name: 'veth0123456789a', index: 1001, master: 1000, mtu: 1400, peer: { name: 'eth0', index: 64, mac: mac(2), netnsSlot: 3 } });

/** Type, flags without NLM_F_ACK, and body: sequence numbers are each sender's own. */
function comparable(bytes: Buffer): { type: number; flags: number; body: string } {
  const [message] = decodeMessages(bytes);
  assert.ok(message !== undefined);
  return { type: message.type, flags: message.flags & ~nlm.acknowledge, body: message.body.toString('hex') };
}
const fromTool = (hex: string): ReturnType<typeof comparable> => comparable(Buffer.from(hex, 'hex'));
const ours = (message: NetlinkMessage): ReturnType<typeof comparable> => comparable(encodeMessages([message]).messages);

for (const [name, hex, message] of [
  ['creating a bridge', golden.ip.bridge, createBridge({ name: 'berth0', index: 1000, mac: mac(1) })],
  ['adding an address', golden.ip.address, addAddress({ index: 1000, address: address('10.88.0.1'), prefixLength: 16 })],
  ['adding a default route', golden.ip.route, addDefaultRoute({ index: 1000, gateway: address('10.88.0.9') })],
  ['bringing loopback up', golden.ip.loopbackUp, setLinkUp(1)],
  ['deleting a link', golden.ip.deleteLink, deleteLink(1000)],
] as const) {
  test(`${name} sends what iproute2 sends`, () => assert.deepEqual(ours(message), fromTool(hex)));
}

test('creating a pair sends what iproute2 sends, but for the descriptor that the interpreter fills in', () => {
  const tool = Buffer.from(golden.ip.veth, 'hex');
  const { messages, slotPatches } = encodeMessages([veth]);
  const [offset = 0, slot] = slotPatches;
  assert.equal(slot, 3);
  messages.writeUInt32LE(tool.readUInt32LE(offset), offset);
  assert.deepEqual(comparable(messages), comparable(tool));
});

test('the table is built of the messages that nft sends', () => {
  const sent = replaceTable(bridge, []).map(ours);
  const { mapPorts: _ports, mapAddressPorts: _addressPorts, addPort: _add, addAddressPort: _addAddress, removePort: _remove, ...wanted } = golden.nft;
  for (const [name, hex] of Object.entries(wanted)) {
    const tool = fromTool(hex);
    // Our NEWTABLE asks for creation explicitly; nft leaves that to the kernel, which does it either way.
    if (name === 'table') tool.flags |= nlm.create;
    assert.ok(
      sent.some((message) => message.type === tool.type && message.flags === tool.flags && message.body === tool.body),
      name,
    );
  }
  assert.equal(sent.length, 2 + 3 + 2 + 5 + 9);
});

test('maps are what nft sends, without its notes to itself', () => {
  const sent = replaceTable(bridge, [])
    .map(ours)
    .map(({ body }) => body);
  for (const hex of [golden.nft.mapPorts, golden.nft.mapAddressPorts]) {
    const { body } = fromTool(hex);
    assert.ok(
      sent.some((own) => body.startsWith(own) && body.length - own.length === 2 * 44),
      'a map that nft would have made',
    );
  }
});

const port = { address: '10.88.0.2', portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080 }] } as const;
const addressPort = { address: '10.88.0.2', portMappings: [{ protocol: 'udp', containerPort: 5353, hostPort: 53, hostIp: '127.0.0.1' }] } as const;
/** NFTA_SET_ELEM_LIST_SET_ID, which nft adds and the kernel needs for anonymous sets only. */
const withoutSetId = (body: string): string => body.replace(/08000400000000(01|02)/, '');

for (const [name, hex, messages, extraFlags] of [
  ['opening a port', golden.nft.addPort, addPorts('berth', port), nlm.exclusive],
  ['opening a port of one address', golden.nft.addAddressPort, addPorts('berth', addressPort), nlm.exclusive],
  ['closing a port', golden.nft.removePort, removePorts('berth', port), 0],
  ['removing the table', golden.nft.removeTable, removeTable('berth'), 0],
] as const) {
  test(`${name} sends what nft sends, and insists on a new key`, () => {
    const tool = fromTool(hex);
    assert.equal(messages.length, 3);
    const [, message] = messages;
    assert.ok(message !== undefined);
    assert.deepEqual(ours(message), { type: tool.type, flags: tool.flags | extraFlags, body: withoutSetId(tool.body) });
  });
}

test('many ports are spread over messages whose lists an attribute can hold', () => {
  const portMappings = Array.from({ length: 1200 }, (_, index) => ({ protocol: 'tcp', containerPort: 80, hostPort: index + 1 }) as const);
  const messages = addPorts('berth', { address: '10.88.0.2', portMappings });
  assert.equal(messages.length, 2 + 3);
  const lines = describeNetlink(netlinkProtocol.netfilter, encodeMessages(messages).messages);
  assert.equal(lines.join(' ').match(/\/tcp to 10\.88\.0\.2:80/g)?.length, 1200);
});

test('route messages are described in words', () => {
  const { messages, slotPatches } = encodeMessages([
    createBridge({ name: 'berth0', index: 1000, mac: mac(1) }),
    veth,
    setLinkUp(1),
    addAddress({ index: 64, address: address('10.88.0.2'), prefixLength: 20 }),
    addDefaultRoute({ index: 64, gateway: address('10.88.0.1') }),
    deleteLink(1000),
  ]);
  assert.deepEqual(
    describeNetlink(netlinkProtocol.route, messages, {
      slotPatches,
      linkNames: new Map([
        [1000, 'berth0'],
        [64, 'eth0'],
      ]),
      slotName: (slot) => `slot ${slot}`,
    }),
    [
      'create bridge berth0, address be:57:0a:58:00:01, index 1000, up',
      'create veth veth0123456789a with peer eth0 in slot 3 (address be:57:0a:58:00:02, MTU 1400), MTU 1400, master berth0, index 1001, up',
      'bring link lo up',
      'add address 10.88.0.2/20 to eth0',
      'add a default route through 10.88.0.1 by eth0',
      'delete link berth0',
    ],
  );
});

test('the table is described in words', () => {
  const lines = describeNetlink(netlinkProtocol.netfilter, encodeMessages(replaceTable(bridge, [port, addressPort])).messages);
  assert.deepEqual(lines, [
    'create table berth',
    'remove table berth with all it holds',
    'create table berth',
    'create map address-ports from address . protocol . port to address . port',
    'create map ports from protocol . port to address . port',
    'create filter chain guard in table berth at prerouting, priority -300',
    'create chain hostports in table berth',
    'create nat chain prerouting in table berth at prerouting, priority -100',
    'create nat chain output in table berth at output, priority -100',
    'create nat chain postrouting in table berth at postrouting, priority 100',
    'add a rule to chain guard where the link it came by is berth0 and the destination address & 255.0.0.0 is 127.0.0.0: drop it',
    'add a rule to chain guard where the link it came by is berth0 and the source address & 255.0.0.0 is 127.0.0.0: drop it',
    'add a rule to chain hostports where map address-ports has an entry for the destination address, the protocol, the destination port: translate its destination to that entry',
    'add a rule to chain hostports where map ports has an entry for the protocol, the destination port: translate its destination to that entry',
    'add a rule to chain prerouting where its destination is an address of the host: go through chain hostports',
    'add a rule to chain output where its destination is an address of the host: go through chain hostports',
    'add a rule to chain postrouting where the source address & 255.255.240.0 is 10.88.0.0 and the link it leaves by is not berth0: masquerade it',
    'add a rule to chain postrouting where the source address & 255.0.0.0 is 127.0.0.0 and the link it leaves by is berth0: masquerade it',
    'add a rule to chain postrouting where the source address & 255.255.240.0 is 10.88.0.0 and the link it leaves by is berth0 and its translated destination is not none: masquerade it',
    'add 127.0.0.1:53/udp to 10.88.0.2:5353 in map address-ports of table berth',
    'add 8080/tcp to 10.88.0.2:80 in map ports of table berth',
  ]);
});

test('a message that is not ours is shown by its type and size', () => {
  const { messages } = encodeMessages([{ type: 99, flags: 0x300, parts: [Buffer.alloc(8)] }]);
  assert.deepEqual(describeNetlink(netlinkProtocol.route, messages), ['message of type 99 with flags 0x300 and 8 bytes']);
  assert.deepEqual(describeNetlink(7, messages), ['message of type 99 with flags 0x300 and 8 bytes']);
});
