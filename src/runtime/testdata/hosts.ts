/** Hosts for tests: facts of three kinds of machines. Data only. */
import { type HostFacts, rlimitInfinity } from '#system';

const common = {
  architecture: 'x86_64',
  securityModules: [],
  oomScoreAdj: 0,
  seccomp: true,
  kernel: { release: '6.1.0-18-amd64', major: 6, minor: 1 },
  rlimits: { 7: { soft: 1024n, hard: 1048576n }, 8: { soft: rlimitInfinity, hard: rlimitInfinity } },
  capabilities: { last: 40, own: (1n << 41n) - 1n },
} as const;

const v1 = ['cpu', 'cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio', 'pids'].map((name) => ({ controllers: [name], mountpoint: `/sys/fs/cgroup/${name}` }));

/** One cgroup2 tree with every controller. */
export const v2Host: HostFacts = {
  ...common,
  cgroups: {
    mode: 'v2',
    v1: [],
    unified: { mountpoint: '/sys/fs/cgroup', controllers: ['cpuset', 'cpu', 'io', 'memory', 'hugetlb', 'pids'], canKill: true },
    cpusetCpus: '',
    cpusetMems: '',
    swapLimit: true,
    hugepageSizes: ['2MB'],
  },
};

/** v1 hierarchies beside a cgroup2 tree; without CAP_SYS_RESOURCE. */
export const hybridHost: HostFacts = {
  ...common,
  capabilities: { last: 40, own: common.capabilities.own & ~(1n << 24n) },
  cgroups: {
    mode: 'hybrid',
    v1,
    unified: { mountpoint: '/sys/fs/cgroup/unified', controllers: ['hugetlb'], canKill: true },
    cpusetCpus: '0-1',
    cpusetMems: '0',
    swapLimit: true,
    hugepageSizes: [],
  },
};

/** v1 hierarchies alone; swap is not accounted. */
export const v1Host: HostFacts = { ...common, cgroups: { mode: 'v1', v1, cpusetCpus: '0-3', cpusetMems: '0', swapLimit: false, hugepageSizes: [] } };
