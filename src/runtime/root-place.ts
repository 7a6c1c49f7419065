/**
 * How a container's root becomes the root of its process, and what that leaves behind. In: which mount namespace it has. Out: steps. Pure.
 *
 * Nearly always by a pivot in a mount namespace of its own. Two other ways are asked for at times. Without a pivot, for a host that runs on its first file system in
 * memory, the root is moved over the old one, which stays below it: procfs and sysfs of the host are taken away before, for who can mount could find them again.
 * Without a mount namespace the mounts are the host's own; they stand on a mount of the root's, and removing that one removes all.
 */
import { invalidArgument } from '#core';
import { type RuntimeSpec } from '#oci';
import { type Step, errno } from '#plan';
import { type HostFacts } from '#system';
import type { RootfsSource } from './container.ts';
import { planIntelRdt } from './intel-rdt.ts';
import { type NamespaceTable } from './namespaces.ts';
import { unsupported } from './refusals.ts';
import { localSlots } from './slots.ts';

/** MNT_DETACH of umount2(2). */
const detach = 2;
const gone = [errno.invalid, errno.noEntry];

/** Refuses what a document and `pivot` cannot have together. */
export function checkRootPlace(spec: RuntimeSpec, rootfs: RootfsSource, table: NamespaceTable, pivot: boolean): void {
  const propagation = spec.linux.rootfsPropagation;
  if (!pivot && propagation?.endsWith('private') === true) throw invalidArgument('linux.rootfsPropagation', `${propagation} is not safe without a pivot`);
  if (table.mount.kind !== 'new' && rootfs.kind !== 'directory') throw unsupported('linux.namespaces', 'layers without a mount namespace of its own');
  if (table.mount.kind === 'host' && !pivot) throw invalidArgument('linux.namespaces', 'moving the root needs a mount namespace');
}

/** The last steps before the host's files are out of reach. */
export function planRootChange(table: NamespaceTable, pivot: boolean): readonly Step[] {
  const origin = '/root';
  if (table.mount.kind === 'host') return [{ kind: 'changeRoot', slot: localSlots.root, origin }];
  if (pivot) return [{ kind: 'pivotRoot', root: localSlots.root }];
  return [...['/proc', '/sys'].map((path): Step => ({ kind: 'unmount', path, flags: detach, origin, ignore: gone })), { kind: 'moveRoot', root: localSlots.root, origin }];
}

/**
 * What a container's removal takes away besides its processes and cgroups: mounts, where they are the host's own because the document has no mount namespace, and groups
 * of Intel RDT. Absence is no error.
 */
export function planRemains(spec: RuntimeSpec, { rootfs, id, host }: { readonly rootfs: RootfsSource; readonly id: string; readonly host: HostFacts }): readonly Step[] {
  const isHosts = rootfs.kind === 'directory' && !spec.linux.namespaces.some(({ type }) => type === 'mount');
  return [
    ...(isHosts ? [{ kind: 'unmount', path: rootfs.path, flags: detach, origin: '/root', ignore: gone } as const] : []),
    ...(host.resctrl === undefined ? [] : planIntelRdt(spec.linux, { id, host }).remove),
  ];
}
