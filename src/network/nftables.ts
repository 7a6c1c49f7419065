/**
 * nftables messages over nfnetlink: tables, chains, maps, elements, and rules made of register expressions. In: names and
 * expressions as data. Out: messages. Layouts: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h. Only the `ip` family;
 * knows nothing of pods or bridges. All numbers in attributes are big-endian, register contents are as the packet has them.
 */
import { type Attribute, type NetlinkMessage, attribute, be32, cString, nested, nlm, u8 } from './netlink.ts';

/** NFPROTO_IPV4. */
export const familyIpv4 = 2;
const subsystem = 10 << 8;
/** NFT_MSG_* and the two messages that frame a batch (NFNL_MSG_BATCH_*). */
export const nft = {
  batchBegin: 0x10,
  batchEnd: 0x11,
  newTable: subsystem,
  deleteTable: subsystem | 2,
  newChain: subsystem | 3,
  newRule: subsystem | 6,
  newSet: subsystem | 9,
  newElement: subsystem | 12,
  deleteElement: subsystem | 14,
} as const;
/** NFTA_TABLE_*. */
export const tableAttribute = { name: 1, flags: 2 } as const;
/** NFTA_CHAIN_*. */
export const chainAttribute = { table: 1, name: 3, hook: 4, policy: 5, type: 7 } as const;
/** NFTA_HOOK_*. */
export const hookAttribute = { number: 1, priority: 2 } as const;
/** NFTA_RULE_*. */
export const ruleAttribute = { table: 1, chain: 2, expressions: 4 } as const;
/** NFTA_SET_*; maps are sets with data. */
export const setAttribute = { table: 1, name: 2, flags: 3, keyType: 4, keyLength: 5, dataType: 6, dataLength: 7, id: 10 } as const;
/** NFTA_SET_ELEM_LIST_*. */
export const elementsAttribute = { table: 1, set: 2, elements: 3 } as const;
/** NFTA_SET_ELEM_*. */
export const elementAttribute = { key: 1, data: 2 } as const;
/** NFTA_LIST_ELEM, the type of every item of a list. */
export const listElement = 1;
/** NFTA_EXPR_*. */
export const expressionAttribute = { name: 1, data: 2 } as const;
/** NFTA_DATA_*. */
export const dataAttribute = { value: 1, verdict: 2 } as const;
/** NFTA_VERDICT_*. */
export const verdictAttribute = { code: 1, chain: 2 } as const;
const setFlagMap = 8;

/** Where a chain hooks in: numbers of NF_INET_* and what runs there. */
export const hookNumber = { prerouting: 0, output: 3, postrouting: 4 } as const;
/** NF_IP_PRI_RAW, _NAT_DST and _NAT_SRC. */
export const hookPriority = { raw: -300, destinationNat: -100, sourceNat: 100 } as const;

/** Types of key parts by nft's own numbers, by which `nft list` prints them; a concatenation has six bits per part. */
export const dataType = { address: 7, protocol: 12, port: 13 } as const;
/** Name of a key part. */
export type DataType = keyof typeof dataType;
const concatenated = (types: readonly DataType[]): number => types.reduce((sum, type) => sum * 64 + dataType[type], 0);

/** 32-bit registers. A value longer than four bytes goes on in the next ones. The first is NFT_REG_1, as nft writes it, the others NFT_REG32_01 and on. */
export const register = (index: number): number => (index === 0 ? 1 : 8 + index);

const header = (resource = 0): Buffer => Buffer.from([resource === 0 ? familyIpv4 : 0, 0, resource >> 8, resource & 255]);

/** A batch is all or nothing: its messages are applied together or not at all. */
export function batch(messages: readonly NetlinkMessage[]): NetlinkMessage[] {
  // The subsystem is named in the resource id of both frames.
  const frame = (type: number): NetlinkMessage => ({ type, flags: 0, control: true, parts: [header(subsystem >> 8)] });
  return [frame(nft.batchBegin), ...messages, frame(nft.batchEnd)];
}

/** Creates a table; one that exists is no error. */
export function newTable(table: string): NetlinkMessage {
  return { type: nft.newTable, flags: nlm.create, parts: [header(), attribute(tableAttribute.name, cString(table)), attribute(tableAttribute.flags, be32(0))] };
}

/** Removes a table with all it holds; ENOENT where there is none. */
export function deleteTable(table: string): NetlinkMessage {
  return { type: nft.deleteTable, flags: 0, parts: [header(), attribute(tableAttribute.name, cString(table))] };
}

/** A chain: with a hook the kernel enters it, without only jumps do. */
export interface Chain {
  readonly name: string;
  readonly hook?: { readonly type: 'filter' | 'nat'; readonly number: number; readonly priority: number };
}

/** Creates a chain whose policy is to accept. */
export function newChain(table: string, { name, hook }: Chain): NetlinkMessage {
  const base =
    hook === undefined
      ? []
      : [
          attribute(chainAttribute.type, cString(hook.type)),
          attribute(chainAttribute.policy, be32(1)),
          nested(chainAttribute.hook, attribute(hookAttribute.number, be32(hook.number)), attribute(hookAttribute.priority, be32(hook.priority))),
        ];
  return { type: nft.newChain, flags: nlm.create, parts: [header(), attribute(chainAttribute.table, cString(table)), attribute(chainAttribute.name, cString(name)), ...base] };
}

/** A map from a concatenation to a concatenation; every part takes a multiple of four bytes. */
export interface DataMap {
  readonly name: string;
  /** Number that is unique in its batch. */
  readonly id: number;
  readonly key: readonly DataType[];
  readonly data: readonly DataType[];
}

/** Creates a map. */
export function newMap(table: string, map: DataMap): NetlinkMessage {
  return {
    type: nft.newSet,
    flags: nlm.create,
    parts: [
      header(),
      attribute(setAttribute.table, cString(table)),
      attribute(setAttribute.name, cString(map.name)),
      attribute(setAttribute.flags, be32(setFlagMap)),
      attribute(setAttribute.keyType, be32(concatenated(map.key))),
      attribute(setAttribute.keyLength, be32(4 * map.key.length)),
      attribute(setAttribute.dataType, be32(concatenated(map.data))),
      attribute(setAttribute.dataLength, be32(4 * map.data.length)),
      attribute(setAttribute.id, be32(map.id)),
    ],
  };
}

/** One entry of a map. */
export interface MapElement {
  readonly key: Buffer;
  readonly data: Buffer;
}

const elementList = (table: string, map: string, elements: readonly Attribute[]): NetlinkMessage['parts'] => [
  header(),
  attribute(elementsAttribute.table, cString(table)),
  attribute(elementsAttribute.set, cString(map)),
  nested(elementsAttribute.elements, ...elements),
];
const valueOf = (type: number, value: Buffer): Attribute => nested(type, attribute(dataAttribute.value, value));

/** Adds entries; EEXIST where a key has one already. */
export function addElements(table: string, map: string, elements: readonly MapElement[]): NetlinkMessage {
  const list = elements.map(({ key, data }) => nested(listElement, valueOf(elementAttribute.key, key), valueOf(elementAttribute.data, data)));
  return { type: nft.newElement, flags: nlm.create | nlm.exclusive, parts: elementList(table, map, list) };
}

/** Removes the entries of these keys; ENOENT where one is missing. */
export function deleteElements(table: string, map: string, keys: readonly Buffer[]): NetlinkMessage {
  return {
    type: nft.deleteElement,
    flags: 0,
    parts: elementList(
      table,
      map,
      keys.map((key) => nested(listElement, valueOf(elementAttribute.key, key))),
    ),
  };
}

/** One expression of a rule; expressions run in order until one does not match. */
export type Expression = Attribute;

/** Appends a rule. */
export function newRule(table: string, chain: string, expressions: readonly Expression[]): NetlinkMessage {
  return {
    type: nft.newRule,
    flags: nlm.create | nlm.append,
    parts: [header(), attribute(ruleAttribute.table, cString(table)), attribute(ruleAttribute.chain, cString(chain)), nested(ruleAttribute.expressions, ...expressions)],
  };
}

const expression = (name: string, ...data: readonly Attribute[]): Expression =>
  nested(listElement, attribute(expressionAttribute.name, cString(name)), nested(expressionAttribute.data, ...data));

/** NFT_PAYLOAD_NETWORK_HEADER and NFT_PAYLOAD_TRANSPORT_HEADER. */
export const payloadBase = { network: 1, transport: 2 } as const;
/** NFTA_PAYLOAD_*. */
export const payloadAttribute = { destination: 1, base: 2, offset: 3, length: 4 } as const;
/** The fields that rules look at: base, offset and length in bytes. */
export const packetField = {
  sourceAddress: { base: payloadBase.network, offset: 12, length: 4 },
  destinationAddress: { base: payloadBase.network, offset: 16, length: 4 },
  destinationPort: { base: payloadBase.transport, offset: 2, length: 2 },
} as const;

/** Loads a field of the packet. */
export function loadField(field: keyof typeof packetField, into: number): Expression {
  const { base, offset, length } = packetField[field];
  return expression(
    'payload',
    attribute(payloadAttribute.destination, be32(into)),
    attribute(payloadAttribute.base, be32(base)),
    attribute(payloadAttribute.offset, be32(offset)),
    attribute(payloadAttribute.length, be32(length)),
  );
}

/** NFTA_META_*. */
export const metaAttribute = { destination: 1, key: 2 } as const;
/** NFT_META_IIFNAME, _OIFNAME and _L4PROTO. */
export const metaKey = { inputInterface: 6, outputInterface: 7, protocol: 16 } as const;

/** Loads a fact about the packet. */
export function loadMeta(key: keyof typeof metaKey, into: number): Expression {
  return expression('meta', attribute(metaAttribute.key, be32(metaKey[key])), attribute(metaAttribute.destination, be32(into)));
}

/** NFTA_CT_*. */
export const ctAttribute = { destination: 1, key: 2 } as const;
/** NFT_CT_STATUS, in host byte order; IPS_DST_NAT is set once a destination was translated. */
export const ctStatus = 2;
/** IPS_DST_NAT. */
export const ctDestinationNat = 0x20;

/** Loads the status bits of the packet's connection. */
export function loadConnectionStatus(into: number): Expression {
  return expression('ct', attribute(ctAttribute.key, be32(ctStatus)), attribute(ctAttribute.destination, be32(into)));
}

/** NFTA_FIB_*. */
export const fibAttribute = { destination: 1, result: 2, flags: 3 } as const;
/** RTN_LOCAL: the address is one of this host. */
export const addressTypeLocal = 2;

/** Loads the routing type of the destination address (NFT_FIB_RESULT_ADDRTYPE by NFTA_FIB_F_DADDR). */
export function loadDestinationType(into: number): Expression {
  return expression('fib', attribute(fibAttribute.flags, be32(2)), attribute(fibAttribute.result, be32(3)), attribute(fibAttribute.destination, be32(into)));
}

/** NFTA_BITWISE_*. */
export const bitwiseAttribute = { source: 1, destination: 2, length: 3, mask: 4, xor: 5 } as const;

/** Keeps the bits of a mask. */
export function maskRegister(at: number, mask: Buffer): Expression {
  return expression(
    'bitwise',
    attribute(bitwiseAttribute.source, be32(at)),
    attribute(bitwiseAttribute.destination, be32(at)),
    attribute(bitwiseAttribute.length, be32(mask.length)),
    valueOf(bitwiseAttribute.mask, mask),
    valueOf(bitwiseAttribute.xor, Buffer.alloc(mask.length)),
  );
}

/** NFTA_CMP_*. */
export const compareAttribute = { source: 1, operator: 2, data: 3 } as const;
/** NFT_CMP_EQ and NFT_CMP_NEQ. */
export const compareOperator = { equal: 0, notEqual: 1 } as const;

/** Goes on where the register equals the value, or where it does not. */
export function compare(at: number, operator: keyof typeof compareOperator, value: Buffer): Expression {
  return expression(
    'cmp',
    attribute(compareAttribute.source, be32(at)),
    attribute(compareAttribute.operator, be32(compareOperator[operator])),
    valueOf(compareAttribute.data, value),
  );
}

/** NFTA_LOOKUP_*. */
export const lookupAttribute = { set: 1, source: 2, destination: 3, setId: 4 } as const;

/** Replaces the registers from `at` on by the map's entry for them; goes on only where there is one. */
export function lookup(map: DataMap, at: number): Expression {
  return expression(
    'lookup',
    attribute(lookupAttribute.source, be32(at)),
    attribute(lookupAttribute.destination, be32(at)),
    attribute(lookupAttribute.set, cString(map.name)),
    attribute(lookupAttribute.setId, be32(map.id)),
  );
}

/** NFTA_NAT_*. */
export const natAttribute = { type: 1, family: 2, address: 3, port: 5 } as const;

/** Translates the destination to the address and the port in two registers. Ends the chain for the packet. */
export function translateDestination({ addressAt, portAt }: { readonly addressAt: number; readonly portAt: number }): Expression {
  return expression(
    'nat',
    attribute(natAttribute.type, be32(1)),
    attribute(natAttribute.family, be32(familyIpv4)),
    attribute(natAttribute.address, be32(addressAt)),
    attribute(natAttribute.port, be32(portAt)),
  );
}

/** Translates the source to an address of the link that the packet leaves by. */
export const masquerade = (): Expression => expression('masq');

/** NFTA_IMMEDIATE_*. */
export const immediateAttribute = { destination: 1, data: 2 } as const;
/** NF_DROP and NFT_JUMP. */
export const verdictCode = { drop: 0, jump: -3 } as const;
const immediate = (...verdict: readonly Attribute[]): Expression =>
  expression('immediate', attribute(immediateAttribute.destination, be32(0)), nested(immediateAttribute.data, nested(dataAttribute.verdict, ...verdict)));

/** Drops the packet. */
export const drop = (): Expression => immediate(attribute(verdictAttribute.code, be32(verdictCode.drop)));

/** Enters another chain and comes back at its end. */
export const jump = (chain: string): Expression => immediate(attribute(verdictAttribute.code, be32(verdictCode.jump)), attribute(verdictAttribute.chain, cString(chain)));

/** An interface name as the kernel compares it: 16 bytes filled with NUL. */
export function interfaceName(name: string): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.write(name);
  return bytes;
}

/** A part of a key or a datum: its bytes, filled up to four. */
export function keyPart(value: Buffer): Buffer {
  return Buffer.concat([value, Buffer.alloc(4 - value.length)]);
}

/** One byte as a part of a key. */
export const protocolPart = (number: number): Buffer => keyPart(u8(number));
