/**
 * Doubles for the tests of this folder: an engine in memory and a clock that is moved by hand. In: scripts per container.
 * Out: the calls that were made. Not exported from the folder; nothing outside of tests may use it.
 */
import { type Clock, type ContainerId, type PodSandboxId, RuntimeError, containerId, podSandboxId } from '#core';
import type { ContainerConfig, ContainerStatus, Engine, ImageSummary, PodSandboxConfig, PodSandboxStatus, ProcessStreams } from '#pod';
import type { VolumePort } from './runner-types.ts';

/** What one start of a container does; without `exitCode` it runs until it is stopped. */
export interface StartScript {
  readonly exitCode?: number;
  readonly ranMs?: number;
  readonly output?: string;
  /** Called when the container has started. */
  readonly onStart?: () => void;
}

/** Scripts by container name. */
export type Scripts = Readonly<Record<string, readonly StartScript[]>>;

interface Instance {
  readonly id: ContainerId;
  readonly config: ContainerConfig;
  readonly script: StartScript;
  state: ContainerStatus['state'];
  exitCode: number;
  readonly end: PromiseWithResolvers<void>;
}

/** A clock whose sleeps end at once, or with `hold` only by their signal. */
export class ClockDouble implements Clock {
  readonly sleeps: number[] = [];
  hold = false;
  #nowMs = 0;

  nowNs(): bigint {
    return BigInt(this.#nowMs) * 1_000_000n;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  async sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    this.sleeps.push(durationMs);
    signal?.throwIfAborted();
    if (this.hold) await abortOf(signal);
    this.#nowMs += durationMs;
  }

  randomBytes(byteCount: number): Uint8Array {
    return new Uint8Array(byteCount);
  }
}

/** Rejects when the signal fires. */
function abortOf(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(new RuntimeError('cancelled', 'aborted'))));
}

const image: ImageSummary = { id: `sha256:${'1'.repeat(64)}`, names: [], digests: [], sizeBytes: 1, createdAtNs: 0n, pinned: false };

/** Names of methods that can be told to fail. */
export type FaultPoint =
  | 'imageStatus'
  | 'pullImage'
  | 'volumes'
  | 'runPodSandbox'
  | 'podSandboxStatus'
  | 'createContainer'
  | 'attach'
  | 'startContainer'
  | 'waitContainer'
  | 'removeContainer'
  | 'removePodSandbox'
  | 'stopContainer';

/** The engine as far as a runner uses it. */
export class EngineDouble {
  readonly calls: string[] = [];
  readonly configs: ContainerConfig[] = [];
  readonly presentImages = new Map<string, ImageSummary>();
  readonly faults = new Map<FaultPoint, Error>();
  readonly #scripts: ReadonlyMap<string, readonly StartScript[]>;
  readonly #pods = new Map<string, PodSandboxConfig>();
  readonly #containers = new Map<string, Instance>();
  readonly #volumes = new Set<string>();

  /** Scripts by container name, one per start; the last one repeats. */
  constructor(scripts: Scripts = {}) {
    this.#scripts = new Map(Object.entries(scripts));
  }

  /** What is left on the host. */
  get remains(): readonly string[] {
    return [...this.#pods.keys(), ...this.#containers.keys(), ...[...this.#volumes].map((uid) => `volumes ${uid}`)];
  }

  /** A pod that was there before. */
  addPod(config: PodSandboxConfig): void {
    this.#pods.set('earlier', config);
  }

  readonly volumes: VolumePort = {
    create: async (uid) => {
      this.#call('volumes', `volumes.create ${uid}`);
      this.#volumes.add(uid);
    },
    remove: async (uid) => {
      this.calls.push(`volumes.remove ${uid}`);
      this.#volumes.delete(uid);
    },
    sweep: async () => [],
  };

  /** The double as an Engine. Methods that a runner must not use throw. */
  get engine(): Engine {
    const used: Partial<Engine> = {
      imageStatus: async (name) => {
        this.#call('imageStatus', `imageStatus ${name}`);
        return this.presentImages.get(name);
      },
      pullImage: async (name, options) => {
        this.#call('pullImage', `pullImage ${name}${options?.auth === undefined ? '' : ` as ${options.auth.username}`}`);
        options?.onProgress?.({ stage: 'downloading', bytesDone: 1, bytesTotal: 2 });
        return image;
      },
      listPodSandboxes: async () => [...this.#pods].map(([id, config]) => statusOf(podSandboxId(id), config)),
      runPodSandbox: async (config, options) => {
        this.#call('runPodSandbox', `runPodSandbox${options?.foreground === true ? ' foreground' : ''}`);
        this.#pods.set('pod', config);
        return podSandboxId('pod');
      },
      podSandboxStatus: async (id) => {
        this.#call('podSandboxStatus', '');
        return statusOf(podSandboxId(id), this.#pods.get(id));
      },
      stopPodSandbox: async () => void this.calls.push('stopPodSandbox'),
      removePodSandbox: async (id) => this.#removePod(id),
      createContainer: async (_pod, config) => this.#create(config),
      attach: async (id) => this.#attach(id),
      startContainer: async (id) => this.#start(id),
      waitContainer: async (id, signal) => this.#wait(id, signal),
      stopContainer: async (id, { timeoutMs }) => {
        this.#call('stopContainer', `stop ${id} ${timeoutMs}`);
        this.#end(this.#get(id), 143);
      },
      removeContainer: async (id) => {
        this.#call('removeContainer', `remove ${id}`);
        this.#containers.delete(id);
      },
    };
    // SAFETY: a method that is missing here is a failure of the test that reaches it.
    return used as Engine;
  }

  #call(point: FaultPoint, text: string): void {
    if (text !== '') this.calls.push(text);
    const fault = this.faults.get(point);
    if (fault !== undefined) throw fault;
  }

  #get(id: string): Instance {
    const instance = this.#containers.get(id);
    if (instance === undefined) throw new RuntimeError('notFound', `container ${id} does not exist`);
    return instance;
  }

  #create(config: ContainerConfig): ContainerId {
    const { name, attempt } = config.metadata;
    const id = containerId(`${name}-${attempt}`);
    this.#call('createContainer', `create ${id}`);
    this.configs.push(config);
    const scripts = this.#scripts.get(name) ?? [{ exitCode: 0 }];
    this.#containers.set(id, { id, config, script: scripts[Math.min(attempt, scripts.length - 1)] ?? {}, state: 'created', exitCode: 0, end: Promise.withResolvers() });
    return id;
  }

  #attach(id: string): ProcessStreams {
    this.#call('attach', `attach ${id}`);
    const { script, end } = this.#get(id);
    const closed = Promise.withResolvers<void>();
    return {
      output: (async function* output() {
        if (script.output !== undefined) yield { stream: 1 as const, data: Buffer.from(script.output) };
        await Promise.race([end.promise, closed.promise]);
      })(),
      write: async () => undefined,
      closeInput: async () => undefined,
      resize: async ({ columns, rows }) => void this.calls.push(`resize ${id} ${columns}x${rows}`),
      exited: end.promise.then(() => 0),
      close: () => closed.resolve(),
    };
  }

  #start(id: string): void {
    this.#call('startContainer', `start ${id}`);
    const instance = this.#get(id);
    instance.state = 'running';
    instance.script.onStart?.();
    if (instance.script.exitCode !== undefined) this.#end(instance, instance.script.exitCode);
  }

  #end(instance: Instance, exitCode: number): void {
    if (instance.state === 'exited') return;
    instance.state = 'exited';
    instance.exitCode = exitCode;
    instance.end.resolve();
  }

  async #wait(id: string, signal: AbortSignal | undefined): Promise<ContainerStatus> {
    this.#call('waitContainer', '');
    const instance = this.#get(id);
    await Promise.race([instance.end.promise, abortOf(signal)]);
    const ranNs = BigInt(instance.script.ranMs ?? 0) * 1_000_000n;
    return {
      id: instance.id,
      podSandboxId: podSandboxId('pod'),
      metadata: instance.config.metadata,
      state: 'exited',
      pid: 0,
      createdAtNs: 0n,
      startedAtNs: 0n,
      finishedAtNs: ranNs,
      exitCode: instance.exitCode,
      reason: instance.exitCode === 0 ? 'Completed' : 'Error',
      message: '',
      image: '',
      imageId: '',
      imageRef: '',
      userSpecifiedImage: '',
      labels: {},
      annotations: {},
      mounts: [],
      logPath: '',
      tty: false,
      stdin: false,
      info: {},
    };
  }

  #removePod(id: string): void {
    this.#call('removePodSandbox', `removePodSandbox ${id}`);
    for (const instance of this.#containers.values()) this.#end(instance, 137);
    this.#containers.clear();
    this.#pods.delete(id);
  }
}

function statusOf(id: PodSandboxId, config: PodSandboxConfig | undefined): PodSandboxStatus {
  if (config === undefined) throw new RuntimeError('notFound', `pod sandbox ${id} does not exist`);
  return {
    id,
    metadata: config.metadata,
    state: 'ready',
    createdAtNs: 0n,
    ips: ['10.88.0.2'],
    namespaces: config.security.namespaces,
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: 'native',
    portMappings: config.portMappings,
    info: {},
  };
}
