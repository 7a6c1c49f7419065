/**
 * The server behind streaming URLs. In: requests for URLs, and connections to them. Out: a URL that works once, and what it stands for served
 * over SPDY/3.1 or WebSocket. What it streams and how is elsewhere; here are sockets, tokens and times. No error or log holds a token.
 */
import { type IncomingMessage, STATUS_CODES, type ServerResponse, createServer } from 'node:http';
import { type AddressInfo, isIPv6 } from 'node:net';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer, createWebSocketStream } from 'ws';
import { type Clock, RuntimeError, errorMessage, limits, wrapError } from '#core';
import { decodePort } from './port-forward.ts';
import { type WebSocketProtocol, commandProtocols, forwardProtocol, negotiate, splitNames, tunnelProtocol, webSocketProtocols } from './protocols.ts';
import { type SessionContext, serveSpdyCommand, serveSpdyForward, serveWebSocketCommand, serveWebSocketForward } from './sessions.ts';
import { StreamTokens } from './tokens.ts';
import type { StreamBackend, StreamSession, StreamTarget } from './types.ts';

/** Where the server listens and how patient it is. */
export interface StreamingSettings {
  /** An address of this machine, without brackets where it is IPv6. */
  readonly address: string;
  /** 0: any free one. */
  readonly port: number;
  /** A connection on which nothing comes or goes for so long is cut. */
  readonly idleTimeoutMs: number;
  /** How long a client may take to open its streams once it is connected. */
  readonly creationTimeoutMs: number;
}

/** What a streaming server needs. */
export interface StreamingServerOptions extends StreamingSettings {
  readonly backend: StreamBackend;
  readonly clock: Clock;
  /** Gets one line for each connection that was cut for what its client did. */
  readonly log?: (line: string) => void;
}

/** A listening server. */
export interface StreamingServer {
  /** An URL that stands for the target, once, for a minute. Throws resourceExhausted. */
  url(target: StreamTarget): string;
  /** Cuts every connection: execs end, attached containers go on. */
  close(): Promise<void>;
}

const paths: Readonly<Record<StreamTarget['kind'], string>> = { exec: 'exec', attach: 'attach', portForward: 'portforward' };
const protocolHeader = 'X-Stream-Protocol-Version';
const backlog = 128;
/** A client says what it wants at once. */
const requestTimeoutMs = 60_000;

/** Starts to listen. Rejects where the address cannot be used. */
export async function startStreamingServer(options: StreamingServerOptions): Promise<StreamingServer> {
  const server = new UpgradeServer(options);
  await server.listen();
  return server;
}

class UpgradeServer implements StreamingServer {
  readonly #options: StreamingServerOptions;
  readonly #tokens: StreamTokens;
  readonly #server = createServer({ maxHeaderSize: limits.streamRequestBytesMax, headersTimeout: requestTimeoutMs, requestTimeout: requestTimeoutMs }, (request, response) =>
    this.#refuse(request, response),
  );
  readonly #webSockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.streamMessageBytesMax,
    perMessageDeflate: false,
  });
  /** Connections that are served, and how each is cut. */
  readonly #connections = new Map<Promise<void>, () => void>();
  #origin = '';

  constructor(options: StreamingServerOptions) {
    this.#options = options;
    this.#tokens = new StreamTokens(options.clock);
    this.#server.maxConnections = limits.streamConnectionsMax;
    this.#server.on('upgrade', (request, socket, head) => this.#accept(request, socket, head));
    this.#webSockets.on('headers', (headers: string[], request: IncomingMessage) => {
      const name = chosenProtocols.get(request);
      if (name !== undefined && name !== '') headers.push(`Sec-WebSocket-Protocol: ${name}`);
    });
    this.#server.on('clientError', (_, socket) => socket.destroy());
  }

  async listen(): Promise<void> {
    const { address, port } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject);
    this.#server.listen({ host: address, port, backlog }, resolve);
    await promise.catch((error: unknown) => {
      throw wrapError(`listen on ${address} port ${port} for streams`, error);
    });
    this.#server.off('error', reject);
    // An accept that fails later concerns that client only.
    this.#server.on('error', () => undefined);
    // SAFETY: a server that listens on an address has one of this shape, not a path.
    const bound = this.#server.address() as AddressInfo;
    this.#origin = `http://${isIPv6(address) ? `[${address}]` : address}:${bound.port}`;
  }

  url(target: StreamTarget): string {
    return `${this.#origin}/${paths[target.kind]}/${this.#tokens.issue(target)}`;
  }

  async close(): Promise<void> {
    this.#tokens.clear();
    const closed = Promise.withResolvers<void>();
    this.#server.close(() => closed.resolve());
    this.#server.closeAllConnections();
    for (const cut of this.#connections.values()) cut();
    await Promise.allSettled([...this.#connections.keys()]);
    await closed.promise;
  }

  /** A request without an upgrade has nothing to get here. Its token is used up all the same. */
  #refuse(request: IncomingMessage, response: ServerResponse): void {
    const { status, text } = this.#find(request) === undefined ? refusals.unknown : refusals.noUpgrade;
    response.writeHead(status, { 'Content-Type': 'text/plain', Connection: 'close' }).end(`${text}\n`);
    request.resume();
  }

  #find(request: IncomingMessage): StreamTarget | undefined {
    if (request.method !== 'GET' && request.method !== 'POST') return undefined;
    const [kind, token, ...rest] = (request.url ?? '').split('?', 1).join('').split('/').slice(1);
    const name = (['exec', 'attach', 'portForward'] as const).find((candidate) => paths[candidate] === kind);
    return name === undefined || token === undefined || rest.length > 0 ? undefined : this.#tokens.take(name, token);
  }

  #accept(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    let cut = (): void => void socket.destroy();
    const connection = this.#serve(request, socket, head, (session) => (cut = () => session.abort()))
      .catch((error: unknown) => {
        if (error instanceof HttpRefusal) refuseUpgrade(socket, error);
        else this.#options.log?.(`serve a stream: ${errorMessage(error)}`);
      })
      .finally(() => this.#connections.delete(connection));
    socket.on('error', () => undefined);
    this.#connections.set(connection, () => cut());
  }

  async #serve(request: IncomingMessage, socket: Duplex, head: Buffer, onCut: (session: StreamSession) => void): Promise<void> {
    const target = this.#find(request);
    if (target === undefined) throw new HttpRefusal(refusals.unknown);
    const { backend, clock, creationTimeoutMs, idleTimeoutMs } = this.#options;
    let lastMs = clock.monotonicMs();
    const context: SessionContext = {
      backend,
      clock,
      creationTimeoutMs,
      onActivity: () => void (lastMs = clock.monotonicMs()),
      onSession: (session) => {
        onCut(session);
        void cutWhenIdle(session, { clock, idleTimeoutMs, lastMs: () => lastMs });
      },
    };
    const upgrade = (request.headers.upgrade ?? '').toLowerCase();
    if (upgrade === 'websocket') await this.#serveWebSocket({ request, socket, head }, target, context);
    else if (upgrade === 'spdy/3.1') await serveSpdy({ request, socket, head }, target, context);
    else throw new HttpRefusal(refusals.noUpgrade);
  }

  async #serveWebSocket({ request, socket, head }: Upgrade, target: StreamTarget, context: SessionContext): Promise<void> {
    const offered = splitNames(request.headers['sec-websocket-protocol']);
    const protocol = negotiate(offered.length === 0 ? [''] : offered, webSocketProtocols(target.kind));
    if (protocol === undefined) throw new HttpRefusal(refusals.noProtocol);
    const wanted = target.kind === 'portForward' && protocol.name !== tunnelProtocol ? { ...target, ports: portsOf(target.ports, request.url ?? '') } : target;
    chosenProtocols.set(request, protocol.name);
    // The library allows no slash in a name, as RFC 6455 does not, but the tunnel's name has one.
    delete request.headers['sec-websocket-protocol'];
    const opened = Promise.withResolvers<WebSocket | undefined>();
    // A handshake that fails is answered there, and then nothing is opened.
    socket.once('close', () => opened.resolve(undefined));
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => opened.resolve(webSocket));
    const webSocket = await opened.promise;
    if (webSocket !== undefined) await serveWebSocket(webSocket, wanted, protocol, context);
  }
}

/** The subprotocol that a request gets; empty: none. */
const chosenProtocols = new WeakMap<IncomingMessage, string>();

interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  /** What came with the request. */
  readonly head: Buffer;
}

async function serveWebSocket(socket: WebSocket, target: StreamTarget, protocol: WebSocketProtocol, context: SessionContext): Promise<void> {
  if (target.kind !== 'portForward') await serveWebSocketCommand(socket, target, protocol, context);
  else if (protocol.name === tunnelProtocol) await serveSpdyForward(createWebSocketStream(socket), target, context);
  else await serveWebSocketForward(socket, target, protocol, context);
}

async function serveSpdy({ request, socket, head }: Upgrade, target: StreamTarget, context: SessionContext): Promise<void> {
  const offered = splitNames(headerText(request.headers[protocolHeader.toLowerCase()]));
  const served = target.kind === 'portForward' ? [{ name: forwardProtocol }] : commandProtocols;
  // Clients that name nothing speak the first version.
  const protocol = offered.length === 0 ? served.at(-1) : negotiate(offered, served);
  if (protocol === undefined) throw new HttpRefusal({ ...refusals.noProtocol, headers: [`X-Accepted-Stream-Protocol-Versions: ${served.map(({ name }) => name).join(', ')}`] });
  const named = offered.length === 0 ? '' : `${protocolHeader}: ${protocol.name}\r\n`;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n${named}\r\n`);
  if (head.length > 0) socket.unshift(head);
  if (target.kind === 'portForward') await serveSpdyForward(socket, target, context);
  else await serveSpdyCommand(socket, target, commandProtocols.find(({ name }) => name === protocol.name) ?? bug(), context);
}

function bug(): never {
  throw new RuntimeError('internal', 'bug: a protocol that is not served');
}

function headerText(value: string | readonly string[] | undefined): string {
  return typeof value === 'string' ? value : (value ?? []).join(',');
}

/** The ports that were asked for with the URL; where none were, those of the URL's `port` parameters. */
function portsOf(asked: readonly number[], url: string): readonly number[] {
  if (asked.length > 0) return asked;
  try {
    const ports = new URLSearchParams(url.split('?')[1] ?? '').getAll('port').flatMap((value) => value.split(',').map(decodePort));
    if (ports.length > 0 && ports.length <= limits.streamPortsMax) return ports;
  } catch {
    // The answer says the same for every way to be wrong.
  }
  throw new HttpRefusal(refusals.noPorts);
}

async function cutWhenIdle(
  session: StreamSession,
  { clock, idleTimeoutMs, lastMs }: { readonly clock: Clock; readonly idleTimeoutMs: number; readonly lastMs: () => number },
): Promise<void> {
  while (!session.ended.aborted) {
    const leftMs = lastMs() + idleTimeoutMs - clock.monotonicMs();
    if (leftMs <= 0) session.abort();
    else await clock.sleep(leftMs, session.ended).catch(() => undefined);
  }
}

// --- refusals

interface Refusal {
  readonly status: number;
  readonly text: string;
  readonly headers?: readonly string[];
}

const refusals = {
  unknown: { status: 404, text: 'no such stream' },
  noUpgrade: { status: 400, text: 'unable to upgrade: the request must ask for SPDY/3.1 or websocket' },
  noProtocol: { status: 403, text: 'unable to upgrade: unable to negotiate protocol' },
  noPorts: { status: 400, text: `the query parameter "port" must name 1 to ${limits.streamPortsMax} ports` },
} as const satisfies Readonly<Record<string, Refusal>>;

/** Why a connection is not upgraded, as an HTTP answer. */
class HttpRefusal extends RuntimeError {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super('failedPrecondition', refusal.text);
    this.refusal = refusal;
  }
}

function refuseUpgrade(socket: Duplex, { refusal }: HttpRefusal): void {
  const body = `${refusal.text}\n`;
  const head = [
    `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status]}`,
    'Connection: close',
    'Content-Type: text/plain',
    `Content-Length: ${body.length}`,
    ...(refusal.headers ?? []),
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}
