/**
 * Servers around a registry: Debian's docker-registry with a way of its own to let people in, a token server, an HTTP proxy. In: what they need
 * to know. Out: addresses, and lists of what they were asked. Everything is on loopback.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, type Server, type ServerResponse, createServer, request } from 'node:http';
import { type AddressInfo, type Socket, connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './image-host.ts';

/** A docker-registry with these lines in its configuration. */
export class GuardedRegistry implements AsyncDisposable {
  readonly address: string;
  readonly #child: ChildProcess;

  private constructor(address: string, child: ChildProcess) {
    this.address = address;
    this.#child = child;
  }

  static async start(dir: string, configuration: string): Promise<GuardedRegistry> {
    const port = await freePort();
    const file = join(dir, `registry-${port}.yml`);
    writeFileSync(file, `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${dir}/data-${port}}}\nhttp: {addr: "127.0.0.1:${port}"}\n${configuration}\n`);
    const child = spawn('docker-registry', ['serve', file], { stdio: 'ignore', env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } });
    const registry = new GuardedRegistry(`127.0.0.1:${port}`, child);
    for (let tries = 0; tries < 1200; tries += 1) {
      const answered = await fetch(`http://${registry.address}/v2/`).then(
        () => true,
        () => false,
      );
      if (answered) return registry;
      await sleep(50);
    }
    await registry[Symbol.asyncDispose]();
    throw new Error('docker-registry does not answer');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((end) => this.#child.once('exit', end));
    if (this.#child.exitCode === null && this.#child.kill('SIGKILL')) await ended;
  }
}

/** A plain http server of the test. */
export class TestServer implements AsyncDisposable {
  readonly address: string;
  readonly server: Server;

  private constructor(server: Server, address: string) {
    this.server = server;
    this.address = address;
  }

  static async start(serve: (incoming: IncomingMessage, answer: ServerResponse) => void): Promise<TestServer> {
    const server = createServer(serve);
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    // SAFETY: a TCP server that listens has an address of this type.
    return new TestServer(server, `127.0.0.1:${(server.address() as AddressInfo).port}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((end) => this.server.close(end));
    this.server.closeAllConnections();
    await closed;
  }
}

/** What a token server was asked. */
export interface TokenRequest {
  readonly method: string;
  readonly authorization: string | undefined;
  readonly fields: URLSearchParams;
}

/** Gives out tokens that docker-registry believes, to whoever has the name `user` and the password `pass`, or the refresh token `refresh`. */
export class TokenServer implements AsyncDisposable {
  readonly requests: TokenRequest[] = [];
  readonly #server: TestServer;

  private constructor(server: TestServer) {
    this.#server = server;
  }

  /** Signs with the key of a certificate that the registry has in its bundle. */
  static async start(pair: { readonly certFile: string; readonly keyFile: string }): Promise<TokenServer> {
    const serve = (incoming: IncomingMessage, answer: ServerResponse): void => {
      void readText(incoming).then((body) => tokens.#serve(pair, { incoming, body, answer }));
    };
    const tokens = new TokenServer(await TestServer.start(serve));
    return tokens;
  }

  get realm(): string {
    return `http://${this.#server.address}/token`;
  }

  #serve(
    pair: { readonly certFile: string; readonly keyFile: string },
    exchange: { readonly incoming: IncomingMessage; readonly body: string; readonly answer: ServerResponse },
  ): void {
    const { incoming, body, answer } = exchange;
    const { method = '', headers } = incoming;
    const fields = method === 'POST' ? new URLSearchParams(body) : new URL(incoming.url ?? '', 'http://localhost').searchParams;
    this.requests.push({ method, authorization: headers.authorization, fields });
    const isKnown = method === 'POST' ? fields.get('refresh_token') === 'refresh' : headers.authorization === `Basic ${Buffer.from('user:pass').toString('base64')}`;
    if (!isKnown) return void answer.writeHead(401, { 'content-type': 'application/json' }).end('{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}');
    const scopes = fields.getAll('scope').flatMap((scope) => scope.split(' '));
    answer
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ [method === 'POST' ? 'access_token' : 'token']: signToken(pair, fields.get('service') ?? '', scopes), expires_in: 300 }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}

/** A JSON web token as the distribution project's token page describes it. */
function signToken(pair: { readonly certFile: string; readonly keyFile: string }, audience: string, scopes: readonly string[]): string {
  const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const access = scopes.map((scope) => {
    const [type, name, actions = ''] = scope.split(':');
    return { type, name, actions: actions.split(',') };
  });
  const head = encode({ typ: 'JWT', alg: 'ES256', x5c: [new X509Certificate(readFileSync(pair.certFile)).raw.toString('base64')] });
  const claims = encode({ iss: 'test-issuer', sub: 'user', aud: audience, exp: now + 300, nbf: now - 60, iat: now, jti: randomUUID(), access });
  const signature = sign('sha256', Buffer.from(`${head}.${claims}`), { key: createPrivateKey(readFileSync(pair.keyFile)), dsaEncoding: 'ieee-p1363' });
  return `${head}.${claims}.${signature.toString('base64url')}`;
}

async function readText(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) {
    // SAFETY: no encoding is set, so a request gives buffers.
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString();
}

/** An HTTP proxy that leads every name to one address, by CONNECT and by whole URLs, for whoever has the name `user` and the password `p@ss`. */
export class TestProxy implements AsyncDisposable {
  /** `CONNECT host:port` or `GET URL`, as asked. */
  readonly requests: string[] = [];
  readonly #server: TestServer;
  readonly #sockets = new Set<Socket>();

  private constructor(server: TestServer) {
    this.#server = server;
  }

  static async start(target: string): Promise<TestProxy> {
    const isKnown = ({ headers }: IncomingMessage): boolean => headers['proxy-authorization'] === `Basic ${Buffer.from('user:p@ss').toString('base64')}`;
    const serve = (incoming: IncomingMessage, answer: ServerResponse): void => {
      proxy.requests.push(`${incoming.method} ${incoming.url}`);
      if (!isKnown(incoming)) return void answer.writeHead(407).end();
      const url = new URL(incoming.url ?? '');
      incoming.pipe(
        request({ host: '127.0.0.1', port: target.split(':')[1], method: incoming.method, path: `${url.pathname}${url.search}`, headers: incoming.headers }, (real) => {
          answer.writeHead(real.statusCode ?? 500, real.headers);
          real.pipe(answer);
        }),
      );
    };
    const server = await TestServer.start(serve);
    const proxy = new TestProxy(server);
    server.server.on('connect', (incoming: IncomingMessage, client: Socket) => {
      proxy.requests.push(`CONNECT ${incoming.url}`);
      client.on('error', () => undefined);
      if (!isKnown(incoming)) return void client.end('HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n');
      const real = connect(Number(target.split(':')[1]), '127.0.0.1', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        client.pipe(real).pipe(client);
      });
      real.on('error', () => client.destroy());
      client.on('close', () => real.destroy());
      proxy.#sockets.add(client).add(real);
    });
    return proxy;
  }

  get address(): string {
    return this.#server.address;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await this.#server[Symbol.asyncDispose]();
  }
}
