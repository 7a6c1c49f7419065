/**
 * The rtnetlink messages of a bridge network and their sentences. In: names, indexes, addresses. Out: messages; or words for the
 * bytes of one. Layouts: rtnetlink(7), linux/if_link.h, linux/veth.h, linux/if_addr.h. Sends nothing.
 */
import { formatIpv4, ipv4Bytes, netmask } from './address.ts';
import { type DecodedMessage, type NetlinkMessage, attribute, cString, decodeAttributes, nlm, textOf, u32, u8 } from './netlink.ts';

const rtm = { newLink: 16, deleteLink: 17, newAddress: 20, newRoute: 24 } as const;
const linkAttribute = { address: 1, name: 3, mtu: 4, master: 10, linkInfo: 18, netnsDescriptor: 28 } as const;
const linkInfo = { kind: 1, data: 2, portKind: 4, portData: 5 } as const;
/** IFLA_BRPORT_MODE, the hairpin flag. */
const bridgePortHairpin = 4;
/** VETH_INFO_PEER: an ifinfomsg, then link attributes. */
const vethPeer = 1;
const addressAttribute = { address: 1, local: 2, broadcast: 4 } as const;
const routeAttribute = { outgoingInterface: 4, gateway: 5 } as const;
const familyInet = 2;
const iffUp = 1;
const linkHeaderLength = 16;
const addressHeaderLength = 8;
const routeHeaderLength = 12;
/** RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST. */
const mainTable = 254;
const staticProtocol = 4;
const unicast = 1;

/** struct ifinfomsg. `up` sets IFF_UP and says so in the change mask. */
function linkHeader({ index, up }: { readonly index: number; readonly up: boolean }): Buffer {
  const header = Buffer.alloc(linkHeaderLength);
  header.writeInt32LE(index, 4);
  header.writeUInt32LE(up ? iffUp : 0, 8);
  header.writeUInt32LE(up ? iffUp : 0, 12);
  return header;
}

const mtuParts = (mtu: number | undefined): ReturnType<typeof attribute>[] => (mtu === undefined ? [] : [attribute(linkAttribute.mtu, u32(mtu))]);

/** Creates a bridge that is up. EEXIST where the name or the index is taken. A fixed MAC keeps neighbours' caches valid while ports come and go. */
export function createBridge(link: { readonly name: string; readonly index: number; readonly mac: Buffer; readonly mtu?: number | undefined }): NetlinkMessage {
  return {
    type: rtm.newLink,
    flags: nlm.create | nlm.exclusive,
    parts: [
      linkHeader({ index: link.index, up: true }),
      attribute(linkAttribute.address, link.mac),
      ...mtuParts(link.mtu),
      attribute(linkAttribute.name, cString(link.name)),
      attribute(linkAttribute.linkInfo, attribute(linkInfo.kind, Buffer.from('bridge'))),
    ],
  };
}

/** Both ends of a pair. The peer cannot be brought up here: veth refuses with ENOTCONN while its other end is not registered. */
export interface VethPair {
  readonly name: string;
  readonly index: number;
  /** Index of the bridge that the host's end becomes a port of. */
  readonly master: number;
  readonly mtu?: number | undefined;
  readonly peer: { readonly name: string; readonly index: number; readonly mac: Buffer; readonly netnsSlot: number };
}

/** Creates a pair whose peer begins its life in another network namespace, and makes the near end a port of the bridge, up. */
export function createVethPair(pair: VethPair): NetlinkMessage {
  const peer = attribute(
    vethPeer,
    linkHeader({ index: pair.peer.index, up: false }),
    attribute(linkAttribute.address, pair.peer.mac),
    ...mtuParts(pair.mtu),
    attribute(linkAttribute.netnsDescriptor, { slot: pair.peer.netnsSlot }),
    attribute(linkAttribute.name, cString(pair.peer.name)),
  );
  return {
    type: rtm.newLink,
    flags: nlm.create | nlm.exclusive,
    parts: [
      linkHeader({ index: pair.index, up: true }),
      ...mtuParts(pair.mtu),
      attribute(linkAttribute.master, u32(pair.master)),
      attribute(linkAttribute.name, cString(pair.name)),
      attribute(linkAttribute.linkInfo, attribute(linkInfo.kind, Buffer.from('veth')), attribute(linkInfo.data, peer)),
    ],
  };
}

/** Brings an existing link up. */
export function setLinkUp(index: number): NetlinkMessage {
  return { type: rtm.newLink, flags: 0, parts: [linkHeader({ index, up: true })] };
}

/**
 * Lets a port of a bridge send back to where a frame came from. A pod that uses its own host port needs that where br_netfilter is
 * loaded: the bridge then translates the destination itself and never shows the frame to the router. It cannot be part of creation.
 */
export function setPortHairpin(index: number): NetlinkMessage {
  const port = [attribute(linkInfo.portKind, Buffer.from('bridge')), attribute(linkInfo.portData, attribute(bridgePortHairpin, u8(1)))];
  return { type: rtm.newLink, flags: 0, parts: [linkHeader({ index, up: false }), attribute(linkAttribute.linkInfo, ...port)] };
}

/** Removes a link; ENODEV where there is none. */
export function deleteLink(index: number): NetlinkMessage {
  return { type: rtm.deleteLink, flags: 0, parts: [linkHeader({ index, up: false })] };
}

/** Adds an IPv4 address; EEXIST where the link has it. */
export function addAddress({ index, address, prefixLength }: { readonly index: number; readonly address: number; readonly prefixLength: number }): NetlinkMessage {
  const header = Buffer.alloc(addressHeaderLength);
  header.writeUInt8(familyInet, 0);
  header.writeUInt8(prefixLength, 1);
  header.writeUInt32LE(index, 4);
  const broadcast = (address | ~netmask(prefixLength)) >>> 0;
  return {
    type: rtm.newAddress,
    flags: nlm.create | nlm.exclusive,
    parts: [
      header,
      attribute(addressAttribute.local, ipv4Bytes(address)),
      attribute(addressAttribute.address, ipv4Bytes(address)),
      attribute(addressAttribute.broadcast, ipv4Bytes(broadcast)),
    ],
  };
}

/** Adds the default route through a gateway that a link reaches. */
export function addDefaultRoute({ index, gateway }: { readonly index: number; readonly gateway: number }): NetlinkMessage {
  const header = Buffer.concat([u8(familyInet), Buffer.alloc(3), u8(mainTable), u8(staticProtocol), u8(0), u8(unicast), Buffer.alloc(4)]);
  return {
    type: rtm.newRoute,
    flags: nlm.create | nlm.exclusive,
    parts: [header, attribute(routeAttribute.gateway, ipv4Bytes(gateway)), attribute(routeAttribute.outgoingInterface, u32(index))],
  };
}

/** What a description may know beyond the bytes. */
export interface RouteWording {
  /** Name of the link with this index. */
  readonly linkName: (index: number) => string;
  /** The network namespace whose descriptor is patched in at this place of memory. */
  readonly namespaceAt: (value: Buffer) => string;
}

const readAddress = (value: Buffer | undefined): string => (value?.length === 4 ? formatIpv4(value.readUInt32BE(0)) : 'unknown');
const readMac = (value: Buffer): string => [...value].map((byte) => byte.toString(16).padStart(2, '0')).join(':');

/** The optional properties of a link as a list of phrases. */
function describeProperties(attributes: ReadonlyMap<number, Buffer>, wording: RouteWording): string[] {
  const [mac, mtu, master] = [attributes.get(linkAttribute.address), attributes.get(linkAttribute.mtu), attributes.get(linkAttribute.master)];
  return [
    ...(mac === undefined ? [] : [`address ${readMac(mac)}`]),
    ...(mtu?.length === 4 ? [`MTU ${mtu.readUInt32LE(0)}`] : []),
    ...(master?.length === 4 ? [`master ${wording.linkName(master.readUInt32LE(0))}`] : []),
  ];
}

function describePeer(data: Buffer | undefined, wording: RouteWording): string {
  const peer = data === undefined ? undefined : decodeAttributes(data).get(vethPeer);
  if (peer === undefined || peer.length < linkHeaderLength) return '';
  const attributes = decodeAttributes(peer.subarray(linkHeaderLength));
  const netns = attributes.get(linkAttribute.netnsDescriptor);
  const properties = describeProperties(attributes, wording);
  return ` with peer ${textOf(attributes.get(linkAttribute.name))}${netns === undefined ? '' : ` in ${wording.namespaceAt(netns)}`}${properties.length === 0 ? '' : ` (${properties.join(', ')})`}`;
}

function describeNewLink(message: DecodedMessage, wording: RouteWording): string {
  const [index, up] = [message.body.readInt32LE(4), (message.body.readUInt32LE(8) & iffUp) !== 0];
  const attributes = decodeAttributes(message.body.subarray(linkHeaderLength));
  const info = attributes.get(linkAttribute.linkInfo);
  const details = decodeAttributes(info ?? Buffer.alloc(0));
  const portData = decodeAttributes(details.get(linkInfo.portData) ?? Buffer.alloc(0));
  if (portData.has(bridgePortHairpin)) return `let bridge port ${wording.linkName(index)} send back to where a frame came from`;
  if ((message.flags & nlm.create) === 0) return [`bring link ${wording.linkName(index)} ${up ? 'up' : 'down'}`, ...describeProperties(attributes, wording)].join(', ');
  const kind = textOf(details.get(linkInfo.kind));
  const peer = kind === 'veth' ? describePeer(details.get(linkInfo.data), wording) : '';
  return [
    `create ${kind} ${textOf(attributes.get(linkAttribute.name))}${peer}`,
    ...describeProperties(attributes, wording),
    ...(index === 0 ? [] : [`index ${index}`]),
    ...(up ? ['up'] : []),
  ].join(', ');
}

/** One rtnetlink message in words; undefined for a message that this file does not make. */
export function describeRouteMessage(message: DecodedMessage, wording: RouteWording): string | undefined {
  const { type, body } = message;
  if ((type === rtm.newLink || type === rtm.deleteLink) && body.length >= linkHeaderLength) {
    return type === rtm.newLink ? describeNewLink(message, wording) : `delete link ${wording.linkName(body.readInt32LE(4))}`;
  }
  if (type === rtm.newAddress && body.length >= addressHeaderLength) {
    const attributes = decodeAttributes(body.subarray(addressHeaderLength));
    return `add address ${readAddress(attributes.get(addressAttribute.local))}/${body.readUInt8(1)} to ${wording.linkName(body.readUInt32LE(4))}`;
  }
  if (type === rtm.newRoute && body.length >= routeHeaderLength) {
    const attributes = decodeAttributes(body.subarray(routeHeaderLength));
    const outgoing = attributes.get(routeAttribute.outgoingInterface);
    return `add a ${body.readUInt8(1) === 0 ? 'default ' : ''}route through ${readAddress(attributes.get(routeAttribute.gateway))}${outgoing?.length === 4 ? ` by ${wording.linkName(outgoing.readUInt32LE(0))}` : ''}`;
  }
  return undefined;
}
