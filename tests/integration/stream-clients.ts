/**
 * Clients and a backend for suites of the streaming server. In: URLs. Out: a SPDY client that says what it is told to, right or wrong, and
 * processes whose ends and inputs a test sees. WebSocket clients are the `ws` package's own.
 */
import assert from 'node:assert/strict';
import { type Socket, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '#core';
import { type SpdyFrame, SpdyDecoder, encodeFrame } from '../../src/streaming/spdy-frames.ts';
import { HeaderReader, HeaderWriter } from '../../src/streaming/spdy-headers.ts';
import { type StreamBackend, type StreamProcess, type StreamTarget, type StreamingServer, startStreamingServer } from '#streaming';
import { systemClock } from '#system';
import { patienceMs } from './berth-host.ts';

/** Waits until the condition holds; fails after a time that no machine needs. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `${what}: never came true`);
    await sleep(10);
  }
}

/** The head of an HTTP answer, and its body as far as it came. */
export interface HttpAnswer {
  readonly status: number;
  readonly head: string;
}

/** Connections of this file's clients, for the end of a host to wait for. */
const connections = new Set<Socket>();

async function closeConnections(): Promise<void> {
  for (const socket of connections) socket.destroy();
  await until('the end of every connection', () => connections.size === 0);
}

/** Sends a request as it stands and gives the connection with the answer's head; what came after it is pushed back. */
export async function request(url: string, lines: readonly string[]): Promise<{ readonly socket: Socket; readonly answer: HttpAnswer }> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname.replaceAll(/[[\]]/g, ''), port: Number(port), allowHalfOpen: true });
  connections.add(socket);
  socket.once('close', () => connections.delete(socket));
  socket.on('error', () => undefined);
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  let received = Buffer.alloc(0);
  for await (const piece of socket.iterator({ destroyOnReturn: false })) {
    received = Buffer.concat([received, piece as Buffer]);
    const end = received.indexOf('\r\n\r\n');
    if (end < 0) continue;
    if (received.length > end + 4) socket.unshift(received.subarray(end + 4));
    const head = received.subarray(0, end).toString();
    return { socket, answer: { status: Number(head.split(' ')[1]), head } };
  }
  throw new Error('the connection ended before an answer');
}

/** A request that wants to become SPDY. */
export function spdyRequest(url: string, protocols: readonly string[], method = 'POST'): readonly string[] {
  const { pathname, search, host } = new URL(url);
  return [
    `${method} ${pathname}${search} HTTP/1.1`,
    `Host: ${host}`,
    'Connection: Upgrade',
    'Upgrade: SPDY/3.1',
    ...protocols.map((name) => `X-Stream-Protocol-Version: ${name}`),
    'Content-Length: 0',
  ];
}

/** A stream that the client has opened, and what came on it. */
export interface ClientStream {
  readonly id: number;
  text: string;
  byteCount: number;
  isReplied: boolean;
  isEnded: boolean;
  resetStatus: number | undefined;
}

/** A SPDY connection of a client. */
export class SpdyClient {
  readonly socket: Socket;
  readonly protocol: string | undefined;
  readonly streams = new Map<number, ClientStream>();
  readonly frames: SpdyFrame[] = [];
  isClosed = false;
  #nextId = 1;
  readonly #writer = new HeaderWriter();
  readonly #reader = new HeaderReader();

  private constructor(socket: Socket, protocol: string | undefined) {
    this.socket = socket;
    this.protocol = protocol;
    // A test that fails leaves it open.
    socket.unref();
    const decoder = new SpdyDecoder();
    socket.on('data', (piece) => {
      // SAFETY: no encoding is set.
      for (const frame of decoder.push(piece as Buffer)) this.#receive(frame);
    });
    socket.once('end', () => socket.end());
    socket.once('close', () => (this.isClosed = true));
  }

  /** Rejects where the server does not upgrade. */
  static async open(url: string, protocols: readonly string[]): Promise<SpdyClient> {
    const { socket, answer } = await request(url, spdyRequest(url, protocols));
    assert.equal(answer.status, 101, answer.head);
    return new SpdyClient(socket, /^x-stream-protocol-version: (.*)$/im.exec(answer.head)?.[1]);
  }

  send(frame: SpdyFrame): void {
    this.socket.write(encodeFrame(frame));
  }

  /** Opens a stream with these headers. */
  stream(headers: Readonly<Record<string, string>>): ClientStream {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream: ClientStream = { id, text: '', byteCount: 0, isReplied: false, isEnded: false, resetStatus: undefined };
    this.streams.set(id, stream);
    this.send({ kind: 'synStream', id, headers: this.#writer.write(new Map(Object.entries(headers))), fin: false, unidirectional: false });
    return stream;
  }

  write({ id }: ClientStream, data: string | Buffer, fin = false): void {
    this.send({ kind: 'data', id, bytes: Buffer.from(data), fin });
  }

  #receive(frame: SpdyFrame): void {
    this.frames.push(frame);
    const stream = 'id' in frame ? this.streams.get(frame.id) : undefined;
    if (frame.kind === 'synReply') this.#reader.read(frame.headers);
    if (stream === undefined) return;
    if (frame.kind === 'synReply') stream.isReplied = true;
    if (frame.kind === 'rstStream') stream.resetStatus = frame.status;
    if (frame.kind !== 'data') return;
    stream.byteCount += frame.bytes.length;
    if (stream.byteCount < 1024 * 1024) stream.text += frame.bytes.toString();
    stream.isEnded ||= frame.fin;
  }
}

/** A process of a test's making. */
export class FakeProcess implements StreamProcess {
  input = '';
  isInputEnded = false;
  isClosed = false;
  readonly sizes: { readonly columns: number; readonly rows: number }[] = [];
  /** While it is not resolved, input is not taken. */
  accept: Promise<void> = Promise.resolve();
  readonly output: StreamProcess['output'];
  readonly exited: Promise<number>;
  readonly #exit = Promise.withResolvers<number>();

  /** `output` gets the process; its end is that of the process, with what `exitCode` says then. */
  constructor(output: (process: FakeProcess) => StreamProcess['output'], exitCode: () => number = () => 0) {
    const exit = this.#exit;
    this.exited = exit.promise;
    this.exited.catch(() => undefined);
    const source = output(this);
    this.output = {
      async *[Symbol.asyncIterator]() {
        yield* source;
        exit.resolve(exitCode());
      },
    };
  }

  async write(data: Uint8Array): Promise<void> {
    await this.accept;
    this.input += Buffer.from(data).toString();
  }
  async closeInput(): Promise<void> {
    this.isInputEnded = true;
  }
  async resize(size: { readonly columns: number; readonly rows: number }): Promise<void> {
    this.sizes.push(size);
  }
  close(): void {
    this.isClosed = true;
    this.#exit.reject(new Error('closed'));
  }
}

/** A backend whose every process is made by `make` and kept. */
export function fakeBackend(make: () => FakeProcess): StreamBackend & { readonly processes: FakeProcess[]; readonly ports: number[] } {
  const processes: FakeProcess[] = [];
  const ports: number[] = [];
  const begin = async (): Promise<FakeProcess> => {
    const process = make();
    processes.push(process);
    return process;
  };
  return {
    processes,
    ports,
    exec: begin,
    attach: begin,
    portForward: async (_, port) => {
      ports.push(port);
      return begin();
    },
  };
}

/** Says what it was told once its input has ended, on both streams, and exits with 7. */
export function echoProcess(): FakeProcess {
  return new FakeProcess(
    async function* (process) {
      await until('the end of input', () => process.isInputEnded || process.isClosed);
      yield { stream: 1, data: Buffer.from(`out ${process.input}`) };
      yield { stream: 2, data: Buffer.from(`err ${process.input}`) };
    },
    () => 7,
  );
}

/** Waits until it is closed. */
export function idleProcess(): FakeProcess {
  // eslint-disable-next-line require-yield
  return new FakeProcess(async function* (process) {
    await until('the close', () => process.isClosed);
  });
}

/** A command with input and output. */
export const execTarget = { kind: 'exec', containerId: 'c', command: ['x'], stdin: true, stdout: true, stderr: false, tty: false } as const satisfies StreamTarget;
/** The newest protocol of a remote command over SPDY, and one of those over WebSocket. */
export const v4 = ['v4.channel.k8s.io'];

/** A streaming server with a backend whose processes a test sees. */
export interface StreamHost extends AsyncDisposable {
  readonly server: StreamingServer;
  readonly processes: FakeProcess[];
  readonly log: string[];
}

/** What a test may choose; times are long unless they are what it is about. */
export interface StreamHostOptions {
  readonly make?: () => FakeProcess;
  readonly idleTimeoutMs?: number;
  readonly creationTimeoutMs?: number;
  readonly clock?: Clock;
}

/** Starts a server. */
export async function openStreamHost({
  make = idleProcess,
  idleTimeoutMs = 3_600_000,
  creationTimeoutMs = 3_600_000,
  clock = systemClock,
}: StreamHostOptions = {}): Promise<StreamHost> {
  const backend = fakeBackend(make);
  const log: string[] = [];
  const server = await startStreamingServer({ address: '127.0.0.1', port: 0, idleTimeoutMs, creationTimeoutMs, backend, clock, log: (line) => log.push(line) });
  const close = async (): Promise<void> => {
    await server.close();
    await closeConnections();
  };
  return { server, log, processes: backend.processes, [Symbol.asyncDispose]: close };
}

/** An exec whose streams are all open. */
export async function openExec(
  host: StreamHost,
): Promise<{ readonly client: SpdyClient; readonly stdin: ReturnType<SpdyClient['stream']>; readonly stdout: ReturnType<SpdyClient['stream']> }> {
  const before = host.processes.length;
  const client = await SpdyClient.open(host.server.url(execTarget), v4);
  const [stdin, stdout] = [client.stream({ streamtype: 'stdin' }), client.stream({ streamtype: 'stdout' })];
  client.stream({ streamtype: 'error' });
  await until('the process', () => host.processes.length === before + 1);
  return { client, stdin, stdout };
}
