/**
 * The owner's side of a live process: its output as frames, frames as its input. In: the connection of an exec or attach call.
 * Out: frames until the process ends, then its exit code. The end of the connection closes the streams.
 */
import type { Socket } from 'node:net';
import { RuntimeError, invalidArgument, limits } from '#core';
import type { ProcessStreams } from '#pod';
import { sendFrame } from './channel.io.ts';
import type { Frame, FrameName } from './frames.ts';
import { decodeValue, encodeError, encodeValue } from './values.ts';

interface StreamsConnection {
  readonly socket: Socket;
  readonly frames: AsyncGenerator<Frame, void, void>;
  readonly controller: AbortController;
}

/** Opens the streams and serves them until the process has ended. Errors are the caller's to send. */
export async function serveStreams(connection: StreamsConnection, open: () => Promise<ProcessStreams>): Promise<void> {
  const { socket, frames, controller } = connection;
  const input = new InputFrames(socket);
  // Read from the start, so that a client that leaves while the process is being set up is noticed.
  const inputEnded = input
    .receive(frames)
    .then(() => new RuntimeError('cancelled', 'call engine: the client has gone'))
    .catch((error: unknown) => (error instanceof RuntimeError ? error : new RuntimeError('cancelled', 'call engine: the client has gone', { cause: error })));
  void inputEnded.then((reason) => controller.abort(reason));
  const streams = await open();
  const closeStreams = (): void => streams.close();
  controller.signal.addEventListener('abort', closeStreams);
  // The exit is awaited after the output; until then nobody else would see it fail.
  streams.exited.catch(() => undefined);
  try {
    controller.signal.throwIfAborted();
    await sendFrame(socket, 'opened');
    input.start(streams);
    for await (const { stream, data } of streams.output) await sendOutput(socket, stream === 1 ? 'stdout' : 'stderr', data);
    await sendFrame(socket, 'result', encodeValue(await streams.exited));
  } finally {
    controller.signal.removeEventListener('abort', closeStreams);
    streams.close();
  }
}

async function sendOutput(socket: Socket, name: 'stdout' | 'stderr', data: Uint8Array): Promise<void> {
  for (let offset = 0; offset < data.length; offset += limits.engineFrameBytesMax) {
    await sendFrame(socket, name, data.subarray(offset, offset + limits.engineFrameBytesMax));
  }
}

/** Hands input frames to the process. One input and one resize may be under way; a client that sends more breaks the protocol. */
class InputFrames {
  readonly #socket: Socket;
  readonly #busy = new Set<FrameName>();
  #streams: ProcessStreams | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  start(streams: ProcessStreams): void {
    this.#streams = streams;
  }

  /** Resolves when the client has ended the connection; throws invalidArgument for a frame out of turn. */
  async receive(frames: AsyncGenerator<Frame, void, void>): Promise<void> {
    for await (const frame of frames) {
      const streams = this.#streams;
      if (streams === undefined) throw invalidArgument('', `decode ${frame.name} frame: the process is not running yet`);
      switch (frame.name) {
        case 'stdin':
          this.#run('inputDone', () => streams.write(frame.payload));
          break;
        case 'closeInput':
          this.#run('inputDone', () => streams.closeInput());
          break;
        case 'resize': {
          const size = decodeSize(frame.payload);
          this.#run('resizeDone', () => streams.resize(size));
          break;
        }
        default:
          throw invalidArgument('', `decode ${frame.name} frame: not for the owner of the engine`);
      }
    }
  }

  #run(answer: FrameName, action: () => Promise<void>): void {
    if (this.#busy.has(answer)) throw invalidArgument('', `decode engine frame: sent before ${answer}`);
    this.#busy.add(answer);
    // Not awaited: a full pipe must not keep a resize or the end of the connection from being read.
    void action()
      .then(() => '', encodeError)
      .then((payload) => {
        this.#busy.delete(answer);
        return sendFrame(this.#socket, answer, payload);
      })
      .catch(() => undefined);
  }
}

function decodeSize(payload: Uint8Array): { readonly columns: number; readonly rows: number } {
  const decoded = decodeValue(Buffer.from(payload).toString());
  const fields = new Map<string, unknown>(Object.entries(decoded ?? {}));
  const [columns, rows] = [fields.get('columns'), fields.get('rows')];
  if (!isSize(columns) || !isSize(rows)) throw invalidArgument('', 'decode resize frame: columns and rows must be 0 to 65535');
  return { columns, rows };
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65_535;
}
