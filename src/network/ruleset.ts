/**
 * The nftables table of the bridge: what is translated, masqueraded and refused, as messages. In: the bridge and port mappings.
 * Out: batches. Sends nothing, stores nothing.
 *
 * - `guard` (before translation): route_localnet makes the kernel accept loopback addresses on the bridge; a pod must not reach
 *   what listens on the host's loopback only (CVE-2020-8558), nor send as if it were loopback.
 * - `hostports`: entered for packets to an address of the host. A mapping for one address comes before one for all.
 * - `postrouting`: pods leave by the address of the link; a client on the host's loopback, and a pod that reaches a pod through a
 *   host port, come as the bridge, or the answer would not find its way back through the translation.
 *
 * No forward chain: what one table accepts another may still drop, so a rule here could open nothing.
 */
import { type Subnet, ipv4Bytes, netmask, parseIpv4 } from './address.ts';
import { type NetlinkMessage, be16, u32 } from './netlink.ts';
import {
  type Chain,
  type DataMap,
  type Expression,
  type MapElement,
  addElements,
  addressTypeLocal,
  batch,
  compare,
  ctDestinationNat,
  deleteElements,
  deleteTable,
  drop,
  hookNumber,
  hookPriority,
  interfaceName,
  jump,
  keyPart,
  loadConnectionStatus,
  loadDestinationType,
  loadField,
  loadMeta,
  lookup,
  maskRegister,
  masquerade,
  newChain,
  newMap,
  newRule,
  newTable,
  protocolPart,
  register,
  translateDestination,
} from './nftables.ts';
import type { PortMapping, TransportProtocol } from './types.ts';

/** IPPROTO_* numbers. */
export const protocolNumbers: Readonly<Record<TransportProtocol, number>> = { tcp: 6, udp: 17, sctp: 132 };

const anyAddressPorts: DataMap = { name: 'ports', id: 1, key: ['protocol', 'port'], data: ['address', 'port'] };
const oneAddressPorts: DataMap = { name: 'address-ports', id: 2, key: ['address', 'protocol', 'port'], data: ['address', 'port'] };

const chains = {
  guard: { name: 'guard', hook: { type: 'filter', number: hookNumber.prerouting, priority: hookPriority.raw } },
  hostports: { name: 'hostports' },
  prerouting: { name: 'prerouting', hook: { type: 'nat', number: hookNumber.prerouting, priority: hookPriority.destinationNat } },
  output: { name: 'output', hook: { type: 'nat', number: hookNumber.output, priority: hookPriority.destinationNat } },
  postrouting: { name: 'postrouting', hook: { type: 'nat', number: hookNumber.postrouting, priority: hookPriority.sourceNat } },
} as const satisfies Readonly<Record<string, Chain>>;

const loopback: Pick<Subnet, 'network' | 'prefixLength'> = { network: 127 * 2 ** 24, prefixLength: 8 };

function addressIn(field: 'sourceAddress' | 'destinationAddress', { network, prefixLength }: Pick<Subnet, 'network' | 'prefixLength'>): Expression[] {
  return [loadField(field, register(0)), maskRegister(register(0), ipv4Bytes(netmask(prefixLength))), compare(register(0), 'equal', ipv4Bytes(network))];
}

const linkIs = (key: 'inputInterface' | 'outputInterface', operator: 'equal' | 'notEqual', name: string): Expression[] => [
  loadMeta(key, register(0)),
  compare(register(0), operator, interfaceName(name)),
];
const toHost = (): Expression[] => [loadDestinationType(register(0)), compare(register(0), 'equal', u32(addressTypeLocal))];
const wasTranslated = (): Expression[] => [loadConnectionStatus(register(0)), maskRegister(register(0), u32(ctDestinationNat)), compare(register(0), 'notEqual', u32(0))];
const translate = (map: DataMap): Expression[] => [lookup(map, register(0)), translateDestination({ addressAt: register(0), portAt: register(1) })];

/** What the table needs to know of the bridge. */
export interface TableOwner {
  readonly name: string;
  readonly subnet: Subnet;
  readonly tableName: string;
}

/** A pod's address and the ports that lead to it. */
export interface PortTarget {
  readonly address: string;
  readonly portMappings: readonly PortMapping[];
}

function rules({ name, subnet, tableName }: TableOwner): NetlinkMessage[] {
  const rule = (chain: keyof typeof chains, ...expressions: Expression[]): NetlinkMessage => newRule(tableName, chain, expressions);
  return [
    rule('guard', ...linkIs('inputInterface', 'equal', name), ...addressIn('destinationAddress', loopback), drop()),
    rule('guard', ...linkIs('inputInterface', 'equal', name), ...addressIn('sourceAddress', loopback), drop()),
    rule('hostports', loadField('destinationAddress', register(0)), loadMeta('protocol', register(1)), loadField('destinationPort', register(2)), ...translate(oneAddressPorts)),
    rule('hostports', loadMeta('protocol', register(0)), loadField('destinationPort', register(1)), ...translate(anyAddressPorts)),
    rule('prerouting', ...toHost(), jump('hostports')),
    rule('output', ...toHost(), jump('hostports')),
    rule('postrouting', ...addressIn('sourceAddress', subnet), ...linkIs('outputInterface', 'notEqual', name), masquerade()),
    rule('postrouting', ...addressIn('sourceAddress', loopback), ...linkIs('outputInterface', 'equal', name), masquerade()),
    rule('postrouting', ...addressIn('sourceAddress', subnet), ...linkIs('outputInterface', 'equal', name), ...wasTranslated(), masquerade()),
  ];
}

/** The host address of a mapping, or undefined where it is for every address. */
export function hostAddressOf({ hostIp }: PortMapping): string | undefined {
  return hostIp === undefined || hostIp === '' || hostIp === '0.0.0.0' ? undefined : hostIp;
}

function elementOf(mapping: PortMapping, address: string): { readonly map: DataMap; readonly element: MapElement } {
  const hostAddress = hostAddressOf(mapping);
  const port = [protocolPart(protocolNumbers[mapping.protocol]), keyPart(be16(mapping.hostPort))];
  const data = Buffer.concat([ipv4Bytes(parseIpv4(address) ?? 0), keyPart(be16(mapping.containerPort))]);
  return hostAddress === undefined
    ? { map: anyAddressPorts, element: { key: Buffer.concat(port), data } }
    : { map: oneAddressPorts, element: { key: Buffer.concat([ipv4Bytes(parseIpv4(hostAddress) ?? 0), ...port]), data } };
}

/** Elements per message, so that its list stays below the 64 KiB of an attribute. */
const elementsPerMessage = 512;

function elementMessages(targets: readonly PortTarget[], toMessage: (map: DataMap, elements: readonly MapElement[]) => NetlinkMessage): NetlinkMessage[] {
  const entries = targets.flatMap(({ address, portMappings }) => portMappings.map((mapping) => elementOf(mapping, address)));
  return [oneAddressPorts, anyAddressPorts].flatMap((map) => {
    const elements = entries.filter((entry) => entry.map === map).map(({ element }) => element);
    return Array.from({ length: Math.ceil(elements.length / elementsPerMessage) }, (_, index) =>
      toMessage(map, elements.slice(index * elementsPerMessage, (index + 1) * elementsPerMessage)),
    );
  });
}

/** Replaces the whole table at once, whatever was in it, by one with these ports. Connections that are open go on. */
export function replaceTable(owner: TableOwner, targets: readonly PortTarget[]): NetlinkMessage[] {
  const { tableName } = owner;
  return batch([
    // Removing wants a table that exists; within one batch nobody sees the moment without it.
    newTable(tableName),
    deleteTable(tableName),
    newTable(tableName),
    ...[oneAddressPorts, anyAddressPorts].map((map) => newMap(tableName, map)),
    ...Object.values(chains).map((chain) => newChain(tableName, chain)),
    ...rules(owner),
    ...elementMessages(targets, (map, elements) => addElements(tableName, map.name, elements)),
  ]);
}

/** Removes the table; ENOENT where there is none. */
export function removeTable(tableName: string): NetlinkMessage[] {
  return batch([deleteTable(tableName)]);
}

/** Opens the ports of one pod, all or none; EEXIST where one is taken. */
export function addPorts(tableName: string, target: PortTarget): NetlinkMessage[] {
  return batch(elementMessages([target], (map, elements) => addElements(tableName, map.name, elements)));
}

/** Closes the ports of one pod, all or none; ENOENT where they are closed. */
export function removePorts(tableName: string, target: PortTarget): NetlinkMessage[] {
  return batch(
    elementMessages([target], (map, elements) =>
      deleteElements(
        tableName,
        map.name,
        elements.map(({ key }) => key),
      ),
    ),
  );
}
