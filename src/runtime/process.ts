/**
 * The last steps before a process is the container's own: terminal, limits, identity, capabilities, seccomp, working directory, execve.
 * In: a decoded process, who it runs as, the host. Out: steps, and errors with the document's path. Pure.
 * The same order serves the first process of a container and an exec.
 */
import { invalidArgument } from '#core';
import { type SpecProcess, type SpecSeccomp, rlimitTypes } from '#oci';
import { type Step, type StepOf, errno, fileSystem, noSlot, startBarrier } from '#plan';
import { type HostFacts } from '#system';
import { capabilityBit, maskCapabilities } from './capabilities.ts';
import { type Identity } from './identity.ts';
import { checkLabels } from './lsm.ts';
import { hostLacks, unsupported } from './refusals.ts';
import { planScheduling } from './scheduler.ts';
import { awaitAgent, planFilter } from './seccomp-listener.ts';
import { localSlots } from './slots.ts';

/** A process whose maker need not stay. */
export interface Standalone {
  /** Slot of a listening socket by which anybody who may connect to it starts the process; absent: it executes at once. */
  readonly startSocket?: number;
  /** Descriptors from 3 on that the process gets. */
  readonly preserveFds: number;
  /** False: it is killed when its maker ends. One that waits at a socket always goes on. */
  readonly outlivesMaker: boolean;
}

/** What surrounds a process. */
export interface ProcessContext {
  readonly host: HostFacts;
  readonly seccomp?: SpecSeccomp;
  readonly terminal: boolean;
  /** Where the terminal is also mounted, `''`: nowhere. */
  readonly consoleTarget: string;
  /** Wait for the start request before execve. */
  readonly startBarrier: boolean;
  /** For a process without a shim; `startBarrier` does not count then. */
  readonly standalone?: Standalone;
  /** The last step enters a PID namespace that others live in: continue in a new process there. */
  readonly fork: boolean;
  /** The process is in a user namespace, and what needs rights on the host has been done before that was entered. */
  readonly hasUsers?: boolean;
  /** Steps with the payload's own rights, right before it. */
  readonly beforeExecute?: readonly Step[];
  /** Path of the process object, such as `process`, and of the seccomp object. */
  readonly path: string;
}

const kill = 9;
const unchanged = 0xffff_ffff;
const standardUmask = 0o022;
const deathSignal: Step = { kind: 'setParentDeathSignal', signal: kill };
const hasOwn = (host: HostFacts, name: string): boolean => (host.capabilities.own & (capabilityBit(name) ?? 0n)) !== 0n;

function planRlimits(process: SpecProcess, { host, path }: ProcessContext): readonly Step[] {
  return process.rlimits.map(({ type, soft, hard }, index): Step => {
    const resource = rlimitTypes.indexOf(type);
    const ceiling = host.rlimits[resource]?.hard;
    if (ceiling !== undefined && hard > ceiling && !hasOwn(host, 'CAP_SYS_RESOURCE'))
      throw hostLacks(`${path}.rlimits[${index}].hard`, `${hard} is above this host's ${ceiling} and CAP_SYS_RESOURCE is missing`);
    return { kind: 'setRlimit', resource, soft, hard, origin: `/${path}/rlimits/${index}` };
  });
}

/**
 * The write of oom_score_adj through the process's own directory in procfs. Lowering it needs CAP_SYS_RESOURCE; without it the
 * lowest possible value is the one this process has.
 */
export function planOomWrite(wanted: number, host: HostFacts, origin?: string): readonly Step[] {
  const score = hasOwn(host, 'CAP_SYS_RESOURCE') ? wanted : Math.max(wanted, host.oomScoreAdj);
  return [
    {
      kind: 'writeFile',
      dir: noSlot,
      path: '/proc/self/oom_score_adj',
      data: Buffer.from(String(score)),
      fileSystem: fileSystem.proc,
      ...(origin === undefined ? {} : { origin }),
    },
  ];
}

/** The same for what a process object asks. */
export function planOomScore(process: SpecProcess, host: HostFacts, path: string): readonly Step[] {
  return process.oomScoreAdj === undefined ? [] : planOomWrite(process.oomScoreAdj, host, `/${path}/oomScoreAdj`);
}

/** Refuses what a process object may ask and this host or version cannot do. */
export function checkProcess(process: SpecProcess, host: HostFacts, path: string): void {
  const [first] = process.unsupported;
  if (first !== undefined) throw unsupported(`${path}.${first}`);
  checkLabels(process, host, path);
}

/** The environment with HOME where the document has none. */
function environmentOf(process: SpecProcess, identity: Identity): readonly string[] {
  return process.env.some((entry) => entry.startsWith('HOME=')) ? process.env : [...process.env, `HOME=${identity.home}`];
}

function planTerminal(process: SpecProcess, identity: Identity, context: ProcessContext): readonly Step[] {
  if (!context.terminal) return [];
  const openTerminal: StepOf<'openTerminal'> = {
    kind: 'openTerminal',
    root: localSlots.root,
    path: '/dev/pts/ptmx',
    columns: process.consoleSize?.width ?? 0,
    rows: process.consoleSize?.height ?? 0,
    consoleTarget: context.consoleTarget,
    origin: `/${context.path}/terminal`,
  };
  // The console is a bind of the terminal, so that this gives the terminal itself to the user; its group stays the one of devpts.
  const own: readonly Step[] = context.consoleTarget === '' ? [] : [{ kind: 'changeOwner', dir: localSlots.root, path: context.consoleTarget, uid: identity.uid, gid: unchanged }];
  return [openTerminal, ...own];
}

/**
 * The last steps before `execute`. Where a start request of the maker is awaited, the process is still its maker's: only then it gets a session, and a number in a PID namespace of others. One without a
 * shim has to be its own before, and whatever can be found out has been: a missing program fails its creation.
 */
function planWait(process: SpecProcess, file: string, context: ProcessContext, beforeStart: readonly Step[]): readonly Step[] {
  const { standalone, path } = context;
  const fork: readonly Step[] = context.fork ? [{ kind: 'fork', flags: 0 }, deathSignal, ...planScheduling(process, { forks: true, path }).late] : [];
  // The session's leader must be the process that stays.
  const session: Step = { kind: 'newSession', controllingTerminal: context.terminal ? 1 : 0 };
  if (standalone === undefined) return [...(context.startBarrier ? [{ kind: 'barrier', barrier: startBarrier } as const] : []), ...fork, session, ...beforeStart];
  const { startSocket, preserveFds, outlivesMaker } = standalone;
  return [
    ...(preserveFds === 0 ? [] : [{ kind: 'keepDescriptors', count: preserveFds } as const]),
    ...fork,
    session,
    { kind: 'findExecutable', file, env: process.env, origin: `/${path}/args` },
    ...beforeStart,
    ...(startSocket !== undefined ? [{ kind: 'awaitStart', slot: startSocket } as const] : outlivesMaker ? [{ kind: 'setParentDeathSignal', signal: 0 } as const] : []),
  ];
}

/** Programs of the container itself run before the payload, and may look into the process that waits for them. */
function planBefore({ beforeExecute = [] }: ProcessContext): readonly Step[] {
  return beforeExecute.length === 0 ? [] : [{ kind: 'closeSlots' }, ...beforeExecute];
}

/** The steps, of which the last is `execute`. */
export function planProcess(process: SpecProcess, identity: Identity, context: ProcessContext): readonly Step[] {
  const { host, path } = context;
  const [file] = process.args;
  if (file === undefined || file === '') throw invalidArgument(`${path}.args[0]`, 'must not be empty');
  const masks = maskCapabilities(process.capabilities, host, `${path}.capabilities`);
  const filter = planFilter(context.seccomp, host.architecture);
  const agent = awaitAgent(context.seccomp);
  // The agent hears of the process that stays, and from its maker, so a filter that asks does not wait for the start.
  const asksLate = agent.length > 0 && process.noNewPrivileges;
  const beforeStart = asksLate ? [...filter, ...agent] : context.fork ? agent : [];
  const terminal = planTerminal(process, identity, context);
  // Without a console bind the terminal is opened by its user, who thereby owns it.
  const terminalAfterUser = context.terminal && context.consoleTarget === '';
  const scheduling = planScheduling(process, { forks: context.fork, path });
  // A container does not depend on the mask of the shell that made it; a process that joins one has its caller's. Source: runc.
  const umask = process.user.umask ?? (context.standalone?.startSocket === undefined ? undefined : standardUmask);
  return [
    ...(terminalAfterUser ? [] : terminal),
    // As runc does it: what leads to a file of the host cannot be written to a checkpoint. Before any filter, which might forbid it.
    ...(context.standalone?.startSocket === undefined || context.terminal ? [] : [{ kind: 'reopenNull' } as const]),
    ...planRlimits(process, context),
    ...(context.hasUsers === true ? scheduling.privileged.filter(({ kind }) => kind !== 'setIoPriority') : scheduling.privileged),
    ...(umask === undefined ? [] : [{ kind: 'setUmask', mask: umask, origin: `/${path}/user/umask` } as const]),
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it goes in before the capabilities fall; with it, as late as possible.
    ...(process.noNewPrivileges ? [] : [...filter, ...(context.fork ? [] : agent)]),
    { kind: 'limitCapabilities', bounding: masks.bounding, origin: `/${path}/capabilities/bounding` },
    {
      kind: 'setGroups',
      gids: identity.groups,
      origin: `/${path}/user/additionalGids`,
      ...(context.hasUsers === true && identity.groups.length === 0 ? { ignore: [errno.perm] } : {}),
    },
    { kind: 'setUser', uid: identity.uid, gid: identity.gid, origin: `/${path}/user` },
    ...(terminalAfterUser ? terminal : []),
    { kind: 'setCapabilities', effective: masks.effective, permitted: masks.permitted, inheritable: masks.inheritable, ambient: masks.ambient, origin: `/${path}/capabilities` },
    // A change of credentials clears the signal, so it comes after them.
    deathSignal,
    { kind: 'changeDirectory', path: process.cwd, create: 0, origin: `/${path}/cwd` },
    ...(process.noNewPrivileges ? [{ kind: 'setNoNewPrivileges', origin: `/${path}/noNewPrivileges` } as const] : []),
    ...planWait(process, file, context, beforeStart),
    ...(process.noNewPrivileges && !asksLate ? filter : []),
    ...planBefore(context),
    { kind: 'execute', file, argv: process.args, env: environmentOf(process, identity), origin: `/${path}/args` },
  ];
}

/** Who a process object with numbers runs as; nothing is looked up. */
export function identityOf(process: SpecProcess): Identity {
  return { uid: process.user.uid, gid: process.user.gid, groups: process.user.additionalGids, home: process.user.uid === 0 ? '/root' : '/' };
}
