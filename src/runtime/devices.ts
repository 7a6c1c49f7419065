/** Device nodes and standard links of a container. In: the document's devices. Out: steps below the root's slot. Pure. Source: config-linux.md "Default Devices", "/dev symbolic links". */
import { type SpecDevice, type SpecMount } from '#oci';
import { type Step, errno } from '#plan';
import { localSlots } from './slots.ts';

const typeBits: Readonly<Record<SpecDevice['type'], number>> = { c: 0o020000, u: 0o020000, b: 0o060000, p: 0o010000 };

const defaultDevices: readonly SpecDevice[] = (
  [
    ['null', 1, 3],
    ['zero', 1, 5],
    ['full', 1, 7],
    ['random', 1, 8],
    ['urandom', 1, 9],
    ['tty', 5, 0],
  ] as const
).map(([name, major, minor]) => ({ type: 'c', path: `/dev/${name}`, major, minor, fileMode: 0o666 }));

const links: readonly (readonly [path: string, target: string])[] = [
  ['/dev/fd', '/proc/self/fd'],
  ['/dev/stdin', '/proc/self/fd/0'],
  ['/dev/stdout', '/proc/self/fd/1'],
  ['/dev/stderr', '/proc/self/fd/2'],
  ['/dev/core', '/proc/kcore'],
  ['/dev/ptmx', 'pts/ptmx'],
];

/** True where the document mounts a file system of the container's own on /dev, so that what is made there harms no one. */
export function hasOwnDev(mounts: readonly SpecMount[]): boolean {
  const last = mounts.findLast(({ destination }) => destination === '/dev');
  return last !== undefined && last.type !== 'bind' && !last.options.some((option) => option === 'bind' || option === 'rbind');
}

/** A host's /dev that is bound into the container is left as it is. */
const isHostDev = (mounts: readonly SpecMount[]): boolean => mounts.some(({ destination }) => destination === '/dev') && !hasOwnDev(mounts);

/** The default devices, unless the document has others there, and those of the document, each with its type as mode bits. */
export function listDevices(
  devices: readonly SpecDevice[],
  mounts: readonly SpecMount[],
): readonly { readonly device: SpecDevice; readonly typeBits: number; readonly origin: string | undefined }[] {
  if (isHostDev(mounts)) return [];
  const defaults = defaultDevices
    .filter(({ path }) => !devices.some((device) => device.path === path))
    .map((device) => ({ device, typeBits: typeBits[device.type], origin: undefined }));
  const asked = devices.map((device, index) => ({ device, typeBits: typeBits[device.type], origin: `/linux/devices/${index}` }));
  // The multiplexer is the one of the container's own devpts, as the link to it says; a node would lead to the host's.
  return [...defaults, ...asked.filter(({ device }) => device.path !== '/dev/ptmx')];
}

/** The standard links. */
export function makeLinks(mounts: readonly SpecMount[]): readonly Step[] {
  return isHostDev(mounts) ? [] : links.map(([path, target]): Step => ({ kind: 'makeLink', dir: localSlots.root, path, target, ignore: [errno.exists] }));
}

/** Nodes and links. */
export function planDevices(devices: readonly SpecDevice[], mounts: readonly SpecMount[]): readonly Step[] {
  return [
    ...listDevices(devices, mounts).map(({ device, typeBits: type, origin }): Step => ({
      kind: 'makeNode',
      dir: localSlots.root,
      path: device.path,
      mode: type | ((device.fileMode ?? 0o666) & 0o7777),
      major: device.major,
      minor: device.minor,
      uid: device.uid ?? 0,
      gid: device.gid ?? 0,
      ignore: [errno.exists],
      ...(origin === undefined ? {} : { origin }),
    })),
    ...makeLinks(mounts),
  ];
}
