/**
 * Which users and groups of the host stand behind a pod with `hostUsers: false`. In: the pod's uid, the ids that others have. Out: a range of 65,536 ids. Pure.
 * The kubelet hands ranges out one by one; here nobody counts, so a pod's uid names one of more than 32,000, and the next free one is taken where that is another's.
 */
import { RuntimeError } from '#core';
import type { NamespaceOptions, UserMappings } from '#pod';
import type { IdRange, PodPlan } from './plan-types.ts';

/** Ids of a pod: what images and the kubelet's own pods use. */
const rangeSize = 65_536;
/** Below are the host's own users, from here on nobody's, up to the sign bit of a 32-bit id, which some programs cannot print. */
const firstRange = 2;
const rangeCount = 32_768 - firstRange;

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c_9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x0100_0193) >>> 0;
  return hash;
}

/** The mappings of the pod, with ranges that overlap none of `taken`; equal for equal input. Throws resourceExhausted where all are taken. */
export function userMappingsOf(podUid: string, taken: readonly IdRange[] = []): UserMappings {
  const hash = hashOf(podUid);
  for (let attempt = 0; attempt < rangeCount; attempt += 1) {
    const first = rangeSize * (firstRange + ((hash + attempt) % rangeCount));
    if (taken.some((other) => first < other.first + other.count && other.first < first + rangeSize)) continue;
    const range = [{ containerId: 0, hostId: first, size: rangeSize }];
    return { uids: range, gids: range };
  }
  throw new RuntimeError('resourceExhausted', 'spec.hostUsers: every range of users of the host is taken');
}

/** The plan with users that neither another pod nor a user of the host has: who shares them could reach the pod's processes and files. */
export function placeUsers(plan: PodPlan, pods: readonly { readonly namespaces: NamespaceOptions }[]): PodPlan {
  const { security } = plan.podConfig;
  if (security.namespaces.user === undefined) return plan;
  const others = pods.flatMap(({ namespaces: { user } }) => [...(user?.uids ?? []), ...(user?.gids ?? [])]);
  const user = userMappingsOf(plan.uid, [...plan.facts.subordinateIds, ...others.map(({ hostId, size }) => ({ first: hostId, count: size }))]);
  const place = <Container extends PodPlan['containers'][number]>(container: Container): Container => ({
    ...container,
    mounts: container.mounts.map((mount) => (mount.idMappings === undefined ? mount : { ...mount, idMappings: user })),
  });
  const podConfig = { ...plan.podConfig, security: { ...security, namespaces: { ...security.namespaces, user } } };
  return { ...plan, podConfig, init: plan.init.map(place), containers: plan.containers.map(place) };
}

/** Lines `name:first:count` of `/etc/subuid` or `/etc/subgid`; others are passed over. Source: subuid(5). */
export function parseSubordinateIds(text: string): readonly IdRange[] {
  return text.split('\n').flatMap((line) => {
    const found = /^[^:#]+:(\d{1,10}):(\d{1,10})$/.exec(line.trim());
    return found === null ? [] : [{ first: Number(found[1]), count: Number(found[2]) }];
  });
}
