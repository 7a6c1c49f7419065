/** CDI: what is understood of a specification, which device counts, what it adds to a runtime spec. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import { applyCdiDevices, cdiWarnings, requestedCdiDevices, resolveCdiDevices } from './cdi.ts';
import { decodeCdiSpec, splitCdiName } from './cdi-decode.ts';
import type { CdiFile } from './cdi-types.ts';
import type { HostDevice } from './ports.ts';

const device = (name: string, containerEdits: object = { env: [`NAME=${name}`] }): object => ({ name, containerEdits });
const minimal = { cdiVersion: '0.3.0', kind: 'vendor.com/gpu', devices: [device('gpu0')] };
const newest = { ...minimal, cdiVersion: '1.1.0' };

test('a whole specification is understood', () => {
  const edits = {
    env: ['A=1', 'B='],
    deviceNodes: [
      { path: '/dev/vendor0', hostPath: '/dev/host0', type: 'c', major: 10, minor: 2, fileMode: 0o660, permissions: 'rw', uid: 5, gid: 6 },
      { path: '/dev/vendor1', permissions: 'none' },
    ],
    mounts: [{ hostPath: '/usr/lib/vendor.so', containerPath: '/usr/lib/vendor.so', options: ['ro', 'bind'], type: 'bind' }],
    hooks: [{ hookName: 'createContainer', path: '/usr/bin/hook', args: ['hook', 'x'], env: ['E=f'], timeout: 7 }],
    additionalGids: [44],
  };
  assert.deepEqual(decodeCdiSpec({ cdiVersion: 'v1.0.0', kind: 'vendor.com/gpu', annotations: { a: 'b' }, devices: [device('0', edits)], containerEdits: { env: ['ALL=1'] } }), {
    version: '1.0.0',
    kind: 'vendor.com/gpu',
    edits: { env: ['ALL=1'], deviceNodes: [], mounts: [], hooks: [], additionalGids: [], unsupported: [] },
    devices: [
      {
        name: '0',
        edits: {
          env: ['A=1', 'B='],
          deviceNodes: [
            { path: '/dev/vendor0', hostPath: '/dev/host0', type: 'c', major: 10, minor: 2, fileMode: 0o660, permissions: 'rw', uid: 5, gid: 6 },
            { path: '/dev/vendor1', major: 0, minor: 0, permissions: '' },
          ],
          mounts: [{ hostPath: '/usr/lib/vendor.so', containerPath: '/usr/lib/vendor.so', options: ['ro', 'bind'], type: 'bind' }],
          hooks: [{ kind: 'createContainer', hook: { path: '/usr/bin/hook', args: ['hook', 'x'], env: ['E=f'], timeout: 7 } }],
          additionalGids: [44],
          unsupported: [],
        },
      },
    ],
  });
  assert.deepEqual(decodeCdiSpec(JSON.parse('{"cdiVersion":"0.3.0","kind":"v/c","devices":[{"name":"a","containerEdits":{"env":["__proto__=1"]}}]}')).devices[0]?.edits.env, [
    '__proto__=1',
  ]);
});

const edited = (containerEdits: object, cdiVersion = '1.1.0'): object => ({ ...minimal, cdiVersion, devices: [device('gpu0', containerEdits)] });
const refusals: readonly (readonly [string, unknown, string])[] = [
  ['no object', [], 'must be an object, not array'],
  ['no version', { ...minimal, cdiVersion: undefined }, 'cdiVersion: required'],
  ['an old version', { ...minimal, cdiVersion: '0.2.0' }, 'cdiVersion: unknown version "0.2.0" (0.3.0, 0.4.0, 0.5.0, 0.6.0, 0.7.0, 0.8.0, 1.0.0, 1.1.0)'],
  ['a newer version', { ...minimal, cdiVersion: '2.0.0' }, 'cdiVersion: unknown version "2.0.0" (0.3.0, 0.4.0, 0.5.0, 0.6.0, 0.7.0, 0.8.0, 1.0.0, 1.1.0)'],
  ['an unknown field', { ...newest, device: [] }, 'device: unknown field'],
  ['an unknown field of a device', { ...newest, devices: [{ ...device('a'), nodes: 1 }] }, 'devices[0].nodes: unknown field'],
  ['an unknown edit', edited({ env: ['A=b'], rlimits: [] }), 'devices[0].containerEdits.rlimits: unknown field'],
  ['an unknown field of a node', edited({ deviceNodes: [{ path: '/dev/x', mode: 1 }] }), 'devices[0].containerEdits.deviceNodes[0].mode: unknown field'],
  ['an unknown field of a mount', edited({ mounts: [{ hostPath: '/a', containerPath: '/b', readOnly: true }] }), 'devices[0].containerEdits.mounts[0].readOnly: unknown field'],
  ['an unknown field of a hook', edited({ hooks: [{ hookName: 'prestart', path: '/h', cwd: '/' }] }), 'devices[0].containerEdits.hooks[0].cwd: unknown field'],
  ['a kind without vendor', { ...newest, kind: 'gpu' }, 'kind: "gpu" is not of the form vendor/class'],
  ['a kind with a path', { ...newest, kind: 'a/b/c' }, 'kind: "a/b/c" is not of the form vendor/class'],
  ['a vendor beginning with a digit', { ...newest, kind: '3d/gpu' }, 'kind: "3d/gpu" is not of the form vendor/class'],
  ['a class ending with a dash', { ...newest, kind: 'a/gpu-' }, 'kind: "a/gpu-" is not of the form vendor/class'],
  ['no device', { ...newest, devices: [] }, 'devices: must have at least one item'],
  ['a device twice', { ...newest, devices: [device('a'), device('b'), device('a')] }, 'devices[2].name: "a" is given twice'],
  ['a device name with a slash', { ...newest, devices: [device('a/b')] }, 'devices[0].name: "a/b" is not a device name'],
  ['a device name that is a number', { ...newest, devices: [{ name: 0, containerEdits: { env: ['A=b'] } }] }, 'devices[0].name: must be a string, not number'],
  ['a device without edits', { ...newest, devices: [device('a', {})] }, 'devices[0].containerEdits: must not be empty'],
  ['a variable without a name', edited({ env: ['=x'] }), 'devices[0].containerEdits.env[0]: must have the form NAME=value'],
  ['a relative node', edited({ deviceNodes: [{ path: 'dev/x' }] }), 'devices[0].containerEdits.deviceNodes[0].path: must be an absolute path, not "dev/x"'],
  ['a node that climbs', edited({ deviceNodes: [{ path: '/dev/../x' }] }), 'devices[0].containerEdits.deviceNodes[0].path: must not contain "..", found "/dev/../x"'],
  ['a node of another type', edited({ deviceNodes: [{ path: '/dev/x', type: 's' }] }), 'devices[0].containerEdits.deviceNodes[0].type: unknown device type "s" (b, c, u, p)'],
  [
    'other permissions',
    edited({ deviceNodes: [{ path: '/dev/x', permissions: 'rx' }] }),
    'devices[0].containerEdits.deviceNodes[0].permissions: must be letters of "rwm" or "none", not "rx"',
  ],
  ['a mount without a target', edited({ mounts: [{ hostPath: '/a' }] }), 'devices[0].containerEdits.mounts[0].containerPath: required'],
  [
    'a hook of no kind',
    edited({ hooks: [{ hookName: 'later', path: '/h' }] }),
    'devices[0].containerEdits.hooks[0].hookName: unknown hook "later" (prestart, createRuntime, createContainer, startContainer, poststart, poststop)',
  ],
  ['a hook without a time', edited({ hooks: [{ hookName: 'prestart', path: '/h', timeout: 0 }] }), 'devices[0].containerEdits.hooks[0].timeout: 0 is outside 1 to 600'],
  ['a group beyond 32 bits', edited({ additionalGids: [4294967296] }), 'devices[0].containerEdits.additionalGids[0]: 4294967296 is outside 0 to 4294967295'],
  [
    'a mount type too early',
    edited({ mounts: [{ hostPath: '/a', containerPath: '/b', type: 'bind' }] }, '0.3.0'),
    'cdiVersion: devices[0].containerEdits.mounts[0].type needs version 0.4.0, not 0.3.0',
  ],
  [
    'a host path too early',
    edited({ deviceNodes: [{ path: '/a', hostPath: '/b' }] }, '0.4.0'),
    'cdiVersion: devices[0].containerEdits.deviceNodes[0].hostPath needs version 0.5.0, not 0.4.0',
  ],
  ['a digit too early', { ...minimal, devices: [device('0')] }, 'cdiVersion: devices[0].name beginning with a digit needs version 0.5.0, not 0.3.0'],
  ['annotations too early', { ...minimal, cdiVersion: '0.5.0', annotations: { a: 'b' } }, 'cdiVersion: annotations needs version 0.6.0, not 0.5.0'],
  ['a dot in the class too early', { ...minimal, kind: 'a.b/c.d' }, 'cdiVersion: kind with a dot in its class needs version 0.6.0, not 0.3.0'],
  ['groups too early', edited({ additionalGids: [1] }, '0.6.0'), 'cdiVersion: devices[0].containerEdits.additionalGids needs version 0.7.0, not 0.6.0'],
  [
    'net devices too early',
    edited({ netDevices: [{ hostInterfaceName: 'a', name: 'b' }] }, '1.0.0'),
    'cdiVersion: devices[0].containerEdits.netDevices needs version 1.1.0, not 1.0.0',
  ],
];

for (const [title, document, message] of refusals) {
  test(`a specification with ${title} is refused`, () => {
    assert.throws(() => decodeCdiSpec(document), { name: 'RuntimeError', code: 'invalidArgument', message });
  });
}

test('names are qualified or no names at all', () => {
  assert.deepEqual(splitCdiName('vendor.com/gpu=0:1'), { kind: 'vendor.com/gpu', name: '0:1' });
  for (const bad of ['gpu0', 'vendor.com/gpu', 'vendor.com/gpu=', '=x', '/dev/x=y', 'a/b/c=d', 'a/b=c d', 'a/b=c\n', '../b=c', `a/b=${'c'.repeat(600)}`])
    assert.equal(splitCdiName(bad), undefined, bad);
});

test('a container asks by its field and by annotations, each device once', () => {
  const annotations = { other: 'x', 'cdi.k8s.io/plugin_1': 'v/c=b,v/c=a', 'cdi.k8s.io/plugin_2': 'v/c=d' };
  assert.deepEqual(requestedCdiDevices({ cdiDevices: ['v/c=a'], annotations }), ['v/c=a', 'v/c=b', 'v/c=d']);
  assert.throws(() => requestedCdiDevices({ annotations: { 'cdi.k8s.io/x': 'v/c=a,,' } }), {
    code: 'invalidArgument',
    message: 'config.annotations["cdi.k8s.io/x"]: "" is not a device of the form vendor/class=name',
  });
  assert.throws(() => requestedCdiDevices({ cdiDevices: ['v/c=a', 'gpu'], annotations: {} }), {
    code: 'invalidArgument',
    message: 'config.CDI_devices[1].name: "gpu" is not a device of the form vendor/class=name',
  });
  const many = Array.from({ length: 257 }, (_item, index) => `v/c=${index}`).join(',');
  assert.throws(() => requestedCdiDevices({ annotations: { 'cdi.k8s.io/x': many } }), { message: 'config.annotations["cdi.k8s.io/x"]: more than 256 CDI devices' });
});

const file = (path: string, priority: number, document: object): CdiFile => ({ path, priority, spec: decodeCdiSpec(document) });
const envOf = (files: readonly CdiFile[], names: readonly string[]): readonly string[] => resolveCdiDevices(files, names).flatMap(({ edits }) => edits.env);

test('a later directory wins, and edits for all devices of a specification come once, before the first of them', () => {
  const low = file('/etc/cdi/a.json', 0, { ...minimal, devices: [device('a', { env: ['FROM=low'] }), device('b', { env: ['B=low'] })], containerEdits: { env: ['ALL=low'] } });
  const high = file('/run/cdi/a.json', 1, { ...minimal, devices: [device('a', { env: ['FROM=high'] }), device('c', { env: ['C=high'] })], containerEdits: { env: ['ALL=high'] } });
  for (const files of [
    [low, high],
    [high, low],
  ]) {
    assert.deepEqual(envOf(files, ['vendor.com/gpu=a', 'vendor.com/gpu=b', 'vendor.com/gpu=c']), ['ALL=high', 'FROM=high', 'ALL=low', 'B=low', 'C=high']);
    assert.deepEqual(cdiWarnings(files), []);
  }
});

test('two definitions of one priority are nobody’s device, unless a higher one decides', () => {
  const [one, two] = [file('/etc/cdi/1.json', 0, minimal), file('/etc/cdi/2.json', 0, { ...minimal, devices: [device('gpu0'), device('gpu1')] })];
  assert.throws(() => resolveCdiDevices([one, two], ['vendor.com/gpu=gpu0']), {
    code: 'failedPrecondition',
    message: 'CDI device vendor.com/gpu=gpu0: defined by /etc/cdi/1.json and /etc/cdi/2.json',
  });
  assert.deepEqual(envOf([one, two], ['vendor.com/gpu=gpu1']), ['NAME=gpu1']);
  assert.deepEqual(cdiWarnings([one, two]), ['CDI device vendor.com/gpu=gpu0: defined by /etc/cdi/1.json and /etc/cdi/2.json']);
  const above = file('/run/cdi/3.json', 1, { ...minimal, devices: [device('gpu0', { env: ['FROM=above'] })] });
  assert.deepEqual(envOf([one, above, two], ['vendor.com/gpu=gpu0']), ['FROM=above']);
  assert.deepEqual(cdiWarnings([one, two, above]), []);
});

test('a device that nobody defines names the files that could not be read', () => {
  const broken: CdiFile = { path: '/etc/cdi/broken.json', priority: 0, error: new RuntimeError('invalidArgument', 'read CDI specification /etc/cdi/broken.json: kind: required') };
  assert.throws(() => resolveCdiDevices([], ['v/c=a']), { code: 'notFound', message: 'CDI device v/c=a: no specification defines it' });
  assert.throws(() => resolveCdiDevices([broken], ['v/c=a']), { code: 'notFound', message: 'CDI device v/c=a: no specification defines it (not readable: /etc/cdi/broken.json)' });
  assert.deepEqual(cdiWarnings([broken]), ['read CDI specification /etc/cdi/broken.json: kind: required']);
  assert.deepEqual(envOf([broken, file('/etc/cdi/good.json', 0, minimal)], ['vendor.com/gpu=gpu0']), ['NAME=gpu0']);
});

test('edits that nobody here implements are refused by the device that has them, and not before', () => {
  const spec = file('/etc/cdi/x.json', 0, {
    ...newest,
    devices: [device('rdt', { intelRdt: { closID: 'a' } }), device('net', { netDevices: [{ hostInterfaceName: 'a', name: 'b' }] }), device('good')],
  });
  assert.throws(() => resolveCdiDevices([spec], ['vendor.com/gpu=rdt']), {
    code: 'unimplemented',
    message: 'CDI device vendor.com/gpu=rdt: /etc/cdi/x.json: containerEdits.intelRdt: not supported',
  });
  assert.throws(() => resolveCdiDevices([spec], ['vendor.com/gpu=net']), {
    code: 'unimplemented',
    message: 'CDI device vendor.com/gpu=net: /etc/cdi/x.json: containerEdits.netDevices: not supported',
  });
  assert.deepEqual(envOf([spec], ['vendor.com/gpu=good']), ['NAME=good']);
});

const spec: RuntimeSpec = decodeRuntimeSpec({
  ociVersion: '1.3.0',
  root: { path: 'rootfs' },
  process: { args: ['x'], cwd: '/', env: ['A=image', 'KEEP=1'] },
  mounts: [
    { destination: '/dev/pts', type: 'devpts', source: 'devpts' },
    { destination: '/opt', type: 'bind', source: '/old', options: ['rbind'] },
  ],
  linux: { namespaces: [{ type: 'mount' }], devices: [{ type: 'c', path: '/dev/x', major: 1, minor: 1 }], resources: { devices: [{ allow: false, access: 'rwm' }] } },
});
const host: HostDevice = { path: '/dev/host', type: 'c', major: 195, minor: 3, mode: 0o640, uid: 9, gid: 9 };
const readDevices = async (path: string): Promise<readonly HostDevice[]> => {
  if (path === '/dev/dir') return [{ ...host, path: '/dev/dir/a' }];
  if (path !== '/dev/host') throw new RuntimeError('notFound', `read device ${path}: ENOENT`);
  return [host];
};
const apply = async (containerEdits: object, { to = spec, owner = {} }: { to?: RuntimeSpec; owner?: { uid?: number; gid?: number } } = {}): ReturnType<typeof applyCdiDevices> =>
  applyCdiDevices(to, resolveCdiDevices([file('/etc/cdi/x.json', 0, { ...newest, devices: [device('gpu0', containerEdits)] })], ['vendor.com/gpu=gpu0']), { readDevices, owner });

test('variables replace, mounts replace and are ordered, hooks are added, groups are given back', async () => {
  const { spec: result, additionalGids } = await apply({
    env: ['A=device', 'NEW=2'],
    mounts: [
      { hostPath: '/vendor/opt', containerPath: '/opt', options: ['ro'] },
      { hostPath: 'tmpfs', containerPath: '/run/vendor/deep', type: 'tmpfs', options: ['size=1m'] },
      { hostPath: '/vendor/top', containerPath: '/top', options: ['bind', 'ro'] },
    ],
    hooks: [
      { hookName: 'createContainer', path: '/h1' },
      { hookName: 'createContainer', path: '/h2', args: ['h2', 'x'] },
      { hookName: 'poststop', path: '/h3' },
    ],
    additionalGids: [0, 44, 44, 5],
  });
  assert.deepEqual(result.process?.env, ['A=device', 'KEEP=1', 'NEW=2']);
  assert.deepEqual(
    result.mounts.map(({ destination, source, type, options }) => [destination, type, source, options]),
    [
      ['/opt', 'bind', '/vendor/opt', ['ro', 'rbind']],
      ['/top', 'bind', '/vendor/top', ['bind', 'ro']],
      ['/dev/pts', 'devpts', 'devpts', []],
      ['/run/vendor/deep', 'tmpfs', 'tmpfs', ['size=1m']],
    ],
  );
  assert.deepEqual(result.hooks, {
    createContainer: [
      { path: '/h1', args: [], env: [] },
      { path: '/h2', args: ['h2', 'x'], env: [] },
    ],
    poststop: [{ path: '/h3', args: [], env: [] }],
  });
  assert.deepEqual(additionalGids, [44, 5]);
  assert.deepEqual(spec.hooks, {}, 'the spec that was given is unchanged');
});

test('what a node leaves out comes from the host, and what it says is taken without one', async () => {
  const { spec: result } = await apply(
    {
      deviceNodes: [
        { path: '/dev/x', hostPath: '/dev/host' },
        { path: '/dev/host', type: 'b', major: 7, minor: 8, fileMode: 0o600, uid: 1, gid: 2, permissions: 'r' },
        { path: '/dev/absent', type: 'u', major: 4, minor: 5, permissions: 'none' },
        { path: '/dev/fifo', type: 'p' },
      ],
    },
    { owner: { uid: 1000, gid: 1001 } },
  );
  assert.deepEqual(result.linux.devices, [
    { type: 'c', path: '/dev/x', major: 195, minor: 3, fileMode: 0o640, uid: 1000, gid: 1001 },
    { type: 'b', path: '/dev/host', major: 7, minor: 8, fileMode: 0o600, uid: 1, gid: 2 },
    { type: 'c', path: '/dev/absent', major: 4, minor: 5, uid: 1000, gid: 1001 },
    { type: 'p', path: '/dev/fifo', major: 0, minor: 0, uid: 1000, gid: 1001 },
  ]);
  assert.deepEqual(result.linux.resources?.devices.slice(1), [
    { allow: true, type: 'c', major: 195, minor: 3, access: 'rwm' },
    { allow: true, type: 'b', major: 7, minor: 8, access: 'r' },
  ]);
  const where = 'CDI device vendor.com/gpu=gpu0: /etc/cdi/x.json: ';
  await assert.rejects(apply({ deviceNodes: [{ path: '/dev/none' }] }), { code: 'notFound', message: `${where}read device /dev/none: ENOENT` });
  await assert.rejects(apply({ deviceNodes: [{ path: '/dev/dir' }] }), { code: 'invalidArgument', message: `${where}device /dev/dir: is not a device node` });
  await assert.rejects(apply({ deviceNodes: [{ path: '/dev/host', type: 'b' }] }), { code: 'invalidArgument', message: `${where}device /dev/host: is of type c and not b` });
});

test('in a user namespace the owners of bind mounts are shown mapped', async () => {
  const mapped: RuntimeSpec = { ...spec, linux: { ...spec.linux, namespaces: [{ type: 'mount' }, { type: 'user' }] } };
  const { spec: result } = await apply(
    {
      mounts: [
        { hostPath: '/a', containerPath: '/a' },
        { hostPath: 'tmpfs', containerPath: '/b', type: 'tmpfs' },
      ],
    },
    { to: mapped },
  );
  assert.deepEqual(
    result.mounts.filter(({ destination }) => ['/a', '/b'].includes(destination)).map(({ options }) => options),
    [['rbind', 'idmap'], []],
  );
});

test('more hooks than a container may have are refused', async () => {
  const hooks = Array.from({ length: 40 }, () => ({ hookName: 'prestart', path: '/h' }));
  const full: RuntimeSpec = { ...spec, hooks: { poststart: Array.from({ length: 30 }, () => ({ path: '/h', args: [], env: [] })) } };
  await assert.rejects(apply({ hooks }, { to: full }), { code: 'resourceExhausted', message: 'CDI devices: 70 hooks, at most 64' });
});
