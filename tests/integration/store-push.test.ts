/**
 * Images into a registry and questions to it: push, mounts, what was dropped, tags, referrers. Needs root, docker-registry, skopeo.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { RuntimeError } from '#core';
import type { ImageProgress, ImageStore, StoredImage } from '#image';
import { Layout, Registry, StoreHost, digestOf, freePort, run, skipReason, tarOf } from './image-host.ts';

const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /secret/);
    return true;
  };

describe('pushing to a registry', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-push-'));
  const layout = new Layout(join(work, 'layout'));
  const base = tarOf('mkdir -p bin; head -c 700000 /dev/urandom > bin/base');
  let store: ImageStore;
  let registry: Registry;

  before(async () => {
    store = await host.open();
    registry = await Registry.start();
    layout.add(layout.manifest({ layers: [base, tarOf('mkdir -p etc; echo a > etc/a')], config: { Cmd: ['a'] } }), 'example.com/a:1');
    layout.add(layout.manifest({ layers: [base, tarOf('mkdir -p etc; echo b > etc/b')], compression: 'zstd', config: { Cmd: ['b'] } }), 'example.com/b:1');
  });
  afterEach(async () => {
    for (const { id } of store.list()) await store.remove(id);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });
  after(async () => {
    rmSync(work, { recursive: true, force: true });
    await registry[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });
  const importA = async (): Promise<StoredImage> => {
    const image = (await store.importImages(layout.dir)).find(({ names }) => names.includes('example.com/a:1'));
    assert.ok(image !== undefined);
    return image;
  };
  const manifestOf = (
    image: StoredImage,
  ): { readonly digest: string; readonly layers: readonly { readonly sizeBytes: number }[]; readonly config: { readonly sizeBytes: number } } =>
    (store.info(image.id)['manifests'] as readonly ReturnType<typeof manifestOf>[])[0] ?? assert.fail('no manifest');
  const inspect = (name: string): Record<string, unknown> =>
    JSON.parse(run('skopeo', ['--insecure-policy', 'inspect', '--tls-verify=false', `docker://${registry.address}/${name}`])) as Record<string, unknown>;

  test('an imported image is pushed byte for byte, only once, and has a repository digest from then on', async () => {
    const image = await importA();
    const manifest = manifestOf(image);
    const progress: ImageProgress[] = [];
    const reference = `${registry.address}/team/a:1`;
    const result = await store.push('example.com/a:1', { destination: reference, onProgress: (step) => progress.push(step) });
    const sizeBytes = manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, manifest.config.sizeBytes);
    assert.deepEqual(result, { reference, digest: manifest.digest, pushedBytes: sizeBytes, mountedBytes: 0 });
    assert.equal(inspect('team/a:1')['Digest'], manifest.digest);
    assert.deepEqual(progress.at(-1), { stage: 'done', bytesDone: sizeBytes, bytesTotal: sizeBytes });
    assert.ok(progress.some(({ stage, layer, bytesDone, bytesTotal }) => stage === 'uploading' && layer !== undefined && bytesDone === bytesTotal));
    assert.ok(progress.every(({ bytesDone, bytesTotal }) => bytesDone >= 0 && bytesDone <= bytesTotal));
    assert.deepEqual(store.resolve(image.id)?.digests, [`${registry.address}/team/a@${manifest.digest}`]);
    assert.deepEqual(store.resolve(image.id)?.names, ['example.com/a:1']);
    assert.deepEqual(await store.push(image.id, { destination: reference }), { reference, digest: manifest.digest, pushedBytes: 0, mountedBytes: 0 });
    // Another repository of the same registry takes everything over without a transfer.
    store.tag(image.id, `${registry.address}/other:2`);
    assert.deepEqual(await store.push(`${registry.address}/other:2`), {
      reference: `${registry.address}/other:2`,
      digest: manifest.digest,
      pushedBytes: 0,
      mountedBytes: sizeBytes,
    });
    await store.remove(image.id);
    const again = await store.pull(`${registry.address}/other:2`);
    assert.equal(again.id, image.id);
    assert.deepEqual(again.digests, [`${registry.address}/other@${manifest.digest}`]);
    const copied = join(work, 'copied');
    run('skopeo', ['--insecure-policy', 'copy', '--src-tls-verify=false', `docker://${registry.address}/other:2`, `oci:${copied}:x`]);
    assert.deepEqual(readFileSync(join(copied, 'blobs/sha256', manifest.digest.slice(7))), readFileSync(join(layout.dir, 'blobs/sha256', manifest.digest.slice(7))));
  });

  test('one config in two packings is one image, and each name is pushed as what it stands for', async () => {
    for (const format of ['oci', 'v2s2'])
      run('skopeo', [
        '--insecure-policy',
        'copy',
        `--format=${format}`,
        '--dest-tls-verify=false',
        `oci:${layout.dir}:example.com/a:1`,
        `docker://${registry.address}/packed:${format}`,
      ]);
    const names = [`${registry.address}/packed:oci`, `${registry.address}/packed:v2s2`];
    const images = [await store.pull(names[0] ?? ''), await store.pull(names[1] ?? '')];
    const digests = names.map((name) => inspect(name.slice(registry.address.length + 1))['Digest']);
    assert.notEqual(digests[0], digests[1]);
    assert.equal(images[0]?.id, images[1]?.id);
    assert.equal(store.list().length, 1);
    for (const [index, name] of names.entries()) {
      const { digest } = await store.push(name, { destination: `${registry.address}/pushed:${index}` });
      assert.equal(digest, digests[index]);
    }
  });

  test('what was dropped is fetched again for a push, from the registry that has it and only when it is wanted', async () => {
    await store.push((await importA()).id, { destination: `${registry.address}/source:1` });
    for (const { id } of store.list()) await store.remove(id);
    await host.close();
    store = await host.open({ keepBlobs: false });
    const image = await store.pull(`${registry.address}/source:1`);
    assert.deepEqual(host.contents(), { blobs: 2, layers: 2 });
    await using second = await Registry.start();
    const { pushedBytes, mountedBytes } = await store.push(image.id, { destination: `${second.address}/moved:1` });
    assert.ok(pushedBytes > 700_000 && mountedBytes === 0);
    assert.deepEqual(host.contents(), { blobs: 2, layers: 2 });
    await store.remove(image.id);
    assert.equal((await store.pull(`${second.address}/moved:1`)).id, image.id);
    await host.close();
    store = await host.open();
  });

  test('a dropped blob that nobody has any more is said, with the blob and where it was looked for', async () => {
    const gone = await Registry.start();
    await store.push((await importA()).id, { destination: `${gone.address}/source:1` });
    for (const { id } of store.list()) await store.remove(id);
    await host.close();
    store = await host.open({ keepBlobs: false });
    const image = await store.pull(`${gone.address}/source:1`);
    await gone[Symbol.asyncDispose]();
    await assert.rejects(
      store.push(image.id, { destination: `${registry.address}/nowhere:1` }),
      failsWith('unavailable', new RegExp(`^push ${registry.address}/nowhere:1: fetch blob sha256:[0-9a-f]{64} from ${gone.address}/source: .*ECONNREFUSED`)),
    );
    await assert.rejects(
      store.save([image.id], join(work, 'nowhere.tar'), { format: 'oci-archive' }),
      failsWith('unavailable', new RegExp(`^save sha256:[0-9a-f]{64} to .*: fetch blob sha256:[0-9a-f]{64} from ${gone.address}/source: `)),
    );
    await host.close();
    store = await host.open();
  });

  test('bad destinations, unknown images and registries that are not there are one clear error', async () => {
    const image = await importA();
    await assert.rejects(store.push(image.id), failsWith('invalidArgument', /^push sha256:[0-9a-f]{64}: an id says nothing about where to; name a destination$/));
    await assert.rejects(
      store.push(image.id, { destination: `x.example/y@${image.id}` }),
      failsWith('invalidArgument', /^push x\.example\/y@sha256:[0-9a-f]{64}: the destination must have no digest/),
    );
    await assert.rejects(store.push('none:1'), failsWith('notFound', /^image "none:1": not found$/));
    const nobody = `127.0.0.1:${await freePort()}`;
    await assert.rejects(
      store.push(image.id, { destination: `${nobody}/x:1`, auth: { username: 'me', password: 'secret' } }),
      failsWith('unavailable', new RegExp(`^push ${nobody}/x:1: .*ECONNREFUSED`)),
    );
    assert.deepEqual(store.resolve(image.id)?.digests, []);
    await assert.rejects(store.push(image.id, { destination: `${registry.address}/x:1`, signal: AbortSignal.abort(new Error('enough')) }), /enough/);
  });

  test('a damaged blob is refused by the registry, and the tag does not appear', async () => {
    const image = await importA();
    const layer = String((store.info(image.id)['blobs'] as readonly string[]).at(-1));
    const path = join(host.dir, 'state/content/sha256', layer.slice(7));
    const bytes = readFileSync(path);
    bytes[10] = (bytes[10] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    await assert.rejects(
      store.push(image.id, { destination: `${registry.address}/damaged:1` }),
      failsWith('dataLoss', new RegExp(`^push ${registry.address}/damaged:1: .*${layer}`)),
    );
    await assert.rejects(store.tags(`${registry.address}/damaged`), failsWith('notFound', /^list tags of .*\/damaged: /));
  });

  test('tags and referrers are listed, an artifact is pulled, leased as a volume only, and pushed', async () => {
    const image = await importA();
    const subject = manifestOf(image).digest;
    await store.push(image.id, { destination: `${registry.address}/listed:1` });
    await store.push(image.id, { destination: `${registry.address}/listed:two` });
    assert.deepEqual(await store.tags(`${registry.address}/listed`), ['1', 'two']);
    assert.deepEqual(await store.referrers(`${registry.address}/listed:1`), []);
    // An artifact about the image, under the tag that stands for the list of referrers where a registry keeps none.
    const config = layout.blob(Buffer.from('{}'));
    const file = layout.blob(Buffer.from('the bill of materials\n'));
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const artifact = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType,
        artifactType: 'application/x.bill',
        config: { mediaType: 'application/vnd.oci.empty.v1+json', ...config },
        layers: [{ mediaType: 'text/plain', ...file, annotations: { 'org.opencontainers.image.title': 'bill.txt' } }],
        subject: { mediaType, digest: subject, size: readFileSync(join(layout.dir, 'blobs/sha256', subject.slice(7))).length },
      }),
    );
    const artifactLayout = new Layout(join(work, 'artifact'));
    for (const bytes of [Buffer.from('{}'), Buffer.from('the bill of materials\n'), artifact]) artifactLayout.blob(bytes);
    artifactLayout.add({ mediaType, digest: digestOf(artifact), size: artifact.length }, `${registry.address}/listed:bill`);
    const [bill] = await store.importImages(artifactLayout.dir);
    assert.ok(bill !== undefined);
    assert.equal(bill.kind, 'artifact');
    assert.equal(bill.id, digestOf(artifact));
    assert.throws(() => store.lease(bill.id, 'container'), failsWith('failedPrecondition', /is an artifact, which can be mounted as a volume but not run$/));
    const layers = store.lease(bill.id, 'volume', { purpose: 'volume' });
    assert.equal(readFileSync(join(layers.storeDir, layers.lower[0] ?? '', 'bill.txt'), 'utf8'), 'the bill of materials\n');
    store.release('volume');
    assert.deepEqual(
      (await store.verify()).images.flatMap(({ problems }) => problems),
      [],
    );
    const { digest } = await store.push(`${registry.address}/listed:bill`);
    assert.equal(digest, bill.id);
    const found = await store.referrers(`${registry.address}/listed:1`, { artifactType: 'application/x.bill' });
    assert.deepEqual(
      found.map((one) => ({ digest: one.digest, type: one.artifactType })),
      [{ digest, type: 'application/x.bill' }],
    );
    assert.deepEqual(await store.referrers(`${registry.address}/listed@${subject}`, { artifactType: 'application/x.other' }), []);
    await store.remove(bill.id);
    assert.equal((await store.pull(`${registry.address}/listed:bill`)).kind, 'artifact');
  });
});
