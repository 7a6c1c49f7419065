/**
 * The engine: lifecycles of pod sandboxes and containers. In: typed requests of the doors. Out: records, events, and calls of
 * the ports below. Records are stored before the host is touched, undos are registered before their steps, and nothing here
 * knows how a sandbox, a network or an image is made.
 */
import { BoundedQueue, type Clock, type ContainerId, KeyedMutex, type PodSandboxId, type Records, RuntimeError, containerId, encodeId, encodeJson, podSandboxId, withRollback, wrapError } from '#core';
import { encodeHosts, encodeResolvConf } from './files.ts';
import { JoinedCreates, abandonable } from './joins.ts';
import type { ImagePort, NetworkPort, PodFiles, ProcessEnd, ResolvedImage, Sandbox, SandboxDriver, SandboxRequest, SpecDefaults } from './ports.ts';
import { buildRuntimeSpec, containerUser } from './runtime-spec.ts';
import { decodeSignal } from './signals.ts';
import { describeContainer, describePod, logPathOf, matchesContainer, matchesPod } from './status.ts';
import { StopDeadlines } from './stops.ts';
import { type ContainerRecord, type PodRecord, PodStore, containerKey, podKey } from './store.ts';
import type {
  ContainerConfig, ContainerFilter, ContainerStatus, Engine, EngineEvent, EngineStatus, ExecRequest, ExecSyncResult, ExplainRequest, HostFile, ImageFileSystemUsage,
  ImageFromHostRequest, ImageSummary, PodFilter, PodSandboxConfig, PodSandboxStatus, ProcessStreams, PullProgress, RegistryAuth,
} from './types.ts';

export interface EngineDependencies {
  readonly records: Records;
  readonly clock: Clock;
  /** By runtime handler name. */
  readonly drivers: ReadonlyMap<string, SandboxDriver>;
  readonly defaultHandler: string;
  readonly images: ImagePort;
  readonly network: NetworkPort;
  readonly defaults: SpecDefaults;
  readonly version: string;
  /** Facts for verbose status. */
  readonly info: () => Readonly<Record<string, unknown>>;
  /** Called for failures of background work, which have no caller. */
  readonly report: (error: unknown) => void;
}

/** After SIGKILL a process that is still there hangs in the kernel. */
const killTimeoutMs = 10_000;
const eventBacklogMax = 4096;

/** The one implementation of `Engine` that owns a state directory. Made by `openEngine`. */
export class PodEngine implements Engine {
  readonly #deps: EngineDependencies;
  readonly #store: PodStore;
  readonly #sandboxes = new Map<string, Sandbox>();
  /** One per container that has not ended; resolved once its end is recorded. */
  readonly #ends = new Map<string, PromiseWithResolvers<void>>();
  readonly #locks = new KeyedMutex();
  readonly #podCreates = new JoinedCreates<PodSandboxId>('pod sandbox');
  readonly #containerCreates = new JoinedCreates<ContainerId>('container');
  readonly #stops: StopDeadlines;
  readonly #subscribers = new Set<BoundedQueue<EngineEvent>>();

  constructor(deps: EngineDependencies) {
    this.#deps = deps;
    this.#store = new PodStore(deps.records);
    this.#stops = new StopDeadlines(deps.clock);
  }

  // --- start and end of the engine

  /** Repairs what earlier owners left: re-attaches live sandboxes, records the ends of dead ones, removes their remains. */
  async reconcile(): Promise<void> {
    await Promise.all(this.#store.pods().map((pod) => this.#reconcilePod(pod)));
    const podIds = new Set<string>(this.#store.pods().map((pod) => pod.id));
    for (const container of this.#store.containers()) if (!podIds.has(container.podId)) this.#store.deleteContainer(container.id);
    const containerIds = new Set<string>(this.#store.containers().map((container) => container.id));
    for (const lease of this.#deps.images.leases()) if (!containerIds.has(lease)) this.#deps.images.release(lease);
    await this.#deps.network.reconcile(new Set(this.#store.pods().filter((pod) => pod.state === 'ready').map((pod) => pod.id)));
  }

  async #reconcilePod(pod: PodRecord): Promise<void> {
    const driver = this.#driver(pod.runtimeHandler);
    const request = requestOf(pod);
    const sandbox = pod.state === 'ready' && !pod.foreground ? await driver.reattach(pod.sandbox, request) : undefined;
    if (sandbox !== undefined) {
      await this.#adopt(pod, sandbox);
      return;
    }
    for (const container of this.#store.containers(pod.id)) this.#recordEnd(container.id, { exitCode: 137, reason: 'Unknown', message: 'the sandbox ended while no engine was watching', endedAtNs: this.#deps.clock.nowNs() });
    await driver.cleanUp(pod.sandbox, this.#store.containers(pod.id).map((container) => container.id));
    await this.#deps.network.detach(pod.id);
    // A foreground pod belonged to its starter: with that gone, nobody will ask for it again.
    if (pod.state === 'creating' || pod.foreground) await this.#forgetPod(pod);
    else this.#store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
  }

  async #adopt(pod: PodRecord, sandbox: Sandbox): Promise<void> {
    this.#watch(pod.id, sandbox);
    await sandbox.onProcessEnd((end) => this.#onProcessEnd(end));
    const processes = new Map((await sandbox.processes()).map((process) => [process.processId, process]));
    for (const container of this.#store.containers(pod.id)) {
      const process = processes.get(container.id);
      if (container.state === 'exited') continue;
      if (process === undefined || container.state === 'creating') {
        await sandbox.removeContainer(container.id).catch((error: unknown) => this.#deps.report(error));
        this.#deps.images.release(container.id);
        this.#store.deleteContainer(container.id);
      } else if (process.state === 'ended') {
        this.#recordEnd(container.id, endOf(process));
      } else {
        this.#expectEnd(container.id);
        if (process.state === 'running' && container.state === 'created') this.#store.moveContainer(container.id, { state: 'running', startedAtNs: process.startedAtNs, pid: process.pid });
      }
    }
  }

  /** Ends foreground pods, leaves the others running, and releases what only an owner holds. */
  async close(): Promise<void> {
    await this.#podCreates.idle();
    await this.#containerCreates.idle();
    for (const pod of this.#store.pods()) if (pod.foreground) await this.removePodSandbox(pod.id).catch((error: unknown) => this.#deps.report(error));
    for (const sandbox of this.#sandboxes.values()) sandbox.detach();
    this.#sandboxes.clear();
    if (!this.#store.pods().some((pod) => pod.attachment !== undefined)) await this.#deps.network.close();
    for (const subscriber of this.#subscribers) subscriber.end();
  }

  // --- pod sandboxes

  async runPodSandbox(config: PodSandboxConfig, options: { readonly runtimeHandler?: string; readonly foreground?: boolean } = {}, signal?: AbortSignal): Promise<PodSandboxId> {
    const handler = options.runtimeHandler === undefined || options.runtimeHandler === '' ? this.#deps.defaultHandler : options.runtimeHandler;
    const driver = this.#driver(handler);
    const key = podKey(config);
    const request = { config, handler };
    return this.#podCreates.run(key, request, async () => {
      const existing = this.#store.podByKey(key);
      if (existing !== undefined) {
        if (existing.state === 'ready' && encodeJson({ config: existing.config, handler: existing.runtimeHandler }) === encodeJson(request)) return existing.id;
        throw new RuntimeError('alreadyExists', `run pod sandbox ${key}: exists as ${existing.id}${existing.state === 'ready' ? ' with another configuration' : ', which is not ready'}`);
      }
      return this.#createPod(driver, { config, handler, foreground: options.foreground === true });
    }, signal);
  }

  async #createPod(driver: SandboxDriver, { config, handler, foreground }: { config: PodSandboxConfig; handler: string; foreground: boolean }): Promise<PodSandboxId> {
    const { clock, network } = this.#deps;
    const id = podSandboxId(encodeId(clock.randomBytes(32)));
    const hostNetwork = config.security.namespaces.network === 'node';
    const hostname = config.hostname !== '' ? config.hostname : hostNetwork ? this.#deps.defaults.nodeHostname : config.metadata.name;
    const request: SandboxRequest = { podId: id, config, hostname, foreground };
    try {
      await withRollback(async (rollback) => {
        let pod: PodRecord = { id, config, hostname, state: 'creating', createdAtNs: clock.nowNs(), runtimeHandler: handler, foreground, sandbox: driver.plan(request) };
        rollback.defer('forget the pod', async () => this.#store.deletePod(id));
        this.#store.putPod(pod);
        rollback.defer('clean up the sandbox', async () => driver.cleanUp(pod.sandbox, []));
        const sandbox = await driver.prepare(pod.sandbox, request);
        rollback.defer('end the sandbox', async () => sandbox.shutdown());
        pod = { ...pod, sandbox: sandbox.record };
        if (!hostNetwork) {
          rollback.defer('detach the network', async () => network.detach(id));
          const attachment = await network.attach({ podId: id, portMappings: config.portMappings }, async (plan) => sandbox.execute(plan), foreground ? async (undo) => sandbox.deposit(undo) : undefined);
          pod = { ...pod, attachment };
        }
        await sandbox.commit(await this.#podFiles(pod), config.sysctls);
        await sandbox.onProcessEnd((end) => this.#onProcessEnd(end));
        this.#store.putPod({ ...pod, state: 'ready' });
        this.#watch(id, sandbox);
      });
    } catch (error) {
      throw wrapError(`run pod sandbox ${config.metadata.namespace}/${config.metadata.name}`, error);
    }
    this.#publish({ kind: 'podCreated', podSandboxId: id, atNs: clock.nowNs() });
    return id;
  }

  async #podFiles(pod: PodRecord): Promise<PodFiles> {
    const { defaults } = this.#deps;
    const hostNetwork = pod.config.security.namespaces.network === 'node';
    const dns = pod.config.dns ?? (await defaults.readHostDns());
    return {
      hosts: encodeHosts(pod.config, pod.hostname, pod.attachment?.ips[0], hostNetwork ? await defaults.readHostHosts() : undefined),
      resolvConf: encodeResolvConf(dns),
      hostname: `${pod.hostname}\n`,
    };
  }

  async stopPodSandbox(id: string, signal?: AbortSignal): Promise<void> {
    const pod = this.#store.findPod(id);
    if (pod === undefined || pod.state === 'creating') return;
    const stopped = this.#locks.run(pod.id, async () => this.#stopPod(pod.id));
    await (signal === undefined ? stopped : abandonable(stopped, signal));
  }

  async #stopPod(id: string): Promise<void> {
    const pod = this.#store.findPod(id);
    if (pod === undefined) return;
    const wasReady = pod.state === 'ready';
    // Recorded first: a crash from here on is finished by reconcile.
    if (wasReady) this.#store.putPod({ ...pod, state: 'notReady' });
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) {
      await sandbox.shutdown();
      this.#sandboxes.delete(id);
      this.#endContainers(id, { exitCode: 137, reason: 'Error', message: '' });
    }
    if (pod.attachment !== undefined) {
      await this.#deps.network.detach(pod.id);
      this.#store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
    }
    if (wasReady) this.#publish({ kind: 'podStopped', podSandboxId: pod.id, atNs: this.#deps.clock.nowNs() });
  }

  async removePodSandbox(id: string, signal?: AbortSignal): Promise<void> {
    const pod = this.#store.findPod(id);
    if (pod === undefined || pod.state === 'creating') return;
    const removed = this.#locks.run(pod.id, async () => {
      await this.#stopPod(pod.id);
      if (this.#store.findPod(pod.id) === undefined) return;
      await this.#driver(pod.runtimeHandler).cleanUp(pod.sandbox, this.#store.containers(pod.id).map((container) => container.id));
      await this.#forgetPod(pod);
      this.#publish({ kind: 'podRemoved', podSandboxId: pod.id, atNs: this.#deps.clock.nowNs() });
    });
    await (signal === undefined ? removed : abandonable(removed, signal));
  }

  async #forgetPod(pod: PodRecord): Promise<void> {
    for (const container of this.#store.containers(pod.id)) {
      this.#deps.images.release(container.id);
      this.#store.deleteContainer(container.id);
      this.#publish({ kind: 'containerRemoved', podSandboxId: pod.id, containerId: container.id, atNs: this.#deps.clock.nowNs() });
    }
    this.#store.deletePod(pod.id);
  }

  async podSandboxStatus(id: string): Promise<PodSandboxStatus> {
    return describePod(this.#store.getPod(id));
  }

  async listPodSandboxes(filter: PodFilter = {}): Promise<PodSandboxStatus[]> {
    return this.#store.pods().filter((pod) => pod.state !== 'creating').map(describePod).filter((pod) => matchesPod(pod, filter));
  }

  // --- containers

  async createContainer(podId: string, config: ContainerConfig, signal?: AbortSignal): Promise<ContainerId> {
    const pod = this.#store.getPod(podId);
    const key = containerKey(pod.id, config);
    return this.#containerCreates.run(key, config, async () => {
      const existing = this.#store.containerByKey(key);
      if (existing !== undefined) {
        if (existing.state === 'created' && encodeJson(existing.config) === encodeJson(config)) return existing.id;
        throw new RuntimeError('alreadyExists', `create container ${config.metadata.name} (attempt ${config.metadata.attempt}): exists as ${existing.id}, which is ${existing.state}`);
      }
      try {
        return await this.#createContainer(pod, config);
      } catch (error) {
        throw wrapError(`create container ${config.metadata.name} in pod ${pod.config.metadata.name}`, error);
      }
    }, signal);
  }

  async #createContainer(pod: PodRecord, config: ContainerConfig): Promise<ContainerId> {
    const { clock, images } = this.#deps;
    const sandbox = this.#sandbox(pod.id);
    const image = images.resolve(config.image);
    if (image === undefined) throw new RuntimeError('notFound', `image ${JSON.stringify(config.image)}: not found`);
    const id = containerId(encodeId(clock.randomBytes(32)));
    const stopSignal = config.stopSignal !== undefined && config.stopSignal !== '' ? config.stopSignal : image.process.stopSignal;
    if (stopSignal !== '') decodeSignal(stopSignal);
    const built = await this.#buildContainer(pod, config, image, id);
    await withRollback(async (rollback) => {
      rollback.defer('forget the container', async () => this.#store.deleteContainer(id));
      this.#store.putContainer({
        id, podId: pod.id, config, imageId: image.id, imageRef: image.digests[0] ?? image.id, state: 'creating', pid: 0, createdAtNs: clock.nowNs(),
        startedAtNs: 0n, finishedAtNs: 0n, exitCode: 0, reason: '', message: '', stopSignal: stopSignal === '' ? 'SIGTERM' : stopSignal,
      });
      rollback.defer('release the image', async () => images.release(id));
      const layers = images.lease(image.id, id);
      rollback.defer('remove the container', async () => sandbox.removeContainer(id));
      this.#expectEnd(id);
      rollback.defer('expect no end', async () => void this.#ends.delete(id));
      const { pid, identity } = await sandbox.createContainer({ ...built, layers });
      this.#store.moveContainer(id, { state: 'created', pid, identity });
    });
    this.#publish({ kind: 'containerCreated', podSandboxId: pod.id, containerId: id, atNs: clock.nowNs() });
    return id;
  }

  /** The request of a container but for its layers, which need a lease. */
  async #buildContainer(pod: PodRecord, config: ContainerConfig, image: ResolvedImage, id: ContainerId): Promise<Omit<Parameters<Sandbox['createContainer']>[0], 'layers'>> {
    const { namespaces } = config.security;
    const target = namespaces.pid === 'target' ? this.#store.getContainer(namespaces.targetId ?? '') : undefined;
    if (target !== undefined && (target.podId !== pod.id || target.state !== 'running')) throw new RuntimeError('failedPrecondition', `target container ${target.id}: is not a running container of this pod`);
    const runtimeSpec = await buildRuntimeSpec({ pod: pod.config, podId: pod.id, podDir: pod.sandbox.podDir, cgroupPath: `${pod.sandbox.cgroupPath}/${id}`, hostname: pod.hostname, container: config, image: image.process, defaults: this.#deps.defaults, ...(target === undefined ? {} : { targetPid: target.pid }) });
    return {
      containerId: id,
      runtimeSpec,
      identity: containerUser(config, pod.config, image.process),
      stdin: config.stdin,
      stdinOnce: config.stdinOnce,
      terminal: config.tty,
      holdOutput: false,
      ...(pod.config.logDirectory === '' || config.logPath === '' ? {} : { log: { directory: pod.config.logDirectory, path: config.logPath } }),
      sharesPodPid: namespaces.pid === 'pod',
    };
  }

  async startContainer(id: string, signal?: AbortSignal): Promise<void> {
    const container = this.#store.getContainer(id);
    const started = this.#locks.run(container.id, async () => this.#startContainer(container.id));
    await (signal === undefined ? started : abandonable(started, signal));
  }

  async #startContainer(id: ContainerId): Promise<void> {
    const container = this.#store.getContainer(id);
    if (container.state !== 'created') throw new RuntimeError('failedPrecondition', `start container ${id}: container is ${container.state}, not created`);
    const { clock } = this.#deps;
    let pid = container.pid;
    try {
      ({ pid } = await this.#sandbox(container.podId).startContainer(id));
    } catch (error) {
      const failure = wrapError(`start container ${container.config.metadata.name}`, error);
      this.#recordEnd(id, { exitCode: 128, reason: 'StartError', message: failure.message, endedAtNs: clock.nowNs() });
      throw failure;
    }
    const startedAtNs = clock.nowNs();
    const now = this.#store.findContainer(id);
    // A short-lived process may have ended, and been recorded, before the reply came.
    if (now?.state === 'created') this.#store.moveContainer(id, { state: 'running', startedAtNs, pid });
    else if (now !== undefined) this.#store.putContainer({ ...now, startedAtNs: now.startedAtNs === 0n ? startedAtNs : now.startedAtNs });
    this.#publish({ kind: 'containerStarted', podSandboxId: container.podId, containerId: id, atNs: startedAtNs });
  }

  async stopContainer(id: string, { timeoutMs }: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<void> {
    const container = this.#store.findContainer(id);
    if (container === undefined) return;
    const stopped = this.#stop(container, timeoutMs);
    await (signal === undefined ? stopped : abandonable(stopped, signal));
  }

  /** Ends a container with its stop signal, then SIGKILL. Several calls at once share one end; the nearest deadline counts. */
  async #stop(container: ContainerRecord, timeoutMs: number): Promise<void> {
    const end = this.#ends.get(container.id);
    const sandbox = this.#sandboxes.get(container.podId);
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
    const timer = this.#deps.clock.sleep(killTimeoutMs, cancel.signal).then(() => 'late' as const, () => 'cancelled' as const);
    const outcome = await Promise.race([end, timer]);
    cancel.abort();
    if (outcome === 'late') throw new RuntimeError('deadlineExceeded', `stop container ${id}: still there ${killTimeoutMs / 1000} s after SIGKILL`);
  }

  async removeContainer(id: string, signal?: AbortSignal): Promise<void> {
    const container = this.#store.findContainer(id);
    if (container === undefined) return;
    const removed = this.#removeContainer(container);
    await (signal === undefined ? removed : abandonable(removed, signal));
  }

  async #removeContainer(container: ContainerRecord): Promise<void> {
    if (container.state === 'creating') throw new RuntimeError('failedPrecondition', `remove container ${container.id}: it is being created`);
    await this.#stop(container, 0);
    await this.#locks.run(container.id, async () => {
      const pod = this.#store.findPod(container.podId);
      if (this.#store.findContainer(container.id) === undefined || pod === undefined) return;
      const sandbox = this.#sandboxes.get(container.podId);
      if (sandbox === undefined) await this.#driver(pod.runtimeHandler).cleanUpContainer(pod.sandbox, container.id);
      else await sandbox.removeContainer(container.id);
      this.#deps.images.release(container.id);
      this.#store.deleteContainer(container.id);
      this.#publish({ kind: 'containerRemoved', podSandboxId: container.podId, containerId: container.id, atNs: this.#deps.clock.nowNs() });
    });
  }

  async containerStatus(id: string): Promise<ContainerStatus> {
    const container = this.#store.getContainer(id);
    return describeContainer(container, this.#store.findPod(container.podId));
  }

  async listContainers(filter: ContainerFilter = {}): Promise<ContainerStatus[]> {
    return this.#store
      .containers()
      .filter((container) => container.state !== 'creating')
      .map((container) => describeContainer(container, this.#store.findPod(container.podId)))
      .filter((container) => matchesContainer(container, filter));
  }

  async waitContainer(id: string, signal?: AbortSignal): Promise<ContainerStatus> {
    const container = this.#store.getContainer(id);
    const end = this.#ends.get(container.id);
    if (end !== undefined) await (signal === undefined ? end.promise : abandonable(end.promise, signal));
    return this.containerStatus(container.id);
  }

  async signalContainer(id: string, signalName: string): Promise<void> {
    const container = this.#running(id, 'signal');
    await this.#sandbox(container.podId).signal(container.id, decodeSignal(signalName));
  }

  // --- processes and streams

  async execSync(id: string, command: readonly string[], { timeoutMs }: { readonly timeoutMs: number }, signal?: AbortSignal): Promise<ExecSyncResult> {
    const container = this.#running(id, 'exec in');
    if (command.length === 0) throw new RuntimeError('invalidArgument', `exec in container ${container.id}: command is empty`);
    const run = this.#sandbox(container.podId).execSync(container.id, command, { timeoutMs });
    const result = await (signal === undefined ? run : abandonable(run, signal)).catch((error: unknown) => {
      throw wrapError(`exec in container ${container.id}`, error);
    });
    if (result.timedOut) throw new RuntimeError('deadlineExceeded', `exec in container ${container.id}: command ${JSON.stringify(command)} timed out after ${timeoutMs} ms`);
    return result;
  }

  async exec(id: string, request: ExecRequest): Promise<ProcessStreams> {
    const container = this.#running(id, 'exec in');
    if (request.command.length === 0) throw new RuntimeError('invalidArgument', `exec in container ${container.id}: command is empty`);
    const sandbox = this.#sandbox(container.podId);
    try {
      const { processId, streams } = await sandbox.exec(container.id, { command: request.command, terminal: request.tty, stdin: request.stdin, columns: request.columns ?? 80, rows: request.rows ?? 24 });
      return { ...bindStreams(streams), resize: async (size) => sandbox.resize(processId, size) };
    } catch (error) {
      throw wrapError(`exec in container ${container.id}`, error);
    }
  }

  async attach(id: string, options: { readonly stdin: boolean }): Promise<ProcessStreams> {
    const container = this.#store.getContainer(id);
    if (container.state !== 'running' && container.state !== 'created') throw new RuntimeError('failedPrecondition', `attach to container ${container.id}: container is ${container.state}`);
    const sandbox = this.#sandbox(container.podId);
    const streams = await sandbox.attach(container.id, options);
    return { ...bindStreams(streams), resize: async (size) => sandbox.resize(container.id, size) };
  }

  async reopenContainerLog(id: string): Promise<void> {
    const container = this.#running(id, 'reopen the log of');
    const pod = this.#store.getPod(container.podId);
    if (logPathOf(pod, container) === '') throw new RuntimeError('failedPrecondition', `reopen the log of container ${container.id}: it has none`);
    await this.#sandbox(pod.id).reopenLog(container.id, { directory: pod.config.logDirectory, path: container.config.logPath });
  }

  // --- images

  async pullImage(reference: string, options: { readonly auth?: RegistryAuth; readonly onProgress?: (progress: PullProgress) => void } = {}, signal?: AbortSignal): Promise<ImageSummary> {
    return this.#deps.images.pull(reference, { ...options, ...(signal === undefined ? {} : { signal }) });
  }

  async importImages(path: string, options: { readonly name?: string } = {}, signal?: AbortSignal): Promise<ImageSummary[]> {
    return this.#deps.images.importImages(path, { ...options, ...(signal === undefined ? {} : { signal }) });
  }

  async imageFromHost(request: ImageFromHostRequest, signal?: AbortSignal): Promise<{ readonly image: ImageSummary; readonly files: readonly HostFile[] }> {
    return this.#deps.images.fromHost(request, signal);
  }

  async imageStatus(nameOrId: string): Promise<ImageSummary | undefined> {
    return this.#deps.images.resolve(nameOrId);
  }

  async imageInfo(nameOrId: string): Promise<Readonly<Record<string, unknown>>> {
    return this.#deps.images.info(nameOrId);
  }

  async listImages(): Promise<ImageSummary[]> {
    return this.#deps.images.list();
  }

  async removeImage(nameOrId: string): Promise<void> {
    await this.#deps.images.remove(nameOrId);
  }

  async imageUsage(): Promise<ImageFileSystemUsage> {
    return this.#deps.images.usage();
  }

  // --- the engine itself

  async status(): Promise<EngineStatus> {
    const network = this.#deps.network.status();
    return {
      version: this.#deps.version,
      runtimeReady: true,
      networkReady: network.ready,
      networkReason: network.reason,
      networkMessage: network.message,
      runtimeHandlers: [...this.#deps.drivers].map(([name, { features }]) => ({ name: name === this.#deps.defaultHandler ? '' : name, ...features })),
      info: this.#deps.info(),
    };
  }

  async *events(signal: AbortSignal): AsyncGenerator<EngineEvent, void, void> {
    const queue = new BoundedQueue<EngineEvent>({ capacity: eventBacklogMax, overflowError: () => new RuntimeError('resourceExhausted', `read events: the reader fell ${eventBacklogMax} events behind`) });
    this.#subscribers.add(queue);
    const onAbort = (): void => queue.end();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (!signal.aborted) yield* queue;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#subscribers.delete(queue);
    }
  }

  async explain({ pod, containers, showSecrets }: ExplainRequest): Promise<string[]> {
    const id = podSandboxId(encodeId(new Uint8Array(32)));
    const driver = this.#driver(this.#deps.defaultHandler);
    const hostname = pod.hostname !== '' ? pod.hostname : pod.metadata.name;
    const request: SandboxRequest = { podId: id, config: pod, hostname, foreground: false };
    const record: PodRecord = { id, config: pod, hostname, state: 'ready', createdAtNs: 0n, runtimeHandler: driver.name, foreground: false, sandbox: driver.plan(request) };
    const network = pod.security.namespaces.network === 'node' ? [] : this.#deps.network.explain({ podId: id, portMappings: pod.portMappings });
    const lines = [`pod ${pod.metadata.namespace}/${pod.metadata.name}`, ...driver.explainSandbox(request, { showSecrets }), ...network];
    for (const [index, config] of containers.entries()) {
      const image = this.#deps.images.resolve(config.image);
      if (image === undefined) throw new RuntimeError('notFound', `explain container ${config.metadata.name}: image ${JSON.stringify(config.image)}: not found; pull or import it first`);
      const built = await this.#buildContainer(record, config, image, containerId(`container-${index + 1}`));
      const lease = encodeId(this.#deps.clock.randomBytes(16));
      const layers = this.#deps.images.lease(image.id, lease);
      this.#deps.images.release(lease);
      lines.push('', `container ${config.metadata.name}`, ...driver.explainContainer(request, { ...built, layers }, { showSecrets }));
    }
    return lines;
  }

  // --- inside

  #driver(handler: string): SandboxDriver {
    const driver = this.#deps.drivers.get(handler);
    if (driver === undefined) throw new RuntimeError('notFound', `runtime handler ${JSON.stringify(handler)}: not configured (have ${[...this.#deps.drivers.keys()].join(', ')})`);
    return driver;
  }

  #sandbox(podId: string): Sandbox {
    const sandbox = this.#sandboxes.get(podId);
    if (sandbox === undefined) throw new RuntimeError('failedPrecondition', `pod sandbox ${podId}: not ready`);
    return sandbox;
  }

  #running(id: string, verb: string): ContainerRecord {
    const container = this.#store.getContainer(id);
    if (container.state !== 'running') throw new RuntimeError('failedPrecondition', `${verb} container ${container.id}: container is ${container.state}, not running`);
    return container;
  }

  #expectEnd(id: string): void {
    if (!this.#ends.has(id)) this.#ends.set(id, Promise.withResolvers());
  }

  #onProcessEnd(end: ProcessEnd): void {
    if (this.#store.findContainer(end.processId) !== undefined) this.#recordEnd(end.processId, endOf(end));
  }

  #recordEnd(id: string, end: { readonly exitCode: number; readonly reason: string; readonly message: string; readonly endedAtNs: bigint }): void {
    const container = this.#store.findContainer(id);
    // A container that was never created has no end: its create fails and rolls back.
    if (container === undefined || container.state === 'exited' || container.state === 'creating') return;
    this.#store.moveContainer(id, { state: 'exited', finishedAtNs: end.endedAtNs, exitCode: end.exitCode, reason: end.reason, message: end.message });
    this.#ends.get(id)?.resolve();
    this.#ends.delete(id);
    this.#publish({ kind: 'containerStopped', podSandboxId: container.podId, containerId: container.id, atNs: end.endedAtNs });
  }

  #endContainers(podId: string, end: { readonly exitCode: number; readonly reason: string; readonly message: string }): void {
    for (const container of this.#store.containers(podId)) this.#recordEnd(container.id, { ...end, endedAtNs: this.#deps.clock.nowNs() });
  }

  /** Takes a live sandbox; when its shim goes without being asked, its containers are recorded as killed and its remains removed. */
  #watch(podId: string, sandbox: Sandbox): void {
    this.#sandboxes.set(podId, sandbox);
    void sandbox.ended.then(async () => {
      if (this.#sandboxes.get(podId) === sandbox) await this.#locks.run(podId, async () => this.#sandboxLost(podId, sandbox));
    }).catch((error: unknown) => this.#deps.report(error));
  }

  async #sandboxLost(podId: string, sandbox: Sandbox): Promise<void> {
    const pod = this.#store.findPod(podId);
    if (this.#sandboxes.get(podId) !== sandbox || pod === undefined) return;
    this.#sandboxes.delete(podId);
    this.#store.putPod({ ...pod, state: 'notReady' });
    await this.#driver(pod.runtimeHandler).cleanUp(pod.sandbox, []);
    this.#endContainers(podId, { exitCode: 137, reason: 'Error', message: 'the pod\'s shim ended' });
    await this.#deps.network.detach(pod.id);
    this.#store.putPod(withoutAttachment({ ...pod, state: 'notReady' }));
    this.#publish({ kind: 'podStopped', podSandboxId: pod.id, atNs: this.#deps.clock.nowNs() });
  }

  #publish(event: EngineEvent): void {
    for (const subscriber of this.#subscribers) subscriber.push(event);
  }
}

function requestOf(pod: PodRecord): SandboxRequest {
  return { podId: pod.id, config: pod.config, hostname: pod.hostname, foreground: pod.foreground };
}

function withoutAttachment({ attachment: _attachment, ...pod }: PodRecord): PodRecord {
  return pod;
}

/** Reason texts are those that the kubelet shows. */
function endOf(end: Pick<ProcessEnd, 'exitCode' | 'oomKilled' | 'endedAtNs'>): { exitCode: number; reason: string; message: string; endedAtNs: bigint } {
  return { exitCode: end.exitCode, reason: end.oomKilled ? 'OOMKilled' : end.exitCode === 0 ? 'Completed' : 'Error', message: '', endedAtNs: end.endedAtNs };
}

function bindStreams(streams: Omit<ProcessStreams, 'resize'>): Omit<ProcessStreams, 'resize'> {
  return {
    output: streams.output,
    write: async (data) => streams.write(data),
    closeInput: async () => streams.closeInput(),
    exited: streams.exited,
    close: () => streams.close(),
  };
}
