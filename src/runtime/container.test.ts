/** Plans of containers, execs and pods as text, and what is refused before anything exists. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import { type Plan, decodePlan, encodePlan, explainPlan } from '#plan';
import { type HostFacts } from '#system';
import { type PlanContainerInput, planContainer, planContainerRemoval, planPayload } from './container.ts';
import { defaultCapabilities, defaultMaskedPaths, defaultMounts, defaultReadonlyPaths } from './defaults.ts';
import { planExec } from './exec.ts';
import { planSandbox } from './sandbox.ts';
import { hybridHost, v1Host, v2Host } from './testdata/hosts.ts';

/** A document as the pod layer builds it; parts are merged at the first level of `process` and `linux`. */
function makeSpec(parts: { readonly process?: object; readonly linux?: object; readonly mounts?: readonly object[]; readonly top?: object } = {}): RuntimeSpec {
  const capabilities = Object.fromEntries(['bounding', 'effective', 'permitted'].map((set) => [set, defaultCapabilities]));
  return decodeRuntimeSpec({
    ociVersion: '1.3.0',
    root: { path: 'rootfs' },
    mounts: [...defaultMounts, ...(parts.mounts ?? [])],
    process: {
      args: ['/bin/server', '--port', '80'],
      cwd: '/srv',
      env: ['SECRET=hunter2'],
      noNewPrivileges: true,
      user: { uid: 1000, gid: 1000, additionalGids: [2000] },
      capabilities,
      ...parts.process,
    },
    linux: {
      namespaces: ['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
      maskedPaths: defaultMaskedPaths,
      readonlyPaths: defaultReadonlyPaths,
      ...parts.linux,
    },
    ...parts.top,
  });
}

const overlay = { kind: 'overlay', storeDir: '/var/lib/berth/layers', lower: ['b', 'a'], upper: 'c/u', work: 'c/w', mountpoint: '/run/berth/pods/p/root' } as const;
const makeInput = (spec: RuntimeSpec, host: HostFacts, more: Partial<PlanContainerInput> = {}): PlanContainerInput => ({
  spec,
  rootfs: overlay,
  host,
  cgroup: { path: '/berth/p/c' },
  askIdentity: false,
  ...more,
});
const sandboxOf = (host: HostFacts, sharePid: boolean): ReturnType<typeof planSandbox> =>
  planSandbox({
    host,
    namespaces: { net: true, ipc: true, uts: true },
    hostname: 'web-0',
    sysctls: { 'net.core.somaxconn': '512' },
    shm: { sizeBytes: 65536 },
    mountpoint: '/run/berth/pods/p/mnt',
    sharePid,
    cgroup: { path: '/berth/p' },
    resources: { devices: [], hugepageLimits: [], unified: {}, cpu: { shares: 512n } },
  });

const range = (containerID: number, size: number, hostID = 100_000): object => ({ containerID, hostID, size });
const ownUsers = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }));
const userMappings = { uidMappings: [range(0, 65_536)], gidMappings: [range(0, 65_536, 200_000)] };

/** Compares with testdata/<name>.txt; with BERTH_WRITE_GOLDEN set it is written instead, and the difference is for review. */
function assertGolden(name: string, plans: Readonly<Record<string, Plan | undefined>>): void {
  const file = new URL(`testdata/${name}.txt`, import.meta.url);
  const text = Object.entries(plans)
    .flatMap(([title, plan]) => (plan === undefined ? [] : [`# ${title}`, ...explainPlan(plan), '']))
    .join('\n');
  if (process.env['BERTH_WRITE_GOLDEN'] !== undefined) writeFileSync(file, text);
  assert.equal(text, readFileSync(file, 'utf8'));
  for (const plan of Object.values(plans)) if (plan !== undefined) assert.equal(explainPlan(decodePlan(encodePlan(plan))).length, explainPlan(plan).length);
}

test('a container of a pod on cgroup v2', () => {
  const spec = makeSpec({
    process: { oomScoreAdj: 500, rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }] },
    linux: { resources: { memory: { limit: 67108864 }, cpu: { shares: 512 } } },
    mounts: [{ destination: '/data', type: 'bind', source: '/srv/data', options: ['rbind', 'rslave', 'ro'] }],
  });
  assertGolden('container-v2', { container: planContainer(makeInput(spec, v2Host, { pod: sandboxOf(v2Host, false).sharing })) });
});

test('a container with a terminal in a shared PID namespace on hybrid cgroups', () => {
  const input = makeInput(makeSpec({ process: { terminal: true, noNewPrivileges: false } }), hybridHost, { pod: sandboxOf(hybridHost, true).sharing, askIdentity: true });
  assertGolden('container-hybrid', {
    container: planContainer(input),
    answer: planPayload(input, { uid: 5, gid: 6, groups: [7], home: '/srv/five' }),
    removal: planContainerRemoval(hybridHost, input.cgroup, { timeoutMs: 1000 }),
  });
});

test('a container alone, from a directory, with everything of its own', () => {
  const spec = makeSpec({
    top: { hostname: 'alone', domainname: 'example', root: { path: 'rootfs', readonly: true } },
    process: { cwd: '/', user: { uid: 0, gid: 0, umask: 18 } },
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'uts' }, { type: 'ipc' }, { type: 'network', path: '/run/netns/blue' }],
      sysctl: { 'net.ipv4.ip_forward': '1', 'kernel.msgmax': '8192' },
      rootfsPropagation: 'rshared',
      devices: [{ type: 'c', path: '/dev/fuse', major: 10, minor: 229, fileMode: 432, uid: 3 }],
      personality: { domain: 'LINUX32' },
    },
    mounts: [{ destination: '/var', type: 'tmpfs', options: ['tmpcopyup', 'ro', 'size=1m'] }],
  });
  assertGolden('container-alone', { container: planContainer(makeInput(spec, v1Host, { rootfs: { kind: 'directory', path: '/srv/rootfs' } })) });
});

test('a container in a user namespace of its own, over layers that are mapped to it', () => {
  const spec = makeSpec({
    top: { hostname: 'inside' },
    process: { cwd: '/', rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 2097152 }] },
    linux: {
      namespaces: ownUsers,
      ...userMappings,
      sysctl: { 'net.ipv4.ip_forward': '1' },
      devices: [{ type: 'c', path: '/dev/fuse', major: 10, minor: 229, fileMode: 432, uid: 3 }],
    },
    mounts: [
      { destination: '/data', type: 'bind', source: '/srv/data', options: ['rbind', 'ridmap'] },
      { destination: '/own', type: 'bind', source: '/srv/own', options: ['bind'], uidMappings: [range(0, 5)], gidMappings: [range(0, 6)] },
    ],
  });
  const able = { ...v2Host, capabilities: { ...v2Host.capabilities, own: v2Host.capabilities.own | (1n << 24n) } };
  assert(spec.process !== undefined);
  assertGolden('container-user', {
    container: planContainer(makeInput(spec, able, { rootfs: { ...overlay, mapLower: true } })),
    'over a directory': planContainer(
      makeInput(makeSpec({ linux: { namespaces: ownUsers, ...userMappings } }), hybridHost, { rootfs: { kind: 'directory', path: '/srv/rootfs' } }),
    ),
    exec: planExec({ process: spec.process, spec, initPid: 4711, host: able, cgroup: { path: '/berth/p/c' } }),
  });
});

test('a pod with a user namespace, and a container of it', () => {
  const pod = planSandbox({
    host: v2Host,
    namespaces: { net: true, ipc: true, uts: true },
    hostname: 'web-0',
    sysctls: { 'kernel.msgmax': '8192' },
    shm: { sizeBytes: 65536 },
    mountpoint: '/run/berth/pods/p/mnt',
    sharePid: false,
    cgroup: { path: '/berth/p' },
    userMappings: { uids: [{ containerId: 0, hostId: 100_000, size: 65_536 }], gids: [{ containerId: 0, hostId: 200_000, size: 65_536 }] },
  });
  assert.deepEqual(pod.sharing.slots, { net: 1, ipc: 2, uts: 3, user: 0, mount: 5 });
  assertGolden('sandbox-user', {
    prepare: pod.prepare,
    sysctls: pod.sysctls,
    container: planContainer(makeInput(makeSpec({ linux: { namespaces: ownUsers, ...userMappings } }), v2Host, { pod: pod.sharing, rootfs: { ...overlay, userAttributes: true } })),
  });
});

test('an exec', () => {
  const spec = makeSpec();
  assert(spec.process !== undefined);
  assertGolden('exec', {
    v2: planExec({ process: spec.process, spec, initPid: 4711, host: v2Host, cgroup: { path: '/berth/p/c' } }),
    interactive: planExec({ process: { ...spec.process, terminal: true }, spec, initPid: 4711, host: hybridHost, cgroup: { path: '/berth/p/c' }, startBarrier: true }),
  });
});

test('a pod, without and with a shared PID namespace', () => {
  const [plain, shared] = [sandboxOf(v2Host, false), sandboxOf(hybridHost, true)];
  assertGolden('sandbox', {
    prepare: plain.prepare,
    sysctls: plain.sysctls,
    pause: plain.pause,
    release: plain.release,
    'shared: prepare': shared.prepare,
    'shared: pause': shared.pause,
    'shared: release': shared.release,
  });
  assert.deepEqual(
    [plain.sharing, shared.sharing],
    [
      { slots: { net: 1, ipc: 2, uts: 3, mount: 5 }, shmPath: '/shm' },
      { slots: { net: 1, ipc: 2, uts: 3, pid: 4, mount: 5 }, shmPath: '/shm', procPath: '/proc' },
    ],
  );
});

test("a pod of the host's namespaces makes none", () => {
  const { prepare, sharing } = planSandbox({
    host: v2Host,
    namespaces: { net: false, ipc: false, uts: false },
    sysctls: {},
    mountpoint: '/x',
    sharePid: false,
    cgroup: { path: '/berth/p' },
  });
  assert.deepEqual([prepare, sharing], [{ sections: [] }, { slots: {} }]);
});

test('secrets of the environment are not explained', () => {
  assert(
    !explainPlan(planContainer(makeInput(makeSpec(), v2Host)))
      .join('\n')
      .includes('hunter2'),
  );
});

test('a process without CAP_SYS_RESOURCE gets no lower score and no capability that the runtime lacks', () => {
  const all = Object.fromEntries(['bounding', 'effective', 'permitted'].map((set) => [set, ['CAP_SYS_RESOURCE', 'CAP_KILL']]));
  const steps = planContainer(makeInput(makeSpec({ process: { oomScoreAdj: -900, capabilities: all } }), hybridHost)).sections.flatMap((section) => section.steps);
  assert(steps.some((step) => step.kind === 'writeFile' && step.path.endsWith('oom_score_adj') && Buffer.from(step.data).toString('utf8') === '0'));
  assert(steps.some((step) => step.kind === 'setCapabilities' && step.effective === 1n << 5n));
});

type Refusal = readonly [parts: Parameters<typeof makeSpec>[0], code: string, message: string];
const podRefusals: readonly Refusal[] = [
  [{ mounts: [{ destination: '/x', type: 'bind', source: '/a', options: ['bind', 'size=5'] }] }, 'invalidArgument', 'mounts[7].options: unknown option "size=5" for a bind mount'],
  [{ linux: { namespaces: [{ type: 'pid' }] } }, 'invalidArgument', 'linux.namespaces: a container needs a mount namespace'],
  [{ linux: { namespaces: [{ type: 'mount' }, { type: 'pid', path: '/run/pins/pid' }] } }, 'unimplemented', 'linux.namespaces[1].path: not supported (only /proc/<pid>/ns/pid)'],
  [{ linux: { namespaces: [{ type: 'mount', path: '/x' }] } }, 'unimplemented', 'linux.namespaces[0]: not supported (joining a mount namespace by path)'],
  [{ linux: { namespaces: [{ type: 'mount' }, { type: 'user' }] } }, 'unimplemented', "linux.namespaces[1]: not supported (a user namespace beside the host's PID namespace)"],
  [
    { linux: { namespaces: [{ type: 'mount' }, { type: 'pid' }, { type: 'user', path: '/proc/1/ns/user' }] } },
    'unimplemented',
    'linux.namespaces[2].path: not supported (joining a user namespace by path)',
  ],
];
const refusals: readonly Refusal[] = [
  [{ linux: { namespaces: ownUsers } }, 'invalidArgument', 'linux.uidMappings: required with a user namespace'],
  [{ linux: { namespaces: ownUsers, uidMappings: [range(0, 9)], gidMappings: [range(5, 9)] } }, 'invalidArgument', 'linux.gidMappings: must map group 0'],
  [{ linux: { uidMappings: [range(0, 9)], gidMappings: [range(0, 9)] } }, 'invalidArgument', 'linux.uidMappings: needs a user namespace'],
  [
    {
      linux: { namespaces: ownUsers, uidMappings: [range(0, 9)], gidMappings: [range(0, 9)], devices: [{ type: 'c', path: '/dev/x', major: 1, minor: 3, uid: 10 }] },
    },
    'invalidArgument',
    'linux.devices: /dev/x: owner 10:0 has no mapping',
  ],
  [
    { mounts: [{ destination: '/v', type: 'bind', source: '/v', options: ['idmap'] }] },
    'invalidArgument',
    'mounts[7].uidMappings: required where the container has no user namespace',
  ],
  [
    { linux: { namespaces: ownUsers, ...userMappings }, mounts: [{ destination: '/v', type: 'bind', source: '/v', options: ['rbind', 'rshared'] }] },
    'unimplemented',
    'mounts[7].options: not supported (passing mounts of a user namespace on to the host)',
  ],
  [{ mounts: [{ destination: '/v', type: 'tmpfs', options: ['idmap'] }] }, 'unimplemented', 'mounts[7].uidMappings: not supported (only binds are mapped)'],
  [{ top: { hostname: 'x' }, linux: { namespaces: [{ type: 'mount' }] } }, 'invalidArgument', 'hostname: needs a uts namespace'],
  [{ top: { hostname: 'x'.repeat(65) } }, 'invalidArgument', 'hostname: 65 bytes, at most 64'],
  [{ top: { hooks: { prestart: [{ path: '/x' }] } } }, 'unimplemented', 'hooks: not supported (without a bundle directory)'],
  [
    { linux: { namespaces: [{ type: 'mount' }], sysctl: { 'net.core.somaxconn': '1' } } },
    'invalidArgument',
    'linux.sysctl["net.core.somaxconn"]: needs an own net namespace, the container uses the host\'s',
  ],
  [
    { linux: { sysctl: { 'kernel.core_pattern': '|/evil' } } },
    'invalidArgument',
    'linux.sysctl["kernel.core_pattern"]: is no parameter of a namespace, so it would change the host',
  ],
  ...['net/../kernel/core_pattern', 'net..x', 'net.ipv4.a b', 'net.x\n'].map(
    (name) =>
      [
        { linux: { namespaces: [{ type: 'mount' }, { type: 'network' }], sysctl: { [name]: '1' } } },
        'invalidArgument',
        `linux.sysctl[${JSON.stringify(name)}]: must be words of letters, digits, "_" and "-" separated by dots`,
      ] as const,
  ),
  [{ linux: { namespaces: [{ type: 'mount' }, { type: 'network' }], sysctl: { 'net.a.b': '1\n2' } } }, 'invalidArgument', 'linux.sysctl["net.a.b"]: the value must be one line'],
  [{ mounts: [{ destination: '/x', type: 'bind' }] }, 'invalidArgument', 'mounts[7].source: required for a bind mount'],
  [{ mounts: [{ destination: '/x', type: 'bind', source: 'relative' }] }, 'invalidArgument', 'mounts[7].source: must be an absolute path'],
  [
    { mounts: [{ destination: '/x', type: 'bind', source: '/a', options: ['bind', 'size=5', 'roo'] }] },
    'invalidArgument',
    'mounts[7].options: unknown option "roo" for a bind mount',
  ],
  [{ mounts: [{ destination: '/x' }] }, 'invalidArgument', 'mounts[7].type: required unless the mount is a bind'],
  [{ mounts: [{ destination: '/', type: 'tmpfs' }] }, 'invalidArgument', 'mounts[7].destination: must not be the root'],
  [{ mounts: [{ destination: '/x', type: '../x' }] }, 'invalidArgument', 'mounts[7].type: is no name of a file system: "../x"'],
  [{ process: { apparmorProfile: 'strict' } }, 'failedPrecondition', 'process.apparmorProfile: AppArmor is not enabled in this kernel'],
  [{ process: { selinuxLabel: 'u:r:t:s0' } }, 'failedPrecondition', 'process.selinuxLabel: SELinux is not enabled in this kernel'],
  [{ linux: { mountLabel: 'u:object_r:t:s0' } }, 'failedPrecondition', 'linux.mountLabel: SELinux is not enabled in this kernel'],
  [
    { process: { user: { uid: 9, gid: 0 } }, linux: { namespaces: ownUsers, uidMappings: [range(0, 9)], gidMappings: [range(0, 9)] } },
    'invalidArgument',
    'process.user: user 9 has no mapping in the user namespace',
  ],
  [{ process: { args: [''] } }, 'invalidArgument', 'process.args[0]: must not be empty'],
  [{ process: { capabilities: { bounding: ['CAP_FLY'] } } }, 'invalidArgument', 'process.capabilities.bounding[0]: unknown capability "CAP_FLY"'],
  [{ process: { capabilities: { effective: ['CAP_KILL'] } } }, 'invalidArgument', 'process.capabilities.effective: must be within permitted, CAP_KILL is not'],
  [
    { process: { capabilities: { permitted: ['CAP_KILL'], ambient: ['CAP_KILL'] } } },
    'invalidArgument',
    'process.capabilities.ambient: must be within permitted and inheritable, CAP_KILL is not',
  ],
  [
    { process: { rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1, hard: 2097152 }] } },
    'failedPrecondition',
    "process.rlimits[0].hard: 2097152 is above this host's 1048576 and CAP_SYS_RESOURCE is missing",
  ],
];
for (const [parts, code, message] of podRefusals) {
  const { user: _user, pid: _pid, ...slots } = sandboxOf(hybridHost, false).sharing.slots;
  test(`refuses a pod's container with ${JSON.stringify(message)}`, () =>
    assert.throws(() => planContainer(makeInput(makeSpec(parts), hybridHost, { pod: { slots } })), { code, message }));
}
for (const [parts, code, message] of refusals) {
  test(`refuses with ${JSON.stringify(message)}`, () => assert.throws(() => planContainer(makeInput(makeSpec(parts), hybridHost)), { code, message }));
}

test('volumes that stand behind names', () => {
  const named = (destination: string, source: string, ...options: string[]): object => ({ destination, type: 'bind', source, options: ['bind', 'rprivate', ...options] });
  const spec = decodeRuntimeSpec({
    ociVersion: '1.3.0',
    root: { path: 'rootfs' },
    process: { args: ['/x'], cwd: '/', user: { uid: 0, gid: 0 } },
    mounts: [
      named('/data', 'volume-0', 'rw', 'nodev'),
      named('/fast', 'volume-1', 'rw'),
      named('/models', 'image-0', 'noexec'),
      named('/part', 'image-1'),
      named('/none', 'image-2'),
    ],
    linux: { namespaces: [{ type: 'mount' }] },
  });
  const image = { kind: 'layers', storeDir: '/var/lib/berth/images/layers', lower: ['2', '1'], subPath: '', mountpoint: '/run/berth/rootfs', origin: 'config.mounts[0]' } as const;
  const volumes = {
    'volume-0': { kind: 'directory', path: '/var/lib/berth/containers/p/c/volumes/volume-0', bytesMax: 1000, origin: 'image config.Volumes["/data"]' },
    'volume-1': { kind: 'memory', bytesMax: 1000, origin: 'image config.Volumes["/fast"]' },
    'image-0': image,
    'image-1': { ...image, subPath: 'a/b', origin: 'config.mounts[1]' },
    'image-2': { ...image, lower: [], origin: 'config.mounts[2]' },
  } as const;
  assertGolden('container-volumes', { container: planContainer(makeInput(spec, v2Host, { volumes })) });
  // Without them the names are no paths, and nothing is mounted in their place.
  assert.throws(() => planContainer(makeInput(spec, v2Host)), { code: 'invalidArgument', message: 'mounts[0].source: must be an absolute path' });
});

test('bounds bind mounts and layers by what the kernel and the plan can hold', () => {
  const mounts = Array.from({ length: 200 }, (_item, index) => ({ destination: `/m${index}`, type: 'bind', source: '/a', options: ['bind'] }));
  assert.throws(() => planContainer(makeInput(makeSpec({ mounts }), v2Host)), { code: 'resourceExhausted', message: /^\/mounts\/\d+: more than 176 bind mounts$/ });
  const lower = Array.from({ length: 900 }, (_item, index) => `layer${index}`);
  assert.throws(() => planContainer(makeInput(makeSpec(), v2Host, { rootfs: { ...overlay, lower } })), {
    code: 'resourceExhausted',
    message: /^mount the root: 900 layers need \d+ bytes of options, at most 4095$/,
  });
});

test('a hook stands where its rights are: before the pivot with the engine’s, before the program with the program’s', () => {
  const hooks = { createRuntime: [{ path: '/host' }], createContainer: [{ path: '/setup' }], startContainer: [{ path: '/inside' }] };
  for (const noNewPrivileges of [false, true]) {
    const spec = makeSpec({ top: { hooks }, process: { noNewPrivileges }, linux: { seccomp: { defaultAction: 'SCMP_ACT_ALLOW' } } });
    const { sections } = planContainer(makeInput(spec, v2Host, { hookPlace: { id: 'c', bundle: '/b' } }));
    const order = sections.flatMap(({ steps }) => steps.map((step) => (step.kind === 'runHook' ? step.file : step.kind)));
    const at = (kind: string): number => order.indexOf(kind);
    assert.deepEqual(
      sections.filter(({ steps }) => steps.some((step) => step.kind === 'runHook' && step.file === '/host')).map(({ actor, barrier }) => [actor, barrier]),
      [['podNamespaces', 1000]],
    );
    assert.ok(at('barrier') < at('/setup') && at('moveMount') < at('/setup') && at('/setup') + 1 === at('pivotRoot'), order.join(' '));
    for (const kind of ['limitCapabilities', 'setGroups', 'setUser', 'setCapabilities', 'setSeccomp', 'newSession']) assert.ok(order.lastIndexOf(kind) < at('/inside'), kind);
    assert.deepEqual(order.slice(at('/inside')), ['/inside', 'execute']);
  }
  const withHooks = makeSpec({ top: { hooks } });
  assert.throws(() => planContainer(makeInput(withHooks, v2Host)), { code: 'unimplemented', message: 'hooks: not supported (without a bundle directory)' });
});
