/**
 * The cgroup v2 driver. In: the cgroup2 mount. Out: steps. Pure.
 * Controllers are enabled from the top; only leaves hold processes (the kernel's "no internal processes" rule); the child is made inside
 * its group by CLONE_INTO_CGROUP; devices are filtered by an eBPF program.
 */
import { type Step, errno, noSlot } from '#plan';
import { type CgroupFacts } from '#system';
import { assert } from '#core';
import {
  type CgroupDriver,
  type CgroupPlacement,
  type CgroupRequest,
  type ControlWrite,
  cgroupComponents,
  deviceRulesOf,
  openCgroup,
  stepOfControl,
  unifiedTree,
  writeControl,
  writesOf,
} from './cgroup-driver.ts';
import { checkControllers, v2Values } from './cgroup-limits.ts';
import { buildDeviceFilter } from './device-filter.ts';
import { localSlots } from './slots.ts';

/** Always enabled where the host has them: memory for OOM events, the others for statistics and for limits that come later. */
const wanted = ['cpu', 'io', 'memory', 'pids'];

/** Where the kernel does not list them. Source: runtime-spec, config-linux.md, "Cgroup ownership". */
const delegatedFiles: readonly string[] = ['cgroup.procs', 'cgroup.subtree_control', 'cgroup.threads'];
const unchanged = 0xffff_ffff;

/** Gives the group to a user: its directory and the files by which it is divided, never those that limit it. Not every group has each of them. */
function delegate(directory: string, uid: number, facts: CgroupFacts, origin: string): readonly Step[] {
  const files = (facts.delegated ?? delegatedFiles).filter((file) => /^[\w.]+$/.test(file));
  return [
    { kind: 'changeOwner', dir: noSlot, path: directory, uid, gid: unchanged, origin },
    ...files.map((file): Step => ({ kind: 'changeOwner', dir: noSlot, path: `${directory}/${file}`, uid, gid: unchanged, origin, ignore: [errno.noEntry] })),
  ];
}

/** The driver for hosts with one cgroup2 tree. */
export function v2Driver(facts: CgroupFacts): CgroupDriver {
  assert(facts.unified !== undefined, 'cgroup v2 without its mount');
  const { mountpoint, controllers } = facts.unified;
  const directoryOf = (placement: CgroupPlacement): string => `${mountpoint}/${cgroupComponents(placement).join('/')}`;
  const kill: CgroupDriver['kill'] = (placement, { timeoutMs }) => [{ kind: 'killCgroup', cgroup: directoryOf(placement), timeoutMs }];
  /** The directories with their controllers, and the values for the last one. */
  const limit = ({ placement, resources, path, origin }: Omit<CgroupRequest, 'limitDevices'>): { readonly levels: readonly Step[]; readonly writes: readonly ControlWrite[] } => {
    const values = resources === undefined ? [] : v2Values(resources, facts, path);
    checkControllers(values, new Set(controllers), facts, path);
    const needed = controllers.filter((name) => wanted.includes(name) || values.some(({ controller }) => controller === name));
    const components = cgroupComponents(placement);
    const enable = (directory: string): readonly Step[] =>
      needed.length === 0 ? [] : [writeControl(`${directory}/cgroup.subtree_control`, needed.map((name) => `+${name}`).join(' '), origin)];
    const levels = components.flatMap((_component, index): readonly Step[] => {
      const parent = [mountpoint, ...components.slice(0, index)].join('/');
      return [...enable(parent), { kind: 'makeDirectory', dir: noSlot, path: `${parent}/${components[index]}`, mode: 0o755, parents: 0, origin, ignore: [errno.exists] }];
    });
    const directory = directoryOf(placement);
    return { levels, writes: writesOf(values, () => directory, origin) };
  };

  return {
    kill,
    always: controllers,
    create: (request) => {
      const { placement, resources, limitDevices, origin } = request;
      const { levels, writes } = limit(request);
      return [
        ...levels,
        ...writes.map(stepOfControl),
        ...(limitDevices
          ? [{ kind: 'attachDeviceFilter', cgroup: directoryOf(placement), program: buildDeviceFilter(deviceRulesOf(resources)), origin: `${origin}/devices` } as const]
          : []),
        ...(request.owner === undefined ? [] : delegate(directoryOf(placement), request.owner, facts, origin)),
      ];
    },
    update: (request) => {
      const { levels, writes } = limit(request);
      return { prepare: levels, writes, members: { of: `${directoryOf(request.placement)}/cgroup.procs`, in: [] } };
    },
    memoryFiles: (placement) =>
      controllers.includes('memory')
        ? { usage: `${directoryOf(placement)}/memory.current`, stat: `${directoryOf(placement)}/memory.stat`, inactiveField: 'inactive_file' }
        : undefined,
    attach: (placement, { subGroups }) => ({
      host: [openCgroup(`${directoryOf(placement)}${subGroups?.get(unifiedTree) ?? subGroups?.get('') ?? ''}`)],
      slot: localSlots.cgroup,
      child: [],
    }),
    remove: (placement, options) => [...kill(placement, options), { kind: 'removeCgroup', cgroup: directoryOf(placement), timeoutMs: options.timeoutMs }],
    oomFile: (placement) => (controllers.includes('memory') ? `${directoryOf(placement)}/memory.events` : ''),
    procsFiles: (placement) => [`${directoryOf(placement)}/cgroup.procs`],
    limited: (resources) => v2Values(resources, facts, 'linux.resources').map(({ controller }) => controller),
    views: (placement) => [{ name: '', path: directoryOf(placement) }],
  };
}
