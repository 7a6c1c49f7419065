/**
 * Network devices: those of the host that a container gets, and its loopback. In: the document. Out: a barrier in the container's process, and the section that moves them while it
 * waits. Pure. Source: config-linux.md "Network Devices". Devices of hardware return to the host with the end of their namespace, by the kernel.
 */
import { invalidArgument } from '#core';
import { type RuntimeSpec, pathOf } from '#oci';
import { type Section, type Step, childSlot, clone, open } from '#plan';
import { type NamespaceTable, type PodSharing } from './namespaces.ts';
import { localSlots } from './slots.ts';

/** Barrier at which a container waits for its devices; before that of the hooks, which may look at them. */
const devicesBarrier = 900;

/** Nothing where the document has no devices. Throws where the network is the host's. */
export function planNetDevices(
  { linux }: Pick<RuntimeSpec, 'linux'>,
  table: Pick<NamespaceTable, 'network'>,
): { readonly wait: readonly Step[]; readonly sections: readonly Section[] } {
  const devices = Object.entries(linux.netDevices ?? {});
  const [first] = devices;
  if (first === undefined) return { wait: [], sections: [] };
  if (table.network.kind === 'host') throw invalidArgument(pathOf('linux.netDevices', first[0]), 'needs a network namespace');
  const { scratch, staging } = localSlots;
  const steps = devices.flatMap(([name, device], index): readonly Step[] => [
    // The step ends in the container's namespace, with what is done there.
    ...(index === 0 ? [] : [{ kind: 'enterNamespace', slot: staging, type: clone.newNet } as const]),
    { kind: 'moveNetDevice', network: scratch, name, newName: device.name ?? name, origin: `/linux/netDevices/${name}` },
  ]);
  return {
    wait: [{ kind: 'barrier', barrier: devicesBarrier }],
    sections: [
      {
        actor: 'podNamespaces',
        barrier: devicesBarrier,
        steps: [
          { kind: 'openNamespace', type: clone.newNet, out: staging },
          { kind: 'openPath', dir: childSlot, path: 'ns/net', flags: open.readOnly, mode: 0, resolve: 0, out: scratch },
          ...steps,
        ],
      },
    ],
  };
}

/**
 * Takes the loopback device of a new network namespace up: RTM_NEWLINK of index 1 with IFF_UP, as of netlink(7) and rtnetlink(7). In a pod the sandbox has done that; a container of its own has nobody
 * else, and programs expect it.
 */
export function planLoopback(table: Pick<NamespaceTable, 'network'>, pod: PodSharing | undefined): readonly Step[] {
  if (pod !== undefined || table.network.kind !== 'new') return [];
  const [size, newLink, requestAndAck, index, up] = [32, 16, 0x5, 1, 1];
  const message = Buffer.alloc(size);
  message.writeUInt32LE(size, 0);
  message.writeUInt16LE(newLink, 4);
  message.writeUInt16LE(requestAndAck, 6);
  message.writeUInt32LE(1, 8);
  message.writeInt32LE(index, 20);
  message.writeUInt32LE(up, 24);
  message.writeUInt32LE(up, 28);
  return [{ kind: 'netlink', protocol: 0, messages: message, slotPatches: [], origin: '/linux/namespaces' }];
}
