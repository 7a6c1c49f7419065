/**
 * Where a pod's traffic is counted on the host. In: what its network recorded of the attachment. Out: both ends of its link, where they are
 * known. Pure.
 */
import type { PodLink } from './stats-types.ts';

/** A field of something that may be no object. */
function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? new Map<string, unknown>(Object.entries(value)).get(name) : undefined;
}

/**
 * Both ends of the pod's link, where its network names them and the pod has no other interface: what CNI plugins made is in their result
 * (CNI specification, "Success": `sandbox` is set for interfaces of the pod). Otherwise a process of the pod has to be asked.
 */
export function linkOfAttachment(details: unknown): PodLink | undefined {
  const [name, hostInterface] = [field(details, 'interface'), field(details, 'hostInterface')];
  if (typeof name !== 'string' || typeof hostInterface !== 'string') return undefined;
  const interfaces = field(field(details, 'cniResult'), 'interfaces');
  const inside = Array.isArray(interfaces) ? interfaces.filter((entry) => (field(entry, 'sandbox') ?? '') !== '') : [];
  return inside.length > 1 ? undefined : { name, hostInterface };
}
