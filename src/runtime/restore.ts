/**
 * The plan by which criu(8) brings a container's processes back. In: the container as for its creation, the words that criu gets. Out: a Plan whose process is criu itself, in the
 * container's groups and in a mount namespace of its own, where the root stands on a mount point as criu wants it. Pure.
 *
 * Namespaces, mounts and processes of the container are made by criu; what this plan mounts is gone with criu.
 */
import { type RuntimeSpec } from '#oci';
import { type Plan, type Step, clone, createTarget, errno, ms, noSlot, open } from '#plan';
import { type HostFacts } from '#system';
import { cgroupDriver } from './cgroup.ts';
import { type CgroupPlacement } from './cgroup-driver.ts';
import { cgroupOwnerOf } from './cgroup-owner.ts';
import { localSlots } from './slots.ts';

/** What a restoring plan depends on. */
export interface PlanRestoreInput {
  readonly spec: RuntimeSpec;
  readonly host: HostFacts;
  readonly cgroup: CgroupPlacement;
  /** Absolute. */
  readonly bundle: string;
  /** Absolute. */
  readonly rootfs: string;
  /** An empty directory that the root is mounted on, for criu alone. */
  readonly mountpoint: string;
  /** The program and its words, the first being its name. */
  readonly argv: readonly string[];
  /** Entries `A=b`. */
  readonly env: readonly string[];
}

const sigkill = 9;
const { root, scratch } = localSlots;

/** A mount of the document whose content is the host's, by the path inside and the one on the host. */
export interface BoundMount {
  readonly destination: string;
  readonly source: string;
}

const isBind = ({ type, options }: RuntimeSpec['mounts'][number]): boolean => type === 'bind' || options.includes('bind') || options.includes('rbind');
const isTmpfs = ({ type }: RuntimeSpec['mounts'][number]): boolean => type === 'tmpfs';

/** Bind mounts in the order of the document; sources are absolute. */
export function boundMounts({ mounts }: RuntimeSpec, bundle: string): readonly BoundMount[] {
  return mounts.filter(isBind).map(({ destination, source = '' }) => ({ destination, source: source.startsWith('/') ? source : `${bundle}/${source}` }));
}

/** Makes what mounts stand on, where the root lacks it, as the creation of a container does; what is below a tmpfs comes from the images. */
function planMountpoints(spec: RuntimeSpec, bundle: string): readonly Step[] {
  const bound = boundMounts(spec, bundle);
  let next = 0;
  return spec.mounts.flatMap((mount, index): readonly Step[] => {
    const origin = `/mounts/${index}`;
    const { destination: path } = mount;
    const source = isBind(mount) ? bound[next++] : undefined;
    if (mount.type === 'cgroup' || mount.type === 'cgroup2' || spec.mounts.some((other) => isTmpfs(other) && path.startsWith(`${other.destination}/`))) return [];
    if (source === undefined) return [{ kind: 'makeDirectory', dir: root, path, mode: 0o755, parents: 1, origin, ignore: [errno.readOnly] }];
    // It stays until criu has ended: what is mounted below it must find its place in it.
    return [
      { kind: 'openTree', dir: noSlot, path: source.source, resolve: 0, recursive: 1, out: scratch, origin },
      { kind: 'moveMount', from: scratch, root, target: path, create: createTarget.asSource, noLinks: 0, origin },
      { kind: 'closeSlot', slot: scratch, origin },
    ];
  });
}

/** The plan. Throws as `planContainer` does for resources that the host cannot limit. */
export function planRestore({ spec, host, cgroup, bundle, rootfs, mountpoint, argv, env }: PlanRestoreInput): Plan {
  const driver = cgroupDriver(host.cgroups);
  const { resources } = spec.linux;
  const owner = cgroupOwnerOf(spec, host);
  const limited = resources === undefined ? {} : { resources };
  const create = driver.create({
    placement: cgroup,
    limitDevices: true,
    path: 'linux.resources',
    origin: '/linux/resources',
    ...limited,
    ...(owner === undefined ? {} : { owner }),
  });
  const attachment = driver.attach(cgroup, { optional: false, ...limited });
  return {
    sections: [
      { actor: 'host', steps: [...create, ...attachment.host] },
      {
        actor: 'containerSetup',
        ...(attachment.slot === undefined ? {} : { cgroup: attachment.slot }),
        steps: [
          ...attachment.child,
          { kind: 'setParentDeathSignal', signal: sigkill },
          { kind: 'unshare', flags: clone.newMount },
          { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
          // Before anything is mounted in the root, and without what the host has mounted there: criu wants the root alone.
          { kind: 'mount', cwd: '', source: rootfs, target: mountpoint, type: '', flags: ms.bind, data: '', origin: '/root/path' },
          { kind: 'openPath', dir: noSlot, path: rootfs, flags: open.path | open.directory, mode: 0, resolve: 0, out: root, origin: '/root/path' },
          ...planMountpoints(spec, bundle),
          { kind: 'closeSlots' },
          // criu 3.17 does not bring it back; what runs under it has it for good, and so has the container.
          ...(spec.process?.noNewPrivileges === true ? [{ kind: 'setNoNewPrivileges', origin: '/process/noNewPrivileges' } as const] : []),
        ],
      },
      { actor: 'payload', steps: [{ kind: 'execute', file: argv[0] ?? '', argv, env }] },
    ],
  };
}
