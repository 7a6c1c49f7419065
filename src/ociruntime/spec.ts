/** The document that `spec` writes. In: whether the host has cgroup2 alone. Out: a config.json as text. Pure. */
import { defaultMaskedPaths, defaultMounts, defaultReadonlyPaths } from '#runtime';
import { specVersion } from './command-table.ts';

const capabilities = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE'];

/** A container that runs `sh` on a terminal, with few capabilities and a read-only root in the directory `rootfs`. */
export function describeStarterSpec({ cgroup2 }: { readonly cgroup2: boolean }): string {
  const document = {
    ociVersion: specVersion,
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ['sh'],
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'TERM=xterm'],
      cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: 'rootfs', readonly: true },
    hostname: 'berth',
    mounts: defaultMounts,
    linux: {
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      // On cgroup2 a group is shown as the root of its own tree; the v1 hierarchies are mounted one by one.
      namespaces: ['pid', 'network', 'ipc', 'uts', 'mount', ...(cgroup2 ? ['cgroup'] : [])].map((type) => ({ type })),
      maskedPaths: defaultMaskedPaths,
      readonlyPaths: defaultReadonlyPaths,
    },
  };
  return `${JSON.stringify(document, undefined, '\t')}\n`;
}
