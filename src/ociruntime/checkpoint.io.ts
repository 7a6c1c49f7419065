/**
 * `checkpoint` and `restore`. In: a container, and what criu(8) says of this host. Out: a refusal in one sentence, before anything is touched: this runtime leaves the state of processes to criu
 * and has no way to it yet.
 */
import { RuntimeError, errorMessage } from '#core';
import type { CheckpointOptions, Operation, RestoreOptions } from './options.ts';
import { checkIsFree, readRecord, readStatus } from './state-directory.io.ts';
import { runTool } from './tool.io.ts';
import type { FrontRequest } from './types.ts';

/** Why criu does not run here, in its own last words; empty where it does. */
async function askCriu({ env }: FrontRequest): Promise<string> {
  try {
    const { code, output } = await runTool('criu', ['check'], { env });
    return code === 0 ? '' : (output.trim().split('\n').at(-1) ?? `exit status ${code}`).slice(0, 300).replaceAll(/[^\x20-\x7e]+/g, '?');
  } catch (error) {
    return errorMessage(error);
  }
}

async function refuse(verb: string, request: FrontRequest): Promise<RuntimeError> {
  const why = await askCriu(request);
  return new RuntimeError('unimplemented', why === '' ? `${verb} container: not supported` : `${verb} container: not possible on this host: criu check: ${why}`);
}

/** `checkpoint`. Throws failedPrecondition for a container that is not running, else unimplemented. */
export const checkpointContainer: Operation<CheckpointOptions> = async ({ front, global }, { id }) => {
  const status = readStatus(global.stateRoot, readRecord(global.stateRoot, id));
  if (status === 'created' || status === 'stopped') throw new RuntimeError('failedPrecondition', `Container cannot be checkpointed in ${status} state`);
  throw await refuse('checkpoint', front.request);
};

/** `restore`. Throws alreadyExists where the id is taken, else unimplemented. */
export const restoreContainer: Operation<RestoreOptions> = async ({ front, global }, { id }) => {
  checkIsFree(global.stateRoot, id);
  throw await refuse('restore', front.request);
};
