/**
 * The client's side of the engine socket: an Engine whose every call is a connection to the owner. In: the socket's path. Out: the
 * same results and errors as the owner's engine gives. It keeps no state of pods or images.
 */
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { RuntimeError, errnoName, invalidArgument, limits, wrapError } from '#core';
import type { Engine, EngineEvent, ImageProgress, ImageProgressOptions, ProcessStreams } from '#pod';
import { readFrames, sendFrame } from './channel.io.ts';
import type { Frame } from './frames.ts';
import type { Call, MethodName } from './methods.ts';
import { encodeCall, methods } from './methods.ts';
import { RemoteProcess } from './process-client.io.ts';
import { decodeError, decodeValue } from './values.ts';

/** An ExecSync result with both streams at `limits.execOutputBytesMax` in base64 fits, with room for the rest. */
const resultBytesMax = 4 * limits.engineFrameBytesMax;

type ValueMethod = { [M in MethodName]: (typeof methods)[M]['kind'] extends 'value' ? M : never }[MethodName];
type ProgressMethod = { [M in MethodName]: (typeof methods)[M]['kind'] extends 'progress' ? M : never }[MethodName];
type StreamsMethod = { [M in MethodName]: (typeof methods)[M]['kind'] extends 'streams' ? M : never }[MethodName];

/** The owner's engine, as a client has it. */
export interface RemoteEngine extends Engine {
  /** The owner stays for long; false for a short command that only happens to own the state directory now. */
  readonly isOwnerLasting: boolean;
  /** Cuts running calls and ends the session; the owner removes the foreground pods that it made. */
  close(): void;
}

/**
 * The engine of the owner behind `socketPath`. Rejects with unavailable where no owner listens (the caller may take the state
 * directory's lock instead, or try again), failedPrecondition where the owner speaks another protocol.
 */
export async function connectEngine(socketPath: string): Promise<RemoteEngine> {
  const client = new EngineClient(socketPath);
  const { lasting } = await client.handshake();
  return {
    isOwnerLasting: lasting,
    status: (...args) => client.value('status', args),
    updateRuntimeConfig: (...args) => client.value('updateRuntimeConfig', args),
    runPodSandbox: (...args) => client.runPodSandbox(args),
    stopPodSandbox: (...args) => client.value('stopPodSandbox', args),
    removePodSandbox: (...args) => client.value('removePodSandbox', args),
    podSandboxStatus: (...args) => client.value('podSandboxStatus', args),
    listPodSandboxes: (...args) => client.value('listPodSandboxes', args),
    createContainer: (...args) => client.value('createContainer', args),
    startContainer: (...args) => client.value('startContainer', args),
    stopContainer: (...args) => client.value('stopContainer', args),
    removeContainer: (...args) => client.value('removeContainer', args),
    containerStatus: (...args) => client.value('containerStatus', args),
    listContainers: (...args) => client.value('listContainers', args),
    waitContainer: (...args) => client.value('waitContainer', args),
    signalContainer: (...args) => client.value('signalContainer', args),
    execSync: (...args) => client.value('execSync', args),
    exec: (...args) => client.streams('exec', args),
    attach: (...args) => client.streams('attach', args),
    portForward: (...args) => client.streams('portForward', args),
    reopenContainerLog: (...args) => client.value('reopenContainerLog', args),
    updateContainer: (...args) => client.value('updateContainer', args),
    updatePodSandbox: (...args) => client.value('updatePodSandbox', args),
    containerInfo: (...args) => client.value('containerInfo', args),
    podSandboxInfo: (...args) => client.value('podSandboxInfo', args),
    containerStats: (...args) => client.value('containerStats', args),
    listContainerStats: (...args) => client.value('listContainerStats', args),
    podSandboxStats: (...args) => client.value('podSandboxStats', args),
    listPodSandboxStats: (...args) => client.value('listPodSandboxStats', args),
    metricDescriptors: (...args) => client.value('metricDescriptors', args),
    podSandboxMetrics: (...args) => client.value('podSandboxMetrics', args),
    pullImage: (...args) => client.progress('pullImage', args),
    pushImage: (...args) => client.progress('pushImage', args),
    importImages: (...args) => client.progress('importImages', args),
    saveImages: (...args) => client.progress('saveImages', args),
    imageFromHost: (...args) => client.value('imageFromHost', args),
    imageStatus: (...args) => client.value('imageStatus', args),
    imageInfo: (...args) => client.value('imageInfo', args),
    listImages: (...args) => client.value('listImages', args),
    tagImage: (...args) => client.value('tagImage', args),
    pinImage: (...args) => client.value('pinImage', args),
    removeImage: (...args) => client.value('removeImage', args),
    imageUsage: (...args) => client.value('imageUsage', args),
    imageDiskUsage: (...args) => client.value('imageDiskUsage', args),
    verifyImages: (...args) => client.progress('verifyImages', args),
    collectImages: (...args) => client.value('collectImages', args),
    imageTags: (...args) => client.value('imageTags', args),
    imageReferrers: (...args) => client.value('imageReferrers', args),
    events: (signal) => client.events(signal),
    explain: (...args) => client.value('explain', args),
    close: () => client.close(),
  };
}

class EngineClient {
  readonly #socketPath: string;
  readonly #sockets = new Set<Socket>();
  /** Subscriptions that the owner has not confirmed yet. Calls made after `events` wait for them, so that it sees their effects. */
  readonly #subscribing = new Set<Promise<unknown>>();
  #isClosed = false;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  async handshake(): Promise<{ readonly lasting: boolean }> {
    const answer = await this.#exchange({ kind: 'handshake' }, undefined, { keep: true });
    if (typeof answer !== 'object' || answer === null || !('lasting' in answer)) throw new RuntimeError('internal', `connect to engine ${this.#socketPath}: bad answer`);
    return { lasting: answer.lasting === true };
  }

  close(): void {
    this.#isClosed = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  async value<M extends ValueMethod>(method: M, args: Parameters<Engine[M]>): Promise<Awaited<ReturnType<Engine[M]>>> {
    const { sent, signal } = splitArgs(method, args);
    // SAFETY: the owner runs the same protocol, so the value has this method's type.
    return (await this.#exchange({ kind: 'method', method, args: sent }, signal)) as Awaited<ReturnType<Engine[M]>>;
  }

  /** The connection of a foreground pod stays open as its lifeline. */
  async runPodSandbox(args: Parameters<Engine['runPodSandbox']>): ReturnType<Engine['runPodSandbox']> {
    const { sent, signal } = splitArgs('runPodSandbox', args);
    // SAFETY: as in `value`.
    return (await this.#exchange({ kind: 'method', method: 'runPodSandbox', args: sent }, signal, { keep: args[1]?.foreground === true })) as Awaited<
      ReturnType<Engine['runPodSandbox']>
    >;
  }

  /** The function that is told of progress stays here; what it is told comes as items. */
  async progress<M extends ProgressMethod>(method: M, args: Parameters<Engine[M]>): Promise<Awaited<ReturnType<Engine[M]>>> {
    const { sent, signal } = splitArgs(method, args);
    const optionsAt = methods[method].argsMax - 1;
    // SAFETY: the table says that the options of such a method are the last argument that crosses.
    const { onProgress, ...options } = (sent[optionsAt] ?? {}) as ImageProgressOptions;
    sent[optionsAt] = options;
    // SAFETY: the owner runs the same protocol, so an item of such a method is a report.
    const report = (item: unknown): void => onProgress?.(item as ImageProgress);
    // SAFETY: as in `value`.
    return (await this.#exchange({ kind: 'method', method, args: sent }, signal, { onItem: report })) as Awaited<ReturnType<Engine[M]>>;
  }

  /** A signal aborted later closes the streams. */
  async streams<M extends StreamsMethod>(method: M, args: Parameters<Engine[M]>): Promise<ProcessStreams> {
    const { sent, signal } = splitArgs(method, args);
    const opened = await this.#start({ kind: 'method', method, args: sent }, signal);
    try {
      const first = await nextFrame(opened.frames);
      if (first.name !== 'opened') throw unexpectedFrame(first);
      return new RemoteProcess(opened);
    } catch (error) {
      opened.dispose();
      throw abortError(signal, method) ?? error;
    }
  }

  events(signal: AbortSignal): AsyncIterable<EngineEvent> {
    const subscribing = this.#subscribe(signal);
    this.#subscribing.add(subscribing);
    // A failure is thrown by the iteration.
    subscribing.catch(() => undefined).finally(() => this.#subscribing.delete(subscribing));
    return iterateEvents(subscribing, signal);
  }

  async #subscribe(signal: AbortSignal): Promise<OpenCall> {
    const opened = await this.#start({ kind: 'method', method: 'events', args: [] }, signal);
    const first = await nextFrame(opened.frames);
    if (first.name === 'opened') return opened;
    opened.dispose();
    throw unexpectedFrame(first);
  }

  /** `keep` leaves the connection open after the result, until `close`. */
  async #exchange(call: Call, signal: AbortSignal | undefined, options: { readonly keep?: boolean; readonly onItem?: (item: unknown) => void } = {}): Promise<unknown> {
    const subject = call.kind === 'handshake' ? 'connect to engine' : call.method;
    let opened: OpenCall | undefined;
    try {
      opened = await this.#start(call, signal);
      const result = await readResult(opened.frames, options.onItem);
      if (options.keep === true) opened.keep();
      else opened.dispose();
      return result;
    } catch (error) {
      opened?.dispose();
      throw abortError(signal, subject) ?? error;
    }
  }

  /** Opens a connection and sends the call. The signal destroys the connection until `dispose`, which does so too. */
  async #start(call: Call, signal: AbortSignal | undefined): Promise<OpenCall> {
    const subject = call.kind === 'handshake' ? 'connect to engine' : call.method;
    const aborted = abortError(signal, subject);
    if (aborted !== undefined) throw aborted;
    if (call.kind === 'method' && call.method !== 'events') await Promise.allSettled(this.#subscribing);
    if (this.#isClosed) throw new RuntimeError('unavailable', `${subject}: the engine client is closed`);
    const socket = connect(this.#socketPath);
    this.#sockets.add(socket);
    const onAbort = (): void => void socket.destroy();
    signal?.addEventListener('abort', onAbort);
    const keep = (): void => {
      signal?.removeEventListener('abort', onAbort);
      // Nothing more is expected on it, so it must not keep this process alive.
      socket.unref();
    };
    const dispose = (): void => {
      signal?.removeEventListener('abort', onAbort);
      this.#sockets.delete(socket);
      socket.destroy();
    };
    try {
      await connected(socket, this.#socketPath);
      await sendFrame(socket, 'call', encodeCall(call));
      return { socket, frames: readFrames(socket), keep, dispose };
    } catch (error) {
      dispose();
      throw abortError(signal, subject) ?? error;
    }
  }
}

/** A call under way. `dispose` ends its connection and with it the call; `keep` leaves the connection open without waiting for it. */
export interface OpenCall {
  readonly socket: Socket;
  readonly frames: AsyncGenerator<Frame, void, void>;
  keep(): void;
  dispose(): void;
}

function splitArgs(method: MethodName, args: readonly unknown[]): { readonly sent: unknown[]; readonly signal: AbortSignal | undefined } {
  const { argsMax, signalAt } = methods[method];
  const signal = signalAt === undefined ? undefined : args[signalAt];
  return { sent: args.slice(0, argsMax), signal: signal instanceof AbortSignal ? signal : undefined };
}

async function connected(socket: Socket, socketPath: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Stays for the socket's life: later errors reach its reader and writer, and must not end the process.
  socket.on('error', reject);
  socket.once('close', () => reject(new RuntimeError('unavailable', `connect to engine ${socketPath}: connection closed`)));
  socket.once('connect', resolve);
  try {
    await promise;
  } catch (error) {
    const errno = errnoName(error);
    const isAbsent = errno === 'ENOENT' || errno === 'ECONNREFUSED';
    throw isAbsent
      ? new RuntimeError('unavailable', `connect to engine ${socketPath}: no engine is running there`, { cause: error, errno })
      : wrapError(`connect to engine ${socketPath}`, error);
  }
}

async function nextFrame(frames: AsyncGenerator<Frame, void, void>): Promise<Frame> {
  const next = await frames.next();
  if (next.done === true) throw new RuntimeError('unavailable', 'engine connection ended before the result');
  if (next.value.name === 'error') throw decodeError(Buffer.from(next.value.payload).toString());
  return next.value;
}

function unexpectedFrame(frame: Frame): RuntimeError {
  return invalidArgument('', `decode engine answer: unexpected ${frame.name} frame`);
}

async function readResult(frames: AsyncGenerator<Frame, void, void>, onItem?: (item: unknown) => void): Promise<unknown> {
  const parts: Uint8Array[] = [];
  let byteCount = 0;
  for (;;) {
    const frame = await nextFrame(frames);
    if (frame.name === 'item' && onItem !== undefined) {
      onItem(decodeValue(Buffer.from(frame.payload).toString()));
      continue;
    }
    if (frame.name !== 'part' && frame.name !== 'result') throw unexpectedFrame(frame);
    byteCount += frame.payload.length;
    if (byteCount > resultBytesMax) throw new RuntimeError('resourceExhausted', `read engine result: more than ${resultBytesMax} bytes`);
    parts.push(frame.payload);
    if (frame.name === 'result') return decodeValue(Buffer.concat(parts).toString());
  }
}

async function* iterateEvents(subscribing: Promise<OpenCall>, signal: AbortSignal): AsyncGenerator<EngineEvent, void, void> {
  let opened: OpenCall | undefined;
  try {
    opened = await subscribing;
    for (;;) {
      const frame = await nextFrame(opened.frames);
      if (frame.name === 'result') return;
      if (frame.name !== 'item') throw unexpectedFrame(frame);
      // SAFETY: the owner runs the same protocol, so an item of `events` is an EngineEvent.
      yield decodeValue(Buffer.from(frame.payload).toString()) as EngineEvent;
    }
  } catch (error) {
    // The iteration ends with the signal, without an error.
    if (!signal.aborted) throw error;
  } finally {
    opened?.dispose();
  }
}

/** Why the caller's signal ended the call, as a RuntimeError; undefined while it has not. */
function abortError(signal: AbortSignal | undefined, subject: string): RuntimeError | undefined {
  if (signal?.aborted !== true) return undefined;
  const reason: unknown = signal.reason;
  if (reason instanceof RuntimeError) return reason;
  const isTimeout = reason instanceof Error && reason.name === 'TimeoutError';
  return new RuntimeError(isTimeout ? 'deadlineExceeded' : 'cancelled', `${subject}: ${isTimeout ? 'deadline exceeded' : 'cancelled'}`, { cause: reason });
}
