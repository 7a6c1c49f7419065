/**
 * The features document. In: the project's version, the kernel's. Out: JSON as text. Pure. It says what this runtime recognizes, whatever the host; source: runtime-spec 1.3,
 * features.md and features-linux.md.
 */
import { hookKinds, memoryPolicyFlags, memoryPolicyModes, namespaceTypes, seccompActions, seccompArchitectures, seccompFlags, seccompOperators } from '#oci';
import { capabilityNames } from '#runtime';
import type { HostFacts } from '#system';
import { programName, specVersion } from './command-table.ts';

const attributes = ['atime', 'dev', 'diratime', 'exec', 'noatime', 'nodev', 'nodiratime', 'noexec', 'norelatime', 'nostrictatime', 'nosuid', 'nosymfollow'];
const moreAttributes = ['relatime', 'ro', 'rw', 'strictatime', 'suid', 'symfollow'];
const propagations = ['private', 'shared', 'slave', 'unbindable'];
const ofFileSystems = ['async', 'dirsync', 'iversion', 'lazytime', 'loud', 'mand', 'noiversion', 'nolazytime', 'nomand', 'silent', 'sync'];

/** Words that a mount's options may have besides those of its file system. */
export const mountOptionWords: readonly string[] = [
  ...['bind', 'defaults', 'idmap', 'rbind', 'remount', 'ridmap', 'tmpcopyup'],
  ...ofFileSystems,
  ...[...attributes, ...moreAttributes, ...propagations].flatMap((word) => [word, `r${word}`]),
].sort();

/** First kernels with a flag of seccomp(2) beyond the project's oldest kernel. */
const laterFlags: Readonly<Record<string, readonly [major: number, minor: number]>> = { SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: [5, 19] };

function knows(kernel: HostFacts['kernel'], flag: string): boolean {
  const [major, minor] = laterFlags[flag] ?? [0, 0];
  return kernel.major > major || (kernel.major === major && kernel.minor >= minor);
}

/** The document with its newline. */
export function describeFeatures({ version, kernel }: { readonly version: string; readonly kernel: HostFacts['kernel'] }): string {
  const document = {
    ociVersionMin: '1.0.0',
    ociVersionMax: specVersion,
    hooks: hookKinds,
    mountOptions: mountOptionWords,
    linux: {
      namespaces: namespaceTypes.toSorted(),
      capabilities: capabilityNames,
      cgroup: { v1: true, v2: true, systemd: false, systemdUser: false, rdma: true },
      seccomp: {
        enabled: true,
        actions: seccompActions,
        operators: seccompOperators,
        archs: seccompArchitectures,
        knownFlags: seccompFlags,
        supportedFlags: seccompFlags.filter((flag) => knows(kernel, flag)),
      },
      apparmor: { enabled: true },
      selinux: { enabled: true },
      intelRdt: { enabled: true, schemata: true, monitoring: true },
      memoryPolicy: { modes: Object.keys(memoryPolicyModes).sort(), flags: Object.keys(memoryPolicyFlags).sort() },
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: true },
    },
    // The last one is asked for under this name by whoever may call several runtimes.
    annotations: { [`org.${programName}.version`]: version, 'org.opencontainers.runc.checkpoint.enabled': 'true' },
  };
  return `${JSON.stringify(document, undefined, 4)}\n`;
}
