/**
 * One command line from its words to its exit status. In: argv without the program's name, dependencies. Out: the exit status.
 * The only place that prints errors: one line `berth: message` on standard error; with --debug the causes and the stack too.
 */
import { CommanderError } from 'commander';
import { RuntimeError, errorMessage } from '#core';
import { CliContext } from './context.ts';
import type { CliDependencies } from './dependencies.ts';
import { printable } from './human.ts';
import { buildProgram } from './program.ts';

/** commander's text as the rest of one line: `error: unknown command 'pss'\n(Did you mean ps?)`; a bad value as `--memory 64m: cause`. */
function usageMessage(message: string): string {
  return message
    .replace(/^error: /, '')
    .trim()
    .replaceAll(/\s*\n\s*/g, ' ')
    .replace(/^option '(?:-\w, )?(--[\w-]+)[^']*' argument '(.*?)' is invalid\. /, '$1 $2: ')
    .replace(/^command-argument value '(.*?)' is invalid for argument '.*?'\. /, '')
    .replace('Allowed choices', 'allowed choices')
    .replace(/\.$/, '');
}

/** Node's errors end in the system call and a path that our words have named already. */
function withoutSecondPath(message: string): string {
  return message.replace(/, [a-z]+ '([^']*)'$/, (ending, path: string) => (message.slice(0, -ending.length).includes(`${path}: `) ? '' : ending));
}

/** The error with everything underneath, for --debug. */
export function describeCauses(error: unknown): string {
  const lines: string[] = [];
  const visit = (value: unknown, label: string, depth: number): void => {
    if (depth > 10) return;
    const indent = '  '.repeat(depth);
    lines.push(`${indent}${label}${value instanceof Error ? (value.stack ?? value.message).replaceAll('\n', `\n${indent}`) : String(value)}`);
    if (value instanceof RuntimeError) for (const failure of value.cleanupFailures) visit(failure, 'clean-up failed: ', depth + 1);
    if (value instanceof Error && value.cause !== undefined) visit(value.cause, 'caused by: ', depth + 1);
  };
  visit(error, '', 0);
  return lines.join('\n');
}

/** What failed while cleaning up belongs into the line: it is what is left behind. */
function errorLine(error: unknown): string {
  const failures = error instanceof RuntimeError ? error.cleanupFailures : [];
  const leftovers = failures.length === 0 ? '' : ` (and cleaning up failed: ${failures.map(errorMessage).join('; ')})`;
  return `berth: ${printable(`${withoutSecondPath(errorMessage(error))}${leftovers}`)}\n`;
}

/** 127 for a program that is not in the container, 126 for one that cannot be executed, as shells have it; undefined for other errors. */
function statusOfRefusedProgram(error: unknown): number | undefined {
  if (!(error instanceof RuntimeError) || !error.message.includes('/process/args: execute ')) return undefined;
  return error.errno === 'ENOENT' ? 127 : error.errno === 'EACCES' ? 126 : undefined;
}

async function reportCommanderError(error: CommanderError, deps: CliDependencies, help: readonly string[]): Promise<number> {
  if (error.exitCode === 0) {
    await deps.io.stdout.write(help.join(''));
    return 0;
  }
  // A group such as `berth image` without a command: its help is the answer.
  const message = error.code === 'commander.help' ? 'a command is missing, see --help' : usageMessage(error.message);
  await deps.io.stderr.write(`berth: ${printable(message)}\n`);
  return 2;
}

/** Runs the command. Exit status: the command's own, 1 for an error, 126 or 127 for a program that cannot be executed, 2 for a wrong usage, 130 where a signal ended it early. Never throws. */
export async function runCli(argv: readonly string[], deps: CliDependencies): Promise<number> {
  const context = new CliContext(deps);
  const help: string[] = [];
  const program = buildProgram(context, { help: (text) => help.push(text), columns: Math.min(deps.io.stdout.columns, 120) });
  try {
    await program.parseAsync(argv.length === 0 ? ['--help'] : [...argv], { from: 'user' });
    return context.exitStatus;
  } catch (error) {
    if (error instanceof CommanderError) return reportCommanderError(error, deps, help);
    if (context.debug) await deps.io.stderr.write(`${describeCauses(error)}\n`);
    await deps.io.stderr.write(errorLine(error));
    return context.errorStatus ?? statusOfRefusedProgram(error) ?? 1;
  }
}
