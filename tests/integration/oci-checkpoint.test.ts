/**
 * `checkpoint` and `restore`. In: containers of busybox; criu(8) where `criu check` likes the kernel (the guest's), and everywhere a script in its place, which shows what it is asked and what
 * becomes of its answers. Out: counters that go on counting, errors that name criu's own, nothing left behind.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { decodeMountInfo } from '#system';
import { OciHost, type OciResult, runtimePrograms, skipReason } from './oci-host.ts';

const checked = spawnSync('criu', ['check'], { encoding: 'utf8' });
const criuReason = skipReason() || (checked.status === 0 ? false : 'criu does not work here');
/** Counts in a file of its root, twice a second. */
const counter = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.5; done'];

/** A directory that comes first in PATH, with a script by the name of criu. */
function fakeCriu(host: OciHost, script: string): { readonly env: { readonly PATH: string }; readonly words: () => readonly string[] } {
  const folder = join(host.directory, `fake-${readdirSync(host.directory).length}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'criu'), `#!/bin/sh\n[ "$1" = check ] || printf '%s\\n' "$@" >${folder}/words\n${script}\n`);
  chmodSync(join(folder, 'criu'), 0o755);
  return { env: { PATH: `${folder}:${process.env['PATH']}` }, words: () => readFileSync(join(folder, 'words'), 'utf8').trimEnd().split('\n') };
}

const checkOk = '[ "$1" = check ] && exit 0';
/** The value behind a word. */
const behind = (words: readonly string[], word: string): string => words[words.indexOf(word) + 1] ?? '';
const allBehind = (words: readonly string[], word: string): readonly string[] => words.flatMap((one, index) => (words[index - 1] === word ? [one] : []));
const countOf = (bundle: string): number => (existsSync(`${bundle}/rootfs/count`) ? Number(readFileSync(`${bundle}/rootfs/count`, 'utf8')) : 0);

/** Options of the cgroup2 tree, which are the whole host's. */
const unifiedOptions = (): readonly string[] =>
  decodeMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).flatMap(({ type, root, superOptions }) => (type === 'cgroup2' && root === '/' ? [superOptions.join()] : []));

async function started(host: OciHost, bundle: string): Promise<string> {
  const id = await host.create(bundle);
  await host.ok(['start', id]);
  await host.until(() => countOf(bundle) > 1, 'it counts');
  return id;
}

function assertFailed({ status, stderr }: OciResult, text: RegExp): void {
  assert.equal(status, 1, stderr);
  assert.match(stderr, text);
}

describe('checkpoint and restore', { skip: skipReason() }, () => {
  test('where criu check fails both are refused in one sentence, with its last words', async () => {
    await using host = new OciHost();
    const bundle = host.makeBundle(counter);
    const id = await started(host, bundle);
    const { env } = fakeCriu(host, 'echo first; echo "Error (vdso.c:1): no such area" >&2; exit 1');
    const images = `${host.directory}/images`;
    assertFailed(
      await host.call(['checkpoint', '--image-path', images, id], { env }),
      /msg="checkpoint container: not possible on this host: criu check: Error \(vdso\.c:1\): no such area"\n$/,
    );
    assertFailed(
      await host.call(['restore', '--image-path', images, '--bundle', bundle, 'other'], { env }),
      /msg="restore container: not possible on this host: criu check: Error \(vdso\.c:1\): no such area"\n$/,
    );
    assertFailed(await host.call(['checkpoint', id], { env: { PATH: '/nowhere' } }), /criu check: exec: \\"criu\\": executable file not found in \$PATH/);
    assert.equal(existsSync(images), false);
    assert.equal((await host.state(id)).status, 'running');
  });

  test('criu is asked for what the document and the flags say, and its failure is told with the line and the file', async () => {
    await using host = new OciHost();
    const data = join(host.directory, 'data');
    mkdirSync(data);
    const bundle = host.makeBundle(counter, (document) => document.mounts.push({ destination: '/link/data', source: data, options: ['rbind'] }));
    mkdirSync(`${bundle}/rootfs/real`);
    symlinkSync('/real', `${bundle}/rootfs/link`);
    const id = await started(host, bundle);
    const { pid } = await host.state(id);
    const images = `${host.directory}/images`;
    const work = `${host.directory}/work`;
    const { env, words } = fakeCriu(host, `${checkOk}; printf '(0.1) Error (a.c:1): the reason\\n(0.2) Error (criu/cr-dump.c:2053): Dumping FAILED.\\n' >${work}/dump.log; exit 1`);
    // A log that is a link must not become a way to write elsewhere.
    mkdirSync(work);
    writeFileSync(`${host.directory}/precious`, 'kept');
    symlinkSync(`${host.directory}/precious`, `${work}/dump.log`);
    const flags = ['--tcp-established', '--ext-unix-sk', '--shell-job', '--file-locks', '--link-remap', '--leave-running', '--manage-cgroups-mode', 'strict'];
    const failed = await host.call(['checkpoint', '--image-path', images, '--work-path', work, ...flags, id], { env });
    assertFailed(failed, new RegExp(`checkpoint container: criu failed: Error \\(a\\.c:1\\): the reason; log file: ${work}/dump\\.log"\\n$`));
    assert.equal(readFileSync(`${host.directory}/precious`, 'utf8'), 'kept');
    const asked = words();
    assert.equal(asked[0], 'dump');
    assert.deepEqual(
      ['--tree', '--images-dir', '--work-dir', '--root'].map((word) => behind(asked, word)),
      [String(pid), images, work, `${bundle}/rootfs`],
    );
    for (const word of ['--tcp-established', '--ext-unix-sk', '--shell-job', '--file-locks', '--link-remap', '--leave-running', '--manage-cgroups=strict'])
      assert.ok(asked.includes(word), word);
    // The output of `create` is a file of the host here; /dev/null is the container's own.
    assert.match(allBehind(asked, '--external').join(' '), /^mnt\[\/real\/data\]:\/link\/data file\[[0-9a-f]+:[0-9a-f]+\]$/);
    assert.equal((await host.state(id)).status, 'running');
    assertFailed(await host.call(['checkpoint', '--image-path', images, '--parent-path', 'none', id], { env }), /invalid --parent-path: \\"none\\" is no directory/);
  });

  test('images with links, terminals and hooks that cannot be are refused before anything is made', async () => {
    await using host = new OciHost();
    const { env } = fakeCriu(host, `${checkOk}; exit 9`);
    const images = `${host.directory}/images`;
    mkdirSync(images);
    const restore = async (bundle: string): Promise<OciResult> => host.call(['restore', '--detach', '--image-path', images, '--bundle', bundle, 'other'], { env });
    const plain = host.makeBundle(counter);
    assertFailed(await host.call(['restore', '--image-path', `${images}/none`, '--bundle', plain, 'other'], { env }), /image directory .*none does not exist/);
    const hooked = host.makeBundle(counter, (document) => (document.hooks = { createRuntime: [{ path: '/bin/true' }] }));
    assertFailed(await restore(hooked), /restore container: hooks\.createRuntime: not possible/);
    const mapped = host.makeBundle(counter, (document) => {
      document.linux.namespaces.push({ type: 'user' });
      for (const field of ['uidMappings', 'gidMappings']) document.linux[field] = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    });
    assertFailed(await restore(mapped), /restore container: linux\.namespaces: a user namespace: criu 3\.17 cannot/);
    symlinkSync('/etc/passwd', `${images}/inventory.img`);
    assertFailed(await restore(plain), /image .*inventory\.img.* is a link/);
    assert.deepEqual(existsSync(host.stateRoot) ? readdirSync(host.stateRoot) : [], []);
  });

  test('what criu leaves behind is the caller’s child, waited for in the foreground; what it fails to make leaves nothing', async () => {
    await using host = new OciHost();
    const bundle = host.makeBundle(counter);
    const images = `${host.directory}/images`;
    mkdirSync(images);
    writeFileSync(`${images}/descriptors.json`, JSON.stringify(['/dev/null', 'pipe:[12]', 'file[1f:2a]', 'pipe:[77]']));
    const pidFile = 'while [ "$1" != --pidfile ]; do shift; done; file=$2';
    const made = fakeCriu(host, `${checkOk}; ${pidFile}; sh -c 'sleep 1; exit 7' </dev/null >/dev/null 2>&1 & echo $! >$file`);
    const ended = await host.call(['restore', '--image-path', images, '--bundle', bundle, 'one'], { env: made.env });
    assert.equal(ended.status, 7, ended.stderr);
    const asked = made.words();
    assert.equal(asked[0], 'restore');
    assert.deepEqual(allBehind(asked, '--inherit-fd'), ['fd[1]:pipe:[12]', 'fd[2]:file[1f:2a]']);
    assert.ok(asked.includes('--restore-detached') && behind(asked, '--cgroup-root').startsWith('/berth-oci-test/'));
    assert.deepEqual(readdirSync(host.stateRoot), []);
    const failing = fakeCriu(host, `${checkOk}; echo 'Error (b.c:2): broken' >${images}/restore.log; sleep 300 </dev/null >/dev/null 2>&1 & exit 3`);
    const failed = await host.call(['restore', '--detach', '--image-path', images, '--bundle', bundle, 'two'], { env: failing.env });
    assertFailed(failed, new RegExp(`restore container: criu failed: Error \\(b\\.c:2\\): broken; log file: ${images}/restore\\.log"\\n$`));
    assert.deepEqual([readdirSync(host.stateRoot), host.listCgroups()], [[], []]);
  });
});

describe('with the criu of this machine', { skip: criuReason }, () => {
  test('a counter goes on in a container with a new id, with its mounts, streams and rights, and can be joined', async () => {
    await using host = new OciHost();
    const data = join(host.directory, 'data');
    mkdirSync(data);
    const before = unifiedOptions();
    const bundle = host.makeBundle(counter, (document) => {
      document.mounts.push({ destination: '/data', source: data, options: ['rbind', 'ro'] });
      Object.assign(document.linux, { resources: { pids: { limit: 50 } } });
    });
    const id = await started(host, bundle);
    const images = `${host.directory}/images`;
    await host.ok(['checkpoint', '--image-path', images, '--leave-running', id]);
    assert.equal((await host.state(id)).status, 'running');
    const left = countOf(bundle);
    await host.until(() => countOf(bundle) > left, 'it counts on after it was written');
    await host.ok(['checkpoint', '--image-path', images, id]);
    assert.match(await host.fails(['state', id]), /container does not exist/);
    const counted = countOf(bundle);
    assert.ok(counted > left);
    assert.deepEqual(host.listCgroups(), []);
    const pidFile = `${host.directory}/pid`;
    const other = host.newId();
    const { stderr, status } = await host.call(['restore', '--detach', '--image-path', images, '--bundle', bundle, '--pid-file', pidFile, other]);
    assert.equal(status, 0, stderr);
    await host.until(() => countOf(bundle) > counted, 'it counts on where it stopped');
    assert.ok(countOf(bundle) < counted + 1000);
    const state = await host.state(other);
    assert.deepEqual([state.status, state.pid], ['running', Number(readFileSync(pidFile, 'utf8'))]);
    assert.match(readFileSync(`/proc/${state.pid}/status`, 'utf8'), /^NoNewPrivs:\s*1$/m);
    assert.notEqual(readlinkSync(`/proc/${state.pid}/ns/pid`), readlinkSync('/proc/self/ns/pid'));
    assert.match(readFileSync(`/proc/${state.pid}/cgroup`, 'utf8'), /berth-oci-test\/bundle/);
    assert.match(await host.ok(['exec', other, 'sh', '-c', 'touch /data/x 2>&1; cat /proc/1/comm']), /Read-only file system[\s\S]*\nsh\n/);
    await host.ok(['pause', other]);
    await host.ok(['resume', other]);
    assert.deepEqual(unifiedOptions(), before);
    await host.ok(['kill', other, 'KILL']);
    await host.untilStatus(other, 'stopped');
    await host.ok(['delete', other]);
    assert.deepEqual([readdirSync(host.stateRoot), host.listCgroups()], [[], []]);
  });

  test('in the foreground it ends with the exit code of the restored process; damaged images leave nothing', async () => {
    await using host = new OciHost();
    const bundle = host.makeBundle(['sh', '-c', 'i=0; while [ ! -e /end ]; do i=$((i+1)); echo $i > /count; sleep 0.5; done; exit 9']);
    const images = `${host.directory}/images`;
    const id = await started(host, bundle);
    await host.ok(['checkpoint', '--image-path', images, id]);
    writeFileSync(`${bundle}/rootfs/end`, '');
    const { status, stderr } = await host.call(['restore', '--image-path', images, '--bundle', bundle, id]);
    assert.equal(status, 9, stderr);
    writeFileSync(`${images}/inventory.img`, 'nothing');
    const failed = await host.call(['restore', '--detach', '--image-path', images, '--bundle', bundle, id]);
    assertFailed(failed, /restore container: criu failed: Error .*; log file: .*restore\.log"\n$/);
    assert.deepEqual([readdirSync(host.stateRoot), host.listCgroups()], [[], []]);
  });

  test('a namespace of others is joined again, memory is written in two steps, and a restored container is written again', async () => {
    await using host = new OciHost();
    const peer = spawn('unshare', ['-n', 'sleep', '1000'], { stdio: 'ignore' });
    try {
      const namespace = `/proc/${peer.pid}/ns/net`;
      await host.until(() => readlinkSync(namespace) !== readlinkSync('/proc/self/ns/net'), 'the peer has its namespace');
      const bundle = host.makeBundle(counter, (document) => {
        document.linux.namespaces = document.linux.namespaces.map(({ type }) => (type === 'network' ? { type, path: namespace } : { type }));
      });
      const [first, full, again] = [`${host.directory}/first`, `${host.directory}/full`, `${host.directory}/again`];
      const id = await started(host, bundle);
      await host.ok(['checkpoint', '--image-path', first, '--pre-dump', id]);
      await host.ok(['pause', id]);
      await host.ok(['checkpoint', '--image-path', full, '--parent-path', '../first', id]);
      const counted = countOf(bundle);
      await host.ok(['restore', '--detach', '--image-path', full, '--bundle', bundle, id]);
      await host.until(() => countOf(bundle) > counted, 'it counts on');
      const { pid } = await host.state(id);
      assert.equal(readlinkSync(`/proc/${pid}/ns/net`), readlinkSync(namespace));
      const [own, its] = (await host.ok(['exec', id, 'sh', '-c', 'readlink /proc/self/ns/time; readlink /proc/1/ns/time'])).trim().split('\n');
      assert.equal(own, its);
      await host.ok(['checkpoint', '--image-path', again, id]);
      const later = countOf(bundle);
      await host.ok(['restore', '--detach', '--image-path', again, '--bundle', bundle, id]);
      await host.until(() => countOf(bundle) > later, 'it counts on for the second time');
    } finally {
      peer.kill('SIGKILL');
    }
  });

  test('pipes are the new caller’s, filters and profiles are as they were', async () => {
    await using host = new OciHost();
    const profile = 'berth-oci-checkpoint';
    const hasProfiles = existsSync('/sys/kernel/security/apparmor/profiles');
    const change = (verb: string, text: string): void => void (hasProfiles && assert.equal(spawnSync('apparmor_parser', [verb], { input: text }).status, 0));
    change('-r', `profile ${profile} flags=(attach_disconnected,mediate_deleted) {\n file,\n capability,\n network,\n signal,\n ptrace,\n mount,\n umount,\n}\n`);
    // Node's own pipes are sockets.
    let calls = 0;
    const callWithPipes = async (args: readonly string[]): Promise<() => string> => {
      calls += 1;
      const [out, ended] = [`${host.directory}/piped${calls}`, `${host.directory}/status${calls}`];
      const script = '{ "$@"; echo $? >"$0.new"; mv "$0.new" "$0"; } 2>&1 </dev/null | cat >"$OUT"';
      spawn('sh', ['-c', script, ended, runtimePrograms.berth, '--root', host.stateRoot, ...args], {
        stdio: 'ignore',
        env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none', OUT: out },
      });
      await host.until(() => existsSync(ended), `${args[0]} has ended`);
      assert.equal(readFileSync(ended, 'utf8'), '0\n', readFileSync(out, 'utf8'));
      return () => readFileSync(out, 'utf8');
    };
    try {
      const bundle = host.makeBundle(['sh', '-c', 'i=0; while :; do i=$((i+1)); echo "at $i"; echo $i > /count; sleep 0.5; done'], (document) => {
        document.linux['seccomp'] = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['mkdir'], action: 'SCMP_ACT_ERRNO' }] };
        if (hasProfiles) document.process['apparmorProfile'] = profile;
      });
      const id = host.newId();
      const images = `${host.directory}/images`;
      const first = await callWithPipes(['create', '--bundle', bundle, id]);
      await host.ok(['start', id]);
      await host.until(() => first().includes('at 2\n'), 'it prints');
      await host.ok(['checkpoint', '--image-path', images, id]);
      const counted = countOf(bundle);
      const second = await callWithPipes(['restore', '--detach', '--image-path', images, '--bundle', bundle, id]);
      await host.until(() => second().includes(`at ${counted + 2}\n`), 'it prints for the new caller');
      assert.ok(!second().includes('at 1\n'));
      const { pid } = await host.state(id);
      assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^NoNewPrivs:\s*1\nSeccomp:\s*2\nSeccomp_filters:\s*1$/m);
      if (hasProfiles) assert.match(readFileSync(`/proc/${pid}/attr/apparmor/current`, 'utf8'), new RegExp(`^${profile} \\(enforce\\)`));
      await host.ok(['delete', '--force', id]);
    } finally {
      change('-R', `profile ${profile} {}\n`);
    }
  });
});
