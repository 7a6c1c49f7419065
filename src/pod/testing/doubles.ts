/**
 * In-memory ports for the engine's unit tests: they record what is asked of them and can be told to fail at any step.
 * For tests only; the real ports have their own integration tests.
 */
import { type Clock, type ContainerId, type Records, RuntimeError, decodeJson, encodeJson } from '#core';
import type { NetworkPort, ProcessEnd, Sandbox, SandboxDriver, SandboxRecord, SpecDefaults } from '../ports.ts';
import type { ContainerConfig, PodSandboxConfig, SandboxUsage, UsageRequest } from '../types.ts';

/** Calls in order, and the step at which the next call fails. */
export class Journal {
  readonly calls: string[] = [];
  failAt: string | undefined;
  /** Called before each step, to act in the middle of one. */
  onStep: ((step: string) => void | Promise<void>) | undefined;

  async step(name: string): Promise<void> {
    this.calls.push(name);
    await this.onStep?.(name);
    if (this.failAt === name) throw new RuntimeError('resourceExhausted', `${name}: injected`);
  }
}

export class MemoryRecords implements Records {
  readonly #values = new Map<string, string>();

  put(kind: string, id: string, value: unknown): void {
    this.#values.set(`${kind}\0${id}`, encodeJson(value));
  }

  get(kind: string, id: string): unknown {
    const text = this.#values.get(`${kind}\0${id}`);
    return text === undefined ? undefined : decodeJson(text);
  }

  list(kind: string): { id: string; value: unknown }[] {
    return [...this.#values].filter(([key]) => key.startsWith(`${kind}\0`)).map(([key, text]) => ({ id: key.slice(kind.length + 1), value: decodeJson(text) }));
  }

  delete(kind: string, id: string): void {
    this.#values.delete(`${kind}\0${id}`);
  }

  transaction<T>(body: () => T): T {
    return body();
  }

  get size(): number {
    return this.#values.size;
  }
}

/** Time that moves only when told; `sleep` resolves as soon as the time has come. */
export class ManualClock implements Clock {
  #nowMs = 1_000_000;
  #serial = 0;
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>();

  nowNs(): bigint {
    return BigInt(this.#nowMs) * 1_000_000n;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  async sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const sleeper = { atMs: this.#nowMs + durationMs, wake: resolve };
    this.#sleepers.add(sleeper);
    signal?.addEventListener(
      'abort',
      () => {
        this.#sleepers.delete(sleeper);
        reject(new RuntimeError('cancelled', 'sleep: cancelled'));
      },
      { once: true },
    );
    return promise;
  }

  advance(durationMs: number): void {
    this.#nowMs += durationMs;
    for (const sleeper of this.#sleepers) {
      if (sleeper.atMs > this.#nowMs) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }

  randomBytes(byteCount: number): Uint8Array {
    this.#serial += 1;
    const bytes = Buffer.alloc(byteCount);
    bytes.writeUInt32BE(this.#serial, 0);
    return bytes;
  }
}

/** A sandbox whose processes end when they are signalled (SIGKILL, or SIGTERM unless told to ignore it). */
export class FakeSandbox implements Sandbox {
  readonly running = new Map<string, 'created' | 'running'>();
  readonly gone = Promise.withResolvers<void>();
  /** What updates were asked for, in their order. */
  readonly updates: { readonly resources: Parameters<Sandbox['updatePod']>[0]; readonly oomScoreAdj?: number }[] = [];
  ignoresTerm = false;
  #listener: ((end: ProcessEnd) => void) | undefined;
  readonly #journal: Journal;
  readonly #clock: Clock;
  readonly record: SandboxRecord;

  constructor(record: SandboxRecord, journal: Journal, clock: Clock) {
    this.record = { ...record, shimPid: 4242 };
    this.#journal = journal;
    this.#clock = clock;
  }

  get ended(): Promise<void> {
    return this.gone.promise;
  }

  end(processId: string, exitCode: number, oomKilled = false): void {
    if (!this.running.delete(processId)) return;
    this.#listener?.({ processId, exitCode, oomKilled, endedAtNs: this.#clock.nowNs() });
  }

  async execute(): Promise<void> {
    await this.#journal.step('execute');
  }
  async commit(): Promise<void> {
    await this.#journal.step('commit');
  }
  async deposit(): Promise<void> {
    await this.#journal.step('deposit');
  }

  async createContainer(request: Parameters<Sandbox['createContainer']>[0]): Promise<{ pid: number; identity: { uid: number; gid: number; groups: number[] } }> {
    await this.#journal.step('createContainer');
    this.running.set(request.containerId, 'created');
    return { pid: 100 + this.running.size, identity: { uid: 0, gid: 0, groups: [] } };
  }

  async startContainer(id: ContainerId): Promise<{ pid: number }> {
    await this.#journal.step('startContainer');
    this.running.set(id, 'running');
    return { pid: 100 };
  }

  async signal(processId: string, signalNumber: number): Promise<void> {
    await this.#journal.step(`signal ${signalNumber}`);
    if (signalNumber === 9 || !this.ignoresTerm) this.end(processId, 128 + signalNumber);
  }

  async killAll(id: ContainerId): Promise<void> {
    await this.#journal.step('killAll');
    this.end(id, 137);
  }

  async execSync(): Promise<{ exitCode: number; timedOut: boolean; stdout: Uint8Array; stderr: Uint8Array }> {
    return { exitCode: 0, timedOut: false, stdout: new Uint8Array(), stderr: new Uint8Array() };
  }

  async exec(): Promise<never> {
    throw new RuntimeError('unimplemented', 'exec: not in this double');
  }
  async attach(): Promise<never> {
    throw new RuntimeError('unimplemented', 'attach: not in this double');
  }
  async connectPort(): Promise<never> {
    throw new RuntimeError('unimplemented', 'connect to a port: not in this double');
  }
  async resize(): Promise<void> {
    await this.#journal.step('resize');
  }
  async reopenLog(): Promise<void> {
    await this.#journal.step('reopenLog');
  }

  async update(_id: ContainerId, resources: Parameters<Sandbox['update']>[1], { oomScoreAdj }: Parameters<Sandbox['update']>[2]): Promise<void> {
    await this.#journal.step('update');
    this.updates.push({ resources, ...(oomScoreAdj === undefined ? {} : { oomScoreAdj }) });
  }
  async updatePod(resources: Parameters<Sandbox['updatePod']>[0]): Promise<void> {
    await this.#journal.step('updatePod');
    this.updates.push({ resources });
  }
  describe(): Readonly<Record<string, unknown>> {
    return {};
  }

  /** What `usage` answers; absent: it fails. */
  seen: SandboxUsage | undefined;
  readonly usageRequests: UsageRequest[] = [];
  async usage(request: UsageRequest): Promise<SandboxUsage> {
    await this.#journal.step('usage');
    this.usageRequests.push(request);
    if (this.seen === undefined) throw new RuntimeError('internal', 'usage: nothing to tell');
    return this.seen;
  }

  async removeContainer(id: ContainerId): Promise<void> {
    await this.#journal.step('removeContainer');
    this.running.delete(id);
  }

  async processes(): Promise<{ processId: string; pid: number; state: 'created' | 'running'; exitCode: number; oomKilled: boolean; startedAtNs: bigint; endedAtNs: bigint }[]> {
    return [...this.running].map(([processId, state]) => ({ processId, pid: 100, state, exitCode: 0, oomKilled: false, startedAtNs: 1n, endedAtNs: 0n }));
  }

  async onProcessEnd(listener: (end: ProcessEnd) => void): Promise<void> {
    await this.#journal.step('onProcessEnd');
    this.#listener = listener;
  }

  async shutdown(): Promise<void> {
    await this.#journal.step('shutdown');
    for (const id of [...this.running.keys()]) this.end(id, 137);
    this.gone.resolve();
  }

  detach(): void {
    this.#listener = undefined;
  }
}

/** Sandboxes stay in `alive` until they are shut down, so a second engine can re-attach to them. */
export class FakeDriver implements SandboxDriver {
  readonly name = 'native';
  readonly features = async () => ({ recursiveReadOnlyMounts: true, userNamespaces: false });
  readonly alive = new Map<string, FakeSandbox>();
  readonly #journal: Journal;
  readonly #clock: Clock;

  constructor(journal: Journal, clock: Clock) {
    this.#journal = journal;
    this.#clock = clock;
  }

  plan(request: Parameters<SandboxDriver['plan']>[0]): SandboxRecord {
    return {
      podId: request.podId,
      cgroupPath: `/berth/${request.podId}`,
      secret: '00',
      podDir: `/run/berth/pods/${request.podId}`,
      hostNetwork: false,
      foreground: request.foreground,
      shimPid: 0,
    };
  }

  async prepare(record: SandboxRecord): Promise<Sandbox> {
    await this.#journal.step('prepare');
    const sandbox = new FakeSandbox(record, this.#journal, this.#clock);
    this.alive.set(record.podId, sandbox);
    void sandbox.ended.then(() => this.alive.delete(record.podId));
    return sandbox;
  }

  async reattach(record: SandboxRecord): Promise<Sandbox | undefined> {
    return this.alive.get(record.podId);
  }

  async cleanUp(): Promise<void> {
    await this.#journal.step('cleanUp');
  }
  async cleanUpContainer(): Promise<void> {
    await this.#journal.step('cleanUpContainer');
  }
  explainSandbox(): readonly string[] {
    return ['sandbox'];
  }
  explainContainer(): readonly string[] {
    return ['container'];
  }
}

export class FakeNetwork implements NetworkPort {
  readonly attached = new Set<string>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  async attach(
    request: Parameters<NetworkPort['attach']>[0],
    execute: (plan: object) => Promise<void>,
    deposit?: (undo: object) => Promise<void>,
  ): Promise<{ ips: string[]; details: unknown }> {
    await this.#journal.step('attach');
    await deposit?.({});
    this.attached.add(request.podId);
    await execute({});
    return { ips: ['10.88.0.2'], details: {} };
  }

  async detach(podId: string): Promise<void> {
    await this.#journal.step('detach');
    this.attached.delete(podId);
  }
  async reconcile(livePodIds: ReadonlySet<string>): Promise<void> {
    await this.#journal.step('reconcileNetwork');
    for (const podId of this.attached) if (!livePodIds.has(podId)) this.attached.delete(podId);
  }
  async updateRuntimeConfig({ podCidr }: { readonly podCidr: string }): Promise<void> {
    await this.#journal.step(`updateRuntimeConfig ${podCidr}`);
  }
  explain(): readonly string[] {
    return ['network'];
  }
  status(): { ready: boolean; reason: string; message: string } {
    return { ready: true, reason: '', message: '' };
  }
  async close(): Promise<void> {
    await this.#journal.step('closeNetwork');
  }
}

export const fakeDefaults: SpecDefaults = {
  capabilities: ['CAP_CHOWN', 'CAP_KILL'],
  allCapabilities: ['CAP_CHOWN', 'CAP_KILL', 'CAP_SYS_ADMIN'],
  maskedPaths: ['/proc/kcore'],
  readonlyPaths: ['/proc/sys'],
  seccomp: () => ({ defaultAction: 'SCMP_ACT_ERRNO', architectures: [], flags: [], syscalls: [] }),
  readSeccompProfile: async () => ({ defaultAction: 'SCMP_ACT_ALLOW', architectures: [], flags: [], syscalls: [] }),
  readCdiSpecs: async () => [],
  readDevices: async (path) => [{ path, type: 'c', major: 1, minor: 7, mode: 0o666, uid: 0, gid: 0 }],
  nodeHostname: 'node-1',
  imageVolumes: 'anonymous',
  readHostDns: async () => ({ servers: ['192.0.2.1'], searches: [], options: [] }),
  readHostHosts: async () => '127.0.0.1\tlocalhost\n',
};

/** A pod configuration with only what is required. */
export function podConfig(change: Partial<PodSandboxConfig> = {}): PodSandboxConfig {
  return {
    metadata: { name: 'web', uid: 'u1', namespace: 'default', attempt: 0 },
    hostname: '',
    logDirectory: '',
    portMappings: [],
    hostAliases: [],
    labels: {},
    annotations: {},
    cgroupParent: '',
    sysctls: {},
    security: { namespaces: { network: 'pod', pid: 'container', ipc: 'pod' }, readonlyRootfs: false, supplementalGroups: [], privileged: false },
    ...change,
  };
}

export function containerConfig(change: Partial<ContainerConfig> = {}): ContainerConfig {
  return {
    metadata: { name: 'app', attempt: 0 },
    image: 'x',
    command: [],
    args: [],
    workingDir: '',
    env: [],
    mounts: [],
    devices: [],
    labels: {},
    annotations: {},
    logPath: '',
    stdin: false,
    stdinOnce: false,
    tty: false,
    security: {
      privileged: false,
      namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
      readonlyRootfs: false,
      supplementalGroups: [],
      supplementalGroupsPolicy: 'merge',
      noNewPrivileges: false,
    },
    ...change,
  };
}
