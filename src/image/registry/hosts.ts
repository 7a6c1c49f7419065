/**
 * `hosts.toml`, the file that says where a registry's content is and how to speak to those places. In: its text. Out: hosts in the
 * order of trying, with the names of certificate files that are still to be read. Pure; reads no file.
 *
 * Source: containerd's documentation of registry hosts ("docs/hosts.md"). Where that program passes over what it does not
 * understand, this decoder refuses it: a misspelt `capabilities` would trust a mirror with more than was meant.
 *
 * Messages name the key and never show a value of `header`, which may be a secret.
 */
import { RuntimeError, invalidArgument, limits } from '#core';
import { type Decoder, type Fields, arrayOf, decodeBoolean, decodeNonEmptyString, decodeObject, decodeString, fieldsOf, oneOf, pathOf, refuseUnknownFields } from '#oci';
import { TomlError, parse } from 'smol-toml';
import { isLoopbackHost } from './protocol.ts';
import type { RegistryCapability } from './types.ts';

/** A client certificate by its files; without `keyFile` the key is in the same file. */
export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile?: string;
}

/** What a table of the file says about one host. Names of files are as written: absolute, or relative to the file. */
export interface HostSettings {
  readonly capabilities: readonly RegistryCapability[];
  readonly caFiles: readonly string[];
  readonly clientFiles: readonly CertificateFiles[];
  readonly skipVerify: boolean;
  readonly headers: Readonly<Record<string, readonly string[]>>;
  readonly dialTimeoutMs?: number;
  readonly proxy?: string;
  /** Some key about TLS is there, so that TLS is meant where the scheme would be a guess. */
  readonly speaksOfTls: boolean;
}

/** A host with its address. */
export interface HostEntry extends HostSettings {
  /** Where the table stands in the file, such as `host["https://mirror.example"]`. */
  readonly path: string;
  readonly url: URL;
}

/** The whole file. */
export interface HostsFile {
  /** Tried in this order, before the server. */
  readonly hosts: readonly HostEntry[];
  /** Undefined where the file names none: it is the registry itself then. */
  readonly serverUrl: URL | undefined;
  /** Top-level keys; they are about the server. */
  readonly server: HostSettings;
}

const capabilities = ['pull', 'resolve', 'push'] as const satisfies readonly RegistryCapability[];
const settingKeys = ['capabilities', 'ca', 'client', 'skip_verify', 'header', 'override_path', 'dial_timeout', 'proxy'] as const;
const valuesMax = 32;
const dialTimeoutMsMax = 10 * 60 * 1000;

/** These frame a message or decide where it goes; a file that sets them would break every request. */
const forbiddenHeaders = ['host', 'connection', 'content-length', 'transfer-encoding', 'range', 'te', 'trailer', 'upgrade', 'proxy-authorization'];

/** One text or a list of them. */
const decodeTexts: Decoder<readonly string[]> = (value, path) =>
  typeof value === 'string' ? [decodeNonEmptyString(value, path)] : arrayOf(decodeNonEmptyString, valuesMax)(value, path);

const decodeCapabilities: Decoder<readonly RegistryCapability[]> = (value, path) => {
  const decodeOne = oneOf('capability', capabilities);
  const found = arrayOf((item, itemPath) => decodeOne(decodeString(item, itemPath).toLowerCase(), itemPath), valuesMax)(value, path);
  // An empty list means what a missing one means, as in the program whose file this is.
  return found.length === 0 ? capabilities : capabilities.filter((capability) => found.includes(capability));
};

const decodeClientFile: Decoder<CertificateFiles> = (value, path) => {
  if (typeof value === 'string') return { certFile: decodeNonEmptyString(value, path) };
  const pair = arrayOf(decodeString, valuesMax)(value, path);
  const [certFile = '', keyFile = ''] = pair;
  if (pair.length !== 2 || certFile === '') throw invalidArgument(path, 'must be one file, or a pair of certificate and key');
  return keyFile === '' ? { certFile } : { certFile, keyFile };
};

const decodeClientFiles: Decoder<readonly CertificateFiles[]> = (value, path) =>
  typeof value === 'string' ? [decodeClientFile(value, path)] : arrayOf(decodeClientFile, valuesMax)(value, path);

const decodeHeaders: Decoder<Readonly<Record<string, readonly string[]>>> = (value, path) => {
  const entries = Object.entries(decodeObject(value, path));
  if (entries.length > valuesMax) throw invalidArgument(path, `${entries.length} headers, at most ${valuesMax}`);
  // SAFETY: a fresh object without prototype; only checked names and values are put in.
  const headers = Object.create(null) as Record<string, readonly string[]>;
  for (const [name, given] of entries) {
    const at = pathOf(path, name);
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/.test(name)) throw invalidArgument(at, 'is no name of a header');
    if (forbiddenHeaders.includes(name.toLowerCase())) throw invalidArgument(at, 'cannot be set here');
    const values = decodeTexts(given, at);
    if (values.some((text) => !/^[\t\x20-\x7e]{1,8192}$/.test(text))) throw invalidArgument(at, 'has a value with other than printable ASCII characters, or too long');
    headers[name] = values;
  }
  return headers;
};

const millisecondsPerUnit: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1, us: 0.001, µs: 0.001, ns: 0.000_001 };

/** A duration such as `1s`, `500ms` or `1m30s`, in milliseconds, rounded up. Zero is no limit of its own. */
const decodeDuration: Decoder<number | undefined> = (value, path) => {
  const text = decodeString(value, path);
  if (text === '0') return undefined;
  const parts = [...text.matchAll(/(\d{1,9}(?:\.\d{1,9})?)(h|ms|m|s|us|µs|ns)/gy)];
  if (parts.length === 0 || parts.map(([part]) => part).join('') !== text)
    throw invalidArgument(path, `${JSON.stringify(text.slice(0, 40))} is no duration such as "5s" or "500ms"`);
  const milliseconds = Math.ceil(parts.reduce((sum, [, count = '0', unit = '']) => sum + Number(count) * (millisecondsPerUnit[unit] ?? 0), 0));
  if (milliseconds > dialTimeoutMsMax) throw invalidArgument(path, `${JSON.stringify(text)} is more than ${dialTimeoutMsMax / 60_000} minutes`);
  return milliseconds === 0 ? undefined : milliseconds;
};

/**
 * The base address behind a host or server of the file: `https` where no scheme stands, plain `http` on the loopback interface unless TLS is
 * spoken of; `v2/` is appended unless the path is overridden.
 */
function decodeAddress(text: string, path: string, options: { readonly overridePath: boolean; readonly speaksOfTls: boolean }): URL {
  // The address itself stays out of messages where it may hold a password.
  const shown = text.includes('@') ? 'the address' : JSON.stringify(text.slice(0, 200));
  const hasScheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(text);
  const full = hasScheme ? text : `https://${text}`;
  if (!URL.canParse(full)) throw invalidArgument(path, `${shown} is no address`);
  const url = new URL(full);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw invalidArgument(path, `${shown} is neither https nor http`);
  if (url.username !== '' || url.password !== '') throw invalidArgument(path, 'credentials do not belong into an address');
  if (url.search !== '' || url.hash !== '') throw invalidArgument(path, `${shown} has a query or a fragment`);
  if (!hasScheme && isLoopbackHost(url.hostname) && !options.speaksOfTls) url.protocol = 'http:';
  // Documents of others name the registry by the name that references have; its interface is elsewhere.
  if (url.host === 'docker.io') url.host = 'registry-1.docker.io';
  const base = url.pathname.replace(/\/+$/, '');
  url.pathname = `${options.overridePath || base.endsWith('/v2') ? base : `${base}/v2`}/`;
  return url;
}

/** The URL of a proxy; it may hold a password, so no message shows it. */
const decodeProxy: Decoder<string> = (value, path) => {
  const text = decodeString(value, path);
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !['http:', 'https:'].includes(url.protocol)) throw invalidArgument(path, 'must be an http or https URL');
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '') throw invalidArgument(path, 'must be an address without path, query or fragment');
  return text;
};

function decodeSettings(fields: Fields): HostSettings {
  const dialTimeoutMs = fields.optional('dial_timeout', decodeDuration);
  const proxy = fields.optional('proxy', decodeProxy);
  return {
    capabilities: fields.withDefault('capabilities', decodeCapabilities, capabilities),
    caFiles: fields.withDefault('ca', decodeTexts, []),
    clientFiles: fields.withDefault('client', decodeClientFiles, []),
    skipVerify: fields.withDefault('skip_verify', decodeBoolean, false),
    headers: fields.withDefault('header', decodeHeaders, {}),
    speaksOfTls: ['ca', 'client', 'skip_verify'].some((key) => fields.names.includes(key)),
    ...(dialTimeoutMs === undefined ? {} : { dialTimeoutMs }),
    ...(proxy === undefined ? {} : { proxy }),
  };
}

function decodeHost(name: string, value: unknown, path: string): HostEntry {
  const fields = fieldsOf(value, path);
  refuseUnknownFields(fields, settingKeys);
  const settings = decodeSettings(fields);
  const overridePath = fields.withDefault('override_path', decodeBoolean, false);
  return { ...settings, path, url: decodeAddress(name, path, { overridePath, speaksOfTls: settings.speaksOfTls }) };
}

/** The text as a value. The parser's own message quotes the lines around an error, so only their place is kept. */
function parseToml(text: string): unknown {
  try {
    return parse(text, { maxDepth: 16, unsafeKeyBehaviour: 'throw' });
  } catch (error) {
    throw new RuntimeError('invalidArgument', error instanceof TomlError ? `not TOML at line ${error.line}, column ${error.column}` : 'not TOML');
  }
}

/** The file's text as values. Throws invalidArgument `key: cause`; the caller names the file and bounds its size. */
export function decodeHostsFile(text: string): HostsFile {
  const fields = fieldsOf(parseToml(text), '');
  refuseUnknownFields(fields, ['server', 'host', ...settingKeys]);
  const server = decodeSettings(fields);
  const overridePath = fields.withDefault('override_path', decodeBoolean, false);
  const serverUrl = fields.optional('server', (value, path) => {
    const address = decodeString(value, path);
    return address === '' ? undefined : decodeAddress(address, path, { overridePath, speaksOfTls: server.speaksOfTls });
  });
  // An empty table, or none. Keys of the table keep their order in the file: none of them can look like an array's index and be an address.
  const entries = Object.entries(fields.withDefault('host', decodeObject, {}));
  if (entries.length > limits.registryHostsMax) throw invalidArgument('host', `${entries.length} hosts, at most ${limits.registryHostsMax}`);
  const hosts = entries.map(([name, value]) => {
    const path = pathOf('host', name.includes('@') ? '…' : name);
    if (/^\d*$/.test(name)) throw invalidArgument(path, 'is no address');
    return decodeHost(name, value, path);
  });
  return { hosts, serverUrl, server };
}

/** What holds for a registry that no file speaks of. */
export const defaultHostSettings: HostSettings = { capabilities, caFiles: [], clientFiles: [], skipVerify: false, headers: {}, speaksOfTls: false };
