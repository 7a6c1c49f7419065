/**
 * The configuration of this process: the file, its drop-ins, the environment, the command's options. In: what the command line says.
 * Out: settings with the origin of each. Read once per command and again when a daemon reloads. It writes nothing.
 */
import { constants, readFileSync, readdirSync, statSync } from 'node:fs';
import type { ConfigurationEntry, ConfigurationRequest, ConfigurationView, DoctorCheck, SettingDescription } from '#cli';
import { RuntimeError, errnoName, errorMessage, limits, wrapError } from '#core';
import type { Assignments, ConfigurationDocument, Origin } from './settings-decode.ts';
import { decodeAssignments, settingRows } from './settings-decode.ts';
import { type Settings, buildSettings } from './settings.ts';

/** Read where neither `--config` nor BERTH_CONFIG names another. */
export const defaultFile = '/etc/berth/config.toml';

/** A loaded configuration. */
export interface Configuration {
  readonly settings: Settings;
  /** All that were read, in the order in which they count. */
  readonly files: readonly string[];
  readonly entries: readonly ConfigurationEntry[];
}

/** `config.toml` has its drop-ins in `config.d`. */
function dropInDirectory(file: string): string {
  return `${file.replace(/\.toml$/, '')}.d`;
}

/** Its text, or undefined where there is none. `isFound`: nobody has named it, so who may write it is looked at. */
function readDocument(file: string, { isFound }: { readonly isFound: boolean }): ConfigurationDocument | undefined {
  try {
    if (isFound) {
      const { mode, uid, size } = statSync(file);
      if ((mode & constants.S_IFMT) !== constants.S_IFREG) throw new RuntimeError('failedPrecondition', 'it is no regular file');
      if ((mode & 0o022) !== 0 || (uid !== 0 && uid !== process.geteuid?.()))
        throw new RuntimeError('failedPrecondition', 'it can be changed by other users; give it to root with mode 0644');
      if (size > limits.configurationFileBytesMax) throw new RuntimeError('resourceExhausted', `it has more than ${limits.configurationFileBytesMax} bytes`);
    }
    const bytes = readFileSync(file);
    if (bytes.length > limits.configurationFileBytesMax) throw new RuntimeError('resourceExhausted', `it has more than ${limits.configurationFileBytesMax} bytes`);
    return { file, text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch (error) {
    if (isFound && errnoName(error) === 'ENOENT') return undefined;
    if (error instanceof TypeError) throw new RuntimeError('invalidArgument', `read configuration ${file}: it is no UTF-8 text`, { cause: error });
    throw wrapError(`read configuration ${file}`, error);
  }
}

/** Names in the directory that count, in their order; none where it is absent. */
function listDropIns(directory: string): readonly string[] {
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ENOTDIR') return [];
    throw wrapError(`read configuration directory ${directory}`, error);
  }
  // By bytes, the same in every locale. Names that begin with a dot are those of editors.
  const found = names.filter((name) => name.endsWith('.toml') && !name.startsWith('.')).sort((left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)));
  if (found.length > limits.configurationFilesMax)
    throw new RuntimeError('resourceExhausted', `read configuration directory ${directory}: more than ${limits.configurationFilesMax} files`);
  return found.map((name) => `${directory}/${name}`);
}

function readDocuments(named: string | undefined): readonly ConfigurationDocument[] {
  const file = named ?? defaultFile;
  const main = readDocument(file, { isFound: named === undefined });
  const dropIns = listDropIns(dropInDirectory(file)).map((path) => readDocument(path, { isFound: true }));
  return [main, ...dropIns].filter((document) => document !== undefined);
}

function describeOrigin(origin: Origin): string {
  switch (origin.kind) {
    case 'default':
      return 'default';
    case 'file':
      return origin.line === undefined ? origin.name : `${origin.name}:${origin.line}`;
    case 'variable':
      return `variable ${origin.name}`;
    case 'flag':
      return `option ${origin.name}`;
  }
}

function describeEntries({ get, originOf }: Assignments): readonly ConfigurationEntry[] {
  return settingRows.map(({ table, key, setting }) => {
    const value = get(setting);
    return { table, key, value, origin: describeOrigin(originOf(setting)), ...(value === undefined ? {} : { toml: setting.kind.format(value) }) };
  });
}

/** Reads and decodes everything. Throws what `decodeAssignments` throws, and errors of files that cannot be read. */
export function loadConfiguration(request: ConfigurationRequest, env: Readonly<Record<string, string | undefined>>): Configuration {
  const named = request.file ?? (env['BERTH_CONFIG'] === '' ? undefined : env['BERTH_CONFIG']);
  const documents = readDocuments(named);
  const flags = new Map(
    Object.entries({
      'directories.root': request.rootDirectory,
      'directories.run': request.runDirectory,
      'cri.socket': request.socketPath,
      'log.level': request.debug === true ? 'debug' : undefined,
    }).flatMap(([key, text]) => (text === undefined ? [] : [[key, text] as const])),
  );
  const assignments = decodeAssignments({ documents, env, flags });
  return { settings: buildSettings(assignments), files: documents.map(({ file }) => file), entries: describeEntries(assignments) };
}

/** What the command line shows and uses of it. */
export function describeConfiguration({ settings, files, entries }: Configuration): ConfigurationView {
  const { root, run } = settings.directories;
  const { socket } = settings.cri;
  return {
    files,
    entries,
    ...(root === undefined ? {} : { rootDirectory: root }),
    ...(run === undefined ? {} : { runDirectory: run }),
    ...(socket === undefined ? {} : { socketPath: socket }),
  };
}

/** All settings with their defaults and documentation. */
export function describeSettings(): readonly SettingDescription[] {
  return settingRows.map(({ table, key, setting: { kind, fallback, fallbackWords, variable, flag, help, reloads } }) => ({
    table,
    key,
    help,
    words: kind.words,
    variable,
    needsRestart: reloads !== true,
    ...(fallback === undefined ? {} : { toml: kind.format(fallback) }),
    ...(fallbackWords === undefined ? {} : { fallbackWords }),
    ...(flag === undefined ? {} : { flag }),
  }));
}

/** Full keys of the settings whose values differ, in the order of the documented file. */
export function listChanges(before: Configuration, after: Configuration): readonly string[] {
  const earlier = new Map(before.entries.map((entry) => [`${entry.table}.${entry.key}`, entry.toml]));
  return after.entries.map((entry) => ({ name: `${entry.table}.${entry.key}`, toml: entry.toml })).flatMap(({ name, toml }) => (earlier.get(name) === toml ? [] : [name]));
}

/** One finding of `berth doctor`: which files count, or what is wrong with them, which keeps every command from running. */
export function checkConfiguration(load: () => Configuration): DoctorCheck {
  const name = 'configuration';
  try {
    const { files } = load();
    return { name, state: 'ok', detail: files.length === 0 ? 'no file, the defaults count' : files.join(', ') };
  } catch (error) {
    return { name, state: 'missing', detail: errorMessage(error), remedy: 'correct it; berth config --check says whether it is right' };
  }
}
