/**
 * A look at a pod's groups and interfaces. In: the pod's record, what is asked. Out: SandboxUsage; parts that cannot be read are absent.
 */
import type { ContainerId } from '#core';
import type { GroupUsage, InterfaceUsage, PodLink, SandboxRecord, SandboxUsage, UsageRequest } from '#pod';
import { statsGroups } from '#runtime';
import type { GroupReader, HostFacts, LinkCounters } from '#system';

/** What a look needs of its sandbox. */
export interface UsageContext {
  readonly host: HostFacts;
  readonly record: SandboxRecord;
  readonly reader: GroupReader;
  /** First process of a container as the host sees it; 0: unknown. */
  readonly pidOf: (containerId: ContainerId) => number;
}

/** Counters of the host's end of a link, as the other end counts them. */
function mirrored(peer: LinkCounters, name: string): InterfaceUsage {
  return {
    name,
    rxBytes: peer.txBytes,
    rxPackets: peer.txPackets,
    rxErrors: peer.txErrors,
    rxDropped: peer.txDropped,
    txBytes: peer.rxBytes,
    txPackets: peer.rxPackets,
    txErrors: peer.rxErrors,
    txDropped: peer.rxDropped,
  };
}

/**
 * The host's end of the link is looked at where it is known: it is there without any process of the pod, and no tenant can change it. Otherwise a
 * container's process is asked, which shows what its own network namespace has.
 */
async function readInterfaces({ record, reader, pidOf }: UsageContext, request: UsageRequest, link: PodLink | undefined): Promise<readonly InterfaceUsage[]> {
  if (record.hostNetwork) return [];
  const findPeer = async (): Promise<LinkCounters | undefined> => (await reader.hostLinks()).find(({ name }) => name === link?.hostInterface);
  // A look that is shared may be older than the pod.
  const peer = link === undefined ? undefined : ((await findPeer()) ?? (await findPeer()));
  if (link !== undefined && peer !== undefined) return [mirrored(peer, link.name)];
  for (const id of request.containerIds) {
    const interfaces = (await reader.processLinks(pidOf(id), record.cgroupPath)).filter(({ name }) => name !== 'lo');
    if (interfaces.length > 0) return interfaces.toSorted((a, b) => Number(b.name === 'eth0') - Number(a.name === 'eth0'));
  }
  return [];
}

/** The pod's group has the limit of its parent where it has none of its own: there a kubelet limits the pod. Source: the kubelet's cgroup layout. */
async function withParentLimit({ host, record, reader }: UsageContext, pod: GroupUsage): Promise<GroupUsage> {
  const parent = record.cgroupPath.slice(0, record.cgroupPath.lastIndexOf('/'));
  if (pod.memory === undefined || pod.memory.limitBytes !== undefined || parent === '') return pod;
  const limitBytes = await reader.memoryLimit(statsGroups(host.cgroups, { path: parent }));
  return limitBytes === undefined ? pod : { ...pod, memory: { ...pod.memory, limitBytes } };
}

/** One look at what the request names. Never throws for what is gone meanwhile. */
export async function readUsage(context: UsageContext, request: UsageRequest): Promise<SandboxUsage> {
  const { host, record, reader } = context;
  const { details = false } = request;
  const read = async (path: string, processes: boolean) => reader.read(statsGroups(host.cgroups, { path }), { details, processes });
  const [pod, interfaces, ...containers] = await Promise.all([
    request.pod === undefined ? undefined : read(record.cgroupPath, false).then(async (group) => withParentLimit(context, group)),
    request.pod === undefined ? [] : readInterfaces(context, request, request.pod.link),
    ...request.containerIds.map(async (id) => [id, await read(`${record.cgroupPath}/${id}`, true)] as const),
  ]);
  return {
    ...(pod === undefined ? {} : { pod }),
    ...(pod === undefined || interfaces.length === 0 ? {} : { network: { atNs: pod.atNs, interfaces } }),
    containers: Object.fromEntries(containers),
  };
}
