/**
 * Numbers of descriptor slots. In: nothing. Out: the pod's table, which every plan of the project agrees on, and the local
 * ones that live for one plan.
 */

/** Slots that a pod's shim keeps. 0 to 15 are these; other folders take theirs from 16 on, below `podSlotCount`. */
export const podSlots = { user: 0, net: 1, ipc: 2, uts: 3, pid: 4, mount: 5 } as const;

/** Slots of one plan execution. Sources of mounts are numbered from `sources` on. */
export const localSlots = {
  /** Where a container waits that has no shim: a slot of the pod's, which it has none of. */
  startSocket: 62,
  cgroup: 64,
  /** The PID namespace that a process is in itself, where its children enter another one. */
  ownPid: 65,
  ownMount: 66,
  root: 67,
  scratch: 68,
  initProcess: 69,
  /** One per namespace type to join by path, in the order of `namespaceTypes`. */
  namespaces: 70,
  /** User namespace that a container gets of its own. */
  userNamespace: 78,
  /** Where the parts of a root are put together before its user namespace is entered. */
  staging: 79,
  sources: 80,
  /** Of the parent: the listener of a process's filter. Above whatever sources there are. */
  listener: 254,
  end: 256,
} as const;
