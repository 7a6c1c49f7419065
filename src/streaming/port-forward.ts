/**
 * Forwarded connections of one client. In: pairs of streams, one for bytes and one for an error. Out: for each pair a connection to the
 * pod's port, or the reason why there is none as text on its error stream. One pair's end is none of another's.
 */
import { type Clock, RuntimeError, errorMessage, limits } from '#core';
import { feed, whenEnded } from './remote-command.ts';
import type { StreamBackend, StreamChannel, StreamProcess, StreamSession } from './types.ts';

/** What forwarding needs. */
export interface ForwardContext {
  readonly session: StreamSession;
  readonly podSandboxId: string;
  readonly backend: Pick<StreamBackend, 'portForward'>;
}

/** Serves one connection until either side has ended it. Never rejects. */
export async function serveForward(
  { session, podSandboxId, backend }: ForwardContext,
  port: number,
  pair: { readonly data: StreamChannel; readonly error: StreamChannel },
): Promise<void> {
  const { data, error } = pair;
  error.discard();
  let process: StreamProcess;
  try {
    process = await backend.portForward(podSandboxId, port);
  } catch (failure) {
    data.discard();
    await error.write(Buffer.from(`error forwarding port ${port} to pod ${podSandboxId}: ${errorMessage(failure)}`)).catch(() => undefined);
    data.reset();
    error.end();
    return;
  }
  const forget = whenEnded(session, () => process.close());
  try {
    void feedForward(data, process);
    for await (const { data: bytes } of process.output) await data.write(bytes);
    await process.exited;
    data.end();
  } catch {
    // The client has gone or has given the pair up; the connection goes with it.
    data.reset();
  } finally {
    forget();
    process.close();
    data.discard();
    error.end();
  }
}

/** A client that gives up its stream does not merely end its side: nobody waits for an answer then. */
async function feedForward(channel: StreamChannel, process: StreamProcess): Promise<void> {
  if (!(await feed(channel, process))) process.close();
}

/** What a stream of the port-forward protocol says of itself. */
export interface ForwardStream {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly channel: StreamChannel;
}

interface HalfPair {
  readonly data?: StreamChannel;
  readonly error?: StreamChannel;
}

const portMax = 65_535;

/** Puts the streams of one connection together to pairs. */
export class ForwardPairs {
  readonly #context: ForwardContext;
  readonly #clock: Clock;
  readonly #creationTimeoutMs: number;
  readonly #halves = new Map<string, HalfPair>();

  constructor(context: ForwardContext, options: { readonly clock: Clock; readonly creationTimeoutMs: number }) {
    this.#context = context;
    this.#clock = options.clock;
    this.#creationTimeoutMs = options.creationTimeoutMs;
  }

  /** Throws invalidArgument for a stream that belongs to no pair; it is then to be refused. */
  add({ id, headers, channel }: ForwardStream): void {
    const port = decodePort(headers.get('port') ?? '');
    const type = headers.get('streamtype');
    if (type !== 'data' && type !== 'error') throw new RuntimeError('invalidArgument', 'open port-forward stream: its type must be data or error');
    // Clients that name no request open the error stream first and the data stream right after it; a client's ids are odd.
    const request = `${port}/${headers.get('requestid') ?? `#${type === 'error' ? id : id - 2}`}`;
    const known = this.#halves.get(request);
    if (known?.[type] !== undefined) throw new RuntimeError('invalidArgument', `open port-forward stream: its request has a stream for ${type}`);
    const pair: HalfPair = type === 'data' ? { ...known, data: channel } : { ...known, error: channel };
    const { data, error } = pair;
    if (data === undefined || error === undefined) {
      // More than there are streams: those that the client has given up again still wait here for their time.
      if (this.#halves.size >= limits.spdyStreamsMax) throw new RuntimeError('resourceExhausted', 'open port-forward stream: too many have no other half');
      this.#halves.set(request, pair);
      void this.#expire(request, channel);
      return;
    }
    this.#halves.delete(request);
    void serveForward(this.#context, port, { data, error });
  }

  /** A stream whose other half does not come in time is given up. */
  async #expire(request: string, channel: StreamChannel): Promise<void> {
    await this.#clock.sleep(this.#creationTimeoutMs, this.#context.session.ended).catch(() => undefined);
    const half = this.#halves.get(request);
    if (half?.data !== channel && half?.error !== channel) return;
    this.#halves.delete(request);
    channel.reset();
  }
}

/** A port in a header or a URL. Throws invalidArgument. */
export function decodePort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > portMax) throw new RuntimeError('invalidArgument', `decode port: must be 1 to ${portMax}`);
  return port;
}
