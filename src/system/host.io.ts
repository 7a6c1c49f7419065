/**
 * Reads what the host offers. In: /proc and /sys of the machine. Out: HostFacts. Only reads; a file that is missing means that the
 * host lacks the feature.
 */
import { access, readFile, readdir } from 'node:fs/promises';
import { arch, release } from 'node:os';
import { errnoName, wrapError } from '#core';
import { type CgroupFacts, type HostFacts, decodeArchitecture, decodeCgroupMounts, decodeKernelRelease, decodeLimits, decodeMountInfo, decodeStatusFields } from './host-facts.ts';

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw wrapError(`read ${path}`, cause);
  }
}

async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT' || errnoName(cause) === 'EACCES' || errnoName(cause) === 'EOPNOTSUPP') return undefined;
    throw wrapError(`read ${path}`, cause);
  }
}

const exists = async (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function readHugepageSizes(directory: string): Promise<readonly string[]> {
  const names = await readdir(directory).catch(() => []);
  return names.flatMap((name) => /^hugetlb\.(\w+)\.(?:limit_in_bytes|current|max)$/.exec(name)?.[1] ?? []).filter((size, index, all) => all.indexOf(size) === index);
}

/** The hugetlb files exist below the root of a cgroup2 tree only; the kernel lists the sizes here too: `hugepages-2048kB`. */
async function readKernelHugepageSizes(): Promise<readonly string[]> {
  const names = await readdir('/sys/kernel/mm/hugepages').catch(() => []);
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
async function listControlFiles(root: string): Promise<readonly string[]> {
  const entries = await readdir(root, { withFileTypes: true }).catch(() => []);
  const groups = entries.filter((entry) => entry.isDirectory()).slice(0, lookedAtMax);
  return (await Promise.all(groups.map(async ({ name }) => readdir(`${root}/${name}`).catch(() => [])))).flat();
}

async function readControlFileNames(roots: readonly string[]): Promise<ReadonlySet<string>> {
  return new Set((await Promise.all(roots.map(listControlFiles))).flat());
}

async function readCgroupFacts(): Promise<CgroupFacts> {
  const { v1, unified } = decodeCgroupMounts(decodeMountInfo(await readText('/proc/self/mountinfo')));
  const withController = (name: string): string | undefined => v1.find(({ controllers }) => controllers.includes(name))?.mountpoint;
  const [cpuset, memory, hugetlb] = [withController('cpuset'), withController('memory'), withController('hugetlb')];
  const resourceful = v1.some(({ controllers }) => controllers.some((name) => !name.startsWith('name=')));
  const controllers =
    unified === undefined
      ? []
      : (await readText(`${unified}/cgroup.controllers`))
          .trim()
          .split(/\s+/)
          .filter((name) => name !== '');
  const kernel = decodeKernelRelease(release());
  const roots = resourceful || unified === undefined ? new Set(variedControllers.flatMap((name) => withController(name) ?? [])) : [unified];
  const [controlFiles, delegated] = await Promise.all([readControlFileNames([...roots]), unified === undefined ? undefined : readTextIfPresent('/sys/kernel/cgroup/delegate')]);
  return {
    controlFiles,
    ...(delegated === undefined ? {} : { delegated: delegated.split('\n').filter((line) => line !== '') }),
    mode: unified === undefined ? 'v1' : resourceful ? 'hybrid' : 'v2',
    v1,
    ...(unified === undefined ? {} : { unified: { mountpoint: unified, controllers, canKill: kernel.major > 5 || (kernel.major === 5 && kernel.minor >= 14) } }),
    cpusetCpus: cpuset === undefined ? '' : (await readText(`${cpuset}/cpuset.cpus`)).trim(),
    cpusetMems: cpuset === undefined ? '' : (await readText(`${cpuset}/cpuset.mems`)).trim(),
    swapLimit: memory === undefined ? controllers.includes('memory') && (await exists('/proc/swaps')) : await exists(`${memory}/memory.memsw.limit_in_bytes`),
    hugepageSizes: hugetlb !== undefined ? await readHugepageSizes(hugetlb) : controllers.includes('hugetlb') ? await readKernelHugepageSizes() : [],
  };
}

/** Security modules by their traces, where securityfs is not mounted. */
async function findSecurityModules(): Promise<string> {
  const apparmor = (await readTextIfPresent('/sys/module/apparmor/parameters/enabled')) ?? '';
  return [...(apparmor.startsWith('Y') ? ['apparmor'] : []), ...((await exists('/sys/fs/selinux/enforce')) ? ['selinux'] : [])].join(',');
}

/** Reads everything that planning needs to know of the host. Throws where /proc is missing or the processor is unknown. */
export async function readHostFacts(): Promise<HostFacts> {
  const [status, last, oomScoreAdj, limits, modules, cgroups] = await Promise.all([
    readText('/proc/self/status'),
    readText('/proc/sys/kernel/cap_last_cap'),
    readText('/proc/self/oom_score_adj'),
    readText('/proc/self/limits'),
    readTextIfPresent('/sys/kernel/security/lsm'),
    readCgroupFacts(),
  ]);
  const fields = decodeStatusFields(status);
  return {
    architecture: decodeArchitecture(arch()),
    kernel: decodeKernelRelease(release()),
    cgroups,
    securityModules: (modules ?? (await findSecurityModules()))
      .trim()
      .split(',')
      .filter((name) => name !== ''),
    capabilities: { last: Number(last), own: BigInt(`0x${fields['CapPrm'] ?? '0'}`) },
    oomScoreAdj: Number(oomScoreAdj),
    rlimits: decodeLimits(limits),
    seccomp: fields['Seccomp'] !== undefined,
    ...((await exists('/sys/fs/resctrl/schemata')) ? { resctrl: '/sys/fs/resctrl' } : {}),
  };
}
