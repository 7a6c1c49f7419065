/** Layers as planned: what images and artifacts say, honest and hostile. Pure. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError, limits } from '#core';
import { type Descriptor, type Digest, decodeDigest, mediaTypes } from '#oci';
import { chainIdsOf, decodeTitle, planLayers } from './plan-layers.ts';

const digest = (letter: string): Digest => decodeDigest(`sha256:${letter.repeat(64)}`, 'test');
const layer = (letter: string, more: Partial<Descriptor> = {}): Descriptor => ({ mediaType: mediaTypes.ociLayerGzip, digest: digest(letter), size: 10, annotations: {}, ...more });
const title = (text: string) => ({ 'org.opencontainers.image.title': text });

const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };

describe('the layers of a manifest', () => {
  test('of an image are archives with the diff IDs of its config, the first one the base', () => {
    const diffIds = [digest('a'), digest('b')];
    const planned = planLayers({ layers: [layer('1'), layer('2')] }, { diffIds, allowForeignLayers: false });
    assert.deepEqual(
      planned.map(({ blob, diffId, chainId, content }) => ({ blob, diffId, chainId, content })),
      [
        { blob: digest('1'), diffId: digest('a'), chainId: digest('a'), content: { kind: 'archive', isBase: true, diffId: digest('a') } },
        { blob: digest('2'), diffId: digest('b'), chainId: chainIdsOf(diffIds)[1], content: { kind: 'archive', isBase: false, diffId: digest('b') } },
      ],
    );
  });

  test('contradict the config, have an unknown type or are too large: refused', () => {
    const plan = (layers: readonly Descriptor[], diffIds: readonly Digest[]) => () => planLayers({ layers }, { diffIds, allowForeignLayers: false });
    assert.throws(plan([layer('1')], []), failsWith('invalidArgument', /^the manifest has 1 layers, the config 0$/));
    assert.throws(plan([layer('1', { mediaType: 'text/plain' })], [digest('a')]), failsWith('invalidArgument', /^layer sha256:1+: the media type "text\/plain" is not supported$/));
    assert.throws(plan([layer('1', { size: limits.layerBytesMax + 1 })], [digest('a')]), failsWith('resourceExhausted', /^layer sha256:1+: \d+ bytes, at most \d+$/));
  });

  test('that are foreign are refused by their type or their addresses, unless they are allowed', () => {
    for (const foreign of [layer('1', { mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' }), layer('1', { urls: ['https://example.com/'] })]) {
      const plan = (allowForeignLayers: boolean) => planLayers({ layers: [foreign] }, { diffIds: [digest('a')], allowForeignLayers });
      assert.throws(() => plan(false), failsWith('failedPrecondition', /^layer sha256:1+: is a foreign layer \("application/));
      assert.equal(plan(true).length, 1);
    }
  });

  test('of an artifact are archives or files, and have names of their own that say what is done with them', () => {
    const plain = { mediaType: 'text/plain' };
    const layers = [layer('1'), layer('2', { ...plain, annotations: title('a/b') }), layer('2', { ...plain, annotations: title('c') }), layer('3', plain)];
    const planned = planLayers({ layers }, { diffIds: undefined, allowForeignLayers: false });
    assert.deepEqual(
      planned.map(({ content }) => content),
      [
        { kind: 'archive', isBase: false },
        { kind: 'file', path: ['a', 'b'] },
        { kind: 'file', path: ['c'] },
        { kind: 'file', path: ['3'.repeat(64)] },
      ],
    );
    assert.equal(new Set(planned.map(({ diffId }) => diffId)).size, 4);
  });

  test('get no title that leads elsewhere, hides something or is too long', () => {
    assert.deepEqual(decodeTitle('a/b.c', digest('1')), ['a', 'b.c']);
    for (const bad of ['', '/a', 'a/', 'a//b', '.', '..', 'a/../b', '.wh.a', 'a/.wh..wh..opq', 'a\0', 'x'.repeat(256), 'a/'.repeat(300) + 'b'])
      assert.throws(() => decodeTitle(bad, digest('1')), failsWith('invalidArgument', /^layer sha256:1+: the title ".*" is not a plain path$/), JSON.stringify(bad));
  });
});
