/** The commands that make, signal and remove processes, for `dispatch`. */
import { createContainer } from './create.io.ts';
import { execProcess } from './exec.io.ts';
import type { ContainerOperations } from './options.ts';
import { deleteContainer, killContainer } from './remove.io.ts';
import { runContainer, startContainer } from './start.io.ts';
import { showState } from './state.ts';

/** All of them. */
export const containerOperations: ContainerOperations = {
  create: createContainer,
  run: runContainer,
  exec: execProcess,
  start: startContainer,
  state: showState,
  kill: killContainer,
  delete: deleteContainer,
};
