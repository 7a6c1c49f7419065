/**
 * A command line of the OCI runtime → what it asks for. In: the caller's words. Out: a command with its options, a text to print, or an error with the help that goes with
 * it. Pure. Forms, errors and exit codes are runc's, as its callers know them.
 */
import { resolve } from 'node:path';
import { RuntimeError } from '#core';
import { callerPath } from './caller-path.ts';
import { type CommandEntry, commandTable, defaultStateRoot, globalFlags, programName, specVersion } from './command-table.ts';
import { decodeOptions, refuseFlag } from './decode-options.ts';
import { type FlagValues, decodeFlags } from './flags.ts';
import { commandHelp, programHelp } from './help.ts';
import type { Command } from './options.ts';
import type { FrontRequest, GlobalOptions } from './types.ts';

/** What the words before the command say. */
export interface Globals extends GlobalOptions {
  /** Absolute; empty: standard error. */
  readonly logFile: string;
  readonly logFormat: 'text' | 'json';
  /** The caller named the state root, which should be there then. */
  readonly rootIsGiven: boolean;
}

/** A command line in which something is wrong, or that only asks for a text. */
export type Printout =
  /** `text` goes to standard output. */
  | { readonly kind: 'print'; readonly text: string }
  /** `text` goes to standard output, `message` to the log and standard error. */
  | { readonly kind: 'misuse'; readonly text: string; readonly message: string; readonly code: number };

/** The first half: everything before the command. */
export type Opening = Printout | { readonly kind: 'globals'; readonly globals: Globals; readonly words: readonly string[] };

/** The second half. */
export type Request = Printout | { readonly kind: 'command'; readonly name: Command['name']; readonly decode: () => Command };

/** What the help and the state root depend on besides the words. */
export interface Surroundings {
  readonly version: string;
  /** Of the caller. */
  readonly userId: number;
}

const messageOf = (error: unknown): string => {
  if (error instanceof RuntimeError && error.code === 'invalidArgument') return error.message;
  throw error;
};

/** A user other than root has a place of its own. */
function standardRoot({ env }: FrontRequest, userId: number): string {
  const own = env['XDG_RUNTIME_DIR'] ?? '';
  return userId !== 0 && own !== '' ? `${own}/${programName}` : defaultStateRoot;
}

function globalsOf(values: FlagValues, request: FrontRequest, surroundings: Surroundings): Globals {
  const stateRoot = values.has('root') ? resolve(request.cwd, values.text('root')) : standardRoot(request, surroundings.userId);
  if (stateRoot === '/') throw new RuntimeError('invalidArgument', 'Option --root argument should not be set to /');
  const logFormat = values.text('log-format') || 'text';
  if (logFormat !== 'text' && logFormat !== 'json') throw new RuntimeError('invalidArgument', `invalid log-format: ${logFormat}`);
  if (values.isOn('systemd-cgroup')) throw refuseFlag('systemd-cgroup', 'control groups are made directly, with a cgroupsPath that is a path');
  const rootless = values.text('rootless').toLowerCase();
  if (!['', 'auto', '0', 'f', 'false'].includes(rootless)) {
    if (!['1', 't', 'true'].includes(rootless)) throw new RuntimeError('invalidArgument', `invalid value for --rootless: ${JSON.stringify(rootless.slice(0, 100))}`);
    throw refuseFlag(`rootless ${rootless}`, 'containers are made by root');
  }
  return { stateRoot, debug: values.isOn('debug'), logFile: callerPath(values.text('log'), request), logFormat, rootIsGiven: values.has('root') };
}

/** Reads what stands before the command. Throws invalidArgument or unimplemented for values that make no sense. */
export function decodeOpening(request: FrontRequest, surroundings: Surroundings): Opening {
  const help = programHelp(surroundings.version);
  let flags;
  try {
    flags = decodeFlags(globalFlags, request.argv, { anywhere: false });
  } catch (error) {
    const message = messageOf(error);
    return { kind: 'misuse', text: `Incorrect Usage. ${message}\n\n${help}`, message, code: 1 };
  }
  if (flags.values.isOn('help')) return { kind: 'print', text: help };
  if (flags.values.isOn('version')) return { kind: 'print', text: `${programName} version ${surroundings.version}\nspec: ${specVersion}\n` };
  return { kind: 'globals', globals: globalsOf(flags.values, request, surroundings), words: flags.rest };
}

const findCommand = (name: string): CommandEntry | undefined => commandTable.find((entry) => entry.name === name);

function helpOf(topic: string | undefined, version: string): Printout {
  if (topic === undefined) return { kind: 'print', text: programHelp(version) };
  const entry = findCommand(topic);
  return entry === undefined ? { kind: 'misuse', text: '', message: `No help topic for '${topic.slice(0, 200)}'`, code: 3 } : { kind: 'print', text: commandHelp(entry) };
}

function countWords({ name, wordsMin, wordsMax }: CommandEntry, count: number): string | undefined {
  const must = (how: string, expected: number): string => `${programName}: ${JSON.stringify(name)} requires ${how} ${expected} argument(s)`;
  if (wordsMin === wordsMax && count !== wordsMin) return must('exactly', wordsMin);
  if (count < wordsMin) return must('a minimum of', wordsMin);
  return count > wordsMax ? must('a maximum of', wordsMax) : undefined;
}

/** Reads the command and its words. What is wrong with its options is thrown by `decode`, since it counts as a failure of the command. */
export function decodeRequest(words: readonly string[], request: FrontRequest, { version }: Surroundings): Request {
  const [name, ...rest] = words;
  if (name === undefined) return helpOf(undefined, version);
  if (name === 'help' || name === 'h') return helpOf(rest[0], version);
  const entry = findCommand(name);
  if (entry === undefined) return helpOf(name, version);
  let flags;
  try {
    flags = decodeFlags(entry.flags, rest, { anywhere: entry.flagsAnywhere });
  } catch (error) {
    const message = messageOf(error);
    return { kind: 'misuse', text: `Incorrect Usage: ${message}\n\n${commandHelp(entry)}`, message, code: 1 };
  }
  if (flags.values.isOn('help')) return { kind: 'print', text: commandHelp(entry) };
  const wrong = countWords(entry, flags.rest.length);
  if (wrong !== undefined) return { kind: 'misuse', text: `Incorrect Usage.\n\n${commandHelp(entry)}`, message: wrong, code: 1 };
  const { values, rest: operands } = flags;
  return { kind: 'command', name: entry.name, decode: () => decodeOptions(entry.name, { values, words: operands, request }) };
}
