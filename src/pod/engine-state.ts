/**
 * What the engine's parts share: records, live sandboxes, locks, the ends of containers, events. In: the ports. Out: one object
 * that the operations on pods and on containers work with. It decides nothing beyond what its methods say.
 */
import { type BoundedQueue, type Clock, KeyedMutex, type Records, RuntimeError } from '#core';
import type { ImagePort, NetworkPort, ProcessEnd, Sandbox, SandboxDriver, SpecDefaults } from './ports.ts';
import { snapshotOf } from './status.ts';
import { type ContainerRecord, type PodRecord, PodStore } from './store.ts';
import type { EngineChange, EngineEvent, RuntimeReadiness, ImageFileSystemUsage, LayerUsage } from './types.ts';

/** What an engine is wired with. */
export interface EngineDependencies {
  readonly records: Records;
  readonly clock: Clock;
  /** By runtime handler name. */
  readonly drivers: ReadonlyMap<string, SandboxDriver>;
  readonly defaultHandler: string;
  readonly images: ImagePort;
  readonly network: NetworkPort;
  /** Space of the writable layers of containers. */
  readonly containerUsage: () => Promise<ImageFileSystemUsage>;
  /** Space of the writable layer of one; undefined where it has none. It may take as long as the tree is large. */
  readonly layerUsage: (container: { readonly podId: string; readonly containerId: string }) => Promise<LayerUsage | undefined>;
  readonly defaults: SpecDefaults;
  readonly version: string;
  /** Whether pods can be made now; where not, why. */
  readonly readiness: () => RuntimeReadiness;
  /** Facts for verbose status. */
  readonly info: () => Readonly<Record<string, unknown>> | Promise<Readonly<Record<string, unknown>>>;
  /** Called for failures of background work, which have no caller. */
  readonly report: (error: unknown) => void;
}

/** How a container ended, as its record keeps it. */
export interface ContainerEnd {
  readonly exitCode: number;
  readonly reason: string;
  readonly message: string;
  readonly endedAtNs: bigint;
}

/** Made once per engine. */
export class EngineState {
  readonly deps: EngineDependencies;
  readonly store: PodStore;
  readonly sandboxes = new Map<string, Sandbox>();
  /** One per container that has not ended; resolved once its end is recorded. */
  readonly ends = new Map<string, PromiseWithResolvers<void>>();
  /** Containers that have been asked to start and whose answer is not there yet; an end that comes first waits for it. */
  readonly #starting = new Map<string, { readonly startedAtNs: bigint; end?: ContainerEnd }>();
  readonly locks = new KeyedMutex();
  readonly subscribers = new Set<BoundedQueue<EngineEvent>>();

  constructor(deps: EngineDependencies) {
    this.deps = deps;
    this.store = new PodStore(deps.records);
  }

  /** Throws notFound for a handler that is not configured. */
  driver(handler: string): SandboxDriver {
    const driver = this.deps.drivers.get(handler);
    if (driver === undefined) throw new RuntimeError('notFound', `runtime handler ${JSON.stringify(handler)}: not configured (have ${[...this.deps.drivers.keys()].join(', ')})`);
    return driver;
  }

  /** Throws failedPrecondition for a pod that is not ready. */
  sandbox(podId: string): Sandbox {
    const sandbox = this.sandboxes.get(podId);
    if (sandbox === undefined) throw new RuntimeError('failedPrecondition', `pod sandbox ${podId}: not ready`);
    return sandbox;
  }

  /** Throws notFound, or failedPrecondition for a container that does not run; `verb` begins the message. */
  running(id: string, verb: string): ContainerRecord {
    const container = this.store.getContainer(id);
    if (container.state !== 'running') throw new RuntimeError('failedPrecondition', `${verb} container ${container.id}: container is ${container.state}, not running`);
    return container;
  }

  /** From now on the container has an end to wait for. */
  expectEnd(id: string): void {
    if (!this.ends.has(id)) this.ends.set(id, Promise.withResolvers());
  }

  /** Ends of execs are not recorded. */
  onProcessEnd(end: ProcessEnd): void {
    if (this.store.findContainer(end.processId) === undefined) return;
    const starting = this.#starting.get(end.processId);
    // Whether the process ran at all is known with the answer alone: one whose command cannot be executed ends too.
    if (starting === undefined) this.recordEnd(end.processId, endOf(end));
    else starting.end = endOf(end);
  }

  /** Runs what starts the container and records its start, then an end that came meanwhile. Rejects as `start` does; nothing is recorded then. */
  async recordStart(id: string, start: () => Promise<{ readonly pid: number }>): Promise<void> {
    // Taken before, so that no end is older than its start.
    const starting: { readonly startedAtNs: bigint; end?: ContainerEnd } = { startedAtNs: this.deps.clock.nowNs() };
    this.#starting.set(id, starting);
    try {
      const { pid } = await start();
      const container = this.store.findContainer(id);
      // Its pod may have been stopped meanwhile.
      if (container?.state !== 'created') return;
      this.store.moveContainer(id, { state: 'running', startedAtNs: starting.startedAtNs, pid });
      this.publish({ kind: 'containerStarted', podSandboxId: container.podId, containerId: container.id });
      if (starting.end !== undefined) this.recordEnd(id, starting.end);
    } finally {
      this.#starting.delete(id);
    }
  }

  /** Once per container; a later end of the same container is passed over. */
  recordEnd(id: string, end: ContainerEnd): void {
    const container = this.store.findContainer(id);
    // A container that was never created has no end: its create fails and rolls back.
    if (container === undefined || container.state === 'exited' || container.state === 'creating') return;
    this.store.moveContainer(id, { state: 'exited', finishedAtNs: end.endedAtNs, exitCode: end.exitCode, reason: end.reason, message: end.message });
    this.ends.get(id)?.resolve();
    this.ends.delete(id);
    this.publish({ kind: 'containerStopped', podSandboxId: container.podId, containerId: container.id });
  }

  /** Every container of the pod that has not ended. */
  endContainers(podId: string, end: Omit<ContainerEnd, 'endedAtNs'>): void {
    for (const container of this.store.containers(podId)) this.recordEnd(container.id, { ...end, endedAtNs: this.deps.clock.nowNs() });
  }

  /** Hands a change that has been recorded to every reader, with what is there now. `removed` is the pod's last record where the store has it no more. */
  publish(change: EngineChange, removed?: PodRecord): void {
    if (this.subscribers.size === 0) return;
    const pod = this.store.findPod(change.podSandboxId) ?? removed;
    const told: EngineEvent = {
      ...change,
      atNs: this.deps.clock.nowNs(),
      ...(pod === undefined ? {} : { snapshot: snapshotOf(pod, this.store.containers(pod.id)) }),
    };
    for (const subscriber of this.subscribers) subscriber.push(told);
  }
}

/** Reason texts are those that the kubelet shows. */
export function endOf(end: Pick<ProcessEnd, 'exitCode' | 'oomKilled' | 'endedAtNs'>): ContainerEnd {
  return { exitCode: end.exitCode, reason: end.oomKilled ? 'OOMKilled' : end.exitCode === 0 ? 'Completed' : 'Error', message: '', endedAtNs: end.endedAtNs };
}
