/**
 * The containers of one running pod: started in order, watched, restarted, stopped. In: a plan, a ready sandbox, fetched images.
 * Out: outcomes. It does not make or remove the sandbox; whoever made it does.
 *
 * ```
 * init and sidecars, in order ──▶ containers ──▶ all ended for good ──▶ sidecars stopped, last first
 *        │ init failed for good         ▲ │ restart policy
 *        └────────▶ sidecars stopped    └─┘ back-off
 * ```
 * After `#stopping` nothing is started any more; after `#over` nothing is waited for.
 */
import { type Clock, type ContainerId, type PodSandboxId, RuntimeError, assert, wrapError } from '#core';
import type { ContainerStatus, Engine, ImageSummary, ProcessStreams } from '#pod';
import { buildContainerConfig } from './plan-container.ts';
import type { ContainerPlan, PodPlan } from './plan-types.ts';
import { RestartBackoff, shouldRestart } from './restart.ts';
import type { ContainerOutcome, RunOptions, RunResult } from './runner-types.ts';
import { runStage } from './stages.ts';

/** What is known of the pod once its sandbox is ready. */
export interface PodRunFacts {
  readonly plan: PodPlan;
  readonly podSandboxId: PodSandboxId;
  readonly podIps: readonly string[];
  /** By the name in the manifest. */
  readonly images: ReadonlyMap<string, ImageSummary>;
  readonly options: RunOptions;
}

/** One start of a container. */
interface Instance {
  readonly id: ContainerId;
  readonly attempt: number;
  /** Settles once the output is handed on. */
  readonly output: Promise<void>;
}

/** One run. `execute` once, then `dispose`. */
export class PodRun {
  readonly #engine: Engine;
  readonly #clock: Clock;
  readonly #facts: PodRunFacts;
  readonly #stopping = new AbortController();
  readonly #over = new AbortController();
  /** Started and not yet known to have ended. */
  readonly #running = new Map<ContainerPlan, ContainerId>();
  readonly #outcomes = new Map<ContainerPlan, ContainerOutcome>();
  /** Everything that runs beside `execute`; awaited in `dispose`. */
  readonly #background = new Set<Promise<unknown>>();
  #interrupted = false;
  #killed = false;

  constructor(ports: { readonly engine: Engine; readonly clock: Clock }, facts: PodRunFacts) {
    this.#engine = ports.engine;
    this.#clock = ports.clock;
    this.#facts = facts;
  }

  /** Runs the containers to their end, or with `detach` until all have started. Call once, then `dispose`. */
  async execute(): Promise<RunResult> {
    const { plan, options, podSandboxId } = this.#facts;
    const stop = (): void => this.#interrupt({ kill: false });
    const kill = (): void => this.#interrupt({ kill: true });
    options.stopSignal?.addEventListener('abort', stop);
    options.killSignal?.addEventListener('abort', kill);
    try {
      if (options.stopSignal?.aborted === true) stop();
      const sidecars: Promise<ContainerOutcome>[] = [];
      const failed = await this.#runInit(sidecars);
      if (options.detach) return await this.#startDetached(failed);
      if (failed === undefined && !this.#stopping.signal.aborted) await this.#runMain(sidecars);
      await this.#stopSidecars();
      await Promise.all(sidecars);
      const outcomes = [...plan.init, ...plan.containers].map((container) => this.#outcomes.get(container)).filter((outcome) => outcome !== undefined);
      return { podSandboxId, containers: outcomes, interrupted: this.#interrupted, initFailed: failed !== undefined && !this.#interrupted };
    } finally {
      options.stopSignal?.removeEventListener('abort', stop);
      options.killSignal?.removeEventListener('abort', kill);
    }
  }

  /** Ends all waiting. Containers are not touched: they end with their pod. */
  async dispose(): Promise<void> {
    this.#stopping.abort();
    this.#over.abort();
    await Promise.allSettled(this.#background);
  }

  /** Keeps the promise for `dispose`; its failure is seen by whoever awaits the returned promise. */
  #supervised<T>(work: Promise<T>): Promise<T> {
    const settled: Promise<unknown> = work
      .then(
        () => undefined,
        () => undefined,
      )
      .finally(() => this.#background.delete(settled));
    this.#background.add(settled);
    return work;
  }

  /** Init containers and sidecars in their order. Returns the outcome of the init container that failed for good. */
  async #runInit(sidecars: Promise<ContainerOutcome>[]): Promise<ContainerOutcome | undefined> {
    for (const container of this.#facts.plan.init) {
      if (this.#stopping.signal.aborted) return undefined;
      const first = await this.#start(container, 0);
      if (container.role === 'sidecar') {
        if (!this.#facts.options.detach) sidecars.push(this.#supervised(this.#watch(container, first)));
        continue;
      }
      // A sidecar that cannot be restarted must end the run even while an init container still works.
      const outcome = await Promise.race([this.#supervised(this.#watch(container, first)), ...sidecars.map(rejectionOf)]);
      if (outcome.exitCode !== 0) return outcome;
    }
    return undefined;
  }

  async #startDetached(failed: ContainerOutcome | undefined): Promise<RunResult> {
    const { plan, podSandboxId } = this.#facts;
    const name = `${plan.manifest.namespace}/${plan.manifest.name}`;
    const throwIfInterrupted = (): void => {
      if (this.#interrupted) throw new RuntimeError('cancelled', `run pod ${name}: interrupted`);
    };
    throwIfInterrupted();
    if (failed !== undefined) throw new RuntimeError('aborted', `run pod ${name}: init container ${failed.name} ended with exit code ${failed.exitCode}`);
    for (const container of plan.containers) {
      await this.#start(container, 0);
      throwIfInterrupted();
    }
    return { podSandboxId, containers: [], interrupted: false, initFailed: false };
  }

  async #runMain(sidecars: readonly Promise<ContainerOutcome>[]): Promise<void> {
    const watched: Promise<ContainerOutcome>[] = [];
    for (const container of this.#facts.plan.containers) {
      if (this.#stopping.signal.aborted) break;
      watched.push(this.#supervised(this.#watch(container, await this.#start(container, 0))));
    }
    await Promise.race([Promise.all(watched), ...sidecars.map(rejectionOf)]);
  }

  async #start(container: ContainerPlan, attempt: number): Promise<Instance> {
    const { plan, podSandboxId, podIps, images, options } = this.#facts;
    const image = images.get(container.manifest.image);
    assert(image !== undefined, `image ${container.manifest.image} was not fetched`);
    const instance = await runStage(
      { clock: this.#clock, onEvent: options.onEvent },
      { stage: 'container', name: container.name, detailOf: () => (attempt === 0 ? '' : `restart ${attempt}`) },
      async () => {
        const imageIds = new Map([...images].map(([name, { id }]) => [name, id]));
        const id = await this.#engine.createContainer(podSandboxId, buildContainerConfig(plan, container, { attempt, podIps, image, imageIds }));
        const streams = options.attach === undefined ? undefined : await this.#engine.attach(id, { stdin: container.manifest.stdin });
        const output = streams === undefined ? Promise.resolve() : this.#supervised(this.#consume(container, streams));
        try {
          const size = container.manifest.tty ? options.windowSize?.() : undefined;
          if (size !== undefined) await streams?.resize(size);
          await this.#engine.startContainer(id);
        } catch (error) {
          streams?.close();
          throw error;
        }
        return { id, attempt, output };
      },
    );
    this.#running.set(container, instance.id);
    // The signal may have come between create and start, when there was nothing to stop yet.
    if (this.#stopping.signal.aborted) void this.#supervised(this.#stop(container, instance.id));
    return instance;
  }

  async #consume({ name, role, manifest }: ContainerPlan, streams: ProcessStreams): Promise<void> {
    const close = (): void => streams.close();
    this.#over.signal.addEventListener('abort', close);
    // The exit code is taken from the container's status; this promise may reject when the streams are closed.
    streams.exited.catch(() => undefined);
    try {
      await this.#facts.options.attach?.({ name, role, tty: manifest.tty, stdin: manifest.stdin }, streams);
    } finally {
      this.#over.signal.removeEventListener('abort', close);
    }
  }

  /** Waits for the container, restarts it as its policy says, and returns how it ended for good. */
  async #watch(container: ContainerPlan, first: Instance): Promise<ContainerOutcome> {
    const backoff = new RestartBackoff();
    let instance = first;
    for (;;) {
      const status = await this.#engine.waitContainer(instance.id, this.#over.signal).catch((error: unknown) => {
        throw wrapError(`wait for container ${container.name}`, error);
      });
      this.#running.delete(container);
      await instance.output;
      const outcome: ContainerOutcome = {
        name: container.name,
        role: container.role,
        id: instance.id,
        exitCode: status.exitCode,
        reason: status.reason,
        restarts: instance.attempt,
      };
      this.#outcomes.set(container, outcome);
      const delayMs = this.#reportEnd(container, status, backoff);
      if (delayMs === undefined || !(await this.#pause(delayMs))) return outcome;
      await this.#engine.removeContainer(instance.id);
      instance = await this.#start(container, instance.attempt + 1);
    }
  }

  /** Reports the end; milliseconds to the next start, or undefined where there is none. */
  #reportEnd(container: ContainerPlan, status: ContainerStatus, backoff: RestartBackoff): number | undefined {
    const ranMs = Number((status.finishedAtNs - status.startedAtNs) / 1_000_000n);
    const restarts = !this.#stopping.signal.aborted && shouldRestart(container.role, this.#facts.plan.manifest.restartPolicy, status.exitCode);
    const delayMs = restarts ? backoff.next(ranMs) : undefined;
    this.#facts.options.onEvent({
      kind: 'containerEnded',
      name: container.name,
      role: container.role,
      exitCode: status.exitCode,
      reason: status.reason,
      ranMs,
      ...(delayMs === undefined ? {} : { restartInMs: delayMs }),
    });
    return delayMs;
  }

  /** False where the run is being stopped. */
  async #pause(delayMs: number): Promise<boolean> {
    try {
      if (delayMs > 0) await this.#clock.sleep(delayMs, this.#stopping.signal);
    } catch (error) {
      if (!this.#stopping.signal.aborted) throw error;
    }
    return !this.#stopping.signal.aborted;
  }

  #interrupt({ kill }: { readonly kill: boolean }): void {
    this.#interrupted = true;
    this.#killed ||= kill;
    this.#stopping.abort();
    for (const [container, id] of this.#running) {
      // Sidecars serve the containers until those have ended, except when everything must end at once.
      if (kill || container.role !== 'sidecar') void this.#supervised(this.#stop(container, id));
    }
  }

  async #stop(container: ContainerPlan, id: ContainerId): Promise<void> {
    const timeoutMs = this.#killed ? 0 : this.#facts.plan.manifest.terminationGracePeriodSeconds * 1000;
    await runStage({ clock: this.#clock, onEvent: this.#facts.options.onEvent }, { stage: 'stop', name: container.name }, async () =>
      this.#engine.stopContainer(id, { timeoutMs }),
    );
  }

  async #stopSidecars(): Promise<void> {
    this.#stopping.abort();
    for (const container of this.#facts.plan.init.toReversed()) {
      const id = this.#running.get(container);
      if (id !== undefined && container.role === 'sidecar') await this.#stop(container, id);
    }
  }
}

/** A promise that only ever rejects, as the given one does. */
function rejectionOf(work: Promise<unknown>): Promise<never> {
  return new Promise((_resolve, reject) => void work.catch(reject));
}
