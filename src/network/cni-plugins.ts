/**
 * Runs plugins: one command of one plugin, and the chains of the specification's section 3. In: lists, targets. Out: results, or errors
 * that name the plugin and give its own words. It keeps no record and decides nothing about when.
 */
import { RuntimeError, errorCode, errorMessage, limits, wrapError } from '#core';
import { isVersionAtLeast } from './cni-config.ts';
import { type CniCommand, type CniTarget, encodePluginConfig, pluginEnvironment, prevResultFor } from './cni-request.ts';
import { cniErrorCodes, decodeAddResult, decodeVersionResult, describePluginFailure, parseObject } from './cni-result.ts';
import type { CniConfigList, CniFile, CniFiles, CniPlugin, JsonObject, RunCniTool } from './cni-types.ts';

/** What plugins are run with. */
export interface CniPluginsParts {
  readonly files: CniFiles;
  readonly runTool: RunCniTool;
  readonly binDirs: readonly string[];
  /** PATH of the plugins. */
  readonly searchPath: string;
}

/** One call of a chain. */
export interface CniCall {
  readonly list: CniConfigList;
  readonly target: CniTarget;
  readonly capabilityArgs: JsonObject;
  /** Result of ADD, for DEL and CHECK. */
  readonly result?: JsonObject;
}

/** Executes the plugins of one set of binary directories. */
export class CniPlugins {
  readonly #parts: CniPluginsParts;
  /** Answers of VERSION by executable and its stamp. */
  readonly #versions = new Map<string, readonly string[]>();

  constructor(parts: CniPluginsParts) {
    this.#parts = parts;
  }

  /** The plugin's executable. Throws notFound with the directories that were searched. */
  async find(plugin: CniPlugin): Promise<CniFile> {
    const { files, binDirs } = this.#parts;
    const found = await files.findPlugin(plugin.type, binDirs);
    if (found === undefined) throw new RuntimeError('notFound', `CNI plugin ${plugin.type}: no such executable in ${binDirs.join(', ')}`);
    return found;
  }

  async #run(command: CniCommand, plugin: CniPlugin, { target, stdin, path }: { readonly target?: CniTarget; readonly stdin: Uint8Array; readonly path: string }): Promise<string> {
    const { binDirs, runTool, searchPath } = this.#parts;
    const what = `CNI plugin ${plugin.type}: ${command}`;
    const timeoutMs = target === undefined ? limits.cniQueryTimeoutMs : limits.cniCommandTimeoutMs;
    const ended = await runTool({
      path,
      argv: [path],
      env: pluginEnvironment(command, { ...(target === undefined ? {} : { target }), binDirs, searchPath }),
      stdin,
      timeoutMs,
      stdoutBytesMax: limits.cniResultBytesMax,
      stderrBytesMax: limits.cniErrorBytesMax,
    }).catch((error: unknown) => {
      throw wrapError(what, error);
    });
    const [stdout, stderr] = [ended.stdout.toString('utf8'), ended.stderr.toString('utf8')];
    if (ended.timedOut) throw new RuntimeError('deadlineExceeded', `${what}: not done after ${timeoutMs / 1000} s, killed`);
    if (ended.exitCode !== 0) {
      const code = parseObject(stdout)?.['code'];
      throw new RuntimeError(code === cniErrorCodes.tryAgainLater ? 'unavailable' : 'unknown', `${what}: ${describePluginFailure({ stdout, stderr, exitCode: ended.exitCode })}`);
    }
    if (ended.stdoutTruncated) throw new RuntimeError('resourceExhausted', `${what}: printed more than ${limits.cniResultBytesMax} bytes`);
    return stdout;
  }

  /** The list with the highest version that it and every plugin of it have. Throws failedPrecondition where there is none, notFound for a missing plugin. */
  async negotiate(list: CniConfigList): Promise<CniConfigList> {
    let versions = list.cniVersions;
    for (const plugin of list.plugins) {
      const supported = await this.#versionsOf(plugin, versions[0] ?? '');
      const common = versions.filter((version) => supported.includes(version));
      if (common.length === 0) throw new RuntimeError('failedPrecondition', `CNI plugin ${plugin.type}: has versions ${supported.join(', ')}, and not ${versions.join(' or ')}`);
      versions = common;
    }
    return { ...list, cniVersions: versions.slice(0, 1) };
  }

  async #versionsOf(plugin: CniPlugin, version: string): Promise<readonly string[]> {
    const { path, stamp } = await this.find(plugin);
    const key = `${path}\0${stamp}`;
    const known = this.#versions.get(key);
    if (known !== undefined) return known;
    const supported = await this.#decoded('VERSION', plugin, decodeVersionResult, { path, stdin: Buffer.from(JSON.stringify({ cniVersion: version })) });
    // Executables change with their packages only; an old stamp is never asked for again.
    if (this.#versions.size > limits.cniConfigFilesMax) this.#versions.clear();
    this.#versions.set(key, supported);
    return supported;
  }

  async #decoded<T>(
    command: CniCommand,
    plugin: CniPlugin,
    decode: (stdout: string) => T,
    request: { readonly target?: CniTarget; readonly stdin: Uint8Array; readonly path: string },
  ): Promise<T> {
    const stdout = await this.#run(command, plugin, request);
    try {
      return decode(stdout);
    } catch (error) {
      throw new RuntimeError(errorCode(error), `CNI plugin ${plugin.type}: ${command}: ${errorMessage(error)}`, { cause: error });
    }
  }

  /** ADD, one plugin after another, each with the result of the one before. Gives the last result. */
  async add({ list, target, capabilityArgs }: CniCall): Promise<JsonObject> {
    let result: JsonObject | undefined;
    for (const plugin of list.plugins) {
      const { path } = await this.find(plugin);
      const stdin = encodePluginConfig(list, plugin, { capabilityArgs, more: prevResultFor('ADD', list, result) });
      result = await this.#decoded('ADD', plugin, decodeAddResult, { target, stdin, path });
    }
    return result ?? {};
  }

  /** DEL, from the last plugin to the first; the first failure ends it, as the specification says, and it is to be called again. */
  async del(call: CniCall): Promise<void> {
    for (const plugin of call.list.plugins.toReversed()) await this.#forAttachment('DEL', plugin, call);
  }

  /** CHECK, where the list allows it and its version has it (0.4.0). Throws the first plugin's complaint. */
  async check(call: CniCall): Promise<void> {
    if (call.list.disableCheck || !hasVersion(call.list, '0.4.0')) return;
    for (const plugin of call.list.plugins) await this.#forAttachment('CHECK', plugin, call);
  }

  async #forAttachment(command: 'DEL' | 'CHECK', plugin: CniPlugin, { list, target, capabilityArgs, result }: CniCall): Promise<void> {
    const { path } = await this.find(plugin);
    await this.#run(command, plugin, { target, path, stdin: encodePluginConfig(list, plugin, { capabilityArgs, more: prevResultFor(command, list, result) }) });
  }

  /** STATUS of every plugin, where the list's version has it (1.1.0). Throws the first plugin's reason. */
  async status(list: CniConfigList): Promise<void> {
    if (!hasVersion(list, '1.1.0')) return;
    for (const plugin of list.plugins) {
      const { path } = await this.find(plugin);
      await this.#run('STATUS', plugin, { path, stdin: encodePluginConfig(list, plugin, {}) });
    }
  }

  /** GC with the attachments that are to stay, where the list allows it and its version has it (1.1.0). Every plugin is asked; the first failure is thrown at the end. */
  async collect(list: CniConfigList, attachments: readonly { readonly containerId: string; readonly interfaceName: string }[]): Promise<void> {
    if (list.disableGc || !hasVersion(list, '1.1.0')) return;
    const valid = attachments.map(({ containerId, interfaceName }) => ({ containerID: containerId, ifname: interfaceName }));
    const failures: unknown[] = [];
    for (const plugin of list.plugins) {
      try {
        const { path } = await this.find(plugin);
        // The second name is that of the specification's first text; plugins know either.
        await this.#run('GC', plugin, { path, stdin: encodePluginConfig(list, plugin, { more: { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid } }) });
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}

function hasVersion(list: CniConfigList, wanted: string): boolean {
  return isVersionAtLeast(list.cniVersions[0] ?? '', wanted);
}
