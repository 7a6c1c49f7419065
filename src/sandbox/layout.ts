/** Paths of the native class below the engine's directories. Pure. */

/** Where the driver keeps what it makes. All absolute, all of the engine's own. */
export interface NativeLayout {
  /** One directory per pod with its socket and small files. */
  readonly pods: string;
  /** Writable layers: `<containers>/<pod>/<container>`. */
  readonly containers: string;
  /** On the same file system as `containers`. */
  readonly trash: string;
  /** An empty directory that every container's root is mounted on, each in its own mount namespace. */
  readonly rootfs: string;
  /**
   * The lowest layer of every root: what mounts need as their targets. Where an image has it too, the image's counts. Without it each
   * container would make these in its writable layer: copying up /etc and six new entries take longer than all mounts.
   */
  readonly skeleton: string;
  /** cgroup of pods without a cgroup parent, such as `/berth`; its child `shims` holds the shims. */
  readonly cgroup: string;
}

/** What is in the skeleton: directories, then empty files. */
export const skeletonEntries = { directories: ['dev', 'proc', 'sys', 'etc'], files: ['etc/hosts', 'etc/hostname', 'etc/resolv.conf'] } as const;

/** Small files and mount points of one pod. */
export function podPaths(podDir: string) {
  return { hosts: `${podDir}/hosts`, hostname: `${podDir}/hostname`, resolvConf: `${podDir}/resolv.conf`, shm: `${podDir}/shm`, proc: `${podDir}/proc` } as const;
}

/** Writable layer of one container, and the volumes that are its own. */
export function containerPaths(layout: NativeLayout, { podId, containerId }: { readonly podId: string; readonly containerId: string }) {
  const directory = `${layout.containers}/${podId}/${containerId}`;
  return { directory, upper: `${directory}/upper`, work: `${directory}/work`, volumes: `${directory}/volumes` } as const;
}
