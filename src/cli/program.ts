/** The command tree. In: a context. Out: a commander program whose output and exits are the caller's. Pure wiring. */
import { Command } from 'commander';
import { addConfigCommands } from './config-commands.ts';
import { type CliContext, addGlobalOptions } from './context.ts';
import { addImageCommands } from './image-commands.ts';
import { addLifecycleCommands } from './lifecycle-commands.ts';
import { addPortForwardCommand } from './port-forward-command.ts';
import { addQueryCommands } from './query-commands.ts';
import { addRunCommand } from './run-command.ts';
import { addStatsCommand } from './stats-command.ts';
import { addSystemCommands } from './system-commands.ts';

/** Where commander's own texts go: help to `help`; its errors are thrown and not printed. */
export interface ProgramOutput {
  readonly help: (text: string) => void;
  readonly columns: number;
}

/** Builds every command. It throws CommanderError where commander would exit. */
export function buildProgram(context: CliContext, output: ProgramOutput): Command {
  const program = new Command('berth');
  program
    .description('Runs Kubernetes pods, containers and images on this host.')
    .version(`berth ${context.deps.version}`, '-V, --version', 'print the version')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: output.help,
      writeErr: output.help,
      outputError: () => undefined,
      getOutHelpWidth: () => output.columns,
      getErrHelpWidth: () => output.columns,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .addHelpText(
      'after',
      `
Examples:
  $ berth run examples/hello.yaml        run a Pod manifest
  $ berth run --rm -it busybox sh        run an image
  $ berth ps -a                          list containers
  $ berth explain examples/hello.yaml    print what the kernel would be asked

Every command has its own help: berth run --help`,
    );
  addGlobalOptions(program);
  addRunCommand(program, context);
  addQueryCommands(program, context);
  addStatsCommand(program, context);
  addLifecycleCommands(program, context);
  addPortForwardCommand(program, context);
  addImageCommands(program, context);
  addSystemCommands(program, context);
  addConfigCommands(program, context);
  return program;
}
