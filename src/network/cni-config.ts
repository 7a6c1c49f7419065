/**
 * Network configuration lists. In: the text of a .conflist or .conf file. Out: a checked list, or an error that names the place. Pure.
 * What a plugin's own keys mean is that plugin's affair. Source: the CNI specification 1.1.0, section 1, "Network configuration format".
 */
import { RuntimeError, errorMessage, invalidArgument, limits } from '#core';
import type { CniConfigList, CniPlugin, JsonObject } from './cni-types.ts';

/** Versions that this runtime speaks, the highest first. Before 0.3.0 there were no lists and another form of results. */
export const cniVersions: readonly string[] = ['1.1.0', '1.0.0', '0.4.0', '0.3.1', '0.3.0'];

/** Source: the specification's pattern for network names; it becomes part of paths at plugins. */
const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
/** Name of an executable, never a path. */
const typePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** True for a JSON object, which is neither null nor an array. */
export const isObject = (value: unknown): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value);

/** True where the first version is the second or a later one. Both are `major.minor.patch`. */
export function isVersionAtLeast(version: string, wanted: string): boolean {
  const [one, other] = [version, wanted].map((text) => text.split('.').map(Number));
  for (let index = 0; index < 3; index += 1) {
    const difference = (one?.[index] ?? 0) - (other?.[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

function decodeFlag(value: unknown, path: string): boolean {
  if (value === undefined) return false;
  // Source: libcni, which takes both forms.
  if (typeof value === 'boolean') return value;
  if (value === 'true' || value === 'false') return value === 'true';
  throw invalidArgument(path, 'must be true or false');
}

function decodeText(value: unknown, path: string, pattern: RegExp): string {
  if (typeof value !== 'string') throw invalidArgument(path, value === undefined ? 'required' : 'must be a string');
  if (!pattern.test(value)) throw invalidArgument(path, `${JSON.stringify(value.slice(0, 80))} does not match ${pattern.source}`);
  return value;
}

/** One entry of `plugins`, or a whole .conf file. Throws invalidArgument with the place. */
export function decodeCniPlugin(value: unknown, path: string): CniPlugin {
  if (!isObject(value)) throw invalidArgument(path, 'must be an object');
  const type = decodeText(value['type'], `${path}.type`, typePattern);
  const capabilities = value['capabilities'];
  if (capabilities !== undefined && !isObject(capabilities)) throw invalidArgument(`${path}.capabilities`, 'must be an object');
  const enabled = Object.entries(capabilities ?? {}).map(([name, isEnabled]) => {
    if (typeof isEnabled !== 'boolean') throw invalidArgument(`${path}.capabilities.${name.slice(0, 80)}`, 'must be true or false');
    return isEnabled ? [name] : [];
  });
  return { type, capabilities: enabled.flat(), config: value };
}

/** Name of the list where it relies on plugins of its directory; undefined where it has all, or where the text is no list, which `decodeCniConfig` says. */
export function nameOfOpenList(text: string): string | undefined {
  const document = parseDocument(text);
  if (!isObject(document)) return undefined;
  const name = document['name'];
  return typeof name === 'string' && namePattern.test(name) && !decodeFlag(document['loadOnlyInlinedPlugins'], 'loadOnlyInlinedPlugins') ? name : undefined;
}

function parseDocument(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new RuntimeError('invalidArgument', `not JSON: ${errorMessage(error).slice(0, 200)}`, { cause: error });
  }
}

/** The versions that both sides know, the highest first. */
function decodeVersions(list: JsonObject): string[] {
  const [single, several] = [list['cniVersion'], list['cniVersions']];
  if (single !== undefined && typeof single !== 'string') throw invalidArgument('cniVersion', 'must be a string');
  if (several !== undefined && !(Array.isArray(several) && several.every((version) => typeof version === 'string')))
    throw invalidArgument('cniVersions', 'must be a list of strings');
  const named = [...(single === undefined ? [] : [single]), ...(several ?? [])].map(String);
  if (named.length === 0) throw invalidArgument('cniVersion', 'required');
  const known = cniVersions.filter((version) => named.includes(version));
  if (known.length === 0)
    throw invalidArgument(
      'cniVersion',
      `${named
        .slice(0, 10)
        .map((version) => JSON.stringify(version.slice(0, 20)))
        .join(', ')} is none of ${cniVersions.toReversed().join(', ')}`,
    );
  return known;
}

/**
 * The configuration in a file. `isList` says whether the file's name ends in .conflist; anything else is one plugin, a list of itself.
 * `inDirectory` are the plugins that lie in a directory named after the network, which a list may rely on since version 1.1.
 */
export function decodeCniConfig(text: string, { isList, inDirectory }: { readonly isList: boolean; readonly inDirectory?: readonly CniPlugin[] }): CniConfigList {
  const document = parseDocument(text);
  if (!isObject(document)) throw invalidArgument('', 'must be an object');
  const name = decodeText(document['name'], 'name', namePattern);
  const versions = decodeVersions(document);
  if (!isList) {
    const plugin = decodeCniPlugin(document, 'configuration');
    return { name, cniVersions: versions, disableCheck: false, disableGc: false, plugins: [plugin] };
  }
  const listed = document['plugins'];
  if (listed !== undefined && !Array.isArray(listed)) throw invalidArgument('plugins', 'must be a list');
  const own = (listed ?? []).map((plugin, index) => decodeCniPlugin(plugin, `plugins[${index}]`));
  const plugins = [...own, ...(decodeFlag(document['loadOnlyInlinedPlugins'], 'loadOnlyInlinedPlugins') ? [] : (inDirectory ?? []))];
  if (plugins.length === 0) throw invalidArgument('plugins', 'must have at least one');
  if (plugins.length > limits.cniPluginsMax) throw invalidArgument('plugins', `${plugins.length} plugins, at most ${limits.cniPluginsMax}`);
  return {
    name,
    cniVersions: versions,
    disableCheck: decodeFlag(document['disableCheck'], 'disableCheck'),
    disableGc: decodeFlag(document['disableGC'], 'disableGC'),
    plugins,
  };
}

/** The list as text for a record; `restoreCniList` gives it back. */
export function encodeCniList(list: CniConfigList): string {
  return JSON.stringify(list);
}

/** What `encodeCniList` wrote. */
export function restoreCniList(text: string): CniConfigList {
  // SAFETY: only encodeCniList writes these, into records that nobody else writes.
  return JSON.parse(text) as CniConfigList;
}
