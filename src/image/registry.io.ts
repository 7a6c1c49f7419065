/**
 * A client of one repository in one registry. In: references, digests. Out: documents and blob streams, unverified: whoever asks
 * checks digests. Credentials go to the registry and to the token server it names, never to where a redirect leads.
 */
import { Agent as HttpAgent, type IncomingMessage, type OutgoingHttpHeaders, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { RuntimeError, errorMessage, limits, wrapError } from '#core';
import { type Digest, digestOf, isDigest } from '#oci';
import { createHash } from 'node:crypto';
import { acceptManifests, type Challenge, codeOfStatus, decodeChallenge, decodeToken, describeStatus, isLoopbackHost, registryEndpoint } from './registry-protocol.ts';
import type { ResolvedDocument } from './types.ts';
import type { RegistryAuth } from './worker-messages.ts';

const redirectsMax = 5;
const errorBodyBytesMax = 64 * 1024;
const tokenBytesMax = 256 * 1024;

/** One repository and how to get in. */
export interface RegistryClientOptions {
  readonly registry: string;
  readonly repository: string;
  readonly auth?: RegistryAuth | undefined;
  /** No byte for so long ends a request with deadlineExceeded. */
  readonly stallTimeoutMs?: number;
}

interface Call {
  readonly url: URL;
  readonly headers: OutgoingHttpHeaders;
  readonly method?: 'GET' | 'POST';
  readonly body?: string;
}

/** Speaks to one repository; connections are kept until disposal. */
export class RegistryClient implements Disposable {
  readonly #options: RegistryClientOptions;
  readonly #base: URL;
  readonly #http = new HttpAgent({ keepAlive: true, maxSockets: 8 });
  readonly #https = new HttpsAgent({ keepAlive: true, maxSockets: 8 });
  readonly #stallTimeoutMs: number;
  #authorization: string | undefined;
  /** One token request at a time, however many blobs were refused at once. */
  #authorizing: Promise<void> | undefined;

  constructor(options: RegistryClientOptions) {
    this.#options = options;
    this.#base = registryEndpoint(options.registry);
    this.#stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
    if (options.auth?.registryToken) this.#authorization = `Bearer ${options.auth.registryToken}`;
  }

  /** The index or manifest that a tag or digest names. Throws notFound, unauthenticated, unavailable, dataLoss, …, each message without the reference. */
  async manifest(tagOrDigest: string, signal: AbortSignal): Promise<ResolvedDocument> {
    const response = await this.#get(`v2/${this.#options.repository}/manifests/${tagOrDigest}`, { accept: acceptManifests }, signal);
    const bytes = await this.#body(response, limits.manifestBytesMax);
    const algorithm = tagOrDigest.startsWith('sha512:') ? 'sha512' : 'sha256';
    const digest = digestOf(algorithm, createHash(algorithm).update(bytes).digest('hex'));
    if (isDigest(tagOrDigest) && digest !== tagOrDigest) throw new RuntimeError('dataLoss', `verify manifest ${tagOrDigest}: the content is ${digest}`);
    return { bytes, digest, mediaType: response.headers['content-type']?.split(';')[0]?.trim().toLowerCase() };
  }

  /** A blob as it comes. Throws as `manifest` does; a connection that breaks or stalls is an error of the stream. */
  async *blob(digest: Digest, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const response = await this.#get(`v2/${this.#options.repository}/blobs/${digest}`, { accept: '*/*' }, signal);
    try {
      for await (const chunk of response) {
        // SAFETY: no encoding is set, so a response gives buffers.
        yield chunk as Buffer;
      }
      if (!response.complete) throw new RuntimeError('unavailable', 'the connection ended before the content did');
    } catch (cause) {
      throw this.#broken(cause, this.#base, signal);
    } finally {
      response.destroy();
    }
  }

  /** A small blob, at most `bytesMax`. */
  async blobBytes(digest: Digest, bytesMax: number, signal: AbortSignal): Promise<Buffer> {
    return this.#body(await this.#get(`v2/${this.#options.repository}/blobs/${digest}`, { accept: '*/*' }, signal), bytesMax);
  }

  [Symbol.dispose](): void {
    this.#http.destroy();
    this.#https.destroy();
  }

  async #get(path: string, headers: OutgoingHttpHeaders, signal: AbortSignal): Promise<IncomingMessage> {
    const url = new URL(path, this.#base);
    const used = this.#authorization;
    let response = await this.#follow({ url, headers: { ...headers, ...this.#credentials() } }, signal);
    if (response.statusCode === 401) {
      const challenge = decodeChallenge(String(response.headers['www-authenticate'] ?? ''));
      await this.#body(response, errorBodyBytesMax);
      if (used === this.#authorization) await this.#authorize(challenge, signal);
      response = await this.#follow({ url, headers: { ...headers, ...this.#credentials() } }, signal);
    }
    if (response.statusCode === 200) return response;
    throw await this.#refused(response);
  }

  #credentials(): OutgoingHttpHeaders {
    return this.#authorization === undefined ? {} : { authorization: this.#authorization };
  }

  async #refused(response: IncomingMessage): Promise<RuntimeError> {
    const status = response.statusCode ?? 0;
    const body = await this.#body(response, errorBodyBytesMax).catch(() => Buffer.alloc(0));
    return new RuntimeError(codeOfStatus(status), describeStatus(status, body));
  }

  /** Sends a request and follows redirects. Another origin gets no credentials; nothing leads from https to http. */
  async #follow(call: Call, signal: AbortSignal): Promise<IncomingMessage> {
    let { url, headers } = call;
    for (let hop = 0; hop <= redirectsMax; hop += 1) {
      const response = await this.#send({ ...call, url, headers }, signal);
      const location = response.headers.location;
      if (![301, 302, 303, 307, 308].includes(response.statusCode ?? 0) || location === undefined) return response;
      await this.#body(response, errorBodyBytesMax);
      const next = URL.canParse(location, url) ? new URL(location, url) : undefined;
      if (next === undefined || !['http:', 'https:'].includes(next.protocol)) throw new RuntimeError('unavailable', 'the registry redirects to no address');
      if (url.protocol === 'https:' && next.protocol === 'http:') throw new RuntimeError('failedPrecondition', `the registry redirects from https to plain http at ${next.host}`);
      if (next.origin !== url.origin) {
        const { authorization: _dropped, ...others } = headers;
        headers = others;
      }
      // Userinfo in a location would become credentials of the registry's choice.
      next.username = '';
      next.password = '';
      url = next;
    }
    throw new RuntimeError('unavailable', `the registry redirects more than ${redirectsMax} times`);
  }

  #send(call: Call, signal: AbortSignal): Promise<IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const isPlain = call.url.protocol === 'http:';
    const request = (isPlain ? httpRequest : httpsRequest)(call.url, {
      method: call.method ?? 'GET',
      agent: isPlain ? this.#http : this.#https,
      headers: { 'user-agent': 'berth', ...call.headers, ...(call.body === undefined ? {} : { 'content-length': Buffer.byteLength(call.body) }) },
      signal,
      timeout: this.#stallTimeoutMs,
    });
    let answer: IncomingMessage | undefined;
    // Once there is an answer its reader must get the reason, and destroying the request would only say "aborted".
    request.on('timeout', () => (answer ?? request).destroy(new RuntimeError('deadlineExceeded', `no answer from ${call.url.host} for ${this.#stallTimeoutMs} ms`)));
    request.on('error', (cause) => reject(this.#broken(cause, call.url, signal)));
    request.on('response', (response) => {
      answer = response;
      resolve(response);
    });
    request.end(call.body);
    return promise;
  }

  #broken(cause: unknown, url: URL, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (cause instanceof RuntimeError) return cause;
    return new RuntimeError('unavailable', `talk to ${url.host}: ${errorMessage(cause)}`, { cause });
  }

  async #body(response: IncomingMessage, bytesMax: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of response) {
        // SAFETY: no encoding is set, so a response gives buffers.
        chunks.push(chunk as Buffer);
        bytes += (chunk as Buffer).length;
        if (bytes > bytesMax) throw new RuntimeError('resourceExhausted', `the answer has more than ${bytesMax} bytes`);
      }
    } catch (cause) {
      if (cause instanceof RuntimeError) throw cause;
      throw new RuntimeError('unavailable', `read the answer of ${this.#base.host}: ${errorMessage(cause)}`, { cause });
    } finally {
      response.destroy();
    }
    return Buffer.concat(chunks);
  }

  async #authorize(challenge: Challenge | undefined, signal: AbortSignal): Promise<void> {
    this.#authorizing ??= this.#requestAuthorization(challenge, signal).finally(() => (this.#authorizing = undefined));
    await this.#authorizing;
  }

  async #requestAuthorization(challenge: Challenge | undefined, signal: AbortSignal): Promise<void> {
    const { username, password } = this.#options.auth ?? {};
    const basic = username === undefined && password === undefined ? undefined : `Basic ${Buffer.from(`${username ?? ''}:${password ?? ''}`).toString('base64')}`;
    if (challenge?.kind === 'bearer') {
      this.#authorization = `Bearer ${await this.#token(challenge, basic, signal)}`;
    } else if (challenge?.kind === 'basic' && basic !== undefined && this.#authorization !== basic) {
      this.#authorization = basic;
    } else {
      throw new RuntimeError(
        'unauthenticated',
        challenge?.kind === 'basic'
          ? basic === undefined
            ? 'the registry wants credentials'
            : 'the registry refuses the credentials'
          : 'the registry wants a kind of credentials that is not supported',
      );
    }
  }

  async #token(challenge: Challenge & { kind: 'bearer' }, basic: string | undefined, signal: AbortSignal): Promise<string> {
    const realm = URL.canParse(challenge.realm) ? new URL(challenge.realm) : undefined;
    if (realm === undefined || (realm.protocol !== 'https:' && !(realm.protocol === 'http:' && isLoopbackHost(realm.hostname) && this.#base.protocol === 'http:')))
      throw new RuntimeError('unauthenticated', 'the registry names a token server that is not reached by https');
    const scope = challenge.scope ?? `repository:${this.#options.repository}:pull`;
    const identityToken = this.#options.auth?.identityToken;
    const service: Record<string, string> = challenge.service === undefined ? {} : { service: challenge.service };
    let call: Call;
    if (identityToken) {
      const body = new URLSearchParams({ grant_type: 'refresh_token', client_id: 'berth', refresh_token: identityToken, scope, ...service }).toString();
      call = { url: realm, method: 'POST', body, headers: { 'content-type': 'application/x-www-form-urlencoded' } };
    } else {
      for (const [key, value] of Object.entries({ ...service, scope })) realm.searchParams.append(key, value);
      call = { url: realm, headers: basic === undefined ? {} : { authorization: basic } };
    }
    const response = await (identityToken ? this.#send(call, signal) : this.#follow(call, signal));
    if (response.statusCode !== 200) throw wrapError(`get a token from ${realm.host}`, await this.#refused(response), 'unauthenticated');
    return decodeToken(await this.#body(response, tokenBytesMax), `get a token from ${realm.host}`);
  }
}
