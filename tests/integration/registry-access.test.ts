/**
 * Ways into a registry: TLS with an authority of one's own, client certificates, names and passwords, tokens, proxies. Against Debian's
 * docker-registry. Everything is on loopback and in temporary directories.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Digest, mediaTypes, parseDigest } from '#oci';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import type { ProxySettings, RegistryAuth, RegistryHost } from '../../src/image/registry/types.ts';
import { failsWith } from './expect-failure.ts';
import { FaultyProxy, answerWith, dropAfter } from './faulty-proxy.ts';
import { Registry, skipReason } from './image-host.ts';
import { GuardedRegistry, TestProxy, TestServer, TokenServer } from './registry-servers.ts';
import { Authority, TlsRegistry } from './tls-registry.ts';

const signal = new AbortController().signal;
const work = mkdtempSync(join(tmpdir(), 'berth-access-'));
after(() => rmSync(work, { recursive: true, force: true }));

const hostOf = (url: string, more: Partial<RegistryHost> = {}): RegistryHost => ({
  url,
  capabilities: ['pull', 'resolve', 'push'],
  headers: {},
  clientCertificates: [],
  skipVerify: false,
  isUpstream: true,
  ...more,
});
const clientOf = (host: RegistryHost, more: { readonly auth?: RegistryAuth; readonly proxy?: ProxySettings } = {}): RegistryClient => {
  const { auth, proxy = {} } = more;
  return new RegistryClient({ access: { registry: 'registry.test', repository: 'team/app', hosts: [host], proxy, ...(auth === undefined ? {} : { auth }) }, retries: 1 });
};

const digestOf = (bytes: Uint8Array): Digest => parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);
const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [] } }));
const manifest = Buffer.from(
  JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: { mediaType: mediaTypes.ociConfig, digest: digestOf(config), size: config.length }, layers: [] }),
);
const openConfig = async function* (): AsyncGenerator<Uint8Array> {
  yield config;
};

/** Pushes an image without layers and reads it again. */
async function roundTrip(client: RegistryClient): Promise<void> {
  await client.uploadBlob({ digest: digestOf(config), sizeBytes: config.length }, openConfig, {}, signal);
  await client.putManifest('1', manifest, mediaTypes.ociManifest, signal);
  assert.deepEqual((await client.manifest('1', signal)).bytes, manifest);
  assert.deepEqual(await client.blobBytes(digestOf(config), 4096, signal), config);
}

describe('a registry over TLS', { skip: skipReason() }, () => {
  const authority = new Authority(join(work, 'authority'));
  const ca = [readFileSync(authority.caFile, 'utf8')];
  const dataDir = join(work, 'data');
  let secure: TlsRegistry;
  let mutual: TlsRegistry;
  let url: string;

  before(async () => {
    mkdirSync(dataDir);
    secure = await TlsRegistry.start(work, authority, { dataDir });
    mutual = await TlsRegistry.start(work, authority, { dataDir, clientCaFile: authority.caFile });
    url = `https://${secure.address}/v2/`;
    using client = clientOf(hostOf(url, { ca }));
    await roundTrip(client);
  });
  after(async () => {
    for (const server of [secure, mutual]) await server?.[Symbol.asyncDispose]();
  });

  const resolveAt = async (host: RegistryHost, proxy: ProxySettings = {}): Promise<Digest> => {
    using client = clientOf(host, { proxy });
    return (await client.manifest('1', signal)).digest;
  };

  test('only certificates of a trusted authority are taken, unless verification is off', async () => {
    await assert.rejects(resolveAt(hostOf(url)), failsWith('unavailable', new RegExp(`^talk to ${secure.address}: verify its certificate: `)));
    assert.equal(await resolveAt(hostOf(url, { skipVerify: true })), digestOf(manifest));
    await assert.rejects(
      resolveAt(hostOf(url, { ca: ['-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----'] })),
      failsWith('failedPrecondition', new RegExp(`^use the certificates for ${secure.address}: not PEM, or a key that does not fit$`)),
    );
    await using plain = await TestServer.start((_incoming, answer) => void answer.end());
    await assert.rejects(resolveAt(hostOf(`https://${plain.address}/v2/`)), failsWith('unavailable', /: it does not speak TLS$/));
  });

  test('what the system trusts is trusted without a word', () => {
    const client = join(import.meta.dirname, '../../src/image/registry');
    const script = `
      const { RegistryClient } = await import('${client}/client.io.ts');
      const { directHost } = await import('${client}/direct-access.ts');
      using client = new RegistryClient({ access: { registry: 'x', repository: 'team/app', proxy: {}, hosts: [{ ...directHost('x'), url: '${url}' }] }, retries: 0 });
      console.log((await client.manifest('1', AbortSignal.timeout(60_000))).digest);`;
    const ask = (certFile: string): string =>
      execFileSync(process.execPath, ['--input-type=module', '-e', script], {
        encoding: 'utf8',
        env: { SSL_CERT_FILE: certFile, SSL_CERT_DIR: join(work, 'nowhere') },
        stdio: ['ignore', 'pipe', 'pipe'],
        cwd: client,
      });
    assert.equal(ask(authority.caFile), `${digestOf(manifest)}\n`);
    const stranger = new Authority(join(work, 'stranger'));
    assert.throws(() => ask(stranger.caFile), /verify its certificate/);
  });

  test('a client certificate is shown to the registry that wants one, and a wrong key is named without its content', async () => {
    const pair = authority.issue('visitor');
    const [cert, key] = [readFileSync(pair.certFile, 'utf8'), readFileSync(pair.keyFile, 'utf8')];
    const mutualUrl = `https://${mutual.address}/v2/`;
    assert.equal(await resolveAt(hostOf(mutualUrl, { ca, clientCertificates: [{ cert, key }] })), digestOf(manifest));
    await assert.rejects(resolveAt(hostOf(mutualUrl, { ca })), failsWith('unavailable', new RegExp(`^talk to ${mutual.address}: `)));
    const other = readFileSync(authority.issue('somebody').keyFile, 'utf8');
    await assert.rejects(resolveAt(hostOf(mutualUrl, { ca, clientCertificates: [{ cert, key: other }] })), failsWith('failedPrecondition', /a key that does not fit$/));
  });

  test('a proxy is asked for a tunnel, with its own credentials, and only for hosts that are not exempt', async () => {
    await using proxy = await TestProxy.start(secure.address);
    const port = secure.address.split(':')[1] ?? '';
    const far = hostOf(`https://registry.test:${port}/v2/`, { ca });
    const httpsProxy = `http://user:p%40ss@${proxy.address}`;
    assert.equal(await resolveAt(far, { httpsProxy }), digestOf(manifest));
    assert.deepEqual(proxy.requests, [`CONNECT registry.test:${port}`]);
    using client = clientOf(far, { proxy: { httpsProxy } });
    await roundTrip(client);
    const before = proxy.requests.length;
    // Exempt: nobody knows this name but the proxy.
    await assert.rejects(resolveAt(far, { httpsProxy, noProxy: 'other.test, .test' }), failsWith('unavailable', /^talk to registry\.test:\d+: getaddrinfo /));
    assert.equal(await resolveAt(hostOf(url, { ca }), { httpsProxy }), digestOf(manifest), 'loopback needs no proxy');
    assert.equal(proxy.requests.length, before);
    await assert.rejects(resolveAt(far, { httpsProxy: `http://user:wrong@${proxy.address}` }), (error) => {
      failsWith('unavailable', new RegExp(`^talk to registry\\.test:${port}: proxy ${proxy.address}: answered 407$`))(error);
      assert.doesNotMatch(String(error), /wrong/);
      return true;
    });
    await assert.rejects(resolveAt(far, { httpsProxy: 'http://127.0.0.1:1' }), failsWith('unavailable', /proxy 127\.0\.0\.1:1: connect ECONNREFUSED/));
    await assert.rejects(resolveAt(far, { httpsProxy: 'socks5://user:secret@127.0.0.1' }), failsWith('failedPrecondition', /^use the proxy for https: not an http or https URL$/));
  });

  test('a proxy that stays silent is given up after the time for dialling, and a cancelled request at once', async () => {
    await using silent = await TestServer.start(() => undefined);
    // It notices when its callers leave, without which it could not be closed.
    silent.server.on(
      'connect',
      (_incoming, socket) =>
        void socket
          .on('error', () => undefined)
          .on('end', () => socket.destroy())
          .resume(),
    );
    const far = hostOf('https://registry.test/v2/', { ca, dialTimeoutMs: 300 });
    await assert.rejects(resolveAt(far, { httpsProxy: `http://${silent.address}` }), failsWith('unavailable', new RegExp(`proxy ${silent.address}: no tunnel after 300 ms$`)));
    const controller = new AbortController();
    using client = clientOf(hostOf('https://registry.test/v2/', { ca }), { proxy: { httpsProxy: `http://${silent.address}` } });
    const asked = client.manifest('1', controller.signal);
    controller.abort();
    await assert.rejects(asked, { name: 'AbortError' });
  });
});

describe('a registry that lets in whom it knows', { skip: skipReason() }, () => {
  test('a plain registry is asked through a proxy by whole URLs', async () => {
    await using registry = await Registry.start();
    await using proxy = await TestProxy.start(registry.address);
    using client = clientOf(hostOf('http://registry.test/v2/'), { proxy: { httpProxy: `user:p%40ss@${proxy.address}` } });
    await roundTrip(client);
    assert.ok(proxy.requests.includes('GET http://registry.test/v2/team/app/manifests/1'), proxy.requests.join('\n'));
  });

  test('name and password are sent when asked for, and a wrong password is one clear error without it', async () => {
    // The bcrypt form of "pass", which is the only one that docker-registry takes.
    writeFileSync(join(work, 'htpasswd'), 'user:$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n');
    await using registry = await GuardedRegistry.start(work, `auth: {htpasswd: {realm: test, path: ${work}/htpasswd}}`);
    const host = hostOf(`http://${registry.address}/v2/`);
    using client = clientOf(host, { auth: { username: 'user', password: 'pass' } });
    await roundTrip(client);
    using anonymous = clientOf(host);
    await assert.rejects(anonymous.manifest('1', signal), failsWith('unauthenticated', /^the registry wants credentials$/));
    using wrong = clientOf(host, { auth: { username: 'user', password: 'hunter2' } });
    await assert.rejects(wrong.manifest('1', signal), failsWith('unauthenticated', /^the registry refuses the credentials: authentication required$/));
    using configured = clientOf(
      { ...host, isUpstream: false, headers: { Authorization: [`Basic ${Buffer.from('user:pass').toString('base64')}`] } },
      { auth: { username: 'not', password: 'this' } },
    );
    assert.equal((await configured.manifest('1', signal)).digest, digestOf(manifest));
  });

  test('tokens are fetched for what is needed and kept for each need', async () => {
    const pair = new Authority(join(work, 'tokens')).issue('signer');
    await using tokens = await TokenServer.start(pair);
    await using registry = await GuardedRegistry.start(
      work,
      `auth: {token: {realm: "${tokens.realm}", service: test-registry, issuer: test-issuer, rootcertbundle: ${pair.certFile}}}`,
    );
    const host = hostOf(`http://${registry.address}/v2/`);
    using client = clientOf(host, { auth: { username: 'user', password: 'pass' } });
    await roundTrip(client);
    assert.deepEqual(
      tokens.requests.map(({ method, fields }) => `${method} ${fields.get('service')} ${fields.getAll('scope').join(' ')}`),
      ['GET test-registry repository:team/app:pull,push', 'GET test-registry repository:team/app:pull'],
    );
    using refused = clientOf(host, { auth: { username: 'user', password: 'hunter2' } });
    await assert.rejects(refused.manifest('1', signal), (error) => {
      failsWith('unauthenticated', /^get a token from 127\.0\.0\.1:\d+: who are you\?$/)(error);
      assert.doesNotMatch(String(error), /hunter2/);
      return true;
    });
    tokens.requests.length = 0;
    using refreshing = clientOf(host, { auth: { identityToken: 'refresh' } });
    assert.equal((await refreshing.manifest('1', signal)).digest, digestOf(manifest));
    assert.deepEqual(
      tokens.requests.map(({ method, fields }) => [method, fields.get('grant_type'), fields.get('refresh_token')]),
      [['POST', 'refresh_token', 'refresh']],
    );
    tokens.requests.length = 0;
    using other = new RegistryClient({ access: { registry: 'registry.test', repository: 'team/other', hosts: [host], proxy: {}, auth: { identityToken: 'refresh' } } });
    assert.equal(await other.uploadBlob({ digest: digestOf(config), sizeBytes: config.length }, openConfig, { mountFrom: 'team/app' }, signal), 'mounted');
    assert.equal(tokens.requests.at(-1)?.fields.get('scope'), 'repository:team/other:pull,push repository:team/app:pull');
  });

  test('a token that is refused in the middle of a download is replaced, and the download goes on', async () => {
    const pair = new Authority(join(work, 'revoked')).issue('signer');
    await using tokens = await TokenServer.start(pair);
    await using registry = await Registry.start();
    using seed = clientOf(hostOf(`http://${registry.address}/v2/`));
    const blob = randomBytes(1_000_000);
    const wanted = { digest: digestOf(blob), sizeBytes: blob.length };
    await seed.uploadBlob(
      wanted,
      async function* () {
        yield blob;
      },
      {},
      signal,
    );
    const revoked = new Set<string | undefined>([undefined]);
    await using front = await FaultyProxy.start(registry.address, {
      current: (exchange) => {
        const { authorization } = exchange.asked.headers;
        if (revoked.has(authorization)) return answerWith(exchange, Buffer.from('{}'), { 'www-authenticate': `Bearer realm="${tokens.realm}",service="test-registry"` }, 401);
        if (tokens.requests.length > 1) return false;
        revoked.add(authorization);
        return dropAfter(exchange, 300_000);
      },
    });
    using client = clientOf(hostOf(`http://${front.address}/v2/`), { auth: { username: 'user', password: 'pass' } });
    const received = Buffer.alloc(blob.length);
    await client.download(wanted, { haveBytes: 0, write: async (offset, chunk) => received.set(chunk, offset) }, signal);
    assert.ok(received.equals(blob));
    assert.equal(tokens.requests.length, 2);
    assert.deepEqual(
      front.requests.map(({ headers }) => [headers.authorization !== undefined, headers.range !== undefined]),
      [
        [false, false],
        [true, false],
        [true, true],
        [true, true],
      ],
    );
  });
});
