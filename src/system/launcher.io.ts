/**
 * The launcher's client: starts it, holds it, and sends it one request per connection. In: plans, directories, secrets. Out:
 * shims, finished plans. The launcher is the only process that Node ever spawns.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { RuntimeError, wrapError } from '#core';
import { ByteReader, type Plan, encodePlan } from '#plan';
import { FrameConnection, openSocket } from './connection.io.ts';
import { type ExitStatus, type Frame, decodeFailure, decodeWaitStatus, frameTypes, planError } from './frames.ts';
import { ShimClient, type ShimConnection } from './shim.io.ts';

/** How the launcher is started. */
export interface LauncherOptions {
  /** Path of `berth-shim`. */
  readonly executable: string;
  /** Existing directory (0700) for `launcher.sock`. */
  readonly runDir: string;
  /** The state directory's lock file; made when missing. */
  readonly lockFile: string;
}

/** `locked`: another engine owns the state directory; `pid` is its launcher's, 0 unknown. */
export type LaunchResult = { readonly kind: 'owner'; readonly launcher: Launcher } | { readonly kind: 'locked'; readonly pid: number };

/** The end of a shim that this launcher started. */
export interface ShimEnded {
  readonly podId: string;
  readonly pid: number;
  readonly waitStatus: number;
}

/**
 * The engine's launcher. Neither it nor its sockets keep the event loop alive beyond a request in flight: when Node exits, the
 * launcher sees the end of its descriptor and ends too, and shims go on.
 */
export interface Launcher extends AsyncDisposable {
  readonly pid: number;
  /**
   * First contact with a new shim. `podDir` is made (0700) where it is missing; the shim writes `0` to each of cgroupFiles before it executes.
   * `follow` gets the connection as soon as the request is on its way: what it sends is done by the new shim without waiting for us.
   */
  startShim(options: {
    readonly podId: string;
    readonly podDir: string;
    readonly secret: Uint8Array;
    readonly cgroupFiles: readonly string[];
    readonly name?: string;
    readonly follow?: (shim: ShimConnection) => void;
  }): Promise<ShimConnection>;
  /** Runs host and podNamespaces sections in a fresh child. Throws the failed step. */
  runOnce(plan: Plan): Promise<void>;
  /**
   * Runs an executable of the host to its end. A tool that fails has an exit code; this throws only where it could not be started (notFound, permissionDenied …)
   * or was cancelled. At its deadline, or when the signal fires, it and its process group are killed; they are too when this process dies.
   */
  runTool(request: ToolRequest, signal?: AbortSignal): Promise<ToolResult>;
  /** Where it listens; `openUnpackSession` takes it, in any thread of this process. */
  readonly socketPath: string;
  /** Returns the function that removes the listener. */
  readonly onShimEnded: (listener: (event: ShimEnded) => void) => () => void;
  /** Resolves when the launcher has ended. */
  readonly ended: Promise<void>;
  /** Ends the launcher, which gives the lock back; shims go on. Resolves when it has ended. */
  close(): Promise<void>;
}

/** An executable of the host, and what it is given. Nothing of this process's environment reaches it by itself. */
export interface ToolRequest {
  /** Absolute; never searched for. */
  readonly path: string;
  /** With the name of the program first. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Working directory; absent: `/`. */
  readonly directory?: string;
  readonly stdin?: Uint8Array;
  readonly timeoutMs: number;
  /** What is printed beyond is read and dropped; both together at most 8 MiB. */
  readonly stdoutBytesMax: number;
  readonly stderrBytesMax: number;
}

/** How a tool ended and what it printed. */
export interface ToolResult extends ExitStatus {
  readonly timedOut: boolean;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
}

/** What the launcher's exit statuses say; see native/launcher.c. */
const endReasons: Readonly<Record<number, string>> = {
  71: 'it cannot execute from a sealed memory file',
  73: 'it cannot open the lock file',
  74: 'it cannot listen in the run directory',
};

/** Takes the lock and starts the launcher, or says who holds it. Throws failedPrecondition when the helper cannot run. */
export async function startLauncher(options: LauncherOptions, signal?: AbortSignal): Promise<LaunchResult> {
  signal?.throwIfAborted();
  // The helper needs no environment, and stdio is nobody's: fd 3 is a socketpair, which Node calls a pipe.
  const child = spawn(resolve(options.executable), ['launcher', resolve(options.runDir), resolve(options.lockFile)], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    env: {},
    cwd: '/',
  });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  const first = Promise.withResolvers<Frame>();
  child.once('error', (error) => first.reject(wrapError(`start ${options.executable}`, error, 'failedPrecondition')));
  child.once('exit', (code, name) =>
    first.reject(new RuntimeError('failedPrecondition', `start ${options.executable}: ${endReasons[code ?? -1] ?? `it ended with ${name ?? `status ${code}`}`}`)),
  );
  const abort = (): void => first.reject(new RuntimeError('cancelled', `start ${options.executable}: cancelled`));
  signal?.addEventListener('abort', abort, { once: true });
  // SAFETY: the fourth entry of stdio above is a pipe; it is absent only where spawning itself failed.
  const control = child.stdio[3] as Socket | undefined | null;
  const connection = control === undefined || control === null ? undefined : new FrameConnection(control, 'launcher');
  if (connection !== undefined) connection.onEvent = (frame) => first.resolve(frame);
  connection?.hold();
  try {
    const frame = await first.promise;
    const pid = new ByteReader(frame.payload).u32();
    if (connection === undefined || frame.type !== frameTypes.ready) {
      connection?.close();
      await ended;
      return { kind: 'locked', pid };
    }
    return { kind: 'owner', launcher: new LauncherClient(child, connection, pid, resolve(options.runDir), ended) };
  } catch (error) {
    connection?.close();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
    connection?.release();
    child.unref();
  }
}

/** Read again after a wait, when it may have changed. */
const signalled = (signal: AbortSignal | undefined): boolean => signal?.aborted === true;

/** The payload of TOOL_RESULT. The outputs are copies. */
function decodeToolResult(payload: Buffer): ToolResult {
  const input = new ByteReader(payload);
  const [waitStatus, flags] = [input.i32(), input.u32()];
  return {
    ...decodeWaitStatus(waitStatus),
    timedOut: (flags & 1) !== 0,
    stdoutTruncated: (flags & 2) !== 0,
    stderrTruncated: (flags & 4) !== 0,
    stdout: Buffer.from(input.bytes()),
    stderr: Buffer.from(input.bytes()),
  };
}

class LauncherClient implements Launcher {
  readonly pid: number;
  readonly socketPath: string;
  readonly ended: Promise<void>;
  readonly #child: ChildProcess;
  readonly #control: FrameConnection;
  readonly #listeners = new Set<(event: ShimEnded) => void>();
  /** Connecting takes a turn of the event loop, so one connection is ready. */
  #spare: Socket | undefined;
  #isClosed = false;

  constructor(child: ChildProcess, control: FrameConnection, pid: number, runDir: string, ended: Promise<void>) {
    this.pid = pid;
    this.ended = ended;
    this.#child = child;
    this.#control = control;
    this.socketPath = join(runDir, 'launcher.sock');
    control.onEvent = (frame) => {
      if (frame.type !== frameTypes.shimEnded) return;
      const input = new ByteReader(frame.payload);
      const event = { podId: input.text(), pid: input.u32(), waitStatus: input.i32() };
      for (const listener of this.#listeners) listener(event);
    };
  }

  readonly onShimEnded = (listener: (event: ShimEnded) => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /** A connection for one request: the spare one, where it is there. The next spare is opened while the request is under way. */
  async #connect(peer: string): Promise<FrameConnection> {
    const spare = this.#spare;
    this.#spare = undefined;
    const socket = spare === undefined || spare.destroyed ? await openSocket(this.socketPath) : spare;
    setImmediate(() => void this.#openSpare());
    return new FrameConnection(socket, peer);
  }

  async #openSpare(): Promise<void> {
    if (this.#spare !== undefined || this.#isClosed) return;
    // Where it fails, the next request says so.
    const socket = await openSocket(this.socketPath).catch(() => undefined);
    if (socket === undefined || this.#spare !== undefined || this.#isClosed) {
      socket?.destroy();
      return;
    }
    socket.unref();
    socket.on('error', () => undefined);
    this.#spare = socket;
  }

  async startShim(options: {
    readonly podId: string;
    readonly podDir: string;
    readonly secret: Uint8Array;
    readonly cgroupFiles: readonly string[];
    readonly name?: string;
    readonly follow?: (shim: ShimConnection) => void;
  }): Promise<ShimConnection> {
    const { podId, podDir, secret, cgroupFiles, name, follow } = options;
    const connection = await this.#connect(`shim of pod ${podId}`);
    const shim = new ShimClient(connection, { podDir, secret });
    try {
      const frame = await connection.together(() => {
        const born = connection.request(`start the shim of pod ${podId}`, frameTypes.shim, (out) => {
          out
            .text(podId)
            .text(podDir)
            .bytes(secret)
            .texts(cgroupFiles)
            .text(name ?? '');
        });
        follow?.(shim);
        return born;
      });
      shim.pid = new ByteReader(frame.payload).u32();
      return shim;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  async runOnce(plan: Plan): Promise<void> {
    const connection = await this.#connect('one-shot runner');
    try {
      const frame = await connection.request('run a plan', frameTypes.oneShot, (out) => out.bytes(encodePlan(plan)));
      if (frame.type === frameTypes.failed) throw planError(plan, decodeFailure(frame.payload));
    } finally {
      connection.close();
    }
  }

  async runTool(request: ToolRequest, signal?: AbortSignal): Promise<ToolResult> {
    const what = `run ${request.path}`;
    if (signal?.aborted === true) throw new RuntimeError('cancelled', `${what}: cancelled`);
    const connection = await this.#connect(`runner of ${request.path}`);
    // The runner sees the connection end and kills what it runs.
    const abort = (): void => connection.close();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const { payload } = await connection.request(what, frameTypes.tool, (out) => {
        out
          .text(request.path)
          .texts(request.argv)
          .texts(Object.entries(request.env).map(([name, value]) => `${name}=${value}`))
          .text(request.directory ?? '/')
          .bytes(request.stdin ?? Buffer.alloc(0))
          .u32(request.timeoutMs)
          .u32(request.stdoutBytesMax)
          .u32(request.stderrBytesMax);
      });
      return decodeToolResult(payload);
    } catch (error) {
      // An abort of the caller's is no failure of the launcher's.
      throw signalled(signal) ? new RuntimeError('cancelled', `${what}: cancelled`, { cause: error }) : error;
    } finally {
      signal?.removeEventListener('abort', abort);
      connection.close();
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#spare?.destroy();
    this.#child.ref();
    this.#control.close();
    await this.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
