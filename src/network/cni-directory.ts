/**
 * Which network configuration counts now. In: the configuration directory, read again whenever it may have changed. Out: a negotiated
 * list, or why there is none. The first file in lexical order counts, and nothing after it: one that is broken is told, not passed over.
 */
import { RuntimeError, errorMessage } from '#core';
import { decodeCniConfig, decodeCniPlugin, nameOfOpenList } from './cni-config.ts';
import type { CniPlugins } from './cni-plugins.ts';
import { printable } from './cni-result.ts';
import type { CniConfigList, CniFile, CniFiles, CniPlugin } from './cni-types.ts';

/** A configuration that can be used, or the reason why not. */
export type CniConfiguration = { readonly kind: 'ready'; readonly list: CniConfigList; readonly path: string } | { readonly kind: 'notReady'; readonly message: string };

/** Reads one configuration directory. */
export class CniDirectory {
  readonly #files: CniFiles;
  readonly #plugins: CniPlugins;
  readonly #directory: string;
  #stamp: string | undefined;
  #current: CniConfiguration = { kind: 'notReady', message: 'the CNI configuration has not been read yet' };
  #reading: Promise<CniConfiguration> | undefined;

  constructor({ files, plugins, directory }: { readonly files: CniFiles; readonly plugins: CniPlugins; readonly directory: string }) {
    this.#files = files;
    this.#plugins = plugins;
    this.#directory = directory;
  }

  /** What was found when it was last looked for. */
  get current(): CniConfiguration {
    return this.#current;
  }

  /** Looks again; calls at the same time share one look. Never throws: a configuration that cannot be used has its reason. */
  async read(): Promise<CniConfiguration> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<CniConfiguration> {
    try {
      const [first] = await this.#files.listConfigs(this.#directory);
      if (first === undefined) throw new RuntimeError('failedPrecondition', `no CNI configuration (.conflist, .conf or .json) in ${this.#directory}`);
      this.#current = await this.#load(first);
    } catch (error) {
      this.#stamp = undefined;
      this.#current = { kind: 'notReady', message: printable(errorMessage(error)) };
    }
    return this.#current;
  }

  async #load(file: CniFile): Promise<CniConfiguration> {
    const list = await this.#decode(file);
    const executables = await Promise.all(list.plugins.map(async (plugin) => this.#plugins.find(plugin)));
    const stamp = JSON.stringify([file, executables, list]);
    if (stamp === this.#stamp) return this.#current;
    const negotiated = await this.#plugins.negotiate(list);
    this.#stamp = stamp;
    return { kind: 'ready', list: negotiated, path: file.path };
  }

  async #decode({ path }: CniFile): Promise<CniConfigList> {
    try {
      const isList = path.endsWith('.conflist');
      const text = await this.#files.readText(path);
      return decodeCniConfig(text, { isList, inDirectory: isList ? await this.#pluginsInDirectory(text) : [] });
    } catch (error) {
      throw new RuntimeError('failedPrecondition', `CNI configuration ${path}: ${errorMessage(error)}`, { cause: error });
    }
  }

  /** Plugins that lie in a directory with the network's name. Source: the specification 1.1.0, `loadOnlyInlinedPlugins`. */
  async #pluginsInDirectory(text: string): Promise<CniPlugin[]> {
    const name = nameOfOpenList(text);
    if (name === undefined) return [];
    const plugins: CniPlugin[] = [];
    for (const { path } of await this.#files.listConfigs(`${this.#directory}/${name}`)) {
      if (path.endsWith('.conf')) plugins.push(decodeCniPlugin(JSON.parse(await this.#files.readText(path)), path));
    }
    return plugins;
  }
}
