/** The process around the command line: its streams, environment, files and signals. The only user of `process` in this folder. */
import { open, stat } from 'node:fs/promises';
import { RuntimeError, errnoName, wrapError } from '#core';
import { createVolumes, podrunDirectories, readHostFacts } from '#podrun';
import type { CliDependencies, CliIo, CliSink } from './dependencies.ts';
import { listenOnPort } from './listen-ports.io.ts';
import { hostLogFiles } from './log-files.io.ts';

function isClosedPipe(error: Error): boolean {
  return 'code' in error && (error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED');
}

function sinkOf(stream: NodeJS.WriteStream): CliSink {
  // Without a listener a reader that went away (`berth logs | head`) would end the process with a stack trace.
  const closed = new AbortController();
  stream.on('error', (error) => {
    if (isClosedPipe(error)) closed.abort();
  });
  return {
    closed: closed.signal,
    get isTTY() {
      return stream.isTTY === true;
    },
    get columns() {
      // A terminal that was never told its size says 0.
      return stream.columns || 80;
    },
    get rows() {
      return stream.rows || 24;
    },
    write: async (data) =>
      new Promise((resolve, reject) => {
        stream.write(data, (error) => {
          if (error === undefined || error === null || isClosedPipe(error)) resolve();
          else reject(wrapError('write output', error));
        });
      }),
  };
}

async function* readInput(signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
  const { stdin } = process;
  try {
    for await (const chunk of stdin.iterator({ destroyOnReturn: false })) {
      // SAFETY: no encoding is ever set on standard input, so its chunks are Buffers.
      yield chunk as Buffer;
      if (signal.aborted) return;
    }
  } finally {
    // A paused, unreferenced input no longer keeps the process alive.
    stdin.pause();
    stdin.unref?.();
  }
}

/** Ends the input's iteration when the signal fires, although no byte comes. */
async function* abortable(signal: AbortSignal): AsyncGenerator<Uint8Array, void, void> {
  const iterator = readInput(signal)[Symbol.asyncIterator]();
  const aborted = new Promise<undefined>((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
  for (;;) {
    const next = await Promise.race([iterator.next(), aborted]);
    if (next === undefined) {
      process.stdin.pause();
      process.stdin.unref?.();
      return;
    }
    if (next.done === true) return;
    yield next.value;
  }
}

async function readFile(path: string, { bytesMax }: { readonly bytesMax: number }): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const chunks: Buffer[] = [];
      let bytes = 0;
      // A stream, because the path may be a pipe such as /dev/fd/63 of a shell's <(…).
      for await (const chunk of file.createReadStream({ autoClose: false })) {
        // SAFETY: a read stream without encoding gives Buffers.
        const buffer = chunk as Buffer;
        bytes += buffer.length;
        if (bytes > bytesMax) throw new RuntimeError('resourceExhausted', `is larger than ${bytesMax} bytes`);
        chunks.push(buffer);
      }
      return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof TypeError) throw new RuntimeError('invalidArgument', `read ${path}: is no UTF-8 text`, { cause: error });
    throw wrapError(`read ${path}`, error);
  }
}

function createIo(): CliIo {
  const restore = (): void => {
    if (process.stdin.isTTY === true && process.stdin.isRaw) process.stdin.setRawMode(false);
  };
  return {
    stdout: sinkOf(process.stdout),
    stderr: sinkOf(process.stderr),
    stdin: {
      get isTTY() {
        return process.stdin.isTTY === true;
      },
      read: abortable,
      setRawMode: (raw) => {
        if (process.stdin.isTTY !== true) return;
        // Even an uncaught failure must give the terminal back.
        process.off('exit', restore);
        if (raw) process.on('exit', restore);
        process.stdin.setRawMode(raw);
      },
    },
    env: process.env,
    uid: process.geteuid?.() ?? 0,
    workingDirectory: process.cwd(),
    readFile,
    isDirectory: async (path) => {
      try {
        return (await stat(path)).isDirectory();
      } catch (error) {
        if (errnoName(error) === 'ENOENT' || errnoName(error) === 'ENOTDIR') return false;
        throw wrapError(`look at ${path}`, error);
      }
    },
    onSignal: (name, handler) => {
      process.on(name, handler);
      return () => void process.off(name, handler);
    },
  };
}

/** The ports that only touch this process and its host's files; `bin/` adds the engine and the rest. */
export function createHostPorts(): Pick<CliDependencies, 'io' | 'logFiles' | 'openVolumes' | 'readHostFacts' | 'listenOnPort'> {
  return { io: createIo(), listenOnPort, logFiles: hostLogFiles, openVolumes: (location) => createVolumes(podrunDirectories(location)), readHostFacts };
}
