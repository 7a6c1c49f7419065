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

/** Nodes and links. A host's /dev that is bound into the container is left as it is. */
export function planDevices(devices: readonly SpecDevice[], mounts: readonly SpecMount[]): readonly Step[] {
  const bound = mounts.some(({ destination }) => destination === '/dev') && !hasOwnDev(mounts);
  if (bound) return [];
  const listed = devices.map((device, index) => ({ device, origin: `/linux/devices/${index}` }));
  const defaults = defaultDevices.filter(({ path }) => !devices.some((device) => device.path === path)).map((device) => ({ device, origin: undefined }));
  return [
    ...[...defaults, ...listed].map(({ device, origin }): Step => ({
      kind: 'makeNode',
      dir: localSlots.root,
      path: device.path,
      mode: typeBits[device.type] | ((device.fileMode ?? 0o666) & 0o7777),
      major: device.major,
      minor: device.minor,
      uid: device.uid ?? 0,
      gid: device.gid ?? 0,
      ignore: [errno.exists],
      ...(origin === undefined ? {} : { origin }),
    })),
    ...links.map(([path, target]): Step => ({ kind: 'makeLink', dir: localSlots.root, path, target, ignore: [errno.exists] })),
  ];
}
