/**
 * The owner's side of the engine socket. In: an Engine and a path. Out: one call per connection, answered from that Engine. The
 * engine's methods are the only thing it can do; it decides nothing itself.
 */
import type { Socket } from 'node:net';
import { createServer } from 'node:net';
import { RuntimeError, errorMessage, invalidArgument, limits } from '#core';
import type { Engine, ProcessStreams } from '#pod';
import { listenPrivately, removeSocket } from '#streaming';
import { readFrames, sendFrame } from './channel.io.ts';
import { engineProtocol } from './frames.ts';
import type { Frame } from './frames.ts';
import { type CallConnection, connectionEnd } from './lifeline.io.ts';
import type { MethodName } from './methods.ts';
import { decodeCall, methods } from './methods.ts';
import { serveStreams } from './process-server.io.ts';
import { encodeError, encodeValue } from './values.ts';

/** How long a new connection may take to say what it wants. */
const callTimeoutMs = 10_000;
/** Progress is dropped while this much of it waits for a slow client; the next report says more anyway. */
const progressBacklogBytesMax = 64 * 1024;

/** What an engine server needs. */
export interface EngineServerOptions {
  readonly engine: Engine;
  /** Absolute path; its directory must belong to the owner alone. */
  readonly socketPath: string;
  /** The owner stays for long: its clients need not wait for it to end. */
  readonly lasting: boolean;
  /** Gets one line for each failure that no client can be told of. */
  readonly log?: (line: string) => void;
}

/** A listening server. */
export interface EngineServer {
  /** Calls that run now; lifelines and sessions do not count. */
  readonly activeCalls: number;
  /** Clients that have an engine open now. */
  readonly sessions: number;
  /** Resolves when no client has an engine open, or when the signal fires. What an owner that has done its own work waits for before it ends. */
  untilUnused(signal: AbortSignal): Promise<void>;
  /**
   * Refuses new calls with `unavailable`, gives running ones `graceMs` (default `limits.drainTimeoutMs`) to end, aborts the rest,
   * waits until they have settled, and removes the socket. Foreground pods of clients are left to the engine's own close.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>;
}

/** Serves `engine` at `socketPath` (mode 0600). Call it only as owner of the state directory: a stale socket is replaced. */
export async function serveEngine(options: EngineServerOptions): Promise<EngineServer> {
  const server = new ConnectionServer(options);
  await server.listen();
  return server;
}

class ConnectionServer implements EngineServer {
  readonly #options: EngineServerOptions;
  readonly #server = createServer((socket) => this.#accept(socket));
  readonly #sockets = new Set<Socket>();
  /** Every connection being handled, with the controller that aborts its call. */
  readonly #running = new Map<Promise<void>, AbortController>();
  #activeCalls = 0;
  #sessions = 0;
  #onSessionEnd: () => void = () => undefined;
  readonly #closing = new AbortController();

  constructor(options: EngineServerOptions) {
    this.#options = options;
  }

  get activeCalls(): number {
    return this.#activeCalls;
  }

  get sessions(): number {
    return this.#sessions;
  }

  async untilUnused(signal: AbortSignal): Promise<void> {
    while (this.#sessions > 0 && !signal.aborted) {
      const changed = Promise.withResolvers<void>();
      this.#onSessionEnd = changed.resolve;
      signal.addEventListener('abort', () => changed.resolve(), { once: true });
      await changed.promise;
    }
  }

  async listen(): Promise<void> {
    await listenPrivately(this.#server, this.#options.socketPath, { backlog: limits.engineConnectionsMax });
  }

  async close(options: { readonly graceMs?: number } = {}): Promise<void> {
    this.#closing.abort();
    await settledWithin([...this.#running.keys()], options.graceMs ?? limits.drainTimeoutMs);
    const reason = new RuntimeError('unavailable', 'call engine: the engine is closing');
    for (const controller of this.#running.values()) controller.abort(reason);
    // The calls answer with their own errors first; a client that does not read its answer is cut off.
    await settledWithin([...this.#running.keys()], limits.drainTimeoutMs);
    const closed = Promise.withResolvers<void>();
    this.#server.close(() => closed.resolve());
    for (const socket of this.#sockets) socket.destroy();
    await closed.promise;
    await settledWithin([...this.#running.keys()], limits.drainTimeoutMs);
    removeSocket(this.#options.socketPath);
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    // Errors reach the reader and the sender of frames; without a listener they would end the process.
    socket.on('error', () => undefined);
    const controller = new AbortController();
    const running = this.#handle(socket, controller)
      .catch((error: unknown) => this.#options.log?.(`serve engine call: ${errorMessage(error)}`))
      .finally(() => {
        this.#running.delete(running);
        // After the answer is written; the client's side may stay open for ever otherwise.
        socket.destroySoon();
      });
    this.#running.set(running, controller);
  }

  async #handle(socket: Socket, controller: AbortController): Promise<void> {
    const frames = readFrames(socket);
    try {
      const call = decodeCall(await this.#readCallFrame(socket, frames));
      this.#refuseWhenBusy();
      if (call.kind === 'handshake') await this.#serveSession({ socket, frames, controller });
      else if (isForegroundPod(call.method, call.args)) await this.#runForegroundPod({ socket, frames, controller }, call.args);
      else await this.#runCall({ socket, frames, controller }, call.method, call.args);
    } catch (error) {
      // A client that has gone away cannot be told; its connection is the only thing lost.
      const primary: unknown = controller.signal.aborted ? controller.signal.reason : error;
      if (socket.writable) await sendFrame(socket, 'error', encodeError(primary)).catch(() => undefined);
    }
  }

  async #readCallFrame(socket: Socket, frames: AsyncGenerator<Frame, void, void>): Promise<string> {
    const timer = setTimeout(() => socket.destroy(), callTimeoutMs);
    try {
      const first = await frames.next();
      if (first.done === true || first.value.name !== 'call') throw invalidArgument('', 'decode engine call: the first frame must be a call');
      return Buffer.from(first.value.payload).toString();
    } finally {
      clearTimeout(timer);
    }
  }

  #refuseWhenBusy(): void {
    if (this.#closing.signal.aborted) throw new RuntimeError('unavailable', 'call engine: the engine is closing');
    if (this.#sockets.size > limits.engineConnectionsMax) {
      throw new RuntimeError('resourceExhausted', `call engine: more than ${limits.engineConnectionsMax} connections`);
    }
  }

  /** The handshake's connection stays open as long as the client has its engine open. */
  async #serveSession(connection: CallConnection): Promise<void> {
    this.#sessions++;
    try {
      await sendFrame(connection.socket, 'result', encodeValue({ protocol: engineProtocol, lasting: this.#options.lasting }));
      await connectionEnd(connection, this.#closing.signal);
    } finally {
      this.#sessions--;
      this.#onSessionEnd();
    }
  }

  /**
   * A foreground pod lasts as long as the connection of the call that made it. The engine gets no signal: a create whose client has gone is
   * finished and then removed, because a pod that was given up half-way would have nobody to remove it.
   */
  async #runForegroundPod(connection: CallConnection, args: readonly unknown[]): Promise<void> {
    const { engine } = this.#options;
    const end = connectionEnd(connection, this.#closing.signal);
    this.#activeCalls++;
    let podId: unknown;
    try {
      podId = await invoke(engine, 'runPodSandbox', args, new AbortController().signal);
      // A client that cannot be told has gone, which `end` will say.
      await sendResult(connection.socket, podId).catch(() => undefined);
    } finally {
      this.#activeCalls--;
    }
    if ((await end) !== 'gone') return;
    await engine.removePodSandbox(String(podId)).catch((error: unknown) => this.#options.log?.(`remove foreground pod of a client that has gone: ${errorMessage(error)}`));
  }

  async #runCall(connection: CallConnection, method: MethodName, args: readonly unknown[]): Promise<void> {
    this.#activeCalls++;
    try {
      await runCall(this.#options.engine, connection, method, args);
    } finally {
      this.#activeCalls--;
    }
  }
}

function isForegroundPod(method: MethodName, args: readonly unknown[]): boolean {
  const options = args[1];
  return method === 'runPodSandbox' && typeof options === 'object' && options !== null && 'foreground' in options && options.foreground === true;
}

async function runCall(engine: Engine, connection: CallConnection, method: MethodName, args: readonly unknown[]): Promise<void> {
  const { socket, controller } = connection;
  const shape = methods[method];
  if (shape.kind === 'streams') {
    // SAFETY: the kind `streams` stands for this return type; the table is checked against Engine.
    const open = (): Promise<ProcessStreams> => invoke(engine, method, args, controller.signal) as Promise<ProcessStreams>;
    await serveStreams(connection, open);
    return;
  }
  void abortOnDisconnect(connection);
  if (shape.kind === 'events') {
    // SAFETY: as above, for the kind `events`.
    await sendEvents(connection, invoke(engine, method, args, controller.signal) as AsyncIterable<unknown>);
    return;
  }
  const sentArgs = shape.kind === 'progress' ? withProgress(socket, method, args) : args;
  await sendResult(socket, await invoke(engine, method, sentArgs, controller.signal));
}

/** Calls the method with absent arguments as undefined and the signal in its place. */
function invoke(engine: Engine, method: MethodName, args: readonly unknown[], signal: AbortSignal): unknown {
  const { argsMax, signalAt } = methods[method];
  const padded: unknown[] = Array.from({ length: argsMax }, (_, index) => args[index]);
  if (signalAt !== undefined) padded[signalAt] = signal;
  // SAFETY: the table pins count and order of the parameters to Engine; their shapes are the client's word, see decodeCall.
  return Reflect.apply(engine[method] as (...args: unknown[]) => unknown, engine, padded);
}

/** A client has nothing more to say after such a call, so any further frame or the end of the connection ends it. */
async function abortOnDisconnect({ frames, controller }: CallConnection): Promise<void> {
  const reason = new RuntimeError('cancelled', 'call engine: the client has gone');
  try {
    await frames.next();
    controller.abort(reason);
  } catch {
    controller.abort(reason);
  }
}

/** The arguments with a function that sends each report; the options are the last of them, and may have been left out. */
function withProgress(socket: Socket, method: MethodName, args: readonly unknown[]): unknown[] {
  const optionsAt = methods[method].argsMax - 1;
  const options = args[optionsAt];
  const onProgress = (progress: unknown): void => {
    if (socket.destroyed || socket.writableLength > progressBacklogBytesMax) return;
    sendFrame(socket, 'item', encodeValue(progress)).catch(() => undefined);
  };
  const sent: unknown[] = Array.from({ length: optionsAt }, (_, index) => args[index]);
  return [...sent, { ...(typeof options === 'object' ? options : {}), onProgress }];
}

async function sendEvents({ socket, controller }: CallConnection, events: AsyncIterable<unknown>): Promise<void> {
  const iterator = events[Symbol.asyncIterator]();
  // The first `next` puts the subscription in force, so that what the client does after `opened` is seen.
  let next = iterator.next();
  await sendFrame(socket, 'opened');
  for (;;) {
    const item = await next;
    if (item.done === true) break;
    await sendFrame(socket, 'item', encodeValue(item.value));
    next = iterator.next();
  }
  // The iteration also ends with the signal; then the client must learn why rather than see a complete list.
  controller.signal.throwIfAborted();
  await sendResult(socket, undefined);
}

/** Sends a result in as many frames as it needs. */
async function sendResult(socket: Socket, value: unknown): Promise<void> {
  const bytes = Buffer.from(encodeValue(value));
  let offset = 0;
  while (bytes.length - offset > limits.engineFrameBytesMax) {
    await sendFrame(socket, 'part', bytes.subarray(offset, offset + limits.engineFrameBytesMax));
    offset += limits.engineFrameBytesMax;
  }
  await sendFrame(socket, 'result', bytes.subarray(offset));
}

async function settledWithin(promises: readonly Promise<void>[], timeoutMs: number): Promise<void> {
  if (promises.length === 0) return;
  const timeout = Promise.withResolvers<void>();
  const timer = setTimeout(timeout.resolve, timeoutMs);
  await Promise.race([Promise.allSettled(promises), timeout.promise]);
  clearTimeout(timer);
}
