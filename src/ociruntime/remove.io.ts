/**
 * The end of containers: `kill` and `delete`. In: records. Out: processes ended, groups and state removed. Whoever is interrupted can begin again: the state directory goes last.
 */
import { existsSync } from 'node:fs';
import { RuntimeError, errorCode, errorMessage, wrapError } from '#core';
import { readHostFacts } from '#system';
import { planThaw } from '#runtime';
import { settleCapabilities } from './environment.ts';
import type { DeleteOptions, KillOptions, Operation } from './options.ts';
import { type ContainerFacts, planKillAll, planRemoval, planSignal, planStopped } from './plans.ts';
import { isReplaced, readContainerDocument, readRecord, readStatus, removeStateDirectory } from './state-directory.io.ts';
import type { OciContext } from './types.ts';
import { settleUserMappings } from './user-mappings.io.ts';

const sigkill = 9;

/** Record, document and host of a container that exists. Throws notFound in runc's words. */
export async function readFacts(stateRoot: string, id: string): Promise<ContainerFacts> {
  const record = readRecord(stateRoot, id);
  const { spec } = readContainerDocument(stateRoot, id);
  const settled = spec.process === undefined ? spec : { ...spec, process: settleCapabilities(spec.process).process };
  return { stateRoot, record, spec: await settleUserMappings(settled, record.pid), host: readHostFacts() };
}

/** Removes a container, running or not. A hook of its end that fails is told in the log and stops nothing. Source: runtime-spec 1.3, runtime.md "Lifecycle". */
export async function removeContainer({ front, log }: OciContext, facts: ContainerFacts): Promise<void> {
  const { stateRoot, record } = facts;
  await front.run(planRemoval(facts));
  for (const plan of planStopped(facts, existsSync(record.bundle) ? record.bundle : '/')) {
    try {
      await front.run(plan);
    } catch (error) {
      log.warn(`container ${record.id}: ${errorMessage(error)}`);
    }
  }
  removeStateDirectory(stateRoot, record.id);
}

/** Removes what a command has made that failed; what it leaves is told in the log. A container that has its name by now keeps everything. */
export async function undoCreation(context: OciContext, facts: ContainerFacts): Promise<void> {
  if (isReplaced(facts.stateRoot, facts.record)) return;
  await removeContainer(context, facts).catch((failure: unknown) => context.log.warn(wrapError('remove container', failure).message));
}

/** `kill`. */
export const killContainer: Operation<KillOptions> = async ({ front, global }, { id, signal, all }) => {
  const facts = await readFacts(global.stateRoot, id);
  const { record, host } = facts;
  const everyone = signal === sigkill ? planKillAll(facts) : undefined;
  const status = readStatus(global.stateRoot, record);
  if (everyone !== undefined) {
    await front.run(everyone);
  } else if (status !== 'stopped') {
    try {
      await front.run(planSignal(record, signal));
    } catch (error) {
      if (!(error instanceof RuntimeError && error.errno === 'ESRCH')) throw error;
      if (!all) throw new RuntimeError('failedPrecondition', 'container not running', { cause: error });
    }
    // The v1 freezer keeps even a killed process.
    if (status === 'paused' && signal === sigkill && record.freezeFile.endsWith('/freezer.state')) await front.run(planThaw(host, record.cgroup));
  } else if (!all) {
    throw new RuntimeError('failedPrecondition', 'container not running');
  }
  return { kind: 'exit', code: 0 };
};

/** `delete`. */
export const deleteContainer: Operation<DeleteOptions> = async (context, { id, force }) => {
  const { stateRoot } = context.global;
  let facts: ContainerFacts;
  try {
    facts = await readFacts(stateRoot, id);
  } catch (error) {
    if (errorCode(error) !== 'notFound') throw error;
    // A creation that was killed before its record was written has made a directory and nothing else.
    removeStateDirectory(stateRoot, id);
    if (force) return { kind: 'exit', code: 0 };
    throw error;
  }
  const status = readStatus(stateRoot, facts.record);
  if (!force && status !== 'stopped' && status !== 'created') throw new RuntimeError('failedPrecondition', `cannot delete container ${id} that is not stopped: ${status}`);
  await removeContainer(context, facts);
  return { kind: 'exit', code: 0 };
};
