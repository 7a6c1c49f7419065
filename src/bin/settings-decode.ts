/**
 * Configuration documents, variables and flags as values of the schema's settings. In: texts with their names. Out: for each setting
 * its value and where it came from. Pure. Whatever is not known, or is of another kind, is refused by file, line, key and nearest name.
 */
import { TomlError, parse } from 'smol-toml';
import { RuntimeError, errorMessage, invalidArgument } from '#core';
import type { Setting, SettingRow } from './settings-schema.ts';
import { schema } from './settings-schema.ts';

/** Where a value came from. `name`: file, variable or option. `line` counts from 1 and is absent where it was not found. */
export type Origin =
  { readonly kind: 'default' } | { readonly kind: 'file'; readonly name: string; readonly line?: number } | { readonly kind: 'variable' | 'flag'; readonly name: string };

/** A TOML text and its path. */
export interface ConfigurationDocument {
  readonly file: string;
  readonly text: string;
}

/** What counts; of documents the later ones win over the earlier, variables over documents, flags over variables. */
export interface AssignmentSources {
  readonly documents: readonly ConfigurationDocument[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text by the setting's full key, such as `directories.root`. */
  readonly flags?: ReadonlyMap<string, string>;
}

/** Values of settings. */
export interface Assignments {
  /** The default where nothing is said. */
  get<T>(this: void, setting: Setting<T>): T;
  originOf(this: void, setting: Setting<unknown>): Origin;
}

/** Every setting, in the order of the documented file. */
export const settingRows: readonly SettingRow[] = Object.entries(schema).flatMap(([table, settings]) =>
  Object.entries(settings).map(([key, setting]): SettingRow => ({ table, key, setting })),
);
const rowByKey: ReadonlyMap<string, SettingRow> = new Map(settingRows.map((row) => [`${row.table}.${row.key}`, row]));
/** Full keys of what a running daemon takes over. */
export const reloadableKeys: ReadonlySet<string> = new Set([...rowByKey].flatMap(([key, { setting }]) => (setting.reloads === true ? [key] : [])));
const tables: ReadonlySet<string> = new Set(Object.keys(schema));

/** Changes of one letter (another, one more, one less, two swapped) between two names. */
function distance(left: string, right: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let row = 1; row <= left.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= right.length; column += 1) {
      const same = left[row - 1] === right[column - 1];
      let best = Math.min((previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1, (previous[column - 1] ?? 0) + (same ? 0 : 1));
      if (row > 1 && column > 1 && left[row - 1] === right[column - 2] && left[row - 2] === right[column - 1]) best = Math.min(best, (before[column - 2] ?? 0) + 1);
      current.push(best);
    }
    before = previous;
    previous = current;
  }
  return previous[right.length] ?? 0;
}

/** Longer names are no typing mistakes of ours. */
const nameLengthMax = 100;

/** The name that was probably meant, or undefined where all are far. A key in the wrong table is near to itself. */
export function nearestName(name: string, names: Iterable<string>): string | undefined {
  if (name.length > nameLengthMax) return undefined;
  const last = (text: string): string => text.slice(text.lastIndexOf('.') + 1);
  let nearest: { readonly name: string; readonly steps: number } | undefined;
  for (const candidate of names) {
    const steps = last(candidate) === last(name) ? 1 : distance(name, candidate);
    if (steps <= Math.max(2, Math.floor(candidate.length / 3)) && (nearest === undefined || steps < nearest.steps)) nearest = { name: candidate, steps };
  }
  return nearest?.name;
}

const printable = (text: string): string => (/^[\w.-]{1,100}$/.test(text) ? text : JSON.stringify(text.slice(0, 100)));

/** Line of a key in a document, by its usual spellings; a key inside an inline table has the line of the table. */
export function lineOfKey(text: string, key: string): number | undefined {
  const normal = (name: string): string => name.replaceAll(/["'\s]/g, '');
  let table = '';
  let found: number | undefined;
  for (const [index, line] of text.split('\n').entries()) {
    const header = /^\s*\[{1,2}([^[\]#]+)\]/.exec(line)?.[1];
    const name = /^\s*([\w\s."'-]+?)\s*=/.exec(line)?.[1];
    if (header !== undefined) table = normal(header);
    const full = header === undefined ? (name === undefined ? undefined : normal(table === '' ? name : `${table}.${name}`)) : table;
    if (full === key || full?.startsWith(`${key}.`) === true) return index + 1;
    if (full !== undefined && key.startsWith(`${full}.`)) found = index + 1;
  }
  return found;
}

function refuseDocument({ file, text }: ConfigurationDocument, key: string, cause: string): never {
  const line = lineOfKey(text, key);
  throw new RuntimeError('invalidArgument', `read configuration ${file}: ${line === undefined ? '' : `line ${line}: `}${key.split('.').map(printable).join('.')}: ${cause}`);
}

function refuseUnknown(document: ConfigurationDocument, key: string, names: Iterable<string>): never {
  const nearest = nearestName(key, names);
  refuseDocument(document, key, `no such setting${nearest === undefined ? ' (berth config --default prints all of them)' : `, did you mean ${nearest}?`}`);
}

type Table = Readonly<Record<string, unknown>>;
const isTable = (value: unknown): value is Table => typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);

/** The decoded values of one document by full key. */
function decodeDocument(document: ConfigurationDocument): ReadonlyMap<string, unknown> {
  let parsed: Table;
  try {
    parsed = parse(document.text);
  } catch (error) {
    // The library's message goes on with an excerpt of several lines.
    if (!(error instanceof TomlError)) throw error;
    const cause = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '');
    throw new RuntimeError('invalidArgument', `read configuration ${document.file}: line ${error.line}, column ${error.column}: ${cause}`, { cause: error });
  }
  const values = new Map<string, unknown>();
  for (const [table, content] of Object.entries(parsed)) {
    if (!tables.has(table)) refuseUnknown(document, table, isTable(content) ? tables : rowByKey.keys());
    if (!isTable(content)) refuseDocument(document, table, 'must be a table');
    for (const [name, value] of Object.entries(content)) {
      const key = `${table}.${name}`;
      const row = rowByKey.get(key);
      if (row === undefined) refuseUnknown(document, key, rowByKey.keys());
      try {
        values.set(key, row.setting.kind.decode(value));
      } catch (error) {
        refuseDocument(document, key, errorMessage(error));
      }
    }
  }
  return values;
}

function parseText(row: SettingRow, name: string, text: string): unknown {
  try {
    return row.setting.kind.parse(text);
  } catch (error) {
    throw invalidArgument(name, errorMessage(error));
  }
}

/** Decodes all sources, also those that others win over, so that no mistake hides. Throws invalidArgument. An empty variable counts as none. */
export function decodeAssignments({ documents, env, flags = new Map() }: AssignmentSources): Assignments {
  const found = new Map<Setting<unknown>, { readonly value: unknown; readonly origin: Origin }>();
  for (const document of documents) {
    for (const [key, value] of decodeDocument(document)) {
      const line = lineOfKey(document.text, key);
      const row = rowByKey.get(key);
      if (row !== undefined) found.set(row.setting, { value, origin: { kind: 'file', name: document.file, ...(line === undefined ? {} : { line }) } });
    }
  }
  for (const [key, row] of rowByKey) {
    const { variable } = row.setting;
    const text = env[variable];
    if (text !== undefined && text !== '') found.set(row.setting, { value: parseText(row, variable, text), origin: { kind: 'variable', name: variable } });
    const given = flags.get(key);
    if (given !== undefined) {
      const name = row.setting.flag ?? key;
      found.set(row.setting, { value: parseText(row, name, given), origin: { kind: 'flag', name } });
    }
  }
  return {
    // SAFETY: only what the setting's own kind has decoded is stored under it.
    get: <T>(setting: Setting<T>) => (found.has(setting) ? (found.get(setting)?.value as T) : setting.fallback),
    originOf: (setting) => found.get(setting)?.origin ?? { kind: 'default' },
  };
}
