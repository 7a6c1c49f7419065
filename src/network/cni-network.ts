/**
 * The network by CNI plugins. In: attach and detach of pods, and the configuration directory. Out: records, plans for those who execute
 * them, runs of plugins. Order: record, pin, ADD; and DEL, pin away, record away at the end. What DEL could not undo is never forgotten.
 */
import { type Clock, KeyedMutex, type Records, RuntimeError, errorCode, errorMessage, wrapError } from '#core';
import type { Plan } from '#plan';
import { encodeCniList } from './cni-config.ts';
import { CniDirectory } from './cni-directory.ts';
import { CniGate } from './cni-gate.ts';
import { netnsPathOf, planPin, planUnpin } from './cni-plans.ts';
import { CniPlugins } from './cni-plugins.ts';
import { capabilityArgsOf, encodeCniArgs } from './cni-request.ts';
import { hostEndOf, parseObject, podAddresses, printable } from './cni-result.ts';
import { CniStore, callOf } from './cni-store.ts';
import { decodePodCidrs, fillCniTemplate, templateValuesOf } from './cni-template.ts';
import type { CniAttachRequest, CniAttachment, CniConfigList, CniFiles, CniRecord, RunCniTool } from './cni-types.ts';
import type { ExecutePlan } from './types.ts';

/** What the network is made of. */
export interface CniNetworkParts {
  readonly records: Records;
  readonly clock: Clock;
  readonly files: CniFiles;
  readonly runTool: RunCniTool;
  /** Runs a plan of host sections outside of any pod. */
  readonly runOnHost: ExecutePlan;
  readonly configDir: string;
  readonly binDirs: readonly string[];
  /** PATH of the plugins. */
  readonly searchPath: string;
  /** File that UpdateRuntimeConfig makes a configuration from; absent: the ranges are kept for the capability `ipRanges` only. */
  readonly template?: string;
  /** Failures of background work, which have no caller. */
  readonly report: (error: unknown) => void;
}

/** Readiness as the CRI's Status has it, and what verbose status tells. */
export interface CniNetworkStatus {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

/** The name of the pod's interface, as every CRI runtime calls it. */
const interfaceName = 'eth0';
/** The word that kubelets and people know for this condition. */
const notReadyReason = 'NetworkPluginNotReady';
/** Name of the file that a template becomes. */
const templateFileName = '10-berth.conflist';
/** How long an answer of STATUS counts, and how long a caller of `status` waits for a new one. */
const statusAgeMsMax = 1_000;
const statusWaitMs = 2_000;
const collectTries = 100;
/** CHECK and GC wait that long, so that an engine that lives for one command asks no plugin for nothing. */
const careDelayMs = 1_000;
/** How long the end of an engine waits for DEL of what it found; the next one does what is left. */
const closeWaitMs = 5_000;

/** One configuration directory. Calls for one pod are put in a row; those for different pods overlap. */
export class CniNetwork {
  readonly #parts: CniNetworkParts;
  readonly #store: CniStore;
  readonly #plugins: CniPlugins;
  readonly #directory: CniDirectory;
  readonly #turns = new KeyedMutex();
  readonly #gate = new CniGate();
  /** Background work; awaited by `close`. */
  readonly #background = new Set<Promise<void>>();
  #deletes: Promise<unknown> = Promise.resolve();
  /** What STATUS said last, of which list. */
  #status: { readonly list: CniConfigList; readonly failure: string | undefined; readonly atMs: number } | undefined;
  #asking: { readonly list: CniConfigList; readonly answered: Promise<void> } | undefined;
  readonly #cancel = new AbortController();

  /** Reads the records and nothing else. */
  constructor(parts: CniNetworkParts) {
    this.#parts = parts;
    this.#store = new CniStore(parts.records);
    this.#plugins = new CniPlugins({ ...parts, runTool: async (request) => parts.runTool(request, this.#cancel.signal) });
    this.#directory = new CniDirectory({ files: parts.files, plugins: this.#plugins, directory: parts.configDir });
  }

  /** True where the pod has something that DEL must undo. */
  has(podId: string): boolean {
    return this.#store.get(podId) !== undefined;
  }

  // --- readiness

  /** The list in use. Throws unavailable with the reason where the network is not ready. */
  async #readyList(): Promise<CniConfigList> {
    const configuration = await this.#directory.read();
    if (configuration.kind === 'notReady') throw new RuntimeError('unavailable', `network is not ready: ${configuration.message}`);
    const { list } = configuration;
    if (this.#status?.list !== list || this.#status.failure !== undefined) await this.#ask(list);
    const failure = this.#status?.list === list ? this.#status.failure : undefined;
    if (failure !== undefined) throw new RuntimeError('unavailable', `network is not ready: ${failure}`);
    return list;
  }

  /** STATUS of the list's plugins; calls for one list at the same time share one. Never throws. */
  async #ask(list: CniConfigList): Promise<void> {
    // What is being asked of a list that has been replaced says nothing of this one.
    while (this.#asking !== undefined && this.#asking.list !== list) await this.#asking.answered;
    this.#asking ??= { list, answered: this.#askPlugins(list) };
    await this.#asking.answered;
  }

  async #askPlugins(list: CniConfigList): Promise<void> {
    const failure = await this.#plugins.status(list).then(
      () => undefined,
      (error: unknown) => printable(errorMessage(error)),
    );
    this.#status = { list, failure, atMs: this.#parts.clock.monotonicMs() };
    this.#asking = undefined;
  }

  /** Looks at the directory again and asks the plugins, who may take their time: then what they said last counts. */
  async status(): Promise<CniNetworkStatus> {
    const cancel = new AbortController();
    const late = this.#parts.clock.sleep(statusWaitMs, cancel.signal).catch(() => undefined);
    await Promise.race([this.#refresh(), late]);
    cancel.abort();
    const { current } = this.#directory;
    const failure = current.kind === 'notReady' ? current.message : this.#status?.list === current.list ? this.#status.failure : 'the CNI plugins have not answered STATUS yet';
    return failure === undefined ? { ready: true, reason: '', message: '' } : { ready: false, reason: notReadyReason, message: failure };
  }

  async #refresh(): Promise<void> {
    const configuration = await this.#directory.read();
    if (configuration.kind === 'notReady') return;
    const isFresh = this.#status?.list === configuration.list && this.#parts.clock.monotonicMs() - this.#status.atMs < statusAgeMsMax;
    if (!isFresh) await this.#ask(configuration.list);
  }

  /** Facts for verbose status. */
  info(): Readonly<Record<string, unknown>> {
    const { current } = this.#directory;
    const { configDir, binDirs } = this.#parts;
    return {
      mode: 'cni',
      configDir,
      binDirs,
      podCidrs: this.#store.podCidrs,
      attachments: this.#store.list().length,
      deletesPending: this.#store.list().filter(({ state }) => state === 'deleting').length,
      ...(current.kind === 'ready'
        ? { file: current.path, name: current.list.name, cniVersion: current.list.cniVersions[0], plugins: current.list.plugins.map(({ type }) => type) }
        : {}),
    };
  }

  // --- attachments

  /**
   * Pins the pod's network namespace and runs ADD of every plugin. `execute` runs plans in the pod's shim; `deposit` gets what the shim
   * does by itself when its starter is killed: the pin goes, and DEL is left to the next engine, by the record.
   * Throws unavailable where the network is not ready, invalidArgument for what plugins cannot be told, else the failed plugin's words.
   */
  async attach({ pod, netnsSlot }: CniAttachRequest, execute: ExecutePlan, deposit?: (undo: Plan) => Promise<void>): Promise<CniAttachment> {
    const { podId } = pod;
    return this.#turns.run(podId, async () => {
      try {
        if (this.has(podId)) throw new RuntimeError('alreadyExists', 'it is attached');
        const args = encodeCniArgs(pod);
        const capabilityArgs = capabilityArgsOf(pod, this.#store.podCidrs);
        const list = await this.#readyList();
        const record: CniRecord = {
          podId,
          state: 'adding',
          netnsPath: netnsPathOf(podId),
          interfaceName,
          list: encodeCniList(list),
          args,
          capabilityArgs: JSON.stringify(capabilityArgs),
        };
        return await this.#gate.pass(async () => this.#add(this.#store.put(record), netnsSlot, execute, deposit));
      } catch (error) {
        throw wrapError(`attach pod ${podId}`, error);
      }
    });
  }

  async #add(record: CniRecord, netnsSlot: number, execute: ExecutePlan, deposit: ((undo: Plan) => Promise<void>) | undefined): Promise<CniAttachment> {
    const { podId, netnsPath } = record;
    try {
      await deposit?.(planUnpin(podId, netnsPath));
      await execute(planPin(podId, { netnsPath, netnsSlot }));
      const result = await this.#plugins.add(callOf(record));
      // Before the addresses are looked at: whatever is wrong with the result, DEL gets it.
      const attached = this.#store.put({ ...record, state: 'attached', result: JSON.stringify(result) });
      return describeRecord(attached);
    } catch (error) {
      await this.#takeBack(podId, error);
      throw error;
    }
  }

  /** Undo of a failed ADD, as the specification asks for; its own failure is added to the first one, and the record stays for the next try. */
  async #takeBack(podId: string, error: unknown): Promise<void> {
    try {
      await this.#delete(podId);
    } catch (failure) {
      throw new RuntimeError(errorCode(error), errorMessage(error), { cause: error, cleanupFailures: [failure] });
    }
  }

  /** DEL, pin away, record away. */
  async #delete(podId: string): Promise<void> {
    this.#store.setState(podId, 'deleting');
    const record = this.#store.get(podId);
    if (record === undefined) return;
    const { files, runOnHost } = this.#parts;
    // A file without its mount would be taken for a broken namespace; nothing at all is what plugins expect of one that is gone.
    if ((await files.lookAtPin(record.netnsPath)) === 'file') await runOnHost(planUnpin(podId, record.netnsPath));
    await this.#plugins.del(callOf(record));
    await runOnHost(planUnpin(podId, record.netnsPath));
    this.#store.delete(podId);
  }

  /**
   * Undoes an attachment. `execute`, where given, ends the pod's sandbox: that comes first, as no process of the pod may see its network go,
   * and the pin keeps the namespace for the plugins. No error where nothing is attached; then `execute` is not called.
   */
  async detach(podId: string, execute?: ExecutePlan): Promise<void> {
    if (!this.has(podId)) return;
    await this.#turns.run(podId, async () => {
      if (!this.has(podId)) return;
      try {
        this.#store.setState(podId, 'deleting');
        await execute?.({ sections: [] });
        await this.#gate.pass(async () => this.#delete(podId));
      } catch (error) {
        throw wrapError(`detach pod ${podId}`, error);
      }
    });
  }

  /**
   * For the start of an owner: in the background, so that a plugin which hangs, perhaps because its own agent is a pod that waits for us, holds
   * nobody up, DEL of all that no live pod has, then CHECK of what live ones have and GC. Failures are reported and tried again at the next removal or start.
   * `isChosen`: pods get their networks here. Else the configuration belongs to others, whose attachments GC would take for leaked ones; so it is not even read.
   */
  async reconcile(livePodIds: ReadonlySet<string>, { isChosen }: { readonly isChosen: boolean }): Promise<void> {
    const stale = this.#store.list().filter(({ podId }) => !livePodIds.has(podId));
    for (const { podId } of stale) this.#store.setState(podId, 'deleting');
    if (isChosen) await this.#directory.read();
    this.#inBackground(async () => {
      this.#deletes = Promise.all(stale.map(async ({ podId }) => this.detach(podId).catch(this.#report)));
      await this.#deletes;
      await this.#parts.clock.sleep(careDelayMs, this.#cancel.signal);
      await this.#check(livePodIds);
      if (isChosen) await this.#collect();
    });
  }

  readonly #report = (error: unknown): void => {
    if (!this.#cancel.signal.aborted) this.#parts.report(error);
  };

  #inBackground(task: () => Promise<void>): void {
    const run = task()
      .catch(this.#report)
      .finally(() => this.#background.delete(run));
    this.#background.add(run);
  }

  async #check(livePodIds: ReadonlySet<string>): Promise<void> {
    for (const { podId } of this.#store.list().filter((record) => record.state === 'attached' && livePodIds.has(record.podId))) {
      await this.check(podId).catch(this.#report);
    }
  }

  /** CHECK of a pod's attachment. Throws the first plugin's complaint; notFound where nothing is attached. */
  async check(podId: string): Promise<void> {
    await this.#turns.run(podId, async () => {
      const record = this.#store.get(podId);
      if (record === undefined) throw new RuntimeError('notFound', `check pod ${podId}: not attached`);
      await this.#gate
        .pass(async () => this.#plugins.check(callOf(record)))
        .catch((error: unknown) => {
          throw wrapError(`check pod ${podId}`, error);
        });
    });
  }

  /** GC by the plugins of the present list; what is recorded, in whatever state, is what may stay. */
  async #collect(): Promise<void> {
    const { current } = this.#directory;
    if (current.kind === 'notReady') return;
    const collect = async (): Promise<void> => {
      const valid = this.#store.list().map((record) => ({ containerId: record.podId, interfaceName: record.interfaceName }));
      await this.#plugins.collect(current.list, valid);
    };
    if (!(await this.#gate.collect(collect, { tries: collectTries }))) throw new RuntimeError('aborted', 'collect leaked attachments: there was no moment without operations');
  }

  /** Ends background work and waits for plugins under way. */
  async close(): Promise<void> {
    const wait = new AbortController();
    await Promise.race([this.#deletes, this.#parts.clock.sleep(closeWaitMs, wait.signal).catch(() => undefined)]);
    wait.abort();
    if (this.#background.size > 0) this.#cancel.abort(new RuntimeError('cancelled', 'the engine ends'));
    await Promise.allSettled([...this.#background]);
    await this.#gate.idle();
  }

  // --- configuration from a template

  /**
   * Takes the ranges of the node's pods (comma-separated, one per family; empty: no change). Kept, given to plugins with the capability
   * `ipRanges`, and filled into the template, if there is one and nobody else's configuration counts. Throws invalidArgument.
   */
  async updateRuntimeConfig({ podCidr }: { readonly podCidr: string }): Promise<void> {
    const ranges = decodePodCidrs(podCidr);
    if (ranges.length === 0) return;
    await this.#turns.run('template', async () => {
      this.#store.setPodCidrs(ranges);
      const { configDir, files, template } = this.#parts;
      if (template === undefined) return;
      const ours = `${configDir}/${templateFileName}`;
      const present = await this.#directory.read();
      if (present.kind === 'ready' && present.path !== ours) return;
      try {
        await files.replaceFile(ours, fillCniTemplate(await files.readText(template), templateValuesOf(ranges)));
      } catch (error) {
        throw wrapError(`make a CNI configuration of ${template}`, error);
      }
      await this.#directory.read();
    });
  }

  /** What an attach would do, in words. Changes nothing. */
  explain(podId: string): string[] {
    const { current } = this.#directory;
    if (current.kind === 'notReady') return [`network: not ready: ${current.message}`];
    const { list, path } = current;
    return [
      `network ${list.name}: CNI ${list.cniVersions[0]} of ${path}`,
      `  pin the network namespace at ${netnsPathOf(podId)} and bring its loopback device up`,
      ...list.plugins.map(({ type }) => `  run ${type} with ADD for ${interfaceName}`),
    ];
  }
}

/** The attachment of a record whose plugins have all run. Throws internal where they gave the pod no address. */
function describeRecord({ result: text, netnsPath, list, ...record }: CniRecord): CniAttachment {
  const result = parseObject(text ?? '') ?? {};
  const ips = podAddresses(result, record.interfaceName);
  const networkName = parseObject(list)?.['name'];
  if (ips.length === 0) throw new RuntimeError('internal', `the CNI plugins gave ${record.interfaceName} no address`);
  const hostInterface = hostEndOf(result);
  return {
    interfaceName: record.interfaceName,
    netnsPath,
    networkName: typeof networkName === 'string' ? networkName : '',
    ips,
    ...(hostInterface === undefined ? {} : { hostInterface }),
    result,
  };
}
