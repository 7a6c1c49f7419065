/**
 * Images on the real file system: layouts and registries in, trees out, compared with umoci's. Needs root, Debian's
 * docker-registry, skopeo and umoci. Everything is on loopback and in temporary directories.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { RuntimeError } from '#core';
import type { ImageProgress, ImageStore } from '#image';
import { decodeManifestDocument } from '#oci';
import { TarReader } from '../../src/image/tar.ts';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import { directAccess } from '../../src/image/registry/direct-access.ts';
import { type Fault, FaultyProxy } from './faulty-proxy.ts';
import { Layout, Registry, StoreHost, describeOverlay, describeTree, run, setXattr, shell, skipReason, tarOf } from './image-host.ts';

const base = (): Buffer =>
  tarOf(`
  mkdir -p bin etc/deep/er usr/lib srv/data gone/inner opaque/old private
  cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; ln -s busybox bin/ls; ln -s usr/lib lib
  echo hello > etc/hello; chmod 4755 bin/busybox; chown 12:34 etc/hello; chmod 0750 private; chown 5:6 private
  echo x > gone/inner/x; echo y > srv/data/gone; echo z > opaque/old/z; mkfifo srv/fifo; mknod srv/null c 1 3
  echo low > etc/deep/er/linked; ${setXattr('etc/deep/er/linked', 'user.note', 'value')}; truncate -s 3M srv/hole; echo end >> srv/hole
  touch -d '2020-01-02 03:04:05.678901234' etc/hello; touch -h -d '2001-01-01 00:00:00.5' bin/ls
  chmod 2775 srv/data; ${setXattr('etc/deep', 'user.dir', 'd')}`);
/** Names children only: their parents' attributes must come from below, and lib is a link there. */
const upper = (): Buffer =>
  tarOf(
    `
  mkdir -p private srv/data lib opaque gone etc/deep/er; echo secret > private/key; chmod 600 private/key
  touch srv/data/.wh.gone .wh.gone opaque/.wh..wh..opq; echo new > opaque/new; echo so > lib/libnew.so
  echo low > etc/deep/er/linked`,
    'private/key srv/data/.wh.gone .wh.gone opaque/.wh..wh..opq opaque/new lib/libnew.so',
  );
const withText = (text: string): Buffer => tarOf(`mkdir -p etc; echo ${text} > etc/text`);

const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  };

describe('images', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-image-test-'));
  let store: ImageStore;
  let registry: Registry;
  const push = (layout: Layout, name: string, repository: string, options: readonly string[] = []): string =>
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', ...options, `oci:${layout.dir}:${name}`, `docker://${registry.address}/${repository}`]);

  before(async () => {
    registry = await Registry.start();
    store = await host.open();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  // A test that fails must not make those after it fail.
  afterEach(async () => {
    for (const lease of store.leases()) store.release(lease);
    for (const image of store.list()) await store.remove(image.id);
  });

  test('an imported layout gives the tree that umoci unpacks, entry by entry', async () => {
    const layout = new Layout(join(work, 'tree'));
    layout.add(layout.manifest({ layers: [base(), upper()] }), 'example.com/tree:1');
    const [image] = await store.importImages(layout.dir);
    assert.ok(image !== undefined);
    assert.deepEqual(image.names, ['example.com/tree:1']);
    run('umoci', ['unpack', '--image', `${layout.dir}:example.com/tree:1`, join(work, 'bundle')]);
    const layers = store.lease(image.id, 'tree');
    const wanted = describeTree(join(work, 'bundle/rootfs'));
    assert.ok(wanted.length > 30, 'umoci unpacked something');
    assert.deepEqual(describeOverlay(layers), wanted);
    store.release('tree');
    await store.remove(image.id);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('pulls gzip and zstd layers and stores equal layers once', async () => {
    const layout = new Layout(join(work, 'packed'));
    const layers = [withText('one')];
    layout.add(layout.manifest({ layers, config: { Env: ['A=1'] } }), 'gzip');
    layout.add(layout.manifest({ layers, compression: 'zstd', config: { Env: ['A=2'] } }), 'zstd');
    push(layout, 'gzip', 'packed:gzip');
    push(layout, 'zstd', 'packed:zstd');
    const seen: ImageProgress[] = [];
    const gzip = await store.pull(`${registry.address}/packed:gzip`, { onProgress: (progress) => seen.push(progress) });
    const zstd = await store.pull(`${registry.address}/packed:zstd`);
    assert.deepEqual([gzip.config.env, zstd.config.env], [['A=1'], ['A=2']]);
    assert.deepEqual([...new Set(seen.map(({ stage }) => stage))], ['resolving', 'downloading', 'verifying', 'unpacking', 'done']);
    assert.equal(host.contents().layers, 1);
    const first = store.lease(gzip.id, 'gzip');
    assert.deepEqual(store.lease(zstd.id, 'zstd'), first);
    assert.equal(readFileSync(join(first.storeDir, first.lower[0] ?? '', 'etc/text'), 'utf8'), 'one\n');
    await store.remove(gzip.id);
    assert.equal(host.contents().layers, 1, 'the other image and the leases keep the layer');
    store.release('gzip');
    store.release('zstd');
    await store.remove(`${registry.address}/packed:zstd`);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('chooses the platform out of an index and keeps what a lease uses', async () => {
    const layout = new Layout(join(work, 'multi'));
    const of = (architecture: string) => ({ architecture, descriptor: layout.manifest({ layers: [withText(architecture)], architecture }) });
    layout.add(layout.index([of('s390x'), of('arm64'), of('amd64')]), 'multi');
    push(layout, 'multi', 'multi:1', ['--all']);
    const image = await store.pull(`${registry.address}/multi:1`);
    assert.equal(image.config.platform.architecture, 'amd64');
    assert.match(image.digests[0] ?? '', new RegExp(`^${registry.address}/multi@sha256:`));
    assert.equal(store.resolve(image.digests[0] ?? '')?.id, image.id);
    assert.equal(store.resolve(image.id.slice(7, 19))?.id, image.id);
    const again = await store.pull(image.digests[0] ?? '');
    assert.equal(again.id, image.id);
    const layers = store.lease(image.id, 'multi');
    await store.remove(image.id);
    assert.deepEqual(store.list(), []);
    assert.equal(existsSync(join(layers.storeDir, layers.lower[0] ?? '', 'etc/text')), true);
    assert.deepEqual(store.leases(), ['multi']);
    assert.deepEqual(store.lease(image.id, 'multi'), layers, 'a lease outlives its image');
    store.release('multi');
    await assert.rejects(
      store.pull(`${registry.address}/multi:1`, { platform: { os: 'linux', architecture: 'riscv64' } }),
      failsWith('notFound', /^pull 127.*multi:1: no image for linux\/riscv64 \(there is linux\/s390x, linux\/arm64, linux\/amd64\)$/),
    );
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('says what is wrong with a reference, a missing image and a registry that is not there', async () => {
    await assert.rejects(store.pull('UPPER'), failsWith('invalidArgument', /^image reference "UPPER": repository must be lower case$/));
    await assert.rejects(store.pull(`${registry.address}/none:1`), failsWith('notFound', new RegExp(`^pull ${registry.address}/none:1: manifest unknown$`)));
    await assert.rejects(store.pull('127.0.0.1:1/x:1'), failsWith('unavailable', /^pull 127\.0\.0\.1:1\/x:1: talk to 127\.0\.0\.1:1: connect ECONNREFUSED/));
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('refuses altered, truncated and stalling blobs, leaves nothing, and the next pull succeeds', async () => {
    const layout = new Layout(join(work, 'altered'));
    layout.add(layout.manifest({ layers: [withText('two')] }), 'altered');
    push(layout, 'altered', 'altered:1');
    const faults: { current: Fault } = { current: 'altered' };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    const reference = `${proxy.address}/altered:1`;
    await assert.rejects(store.pull(reference), failsWith('dataLoss', /^pull 127.*altered:1: verify blob sha256:\w+: the content is sha256:/));
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    faults.current = 'truncated';
    await assert.rejects(store.pull(reference), failsWith('unavailable', /^pull 127.*altered:1: blob sha256:\w+: talk to 127/));
    faults.current = 'html';
    await assert.rejects(store.pull(reference), failsWith('invalidArgument', /^pull 127.*altered:1: document sha256:\w+: not JSON/));
    faults.current = 'loop';
    await assert.rejects(store.pull(reference), failsWith('unavailable', /^pull 127.*altered:1: the registry redirects more than 5 times$/));
    faults.current = 'none';
    proxy.manifestRequests.length = 0;
    const [image, same] = await Promise.all([store.pull(reference), store.pull(reference)]);
    assert.equal(image.id, same.id);
    assert.deepEqual(proxy.manifestRequests, ['/v2/altered/manifests/1'], 'two pulls share the work');
    await store.remove(image.id);
  });

  test('a stalled registry is given up, and a pull that is cancelled leaves nothing', async () => {
    const layout = new Layout(join(work, 'stall'));
    layout.add(layout.manifest({ layers: [withText('slow')] }), 'stall');
    push(layout, 'stall', 'stall:1');
    await using proxy = await FaultyProxy.start(registry.address, { current: 'stall' });
    using patient = new RegistryClient({ access: directAccess(proxy.address, 'stall') });
    using client = new RegistryClient({ access: directAccess(proxy.address, 'stall'), stallTimeoutMs: 100, retries: 0 });
    const found = decodeManifestDocument((await patient.manifest('1', AbortSignal.timeout(20_000))).bytes, { what: 'manifest' });
    assert.ok(found.kind === 'manifest');
    const layer = found.layers[0]?.digest;
    assert.ok(layer !== undefined);
    await assert.rejects(
      client.blobBytes(layer, 1_000_000, AbortSignal.timeout(20_000)),
      failsWith('deadlineExceeded', new RegExp(`^no answer from ${proxy.address} for 100 ms$`)),
    );
    const controller = new AbortController();
    const pull = store.pull(`${proxy.address}/stall:1`, { signal: controller.signal, onProgress: ({ stage }) => void (stage === 'downloading' && controller.abort()) });
    await assert.rejects(pull, { name: 'AbortError' });
    // The work ends after its last caller has left; closing waits for that.
    await host.close();
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    assert.deepEqual(readdirSync(join(host.dir, 'state/content/ingest')), []);
    store = await host.open();
  });

  test('a redirect to another host gets no credentials', async () => {
    const layout = new Layout(join(work, 'redirect'));
    layout.add(layout.manifest({ layers: [withText('three')] }), 'redirect');
    push(layout, 'redirect', 'redirect:1');
    const elsewhere: { current: Fault } = { current: 'none' };
    await using other = await FaultyProxy.start(registry.address, elsewhere);
    const faults: { current: Fault } = { current: { redirectBlobsTo: other.address } };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    const image = await store.pull(`${proxy.address}/redirect:1`, { auth: { registryToken: 'secret-token' } });
    assert.ok(proxy.authorizations.every((value) => value === 'Bearer secret-token') && proxy.authorizations.length > 0);
    assert.ok(other.authorizations.length > 0, 'blobs came from the other host');
    assert.deepEqual([...new Set(other.authorizations)], [undefined]);
    await store.remove(image.id);
  });

  test('basic credentials are sent when asked for, and a wrong password is one clear error without the password', async () => {
    const layout = new Layout(join(work, 'basic'));
    layout.add(layout.manifest({ layers: [withText('four')] }), 'basic');
    push(layout, 'basic', 'basic:1');
    await using proxy = await FaultyProxy.start(registry.address, { current: { wantBasic: 'user:pass' } });
    await assert.rejects(store.pull(`${proxy.address}/basic:1`), failsWith('unauthenticated', /the registry wants credentials$/));
    await assert.rejects(store.pull(`${proxy.address}/basic:1`, { auth: { username: 'user', password: 'hunter2' } }), (error) => {
      failsWith('unauthenticated', /^pull 127.*basic:1: /)(error);
      assert.doesNotMatch(String(error), /hunter2/);
      return true;
    });
    const image = await store.pull(`${proxy.address}/basic:1`, { auth: { username: 'user', password: 'pass' } });
    await store.remove(image.id);
  });

  test('refuses content that is not what the config says', async () => {
    const layout = new Layout(join(work, 'diffid'));
    layout.add(layout.manifest({ layers: [withText('five')], diffIds: [`sha256:${'0'.repeat(64)}`] }), 'example.com/diffid:1');
    await assert.rejects(store.importImages(layout.dir), failsWith('dataLoss', /^import .*: unpack layer sha256:\w+: verify layer: its content is sha256:/));
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('a hard link into a lower layer brings the file up, and one diff ID over two parents is two layers', async () => {
    // The archive has no file, only a link to what the layer below has.
    const whole = tarOf('mkdir etc; echo placeholder > etc/deep; ln etc/deep etc/again', 'etc/deep etc/again');
    const onlyLink = whole.subarray(headerStart(whole, whole.lastIndexOf('etc/again')));
    const types: string[] = [];
    new TarReader({ entry: ({ type, path, linkTarget }) => void types.push(`${type} ${path} ${linkTarget}`), data: () => undefined }).write(onlyLink);
    assert.deepEqual(types, ['hardLink etc/again etc/deep']);
    const layout = new Layout(join(work, 'links'));
    const low = (text: string): Buffer => tarOf(`mkdir -m 0710 etc; chown 7:8 etc; echo ${text} > etc/deep; chmod 640 etc/deep; chown 9:10 etc/deep`);
    layout.add(layout.manifest({ layers: [low('one'), onlyLink] }), 'example.com/links:1');
    layout.add(layout.manifest({ layers: [low('two'), onlyLink] }), 'example.com/links:2');
    const images = await store.importImages(layout.dir);
    assert.equal(images.length, 2);
    assert.equal(host.contents().layers, 4);
    for (const [index, image] of images.entries()) {
      run('umoci', ['unpack', '--image', `${layout.dir}:example.com/links:${index + 1}`, join(work, `links-${index}`)]);
      assert.deepEqual(describeOverlay(store.lease(image.id, 'links')), describeTree(join(work, `links-${index}/rootfs`)));
      store.release('links');
    }
    for (const image of images) await store.remove(image.id);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('thirty layers, half of which need those below, give the tree that umoci unpacks', async () => {
    const layers = [tarOf('mkdir -m 0711 a a/b; chown 3:4 a/b; echo x > a/b/x')];
    for (let index = 1; index < 30; index += 1) {
      if (index % 2 === 1) layers.push(tarOf(`mkdir -p a/b; echo ${index} > a/b/f${index}`, `a/b/f${index}`));
      else layers.push(tarOf(`mkdir -m 0${700 + (index % 7)} d${index}; echo ${index} > d${index}/f; mkdir -p a/b; touch a/b/.wh.f${index - 1}`));
    }
    const layout = new Layout(join(work, 'many'));
    layout.add(layout.manifest({ layers }), 'example.com/many:1');
    const [image] = await store.importImages(layout.dir);
    assert.ok(image !== undefined);
    run('umoci', ['unpack', '--image', `${layout.dir}:example.com/many:1`, join(work, 'many-bundle')]);
    const leased = store.lease(image.id, 'many');
    assert.equal(leased.lower.length, 30);
    assert.ok(leased.lower.join(':').length < 120, 'names are short enough for one page of mount options');
    assert.deepEqual(describeOverlay(leased), describeTree(join(work, 'many-bundle/rootfs')));
  });

  test('hostile layers change nothing outside their directory', async () => {
    const outside = join(work, 'outside');
    writeFileSync(outside, 'untouched');
    const cases: readonly (readonly [string, string, RegExp])[] = [
      [`ln -s ${work} way; mkdir d; echo evil > d/outside`, `--transform=s,^d/,way/, way d/outside`, /^$/],
      ['echo evil > outside', `--transform=s,^,../../, outside`, /names must not contain ".."/],
      ['mknod dev c 0 0', 'dev', /character device 0:0 is reserved/],
      ['echo x > file; ln file hard', `--transform=s,^file,../file,rh file hard`, /must not contain ".."/],
    ];
    for (const [index, [script, names, message]] of cases.entries()) {
      const layout = new Layout(join(work, `hostile-${index}`));
      layout.add(layout.manifest({ layers: [rawTar(script, names)] }), `example.com/hostile:${index}`);
      if (message.source === '^$') {
        const [image] = await store.importImages(layout.dir);
        assert.ok(image !== undefined);
        const layers = store.lease(image.id, 'hostile');
        assert.equal(shell('find . -type f | sort', join(layers.storeDir, layers.lower[0] ?? '')).trim(), `.${work}/outside`, 'the link was followed below the root');
        store.release('hostile');
        await store.remove(image.id);
      } else {
        await assert.rejects(store.importImages(layout.dir), failsWith('invalidArgument', message));
      }
      assert.equal(readFileSync(outside, 'utf8'), 'untouched');
    }
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('imports the tar of a layout, and what skopeo and umoci wrote', async () => {
    const layout = new Layout(join(work, 'archive'));
    layout.add(layout.manifest({ layers: [withText('six')] }), 'archive');
    run('skopeo', ['--insecure-policy', 'copy', `oci:${layout.dir}:archive`, `oci-archive:${work}/image.tar:whatever`]);
    const [image] = await store.importImages(join(work, 'image.tar'), { name: 'imported:1' });
    assert.deepEqual(image?.names, ['docker.io/library/imported:1']);
    await assert.rejects(store.importImages(join(work, 'nothing')), failsWith('notFound', /^import .*nothing: ENOENT/));
    await store.remove('imported:1');
  });

  test('an image made from the host runs its program, is the same each time, and lists its files', async () => {
    const { image, files } = await store.fromHost({ name: 'node:host', executables: [process.execPath] });
    assert.ok(files.some(({ path }) => path.endsWith('/libc.so.6')));
    assert.deepEqual(image.process.entrypoint, [process.execPath]);
    const layers = store.lease(image.id, 'host');
    const root = join(layers.storeDir, layers.lower[0] ?? '');
    assert.equal(run('chroot', [root, process.execPath, '-p', '6*7']).trim(), '42');
    assert.deepEqual(readdirSync(join(root, 'etc')).sort(), ['group', 'nsswitch.conf', 'passwd']);
    store.release('host');
    const again = await store.fromHost({ name: 'node:again', executables: [process.execPath] });
    assert.equal(again.image.id, image.id);
    assert.deepEqual(again.image.names, ['docker.io/library/node:host', 'docker.io/library/node:again']);
    await store.remove('node:again', { untagOnly: true });
    assert.deepEqual(store.resolve('node:host')?.names, ['docker.io/library/node:host']);
    await store.remove('node:host');
    await assert.rejects(store.fromHost({ name: 'x', executables: ['/etc/shadow'] }), failsWith('invalidArgument', /shadow: is not readable by everybody/));
    await assert.rejects(store.fromHost({ name: 'x', executables: ['/proc/self/exe'] }), failsWith('invalidArgument', /leads through \/proc$/));
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('images survive a restart, and what a dead process left unfinished is removed', async () => {
    const layout = new Layout(join(work, 'restart'));
    layout.add(layout.manifest({ layers: [withText('seven')] }), 'example.com/restart:1');
    const [image] = await store.importImages(layout.dir);
    assert.ok(image !== undefined);
    const layers = store.lease(image.id, 'restart');
    await host.close();
    shell('mkdir layers/zz layers/zz/inner; echo x > index/zz; echo x > content/ingest/left; echo x > content/sha256/' + 'a'.repeat(64), join(host.dir, 'state'));
    store = await host.open();
    assert.deepEqual(store.resolve('example.com/restart:1'), image);
    assert.deepEqual(store.lease(image.id, 'restart'), layers);
    assert.deepEqual(host.contents(), { blobs: 3, layers: 1 });
    assert.deepEqual(readdirSync(join(host.dir, 'state/content/ingest')), []);
    store.release('restart');
    await store.remove(image.id);
  });
});

/** Start of the block of headers, PAX included, that belongs to the name found at `at`. */
function headerStart(archive: Buffer, at: number): number {
  const block = Math.floor(at / 512) * 512;
  const type = String.fromCharCode(archive[block - 1024 + 156] ?? 0);
  return type === 'x' ? block - 1024 : block;
}

/** A tar made with given tar arguments in a directory that a script fills. */
function rawTar(script: string, names: string): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'berth-hostile-'));
  try {
    shell(`mkdir root; cd root; ${script}; tar -P --format=gnu --numeric-owner -cf ../layer.tar ${names}`, dir);
    return readFileSync(join(dir, 'layer.tar'));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
