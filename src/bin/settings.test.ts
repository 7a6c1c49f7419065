/** Settings from the environment: defaults, values, refusals by name. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeEngineSettings } from './settings.ts';

test('without variables, and with empty ones, the defaults count', () => {
  const defaults = { certsDirs: ['/etc/berth/certs.d', '/etc/containerd/certs.d', '/etc/docker/certs.d'], keepBlobs: true, allowForeignLayers: false, imageVolumes: 'anonymous' };
  assert.deepEqual(decodeEngineSettings({}), defaults);
  assert.deepEqual(decodeEngineSettings({ BERTH_CERTS_DIRS: '', BERTH_KEEP_BLOBS: '', BERTH_FOREIGN_LAYERS: '', BERTH_IMAGE_VOLUMES: '' }), defaults);
});

test('variables replace the defaults', () => {
  assert.deepEqual(decodeEngineSettings({ BERTH_CERTS_DIRS: '/a:/b', BERTH_KEEP_BLOBS: '0', BERTH_FOREIGN_LAYERS: '1', BERTH_IMAGE_VOLUMES: 'tmpfs' }), {
    certsDirs: ['/a', '/b'],
    keepBlobs: false,
    allowForeignLayers: true,
    imageVolumes: 'tmpfs',
  });
});

test('other values are refused by the name of their variable', () => {
  const refused: readonly (readonly [Record<string, string>, string])[] = [
    [{ BERTH_KEEP_BLOBS: 'yes' }, 'BERTH_KEEP_BLOBS: must be 0 or 1, not "yes"'],
    [{ BERTH_FOREIGN_LAYERS: '2' }, 'BERTH_FOREIGN_LAYERS: must be 0 or 1, not "2"'],
    [{ BERTH_IMAGE_VOLUMES: 'bind' }, 'BERTH_IMAGE_VOLUMES: must be one of anonymous, tmpfs, ignore, not "bind"'],
    [{ BERTH_CERTS_DIRS: '/a:b' }, 'BERTH_CERTS_DIRS: must be absolute paths with ":" between them, not "b"'],
  ];
  for (const [env, message] of refused) assert.throws(() => decodeEngineSettings(env), { code: 'invalidArgument', message });
});
