/**
 * One command line from its words to its end. In: the front that was called, and the operations on containers. Out: how the front ends; everything that is to be told goes
 * through the front and the log. This is the door: the only place where errors become words.
 */
import { RuntimeError, assertNever, errorCode, errorMessage } from '#core';
import { checkpointContainer } from './checkpoint.io.ts';
import { type Globals, type Printout, type Surroundings, decodeOpening, decodeRequest } from './cli.ts';
import { showEvents } from './events.io.ts';
import { showFeatures } from './features-command.io.ts';
import { listContainers, listProcesses } from './list.io.ts';
import { type OpenLog, openLog, printable } from './log.io.ts';
import type { Command, ContainerOperations } from './options.ts';
import { checkContainerId, stateFiles } from './record.ts';
import { pauseContainer, resumeContainer } from './pause.io.ts';
import { writeSpec } from './spec-command.io.ts';
import { restoreContainer } from './restore.io.ts';
import type { Front, OciContext, Outcome } from './types.ts';
import { updateContainer } from './update.io.ts';

/** What a command line is carried out with. */
export interface DispatchOptions extends Surroundings {
  readonly operations: ContainerOperations;
}

const exit = (code: number): Outcome => ({ kind: 'exit', code });

/** Tells a failure as runc does: in the log, and where that is a file on standard error too. */
function tell(front: Front, log: OpenLog, message: string): void {
  log.error(message);
  if (!log.onStandardError) front.write(2, `${printable(message)}\n`);
}

function print(front: Front, log: OpenLog, printout: Printout): Outcome {
  front.write(1, printout.text);
  if (printout.kind === 'print') return exit(0);
  tell(front, log, printout.message);
  return exit(printout.code);
}

/** Commands that change nothing but files of the caller. */
const forAnybody: ReadonlySet<Command['name']> = new Set(['spec', 'features', 'list', 'state', 'ps', 'events']);

/** Commands that change a container, one at a time; the front has locked already where it could tell the id. */
const locking: ReadonlySet<Command['name']> = new Set(['start', 'delete', 'pause', 'resume', 'update', 'checkpoint']);

async function lockContainer({ front, global }: OciContext, id: string, { force }: { readonly force: boolean }): Promise<void> {
  checkContainerId(id);
  await front.lock(stateFiles(global.stateRoot, id).directory).catch((error: unknown) => {
    // What is not there is told by the command itself, in its own words.
    if (errorCode(error) === 'notFound') return;
    if (!(error instanceof RuntimeError && error.errno === 'EWOULDBLOCK')) throw error;
    // A hook that hangs, or a stopped process: whoever forces a container away has had enough of that. A removal takes whatever it finds.
    if (!force) throw new RuntimeError('unavailable', `another command has not let go of container ${id}`, { cause: error });
  });
}

async function runCommand(context: OciContext, globals: Globals, command: Command, { operations, version }: DispatchOptions): Promise<Outcome> {
  if (locking.has(command.name) && 'id' in command.options) await lockContainer(context, command.options.id, { force: 'force' in command.options && command.options.force });
  switch (command.name) {
    case 'create':
      return operations.create(context, command.options);
    case 'run':
      return operations.run(context, command.options);
    case 'exec':
      return operations.exec(context, command.options);
    case 'start':
      return operations.start(context, command.options);
    case 'state':
      return operations.state(context, command.options);
    case 'kill':
      return operations.kill(context, command.options);
    case 'delete':
      return operations.delete(context, command.options);
    case 'list':
      return listContainers(context, command.options, globals);
    case 'ps':
      return listProcesses(context, command.options);
    case 'events':
      return showEvents(context, command.options);
    case 'spec':
      return writeSpec(context, command.options);
    case 'features':
      return showFeatures(context, version);
    case 'update':
      return updateContainer(context, command.options);
    case 'pause':
      return pauseContainer(context, command.options);
    case 'resume':
      return resumeContainer(context, command.options);
    case 'checkpoint':
      return checkpointContainer(context, command.options);
    case 'restore':
      return restoreContainer(context, command.options);
    default:
      return assertNever(command);
  }
}

/** How a failure of a command is told, and with which exit code. The id is the caller's own; `state`, `kill` and `delete` have texts that callers look for. */
function failureOf(name: Command['name'], error: unknown): { readonly message: string; readonly code: number } {
  const message = errorMessage(error);
  if (name === 'exec') return { message: `exec failed: ${message}`, code: 255 };
  return { message: name === 'create' || name === 'run' ? `${name} failed: ${message}` : message, code: 1 };
}

async function carryOut(front: Front, log: OpenLog, globals: Globals, words: readonly string[], options: DispatchOptions): Promise<Outcome> {
  const request = decodeRequest(words, front.request, options);
  if (request.kind !== 'command') return print(front, log, request);
  try {
    if (options.userId !== 0 && !forAnybody.has(request.name)) throw new RuntimeError('permissionDenied', 'rootless containers are not supported: run as root');
    return await runCommand({ front, global: globals, log }, globals, request.decode(), options);
  } catch (error) {
    const { message, code } = failureOf(request.name, error);
    tell(front, log, message);
    return exit(code);
  }
}

/** Carries out the front's command line. Never throws: a failure has been told when this returns. */
export async function dispatch(front: Front, options: DispatchOptions): Promise<Outcome> {
  const standard = (): OpenLog => openLog(front, { file: '', format: 'text', debug: false });
  try {
    const opening = decodeOpening(front.request, options);
    if (opening.kind !== 'globals') return print(front, standard(), opening);
    const { globals, words } = opening;
    using log = openLog(front, { file: globals.logFile, format: globals.logFormat, debug: globals.debug });
    return await carryOut(front, log, globals, words, options);
  } catch (error) {
    tell(front, standard(), errorMessage(error));
    return exit(1);
  }
}
