/**
 * The client of one pod's shim. In: plans and names of processes. Out: results, events, streams. A failed step becomes the
 * error of the plan that held it. It holds no policy and no state that the shim does not have.
 */
import { join } from 'node:path';
import { type Socket } from 'node:net';
import { RuntimeError, limits } from '#core';
import { ByteReader, type ByteWriter, type Plan, encodePlan } from '#plan';
import { Attachment, type ShimAttachment, streamBits } from './attachment.io.ts';
import { FrameConnection, openSocket } from './connection.io.ts';
import {
  type AskedFile,
  type ExecResult,
  type Frame,
  type ProcessEnded,
  type ProcessState,
  decodeAsk,
  decodeExecResult,
  decodeFailure,
  decodeProcessEnded,
  decodeStates,
  frameTypes,
  planError,
  protocolVersion,
} from './frames.ts';

/** Where a CRI log goes: `path` is resolved beneath `directory` without links; missing directories below it are made. */
export interface LogTarget {
  readonly directory: string;
  readonly path: string;
}

/** A process to make up to its start barrier. */
export interface CreateProcessOptions {
  readonly processId: string;
  /** With exactly one process: containerSetup and payload sections, after host and podNamespaces sections. */
  readonly plan: Plan;
  /** A pipe, fed by attached clients; else /dev/null. */
  readonly stdin?: boolean;
  /** Standard input is closed when the first attached client with stdin goes. */
  readonly stdinOnce?: boolean;
  /** The plan opens a terminal. */
  readonly terminal?: boolean;
  /** An interactive exec: one client, whose slowness slows the process and whose end kills it. */
  readonly exclusive?: boolean;
  /** Output waits in the pipe until the first client is attached. */
  readonly holdOutput?: boolean;
  readonly log?: LogTarget;
  /** `memory.events` or `memory.oom_control` of the process's cgroup. */
  readonly oomFile?: string;
  /** Compiles the sections that depend on files inside the root. What it throws fails the creation. */
  readonly answer?: (files: readonly AskedFile[]) => Plan;
}

/** A process to run to its end with its output collected. */
export interface ExecOptions {
  /** Free name, unique among the shim's processes; `signalProcess` with it can cancel the exec. */
  readonly processId: string;
  readonly plan: Plan;
  /** 0: none. At the deadline the process and its session are killed. */
  readonly timeoutMs: number;
  /** Per stream. */
  readonly outputBytesMax: number;
  /** Written to standard input, which is then closed; without it standard input is /dev/null. */
  readonly stdin?: Uint8Array;
  readonly answer?: (files: readonly AskedFile[]) => Plan;
}

/**
 * An authenticated connection to a shim. It keeps the event loop alive while a request is in flight, and from `subscribe`
 * on until it ends or is closed: who subscribes waits for events.
 */
export interface ShimConnection {
  readonly pid: number;
  /** Resolves when the connection has ended, because the shim has or by `close`. */
  readonly ended: Promise<void>;
  /** Runs a plan of host and podNamespaces sections. */
  execute(plan: Plan): Promise<void>;
  /** Makes a process up to its start barrier. */
  createProcess(options: CreateProcessOptions): Promise<{ readonly pid: number }>;
  /** Releases the start barrier; resolves once execve has succeeded, with the pid, which a plan that forks changes. Throws the failed step, such as ENOENT of execve. */
  startProcess(processId: string): Promise<{ readonly pid: number }>;
  /** Throws notFound when the process has ended or is unknown. */
  signalProcess(processId: string, signal: number): Promise<void>;
  exec(options: ExecOptions): Promise<ExecResult>;
  attach(processId: string, options: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean }): Promise<ShimAttachment>;
  resize(processId: string, size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** The new file is opened first: where that fails the old one stays. */
  reopenLog(processId: string, log: LogTarget): Promise<void>;
  /** Forgets an ended process; failedPrecondition while it runs, notFound when it is unknown. */
  removeProcess(processId: string): Promise<void>;
  state(): Promise<ProcessState[]>;
  /** From now on the listener is called for every process that ends. One listener per connection. */
  subscribe(listener: (event: ProcessEnded) => void): Promise<void>;
  /** Leaves an undo plan with the shim. With the lifeline, the end of this connection kills everything and runs it. */
  deposit(options: { readonly lifeline: boolean; readonly undo: Plan }): Promise<void>;
  /** Kills every process, runs the plan, ends the shim. Throws the failed step; the shim has ended even so. */
  shutdown(plan?: Plan): Promise<void>;
  close(): void;
}

const processFlags = { stdin: 1, stdinOnce: 2, terminal: 4, log: 8, exclusive: 16, holdOutput: 32 } as const;

function flagsOf(options: CreateProcessOptions): number {
  const { stdin, stdinOnce, terminal, exclusive, holdOutput, log } = options;
  const wanted = { stdin, stdinOnce, terminal, exclusive, holdOutput, log: log !== undefined };
  // SAFETY: `wanted` is written with the keys of processFlags.
  return Object.entries(wanted).reduce((flags, [name, on]) => (on === true ? flags | processFlags[name as keyof typeof processFlags] : flags), 0);
}

/** The plan's bytes, or none for no plan. */
function optionalPlan(plan: Plan | undefined): Uint8Array {
  return plan === undefined || plan.sections.length === 0 ? new Uint8Array() : encodePlan(plan);
}

/** Sends HELLO on a new socket. A wrong secret is permissionDenied. */
async function authenticate(socket: Socket, pod: PodAddress, signal: AbortSignal | undefined): Promise<{ connection: FrameConnection; pid: number }> {
  const connection = new FrameConnection(socket, `shim in ${pod.podDir}`);
  const abort = (): void => connection.close();
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const frame = await connection.request('authenticate', frameTypes.hello, (out) => out.u32(protocolVersion).bytes(pod.secret));
    return { connection, pid: new ByteReader(frame.payload).u32() };
  } catch (error) {
    connection.close();
    if (signal?.aborted === true) throw new RuntimeError('cancelled', `connect to the shim in ${pod.podDir}: cancelled`);
    throw new RuntimeError('permissionDenied', `connect to the shim in ${pod.podDir}: it refused the secret`, { cause: error });
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

interface PodAddress {
  readonly podDir: string;
  readonly secret: Uint8Array;
}

async function openAuthenticated(pod: PodAddress, signal?: AbortSignal): Promise<{ connection: FrameConnection; pid: number }> {
  return authenticate(await openSocket(join(pod.podDir, 'shim.sock'), signal), pod, signal);
}

/** Connects to the shim that listens in `podDir`. Throws unavailable when none does, permissionDenied for a wrong secret. */
export async function connectShim(pod: PodAddress, signal?: AbortSignal): Promise<ShimConnection> {
  const { connection, pid } = await openAuthenticated(pod, signal);
  const client = new ShimClient(connection, pod);
  client.pid = pid;
  return client;
}

/** The client on a connection that is authenticated: by HELLO, or because it made the shim. */
export class ShimClient implements ShimConnection {
  /** 0 until the shim has answered; set by whoever got that answer. */
  pid = 0;
  readonly #connection: FrameConnection;
  readonly #pod: PodAddress;
  #onProcessEnded: ((event: ProcessEnded) => void) | undefined;
  /** Plans of processes that wait for their start, to word a failure of it. */
  readonly #plans = new Map<string, { readonly plan: Plan; readonly answer?: Plan }>();

  constructor(connection: FrameConnection, pod: PodAddress) {
    this.#connection = connection;
    this.#pod = pod;
    connection.onEvent = (frame) => {
      if (frame.type !== frameTypes.processEnded) return;
      const event = decodeProcessEnded(frame.payload);
      this.#plans.delete(event.processId);
      this.#onProcessEnded?.(event);
    };
  }

  get ended(): Promise<void> {
    return this.#connection.ended;
  }

  async execute(plan: Plan): Promise<void> {
    await this.#runPlan('execute a plan', frameTypes.execute, plan, (out) => out.bytes(encodePlan(plan)));
  }

  async createProcess(options: CreateProcessOptions): Promise<{ readonly pid: number }> {
    const { processId, plan, log, oomFile } = options;
    const frame = await this.#runPlan(
      `create process ${processId}`,
      frameTypes.create,
      plan,
      (out) => {
        out
          .text(processId)
          .u32(flagsOf(options))
          .text(log?.directory ?? '')
          .text(log?.path ?? '')
          .text(oomFile ?? '')
          .bytes(encodePlan(plan));
      },
      { processId, answer: options.answer },
    );
    this.#plans.set(processId, frame.answer === undefined ? { plan } : { plan, answer: frame.answer });
    return { pid: new ByteReader(frame.payload).u32() };
  }

  async startProcess(processId: string): Promise<{ readonly pid: number }> {
    const known = this.#plans.get(processId);
    this.#plans.delete(processId);
    const frame = await this.#connection.request(`start process ${processId}`, frameTypes.start, (out) => out.text(processId));
    if (frame.type === frameTypes.failed) throw planError(known?.plan ?? { sections: [] }, decodeFailure(frame.payload), known?.answer);
    return { pid: new ByteReader(frame.payload).u32() };
  }

  async signalProcess(processId: string, signal: number): Promise<void> {
    await this.#connection.request(`signal process ${processId}`, frameTypes.signal, (out) => out.text(processId).u32(signal));
  }

  async exec(options: ExecOptions): Promise<ExecResult> {
    const { processId, plan, timeoutMs, outputBytesMax, stdin, answer } = options;
    const frame = await this.#runPlan(
      `exec process ${processId}`,
      frameTypes.exec,
      plan,
      (out) => {
        out
          .text(processId)
          .u32(stdin === undefined ? 0 : processFlags.stdin)
          .u32(timeoutMs)
          .u32(Math.min(outputBytesMax, limits.execOutputBytesMax));
        out.bytes(stdin ?? new Uint8Array()).bytes(encodePlan(plan));
      },
      { processId, answer },
    );
    return decodeExecResult(frame.payload);
  }

  async attach(processId: string, options: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean }): Promise<ShimAttachment> {
    const { connection } = await openAuthenticated(this.#pod);
    const attachment = new Attachment(connection);
    const streams = (options.stdin ? streamBits.stdin : 0) | (options.stdout ? streamBits.stdout : 0) | (options.stderr ? streamBits.stderr : 0);
    try {
      await connection.request(`attach to process ${processId}`, frameTypes.attach, (out) => out.text(processId).u32(streams));
      return attachment;
    } catch (error) {
      attachment.close();
      throw error;
    }
  }

  async resize(processId: string, size: { readonly columns: number; readonly rows: number }): Promise<void> {
    await this.#connection.request(`resize the terminal of process ${processId}`, frameTypes.resize, (out) => out.text(processId).u32(size.columns).u32(size.rows));
  }

  async reopenLog(processId: string, log: LogTarget): Promise<void> {
    await this.#connection.request(`reopen the log of process ${processId}`, frameTypes.reopenLog, (out) => out.text(processId).text(log.directory).text(log.path));
  }

  async removeProcess(processId: string): Promise<void> {
    this.#plans.delete(processId);
    await this.#connection.request(`remove process ${processId}`, frameTypes.remove, (out) => out.text(processId));
  }

  async state(): Promise<ProcessState[]> {
    return decodeStates((await this.#connection.request('read the processes', frameTypes.state)).payload);
  }

  async subscribe(listener: (event: ProcessEnded) => void): Promise<void> {
    if (this.#onProcessEnded === undefined) {
      this.#connection.hold();
      void this.#connection.ended.then(() => this.#connection.release());
    }
    this.#onProcessEnded = listener;
    await this.#connection.request('subscribe', frameTypes.subscribe);
  }

  async deposit({ lifeline, undo }: { readonly lifeline: boolean; readonly undo: Plan }): Promise<void> {
    await this.#connection.request('deposit the undo plan', frameTypes.deposit, (out) => out.u32(lifeline ? 1 : 0).bytes(optionalPlan(undo)));
  }

  async shutdown(plan?: Plan): Promise<void> {
    const frame = await this.#connection.lastRequest('shut down', frameTypes.shutdown, (out) => out.bytes(optionalPlan(plan)));
    if (frame.type === frameTypes.failed) throw planError(plan ?? { sections: [] }, decodeFailure(frame.payload));
  }

  close(): void {
    this.#connection.close();
  }

  /** A request whose FAILED concerns a plan, and which may ask. */
  async #runPlan(what: string, type: number, plan: Plan, body: (out: ByteWriter) => void, asking?: Asking): Promise<Frame & { answer?: Plan }> {
    let answered: Plan | undefined;
    let refusal: Error | undefined;
    const frame = await this.#connection.request(what, type, body, (asked) => {
      if (asked.type !== frameTypes.ask) return false;
      try {
        if (asking?.answer === undefined) throw new RuntimeError('internal', `${what}: the plan asks, but nobody answers`);
        answered = asking.answer(decodeAsk(asked.payload));
      } catch (error) {
        refusal = error instanceof Error ? error : new RuntimeError('unknown', String(error));
      }
      const answer = encodeAnswer(answered);
      // An empty answer is malformed on purpose: the child then ends, and the creation fails.
      this.#connection.send(frameTypes.answer, asked.id, (out) => out.bytes(answer)).catch(() => {});
      return true;
    });
    if (refusal !== undefined) throw refusal;
    if (frame.type === frameTypes.failed) throw planError(plan, decodeFailure(frame.payload), answered);
    return answered === undefined ? frame : { ...frame, answer: answered };
  }
}

interface Asking {
  readonly processId: string;
  readonly answer: ((files: readonly AskedFile[]) => Plan) | undefined;
}

function encodeAnswer(plan: Plan | undefined): Uint8Array {
  return plan === undefined ? new Uint8Array() : encodePlan(plan);
}
