/**
 * A further process in a running container. In: the process, the container's document, the pid of its init. Out: a Plan, or an error
 * with the document's path. Pure.
 *
 * Cgroups are entered first. The init's namespaces are opened below its directory in procfs, which stays that process's even when the pid is
 * given to another, and entered with the mount namespace last. Credentials, capabilities and seccomp are those of the payload before the
 * last step moves into the PID namespace by a fork, so that nothing with privileges is ever visible inside (CVE-2016-9962).
 */
import { assert, invalidArgument, limits } from '#core';
import { type NamespaceType, type RuntimeSpec, type SpecProcess } from '#oci';
import { type Plan, type Section, type Step, errno, fileSystem, noSlot, open } from '#plan';
import { type HostFacts } from '#system';
import { cgroupDriver } from './cgroup.ts';
import { type CgroupPlacement, type SubGroups } from './cgroup-driver.ts';
import { type HookPlace } from './hooks.ts';
import { type Identity, identityFiles } from './identity.ts';
import { checkMapped } from './identity-mapping.ts';
import { planLabels } from './lsm.ts';
import { planMemoryPolicy } from './memory-policy.ts';
import { cloneFlagOf } from './namespaces.ts';
import { type Standalone, checkProcess, identityOf, planOomScore, planProcess } from './process.ts';
import { freeCpus, planCpuAffinity } from './scheduler.ts';
import { planListener } from './seccomp-listener.ts';
import { localSlots } from './slots.ts';
import { becomeContainerRoot, containerRootOf, raiseLimits } from './user-namespace.ts';

/** What an exec depends on. */
export interface PlanExecInput {
  readonly process: SpecProcess;
  /** The container's document: which namespaces it has, and its seccomp profile. */
  readonly spec: RuntimeSpec;
  /** Pid of the container's first process, in the shim's PID namespace. */
  readonly initPid: number;
  /** Field 22 of its /proc/<pid>/stat, for whoever is not its parent: the number may be another process's by the time that the plan runs. */
  readonly initStartTime?: bigint;
  readonly host: HostFacts;
  readonly cgroup: CgroupPlacement;
  /** Groups below to enter instead; see `findExecGroups`. */
  readonly subGroups?: SubGroups;
  /** Overrides process.terminal. */
  readonly terminal?: boolean;
  /** Who to run as; absent: the numbers of the process object. */
  readonly identity?: Identity;
  /** Wait for a start request: for an interactive exec, which the shim makes with CREATE and START. */
  readonly startBarrier?: boolean;
  /** What the container is called, for the agent of a seccomp profile that asks. */
  readonly hookPlace?: HookPlace;
  /** For an exec without a shim. */
  readonly standalone?: Standalone;
  /** Leave the payload section out and ask for /etc/passwd and /etc/group; `planExecPayload` makes the answer. */
  readonly askIdentity?: boolean;
}

/**
 * Names below /proc/<pid>/ns in the order of entering: the mount namespace last but one, because it takes the host's paths away; the user namespace
 * last, because it takes away the right to enter the others.
 */
const entered: readonly (readonly [type: NamespaceType, file: string])[] = [
  ['network', 'net'],
  ['ipc', 'ipc'],
  ['uts', 'uts'],
  ['cgroup', 'cgroup'],
  ['time', 'time'],
  ['pid', 'pid'],
  ['mount', 'mnt'],
];

/** Into the root of a container that has no mount namespace of its own. */
const enterRoot: readonly Step[] = [
  { kind: 'openPath', dir: localSlots.initProcess, path: 'root', flags: open.path | open.directory, mode: 0, resolve: 0, out: localSlots.root },
  { kind: 'changeRoot', slot: localSlots.root },
];

/** The plan of an EXEC request, or of CREATE with a start barrier: host (where a cgroup is opened), containerSetup, payload. */
export function planExec(input: PlanExecInput): Plan {
  const { process, spec, host, initPid } = input;
  assert(Number.isInteger(initPid) && initPid > 0, `exec with pid ${initPid}`);
  checkProcess(process, host, 'process');
  if (process.args.length === 0) throw invalidArgument('process.args', 'must have at least one item');
  const attachment = cgroupDriver(host.cgroups).attach(input.cgroup, { optional: true, ...(input.subGroups === undefined ? {} : { subGroups: input.subGroups }) });
  const joined = entered.filter(([type]) => spec.linux.namespaces.some((namespace) => namespace.type === type));
  const slotOf = (index: number): number => localSlots.namespaces + index;
  // User and group 0 of the container's user namespace, outside of it.
  const users = spec.linux.namespaces.some(({ type }) => type === 'user') ? containerRootOf(spec) : undefined;
  const affinity = planCpuAffinity(process.execCPUAffinity, 'process');
  // The first CPUs are those of the way into the group, so the process cannot be made in it.
  const moves = affinity.initial.length > 0 && attachment.slot !== undefined;
  const setup: readonly Step[] = [
    ...affinity.initial,
    ...(moves
      ? [{ kind: 'writeFile', dir: localSlots.cgroup, path: 'cgroup.procs', data: Buffer.from('0'), fileSystem: fileSystem.cgroup, origin: '/linux/cgroupsPath' } as const]
      : []),
    ...attachment.child,
    ...(input.standalone !== undefined && affinity.initial.length + affinity.final.length === 0 ? [freeCpus] : affinity.final),
    ...(users === undefined ? [{ kind: 'joinKeyring', name: '', ignore: [errno.noSystemCall] } as const] : []),
    ...planOomScore(process, host, 'process'),
    ...planLabels(process, 'process'),
    { kind: 'openPath', dir: noSlot, path: `/proc/${initPid}`, flags: open.path | open.directory, mode: 0, resolve: 0, out: localSlots.initProcess },
    // After the directory is open: who is alive with this start time now had the number then.
    ...(input.initStartTime === undefined ? [] : [{ kind: 'signalProcess', pid: initPid, startTime: input.initStartTime, signal: 0 } as const]),
    ...[...joined.map(([, file]) => file), ...(users === undefined ? [] : ['user'])].map((file, index): Step => ({
      kind: 'openPath',
      dir: localSlots.initProcess,
      path: `ns/${file}`,
      flags: open.readOnly,
      mode: 0,
      resolve: 0,
      out: slotOf(index),
    })),
    ...(users === undefined ? [] : [...raiseLimits(process, host, 'process'), { kind: 'giveStreams', ...users } as const]),
    ...joined.map(([type], index): Step => ({ kind: 'enterNamespace', slot: slotOf(index), type: cloneFlagOf[type] })),
    ...(users === undefined ? [] : becomeContainerRoot(slotOf(joined.length))),
    ...(spec.linux.namespaces.some(({ type }) => type === 'mount') ? [] : enterRoot),
    { kind: 'openPath', dir: noSlot, path: '/', flags: open.path | open.directory, mode: 0, resolve: 0, out: localSlots.root },
    ...(spec.linux.personality === undefined
      ? []
      : [{ kind: 'setPersonality', persona: spec.linux.personality.domain === 'LINUX32' ? 8 : 0, origin: '/linux/personality' } as const]),
    ...planMemoryPolicy(spec.linux),
    ...(input.askIdentity === true ? [{ kind: 'ask', root: localSlots.root, files: identityFiles, bytesMax: limits.identityFileBytesMax, origin: '/process/user' } as const] : []),
  ];
  const payload = payloadSection(input, input.identity ?? identityOf(process));
  return {
    sections: [
      ...(attachment.host.length === 0 ? [] : [{ actor: 'host', steps: attachment.host } as const]),
      ...planListener(spec, input.hookPlace, { kind: 'exec', initPid }),
      { actor: 'containerSetup', ...(attachment.slot === undefined || moves ? {} : { cgroup: attachment.slot }), steps: setup },
      ...(input.askIdentity === true ? [] : [payload]),
    ],
  };
}

function payloadSection(input: PlanExecInput, identity: Identity): Section {
  const { process, spec, host } = input;
  checkMapped(identity, spec, 'process.user');
  const steps = planProcess(process, identity, {
    host,
    terminal: input.terminal ?? process.terminal,
    consoleTarget: '',
    startBarrier: input.startBarrier ?? false,
    ...(input.standalone === undefined ? {} : { standalone: input.standalone }),
    fork: spec.linux.namespaces.some(({ type }) => type === 'pid'),
    path: 'process',
    hasUsers: spec.linux.namespaces.some(({ type }) => type === 'user'),
    ...(spec.linux.seccomp === undefined ? {} : { seccomp: spec.linux.seccomp }),
  });
  return { actor: 'payload', steps };
}

/** The answer to the `ask` of a plan that was compiled with `askIdentity`: the payload section alone. */
export function planExecPayload(input: PlanExecInput, identity: Identity): Plan {
  return { sections: [payloadSection(input, identity)] };
}
