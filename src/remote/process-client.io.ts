/**
 * The client's side of a live process. In: an open exec or attach call. Out: ProcessStreams whose output is pulled from the
 * connection only as fast as it is consumed. It ends with the connection.
 */
import { BoundedQueue, RuntimeError, limits } from '#core';
import type { ProcessStreams } from '#pod';
import type { OpenCall } from './client.io.ts';
import { sendFrame } from './channel.io.ts';
import type { Frame, FrameName } from './frames.ts';
import { decodeError, decodeValue, encodeValue } from './values.ts';

interface OutputChunk {
  readonly stream: 1 | 2;
  readonly data: Uint8Array;
}

/** Input is cut into pieces of this size, each confirmed by the owner before the next. */
const inputPieceBytes = 256 * 1024;
/** Output read ahead of its consumer; beyond it the connection is left unread and the process blocks. */
const outputAheadBytesMax = 1024 * 1024;

/** ProcessStreams over an engine connection. */
export class RemoteProcess implements ProcessStreams {
  readonly output: AsyncIterable<OutputChunk>;
  readonly exited: Promise<number>;
  readonly #call: OpenCall;
  readonly #exit = Promise.withResolvers<number>();
  readonly #queue: BoundedQueue<OutputChunk>;
  #aheadBytes = 0;
  #wakeReader: (() => void) | undefined;
  #isDiscarding = false;
  /** Answers that are awaited, by the name of the frame that brings them. */
  readonly #awaited = new Map<FrameName, PromiseWithResolvers<void>>();
  #inputTail: Promise<void> = Promise.resolve();
  #resizeTail: Promise<void> = Promise.resolve();
  #ended: RuntimeError | undefined;

  constructor(call: OpenCall) {
    this.#call = call;
    this.#queue = new BoundedQueue({
      // Bytes bound the queue before this number does: every chunk has at least one.
      capacity: outputAheadBytesMax + limits.engineFrameBytesMax,
      overflowError: () => new RuntimeError('internal', 'bug: output queue overflow'),
    });
    this.output = { [Symbol.asyncIterator]: () => this.#consume() };
    this.exited = this.#exit.promise;
    // Whoever awaits `exited` sees the failure; nobody has to.
    this.exited.catch(() => undefined);
    void this.#read();
  }

  async write(data: Uint8Array): Promise<void> {
    const turn = this.#inputTail.then(async () => {
      for (let offset = 0; offset < data.length; offset += inputPieceBytes) {
        await this.#request('stdin', data.subarray(offset, offset + inputPieceBytes), 'inputDone');
      }
    });
    this.#inputTail = turn.catch(() => undefined);
    await turn;
  }

  async closeInput(): Promise<void> {
    const turn = this.#inputTail.then(() => this.#request('closeInput', new Uint8Array(), 'inputDone'));
    this.#inputTail = turn.catch(() => undefined);
    await turn;
  }

  async resize(size: { readonly columns: number; readonly rows: number }): Promise<void> {
    const turn = this.#resizeTail.then(() => this.#request('resize', Buffer.from(encodeValue(size)), 'resizeDone'));
    this.#resizeTail = turn.catch(() => undefined);
    await turn;
  }

  close(): void {
    this.#end(new RuntimeError('cancelled', 'use process streams: closed'));
  }

  async #request(name: FrameName, payload: Uint8Array, answer: FrameName): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended;
    const answered = Promise.withResolvers<void>();
    this.#awaited.set(answer, answered);
    answered.promise.catch(() => undefined);
    await sendFrame(this.#call.socket, name, payload).catch((error: unknown) => {
      throw this.#ended ?? error;
    });
    await answered.promise;
  }

  async #read(): Promise<void> {
    try {
      for await (const frame of this.#call.frames) {
        if (frame.name === 'result') {
          this.#exit.resolve(decodeExitCode(frame));
          this.#end(new RuntimeError('failedPrecondition', 'use process streams: the process has ended'));
          return;
        }
        await this.#handle(frame);
      }
      throw new RuntimeError('unavailable', 'engine connection ended before the process');
    } catch (error) {
      this.#end(error instanceof RuntimeError ? error : new RuntimeError('unavailable', 'engine connection lost', { cause: error }));
    }
  }

  async #handle(frame: Frame): Promise<void> {
    switch (frame.name) {
      case 'stdout':
      case 'stderr':
        await this.#enqueue({ stream: frame.name === 'stdout' ? 1 : 2, data: frame.payload });
        return;
      case 'inputDone':
      case 'resizeDone': {
        const answered = this.#awaited.get(frame.name);
        this.#awaited.delete(frame.name);
        if (frame.payload.length === 0) answered?.resolve();
        else answered?.reject(decodeError(Buffer.from(frame.payload).toString()));
        return;
      }
      case 'error':
        throw decodeError(Buffer.from(frame.payload).toString());
      default:
        throw new RuntimeError('invalidArgument', `decode engine answer: unexpected ${frame.name} frame`);
    }
  }

  async #enqueue(chunk: OutputChunk): Promise<void> {
    if (chunk.data.length === 0 || this.#isDiscarding) return;
    this.#queue.push(chunk);
    this.#aheadBytes += chunk.data.length;
    while (this.#aheadBytes > outputAheadBytesMax && !this.#isDiscarding && this.#ended === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wakeReader = resolve;
      await promise;
    }
  }

  async *#consume(): AsyncGenerator<OutputChunk, void, void> {
    try {
      for await (const chunk of this.#queue) {
        this.#aheadBytes -= chunk.data.length;
        this.#wakeReader?.();
        yield chunk;
      }
    } finally {
      // A consumer that left early wants no more output; the process goes on, as with a closed pager.
      this.#isDiscarding = true;
      this.#wakeReader?.();
    }
  }

  /** Once. A failure reaches the consumer of the output, the waiters for answers, and `exited`. */
  #end(reason: RuntimeError): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    // The exit code came before where the process has ended; then this does nothing.
    this.#exit.reject(reason);
    if (reason.code === 'failedPrecondition' || reason.code === 'cancelled') this.#queue.end();
    else this.#queue.fail(reason);
    for (const answered of this.#awaited.values()) answered.reject(reason);
    this.#wakeReader?.();
    this.#call.dispose();
  }
}

function decodeExitCode(frame: Frame): number {
  const exitCode = decodeValue(Buffer.from(frame.payload).toString());
  if (typeof exitCode !== 'number') throw new RuntimeError('internal', 'decode exit code: not a number');
  return exitCode;
}
