/**
 * What the kernel is asked for beside the plugins: the loopback device up, the pod's network namespace pinned where agents look for it,
 * and the pin away. In: paths, slots. Out: plans. Pure.
 */
import { type Plan, type Section, clone, errno, noSlot } from '#plan';
import { encodeMessages, netlinkProtocol } from './netlink.ts';
import { setLinkUp } from './route.ts';

/** Where `ip netns`, plugins and agents look for network namespaces. */
export const netnsDirectory = '/run/netns';
/** A hundred and four random bits of the pod's id, and a name that says whose it is. */
const podCharacters = 26;
const loopbackIndex = 1;
/** MNT_DETACH of umount2(2): whoever still looks into the namespace keeps his view of it. */
const detachMount = 2;

/** Path of a pod's pin. */
export const netnsPathOf = (podId: string): string => `${netnsDirectory}/berth-${podId.slice(0, podCharacters)}`;

function loopbackSection(podId: string, netnsSlot: number): Section {
  const origin = `pod ${podId}`;
  return {
    actor: 'podNamespaces',
    steps: [
      { kind: 'enterNamespace', slot: netnsSlot, type: clone.newNet, origin },
      { kind: 'netlink', protocol: netlinkProtocol.route, ...encodeMessages([setLinkUp(loopbackIndex)]), origin },
    ],
  };
}

/** Brings the pod's loopback device up and does nothing else. */
export const planLoopback = (podId: string, netnsSlot: number): Plan => ({ sections: [loopbackSection(podId, netnsSlot)] });

/** Pins the namespace and brings its loopback device up. Run by the pod's shim, which holds the namespace. */
export function planPin(podId: string, { netnsPath, netnsSlot }: { readonly netnsPath: string; readonly netnsSlot: number }): Plan {
  const origin = `pod ${podId}`;
  return {
    sections: [
      {
        actor: 'host',
        steps: [
          { kind: 'makeDirectory', dir: noSlot, path: netnsDirectory, mode: 0o755, parents: 1, origin },
          { kind: 'makeFile', dir: noSlot, path: netnsPath, mode: 0o444, data: Buffer.alloc(0), origin },
          { kind: 'pinNamespace', slot: netnsSlot, path: netnsPath, origin },
        ],
      },
      loopbackSection(podId, netnsSlot),
    ],
  };
}

/** Takes the pin away. Absence is success. */
export function planUnpin(podId: string, netnsPath: string): Plan {
  const origin = `pod ${podId}`;
  return {
    sections: [
      {
        actor: 'host',
        steps: [
          // EINVAL: not mounted.
          { kind: 'unmount', path: netnsPath, flags: detachMount, ignore: [errno.noEntry, errno.invalid], origin },
          { kind: 'removeFile', dir: noSlot, path: netnsPath, ignore: [errno.noEntry], origin },
        ],
      },
    ],
  };
}
