/** Docker's archive: what its manifest names is looked up among members only, links included. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { digestOf } from '#oci';
import { type ArchiveMember, convertDockerArchive, memberPath } from './docker-archive.ts';

const digest = (letter: string) => digestOf('sha256', letter.repeat(64));
const file = (letter: string, compression: 'none' | 'gzip' | 'zstd' = 'none', sizeBytes = 5): ArchiveMember => ({ kind: 'file', digest: digest(letter), sizeBytes, compression });
const convert = (manifest: unknown, members: Readonly<Record<string, ArchiveMember>>) =>
  convertDockerArchive(Buffer.from(JSON.stringify(manifest)), new Map(Object.entries(members)));
const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };

test('config and layers become a manifest, each layer with the type of its packing, through links too', () => {
  const [image, ...none] = convert([{ Config: 'c.json', RepoTags: ['a:1', 'b'], Layers: ['1/layer.tar', './2/layer.tar', '3.tar'] }], {
    'c.json': file('c'),
    '1/layer.tar': file('1', 'gzip'),
    '2/layer.tar': { kind: 'link', target: '../1/layer.tar' },
    '3.tar': { kind: 'hardLink', target: './x/4.tar' },
    'x/4.tar': file('4', 'zstd'),
  });
  assert.deepEqual(none, []);
  assert.deepEqual(image?.tags, ['a:1', 'b']);
  assert.deepEqual(JSON.parse(String(image?.manifest)), {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digest('c'), size: 5 },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digest('1'), size: 5 },
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digest('1'), size: 5 },
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd', digest: digest('4'), size: 5 },
    ],
  });
});

test('nulls, which Go writes for nothing, are nothing', () => {
  assert.deepEqual(convert([{ Config: 'c', RepoTags: null, Layers: null }], { c: file('c') })[0]?.tags, []);
});

test('what leads out, in circles or nowhere is not found, and what is malformed is refused with its place', () => {
  const members = { c: file('c'), a: { kind: 'link', target: 'b' }, b: { kind: 'link', target: 'a' }, out: { kind: 'link', target: '../../etc/passwd' } } as const;
  for (const path of ['nothing', 'a', 'out', '../c', '/', '..'])
    assert.throws(() => convert([{ Config: path }], members), failsWith('notFound', /^manifest\.json\[0\]: the archive has no file "/));
  assert.throws(() => convert([{ Config: 'c', Layers: ['a'] }], members), failsWith('notFound', /^manifest\.json\[0\]\.Layers: /));
  assert.throws(() => convert([{}], members), failsWith('invalidArgument', /^manifest\.json\[0\]\.Config: required$/));
  assert.throws(() => convert({}, members), failsWith('invalidArgument', /^manifest\.json: must be an array/));
  assert.throws(() => convert([{ Config: 'c', RepoTags: ['UPPER:'] }], members), failsWith('invalidArgument', /^image reference "UPPER:"/));
  assert.throws(() => convert([{ Config: 'big' }], { big: file('b', 'none', 5 * 1024 * 1024) }), failsWith('resourceExhausted', /Config: 5242880 bytes, at most/));
});

test('member names are plain paths below the archive', () => {
  assert.equal(memberPath('./a//b/../c/'), 'a/c');
  assert.equal(memberPath('/a'), 'a');
  for (const path of ['..', '../a', 'a/../..', '.', '', '/']) assert.equal(memberPath(path), undefined, path);
});
