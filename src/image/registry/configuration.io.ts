/**
 * How each registry is reached, by the files that an administrator wrote for it. In: directories in containerd's or docker's `certs.d`
 * layout, and the environment for proxies. Out: `RegistryAccess`, complete: certificates are read and checked here, so that the client
 * opens no file. Read afresh for each access; nothing is kept. Never a user's credentials: those come with the call.
 *
 * - A registry's directory is `HOST_PORT_` or `HOST:PORT` (or `HOST`), else `_default`. The first of the given directories that has one of these
 *   decides alone.
 * - In it `hosts.toml` counts, and only without one docker's `*.crt` (authorities) and `*.cert` with `*.key` (client certificates).
 * - The caller's credentials go to the registry itself: to its own address, or to the `server` that its own directory names. A mirror,
 *   and a `server` that stands in `_default` for every registry, do not get them.
 *
 * Sources: containerd "docs/hosts.md"; docker's page on verifying repository clients with certificates.
 */
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { RuntimeError, errnoName, errorMessage } from '#core';
import { pathOf } from '#oci';
import { readConfigurationFile } from './configuration-files.io.ts';
import { type CertificateFiles, type HostSettings, type HostsFile, decodeHostsFile, defaultHostSettings } from './hosts.ts';
import { registryEndpoint } from './protocol.ts';
import { certificatesOf } from './tls.io.ts';
import type { ClientCertificate, ProxySettings, RegistryAccess, RegistryAuth, RegistryHost } from './types.ts';

const certificateFilesMax = 64;

/** What the configuration is made of. */
export interface RegistryConfigurationOptions {
  /** Absolute; in the order of asking. Those that do not exist are passed over. */
  readonly certsDirs: readonly string[];
  /** `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are read from it, in capitals or not. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

interface FoundDirectory {
  readonly path: string;
  /** `_default`: written for every registry, not for this one. */
  readonly isDefault: boolean;
  readonly names: readonly string[];
}

/** Error about one key of one file. */
function fileError(file: string, error: unknown): RuntimeError {
  return new RuntimeError('failedPrecondition', `read ${file}: ${errorMessage(error)}`, { cause: error });
}

/** Names that a registry's directory may have, the one that every file system takes first. */
function directoryNames(registry: string): readonly string[] {
  const port = /^(.*):(\d+)$/.exec(registry);
  return port === null ? [registry] : [`${port[1]}_${port[2]}_`, registry];
}

async function findDirectory(certsDirs: readonly string[], registry: string): Promise<FoundDirectory | undefined> {
  for (const certsDir of certsDirs) {
    for (const name of [...directoryNames(registry), '_default']) {
      const path = join(certsDir, name);
      try {
        return { path, isDefault: name === '_default', names: (await readdir(path)).sort() };
      } catch (error) {
        const errno = errnoName(error);
        if (errno !== 'ENOENT' && errno !== 'ENOTDIR') throw fileError(path, error);
      }
    }
  }
  return undefined;
}

/** A file that must be there. */
async function readNamed(file: string, what: string): Promise<string> {
  const text = await readConfigurationFile(file);
  if (text === undefined) throw new RuntimeError('failedPrecondition', `${what}: ${file} does not exist`);
  return text;
}

/** PEM with at least one certificate; each of them is looked at, so that a wrong file is named here and not by a handshake. */
async function readAuthority(file: string, what: string): Promise<string> {
  const pem = await readNamed(file, what);
  let found: readonly string[];
  try {
    found = certificatesOf(pem);
  } catch {
    throw new RuntimeError('failedPrecondition', `${what}: ${file} has a certificate that cannot be read`);
  }
  if (found.length === 0) throw new RuntimeError('failedPrecondition', `${what}: ${file} holds no certificate in PEM`);
  return pem;
}

async function readClientCertificate({ certFile, keyFile = certFile }: CertificateFiles, what: string): Promise<ClientCertificate> {
  const cert = await readAuthority(certFile, what);
  const key = keyFile === certFile ? cert : await readNamed(keyFile, what);
  let fits: boolean;
  try {
    fits = new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
  } catch {
    // The cause may quote what it read, and that is a key.
    throw new RuntimeError('failedPrecondition', `${what}: ${keyFile} holds no private key that can be used without a password`);
  }
  if (!fits) throw new RuntimeError('failedPrecondition', `${what}: the key in ${keyFile} is not the one of ${certFile}`);
  return { cert, key };
}

/** What one host needs beside its address; `place` leads to the keys, as `hosts.toml: host["…"].`. */
async function readSettings(settings: HostSettings, baseDir: string, place: (key: string) => string): Promise<Omit<RegistryHost, 'url' | 'namespace' | 'isUpstream'>> {
  const absolute = (path: string): string => (isAbsolute(path) ? path : join(baseDir, path));
  const ca: string[] = [];
  for (const file of settings.caFiles) ca.push(await readAuthority(absolute(file), place('ca')));
  const clientCertificates: ClientCertificate[] = [];
  for (const { certFile, keyFile } of settings.clientFiles) {
    const files = { certFile: absolute(certFile), ...(keyFile === undefined ? {} : { keyFile: absolute(keyFile) }) };
    clientCertificates.push(await readClientCertificate(files, place('client')));
  }
  return {
    capabilities: settings.capabilities,
    headers: settings.headers,
    clientCertificates,
    skipVerify: settings.skipVerify,
    ...(ca.length === 0 ? {} : { ca }),
    ...(settings.dialTimeoutMs === undefined ? {} : { dialTimeoutMs: settings.dialTimeoutMs }),
    ...(settings.proxy === undefined ? {} : { proxy: settings.proxy }),
  };
}

/** Docker's files: what they say is about the registry itself. */
function certificateFiles({ path, names }: FoundDirectory): HostSettings {
  const ending = (suffix: string): string[] => names.filter((name) => name.endsWith(suffix)).map((name) => name.slice(0, -suffix.length));
  const [authorities, certificates, keys] = [ending('.crt'), ending('.cert'), ending('.key')];
  if (authorities.length + certificates.length > certificateFilesMax)
    throw new RuntimeError('failedPrecondition', `read ${path}: ${authorities.length + certificates.length} certificates, at most ${certificateFilesMax}`);
  const alone = keys.find((name) => !certificates.includes(name));
  if (alone !== undefined) throw new RuntimeError('failedPrecondition', `read ${path}: ${alone}.key has no certificate ${alone}.cert beside it`);
  return {
    ...defaultHostSettings,
    caFiles: authorities.map((name) => `${name}.crt`),
    clientFiles: certificates.map((name) => ({ certFile: `${name}.cert`, ...(keys.includes(name) ? { keyFile: `${name}.key` } : {}) })),
    speaksOfTls: authorities.length + certificates.length > 0,
  };
}

/** Where the registry itself is: its own name, with TLS where that is spoken of. */
function endpointOf(registry: string, { speaksOfTls }: HostSettings): URL {
  const url = registryEndpoint(registry);
  if (speaksOfTls || url.port === '443') url.protocol = 'https:';
  url.pathname = '/v2/';
  return url;
}

/** Reads how registries are reached. */
export class RegistryConfiguration {
  readonly #options: RegistryConfigurationOptions;

  constructor(options: RegistryConfigurationOptions) {
    this.#options = options;
  }

  /**
   * How the repository is reached at the moment. Throws failedPrecondition `read FILE: key: cause` on a file that cannot be used: a registry whose
   * configuration is broken is not reached in some other way.
   */
  async access(reference: { readonly registry: string; readonly repository: string }, auth?: RegistryAuth): Promise<RegistryAccess> {
    const { registry, repository } = reference;
    // References are checked where they are parsed; a path is made of this one.
    if (registry.includes('/') || /^[._]/.test(registry)) throw new RuntimeError('invalidArgument', `registry ${JSON.stringify(registry.slice(0, 200))}: is no host`);
    const directory = await findDirectory(this.#options.certsDirs, registry);
    const hosts = directory === undefined ? [await this.#upstream(registry)] : await this.#configuredHosts(registry, directory);
    return { registry, repository, hosts, proxy: proxySettings(this.#options.env), ...(auth === undefined ? {} : { auth }) };
  }

  async #upstream(registry: string, settings: HostSettings = defaultHostSettings, directory = ''): Promise<RegistryHost> {
    return { url: endpointOf(registry, settings).href, isUpstream: true, ...(await readSettings(settings, directory, () => `read ${directory}`)) };
  }

  async #configuredHosts(registry: string, directory: FoundDirectory): Promise<readonly RegistryHost[]> {
    const file = join(directory.path, 'hosts.toml');
    const text = directory.names.includes('hosts.toml') ? ((await readConfigurationFile(file)) ?? '') : '';
    if (text === '') return [await this.#upstream(registry, certificateFiles(directory), directory.path)];
    let decoded: HostsFile;
    try {
      decoded = decodeHostsFile(text);
    } catch (error) {
      throw fileError(file, error);
    }
    const { server, serverUrl } = decoded;
    const itself = endpointOf(registry, server);
    const describe = async (settings: HostSettings, url: URL, options: { readonly isServer: boolean; readonly place: (key: string) => string }): Promise<RegistryHost> => {
      const isItself = url.host === itself.host;
      const isUpstream = isItself || (options.isServer && !directory.isDefault);
      return { url: url.href, isUpstream, ...(isItself ? {} : { namespace: registry }), ...(await readSettings(settings, directory.path, options.place)) };
    };
    const hosts: RegistryHost[] = [];
    for (const entry of decoded.hosts) hosts.push(await describe(entry, entry.url, { isServer: false, place: (key) => `read ${file}: ${pathOf(entry.path, key)}` }));
    const last = await describe(server, serverUrl ?? itself, { isServer: true, place: (key) => `read ${file}: ${key}` });
    // The same place twice in a row would only fail twice.
    const before = hosts.at(-1);
    const isListed =
      before !== undefined && before.url === last.url && before.isUpstream === last.isUpstream && last.capabilities.every((capability) => before.capabilities.includes(capability));
    return isListed ? hosts : [...hosts, last];
  }
}

/** The proxies of the environment. Capitals win, as in the programs whose settings these are. */
export function proxySettings(env: Readonly<Record<string, string | undefined>>): ProxySettings {
  const variable = (name: string): string | undefined => env[name] || env[name.toLowerCase()] || undefined;
  const [httpProxy, httpsProxy, noProxy] = [variable('HTTP_PROXY'), variable('HTTPS_PROXY'), variable('NO_PROXY')];
  return { ...(httpProxy === undefined ? {} : { httpProxy }), ...(httpsProxy === undefined ? {} : { httpsProxy }), ...(noProxy === undefined ? {} : { noProxy }) };
}
