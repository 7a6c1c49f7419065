/**
 * Volumes that no document can express, as steps: the content of an image, and directories or memory filled with what the container's own image
 * holds at a path. In: what stands behind a mount, and the mount. Out: steps in three places. Pure.
 *
 * An image is an overlay of its layers alone. It is made in the container's mount namespace before the root is, on a directory that the root
 * covers next; cloned from there, so that only the wanted part is kept; and taken away from there. So no mount of it exists on the host.
 */
import { limits } from '#core';
import { type Step, createTarget, mountAttr, ms, noSlot, open, resolve } from '#plan';
import { labelOptions, overlayLabel } from './lsm.ts';
import { overlayOptions } from './overlay.ts';
import { localSlots } from './slots.ts';
import { mapMount } from './user-namespace.ts';

/** What stands behind a mount, found by the mount's `source`. `origin` is the place in the request, for errors. */
export type VolumeSource =
  | {
      readonly kind: 'layers';
      /** Working directory of the mount, so that many layers fit into one page of options. */
      readonly storeDir: string;
      /** Short relative names below storeDir, the topmost layer first. */
      readonly lower: readonly string[];
      /** Resolved inside the image; empty: all of it. */
      readonly subPath: string;
      /** With a user namespace: the layers belong to the image's ids and are mapped; else they belong to the mapped ids already. */
      readonly mapLower?: boolean;
      /** An existing, empty directory of the host, covered inside the container's mount namespace only and not for long; also the lowest layer. */
      readonly mountpoint: string;
      readonly origin: string;
    }
  | {
      readonly kind: 'directory';
      /** An existing, empty directory of the host. */
      readonly path: string;
      readonly bytesMax: number;
      /** With a user namespace: false where the kernel cannot map owners there; the files then belong to the mapped ids. */
      readonly mapOwners?: boolean;
      readonly origin: string;
    }
  | { readonly kind: 'memory'; readonly bytesMax: number; readonly origin: string };

/** What every mount of an image has, whatever was asked. */
const imageAttributes = mountAttr.readOnly | mountAttr.noSuid | mountAttr.noDev;
/** MNT_DETACH of umount2(2): the clone holds on to what is taken away. */
const detach = 2;

/** Each layer covered by a mapped clone of itself, as long as the overlay is made: layers must be attached for that, on Linux 6.1 at least. */
function mapLayers(
  { storeDir, lower }: { readonly storeDir: string; readonly lower: readonly string[] },
  userNamespace: number,
  origin: string,
): { readonly cover: readonly Step[]; readonly uncover: readonly Step[] } {
  const { scratch } = localSlots;
  const paths = lower.map((name) => `${storeDir}/${name}`);
  return {
    cover: paths.flatMap((path): readonly Step[] => [
      { kind: 'openTree', dir: noSlot, path, resolve: 0, recursive: 0, out: scratch, origin },
      mapMount(scratch, userNamespace, origin),
      { kind: 'moveMount', from: scratch, root: noSlot, target: path, create: createTarget.none, noLinks: 0, origin },
    ]),
    uncover: paths.map((path): Step => ({ kind: 'unmount', path, flags: detach, origin })),
  };
}

/** An image's layers, with the wanted part cloned into the slot. Runs in the container's mount namespace before its root is made. */
export function openLayers(
  source: Extract<VolumeSource, { kind: 'layers' }>,
  slot: number,
  { userNamespace, mountLabel }: { readonly userNamespace?: number | undefined; readonly mountLabel?: string | undefined } = {},
): readonly Step[] {
  const { storeDir, subPath, mountpoint } = source;
  const origin = `${source.origin}.image`;
  // Two layers at least, or there is no overlay without an upper one; and so whiteouts of a single layer are none of the volume's files.
  const lower = [...source.lower, mountpoint];
  if (lower.length === 1) return [{ kind: 'openTree', dir: noSlot, path: mountpoint, resolve: 0, recursive: 0, out: slot, origin }];
  const { scratch } = localSlots;
  const flags = ms.readOnly | ms.noSuid | ms.noDev;
  const whole: Step = { kind: 'openTree', dir: noSlot, path: mountpoint, resolve: 0, recursive: 0, out: slot, origin };
  const part: readonly Step[] = [
    { kind: 'openPath', dir: noSlot, path: mountpoint, flags: open.path | open.directory, mode: 0, resolve: 0, out: scratch, origin },
    { kind: 'openTree', dir: scratch, path: subPath, resolve: resolve.inRoot | resolve.noMagicLinks, recursive: 0, out: slot, origin: `${source.origin}.image_sub_path` },
    { kind: 'closeSlot', slot: scratch },
  ];
  const mapped = userNamespace === undefined || source.mapLower !== true ? { cover: [], uncover: [] } : mapLayers(source, userNamespace, origin);
  return [
    ...mapped.cover,
    {
      kind: 'mount',
      cwd: storeDir,
      source: 'overlay',
      target: mountpoint,
      type: 'overlay',
      flags,
      data: overlayOptions({ lower, options: overlayLabel(mountLabel) }, origin),
      origin,
    },
    ...(subPath === '' ? [whole] : part),
    { kind: 'unmount', path: mountpoint, flags: detach, origin },
    ...mapped.uncover,
  ];
}

/** Attributes of an image's mount: at least read-only, without set-user-id and devices. */
export function imageMountAttributes(asked: number): number {
  return asked | imageAttributes;
}

/** A file system of the container's own in the slot, writable and empty. Sources of the host are cloned, memory is made when it is attached. */
export function openOwn(
  source: Exclude<VolumeSource, { kind: 'layers' }>,
  slot: number,
  mountLabel?: string,
): { readonly sources: readonly Step[]; readonly attach: readonly Step[] } {
  const { origin } = source;
  if (source.kind === 'directory') return { sources: [{ kind: 'openTree', dir: noSlot, path: source.path, resolve: 0, recursive: 0, out: slot, origin }], attach: [] };
  const attributes = mountAttr.noSuid | mountAttr.noDev;
  return {
    sources: [],
    attach: [{ kind: 'newFileSystem', type: 'tmpfs', options: ['source=tmpfs', 'mode=755', ...labelOptions('tmpfs', mountLabel)], attributes, out: slot, origin }],
  };
}

/** Fills the slot with what the root holds at the target, its own owner and mode included, and covers that with it. */
export function attachOwn(source: Exclude<VolumeSource, { kind: 'layers' }>, slot: number, target: string, attributes: readonly Step[]): readonly Step[] {
  const { root } = localSlots;
  const { origin } = source;
  return [
    { kind: 'fillDirectory', fromDir: root, from: target, dir: slot, path: '.', bytesMax: BigInt(source.bytesMax), entriesMax: limits.imageVolumeEntriesMax, origin },
    ...attributes,
    { kind: 'moveMount', from: slot, root, target, create: createTarget.directory, noLinks: 0, origin },
  ];
}
