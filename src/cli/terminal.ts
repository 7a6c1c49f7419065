/**
 * A process's streams on this process's own: output, input, raw mode, window size. In: streams of the engine. Out: bytes.
 * Whatever happens, the terminal is given back as it was.
 */
import type { ProcessStreams } from '#pod';
import type { CliIo } from './dependencies.ts';

/** Columns and rows of the terminal that shows output; undefined where it is none. */
export function windowSize({ stdout }: Pick<CliIo, 'stdout'>): { readonly columns: number; readonly rows: number } | undefined {
  return stdout.isTTY ? { columns: stdout.columns, rows: stdout.rows } : undefined;
}

/** Copies until the process has ended and its output is written. With `tty` and an input that is a terminal, in raw mode. */
export async function connectStreams(io: CliIo, streams: ProcessStreams, { stdin, tty }: { readonly stdin: boolean; readonly tty: boolean }): Promise<void> {
  const over = new AbortController();
  const raw = tty && stdin && io.stdin.isTTY;
  const resize = (): void => {
    const size = windowSize(io);
    if (size !== undefined) void streams.resize(size).catch(() => undefined);
  };
  const stopResizing = tty ? io.onSignal('SIGWINCH', resize) : undefined;
  let input: Promise<void> | undefined;
  try {
    // The window may have changed since the process was made with its size.
    if (tty) resize();
    if (raw) io.stdin.setRawMode(true);
    if (stdin) input = sendInput(io, streams, over.signal);
    for await (const { stream, data } of streams.output) await (stream === 1 ? io.stdout : io.stderr).write(data);
  } finally {
    over.abort();
    if (raw) io.stdin.setRawMode(false);
    stopResizing?.();
    await input;
  }
}

/** Input to the process. A process that ends while bytes are on their way is no error: its exit code says what happened. */
async function sendInput(io: CliIo, streams: ProcessStreams, signal: AbortSignal): Promise<void> {
  try {
    for await (const chunk of io.stdin.read(signal)) {
      if (signal.aborted) return;
      await streams.write(chunk);
    }
    if (!signal.aborted) await streams.closeInput();
  } catch {
    // The process has ended or is about to; its end is what the caller waits for.
  }
}

/** Copies whole lines with a prefix, so that lines of several containers stay apart. */
export class LinePrefixer {
  readonly #prefix: string;
  readonly #write: (line: string) => void;
  readonly #rest: Record<1 | 2, Buffer> = { 1: Buffer.alloc(0), 2: Buffer.alloc(0) };

  constructor(prefix: string, write: (line: string) => void) {
    this.#prefix = prefix;
    this.#write = write;
  }

  /** Lines that end within these bytes are written; a line longer than 16 KiB is broken. */
  push(stream: 1 | 2, data: Uint8Array): void {
    const bytes = Buffer.concat([this.#rest[stream], data]);
    let start = 0;
    for (;;) {
      const newline = bytes.indexOf(10, start);
      const end = newline >= 0 ? newline : bytes.length - start > lineBytesMax ? start + lineBytesMax : -1;
      if (end < 0) break;
      this.#emit(bytes.subarray(start, end));
      start = newline >= 0 ? end + 1 : end;
    }
    this.#rest[stream] = Buffer.from(bytes.subarray(start));
  }

  /** Writes what has no newline yet. */
  end(): void {
    for (const stream of [1, 2] as const) {
      if (this.#rest[stream].length > 0) this.#emit(this.#rest[stream]);
      this.#rest[stream] = Buffer.alloc(0);
    }
  }

  #emit(line: Buffer): void {
    this.#write(`${this.#prefix}${line.toString('utf8').replace(/\r$/, '')}`);
  }
}

const lineBytesMax = 16 * 1024;
