/** Security contexts through the CRI door: identities, capabilities, paths, seccomp, namespaces, parameters of the kernel. Needs root and busybox-static. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { status as grpcStatus } from '@grpc/grpc-js';
import { NamespaceMode, RuntimeService, SecurityProfile_ProfileType as ProfileType, SupplementalGroupsPolicy } from '#gen/cri-v1_pb.js';
import { busybox, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';
import { Layout, tarOf } from './image-host.ts';

const { method } = RuntimeService;
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
const linux = (securityContext: object): object => ({ linux: { securityContext } });
const named = 'localhost/named:1';

describe('security contexts over CRI', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => {
    cri = await CriHost.open();
    const suid = `${cri.host.directory}/effective-id`;
    execFileSync('musl-gcc', ['-static', '-x', 'c', '-', '-o', suid], { input: '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d\\n", (int)geteuid()); }\n' });
    const layout = new Layout(cri.host.scratch('layout'));
    const files = `mkdir -p etc bin tmp; chmod 1777 tmp; printf 'root:x:0:0::/root:/bin/sh\\nweb:x:1000:1001::/srv:/bin/sh\\n' > etc/passwd
      printf 'root:x:0:\\nweb:x:1001:\\nextra:x:50000:web\\n' > etc/group; cp ${busybox} bin/busybox; for tool in sh id cat ls ping stat touch readlink grep sleep chmod hostname head; do cp bin/busybox bin/$tool; done; cp ${suid} bin/suid; chmod 4755 bin/suid`;
    layout.add(layout.manifest({ layers: [tarOf(files)] }), named);
    await cri.host.ok(['image', 'import', layout.dir]);
  });
  after(async () => {
    await cri[Symbol.asyncDispose]();
  });

  async function exec(containerId: string, script: string): Promise<string> {
    const { stdout, stderr } = await cri.call(method.execSync, { containerId, cmd: ['/bin/sh', '-c', script] });
    return `${text(stdout)}${text(stderr)}`;
  }

  /** What a container with this security context prints when the script is executed in it. */
  async function inside(script: string, container: object, pod: object = {}): Promise<string> {
    const { podSandboxId, containerId } = await cri.startContainer('', {
      pod: { ...pod },
      container: { image: { image: named }, command: ['/bin/sh', '-c', 'sleep 1000'], ...container },
    });
    const output = await exec(containerId, script);
    await cri.call(method.removePodSandbox, { podSandboxId });
    return output;
  }

  async function refused(container: object, pod: object = {}): Promise<{ readonly code: number; readonly message: string }> {
    const config = cri.podConfig({ ...pod });
    const { podSandboxId } = await cri.call(method.runPodSandbox, { config });
    const error: unknown = await cri.call(method.createContainer, { podSandboxId, config: cri.containerConfig('true', { ...container }), sandboxConfig: config }).then(
      () => undefined,
      (failure: unknown) => failure,
    );
    assert.ok(error instanceof Error && 'code' in error && 'details' in error, 'it was created');
    await cri.call(method.removePodSandbox, { podSandboxId });
    return { code: Number(error.code), message: String(error.details).replace(/^create container \S+ in pod \S+: /, '') };
  }

  it('users and groups come by number and by name, with the groups of the image or without; status and exec say the same', async () => {
    const cases: readonly (readonly [object, uid: bigint, gid: bigint, groups: readonly bigint[]])[] = [
      [{ runAsUser: { value: 1000n }, supplementalGroups: [1234n] }, 1000n, 1001n, [1001n, 1234n, 50000n]],
      [{ runAsUsername: 'web', runAsGroup: { value: 7n } }, 1000n, 7n, [7n, 50000n]],
      [{ runAsUser: { value: 1000n }, supplementalGroups: [1234n], supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict }, 1000n, 1001n, [1001n, 1234n]],
      [{ runAsUser: { value: 4_294_967_294n }, runAsGroup: { value: 5n } }, 4_294_967_294n, 5n, [5n]],
      [{}, 0n, 0n, [0n]],
    ];
    for (const [context, uid, gid, groups] of cases) {
      const { podSandboxId, containerId } = await cri.startContainer('', {
        // What the pod says of its own process is not its containers'.
        pod: { linux: { securityContext: { supplementalGroups: [99n] } } },
        container: { image: { image: named }, command: ['/bin/sh', '-c', 'id -u; id -g; id -G; sleep 1000'], ...linux(context) },
      });
      const { status } = await cri.call(method.containerStatus, { containerId });
      const user = status?.user?.linux;
      assert.deepEqual([user?.uid, user?.gid, user?.supplementalGroups], [uid, gid, groups]);
      const sorted = [gid, ...groups.filter((group) => group !== gid)].join(' ');
      assert.equal(await exec(containerId, 'id -u; id -g; id -G'), `${uid}\n${gid}\n${sorted}\n`);
      await cri.call(method.removePodSandbox, { podSandboxId });
    }
    assert.deepEqual(await refused(linux({ runAsGroup: { value: 1n } })), {
      code: grpcStatus.INVALID_ARGUMENT,
      message: 'config.linux.security_context.run_as_group: needs run_as_user or run_as_username',
    });
    assert.match((await refused(linux({ runAsUsername: 'nobody-here' }))).message, /user "nobody-here": not in \/etc\/passwd of the image/);
  });

  it('capabilities are added and dropped, all or some; ambient ones reach a user that is not root', async () => {
    const sets = 'grep Cap /proc/self/status';
    const mask = (output: string, name: string): bigint => BigInt(`0x${new RegExp(`${name}:\\s+([0-9a-f]+)`).exec(output)?.[1] ?? 'none'}`);
    const plain = await inside(sets, {});
    assert.equal(mask(plain, 'CapInh'), 0n);
    assert.equal(mask(plain, 'CapAmb'), 0n);
    assert.equal(mask(plain, 'CapEff'), mask(plain, 'CapBnd'));
    const changed = mask(await inside(sets, linux({ capabilities: { addCapabilities: ['NET_ADMIN'], dropCapabilities: ['CHOWN', 'NET_RAW'] } })), 'CapBnd');
    assert.equal(changed, (mask(plain, 'CapBnd') | (1n << 12n)) & ~1n & ~(1n << 13n));
    assert.equal(mask(await inside(sets, linux({ capabilities: { dropCapabilities: ['ALL'] } })), 'CapBnd'), 0n);
    assert.ok(mask(await inside(sets, linux({ capabilities: { addCapabilities: ['ALL'] } })), 'CapBnd') > mask(plain, 'CapBnd'));
    const user = { runAsUser: { value: 1000n }, capabilities: { addAmbientCapabilities: ['NET_BIND_SERVICE'], dropCapabilities: ['ALL'], addCapabilities: ['NET_BIND_SERVICE'] } };
    const ambient = await inside(sets, linux(user));
    assert.deepEqual(
      ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'].map((name) => mask(ambient, name)),
      [1n << 10n, 1n << 10n, 1n << 10n, 1n << 10n],
    );
    assert.match((await refused(linux({ capabilities: { addCapabilities: ['FLY'] } }))).message, /unknown capability "CAP_FLY"/);
  });

  it('a privileged container needs a privileged pod, and has then no filter, no masks and a writable sysfs', async () => {
    assert.deepEqual(await refused(linux({ privileged: true })), {
      code: grpcStatus.INVALID_ARGUMENT,
      message: 'config.linux.security_context.privileged: needs a privileged pod sandbox',
    });
    const context = { privileged: true, maskedPaths: ['/bin/ls'], readonlyPaths: ['/tmp'], seccomp: { profileType: ProfileType.RuntimeDefault } };
    const seen = await inside(
      'grep Seccomp: /proc/self/status; ls -d /bin/ls; touch /tmp/x && echo written; grep -c " /sys [^-]*ro," /proc/self/mountinfo',
      linux(context),
      linux({ privileged: true }),
    );
    assert.equal(seen, 'Seccomp:\t0\n/bin/ls\nwritten\n0\n');
  });

  it('the root is read-only where that is asked, the paths of the request are masked and read-only, and no others', async () => {
    assert.equal(
      await inside('touch /x /tmp/y 2>&1 | grep -c Read-only; echo > /dev/null && echo null', linux({ readonlyRootfs: true }), linux({ readonlyRootfs: true })),
      '2\nnull\n',
    );
    const paths = linux({ maskedPaths: ['/bin/ls', '/proc/keys', '/sys/firmware', '/not/there'], readonlyPaths: ['/tmp', '/proc/sys', '/not/there'] });
    const seen = await inside(
      '/bin/ls; touch /tmp/x; head -c 1 /proc/keys | grep -c .; stat -c %a /sys/firmware; echo 1 > /proc/sys/kernel/shm_rmid_forced; grep -cE " /proc/(asound|acpi|timer_list|scsi)" /proc/self/mountinfo',
      paths,
    );
    assert.match(seen, /\/bin\/ls: Permission denied/);
    assert.match(seen, /\/tmp\/x: Read-only file system/);
    assert.match(seen, /shm_rmid_forced: Read-only file system/);
    // Nothing of what is masked by default.
    assert.match(seen, /^0\n555\n0\n/m);
  });

  it('seccomp profiles of both fields are applied; the container decides, not the pod', async () => {
    const profile = `${cri.host.scratch('profiles')}/no-chmod.json`;
    writeFileSync(profile, JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['chmod', 'fchmodat', 'fchmodat2'], action: 'SCMP_ACT_ERRNO' }] }));
    const mode = 'grep Seccomp: /proc/self/status; chmod 700 /tmp';
    const of = (context: object): Promise<string> => inside(mode, linux(context), linux({ seccomp: { profileType: ProfileType.RuntimeDefault } }));
    assert.equal(await of({}), 'Seccomp:\t0\n');
    assert.equal(await of({ seccomp: { profileType: ProfileType.Unconfined } }), 'Seccomp:\t0\n');
    assert.equal(await of({ seccomp: { profileType: ProfileType.RuntimeDefault } }), 'Seccomp:\t2\n');
    assert.match(await of({ seccomp: { profileType: ProfileType.Localhost, localhostRef: profile } }), /^Seccomp:\t2\n.*Operation not permitted/);
    assert.match(await of({ seccompProfilePath: `localhost/${profile}` }), /^Seccomp:\t2\n.*Operation not permitted/);
    assert.equal(await of({ seccompProfilePath: 'runtime/default' }), 'Seccomp:\t2\n');
    assert.match(await of({ seccomp: { profileType: ProfileType.Unconfined }, seccompProfilePath: `localhost/${profile}` }), /^Seccomp:\t0\n$/);
    assert.match((await refused(linux({ seccomp: { profileType: ProfileType.Localhost, localhostRef: `${profile}.none` } }))).message, /read seccomp profile .*no-chmod.json.none/);
  });

  it('a set-user-id program gains nothing where new privileges are forbidden', async () => {
    const user = { runAsUser: { value: 1000n } };
    assert.equal(await inside('/bin/suid; grep NoNewPrivs /proc/self/status', linux({ ...user, noNewPrivs: true })), '1000\nNoNewPrivs:\t1\n');
    assert.equal(await inside('/bin/suid; grep NoNewPrivs /proc/self/status', linux(user)), '0\nNoNewPrivs:\t0\n');
  });

  it("namespaces are the pod's, a container's own, another container's or the node's", async () => {
    const own = (kind: string): string => readlinkSync(`/proc/self/ns/${kind}`);
    const { NODE, CONTAINER, TARGET, POD } = NamespaceMode;
    const namespaceOptions = { network: NODE, pid: NODE, ipc: NODE };
    const look = 'for kind in net pid ipc uts; do readlink /proc/self/ns/$kind; done';
    assert.equal(await inside(look, linux({ namespaceOptions }), linux({ namespaceOptions })), ['net', 'pid', 'ipc', 'uts'].map((kind) => `${own(kind)}\n`).join(''));
    const pod = await cri.startContainer('sleep 1000', { pod: linux({ namespaceOptions: { pid: CONTAINER } }), container: linux({ namespaceOptions: { pid: CONTAINER } }) });
    const add = async (name: string, options: object): Promise<string> => {
      const more = { metadata: { name, attempt: 0 }, image: { image: named }, command: ['/bin/sh', '-c', 'sleep 1000'], ...linux({ namespaceOptions: options }) };
      const { containerId } = await cri.call(method.createContainer, { podSandboxId: pod.podSandboxId, config: cri.containerConfig('', more), sandboxConfig: {} });
      await cri.call(method.startContainer, { containerId });
      return containerId;
    };
    const [alone, joined] = [await add('alone', { pid: CONTAINER }), await add('joined', { pid: TARGET, targetId: pod.containerId })];
    const namespaces = async (id: string): Promise<readonly string[]> => (await exec(id, look)).trim().split('\n');
    const [ofAlone, ofJoined] = [await namespaces(alone), await namespaces(joined)];
    assert.deepEqual([ofAlone[0], ofAlone[2], ofAlone[3]], [ofJoined[0], ofJoined[2], ofJoined[3]]);
    assert.notEqual(ofAlone[1], ofJoined[1]);
    assert.match(await exec(joined, 'cat /proc/1/cmdline'), /sleep.1000/);
    assert.ok(![...ofAlone, ...ofJoined].some((name) => ['net', 'pid', 'ipc', 'uts'].map(own).includes(name)));
    assert.deepEqual(await refused(linux({ namespaceOptions: { pid: TARGET, targetId: 'f'.repeat(64) } }), linux({ namespaceOptions: { pid: POD } })), {
      code: grpcStatus.NOT_FOUND,
      message: `container "${'f'.repeat(64)}": container does not exist`,
    });
    await cri.call(method.removePodSandbox, { podSandboxId: pod.podSandboxId });
  });

  it("parameters of the kernel belong to the pod's namespaces; those of the host, and tricks with separators, are refused", async () => {
    const sysctls = { 'kernel.shm_rmid_forced': '1', 'fs.mqueue.msg_max': '100', 'net.ipv4.ip_local_port_range': '2000 3000', 'net.ipv4.conf.lo.forwarding': '1' };
    const seen = await inside(
      'cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/conf/lo/forwarding',
      {},
      { linux: { sysctls } },
    );
    assert.equal(seen, '1\n100\n2000\t3000\n1\n');
    const before = readFileSync('/proc/sys/kernel/core_pattern', 'utf8');
    const network = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
    const bad: readonly (readonly [object, RegExp])[] = [
      [{ sysctls: { 'kernel.core_pattern': '|/evil' } }, /linux\.sysctls\["kernel\.core_pattern"\]: is no parameter of a namespace/],
      [{ sysctls: { 'kernel.shm_rmid_forced': '1+kernel.core_pattern=|/evil\n' } }, /the value must be one line/],
      [{ sysctls: { 'net.ipv4.x/../../kernel/core_pattern': '1' } }, /must be words of letters/],
      [{ sysctls: { 'net//ipv4': '1' } }, /must be words of letters/],
      [{ ...network, sysctls: { 'net.core.somaxconn': '10' } }, /needs an own net namespace, the container uses the host's/],
      [{ securityContext: { namespaceOptions: { ipc: NamespaceMode.NODE } }, sysctls: { 'kernel.shmmax': '10' } }, /needs an own ipc namespace/],
    ];
    for (const [more, message] of bad)
      await assert.rejects(cri.call(method.runPodSandbox, { config: cri.podConfig({ linux: more }) }), (error) => {
        assert.ok(error instanceof Error && 'code' in error);
        assert.match(error.message, message);
        assert.equal(error.code, grpcStatus.INVALID_ARGUMENT);
        return true;
      });
    assert.equal(readFileSync('/proc/sys/kernel/core_pattern', 'utf8'), before);
    assert.deepEqual((await cri.call(method.listPodSandbox, {})).items, []);
  });

  const hasApparmor = existsSync('/sys/module/apparmor/parameters/enabled') && readFileSync('/sys/module/apparmor/parameters/enabled', 'utf8').startsWith('Y');

  it('profiles of AppArmor and labels of SELinux are refused where the kernel has none, the defaults pass', async () => {
    const localhost = { apparmor: { profileType: ProfileType.Localhost, localhostRef: 'localhost/not-loaded' } };
    const answer = await refused(linux(localhost));
    assert.deepEqual(answer, {
      code: grpcStatus.FAILED_PRECONDITION,
      message: `config.linux.security_context.apparmor: ${hasApparmor ? 'profile "not-loaded" is not loaded in the kernel' : 'AppArmor is not enabled on this node'}`,
    });
    assert.equal((await refused(linux({ apparmorProfile: 'localhost/not-loaded' }))).message, answer.message);
    for (const profileType of [ProfileType.RuntimeDefault, ProfileType.Unconfined]) assert.equal(await inside('id -u', linux({ apparmor: { profileType } })), '0\n');
    if (existsSync('/sys/fs/selinux/enforce')) return;
    const lacking = { code: grpcStatus.FAILED_PRECONDITION, message: 'config.linux.security_context.selinux_options: SELinux is not enabled on this node' };
    assert.deepEqual(await refused(linux({ selinuxOptions: { level: 's0:c1,c2' } })), lacking);
    await assert.rejects(cri.call(method.runPodSandbox, { config: cri.podConfig(linux({ selinuxOptions: { type: 'container_t' } })) }), {
      code: lacking.code,
      details: lacking.message,
    });
    assert.equal(await inside('id -u', linux({ selinuxOptions: {} })), '0\n');
  });

  it('ipc with the node shows its shared memory, a pod of its own does not', async () => {
    const id = /id: (\d+)/.exec(execFileSync('ipcmk', ['-M', '4096'], { encoding: 'utf8' }))?.[1] ?? '';
    try {
      const segments = 'cat /proc/sysvipc/shm';
      const namespaceOptions = { ipc: NamespaceMode.NODE };
      assert.match(await inside(segments, linux({ namespaceOptions }), linux({ namespaceOptions })), new RegExp(`^ *-?\\d+ +${id} `, 'm'));
      assert.doesNotMatch(await inside(segments, {}), new RegExp(`^ *-?\\d+ +${id} `, 'm'));
    } finally {
      execFileSync('ipcrm', ['-m', id]);
    }
  });
});
