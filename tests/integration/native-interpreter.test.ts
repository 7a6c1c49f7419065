/**
 * The interpreter against the kernel: plans of every kind, encoded by src/plan, executed by the driver. Each class of
 * hostile content that a plan's step must withstand is built here and shown to lead to an error or to nothing.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type Section, type Step, ByteReader, clone, encodePlan, mountAttr, ms, noSlot, open } from '#plan';
import { type Outcome, driver, makeScratch, removeScratch, runPlan, skip } from './native-driver.ts';

const [ENOENT, EPERM, EBADF, EEXIST, ENOTDIR, EINVAL, ELOOP, ENOEXEC] = [2, 1, 9, 17, 20, 22, 40, 8] as const;
after(removeScratch);

const host = (...steps: Step[]): Section => ({ actor: 'host', steps });
const pod = (...steps: Step[]): Section => ({ actor: 'podNamespaces', steps });
const setup = (...steps: Step[]): Section => ({ actor: 'containerSetup', cloneFlags: clone.newMount | clone.newUts | clone.newIpc, steps });
const payload = (...steps: Step[]): Section => ({ actor: 'payload', steps });
const shell = (script: string, ...env: string[]): Step => ({ kind: 'execute', file: '/bin/busybox', argv: ['sh', '-c', script], env: ['PATH=/bin', ...env] });
const failed = (outcome: Outcome): { section: number; step: number; errno: number; detail: string } => {
  const match = /^failed (\d+) (\d+) (\d+) (.*)$/m.exec(outcome.output);
  assert.ok(match, `no failure in ${outcome.output}${outcome.error}`);
  return { section: Number(match[1]), step: Number(match[2]), errno: Number(match[3]), detail: match[4] ?? '' };
};

/** Lower layer with busybox and the usual directories. */
function makeLower(): { lower: string; upper: string; overlayWork: string } {
  const base = makeScratch();
  const [lower, upper, overlayWork] = ['lower', 'upper', 'work'].map((name) => join(base, name)) as [string, string, string];
  for (const name of ['bin', 'proc', 'dev', 'sys', 'tmp', 'etc', 'secret']) mkdirSync(join(lower, name), { recursive: true });
  mkdirSync(upper);
  mkdirSync(overlayWork);
  execFileSync('cp', ['/bin/busybox', join(lower, 'bin/busybox')]);
  for (const applet of ['sh', 'cat', 'ls', 'id', 'mount', 'stat', 'grep', 'readlink', 'ps', 'tty', 'env']) symlinkSync('busybox', join(lower, 'bin', applet));
  writeFileSync(join(lower, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n');
  writeFileSync(join(lower, 'etc/secret-file'), 'hidden');
  writeFileSync(join(lower, 'secret/inside'), 'hidden');
  return { lower, upper, overlayWork };
}

const rootSlot = 100;
/** Mount order of the design: private root, overlay, /proc, /dev with nodes and devpts. */
function rootSteps(extra: readonly Step[] = []): Step[] {
  const { lower, upper, overlayWork } = makeLower();
  const node = (path: string, minor: number): Step => ({ kind: 'makeNode', dir: rootSlot, path, mode: 0o020666, major: 1, minor, uid: 0, gid: 0 });
  return [
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    { kind: 'newFileSystem', type: 'overlay', options: [`lowerdir=${lower}`, `upperdir=${upper}`, `workdir=${overlayWork}`, 'source=overlay'], attributes: 0, out: 110 },
    { kind: 'moveMount', from: 110, root: noSlot, target: lower, create: 0, noLinks: 0 },
    { kind: 'openPath', dir: noSlot, path: lower, flags: open.path | open.directory, mode: 0, resolve: 0, out: rootSlot },
    { kind: 'newFileSystem', type: 'proc', options: [], attributes: mountAttr.noSuid | mountAttr.noDev | mountAttr.noExec, out: 111 },
    { kind: 'moveMount', from: 111, root: rootSlot, target: '/proc', create: 1, noLinks: 1 },
    { kind: 'newFileSystem', type: 'tmpfs', options: ['mode=755', 'size=65536k'], attributes: mountAttr.noSuid, out: 112 },
    { kind: 'moveMount', from: 112, root: rootSlot, target: '/dev', create: 1, noLinks: 1 },
    node('/dev/null', 3),
    node('/dev/zero', 5),
    { kind: 'newFileSystem', type: 'devpts', options: ['newinstance', 'ptmxmode=0666', 'mode=0620'], attributes: mountAttr.noSuid | mountAttr.noExec, out: 113 },
    { kind: 'moveMount', from: 113, root: rootSlot, target: '/dev/pts', create: 1, noLinks: 1 },
    { kind: 'makeLink', dir: rootSlot, path: '/dev/ptmx', target: 'pts/ptmx' },
    ...extra,
    { kind: 'pivotRoot', root: rootSlot },
  ];
}

describe('a container', { skip }, () => {
  it('runs a static busybox behind an overlay, with masks, read-only paths, capabilities and a user', () => {
    const outcome = runPlan({
      sections: [
        setup(
          ...rootSteps([
            { kind: 'maskPath', root: rootSlot, path: '/secret' },
            { kind: 'maskPath', root: rootSlot, path: '/etc/secret-file' },
            { kind: 'maskPath', root: rootSlot, path: '/not/there' },
            { kind: 'readonlyPath', root: rootSlot, path: '/proc/sys' },
            { kind: 'readonlyPath', root: rootSlot, path: '/tmp' },
            { kind: 'setHostname', name: 'berth-test' },
          ]),
        ),
        payload(
          { kind: 'changeDirectory', path: '/work/sub', create: 1 },
          { kind: 'limitCapabilities', bounding: 0x400n },
          { kind: 'setGroups', gids: [5, 6] },
          { kind: 'setUser', uid: 1000, gid: 1001 },
          { kind: 'setCapabilities', effective: 0x400n, permitted: 0x400n, inheritable: 0x400n, ambient: 0x400n },
          { kind: 'setNoNewPrivileges' },
          { kind: 'setUmask', mask: 0o27 },
          { kind: 'setRlimit', resource: 7, soft: 64n, hard: 128n },
          shell(
            'id; pwd; ls -1 / | tr "\\n" " "; echo; cat /etc/secret-file; ls /secret; touch /secret/x; touch /tmp/x; echo 1 > /proc/sys/kernel/pid_max; umask; ulimit -n; hostname; grep -E "Cap|NoNew" /proc/self/status; ls -1 /proc/self/fd; echo $MARK',
            'MARK=seen',
          ),
        ),
      ],
    });
    assert.match(outcome.output, /uid=1000 gid=1001 groups=5,6/);
    assert.doesNotMatch(outcome.output, /hidden|inside/);
    assert.match(outcome.output, /^\/work\/sub$/m);
    assert.match(outcome.output, /^0027$/m);
    assert.match(outcome.output, /^berth-test$/m);
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.match(outcome.output, new RegExp(`${set}:\\s+0000000000000400`));
    assert.match(outcome.output, /NoNewPrivs:\s+1/);
    assert.match(outcome.output, /^64$/m);
    assert.match(outcome.output, /\n0\n1\n2\n3\nseen\n/, 'the payload sees its three streams and what ls opened');
    assert.match(outcome.error, /\/secret\/x: Read-only file system/);
    assert.match(outcome.error, /\/tmp\/x: Read-only file system/);
    assert.match(outcome.output, /status 0/);
  });

  it('gives a terminal of the container to the payload and its master to the parent', () => {
    const outcome = runPlan({
      sections: [
        setup(...rootSteps([{ kind: 'openTerminal', root: rootSlot, path: '/dev/ptmx', columns: 91, rows: 17, consoleTarget: '/dev/console' }])),
        payload({ kind: 'newSession', controllingTerminal: 1 }, shell('tty; stty size; ls -l /dev/console; echo said > /dev/console')),
      ],
    });
    assert.match(outcome.output, /\/dev\/(pts\/0|console)/);
    assert.match(outcome.output, /17 91/);
    assert.match(outcome.output, /136,\s+0/);
    assert.match(outcome.output, /said/);
  });

  it('asks for files inside the root, never follows them out, and runs the answer', () => {
    const { lower } = makeLower();
    symlinkSync('/etc/passwd', join(lower, 'etc/group'));
    symlinkSync(join(lower, '../../../../../../etc/hostname'), join(lower, 'etc/outside'));
    execFileSync('mkfifo', [join(lower, 'etc/fifo')]);
    writeFileSync(join(lower, 'etc/large'), 'x'.repeat(100));
    const outcome = runPlan(
      {
        sections: [
          setup(
            { kind: 'openPath', dir: noSlot, path: lower, flags: open.path, mode: 0, resolve: 0, out: rootSlot },
            { kind: 'ask', root: rootSlot, files: ['/etc/passwd', '/etc/group', '/etc/outside', '/etc/fifo', '/etc/large', '/etc', '/none'], bytesMax: 99 },
          ),
        ],
      },
      { sections: [payload({ kind: 'execute', file: 'busybox', argv: ['busybox', 'echo', 'answered'], env: ['PATH=/nowhere:/bin'] })] },
    );
    assert.match(outcome.output, /^answered$/m);
    const input = new ByteReader(Buffer.from(/^ask ([0-9a-f]+)$/m.exec(outcome.output)?.[1] ?? '', 'hex'));
    const files = Array.from({ length: input.u32() }, () => [input.text(), input.i32(), input.bytes().toString()]);
    assert.deepEqual(files, [
      ['/etc/passwd', 0, 'root:x:0:0::/root:/bin/sh\n'],
      ['/etc/group', 0, 'root:x:0:0::/root:/bin/sh\n'],
      ['/etc/outside', ENOENT, ''],
      ['/etc/fifo', EINVAL, ''],
      ['/etc/large', 27, ''],
      ['/etc', 21, ''],
      ['/none', ENOENT, ''],
    ]);
    assert.equal(input.remaining, 0);
  });

  it('reports a failure inside an answer with the answered section and step', () => {
    const outcome = runPlan(
      { sections: [setup({ kind: 'ask', root: noSlot, files: [], bytesMax: 1 })] },
      { sections: [payload(), payload({ kind: 'setUmask', mask: 0 }, { kind: 'closeSlot', slot: 9 }, { kind: 'enterNamespace', slot: 99, type: clone.newNet })] },
    );
    assert.deepEqual(failed(outcome), { section: (0x80000000 | 1) >>> 0, step: 2, errno: EBADF, detail: '' });
  });

  it('waits at the start barrier and reports an execve that fails with its errno', () => {
    const directory = makeScratch();
    const script = join(directory, 'no-format');
    writeFileSync(join(directory, 'no-mode'), '', { mode: 0o644 });
    writeFileSync(script, 'not a program', { mode: 0o755 });
    const run = (file: string, path: string): Outcome =>
      runPlan({ sections: [payload({ kind: 'barrier', barrier: 1 }, { kind: 'execute', file, argv: [], env: [`PATH=${path}`] })] });
    assert.match(run('true', '/bin').output, /^start\n[^]*status 0/);
    assert.deepEqual(failed(run('no-such-program', '/usr/bin:/bin')), { section: 0, step: 1, errno: ENOENT, detail: '' });
    assert.equal(failed(run(script, '')).errno, ENOEXEC);
    assert.equal(failed(run('no-mode', `${directory}:/bin`)).errno, 13, 'a file without permission is remembered as EACCES');
  });

  it('continues as a child of the shim inside a PID namespace', () => {
    const outcome = runPlan({
      sections: [
        setup({ kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive }, { kind: 'unshare', flags: clone.newPid }, { kind: 'fork', flags: 0 }),
        payload({ kind: 'setParentDeathSignal', signal: 9 }, shell('echo pid $$; readlink /proc/self/ns/pid')),
      ],
    });
    assert.match(outcome.output, /^forked$/m);
    assert.match(outcome.output, /^pid 1$/m);
    assert.match(outcome.output, /status 0/);
  });

  it('installs a seccomp filter last, and the filter cannot keep execve from being prepared', () => {
    const filter = new Uint8Array(8 * 4);
    const view = new DataView(filter.buffer);
    const instruction = (at: number, code: number, jt: number, jf: number, k: number): void => {
      view.setUint16(at * 8, code, true);
      view.setUint8(at * 8 + 2, jt);
      view.setUint8(at * 8 + 3, jf);
      view.setUint32(at * 8 + 4, k, true);
    };
    instruction(0, 0x20, 0, 0, 0);
    instruction(1, 0x15, 0, 1, 436); // close_range
    instruction(2, 0x06, 0, 0, 0x80000000);
    instruction(3, 0x06, 0, 0, 0x7fff0000);
    const outcome = runPlan({ sections: [payload({ kind: 'setNoNewPrivileges' }, { kind: 'setSeccomp', flags: 0, program: filter }, shell('grep Seccomp: /proc/self/status'))] });
    assert.match(outcome.output, /Seccomp:\s+2[^]*status 0/);
  });

  it('executes the pause role without capabilities, descriptors or dumpability', () => {
    const directory = makeScratch();
    writeFileSync(
      join(directory, 'plan'),
      encodePlan({ sections: [{ actor: 'payload', cloneFlags: clone.newPid, steps: [{ kind: 'setParentDeathSignal', signal: 9 }, { kind: 'executePause' }] }] }),
    );
    const seen = execFileSync(
      'sh',
      [
        '-c',
        `${driver} plan ${directory}/plan & parent=$!; sleep 0.4; p=$(pgrep -P $parent); grep -E 'Cap(Eff|Prm|Bnd)|NoNew' /proc/$p/status; stat -c 'owner %U' /proc/$p/fd; ls /proc/$p/fd | wc -l; tr '\\0' ' ' < /proc/$p/cmdline; kill -9 $p; wait $parent`,
      ],
      { encoding: 'utf8' },
    );
    for (const set of ['CapPrm', 'CapEff', 'CapBnd']) assert.match(seen, new RegExp(`${set}:\\s+0{16}`));
    assert.match(seen, /NoNewPrivs:\s+1\nowner root\n0\nberth-shim pause/);
  });
});

describe('paths below a root', { skip }, () => {
  it('stay inside whatever the links say', () => {
    const root = makeScratch();
    const outside = makeScratch();
    symlinkSync(outside, join(root, 'absolute'));
    symlinkSync(`../../../../../../..${outside}`, join(root, 'relative'));
    symlinkSync('/made/by/link', join(root, 'dangling'));
    const outcome = runPlan({
      sections: [
        host(
          { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
          { kind: 'makeDirectory', dir: 70, path: '/absolute/x', mode: 0o751, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'relative/y', mode: 0o1777, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'dangling/z', mode: 0o700, parents: 1 },
          { kind: 'makeDirectory', dir: 70, path: 'plain/../../../up/deep', mode: 0o700, parents: 1, ignore: [ENOENT] },
          { kind: 'makeFile', dir: 70, path: '/absolute/x/file', mode: 0o640, data: Buffer.from('content') },
        ),
      ],
    });
    assert.doesNotMatch(outcome.output, /failed/);
    assert.deepEqual(readdirSync(outside), []);
    assert.equal(statSync(join(root, outside, 'x')).mode & 0o7777, 0o751);
    assert.equal(statSync(join(root, outside, 'y')).mode & 0o7777, 0o1777);
    assert.ok(existsSync(join(root, 'made/by/link/z')));
    assert.equal(readFileSync(join(root, outside, 'x/file'), 'utf8'), 'content');
    assert.equal(statSync(join(root, outside, 'x/file')).mode & 0o7777, 0o640);
  });

  it('writes no file through a link, into a FIFO or a device', () => {
    const root = makeScratch();
    symlinkSync('/etc/hostname', join(root, 'link'));
    execFileSync('mkfifo', [join(root, 'fifo')]);
    const make = (path: string): number =>
      failed(
        runPlan({
          sections: [
            host(
              { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
              { kind: 'makeFile', dir: 70, path, mode: 0o644, data: Buffer.from('x') },
            ),
          ],
        }),
      ).errno;
    assert.equal(make('link'), ELOOP);
    assert.equal(make('fifo'), EEXIST);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'writeFile', dir: noSlot, path: join(root, 'link'), data: Buffer.from('x'), fileSystem: 0 })] })).errno, ELOOP);
  });

  it('writes to procfs only where it is procfs, not over another mount, not through links', () => {
    const write = (path: string, before: Step[] = []): Outcome =>
      runPlan({
        sections: [
          setup({ kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive }, ...before, {
            kind: 'writeFile',
            dir: noSlot,
            path,
            data: Buffer.from('7'),
            fileSystem: 1,
          }),
        ],
      });
    const file = join(makeScratch(), 'fake');
    writeFileSync(file, 'before');
    assert.doesNotMatch(write('/proc/sys/net/ipv4/ip_forward').output, /failed/);
    assert.doesNotMatch(write('/proc/self/oom_score_adj').output, /failed/);
    assert.equal(failed(write('/etc/hostname')).errno, EINVAL);
    assert.equal(
      failed(write('/proc/sys/net/ipv4/ip_forward', [{ kind: 'mount', cwd: '', source: file, target: '/proc/sys/net/ipv4/ip_forward', type: '', flags: ms.bind, data: '' }])).errno,
      18,
    );
    assert.equal(failed(write('/proc/self/attr/exec', [{ kind: 'mount', cwd: '', source: 'tmpfs', target: '/proc', type: 'tmpfs', flags: 0, data: '' }])).errno, EPERM);
    assert.equal(failed(write('/proc/self/cwd/x')).errno, ELOOP);
    assert.equal(readFileSync(file, 'utf8'), 'before');
  });

  it('mounts on a verified target only', () => {
    const root = makeScratch();
    mkdirSync(join(root, 'real'));
    writeFileSync(join(root, 'file'), '');
    symlinkSync('real', join(root, 'linked'));
    const mountOn = (target: string, create: number, noLinks: number): Outcome =>
      runPlan({
        sections: [
          setup(
            { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
            { kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 },
            { kind: 'newFileSystem', type: 'tmpfs', options: [], attributes: 0, out: 71 },
            { kind: 'moveMount', from: 71, root: 70, target, create, noLinks },
          ),
          payload({ kind: 'execute', file: '/bin/busybox', argv: ['busybox', 'grep', root, '/proc/self/mountinfo'], env: [] }),
        ],
      });
    assert.match(mountOn('linked', 1, 0).output, new RegExp(`${root}/real `));
    assert.equal(failed(mountOn('linked', 1, 1)).errno, ELOOP);
    assert.equal(failed(mountOn('file', 1, 0)).errno, ENOTDIR);
    assert.equal(failed(mountOn('real', 2, 0)).errno, 21);
    assert.equal(failed(mountOn('missing', 0, 0)).errno, ENOENT);
    assert.match(mountOn('new/deep', 1, 1).output, new RegExp(`${root}/new/deep `));
  });

  it('refuses a file on procfs as a mount target and a fake null device as a mask', () => {
    const file = join(makeScratch(), 'source');
    writeFileSync(file, '');
    const onProc = runPlan({
      sections: [
        setup(
          { kind: 'openTree', dir: noSlot, path: file, resolve: 0, recursive: 0, out: 71 },
          { kind: 'openPath', dir: noSlot, path: '/', flags: open.path, mode: 0, resolve: 0, out: 70 },
          { kind: 'moveMount', from: 71, root: 70, target: '/proc/cpuinfo', create: 0, noLinks: 0 },
        ),
      ],
    });
    assert.deepEqual(failed(onProc), { section: 0, step: 2, errno: EPERM, detail: '' });
    const root = makeScratch();
    mkdirSync(join(root, 'dev'));
    symlinkSync('/secret', join(root, 'dev/null'));
    writeFileSync(join(root, 'secret'), '');
    const mask = runPlan({
      sections: [setup({ kind: 'openPath', dir: noSlot, path: root, flags: open.path, mode: 0, resolve: 0, out: 70 }, { kind: 'maskPath', root: 70, path: '/secret' })],
    });
    assert.equal(failed(mask).errno, EPERM);
  });

  it('removes a tree deeper than any path, keeps what links point to, and stops at another mount', () => {
    const root = makeScratch();
    const kept = makeScratch();
    writeFileSync(join(kept, 'kept'), '');
    mkdirSync(join(root, 'tree'));
    symlinkSync(kept, join(root, 'tree/link'));
    const before = process.cwd();
    process.chdir(join(root, 'tree'));
    for (let depth = 0; depth < 2500; depth += 1) {
      writeFileSync('f', '');
      mkdirSync('d');
      process.chdir('d');
    }
    process.chdir(before);
    const outcome = runPlan({
      sections: [
        host(
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'no/such') },
        ),
      ],
    });
    assert.doesNotMatch(outcome.output, /failed/);
    assert.deepEqual(readdirSync(root), []);
    assert.deepEqual(readdirSync(kept), ['kept']);
    mkdirSync(join(root, 'tree/mounted'), { recursive: true });
    const mounted = runPlan({
      sections: [
        host(
          { kind: 'mount', cwd: '', source: kept, target: join(root, 'tree/mounted'), type: '', flags: ms.bind, data: '' },
          { kind: 'removeTree', dir: noSlot, path: join(root, 'tree') },
        ),
      ],
    });
    assert.equal(failed(mounted).errno, 16);
    assert.deepEqual(readdirSync(kept), ['kept']);
  });

  it('copies a tree into an empty directory with modes, owners, times and links', () => {
    const [from, to] = [makeScratch(), makeScratch()];
    execFileSync('sh', [
      '-c',
      `cd ${from} && mkdir -p a/b && echo text > a/b/file && chmod 4755 a/b/file && chown 12:34 a && ln -s b a/link && mkfifo a/fifo && touch -d @1000000000 a/b/file && touch -d @1000000001 a`,
    ]);
    const copy = (): Outcome =>
      runPlan({
        sections: [host({ kind: 'copyTree', fromDir: noSlot, from, dir: noSlot, path: to }, { kind: 'copyTree', fromDir: noSlot, from: '/no/such', dir: noSlot, path: to })],
      });
    assert.doesNotMatch(copy().output, /failed/);
    assert.equal(readFileSync(join(to, 'a/b/file'), 'utf8'), 'text\n');
    assert.equal(statSync(join(to, 'a/b/file')).mode & 0o7777, 0o4755);
    assert.equal(statSync(join(to, 'a/b/file')).mtimeMs, 1e12);
    assert.equal(statSync(join(to, 'a')).mtimeMs, 1e12 + 1000);
    assert.deepEqual([statSync(join(to, 'a')).uid, statSync(join(to, 'a')).gid], [12, 34]);
    assert.ok(lstatSync(join(to, 'a/link')).isSymbolicLink());
    assert.ok(!existsSync(join(to, 'a/fifo')));
    rmSync(join(to, 'a/b'), { recursive: true });
    copy();
    assert.ok(!existsSync(join(to, 'a/b')), 'a directory that is not empty gets nothing');
  });
});

describe('control flow', { skip }, () => {
  it('takes an ignored errno for success and skips to the second way', () => {
    const directory = makeScratch();
    const make = (path: string): Step => ({ kind: 'makeDirectory', dir: noSlot, path: join(directory, path), mode: 0o755, parents: 0 });
    const outcome = runPlan({
      sections: [
        host(
          { kind: 'openPath', dir: noSlot, path: '/no/such', flags: 0, mode: 0, resolve: 0, out: 70, ignore: [ENOENT], skipOnIgnored: 2 },
          make('first-way'),
          { kind: 'skip', count: 1 },
          make('second-way'),
          make('after'),
        ),
      ],
    });
    assert.doesNotMatch(outcome.output, /failed/);
    assert.deepEqual(readdirSync(directory).sort(), ['after', 'second-way']);
  });

  it('refuses to the host actor what belongs to children', () => {
    const steps: Step[] = [
      { kind: 'unshare', flags: clone.newNet },
      { kind: 'enterNamespace', slot: 1, type: clone.newNet },
      { kind: 'fork', flags: 0 },
      { kind: 'barrier', barrier: 2 },
      { kind: 'setHostname', name: 'x' },
      { kind: 'setUser', uid: 1, gid: 1 },
      { kind: 'pivotRoot', root: 1 },
      { kind: 'execute', file: '/bin/true', argv: [], env: [] },
      { kind: 'executePause' },
      { kind: 'setNoNewPrivileges' },
      { kind: 'changeDirectory', path: '/', create: 0 },
    ];
    for (const step of steps) assert.equal(failed(runPlan({ sections: [host(step)] })).errno, EPERM, step.kind);
  });

  it('exports a namespace to the pod, joins it in a later child and pins it', () => {
    const pinned = join(makeScratch(), 'netns');
    writeFileSync(pinned, '');
    const outcome = runPlan({
      sections: [
        pod({ kind: 'unshare', flags: clone.newNet }, { kind: 'openNamespace', type: clone.newNet, out: 80 }, { kind: 'exportSlot', slot: 80, podSlot: 3 }),
        host({ kind: 'pinNamespace', slot: 3, path: pinned }),
        payload({ kind: 'enterNamespace', slot: 3, type: clone.newNet }, shell(`readlink /proc/self/ns/net; stat -L -c 'net:[%i]' ${pinned}; stat -c %i /proc/$PPID/ns/net`)),
      ],
    });
    const [own, pin] = outcome.output.split('\n');
    assert.equal(own, pin);
    assert.match(own ?? '', /^net:\[\d+\]$/);
  });

  it('fails with the words of the mount API', () => {
    const outcome = runPlan({ sections: [setup({ kind: 'newFileSystem', type: 'tmpfs', options: ['size=nonsense'], attributes: 0, out: 70 })] });
    assert.equal(failed(outcome).errno, EINVAL);
    assert.match(failed(outcome).detail, /tmpfs: Bad value for 'size'/);
  });

  it('does not run the first step of a plan whose last is malformed', () => {
    const directory = makeScratch();
    const bytes = encodePlan({ sections: [host({ kind: 'makeDirectory', dir: noSlot, path: join(directory, 'made'), mode: 0o755, parents: 0 }, { kind: 'closeSlot', slot: 1 })] });
    writeFileSync(join(directory, 'plan'), bytes.subarray(0, bytes.length - 1));
    assert.match(spawnSync(driver, ['plan', join(directory, 'plan')], { encoding: 'utf8' }).stdout, /^malformed 22/);
    assert.ok(!existsSync(join(directory, 'made')));
  });
});

/** Netlink messages by hand: enough of rtnetlink to make a bridge and a veth pair. */
function attribute(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16LE(4 + data.length, 0);
  header.writeUInt16LE(type, 2);
  return Buffer.concat([header, data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
}
const name = (text: string): Buffer => attribute(3, Buffer.from(`${text}\0`));
const u32 = (value: number): Buffer => {
  const data = Buffer.alloc(4);
  data.writeUInt32LE(value);
  return data;
};
function message(type: number, flags: number, body: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags | 1 | 4, 6);
  return Buffer.concat([header, body]);
}
const link = (...attributes: Buffer[]): Buffer => message(16, 0x600, Buffer.concat([Buffer.alloc(16), ...attributes]));
const kindOf = (kind: string, data: Buffer = Buffer.alloc(0)): Buffer =>
  attribute(18, Buffer.concat([attribute(1, Buffer.from(kind)), ...(data.length === 0 ? [] : [attribute(2, data)])]));

describe('netlink', { skip }, () => {
  it('makes a bridge and a veth pair whose peer is born in another network namespace', () => {
    const bridge = link(name('br-test'), kindOf('bridge'));
    const peer = Buffer.concat([Buffer.alloc(16), name('eth0'), attribute(28, u32(0))]);
    const veth = link(name('veth-test'), kindOf('veth', attribute(1, peer)));
    const messages = Buffer.concat([bridge, veth]);
    const offset = bridge.length + veth.indexOf(attribute(28, u32(0))) + 4;
    const outcome = runPlan({
      sections: [
        pod({ kind: 'unshare', flags: clone.newNet }, { kind: 'openNamespace', type: clone.newNet, out: 80 }, { kind: 'exportSlot', slot: 80, podSlot: 3 }),
        host({ kind: 'netlink', protocol: 0, messages, slotPatches: [offset, 3] }),
        payload({ kind: 'execute', file: '/bin/busybox', argv: ['busybox', 'cat', '/proc/net/dev'], env: [] }),
      ],
    });
    assert.match(outcome.output, /br-test:[^]*veth-test:/);
    assert.doesNotMatch(outcome.output, /eth0:/);
  });

  it('reports the first error of a batch with the extended acknowledgement', () => {
    const twice = Buffer.concat([link(name('br-test'), kindOf('bridge')), link(name('br-test'), kindOf('bridge'))]);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice, slotPatches: [] })] })).errno, EEXIST);
    const unknown = failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: link(name('x'), kindOf('no-such-kind')), slotPatches: [] })] }));
    assert.deepEqual([unknown.errno, unknown.detail], [95, 'Unknown device type']);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice.subarray(0, 20), slotPatches: [] })] })).errno, EINVAL);
    assert.equal(failed(runPlan({ sections: [host({ kind: 'netlink', protocol: 0, messages: twice, slotPatches: [twice.length - 3, 0] })] })).errno, EINVAL);
  });

  it('reads the acknowledgements of a netfilter batch, also of one that fails', () => {
    const batch = (type: number): Buffer => {
      const bytes = message(type, 0, Buffer.from([0, 0, 0, 10]));
      bytes.writeUInt16LE(1, 6);
      return bytes;
    };
    const table = (family: number): Buffer => message(0x0a00, 0x400, Buffer.concat([Buffer.from([family, 0, 0, 0]), attribute(1, Buffer.from('berth\0'))]));
    const send = (...messages: Buffer[]): Outcome =>
      runPlan({ sections: [host({ kind: 'netlink', protocol: 12, messages: Buffer.concat([batch(16), ...messages, batch(17)]), slotPatches: [] })] });
    assert.doesNotMatch(send(table(2), table(10)).output, /failed/);
    assert.notEqual(failed(send(table(2), table(77))).errno, 110, 'an error, not a time-out');
  });
});
