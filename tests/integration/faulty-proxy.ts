/**
 * A registry that misbehaves: a proxy before a real one. In: the real one's address and the fault of the moment. Out: wrong answers,
 * and a list of what was asked with which credentials.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer, request } from 'node:http';
import { type AddressInfo } from 'node:net';

/** What goes wrong; `none` passes everything on. */
export type Fault = 'none' | 'stall' | 'altered' | 'truncated' | 'html' | 'loop' | { readonly redirectBlobsTo: string } | { readonly wantBasic: string };

/** A proxy before the registry that does one thing wrong. */
export class FaultyProxy implements AsyncDisposable {
  readonly address: string;
  readonly authorizations: (string | undefined)[] = [];
  readonly manifestRequests: string[] = [];
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
    server.on('request', (incoming, answer) => proxy.#serve(target, faults.current, incoming, answer));
    return proxy;
  }

  #serve(target: string, fault: Fault, incoming: IncomingMessage, answer: ServerResponse): void {
    const url = incoming.url ?? '';
    const isBlob = url.includes('/blobs/');
    this.authorizations.push(incoming.headers.authorization);
    if (url.includes('/manifests/')) this.manifestRequests.push(url);
    if (fault === 'html') return void answer.writeHead(200, { 'content-type': 'text/html' }).end('<html>welcome</html>');
    if (fault === 'loop') return void answer.writeHead(307, { location: url }).end();
    if (typeof fault === 'object' && 'redirectBlobsTo' in fault && isBlob) return void answer.writeHead(307, { location: `http://${fault.redirectBlobsTo}${url}` }).end();
    if (typeof fault === 'object' && 'wantBasic' in fault && incoming.headers.authorization !== `Basic ${Buffer.from(fault.wantBasic).toString('base64')}`)
      return void answer.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end('{"errors":[]}');
    const { host: _host, authorization: _authorization, ...headers } = incoming.headers;
    request(`http://${target}${url}`, { headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const body = Buffer.concat(chunks);
        const isLayer = isBlob && body[0] === 0x1f;
        answer.writeHead(response.statusCode ?? 500, response.headers);
        if (fault === 'stall' && isLayer) return void answer.write(body.subarray(0, 10));
        if (fault === 'altered' && isLayer) body[body.length - 5] = (body.at(-5) ?? 0) ^ 1;
        if (fault === 'truncated' && isLayer) answer.write(body.subarray(0, body.length / 2), () => answer.destroy());
        else answer.end(body);
      });
    }).end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }
}
