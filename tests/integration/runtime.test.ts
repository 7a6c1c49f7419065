/** The runtime against the real kernel: what a container sees, and what the host does not. Needs root, busybox-static and the helper. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { decodeResources } from '#oci';
import { capabilityNames, defaultCapabilities, defaultMounts, planExec } from '#runtime';
import { type RuntimeHost, type TestPod, hostCommand, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const skip = skipReason();
const sh = (script: string): readonly string[] => ['/bin/sh', '-c', script];
const mountsBelow = (directory: string): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${directory}`));

/** Repeats until the predicate holds; the test fails by its own assertion afterwards. */
async function until(predicate: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 100 && !predicate(); attempt += 1) await sleep(20);
}

describe('the runtime', { skip }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  /** A shared mount, as a node's volumes are on; made here so that the test does not depend on the host's. */
  let shared: string;
  before(async () => {
    environment = await startRuntimeHost();
    shared = join(environment.directory, 'shared');
    mkdirSync(shared);
    hostCommand('mount', '-t', 'tmpfs', 'berth-test', shared);
    hostCommand('mount', '--make-shared', shared);
    pod = await environment.makePod({ sysctls: { 'net.ipv4.ip_unprivileged_port_start': '80', 'kernel.shm_rmid_forced': '1' } });
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    hostCommand('umount', '-R', shared);
    await environment?.[Symbol.asyncDispose]();
  });

  /** Layers of an overlay in a store directory of its own. */
  function makeStore(): {
    readonly kind: 'overlay';
    readonly storeDir: string;
    readonly lower: readonly string[];
    readonly upper: string;
    readonly work: string;
    readonly mountpoint: string;
  } {
    const storeDir = mkdtempSync(join(environment.directory, 'store-'));
    for (const name of ['l1', 'l2', 'u', 'w', 'm']) mkdirSync(join(storeDir, name));
    writeRoot(join(storeDir, 'l1'));
    writeFileSync(join(storeDir, 'l2/top'), 'from the upper layer\n');
    return { kind: 'overlay', storeDir, lower: ['l2', 'l1'], upper: 'u', work: 'w', mountpoint: join(storeDir, 'm') };
  }

  it("runs a process as the init of its own PID namespace, with the pod's hostname", async () => {
    const { output, waitStatus } = await pod.run('hello', makeSpec(environment.host, { args: sh('echo pid $$; hostname; exit 3') }));
    assert.equal(output, 'pid 1\ntestpod\n');
    assert.equal(waitStatus, 3 << 8);
  });

  it('shows only what a container should see: mounts, descriptors, devices, links', async () => {
    const spec = makeSpec(environment.host, {
      args: sh(
        'ls /proc/self/fd | tr "\\n" " "; echo; ls -l /dev/null /dev/fd /dev/ptmx | wc -l; cat /proc/mounts | grep -c " / "; readlink /dev/ptmx; ls /dev/pts; df /dev/shm | grep -c 1024',
      ),
    });
    const { output } = await pod.run('view', spec);
    assert.equal(output, '0 1 2 3 \n3\n1\npts/ptmx\nptmx\n1\n');
  });

  it("mounts the overlay in the container's namespace only", async () => {
    const rootfs = makeStore();
    const { pid } = await pod.start('overlay', makeSpec(environment.host, { args: sh('cat /top; echo new > /written; sleep 60') }), { rootfs });
    await until(() => existsSync(join(rootfs.storeDir, 'u/written')));
    assert.match(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'), / \/ \/ .* overlay /);
    assert.deepEqual(mountsBelow(rootfs.storeDir), []);
    assert.equal(readFileSync(join(rootfs.storeDir, 'u/written'), 'utf8'), 'new\n');
    await pod.shim.signalProcess('overlay', 9);
  });

  it('propagates mounts by the three kinds of propagation, and by those only', async () => {
    for (const name of ['both', 'fromhost', 'none']) mkdirSync(join(shared, name));
    const bind = (name: string, propagation: string): unknown => ({ destination: `/${name}`, type: 'bind', source: join(shared, name), options: ['rbind', propagation] });
    const spec = makeSpec(environment.host, {
      args: sh('for d in both fromhost none; do mkdir /$d/inner; mount -t tmpfs inner /$d/inner; done; sleep 60'),
      linux: { seccomp: undefined },
      capabilities: [...defaultCapabilities, 'CAP_SYS_ADMIN'],
      mounts: [bind('both', 'rshared'), bind('fromhost', 'rslave'), bind('none', 'rprivate')],
    });
    const { pid } = await pod.start('propagation', spec);
    const inContainer = (path: string): boolean => readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(` ${path} `);
    await until(() => inContainer('/none/inner'));
    assert.deepEqual(
      ['both', 'fromhost', 'none'].map((name) => mountsBelow(join(shared, name, 'inner')).length),
      [1, 0, 0],
    );
    for (const name of ['both', 'fromhost', 'none']) {
      mkdirSync(join(shared, name, 'outer'));
      hostCommand('mount', '-t', 'tmpfs', 'outer', join(shared, name, 'outer'));
    }
    assert.deepEqual(
      ['both', 'fromhost', 'none'].map((name) => inContainer(`/${name}/outer`)),
      [true, true, false],
    );
    await pod.shim.signalProcess('propagation', 9);
  });

  it('masks and protects the paths of the default document', async () => {
    const script = 'wc -c < /proc/keys; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/printk) 2>&1 | grep -o "Read-only.*"; touch /sys/x 2>&1 | grep -o "Read-only.*"';
    const { output } = await pod.run('masked', makeSpec(environment.host, { args: sh(script) }));
    assert.equal(output, '0\n0\nRead-only file system\nRead-only file system\n');
  });

  it('gives exactly the capabilities, no new privileges and a seccomp filter', async () => {
    const { output } = await pod.run('caps', makeSpec(environment.host, { args: sh('grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status; unshare -m true 2>&1') }));
    assert.equal(
      output,
      [
        'CapInh:\t0000000000000000',
        'CapPrm:\t00000000a80425fb',
        'CapEff:\t00000000a80425fb',
        'CapBnd:\t00000000a80425fb',
        'CapAmb:\t0000000000000000',
        'NoNewPrivs:\t1',
        'Seccomp:\t2',
        'unshare: unshare(0x20000): Operation not permitted',
        '',
      ].join('\n'),
    );
  });

  it('installs the filter also where new privileges are allowed', async () => {
    const { output } = await pod.run(
      'privs',
      makeSpec(environment.host, { args: sh('grep -E "^(NoNewPrivs|Seccomp:)" /proc/self/status'), process: { noNewPrivileges: false, user: { uid: 1000, gid: 1001 } } }),
    );
    assert.equal(output, 'NoNewPrivs:\t0\nSeccomp:\t2\n');
  });

  it('looks users up inside the root', async () => {
    const { output } = await pod.run('user', makeSpec(environment.host, { args: sh('id; echo $HOME; echo hello > /dev/stdout') }), { askIdentity: true });
    assert.equal(output, 'uid=1000(web) gid=1001(web) groups=1001(web),2002(extra)\n/srv/web\nhello\n');
  });

  it('is not held up by identity files that are no files, and says who is unknown', async () => {
    for (const [index, spoil] of [
      (path: string) => void hostCommand('mkfifo', path),
      (path: string) => writeFileSync(path, Buffer.alloc((1 << 20) + 1)),
      (path: string) => symlinkSync('/proc/self/fd/0', path),
      (path: string) => mkdirSync(path),
    ].entries()) {
      const rootfs = makeStore();
      unlinkSync(join(rootfs.storeDir, 'l1/etc/passwd'));
      spoil(join(rootfs.storeDir, 'l1/etc/passwd'));
      await assert.rejects(pod.run(`identity${index}`, makeSpec(environment.host, { args: ['/bin/true'] }), { rootfs, askIdentity: true }), {
        code: 'invalidArgument',
        message: /user "web": not in \/etc\/passwd of the image/,
      });
    }
  });

  it('enters a working directory behind a link of the image, and makes a missing one', async () => {
    const rootfs = makeStore();
    symlinkSync('/srv/web', join(rootfs.storeDir, 'l1/link'));
    assert.equal((await pod.run('linkdir', makeSpec(environment.host, { args: ['/bin/pwd', '-P'], process: { cwd: '/link' } }), { rootfs })).output, '/srv/web\n');
    assert.equal((await pod.run('newdir', makeSpec(environment.host, { args: ['/bin/pwd', '-P'], process: { cwd: '/link/new' } }), { rootfs })).output, '/srv/web/new\n');
  });

  it('sets rlimits, umask, sysctls, score and working directory', async () => {
    const spec = makeSpec(environment.host, {
      args: sh('ulimit -n; umask; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/self/oom_score_adj; pwd'),
      process: { cwd: '/made/here', rlimits: [{ type: 'RLIMIT_NOFILE', soft: 100, hard: 200 }], user: { uid: 0, gid: 0, umask: 0o27 }, oomScoreAdj: 500 },
    });
    assert.equal((await pod.run('settings', spec)).output, '100\n0027\n80\n1\n500\n/made/here\n');
  });

  it('limits memory, processes and cpu, and tells an OOM kill', async () => {
    const resources = {
      memory: { limit: 32 << 20, ...(environment.host.cgroups.swapLimit ? { swap: 32 << 20 } : {}) },
      pids: { limit: 20 },
      cpu: { shares: 512, quota: 20000, period: 100000 },
    };
    const { output, waitStatus, oom } = await pod.run(
      'oom',
      makeSpec(environment.host, {
        args: sh(
          'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; exec dd if=/dev/zero of=/dev/null bs=200M',
        ),
        linux: { resources },
      }),
    );
    assert.match(output, /^33554432\n20\n20000( 100000)?\n$/);
    assert.equal(waitStatus, 9);
    assert.equal(oom, true);
  });

  it('holds containers to the limits of their pod', async () => {
    await using other = await environment.makePod({
      resources: decodeResources({ memory: { limit: 32 << 20, ...(environment.host.cgroups.swapLimit ? { swap: 32 << 20 } : {}) } }, ''),
    });
    const { waitStatus, oom } = await other.run('greedy', makeSpec(environment.host, { args: ['/bin/dd', 'if=/dev/zero', 'of=/dev/null', 'bs=200M'] }));
    assert.deepEqual([waitStatus, oom], [9, true]);
  });

  it('denies devices that the document does not allow', async () => {
    const spec = makeSpec(environment.host, { args: sh('mknod /dev/log2 c 1 11 && (cat < /dev/log2) 2>&1 | head -1; echo x > /dev/null && echo fine') });
    assert.equal((await pod.run('devices', spec)).output, "/bin/sh: can't open /dev/log2: Operation not permitted\nfine\n");
  });

  it('opens everything to a privileged container that the runtime itself has', async () => {
    const all = BigInt(`0x${/CapPrm:\t(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`)
      .toString(16)
      .padStart(16, '0');
    const spec = makeSpec(environment.host, {
      args: sh(
        'mknod /dev/log2 c 1 11 && dd if=/dev/log2 of=/dev/null bs=8192 count=1 2>/dev/null && echo read; grep -E "^(CapEff|Seccomp:)" /proc/self/status; mount -t tmpfs x /tmp && echo mounted',
      ),
      capabilities: capabilityNames,
      process: { noNewPrivileges: false },
      linux: { seccomp: undefined, maskedPaths: [], readonlyPaths: [], resources: { devices: [{ allow: true, access: 'rwm' }] } },
    });
    assert.equal((await pod.run('privileged', spec)).output, `read\nCapEff:\t${all}\nSeccomp:\t0\nmounted\n`);
  });

  it("executes further processes with the container's limits, user and view", async () => {
    const { pid, input } = await pod.start('execs', makeSpec(environment.host, { args: ['/bin/sleep', '60'] }));
    const { text, waitStatus } = await pod.exec('e1', input, pid, sh('echo $PPID; ls /proc | grep -c "^[0-9]"; grep -E "^(CapEff|Seccomp:)" /proc/self/status; hostname; exit 4'));
    assert.match(text, /^0\n[2-5]\nCapEff:\t00000000a80425fb\nSeccomp:\t2\ntestpod\n$/);
    assert.equal(waitStatus, 4 << 8);
    assert.equal(
      (await pod.exec('e2', input, pid, sh('id -u; cat /proc/self/cgroup | grep -c "pids\\|devices\\|::"'), { user: { uid: 1000, gid: 1001, additionalGids: [] } })).text.split(
        '\n',
      )[0],
      '1000',
    );
    await assert.rejects(pod.exec('e3', input, pid, ['/bin/missing']), { code: 'notFound', message: /execute \["\/bin\/missing"\].*ENOENT/ });
    const interactive = planExec({
      process: {
        ...input.spec.process!,
        args: sh('tty; stty size; ls -ln $(tty) | tr -s " " | head -c 50'),
        terminal: true,
        consoleSize: { width: 90, height: 30 },
        user: { uid: 1000, gid: 1001, additionalGids: [] },
      },
      spec: input.spec,
      initPid: pid,
      host: environment.host,
      cgroup: input.cgroup,
      startBarrier: true,
    });
    await pod.shim.createProcess({ processId: 'e4', plan: interactive, terminal: true, holdOutput: true });
    const attachment = await pod.shim.attach('e4', { stdin: false, stdout: true, stderr: false });
    let seen = '';
    attachment.onOutput = (_stream, bytes) => {
      seen += bytes.toString('utf8');
    };
    await pod.shim.startProcess('e4');
    await attachment.ended;
    attachment.close();
    assert.match(seen, /^\/dev\/pts\/0\r\n30 90\r\ncrw--w---- 1 1000 /);
    await pod.shim.signalProcess('execs', 9);
  });

  it('runs with a terminal of its own as /dev/console', async () => {
    const { output } = await pod.run('terminal', makeSpec(environment.host, { args: sh('tty; echo x > /dev/console'), process: { terminal: true } }));
    assert.equal(output.replaceAll('\r', ''), '/dev/pts/0\nx\n');
  });

  it('shares one /dev/shm among the containers of a pod, unseen by the host', async () => {
    await pod.run('writer', makeSpec(environment.host, { args: sh('echo shared > /dev/shm/file') }));
    assert.equal((await pod.run('reader', makeSpec(environment.host, { args: sh('cat /dev/shm/file') }))).output, 'shared\n');
    assert.deepEqual(
      mountsBelow(environment.directory).filter((line) => !line.includes(shared)),
      [],
    );
  });

  it('shares a PID namespace with a pause process that gives nothing away, even to tracers', async () => {
    await using other = await environment.makePod({ sharePid: true });
    const capabilities = [...defaultCapabilities, 'CAP_SYS_PTRACE'];
    const { output } = await other.run(
      'watch',
      makeSpec(environment.host, {
        args: sh('cat /proc/1/comm; ls -A /proc/1/root/ 2>&1 | wc -l; ls /proc/1/fd 2>&1 | wc -l; grep CapEff /proc/1/status; echo $(( $$ > 1 ))'),
        capabilities,
      }),
    );
    assert.match(output, /^berth-pause\n0\n0\nCapEff:\t0000000000000000\n1\n$/);
    // A filter that is installed early must still let the process move into the namespace.
    assert.equal(
      (await other.run('early', makeSpec(environment.host, { args: sh('grep Seccomp: /proc/self/status'), process: { noNewPrivileges: false } }))).output,
      'Seccomp:\t2\n',
    );
    const { pid, input } = await other.start('long', makeSpec(environment.host, { args: ['/bin/sleep', '60'], capabilities }));
    assert.match((await other.exec('x', input, pid, sh('ps | grep -c "[s]leep 60"'))).text, /^1\n$/);
    await other.shim.signalProcess('long', 9);
  });

  it('makes the root read-only, and binds writable into it', async () => {
    mkdirSync(join(environment.directory, 'volume'));
    writeFileSync(join(environment.directory, 'one-file'), 'content\n');
    const spec = makeSpec(environment.host, {
      args: sh('touch /x 2>&1 | grep -o "Read-only.*"; echo kept > /data/kept; (echo y > /etc/one) 2>&1 | grep -o "Read-only.*"; cat /etc/one'),
      root: { readonly: true },
      mounts: [
        { destination: '/data', type: 'bind', source: join(environment.directory, 'volume'), options: ['rbind', 'rw'] },
        { destination: '/etc/one', type: 'bind', source: join(environment.directory, 'one-file'), options: ['bind', 'ro'] },
      ],
    });
    assert.equal((await pod.run('readonly', spec)).output, 'Read-only file system\nRead-only file system\ncontent\n');
    assert.equal(readFileSync(join(environment.directory, 'volume/kept'), 'utf8'), 'kept\n');
    unlinkSync(join(environment.root, 'etc/one'));
  });

  it('mounts behind links of the root inside the root only', async () => {
    const host = mkdtempSync(join(environment.directory, 'victim-'));
    symlinkSync(host, join(environment.root, 'escape'));
    symlinkSync('../../../../../../../../..', join(environment.root, 'up'));
    const spec = makeSpec(environment.host, {
      args: sh('ls -d /escape/in /top-in'),
      mounts: [
        { destination: '/escape/in', type: 'tmpfs', source: 'tmpfs', options: [] },
        { destination: '/up/top-in', type: 'tmpfs', source: 'tmpfs', options: [] },
      ],
    });
    const { output } = await pod.run('links', spec);
    assert.equal(output, '/escape/in\n/top-in\n');
    assert.equal(existsSync(join(host, 'in')), false);
    unlinkSync(join(environment.root, 'escape'));
    unlinkSync(join(environment.root, 'up'));
    rmSync(join(environment.root, 'top-in'), { recursive: true });
  });

  it('refuses a /proc that is a link', async () => {
    const rootfs = makeStore();
    rmSync(join(rootfs.storeDir, 'l1/proc'), { recursive: true });
    symlinkSync('/data', join(rootfs.storeDir, 'l1/proc'));
    await assert.rejects(pod.run('proclink', makeSpec(environment.host, { args: ['/bin/true'] }), { rootfs }), {
      message: /^(create process proclink: )?\/mounts\/0: attach the mount .* \/proc .*ELOOP/,
    });
  });

  it('refuses a working directory that leads out by a descriptor', async () => {
    for (const fd of [3, 7]) {
      await assert.rejects(pod.run(`cwd${fd}`, makeSpec(environment.host, { args: ['/bin/true'], process: { cwd: `/proc/self/fd/${fd}` } })), {
        message: /\/process\/cwd: .*(ELOOP|ENOENT|EPERM|EACCES|ENOTDIR|EEXIST)/,
      });
    }
  });

  it('does not mask through links, and never takes a false null device', async () => {
    const victim = join(environment.directory, 'masked-victim');
    writeFileSync(victim, 'visible\n');
    const rootfs = makeStore();
    symlinkSync(victim, join(rootfs.storeDir, 'l1/data/secret'));
    const linked = makeSpec(environment.host, { args: ['/bin/cat', '/top'], linux: { maskedPaths: ['/data/secret'] } });
    assert.equal((await pod.run('masklink', linked, { rootfs })).output, 'from the upper layer\n');
    assert.equal(readFileSync(victim, 'utf8'), 'visible\n');
    // Without a /dev of its own the image's /dev/null is what there is; a link there must stop the container.
    const bare = makeStore();
    symlinkSync('/etc/passwd', join(bare.storeDir, 'l1/dev/null'));
    const spec = makeSpec(environment.host, { args: ['/bin/true'], linux: { maskedPaths: ['/etc/group'] } });
    await assert.rejects(pod.run('nulllink', { ...spec, mounts: spec.mounts.filter(({ destination }) => !destination.startsWith('/dev')) }, { rootfs: bare }), {
      message: /\/linux\/maskedPaths\/0: mask \/etc\/group: (EPERM|ELOOP)/,
    });
  });

  it("fails a bad start with the step's own words and leaves nothing", async () => {
    const spec = makeSpec(environment.host, { args: ['/bin/true'], mounts: [{ destination: '/x', type: 'bind', source: '/does/not/exist', options: ['bind'] }] });
    await assert.rejects(pod.run('missing', spec), { code: 'notFound', message: /\/mounts\/7: clone the mount at \/does\/not\/exist into slot \d+: ENOENT/ });
    await assert.rejects(
      pod.run('tmp', makeSpec(environment.host, { args: ['/bin/true'], mounts: [{ destination: '/x', type: 'tmpfs', source: 'x', options: ['nonsense=1'] }] })),
      { message: /\/mounts\/7: create a tmpfs.*nonsense/ },
    );
    assert.equal(defaultMounts.length, 7);
  });
});
