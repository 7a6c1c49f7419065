/** Hooks of a runtime spec, and the document that hooks are given. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseJson } from './decode.ts';
import { decodeHooks } from './hooks.ts';
import { decodeRuntimeSpec } from './runtime-spec-decode.ts';
import { encodeRuntimeSpec, formatJson } from './runtime-spec-encode.ts';

test('hooks are read by kind, and kinds without a hook are left out', () => {
  assert.deepEqual(
    decodeHooks({ prestart: [], createContainer: [{ path: '/a//b', args: ['b', ''], env: ['A=', 'B=c=d'], timeout: 5 }], poststop: [{ path: '/c', future: 1 }] }, 'hooks'),
    {
      createContainer: [{ path: '/a/b', args: ['b', ''], env: ['A=', 'B=c=d'], timeout: 5 }],
      poststop: [{ path: '/c', args: [], env: [] }],
    },
  );
  assert.deepEqual(decodeHooks({}, 'hooks'), {});
});

const refusals: readonly (readonly [unknown, string])[] = [
  [{ prestart: {} }, 'hooks.prestart: must be an array, not object'],
  [{ prestart: [{}] }, 'hooks.prestart[0].path: required'],
  [{ prestart: [{ path: 'bin/x' }] }, 'hooks.prestart[0].path: must be an absolute path, not "bin/x"'],
  [{ poststop: [{ path: '/x', timeout: 0 }] }, 'hooks.poststop[0].timeout: 0 is outside 1 to 600'],
  [{ poststop: [{ path: '/x', env: ['A'] }] }, 'hooks.poststop[0].env[0]: must have the form NAME=value'],
  [{ poststop: [{ path: '/x', args: ['a\0b'] }] }, 'hooks.poststop[0].args[0]: contains a NUL byte'],
  [{ prestart: Array.from({ length: 40 }, () => ({ path: '/x' })), poststop: Array.from({ length: 40 }, () => ({ path: '/x' })) }, 'hooks: 80 hooks, at most 64'],
];

for (const [value, message] of refusals) {
  test(`refuses with ${message}`, () => {
    assert.throws(() => decodeHooks(value, 'hooks'), { code: 'invalidArgument', message });
  });
}

test('a document that is written for hooks reads as the one it came from, with every digit', () => {
  const document = {
    ociVersion: '1.3.0',
    root: { path: 'rootfs', readonly: true },
    process: { args: ['x'], cwd: '/', env: ['A=b'], user: { uid: 1, gid: 2, additionalGids: [3] }, rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1n, hard: 18446744073709551615n }] },
    mounts: [
      {
        destination: '/v',
        type: 'bind',
        source: '/v',
        options: ['rbind'],
        uidMappings: [{ containerID: 0, hostID: 5, size: 9 }],
        gidMappings: [{ containerID: 0, hostID: 6, size: 9 }],
      },
    ],
    hooks: { prestart: [{ path: '/x', timeout: 3 }] },
    annotations: { 'a/b': 'c' },
    linux: {
      namespaces: [{ type: 'user' }, { type: 'mount' }],
      uidMappings: [{ containerID: 0, hostID: 1000, size: 10 }],
      gidMappings: [{ containerID: 0, hostID: 1000, size: 10 }],
      resources: { memory: { limit: 9007199254740993n }, pids: { limit: -1n } },
    },
  };
  const spec = decodeRuntimeSpec(document);
  const text = formatJson(encodeRuntimeSpec(spec));
  assert.equal(formatJson(encodeRuntimeSpec(decodeRuntimeSpec(parseJson(text, 'config.json')))), text);
  assert.deepEqual(decodeRuntimeSpec(parseJson(text, 'config.json')).mounts, spec.mounts);
  assert.match(text, /"hard":18446744073709551615[,}]/);
  for (const own of ['unsupported', 'idMapped', 'hasIdMappings', 'hasTimeOffsets', 'containerId']) assert.ok(!text.includes(own), own);
});
