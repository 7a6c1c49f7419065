/**
 * Reads what the host offers. In: /proc and /sys of the machine. Out: HostFacts. Only reads; a file that is missing means that the
 * host lacks the feature.
 */
import { type Dirent, existsSync, readFileSync, readdirSync } from 'node:fs';
import { arch, release } from 'node:os';
import { errnoName, wrapError } from '#core';
import { type CgroupFacts, type HostFacts, decodeArchitecture, decodeCgroupMounts, decodeKernelRelease, decodeLimits, decodeMountInfo, decodeStatusFields } from './host-facts.ts';

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw wrapError(`read ${path}`, cause);
  }
}

function readTextIfPresent(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT' || errnoName(cause) === 'EACCES' || errnoName(cause) === 'EOPNOTSUPP') return undefined;
    throw wrapError(`read ${path}`, cause);
  }
}

/** Entries of a directory; none where it cannot be read. */
function listEntries(directory: string): readonly Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch {
    return [];
  }
}
const listNames = (directory: string): readonly string[] => listEntries(directory).map(({ name }) => name);

function readHugepageSizes(directory: string): readonly string[] {
  const names = listNames(directory);
  return names.flatMap((name) => /^hugetlb\.(\w+)\.(?:limit_in_bytes|current|max)$/.exec(name)?.[1] ?? []).filter((size, index, all) => all.indexOf(size) === index);
}

/** The hugetlb files exist below the root of a cgroup2 tree only; the kernel lists the sizes here too: `hugepages-2048kB`. */
function readKernelHugepageSizes(): readonly string[] {
  const names = listNames('/sys/kernel/mm/hugepages');
  return names.flatMap((name) => {
    const kilobytes = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0);
    if (kilobytes === 0) return [];
    return [kilobytes >= 1048576 ? `${kilobytes / 1048576}GB` : kilobytes >= 1024 ? `${kilobytes / 1024}MB` : `${kilobytes}KB`];
  });
}

/** Controllers of which some files depend on how the kernel was built, and in cgroup2 directories their prefixes. */
const variedControllers: readonly string[] = ['cpu', 'memory', 'blkio'];
/** Groups to look at below one root; every group has the same files as its siblings with the same controllers. */
const lookedAtMax = 4;

/** Names of the control files that groups right below a root have; the root itself lacks some. */
function listControlFiles(root: string): readonly string[] {
  const groups = listEntries(root)
    .filter((entry) => entry.isDirectory())
    .slice(0, lookedAtMax);
  return groups.flatMap(({ name }) => listNames(`${root}/${name}`));
}

function readCgroupFacts(): CgroupFacts {
  const { v1, unified } = decodeCgroupMounts(decodeMountInfo(readText('/proc/self/mountinfo')));
  const withController = (name: string): string | undefined => v1.find(({ controllers }) => controllers.includes(name))?.mountpoint;
  const [cpuset, memory, hugetlb] = [withController('cpuset'), withController('memory'), withController('hugetlb')];
  const resourceful = v1.some(({ controllers }) => controllers.some((name) => !name.startsWith('name=')));
  const controllers =
    unified === undefined
      ? []
      : readText(`${unified}/cgroup.controllers`)
          .trim()
          .split(/\s+/)
          .filter((name) => name !== '');
  const kernel = decodeKernelRelease(release());
  const roots = resourceful || unified === undefined ? new Set(variedControllers.flatMap((name) => withController(name) ?? [])) : [unified];
  const delegated = unified === undefined ? undefined : readTextIfPresent('/sys/kernel/cgroup/delegate');
  return {
    controlFiles: new Set([...roots].flatMap(listControlFiles)),
    ...(delegated === undefined ? {} : { delegated: delegated.split('\n').filter((line) => line !== '') }),
    mode: unified === undefined ? 'v1' : resourceful ? 'hybrid' : 'v2',
    v1,
    ...(unified === undefined ? {} : { unified: { mountpoint: unified, controllers, canKill: kernel.major > 5 || (kernel.major === 5 && kernel.minor >= 14) } }),
    cpusetCpus: cpuset === undefined ? '' : readText(`${cpuset}/cpuset.cpus`).trim(),
    cpusetMems: cpuset === undefined ? '' : readText(`${cpuset}/cpuset.mems`).trim(),
    swapLimit: memory === undefined ? controllers.includes('memory') && existsSync('/proc/swaps') : existsSync(`${memory}/memory.memsw.limit_in_bytes`),
    hugepageSizes: hugetlb !== undefined ? readHugepageSizes(hugetlb) : controllers.includes('hugetlb') ? readKernelHugepageSizes() : [],
  };
}

/** Security modules by their traces, where securityfs is not mounted. */
function findSecurityModules(): string {
  const apparmor = readTextIfPresent('/sys/module/apparmor/parameters/enabled') ?? '';
  return [...(apparmor.startsWith('Y') ? ['apparmor'] : []), ...(existsSync('/sys/fs/selinux/enforce') ? ['selinux'] : [])].join(',');
}

/**
 * Reads everything that planning needs to know of the host. Throws where /proc is missing or the processor is unknown. The files are the kernel's own and never block; read in a row they take
 * a fraction of what handing each to a thread does, which short commands would feel.
 */
export function readHostFacts(): HostFacts {
  const fields = decodeStatusFields(readText('/proc/self/status'));
  const modules = readTextIfPresent('/sys/kernel/security/lsm') ?? findSecurityModules();
  return {
    architecture: decodeArchitecture(arch()),
    kernel: decodeKernelRelease(release()),
    cgroups: readCgroupFacts(),
    securityModules: modules
      .trim()
      .split(',')
      .filter((name) => name !== ''),
    capabilities: { last: Number(readText('/proc/sys/kernel/cap_last_cap')), own: BigInt(`0x${fields['CapPrm'] ?? '0'}`) },
    oomScoreAdj: Number(readText('/proc/self/oom_score_adj')),
    rlimits: decodeLimits(readText('/proc/self/limits')),
    seccomp: fields['Seccomp'] !== undefined,
    ...(existsSync('/sys/fs/resctrl/schemata') ? { resctrl: '/sys/fs/resctrl' } : {}),
  };
}
