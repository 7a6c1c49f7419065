/**
 * The registry protocol as data: endpoints, challenges, error bodies. Pure.
 * Sources: distribution-spec v1.1; RFC 9110 section 11 (challenges); the token and OAuth2 pages of the distribution project.
 */
import { type ErrorCode, RuntimeError } from '#core';
import { arrayOf, decodeString, fieldsOf, mediaTypes, parseJson } from '#oci';

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
    for (const [, key = '', quoted, plain] of (bearer[1] ?? '').matchAll(/([a-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/gi))
      parameters.set(key.toLowerCase(), (quoted ?? plain ?? '').replaceAll(/\\(.)/g, '$1'));
    const realm = parameters.get('realm');
    if (realm !== undefined) return { kind: 'bearer', realm, service: parameters.get('service'), scope: parameters.get('scope') };
  }
  return /(?:^|,\s*)basic(?:\s|$)/i.test(header) ? { kind: 'basic' } : undefined;
}

/** Token out of a token server's answer. Throws unauthenticated where there is none. */
export function decodeToken(body: Buffer, what: string): string {
  const fields = fieldsOf(parseJson(body.toString('utf8'), what), what);
  const token = fields.optional('token', decodeString) || fields.optional('access_token', decodeString);
  // A token goes into a header line: anything else would let the server write headers of ours.
  if (token === undefined || !/^[\x21-\x7e]+$/.test(token)) throw new RuntimeError('unauthenticated', `${what}: no token in the answer`);
  return token;
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
  return status >= 500 ? 'unavailable' : 'unknown';
}

/** An unexpected status as the end of an error message. */
export function describeStatus(status: number, body: Buffer): string {
  return decodeRegistryErrors(body) ?? `the registry answered ${status}`;
}
