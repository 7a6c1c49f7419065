/** Names, digests, leases and pulls in records alone. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { type Clock, type Records, RuntimeError, decodeJson, encodeJson } from '#core';
import { type Digest, digestOf, mediaTypes, parseReference } from '#oci';
import { ImageCatalog, documentsOf, layerBlobsOf, sourcesOf } from './catalog.ts';
import type { InstalledImage } from './install.io.ts';

class MemoryRecords implements Records {
  readonly #values = new Map<string, string>();
  readonly #key = (kind: string, id: string): string => `${kind}\n${id}`;
  put(kind: string, id: string, value: unknown): void {
    this.#values.set(this.#key(kind, id), encodeJson(value));
  }
  get(kind: string, id: string): unknown {
    const text = this.#values.get(this.#key(kind, id));
    return text === undefined ? undefined : decodeJson(text);
  }
  list(kind: string): { id: string; value: unknown }[] {
    return [...this.#values]
      .filter(([key]) => key.startsWith(`${kind}\n`))
      .map(([key, text]) => ({ id: key.slice(kind.length + 1), value: decodeJson(text) }))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }
  delete(kind: string, id: string): void {
    this.#values.delete(this.#key(kind, id));
  }
  transaction<T>(body: () => T): T {
    return body();
  }
}

const clock: Clock = { nowNs: () => 5n, monotonicMs: () => 0, sleep: async () => undefined, randomBytes: (count) => new Uint8Array(count) };
const digest = (letter: string): Digest => digestOf('sha256', letter.repeat(64));
const installed = (id: string, manifest: string, layers: readonly string[] = ['1']): InstalledImage => {
  const blobs = layers.map((letter) => ({ digest: digest(letter), sizeBytes: 100, mediaType: mediaTypes.ociLayerGzip }));
  const base = { mediaType: mediaTypes.ociManifest, documents: [digest(manifest)], config: { digest: digest(id), sizeBytes: 10, mediaType: mediaTypes.ociConfig }, layers: blobs };
  return {
    kind: 'image',
    id: digest(id),
    manifest: { digest: digest(manifest), sizeBytes: 1, ...base },
    config: {
      platform: { os: 'linux', architecture: 'amd64' },
      user: '7:8',
      env: [],
      entrypoint: [],
      cmd: [],
      workingDir: '',
      labels: {},
      volumes: [],
      exposedPorts: [],
      diffIds: layers.map((letter) => digest(letter)),
    },
    layers: layers.map((letter) => digest(letter)),
  };
};

describe('the catalog of images', () => {
  let records = new MemoryRecords();
  let catalog = new ImageCatalog({ records, clock });
  beforeEach(() => {
    records = new MemoryRecords();
    catalog = new ImageCatalog({ records, clock });
  });

  test('one config in two packings is one image, and each name stands for its own manifest', () => {
    catalog.add(installed('c', 'a', ['1', '2']), { tags: ['x.example/a:1'], digests: [`x.example/a@${digest('e')}`] });
    const image = catalog.add(installed('c', 'b', ['3', '4']), { tags: ['x.example/b:1'], digests: [`x.example/b@${digest('b')}`] });
    assert.deepEqual(image.names, ['x.example/a:1', 'x.example/b:1']);
    assert.equal(image.sizeBytes, 211);
    assert.equal(image.uid, 7);
    const { record } = catalog.find(image.id);
    assert.equal(catalog.manifestOf('x.example/a:1', record).digest, digest('a'));
    assert.equal(catalog.manifestOf(`x.example/a@${digest('e')}`, record).digest, digest('a'));
    assert.equal(catalog.manifestOf('x.example/b:1', record).digest, digest('b'));
    assert.equal(catalog.manifestOf(image.id, record).digest, digest('b'));
    assert.deepEqual(documentsOf(record), [digest('a'), digest('c'), digest('b')]);
    assert.deepEqual(
      layerBlobsOf(record).map((blob) => blob.digest),
      ['1', '2', '3', '4'].map(digest),
    );
    assert.deepEqual(
      sourcesOf(record).map(({ repository }) => repository),
      ['a', 'b'],
    );
    assert.deepEqual(new ImageCatalog({ records, clock }).list(), catalog.list());
  });

  test('a new name stands for the manifest of the name that it was made from', () => {
    catalog.add(installed('c', 'a'), { tags: ['x.example/a:1'], digests: [] });
    catalog.add(installed('c', 'b'), { tags: ['x.example/b:1'], digests: [] });
    catalog.tag('x.example/a:1', 'new:1');
    const { record } = catalog.find('new:1');
    assert.equal(catalog.manifestOf('new:1', record).digest, digest('a'));
  });

  test('names move, and the image that lost its last name keeps its digest', () => {
    catalog.add(installed('c', 'a'), { tags: ['x.example/a:1'], digests: [`x.example/a@${digest('a')}`] });
    catalog.add(installed('d', 'b'), { tags: ['x.example/a:1'], digests: [`x.example/a@${digest('b')}`] });
    assert.deepEqual(catalog.resolve(digest('c'))?.names, []);
    assert.equal(catalog.resolve('x.example/a:1')?.id, digest('d'));
    assert.equal(catalog.resolve(`x.example/a@${digest('a')}`)?.id, digest('c'));
    assert.deepEqual(Object.keys(catalog.read(digest('c'))?.targets ?? {}), [`x.example/a@${digest('a')}`]);
  });

  test('the last tag takes the image along, a digest only where no tag is left, an id is no name', () => {
    const image = catalog.add(installed('c', 'a'), { tags: ['x.example/a:1', 'x.example/a:2'], digests: [`x.example/a@${digest('a')}`] });
    assert.equal(catalog.untag(image, 'x.example/a:1'), true);
    const [left] = catalog.list();
    assert.ok(left !== undefined);
    assert.deepEqual(left.names, ['x.example/a:2']);
    assert.equal(catalog.untag(left, `x.example/a@${digest('a')}`), true);
    assert.equal(catalog.untag(left, left.id), false);
    assert.equal(catalog.untag(left, 'x.example/a:9'), false);
    assert.equal(catalog.untag(left, 'x.example/a:2'), false);
    assert.deepEqual(catalog.resolve(left.id)?.names, ['x.example/a:2']);
  });

  test('short ids are found where they are no names and unambiguous', () => {
    catalog.add(installed('c', 'a'), { tags: ['cccc:latest'].map((name) => `docker.io/library/${name}`), digests: [] });
    catalog.add(installed('d', 'a'), { tags: [], digests: [] });
    assert.equal(catalog.resolve('dddd')?.id, digest('d'));
    assert.equal(catalog.resolve('ddd'), undefined);
    assert.equal(catalog.resolve('sha256:dddddd')?.id, digest('d'));
    assert.equal(catalog.resolve('d'.repeat(64))?.id, digest('d'));
    assert.equal(catalog.resolve('cccc')?.id, digest('c'));
    assert.equal(catalog.resolve('not a name!'), undefined);
  });

  test('a push adds the digest it got, and none to an image that is gone', () => {
    const { id } = catalog.add(installed('c', 'a'), { tags: [], digests: [] });
    catalog.addDigest(id, parseReference('x.example/pushed:1'), digest('a'));
    assert.deepEqual(catalog.resolve(id)?.digests, [`x.example/pushed@${digest('a')}`]);
    catalog.forget(id);
    catalog.addDigest(id, parseReference('x.example/pushed:1'), digest('a'));
    assert.deepEqual(catalog.list(), []);
    assert.throws(
      () => catalog.find('x.example/pushed:1'),
      (error: unknown) => error instanceof RuntimeError && error.code === 'notFound',
    );
  });

  test('the record of a pull goes with what it brought, or stays until it is forgotten', () => {
    catalog.putPull('one', { blobs: [digest('1')], layers: [] });
    catalog.putPull('two', { blobs: [], layers: [digest('2')] });
    catalog.add(installed('c', 'a'), { tags: [], digests: [], pullId: 'one' });
    assert.deepEqual(catalog.pulls(), [{ id: 'two', pull: { blobs: [], layers: [digest('2')], atNs: 5n } }]);
    catalog.forgetPull('two');
    assert.deepEqual(catalog.pulls(), []);
  });
});
