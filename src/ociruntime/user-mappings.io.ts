/** The mappings of a user namespace that a document joins by path. In: the document, /proc. Out: the document with them, as if it had given them. */
import type { RuntimeSpec } from '#oci';
import { withUserMappings } from '#runtime';
import { readIdMappings } from '#system';

/** `pid`: a process that is in the namespace already, 0 where there is none yet. Where nobody is in it the document comes back as it is, and its plan is refused. Throws where the path leads nowhere. */
export async function settleUserMappings(spec: RuntimeSpec, pid = 0): Promise<RuntimeSpec> {
  const path = spec.linux.namespaces.find(({ type }) => type === 'user')?.path;
  if (path === undefined) return spec;
  const own = pid === 0 ? undefined : await readIdMappings(`/proc/${pid}/ns/user`).catch(() => undefined);
  const mappings = own ?? (pid === 0 ? await readIdMappings(path) : await readIdMappings(path).catch(() => undefined));
  return mappings === undefined ? spec : withUserMappings(spec, mappings);
}
