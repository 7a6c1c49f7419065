/** Pods with a user namespace through the CRI door: who their processes are inside and outside, whose their files are, what is refused. Needs root and busybox-static. */
import assert from 'node:assert/strict';
import { chownSync, mkdirSync, readFileSync, readlinkSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { status as grpcStatus } from '@grpc/grpc-js';
import { MountPropagation, NamespaceMode, RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';
import { Layout, tarOf } from './image-host.ts';

const { method } = RuntimeService;
const [userBase, groupBase, length] = [400_000, 500_000, 65_536];
const mappings = { uids: [{ containerId: 0, hostId: userBase, length }], gids: [{ containerId: 0, hostId: groupBase, length }] };
const usernsOptions = { mode: NamespaceMode.POD, ...mappings };
const podWith = (more: Record<string, unknown> = {}): { readonly linux: { readonly securityContext: { readonly namespaceOptions: object } } } => ({
  linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions, ...more } } },
});
const inPod = (securityContext: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Record<string, unknown> => ({
  linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions, ...more }, ...securityContext } },
});
const owners = (path: string): readonly number[] => [statSync(path).uid, statSync(path).gid];
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

describe('user namespaces over CRI', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => {
    cri = await CriHost.open();
  });
  after(async () => {
    await cri[Symbol.asyncDispose]();
  });

  async function exec(containerId: string, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await cri.call(method.execSync, { containerId, cmd: [busybox, 'sh', '-c', script] });
    return `${text(stdout)}${text(stderr)}${exitCode === 0 ? '' : `exit ${exitCode}\n`}`;
  }

  it('the runtime handler says that it has them', async () => {
    const { runtimeHandlers } = await cri.call(method.status, {});
    assert.deepEqual(
      runtimeHandlers.map(({ name, features }) => [name, features?.userNamespaces]),
      runtimeHandlers.map(({ name }) => [name, true]),
    );
  });

  it('a container is root inside and an unprivileged user outside; its files, volumes and small files show the right owners', async () => {
    const volume = cri.host.scratch('volume');
    mkdirSync(`${volume}/sub`);
    writeFileSync(`${volume}/file`, 'mine\n');
    chownSync(`${volume}/file`, 1000, 1001);
    const note = `${cri.host.scratch('single')}/note`;
    writeFileSync(note, '');
    const mountMappings = { uidMappings: mappings.uids, gidMappings: mappings.gids };
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', {
      pod: { ...podWith(), hostname: 'mapped' },
      container: {
        ...inPod(),
        mounts: [
          { containerPath: '/mapped', hostPath: volume, ...mountMappings },
          { containerPath: '/plain', hostPath: volume },
          { containerPath: '/note', hostPath: note, ...mountMappings },
        ],
      },
    });
    const { status } = await cri.call(method.podSandboxStatus, { podSandboxId });
    const { usernsOptions: told } = status?.linux?.namespaces?.options ?? {};
    assert.deepEqual([told?.mode, told?.uids[0]?.hostId, told?.gids[0]?.hostId, told?.uids[0]?.length], [NamespaceMode.POD, userBase, groupBase, length]);
    const { status: container, info } = await cri.call(method.containerStatus, { containerId, verbose: true });
    assert.deepEqual(
      container?.mounts.map(({ uidMappings, gidMappings }) => [uidMappings[0]?.hostId, gidMappings[0]?.hostId]),
      [
        [userBase, groupBase],
        [undefined, undefined],
        [userBase, groupBase],
      ],
    );
    // SAFETY: the engine's own document.
    const { pid } = JSON.parse(info['info'] ?? '{}') as { pid: number };
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), new RegExp(`^Uid:\\t${userBase}\\t.*\nGid:\\t${groupBase}\\t`, 'm'));
    assert.notEqual(readlinkSync(`/proc/${pid}/ns/user`), readlinkSync('/proc/self/ns/user'));
    const seen = await exec(
      containerId,
      `cat /proc/self/uid_map; id -u; stat -c '%n %u:%g' / /etc ${busybox} /mapped/file /plain/file /dev/shm
       cat /etc/hosts | grep -c mapped; cat /etc/resolv.conf > /dev/null && echo resolv; hostname; echo x > /dev/shm/x && echo shm; echo written > /note; touch /mapped/sub/new; touch /mapped/made /made; touch /plain/no`,
    );
    assert.equal(
      seen,
      `         0     400000      65536\n0\n/ 0:0\n/etc 0:0\n${busybox} 0:0\n/mapped/file 1000:1001\n/plain/file 65534:65534\n/dev/shm 0:0\n1\nresolv\nmapped\nshm\ntouch: /plain/no: Permission denied\nexit 1\n`,
    );
    assert.deepEqual(
      [owners(`${volume}/made`), owners(`${volume}/sub/new`)],
      [
        [0, 0],
        [0, 0],
      ],
    );
    assert.equal(readFileSync(note, 'utf8'), 'written\n');
    await cri.call(method.removePodSandbox, { podSandboxId });
  });

  it('containers share the namespaces of their pod, processes too, and outlive the daemon, which still finds its way in', async () => {
    const pod = podWith({ pid: NamespaceMode.POD });
    const first = await cri.startContainer('echo from first > /dev/shm/note; sleep 1000', { pod, container: inPod({}, { pid: NamespaceMode.POD }) });
    const config = cri.containerConfig('sleep 1000', {
      metadata: { name: 'second', attempt: 0 },
      ...inPod({ runAsUser: { value: 1000n }, runAsGroup: { value: 1001n } }, { pid: NamespaceMode.POD }),
    });
    const { containerId } = await cri.call(method.createContainer, { podSandboxId: first.podSandboxId, config, sandboxConfig: {} });
    await cri.call(method.startContainer, { containerId });
    const script = 'cat /dev/shm/note; id -u; id -G; for name in user net ipc uts pid; do readlink /proc/self/ns/$name; done';
    const inFirst = await exec(first.containerId, script);
    await cri.restart('SIGKILL');
    assert.equal(await exec(first.containerId, script), inFirst);
    assert.deepEqual((await exec(containerId, script)).split('\n').slice(3), inFirst.split('\n').slice(3));
    assert.deepEqual((await exec(containerId, 'id -u; id -G; ls /proc/1/root; kill -9 1; kill -0 1')).split('\n').slice(0, 2), ['1000', '1001']);
    const after = cri.containerConfig('id -u; cat /proc/self/gid_map', { metadata: { name: 'third', attempt: 0 }, logPath: 'third.log', ...inPod({}, { pid: NamespaceMode.POD }) });
    const third = await cri.call(method.createContainer, { podSandboxId: first.podSandboxId, config: after, sandboxConfig: {} });
    await cri.call(method.startContainer, { containerId: third.containerId });
    const { exitCode, logPath } = await cri.ended(third.containerId);
    assert.equal(exitCode, 0);
    assert.match(readFileSync(logPath, 'utf8'), / 0\n.* +0 +500000 +65536\n/s);
    await cri.call(method.removePodSandbox, { podSandboxId: first.podSandboxId });
  });

  it('images as volumes show their owners, a writable layer belongs to mapped ids, and pods with different ranges are strangers', async () => {
    const layout = new Layout(cri.host.scratch('layout'));
    layout.add(layout.manifest({ layers: [tarOf('mkdir d; echo data > d/file; chown 33:34 d/file; chmod 640 d/file')] }), 'localhost/owned:1');
    await cri.host.ok(['image', 'import', layout.dir]);
    const other = { uids: [{ containerId: 0, hostId: 700_000, length }], gids: [{ containerId: 0, hostId: 700_000, length }] };
    const mounts = [
      { containerPath: '/models', image: { image: 'localhost/owned:1' }, uidMappings: mappings.uids, gidMappings: mappings.gids },
      { containerPath: '/part', image: { image: 'localhost/owned:1' }, imageSubPath: 'd' },
    ];
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { pod: podWith(), container: { ...inPod(), mounts } });
    assert.equal(
      await exec(containerId, 'stat -c %u:%g /models/d/file /part/file; cat /part/file; touch /models/x 2>&1 | grep -o Read-only; echo x > /made'),
      '33:34\n33:34\ndata\nRead-only\n',
    );
    const [layer] = readdirSync(`${cri.host.root}/containers/${podSandboxId}`);
    assert.deepEqual(owners(`${cri.host.root}/containers/${podSandboxId}/${layer}/upper/made`), [userBase, groupBase]);
    const stranger = await cri.startContainer('cat /proc/self/uid_map; sleep 1000', {
      pod: { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions: { mode: NamespaceMode.POD, ...other } } } } },
    });
    assert.match(await exec(stranger.containerId, 'cat /proc/self/uid_map'), /^ +0 +700000 +65536\n$/);
    for (const id of [podSandboxId, stranger.podSandboxId]) await cri.call(method.removePodSandbox, { podSandboxId: id });
  });

  it("a privileged container is root of its namespace only: none of the host's disks, no rights over the host", async () => {
    const pod = { linux: { securityContext: { privileged: true, namespaceOptions: { pid: NamespaceMode.CONTAINER, usernsOptions } } } };
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { pod, container: inPod({ privileged: true }) });
    const script = 'mount -t tmpfs x /tmp && echo mounted; echo 1 > /proc/sys/kernel/panic || echo refused; mknod /tmp/disk b 8 0 || echo no nodes; ls /dev | tr "\\n" " "';
    const seen = await exec(containerId, script);
    assert.match(seen, /^mounted\nrefused\nno nodes\n/);
    assert.doesNotMatch(seen, /[svh]d[a-z]\b|loop|mem\b/);
    await cri.call(method.removePodSandbox, { podSandboxId });
  });

  it('parameters of the pod are written below it, and a network of the host can still be looked at', async () => {
    const pod = { ...podWith(), linux: { ...podWith().linux, sysctls: { 'kernel.shm_rmid_forced': '1', 'net.ipv4.ip_unprivileged_port_start': '80' } } };
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { pod });
    assert.equal(await exec(containerId, 'cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start'), '1\n80\n');
    await cri.call(method.removePodSandbox, { podSandboxId });
    const host = await cri.startContainer('sleep 1000', { pod: podWith({ network: NamespaceMode.NODE, ipc: NamespaceMode.NODE }) });
    assert.equal(
      await exec(host.containerId, 'readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ls /sys/class/net | grep -c "^lo$"'),
      `${readlinkSync('/proc/self/ns/net')}\n${readlinkSync('/proc/self/ns/ipc')}\n1\n`,
    );
    await cri.call(method.removePodSandbox, { podSandboxId: host.podSandboxId });
  });

  it('what a container may not ask is refused with its path, and leaves nothing', async () => {
    const config = cri.podConfig(podWith());
    const { podSandboxId } = await cri.call(method.runPodSandbox, { config });
    const plain = cri.podConfig();
    const plainPod = await cri.call(method.runPodSandbox, { config: plain });
    const at = 'config.linux.security_context.namespace_options.userns_options';
    const other = { mode: NamespaceMode.POD, uids: [{ containerId: 0, hostId: 1, length }], gids: mappings.gids };
    const userns = (options: object): object => ({ linux: { securityContext: { namespaceOptions: { usernsOptions: options } } } });
    const refused: readonly (readonly [pod: string, more: object, code: number, message: RegExp])[] = [
      [podSandboxId, userns({ mode: NamespaceMode.NODE }), grpcStatus.INVALID_ARGUMENT, new RegExp(`: ${at}: must be the pod's$`)],
      [podSandboxId, userns(other), grpcStatus.INVALID_ARGUMENT, new RegExp(`: ${at}: must be the pod's$`)],
      [plainPod.podSandboxId, userns(usernsOptions), grpcStatus.INVALID_ARGUMENT, new RegExp(`: ${at}: the pod uses the user namespace of the node$`)],
      [
        plainPod.podSandboxId,
        { mounts: [{ containerPath: '/a', hostPath: '/etc', uidMappings: mappings.uids, gidMappings: mappings.gids }] },
        grpcStatus.INVALID_ARGUMENT,
        /: config\.mounts\[0\]\.uidMappings: needs a pod with a user namespace$/,
      ],
      [
        podSandboxId,
        { mounts: [{ containerPath: '/a', hostPath: '/etc', propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL }] },
        grpcStatus.INVALID_ARGUMENT,
        /: config\.mounts\[0\]\.propagation: must not be bidirectional in a pod with a user namespace$/,
      ],
      [podSandboxId, inPod({ runAsUser: { value: 70_000n } }), grpcStatus.INVALID_ARGUMENT, /: process\.user: user 70000 has no mapping in the user namespace$/],
      [
        podSandboxId,
        { mounts: [{ containerPath: '/a', hostPath: '/proc/sys', uidMappings: mappings.uids, gidMappings: mappings.gids }] },
        grpcStatus.FAILED_PRECONDITION,
        /: config\.mounts\[0\]: path "\/proc\/sys": its file system cannot map owners \(EINVAL\)$/,
      ],
    ];
    for (const [id, more, code, message] of refused)
      await assert.rejects(cri.call(method.createContainer, { podSandboxId: id, config: cri.containerConfig('true', more), sandboxConfig: {} }), (error) => {
        assert.ok(error instanceof Error && 'code' in error && 'details' in error);
        assert.match(String(error.details), message);
        assert.equal(error.code, code);
        return true;
      });
    assert.deepEqual((await cri.call(method.listContainers, {})).containers, []);
    const nodePids = cri.podConfig(podWith({ pid: NamespaceMode.NODE }));
    await assert.rejects(cri.call(method.runPodSandbox, { config: nodePids }), {
      code: grpcStatus.INVALID_ARGUMENT,
      details: 'config.linux.security_context.namespace_options.pid: must not be NODE with a user namespace',
    });
    for (const id of [podSandboxId, plainPod.podSandboxId]) await cri.call(method.removePodSandbox, { podSandboxId: id });
  });
});
