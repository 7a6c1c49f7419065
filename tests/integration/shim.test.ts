/**
 * The launcher and the shim against the real kernel: every promise of docs/native.md that needs a process. Needs root; it
 * mounts only inside containers' own mount namespaces, so the host sees nothing but a directory below the temporary one.
 * BERTH_TEST_SHIM names another helper binary, such as the one built with sanitizers.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, renameSync, rmSync, rmdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve as resolvePath } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '#core';
import { type Plan, type Step, clone, encodeLayerRecord, encodePlan, fileSystem, ms, noSlot, open } from '#plan';
import { type Frame, FrameDecoder, type Launcher, type ProcessEnded, type ShimConnection, connectShim, encodeFrame, frameTypes, openUnpackSession, startLauncher } from '#system';

const projectDir = resolvePath(import.meta.dirname, '../..');
const executable = process.env['BERTH_TEST_SHIM'] ?? join(projectDir, 'native/build/berth-shim');
const sanitized = executable.endsWith('asan');
const base = mkdtempSync(join(tmpdir(), 'berth-shim-test-'));
const logs = join(base, 'logs');
const rootTarget = join(base, 'root');

const isRoot = process.getuid?.() === 0;
const hasBusybox = existsSync('/bin/busybox');
const skip = isRoot ? (hasBusybox ? false : 'needs /bin/busybox (package busybox-static)') : 'needs root';

/** A root of its own (tmpfs with busybox and /proc), as a pod's container would have. */
const rootSteps = (extra: readonly Step[] = []): Step[] => [
  { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
  { kind: 'newFileSystem', type: 'tmpfs', options: ['mode=0755'], attributes: 0, out: 100 },
  { kind: 'openTree', dir: noSlot, path: '/bin/busybox', resolve: 0, recursive: 0, out: 102 },
  { kind: 'openPath', dir: noSlot, path: rootTarget, flags: open.path | open.directory, mode: 0, resolve: 0, out: 101 },
  { kind: 'moveMount', from: 100, root: 101, target: '', create: 0, noLinks: 0 },
  { kind: 'openPath', dir: noSlot, path: rootTarget, flags: open.path | open.directory, mode: 0, resolve: 0, out: 101 },
  { kind: 'moveMount', from: 102, root: 101, target: 'bin/busybox', create: 2, noLinks: 0 },
  { kind: 'newFileSystem', type: 'proc', options: [], attributes: 0, out: 103 },
  { kind: 'moveMount', from: 103, root: 101, target: 'proc', create: 1, noLinks: 0 },
  ...extra,
  { kind: 'pivotRoot', root: 101 },
];
const shell = (script: string): Step => ({ kind: 'execute', file: '/bin/busybox', argv: ['sh', '-c', script], env: ['PATH=/bin'] });
const deathSignal: Step = { kind: 'setParentDeathSignal', signal: 9 };
const start: Step = { kind: 'barrier', barrier: 1 };
const newContainer = clone.newMount | clone.newPid | clone.newUts | clone.newIpc;

const container = (script: string, options: { readonly setup?: readonly Step[]; readonly cloneFlags?: number; readonly payload?: readonly Step[] } = {}): Plan => ({
  sections: [
    { actor: 'containerSetup', cloneFlags: options.cloneFlags ?? newContainer, steps: rootSteps(options.setup) },
    { actor: 'payload', steps: [deathSignal, start, ...(options.payload ?? []), shell(script)] },
  ],
});
/** No namespaces: what a host process does. */
const hostShell = (script: string, steps: readonly Step[] = []): Plan => ({ sections: [{ actor: 'payload', steps: [...steps, shell(script)] }] });
const pseudoTerminals: Step[] = [
  { kind: 'newFileSystem', type: 'devpts', options: ['newinstance', 'ptmxmode=0666', 'mode=0620'], attributes: 0, out: 104 },
  { kind: 'moveMount', from: 104, root: 101, target: 'dev/pts', create: 1, noLinks: 0 },
];
const devices: Step[] = (
  [
    ['null', 3],
    ['zero', 5],
  ] as const
).map(([name, minor]) => ({ kind: 'makeNode', dir: 101, path: `dev/${name}`, mode: 0o020666, major: 1, minor, uid: 0, gid: 0 }));
const terminal: Step[] = [
  { kind: 'openTerminal', root: 101, path: 'dev/pts/ptmx', columns: 80, rows: 25, consoleTarget: '' },
  { kind: 'newSession', controllingTerminal: 1 },
];

const encodeToHex = (plan: Plan): string => encodePlan(plan).toString('hex');

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function eventually(what: string, condition: () => boolean, timeoutMs = 60_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!condition()) {
    assert.ok(performance.now() < end, `not within ${timeoutMs} ms: ${what}`);
    await sleep(10);
  }
}

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter((text) => text !== '')
    .map(Number);
const isError =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.deepEqual({ code: error.code, message: message.test(error.message) ? message : error.message }, { code, message });
    return true;
  };

interface Pod {
  readonly shim: ShimConnection;
  readonly podDir: string;
  readonly secret: Uint8Array;
  readonly ended: Map<string, ProcessEnded>;
  run(processId: string, plan: Plan, options?: Partial<Parameters<ShimConnection['createProcess']>[0]>): Promise<number>;
  waitFor(processId: string): Promise<ProcessEnded>;
}

let launcher: Launcher;
let nextPod = 0;

async function newPod(cgroupFiles: readonly string[] = []): Promise<Pod> {
  nextPod += 1;
  const podDir = join(base, `pod${nextPod}`);
  mkdirSync(podDir, { mode: 0o700 });
  const secret = randomBytes(32);
  const shim = await launcher.startShim({ podId: `pod${nextPod}`, podDir, secret, cgroupFiles });
  const ended = new Map<string, ProcessEnded>();
  await shim.subscribe((event) => ended.set(event.processId, event));
  return {
    shim,
    podDir,
    secret,
    ended,
    run: async (processId, plan, options = {}) => {
      const { pid } = await shim.createProcess({ processId, plan, ...options });
      await shim.startProcess(processId);
      return pid;
    },
    waitFor: async (processId) => {
      await eventually(`${processId} ends`, () => ended.has(processId), 10_000);
      // SAFETY: the line above waited for it.
      return ended.get(processId) as ProcessEnded;
    },
  };
}

const logText = (name: string): string => readFileSync(join(logs, name), 'utf8');
const linesOf = (name: string): { stream: string; tag: string; content: string }[] =>
  logText(name)
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const match = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([PF]) (.*)$/s.exec(line);
      assert.ok(match, `not a CRI log line: ${line.slice(0, 100)}`);
      return { stream: match[1] ?? '', tag: match[2] ?? '', content: match[3] ?? '' };
    });
const log = (path: string): { readonly directory: string; readonly path: string } => ({ directory: logs, path });

describe('launcher and shim', { skip, timeout: 120_000 }, () => {
  before(async () => {
    mkdirSync(logs);
    mkdirSync(rootTarget);
    mkdirSync(join(base, 'run'), { mode: 0o700 });
    if (!sanitized) execFileSync('make', ['-s', '-C', join(projectDir, 'native')]);
    const result = await startLauncher({ executable, runDir: join(base, 'run'), lockFile: join(base, 'lock') });
    assert.equal(result.kind, 'owner');
    if (result.kind === 'owner') launcher = result.launcher;
  });

  after(async () => {
    const shims = childrenOf(launcher.pid);
    await launcher.close();
    for (const pid of shims) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    await eventually('no process of the tests is left', () => shims.every((pid) => !isAlive(pid)));
    rmSync(base, { recursive: true });
  });

  test('a second launcher is told who holds the lock', async () => {
    const second = await startLauncher({ executable, runDir: join(base, 'run'), lockFile: join(base, 'lock') });
    assert.deepEqual(second, { kind: 'locked', pid: launcher.pid });
    const other = await startLauncher({ executable, runDir: mkdtempSync(join(base, 'other-')), lockFile: join(base, 'other-lock') });
    assert.equal(other.kind, 'owner');
    if (other.kind === 'owner') await other.launcher.close();
  });

  test('a launcher that cannot start says why', async () => {
    const runDir = join(base, 'run');
    await assert.rejects(startLauncher({ executable, runDir, lockFile: join(base, 'missing/lock') }), isError('failedPrecondition', /^start .*: it cannot open the lock file$/));
    await assert.rejects(
      startLauncher({ executable, runDir: join(base, 'missing'), lockFile: join(base, 'lock3') }),
      isError('failedPrecondition', /^start .*: it cannot listen in the run directory$/),
    );
    await assert.rejects(startLauncher({ executable: join(base, 'nothing'), runDir, lockFile: join(base, 'lock3') }), isError('failedPrecondition', /^start .*: spawn .* ENOENT$/));
  });

  test('every helper executes from one sealed memfd and is named for people', async () => {
    const { shim, secret } = await newPod();
    for (const [pid, comm] of [
      [launcher.pid, 'berth-launcher'],
      [shim.pid, 'berth-shim'],
    ] as const) {
      assert.match(readlinkSync(`/proc/${pid}/exe`), /^\/memfd:berth-shim \(deleted\)$/);
      assert.equal(readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), comm);
      assert.throws(() => writeFileSync(`/proc/${pid}/exe`, 'x'), /EPERM|ETXTBSY|EACCES/);
    }
    assert.equal(readFileSync(`/proc/${shim.pid}/cmdline`, 'utf8'), `berth-shim\0shim\0pod${nextPod}\0`);
    const visible = readFileSync(`/proc/${shim.pid}/environ`).length;
    assert.equal(visible, 0);
    assert.equal(readFileSync(`/proc/${shim.pid}/cmdline`).includes(Buffer.from(secret)), false);
    await shim.shutdown();
    await shim.ended;
  });

  test('a shim is put into its own cgroup before it executes, and a missing cgroup is an error', async () => {
    const group = `/sys/fs/cgroup/pids/berth-test-${process.pid}`;
    if (existsSync('/sys/fs/cgroup/pids')) {
      mkdirSync(group);
      const { shim } = await newPod([join(group, 'cgroup.procs')]);
      assert.equal(readFileSync(join(group, 'cgroup.procs'), 'utf8').trim(), String(shim.pid));
      await shim.shutdown();
      await eventually('the cgroup is empty', () => readFileSync(join(group, 'cgroup.procs'), 'utf8') === '');
      rmdirSync(group);
    }
    await assert.rejects(newPod(['/sys/fs/cgroup/nothing/cgroup.procs']), isError('notFound', /^start the shim of pod pod\d+: \/sys\/fs\/cgroup\/nothing\/cgroup\.procs: ENOENT$/));
  });

  test('a shim’s last answer comes through although somebody else still talks to it', async () => {
    const { shim } = await newPod();
    const ended = shim.shutdown();
    // This process looks away until the shim is gone; whatever it writes then meets a broken pipe, while the answer is there to be read.
    const clock = new Int32Array(new SharedArrayBuffer(4));
    for (let waits = 0; existsSync(`/proc/${shim.pid}`) && waits < 10_000; waits += 1) Atomics.wait(clock, 0, 0, 20);
    const late = shim.state();
    await assert.rejects(late, isError('unavailable', /^talk to the shim of pod pod\d+: it is ending$/));
    await ended;
  });

  test('what follows the request for a shim is done by it, in a directory that is made where it is missing', async () => {
    const podDir = join(base, 'pod-made');
    const mark = join(base, 'followed');
    const plan: Plan = { sections: [{ actor: 'host', steps: [{ kind: 'makeFile', dir: noSlot, path: mark, mode: 0o600, data: Buffer.from('x') }] }] };
    const follow: Promise<void>[] = [];
    const start = async (cgroupFiles: readonly string[]): Promise<ShimConnection> =>
      launcher.startShim({ podId: 'made', podDir, secret: randomBytes(32), cgroupFiles, follow: (shim) => void follow.push(shim.execute(plan)) });
    const shim = await start([]);
    await follow[0];
    assert.equal(readFileSync(mark, 'utf8'), 'x');
    assert.equal(statSync(podDir).mode & 0o777, 0o700);
    await shim.shutdown();
    // The launcher's refusal comes through although what follows is never read.
    await assert.rejects(start(['/sys/fs/cgroup/nothing/tasks']), isError('notFound', /^start the shim of pod made: \/sys\/fs\/cgroup\/nothing\/tasks: ENOENT$/));
    await assert.rejects(follow[1] ?? Promise.resolve(), isError('unavailable', /^talk to the shim of pod made: /));
    await assert.rejects(
      launcher.startShim({ podId: 'made', podDir: join(base, 'missing/pod'), secret: randomBytes(32), cgroupFiles: [] }),
      isError('notFound', /^start the shim of pod made: .*missing\/pod: ENOENT$/),
    );
  });

  test('a container runs, its log is whole before its end is reported, and only 0, 1 and 2 are open in it', async () => {
    const pod = await newPod();
    await pod.run('c1', container('echo hello; echo oops >&2; ls /proc/self/fd; cat /proc/self/comm; exit 3'), { log: log('deep/er/c1.log') });
    const end = await pod.waitFor('c1');
    assert.deepEqual({ status: end.waitStatus, oom: end.oomKilled }, { status: 3 << 8, oom: false });
    const lines = linesOf('deep/er/c1.log');
    assert.deepEqual(
      lines.filter(({ stream }) => stream === 'stderr'),
      [{ stream: 'stderr', tag: 'F', content: 'oops' }],
    );
    // ls itself has the directory open as 3.
    assert.deepEqual(
      lines.filter(({ stream }) => stream === 'stdout').map(({ content }) => content),
      ['hello', '0', '1', '2', '3', 'cat'],
    );
    const [state] = await pod.shim.state();
    assert.deepEqual({ id: state?.processId, state: state?.state, status: state?.waitStatus }, { id: 'c1', state: 'ended', status: 768 });
    await pod.shim.removeProcess('c1');
    assert.deepEqual(await pod.shim.state(), []);
    await assert.rejects(pod.shim.removeProcess('c1'), isError('notFound', /^remove process c1: no such process: ESRCH$/));
    await pod.shim.shutdown();
  });

  test('a created process waits, keeps no pipe of another one open, and cannot be removed', async () => {
    const pod = await newPod();
    await pod.run('reader', container('cat; echo end'), { stdin: true, log: log('reader.log') });
    const { pid } = await pod.shim.createProcess({ processId: 'waiting', plan: container('true') });
    assert.equal((await pod.shim.state()).find(({ processId }) => processId === 'waiting')?.state, 'created');
    const descriptors = readdirSync(`/proc/${pid}/fd`)
      .map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
      .filter((target) => target.startsWith('pipe:'));
    assert.equal(new Set(descriptors).size, 2, `its own stdout and stderr only: ${descriptors.join(' ')}`);
    const attachment = await pod.shim.attach('reader', { stdin: true, stdout: true, stderr: false });
    let output = '';
    attachment.onOutput = (_stream, bytes) => (output += bytes.toString());
    await attachment.write(Buffer.from('one line\n'));
    attachment.closeInput();
    assert.equal((await attachment.ended).waitStatus, 0);
    assert.equal(output, 'one line\nend\n');
    attachment.close();
    await assert.rejects(pod.shim.removeProcess('waiting'), isError('failedPrecondition', /^remove process waiting: the process has not ended: EBUSY$/));
    await pod.shim.signalProcess('waiting', 9);
    assert.equal((await pod.waitFor('waiting')).waitStatus, 9);
    await pod.shim.shutdown();
  });

  test('log lines are cut at 16 KiB with tag P, kept whole at exactly 16 KiB, and an unfinished one ends as P', async () => {
    const pod = await newPod();
    const script = 'head -c 16384 /dev/zero | tr "\\0" a; echo; head -c 16385 /dev/zero | tr "\\0" b; echo; head -c 40000 /dev/zero | tr "\\0" c; echo; echo; printf tail';
    await pod.run('lines', container(script, { setup: devices }), { log: log('lines.log') });
    await pod.waitFor('lines');
    assert.deepEqual(
      linesOf('lines.log').map(({ tag, content }) => `${tag} ${content.slice(0, 1)}${content.length}`),
      ['F a16384', 'P b16384', 'F b1', 'P c16384', 'P c16384', 'F c7232', 'F 0', 'P t4'],
    );
    await pod.shim.shutdown();
  });

  test('reopening a log under a writer loses and doubles no line', async () => {
    const pod = await newPod();
    await pod.run('writer', container('i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done'), { log: log('writer.log') });
    for (let turn = 0; turn < 5; turn += 1) {
      renameSync(join(logs, 'writer.log'), join(logs, `writer.log.${turn}`));
      await pod.shim.reopenLog('writer', log('writer.log')).catch((error: unknown) => assert.equal((error as RuntimeError).errno, 'ESRCH'));
      if (!existsSync(join(logs, 'writer.log'))) writeFileSync(join(logs, 'writer.log'), '');
      await sleep(3);
    }
    await pod.waitFor('writer');
    const numbers = ['.0', '.1', '.2', '.3', '.4', ''].flatMap((suffix) => linesOf(`writer.log${suffix}`)).map(({ content }) => Number(content));
    assert.deepEqual(
      numbers,
      Array.from({ length: 3000 }, (_unused, index) => index),
    );
    await pod.shim.shutdown();
  });

  test('a full disk costs log lines, never the container, and leaves no torn line', async () => {
    const dir = mkdtempSync(join(base, 'full-'));
    const plan: Plan = { sections: [{ actor: 'payload', steps: [start, shell('i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 0.3; echo after')] }] };
    mkdirSync(join(dir, 'pod'), { mode: 0o700 });
    mkdirSync(join(dir, 'logs'));
    const script = join(dir, 'engine.ts');
    // In a mount namespace of its own: the log directory is a tmpfs of 64 KiB, which grows once it has been full.
    writeFileSync(
      script,
      `
      import { execFileSync } from 'node:child_process';
      import { readFileSync, writeFileSync } from 'node:fs';
      import { setTimeout as sleep } from 'node:timers/promises';
      import { startLauncher } from ${JSON.stringify(join(projectDir, 'src/system/index.ts'))};
      import { decodePlan } from ${JSON.stringify(join(projectDir, 'src/plan/index.ts'))};
      const [dir, logs] = [${JSON.stringify(dir)}, ${JSON.stringify(join(dir, 'logs'))}];
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'logs', logs]);
      const r = await startLauncher({ executable: ${JSON.stringify(executable)}, runDir: dir, lockFile: dir + '/lock' });
      const shim = await r.launcher.startShim({ podId: 'p', podDir: dir + '/pod', secret: new Uint8Array(32), cgroupFiles: [] });
      const ended = new Promise((resolve) => void shim.subscribe(resolve));
      await shim.createProcess({ processId: 'c', plan: decodePlan(Buffer.from(${JSON.stringify(encodeToHex(plan))}, 'hex')), log: { directory: logs, path: 'c.log' } });
      await shim.startProcess('c');
      for (let size = -1, last = -2; size !== last; await sleep(50)) [last, size] = [size, readFileSync(logs + '/c.log').length];
      execFileSync('mount', ['-o', 'remount,size=1m', logs]);
      const { waitStatus } = await ended;
      writeFileSync(dir + '/result', JSON.stringify({ waitStatus, text: readFileSync(logs + '/c.log', 'utf8') }));
      await shim.shutdown();
      await r.launcher.close();
    `,
    );
    execFileSync('unshare', ['-m', process.execPath, script]);
    // SAFETY: the script above writes exactly this.
    const { waitStatus, text } = JSON.parse(readFileSync(join(dir, 'result'), 'utf8')) as { waitStatus: number; text: string };
    assert.equal(waitStatus, 0);
    const contents = text
      .split('\n')
      .slice(0, -1)
      .map((line) => /^\S{30} stdout F (line \d+|after)$/.exec(line)?.[1]);
    assert.ok(contents.length > 500 && contents.length < 2500, `${contents.length} lines`);
    assert.deepEqual(contents, [...contents.slice(0, -1).map((_unused, index) => `line ${index}`), 'after']);
  });

  test('a log path that leaves its directory, is a link or is no regular file is refused', async () => {
    const pod = await newPod();
    symlinkSync(join(base, 'elsewhere'), join(logs, 'link.log'));
    execFileSync('mkfifo', [join(logs, 'fifo.log')]);
    const create = (path: string): Promise<unknown> => pod.shim.createProcess({ processId: 'x', plan: container('true'), log: log(path) });
    await assert.rejects(create('../escape.log'), isError('unknown', /^create process x: open the log: EXDEV$/));
    await assert.rejects(create('link.log'), isError('unknown', /^create process x: open the log: ELOOP$/));
    await assert.rejects(create('fifo.log'), isError('invalidArgument', /^create process x: open the log: EINVAL$/));
    assert.equal(existsSync(join(base, 'elsewhere')), false);
    assert.deepEqual(await pod.shim.state(), []);
    await pod.shim.shutdown();
  });

  test('a failed step comes back in words, at creation and at execve, and leaves nothing', async () => {
    const pod = await newPod();
    const broken: Plan = {
      sections: [{ actor: 'containerSetup', cloneFlags: newContainer, steps: [...rootSteps(), { kind: 'changeDirectory', path: '/missing', create: 0, origin: '/process/cwd' }] }],
    };
    await assert.rejects(pod.shim.createProcess({ processId: 'a', plan: broken }), isError('notFound', /^\/process\/cwd: change to the working directory \/missing: ENOENT$/));
    const missing: Plan = { sections: [{ actor: 'payload', steps: [start, { kind: 'execute', file: '/missing', argv: [], env: [] }] }] };
    await pod.shim.createProcess({ processId: 'b', plan: missing });
    await assert.rejects(pod.shim.startProcess('b'), isError('notFound', /^execute \["\/missing"\]: ENOENT$/));
    assert.equal((await pod.waitFor('b')).waitStatus, 127 << 8);
    await eventually('children are reaped', () => childrenOf(pod.shim.pid).length === 0);
    await assert.rejects(pod.shim.createProcess({ processId: 'b', plan: missing }), isError('alreadyExists', /^create process b: the process exists: EEXIST$/));
    await pod.shim.shutdown();
  });

  test('exec collects both streams, the exit status and feeds standard input', async () => {
    const pod = await newPod();
    const base = { timeoutMs: 5000, outputBytesMax: 1000 };
    const first = await pod.shim.exec({ processId: 'e1', plan: hostShell('cat; echo err >&2; exit 7'), stdin: Buffer.from('given'), ...base });
    assert.deepEqual(
      { ...first, stdout: first.stdout.toString(), stderr: first.stderr.toString() },
      { waitStatus: 7 << 8, timedOut: false, truncated: false, stdout: 'given', stderr: 'err\n' },
    );
    const long = await pod.shim.exec({ processId: 'e2', plan: hostShell('head -c 5000 /dev/zero; wc -c < /dev/null'), ...base });
    assert.deepEqual({ size: long.stdout.length, truncated: long.truncated }, { size: 1000, truncated: true });
    await assert.rejects(
      pod.shim.exec({ processId: 'e3', plan: { sections: [{ actor: 'payload', steps: [{ kind: 'execute', file: 'nowhere', argv: [], env: ['PATH=/bin'] }] }] }, ...base }),
      isError('notFound', /^execute \["nowhere"\]: ENOENT$/),
    );
    assert.deepEqual(await pod.shim.state(), []);
    await pod.shim.shutdown();
  });

  test('an exec past its deadline is killed with its session, and one whose descendants keep its output ends within the drain time', async () => {
    const pod = await newPod();
    const options = { outputBytesMax: 1000 };
    const late = await pod.shim.exec({
      processId: 'e1',
      plan: hostShell('echo before; sleep 60 & sleep 61', [{ kind: 'newSession', controllingTerminal: 0 }]),
      timeoutMs: 2000,
      ...options,
    });
    assert.deepEqual({ status: late.waitStatus, timedOut: late.timedOut, out: late.stdout.toString() }, { status: 9, timedOut: true, out: 'before\n' });
    // Its background child was in its session: killed too.
    await eventually('the session is gone', () => childrenOf(pod.shim.pid).length === 0);
    const again = performance.now();
    const left = await pod.shim.exec({ processId: 'e2', plan: hostShell('sleep 30 & echo $!'), timeoutMs: 0, ...options });
    assert.ok(performance.now() - again > 1900, 'its output was waited for');
    assert.equal(isAlive(Number(left.stdout.toString())), true, 'not for as long as the descendant lives');
    process.kill(Number(left.stdout.toString()), 'SIGKILL');
    await eventually('the orphan is reaped', () => childrenOf(pod.shim.pid).length === 0);
    await pod.shim.shutdown();
  });

  test('a terminal echoes, resizes and hangs up', async () => {
    const pod = await newPod();
    const plan = container('stty size; read line; echo "got $line"; stty size; tty', { setup: pseudoTerminals, payload: [] });
    const withTerminal: Plan = { sections: plan.sections.map((section) => (section.actor === 'payload' ? { ...section, steps: [...terminal, ...section.steps] } : section)) };
    await pod.shim.createProcess({ processId: 't', plan: withTerminal, terminal: true, stdin: true, holdOutput: true, log: log('tty.log') });
    await pod.shim.resize('t', { columns: 100, rows: 40 });
    await pod.shim.startProcess('t');
    const attachment = await pod.shim.attach('t', { stdin: true, stdout: true, stderr: false });
    let output = '';
    attachment.onOutput = (stream, bytes) => (output += stream === 'stdout' ? bytes.toString() : 'WRONG');
    await eventually('the first size', () => output.includes('40 100'));
    await pod.shim.resize('t', { columns: 120, rows: 50 });
    await attachment.write(Buffer.from('word\n'));
    assert.equal((await attachment.ended).waitStatus, 0);
    assert.deepEqual(output.split('\r\n').slice(0, 4), ['40 100', 'word', 'got word', '50 120']);
    attachment.close();
    assert.equal(linesOf('tty.log')[0]?.content, '40 100\r');
    await assert.rejects(pod.shim.resize('t', { columns: 1, rows: 1 }), isError('notFound', /^resize the terminal of process t: resize the terminal: ESRCH$/));
    await pod.shim.shutdown();
  });

  test('standard input given once ends with its first client', async () => {
    const pod = await newPod();
    await pod.run('once', container('cat; echo end'), { stdin: true, stdinOnce: true, log: log('once.log') });
    const attachment = await pod.shim.attach('once', { stdin: true, stdout: false, stderr: false });
    await attachment.write(Buffer.from('text\n'));
    attachment.close();
    await pod.waitFor('once');
    assert.deepEqual(
      linesOf('once.log').map(({ content }) => content),
      ['text', 'end'],
    );
    await pod.shim.shutdown();
  });

  test('large input and output pass a slow exclusive process whole', async () => {
    const pod = await newPod();
    await pod.shim.createProcess({ processId: 'x', plan: container('cat'), stdin: true, exclusive: true, holdOutput: true });
    const attachment = await pod.shim.attach('x', { stdin: true, stdout: true, stderr: true });
    const sent = randomBytes(8 * 1024 * 1024);
    const received: Buffer[] = [];
    attachment.onOutput = (_stream, bytes) => void received.push(bytes);
    await pod.shim.startProcess('x');
    attachment.pause();
    const writing = attachment.write(sent).then(() => attachment.closeInput());
    await sleep(200);
    const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pod.shim.pid}/status`, 'utf8'))?.[1]);
    if (!sanitized) assert.ok(rss < 4096, `a stalled client costs the shim ${rss} KiB`);
    attachment.resume();
    await writing;
    assert.equal((await attachment.ended).waitStatus, 0);
    assert.ok(Buffer.concat(received).equals(sent));
    attachment.close();
    await pod.shim.shutdown();
  });

  test('an exclusive process dies with its client, also one that was never started', async () => {
    const pod = await newPod();
    const { pid } = await pod.shim.createProcess({ processId: 'x', plan: container('sleep 100'), exclusive: true });
    const attachment = await pod.shim.attach('x', { stdin: false, stdout: true, stderr: true });
    await assert.rejects(
      pod.shim.attach('x', { stdin: false, stdout: true, stderr: true }),
      isError('failedPrecondition', /^attach to process x: the process has its client: EBUSY$/),
    );
    await pod.shim.startProcess('x');
    attachment.close();
    await eventually('it is killed', () => !isAlive(pid));
    await eventually('and forgotten', () => childrenOf(pod.shim.pid).length === 0);
    assert.deepEqual(await pod.shim.state(), []);
    const second = await connectShim(pod);
    const never = await second.createProcess({ processId: 'y', plan: container('true'), exclusive: true });
    const kept = await second.createProcess({ processId: 'z', plan: container('true') });
    second.close();
    await eventually('the exclusive one is gone', () => !isAlive(never.pid));
    assert.equal(isAlive(kept.pid), true);
    await pod.shim.startProcess('z');
    assert.equal((await pod.waitFor('z')).waitStatus, 0);
    await pod.shim.shutdown();
  });

  test('a client that falls far behind is cut off and the process goes on', async () => {
    const pod = await newPod();
    await pod.shim.createProcess({ processId: 'flood', plan: container('head -c 40000000 /dev/zero; echo done >&2', { setup: devices }) });
    const attachment = await pod.shim.attach('flood', { stdin: false, stdout: true, stderr: false });
    attachment.pause();
    await pod.shim.startProcess('flood');
    assert.equal((await pod.waitFor('flood')).waitStatus, 0);
    attachment.resume();
    await assert.rejects(attachment.ended, isError('unavailable', /^attach: the connection ended before the process did$/));
    await pod.shim.shutdown();
  });

  test('the init of a PID namespace gets SIGKILL, ignores an unhandled SIGTERM, and takes the others along', async () => {
    const pod = await newPod();
    const pid = await pod.run('init', container('sleep 1000 & sleep 1000 & wait', { setup: devices }));
    await eventually('its children run', () => childrenOf(pid).length === 2);
    const [child] = childrenOf(pid);
    await pod.shim.signalProcess('init', 15);
    await sleep(50);
    assert.equal(isAlive(pid), true);
    await pod.shim.signalProcess('init', 9);
    assert.equal((await pod.waitFor('init')).waitStatus, 9);
    assert.equal(isAlive(child ?? 0), false);
    await assert.rejects(pod.shim.signalProcess('init', 9), isError('notFound', /^signal process init: the process cannot be signalled: ESRCH$/));
    await pod.shim.shutdown();
  });

  test('a namespace made for the pod is kept in a slot, and a process can be made inside a PID namespace', async () => {
    const pod = await newPod();
    await pod.shim.execute({
      sections: [
        {
          actor: 'podNamespaces',
          cloneFlags: clone.newUts,
          steps: [
            { kind: 'setHostname', name: 'inside' },
            { kind: 'openNamespace', type: clone.newUts, out: 64 },
            { kind: 'exportSlot', slot: 64, podSlot: 3 },
          ],
        },
      ],
    });
    const name = await pod.shim.exec({
      processId: 'e',
      plan: hostShell('hostname', [{ kind: 'enterNamespace', slot: 3, type: clone.newUts }]),
      timeoutMs: 5000,
      outputBytesMax: 100,
    });
    assert.equal(name.stdout.toString(), 'inside\n');
    const pid = await pod.run('init', container('sleep 1000'));
    const inside: Plan = {
      sections: [
        { actor: 'host', steps: [{ kind: 'openPath', dir: noSlot, path: `/proc/${pid}/ns/pid`, flags: open.readOnly, mode: 0, resolve: 0, out: 70 }] },
        { actor: 'payload', pidNamespace: 70, steps: [shell('echo $$')] },
      ],
    };
    const result = await pod.shim.exec({ processId: 'e', plan: inside, timeoutMs: 5000, outputBytesMax: 100 });
    assert.match(result.stdout.toString(), /^[2-9]\n$/);
    const outside = await pod.shim.exec({ processId: 'e', plan: hostShell('echo $$'), timeoutMs: 5000, outputBytesMax: 100 });
    assert.ok(Number(outside.stdout.toString()) > 100, 'the shim itself stayed outside');
    const forked = await pod.shim.exec({
      processId: 'e',
      plan: {
        sections: [
          { actor: 'host', steps: [{ kind: 'openPath', dir: noSlot, path: `/proc/${pid}/ns/pid`, flags: open.readOnly, mode: 0, resolve: 0, out: 70 }] },
          { actor: 'payload', steps: [{ kind: 'enterNamespace', slot: 70, type: clone.newPid }, { kind: 'fork', flags: 0 }, shell('echo $$; exit 4')] },
        ],
      },
      timeoutMs: 5000,
      outputBytesMax: 100,
    });
    assert.match(forked.stdout.toString(), /^[2-9]\n$/);
    assert.equal(forked.waitStatus, 4 << 8);
    await pod.shim.shutdown();
  });

  test('host sections at a barrier see the waiting child', async () => {
    const pod = await newPod();
    const plan: Plan = {
      sections: [
        { actor: 'host', barrier: 2, steps: [{ kind: 'writeFile', dir: 255, path: 'oom_score_adj', data: Buffer.from('777'), fileSystem: fileSystem.proc }] },
        { actor: 'payload', steps: [{ kind: 'barrier', barrier: 2 }, shell('cat /proc/self/oom_score_adj')] },
      ],
    };
    const result = await pod.shim.exec({ processId: 'e', plan, timeoutMs: 5000, outputBytesMax: 100 });
    assert.equal(result.stdout.toString(), '777\n');
    await pod.shim.shutdown();
  });

  test('a plan can ask for files inside its root, and failures inside the answer are worded by it', async () => {
    const pod = await newPod();
    const asking: Plan = {
      sections: [
        { actor: 'containerSetup', cloneFlags: newContainer, steps: rootSteps([{ kind: 'makeFile', dir: 101, path: 'passwd', mode: 0o644, data: Buffer.from('me:x:1000:\n') }]) },
        { actor: 'payload', steps: [{ kind: 'ask', root: 101, files: ['passwd', 'group'], bytesMax: 100 }] },
      ],
    };
    const seen: unknown[] = [];
    const answered: Plan = { sections: [{ actor: 'payload', steps: [start, { kind: 'setUser', uid: 1000, gid: 1000 }, shell('id -u')] }] };
    await pod.run('asker', asking, {
      log: log('asker.log'),
      answer: (files) => {
        seen.push(...files.map(({ path, errno, content }) => ({ path, errno, content: content.toString() })));
        return answered;
      },
    });
    assert.deepEqual(seen, [
      { path: 'passwd', errno: 0, content: 'me:x:1000:\n' },
      { path: 'group', errno: 2, content: '' },
    ]);
    await pod.waitFor('asker');
    assert.deepEqual(
      linesOf('asker.log').map(({ content }) => content),
      ['1000'],
    );
    const bad: Plan = { sections: [{ actor: 'payload', steps: [{ kind: 'changeDirectory', path: '/nowhere', create: 0 }] }] };
    await assert.rejects(pod.shim.createProcess({ processId: 'a2', plan: asking, answer: () => bad }), isError('notFound', /^change to the working directory \/nowhere: ENOENT$/));
    await assert.rejects(
      pod.shim.createProcess({
        processId: 'a3',
        plan: asking,
        answer: () => {
          throw new RuntimeError('invalidArgument', 'no such user');
        },
      }),
      isError('invalidArgument', /^no such user$/),
    );
    await eventually('no child is left', () => childrenOf(pod.shim.pid).length === 0);
    await pod.shim.shutdown();
  });

  test('an OOM kill is reported', async (context) => {
    const v1 = existsSync('/sys/fs/cgroup/memory');
    const group = v1 ? `/sys/fs/cgroup/memory/berth-test-${process.pid}` : `/sys/fs/cgroup/berth-test-${process.pid}`;
    if (!v1 && !existsSync('/sys/fs/cgroup/memory.pressure') && !readFileSync('/sys/fs/cgroup/cgroup.subtree_control', 'utf8').includes('memory')) {
      context.skip('needs a memory cgroup');
      return;
    }
    mkdirSync(group);
    writeFileSync(join(group, v1 ? 'memory.limit_in_bytes' : 'memory.max'), '16777216');
    const pod = await newPod();
    const join1: Step = { kind: 'writeFile', dir: noSlot, path: join(group, v1 ? 'tasks' : 'cgroup.procs'), data: Buffer.from('0'), fileSystem: fileSystem.cgroup };
    const plan: Plan = { sections: [{ actor: 'payload', steps: [join1, start, shell('exec dd if=/dev/zero of=/dev/null bs=64M count=1')] }] };
    await pod.run('eater', plan, { oomFile: join(group, v1 ? 'memory.oom_control' : 'memory.events') });
    const end = await pod.waitFor('eater');
    assert.deepEqual({ status: end.waitStatus & 0x7f, oom: end.oomKilled }, { status: 9, oom: true });
    await pod.shim.shutdown();
    rmdirSync(group);
  });

  test('orphans of a process without PID namespace are reaped', async () => {
    const pod = await newPod();
    await pod.run('parent', hostShell('(sleep 0.2 &) ; (sleep 0.2 &) ; exit 0', [start]));
    await eventually('the orphans come to the shim', () => childrenOf(pod.shim.pid).length >= 1);
    await eventually('and are reaped', () => childrenOf(pod.shim.pid).length === 0);
    await pod.shim.shutdown();
  });

  /** A child may end between the list and the look. */
  const isShim = (pid: number): boolean => {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'berth-shim';
    } catch {
      return true;
    }
  };

  test('the one-shot runner runs host and child sections and reports a failure', async () => {
    const file = join(base, 'one-shot');
    const write = (path: string): Step => ({ kind: 'makeFile', dir: noSlot, path, mode: 0o600, data: Buffer.from('x') });
    await launcher.runOnce({
      sections: [
        { actor: 'host', steps: [write(file)] },
        { actor: 'podNamespaces', cloneFlags: clone.newMount, steps: [write(`${file}2`)] },
      ],
    });
    assert.deepEqual([existsSync(file), existsSync(`${file}2`)], [true, true]);
    await assert.rejects(
      launcher.runOnce({ sections: [{ actor: 'podNamespaces', steps: [{ ...write('/nonexistent/x'), origin: '/here' }] }] }),
      isError('notFound', /^\/here: write the file \/nonexistent\/x with mode 0600 \(1 bytes\): ENOENT$/),
    );
    await assert.rejects(launcher.runOnce(hostShell('true')), isError('invalidArgument', /^run a plan: malformed plan: EINVAL$/));
    await eventually('no runner is left', () => childrenOf(launcher.pid).every(isShim));
  });

  test('a layer streams to the confined child, and what it refuses names the entry', async () => {
    const layerDir = mkdtempSync(join(base, 'layer-'));
    const attributes = { uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };
    const session = await openUnpackSession(launcher.socketPath, { layerDir, rootDir: layerDir });
    const content = randomBytes(3 * 1024 * 1024);
    await session.write([encodeLayerRecord({ op: 'directory', path: 'etc', mode: 0o755, ...attributes })]);
    await session.write([encodeLayerRecord({ op: 'file', path: 'etc/big', mode: 0o640, size: BigInt(content.length), ...attributes })]);
    for (let at = 0; at < content.length; at += 65536) await session.write([encodeLayerRecord({ op: 'data', data: content.subarray(at, at + 65536) })]);
    await session.write([encodeLayerRecord({ op: 'finish' })]);
    assert.equal(await session.finish(), 2);
    assert.ok(readFileSync(join(layerDir, 'etc/big')).equals(content));
    const refused = await openUnpackSession(launcher.socketPath, { layerDir, rootDir: layerDir });
    await refused.write([encodeLayerRecord({ op: 'directory', path: '../out', mode: 0o755, ...attributes })]).catch(() => {});
    await assert.rejects(refused.finish(), isError('invalidArgument', /^unpack the layer: .*\.\.\/out.*: EINVAL$/));
    const aborted = await openUnpackSession(launcher.socketPath, { layerDir, rootDir: layerDir });
    aborted.abort();
    await eventually('no unpack child is left', () => childrenOf(launcher.pid).every(isShim));
  });

  test('reattaching needs the secret; then the state is there', async () => {
    const pod = await newPod();
    const pid = await pod.run('c', container('sleep 1000'));
    pod.shim.close();
    const wrong = Uint8Array.from(pod.secret);
    wrong.set([(pod.secret[31] ?? 0) ^ 1], 31);
    await assert.rejects(connectShim({ podDir: pod.podDir, secret: wrong }), isError('permissionDenied', /^connect to the shim in .*: it refused the secret$/));
    const again = await connectShim(pod);
    assert.equal(again.pid, pod.shim.pid);
    assert.deepEqual(
      (await again.state()).map(({ processId, pid: found, state }) => ({ processId, found, state })),
      [{ processId: 'c', found: pid, state: 'running' }],
    );
    await again.shutdown();
    await again.ended;
    await eventually('all has ended', () => !isAlive(pid) && !isAlive(pod.shim.pid));
    assert.equal(existsSync(join(pod.podDir, 'shim.sock')), false);
    await assert.rejects(connectShim(pod), isError('unavailable', /^connect .*shim\.sock: connect ENOENT/));
  });

  test('malformed requests change nothing', async () => {
    const pod = await newPod();
    const pid = await pod.run('c', container('sleep 1000'));
    const path = join(pod.podDir, 'shim.sock');
    /** Sends bytes on a new connection; gives the frames that came back until it ended or `count` came. */
    const talk = async (bytes: Buffer, count: number): Promise<Frame[]> => {
      const socket = createConnection(path);
      const decoder = new FrameDecoder();
      const frames: Frame[] = [];
      const { promise, resolve } = Promise.withResolvers<void>();
      socket.on('data', (chunk) => {
        frames.push(...decoder.push(chunk as Buffer));
        if (frames.length >= count) resolve();
      });
      socket.on('close', resolve).on('error', () => resolve());
      socket.write(bytes);
      await promise;
      socket.destroy();
      return frames;
    };
    const hello = encodeFrame(frameTypes.hello, 1, (out) => out.u32(1).bytes(pod.secret));
    assert.deepEqual(await talk(Buffer.from('GET / HTTP/1.1\r\n\r\n'), 1), []);
    assert.deepEqual(await talk(encodeFrame(frameTypes.state, 1), 1), []);
    assert.deepEqual(
      await talk(
        encodeFrame(frameTypes.hello, 1, (out) => out.u32(2).bytes(pod.secret)),
        1,
      ),
      [],
    );
    const huge = Buffer.alloc(12);
    huge.writeUInt32LE(0x7fff_ffff, 0);
    assert.equal((await talk(Buffer.concat([hello, huge]), 2)).length, 1);
    const errnoOf = async (frame: Buffer): Promise<number> => {
      const answer = (await talk(Buffer.concat([hello, frame]), 2))[1];
      assert.equal(answer?.type, frameTypes.error);
      return answer?.payload.readInt32LE(0) ?? 0;
    };
    assert.equal(await errnoOf(encodeFrame(999, 2)), 38);
    assert.equal(await errnoOf(encodeFrame(frameTypes.signal, 2, (out) => out.text('c'))), 22);
    assert.equal(await errnoOf(encodeFrame(frameTypes.signal, 2, (out) => out.u32(0xffff_ffff).raw(Buffer.from('c')))), 22);
    assert.equal(await errnoOf(encodeFrame(frameTypes.signal, 2, (out) => out.text('c').u32(9).u32(9))), 22);
    assert.equal(await errnoOf(encodeFrame(frameTypes.signal, 2, (out) => out.text('other').u32(9))), 3);
    assert.equal(await errnoOf(encodeFrame(frameTypes.create, 2, (out) => out.text('n').u32(0).text('').text('').text('').bytes(randomBytes(500)))), 22);
    assert.equal(await errnoOf(encodeFrame(frameTypes.shutdown, 2, (out) => out.bytes(randomBytes(50)))), 22);
    assert.equal(isAlive(pid), true);
    assert.deepEqual(
      (await pod.shim.state()).map(({ processId, state }) => ({ processId, state })),
      [{ processId: 'c', state: 'running' }],
    );
    await pod.shim.shutdown();
  });

  test('the launcher accepts its parent only', async () => {
    const script = `const s = require('net').connect(${JSON.stringify(join(base, 'run/launcher.sock'))}); s.on('data', () => process.exit(1)); s.on('close', () => process.exit(0)); s.on('error', () => process.exit(0)); s.write(Buffer.from([0,0,0,0,21,0,0,0,1,0,0,0]));`;
    const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
    const [status] = await new Promise<[number | null]>((resolve) => child.once('exit', (code) => resolve([code])));
    assert.equal(status, 0);
  });

  test('a shim killed with -9 takes its containers along and is reported', async () => {
    const pod = await newPod();
    const plain = await pod.run('plain', hostShell('exec sleep 1000', [deathSignal, start]));
    const init = await pod.run('init', container('sleep 1000 & sleep 1000 & wait', { setup: devices }));
    const waiting = await pod.shim.createProcess({ processId: 'waiting', plan: container('true') });
    const ended = Promise.withResolvers<{ podId: string; pid: number; waitStatus: number }>();
    const remove = launcher.onShimEnded((event) => event.pid === pod.shim.pid && ended.resolve(event));
    process.kill(pod.shim.pid, 'SIGKILL');
    assert.deepEqual(await ended.promise, { podId: `pod${nextPod}`, pid: pod.shim.pid, waitStatus: 9 });
    remove();
    await pod.shim.ended;
    await eventually('nothing survives', () => [plain, init, waiting.pid].every((pid) => !isAlive(pid)));
    await assert.rejects(pod.shim.state(), isError('unavailable', /^talk to the shim of pod pod\d+: /));
  });

  test('shutdown runs its plan after everything has ended', async () => {
    const pod = await newPod();
    const pid = await pod.run('c', container('trap "" TERM; sleep 1000'));
    const mark = join(base, 'shutdown-mark');
    await pod.shim.shutdown({ sections: [{ actor: 'host', steps: [{ kind: 'makeFile', dir: noSlot, path: mark, mode: 0o600, data: Buffer.from('x') }] }] });
    assert.deepEqual([isAlive(pid), existsSync(mark)], [false, true]);
    const other = await newPod();
    const failing: Plan = { sections: [{ actor: 'host', steps: [{ kind: 'removeFile', dir: noSlot, path: '/nonexistent/x' }] }] };
    await assert.rejects(other.shim.shutdown(failing), isError('notFound', /^remove the file \/nonexistent\/x: ENOENT$/));
    await eventually('the shim has ended even so', () => !isAlive(other.shim.pid));
  });

  test('a shim is small', { skip: sanitized ? 'the sanitizers are not' : false }, async () => {
    const pods = await Promise.all(Array.from({ length: 8 }, () => newPod()));
    for (const pod of pods) await pod.run('c', container('sleep 1000'));
    const sizes = pods.map(({ shim }) => Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${shim.pid}/smaps_rollup`, 'utf8'))?.[1]));
    assert.ok(Math.max(...sizes) < 100, `KiB of proportional memory: ${sizes.join(' ')}`);
    await Promise.all(pods.map(({ shim }) => shim.shutdown()));
  });

  describe('after the death of the engine', () => {
    /** Another Node process that is an engine of its own. */
    const startEngine = async (
      lifeline: boolean,
    ): Promise<{ engine: ChildProcess; shim: number; init: number; launcher: number; podDir: string; secret: Uint8Array; mark: string }> => {
      const runDir = mkdtempSync(join(base, 'engine-'));
      const podDir = join(runDir, 'pod');
      mkdirSync(podDir, { mode: 0o700 });
      const secret = randomBytes(32);
      const mark = join(runDir, 'undone');
      const undo: Plan = { sections: [{ actor: 'host', steps: [{ kind: 'makeFile', dir: noSlot, path: mark, mode: 0o600, data: Buffer.from('x') }] }] };
      const script = join(runDir, 'engine.ts');
      writeFileSync(
        script,
        `
        import { startLauncher } from ${JSON.stringify(join(projectDir, 'src/system/index.ts'))};
        import { decodePlan } from ${JSON.stringify(join(projectDir, 'src/plan/index.ts'))};
        const r = await startLauncher(${JSON.stringify({ executable, runDir, lockFile: join(runDir, 'lock') })});
        const shim = await r.launcher.startShim({ podId: 'p', podDir: ${JSON.stringify(podDir)}, secret: Buffer.from(${JSON.stringify(Buffer.from(secret).toString('hex'))}, 'hex'), cgroupFiles: [] });
        if (${lifeline}) await shim.deposit({ lifeline: true, undo: decodePlan(Buffer.from(${JSON.stringify(encodeToHex(undo))}, 'hex')) });
        const { pid } = await shim.createProcess({ processId: 'c', plan: decodePlan(Buffer.from(${JSON.stringify(encodeToHex(container('sleep 1000')))}, 'hex')) });
        await shim.startProcess('c');
        process.stdout.write(JSON.stringify({ shim: shim.pid, init: pid, launcher: r.launcher.pid }) + '\\n');
        setInterval(() => {}, 1000);
      `,
      );
      const engine = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
      const line = await new Promise<string>((resolve) => engine.stdout?.once('data', (chunk: Buffer) => resolve(chunk.toString())));
      // SAFETY: the script above prints exactly this.
      return { engine, podDir, secret, mark, ...(JSON.parse(line) as { shim: number; init: number; launcher: number }) };
    };

    test('without a lifeline the pod goes on and can be taken over', async () => {
      const { engine, shim, init, launcher: other, podDir, secret } = await startEngine(false);
      engine.kill('SIGKILL');
      await eventually('its launcher ends', () => !isAlive(other));
      assert.deepEqual([isAlive(shim), isAlive(init)], [true, true]);
      const taken = await connectShim({ podDir, secret });
      assert.equal((await taken.state())[0]?.pid, init);
      await taken.shutdown();
      await eventually('all has ended', () => !isAlive(shim) && !isAlive(init));
    });

    test('the death of the launcher alone ends no pod', async () => {
      const { engine, shim, init, launcher: other, podDir, secret } = await startEngine(false);
      process.kill(other, 'SIGKILL');
      await eventually('the launcher has ended', () => !isAlive(other));
      assert.deepEqual([isAlive(shim), isAlive(init)], [true, true]);
      engine.kill('SIGKILL');
      await (await connectShim({ podDir, secret })).shutdown();
      await eventually('all has ended', () => !isAlive(shim) && !isAlive(init));
    });

    test('with a lifeline everything is undone', async () => {
      const { engine, shim, init, launcher: other, mark } = await startEngine(true);
      engine.kill('SIGKILL');
      await eventually('all has ended', () => !isAlive(shim) && !isAlive(init) && !isAlive(other));
      assert.equal(existsSync(mark), true);
    });
  });
});
