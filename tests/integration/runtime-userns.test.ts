/**
 * Containers in user namespaces against the real kernel: who they are inside and outside, what they own, what they may do. Needs root,
 * busybox-static and the helper.
 */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import type { IdMappings } from '#plan';
import { capabilityNames, defaultCapabilities } from '#runtime';
import type { RootfsSource } from '../../src/runtime/container.ts';
import { execFileSync } from 'node:child_process';
import { type RuntimeHost, type SpecParts, type TestPod, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const skip = skipReason();
const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];
const [userBase, groupBase, count] = [200_000, 300_000, 65_536];
const mappings: IdMappings = { uids: [{ containerId: 0, hostId: userBase, size: count }], gids: [{ containerId: 0, hostId: groupBase, size: count }] };
const range = (hostID: number, size = count, containerID = 0): Readonly<Record<string, number>> => ({ containerID, hostID, size });
const documentMappings = { uidMappings: [range(userBase)], gidMappings: [range(groupBase)] };
const allNamespaces = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }));
const ownerOf = (path: string): readonly number[] => [statSync(path).uid, statSync(path).gid];
const mountsBelow = (directory: string): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${directory}`));

/** Busybox has no setfattr. */
function setUserXattr(path: string, name: string, value: string): void {
  const number = process.arch === 'arm64' ? 5 : 188;
  execFileSync('perl', ['-e', `syscall(${number}, $ARGV[0], $ARGV[1], $ARGV[2], length $ARGV[2], 0) == 0 or die $!`, path, name, value]);
}

async function until(predicate: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 600 && !predicate(); attempt += 1) await sleep(50);
}

describe('a container in a user namespace', { skip }, () => {
  let environment: RuntimeHost;
  /** A pod that shares nothing, so that every namespace is the container's own. */
  let pod: TestPod;
  before(async () => {
    environment = await startRuntimeHost('/var/tmp');
    pod = await environment.makePod({ namespaces: { net: false, ipc: false, uts: false } });
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  });

  const specOf = (script: string, parts: Partial<SpecParts> = {}): ReturnType<typeof makeSpec> =>
    makeSpec(environment.host, { args: sh(script), namespaces: allNamespaces, ...parts, linux: { ...documentMappings, ...parts.linux } });

  /** Two layers and the directories of an overlay; owners are the image's. */
  function makeStore(): Extract<RootfsSource, { kind: 'overlay' }> {
    const storeDir = mkdtempSync(join(environment.directory, 'store-'));
    for (const name of ['l1', 'l2', 'u', 'w', 'm']) mkdirSync(join(storeDir, name));
    writeRoot(join(storeDir, 'l1'));
    writeFileSync(join(storeDir, 'l1/data/web'), 'of the web user\n');
    chownSync(join(storeDir, 'l1/data/web'), 1000, 1001);
    writeFileSync(join(storeDir, 'l1/data/far'), 'of nobody inside\n');
    chownSync(join(storeDir, 'l1/data/far'), 70_000, 70_000);
    writeFileSync(join(storeDir, 'l2/top'), 'from the upper layer\n');
    return { kind: 'overlay', storeDir, lower: ['l2', 'l1'], upper: 'u', work: 'w', mountpoint: join(storeDir, 'm'), mapLower: true };
  }

  it("is root inside over layers with the image's owners, and writes as a mapped user", async () => {
    const rootfs = makeStore();
    const script = `id -u; id -g; echo $$; stat -c '%n %u:%g' / /bin/busybox /data/web /data/far /dev/null /dev/pts /tmp
      cat /top; echo new > /made; echo changed > /data/web; chown 33:34 /data/web; stat -c '%u:%g' /data/web; rm /top; mkdir /tmp/sub; cat /proc/self/uid_map /proc/self/gid_map`;
    const { output, waitStatus } = await pod.run('who', specOf(script), { rootfs });
    assert.equal(
      output,
      `0\n0\n1\n/ 0:0\n/bin/busybox 0:0\n/data/web 1000:1001\n/data/far 65534:65534\n/dev/null 0:0\n/dev/pts 0:0\n/tmp 0:0\nfrom the upper layer\n33:34\n         0     200000      65536\n         0     300000      65536\n`,
    );
    assert.equal(waitStatus, 0);
    const upper = join(rootfs.storeDir, 'u');
    assert.deepEqual(ownerOf(join(upper, 'made')), [userBase, groupBase]);
    assert.deepEqual(ownerOf(join(upper, 'data/web')), [userBase + 33, groupBase + 34]);
    assert.deepEqual(ownerOf(join(upper, 'tmp/sub')), [userBase, groupBase]);
    assert.deepEqual(ownerOf(join(rootfs.storeDir, 'l1/data/web')), [1000, 1001]);
  });

  it('is an unprivileged user on the host, whatever capabilities it has, and mounts in its own namespace alone', async () => {
    const rootfs = makeStore();
    const secret = join(rootfs.storeDir, 'secret');
    mkdirSync(secret);
    writeFileSync(join(secret, 'key'), 'only for root\n');
    chmodSync(join(secret, 'key'), 0o600);
    const script = `exec 2>&1; cat /secret/key; touch /secret/new; chown 0:0 /secret/key; mknod /tmp/disk b 8 0; echo 1 > /proc/sys/kernel/panic; mount -t tmpfs inner /srv && touch /srv/x && ls /srv
      mount -t proc proc /srv && echo proc; echo $(hostname own; hostname); dd if=/dev/zero bs=3 count=1 2>/dev/null | wc -c; sleep 600`;
    const { pid } = await pod.start(
      'powers',
      specOf(script, {
        capabilities: capabilityNames,
        linux: { seccomp: undefined, readonlyPaths: [] },
        mounts: [{ destination: '/secret', type: 'bind', source: secret, options: ['rbind'] }],
      }),
      { rootfs },
    );
    const log = join(pod.logDirectory, 'powers.log');
    await until(() => readFileSync(log, 'utf8').split('\n').length > 9);
    const lines = readFileSync(log, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => line.replace(/^\S+ \w+ \w /, ''));
    const refused = lines.filter((line) => /denied|not permitted|Read-only/.test(line)).length;
    assert.equal(refused, 5, lines.join('\n'));
    assert.deepEqual(lines.slice(5), ['x', 'proc', 'own', '3'], lines.join('\n'));
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), new RegExp(`^Uid:\\t${userBase}\\t${userBase}\\t${userBase}\\t${userBase}\nGid:\\t${groupBase}\\t`, 'm'));
    assert.notEqual(readlinkSync(`/proc/${pid}/ns/user`), readlinkSync('/proc/self/ns/user'));
    assert.deepEqual(mountsBelow(rootfs.storeDir), []);
    // Nothing of the host is among its mounts but what it was given.
    const roots = readFileSync(`/proc/${pid}/mountinfo`, 'utf8');
    assert.doesNotMatch(roots, / \/ \S+ [^-]*- tmpfs berth-stage|\/layers/);
    assert.deepEqual(ownerOf(join(secret, 'key')), [0, 0]);
    await pod.shim.signalProcess('powers', 9);
  });

  it('runs as another user of the mapping, whose streams it can open again', async () => {
    const { output } = await pod.run(
      'web',
      specOf('exec 2>&1; id -u; id -g; echo again > /dev/stdout; echo home $HOME; touch /root/x || true; touch /tmp/y; stat -c %u:%g /tmp/y'),
      {
        rootfs: { kind: 'directory', path: makeDirectory(), mapOwners: true },
        askIdentity: true,
      },
    );
    assert.equal(output, '1000\n1001\nagain\nhome /srv/web\ntouch: /root/x: Permission denied\n1000:1001\n');
  });

  /** A root directory with the image's owners, and a place for everybody. */
  function makeDirectory(): string {
    const root = mkdtempSync(join(environment.directory, 'root-'));
    writeRoot(root);
    chmodSync(root, 0o755);
    chmodSync(join(root, 'root'), 0o700);
    chmodSync(join(root, 'tmp'), 0o1777);
    return root;
  }

  it('takes a root directory whose files belong to the mapped ids already', async () => {
    const root = makeDirectory();
    for (const name of ['', 'tmp', 'data']) chownSync(join(root, name), userBase, groupBase);
    const { output } = await pod.run('owned', specOf('stat -c "%n %u" /data /bin; touch /data/new'), { rootfs: { kind: 'directory', path: root } });
    assert.equal(output, '/data 0\n/bin 65534\n');
    assert.deepEqual(ownerOf(join(root, 'data/new')), [userBase, groupBase]);
  });

  it('executes further processes inside, as root and as a user, with the same rights and not more', async () => {
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const { pid, input } = await pod.start('main', specOf('sleep 600'), { rootfs });
    const first = await pod.exec(
      'exec-1',
      input,
      pid,
      sh('id -u; echo again > /dev/stdout; cat /proc/self/uid_map; grep CapEff /proc/self/status; ps | grep -c "[s]leep"; touch /data/exec'),
    );
    const own = readFileSync(`/proc/${pid}/status`, 'utf8').match(/CapEff:.*/)?.[0];
    assert.equal(first.text, `0\nagain\n         0     200000      65536\n${own}\n1\n`, first.stderr.toString());
    assert.deepEqual(ownerOf(join(rootfs.path, 'data/exec')), [0, 0]); // mapped back by the mount
    const second = await pod.exec('exec-2', input, pid, sh('id -u; id -G; echo again > /dev/stdout; readlink /proc/self/ns/user'), {
      user: { uid: 1000, gid: 1001, additionalGids: [2002] },
    });
    assert.equal(second.text, `1000\n1001 2002\nagain\n${readlinkSync(`/proc/${pid}/ns/user`)}\n`);
    await pod.shim.signalProcess('main', 9);
  });

  it('has a terminal of its own', async () => {
    const { output, waitStatus } = await pod.run(
      'tty',
      specOf('tty; stat -c "%u %t:%T" /dev/console; stat -c %u /dev/pts/0; echo here > /dev/tty', { process: { terminal: true, user: { uid: 1000, gid: 1001 } } }),
      { rootfs: { kind: 'directory', path: makeDirectory(), mapOwners: true } },
    );
    assert.equal(output.replaceAll('\r', ''), '/dev/pts/0\n1000 88:0\n1000\nhere\n');
    assert.equal(waitStatus, 0);
  });

  it('sees the owners of a volume mapped where it asks for that, and foreign ones where it does not', async () => {
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const volume = join(environment.directory, 'volume');
    mkdirSync(volume);
    writeFileSync(join(volume, 'file'), 'x');
    chownSync(join(volume, 'file'), 1000, 1001);
    const bind = (destination: string, options: readonly string[], more: Readonly<Record<string, unknown>> = {}): unknown => ({
      destination,
      type: 'bind',
      source: volume,
      options: ['bind', ...options],
      ...more,
    });
    const mounts = [
      bind('/plain', []),
      bind('/mapped', ['idmap']),
      bind('/tree', ['rbind', 'ridmap', 'ro']),
      // 1000 on disk is user 5 inside.
      bind('/own', [], { uidMappings: [range(userBase + 5, 1, 1000)], gidMappings: [range(groupBase + 6, 1, 1001)] }),
      { destination: '/memory', type: 'tmpfs', source: 'tmpfs', options: ['size=64k', 'mode=755'] },
    ];
    const script = `stat -c '%n %u:%g' /plain/file /mapped/file /tree/file /own/file /memory; echo y > /mapped/made; touch /plain/no /tree/no 2>&1 | grep -c -E "denied|Read-only"; touch /memory/made; stat -c %u /memory/made`;
    const { output } = await pod.run('volumes', specOf(script, { mounts }), { rootfs });
    assert.equal(output, '/plain/file 65534:65534\n/mapped/file 1000:1001\n/tree/file 1000:1001\n/own/file 5:6\n/memory 0:0\n2\n0\n');
    assert.deepEqual(ownerOf(join(volume, 'made')), [0, 0]);
    assert.ok(!existsSync(join(volume, 'no')));
  });

  it("fills volumes of the engine's own from its image, with the numbers of the image on disk", async () => {
    const rootfs = makeStore();
    const directory = join(environment.directory, 'filled');
    mkdirSync(directory);
    const named = (destination: string, source: string): unknown => ({ destination, type: 'bind', source, options: ['bind', 'rprivate', 'rw'] });
    const volumes = {
      disk: { kind: 'directory', path: directory, bytesMax: 1 << 20, origin: 'disk' },
      memory: { kind: 'memory', bytesMax: 1 << 20, origin: 'memory' },
      image: { kind: 'layers', storeDir: rootfs.storeDir, lower: ['l2', 'l1'], mapLower: true, subPath: 'data', mountpoint: join(rootfs.storeDir, 'm'), origin: 'image' },
    } as const;
    // The owner of an unmapped file cannot be copied: it is nobody in particular.
    chownSync(join(rootfs.storeDir, 'l1/data/far'), 33, 34);
    const { output } = await pod.run(
      'filled',
      specOf('stat -c "%n %u:%g" /data/web /data/far /etc/passwd /image/web; cat /image/web; touch /data/new /etc/new; touch /image/no 2>&1 | grep -c Read-only', {
        mounts: [named('/data', 'disk'), named('/etc', 'memory'), named('/image', 'image')],
      }),
      { rootfs, volumes },
    );
    assert.equal(output, '/data/web 1000:1001\n/data/far 33:34\n/etc/passwd 0:0\n/image/web 1000:1001\nof the web user\n1\n');
    assert.deepEqual(
      [ownerOf(join(directory, 'web')), ownerOf(join(directory, 'new'))],
      [
        [1000, 1001],
        [0, 0],
      ],
    );
  });

  it('maps a volume for a container that has no user namespace', async () => {
    const volume = join(environment.directory, 'shifted-volume');
    mkdirSync(volume);
    chownSync(volume, userBase, groupBase);
    const spec = makeSpec(environment.host, {
      args: sh('stat -c %u:%g /v; touch /v/new'),
      mounts: [{ destination: '/v', type: 'bind', source: volume, options: ['bind'], uidMappings: [range(0, count, userBase)], gidMappings: [range(0, count, groupBase)] }],
    });
    assert.equal((await pod.run('unmapped', spec)).output, '0:0\n');
    assert.deepEqual(ownerOf(join(volume, 'new')), [userBase, groupBase]);
  });

  it('gets devices of the document with their owners, masks, read-only paths and a read-only root', async () => {
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const script = `stat -c '%n %t:%T %a %u:%g' /dev/null /dev/own /dev/pipe; wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /data/x 2>&1 | grep -o 'Read-only.*'
      echo x > /dev/null && head -c 5 /dev/zero | wc -c; head -c 2 /dev/own | wc -c; readlink /dev/fd; (echo 1 > /proc/sys/kernel/hostname) 2>&1 | grep -c Read-only`;
    const devices = [
      { type: 'c', path: '/dev/own', major: 1, minor: 5, fileMode: 0o640, uid: 5, gid: 6 },
      { type: 'p', path: '/dev/pipe', fileMode: 0o600, uid: 7, gid: 8 },
    ];
    const resources = { devices: [{ allow: true, type: 'c', major: 1, minor: 5, access: 'rwm' }] };
    const { output } = await pod.run('devices', specOf(script, { linux: { devices, resources }, root: { readonly: true } }), { rootfs });
    assert.equal(output, '/dev/null 1:3 666 0:0\n/dev/own 1:5 640 5:6\n/dev/pipe 0:0 600 7:8\n0\n0\nRead-only file system\n5\n2\n/proc/self/fd\n1\n');
  });

  it('shares the namespaces of a pod that has a user namespace', async () => {
    await using shared = await environment.makePod({ userMappings: mappings, sysctls: { 'net.ipv4.ip_unprivileged_port_start': '1024', 'kernel.shm_rmid_forced': '1' } });
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const { pid } = await shared.start('one', specOf('echo from one > /dev/shm/note; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; sleep 600'), { rootfs });
    const log = join(shared.logDirectory, 'one.log');
    await until(() => readFileSync(log, 'utf8').split('\n').length > 2);
    assert.match(readFileSync(log, 'utf8'), /testpod\n.* 1024\n/);
    const script = `cat /dev/shm/note; stat -c %u:%g /dev/shm /dev/shm/note; readlink /proc/self/ns/user; readlink /proc/self/ns/net; cat /proc/sys/kernel/shm_rmid_forced; busybox ip link set lo up && echo up; mount -t tmpfs x /srv 2>&1 | grep -c denied`;
    const { output } = await shared.run('two', specOf(script, { capabilities: [...defaultCapabilities, 'CAP_NET_ADMIN'] }), { rootfs });
    const own = (kind: string): string => readlinkSync(`/proc/${pid}/ns/${kind}`);
    assert.equal(output, `from one\n0:0\n0:0\n${own('user')}\n${own('net')}\n1\nup\n1\n`);
    await shared.shim.signalProcess('one', 9);
  });

  it('shares the PID namespace of such a pod, where the pause process is out of reach', async () => {
    await using shared = await environment.makePod({ userMappings: mappings, sharePid: true });
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const { output } = await shared.run(
      'inside',
      specOf('test $$ -gt 1 && echo not init; ls /proc/1/root/ 2>&1 | grep -c denied; kill -0 1 2>&1 | grep -c permitted; ls /proc/self/fd | wc -l', {
        capabilities: [...defaultCapabilities, 'CAP_SYS_PTRACE'],
      }),
      { rootfs },
    );
    assert.equal(output, 'not init\n1\n1\n4\n');
  });

  it("shows the network's own parameters where the network is the host's", async () => {
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const namespaces = allNamespaces.filter(({ type }) => type !== 'network');
    const { output } = await pod.run('host-network', specOf('ls /sys/class/net | grep -c "^lo$"; readlink /proc/self/ns/net', { namespaces }), { rootfs });
    assert.equal(output, `1\n${readlinkSync('/proc/self/ns/net')}\n`);
  });

  it('reads layers that speak by user attributes', async () => {
    const rootfs = makeStore();
    mkdirSync(join(rootfs.storeDir, 'l2/data'));
    writeFileSync(join(rootfs.storeDir, 'l2/data/only'), 'x');
    setUserXattr(join(rootfs.storeDir, 'l2/data'), 'user.overlay.opaque', 'y');
    const { output } = await pod.run('user-attributes', specOf('ls /data; rmdir /srv/web; ls /srv'), { rootfs: { ...rootfs, userAttributes: true } });
    assert.equal(output, 'only\n');
    assert.ok(statSync(join(rootfs.storeDir, 'u/srv/web')).isCharacterDevice());
  });

  it('makes the maps of many ranges, and says which part of a plan failed', async () => {
    const rootfs: RootfsSource = { kind: 'directory', path: makeDirectory(), mapOwners: true };
    const uidMappings = Array.from({ length: 100 }, (_, index) => range(userBase + index * 100, 10, index * 10));
    const script = 'wc -l < /proc/self/uid_map; stat -c %u /bin; readlink /proc/self/ns/time';
    const { output } = await pod.run('ranges', specOf(script, { namespaces: [...allNamespaces, { type: 'time' }], linux: { uidMappings } }), { rootfs });
    const own = /^100\n0\n(time:\[\d+\])\n$/.exec(output)?.[1];
    assert.ok(own !== undefined && own !== readlinkSync('/proc/self/ns/time'), output);
    await assert.rejects(
      pod.start('bad', specOf('true', { mounts: [{ destination: '/v', type: 'bind', source: '/nowhere', options: ['bind', 'idmap'] }] }), { rootfs }),
      /clone the mount at \/nowhere.*ENOENT/,
    );
  });
});
