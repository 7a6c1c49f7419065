/**
 * Requests to one registry host and to where it redirects. In: a URL, headers, perhaps a body. Out: an answer of any status, or a
 * failure of the network. Knows TLS, proxies, time-outs and the bound on parallel requests; knows no credentials and no protocol.
 */
import type { Agent, ClientRequest, IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import type { Socket } from 'node:net';
import { RuntimeError, errorMessage, errnoName } from '#core';
import { http, https } from './http.io.ts';
import { TunnelAgent, proxyHeaders, proxyOf } from './proxy.io.ts';
import { TransientFailure } from './retry.io.ts';
import type { Slots } from './slots.ts';
import { type TlsOptions, tlsOptionsOf } from './tls.io.ts';
import type { ProxySettings, RegistryHost } from './types.ts';

/** Content that is sent. */
export interface RequestBody {
  readonly sizeBytes: number;
  /** Called anew for each try. What it throws is the caller's failure, not the registry's. */
  open(): AsyncIterable<Uint8Array>;
  readonly onBytes?: (count: number) => void;
}

/** One request. */
export interface Call {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  readonly url: URL;
  readonly headers: OutgoingHttpHeaders;
  readonly body?: RequestBody | undefined;
  /** Instead of the stall time-out, for an answer that takes long to make. */
  readonly answerTimeoutMs?: number;
}

/** What a transport is made of. */
export interface TransportOptions {
  readonly host: RegistryHost;
  readonly proxy: ProxySettings;
  /** No byte for so long ends a request. */
  readonly stallTimeoutMs: number;
  readonly slots: Slots;
}

/** Runs while the other side is waited for, and only then: a slow reader is not the network's fault. */
class Watch implements Disposable {
  readonly #timer: NodeJS.Timeout;
  #isWaiting = true;

  constructor(timeoutMs: number, onStall: () => void) {
    this.#timer = setTimeout(() => {
      if (this.#isWaiting) onStall();
    }, timeoutMs);
  }

  wait(): void {
    this.#isWaiting = true;
    this.#timer.refresh();
  }

  pause(): void {
    this.#isWaiting = false;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** An answer whose body has yet to be read, discarded or dropped by disposal; until then it holds its slot. */
export class Answer implements Disposable {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly url: URL;
  readonly #response: IncomingMessage;
  readonly #end: () => void;
  readonly #stallTimeoutMs: number;
  readonly #failed: (cause: unknown) => unknown;

  constructor(response: IncomingMessage, url: URL, context: { readonly stallTimeoutMs: number; readonly failed: (cause: unknown) => unknown; readonly end: () => void }) {
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    this.url = url;
    this.#response = response;
    this.#stallTimeoutMs = context.stallTimeoutMs;
    this.#failed = context.failed;
    this.#end = context.end;
  }

  /** The body as it comes. Throws TransientFailure where it breaks or stalls, and the signal's reason. */
  async *chunks(): AsyncGenerator<Buffer> {
    const response = this.#response;
    using watch = new Watch(this.#stallTimeoutMs, () => response.destroy(stalled(this.url, this.#stallTimeoutMs)));
    try {
      for await (const chunk of response) {
        watch.pause();
        // SAFETY: no encoding is set, so a response gives buffers.
        yield chunk as Buffer;
        watch.wait();
      }
      if (!response.complete) throw new TransientFailure('unavailable', `talk to ${this.url.host}: the connection ended before the content did`);
    } catch (cause) {
      throw this.#failed(cause);
    } finally {
      this[Symbol.dispose]();
    }
  }

  /** The whole body, at most `bytesMax`. */
  async bytes(bytesMax: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of this.chunks()) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new RuntimeError('resourceExhausted', `the answer has more than ${bytesMax} bytes`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  }

  /** Reads a short body to its end, so that the connection can be used again; a long one is cut off. */
  async discard(bytesMax: number): Promise<void> {
    await this.bytes(bytesMax).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    this.#response.destroy();
    this.#end();
  }
}

function stalled(url: URL, timeoutMs: number): TransientFailure {
  return new TransientFailure('deadlineExceeded', `no answer from ${url.host} for ${timeoutMs} ms`);
}

/** Errors of the network after which another try makes sense. */
const transientErrnos = new Set(['ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ECONNABORTED', 'ENETUNREACH', 'EHOSTUNREACH', 'ENETDOWN']);

/** Connections to one host and to where it leads; kept until disposal. */
export class Transport implements Disposable {
  readonly #options: TransportOptions;
  readonly #hostname: string;
  readonly #dialTimeoutMs: number;
  readonly #agents = new Map<string, Agent>();
  /** Sockets that are past their dialling. */
  readonly #ready = new WeakSet<Socket>();
  #hasAnswered = false;
  #isClosed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.#hostname = new URL(options.host.url).hostname;
    this.#dialTimeoutMs = options.host.dialTimeoutMs ?? options.stallTimeoutMs;
  }

  /** False while nobody has answered under this host's name or where it led. */
  get hasAnswered(): boolean {
    return this.#hasAnswered;
  }

  /** Sends one request and gives the answer, of whatever status. Throws TransientFailure, unavailable, failedPrecondition, the signal's reason, what the body throws. */
  async send(call: Call, signal: AbortSignal): Promise<Answer> {
    const slot = await this.#options.slots.take(signal);
    try {
      // Agents that have been closed would make new connections, and nobody would end those.
      if (this.#isClosed) throw new RuntimeError('cancelled', `talk to ${call.url.host}: the client is closed`);
      return await this.#exchange(call, signal, () => slot[Symbol.dispose]());
    } catch (error) {
      slot[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    for (const agent of this.#agents.values()) {
      // An answer that ends after this would put its connection back for the next request, and there is none.
      agent.maxFreeSockets = 0;
      agent.destroy();
    }
  }

  async #exchange(call: Call, signal: AbortSignal, release: () => void): Promise<Answer> {
    const { url, body } = call;
    const { stallTimeoutMs } = this.#options;
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    // Rejected once more than awaited: a request that is given up may also report its own end.
    promise.catch(() => undefined);
    const request = this.#tryOpen(call);
    let response: IncomingMessage | undefined;
    const failed = (cause: unknown): unknown => (signal.aborted ? signal.reason : this.#describe(cause, url));
    // The promise is settled by itself: a request that has no socket yet may never say that it was destroyed.
    const giveUp = (cause: unknown): void => {
      reject(failed(cause));
      (response ?? request).destroy();
    };
    // What fails while reading the content to send is not the registry's fault and is passed on as it is.
    const refuse = (cause: unknown): void => {
      reject(signal.aborted ? signal.reason : cause);
      (response ?? request).destroy();
    };
    const abort = (): void => giveUp(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    const over = Promise.withResolvers<void>();
    const end = (): void => {
      signal.removeEventListener('abort', abort);
      if (!request.writableFinished) request.destroy();
      over.resolve();
      release();
    };
    using watch = new Watch(stallTimeoutMs, () => giveUp(stalled(url, stallTimeoutMs)));
    const watchCommit = (): void => {
      const { answerTimeoutMs } = call;
      if (answerTimeoutMs === undefined) return watch.wait();
      watch.pause();
      const commit = new Watch(answerTimeoutMs, () => giveUp(stalled(url, answerTimeoutMs)));
      const stop = (): void => commit[Symbol.dispose]();
      promise.then(stop, stop);
    };
    request.on('error', giveUp);
    request.on('response', (message) => {
      response = message;
      resolve(message);
    });
    // A switch to another protocol ends without an answer and without an error.
    request.on('close', () => {
      if (response === undefined) giveUp(new TransientFailure('unavailable', `talk to ${url.host}: the connection ended without an answer`));
    });
    request.on('socket', (socket) => this.#boundDial(socket, request, url));
    try {
      if (body === undefined) request.end();
      else void sendBody(request, body, { watch, over: over.promise }).then(watchCommit, refuse);
      const message = await promise;
      this.#hasAnswered = true;
      return new Answer(message, url, { stallTimeoutMs, failed, end });
    } catch (error) {
      request.destroy();
      end();
      throw error;
    }
  }

  /** Node refuses some headers and addresses at once. */
  #tryOpen(call: Call): ClientRequest {
    try {
      return this.#open(call);
    } catch (cause) {
      throw cause instanceof RuntimeError ? cause : this.#describe(cause, call.url);
    }
  }

  #open(call: Call): ClientRequest {
    const { url, method, body } = call;
    const isPlain = url.protocol === 'http:';
    const proxy = proxyOf(url, this.#options.proxy);
    const agent = this.#agent(url, proxy);
    const headers = {
      'user-agent': 'berth',
      'accept-encoding': 'identity',
      ...call.headers,
      ...(body === undefined ? (method === 'POST' ? { 'content-length': 0 } : {}) : { 'content-length': body.sizeBytes }),
    };
    if (!isPlain) return https.request(url, { method, agent, headers });
    if (proxy === undefined) return http.request(url, { method, agent, headers });
    // RFC 9112, 3.2.2: to a proxy a plain request names the whole URL.
    return (proxy.protocol === 'https:' ? https : http).request({
      method,
      agent,
      hostname: proxy.hostname.replaceAll(/^\[|\]$/g, ''),
      port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      path: url.href,
      headers: { ...headers, host: url.host, ...proxyHeaders(proxy) },
    });
  }

  /** One agent per kind of way: connections of one are never used for another. */
  #agent(url: URL, proxy: URL | undefined): Agent {
    const isOwn = url.hostname === this.#hostname;
    const key = `${url.protocol} ${proxy?.href ?? ''} ${isOwn}`;
    const known = this.#agents.get(key);
    if (known !== undefined) return known;
    const agent = this.#newAgent(url, proxy, isOwn);
    this.#agents.set(key, agent);
    return agent;
  }

  #newAgent(url: URL, proxy: URL | undefined, isOwn: boolean): Agent {
    if (url.protocol === 'http:') return proxy?.protocol === 'https:' ? new https.Agent({ keepAlive: true }) : new http.Agent({ keepAlive: true });
    const tls: TlsOptions = tlsOptionsOf(this.#options.host, isOwn);
    return proxy === undefined ? new https.Agent({ keepAlive: true, ...tls }) : new TunnelAgent({ keepAlive: true, ...tls, proxy, dialTimeoutMs: this.#dialTimeoutMs });
  }

  /** Connecting has a time-out of its own; a connection that is used again is past it. */
  #boundDial(socket: Socket, request: ClientRequest, url: URL): void {
    const isSecured = 'getPeerCertificate' in socket;
    if (this.#ready.has(socket) || (!isSecured && !socket.connecting)) return;
    const timer = setTimeout(
      () => request.destroy(new TransientFailure('deadlineExceeded', `connect to ${url.host}: not done after ${this.#dialTimeoutMs} ms`)),
      this.#dialTimeoutMs,
    );
    socket.once('close', () => clearTimeout(timer));
    socket.once(isSecured ? 'secureConnect' : 'connect', () => {
      clearTimeout(timer);
      this.#ready.add(socket);
    });
  }

  #describe(cause: unknown, url: URL): RuntimeError {
    if (cause instanceof TransientFailure) return cause;
    if (cause instanceof RuntimeError && cause.message.startsWith('talk to ')) return cause;
    if (cause instanceof RuntimeError) return new RuntimeError(cause.code, `talk to ${url.host}: ${cause.message}`, { cause });
    const code = cause instanceof Error && 'code' in cause && typeof cause.code === 'string' ? cause.code : '';
    const errno = errnoName(cause);
    const options = { cause, ...(errno === undefined ? {} : { errno }) };
    if (/CERT|^ERR_TLS|^UNABLE_TO|^HOSTNAME/.test(code))
      return new RuntimeError('unavailable', `talk to ${url.host}: verify its certificate: ${errorMessage(cause).replace(/; if the root CA .*$/, '')}`, options);
    if (/^ERR_SSL|^EPROTO$/.test(code)) return new RuntimeError('unavailable', `talk to ${url.host}: ${describeTls(errorMessage(cause))}`, options);
    const isCutOff = code === 'ERR_STREAM_PREMATURE_CLOSE' || (code === 'ECONNRESET' && errorMessage(cause) === 'aborted');
    const message = `talk to ${url.host}: ${isCutOff ? 'the connection ended before the content did' : describeNetwork(cause)}`;
    // A host that has never answered is not there; one that has may be starting again.
    const isTransient = isCutOff || transientErrnos.has(code) || code === 'EAI_AGAIN' || (code === 'ECONNREFUSED' && this.#hasAnswered);
    return isTransient ? new TransientFailure('unavailable', message, options) : new RuntimeError('unavailable', message, options);
  }
}

/** Node tries every address of a name and gives all failures without a message of its own. */
function describeNetwork(cause: unknown): string {
  if (cause instanceof AggregateError && cause.errors.length > 0) return [...new Set(cause.errors.map(errorMessage))].slice(0, 4).join(', ');
  return errorMessage(cause);
}

/** OpenSSL's words without its numbers and source places. */
function describeTls(message: string): string {
  if (/wrong version number|packet length too long|http request/.test(message)) return 'it does not speak TLS';
  const alert = /:([a-z0-9 /_-]+):[^:]*:\d+(?::|$)/i.exec(message.replace(/^.*?SSL routines:[^:]*/, ''))?.[1];
  return alert === undefined ? 'TLS fails' : `TLS fails: ${alert}`;
}

/**
 * Writes the body as fast as it is taken, and stops early where the other side does, or once the exchange is `over`: a request that never got a socket says
 * nothing when it is destroyed. Throws what the source throws, and dataLoss where it has another size than it should.
 */
async function sendBody(request: ClientRequest, body: RequestBody, { watch, over }: { readonly watch: Watch; readonly over: Promise<void> }): Promise<void> {
  const wrongSize = (bytes: string): RuntimeError => new RuntimeError('dataLoss', `read what is sent: ${bytes} than the ${body.sizeBytes} bytes that it should have`);
  let bytes = 0;
  watch.pause();
  for await (const chunk of body.open()) {
    bytes += chunk.length;
    if (bytes > body.sizeBytes) throw wrongSize('more');
    if (request.destroyed) return;
    const isTaken = request.write(chunk);
    body.onBytes?.(chunk.length);
    if (isTaken) continue;
    watch.wait();
    await Promise.race([drained(request), over]);
    watch.pause();
  }
  if (bytes < body.sizeBytes) throw wrongSize('less');
  request.end();
}

/** Resolves when the request takes more, or never will. */
function drained(request: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    const resume = (): void => {
      request.off('drain', resume);
      request.off('close', resume);
      resolve();
    };
    request.on('drain', resume);
    request.on('close', resume);
  });
}
