/**
 * Names, pins, disk usage and garbage: what a removal and a collection take, and what they leave. Needs root, docker-registry, skopeo.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, type ServerResponse, createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { RuntimeError } from '#core';
import type { ImageStore, StoredImage } from '#image';
import { Layout, Registry, StoreHost, digestOf, run, shell, skipReason, tarOf } from './image-host.ts';

const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };

describe('names, usage and garbage', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-collect-'));
  const shared = tarOf('mkdir -p bin; head -c 400000 /dev/urandom > bin/shared');
  const own = (name: string): Buffer => tarOf(`mkdir -p etc; head -c 100000 /dev/urandom > etc/${name}`);
  const layout = new Layout(join(work, 'layout'));
  let store: ImageStore;
  let registry: Registry;

  before(async () => {
    store = await host.open();
    registry = await Registry.start();
    layout.add(layout.manifest({ layers: [shared, own('a')] }), 'example.com/a:1');
    layout.add(layout.manifest({ layers: [shared, own('b')] }), 'example.com/b:1');
    for (const name of ['a', 'b']) push(name);
  });
  afterEach(async () => {
    for (const { id } of store.list()) await store.remove(id);
    for (const lease of store.leases()) store.release(lease);
    await store.collect({ all: true });
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    assert.deepEqual(readdirSync(join(host.dir, 'state/content/ingest')), []);
    assert.deepEqual(readdirSync(join(host.dir, 'state/index')), []);
  });
  after(async () => {
    rmSync(work, { recursive: true, force: true });
    await registry[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });
  const push = (name: string, tag = '1'): void =>
    void run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:example.com/${name}:1`, `docker://${registry.address}/${name}:${tag}`]);
  const both = async (): Promise<readonly [StoredImage, StoredImage]> => {
    const [a, b] = await store.importImages(layout.dir);
    assert.ok(a !== undefined && b !== undefined);
    return [a, b];
  };

  test('a tag moves between images, and removing one of several names leaves the image', async () => {
    const [a, b] = await both();
    assert.deepEqual(store.tag('example.com/a:1', 'moving').names, ['example.com/a:1', 'docker.io/library/moving:latest']);
    assert.deepEqual(store.tag(b.id, 'docker.io/library/moving:latest').names, ['example.com/b:1', 'docker.io/library/moving:latest']);
    assert.deepEqual(store.resolve(a.id)?.names, ['example.com/a:1']);
    assert.equal(store.list().length, 2);
    await store.remove('moving', { untagOnly: true });
    assert.deepEqual(store.resolve(b.id)?.names, ['example.com/b:1']);
    await store.remove('example.com/b:1', { untagOnly: true });
    assert.equal(store.resolve(b.id), undefined);
    assert.deepEqual(host.contents(), { blobs: 4, layers: 2 });
    store.tag(a.id, 'second:1');
    await store.remove('second:1');
    assert.equal(store.resolve('example.com/a:1'), undefined);
    await store.remove('example.com/a:1');
    assert.throws(() => store.tag('example.com/a:1', 'x:1'), failsWith('notFound', /^image "example\.com\/a:1": not found$/));
  });

  test('bad names are refused and change nothing', async () => {
    const [a] = await both();
    for (const name of ['a/UPPER', `x@${a.id}`, 'a:b:c', '', a.id.slice(7)]) assert.throws(() => store.tag(a.id, name), failsWith('invalidArgument', /^image (name|reference) "/));
    assert.deepEqual(store.resolve(a.id)?.names, ['example.com/a:1']);
    assert.throws(() => store.pin('none', true), failsWith('notFound', /^image "none": not found$/));
  });

  test('one image by several references is listed once, with all names and digests', async () => {
    push('a', '2');
    const [first, second] = [await store.pull(`${registry.address}/a:1`), await store.pull(`${registry.address}/a:2`)];
    assert.equal(first.id, second.id);
    assert.equal(store.list().length, 1);
    assert.deepEqual(second.names, [`${registry.address}/a:1`, `${registry.address}/a:2`]);
    assert.equal(second.digests.length, 1);
    const byDigest = second.digests[0] ?? '';
    assert.equal(store.resolve(byDigest)?.id, first.id);
    assert.equal((await store.pull(byDigest)).id, first.id);
    assert.deepEqual(store.resolve(first.id)?.names, second.names);
    // Without its tags the image has only its digest, which a collection does not count as a name.
    const docker = `${registry.address}/docker:1`;
    run('skopeo', ['--insecure-policy', 'copy', '--format=v2s2', '--dest-tls-verify=false', `oci:${layout.dir}:example.com/a:1`, `docker://${docker}`]);
    const repacked = await store.pull(docker);
    assert.equal(store.list().filter(({ id }) => id === repacked.id).length, 1);
  });

  test('usage tells what an image shares, and what a collection would free', async () => {
    const [a, b] = await both();
    const { images, blobBytes, layerBytes, partialBytes, reclaimableBytes } = await store.diskUsage();
    assert.equal(partialBytes, 0);
    assert.equal(images.length, 2);
    for (const { sizeBytes, uniqueBytes, sharedBytes } of images) {
      assert.equal(sizeBytes, uniqueBytes + sharedBytes);
      assert.ok(sharedBytes > 800_000 && sharedBytes < 810_000, `shared ${sharedBytes}`);
      assert.ok(uniqueBytes > 200_000 && uniqueBytes < 210_000, `unique ${uniqueBytes}`);
    }
    assert.equal(blobBytes + layerBytes, images.reduce((sum, { uniqueBytes }) => sum + uniqueBytes, 0) + (images[0]?.sharedBytes ?? 0));
    assert.equal(reclaimableBytes, blobBytes + layerBytes);
    store.pin(a.id, true);
    store.lease(b.id, 'container');
    const used = await store.diskUsage();
    assert.equal(used.reclaimableBytes, 0);
    assert.deepEqual(
      used.images.map(({ id, isUsed, pinned }) => ({ id, isUsed, pinned })).sort((x, y) => (x.id < y.id ? -1 : 1)),
      [
        { id: a.id, isUsed: false, pinned: true },
        { id: b.id, isUsed: true, pinned: false },
      ].sort((x, y) => (x.id < y.id ? -1 : 1)),
    );
    store.pin(a.id, false);
    const before = await store.usage();
    const report = await store.collect({ all: true });
    assert.deepEqual(
      report.images.map(({ id, names }) => ({ id, names })),
      [{ id: a.id, names: ['example.com/a:1'] }],
    );
    assert.equal(before.usedBytes - (await store.usage()).usedBytes > 190_000, true);
  });

  test('a collection takes untagged images, all of them only when told, and nothing in a dry run', async () => {
    const [a, b] = await both();
    const old = await store.collect({ olderThanMs: 3_600_000, all: true });
    assert.deepEqual({ images: old.images, layers: old.layers, freedBytes: old.freedBytes }, { images: [], layers: [], freedBytes: 0 });
    assert.deepEqual((await store.collect()).images, []);
    // Another image takes the name away: this one has none any more.
    store.tag(b.id, 'example.com/a:1');
    const dry = await store.collect({ dryRun: true });
    assert.deepEqual(
      dry.images.map(({ id }) => id),
      [a.id],
    );
    assert.equal(dry.layers.length, 1);
    assert.equal(dry.blobs.length, 3);
    assert.ok(dry.freedBytes > 190_000);
    assert.equal(store.list().length, 2);
    const wet = await store.collect();
    assert.deepEqual(wet, dry);
    assert.deepEqual(
      store.list().map(({ id }) => id),
      [b.id],
    );
    store.pin(b.id, true);
    assert.deepEqual((await store.collect({ all: true })).images, []);
    assert.deepEqual(store.resolve(b.id)?.pinned, true);
    await host.close();
    store = await host.open();
    assert.deepEqual(store.resolve(b.id)?.pinned, true);
  });

  test('a lease keeps layers of a removed image, and their release frees them', async () => {
    const [a] = await both();
    const layers = store.lease(a.id, 'container');
    assert.deepEqual(store.lease(a.id, 'container'), layers);
    await store.remove(a.id);
    await store.remove('example.com/b:1');
    assert.deepEqual(host.contents(), { blobs: 0, layers: 2 });
    assert.deepEqual((await store.collect({ all: true })).layers, []);
    assert.deepEqual(store.lease(a.id, 'container'), layers);
    for (const name of layers.lower) assert.ok(statSync(join(layers.storeDir, name)).isDirectory());
    store.release('container');
    store.release('container');
    const freed = await store.collect();
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    // Either the release itself or this collection.
    assert.ok(freed.layers.length <= 2);
  });

  test('without kept blobs a pulled image has none for its layers; save fetches them again, an imported image keeps its own', async () => {
    await host.close();
    store = await host.open({ keepBlobs: false });
    const pulled = await store.pull(`${registry.address}/a:1`);
    assert.deepEqual(host.contents(), { blobs: 2, layers: 2 });
    assert.deepEqual((await store.verify()).images[0]?.problems, []);
    const imported = (await store.importImages(layout.dir)).find(({ names }) => names.includes('example.com/b:1'));
    assert.deepEqual(host.contents(), { blobs: 6, layers: 3 });
    await store.save([pulled.id], join(work, 'again.tar'), { format: 'oci-archive' });
    assert.deepEqual(host.contents(), { blobs: 6, layers: 3 });
    run('skopeo', ['--insecure-policy', 'copy', `oci-archive:${join(work, 'again.tar')}`, `dir:${join(work, 'again')}`]);
    // A layer is damaged: its blob comes from the registry, and goes again.
    const layer = (store.info(pulled.id)['layers'] as readonly { readonly name: string }[])[1]?.name ?? '';
    truncateSync(join(host.dir, 'state/layers', layer, 'etc/a'), 5);
    assert.equal((await store.verify({ repair: true })).images.find(({ id }) => id === pulled.id)?.problems[0]?.state, 'repaired');
    assert.deepEqual(host.contents(), { blobs: 6, layers: 3 });
    await store.remove(imported?.id ?? '');
    assert.deepEqual(host.contents(), { blobs: 2, layers: 2 });
    // A second pull finds everything.
    assert.equal((await store.pull(`${registry.address}/a:1`)).id, pulled.id);
    assert.deepEqual(host.contents(), { blobs: 2, layers: 2 });
    await host.close();
    store = await host.open();
  });

  test('a layer that takes a file of a lower one, whose blob was dropped, brings that blob back', async () => {
    const lower = tarOf('mkdir -p etc; echo low > etc/linked; head -c 50000 /dev/urandom > etc/filler');
    const dir = mkdtempSync(join(work, 'link-'));
    shell('mkdir -p x/etc; echo low > x/etc/linked; ln x/etc/linked x/etc/second; cd x; tar -cf ../upper.tar etc/linked etc/second; tar --delete -f ../upper.tar etc/linked', dir);
    const linked = new Layout(join(work, 'linked'));
    linked.add(linked.manifest({ layers: [lower] }), 'low');
    linked.add(linked.manifest({ layers: [lower, readFileSync(join(dir, 'upper.tar'))] }), 'high');
    for (const name of ['low', 'high'])
      run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${linked.dir}:${name}`, `docker://${registry.address}/linked:${name}`]);
    await host.close();
    store = await host.open({ keepBlobs: false });
    await store.pull(`${registry.address}/linked:low`);
    assert.deepEqual(host.contents(), { blobs: 2, layers: 1 });
    const high = await store.pull(`${registry.address}/linked:high`);
    assert.deepEqual(host.contents(), { blobs: 4, layers: 2 });
    const { storeDir, lower: names } = store.lease(high.id, 'look');
    assert.equal(readFileSync(join(storeDir, names[0] ?? '', 'etc/second'), 'utf8'), 'low\n');
    store.release('look');
    assert.deepEqual(
      (await store.verify()).images.flatMap(({ problems }) => problems),
      [],
    );
    await host.close();
    store = await host.open();
  });

  test('what an interrupted pull brought waits for the next one, also over a restart, for a day or until all is collected', async () => {
    await using proxy = await StallingProxy.start(registry.address);
    // The first layer comes, of the second only a part.
    proxy.stallAfterBytes = 50_000;
    proxy.stalled = digestOf(readFileSync(join(layout.dir, 'blobs/sha256', layerBlobOf('example.com/a:1', 1).slice(7))));
    const controller = new AbortController();
    const pulling = store.pull(`${proxy.address}/a:1`, { signal: controller.signal });
    await proxy.untilStalled();
    // The first layer's blob is the store's own once it was read to its end.
    await untilBlobs(1);
    controller.abort();
    await assert.rejects(pulling, { name: 'AbortError' });
    await store.collect();
    const { blobs, layers } = host.contents();
    assert.ok(blobs >= 1 && layers <= 1, `${blobs} blobs, ${layers} layers`);
    const usage = await store.diskUsage();
    assert.ok(usage.partialBytes > 0, 'nothing of the second layer was kept');
    await host.close();
    store = await host.open();
    assert.deepEqual(host.contents(), { blobs, layers });
    proxy.stalled = '';
    proxy.blobBytes = 0;
    const image = await store.pull(`${proxy.address}/a:1`);
    assert.ok(proxy.blobBytes < 60_000, `${proxy.blobBytes} bytes came again`);
    assert.deepEqual(host.contents(), { blobs: 4, layers: 2 });
    await store.remove(image.id);
    // The same again, and given up.
    proxy.stalled = digestOf(readFileSync(join(layout.dir, 'blobs/sha256', layerBlobOf('example.com/a:1', 1).slice(7))));
    const again = new AbortController();
    const second = store.pull(`${proxy.address}/a:1`, { signal: again.signal });
    await proxy.untilStalled();
    again.abort();
    await assert.rejects(second, { name: 'AbortError' });
    await store.collect();
    const partials = readdirSync(join(host.dir, 'state/content/ingest'));
    assert.ok(partials.length > 0);
    assert.ok((await store.collect({ all: true, dryRun: true })).freedBytes > 0);
    const report = await store.collect({ all: true });
    assert.equal(report.partials.length, partials.length);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    // A partial of two days ago goes by itself.
    const path = join(host.dir, 'state/content/ingest', `sha256-${'b'.repeat(64)}.part`);
    writeFileSync(path, 'x');
    utimesSync(path, 1000, 1000);
    assert.equal((await store.collect()).partials.length, 1);
  });

  test('references that share layers in any place are pulled at the same time, and either can be removed', async () => {
    // The shared layer is another layer where it lies above one: the blob is shared all the same.
    const [c] = [new Layout(join(work, 'c'))];
    c.add(c.manifest({ layers: [own('c'), shared] }), 'c');
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${c.dir}:c`, `docker://${registry.address}/c:1`]);
    for (let round = 0; round < 6; round += 1) {
      const names = ['a', 'b', 'c'].map((name) => `${registry.address}/${name}:1`);
      const images = await Promise.all((round % 2 === 0 ? names : names.toReversed()).map((name) => store.pull(name)));
      assert.deepEqual(host.contents(), { blobs: 10, layers: 4 });
      const [first, second, third] = images;
      await Promise.all([store.remove(first?.id ?? ''), store.remove(second?.id ?? '')]);
      assert.deepEqual(
        (await store.verify()).images.map(({ id, problems }) => ({ id, problems })),
        [{ id: third?.id, problems: [] }],
      );
      assert.deepEqual(host.contents(), { blobs: 4, layers: 2 });
      await store.remove(third?.id ?? '');
      assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    }
  });

  test('a collection waits for a pull and takes nothing of it', async () => {
    await using proxy = await StallingProxy.start(registry.address);
    proxy.stallAfterBytes = 50_000;
    proxy.stalled = digestOf(readFileSync(join(layout.dir, 'blobs/sha256', layerBlobOf('example.com/b:1', 1).slice(7))));
    const pulling = store.pull(`${proxy.address}/b:1`);
    await proxy.untilStalled();
    await assert.rejects(store.collect({ all: true, signal: AbortSignal.timeout(200) }), { name: 'TimeoutError' });
    const collecting = store.collect({ all: false });
    proxy.goOn();
    const image = await pulling;
    assert.deepEqual((await collecting).images, []);
    assert.equal(store.resolve(image.id)?.id, image.id);
    assert.deepEqual(
      (await store.verify()).images.map(({ problems }) => problems),
      [[]],
    );
  });

  const untilBlobs = async (count: number): Promise<void> => {
    for (let tries = 0; host.contents().blobs < count && tries < 400; tries += 1) await new Promise((resolve) => setTimeout(resolve, 50));
  };
  function layerBlobOf(name: string, index: number): string {
    const entries = JSON.parse(readFileSync(join(layout.dir, 'index.json'), 'utf8')) as { manifests: { digest: string; annotations: Record<string, string> }[] };
    const manifest = entries.manifests.find(({ annotations }) => annotations['org.opencontainers.image.ref.name'] === name)?.digest ?? '';
    return (JSON.parse(shell(`cat ${join(layout.dir, 'blobs/sha256', manifest.slice(7))}`)) as { layers: { digest: string }[] }).layers[index]?.digest ?? '';
  }
});

/** Before a registry: stops in the middle of one blob, and goes on when told. */
class StallingProxy implements AsyncDisposable {
  readonly address: string;
  stalled = '';
  stallAfterBytes = 0;
  /** Bytes of blobs that went through. */
  blobBytes = 0;
  readonly #server: ReturnType<typeof createServer>;
  #held: (() => void) | undefined;
  #noticed = Promise.withResolvers<void>();

  private constructor(server: ReturnType<typeof createServer>, address: string) {
    this.#server = server;
    this.address = address;
  }

  static async start(target: string): Promise<StallingProxy> {
    const server = createServer();
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    // SAFETY: a TCP server that listens has an address of this type.
    const proxy = new StallingProxy(server, `127.0.0.1:${(server.address() as AddressInfo).port}`);
    server.on('request', (incoming, answer) => proxy.#serve(target, incoming, answer));
    return proxy;
  }

  async untilStalled(): Promise<void> {
    await this.#noticed.promise;
    this.#noticed = Promise.withResolvers<void>();
  }

  goOn(): void {
    this.#held?.();
  }

  #serve(target: string, incoming: IncomingMessage, answer: ServerResponse): void {
    const { host: _host, ...headers } = incoming.headers;
    const isBlob = (incoming.url ?? '').includes('/blobs/');
    const isStalled = this.stalled !== '' && (incoming.url ?? '').includes(this.stalled);
    request(`http://${target}${incoming.url}`, { method: incoming.method, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const body = Buffer.concat(chunks);
        answer.writeHead(response.statusCode ?? 500, response.headers);
        if (!isStalled) {
          if (isBlob) this.blobBytes += body.length;
          return void answer.end(body);
        }
        answer.write(body.subarray(0, this.stallAfterBytes), () => this.#noticed.resolve());
        this.#held = () => void answer.end(body.subarray(this.stallAfterBytes));
      });
    }).end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }
}
