/** Whether a process can be who it is asked to be: below a user namespace only mapped ids exist. In: numbers, the document. Out: nothing or an error. Pure. */
import { invalidArgument } from '#core';
import type { RuntimeSpec } from '#oci';
import { mapId } from '#plan';
import type { Identity } from './identity.ts';
import { mappingsOf } from './user-namespace.ts';

/** Throws invalidArgument for a user or group without a mapping; the kernel would say EINVAL and nothing more. `path` names the process's user. */
export function checkMapped({ uid, gid, groups }: Identity, spec: RuntimeSpec, path: string): void {
  const mappings = spec.linux.namespaces.some(({ type }) => type === 'user') ? mappingsOf(spec) : undefined;
  if (mappings === undefined) return;
  if (mapId(mappings.uids, uid) === undefined) throw invalidArgument(path, `user ${uid} has no mapping in the user namespace`);
  for (const group of [gid, ...groups]) if (mapId(mappings.gids, group) === undefined) throw invalidArgument(path, `group ${group} has no mapping in the user namespace`);
}
