/**
 * The built-in bridge network. In: attach and detach of pods. Out: records, and plans given to those who execute them: the host's
 * runner and the pod's shim. Order: record, effect on the host; and the other way round at the end. Reads the host through a port.
 */
import { type Clock, KeyedMutex, type Records, RuntimeError, errnoName, errorCode, errorMessage, wrapError } from '#core';
import { type Plan, describeSection, describeStep } from '#plan';
import {
  type Bridge,
  buildAttachment,
  decodeBridgeOptions,
  linkNamesOf,
  planAddPorts,
  planAttach,
  planDetach,
  planEnsureBridge,
  planRemoveBridge,
  planReplaceMarkers,
  planReplaceTable,
  planUndo,
  portTargetOf,
} from './bridge.ts';
import { describeNetlink } from './describe.ts';
import { formatIpv4 } from './address.ts';
import type { PoolView } from './pool.ts';
import { AttachmentStore, decodePortMappings, describePort } from './store.ts';
import type { AttachRequest, Attachment, BridgeOptions, ExecuteAttachment, ExecutePlan, NetworkHostReader, NetworkStatus, PortMapping } from './types.ts';

/** What the network is made of. */
export interface BridgeNetworkParts {
  readonly records: Records;
  readonly clock: Clock;
  /** Runs a plan of host sections outside of any pod. */
  readonly runOnHost: ExecutePlan;
  readonly readHost: NetworkHostReader;
  readonly options: BridgeOptions;
}

/** How often and how long an attach waits where every address is used or rests. */
const restPollMs = 20;
const restWaitMsMax = 2_000;
/** How many addresses an attach tries where the kernel says that one's link exists: what a lost record left behind. */
const attemptsMax = 4;
const bridgeKey = 'bridge';
/** Errno names by which the kernel says that a link of this index or name exists. */
const takenErrnos: ReadonlySet<string | undefined> = new Set(['EEXIST', 'EBUSY']);

/** One bridge, one pool, one table. Calls for one pod must come one after another; those for different pods may overlap. */
export class BridgeNetwork {
  readonly #parts: BridgeNetworkParts;
  readonly #bridge: Bridge;
  readonly #store: AttachmentStore;
  readonly #turns = new KeyedMutex();
  /** True once this object has made or checked the bridge and nothing has removed it. */
  #isReady = false;
  /** True once this object has made the bridge, even where somebody else removed it since. */
  #hasMade = false;
  #failure: RuntimeError | undefined;
  /** Pods with a record whose ports are not to be opened yet. */
  readonly #portsPending = new Set<string>();

  /** Reads the records. Throws invalidArgument for bad options. */
  constructor(parts: BridgeNetworkParts) {
    this.#parts = parts;
    this.#bridge = decodeBridgeOptions(parts.options);
    this.#store = new AttachmentStore(parts.records, { subnet: this.#bridge.subnet, bridgeName: this.#bridge.name });
  }

  get #view(): PoolView {
    return { nowMs: Number(this.#parts.clock.nowNs() / 1_000_000n), hasLink: (name) => this.#parts.readHost.hasLink(name) };
  }

  /** Ports of all attached pods that the table must hold. */
  #openPorts(): ReturnType<typeof portTargetOf>[] {
    return this.#store
      .list()
      .filter(({ podId, portMappings }) => portMappings.length > 0 && !this.#portsPending.has(podId))
      .map(portTargetOf);
  }

  /** Makes the bridge unless this object has done so. */
  async #ensure(): Promise<void> {
    if (this.#isReady) return;
    await this.#turns.run(bridgeKey, async () => {
      if (this.#isReady) return;
      try {
        await this.#makeBridge();
        this.#failure = undefined;
      } catch (error) {
        const what = `set up network ${this.#bridge.name}`;
        this.#failure =
          errnoName(error) === 'ENODEV'
            ? new RuntimeError('failedPrecondition', `${what}: a link of this name exists that Berth did not make`, { cause: error, errno: 'ENODEV' })
            : wrapError(what, error);
        throw this.#failure;
      }
    });
  }

  /** Under the bridge's turn. */
  async #makeBridge(): Promise<void> {
    const { readHost } = this.#parts;
    const isOff = readHost.readIpForward().trim() === '0';
    // Where forwarding was switched on by us before, for a bridge that nobody undid, off is what to go back to.
    const wasOff = this.#store.bridge?.disableIpForward === true && (this.#hasMade || readHost.hasLink(this.#bridge.name));
    this.#store.setBridge({ disableIpForward: isOff || wasOff });
    await this.#parts.runOnHost(planEnsureBridge(this.#bridge, { targets: this.#openPorts(), enableIpForward: isOff }));
    this.#isReady = true;
    this.#hasMade = true;
  }

  /**
   * Gives the pod an address, a link in its network namespace and its host ports. `execute` runs plans in the pod's shim; with the plan
   * that gives the pod its address it gets the attachment, so that what depends on the address can be made along with it. `deposit`
   * gets the undo plan before anything was done. On failure everything but the pod's namespace is as before.
   * Throws resourceExhausted (full pool), alreadyExists (port of another pod), failedPrecondition (port of a process), invalidArgument.
   */
  async attach(request: AttachRequest, execute: ExecuteAttachment, deposit?: (undo: Plan) => Promise<void>): Promise<Attachment> {
    const { podId } = request;
    if (this.#store.get(podId) !== undefined) throw new RuntimeError('alreadyExists', `attach pod ${podId}: it has the address ${this.#store.get(podId)?.addresses[0]}`);
    const portMappings = await this.#checkPorts(podId, request.portMappings);
    for (let attempt = 1; ; attempt += 1) {
      const attachment = await this.#take(podId, portMappings);
      try {
        return await this.#attachRecorded(attachment, request.netnsSlot, execute, deposit);
      } catch (error) {
        await this.#takeBack(attachment, error);
        if (attempt === attemptsMax || !this.#mayTryAgain(error)) throw wrapError(`attach pod ${podId}`, error);
      }
    }
  }

  /** True where another address, or making the bridge again, may help. */
  #mayTryAgain(error: unknown): boolean {
    if (this.#isReady && !this.#parts.readHost.hasLink(this.#bridge.name)) {
      // Somebody took the bridge away: a person, or the undo plan of an owner that died.
      this.#isReady = false;
      return true;
    }
    return takenErrnos.has(errnoName(error));
  }

  async #checkPorts(podId: string, requested: readonly PortMapping[]): Promise<PortMapping[]> {
    let portMappings: PortMapping[];
    try {
      portMappings = decodePortMappings(requested);
    } catch (error) {
      throw wrapError(`attach pod ${podId}`, error);
    }
    this.#store.assertPortsUnused(podId, portMappings);
    for (const mapping of portMappings) {
      const isFree = await this.#parts.readHost.isPortFree({ protocol: mapping.protocol, hostPort: mapping.hostPort, hostIp: mapping.hostIp ?? '0.0.0.0' });
      if (!isFree) throw new RuntimeError('failedPrecondition', `attach pod ${podId}: host port ${describePort(mapping)} is in use on the host`);
    }
    return portMappings;
  }

  /** Records an attachment; waits a while where addresses only rest. */
  async #take(podId: string, portMappings: readonly PortMapping[]): Promise<Attachment> {
    const startedAtMs = this.#parts.clock.monotonicMs();
    for (;;) {
      // Again, as another pod may have come while this one waited.
      this.#store.assertPortsUnused(podId, portMappings);
      this.#portsPending.add(podId);
      const taken = this.#store.take(this.#view, (address) => buildAttachment(this.#bridge, { podId, address, portMappings }));
      if (!('kind' in taken)) return taken;
      this.#portsPending.delete(podId);
      if (taken.kind === 'full' || this.#parts.clock.monotonicMs() - startedAtMs >= restWaitMsMax) {
        const resting = taken.kind === 'full' ? '' : `, ${this.#store.pool.restingCount} not released by the kernel yet`;
        throw new RuntimeError('resourceExhausted', `attach pod ${podId}: no free address in ${this.#bridge.subnet.text} (${this.#store.pool.usedCount} in use${resting})`);
      }
      await this.#parts.clock.sleep(restPollMs);
    }
  }

  async #attachRecorded(attachment: Attachment, netnsSlot: number, execute: ExecuteAttachment, deposit: ((undo: Plan) => Promise<void>) | undefined): Promise<Attachment> {
    await this.#ensure();
    await deposit?.(this.undoPlan(attachment));
    await execute(planAttach(this.#bridge, attachment, { netnsSlot }), attachment);
    this.#portsPending.delete(attachment.podId);
    if (attachment.portMappings.length > 0) await this.#addPorts(attachment, execute);
    return attachment;
  }

  async #addPorts(attachment: Attachment, execute: ExecutePlan): Promise<void> {
    try {
      await execute(planAddPorts(this.#bridge, attachment));
    } catch (error) {
      if (errnoName(error) !== 'EEXIST' && errnoName(error) !== 'ENOENT') throw error;
      // The records are the truth, and no other has these ports: the map holds something of a dead owner, or somebody took the table away.
      await this.#turns.run(bridgeKey, () => this.#parts.runOnHost(planReplaceTable(this.#bridge, this.#openPorts())));
    }
  }

  /** Undo of a failed attach; its own failure is added to the first one. */
  async #takeBack(attachment: Attachment, error: unknown): Promise<void> {
    // Ports are opened last and all or none, so a pending pod has none, and an equal port in the table would be another pod's.
    const opened = this.#portsPending.has(attachment.podId) ? { ...attachment, portMappings: [] } : attachment;
    try {
      await this.#parts.runOnHost(planDetach(this.#bridge, opened));
      this.#forget(attachment);
    } catch (failure) {
      // The record stays: reconcile, or a detach by the caller, tries again.
      throw new RuntimeError(errorCode(error), `attach pod ${attachment.podId}: ${errorMessage(error)}`, { cause: error, cleanupFailures: [failure] });
    }
  }

  #forget(attachment: Attachment): void {
    this.#portsPending.delete(attachment.podId);
    if (this.#store.get(attachment.podId) === attachment) this.#store.release(attachment, this.#view);
  }

  /** What the shim runs by itself when its starter was killed: closes the ports and, after the last pod, removes the bridge. */
  undoPlan(attachment: Attachment): Plan {
    return planUndo(this.#bridge, attachment, { disableIpForward: this.#store.bridge?.disableIpForward === true });
  }

  /** The attachment of a pod, if it has one. */
  get(podId: string): Attachment | undefined {
    return this.#store.get(podId);
  }

  /**
   * Closes the pod's ports and frees its address, which rests until its link is gone. No error where nothing is attached. `execute`
   * may be the pod's shim while it lives, which saves a process; by default the host's runner.
   */
  async detach(podId: string, execute: ExecutePlan = this.#parts.runOnHost): Promise<void> {
    const attachment = this.#store.get(podId);
    if (attachment === undefined) return;
    try {
      await execute(planDetach(this.#bridge, attachment));
    } catch (error) {
      throw wrapError(`detach pod ${podId}`, error);
    }
    this.#forget(attachment);
  }

  /**
   * Makes host and records agree with the pods that live: frees what dead pods had, closes ports that nobody has, makes the bridge
   * again where pods need it and removes it where none does. For the start of an owner, before any attach.
   */
  async reconcile(livePodIds: ReadonlySet<string>): Promise<void> {
    const attachments = this.#store.list();
    const live = attachments.filter(({ podId }) => livePodIds.has(podId));
    if (attachments.length === 0 && this.#store.bridge === undefined) return;
    for (const attachment of attachments) {
      if (!livePodIds.has(attachment.podId)) this.#forget(attachment);
    }
    if (live.length === 0) {
      await this.close();
      return;
    }
    this.#isReady = false;
    await this.#ensure();
    await this.#parts.runOnHost(
      planReplaceMarkers(
        this.#bridge,
        live.map(({ podId }) => podId),
      ),
    );
  }

  /** Where no pod is attached: removes bridge and table and restores ip_forward. With pods it does nothing; they go on without us. */
  async close(): Promise<void> {
    await this.#turns.run(bridgeKey, async () => {
      const { bridge } = this.#store;
      if (bridge === undefined || this.#store.list().length > 0) return;
      this.#isReady = false;
      try {
        // The link goes last, here and in the undo plan: without it, the rest was undone, and ip_forward is somebody else's again.
        await this.#parts.runOnHost(
          this.#hasMade || this.#parts.readHost.hasLink(this.#bridge.name) ? planRemoveBridge(this.#bridge, bridge) : planReplaceMarkers(this.#bridge, []),
        );
      } catch (error) {
        throw wrapError(`remove network ${this.#bridge.name}`, error);
      }
      this.#hasMade = false;
      this.#store.setBridge(undefined);
    });
  }

  /** The plan lines of an attach with the pool's next address, every netlink message in words. Changes nothing. */
  explain(request: Omit<AttachRequest, 'netnsSlot'> & { readonly netnsSlot?: number }): string[] {
    const portMappings = decodePortMappings(request.portMappings);
    const attachment = this.#store.get(request.podId) ?? buildAttachment(this.#bridge, { podId: request.podId, address: formatIpv4(this.#bridge.gateway + 1), portMappings });
    const plans = [
      ...(this.#isReady ? [] : [planEnsureBridge(this.#bridge, { targets: [], enableIpForward: this.#parts.readHost.readIpForward().trim() === '0' })]),
      planAttach(this.#bridge, attachment, { netnsSlot: request.netnsSlot ?? 0 }),
      ...(attachment.portMappings.length === 0 ? [] : [planAddPorts(this.#bridge, attachment)]),
    ];
    return plans.flatMap((plan) => explainNetworkPlan(plan, linkNamesOf(this.#bridge, attachment)));
  }

  /** What the network has in use, and why it is not ready. A bridge that was not needed yet is no fault. */
  status(): NetworkStatus {
    const { pool } = this.#store;
    return {
      ready: this.#failure === undefined,
      reason: this.#failure === undefined ? '' : 'BridgeFailed',
      message: this.#failure?.message ?? '',
      bridge: this.#bridge.name,
      subnet: this.#bridge.subnet.text,
      gateway: pool.gateway,
      addressesInUse: pool.usedCount,
      addressesResting: pool.restingCount,
      addressCount: pool.size,
    };
  }
}

/** A plan's lines, each netlink step followed by its messages. */
function explainNetworkPlan(plan: Plan, linkNames: ReadonlyMap<number, string>): string[] {
  return plan.sections.flatMap((section) => [
    describeSection(section),
    ...section.steps.flatMap((step) => [
      `  ${describeStep(step)}`,
      ...(step.kind === 'netlink' ? describeNetlink(step.protocol, step.messages, { slotPatches: step.slotPatches, linkNames }).map((line) => `    - ${line}`) : []),
    ]),
  ]);
}
