/**
 * Files with credentials as data: docker's `config.json` and podman's `auth.json`, which share a format. In: their text and what is
 * asked for. Out: credentials, or the name of the program that has them. Pure.
 *
 * No message of this file shows anything of a file's content but the names of keys: even a parser's words quote the text around an error.
 *
 * Sources: containers-auth.json(5); docker's reference of `config.json` and of credential helpers.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type Fields, decodeObject, decodeString, fieldsOf, pathOf } from '#oci';
import type { RegistryAuth } from './types.ts';

/** What is asked for: names from the most to the least specific, such as `quay.io/team/app`, `quay.io/team`, `quay.io`. */
export interface CredentialQuery {
  readonly names: readonly string[];
  /** Host with optional port, as references name it. */
  readonly registry: string;
}

/** The key under which docker keeps the credentials of its own registry; helper programs know them by it. */
const dockerHubServer = 'https://index.docker.io/v1/';
const dockerHubHosts = ['index.docker.io', 'registry-1.docker.io', 'registry.hub.docker.com'];

/** The query for a registry (`quay.io`) or for a repository of it (`quay.io/team/app`). */
export function credentialQuery(name: string): CredentialQuery {
  const parts = name.split('/');
  const first = parts[0] ?? '';
  const registry = dockerHubHosts.includes(first) ? 'docker.io' : first;
  const names = parts.map((_part, index) => [registry, ...parts.slice(1, parts.length - index)].join('/'));
  return { names, registry };
}

/** Keys of older files are addresses: `https://host/v1/` means the host. */
function normaliseKey(key: string): string {
  const isAddress = /^https?:\/\//i.test(key);
  const rest = key.replace(/^https?:\/\//i, '');
  const named = isAddress ? rest.replace(/\/.*$/s, '') : rest.replace(/\/+$/, '').replace(/\/v[12]$/, '');
  return dockerHubHosts.includes(named) ? 'docker.io' : named;
}

/** The key that answers the query best: the longest name, and of equal ones the one that is written exactly so. */
function bestKey(keys: readonly string[], names: readonly string[]): string | undefined {
  for (const name of names) {
    const found = keys.find((key) => key === name) ?? keys.find((key) => normaliseKey(key) === name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** `base64("user:password")`, as `login` commands write it. */
function decodeBasic(text: string, path: string): RegistryAuth | undefined {
  if (text === '') return undefined;
  const decoded = Buffer.from(text, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon <= 0) throw invalidArgument(path, 'is not the base64 of user:password');
  // Old versions padded the password with NUL.
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1).replace(/\0+$/, '') };
}

/** One entry of `auths`; undefined where it is empty, as beside a credential store. */
function decodeEntry(value: unknown, path: string): RegistryAuth | undefined {
  const fields = fieldsOf(value, path);
  const text = (key: string): string => fields.optional(key, decodeString) ?? '';
  const [username, password, identityToken, registryToken] = [text('username'), text('password'), text('identitytoken'), text('registrytoken')];
  const basic = decodeBasic(text('auth'), pathOf(path, 'auth')) ?? (username === '' ? undefined : { username, password });
  const auth: RegistryAuth = {
    ...basic,
    ...(identityToken === '' ? {} : { identityToken }),
    ...(registryToken === '' ? {} : { registryToken }),
  };
  return Object.keys(auth).length === 0 ? undefined : auth;
}

/** What a file has for a query: first `helper` is asked, where there is one, then `auth` holds. */
export interface CredentialAnswer {
  /** Suffix of the program `docker-credential-…`. */
  readonly helper?: string;
  readonly auth?: RegistryAuth;
}

function decodeHelper(fields: Fields, query: CredentialQuery): string | undefined {
  const helpers = Object.entries(fields.optional('credHelpers', decodeObject) ?? {});
  const key = bestKey(
    helpers.map(([name]) => name),
    query.names,
  );
  const helper = key === undefined ? undefined : decodeString(helpers.find(([name]) => name === key)?.[1], pathOf('credHelpers', key));
  // An empty word is how a file excepts one registry from its store.
  const name = helper ?? fields.optional('credsStore', decodeString) ?? '';
  if (name === '') return undefined;
  if (!/^[A-Za-z0-9][\w.-]{0,100}$/.test(name)) throw invalidArgument(key === undefined ? 'credsStore' : pathOf('credHelpers', key), 'is no name of a credential helper');
  return name;
}

/** Reads a file's answer. Throws invalidArgument `key: cause`; entries of other registries are not looked at. */
export function decodeCredentials(text: string, query: CredentialQuery): CredentialAnswer {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RuntimeError('invalidArgument', 'not JSON');
  }
  const fields = fieldsOf(value, '');
  const auths = fields.optional('auths', decodeObject) ?? {};
  const key = bestKey(Object.keys(auths), query.names);
  const auth = key === undefined ? undefined : decodeEntry(auths[key], pathOf('auths', key));
  const helper = decodeHelper(fields, query);
  return { ...(helper === undefined ? {} : { helper }), ...(auth === undefined ? {} : { auth }) };
}

/** What a helper program is asked, one after the other until it knows something. */
export function helperServers({ registry }: CredentialQuery): readonly string[] {
  return registry === 'docker.io' ? [dockerHubServer, 'docker.io'] : [registry];
}

/** Answer of a helper program that ended well. Throws invalidArgument without its words. */
export function decodeHelperAnswer(text: string): RegistryAuth | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RuntimeError('invalidArgument', 'its answer is not JSON');
  }
  const fields = fieldsOf(value, 'answer');
  const username = fields.withDefault('Username', decodeString, '');
  const secret = fields.withDefault('Secret', decodeString, '');
  if (username === '' || secret === '') return undefined;
  // The name that stands for "this is a token and no password". Source: docker's reference of credential helpers.
  return username === '<token>' ? { identityToken: secret } : { username, password: secret };
}

/** True for the words by which a helper program says that it has nothing. */
export function saysNotFound(output: string): boolean {
  return /^\s*(?:credentials not found in native keychain|no usernames for )/i.test(output);
}
