/**
 * Which groups a further process of a container enters. In: the container's placement and first process, groups below that the caller names. Out: paths below the
 * placement, by hierarchy. Reads control files and a process's own list of groups, nothing else.
 *
 * On cgroup2 a group that divides its controllers among groups below holds no processes itself. A container whose first process has made such groups, as systemd
 * does, has moved into one of them; a further process goes there too.
 */
import { invalidArgument } from '#core';
import { type HostFacts, readControlFiles } from '#system';
import { type CgroupPlacement, type SubGroups, cgroupComponents, unifiedTree } from './cgroup-driver.ts';

/** Paths of `exec --cgroup` by controller, checked. An empty key is for every hierarchy. Throws invalidArgument. */
function checkSubGroups(host: HostFacts, wanted: ReadonlyMap<string, string>): SubGroups {
  const known = new Set(host.cgroups.v1.flatMap(({ controllers }) => controllers));
  return new Map(
    [...wanted].map(([controller, path]) => {
      const parts = path.split('/').filter((part) => part !== '' && part !== '.');
      if (parts.includes('..')) throw invalidArgument('--cgroup', `bad sub cgroup path: ${path.slice(0, 200)}`);
      if (controller !== '' && !known.has(controller)) throw invalidArgument('--cgroup', `unknown controller ${controller.slice(0, 80)}`);
      return [controller, parts.map((part) => `/${part}`).join('')];
    }),
  );
}

/**
 * Where a further process goes. `wanted`: paths by controller, as the caller names them; empty: the container's own groups, or where its first process has gone within them.
 * Throws invalidArgument.
 */
export async function findExecGroups(
  host: HostFacts,
  placement: CgroupPlacement,
  { pid, wanted }: { readonly pid: number; readonly wanted: ReadonlyMap<string, string> },
): Promise<SubGroups> {
  if (wanted.size > 0) return checkSubGroups(host, wanted);
  const { unified } = host.cgroups;
  if (unified === undefined) return new Map();
  const group = `/${cgroupComponents(placement).join('/')}`;
  const [divided, own] = [`${unified.mountpoint}${group}/cgroup.subtree_control`, `/proc/${pid}/cgroup`];
  const first = await readControlFiles([divided]);
  if ((first.get(divided) ?? '').trim() === '') return new Map();
  const path = /^0::(\/.*)$/m.exec((await readControlFiles([own])).get(own) ?? '')?.[1] ?? '';
  // Elsewhere it would not be limited with the container.
  return path.startsWith(`${group}/`) && !path.split('/').includes('..') ? new Map([[unifiedTree, path.slice(group.length)]]) : new Map();
}
