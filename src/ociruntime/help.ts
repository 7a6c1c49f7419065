/** The help of the program and of a command as text. In: the table of commands. Out: text. Pure. */
import { type CommandEntry, commandTable, globalFlags, programName } from './command-table.ts';
import type { Flag } from './flags.ts';

/** Rows of two columns, as wide as the widest first one. */
function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `   ${left.padEnd(width)}  ${right}\n`).join('');
}

function flagRows(flags: readonly Flag[]): readonly (readonly [string, string])[] {
  return flags
    .filter(({ hidden }) => hidden !== true)
    .map(({ names, kind, help, standard }) => {
      const value = kind === 'switch' ? '' : ' value';
      const left = names.map((name) => `${name.length === 1 ? '-' : '--'}${name}${value}`).join(', ');
      return [left, standard === undefined ? help : `${help} (default: ${standard})`] as const;
    });
}

/** Help of the program. */
export function programHelp(version: string): string {
  const commands = [...commandTable.map(({ name, summary }) => [name, summary] as const), ['help, h', 'show the commands, or the help of one'] as const];
  return [
    `NAME:\n   ${programName} - OCI runtime: runs containers from bundles, with the command line of runc\n\n`,
    `USAGE:\n   ${programName} [global options] command [command options] [arguments...]\n\n`,
    `VERSION:\n   ${version}\n\n`,
    `COMMANDS:\n${columns(commands)}\n`,
    `GLOBAL OPTIONS:\n${columns(flagRows(globalFlags))}`,
  ].join('');
}

/** Help of one command. */
export function commandHelp({ name, summary, words, description, flags }: CommandEntry): string {
  return [
    `NAME:\n   ${programName} ${name} - ${summary}\n\n`,
    `USAGE:\n   ${programName} ${name} [command options]${words === '' ? '' : ` ${words}`}\n\n`,
    `DESCRIPTION:\n   ${description}\n\n`,
    `OPTIONS:\n${columns(flagRows(flags))}`,
  ].join('');
}
