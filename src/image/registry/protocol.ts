/**
 * The registry protocol as data: endpoints, challenges, ranges, links, error bodies. Pure.
 * Sources: distribution-spec v1.1; RFC 9110 sections 10.2.3 (Retry-After), 11 (challenges) and 14.4 (Content-Range); RFC 8288 (links); the
 * token and OAuth2 pages of the distribution project.
 */
import { type ErrorCode, RuntimeError } from '#core';
import { arrayOf, decodeSafeInteger, decodeString, fieldsOf, mediaTypes, parseJson } from '#oci';

/** Base URL of a registry. Plain HTTP for loopback hosts only. */
export function registryEndpoint(registry: string): URL {
  const host = registry === 'docker.io' ? 'registry-1.docker.io' : registry;
  const url = new URL(`https://${host}/`);
  if (isLoopbackHost(url.hostname)) url.protocol = 'http:';
  return url;
}

/** True for names and addresses that never leave the machine. */
export function isLoopbackHost(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || hostname === '::1' || /^127(?:\.\d{1,3}){3}$/.test(hostname);
}

/** The manifest types that we understand, for `Accept`. */
export const acceptManifests = [mediaTypes.ociIndex, mediaTypes.ociManifest, mediaTypes.dockerIndex, mediaTypes.dockerManifest].join(', ');

/** What a 401 asks for. */
export type Challenge = { readonly kind: 'basic' } | { readonly kind: 'bearer'; readonly realm: string; readonly service: string | undefined; readonly scope: string | undefined };

/** The strongest understood challenge of a WWW-Authenticate header, or undefined. */
export function decodeChallenge(header: string): Challenge | undefined {
  const bearer = /(?:^|,\s*)bearer\s+(.*)$/i.exec(header.slice(0, 8192));
  if (bearer !== null) {
    const parameters = new Map<string, string>();
    for (const [, key = '', quoted, plain] of (bearer[1] ?? '').matchAll(/([a-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/gi)) {
      // The first one counts: what follows may belong to the next challenge of the same header.
      if (!parameters.has(key.toLowerCase())) parameters.set(key.toLowerCase(), (quoted ?? plain ?? '').replaceAll(/\\(.)/g, '$1'));
    }
    const realm = parameters.get('realm');
    if (realm !== undefined) return { kind: 'bearer', realm, service: parameters.get('service'), scope: parameters.get('scope') };
  }
  return /(?:^|,\s*)basic(?:\s|$)/i.test(header) ? { kind: 'basic' } : undefined;
}

/** A token and for how long it is good. */
export interface Token {
  readonly token: string;
  readonly lifetimeMs: number;
}

/** Token out of a token server's answer; without a lifetime it is good for a minute. Throws unauthenticated where there is none. */
export function decodeToken(body: Buffer, what: string): Token {
  const fields = fieldsOf(parseJson(body.toString('utf8'), what), what);
  const token = fields.optional('token', decodeString) || fields.optional('access_token', decodeString);
  // A token goes into a header line: anything else would let the server write headers of ours.
  if (token === undefined || !/^[\x21-\x7e]+$/.test(token)) throw new RuntimeError('unauthenticated', `${what}: no token in the answer`);
  const seconds = fields.optional('expires_in', decodeSafeInteger) ?? 60;
  return { token, lifetimeMs: Math.min(Math.max(seconds, 1), 24 * 3600) * 1000 };
}

/**
 * URL of the token server that a challenge names. Credentials go there, so it must be https; plain http only from a registry that is itself
 * reached by plain http, to the same host. Throws unauthenticated.
 */
export function tokenServerOf(realm: string, base: URL): URL {
  const url = URL.canParse(realm) ? new URL(realm) : undefined;
  const isPlainNeighbour =
    url?.protocol === 'http:' && base.protocol === 'http:' && (url.hostname === base.hostname || (isLoopbackHost(url.hostname) && isLoopbackHost(base.hostname)));
  if (url === undefined || (url.protocol !== 'https:' && !isPlainNeighbour))
    throw new RuntimeError('unauthenticated', 'the registry names a token server that is not reached by https');
  url.username = '';
  url.password = '';
  return url;
}

/** What is needed of a registry, as scopes of its tokens, together with what its challenge names. Scopes of one resource are merged. */
export function mergeScopes(needed: readonly string[], challenged: string | undefined): readonly string[] {
  const actions = new Map<string, Set<string>>();
  for (const scope of [...needed, ...(challenged ?? '').split(' ')]) {
    const colon = scope.lastIndexOf(':');
    if (colon <= 0) continue;
    const known = actions.get(scope.slice(0, colon)) ?? new Set();
    for (const action of scope.slice(colon + 1).split(',')) if (action !== '') known.add(action);
    actions.set(scope.slice(0, colon), known);
  }
  return [...actions].map(([resource, known]) => `${resource}:${[...known].join(',')}`);
}

/** The registry's own words for a failure, at most 200 characters, or undefined where the body is no error document. */
export function decodeRegistryErrors(body: Buffer): string | undefined {
  try {
    const errors = fieldsOf(parseJson(body.toString('utf8'), 'errors'), '').required(
      'errors',
      arrayOf((value, path) => fieldsOf(value, path), 20),
    );
    const first = errors[0];
    const text = first?.optional('message', decodeString) || first?.optional('code', decodeString);
    return text === undefined
      ? undefined
      : text
          .replaceAll(/[^\x20-\x7e]+/g, ' ')
          .slice(0, 200)
          .toLowerCase();
  } catch {
    // An HTML page or nothing at all: the status alone has to do.
    return undefined;
  }
}

/** Canonical code of an HTTP status. */
export function codeOfStatus(status: number): ErrorCode {
  if (status === 401) return 'unauthenticated';
  if (status === 403) return 'permissionDenied';
  if (status === 404) return 'notFound';
  if (status === 429) return 'resourceExhausted';
  return status >= 500 || status === 408 ? 'unavailable' : 'unknown';
}

/** An unexpected status as the end of an error message. */
export function describeStatus(status: number, body: Buffer): string {
  return decodeRegistryErrors(body) ?? `the registry answered ${status}`;
}

/** True for answers after which the same request may succeed: the registry is busy or something behind it failed. */
export function isTransientStatus(status: number): boolean {
  return status === 408 || status === 429 || (status >= 500 && status !== 501);
}

/** How long a Retry-After header asks to wait from `nowMs` (Unix), or undefined where it says nothing that can be understood. */
export function decodeRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  const text = header?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  // Only the date format of HTTP: Date.parse understands far more than servers mean.
  const atMs = /^[A-Za-z]{3}, \d{2} [A-Za-z]{3} \d{4} \d{2}:\d{2}:\d{2} GMT$/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}

/** Which bytes an answer has: `from` up to and without `end`, of `total` where it says so. */
export interface ContentRange {
  readonly from: number;
  readonly end: number;
  readonly total: number | undefined;
}

/** A Content-Range header of bytes, or undefined for anything else. */
export function decodeContentRange(header: string | undefined): ContentRange | undefined {
  const match = /^bytes\s+(\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/i.exec(header?.trim() ?? '');
  if (match === null) return undefined;
  const [from, end, total] = [Number(match[1]), Number(match[2]) + 1, match[3] === '*' ? undefined : Number(match[3])];
  return end <= from || (total !== undefined && end > total) ? undefined : { from, end, total };
}

/**
 * Checks what a 206 claims against what was asked for. A shorter range than asked is allowed (RFC 9110, 15.3.7); any other range is refused,
 * because its bytes would land in the wrong place. Throws dataLoss. Gives the end of what will come.
 */
export function acceptRange(
  asked: { readonly from: number; readonly end: number; readonly total: number },
  headers: { readonly range: string | undefined; readonly length: string | undefined },
): number {
  const range = decodeContentRange(headers.range);
  if (range === undefined) throw new RuntimeError('dataLoss', 'the registry answers a part without saying which one');
  if (range.total !== undefined && range.total !== asked.total) throw new RuntimeError('dataLoss', `the registry has ${range.total} bytes, ${asked.total} were announced`);
  if (range.from !== asked.from || range.end > asked.end)
    throw new RuntimeError('dataLoss', `the registry answers bytes ${range.from} to ${range.end} where ${asked.from} to ${asked.end} were asked for`);
  const length = decodeLength(headers.length);
  if (length !== undefined && length !== range.end - range.from) throw new RuntimeError('dataLoss', `the registry sends ${length} bytes as bytes ${range.from} to ${range.end}`);
  return range.end;
}

/** A Content-Length header, or undefined. */
export function decodeLength(header: string | undefined): number | undefined {
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined;
}

/** The `rel="next"` target of a Link header, as it is written, or undefined. */
export function nextLink(header: string | undefined): string | undefined {
  for (const [, target, parameters = ''] of (header ?? '').slice(0, 8192).matchAll(/<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s,;"]*))*)/g))
    if (/;\s*rel\s*=\s*"?next"?\s*(?:;|$)/i.test(parameters)) return target;
  return undefined;
}

/**
 * Where an answer leads, as a URL without credentials of the registry's choice. Throws unavailable for no address, failedPrecondition for
 * one that would leave https for plain http.
 */
export function resolveLocation(location: string | undefined, from: URL, verb: string): URL {
  const next = location !== undefined && URL.canParse(location, from) ? new URL(location, from) : undefined;
  if (next === undefined || !['http:', 'https:'].includes(next.protocol)) throw new RuntimeError('unavailable', `the registry ${verb} to no address`);
  if (from.protocol === 'https:' && next.protocol === 'http:') throw new RuntimeError('failedPrecondition', `the registry ${verb} from https to plain http at ${next.host}`);
  next.username = '';
  next.password = '';
  return next;
}
