/**
 * User namespaces as sections of a plan. In: how ids are mapped. Out: the sections that make the namespace and put it into a slot. Pure.
 * The maps are written by the host's side while the child waits: only a process of the parent namespace may map more than one id.
 */
import { type Section, type Step, clone, fileSystem } from './vocabulary.ts';

/** A range of ids: `size` of them, from `containerId` on inside and from `hostId` on outside. */
export interface IdMapping {
  readonly containerId: number;
  readonly hostId: number;
  readonly size: number;
}

/** How a user namespace maps users and groups. */
export interface IdMappings {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

/** Slot in which sections of a barrier find the waiting child's directory in procfs; native/plan.h. */
export const childSlot = 255;

/** The id outside, undefined where it has none. */
export function mapId(mappings: readonly IdMapping[], id: number): number | undefined {
  const found = mappings.find(({ containerId, size }) => id >= containerId && id - containerId < size);
  return found === undefined ? undefined : found.hostId + (id - found.containerId);
}

/** The lines of `/proc/<pid>/uid_map`; user_namespaces(7). */
export function formatIdMap(mappings: readonly IdMapping[]): string {
  return mappings.map(({ containerId, hostId, size }) => `${containerId} ${hostId} ${size}\n`).join('');
}

/** The mappings as the numbers of the step `shiftTree`. */
export function mappingTriples(mappings: readonly IdMapping[]): readonly number[] {
  return mappings.flatMap(({ containerId, hostId, size }) => [containerId, hostId, size]);
}

/**
 * Sections that make a user namespace and keep it in `slot`: a pod's slot, or one from 64 on for the later children of the same plan. `barrier` is
 * a number of 2 or more that nothing else in the plan uses.
 */
export function userNamespaceSections(mappings: IdMappings, place: { readonly slot: number; readonly barrier: number; readonly origin: string }): readonly Section[] {
  const { slot, barrier, origin } = place;
  const write = (path: string, lines: readonly IdMapping[]): Step => ({
    kind: 'writeFile',
    dir: childSlot,
    path,
    data: Buffer.from(formatIdMap(lines)),
    fileSystem: fileSystem.proc,
    origin,
  });
  return [
    {
      actor: 'podNamespaces',
      cloneFlags: clone.newUser,
      steps: [
        { kind: 'barrier', barrier },
        { kind: 'openNamespace', type: clone.newUser, out: slot, origin },
        { kind: 'exportSlot', slot, podSlot: slot },
      ],
    },
    { actor: 'host', barrier, steps: [write('uid_map', mappings.uids), write('gid_map', mappings.gids)] },
  ];
}
