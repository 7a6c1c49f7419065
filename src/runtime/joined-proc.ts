/**
 * The procfs of a PID namespace that a container joins. In: how the namespace is named. Out: steps, and sections that go before. Pure.
 *
 * A procfs shows the PID namespace of whoever makes it, so somebody has to be inside. Pods have theirs cloned from a process that is, because a container there that may trace could take over one of ours with
 * the right to mount. A document's path names any namespace, also one without such a process: a child enters it that holds no slot, makes the procfs and ends.
 */
import { type SpecMount } from '#oci';
import { type Section, clone, noSlot, open } from '#plan';
import { type MountOptions } from './mount-options.ts';
import { type MountPlan, planPodMount } from './mount-steps.ts';
import { localSlots } from './slots.ts';

/** A clone of the procfs that a process of the namespace sees, by a visit to its mount namespace. */
export function planJoinedProc(mount: SpecMount, namespacePath: string, options: MountOptions, slot: number, origin: string): MountPlan {
  const noLinks = 0x06; // RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS: /proc there may be anything
  return {
    sources: [
      { kind: 'openNamespace', type: clone.newMount, out: localSlots.ownMount },
      { kind: 'openPath', dir: noSlot, path: namespacePath.replace(/pid$/, 'mnt'), flags: open.readOnly, mode: 0, resolve: 0, out: localSlots.scratch, origin },
      { kind: 'enterNamespace', slot: localSlots.scratch, type: clone.newMount, origin },
      { kind: 'openTree', dir: noSlot, path: '/proc', resolve: noLinks, recursive: 0, out: slot, origin },
      { kind: 'enterNamespace', slot: localSlots.ownMount, type: clone.newMount, origin },
    ],
    podSources: [],
    prepare: [],
    attach: planPodMount(mount, '', options, slot, origin).attach,
  };
}

/** The sections that make a procfs of the namespace at a path and keep it in `slot`. */
export function makeJoinedProc(namespacePath: string, options: MountOptions, slot: number, origin: string): readonly Section[] {
  const { ownPid } = localSlots;
  return [
    { actor: 'host', steps: [{ kind: 'openPath', dir: noSlot, path: namespacePath, flags: open.readOnly, mode: 0, resolve: 0, out: ownPid, origin }] },
    {
      actor: 'podNamespaces',
      pidNamespace: ownPid,
      steps: [
        { kind: 'closeSlots' },
        { kind: 'newFileSystem', type: 'proc', options: options.data, attributes: options.set, out: slot, origin },
        { kind: 'exportSlot', slot, podSlot: slot, origin },
      ],
    },
  ];
}

/** Attaches it. */
export function attachJoinedProc(mount: SpecMount, options: MountOptions, slot: number, origin: string): MountPlan {
  return { sources: [], podSources: [], prepare: [], attach: planPodMount(mount, '', options, slot, origin).attach };
}
