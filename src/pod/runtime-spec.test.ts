/** From requests to the runtime spec: who wins between pod, request and image, and what is refused with its path. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RuntimeSpec } from '#oci';
import type { ImageProcess } from './ports.ts';
import { buildRuntimeSpec, containerUser } from './runtime-spec.ts';
import { containerConfig, fakeDefaults, podConfig } from './testing/doubles.ts';
import type { ContainerConfig, ContainerSecurity, PodSandboxConfig } from './types.ts';

const image: ImageProcess = { entrypoint: ['/bin/app'], command: ['serve'], env: ['PATH=/app', 'A=image'], workingDir: '/srv', user: '', stopSignal: '' };

async function build(container: Partial<ContainerConfig> = {}, pod: Partial<PodSandboxConfig> = {}, from: ImageProcess = image, defaults = fakeDefaults): Promise<RuntimeSpec> {
  return buildRuntimeSpec({
    pod: podConfig(pod),
    podId: 'p1',
    podDir: '/run/berth/pods/p1',
    cgroupPath: '/berth/p1/c1',
    hostname: 'web',
    container: containerConfig(container),
    image: from,
    defaults,
  });
}

const security = (change: Partial<ContainerSecurity>): { security: ContainerSecurity } => ({ security: { ...containerConfig().security, ...change } });
const privilegedPod: Partial<PodSandboxConfig> = { security: { ...podConfig().security, privileged: true } };
const mountAt = (spec: RuntimeSpec, destination: string) => spec.mounts.find((mount) => mount.destination === destination);
const namespacesOf = (spec: RuntimeSpec): string[] => spec.linux.namespaces.map(({ type, path }) => (path === undefined ? type : `${type}=${path}`));

describe('the process', () => {
  it('runs the image’s entry point and command unless the request has its own', async () => {
    assert.deepEqual((await build()).process?.args, ['/bin/app', 'serve']);
    assert.deepEqual((await build({ args: ['x'] })).process?.args, ['/bin/app', 'x']);
    assert.deepEqual((await build({ command: ['/bin/sh'] })).process?.args, ['/bin/sh']);
    assert.deepEqual((await build({ command: ['/bin/sh'], args: ['-c', 'id'] })).process?.args, ['/bin/sh', '-c', 'id']);
    await assert.rejects(build({}, {}, { ...image, entrypoint: [], command: [] }), {
      code: 'invalidArgument',
      message: 'config.command: no command: neither the request nor the image has one',
    });
  });

  it('has the image’s environment below the request’s, each name once', async () => {
    const spec = await build({
      tty: true,
      env: [
        { key: 'A', value: 'request' },
        { key: 'B', value: '' },
      ],
    });
    assert.deepEqual(spec.process?.env, ['PATH=/app', 'HOSTNAME=web', 'TERM=xterm', 'A=request', 'B=']);
    assert.ok((await build({}, {}, { ...image, env: [] })).process?.env[0]?.startsWith('PATH=/usr/local/sbin:'));
    await assert.rejects(build({ env: [{ key: 'A=B', value: '' }] }), { code: 'invalidArgument', message: 'config.envs[0].key: "A=B" is not a variable name' });
  });

  it('starts in the request’s directory, else the image’s, else the root', async () => {
    assert.equal((await build({ workingDir: '/w' })).process?.cwd, '/w');
    assert.equal((await build()).process?.cwd, '/srv');
    assert.equal((await build({}, {}, { ...image, workingDir: '' })).process?.cwd, '/');
  });

  it('has no inheritable or ambient capabilities unless asked', async () => {
    const plain = (await build()).process?.capabilities;
    assert.deepEqual([plain?.bounding, plain?.inheritable, plain?.ambient], [['CAP_CHOWN', 'CAP_KILL'], [], []]);
    const changed = (await build(security({ capabilities: { add: ['sys_admin'], drop: ['KILL'], addAmbient: ['CAP_CHOWN'] } }))).process?.capabilities;
    assert.deepEqual([changed?.effective, changed?.ambient, changed?.inheritable], [['CAP_CHOWN', 'CAP_SYS_ADMIN'], ['CAP_CHOWN'], ['CAP_CHOWN']]);
    assert.deepEqual((await build(security({ capabilities: { add: ['CHOWN'], drop: ['ALL'], addAmbient: [] } }))).process?.capabilities?.bounding, ['CAP_CHOWN']);
    assert.deepEqual((await build(security({ privileged: true }), privilegedPod)).process?.capabilities?.bounding, fakeDefaults.allCapabilities);
    await assert.rejects(build(security({ capabilities: { add: ['no such thing'], drop: [], addAmbient: [] } })), {
      code: 'invalidArgument',
      message: /unknown capability CAP_NO SUCH THING$/,
    });
  });

  it('does not get by way of the ambient ones what is dropped by its name, nor all of them', async () => {
    const { ambient, bounding } = (await build(security({ capabilities: { add: [], drop: ['kill'], addAmbient: ['KILL', 'CHOWN'] } }))).process?.capabilities ?? {};
    assert.deepEqual([ambient, bounding], [['CAP_CHOWN'], ['CAP_CHOWN']]);
    const only = (await build(security({ capabilities: { add: [], drop: ['ALL'], addAmbient: ['KILL'] } }))).process?.capabilities;
    assert.deepEqual([only?.ambient, only?.bounding], [['CAP_KILL'], ['CAP_KILL']]);
    await assert.rejects(build(security({ capabilities: { add: [], drop: [], addAmbient: ['ALL'] } })), {
      code: 'invalidArgument',
      message: 'config.linux.security_context.capabilities: unknown capability ALL',
    });
  });
});

describe('the user', () => {
  const userOf = (change: Partial<ContainerSecurity>, imageUser = ''): ReturnType<typeof containerUser> =>
    containerUser(containerConfig(security(change)), { ...image, user: imageUser });

  it('is the request’s, else the image’s with its group', () => {
    assert.deepEqual(userOf({}, 'web:staff'), { user: 'web', group: 'staff', supplementalGroups: [], policy: 'merge' });
    assert.deepEqual(userOf({ runAsUser: 5 }, 'web:staff'), { user: '5', group: '', supplementalGroups: [], policy: 'merge' });
    assert.deepEqual(userOf({ runAsUsername: 'me', runAsGroup: 7, supplementalGroups: [3, 3], supplementalGroupsPolicy: 'strict' }), {
      user: 'me',
      group: '7',
      supplementalGroups: [3, 3],
      policy: 'strict',
    });
    assert.throws(() => userOf({ runAsGroup: 7 }), { code: 'invalidArgument', message: /run_as_group: needs run_as_user or run_as_username$/ });
  });
});

describe('namespaces', () => {
  it('are the pod’s, the container’s or the node’s', async () => {
    assert.deepEqual(namespacesOf(await build()), ['pid', 'ipc', 'network', 'uts', 'mount', 'cgroup']);
    const host = { security: { ...podConfig().security, namespaces: { network: 'node', pid: 'pod', ipc: 'node' } } } as const;
    const node = await build(security({ namespaces: { network: 'pod', pid: 'node', ipc: 'pod' } }), host);
    assert.deepEqual(namespacesOf(node), ['mount', 'cgroup']);
    assert.equal(node.hostname, undefined);
    assert.deepEqual(mountAt(node, '/dev/shm')?.source, '/dev/shm');
    assert.deepEqual(namespacesOf(await build(security({ privileged: true }), privilegedPod)), ['pid', 'ipc', 'network', 'uts', 'mount']);
  });

  it('of network and IPC are the pod’s, whatever the container asks for', async () => {
    assert.deepEqual(namespacesOf(await build(security({ namespaces: { network: 'node', pid: 'pod', ipc: 'node' } }))), ['pid', 'ipc', 'network', 'uts', 'mount', 'cgroup']);
  });
});

describe('mounts', () => {
  it('bring the pod’s files unless the request brings its own', async () => {
    assert.equal(mountAt(await build(), '/etc/hosts')?.source, '/run/berth/pods/p1/hosts');
    const own = await build({ mounts: [{ containerPath: '/etc/hosts', hostPath: '/var/lib/kubelet/hosts', readonly: false, propagation: 'private' }] });
    assert.equal(mountAt(own, '/etc/hosts')?.source, '/var/lib/kubelet/hosts');
    assert.equal(own.mounts.filter(({ destination }) => destination === '/etc/hosts').length, 1);
  });

  it('put shorter targets first and carry propagation and modes', async () => {
    const spec = await build({
      mounts: [
        { containerPath: '/data/inner', hostPath: '/b', readonly: true, propagation: 'hostToContainer' },
        { containerPath: '/data', hostPath: '/a', readonly: false, propagation: 'bidirectional' },
      ],
    });
    assert.deepEqual(
      spec.mounts.slice(-2).map(({ destination, options }) => [destination, options]),
      [
        ['/data', ['rbind', 'rshared', 'rw']],
        ['/data/inner', ['rbind', 'rslave', 'ro']],
      ],
    );
    assert.equal(spec.linux.rootfsPropagation, 'rshared');
    assert.equal((await build()).linux.rootfsPropagation, undefined);
  });

  it('of images have a source that only this engine knows, and those that the image declares come before everything', async () => {
    const spec = await build(
      { mounts: [{ containerPath: '/models', hostPath: '', readonly: true, propagation: 'private', image: { image: 'm', subPath: '' }, restrictions: ['noexec'] }] },
      {},
      { ...image, volumes: ['/data', '/models'] },
    );
    assert.deepEqual(spec.mounts[0], { destination: '/data', type: 'bind', source: 'volume-0', options: ['bind', 'rprivate', 'rw', 'nodev'], idMapped: false });
    assert.deepEqual(mountAt(spec, '/models')?.options, ['bind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec']);
    assert.equal(mountAt(spec, '/models')?.source, 'image-0');
    assert.equal(spec.mounts.filter(({ destination }) => destination === '/models').length, 1);
  });

  it('carry what they take away', async () => {
    const spec = await build({ mounts: [{ containerPath: '/data', hostPath: '/a', readonly: false, propagation: 'private', restrictions: ['noexec', 'nosuid'] }] });
    assert.deepEqual(mountAt(spec, '/data')?.options, ['rbind', 'rprivate', 'rw', 'noexec', 'nosuid']);
  });

  it('are refused with their path when they are not absolute', async () => {
    await assert.rejects(build({ mounts: [{ containerPath: 'data', hostPath: '/a', readonly: false, propagation: 'private' }] }), {
      message: 'config.mounts[0].container_path: "data" is not absolute',
    });
    await assert.rejects(build({ mounts: [{ containerPath: '/data', hostPath: 'a', readonly: false, propagation: 'private' }] }), {
      message: 'config.mounts[0].host_path: "a" is not absolute',
    });
  });
});

describe('confinement', () => {
  it('masks by default, as the request says, and not for privileged containers', async () => {
    assert.deepEqual((await build()).linux.maskedPaths, ['/proc/kcore']);
    assert.deepEqual((await build(security({ maskedPaths: [], readonlyPaths: ['/x'] }))).linux.readonlyPaths, ['/x']);
    assert.deepEqual((await build(security({ privileged: true }), privilegedPod)).linux.maskedPaths, []);
  });

  it('of privileged containers needs a privileged pod', async () => {
    await assert.rejects(build(security({ privileged: true })), {
      code: 'invalidArgument',
      message: 'config.linux.security_context.privileged: needs a privileged pod sandbox',
    });
  });

  it('takes the seccomp profile of the container alone, and none for privileged ones', async () => {
    assert.equal((await build()).linux.seccomp, undefined);
    const podSecurity = { ...podConfig().security, privileged: true, seccomp: { kind: 'runtimeDefault' } as const };
    assert.equal((await build({}, { security: podSecurity })).linux.seccomp, undefined);
    assert.equal((await build(security({ seccomp: { kind: 'runtimeDefault' } }))).linux.seccomp?.defaultAction, 'SCMP_ACT_ERRNO');
    assert.equal((await build(security({ seccomp: { kind: 'localhost', path: '/p.json' } }), { security: podSecurity })).linux.seccomp?.defaultAction, 'SCMP_ACT_ALLOW');
    assert.equal((await build(security({ seccomp: { kind: 'unconfined' } }), { security: podSecurity })).linux.seccomp, undefined);
    assert.equal((await build(security({ privileged: true }), { security: podSecurity })).linux.seccomp, undefined);
  });

  it('denies devices first and allows what is named, or all to privileged ones', async () => {
    const spec = await build({ devices: [{ containerPath: '/dev/inside', hostPath: '/dev/full', permissions: 'r' }] });
    assert.deepEqual(spec.linux.devices, [{ type: 'c', path: '/dev/inside', major: 1, minor: 7, fileMode: 0o666, uid: 0, gid: 0 }]);
    assert.deepEqual(spec.linux.resources?.devices, [
      { allow: false, type: 'a', access: 'rwm' },
      { allow: true, type: 'c', major: 1, minor: 7, access: 'r' },
    ]);
    assert.deepEqual((await build(security({ privileged: true }), privilegedPod)).linux.resources?.devices, [{ allow: true, type: 'a', access: 'rwm' }]);
    await assert.rejects(build({ devices: [{ containerPath: '/dev/x', hostPath: '/dev/full', permissions: 'rq' }] }), {
      message: 'config.devices[0].permissions: "rq" is not made of r, w and m',
    });
  });

  it('put the devices of a directory below its path in the container, with or without slashes at the ends', async () => {
    const readDevices: typeof fakeDefaults.readDevices = async (path) => [{ path: `${path}/one`, type: 'c', major: 1, minor: 7, mode: 0o666, uid: 0, gid: 0 }];
    for (const [hostPath, containerPath] of [
      ['/dev/set', '/dev/inside'],
      ['/dev/set/', '/dev/inside'],
      ['/dev/set', '/dev/inside//'],
    ] as const) {
      const spec = await build({ devices: [{ containerPath, hostPath, permissions: 'r' }] }, {}, image, { ...fakeDefaults, readDevices });
      assert.equal(spec.linux.devices[0]?.path, '/dev/inside/one');
    }
  });
});

describe('resources', () => {
  it('leave out what is not set, as CRI says it with 0', async () => {
    const none = (await build({ resources: { cpuShares: 0n, cpuQuota: 0n, memoryLimitBytes: 0n, cpusetCpus: '' } })).linux.resources;
    assert.deepEqual([none?.cpu, none?.memory, none?.pids], [undefined, undefined, undefined]);
    const some = (await build({ resources: { cpuShares: 512n, cpuPeriod: 100_000n, cpuQuota: 50_000n, memoryLimitBytes: 1n << 33n, pidsLimit: 10n, cpusetCpus: '0-1' } })).linux
      .resources;
    assert.deepEqual(some?.cpu, { shares: 512n, quota: 50_000n, period: 100_000n, cpus: '0-1' });
    assert.deepEqual([some?.memory, some?.pids], [{ limit: 1n << 33n }, { limit: 10n }]);
    assert.equal((await build({ resources: { oomScoreAdj: 0 } })).process?.oomScoreAdj, 0);
  });
});
