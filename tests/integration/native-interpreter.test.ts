/**
 * The interpreter against the kernel: whole containers, and the control flow of plans, encoded by src/plan and executed by
 * the driver. Paths, netlink, cgroups and layers have suites of their own beside this one.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { type Step, ByteReader, clone, encodePlan, mountAttr, ms, noSlot, open } from '#plan';
import { type Outcome, driver, failed, host, makeScratch, payload, pod, removeScratch, runPlan, setup, skip } from './native-driver.ts';

const [EPERM, ENOENT, ENOEXEC, EBADF, EACCES, EEXIST, ENOTDIR, EISDIR, EINVAL, EFBIG, ELOOP] = [1, 2, 8, 9, 13, 17, 20, 21, 22, 27, 40] as const;
after(removeScratch);

const shell = (script: string, ...env: string[]): Step => ({ kind: 'execute', file: '/bin/busybox', argv: ['sh', '-c', script], env: ['PATH=/bin', ...env] });

/** Lower layer with busybox and the usual directories. */
function makeLower(): { lower: string; upper: string; overlayWork: string } {
  const base = makeScratch();
  const [lower, upper, overlayWork] = [join(base, 'lower'), join(base, 'upper'), join(base, 'work')];
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

  it('never has a working directory outside its root, even where a descriptor of the host is left (CVE-2024-21626)', () => {
    const hostRoot: Step = { kind: 'openPath', dir: noSlot, path: '/', flags: open.path | open.directory, mode: 0, resolve: 0, out: 120 };
    const change = (create: number): Step[] =>
      Array.from({ length: 40 }, (_, fd) => ({ kind: 'changeDirectory', path: `/proc/self/fd/${fd + 3}`, create, ignore: [ENOENT, ENOTDIR, EACCES, EEXIST] }));
    const enter = (create: number): number => {
      const [first, ...rest] = rootSteps();
      assert.ok(first);
      return failed(runPlan({ sections: [setup(first, hostRoot, ...rest), payload(...change(create), shell('pwd; ls'))] })).errno;
    };
    assert.equal(enter(0), EPERM);
    assert.equal(enter(1), ELOOP);
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
      ['/etc/large', EFBIG, ''],
      ['/etc', EISDIR, ''],
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
    assert.equal(failed(run('no-mode', `${directory}:/bin`)).errno, EACCES, 'a file without permission is remembered as EACCES');
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
        `${driver} plan ${directory}/plan & parent=$!; sleep 0.4; read -r p < /proc/$parent/task/$parent/children; grep -E 'Cap(Eff|Prm|Bnd)|NoNew' /proc/$p/status; stat -c 'owner %U' /proc/$p/fd; ls /proc/$p/fd | wc -l; tr '\\0' ' ' < /proc/$p/cmdline; kill -9 $p; wait $parent`,
      ],
      { encoding: 'utf8' },
    );
    for (const set of ['CapPrm', 'CapEff', 'CapBnd']) assert.match(seen, new RegExp(`${set}:\\s+0{16}`));
    assert.match(seen, /NoNewPrivs:\s+1\nowner root\n0\nberth-shim pause/);
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
