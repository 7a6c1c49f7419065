/**
 * How layers come into the store: while they are downloaded, in every packing, resumed after an interruption, once for all who want them; and what
 * is no image at all. Needs root, Debian's docker-registry, skopeo and umoci. Everything is on loopback and in temporary directories.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import type { ImageStore, StoredImage } from '#image';
import { failsWith } from './expect-failure.ts';
import { type Fault, FaultyProxy, answerWith, dropAfter } from './faulty-proxy.ts';
import { Layout, Registry, StoreHost, describeTree, digestOf, run, setXattr, skipReason, tarOf } from './image-host.ts';

const types = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  foreign: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
} as const;

const withText = (text: string): Buffer => tarOf(`mkdir -p etc; echo ${text} > etc/${text}`);
/** An archive that no packing makes small, so that its download can be cut in the middle. */
const withRandom = (name: string): Buffer => tarOf(`head -c 300000 /dev/urandom > ${name}`);

interface RawBlob {
  readonly mediaType: string;
  readonly bytes: Buffer;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly urls?: readonly string[];
}

/** A manifest of exactly these blobs. `diffIds` are those of the config, which is an image's where they are given. */
function addManifest(layout: Layout, name: string, layers: readonly RawBlob[], options: { readonly diffIds?: readonly string[]; readonly artifactType?: string } = {}): string {
  const { diffIds, artifactType } = options;
  const config = diffIds === undefined ? '{}' : JSON.stringify({ os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: diffIds } });
  const manifest = {
    schemaVersion: 2,
    mediaType: types.manifest,
    ...(artifactType === undefined ? {} : { artifactType }),
    config: { mediaType: diffIds === undefined ? 'application/vnd.oci.empty.v1+json' : types.config, ...layout.blob(Buffer.from(config)) },
    layers: layers.map(({ bytes, ...descriptor }) => ({ ...descriptor, ...layout.blob(bytes) })),
  };
  const descriptor = { mediaType: types.manifest, ...layout.blob(Buffer.from(JSON.stringify(manifest))) };
  layout.add(descriptor, name);
  return descriptor.digest;
}

describe('the way of layers into the store', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-pipeline-test-'));
  let store: ImageStore;
  let registry: Registry;

  before(async () => {
    registry = await Registry.start();
    store = await host.open();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  const layoutAt = (name: string): Layout => new Layout(join(work, name));
  const push = (layout: Layout, name: string): string =>
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:${name}`, `docker://${registry.address}/${name}:1`]);
  /** What one layer of an image holds under a path. */
  const fileOf = (image: StoredImage, path: string, layer = 0): Buffer => {
    const { storeDir, lower } = store.lease(image.id, 'look', { purpose: 'volume' });
    store.release('look');
    return readFileSync(join(storeDir, lower[layer] ?? '', path));
  };
  const ingest = (): string[] => readdirSync(join(host.dir, 'state/content/ingest'));
  const partOf = (digest: string): string => `${digest.replace(':', '-')}.part`;
  const blobOf = (manifest: { readonly digest: string }, layout: Layout): string => {
    const document: unknown = JSON.parse(readFileSync(join(layout.dir, 'blobs/sha256', manifest.digest.slice(7)), 'utf8'));
    assert.ok(typeof document === 'object' && document !== null && 'layers' in document && Array.isArray(document.layers));
    return String(document.layers[0].digest);
  };

  test('a pull that is interrupted keeps the beginning of its blob, and the next one asks for the rest', async () => {
    const layout = layoutAt('resume');
    const manifest = layout.manifest({ layers: [withRandom('big')] });
    const digest = blobOf(manifest, layout);
    layout.add(manifest, 'resume');
    push(layout, 'resume');
    let requests = 0;
    const faults: { current: Fault } = {
      current: (exchange) => {
        if (!exchange.asked.url.includes(digest)) return false;
        requests += 1;
        // The connection ends in the middle; then the registry wants credentials that nobody has.
        return requests === 1 ? dropAfter(exchange, 100_000) : answerWith(exchange, Buffer.from('{"errors":[]}'), { 'www-authenticate': 'Basic realm="test"' }, 401);
      },
    };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    await assert.rejects(store.pull(`${proxy.address}/resume:1`), failsWith('unauthenticated', new RegExp(`^pull 127.*resume:1: blob ${digest}: .*credentials`)));
    assert.deepEqual(ingest(), [partOf(digest)]);
    const bytes = statSync(join(host.dir, 'state/content/ingest', partOf(digest))).size;
    assert.ok(bytes > 0 && bytes <= 100_000, `${bytes} bytes are kept`);
    faults.current = 'none';
    proxy.requests.length = 0;
    const image = await store.pull(`${proxy.address}/resume:1`);
    const ranges = proxy.requests.filter(({ url }) => url.includes(digest)).map(({ headers }) => headers.range);
    assert.equal(ranges.length, 1);
    assert.match(String(ranges[0]), new RegExp(`^bytes=${bytes}-`));
    assert.equal(fileOf(image, 'big').length, 300_000);
    assert.deepEqual(ingest(), []);
    await store.remove(image.id);
  });

  test('a beginning that is wrong is found out by the digest, and the blob comes once more from its first byte', async () => {
    const layout = layoutAt('wrong');
    const manifest = layout.manifest({ layers: [withRandom('big')] });
    const digest = blobOf(manifest, layout);
    layout.add(manifest, 'wrong');
    push(layout, 'wrong');
    await using proxy = await FaultyProxy.start(registry.address, { current: 'none' });
    writeFileSync(join(host.dir, 'state/content/ingest', partOf(digest)), randomBytes(50_000));
    const image = await store.pull(`${proxy.address}/wrong:1`);
    const ranges = proxy.requests.filter(({ url }) => url.includes(digest)).map(({ headers }) => headers.range);
    assert.equal(ranges.length, 2);
    assert.match(String(ranges[0]), /^bytes=50000-/);
    assert.doesNotMatch(String(ranges[1] ?? 'bytes=0-'), /^bytes=[1-9]/);
    assert.equal(fileOf(image, 'big').length, 300_000);
    assert.deepEqual(ingest(), []);
    await store.remove(image.id);
  });

  test('layers that were whole when another one failed are not fetched again', async () => {
    const layout = layoutAt('half');
    const layers = [withRandom('one'), withRandom('two')];
    layout.add(layout.manifest({ layers }), 'half');
    push(layout, 'half');
    const [first, second] = layers.map((layer) => digestOf(gzipSync(layer)));
    const faults: { current: Fault } = {
      current: (exchange) => {
        if (!exchange.asked.url.includes(String(second)) || store.list().length > 0) return false;
        // Late enough that the layer below it is through.
        const isFirstThere = (): boolean => readdirSync(join(host.dir, 'state/content/sha256')).includes(String(first).slice(7));
        const refuse = (): void => {
          if (isFirstThere()) answerWith(exchange, Buffer.from('{"errors":[]}'), { 'www-authenticate': 'Basic realm="test"' }, 401);
          else setTimeout(refuse, 20);
        };
        refuse();
        return true;
      },
    };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    await assert.rejects(store.pull(`${proxy.address}/half:1`), failsWith('unauthenticated', new RegExp(`^pull 127.*half:1: blob ${second}`)));
    faults.current = 'none';
    proxy.requests.length = 0;
    const image = await store.pull(`${proxy.address}/half:1`);
    assert.deepEqual(
      proxy.requests.filter(({ url }) => url.includes(String(first))),
      [],
    );
    assert.equal(fileOf(image, 'one', 1).length, 300_000);
    await store.remove(image.id);
  });

  test('two images that share a layer fetch and unpack it once, at the same time', async () => {
    const layout = layoutAt('shared');
    const shared = withRandom('shared');
    for (const name of ['left', 'right']) {
      layout.add(layout.manifest({ layers: [shared, withText(name)], config: { Env: [`NAME=${name}`] } }), name);
      push(layout, name);
    }
    await using proxy = await FaultyProxy.start(registry.address, { current: 'none' });
    const images = await Promise.all(['left', 'right'].map(async (name) => store.pull(`${proxy.address}/${name}:1`)));
    const asked = proxy.requests.filter(({ url, method }) => method === 'GET' && url.includes(digestOf(gzipSync(shared))));
    assert.equal(asked.length, 1);
    assert.equal(host.contents().layers, 3);
    for (const image of images) await store.remove(image.id);
  });

  test('the first bytes of a layer say how it is packed, and it may come in several members or frames', async () => {
    const tar = withRandom('content');
    const middle = 123_456;
    const skipped = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
    const packed: Readonly<Record<string, Buffer>> = {
      plain: tar,
      gzip: Buffer.concat([gzipSync(tar.subarray(0, middle)), gzipSync(tar.subarray(middle))]),
      zstd: Buffer.concat([skipped, zstdCompressSync(tar.subarray(0, middle)), skipped, zstdCompressSync(tar.subarray(middle)), skipped]),
    };
    for (const [name, bytes] of Object.entries(packed)) {
      const layout = layoutAt(`packed-${name}`);
      // The type is wrong for two of the three.
      addManifest(layout, 'example.com/packed:1', [{ mediaType: types.gzip, bytes }], { diffIds: [digestOf(tar)] });
      const [image] = await store.importImages(layout.dir);
      assert.ok(image !== undefined);
      assert.deepEqual(fileOf(image, 'content'), contentOf(tar));
      await store.remove(image.id);
    }
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test("a layer's own root has the attributes that its archive gives it, the time to the nanosecond", async () => {
    const mtimeNs = 1_330_837_567_123_456_789n;
    const tar = tarOf(`echo x > f; chown 3:4 .; chmod 1711 .; ${setXattr('.', 'user.root', 'r')}; touch -d @1330837567.123456789 .`, './ f');
    const layout = layoutAt('root');
    layout.add(layout.manifest({ layers: [tar] }), 'example.com/root:1');
    const [image] = await store.importImages(layout.dir);
    assert.ok(image !== undefined);
    const { storeDir, lower } = store.lease(image.id, 'look');
    store.release('look');
    const info = statSync(join(storeDir, lower[0] ?? ''), { bigint: true });
    assert.deepEqual([info.mode & 0o7777n, info.uid, info.gid, info.mtimeNs], [0o1711n, 3n, 4n, mtimeNs]);
    assert.deepEqual(
      describeTree(join(storeDir, lower[0] ?? '')).filter((line) => line.includes('user.root')),
      ['./ user.root=72'],
    );
    await store.remove(image.id);
  });

  test('a foreign layer is refused with its type, and taken by a store that is told so', async () => {
    const tar = withText('foreign');
    const layout = layoutAt('foreign');
    addManifest(layout, 'example.com/foreign:1', [{ mediaType: types.foreign, bytes: gzipSync(tar) }], { diffIds: [digestOf(tar)] });
    const urls = layoutAt('urls');
    addManifest(urls, 'example.com/urls:1', [{ mediaType: types.gzip, bytes: gzipSync(tar), urls: ['https://example.invalid/layer'] }], { diffIds: [digestOf(tar)] });
    for (const { dir } of [layout, urls])
      await assert.rejects(store.importImages(dir), failsWith('failedPrecondition', /^import .*: layer sha256:\w+: is a foreign layer \("application\/vnd\.oci[^"]+"\), which/));
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    await using other = new StoreHost();
    const lenient = await other.open({ allowForeignLayers: true });
    const [image] = await lenient.importImages(layout.dir);
    assert.equal(image?.kind, 'image');
    assert.deepEqual(other.contents(), { blobs: 3, layers: 1 });
  });

  test('an artifact becomes a tree of its files and archives, under the digest of its manifest', async () => {
    const layout = layoutAt('artifact');
    const text = Buffer.from('model weights');
    const nameless = Buffer.from('nameless');
    const title = (value: string) => ({ 'org.opencontainers.image.title': value });
    const digest = addManifest(
      layout,
      'artifact',
      [
        { mediaType: 'application/octet-stream', bytes: text, annotations: title('models/tiny.bin') },
        { mediaType: types.gzip, bytes: gzipSync(withText('tree')) },
        { mediaType: 'text/plain', bytes: nameless },
      ],
      { artifactType: 'application/vnd.example.model' },
    );
    push(layout, 'artifact');
    const image = await store.pull(`${registry.address}/artifact:1`);
    assert.deepEqual([image.kind, image.id], ['artifact', digest]);
    // The last layer of the manifest is the first of an overlay.
    assert.deepEqual(fileOf(image, 'models/tiny.bin', 2), text);
    assert.equal(fileOf(image, 'etc/tree', 1).toString(), 'tree\n');
    assert.deepEqual(fileOf(image, digestOf(nameless).slice(7)), nameless);
    await store.remove(image.id);
    for (const bad of ['../up', '/absolute', 'a//b', 'a/.wh.b', '.', '']) {
      const hostile = layoutAt(`title-${digestOf(Buffer.from(bad)).slice(7, 15)}`);
      addManifest(hostile, 'example.com/bad:1', [{ mediaType: 'text/plain', bytes: text, annotations: title(bad) }], { artifactType: 'text/plain' });
      await assert.rejects(store.importImages(hostile.dir), failsWith('invalidArgument', /^import .*: layer sha256:\w+: the title ".*" is not a plain path$/));
    }
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });
});

/** The only file of an archive that GNU tar made, after its extended header. */
function contentOf(tar: Buffer): Buffer {
  const at = tar.indexOf('ustar', tar.indexOf('ustar') + 512);
  const header = at < 0 ? 0 : at - 257;
  return tar.subarray(header + 512, header + 512 + 300_000);
}
