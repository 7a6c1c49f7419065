/**
 * Registries by the files that describe them, and credentials by the files and programs of a user: on a real file system, with real certificates and
 * Debian's docker-registry over TLS. Everything is on loopback and in temporary directories.
 */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { runTool } from '../../src/bin/run-tool.ts';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import { RegistryConfiguration } from '../../src/image/registry/configuration.io.ts';
import { findCredentials } from '../../src/image/registry/credentials.io.ts';
import type { RegistryAuth } from '../../src/image/registry/types.ts';
import { failsWith } from './expect-failure.ts';
import { FaultyProxy } from './faulty-proxy.ts';
import { Layout, Registry, StoreHost, run, shell, skipReason, tarOf } from './image-host.ts';
import { Authority, TlsRegistry } from './tls-registry.ts';

const manifestType = 'application/vnd.oci.image.manifest.v1+json';
const work = mkdtempSync(join(tmpdir(), 'berth-registries-'));
after(() => rmSync(work, { recursive: true, force: true }));

let directories = 0;
/** A fresh directory with these files. */
function withFiles(files: Readonly<Record<string, string>>): string {
  const dir = join(work, `certs${(directories += 1)}`);
  mkdirSync(dir);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text);
  }
  return dir;
}

const accessOf = async (registry: string, certsDirs: readonly string[], env: Readonly<Record<string, string>> = {}, auth?: RegistryAuth) =>
  new RegistryConfiguration({ certsDirs, env }).access({ registry, repository: 'team/app' }, auth);
const urlsOf = async (registry: string, ...certsDirs: string[]): Promise<readonly string[]> => (await accessOf(registry, certsDirs)).hosts.map(({ url }) => url);

describe('the configuration of registries', { skip: skipReason() }, () => {
  const authority = new Authority(join(work, 'authority'));
  const client = authority.issue('client');

  test('without files a registry is reached at its name, over plain http on the loopback interface only', async () => {
    assert.deepEqual(await urlsOf('quay.io', join(work, 'nowhere')), ['https://quay.io/v2/']);
    assert.deepEqual(await urlsOf('docker.io'), ['https://registry-1.docker.io/v2/']);
    assert.deepEqual(await urlsOf('127.0.0.1:5000'), ['http://127.0.0.1:5000/v2/']);
    assert.deepEqual(await urlsOf('10.0.0.1:5000'), ['https://10.0.0.1:5000/v2/']);
    const [host] = (await accessOf('quay.io', [])).hosts;
    assert.deepEqual(host, {
      url: 'https://quay.io/v2/',
      capabilities: ['pull', 'resolve', 'push'],
      headers: {},
      clientCertificates: [],
      skipVerify: false,
      isUpstream: true,
    });
  });

  test('the directory of the registry goes before the default one, in both spellings of a port, and the first directory that has one decides', async () => {
    const host = (name: string): string => `[host."https://${name}.example"]\n`;
    const first = withFiles({ 'reg.example_5000_/hosts.toml': host('underscore'), 'reg.example:5000/hosts.toml': host('colon'), '_default/hosts.toml': host('default') });
    assert.deepEqual(await urlsOf('reg.example:5000', first), ['https://underscore.example/v2/', 'https://reg.example:5000/v2/']);
    rmSync(join(first, 'reg.example_5000_'), { recursive: true });
    assert.deepEqual(await urlsOf('reg.example:5000', first), ['https://colon.example/v2/', 'https://reg.example:5000/v2/']);
    rmSync(join(first, 'reg.example:5000'), { recursive: true });
    const second = withFiles({ 'reg.example:5000/hosts.toml': host('second') });
    assert.deepEqual(await urlsOf('reg.example:5000', first, second), ['https://default.example/v2/', 'https://reg.example:5000/v2/']);
    rmSync(join(first, '_default'), { recursive: true });
    assert.deepEqual(await urlsOf('reg.example:5000', first, second), ['https://second.example/v2/', 'https://reg.example:5000/v2/']);
    assert.deepEqual(await urlsOf('[::1]:5000', withFiles({ '[::1]_5000_/hosts.toml': host('six') })), ['https://six.example/v2/', 'http://[::1]:5000/v2/']);
    await assert.rejects(accessOf('..', [first]), failsWith('invalidArgument', /^registry "\.\.": is no host$/));
  });

  test('a file is read afresh at each access', async () => {
    const dir = withFiles({ 'reg.example/hosts.toml': '[host."https://a.example"]' });
    const configuration = new RegistryConfiguration({ certsDirs: [dir], env: {} });
    const first = async (): Promise<string | undefined> => (await configuration.access({ registry: 'reg.example', repository: 'x' })).hosts[0]?.url;
    assert.equal(await first(), 'https://a.example/v2/');
    writeFileSync(join(dir, 'reg.example/hosts.toml'), '[host."http://b.example"]');
    assert.equal(await first(), 'http://b.example/v2/');
    rmSync(join(dir, 'reg.example'), { recursive: true });
    assert.equal(await first(), 'https://reg.example/v2/');
  });

  test('the caller’s credentials are for the registry and for the server that its own directory names, never for a mirror', async () => {
    const auth = { username: 'u', password: 'p' };
    const facts = async (registry: string, dir: string): Promise<unknown> =>
      (await accessOf(registry, [dir], {}, auth)).hosts.map(({ url, isUpstream, namespace }) => [url, isUpstream, namespace]);
    assert.deepEqual(await facts('reg.example', withFiles({ 'reg.example/hosts.toml': 'server = "https://real.example"\n[host."https://mirror.example"]' })), [
      ['https://mirror.example/v2/', false, 'reg.example'],
      ['https://real.example/v2/', true, 'reg.example'],
    ]);
    assert.deepEqual(await facts('reg.example', withFiles({ '_default/hosts.toml': 'server = "https://everything.example"' })), [
      ['https://everything.example/v2/', false, 'reg.example'],
    ]);
    assert.deepEqual(await facts('docker.io', withFiles({ 'docker.io/hosts.toml': 'server = "https://docker.io"\n[host."https://registry-1.docker.io"]' })), [
      ['https://registry-1.docker.io/v2/', true, undefined],
    ]);
    assert.deepEqual((await accessOf('reg.example', [], {}, auth)).auth, auth);
  });

  test('certificates are read and checked, relative to the file that names them', async () => {
    const dir = withFiles({
      'reg.example/hosts.toml': `ca = ["own.crt", "${authority.caFile}"]\n[host."https://m.example"]\nclient = [["client.cert", "client.key"]]\nskip_verify = true\ndial_timeout = "3s"\n[host."https://m.example".header]\nx-a = "b"`,
    });
    copyFileSync(authority.caFile, join(dir, 'reg.example/own.crt'));
    copyFileSync(client.certFile, join(dir, 'reg.example/client.cert'));
    copyFileSync(client.keyFile, join(dir, 'reg.example/client.key'));
    const [mirror, registry] = (await accessOf('reg.example', [dir])).hosts;
    assert.equal(registry?.ca?.length, 2);
    assert.match(registry.ca[0] ?? '', /BEGIN CERTIFICATE/);
    assert.match(mirror?.clientCertificates[0]?.key ?? '', /BEGIN PRIVATE KEY/);
    assert.deepEqual([mirror?.skipVerify, mirror?.dialTimeoutMs, { ...mirror?.headers }, mirror?.ca], [true, 3000, { 'x-a': ['b'] }, undefined]);
  });

  test('docker’s certificate files are about the registry itself, and make a loopback registry one with TLS', async () => {
    const dir = withFiles({ '127.0.0.1:5000/note.txt': 'not a certificate' });
    copyFileSync(authority.caFile, join(dir, '127.0.0.1:5000/ca.crt'));
    copyFileSync(client.certFile, join(dir, '127.0.0.1:5000/client.cert'));
    copyFileSync(client.keyFile, join(dir, '127.0.0.1:5000/client.key'));
    const { hosts } = await accessOf('127.0.0.1:5000', [dir]);
    assert.deepEqual(
      hosts.map(({ url, ca, clientCertificates }) => [url, ca?.length, clientCertificates.length]),
      [['https://127.0.0.1:5000/v2/', 1, 1]],
    );
    rmSync(join(dir, '127.0.0.1:5000/client.cert'));
    await assert.rejects(accessOf('127.0.0.1:5000', [dir]), failsWith('failedPrecondition', /^read .*\/127\.0\.0\.1:5000: client\.key has no certificate client\.cert beside it$/));
  });

  test('what cannot be used is an error with file and key, not another way to the registry', async () => {
    const fails = async (files: Readonly<Record<string, string>>, message: RegExp): Promise<void> =>
      assert.rejects(accessOf('reg.example', [withFiles(files)]), failsWith('failedPrecondition', message));
    await fails({ 'reg.example/hosts.toml': 'capabilites = []' }, /^read .*\/reg\.example\/hosts\.toml: capabilites: unknown field$/);
    await fails({ 'reg.example/hosts.toml': 'server = [' }, /^read .*\/hosts\.toml: not TOML at line 1, column \d+$/);
    await fails(
      { '_default/hosts.toml': '[host."https://m.example"]\nca = "gone.crt"' },
      /^read .*\/hosts\.toml: host\["https:\/\/m\.example"\]\.ca: .*\/_default\/gone\.crt does not exist$/,
    );
    await fails({ 'reg.example/hosts.toml': 'ca = "bad.crt"', 'reg.example/bad.crt': 'hello' }, /^read .*\/hosts\.toml: ca: .*\/bad\.crt holds no certificate in PEM$/);
    const broken = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
    await fails({ 'reg.example/bad.crt': broken }, /^read .*\/reg\.example: .*\/bad\.crt has a certificate that cannot be read$/);
    const other = authority.issue('other');
    await fails({ 'reg.example/hosts.toml': `client = [["${client.certFile}", "${other.keyFile}"]]` }, /: client: the key in .*\/other\.key is not the one of .*\/client\.crt$/);
    await fails({ 'reg.example/hosts.toml': `client = "${client.certFile}"` }, /: client: .*\/client\.crt holds no private key that can be used without a password$/);
    await fails({ 'reg.example/hosts.toml': `# ${'x'.repeat(1024 * 1024)}` }, /^read .*\/hosts\.toml: \d+ bytes, at most 1048576$/);
    const dir = withFiles({ 'reg.example/x': '' });
    shell(`mkfifo ${dir}/reg.example/hosts.toml`);
    await assert.rejects(accessOf('reg.example', [dir]), failsWith('failedPrecondition', /^read .*\/hosts\.toml: not a regular file$/));
  });

  test('proxies come from the environment, capitals first', async () => {
    assert.deepEqual((await accessOf('reg.example', [], { HTTPS_PROXY: 'http://a:1', https_proxy: 'http://b:2', no_proxy: 'c,d', HTTP_PROXY: '' })).proxy, {
      httpsProxy: 'http://a:1',
      noProxy: 'c,d',
    });
  });
});

describe('credentials of a user', { skip: skipReason() }, () => {
  const entry = (user: string): string => JSON.stringify({ auths: { 'reg.example': { auth: Buffer.from(`${user}:s3cret`).toString('base64') } } });
  const find = async (name: string, home: string, env: Readonly<Record<string, string>> = {}, xdgRuntimeDir?: string): Promise<RegistryAuth | undefined> =>
    findCredentials(name, { home, xdgRuntimeDir, env, runTool });

  test('the files are asked in podman’s order, and REGISTRY_AUTH_FILE alone where it is set', async () => {
    const home = withFiles({ '.docker/config.json': entry('docker') });
    const user = async (env: Readonly<Record<string, string>> = {}, runtimeDir?: string): Promise<string | undefined> =>
      (await find('reg.example/a/b', home, env, runtimeDir))?.username;
    assert.equal(await user(), 'docker');
    assert.equal(await user({ DOCKER_CONFIG: withFiles({ 'config.json': entry('elsewhere') }) }), 'elsewhere');
    mkdirSync(join(home, '.config/containers'), { recursive: true });
    writeFileSync(join(home, '.config/containers/auth.json'), entry('podman'));
    assert.equal(await user(), 'podman');
    const runtimeDir = withFiles({ 'containers/auth.json': entry('runtime') });
    assert.equal(await user({}, runtimeDir), 'runtime');
    const only = withFiles({ 'auth.json': '{}' });
    assert.equal(await user({ REGISTRY_AUTH_FILE: join(only, 'auth.json') }, runtimeDir), undefined);
    await assert.rejects(
      user({ REGISTRY_AUTH_FILE: '/nonexistent/auth.json' }),
      failsWith('failedPrecondition', /^read \/nonexistent\/auth\.json: does not exist, and REGISTRY_AUTH_FILE names it$/),
    );
    assert.equal(await find('other.example', home), undefined);
  });

  test('helper programs are asked for the registry, and their failures are told without their words', async () => {
    const home = withFiles({
      '.docker/config.json': JSON.stringify({
        auths: { 'fallback.example': { auth: Buffer.from('file:p').toString('base64') } },
        credHelpers: { 'reg.example': 'test-one', 'token.example': 'test-token', 'broken.example': 'test-broken', 'loud.example': 'test-loud', 'gone.example': 'test-gone' },
        credsStore: 'test-none',
      }),
      'bin/docker-credential-test-one': '#!/bin/sh\nread server; printf \'{"Username":"%s of %s","Secret":"s3cret"}\' "$1" "$server"\n',
      'bin/docker-credential-test-token': '#!/bin/sh\nprintf \'{"Username":"<token>","Secret":"s3cret"}\'\n',
      'bin/docker-credential-test-broken': '#!/bin/sh\necho s3cret is locked; exit 3\n',
      'bin/docker-credential-test-loud': '#!/bin/sh\nhead -c 1000000 /dev/zero | tr "\\0" x\n',
      'bin/docker-credential-test-none': '#!/bin/sh\necho credentials not found in native keychain; exit 1\n',
    });
    shell(`chmod 755 ${home}/bin/*`);
    const before = process.env['PATH'];
    process.env['PATH'] = `${home}/bin:${before}`;
    try {
      assert.deepEqual(await find('reg.example/team/app', home), { username: 'get of reg.example', password: 's3cret' });
      assert.deepEqual(await find('token.example', home), { identityToken: 's3cret' });
      assert.deepEqual(await find('fallback.example', home), { username: 'file', password: 'p' });
      assert.equal(await find('none.example', home), undefined);
      const fails = async (name: string, message: RegExp): Promise<void> => assert.rejects(find(name, home), failsWith('unauthenticated', message));
      await fails('broken.example', /^ask docker-credential-test-broken for the credentials of broken\.example: it ended with status 3$/);
      await fails('loud.example', /^ask docker-credential-test-loud .*: it prints more than 262144 bytes$/);
      await fails('gone.example', /^ask docker-credential-test-gone .*: spawn docker-credential-test-gone ENOENT$/);
    } finally {
      process.env['PATH'] = before;
    }
  });

  test('a file that cannot be used is named and not quoted', async () => {
    const fails = async (text: string, message: RegExp): Promise<void> => {
      const home = withFiles({ '.docker/config.json': text });
      await assert.rejects(find('reg.example', home), (error) => {
        assert.ok(failsWith('failedPrecondition', message)(error));
        assert.doesNotMatch(`${String(error)} ${error instanceof Error ? String(error.cause) : ''}`, /s3cret|czNjcmV0/);
        return true;
      });
    };
    await fails('{"auths": s3cret', /^read .*\/config\.json: not JSON$/);
    await fails('{"auths":{"reg.example":{"auth":"czNjcmV0"}}}', /^read .*\/config\.json: auths\["reg\.example"\]\.auth: is not the base64 of user:password$/);
    const home = withFiles({ '.docker/config.json': '' });
    assert.equal(await find('reg.example', home), undefined);
    chmodSync(join(home, '.docker'), 0o755);
  });
});

describe('registries as configured', { skip: skipReason() }, () => {
  const signal = new AbortController().signal;
  const authority = new Authority(join(work, 'tls'));
  const strangers = new Authority(join(work, 'strangers'));
  const dataDir = join(work, 'data');
  let registry: Registry;
  let secure: TlsRegistry;
  let mutual: TlsRegistry;
  let digest: string;

  before(async () => {
    registry = await Registry.start();
    const layout = new Layout(join(work, 'layout'));
    layout.add(layout.manifest({ layers: [tarOf('echo hello > hello')] }), 'one');
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:one`, `docker://${registry.address}/team/app:1`]);
    const answer = await fetch(`http://${registry.address}/v2/team/app/manifests/1`, { headers: { accept: manifestType } });
    digest = answer.headers.get('docker-content-digest') ?? '';
    assert.match(digest, /^sha256:/);
    shell(`cp -r ${registry.dataDir} ${dataDir}`);
    secure = await TlsRegistry.start(work, authority, { dataDir });
    mutual = await TlsRegistry.start(work, authority, { dataDir, clientCaFile: authority.caFile });
  });
  after(async () => {
    for (const server of [registry, secure, mutual]) await server?.[Symbol.asyncDispose]();
  });

  const resolveBy = async (name: string, certsDir: string, tag = '1', auth?: RegistryAuth): Promise<string> => {
    using registryClient = new RegistryClient({ access: await accessOf(name, [certsDir], {}, auth), retries: 0 });
    return (await registryClient.manifest(tag, signal)).digest;
  };

  test('an authority of one’s own is trusted for its registry, and an unknown one refused unless told otherwise', async () => {
    const hosts = (text: string): string => withFiles({ [`${secure.address}/hosts.toml`]: text });
    assert.equal(await resolveBy(secure.address, hosts(`ca = "${authority.caFile}"`)), digest);
    await assert.rejects(resolveBy(secure.address, hosts(`ca = "${strangers.caFile}"`)), failsWith('unavailable', new RegExp(`^talk to ${secure.address}: .*certificate`)));
    await assert.rejects(resolveBy(secure.address, hosts(`server = "https://${secure.address}"`)), failsWith('unavailable', /certificate/));
    assert.equal(await resolveBy(secure.address, hosts('skip_verify = true')), digest);
  });

  test('client certificates are shown to the registry that wants them', async () => {
    const client = authority.issue('client');
    const dir = withFiles({ [`${mutual.address.replace(':', '_')}_/hosts.toml`]: `ca = "${authority.caFile}"\nclient = [["${client.certFile}", "${client.keyFile}"]]` });
    assert.equal(await resolveBy(mutual.address, dir), digest);
    const without = withFiles({ [`${mutual.address}/hosts.toml`]: `ca = "${authority.caFile}"` });
    await assert.rejects(resolveBy(mutual.address, without), failsWith('unavailable', new RegExp(`^talk to ${mutual.address}: .*certificate`)));
  });

  test('mirrors are tried in their order with the registry’s name and their own headers, and never with the caller’s credentials', async () => {
    const faults = { current: 'none' } as const;
    await using mirror = await FaultyProxy.start(registry.address, faults);
    const dir = withFiles({
      'reg.invalid/hosts.toml': `[host."http://127.0.0.1:1"]\n[host."http://${mirror.address}"]\n[host."http://${mirror.address}".header]\nx-tenant = ["a", "b"]`,
    });
    assert.equal(await resolveBy('reg.invalid', dir, '1', { username: 'u', password: 's3cret' }), digest);
    const [asked] = mirror.requests;
    assert.equal(asked?.url, '/v2/team/app/manifests/1?ns=reg.invalid');
    assert.equal(asked?.headers['x-tenant'], 'a, b');
    assert.equal(asked?.headers.authorization, undefined);
  });

  test('a mirror without the capability resolves no tag, but gives content by digest', async () => {
    await using mirror = await FaultyProxy.start(registry.address, { current: 'none' });
    const dir = withFiles({ 'reg.invalid/hosts.toml': `server = "http://127.0.0.1:1"\n[host."http://${mirror.address}"]\ncapabilities = ["pull"]` });
    await assert.rejects(resolveBy('reg.invalid', dir), failsWith('unavailable', /127\.0\.0\.1:1/));
    assert.equal(mirror.requests.length, 0);
    assert.equal(await resolveBy('reg.invalid', dir, digest), digest);
  });

  test('the prefix of the interface can be moved', async () => {
    await using mirror = await FaultyProxy.start(registry.address, { current: 'none' });
    const dir = withFiles({ 'reg.invalid/hosts.toml': `server = "http://${mirror.address}/elsewhere"\noverride_path = true` });
    await assert.rejects(resolveBy('reg.invalid', dir), failsWith('notFound', /./));
    assert.equal(mirror.requests[0]?.url, '/elsewhere/team/app/manifests/1?ns=reg.invalid');
  });

  test('a host’s own proxy is used for it, and another host of the file goes the usual way', async () => {
    const asked: (readonly [string | undefined, string | undefined])[] = [];
    const server = createServer((incoming, answer) => {
      asked.push([incoming.url, incoming.headers['proxy-authorization']]);
      answer.writeHead(503).end();
    });
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    // SAFETY: a TCP server that listens has an address of this type.
    const { port } = server.address() as AddressInfo;
    try {
      const dir = withFiles({ 'reg.invalid/hosts.toml': `server = "http://${registry.address}"\n[host."http://mirror.invalid"]\nproxy = "http://user:s3cret@127.0.0.1:${port}"` });
      assert.equal(await resolveBy('reg.invalid', dir), digest);
      assert.deepEqual(asked, [['http://mirror.invalid/v2/team/app/manifests/1?ns=reg.invalid', `Basic ${Buffer.from('user:s3cret').toString('base64')}`]]);
    } finally {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    }
  });

  test('an image of another registry is pulled through its mirror under its own name, and pushed to where its file says', async () => {
    await using host = new StoreHost();
    await using mirror = await FaultyProxy.start(registry.address, { current: 'none' });
    const certsDir = withFiles({
      '_default/hosts.toml': `server = "http://127.0.0.1:1"\n[host."http://${mirror.address}"]\ncapabilities = ["pull", "resolve"]`,
      'target.invalid/hosts.toml': `server = "http://${registry.address}"`,
    });
    const store = await host.open({ registries: new RegistryConfiguration({ certsDirs: [certsDir], env: {} }) });
    const image = await store.pull('team.invalid/team/app:1');
    assert.deepEqual(image.names, ['team.invalid/team/app:1']);
    assert.deepEqual(image.digests, [`team.invalid/team/app@${digest}`]);
    assert.ok(mirror.requests.every(({ url }) => url.endsWith('?ns=team.invalid')));
    const pushed = await store.push('team.invalid/team/app:1', { destination: 'target.invalid/copy/app:2' });
    assert.equal(pushed.digest, digest);
    assert.equal((await fetch(`http://${registry.address}/v2/copy/app/manifests/${digest}`, { headers: { accept: manifestType } })).status, 200);
    // A mirror takes no pushes, whatever it could do.
    await assert.rejects(store.push('team.invalid/team/app:1'), failsWith('unavailable', /^push team\.invalid\/team\/app:1: .*127\.0\.0\.1:1/));
    assert.ok(mirror.requests.every(({ method }) => method === 'GET'));
  });
});
