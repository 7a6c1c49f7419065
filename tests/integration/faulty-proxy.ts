/**
 * A registry that misbehaves: a proxy before a real one. In: the real one's address and the fault of the moment. Out: wrong answers,
 * and a list of what was asked with which credentials.
 */
import { type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse, createServer, request } from 'node:http';
import { type AddressInfo } from 'node:net';

/** One question, the real registry's answer to it, and the answer that is still to be given. */
export interface Exchange {
  readonly asked: { readonly method: string; readonly url: string; readonly headers: IncomingHttpHeaders };
  readonly isManifest: boolean;
  readonly isBlob: boolean;
  /** A compressed blob, as layers are and configs are not. */
  readonly isLayer: boolean;
  /** How many requests of this method for this address there were before. */
  readonly earlier: number;
  readonly real: { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: Buffer };
  readonly answer: ServerResponse;
}

/** Answers wrongly and gives true, or gives false, and the real answer is passed on. */
export type Misdeed = (exchange: Exchange) => boolean;

/** What goes wrong; `none` passes everything on. */
export type Fault = keyof typeof misdeeds | { readonly redirectBlobsTo: string } | { readonly wantBasic: string } | Misdeed;

/** The real answer with other bytes and headers; `undefined` takes a header away. */
export function answerWith({ answer, real }: Exchange, body: Buffer, headers: Readonly<Record<string, string | undefined>> = {}, status = real.status): true {
  const all = { ...real.headers, 'content-length': String(body.length), ...headers };
  answer.writeHead(status, Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))).end(body);
  return true;
}

/** The real answer's first bytes, then the end of the connection; its headers promise the whole. */
export function dropAfter({ answer, real }: Exchange, bytes: number): true {
  answer.writeHead(real.status, real.headers);
  answer.flushHeaders();
  answer.write(real.body.subarray(0, bytes), () => setImmediate(() => answer.destroy()));
  return true;
}

/** A changed byte near the end. */
function altered(body: Buffer): Buffer {
  const copy = Buffer.from(body);
  copy[copy.length - 5] = (copy.at(-5) ?? 0) ^ 1;
  return copy;
}

/** Those that need no words of their own. */
const misdeeds = {
  none: () => false,
  stall: ({ isLayer, answer, real }) => {
    if (isLayer) answer.writeHead(real.status, real.headers).write(real.body.subarray(0, 10));
    return isLayer;
  },
  altered: (exchange) => exchange.isLayer && answerWith(exchange, altered(exchange.real.body)),
  truncated: (exchange) => exchange.isLayer && dropAfter(exchange, Math.floor(exchange.real.body.length / 2)),
  html: ({ answer }) => {
    answer.writeHead(200, { 'content-type': 'text/html' }).end('<html>welcome</html>');
    return true;
  },
  loop: ({ answer, asked }) => {
    answer.writeHead(307, { location: asked.url }).end();
    return true;
  },
} satisfies Readonly<Record<string, Misdeed>>;

function misdeedOf(fault: Fault): Misdeed {
  if (typeof fault === 'function') return fault;
  if (typeof fault === 'string') return misdeeds[fault];
  if ('redirectBlobsTo' in fault)
    return ({ isBlob, answer, asked }) => {
      if (isBlob) answer.writeHead(307, { location: `http://${fault.redirectBlobsTo}${asked.url}` }).end();
      return isBlob;
    };
  const wanted = `Basic ${Buffer.from(fault.wantBasic).toString('base64')}`;
  return ({ answer, asked }) => {
    if (asked.headers.authorization === wanted) return false;
    answer.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end('{"errors":[]}');
    return true;
  };
}

/** A proxy before the registry that does one thing wrong. */
export class FaultyProxy implements AsyncDisposable {
  readonly address: string;
  /** Everything that was asked, in order. */
  readonly requests: Exchange['asked'][] = [];
  readonly authorizations: (string | undefined)[] = [];
  readonly manifestRequests: string[] = [];
  readonly #layers = new Set<string>();
  readonly #server: Server;

  private constructor(server: Server, address: string) {
    this.#server = server;
    this.address = address;
  }

  static async start(target: string, faults: { readonly current: Fault }): Promise<FaultyProxy> {
    const server = createServer();
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    // SAFETY: a TCP server that listens has an address of this type.
    const proxy = new FaultyProxy(server, `127.0.0.1:${(server.address() as AddressInfo).port}`);
    server.on('request', (incoming, answer) => proxy.#serve(target, misdeedOf(faults.current), incoming, answer));
    return proxy;
  }

  #serve(target: string, misdeed: Misdeed, incoming: IncomingMessage, answer: ServerResponse): void {
    const { url = '', method = 'GET', headers: asked } = incoming;
    const earlier = this.requests.filter((other) => other.url === url && other.method === method).length;
    this.requests.push({ method, url, headers: asked });
    this.authorizations.push(asked.authorization);
    const [isBlob, isManifest] = [url.includes('/blobs/'), url.includes('/manifests/')];
    if (isManifest) this.manifestRequests.push(url);
    // A client that went away is no fault of the proxy's.
    answer.on('error', () => undefined);
    const { host: _host, authorization: _authorization, ...headers } = asked;
    const upstream = request(`http://${target}${url}`, { method, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const real = { status: response.statusCode ?? 500, headers: response.headers, body: Buffer.concat(chunks) };
        // A part of a blob does not show what the whole is; some request saw its beginning.
        if (isBlob && real.body[0] === 0x1f && real.status === 200) this.#layers.add(url);
        if (!misdeed({ asked: { method, url, headers: asked }, isManifest, isBlob, isLayer: this.#layers.has(url), earlier, real, answer })) {
          answer.writeHead(real.status, real.headers).end(real.body);
        }
      });
    });
    upstream.on('error', () => answer.destroy());
    incoming.pipe(upstream);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }
}
