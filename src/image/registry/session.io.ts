/**
 * One repository at one host: requests with credentials, tokens and redirects. In: what is asked for and which rights it needs. Out: answers of
 * any status but 401. Credentials go to the host and to the token server that it names, never to where a redirect leads, never into a message.
 */
import type { OutgoingHttpHeaders } from 'node:http';
import { RuntimeError, errorCode, limits, wrapError } from '#core';
import {
  type Challenge,
  codeOfStatus,
  decodeChallenge,
  decodeRetryAfter,
  decodeToken,
  describeStatus,
  isTransientStatus,
  mergeScopes,
  resolveLocation,
  tokenServerOf,
} from './protocol.ts';
import { TransientFailure } from './retry.io.ts';
import type { Slots } from './slots.ts';
import { type Answer, type Call, type RequestBody, Transport } from './transport.io.ts';
import type { RegistryAccess, RegistryAuth, RegistryHost } from './types.ts';

/** One request of the protocol. */
export interface HostCall {
  readonly method?: Call['method'];
  /** Below the host's prefix, such as `library/busybox/tags/list?n=10`, or a URL that the host itself gave. */
  readonly target: string | URL;
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: RequestBody;
  readonly answerTimeoutMs?: number;
  /** Rights that a token for this needs; default: to pull from the repository. */
  readonly scopes?: readonly string[];
}

/** A token, and when it is too old to be worth sending. */
interface Authorization {
  readonly header: string;
  readonly expiresAtMs: number;
}

/** A token is not used in the last part of its life: it would end under way. */
const usableShare = 0.9;

/** Speaks to one host of a registry about one repository. */
export class HostSession implements Disposable {
  readonly host: RegistryHost;
  /** Host and port, for messages. */
  readonly name: string;
  readonly transport: Transport;
  readonly #repository: string;
  readonly #base: URL;
  readonly #auth: RegistryAuth | undefined;
  /** By the scopes they are for. */
  readonly #authorizations = new Map<string, Authorization>();
  /** One token request per scope at a time, however many requests were refused at once. */
  readonly #authorizing = new Map<string, { readonly done: Promise<void>; readonly signal: AbortSignal }>();

  constructor(options: { readonly access: RegistryAccess; readonly host: RegistryHost; readonly stallTimeoutMs: number; readonly slots: Slots }) {
    const { access, host, stallTimeoutMs, slots } = options;
    this.host = host;
    this.#base = new URL(host.url);
    this.name = this.#base.host;
    this.#repository = access.repository;
    this.#auth = host.isUpstream ? access.auth : undefined;
    this.transport = new Transport({ host, proxy: host.proxy === undefined ? access.proxy : { httpProxy: host.proxy, httpsProxy: host.proxy }, stallTimeoutMs, slots });
  }

  /** Asks; a refusal for want of credentials is answered with them once. Throws unauthenticated, and as `Transport.send` does. */
  async request(call: HostCall, signal: AbortSignal): Promise<Answer> {
    const scopes = call.scopes ?? [`repository:${this.#repository}:pull`];
    const url = this.#urlOf(call.target);
    const key = scopes.join(' ');
    const used = this.#authorization(key);
    const first = await this.#follow(call, url, used, signal);
    if (first.status !== 401 || first.url.origin !== this.#base.origin) return first;
    const challenge = decodeChallenge(String(first.headers['www-authenticate'] ?? ''));
    const words = describeStatus(401, await bodyOf(first));
    // Another request may have been given a new token meanwhile.
    if (used === this.#authorization(key)) await this.#authorize(challenge, { key, scopes, used }, signal);
    const second = await this.#follow(call, url, this.#authorization(key), signal);
    if (second.status !== 401) return second;
    await second.discard(limits.registryErrorBytesMax);
    // The next request asks for a new one.
    this.#authorizations.delete(key);
    throw new RuntimeError('unauthenticated', `the registry refuses ${this.#hasCredentials ? 'the credentials' : 'to answer without credentials'}: ${words}`);
  }

  /** As `request`, and throws for every status but the given ones: TransientFailure where another try makes sense. */
  async expect(statuses: readonly number[], call: HostCall, signal: AbortSignal): Promise<Answer> {
    const answer = await this.request(call, signal);
    if (statuses.includes(answer.status)) return answer;
    throw await refusalOf(answer);
  }

  /** True where a URL belongs to this host, so that credentials may go there. */
  isOwn(url: URL): boolean {
    return url.origin === this.#base.origin;
  }

  [Symbol.dispose](): void {
    this.transport[Symbol.dispose]();
  }

  get #hasCredentials(): boolean {
    const { username, password, identityToken, registryToken } = this.#auth ?? {};
    return [username, password, identityToken, registryToken].some((text) => text !== undefined && text !== '') || this.#configured !== undefined;
  }

  /** An Authorization header of the host's configuration. */
  get #configured(): string | undefined {
    return Object.entries(this.host.headers).find(([name]) => name.toLowerCase() === 'authorization')?.[1][0];
  }

  #urlOf(target: string | URL): URL {
    if (typeof target !== 'string') return target;
    const url = new URL(target, this.#base);
    if (this.host.namespace !== undefined) url.searchParams.set('ns', this.host.namespace);
    return url;
  }

  #authorization(key: string): string | undefined {
    const known = this.#authorizations.get(key) ?? this.#authorizations.get('');
    if (known !== undefined) return performance.now() < known.expiresAtMs ? known.header : undefined;
    return this.#auth?.registryToken ? `Bearer ${this.#auth.registryToken}` : this.#configured;
  }

  /** Sends a request and follows redirects. Another origin gets neither credentials nor the host's own headers. */
  async #follow(call: HostCall, start: URL, authorization: string | undefined, signal: AbortSignal): Promise<Answer> {
    const { method = 'GET', headers = {}, body, answerTimeoutMs } = call;
    let url = start;
    for (let hop = 0; hop <= limits.redirectsMax; hop += 1) {
      const own = this.isOwn(url) ? { ...this.#hostHeaders(), ...(authorization === undefined ? {} : { authorization }) } : {};
      const answer = await this.transport.send({ method, url, headers: { ...headers, ...own }, body, ...(answerTimeoutMs === undefined ? {} : { answerTimeoutMs }) }, signal);
      const { location } = answer.headers;
      const isRedirect = [301, 302, 303, 307, 308].includes(answer.status) && location !== undefined;
      if (!isRedirect) return answer;
      await answer.discard(limits.registryErrorBytesMax);
      // RFC 9110, 15.4: only 307 and 308 promise that the method stays.
      if (method !== 'GET' && method !== 'HEAD' && answer.status < 307) throw new RuntimeError('unavailable', `the registry redirects a ${method} with ${answer.status}`);
      url = resolveLocation(location, url, 'redirects');
    }
    throw new RuntimeError('unavailable', `the registry redirects more than ${limits.redirectsMax} times`);
  }

  #hostHeaders(): OutgoingHttpHeaders {
    return Object.fromEntries(Object.entries(this.host.headers).map(([name, values]) => [name.toLowerCase(), values.length === 1 ? values[0] : [...values]]));
  }

  async #authorize(
    challenge: Challenge | undefined,
    wanted: { readonly key: string; readonly scopes: readonly string[]; readonly used: string | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    const { key } = wanted;
    for (let others = this.#authorizing.get(key); others !== undefined; others = this.#authorizing.get(key)) {
      try {
        return await others.done;
      } catch (error) {
        // Whoever asked has gone; for this one it is still wanted.
        if (!others.signal.aborted) throw error;
        signal.throwIfAborted();
      }
    }
    const done = this.#requestAuthorization(challenge, wanted, signal).finally(() => this.#authorizing.delete(key));
    this.#authorizing.set(key, { done, signal });
    await done;
  }

  async #requestAuthorization(
    challenge: Challenge | undefined,
    wanted: { readonly key: string; readonly scopes: readonly string[]; readonly used: string | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    const { username, password } = this.#auth ?? {};
    const basic = username || password ? `Basic ${Buffer.from(`${username ?? ''}:${password ?? ''}`).toString('base64')}` : undefined;
    if (challenge?.kind === 'bearer') {
      const { token, lifetimeMs } = await this.#token(challenge, { basic, scopes: wanted.scopes }, signal);
      this.#authorizations.set(wanted.key, { header: `Bearer ${token}`, expiresAtMs: performance.now() + lifetimeMs * usableShare });
      return;
    }
    if (challenge === undefined) throw new RuntimeError('unauthenticated', 'the registry wants a kind of credentials that is not supported');
    if (basic === undefined) throw new RuntimeError('unauthenticated', 'the registry wants credentials');
    if (wanted.used === basic) throw new RuntimeError('unauthenticated', 'the registry refuses the credentials');
    // Name and password are good for every scope.
    this.#authorizations.set('', { header: basic, expiresAtMs: Number.POSITIVE_INFINITY });
  }

  async #token(
    challenge: Challenge & { kind: 'bearer' },
    wanted: { readonly basic: string | undefined; readonly scopes: readonly string[] },
    signal: AbortSignal,
  ): Promise<ReturnType<typeof decodeToken>> {
    const realm = tokenServerOf(challenge.realm, this.#base);
    const scopes = mergeScopes(wanted.scopes, challenge.scope);
    const identityToken = this.#auth?.identityToken;
    const service: Record<string, string> = challenge.service === undefined ? {} : { service: challenge.service };
    const what = `get a token from ${realm.host}`;
    const call = identityToken
      ? postOf(realm, { grant_type: 'refresh_token', client_id: 'berth', refresh_token: identityToken, scope: scopes.join(' '), ...service })
      : getOf(realm, [...Object.entries(service), ...scopes.map((scope): [string, string] => ['scope', scope])], wanted.basic);
    try {
      const answer = await this.#askTokenServer(call, signal);
      if (answer.status !== 200) throw await refusalOf(answer);
      return decodeToken(await answer.bytes(limits.registryTokenBytesMax), what);
    } catch (error) {
      if (error instanceof TransientFailure) throw new TransientFailure(error.code, `${what}: ${error.message}`, { cause: error, retryAfterMs: error.retryAfterMs });
      if (!(error instanceof RuntimeError) || error.message.startsWith(what)) throw error;
      // Whatever it dislikes, and be it the form of the request, the outcome is that we are not let in.
      throw wrapError(what, error, ['failedPrecondition', 'unavailable'].includes(errorCode(error)) ? errorCode(error) : 'unauthenticated');
    }
  }

  /** A GET may be redirected, without credentials; a POST has them in its body and may not. */
  async #askTokenServer(call: Call, signal: AbortSignal): Promise<Answer> {
    let answer = await this.transport.send(call, signal);
    let { url } = call;
    for (let hop = 0; hop < limits.redirectsMax && call.method === 'GET' && [301, 302, 303, 307, 308].includes(answer.status); hop += 1) {
      await answer.discard(limits.registryErrorBytesMax);
      const next = resolveLocation(answer.headers.location, url, 'redirects');
      answer = await this.transport.send({ ...call, url: next, headers: next.origin === call.url.origin ? call.headers : {} }, signal);
      url = next;
    }
    return answer;
  }
}

function postOf(url: URL, fields: Readonly<Record<string, string>>): Call {
  const bytes = Buffer.from(new URLSearchParams(fields).toString());
  return { method: 'POST', url, headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: bodyFrom(bytes) };
}

function getOf(url: URL, query: readonly (readonly [string, string])[], authorization: string | undefined): Call {
  const full = new URL(url);
  for (const [key, value] of query) full.searchParams.append(key, value);
  return { method: 'GET', url: full, headers: authorization === undefined ? {} : { authorization } };
}

/** Bytes in memory as the body of a request. */
export function bodyFrom(bytes: Uint8Array): RequestBody {
  return {
    sizeBytes: bytes.length,
    async *open() {
      yield bytes;
    },
  };
}

async function bodyOf(answer: Answer): Promise<Buffer> {
  return answer.bytes(limits.registryErrorBytesMax).catch(() => Buffer.alloc(0));
}

/** An answer that is no success, in the registry's words; its body is read. */
export async function refusalOf(answer: Answer): Promise<RuntimeError> {
  const { status, headers } = answer;
  const message = describeStatus(status, await bodyOf(answer));
  if (!isTransientStatus(status)) return new RuntimeError(codeOfStatus(status), message);
  return new TransientFailure(codeOfStatus(status), message, { retryAfterMs: decodeRetryAfter(headers['retry-after'], Date.now()) });
}
