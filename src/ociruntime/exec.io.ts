/**
 * `exec`: a further process in a container. In: a process document, or changes to the container's own. Out: the process, which the front waits for unless detached.
 */
import { RuntimeError, invalidArgument, limits } from '#core';
import { type RuntimeSpec, type SpecProcess, decodeProcess, parseJson } from '#oci';
import { type PlanExecInput, findExecGroups, identityOf, planExec, planExecPayload } from '#runtime';
import { decodeAsk } from '#system';
import { checkTerminal, writePidFile } from './create.io.ts';
import { lacksHome, settleProcess, settleSize } from './environment.ts';
import type { ExecOptions, ExecProcess, Operation } from './options.ts';
import { homeOf, hookPlaceOf, planSignal } from './plans.ts';
import { readFacts } from './remove.io.ts';
import { readDocument, readStatus } from './state-directory.io.ts';

const sigkill = 9;

/** The container's process with the changes of a command line. Source: runc exec, for which flags replace and which add. */
export function changeProcess(process: SpecProcess, changes: ExecProcess): SpecProcess {
  const { caps, user } = changes;
  const own = process.capabilities ?? { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] };
  const added = {
    bounding: [...own.bounding, ...caps],
    effective: [...own.effective, ...caps],
    permitted: [...own.permitted, ...caps],
    inheritable: own.inheritable,
    // An ambient capability has to be inheritable.
    ambient: own.inheritable.length === 0 ? own.ambient : [...own.ambient, ...caps.filter((name) => own.inheritable.includes(name))],
  };
  return {
    ...process,
    args: changes.args,
    terminal: changes.tty,
    env: [...process.env, ...changes.env],
    user: {
      ...process.user,
      ...(user === undefined ? {} : { uid: user.uid, ...(user.gid === undefined ? {} : { gid: user.gid }) }),
      additionalGids: [...process.user.additionalGids, ...changes.additionalGids],
    },
    ...(caps.length === 0 ? {} : { capabilities: added }),
    ...(changes.cwd === '' ? {} : { cwd: changes.cwd }),
    ...(changes.processLabel === '' ? {} : { selinuxLabel: changes.processLabel }),
    ...(changes.apparmor === '' ? {} : { apparmorProfile: changes.apparmor }),
    ...(changes.noNewPrivs === undefined ? {} : { noNewPrivileges: changes.noNewPrivs }),
  };
}

/** A process of a file: what it does not say of rights, labels and the OOM score is as in the container, resource limits are not. Source: runc exec. */
export function completeProcess(process: SpecProcess, own: SpecProcess | undefined): SpecProcess {
  if (own === undefined) return process;
  const { capabilities, apparmorProfile, selinuxLabel, oomScoreAdj } = own;
  return {
    ...(capabilities === undefined ? {} : { capabilities }),
    ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
    ...(selinuxLabel === undefined ? {} : { selinuxLabel }),
    ...(oomScoreAdj === undefined ? {} : { oomScoreAdj }),
    ...process,
  };
}

function processOf(spec: RuntimeSpec, wanted: ExecOptions['process']): SpecProcess {
  if (wanted.kind === 'file') {
    const document = parseJson(readDocument(wanted.path, limits.ociDocumentBytesMax).toString('utf8'), wanted.path);
    return completeProcess(decodeProcess(document, 'process'), spec.process);
  }
  if (spec.process === undefined) throw invalidArgument('process', 'process property must not be empty');
  return changeProcess(spec.process, wanted.changes);
}

/** `exec`. */
export const execProcess: Operation<ExecOptions> = async ({ front, global, log }, options) => {
  const facts = await readFacts(global.stateRoot, options.id);
  const { record, spec, host } = facts;
  const status = readStatus(global.stateRoot, record);
  if (status === 'stopped') throw new RuntimeError('failedPrecondition', 'cannot exec in a stopped container');
  if (status === 'paused' && !options.ignorePaused) throw new RuntimeError('failedPrecondition', 'cannot exec in a paused container (use --ignore-paused to override)');
  const asked = settleProcess(processOf(spec, options.process), log);
  const process = options.detach ? asked : settleSize(asked, front.request);
  checkTerminal(process.terminal, { isDetached: options.detach, consoleSocket: options.consoleSocket });
  const input: PlanExecInput = {
    process,
    spec,
    host,
    initPid: record.pid,
    initStartTime: record.startTime,
    cgroup: record.cgroup,
    hookPlace: hookPlaceOf(record),
    subGroups: await findExecGroups(host, record.cgroup, { pid: record.pid, wanted: options.cgroups }),
    standalone: { preserveFds: options.preserveFds, outlivesMaker: options.detach },
    askIdentity: lacksHome(process),
  };
  const identity = identityOf(process);
  const made = await front.make({
    plan: planExec(input),
    terminal: process.terminal,
    consoleSocket: options.consoleSocket,
    preserveFds: options.preserveFds,
    answer: (payload) => planExecPayload(input, { ...identity, home: homeOf(decodeAsk(Buffer.from(payload)), identity.uid) }),
  });
  try {
    writePidFile(options.pidFile, made.pid);
  } catch (error) {
    // Whoever is told that it failed looks for no process.
    await front.run(planSignal(made, sigkill)).catch(() => undefined);
    throw error;
  }
  return options.detach ? { kind: 'exit', code: 0 } : { kind: 'wait', deleteStateDirectory: '' };
};
