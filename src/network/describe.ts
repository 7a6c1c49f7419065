/** Netlink datagrams in words, for `berth explain`. Pure: bytes in, one line per message out; nothing is asked of the host. */
import { type DecodedMessage, decodeMessages, netlinkProtocol, nlm } from './netlink.ts';
import { describeNftablesMessage } from './describe-nftables.ts';
import { nft } from './nftables.ts';
import { describeRouteMessage } from './route.ts';

/** What makes a description more telling. */
export interface NetlinkWording {
  /** The step's own pairs of byte offset and slot. */
  readonly slotPatches?: readonly number[];
  /** Names of links by their index. */
  readonly linkNames?: ReadonlyMap<number, string>;
  /** What a patched slot holds. */
  readonly slotName?: (slot: number) => string;
}

/** The loopback link has index 1 in every network namespace. */
const loopbackIndex = 1;

const isFrame = ({ type }: DecodedMessage): boolean => type === nft.batchBegin || type === nft.batchEnd;

/**
 * Each message of the datagram in words, such as `create veth vethab12 with peer eth0 in the pod's network namespace, master berth0`.
 * The frames of an nftables batch have no line. Throws internal on malformed bytes.
 */
export function describeNetlink(protocol: number, bytes: Uint8Array, wording: NetlinkWording = {}): string[] {
  const { slotPatches = [], linkNames = new Map<number, string>() } = wording;
  const slotName = wording.slotName ?? (() => "the pod's network namespace");
  const routeWording = {
    linkName: (index: number): string => linkNames.get(index) ?? (index === loopbackIndex ? 'lo' : `with index ${index}`),
    namespaceAt: (value: Buffer): string => {
      const offset = value.byteOffset - bytes.byteOffset;
      const at = slotPatches.findIndex((entry, index) => index % 2 === 0 && entry === offset);
      return slotName(slotPatches[at + 1] ?? 0);
    },
  };
  return decodeMessages(bytes)
    .filter((message) => protocol !== netlinkProtocol.netfilter || !isFrame(message))
    .map((message) => {
      const words =
        protocol === netlinkProtocol.route ? describeRouteMessage(message, routeWording) : protocol === netlinkProtocol.netfilter ? describeNftablesMessage(message) : undefined;
      return words ?? `message of type ${message.type} with flags 0x${(message.flags & ~(nlm.request | nlm.acknowledge)).toString(16)} and ${message.body.length} bytes`;
    });
}
