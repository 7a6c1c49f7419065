/**
 * The engine: what the doors call. In: typed requests. Out: results, streams, events. It puts the operations on pods, containers
 * and images together and knows nothing of how a sandbox, a network or an image is made.
 */
import { type ContainerId, type PodSandboxId, RuntimeError, containerId, encodeId, podSandboxId, wrapError } from '#core';
import { ContainerOperations, withLeased } from './container-operations.ts';
import { type EngineDependencies, EngineState } from './engine-state.ts';
import { defaultHostname } from './files.ts';
import { abandonable } from './joins.ts';
import { PodOperations } from './pod-operations.ts';
import { bindStreams, forwardPort } from './port-forward.ts';
import type { SandboxRequest } from './ports.ts';
import { decodeSignal } from './signals.ts';
import { readEvents } from './event-readers.ts';
import { containerInfo, podSandboxInfo } from './info.ts';
import { UpdateOperations } from './update-operations.ts';
import { StatsOperations } from './stats.ts';
import { describeContainer, describePod, logPathOf, matchesContainer, matchesPod } from './status.ts';
import type { PodRecord } from './store.ts';
import type {
  CollectImagesOptions,
  CollectReport,
  ContainerConfig,
  ContainerFilter,
  ContainerStats,
  ContainerStatsFilter,
  ContainerStatus,
  ContainerUpdate,
  Engine,
  EngineEvent,
  EngineStatus,
  ExecRequest,
  ExecSyncResult,
  ExplainRequest,
  FileSystemsUsage,
  HostFile,
  ImageDiskUsage,
  ImageFromHostRequest,
  ImageReferrer,
  ImageSummary,
  ImportImagesOptions,
  MetricDescriptor,
  PodFilter,
  PodSandboxConfig,
  PodSandboxMetrics,
  PodSandboxStats,
  PodSandboxStatus,
  PodStatsFilter,
  PodSandboxUpdate,
  ProcessStreams,
  PullImageOptions,
  PushImageOptions,
  PushedImage,
  RuntimeConfigUpdate,
  RegistryQueryOptions,
  SaveImagesOptions,
  SavedImages,
  VerifyImagesOptions,
  VerifyReport,
} from './types.ts';
import { type LeasedImages, leaseImages, releaseImages, resolveImageMounts } from './volumes.ts';

/** The one implementation of `Engine` that owns a state directory. Call `reconcile` before anything else. */
export class PodEngine implements Engine {
  readonly #state: EngineState;
  readonly #pods: PodOperations;
  readonly #containers: ContainerOperations;
  readonly #stats: StatsOperations;
  readonly #updates: UpdateOperations;

  constructor(deps: EngineDependencies) {
    this.#state = new EngineState(deps);
    this.#pods = new PodOperations(this.#state);
    this.#containers = new ContainerOperations(this.#state);
    this.#stats = new StatsOperations(this.#state);
    this.#updates = new UpdateOperations(this.#state);
  }

  /** Repairs what earlier owners left; see PodOperations. */
  async reconcile(): Promise<void> {
    await this.#pods.reconcile();
  }

  /** Ends foreground pods, leaves the others running, and releases what only an owner holds. */
  async close(): Promise<void> {
    await this.#pods.idle();
    await this.#containers.idle();
    for (const pod of this.#state.store.pods()) if (pod.foreground) await this.removePodSandbox(pod.id).catch((error: unknown) => this.#state.deps.report(error));
    for (const sandbox of this.#state.sandboxes.values()) sandbox.detach();
    this.#state.sandboxes.clear();
    await this.#state.deps.network.close();
    for (const subscriber of this.#state.subscribers) subscriber.end();
  }

  // --- pod sandboxes

  async runPodSandbox(config: PodSandboxConfig, options: { readonly runtimeHandler?: string; readonly foreground?: boolean } = {}, signal?: AbortSignal): Promise<PodSandboxId> {
    return this.#pods.run(config, options, signal);
  }

  async stopPodSandbox(id: string, signal?: AbortSignal): Promise<void> {
    await this.#pods.stop(id, signal);
  }

  async removePodSandbox(id: string, signal?: AbortSignal): Promise<void> {
    await this.#pods.remove(id, signal);
  }

  async podSandboxStatus(id: string): Promise<PodSandboxStatus> {
    return { ...describePod(this.#state.store.getPod(id)), observedAtNs: this.#state.deps.clock.nowNs() };
  }

  async listPodSandboxes(filter: PodFilter = {}): Promise<PodSandboxStatus[]> {
    return this.#state.store
      .pods()
      .filter((pod) => pod.state !== 'creating')
      .map(describePod)
      .filter((pod) => matchesPod(pod, filter));
  }

  // --- containers

  async createContainer(podId: string, config: ContainerConfig, signal?: AbortSignal): Promise<ContainerId> {
    return this.#containers.create(podId, config, signal);
  }

  async startContainer(id: string, signal?: AbortSignal): Promise<void> {
    await this.#containers.start(id, signal);
  }

  async stopContainer(id: string, options: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<void> {
    await this.#containers.stop(id, options, signal);
  }

  async removeContainer(id: string, signal?: AbortSignal): Promise<void> {
    await this.#containers.remove(id, signal);
  }

  async containerStatus(id: string): Promise<ContainerStatus> {
    const container = this.#state.store.getContainer(id);
    return describeContainer(container, this.#state.store.findPod(container.podId));
  }

  async listContainers(filter: ContainerFilter = {}): Promise<ContainerStatus[]> {
    return this.#state.store
      .containers()
      .filter((container) => container.state !== 'creating')
      .map((container) => describeContainer(container, this.#state.store.findPod(container.podId)))
      .filter((container) => matchesContainer(container, filter));
  }

  async updateContainer(id: string, update: ContainerUpdate, signal?: AbortSignal): Promise<void> {
    await this.#updates.container(id, update, signal);
  }

  async updatePodSandbox(id: string, update: PodSandboxUpdate, signal?: AbortSignal): Promise<void> {
    await this.#updates.pod(id, update, signal);
  }

  async containerInfo(id: string): Promise<Readonly<Record<string, unknown>>> {
    return containerInfo(this.#state, id);
  }

  async podSandboxInfo(id: string): Promise<Readonly<Record<string, unknown>>> {
    return podSandboxInfo(this.#state, id);
  }

  async waitContainer(id: string, signal?: AbortSignal): Promise<ContainerStatus> {
    const container = this.#state.store.getContainer(id);
    const end = this.#state.ends.get(container.id);
    if (end !== undefined) await (signal === undefined ? end.promise : abandonable(end.promise, signal));
    return this.containerStatus(container.id);
  }

  async signalContainer(id: string, signalName: string): Promise<void> {
    const container = this.#state.running(id, 'signal');
    await this.#state.sandbox(container.podId).signal(container.id, decodeSignal(signalName));
  }

  // --- processes and streams

  async execSync(id: string, command: readonly string[], { timeoutMs }: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<ExecSyncResult> {
    const container = this.#state.running(id, 'exec in');
    if (command.length === 0) throw new RuntimeError('invalidArgument', `exec in container ${container.id}: command is empty`);
    const run = this.#state.sandbox(container.podId).execSync(container.id, command, { timeoutMs });
    const result = await (signal === undefined ? run : abandonable(run, signal)).catch((error: unknown) => {
      throw wrapError(`exec in container ${container.id}`, error);
    });
    if (result.timedOut) throw new RuntimeError('deadlineExceeded', `exec in container ${container.id}: command ${JSON.stringify(command)} timed out after ${timeoutMs} ms`);
    return result;
  }

  async exec(id: string, request: ExecRequest): Promise<ProcessStreams> {
    const container = this.#state.running(id, 'exec in');
    if (request.command.length === 0) throw new RuntimeError('invalidArgument', `exec in container ${container.id}: command is empty`);
    const sandbox = this.#state.sandbox(container.podId);
    try {
      const { processId, streams } = await sandbox.exec(container.id, {
        command: request.command,
        terminal: request.tty,
        stdin: request.stdin,
        columns: request.columns ?? 80,
        rows: request.rows ?? 24,
      });
      return { ...bindStreams(streams), resize: async (size) => sandbox.resize(processId, size) };
    } catch (error) {
      throw wrapError(`exec in container ${container.id}`, error);
    }
  }

  async attach(id: string, options: { readonly stdin: boolean }): Promise<ProcessStreams> {
    const container = this.#state.store.getContainer(id);
    if (container.state !== 'running' && container.state !== 'created')
      throw new RuntimeError('failedPrecondition', `attach to container ${container.id}: container is ${container.state}`);
    const sandbox = this.#state.sandbox(container.podId);
    const streams = await sandbox.attach(container.id, options);
    return { ...bindStreams(streams), resize: async (size) => sandbox.resize(container.id, size) };
  }

  async portForward(podSandboxId: string, port: number, signal?: AbortSignal): Promise<ProcessStreams> {
    return forwardPort(this.#state, { podSandboxId, port }, signal);
  }

  async reopenContainerLog(id: string): Promise<void> {
    const container = this.#state.running(id, 'reopen the log of');
    const pod = this.#state.store.getPod(container.podId);
    if (logPathOf(pod, container) === '') throw new RuntimeError('failedPrecondition', `reopen the log of container ${container.id}: it has none`);
    await this.#state.sandbox(pod.id).reopenLog(container.id, { directory: pod.config.logDirectory, path: container.config.logPath });
  }

  // --- observation

  async containerStats(id: string): Promise<ContainerStats> {
    return this.#stats.container(id);
  }

  async listContainerStats(filter?: ContainerStatsFilter): Promise<ContainerStats[]> {
    return this.#stats.listContainers(filter);
  }

  async podSandboxStats(id: string): Promise<PodSandboxStats> {
    return this.#stats.pod(id);
  }

  async listPodSandboxStats(filter?: PodStatsFilter): Promise<PodSandboxStats[]> {
    return this.#stats.listPods(filter);
  }

  async metricDescriptors(): Promise<MetricDescriptor[]> {
    return this.#stats.descriptors();
  }

  async podSandboxMetrics(): Promise<PodSandboxMetrics[]> {
    return this.#stats.metrics();
  }

  // --- images

  async pullImage(reference: string, options: PullImageOptions = {}, signal?: AbortSignal): Promise<ImageSummary> {
    return this.#state.deps.images.pull(reference, { ...options, ...cancelledBy(signal) });
  }

  async pushImage(nameOrId: string, options: PushImageOptions = {}, signal?: AbortSignal): Promise<PushedImage> {
    return this.#state.deps.images.push(nameOrId, { ...options, ...cancelledBy(signal) });
  }

  async importImages(path: string, options: ImportImagesOptions = {}, signal?: AbortSignal): Promise<ImageSummary[]> {
    requireAbsolute('import images from', path);
    return this.#state.deps.images.importImages(path, { ...options, ...cancelledBy(signal) });
  }

  async saveImages(names: readonly string[], path: string, options: SaveImagesOptions, signal?: AbortSignal): Promise<SavedImages> {
    requireAbsolute('save images to', path);
    return this.#state.deps.images.save(names, path, { ...options, ...cancelledBy(signal) });
  }

  async imageFromHost(request: ImageFromHostRequest, signal?: AbortSignal): Promise<{ readonly image: ImageSummary; readonly files: readonly HostFile[] }> {
    return this.#state.deps.images.fromHost(request, signal);
  }

  async imageStatus(nameOrId: string): Promise<ImageSummary | undefined> {
    return this.#state.deps.images.resolve(nameOrId);
  }

  async imageInfo(nameOrId: string): Promise<Readonly<Record<string, unknown>>> {
    return this.#state.deps.images.info(nameOrId);
  }

  async listImages(): Promise<ImageSummary[]> {
    return this.#state.deps.images.list();
  }

  async tagImage(nameOrId: string, name: string): Promise<ImageSummary> {
    return this.#state.deps.images.tag(nameOrId, name);
  }

  async pinImage(nameOrId: string, pinned: boolean): Promise<ImageSummary> {
    return this.#state.deps.images.pin(nameOrId, pinned);
  }

  async removeImage(nameOrId: string, options: { readonly untagOnly?: boolean } = {}): Promise<void> {
    await this.#state.deps.images.remove(nameOrId, options);
  }

  async imageUsage(): Promise<FileSystemsUsage> {
    const [images, containers] = await Promise.all([this.#state.deps.images.usage(), this.#state.deps.containerUsage()]);
    return { images, containers };
  }

  async imageDiskUsage(): Promise<ImageDiskUsage> {
    return this.#state.deps.images.diskUsage();
  }

  async verifyImages(options: VerifyImagesOptions, signal?: AbortSignal): Promise<VerifyReport> {
    return this.#state.deps.images.verify({ ...options, ...cancelledBy(signal) });
  }

  async collectImages(options: CollectImagesOptions, signal?: AbortSignal): Promise<CollectReport> {
    return this.#state.deps.images.collect({ ...options, ...cancelledBy(signal) });
  }

  async imageTags(repository: string, options: RegistryQueryOptions = {}, signal?: AbortSignal): Promise<readonly string[]> {
    return this.#state.deps.images.tags(repository, { ...options, ...cancelledBy(signal) });
  }

  async imageReferrers(reference: string, options: RegistryQueryOptions & { readonly artifactType?: string } = {}, signal?: AbortSignal): Promise<readonly ImageReferrer[]> {
    return this.#state.deps.images.referrers(reference, { ...options, ...cancelledBy(signal) });
  }

  // --- the engine itself

  async updateRuntimeConfig(config: RuntimeConfigUpdate): Promise<void> {
    await this.#state.deps.network.updateRuntimeConfig(config);
  }

  async status(): Promise<EngineStatus> {
    const { defaultHandler, drivers } = this.#state.deps;
    const network = await this.#state.deps.network.status();
    const handlers = await Promise.all(
      [...drivers].map(async ([name, driver]) => {
        const features = await driver.features();
        return [...(name === defaultHandler ? [''] : []), name].map((told) => ({ name: told, ...features }));
      }),
    );
    return {
      version: this.#state.deps.version,
      ...this.#state.deps.readiness(),
      networkReady: network.ready,
      networkReason: network.reason,
      networkMessage: network.message,
      defaultRuntimeHandler: defaultHandler,
      runtimeHandlers: handlers.flat(),
      info: { ...(await this.#state.deps.info()), network: network.info ?? {} },
    };
  }

  events(signal: AbortSignal): AsyncIterable<EngineEvent> {
    return readEvents(this.#state, signal);
  }

  async explain({ pod, containers, showSecrets }: ExplainRequest): Promise<string[]> {
    const id = podSandboxId(encodeId(new Uint8Array(32)));
    const driver = this.#state.driver(this.#state.deps.defaultHandler);
    const hostname = pod.hostname !== '' ? pod.hostname : defaultHostname(pod.metadata.name);
    const request: SandboxRequest = { podId: id, config: pod, hostname, foreground: false };
    const record: PodRecord = { id, config: pod, hostname, state: 'ready', createdAtNs: 0n, runtimeHandler: driver.name, foreground: false, sandbox: driver.plan(request) };
    const network = pod.security.namespaces.network === 'node' ? [] : this.#state.deps.network.explain({ podId: id, portMappings: pod.portMappings });
    const lines = [`pod ${pod.metadata.namespace}/${pod.metadata.name}`, ...driver.explainSandbox(request, { showSecrets }), ...network];
    for (const [index, config] of containers.entries()) {
      const image = this.#state.deps.images.resolve(config.image);
      if (image === undefined)
        throw new RuntimeError('notFound', `explain container ${config.metadata.name}: image ${JSON.stringify(config.image)}: not found; pull or import it first`);
      const built = await this.#containers.build(record, config, image, containerId(`container-${index + 1}`));
      const { images } = this.#state.deps;
      const lessee = { id: encodeId(this.#state.deps.clock.randomBytes(16)), imageId: image.id, config };
      let leased: LeasedImages;
      try {
        leased = leaseImages(images, lessee, resolveImageMounts(images, config.mounts));
      } finally {
        releaseImages(images, lessee);
      }
      lines.push('', `container ${config.metadata.name}`, ...driver.explainContainer(request, withLeased(built, leased), { showSecrets }));
    }
    return lines;
  }
}

/** A caller's signal as the ports take it. */
function cancelledBy(signal: AbortSignal | undefined): { readonly signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

/** The working directory of a client is not the engine's. */
function requireAbsolute(verb: string, path: string): void {
  if (!path.startsWith('/') || path.includes('\0')) throw new RuntimeError('invalidArgument', `${verb} ${JSON.stringify(path.slice(0, 300))}: must be an absolute path`);
}
