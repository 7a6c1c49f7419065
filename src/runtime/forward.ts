/**
 * The process that carries one connection of a forwarded port. In: the port, and whether the pod has a network namespace of its own. Out: a
 * plan for CREATE and START. Pure.
 *
 * It enters the pod's network namespace and nothing else of the pod's, so no container can see it. Before it connects it has given up every
 * right; before it reads a byte of a stranger the filter leaves it nothing but reading, writing and ending.
 */
import { invalidArgument } from '#core';
import type { SpecSeccomp } from '#oci';
import { type Plan, type Step, clone, errno, startBarrier } from '#plan';
import type { HostFacts } from '#system';
import { compileSeccomp } from './seccomp.ts';
import { localSlots, podSlots } from './slots.ts';

/** User and group of the process: nobody's, the numbers of the pause process. */
const forwardUser = 65535;
const kill = 9;
/** A queue of connections that is full answers nothing, and the kernel would try for two minutes. */
const connectTimeoutMs = 30_000;
/** Both loopback addresses: a server may listen on either. Source: what kubelets and their runtimes try. */
const loopback = { v4: Uint8Array.of(127, 0, 0, 1), v6: Uint8Array.from({ length: 16 }, (_, index) => (index === 15 ? 1 : 0)) } as const;

/** What giving memory back may call. */
const memory = ['brk', 'munmap', 'madvise'];

const filter: SpecSeccomp = {
  defaultAction: 'SCMP_ACT_KILL_PROCESS',
  architectures: [],
  flags: [],
  syscalls: [
    {
      names: [
        'read',
        'write',
        'sendto',
        'shutdown',
        'close',
        'close_range',
        'poll',
        'ppoll',
        'fcntl',
        'getsockopt',
        'exit_group',
        'exit',
        'rt_sigreturn',
        'restart_syscall',
        ...memory,
      ],
      action: 'SCMP_ACT_ALLOW',
      args: [],
    },
  ],
};

/** What a forwarded connection depends on. */
export interface PlanForwardInput {
  readonly host: HostFacts;
  /** 1 to 65535. */
  readonly port: number;
  /** False: the pod uses the host's network. */
  readonly ownNetwork: boolean;
}

/** The plan: the pod's loopback over IPv4, where nobody listens over IPv6. A refused connection fails CREATE with ECONNREFUSED. Throws invalidArgument. */
export function planForward({ host, port, ownNetwork }: PlanForwardInput): Plan {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw invalidArgument('port', `must be 1 to 65535, not ${port}`);
  const connect = (address: Uint8Array): Step => ({ kind: 'connect', address, port, timeoutMs: connectTimeoutMs, out: localSlots.sources });
  const steps: readonly Step[] = [
    ...(ownNetwork ? [{ kind: 'enterNamespace', slot: podSlots.net, type: clone.newNet } as const] : []),
    { kind: 'limitCapabilities', bounding: 0n },
    { kind: 'setGroups', gids: [] },
    { kind: 'setUser', uid: forwardUser, gid: forwardUser },
    { kind: 'setCapabilities', effective: 0n, permitted: 0n, inheritable: 0n, ambient: 0n },
    { kind: 'setParentDeathSignal', signal: kill },
    { kind: 'setNoNewPrivileges' },
    { ...connect(loopback.v4), ignore: [errno.connectionRefused, errno.addressNotAvailable, errno.networkUnreachable, errno.familyNotSupported], skipOnIgnored: 1 },
    { kind: 'skip', count: 1 },
    connect(loopback.v6),
    { kind: 'barrier', barrier: startBarrier },
    { kind: 'setSeccomp', ...compileSeccomp(filter, host.architecture, 'seccomp') },
    { kind: 'relay', slot: localSlots.sources },
  ];
  return { sections: [{ actor: 'payload', steps }] };
}
