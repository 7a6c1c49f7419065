/**
 * Who a container's group belongs to. In: the document. Out: a user id of the host, or nothing. Pure.
 *
 * Where the container has a cgroup namespace of its own and sees its groups writable, whoever runs its first process may divide its group. Only on cgroup v2: the
 * kernel's rules for delegation are safe there alone. Source: runtime-spec, config-linux.md, "Cgroup ownership".
 */
import type { RuntimeSpec } from '#oci';
import type { HostFacts } from '#system';

const isCgroupMount = ({ type, source, destination, options }: RuntimeSpec['mounts'][number]): boolean =>
  destination === '/sys/fs/cgroup' && (source === 'cgroup' || type === 'cgroup' || type === 'cgroup2') && !options.includes('ro') && !options.includes('rro');

/** The user of the container's first process, on the host; absent where the group stays root's. */
export function cgroupOwnerOf(spec: RuntimeSpec, host: HostFacts): number | undefined {
  const { namespaces, uidMappings = [] } = spec.linux;
  if (host.cgroups.mode !== 'v2' || !namespaces.some(({ type, path }) => type === 'cgroup' && path === undefined) || !spec.mounts.some(isCgroupMount)) return undefined;
  const uid = spec.process?.user.uid ?? 0;
  const mapping = uidMappings.find(({ containerId, size }) => uid >= containerId && uid < containerId + size);
  const owner = namespaces.some(({ type }) => type === 'user') ? (mapping === undefined ? undefined : mapping.hostId + uid - mapping.containerId) : uid;
  // It is root's already.
  return owner === 0 ? undefined : owner;
}
