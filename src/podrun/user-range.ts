/**
 * Which users and groups of the host stand behind a pod with `hostUsers: false`. In: the pod's uid. Out: a range of 65,536 ids. Pure.
 * The kubelet hands ranges out one by one; here nobody counts, so a pod's uid names one of more than 32,000, and pods that run at once practically never share one.
 */
import type { UserMappings } from '#pod';

/** Ids of a pod: what images and the kubelet's own pods use. */
const rangeSize = 65_536;
/** Below are the host's own users, from here on nobody's, up to the sign bit of a 32-bit id, which some programs cannot print. */
const firstRange = 2;
const endRange = 32_768;

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c_9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x0100_0193) >>> 0;
  return hash;
}

/** The mappings of the pod; equal for an equal uid. */
export function userMappingsOf(podUid: string): UserMappings {
  const hostId = rangeSize * (firstRange + (hashOf(podUid) % (endRange - firstRange)));
  const range = [{ containerId: 0, hostId, size: rangeSize }];
  return { uids: range, gids: range };
}
