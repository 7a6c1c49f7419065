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
 * The built-in bridge names both ends. Of a result of CNI plugins (specification 1.1, "Success": `sandbox` is set for interfaces of the pod) they are
 * known where the pod has one interface and the host one veth of it, as the plugins bridge and ptp tell. Otherwise a process of the pod has to be asked.
 */
export function linkOfAttachment(details: unknown): PodLink | undefined {
  const name = field(details, 'interface');
  if (typeof name !== 'string') return undefined;
  const own = field(details, 'hostInterface');
  if (typeof own === 'string') return { name, hostInterface: own };
  const interfaces = field(field(details, 'cniResult'), 'interfaces');
  if (!Array.isArray(interfaces)) return undefined;
  const isInside = (entry: unknown): boolean => (field(entry, 'sandbox') ?? '') !== '';
  const [inside, ...more] = interfaces.filter(isInside);
  const peers = interfaces.filter((entry) => !isInside(entry)).flatMap((entry) => field(entry, 'name') ?? []);
  const [peer, ...others] = peers.filter((candidate) => typeof candidate === 'string' && candidate.startsWith('veth'));
  if (field(inside, 'name') !== name || more.length > 0 || typeof peer !== 'string' || others.length > 0) return undefined;
  return { name, hostInterface: peer };
}
