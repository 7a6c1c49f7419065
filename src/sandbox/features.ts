/**
 * What the kernel lets the native class do, found by doing it: version numbers say little. In: a way to run plans. Out: features. Whatever a trial makes ends
 * with its process.
 */
import { type IdMappings, type Plan, type Step, clone, mountAttr, ms, noSlot, userNamespaceSections } from '#plan';

/** Features that pods may ask for. */
export interface NativeFeatures {
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

const [userSlot, mountSlot] = [64, 65];
const mapsBarrier = 2;
/** Any range will do; this one belongs to nobody on most hosts. */
const mappings: IdMappings = { uids: [{ containerId: 0, hostId: 65_536, size: 65_536 }], gids: [{ containerId: 0, hostId: 65_536, size: 65_536 }] };

/** A user namespace with a range of ids, and a pod's other namespaces below it. Pure. */
export function planUserNamespaceTrial(): Plan {
  const inside: readonly Step[] = [
    { kind: 'enterNamespace', slot: userSlot, type: clone.newUser },
    { kind: 'setUser', uid: 0, gid: 0 },
    { kind: 'unshare', flags: clone.newUts | clone.newIpc | clone.newMount },
  ];
  return { sections: [...userNamespaceSections(mappings, { slot: userSlot, barrier: mapsBarrier, origin: '' }), { actor: 'podNamespaces', steps: inside }] };
}

/** Makes a mount read-only together with everything below it; mount_setattr(2), Linux 5.12. Pure. */
export function planRecursiveReadOnlyTrial(): Plan {
  const steps: readonly Step[] = [
    { kind: 'unshare', flags: clone.newMount },
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    { kind: 'newFileSystem', type: 'tmpfs', options: ['source=berth-trial', 'size=4k'], attributes: 0, out: mountSlot },
    { kind: 'setMountAttributes', slot: mountSlot, path: '', recursive: 1, set: BigInt(mountAttr.readOnly), clear: 0n, propagation: 0n, userNamespace: noSlot },
  ];
  return { sections: [{ actor: 'podNamespaces', steps }] };
}

/** Tries both; a refusal of the kernel, whatever its reason, means that the feature is not there. */
export async function probeFeatures(run: (plan: Plan) => Promise<void>): Promise<NativeFeatures> {
  const works = async (plan: Plan): Promise<boolean> =>
    run(plan).then(
      () => true,
      () => false,
    );
  const [userNamespaces, recursiveReadOnlyMounts] = await Promise.all([works(planUserNamespaceTrial()), works(planRecursiveReadOnlyTrial())]);
  return { userNamespaces, recursiveReadOnlyMounts };
}
