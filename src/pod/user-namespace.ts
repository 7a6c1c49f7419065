/** The user namespace of a pod, as its containers and volumes meet it. In: what pod and container ask. Out: mappings, or why they cannot be. Pure. */
import { invalidArgument } from '#core';
import type { UserMappings } from './security-types.ts';
import type { ContainerConfig, Mount, PodSandboxConfig } from './types.ts';

interface WithUser {
  readonly user?: UserMappings;
}

/** The mappings of the pod's own user namespace; undefined where it uses the host's. */
export function ownUserNamespace({ user }: WithUser): UserMappings | undefined {
  return user === undefined || user.uids.length + user.gids.length === 0 ? undefined : user;
}

const textOf = ({ uids, gids }: UserMappings): string => JSON.stringify([uids, gids].map((ranges) => ranges.map(({ containerId, hostId, size }) => [containerId, hostId, size])));

const same = (one: UserMappings | undefined, other: UserMappings | undefined): boolean =>
  one === undefined || other === undefined ? one === other : textOf(one) === textOf(other);

/**
 * The user namespace that a container gets: the pod's. Throws invalidArgument where the container asks for another one, as no two containers of a pod
 * may differ in it. Source: CRI, NamespaceOption.userns_options.
 */
export function containerUserNamespace(pod: Pick<PodSandboxConfig, 'security'>, container: Pick<ContainerConfig, 'security'>): UserMappings | undefined {
  const own = ownUserNamespace(pod.security.namespaces);
  const { namespaces } = container.security;
  if (namespaces.user !== undefined && !same(ownUserNamespace(namespaces), own))
    throw invalidArgument(
      'config.linux.security_context.namespace_options.userns_options',
      own === undefined ? 'the pod uses the user namespace of the node' : "must be the pod's",
    );
  return own;
}

/**
 * Mappings of a mount: those it asks for. An image is shown with its own owners in any case, so mappings there may only be the pod's. Throws invalidArgument.
 */
export function mountMappings({ idMappings, image }: Pick<Mount, 'idMappings' | 'image'>, user: UserMappings | undefined, at: string): UserMappings | undefined {
  if (idMappings === undefined) return undefined;
  if (user === undefined) throw invalidArgument(`${at}.uidMappings`, 'needs a pod with a user namespace');
  if (image !== undefined && !same(idMappings, user)) throw invalidArgument(`${at}.uidMappings`, "must be the pod's for an image");
  return idMappings;
}
