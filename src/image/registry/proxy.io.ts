/**
 * Proxies: which one a URL is reached through, and tunnels for https. In: settings and URLs. Out: proxy URLs, agents that connect through
 * them. A proxy's credentials go to the proxy alone and into no message.
 *
 * Node's own agents can use proxies too, but a tunnel that they have given up keeps its socket until the process ends.
 */
import type { ClientRequest } from 'node:http';
import type { AgentOptions } from 'node:https';
import { BlockList, isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { RuntimeError, errorMessage } from '#core';
import { http, https } from './http.io.ts';
import { isLoopbackHost } from './protocol.ts';
import type { ProxySettings } from './types.ts';

function isInSubnet(hostname: string, subnet: string): boolean {
  const [address = '', prefix = ''] = subnet.split('/');
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
  if (isIP(address) === 0 || isIP(hostname) !== isIP(address) || !/^\d{1,3}$/.test(prefix) || Number(prefix) > (family === 'ipv6' ? 128 : 32)) return false;
  const list = new BlockList();
  list.addSubnet(address, Number(prefix), family);
  return list.check(hostname, family);
}

/** One entry of NO_PROXY: `*`, a host, `.suffix` or `*.suffix`, each perhaps with a port, an address, or a subnet. */
function isExempt(url: URL, entry: string): boolean {
  if (entry === '*') return true;
  const hostname = url.hostname.replaceAll(/^\[|\]$/g, '').toLowerCase();
  if (entry.includes('/')) return isInSubnet(hostname, entry);
  if (isIP(entry) !== 0) return hostname === entry;
  const [, host = '', port] = /^(.*?)(?::(\d+))?$/.exec(entry) ?? [];
  if (port !== undefined && port !== (url.port || (url.protocol === 'https:' ? '443' : '80'))) return false;
  const name = host.replaceAll(/^\[|\]$/g, '').replace(/^\*(?=\.)/, '');
  if (name.startsWith('.')) return hostname.endsWith(name);
  return name !== '' && (hostname === name || (isIP(name) === 0 && hostname.endsWith(`.${name}`)));
}

/**
 * The proxy that a URL is reached through, or undefined for a direct way, which loopback hosts always have. A setting without a scheme is an http
 * proxy. Throws failedPrecondition for a setting that is no http or https URL. Source: Go's rules for these variables, which runtimes share.
 */
export function proxyOf(url: URL, settings: ProxySettings): URL | undefined {
  const setting = url.protocol === 'https:' ? settings.httpsProxy : settings.httpProxy;
  if (setting === undefined || setting === '' || isLoopbackHost(url.hostname)) return undefined;
  const entries = (settings.noProxy ?? '').toLowerCase().split(/[\s,]+/);
  if (entries.some((entry) => entry !== '' && isExempt(url, entry))) return undefined;
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(setting) ? setting : `http://${setting}`;
  const proxy = URL.canParse(text) ? new URL(text) : undefined;
  if (proxy === undefined || !['http:', 'https:'].includes(proxy.protocol))
    throw new RuntimeError('failedPrecondition', `use the proxy for ${url.protocol.slice(0, -1)}: not an http or https URL`);
  // Here, and not while a connection is being made.
  proxyHeaders(proxy);
  return proxy;
}

/** The header that lets us through the proxy, where its URL has credentials. Throws failedPrecondition for credentials that are not encoded as in URLs. */
export function proxyHeaders(proxy: URL): Record<string, string> {
  if (proxy.username === '' && proxy.password === '') return {};
  const decode = (text: string): string => {
    try {
      return decodeURIComponent(text);
    } catch {
      throw new RuntimeError('failedPrecondition', `use the proxy ${proxy.host}: its credentials are not percent-encoded`);
    }
  };
  return { 'proxy-authorization': `Basic ${Buffer.from(`${decode(proxy.username)}:${decode(proxy.password)}`).toString('base64')}` };
}

/** Connects to https hosts by tunnels through one proxy. `dialTimeoutMs` bounds the making of a tunnel. */
export class TunnelAgent extends https.Agent {
  readonly #proxy: URL;
  readonly #dialTimeoutMs: number;
  readonly #opening = new Set<ClientRequest>();

  constructor(options: AgentOptions & { readonly proxy: URL; readonly dialTimeoutMs: number }) {
    const { proxy, dialTimeoutMs, ...others } = options;
    super(others);
    this.#proxy = proxy;
    this.#dialTimeoutMs = dialTimeoutMs;
  }

  /** Called by Node for each new connection; the socket comes through the callback. */
  override createConnection(options: object, callback?: (error: Error | null, stream: Duplex) => void): undefined {
    const { host, port } = targetOf(options);
    const target = `${host.includes(':') ? `[${host}]` : host}:${port}`;
    const proxy = this.#proxy;
    const request = (proxy.protocol === 'https:' ? https : http).request({
      method: 'CONNECT',
      hostname: proxy.hostname.replaceAll(/^\[|\]$/g, ''),
      port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      path: target,
      agent: false,
      headers: { host: target, ...proxyHeaders(proxy) },
    });
    this.#opening.add(request);
    const timer = setTimeout(() => request.destroy(new Error(`no tunnel after ${this.#dialTimeoutMs} ms`)), this.#dialTimeoutMs);
    const end = (): void => {
      clearTimeout(timer);
      this.#opening.delete(request);
    };
    // SAFETY: Node's type wants a stream beside an error, and its agent looks at the error first.
    const fail = (cause: string): void => callback?.(new RuntimeError('unavailable', `proxy ${proxy.host}: ${cause}`), undefined as unknown as Duplex);
    // Every one of them: an error without a listener ends the process.
    request.on('error', (error) => {
      end();
      fail(errorMessage(error));
    });
    request.once('response', (response) => {
      // A proxy that answers CONNECT as if it were a request: whatever it says is no tunnel.
      end();
      request.destroy();
      fail(`answered ${response.statusCode}`);
    });
    request.once('connect', (response, socket, head) => {
      end();
      if (response.statusCode !== 200 || head.length > 0) {
        socket.destroy();
        fail(head.length > 0 ? 'sends before it is spoken to' : `answered ${response.statusCode}`);
        return;
      }
      // Node's own way to a TLS connection, over this socket instead of a new one.
      const overTunnel: object = { ...options, socket };
      const stream = super.createConnection(overTunnel);
      if (stream === null || stream === undefined) fail('no connection');
      else callback?.(null, stream);
    });
    request.end();
    return undefined;
  }

  override destroy(): void {
    for (const request of this.#opening) request.destroy(new Error('the client is closed'));
    super.destroy();
  }
}

function targetOf(options: object): { readonly host: string; readonly port: number } {
  if (!('host' in options) || typeof options.host !== 'string' || !('port' in options)) throw new RuntimeError('internal', 'bug: a connection without its host');
  return { host: options.host.replaceAll(/^\[|\]$/g, ''), port: Number(options.port) };
}
