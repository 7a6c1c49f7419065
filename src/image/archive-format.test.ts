/** Documents of written archives, and headers of files of any size. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { digestOf, mediaTypes } from '#oci';
import { type SavedImage, encodeDockerManifest, encodeDockerRepositories, encodeFileHeader, encodeLayoutIndex } from './archive-format.ts';
import { decodeTarNumber, tarBlockBytes, verifyTarChecksum } from './tar-header.ts';

const digest = (letter: string) => digestOf('sha256', letter.repeat(64));
const image = (tags: readonly string[]): SavedImage => ({
  id: digest('c'),
  tags,
  manifest: {
    digest: digest('a'),
    sizeBytes: 9,
    mediaType: mediaTypes.ociManifest,
    documents: [digest('a')],
    config: { digest: digest('c'), sizeBytes: 2, mediaType: mediaTypes.ociConfig },
    layers: [{ digest: digest('1'), sizeBytes: 3, mediaType: mediaTypes.ociLayerGzip }],
  },
  platform: { os: 'linux', architecture: 'arm64', variant: 'v8' },
  diffIds: [digest('d')],
});

test('a layout has an entry per tag with the whole name, and one for an image without', () => {
  const descriptor = { mediaType: mediaTypes.ociManifest, digest: digest('a'), size: 9, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } };
  const named = (name: string) => ({ ...descriptor, annotations: { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name } });
  assert.deepEqual(JSON.parse(String(encodeLayoutIndex([image(['docker.io/library/a:1', 'x.example/b:2'])]))), {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [named('docker.io/library/a:1'), named('x.example/b:2')],
  });
  assert.deepEqual((JSON.parse(String(encodeLayoutIndex([image([])]))) as { manifests: unknown }).manifests, [descriptor]);
});

test("docker's documents have docker's short names", () => {
  const tags = ['docker.io/library/a:1', 'docker.io/team/a:2', 'localhost:5000/b:3', 'docker.io/library/a:4'];
  assert.deepEqual(JSON.parse(String(encodeDockerManifest([image(tags)]))), [
    { Config: `${'c'.repeat(64)}.json`, RepoTags: ['a:1', 'team/a:2', 'localhost:5000/b:3', 'a:4'], Layers: [`${'d'.repeat(64)}.tar`] },
  ]);
  const top = 'd'.repeat(64);
  assert.deepEqual(JSON.parse(String(encodeDockerRepositories([image(tags)]))), { a: { 1: top, 4: top }, 'team/a': { 2: top }, 'localhost:5000/b': { 3: top } });
});

test('the length of a header depends on the path alone, and its last block says the size', () => {
  for (const path of ['blobs/sha256/x', `blobs/sha512/${'a'.repeat(128)}`]) {
    for (const sizeBytes of [0, 1, 0o77777777777, 0o77777777777 + 1, 64 * 1024 ** 3]) {
      const header = encodeFileHeader(path, sizeBytes);
      assert.equal(header.length, path.length > 100 ? 3 * tarBlockBytes : tarBlockBytes);
      const last = header.subarray(header.length - tarBlockBytes);
      verifyTarChecksum(last);
      assert.equal(decodeTarNumber(last.subarray(124, 136), 'size'), sizeBytes);
    }
  }
});
