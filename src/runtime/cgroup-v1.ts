/**
 * The cgroup v1 and hybrid driver. In: the mounted hierarchies. Out: steps. Pure.
 * Used are those hierarchies that every container is in (`always`), those with a limit and, where a cgroup2 tree is mounted beside them, that one (kill).
 * A child attaches itself by writing `0` to `tasks`: writing to `cgroup.procs` waits for a grace period of the kernel.
 */
import { type SpecDeviceRule, type SpecResources } from '#oci';
import { type Step, errno, noSlot } from '#plan';
import { type CgroupFacts } from '#system';
import {
  type CgroupDriver,
  type CgroupPlacement,
  type CgroupRequest,
  type ControlWrite,
  cgroupComponents,
  deviceRulesOf,
  missingGroup,
  openCgroup,
  stepOfControl,
  unifiedTree,
  writeControl,
  writesOf,
} from './cgroup-driver.ts';
import { checkControllers, v1Values } from './cgroup-limits.ts';
import { simplifyDeviceRules } from './device-rules.ts';
import { thawForKill } from './pause.ts';
import { hostLacks } from './refusals.ts';
import { localSlots } from './slots.ts';

/** One rule as devices.allow and devices.deny read it: `c 1:3 rwm`; the whole set is `a`. */
export function describeDeviceRule({ type, major, minor, access }: SpecDeviceRule): string {
  return type === 'a' ? 'a' : `${type} ${major ?? '*'}:${minor ?? '*'} ${access ?? 'rwm'}`;
}

/** Every controller that a container can be placed in, in a fixed order. */
const placeable = ['devices', 'memory', 'cpu', 'cpuacct', 'cpuset', 'pids', 'hugetlb', 'blkio', 'freezer', 'net_cls', 'net_prio', 'perf_event', 'rdma', 'misc'];

/** Policy, statistics, OOM events, and limits that come later: a process that is moved leaves the memory it has in the group it was in. */
const always = ['devices', 'memory', 'cpu', 'cpuacct', 'pids', 'blkio'];

const unique = (names: readonly string[]): readonly string[] => names.filter((name, index) => names.indexOf(name) === index);

/** A new cpuset is empty and takes no process, so each level takes over what its parent has. */
function makeCpuset(mountpoint: string, components: readonly string[], facts: CgroupFacts, origin: string): readonly Step[] {
  return components.flatMap((_component, index): readonly Step[] => {
    const directory = `${mountpoint}/${components.slice(0, index + 1).join('/')}`;
    const make: Step = { kind: 'makeDirectory', dir: noSlot, path: directory, mode: 0o755, parents: 0, origin, ignore: [errno.exists] };
    if (index === 0)
      return [
        { ...make, skipOnIgnored: 2 },
        writeControl(`${directory}/cpuset.cpus`, facts.cpusetCpus, origin),
        writeControl(`${directory}/cpuset.mems`, facts.cpusetMems, origin),
      ];
    return [writeControl(`${mountpoint}/${components.slice(0, index).join('/')}/cgroup.clone_children`, '1', origin), make];
  });
}

/** The driver for hosts whose controllers are mounted as v1 hierarchies. */
export function v1Driver(facts: CgroupFacts): CgroupDriver {
  const mountOf = (controller: string): string | undefined => facts.v1.find(({ controllers }) => controllers.includes(controller))?.mountpoint;
  const available = new Set(facts.v1.flatMap(({ controllers }) => controllers));
  const unified = facts.unified?.mountpoint;
  const relative = (placement: CgroupPlacement): string => cgroupComponents(placement).join('/');
  /** Hierarchies that may hold the group, each once. */
  const mounts = unique(placeable.flatMap((name) => mountOf(name) ?? []));
  const limited = (resources: SpecResources, path: string): readonly string[] => v1Values(resources, facts, path).map(({ controller }) => controller);
  /** Hierarchies that do hold it: those that are always used, those with limits of its own, those of its parents. */
  const used = (placement: CgroupPlacement, resources: SpecResources | undefined, path = 'linux.resources'): readonly string[] => {
    const needed = new Set([...always, ...(placement.controllers ?? []), ...(resources === undefined ? [] : limited(resources, path))]);
    return unique(placeable.filter((name) => needed.has(name)).flatMap((name) => mountOf(name) ?? []));
  };

  const kill: CgroupDriver['kill'] = (placement, { timeoutMs }) => {
    const mount = unified ?? mounts[0];
    // The cgroup2 freezer lets a process die, the other one does not.
    const freezer = unified === undefined ? mountOf('freezer') : undefined;
    return [
      ...(freezer === undefined ? [] : thawForKill(`${freezer}/${relative(placement)}`)),
      ...(mount === undefined ? [] : [{ kind: 'killCgroup', cgroup: `${mount}/${relative(placement)}`, timeoutMs } as const]),
    ];
  };
  /** The directories, and the values for them. */
  const limit = ({
    placement,
    resources,
    path,
    origin,
  }: Omit<CgroupRequest, 'limitDevices'>): { readonly directories: readonly Step[]; readonly writes: readonly ControlWrite[] } => {
    const values = resources === undefined ? [] : v1Values(resources, facts, path);
    if (resources !== undefined) {
      checkControllers(values, available, facts, path);
      if (Object.keys(resources.unified).length > 0) throw hostLacks(`${path}.unified`, 'needs cgroup v2');
    }
    const group = relative(placement);
    const directories = used(placement, resources, path).flatMap((mount) =>
      mount === mountOf('cpuset')
        ? makeCpuset(mount, cgroupComponents(placement), facts, origin)
        : [{ kind: 'makeDirectory', dir: noSlot, path: `${mount}/${group}`, mode: 0o755, parents: 1, origin } as const],
    );
    return {
      directories,
      writes: writesOf(values, (controller) => `${mountOf(controller)}/${group}`, origin),
    };
  };

  return {
    kill,
    always,
    create: (request) => {
      const { placement, resources, limitDevices, path, origin } = request;
      const { directories, writes } = limit(request);
      if (limitDevices && !available.has('devices')) throw hostLacks(`${path}.devices`, 'this host has no devices controller');
      const group = relative(placement);
      const rules = limitDevices ? simplifyDeviceRules(deviceRulesOf(resources), `${path}.devices`) : [];
      return [
        ...directories,
        ...(unified === undefined ? [] : [{ kind: 'makeDirectory', dir: noSlot, path: `${unified}/${group}`, mode: 0o755, parents: 1, origin } as const]),
        ...writes.map(stepOfControl),
        ...rules.map((rule) => writeControl(`${mountOf('devices')}/${group}/devices.${rule.allow ? 'allow' : 'deny'}`, describeDeviceRule(rule), `${origin}/devices`)),
      ];
    },
    update: (request) => {
      const { placement, resources, path } = request;
      const { directories, writes } = limit(request);
      const group = relative(placement);
      const procs = used(placement, resources, path).map((mount) => `${mount}/${group}/cgroup.procs`);
      const [first = ''] = procs;
      return { prepare: directories, writes, members: { of: first, in: procs.slice(1) } };
    },
    memoryFiles: (placement) => {
      const memory = mountOf('memory');
      if (memory === undefined) return undefined;
      const directory = `${memory}/${relative(placement)}`;
      return { usage: `${directory}/memory.usage_in_bytes`, stat: `${directory}/memory.stat`, inactiveField: 'total_inactive_file' };
    },
    attach: (placement, { resources, optional, subGroups = new Map() }) => {
      const group = relative(placement);
      const named = new Map([...subGroups].flatMap(([controller, path]) => (controller === '' ? [] : [[mountOf(controller), path] as const])));
      const always = used(placement, resources);
      const child = (optional ? mounts : always).map((mount): Step => {
        const below = named.get(mount) ?? subGroups.get('');
        const mayMiss = optional && (below === undefined || (!named.has(mount) && !always.includes(mount)));
        return { ...writeControl(`${mount}/${group}${below ?? ''}/tasks`, '0', '/linux/cgroupsPath'), ...(mayMiss ? { ignore: missingGroup } : {}) };
      });
      return unified === undefined ? { host: [], child } : { host: [openCgroup(`${unified}/${group}${subGroups.get(unifiedTree) ?? ''}`)], slot: localSlots.cgroup, child };
    },
    remove: (placement, options) => [
      ...kill(placement, options),
      ...[...mounts, ...(unified === undefined ? [] : [unified])].map((mount): Step => ({
        kind: 'removeCgroup',
        cgroup: `${mount}/${relative(placement)}`,
        timeoutMs: options.timeoutMs,
      })),
    ],
    oomFile: (placement, resources) => {
      const memory = mountOf('memory');
      return memory === undefined || !used(placement, resources).includes(memory) ? '' : `${memory}/${relative(placement)}/memory.oom_control`;
    },
    procsFiles: (placement) => [
      ...used(placement, undefined).map((mount) => `${mount}/${relative(placement)}/tasks`),
      ...(unified === undefined ? [] : [`${unified}/${relative(placement)}/cgroup.procs`]),
    ],
    limited: (resources) => unique(limited(resources, 'linux.resources')),
    views: (placement, resources) => [
      ...used(placement, resources).map((mount) => ({ name: mount.slice(mount.lastIndexOf('/') + 1), path: `${mount}/${relative(placement)}` })),
      ...(unified === undefined ? [] : [{ name: 'unified', path: `${unified}/${relative(placement)}` }]),
    ],
  };
}
