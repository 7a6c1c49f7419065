/**
 * The bridge as plans: set up, attach a pod, open its ports, detach it, take everything away. In: checked options and an
 * attachment. Out: plans. Pure; which address a pod gets is decided elsewhere.
 *
 * Every interface index is chosen here, from the bridge's name and the pod's address, so that no plan has to ask what the kernel
 * chose; and an index is taken as long as its address is, so two pods with one address cannot come to be.
 */
import { createHash } from 'node:crypto';
import { assert, invalidArgument } from '#core';
import { type Plan, type Section, type Step, type StepOf, clone, errno, fileSystem, noSlot } from '#plan';
import { type Subnet, formatIpv4, ipv4Bytes, parseIpv4, parseSubnet } from './address.ts';
import { type NetlinkMessage, encodeMessages, netlinkProtocol } from './netlink.ts';
import { addAddress, addDefaultRoute, createBridge, createVethPair, deleteLink, setLinkUp, setPortHairpin } from './route.ts';
import { type PortTarget, addPorts, removePorts, removeTable, replaceTable } from './ruleset.ts';
import type { Attachment, BridgeOptions, PortMapping } from './types.ts';

/** Options after their check, with what follows from them. */
export interface Bridge {
  readonly name: string;
  readonly index: number;
  readonly subnet: Subnet;
  /** Address of the bridge as a number. */
  readonly gateway: number;
  readonly tableName: string;
  readonly mtu: number | undefined;
  readonly markerDir: string;
}

const linkNamePattern = /^[a-z][a-z0-9_-]{0,14}$/i;
const tableNamePattern = /^[a-z][a-z0-9_-]{0,30}$/i;
const mtuMin = 576;
const mtuMax = 65_535;
/** Above what the kernel hands out by itself, below 2^31; ten bits of the bridge's name and twenty of the address follow. */
const indexBase = 0x10000000;
const loopbackIndex = 1;
/** Above the fallback tunnels that a new network namespace may begin with. */
const podInterfaceIndex = 64;

const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest();

/** The options checked. Throws invalidArgument with the option's path. */
export function decodeBridgeOptions(options: BridgeOptions): Bridge {
  const { name, tableName, mtu, markerDir } = options;
  if (!linkNamePattern.test(name)) throw invalidArgument('network.name', `${JSON.stringify(name.slice(0, 80))} does not match ${linkNamePattern.source}`);
  if (!tableNamePattern.test(tableName)) throw invalidArgument('network.tableName', `${JSON.stringify(tableName.slice(0, 80))} does not match ${tableNamePattern.source}`);
  if (mtu !== undefined && (!Number.isInteger(mtu) || mtu < mtuMin || mtu > mtuMax)) throw invalidArgument('network.mtu', `${mtu} is not between ${mtuMin} and ${mtuMax}`);
  if (!markerDir.startsWith('/')) throw invalidArgument('network.markerDir', `${JSON.stringify(markerDir)} is not absolute`);
  const subnet = parseSubnet('network.subnet', options.subnet);
  const gateway = subnet.network + 1;
  return { name, index: indexOf(name, 1), subnet, gateway, tableName, mtu, markerDir };
}

/** Index of the link that belongs to an address, by its offset in the network. */
function indexOf(bridgeName: string, offset: number): number {
  return indexBase + (hashOf(bridgeName).readUInt16BE(0) & 1023) * 2 ** 20 + offset;
}

/** `veth` and 44 bits of the pod id's hash: 15 characters, all that a name may have. */
export function hostInterfaceOf(podId: string): string {
  return `veth${hashOf(podId).toString('hex').slice(0, 11)}`;
}

/** A MAC that follows from the address: locally administered, unicast. The bridge's neighbours never have a stale one. */
const macOf = (address: number): Buffer => Buffer.concat([Buffer.from([0xbe, 0x57]), ipv4Bytes(address)]);

/** The attachment that a pod with this address has. */
export function buildAttachment(
  bridge: Bridge,
  { podId, address, portMappings }: { readonly podId: string; readonly address: string; readonly portMappings: readonly PortMapping[] },
): Attachment {
  return {
    podId,
    interfaceName: 'eth0',
    addresses: [`${address}/${bridge.subnet.prefixLength}`],
    gateway: formatIpv4(bridge.gateway),
    hostInterface: hostInterfaceOf(podId),
    portMappings,
  };
}

/** The IPv4 address of an attachment without its prefix length. */
export function addressOf({ addresses: [first = ''] }: Pick<Attachment, 'addresses'>): string {
  return first.slice(0, first.indexOf('/'));
}

/** The attachment as a target of ports. */
export const portTargetOf = (attachment: Attachment): PortTarget => ({ address: addressOf(attachment), portMappings: attachment.portMappings });

type StepExtras = Pick<Step, 'origin' | 'ignore' | 'skipOnIgnored'>;

function netlinkStep(protocol: number, messages: readonly NetlinkMessage[], extras: StepExtras): StepOf<'netlink'> {
  return { kind: 'netlink', protocol, ...encodeMessages(messages), ...extras };
}
const routeStep = (messages: readonly NetlinkMessage[], extras: StepExtras): Step => netlinkStep(netlinkProtocol.route, messages, extras);
const netfilterStep = (messages: readonly NetlinkMessage[], extras: StepExtras): Step => netlinkStep(netlinkProtocol.netfilter, messages, extras);
const sysctlStep = (path: string, value: string, origin: string): Step => ({
  kind: 'writeFile',
  dir: noSlot,
  path: `/proc/sys/${path}`,
  data: Buffer.from(value),
  fileSystem: fileSystem.proc,
  origin,
});
const markerPath = ({ markerDir }: Bridge, podId: string): string => `${markerDir}/${podId}`;
const onHost = (...steps: readonly Step[]): Section => ({ actor: 'host', steps });

/**
 * Makes the bridge with its address, lets loopback clients reach pods, and replaces the table by one with these ports. Running
 * it again changes nothing but the ports. A link of that name which is not ours makes the address fail with ENODEV.
 */
export function planEnsureBridge(bridge: Bridge, { targets, enableIpForward }: { readonly targets: readonly PortTarget[]; readonly enableIpForward: boolean }): Plan {
  const { name, index, gateway, subnet } = bridge;
  const origin = `network ${name}`;
  return {
    sections: [
      onHost(
        routeStep([createBridge({ name, index, mac: macOf(gateway), mtu: bridge.mtu })], { origin, ignore: [errno.exists] }),
        routeStep([addAddress({ index, address: gateway, prefixLength: subnet.prefixLength })], { origin, ignore: [errno.exists] }),
        sysctlStep(`net/ipv4/conf/${name}/route_localnet`, '1', origin),
        netfilterStep(replaceTable(bridge, targets), { origin }),
        ...(enableIpForward ? [sysctlStep('net/ipv4/ip_forward', '1', origin)] : []),
      ),
    ],
  };
}

/** Replaces the table alone. */
export function planReplaceTable(bridge: Bridge, targets: readonly PortTarget[]): Plan {
  return { sections: [onHost(netfilterStep(replaceTable(bridge, targets), { origin: `network ${bridge.name}` }))] };
}

/** ip_forward first and the link last: a link that is there says that the rest may be too. */
function removeBridgeSteps(bridge: Bridge, { disableIpForward }: { readonly disableIpForward: boolean }): Step[] {
  const origin = `network ${bridge.name}`;
  return [
    ...(disableIpForward ? [sysctlStep('net/ipv4/ip_forward', '0', origin)] : []),
    netfilterStep(removeTable(bridge.tableName), { origin, ignore: [errno.noEntry] }),
    routeStep([deleteLink(bridge.index)], { origin, ignore: [errno.noDevice] }),
  ];
}

/** Takes table and bridge away, and ip_forward back where it was off before. Absence is success. */
export function planRemoveBridge(bridge: Bridge, options: { readonly disableIpForward: boolean }): Plan {
  return { sections: [onHost({ kind: 'removeTree', dir: noSlot, path: bridge.markerDir }, ...removeBridgeSteps(bridge, options))] };
}

/** Makes the marker directory hold exactly these pods. */
export function planReplaceMarkers(bridge: Bridge, podIds: readonly string[]): Plan {
  return {
    sections: [
      onHost(
        { kind: 'removeTree', dir: noSlot, path: bridge.markerDir },
        ...(podIds.length === 0 ? [] : markerDirectorySteps(bridge)),
        ...podIds.map((podId): Step => ({ kind: 'makeFile', dir: noSlot, path: markerPath(bridge, podId), mode: 0o600, data: Buffer.alloc(0), origin: `pod ${podId}` })),
      ),
    ],
  };
}

const markerDirectorySteps = (bridge: Bridge): Step[] => [{ kind: 'makeDirectory', dir: noSlot, path: bridge.markerDir, mode: 0o700, parents: 1 }];

/** Names of links that a plan of this bridge speaks of, for describing its messages. */
export function linkNamesOf(bridge: Bridge, attachment?: Attachment): ReadonlyMap<number, string> {
  const names = new Map([
    [bridge.index, bridge.name],
    [loopbackIndex, 'lo'],
    [podInterfaceIndex, 'eth0'],
  ]);
  if (attachment !== undefined) names.set(hostIndexOf(bridge, attachment), attachment.hostInterface);
  return names;
}

function hostIndexOf(bridge: Bridge, attachment: Attachment): number {
  const address = parseIpv4(addressOf(attachment));
  assert(address !== undefined, 'an attachment has an IPv4 address');
  return indexOf(bridge.name, address - bridge.subnet.network);
}

/** Gives the pod its interface, address and route: one message on the host, one batch in the pod. Fails with ENODEV where the bridge is gone. */
export function planAttach(bridge: Bridge, attachment: Attachment, { netnsSlot }: { readonly netnsSlot: number }): Plan {
  const { podId, hostInterface } = attachment;
  const address = parseIpv4(addressOf(attachment)) ?? 0;
  const origin = `pod ${podId}`;
  const index = hostIndexOf(bridge, attachment);
  const peer = { name: attachment.interfaceName, index: podInterfaceIndex, mac: macOf(address), netnsSlot };
  return {
    sections: [
      onHost(
        ...markerDirectorySteps(bridge),
        { kind: 'makeFile', dir: noSlot, path: markerPath(bridge, podId), mode: 0o600, data: Buffer.alloc(0), origin },
        routeStep([createVethPair({ name: hostInterface, index, master: bridge.index, mtu: bridge.mtu, peer }), setPortHairpin(index)], { origin }),
      ),
      {
        actor: 'podNamespaces',
        steps: [
          { kind: 'enterNamespace', slot: netnsSlot, type: clone.newNet, origin },
          routeStep(
            [
              setLinkUp(loopbackIndex),
              setLinkUp(podInterfaceIndex),
              addAddress({ index: podInterfaceIndex, address, prefixLength: bridge.subnet.prefixLength }),
              addDefaultRoute({ index: podInterfaceIndex, gateway: bridge.gateway }),
            ],
            { origin },
          ),
        ],
      },
    ],
  };
}

/** Opens the pod's host ports, all or none. EEXIST where the kernel's map has one already. */
export function planAddPorts(bridge: Bridge, attachment: Attachment): Plan {
  return { sections: [onHost(netfilterStep(addPorts(bridge.tableName, portTargetOf(attachment)), { origin: `pod ${attachment.podId}` }))] };
}

function detachSteps(bridge: Bridge, attachment: Attachment): Step[] {
  const origin = `pod ${attachment.podId}`;
  const removal = netfilterStep(removePorts(bridge.tableName, portTargetOf(attachment)), { origin, ignore: [errno.noEntry] });
  return [
    ...(attachment.portMappings.length === 0 ? [] : [removal]),
    { kind: 'removeFile', dir: noSlot, path: markerPath(bridge, attachment.podId), ignore: [errno.noEntry], origin },
  ];
}

/** Closes the pod's ports. The pair of links goes with the pod's network namespace; removing it here would wait 18 ms for a grace period. */
export function planDetach(bridge: Bridge, attachment: Attachment): Plan {
  return { sections: [onHost(...detachSteps(bridge, attachment))] };
}

/** Closes the pod's ports and, where it was the last pod, takes bridge and table away. Needs no records: the markers tell. */
export function planUndo(bridge: Bridge, attachment: Attachment, options: { readonly disableIpForward: boolean }): Plan {
  const removal = removeBridgeSteps(bridge, options);
  return {
    sections: [
      onHost(
        ...detachSteps(bridge, attachment),
        { kind: 'removeDirectory', dir: noSlot, path: bridge.markerDir, ignore: [errno.notEmpty, errno.noEntry], skipOnIgnored: removal.length },
        ...removal,
      ),
    ],
  };
}
