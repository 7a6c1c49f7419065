/**
 * One live sandbox of the native class: a connection to its shim. In: requests of the pod layer. Out: plans and their results.
 */
import { type Clock, type ContainerId, RuntimeError, encodeId, errorCode, limits } from '#core';
import type { RuntimeSpec, SpecResources } from '#oci';
import type {
  ContainerRequest,
  ExecProcess,
  Identity,
  OpaquePlan,
  PodFiles,
  ProcessEnd,
  ProcessSnapshot,
  Sandbox,
  SandboxRecord,
  SandboxStreams,
  SandboxUsage,
  UsageRequest,
} from '#pod';
import { type Plan } from '#plan';
import {
  type HookPlace,
  type PlanExecInput,
  hooksTimeoutMs,
  mergeSpecResources,
  oomFileOf,
  planContainer,
  planContainerKill,
  planContainerRemoval,
  planExec,
  planForward,
} from '#runtime';
import { type GroupReader, type ShimAttachment, type ShimConnection } from '#system';
import { type PodContext, asPlan, containerInput, planCommit, planPod, planShutdown, planUndo, planWritableLayer, prepend } from './native-plans.ts';
import { connectPort } from './connect-port.ts';
import { IdentityAnswer } from './identity-answer.ts';
import { type HookRunner, hookPlaceOf, runPoststart, runPoststop } from './hooks.ts';
import { containerPaths } from './layout.ts';
import { checkPodUpdate, updateGroup } from './native-update.ts';
import { streamsOf } from './streams.ts';
import { readUsage } from './usage.ts';
import { exitCodeOf } from './wait-status.ts';

const killTimeoutMs = 5_000;
const sigkill = 9;
/** A volume whose storage hangs must not hold a create for ever. */
const createTimeoutMs = 60_000;
const pauseId = 'pause';

/** What a container needs to be remembered by, for exec: kept in the container's own record by the pod layer's caller. */
export interface KnownContainer {
  readonly spec: RuntimeSpec;
  readonly pid: number;
  readonly identity: Identity;
  readonly home: string;
}

/** What a live sandbox is made of. */
export interface NativeSandboxParts {
  readonly context: PodContext;
  readonly shim: ShimConnection;
  readonly clock: Clock;
  readonly reader: GroupReader;
  /** Failures that undo nothing. */
  readonly report: (error: unknown) => void;
  /** What exec needs of containers made by an earlier engine, and where it is kept. */
  readonly memory: ContainerMemory;
  /** Called once the shim has ended as it was told to and left nothing of the pod but writable layers. */
  readonly onReleased: () => void;
  /** Removes a container's writable layer without waiting for it. */
  readonly discardLayer: (containerId: string) => Promise<void>;
}

/** Durable facts of containers that exec needs after a restart of the engine. */
export interface ContainerMemory {
  put(containerId: string, value: unknown): void;
  get(containerId: string): unknown;
  delete(containerId: string): void;
}

/** A sandbox whose plans the pod's shim runs. Methods reject with RuntimeError. */
export class NativeSandbox implements Sandbox {
  readonly record: SandboxRecord;
  readonly #parts: NativeSandboxParts;
  /** What `memory` holds, for containers that this object has made or looked up. */
  readonly #containers = new Map<string, KnownContainer>();
  /** Aborted when the process ends: a start waits for no hook then, for its answer comes before the end is told. */
  readonly #starting = new Map<string, AbortController>();

  constructor(parts: NativeSandboxParts) {
    this.#parts = parts;
    this.record = { ...parts.context.record, shimPid: parts.shim.pid };
  }

  get ended(): Promise<void> {
    return this.#parts.shim.ended;
  }

  async execute(plan: OpaquePlan): Promise<void> {
    await this.#parts.shim.execute(asPlan(plan));
  }

  /** The pause process, where the PID namespace is shared. */
  async startPause(): Promise<void> {
    const { shim, context } = this.#parts;
    const { pause } = planPod(context);
    if (pause === undefined) return;
    await shim.createProcess({ processId: pauseId, plan: pause });
    await shim.startProcess(pauseId);
  }

  async commit(files: PodFiles, _sysctls: unknown, network?: OpaquePlan): Promise<void> {
    await this.#parts.shim.execute(planCommit(this.#parts.context, files, network === undefined ? undefined : asPlan(network)));
  }

  async deposit(networkUndo: OpaquePlan): Promise<void> {
    await this.#parts.shim.deposit({ lifeline: true, undo: planUndo(this.#parts.context, asPlan(networkUndo)) });
  }

  async createContainer(request: ContainerRequest): Promise<{ readonly pid: number; readonly identity: Identity }> {
    const { context, shim } = this.#parts;
    const input = containerInput(context, request);
    const answer = new IdentityAnswer(input, request);
    const { runtimeSpec, containerId } = request;
    // What ran before a failure or the end of the engine is followed by the hooks of poststop as well.
    if (runtimeSpec.hooks.poststop !== undefined) this.#remember(containerId, { spec: runtimeSpec, pid: 0, identity: { uid: 0, gid: 0, groups: [] }, home: '/' });
    const oomFile = oomFileOf(input);
    const creation = shim.createProcess({
      processId: request.containerId,
      plan: prepend(planWritableLayer(context, request), planContainer(input)),
      stdin: request.stdin,
      stdinOnce: request.stdinOnce,
      terminal: request.terminal,
      ...(request.log === undefined ? {} : { log: request.log }),
      ...(oomFile === '' ? {} : { oomFile }),
      answer: (files) => answer.of(files),
    });
    const { pid } = await this.#withinDeadline(creation, containerId, createTimeoutMs + hooksTimeoutMs(runtimeSpec, ['prestart', 'createRuntime', 'createContainer']));
    const { home, ...identity } = answer.identity;
    const known: KnownContainer = { spec: request.runtimeSpec, pid, identity, home };
    this.#remember(request.containerId, known);
    return { pid, identity };
  }

  async #withinDeadline<T>(creation: Promise<T>, id: string, timeoutMs: number): Promise<T> {
    const cancel = new AbortController();
    const late = this.#parts.clock.sleep(timeoutMs, cancel.signal).then(() => {
      throw new RuntimeError('deadlineExceeded', `create process ${id}: not ready after ${timeoutMs / 1000} s; a volume's storage may hang`);
    });
    late.catch(() => undefined);
    try {
      return await Promise.race([creation, late]);
    } finally {
      cancel.abort();
      creation.catch(() => undefined);
    }
  }

  async startContainer(id: ContainerId): Promise<{ readonly pid: number }> {
    const { shim, report } = this.#parts;
    const ended = new AbortController();
    this.#starting.set(id, ended);
    try {
      const { pid } = await shim.startProcess(id);
      // A container in a shared PID namespace enters it by a fork when it is started.
      const known = this.#known(id);
      if (known.pid !== pid) this.#remember(id, { ...known, pid });
      await runPoststart(this.#hookRunner, known.spec, this.#hookPlace(id), { pid, ended: ended.signal }).catch(async (error: unknown) => {
        await this.killAll(id).catch(report);
        throw error;
      });
      return { pid };
    } finally {
      this.#starting.delete(id);
    }
  }

  async signal(processId: string, signalNumber: number): Promise<void> {
    await unlessAbsent(this.#parts.shim.signalProcess(processId, signalNumber));
  }

  async killAll(id: ContainerId): Promise<void> {
    await this.signal(id, sigkill);
    await this.#parts.shim.execute(planContainerKill(this.#parts.context.host, this.#cgroupOf(id), { timeoutMs: killTimeoutMs }));
  }

  get #hookRunner(): HookRunner {
    const { shim, report } = this.#parts;
    return { run: async (plan) => shim.execute(plan), report };
  }

  #hookPlace(containerId: ContainerId): HookPlace {
    const { layout, request } = this.#parts.context;
    return hookPlaceOf(layout, { podId: request.podId, containerId });
  }

  #cgroupOf(id: ContainerId): { readonly path: string } {
    return { path: `${this.record.cgroupPath}/${id}` };
  }

  #remember(id: ContainerId, known: KnownContainer): void {
    this.#parts.memory.put(id, known);
    this.#containers.set(id, known);
  }

  #find(id: ContainerId): KnownContainer | undefined {
    // SAFETY: createContainer is the only writer of this memory.
    return this.#containers.get(id) ?? (this.#parts.memory.get(id) as KnownContainer | undefined);
  }

  #known(id: ContainerId): KnownContainer {
    const known = this.#find(id);
    if (known === undefined) throw new RuntimeError('notFound', `container ${id}: container does not exist`);
    this.#containers.set(id, known);
    return known;
  }

  #planExec(
    id: ContainerId,
    { command, terminal, columns, rows }: Pick<ExecProcess, 'command' | 'terminal' | 'columns' | 'rows'>,
    options: { readonly startBarrier: boolean },
  ): Plan {
    const { spec, pid, identity, home } = this.#known(id);
    if (spec.process === undefined) throw new RuntimeError('internal', `bug: container ${id} has no process`);
    const env = terminal && !spec.process.env.some((entry) => entry.startsWith('TERM=')) ? [...spec.process.env, 'TERM=xterm'] : spec.process.env;
    const input: PlanExecInput = {
      process: { ...spec.process, args: command, env, terminal, consoleSize: { width: columns, height: rows } },
      spec,
      initPid: pid,
      host: this.#parts.context.host,
      cgroup: this.#cgroupOf(id),
      hookPlace: this.#hookPlace(id),
      terminal,
      identity: { ...identity, home },
      startBarrier: options.startBarrier,
    };
    return planExec(input);
  }

  #execId(): string {
    return `exec-${encodeId(this.#parts.clock.randomBytes(8))}`;
  }

  async execSync(
    id: ContainerId,
    command: readonly string[],
    { timeoutMs }: { readonly timeoutMs: number },
  ): Promise<{ readonly exitCode: number; readonly timedOut: boolean; readonly stdout: Uint8Array; readonly stderr: Uint8Array }> {
    const plan = this.#planExec(id, { command, terminal: false, columns: 0, rows: 0 }, { startBarrier: false });
    const result = await this.#parts.shim.exec({ processId: this.#execId(), plan, timeoutMs, outputBytesMax: limits.execOutputBytesMax });
    return { exitCode: exitCodeOf(result.waitStatus), timedOut: result.timedOut, stdout: result.stdout, stderr: result.stderr };
  }

  async exec(id: ContainerId, process: ExecProcess): Promise<{ readonly processId: string; readonly streams: SandboxStreams }> {
    const { shim } = this.#parts;
    const processId = this.#execId();
    await shim.createProcess({
      processId,
      plan: this.#planExec(id, process, { startBarrier: true }),
      stdin: process.stdin,
      terminal: process.terminal,
      exclusive: true,
      holdOutput: true,
    });
    let attachment: ShimAttachment | undefined;
    try {
      attachment = await shim.attach(processId, { stdin: process.stdin, stdout: true, stderr: !process.terminal });
      const streams = streamsOf(attachment);
      await shim.startProcess(processId);
      const forget = async (): Promise<void> => unlessAbsent(shim.removeProcess(processId));
      // The streams report their own end; here only the shim's memory of the process goes.
      streams.exited.then(forget, forget).catch(() => undefined);
      return { processId, streams };
    } catch (error) {
      attachment?.close();
      await this.signal(processId, sigkill).catch(() => undefined);
      throw error;
    }
  }

  async attach(id: ContainerId, { stdin }: { readonly stdin: boolean }): Promise<SandboxStreams> {
    return streamsOf(await this.#parts.shim.attach(id, { stdin, stdout: true, stderr: true }));
  }

  async connectPort(port: number): Promise<SandboxStreams> {
    const { shim, context } = this.#parts;
    const plan = planForward({ host: context.host, port, ownNetwork: !this.record.hostNetwork });
    return connectPort(shim, { processId: `forward-${encodeId(this.#parts.clock.randomBytes(8))}`, plan });
  }

  async resize(processId: string, size: { readonly columns: number; readonly rows: number }): Promise<void> {
    await this.#parts.shim.resize(processId, size);
  }

  async reopenLog(id: ContainerId, log: { readonly directory: string; readonly path: string }): Promise<void> {
    await this.#parts.shim.reopenLog(id, log);
  }

  async update(id: ContainerId, resources: SpecResources, { oomScoreAdj }: { readonly oomScoreAdj?: number }): Promise<void> {
    const known = this.#known(id);
    const { shim, context } = this.#parts;
    const placement = { ...this.#cgroupOf(id), controllers: planPod(context).controllers };
    await updateGroup({ shim, host: context.host }, { placement, resources, ...(oomScoreAdj === undefined ? {} : { oomScore: { pid: known.pid, value: oomScoreAdj } }) });
    this.#remember(id, { ...known, spec: { ...known.spec, linux: { ...known.spec.linux, resources: mergeSpecResources(known.spec.linux.resources, resources) } } });
  }

  async updatePod(resources: SpecResources): Promise<void> {
    const { shim, context } = this.#parts;
    const { controllers } = planPod(context);
    checkPodUpdate(context.host, { resources, controllers });
    await updateGroup({ shim, host: context.host }, { placement: { path: this.record.cgroupPath, controllers }, resources });
  }

  describe(id: ContainerId): Readonly<Record<string, unknown>> {
    const known = this.#find(id);
    const { directory } = containerPaths(this.#parts.context.layout, { podId: this.record.podId, containerId: id });
    return known === undefined ? {} : { writableLayer: directory, runtimeSpec: known.spec };
  }

  async removeContainer(id: ContainerId): Promise<void> {
    const { shim, context, memory, discardLayer } = this.#parts;
    await this.signal(id, sigkill);
    await shim.execute(planContainerRemoval(context.host, this.#cgroupOf(id), { timeoutMs: killTimeoutMs }));
    await unlessAbsent(shim.removeProcess(id));
    await runPoststop(this.#hookRunner, this.#hookPlace(id), this.#find(id), (known) => this.#remember(id, known));
    await discardLayer(id);
    memory.delete(id);
    this.#containers.delete(id);
  }

  async processes(): Promise<ProcessSnapshot[]> {
    const states = await this.#parts.shim.state();
    return states.map((process) => ({
      processId: process.processId,
      pid: process.pid,
      state: process.state,
      exitCode: exitCodeOf(process.waitStatus),
      oomKilled: process.oomKilled,
      startedAtNs: process.startedNs,
      endedAtNs: process.endedNs,
    }));
  }

  async usage(request: UsageRequest): Promise<SandboxUsage> {
    const { context, reader } = this.#parts;
    return readUsage({ host: context.host, record: this.record, reader, pidOf: (id) => this.#find(id)?.pid ?? 0 }, request);
  }

  async onProcessEnd(listener: (end: ProcessEnd) => void): Promise<void> {
    await this.#parts.shim.subscribe((event) => {
      this.#starting.get(event.processId)?.abort();
      listener({ processId: event.processId, exitCode: exitCodeOf(event.waitStatus), oomKilled: event.oomKilled, endedAtNs: event.endedNs });
    });
  }

  async shutdown(network?: OpaquePlan): Promise<void> {
    const { shim, context, onReleased } = this.#parts;
    await shim.shutdown(planShutdown(context, network === undefined ? undefined : asPlan(network)));
    onReleased();
  }

  detach(): void {
    this.#parts.shim.close();
  }
}

/** Asks a new shim for the pod's namespaces and shared memory. The undo is with it before anything is made: it does one after the other. */
export async function prepareNamespaces(shim: ShimConnection, context: PodContext): Promise<void> {
  const { prepare } = planPod(context);
  await Promise.all([
    context.request.foreground ? shim.deposit({ lifeline: true, undo: planUndo(context, undefined) }) : undefined,
    prepare.sections.length > 0 ? shim.execute(prepare) : undefined,
  ]);
}

/** Absence is what was wanted. */
async function unlessAbsent(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (errorCode(error) !== 'notFound') throw error;
  }
}
