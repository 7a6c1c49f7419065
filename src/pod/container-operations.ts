/**
 * Operations on containers: create, start, stop, remove. In: requests. Out: records, calls of the sandbox and the images, events.
 * A per-container lock is never held across a wait, so a later stop with a shorter time can shorten the running one.
 */
import { type ContainerId, RuntimeError, containerId, encodeId, encodeJson, withRollback, wrapError } from '#core';
import type { EngineState } from './engine-state.ts';
import { JoinedCreates, abandonable } from './joins.ts';
import { explainCreateFailure } from './create-failure.ts';
import type { ContainerRequest, ResolvedImage } from './ports.ts';
import { injectCdiDevices } from './cdi.ts';
import { buildRuntimeSpec, containerUser } from './runtime-spec.ts';
import { decodeSignal } from './signals.ts';
import { StopDeadlines } from './stops.ts';
import { type ContainerRecord, type PodRecord, containerKey } from './store.ts';
import type { ContainerConfig } from './types.ts';
import { ownUserNamespace } from './user-namespace.ts';
import { type LeasedImages, declaredSources, declaredVolumes, explainMountFailure, leaseImages, leaseMappedImages, releaseImages, resolveImageMounts } from './volumes.ts';

/** After SIGKILL a process that is still there hangs in the kernel. */
const killTimeoutMs = 10_000;

/** The request of a container with what its leases gave. */
export function withLeased(built: Omit<ContainerRequest, 'layers'>, { layers, volumes }: LeasedImages): ContainerRequest {
  return { ...built, layers, volumes: { ...built.volumes, ...volumes } };
}

/** One per engine. Ids may be shortened to a unique prefix; every method rejects with RuntimeError. */
export class ContainerOperations {
  readonly #state: EngineState;
  readonly #creates = new JoinedCreates<ContainerId>('container');
  readonly #stops: StopDeadlines;

  constructor(state: EngineState) {
    this.#state = state;
    this.#stops = new StopDeadlines(state.deps.clock);
  }

  /** Settles when no container is being created. */
  async idle(): Promise<void> {
    await this.#creates.idle();
  }

  async create(podId: string, config: ContainerConfig, signal?: AbortSignal): Promise<ContainerId> {
    const pod = this.#state.store.getPod(podId);
    const key = containerKey(pod.id, config);
    return this.#creates.run(
      key,
      config,
      async () => {
        const existing = this.#state.store.containerByKey(key);
        if (existing !== undefined) {
          if (existing.state === 'created' && encodeJson(existing.config) === encodeJson(config)) return existing.id;
          throw new RuntimeError(
            'alreadyExists',
            `create container ${config.metadata.name} (attempt ${config.metadata.attempt}): exists as ${existing.id}, which is ${existing.state}`,
          );
        }
        try {
          return await this.#make(pod, config);
        } catch (error) {
          throw wrapError(`create container ${config.metadata.name} in pod ${pod.config.metadata.name}`, error);
        }
      },
      signal,
    );
  }

  async #make(pod: PodRecord, config: ContainerConfig): Promise<ContainerId> {
    const { clock, images } = this.#state.deps;
    const mounted = resolveImageMounts(images, config.mounts);
    const sandbox = this.#state.sandbox(pod.id);
    const image = images.resolve(config.image);
    if (image === undefined) throw new RuntimeError('notFound', `image ${JSON.stringify(config.image)}: not found`);
    const id = containerId(encodeId(clock.randomBytes(32)));
    const stopSignal = config.stopSignal !== undefined && config.stopSignal !== '' ? config.stopSignal : image.process.stopSignal;
    if (stopSignal !== '') decodeSignal(stopSignal);
    const built = await this.build(pod, config, image, id);
    await withRollback(async (rollback) => {
      rollback.defer('forget the container', async () => this.#state.store.deleteContainer(id));
      this.#state.store.putContainer({
        id,
        podId: pod.id,
        config,
        imageId: image.id,
        imageRef: image.digests[0] ?? image.id,
        state: 'creating',
        pid: 0,
        createdAtNs: clock.nowNs(),
        startedAtNs: 0n,
        finishedAtNs: 0n,
        exitCode: 0,
        reason: '',
        message: '',
        stopSignal: stopSignal === '' ? 'SIGTERM' : stopSignal,
        ...(mounted.length === 0 ? {} : { mountedImages: mounted }),
      });
      rollback.defer('release the images', async () => releaseImages(images, { id, config }));
      const lessee = { id, imageId: image.id, config };
      const user = ownUserNamespace(pod.config.security.namespaces);
      const leased = user === undefined ? leaseImages(images, lessee, mounted) : await leaseMappedImages(images, lessee, mounted, user);
      rollback.defer('remove the container', async () => sandbox.removeContainer(id));
      this.#state.expectEnd(id);
      rollback.defer('expect no end', async () => void this.#state.ends.delete(id));
      const { pid, identity } = await sandbox.createContainer(withLeased(built, leased)).catch((error: unknown) => {
        throw explainCreateFailure(explainMountFailure(error, config.mounts), built.runtimeSpec, config.mounts);
      });
      this.#state.store.moveContainer(id, { state: 'created', pid, identity });
    });
    this.#state.publish({ kind: 'containerCreated', podSandboxId: pod.id, containerId: id });
    return id;
  }

  /** The request of a container but for what lies in images, which needs leases; see `withLeased`. */
  async build(pod: PodRecord, config: ContainerConfig, image: ResolvedImage, id: ContainerId): Promise<Omit<ContainerRequest, 'layers'>> {
    const { namespaces } = config.security;
    const { defaults } = this.#state.deps;
    const target = namespaces.pid === 'target' ? this.#state.store.getContainer(namespaces.targetId ?? '') : undefined;
    if (target !== undefined && (target.podId !== pod.id || target.state !== 'running'))
      throw new RuntimeError('failedPrecondition', `target container ${target.id}: is not a running container of this pod`);
    const built = await buildRuntimeSpec({
      pod: pod.config,
      podId: pod.id,
      podDir: pod.sandbox.podDir,
      cgroupPath: `${pod.sandbox.cgroupPath}/${id}`,
      hostname: pod.hostname,
      container: config,
      image: image.process,
      defaults,
      ...(target === undefined ? {} : { targetPid: target.pid }),
    });
    const identity = containerUser(config, image.process);
    const { spec, additionalGids } = await injectCdiDevices(built, config, defaults);
    return {
      containerId: id,
      runtimeSpec: spec,
      identity: { ...identity, supplementalGroups: [...identity.supplementalGroups, ...additionalGids] },
      stdin: config.stdin,
      stdinOnce: config.stdinOnce,
      terminal: config.tty,
      ...(pod.config.logDirectory === '' || config.logPath === '' ? {} : { log: { directory: pod.config.logDirectory, path: config.logPath } }),
      sharesPodPid: namespaces.pid === 'pod',
      volumes: declaredSources(declaredVolumes(image.process, config.mounts, defaults.imageVolumes), defaults.imageVolumes),
    };
  }

  async start(id: string, signal?: AbortSignal): Promise<void> {
    const container = this.#state.store.getContainer(id);
    const started = this.#state.locks.run(container.id, async () => this.#release(container.id));
    await (signal === undefined ? started : abandonable(started, signal));
  }

  async #release(id: ContainerId): Promise<void> {
    const container = this.#state.store.getContainer(id);
    if (container.state !== 'created') throw new RuntimeError('failedPrecondition', `start container ${id}: container is ${container.state}, not created`);
    const { clock } = this.#state.deps;
    try {
      await this.#state.recordStart(id, async () => this.#state.sandbox(container.podId).startContainer(id));
    } catch (error) {
      const failure = wrapError(`start container ${container.config.metadata.name}`, error);
      this.#state.recordEnd(id, { exitCode: 128, reason: 'StartError', message: failure.message, endedAtNs: clock.nowNs() });
      throw failure;
    }
  }

  async stop(id: string, { timeoutMs }: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<void> {
    const container = this.#state.store.findContainer(id);
    if (container === undefined) return;
    const stopped = this.#end(container, timeoutMs);
    await (signal === undefined ? stopped : abandonable(stopped, signal));
  }

  /** Ends a container with its stop signal, then SIGKILL. Several calls at once share one end; the nearest deadline counts. */
  async #end(container: ContainerRecord, timeoutMs: number): Promise<void> {
    const end = this.#state.ends.get(container.id);
    const sandbox = this.#state.sandboxes.get(container.podId);
    if (end === undefined || sandbox === undefined) return;
    const isFirst = this.#stops.begin(container.id, container.state === 'running' ? timeoutMs : 0);
    try {
      if (isFirst && timeoutMs > 0 && container.state === 'running') await sandbox.signal(container.id, decodeSignal(container.stopSignal));
      if ((await this.#stops.wait(container.id, end.promise)) === 'ended') return;
      await sandbox.killAll(container.id);
      await this.#awaitEnd(container.id, end.promise);
    } finally {
      if (isFirst) this.#stops.finish(container.id);
    }
  }

  async #awaitEnd(id: string, end: Promise<void>): Promise<void> {
    const cancel = new AbortController();
    const timer = this.#state.deps.clock.sleep(killTimeoutMs, cancel.signal).then(
      () => 'late' as const,
      () => 'cancelled' as const,
    );
    const outcome = await Promise.race([end, timer]);
    cancel.abort();
    if (outcome === 'late') throw new RuntimeError('deadlineExceeded', `stop container ${id}: still there ${killTimeoutMs / 1000} s after SIGKILL`);
  }

  async remove(id: string, signal?: AbortSignal): Promise<void> {
    const container = this.#state.store.findContainer(id);
    if (container === undefined) return;
    const removed = this.#discard(container);
    await (signal === undefined ? removed : abandonable(removed, signal));
  }

  async #discard(container: ContainerRecord): Promise<void> {
    if (container.state === 'creating') throw new RuntimeError('failedPrecondition', `remove container ${container.id}: it is being created`);
    await this.#end(container, 0);
    await this.#state.locks.run(container.id, async () => {
      const pod = this.#state.store.findPod(container.podId);
      if (this.#state.store.findContainer(container.id) === undefined || pod === undefined) return;
      const sandbox = this.#state.sandboxes.get(container.podId);
      if (sandbox === undefined) await this.#state.driver(pod.runtimeHandler).cleanUpContainer(pod.sandbox, container.id);
      else await sandbox.removeContainer(container.id);
      releaseImages(this.#state.deps.images, container);
      this.#state.store.deleteContainer(container.id);
      this.#state.publish({ kind: 'containerRemoved', podSandboxId: container.podId, containerId: container.id });
    });
  }
}
