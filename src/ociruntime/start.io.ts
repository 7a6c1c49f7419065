/**
 * `start` and `run`: the process that waits is released. In: a container that was created. Out: one that runs, or an error; what `run` made is removed where it fails.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError, errorMessage, limits } from '#core';
import type { StepFailure } from '#plan';
import { makeContainer, writePidFile } from './create.io.ts';
import type { IdOptions, Operation, RunOptions } from './options.ts';
import { type ContainerFacts, planCreation, planRemoval, planStarted } from './plans.ts';
import { processError } from './process-errors.ts';
import { stateFiles } from './record.ts';
import { readFacts, undoCreation } from './remove.io.ts';
import { isReplaced, readStatus } from './state-directory.io.ts';
import type { OciContext } from './types.ts';

const pollMs = 5;

/** What a failure of the process's last steps is called: they are those of the plan that made it, which is compiled again. */
function describeFailure(facts: ContainerFacts, failure: StepFailure): RuntimeError {
  const { plan, answer } = planCreation(facts);
  // The answer to a question without any file has the same steps as the one that was given.
  return processError(plan, failure, facts.record.creation.askHome ? answer(new Uint8Array(4)) : undefined);
}

/** A process that has told its failure is ending; whoever asks for its state next shall find it ended. One that does not end in time is what the next command sees. */
async function untilEnded({ stateRoot, record }: ContainerFacts): Promise<void> {
  for (let waitedMs = 0; readStatus(stateRoot, record) !== 'stopped' && waitedMs < limits.ociEndTimeoutMs; waitedMs += pollMs) await sleep(pollMs);
}

/** Releases the process and runs the hooks of its start, which end it where they fail. Source: runtime-spec 1.3, runtime.md "Lifecycle". */
async function release({ front }: OciContext, facts: ContainerFacts): Promise<void> {
  const { stateRoot, record } = facts;
  try {
    await front.start(stateFiles(stateRoot, record.id).directory, (failure) => describeFailure(facts, failure));
  } catch (error) {
    await untilEnded(facts);
    throw error;
  }
  for (const plan of planStarted(facts)) {
    try {
      await front.run(plan);
    } catch (error) {
      if (!isReplaced(stateRoot, record)) await front.run(planRemoval(facts));
      throw new RuntimeError('failedPrecondition', `error running poststart hook: ${errorMessage(error)}`, { cause: error });
    }
  }
}

/** `start`. */
export const startContainer: Operation<IdOptions> = async (context, { id }) => {
  const facts = await readFacts(context.global.stateRoot, id);
  const { failure } = context.front.request;
  const status = readStatus(facts.stateRoot, facts.record);
  if (failure !== undefined && status !== 'created') {
    // The front has released it and seen it fail.
    await untilEnded(facts);
    throw describeFailure(facts, failure);
  }
  switch (status) {
    case 'created':
      await release(context, facts);
      return { kind: 'exit', code: 0 };
    case 'stopped':
      throw new RuntimeError('failedPrecondition', 'cannot start a container that has stopped');
    case 'running':
      throw new RuntimeError('failedPrecondition', 'cannot start an already running container');
    default:
      throw new RuntimeError('failedPrecondition', `cannot start a container in the ${status} state`);
  }
};

/** `run`: create, start, and wait unless detached. */
export const runContainer: Operation<RunOptions> = async (context, options) => {
  const facts = await makeContainer(context, { ...options, pidFile: '' }, options.detach);
  try {
    await release(context, facts);
    writePidFile(options.pidFile, facts.record.pid);
  } catch (error) {
    await undoCreation(context, facts);
    throw error;
  }
  return options.detach ? { kind: 'exit', code: 0 } : { kind: 'wait', deleteStateDirectory: options.keep ? '' : stateFiles(facts.stateRoot, options.id).directory };
};
