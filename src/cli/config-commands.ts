/** `config`: the merged configuration with its origins, the documented file, a check. In: argv. Out: TOML or JSON; nothing is changed. */
import { type Command, Option } from 'commander';
import { type CliContext, type GlobalFlags, addGlobalOptions, usageError } from './context.ts';
import type { ConfigurationEntry, ConfigurationView, SettingDescription } from './dependencies.ts';
import { printable } from './human.ts';

interface ConfigFlags extends GlobalFlags {
  readonly default?: boolean;
  readonly check?: boolean;
}

const commentWidth = 120;

/** Rows by their table, in the order given. */
function byTable<Row extends { readonly table: string }>(rows: readonly Row[]): ReadonlyMap<string, readonly Row[]> {
  return Map.groupBy(rows, ({ table }) => table);
}

/** A text as comment lines. */
function comment(text: string): readonly string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + word.length + 1 > commentWidth && line !== '#') {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}

/** The merged result as a TOML document; the origin of each value is a comment behind it, aligned within its table. */
export function formatConfiguration({ files, entries }: Pick<ConfigurationView, 'files' | 'entries'>): readonly string[] {
  const lines = files.length === 0 ? ['# no configuration file'] : files.map((file) => `# ${printable(file)}`);
  for (const [table, rows] of byTable<ConfigurationEntry>(entries)) {
    lines.push('', `[${table}]`);
    // A setting without value stays a comment, so that the output is a document that can be used as it is.
    const texts = rows.map(({ key, toml }) => (toml === undefined ? `# ${key} =` : `${key} = ${toml}`));
    const width = Math.max(...texts.map((text) => text.length));
    for (const [index, { origin }] of rows.entries()) lines.push(`${(texts[index] ?? '').padEnd(width)}  # ${printable(origin)}`);
  }
  return lines;
}

function describeSetting({ key, help, words, variable, flag, toml, fallbackWords, needsRestart }: SettingDescription): readonly string[] {
  const facts = [
    `${words[0]?.toUpperCase() ?? ''}${words.slice(1)}.`,
    `Variable: ${variable}.`,
    ...(flag === undefined ? [] : [`Option: ${flag}.`]),
    ...(needsRestart ? [] : ['Taken over by a reload.']),
    ...(fallbackWords === undefined ? [] : [`Without it: ${fallbackWords}.`]),
  ];
  return [...comment(help), ...comment(facts.join(' ')), `# ${key} =${toml === undefined ? '' : ` ${toml}`}`];
}

/** A full file in which every setting is a comment with its default, so that a copy of it changes nothing. */
export function formatDefaults(settings: readonly SettingDescription[]): readonly string[] {
  const lines = [
    ...comment('Configuration of Berth: /etc/berth/config.toml. Files /etc/berth/config.d/*.toml are read after it in the order of their names; what is read later wins.'),
    ...comment('Variables win over files, options over variables. All values are the defaults.'),
  ];
  for (const [table, rows] of byTable(settings)) {
    lines.push('', `[${table}]`);
    for (const [index, row] of rows.entries()) lines.push(...(index === 0 ? [] : ['']), ...describeSetting(row));
  }
  return lines;
}

/** JSON: one object per setting, by table and key. */
function configurationDocument({ files, entries }: ConfigurationView): unknown {
  const settings = [...byTable(entries)].map(
    ([table, rows]) => [table, Object.fromEntries(rows.map(({ key, value, origin }) => [key, { value: value ?? null, origin }]))] as const,
  );
  return { files, settings: Object.fromEntries(settings) };
}

/** Where nothing names the directories, what is printed is what holds for this user. */
function withDirectories(context: CliContext, flags: ConfigFlags, view: ConfigurationView): ConfigurationView {
  const { rootDirectory, runDirectory } = context.location(flags);
  const found: Readonly<Record<string, string>> = {
    'directories.root': rootDirectory,
    'directories.run': runDirectory,
    'cri.socket': view.socketPath ?? `${runDirectory}/berth.sock`,
  };
  const entries = view.entries.map((entry) => {
    const value = found[`${entry.table}.${entry.key}`];
    return value === undefined || entry.toml !== undefined ? entry : { ...entry, value, toml: JSON.stringify(value) };
  });
  return { ...view, entries };
}

/** Adds the command to the program. */
export function addConfigCommands(program: Command, context: CliContext): void {
  const command = addGlobalOptions(program.command('config'))
    .summary('print the configuration and where each value comes from')
    .description('Prints the merged configuration as TOML with the origin of each value: a file and its line, a variable, an option, or the default. Mistakes are errors.')
    .addOption(new Option('--default', 'print a documented file with every setting and its default').conflicts('check'))
    .option('--check', 'print nothing but mistakes')
    .addHelpText('after', '\nExamples:\n  $ berth config\n  $ berth config --default > /etc/berth/config.toml\n  $ berth config --check --config ./config.toml');
  command.action(
    context.action<ConfigFlags>(async ({ flags, command: given }) => {
      if (flags.default === true) {
        if (flags.output === 'json') usageError(given, '--default is a TOML file; it has no --output json');
        await context.print(formatDefaults(context.deps.configuration.describe()).join('\n'));
        return;
      }
      const found = context.configuration(flags);
      if (flags.check === true) return;
      const view = withDirectories(context, flags, found);
      if (flags.output === 'json') await context.json(configurationDocument(view));
      else await context.print(formatConfiguration(view).join('\n'));
    }),
  );
}
