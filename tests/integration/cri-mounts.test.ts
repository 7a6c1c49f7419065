/** Volumes and devices through the CRI door: paths of the host that are missing or links, propagation, what is mounted below, devices. Needs root and busybox-static. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { status as grpcStatus } from '@grpc/grpc-js';
import { MountPropagation, RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const { method } = RuntimeService;
const { PROPAGATION_BIDIRECTIONAL: both, PROPAGATION_HOST_TO_CONTAINER: inwards, PROPAGATION_PRIVATE: none } = MountPropagation;
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
const mount = (...args: readonly string[]): void => void execFileSync('mount', args);
const privileged = { linux: { securityContext: { privileged: true } } };

describe('volumes and devices over CRI', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => {
    cri = await CriHost.open();
  });
  after(async () => {
    await cri[Symbol.asyncDispose]();
  });

  async function exec(containerId: string, script: string): Promise<string> {
    const { stdout, stderr } = await cri.call(method.execSync, { containerId, cmd: [busybox, 'sh', '-c', script] });
    return `${text(stdout)}${text(stderr)}`;
  }

  /** A pod and a container with these mounts, for as long as `body` runs. */
  async function withMounts(mounts: readonly object[], body: (containerId: string, podSandboxId: string) => Promise<void>, security: object = {}): Promise<void> {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { pod: security, container: { ...security, mounts: [...mounts] } });
    await body(containerId, podSandboxId);
    await cri.call(method.removePodSandbox, { podSandboxId });
  }

  /** A create that must fail; gives the message. */
  async function refusal(more: object, code: number, pod: object = {}): Promise<string> {
    const config = cri.podConfig(pod);
    const { podSandboxId } = await cri.call(method.runPodSandbox, { config });
    let message = '';
    await assert.rejects(cri.call(method.createContainer, { podSandboxId, config: cri.containerConfig('true', more), sandboxConfig: config }), (error) => {
      assert.ok(error instanceof Error && 'code' in error && 'details' in error);
      assert.equal(error.code, code, String(error.details));
      message = String(error.details);
      return true;
    });
    assert.deepEqual((await cri.call(method.listContainers, { filter: { podSandboxId } })).containers, []);
    await cri.call(method.removePodSandbox, { podSandboxId });
    return message.replace(/^create container \S+ in pod \S+: /, '');
  }

  it('a path of the host that is missing becomes an empty directory, its parents too', async () => {
    const path = `${cri.host.scratch('missing')}/a/b`;
    await withMounts([{ containerPath: '/made', hostPath: path }], async (containerId) => {
      assert.ok(statSync(path).isDirectory());
      assert.equal(statSync(path).mode & 0o7777, 0o755);
      assert.equal(await exec(containerId, 'ls -A /made; echo x > /made/file'), '');
      assert.equal(readFileSync(`${path}/file`, 'utf8'), 'x\n');
    });
  });

  it('a path below a file, and a link that leads nowhere, fail with the mount and its path', async () => {
    const directory = cri.host.scratch('wrong');
    writeFileSync(`${directory}/file`, '');
    symlinkSync('nowhere', `${directory}/dangling`);
    const mounts = [
      { containerPath: '/ok', hostPath: directory },
      { containerPath: '/bad', hostPath: `${directory}/file/below` },
    ];
    assert.match(await refusal({ mounts }, grpcStatus.FAILED_PRECONDITION), /^config\.mounts\[1\]: mount ".*\/wrong\/file\/below": .*: ENOTDIR/);
    const dangling = `${directory}/dangling`;
    assert.equal(
      await refusal({ mounts: [{ containerPath: '/bad', hostPath: dangling }] }, grpcStatus.FAILED_PRECONDITION),
      `config.mounts[0]: path ${JSON.stringify(dangling)} is a link that leads nowhere`,
    );
    const below = `${dangling}/a/b`;
    assert.equal(
      await refusal({ mounts: [{ containerPath: '/bad', hostPath: below }] }, grpcStatus.FAILED_PRECONDITION),
      `config.mounts[0]: path ${JSON.stringify(below)} is missing and lies below a link that is not followed`,
    );
    assert.ok(!existsSync(`${directory}/nowhere`));
  });

  it('a link is followed once; where it leads later has no effect, and status tells the path that was asked for', async () => {
    const directory = cri.host.scratch('links');
    for (const name of ['one', 'two']) {
      mkdirSync(`${directory}/${name}`);
      writeFileSync(`${directory}/${name}/name`, `${name}\n`);
    }
    symlinkSync('one', `${directory}/link`);
    symlinkSync(`${directory}/one/name`, `${directory}/file-link`);
    const mounts = [
      { containerPath: '/data', hostPath: `${directory}/link`, readonly: true },
      { containerPath: '/etc/motd', hostPath: `${directory}/file-link` },
    ];
    await withMounts(mounts, async (containerId) => {
      rmSync(`${directory}/link`);
      symlinkSync('two', `${directory}/link`);
      assert.equal(await exec(containerId, 'cat /data/name /etc/motd; touch /data/x 2>&1 | grep -o Read-only'), 'one\none\nRead-only\n');
      const { status } = await cri.call(method.containerStatus, { containerId });
      assert.deepEqual(
        status?.mounts.map(({ containerPath, hostPath, readonly, propagation }) => [containerPath, hostPath, readonly, propagation]),
        [
          ['/data', `${directory}/link`, true, none],
          ['/etc/motd', `${directory}/file-link`, false, none],
        ],
      );
    });
  });

  it('mounts cross from the host to the container, and back, only as far as was asked', async () => {
    const directory = cri.host.scratch('shared');
    mount('-t', 'tmpfs', 'tmpfs', directory);
    mount('--make-shared', directory);
    try {
      for (const name of ['late', 'inner-1', 'inner-2', 'inner-3']) mkdirSync(`${directory}/${name}`);
      const mounts = [
        { containerPath: '/private', hostPath: directory, propagation: none },
        { containerPath: '/inwards', hostPath: directory, propagation: inwards },
        { containerPath: '/both', hostPath: directory, propagation: both },
      ];
      await withMounts(
        mounts,
        async (containerId) => {
          mount('-t', 'tmpfs', 'tmpfs', `${directory}/late`);
          writeFileSync(`${directory}/late/file`, '');
          assert.equal(await exec(containerId, 'ls -A /private/late; echo -; ls -A /inwards/late; echo -; ls -A /both/late'), '-\nfile\n-\nfile\n');
          const seen = await exec(
            containerId,
            'i=0; for from in private inwards both; do i=$((i+1)); mount -t tmpfs x /$from/inner-$i && echo x > /$from/inner-$i/from; done; umount /both/late && echo unmounted',
          );
          assert.equal(seen, 'unmounted\n');
          assert.deepEqual(
            [1, 2, 3].map((index) => existsSync(`${directory}/inner-${index}/from`)),
            [false, false, true],
          );
          assert.ok(!existsSync(`${directory}/late/file`));
          const { status } = await cri.call(method.containerStatus, { containerId });
          assert.deepEqual(
            status?.mounts.map(({ propagation }) => propagation),
            [none, inwards, both],
          );
        },
        privileged,
      );
      assert.ok(existsSync(`${directory}/inner-3/from`), 'what was mounted on the host stays');
    } finally {
      execFileSync('umount', ['-R', directory]);
    }
  });

  it('propagation from a mount that shares nothing is refused, where the copy would silently see nothing', async () => {
    const directory = cri.host.scratch('private');
    mount('-t', 'tmpfs', 'tmpfs', directory);
    mount('--make-private', directory);
    try {
      mkdirSync(`${directory}/sub`);
      const asking = (propagation: MountPropagation): object => ({ ...privileged, mounts: [{ containerPath: '/a', hostPath: `${directory}/sub`, propagation }] });
      const [path, point] = [JSON.stringify(`${directory}/sub`), JSON.stringify(directory)];
      assert.equal(await refusal(asking(both), grpcStatus.FAILED_PRECONDITION, privileged), `config.mounts[0]: path ${path} is mounted on ${point} but it is not a shared mount`);
      assert.equal(
        await refusal(asking(inwards), grpcStatus.FAILED_PRECONDITION, privileged),
        `config.mounts[0]: path ${path} is mounted on ${point} but it is not a shared or slave mount`,
      );
      // A slave passes on what it gets.
      const [shared, slave] = [`${directory}/sub`, cri.host.scratch('slave')];
      mount('-t', 'tmpfs', 'tmpfs', shared);
      mount('--make-shared', shared);
      mkdirSync(`${shared}/late`);
      mount('--bind', shared, slave);
      mount('--make-slave', slave);
      await withMounts([{ containerPath: '/a', hostPath: slave, propagation: inwards }], async (containerId) => {
        mount('-t', 'tmpfs', 'tmpfs', `${shared}/late`);
        writeFileSync(`${shared}/late/file`, '');
        assert.equal(await exec(containerId, 'ls /a/late'), 'file\n');
      });
      execFileSync('umount', ['-R', slave]);
    } finally {
      execFileSync('umount', ['-R', directory]);
    }
  });

  it('read-only holds for the mount alone, or for everything below when that is asked', async () => {
    const directory = cri.host.scratch('tree');
    mkdirSync(`${directory}/below`);
    mount('-t', 'tmpfs', 'tmpfs', `${directory}/below`);
    try {
      const mounts = [
        { containerPath: '/plain', hostPath: directory, readonly: true },
        { containerPath: '/all', hostPath: directory, readonly: true, recursiveReadOnly: true, selinuxRelabel: true },
      ];
      await withMounts(mounts, async (containerId) => {
        const script = 'for file in /plain/x /plain/below/x /all/x /all/below/y; do touch $file 2>/dev/null && echo $file; done';
        assert.equal(await exec(containerId, script), '/plain/below/x\n');
      });
    } finally {
      execFileSync('umount', [`${directory}/below`]);
    }
  });

  it('one shared memory of 64 MiB belongs to the pod', async () => {
    await withMounts([], async (containerId, podSandboxId) => {
      const config = cri.containerConfig('sleep 1000', { metadata: { name: 'second', attempt: 0 } });
      const second = await cri.call(method.createContainer, { podSandboxId, config, sandboxConfig: {} });
      await cri.call(method.startContainer, { containerId: second.containerId });
      assert.equal(await exec(containerId, 'echo here > /dev/shm/note; df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2'), '65536\n');
      assert.equal(await exec(second.containerId, 'cat /dev/shm/note; stat -c %a /dev/shm'), 'here\n1777\n');
    });
  });

  it('devices come by path, by link and by directory, with their permissions and no others', async () => {
    const directory = cri.host.scratch('devices');
    mkdirSync(`${directory}/set/deep`, { recursive: true });
    for (const [name, minor] of [
      ['set/one', '3'],
      ['set/deep/two', '5'],
    ] as const)
      execFileSync('mknod', [`${directory}/${name}`, 'c', '1', minor]);
    symlinkSync('set', `${directory}/alias`);
    symlinkSync('/dev/full', `${directory}/full`);
    const devices = [
      { containerPath: '/dev/own', hostPath: `${directory}/full`, permissions: 'r' },
      { containerPath: '/dev/set', hostPath: `${directory}/alias`, permissions: 'rwm' },
    ];
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { container: { devices } });
    const script = `stat -c '%n %t:%T' /dev/own /dev/set/one /dev/set/deep/two; head -c 3 /dev/own | wc -c; head -c 2 /dev/set/deep/two | wc -c; echo x > /dev/own`;
    assert.match(await exec(containerId, script), /^\/dev\/own 1:7\n\/dev\/set\/one 1:3\n\/dev\/set\/deep\/two 1:5\n3\n2\n.*(Operation not permitted|Permission denied|No space)/);
    assert.match(await exec(containerId, 'mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg; rm -f /tmp/kmsg'), /not permitted/);
    await cri.call(method.removePodSandbox, { podSandboxId });
    writeFileSync(`${directory}/file`, '');
    assert.match(await refusal({ devices: [{ containerPath: '/dev/x', hostPath: `${directory}/none`, permissions: 'r' }] }, grpcStatus.NOT_FOUND), /devices\/none/);
    assert.match(
      await refusal({ devices: [{ containerPath: '/dev/x', hostPath: `${directory}/file`, permissions: 'r' }] }, grpcStatus.INVALID_ARGUMENT),
      /devices\/file: is not a device node/,
    );
  });

  it('a privileged container has every device of the host and may use them', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000', { pod: privileged, container: privileged });
    assert.equal(
      await exec(containerId, 'mknod /tmp/zero c 1 5 && head -c 4 /tmp/zero | wc -c; mount -t tmpfs x /tmp && echo mounted; touch /sys/fs/cgroup/x 2>&1 | grep -c Read-only'),
      '4\nmounted\n0\n',
    );
    await cri.call(method.removePodSandbox, { podSandboxId });
  });
});
