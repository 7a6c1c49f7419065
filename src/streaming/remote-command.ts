/**
 * One exec or attach between a client's streams and a process, whatever carries the streams. In: the streams, and how to open the process.
 * Out: bytes in both directions, sizes of the terminal, and at the end its status. The client's end closes the process's streams.
 */
import { RuntimeError, errorMessage, limits } from '#core';
import { type CommandEnd, type StatusFormat, encodeStatus } from './status.ts';
import type { StreamChannel, StreamProcess, StreamSession } from './types.ts';

/** The streams that the client has opened; those it did not ask for are absent. */
export interface CommandChannels {
  readonly stdin?: StreamChannel;
  readonly stdout?: StreamChannel;
  readonly stderr?: StreamChannel;
  readonly error: StreamChannel;
  readonly resize?: StreamChannel;
}

/** What a command is served with. */
export interface CommandContext {
  readonly session: StreamSession;
  readonly channels: CommandChannels;
  readonly format: StatusFormat;
  /** Begins the text of a failure, such as `error executing command in container`. */
  readonly failure: string;
  readonly open: () => Promise<StreamProcess>;
}

/** Serves until the process has ended or the client has gone, and says goodbye. Never rejects. */
export async function serveCommand(context: CommandContext): Promise<void> {
  const { session, channels, format, failure } = context;
  const end = await runCommand(context).catch((error: unknown): CommandEnd => ({ kind: 'failed', error: new RuntimeError('unknown', `${failure}: ${errorMessage(error)}`) }));
  channels.stdin?.discard();
  channels.resize?.discard();
  try {
    channels.stdout?.end();
    channels.stderr?.end();
    const status = encodeStatus(end, format);
    if (status.length > 0) await channels.error.write(status);
    channels.error.end();
    await session.finish();
  } catch {
    // The client has gone, and with it whoever would be told.
    session.abort();
  }
}

async function runCommand({ session, channels, open }: CommandContext): Promise<CommandEnd> {
  const process = await open();
  const forget = whenEnded(session, () => process.close());
  try {
    if (channels.stdin !== undefined) void feed(channels.stdin, process);
    if (channels.resize !== undefined) void followSize(channels.resize, process);
    for (const unread of [channels.stdout, channels.stderr, channels.error]) unread?.discard();
    process.exited.catch(() => undefined);
    for await (const { stream, data } of process.output) await (stream === 1 ? channels.stdout : channels.stderr)?.write(data);
    return { kind: 'exited', exitCode: await process.exited };
  } finally {
    forget();
    process.close();
  }
}

/** Calls `action` once the connection has ended, at once where it has, unless the returned function is called before. */
export function whenEnded({ ended }: Pick<StreamSession, 'ended'>, action: () => void): () => void {
  if (ended.aborted) action();
  else ended.addEventListener('abort', action, { once: true });
  return () => ended.removeEventListener('abort', action);
}

/** The end of the client's input is that of the process's. False where it broke, on either side; the rest is dropped then. */
export async function feed(channel: StreamChannel, process: Pick<StreamProcess, 'write' | 'closeInput'>): Promise<boolean> {
  try {
    for await (const piece of channel.incoming) await process.write(piece);
    await process.closeInput();
    return true;
  } catch {
    channel.discard();
    return false;
  }
}

async function followSize(channel: StreamChannel, process: StreamProcess): Promise<void> {
  const decoder = new SizeDecoder();
  try {
    for await (const piece of channel.incoming) {
      // Sizes that came together: the last one is how the terminal is now.
      const size = decoder.push(piece).at(-1);
      // A size that comes too late, or for a process without a terminal, changes nothing.
      if (size !== undefined) await process.resize(size).catch(() => undefined);
    }
  } catch {
    channel.discard();
  }
}

/** Sizes of a terminal as they come on the resize stream: JSON objects one after the other, cut anywhere. */
export class SizeDecoder {
  #text = '';

  /** Throws invalidArgument for what is no size, and for one that does not end. */
  push(piece: Uint8Array): { readonly columns: number; readonly rows: number }[] {
    this.#text += Buffer.from(piece).toString('latin1');
    const sizes: { readonly columns: number; readonly rows: number }[] = [];
    for (let end = this.#text.indexOf('}'); end >= 0; end = this.#text.indexOf('}')) {
      sizes.push(decodeSize(this.#text.slice(0, end + 1)));
      this.#text = this.#text.slice(end + 1);
    }
    if (this.#text.length > limits.resizeBytesMax) throw new RuntimeError('invalidArgument', `decode terminal size: longer than ${limits.resizeBytesMax} bytes`);
    return sizes;
  }
}

function decodeSize(text: string): { readonly columns: number; readonly rows: number } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RuntimeError('invalidArgument', 'decode terminal size: no JSON', { cause: error });
  }
  const fields = new Map<string, unknown>(Object.entries(value ?? {}));
  const [columns, rows] = [fields.get('Width'), fields.get('Height')];
  if (!isSize(columns) || !isSize(rows)) throw new RuntimeError('invalidArgument', 'decode terminal size: Width and Height must be 0 to 65535');
  return { columns, rows };
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65_535;
}
