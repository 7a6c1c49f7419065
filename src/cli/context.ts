/**
 * What every command shares: global options, the engine's session, output for people or programs, the exit status.
 * In: dependencies and parsed options. Out: helpers for the commands. No command logic.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { RuntimeError, errorMessage } from '#core';
import type { Engine } from '#pod';
import type { CliDependencies, ConfigurationView, EngineLocation, EngineSession } from './dependencies.ts';
import { formatJson, formatTable } from './human.ts';

/** Options of every command. */
export interface GlobalFlags {
  readonly root?: string;
  readonly run?: string;
  readonly config?: string;
  readonly output?: 'table' | 'json';
  readonly debug?: boolean;
}

const globalsGroup = 'Global options:';
/** Commands that only ask are gone before this; then a person wants to know why the prompt does not come back. */
const noteAfterMs = 1000;

/** Adds the global options; they may stand before or behind the command's name. */
export function addGlobalOptions(command: Command): Command {
  return command
    .addOption(new Option('--root <dir>', 'state directory (default: /var/lib/berth, without root below XDG_DATA_HOME)').helpGroup(globalsGroup))
    .addOption(new Option('--run <dir>', 'directory of sockets and shim state (default: /run/berth, without root below XDG_RUNTIME_DIR)').helpGroup(globalsGroup))
    .addOption(new Option('--config <file>', 'configuration (default: /etc/berth/config.toml and config.d/*.toml beside it)').helpGroup(globalsGroup))
    .addOption(new Option('--output <format>', 'table for people, json for programs (default: table)').choices(['table', 'json']).helpGroup(globalsGroup))
    .addOption(new Option('--debug', 'show the causes of an error').helpGroup(globalsGroup));
}

/** A decoder as commander's option parser: its error becomes a usage error that names the option. */
export function flag<T>(decode: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return decode(text);
    } catch (error) {
      if (error instanceof RuntimeError) throw new InvalidArgumentError(errorMessage(error));
      throw error;
    }
  };
}

/** The same for an option that may be given many times. */
export function flags<T>(decode: (text: string) => T): (text: string, previous: readonly T[] | undefined) => readonly T[] {
  const one = flag(decode);
  return (text, previous) => [...(previous ?? []), one(text)];
}

/** Where the engine is, from options or configuration, environment and user. */
export function locationOf(
  globals: { readonly root: string | undefined; readonly run: string | undefined },
  { env, uid, workingDirectory }: Pick<CliDependencies['io'], 'env' | 'uid' | 'workingDirectory'>,
): EngineLocation {
  const absolute = (path: string): string => (path.startsWith('/') ? path : `${workingDirectory}/${path}`).replace(/(?<=.)\/+$/, '');
  if (uid === 0) return { rootDirectory: absolute(globals.root ?? '/var/lib/berth'), runDirectory: absolute(globals.run ?? '/run/berth') };
  const home = env['HOME'] ?? '';
  const data = env['XDG_DATA_HOME'] ?? (home === '' ? undefined : `${home}/.local/share`);
  const runtime = env['XDG_RUNTIME_DIR'];
  if (globals.root === undefined && data === undefined) throw new RuntimeError('failedPrecondition', 'find the state directory: neither --root, XDG_DATA_HOME nor HOME is set');
  if (globals.run === undefined && runtime === undefined) throw new RuntimeError('failedPrecondition', 'find the run directory: neither --run nor XDG_RUNTIME_DIR is set');
  return { rootDirectory: absolute(globals.root ?? `${data ?? ''}/berth`), runDirectory: absolute(globals.run ?? `${runtime ?? ''}/berth`) };
}

/** The command in hand. Made once per process by `runCli`. */
export class CliContext {
  readonly deps: CliDependencies;
  /** Status that the process ends with where no error is thrown. */
  exitStatus = 0;
  debug = false;
  /** Exit status of the error that is thrown, where a signal caused it; undefined for every other error. */
  errorStatus: number | undefined;
  #configuration: ConfigurationView | undefined;

  constructor(deps: CliDependencies) {
    this.deps = deps;
  }

  /** Wraps an action: reads the global options, keeps the returned exit status. */
  action<Flags extends object>(
    run: (call: {
      readonly args: readonly (string | undefined)[];
      readonly rest: readonly string[];
      readonly flags: Flags & GlobalFlags;
      readonly command: Command;
    }) => Promise<number | void>,
  ): (...given: unknown[]) => Promise<void> {
    return async (...given) => {
      // SAFETY: commander calls an action with its arguments, then the options, then the command.
      const command = given.at(-1) as Command;
      const all = command.optsWithGlobals<Flags & GlobalFlags>();
      this.debug = all.debug === true;
      const words = given.slice(0, -2);
      const last = words.at(-1);
      const variadic = Array.isArray(last) ? last.map(String) : [];
      // Commands that pass options through also get the `--` that many people put before such words.
      const rest = variadic[0] === '--' ? variadic.slice(1) : variadic;
      const args = (Array.isArray(last) ? words.slice(0, -1) : words).map((word) => (typeof word === 'string' ? word : undefined));
      this.exitStatus = (await run({ args, rest, flags: all, command })) ?? 0;
    };
  }

  /** A path of the user's, for an engine in whatever directory. */
  absolute(path: string): string {
    return path.startsWith('/') ? path : `${this.deps.io.workingDirectory}/${path}`;
  }

  /** The configuration with what the options say; read once, and again where `socketPath` is given. */
  configuration(globals: GlobalFlags, { socketPath }: { readonly socketPath?: string } = {}): ConfigurationView {
    if (this.#configuration !== undefined && socketPath === undefined) return this.#configuration;
    const directory = (path: string): string => this.absolute(path).replace(/(?<=.)\/+$/, '');
    this.#configuration = this.deps.configuration.load({
      ...(globals.config === undefined ? {} : { file: this.absolute(globals.config) }),
      ...(globals.root === undefined ? {} : { rootDirectory: directory(globals.root) }),
      ...(globals.run === undefined ? {} : { runDirectory: directory(globals.run) }),
      ...(socketPath === undefined ? {} : { socketPath: this.absolute(socketPath) }),
      ...(globals.debug === true ? { debug: true } : {}),
    });
    return this.#configuration;
  }

  location(globals: GlobalFlags): EngineLocation {
    const { rootDirectory, runDirectory } = this.configuration(globals);
    return locationOf({ root: globals.root ?? rootDirectory, run: globals.run ?? runDirectory }, this.deps.io);
  }

  /**
   * Runs the body with an engine and closes it on every way out. `lasting`: the command may take long. Where other commands have become clients of
   * this engine meanwhile, it ends after them, or with a signal: their foreground pods live in this process.
   */
  async withEngine<T>(globals: GlobalFlags, body: (engine: Engine) => Promise<T>, { lasting = false }: { readonly lasting?: boolean } = {}): Promise<T> {
    const session = await this.deps.openEngine(this.location(globals), { lasting });
    try {
      return await body(session.engine);
    } finally {
      try {
        await this.#waitForOthers(session);
      } finally {
        await session.close();
      }
    }
  }

  async #waitForOthers(session: EngineSession): Promise<void> {
    if (!session.isUsedByOthers()) return;
    const { io, clock } = this.deps;
    const interrupt = new AbortController();
    const listeners = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => io.onSignal(name, () => interrupt.abort()));
    const unused = new AbortController();
    const note = clock.sleep(noteAfterMs, unused.signal).then(
      async () => io.stderr.write('berth: done, and waiting for other commands that use this engine (Ctrl-C ends them)\n'),
      () => undefined,
    );
    try {
      await session.untilUnused(interrupt.signal);
    } finally {
      unused.abort();
      for (const stop of listeners) stop();
      await note;
    }
  }

  async print(text: string): Promise<void> {
    await this.deps.io.stdout.write(`${text}\n`);
  }

  async json(value: unknown): Promise<void> {
    await this.print(formatJson(value));
  }

  /** The ids alone, one a line or as a JSON array. */
  async listIds(globals: GlobalFlags, values: readonly { readonly id: string }[]): Promise<void> {
    const ids = values.map(({ id }) => id);
    if (globals.output === 'json') await this.json(ids);
    else await this.deps.io.stdout.write(ids.map((id) => `${id}\n`).join(''));
  }

  /** The values as JSON, or as a table of these columns. */
  async list<T>(globals: GlobalFlags, values: readonly T[], columns: Readonly<Record<string, (value: T) => string>>): Promise<void> {
    if (globals.output === 'json') return this.json(values);
    const rows = values.map((value) => Object.values(columns).map((cell) => cell(value)));
    await this.print(formatTable(Object.keys(columns), rows).join('\n'));
  }
}

/** Ends with exit status 2 and the message. */
export function usageError(command: Command, message: string): never {
  return command.error(message, { exitCode: 2, code: 'berth.usage' });
}
