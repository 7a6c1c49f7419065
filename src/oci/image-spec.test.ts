/** Image documents: what is read out of them and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { decodeImageConfig, decodeManifestDocument, imageUserOf, mediaTypes, platformRank, selectManifests } from './image-spec.ts';

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
const descriptor = (letter: string, more: object = {}): object => ({ mediaType: mediaTypes.ociLayerGzip, digest: digest(letter), size: 10, ...more });
const bytes = (document: unknown): Buffer => Buffer.from(JSON.stringify(document));
const decode = (document: unknown, mediaType?: string): unknown => decodeManifestDocument(bytes(document), { what: 'document', mediaType });
const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: descriptor('c'), layers: [descriptor('a')] };

function refuses(run: () => unknown, message: string, code = 'invalidArgument'): void {
  assert.throws(run, (error) => {
    assert.ok(error instanceof RuntimeError);
    assert.deepEqual([error.code, error.message], [code, message]);
    return true;
  });
}

test('a manifest and an index are told apart by type and fields', () => {
  assert.equal(decodeManifestDocument(bytes(manifest), { what: 'x' }).kind, 'manifest');
  assert.equal(decodeManifestDocument(bytes({ schemaVersion: 2, manifests: [] }), { what: 'x' }).kind, 'index');
  assert.equal(decodeManifestDocument(bytes({ schemaVersion: 2, manifests: [] }), { what: 'x', mediaType: mediaTypes.dockerIndex }).mediaType, mediaTypes.dockerIndex);
});

test('a document that could be read in two ways is refused', () => {
  refuses(() => decode({ ...manifest, manifests: [] }), 'document: is both an index and a manifest');
  refuses(() => decode({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [], config: descriptor('c') }), 'document: is both an index and a manifest');
  refuses(() => decode(manifest, mediaTypes.ociIndex), `document: mediaType is "${mediaTypes.ociManifest}" but was announced as "${mediaTypes.ociIndex}"`);
  refuses(() => decode({ ...manifest, fsLayers: [] }), 'document: has fields of schema 1');
  refuses(() => decode({ schemaVersion: 1 }), 'document: schema 1 images are not supported');
  refuses(() => decode({ schemaVersion: 2, mediaType: 'text/html' }), 'document: unknown mediaType "text/html"');
});

test('a fault in a manifest is named with its place', () => {
  refuses(
    () => decode({ ...manifest, layers: [descriptor('a'), { ...descriptor('b'), digest: 'sha256:b' }] }),
    'document.layers[1].digest: "sha256:b" is no sha256 or sha512 digest',
  );
  refuses(() => decode({ ...manifest, layers: [{ ...descriptor('b'), size: -1 }] }), 'document.layers[0].size: -1 is outside 0 to 9007199254740991');
  refuses(() => decode({ schemaVersion: 2, layers: [] }), 'document.config: required');
  refuses(() => decodeManifestDocument(Buffer.alloc(5 * 1024 * 1024, 0x20), { what: 'document' }), 'document: 5242880 bytes, at most 4194304', 'resourceExhausted');
  refuses(() => decodeManifestDocument(Buffer.from([0x22, 0xff, 0x22]), { what: 'document' }), 'document: not UTF-8');
});

test('an image config keeps its defaults as data and lets nulls stand for absence', () => {
  const config = decodeImageConfig(
    bytes({
      os: 'linux',
      architecture: 'amd64',
      config: { Env: ['A=b'], Cmd: null, Entrypoint: '/run', Volumes: { '/data': {} }, Labels: { ['__proto__']: 'x' }, User: '1000' },
      rootfs: { type: 'layers', diff_ids: [digest('d')] },
    }),
    'config',
  );
  assert.deepEqual([config.env, config.cmd, config.entrypoint, config.volumes, config.user, config.diffIds], [['A=b'], [], ['/run'], ['/data'], '1000', [digest('d')]]);
  refuses(() => decodeImageConfig(bytes({ os: 'linux', architecture: 'amd64', rootfs: { type: 'zip' } }), 'config'), 'config.rootfs.type: must be "layers", not "zip"');
  refuses(
    () => decodeImageConfig(bytes({ os: 'linux', architecture: 'amd64', config: { Env: ['A'] }, rootfs: { type: 'layers' } }), 'config'),
    'config.config.Env[0]: must be NAME=value',
  );
});

test('a numeric user is never a name and never wraps', () => {
  assert.deepEqual(imageUserOf(''), { kind: 'none' });
  assert.deepEqual(imageUserOf('1000:50'), { kind: 'uid', uid: 1000 });
  assert.deepEqual(imageUserOf('web:www'), { kind: 'name', name: 'web' });
  for (const user of ['4294967296', '99999999999999999999', '-1', '+0']) assert.throws(() => imageUserOf(user), /image user/, user);
  refuses(() => imageUserOf('4294967295'), 'image user "4294967295": 4294967295 means "no user"');
});

test('the best platform of an index comes first and attestations never match', () => {
  const entry = (letter: string, platform?: object): object => descriptor(letter, { mediaType: mediaTypes.ociManifest, ...(platform === undefined ? {} : { platform }) });
  const index = decodeManifestDocument(
    bytes({
      schemaVersion: 2,
      manifests: [
        entry('0', { os: 'unknown', architecture: 'unknown' }),
        entry('1', { os: 'linux', architecture: 'arm', variant: 'v6' }),
        entry('2', { os: 'linux', architecture: 'arm', variant: 'v7' }),
        entry('3'),
        entry('4', { os: 'linux', architecture: 'arm', variant: 'v8' }),
      ],
    }),
    { what: 'x' },
  );
  assert.ok(index.kind === 'index');
  assert.deepEqual(
    selectManifests(index, { os: 'linux', architecture: 'arm', variant: 'v7' }).map((one) => one.digest.at(-1)),
    ['2', '1', '3'],
  );
  assert.equal(platformRank({ os: 'linux', architecture: 'arm64' }, { os: 'linux', architecture: 'arm64', variant: 'v8' }), 0);
  assert.equal(platformRank({ os: 'linux', architecture: 'amd64' }, { os: 'linux', architecture: 'amd64', variant: 'v3' }), undefined);
});
