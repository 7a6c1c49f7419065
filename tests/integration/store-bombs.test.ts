/**
 * Documents and layers that are meant to exhaust or to confuse: each is a real image of a real registry, or a document that a proxy gives out
 * under a tag. Each ends with a clear error that names the image, and leaves nothing. Needs root and Debian's docker-registry.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { limits } from '#core';
import type { ImageStore } from '#image';
import { LayerCompiler } from '../../src/image/layer-compiler.ts';
import { failsWith } from './expect-failure.ts';
import { type Fault, FaultyProxy, answerWith } from './faulty-proxy.ts';
import { Registry, StoreHost, digestOf, skipReason, tarOf } from './image-host.ts';
import {
  type RawDescriptor,
  type RawLayer,
  RawRepository,
  assertSound,
  describe as describeBytes,
  endOfArchive,
  header,
  gzipLayer,
  indexOf,
  manifestOf,
  serving,
  textLayer,
  types,
} from './raw-images.ts';

const MiB = 1024 * 1024;

/** One file of so many zeros. */
const zeros = (bytes: number): Buffer => Buffer.concat([header('zeros', { size: bytes }), Buffer.alloc(bytes), endOfArchive]);

describe('images that are meant to hurt', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const faults: { current: Fault } = { current: 'none' };
  let store: ImageStore;
  let registry: Registry;
  let proxy: FaultyProxy;
  let repository: RawRepository;
  let reference: string;
  let good: { readonly config: RawDescriptor; readonly layers: readonly RawDescriptor[]; readonly manifest: Buffer };

  before(async () => {
    registry = await Registry.start();
    repository = new RawRepository(registry.address, 'bad');
    good = await repository.image([textLayer('good')]);
    await repository.push('1', good.manifest);
    proxy = await FaultyProxy.start(registry.address, faults);
    reference = `${proxy.address}/bad:1`;
    store = await host.open();
  });
  after(async () => {
    await proxy?.[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  // A test that fails must not make those after it fail.
  afterEach(async () => {
    faults.current = 'none';
    for (const image of store.list()) await store.remove(image.id);
    await store.collect({ all: true });
  });

  const about = (text: string): RegExp => new RegExp(`^pull ${reference}: ${text}`);
  const fails = async (fault: Fault, code: string, message: RegExp): Promise<void> => {
    faults.current = fault;
    await assert.rejects(store.pull(reference), failsWith(code, message));
    assert.deepEqual(store.list(), []);
    await assertSound(store, `${host.dir}/state`);
    await store.collect({ all: true });
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 }, 'nothing is left');
    faults.current = 'none';
    const image = await store.pull(reference);
    await store.remove(image.id);
  };
  const failsWithLayer = async (layer: RawLayer, code: string, message: RegExp): Promise<void> => {
    const image = await repository.image([textLayer('below'), layer]);
    await fails(serving(image.manifest), code, message);
  };

  test('layers that grow beyond measure are stopped on their way', async () => {
    const tar = zeros(200 * MiB);
    await failsWithLayer(gzipLayer(tar), 'resourceExhausted', about(`.*sha256:.*at most ${limits.layerRatioMax} times as many`));
    const zstd = { bytes: zstdCompressSync(tar), diffId: digestOf(tar), mediaType: types.zstd };
    await failsWithLayer(zstd, 'resourceExhausted', about(`.*sha256:.*at most ${limits.layerRatioMax} times as many`));
    // The same, cut into members that are modest each.
    const part = gzipSync(Buffer.alloc(4 * MiB));
    const members = Buffer.concat([gzipSync(header('zeros', { size: 200 * MiB })), ...Array.from({ length: 50 }, () => part), gzipSync(endOfArchive)]);
    await failsWithLayer({ bytes: members, diffId: digestOf(tar), mediaType: types.gzip }, 'resourceExhausted', about(`.*at most ${limits.layerRatioMax} times as many`));
  });

  test('entries beyond all measure are refused where they are counted', () => {
    const compiler = new LayerCompiler({ isBase: true, parents: () => [], emit: () => undefined, onPlaced: () => undefined });
    const entry = { type: 'directory', path: 'd', sizeBytes: 0, linkTarget: '', mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, major: 0, minor: 0, xattrs: [] } as const;
    for (let ordinal = 0; ordinal < limits.layerEntriesMax; ordinal += 1) compiler.entry(entry, ordinal);
    assert.throws(() => compiler.entry(entry, limits.layerEntriesMax), failsWith('resourceExhausted', new RegExp(`^unpack layer: more than ${limits.layerEntriesMax} entries$`)));
  });

  test('a hundred thousand empty members of gzip are an empty layer', async () => {
    const empty = gzipSync(Buffer.alloc(0));
    const bytes = Buffer.concat([...Array.from({ length: 100_000 }, () => empty), gzipSync(endOfArchive)]);
    const image = await repository.image([textLayer('below'), { bytes, diffId: digestOf(endOfArchive), mediaType: types.gzip }]);
    faults.current = serving(image.manifest);
    await store.pull(reference);
  });

  test('archives that are deep, cut, damaged or none at all are refused', async () => {
    const deeper = gzipLayer(longName(`${'d/'.repeat(limits.tarDepthMax + 1)}x`));
    await failsWithLayer(deeper, 'invalidArgument', about(`.*directories deep, at most ${limits.tarDepthMax}`));
    const tar = tarOf('echo hello > hello; echo more > more');
    await failsWithLayer(gzipLayer(tar.subarray(0, 700)), 'invalidArgument', about('.*sha256:'));
    await failsWithLayer(gzipLayer(Buffer.from('this is not an archive '.repeat(100))), 'invalidArgument', about('.*sha256:'));
    const cut = gzipSync(tar);
    await failsWithLayer({ bytes: cut.subarray(0, cut.length - 20), diffId: digestOf(tar), mediaType: types.gzip }, 'invalidArgument', about('.*sha256:.*inflate'));
    const damaged = Buffer.from(cut);
    damaged[cut.length - 6] = (damaged[cut.length - 6] ?? 0) ^ 0xff;
    await failsWithLayer({ bytes: damaged, diffId: digestOf(tar), mediaType: types.gzip }, 'invalidArgument', about('.*sha256:.*inflate'));
    // A window of two gigabytes, which a decoder would have to keep.
    const window = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]);
    await failsWithLayer({ bytes: window, diffId: digestOf(tar), mediaType: types.zstd }, 'invalidArgument', about('.*sha256:.*inflate'));
  });

  test('a layer whose content is not what the config says is refused', async () => {
    const image = await repository.image([textLayer('one')], { diffIds: [`sha256:${'0'.repeat(64)}`] });
    await fails(serving(image.manifest), 'dataLoss', about(`.*sha256:${'0'.repeat(64)}`));
    const less = await repository.image([textLayer('one')], { diffIds: [] });
    await fails(serving(less.manifest), 'invalidArgument', about('.*the manifest has 1 layers, the config 0'));
  });

  test('sizes that are not the true ones are refused for configs and layers', async () => {
    const [layer] = good.layers;
    assert.ok(layer !== undefined);
    const withSizes = (config: number, size: number): Buffer => manifestOf({ ...good.config, size: config }, [{ ...layer, size }]);
    const trueSizes = [good.config.size, layer.size] as const;
    await fails(serving(withSizes(trueSizes[0] - 1, trueSizes[1])), 'dataLoss', about(`.*${good.config.digest}.*bytes`));
    await fails(serving(withSizes(trueSizes[0] + 1, trueSizes[1])), 'dataLoss', about(`.*${good.config.digest}.*bytes`));
    await fails(serving(withSizes(trueSizes[0], trueSizes[1] - 1)), 'dataLoss', about(`.*${layer.digest}.*${trueSizes[1] - 1}`));
    await fails(serving(withSizes(trueSizes[0], trueSizes[1] + 1)), 'dataLoss', about(`.*${layer.digest}.*${trueSizes[1] + 1}`));
    await fails(serving(withSizes(trueSizes[0], -1)), 'invalidArgument', about('.*layers\\[0\\]\\.size'));
    await fails(serving(withSizes(trueSizes[0], 1.5)), 'invalidArgument', about('.*layers\\[0\\]\\.size'));
    await fails(serving(withSizes(limits.imageConfigBytesMax + 1, trueSizes[1])), 'resourceExhausted', about(`.*${good.config.digest}.*at most ${limits.imageConfigBytesMax}`));
  });

  test('documents of unreasonable size are not read to their end', async () => {
    const large = manifestOf(good.config, good.layers, { annotations: { text: 'x'.repeat(limits.manifestBytesMax) } });
    await fails(serving(large), 'resourceExhausted', about(`.*more than ${limits.manifestBytesMax} bytes`));
    const endless: Fault = ({ isManifest, answer }) => {
      if (!isManifest) return false;
      answer.writeHead(200, { 'content-type': types.manifest });
      const piece = Buffer.alloc(256 * 1024, ' ');
      const more = (): void => {
        while (!answer.destroyed && answer.write(piece));
        if (!answer.destroyed) answer.once('drain', more);
      };
      more();
      return true;
    };
    await fails(endless, 'resourceExhausted', about(`.*more than ${limits.manifestBytesMax} bytes`));
    const layers = Array.from({ length: limits.layersMax + 1 }, () => good.layers[0]).filter((layer) => layer !== undefined);
    await fails(serving(manifestOf(good.config, layers)), 'invalidArgument', about(`.*at most ${limits.layersMax}`));
    await fails(serving(Buffer.from('['.repeat(1_000_000))), 'invalidArgument', about('.*not JSON'));
    await fails(
      serving(Buffer.from(`{"schemaVersion":2,"mediaType":"${types.manifest}","config":${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)},"layers":[]}`)),
      'invalidArgument',
      about('.'),
    );
  });

  test('indexes in indexes, in circles and without end are refused', async () => {
    let nested = good.manifest;
    const all: Buffer[] = [nested];
    for (let depth = 0; depth <= limits.indexDepthMax; depth += 1) {
      nested = indexOf([describeBytes(nested, depth === 0 ? types.manifest : types.index)], { annotations: { depth: String(depth) } });
      all.push(nested);
    }
    await fails(serving(nested, all), 'invalidArgument', about(`.*more than ${limits.indexDepthMax} deep`));
    // A circle can only be claimed: whatever is served under the digest is not what it says.
    const claimed = indexOf([{ mediaType: types.index, digest: `sha256:${'a'.repeat(64)}`, size: 300 }]);
    const circle: Fault = (exchange) => exchange.isManifest && answerWith(exchange, claimed, { 'content-type': types.index, 'docker-content-digest': undefined }, 200);
    await fails(circle, 'dataLoss', about(`.*sha256:${'a'.repeat(64)}`));
    const many = indexOf(
      Array.from({ length: limits.indexEntriesMax + 1 }, (_none, index) => ({ mediaType: types.manifest, digest: `sha256:${String(index).padStart(64, '0')}`, size: 1 })),
    );
    await fails(serving(many), 'invalidArgument', about(`.*at most ${limits.indexEntriesMax}`));
    await fails(serving(indexOf([])), 'notFound', about('.*no image for linux/amd64'));
  });

  test('a document that is two things, or an old one, is refused', async () => {
    const both = manifestOf(good.config, good.layers, { manifests: [] });
    await fails(serving(both), 'invalidArgument', about('.*sha256:'));
    const old: Fault = (exchange) =>
      exchange.isManifest &&
      answerWith(
        exchange,
        Buffer.from('{"schemaVersion":1,"name":"bad","fsLayers":[]}'),
        {
          'content-type': 'application/vnd.docker.distribution.manifest.v1+prettyjws',
          'docker-content-digest': undefined,
        },
        200,
      );
    await fails(old, 'invalidArgument', about('.*sha256:'));
    const named = Buffer.from(`{"schemaVersion":2,"mediaType":"${types.manifest}","__proto__":{"config":{}},"layers":[]}`);
    await fails(serving(named), 'invalidArgument', about('.*config: required'));
  });
});

/** An archive with one directory of a name too long for a header, by a pax record. */
function longName(path: string): Buffer {
  const body = ` path=${path}\n`;
  let length = body.length + 1;
  while (`${length}${body}`.length !== length) length = `${length}${body}`.length;
  const record = Buffer.from(`${length}${body}`);
  const padded = Buffer.concat([record, Buffer.alloc((512 - (record.length % 512)) % 512)]);
  return Buffer.concat([header('pax', { size: record.length, type: 'x' }), padded, header('long', { type: '5' }), endOfArchive]);
}
