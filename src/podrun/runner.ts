/**
 * Running a pod plan over the engine: images, volumes, sandbox, init containers and sidecars in order, containers, their restarts
 * and their end. In: a PodPlan and ports. Out: events and the exit codes. On failure nothing is left behind.
 * It decides nothing about the pod's shape, which the plan has fixed, and touches the host only through its ports.
 */
import { type Clock, RuntimeError, errorCode, errorMessage, isAbort, withRollback } from '#core';
import type { Engine, RegistryAuth } from '#pod';
import type { PodPlan } from './plan-types.ts';
import { PodRun } from './run.ts';
import type { RunOptions, RunResult, VolumePort } from './runner-types.ts';
import { fetchImage, runStage } from './stages.ts';
import { placeUsers } from './user-range.ts';

/** What a runner works with. */
export interface PodRunnerPorts {
  readonly engine: Engine;
  readonly volumes: VolumePort;
  readonly clock: Clock;
  /** The user's credentials for pulling an image; undefined for none. Absent: nobody has any. */
  readonly findCredentials?: (image: string) => Promise<RegistryAuth | undefined>;
}

const never = new AbortController().signal;

/** Runs pods. It holds no state between runs. */
export class PodRunner {
  readonly #ports: PodRunnerPorts;

  constructor(ports: PodRunnerPorts) {
    this.#ports = ports;
  }

  /**
   * Runs the pod to its end, or with `detach` until every container has started. Rejects with RuntimeError after everything that was made is
   * removed: alreadyExists for a pod of the same name, cancelled where a signal came before the first container, the engine's errors otherwise.
   */
  async run(plan: PodPlan, options: RunOptions): Promise<RunResult> {
    const { engine, volumes, clock } = this.#ports;
    const { manifest, uid } = plan;
    const name = `${manifest.namespace}/${manifest.name}`;
    const report = { clock, onEvent: options.onEvent };
    const stopSignal = options.stopSignal ?? never;
    const throwIfStopped = (): void => {
      if (stopSignal.aborted) throw new RuntimeError('cancelled', `run pod ${name}: interrupted`);
    };
    await this.#refuseSecond(plan);
    const images = new Map(await this.#fetchImages(plan, options, name));
    let run: PodRun | undefined;
    try {
      return await withRollback(async (rollback) => {
        // A create that fails removes its own part: the directory of a uid that is taken is another pod's.
        await runStage(report, { stage: 'volumes', name, detailOf: () => `${plan.volumes.length}` }, async () => volumes.create(uid, plan.volumes, stopSignal));
        rollback.defer(`remove the volumes of pod ${name}`, async () => volumes.remove(uid));
        throwIfStopped();
        const placed = placeUsers(plan, plan.manifest.hostUsers ? [] : await engine.listPodSandboxes());
        // The engine finishes a create whose caller has gone, so it gets no signal: an abandoned sandbox would have no owner.
        const foreground = options.remove && !options.detach;
        const podSandboxId = await runStage(report, { stage: 'sandbox', name }, async () => engine.runPodSandbox(placed.podConfig, { foreground }));
        rollback.defer(`remove pod ${name}`, async (signal) => {
          try {
            await engine.removePodSandbox(podSandboxId, signal);
          } catch (error) {
            // An engine that closes removes foreground pods itself.
            if (!foreground || errorCode(error) !== 'unavailable') throw error;
          }
        });
        const { ips, info } = await engine.podSandboxStatus(podSandboxId);
        const networkMs = info['networkMs'];
        options.onEvent({
          kind: 'stageDone',
          stage: 'network',
          name: ips[0] ?? 'host',
          detail: ips.slice(1).join(' '),
          ...(typeof networkMs === 'number' ? { durationMs: networkMs } : {}),
        });
        throwIfStopped();
        run = new PodRun(this.#ports, { plan: placed, podSandboxId, podIps: ips, images, options });
        const result = await run.execute();
        if (options.detach) return result;
        await this.#end(podSandboxId, plan, options);
        return result;
      });
    } finally {
      await run?.dispose();
    }
  }

  /** Names are how people speak of pods, so a second pod of the same name waits until the first is removed. */
  async #refuseSecond({ manifest }: PodPlan): Promise<void> {
    const pods = await this.#ports.engine.listPodSandboxes();
    const same = pods.find(({ metadata }) => metadata.name === manifest.name && metadata.namespace === manifest.namespace);
    if (same === undefined) return;
    const advice = same.state === 'ready' ? 'is running' : 'has ended but is not removed';
    throw new RuntimeError('alreadyExists', `run pod ${manifest.namespace}/${manifest.name}: a pod of this name ${advice} (${same.id.slice(0, 12)})`);
  }

  async #fetchImages(plan: PodPlan, options: RunOptions, name: string): Promise<(readonly [string, Awaited<ReturnType<Engine['pullImage']>>])[]> {
    const ports = { ...this.#ports, onEvent: options.onEvent };
    const images: (readonly [string, Awaited<ReturnType<Engine['pullImage']>>])[] = [];
    const signal = options.stopSignal ?? never;
    for (const image of plan.images) {
      try {
        images.push([image.name, await fetchImage(ports, image, signal)]);
      } catch (error) {
        if (signal.aborted) throw new RuntimeError('cancelled', `run pod ${name}: interrupted${isAbort(error) ? '' : `: ${errorMessage(error)}`}`, { cause: error });
        throw error;
      }
    }
    return images;
  }

  async #end(podSandboxId: string, { uid, manifest }: PodPlan, options: RunOptions): Promise<void> {
    const { engine, volumes, clock } = this.#ports;
    const name = `${manifest.namespace}/${manifest.name}`;
    await runStage({ clock, onEvent: options.onEvent }, { stage: options.remove ? 'remove' : 'stop', name }, async () => {
      if (!options.remove) return engine.stopPodSandbox(podSandboxId);
      await engine.removePodSandbox(podSandboxId);
      await volumes.remove(uid);
    });
  }
}
