/**
 * The native front against a compiler that this test is: docs/native.md's protocol, the state directory's file, the start socket. In: the built helper under the name berth-oci,
 * in a folder of its own without any Node, so that whatever is not done alone and not asked of the test fails. No container: its processes are plain ones.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { type Server, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Front, type FrontRequest, type MadeProcess, type Outcome, greetFront, serveFront } from '#ociruntime';
import { type Step, noSlot, startBarrier } from '#plan';
import { FrameConnection, FrameDecoder, encodeFrame } from '#system';
import { patienceMs, skipReason } from './berth-host.ts';
import { isAlive, planPlain, planWaiting, writeFrontFile } from './oci-front-plans.ts';

const base = mkdtempSync(join(tmpdir(), 'berth-front-test-'));
const program = join(base, 'berth-oci');
const socketPath = join(base, 'oci.sock');
const stateRoot = join(base, 'state');
const helper = process.env['BERTH_TEST_SHIM'] ?? join(import.meta.dirname, '../../native/build/berth-shim');

type Command = (front: Front) => Promise<Outcome>;
let command: Command = async () => ({ kind: 'exit', code: 99 });
let server: Server;
const requests: FrontRequest[] = [];

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts the front; what it wants to ask comes to this test. */
function startFront(
  args: readonly string[],
  options: { readonly env?: Record<string, string>; readonly stdin?: 'pipe'; readonly extra?: readonly number[]; readonly through?: readonly string[] } = {},
) {
  const line = [...(options.through ?? []), program, '--root', stateRoot, ...args];
  const child = spawn(line[0] ?? '', line.slice(1), {
    env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: socketPath, ...options.env },
    stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe', ...(options.extra ?? [])],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const exited = Promise.withResolvers<Ended>();
  child.once('error', exited.reject);
  // Not `close`: a process that was created has the streams too.
  child.once('exit', (code, signal) => setImmediate(() => exited.resolve({ code, signal, stdout, stderr })));
  const ended = Promise.withResolvers<Ended>();
  child.once('close', (code, signal) => ended.resolve({ code, signal, stdout, stderr }));
  return { child, output: () => stdout, exited: exited.promise, ended: ended.promise };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    assert.ok(waited < patienceMs, `waited in vain: ${what}`);
    await sleep(20);
  }
}

/** A front's whole life. */
async function run(args: readonly string[], does?: Command, options: Parameters<typeof startFront>[1] = {}): Promise<Ended> {
  if (does !== undefined) command = does;
  return startFront(args, options).ended;
}

function makeState(id: string): string {
  mkdirSync(join(stateRoot, id), { recursive: true, mode: 0o700 });
  return join(stateRoot, id);
}

/** Creates a waiting process whose directory the front understands. */
async function create(
  id: string,
  script: string,
  options: { readonly file?: string; readonly flags?: number; readonly mode?: number } = {},
): Promise<{ readonly made: MadeProcess; readonly directory: string }> {
  const directory = makeState(id);
  let made: MadeProcess | undefined;
  const front = startFront(['create', id]);
  command = async (asked) => {
    made = await asked.make({ plan: planWaiting(directory, script, options.file), terminal: false, consoleSocket: '', preserveFds: 0 });
    writeFrontFile(directory, made, options);
    return { kind: 'exit', code: 0 };
  };
  assert.equal((await front.exited).code, 0);
  assert.ok(made !== undefined);
  return { made, directory };
}

const stateOf = async (id: string): Promise<string> => (await run(['state', id])).stdout;

describe('the front of the OCI command line', { skip: skipReason() }, () => {
  before(async () => {
    copyFileSync(helper, program);
    chmodSync(program, 0o755);
    server = createServer((socket) => {
      greetFront(socket);
      void serveFront(socket, async (front) => {
        requests.push(front.request);
        return command(front);
      }).catch(() => undefined);
    });
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  });

  after(() => {
    server.close();
    rmSync(base, { recursive: true, force: true });
  });

  test('what it cannot do alone is asked with the caller’s words, and ends with the code that was told', async () => {
    const ended = await run(
      ['features', 'é'],
      async (front) => {
        front.write(1, 'out');
        front.write(2, 'err');
        return { kind: 'exit', code: 42 };
      },
      { env: { WORD: 'x=y' } },
    );
    assert.deepEqual(ended, { code: 42, signal: null, stdout: 'out', stderr: 'err' });
    const request = requests.at(-1);
    assert.deepEqual(request?.argv, ['--root', stateRoot, 'features', 'é']);
    assert.equal(request?.cwd, process.cwd());
    assert.equal(request?.env['WORD'], 'x=y');
    assert.deepEqual(
      Object.keys(request?.env ?? {}).filter((name) => name.startsWith('BERTH_OCI_') && name !== 'BERTH_OCI_ENGINE'),
      [],
    );
    assert.equal(request?.failure, undefined);
  });

  test('state, start, kill and delete are done without asking, from the file alone', async () => {
    const { made, directory } = await create('alone', 'echo started >&2; exec sleep 1000');
    const asked = requests.length;
    assert.match(readlinkSync(`/proc/${made.pid}/exe`), /^\/memfd:/, 'what waits executes from the sealed copy');
    assert.equal(await stateOf('alone'), `{"status":"created","pid":${made.pid}}\n`);
    assert.equal((await run(['start', 'alone'])).code, 0);
    assert.equal(existsSync(join(directory, 'start.sock')), false);
    assert.equal(await stateOf('alone'), `{"status":"running","pid":${made.pid}}\n`);
    assert.equal((await run(['--log=/dev/null', '--log-format', 'json', '--debug', 'kill', 'alone', 'sigkill'])).code, 0);
    await until('the process to end', () => !isAlive(made.pid));
    assert.equal(await stateOf('alone'), '{"status":"stopped","pid":0}\n');
    assert.equal((await run(['delete', 'alone'])).code, 0);
    assert.equal(existsSync(directory), false);
    assert.equal((await run(['delete', '--force', 'alone'])).code, 0, 'absence is success by force');
    assert.equal(requests.length, asked, 'nobody was asked');
  });

  test('a start that fails is handed over with the step and its errno', async () => {
    const { made } = await create('missing', '', { file: '/no/such/program' });
    const ended = await run(['start', 'missing'], async () => ({ kind: 'exit', code: 17 }));
    assert.equal(ended.code, 17);
    assert.deepEqual(requests.at(-1)?.failure, { section: 1, step: 2, errno: 2, detail: '' });
    await until('the process to end', () => !isAlive(made.pid));
  });

  test('a command that its state does not allow, or that a flag gives to the compiler, is asked', async () => {
    const { made } = await create('asks', 'exec sleep 1000', { flags: 6 });
    command = async () => ({ kind: 'exit', code: 18 });
    for (const args of [
      ['start', 'asks'],
      ['delete', 'asks'],
      ['resume', 'asks'],
      ['kill', 'asks', 'NOSUCH'],
      ['kill', 'asks', '99'],
      ['kill', '../asks'],
      ['state', 'nobody'],
      ['delete', 'nobody'],
    ]) {
      assert.equal((await run(args)).code, 18, args.join(' '));
    }
    assert.equal((await run(['kill', 'asks', '9'])).code, 0);
    await until('the process to end', () => !isAlive(made.pid));
    assert.equal((await run(['kill', 'asks'])).code, 18);
  });

  test('a file that others may write is not believed', async () => {
    const { made } = await create('foreign', 'exec sleep 1000', { mode: 0o666 });
    assert.equal((await run(['kill', 'foreign', 'KILL'], async () => ({ kind: 'exit', code: 19 }))).code, 19);
    assert.ok(isAlive(made.pid));
    process.kill(made.pid, 'SIGKILL');
  });

  test('in the foreground it hands signals on, ends as its process does, and deletes the container', async () => {
    const directory = makeState('foreground');
    const front = startFront(['run', 'foreground']);
    command = async (asked) => {
      const script = 'trap "echo got; exit 5" TERM; echo ready; while :; do sleep 0.1; done';
      const made = await asked.make({ plan: planWaiting(directory, script), terminal: false, consoleSocket: '', preserveFds: 0 });
      writeFrontFile(directory, made);
      await asked.start(directory, (failure) => new Error(JSON.stringify(failure)));
      return { kind: 'wait', deleteStateDirectory: directory };
    };
    await until('the trap to be set', () => front.output().includes('ready'));
    front.child.kill('SIGTERM');
    const ended = await front.ended;
    assert.deepEqual([ended.code, ended.stdout], [5, 'ready\ngot\n']);
    assert.equal(existsSync(directory), false);
    const killed = await run(['exec'], async (asked) => {
      await asked.make({ plan: planPlain('kill -9 $$'), terminal: false, consoleSocket: '', preserveFds: 0 });
      return { kind: 'wait', deleteStateDirectory: '' };
    });
    assert.equal(killed.code, 128 + 9);
  });

  test('a terminal without a console socket is copied both ways', async () => {
    const steps: readonly Step[] = [
      { kind: 'openTerminal', root: noSlot, path: '/dev/pts/ptmx', columns: 91, rows: 37, consoleTarget: '' },
      { kind: 'newSession', controllingTerminal: 1 },
    ];
    const front = startFront(['exec'], { stdin: 'pipe' });
    command = async (asked) => {
      await asked.make({ plan: planPlain('stty size; read line; echo "<$line>"', steps), terminal: true, consoleSocket: '', preserveFds: 0 });
      return { kind: 'wait', deleteStateDirectory: '' };
    };
    front.child.stdin?.write('typed\n');
    const ended = await front.ended;
    front.child.stdin?.destroy();
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stdout, /37 91\r\n/);
    assert.match(ended.stdout, /<typed>\r\n/);
  });

  test('a process with a terminal leaves the caller’s streams alone while it waits', async () => {
    const directory = makeState('terminal');
    const consoleSocket = join(base, 'console.sock');
    let received = '';
    const console = createServer((socket) => socket.on('data', (chunk: Buffer) => (received += chunk.toString())));
    await new Promise<void>((resolve) => console.listen(consoleSocket, resolve));
    let pid = 0;
    const plan = planWaiting(directory, '', '/bin/busybox', [{ kind: 'openTerminal', root: noSlot, path: '/dev/pts/ptmx', columns: 80, rows: 24, consoleTarget: '' }]);
    const ended = await run(['create', 'terminal'], async (asked) => {
      ({ pid } = await asked.make({ plan, terminal: true, consoleSocket, preserveFds: 0 }));
      return { kind: 'exit', code: 0 };
    });
    assert.equal(ended.code, 0, 'and the end of the streams came, though it lives');
    assert.ok(isAlive(pid));
    await until('the terminal to arrive', () => received === '/dev/ptmx');
    process.kill(pid, 'SIGKILL');
    await new Promise((resolve) => console.close(resolve));
  });

  test('descriptors of the caller reach the process where the plan keeps them, and nothing else does', async () => {
    const file = openSync(join(base, 'handed'), 'w');
    // A process of its own lists them, so that the directory is no descriptor of the one that is looked at.
    const script = 'echo kept >&3; /bin/busybox ls /proc/$$/fd; true';
    const plan = planPlain(script, [{ kind: 'keepDescriptors', count: 1 }]);
    const does =
      (preserveFds: number): Command =>
      async (asked) => {
        await asked.make({ plan, terminal: false, consoleSocket: '', preserveFds });
        return { kind: 'wait', deleteStateDirectory: '' };
      };
    const kept = await run(['exec', '--preserve-fds', '1'], does(1), { extra: [file] });
    assert.deepEqual([kept.code, kept.stdout], [0, '0\n1\n2\n3\n']);
    assert.equal(readFileSync(join(base, 'handed'), 'utf8'), 'kept\n');
    closeSync(file);
    let refusal = '';
    const lacking = await run(['exec', '--preserve-fds=2'], async (asked) => {
      refusal = await asked.make({ plan, terminal: false, consoleSocket: '', preserveFds: 2 }).then(
        () => 'made',
        (error: Error) => error.message,
      );
      return { kind: 'exit', code: 1 };
    });
    assert.equal(lacking.code, 1);
    assert.match(refusal, /descriptor 3: EBADF/);
  });

  test('a failing step is told with its place, and nothing of the child is left', async () => {
    let message = '';
    await run(['exec'], async (asked) => {
      message = await asked
        .make({ plan: planPlain('', [{ kind: 'findExecutable', file: 'nothing-here', env: ['PATH=/bin'] }]), terminal: false, consoleSocket: '', preserveFds: 0 })
        .then(
          () => 'made',
          (error: Error) => error.message,
        );
      return { kind: 'exit', code: 0 };
    });
    assert.match(message, /"nothing-here": executable file not found in \$PATH/);
    await run(['exec'], async (asked) => {
      message = await asked
        .make({ plan: planPlain('', [{ kind: 'barrier', barrier: startBarrier + 1 }]), terminal: false, consoleSocket: join(base, 'nobody'), preserveFds: 0 })
        .then(
          () => 'made',
          (error: Error) => error.message,
        );
      return { kind: 'exit', code: 0 };
    });
    assert.match(message, /connect to the console socket: ENOENT/);
  });

  test('where the compiler goes away, what it had made is killed', async () => {
    let made: MadeProcess | undefined;
    const ended = await run(['exec'], async (asked) => {
      made = await asked.make({ plan: planPlain('exec sleep 1000'), terminal: false, consoleSocket: '', preserveFds: 0 });
      throw new Error('the compiler is gone');
    });
    assert.equal(ended.code, 1);
    const pid = made?.pid ?? 0;
    assert.ok(pid > 1);
    await until('the process to end', () => !isAlive(pid));
  });

  test('an engine that does not see the same files is not asked', async () => {
    const asked = requests.length;
    const ended = await run(['features'], async () => ({ kind: 'exit', code: 0 }), { through: ['unshare', '-m'] });
    assert.equal(ended.code, 1);
    assert.equal(ended.stderr, `berth-oci: execute ${base}/node: No such file or directory\n`);
    assert.equal((await run(['features'], undefined, { env: { BERTH_OCI_ENGINE: 'none' } })).code, 1);
    assert.equal(requests.length, asked);
  });

  test('a lock that the compiler took holds others back until its front has ended', async () => {
    const { made, directory } = await create('locked', 'exec sleep 1000');
    const raw = join(base, 'raw.sock');
    const locked = Promise.withResolvers<FrameConnection>();
    const rawServer = createServer((socket) => {
      greetFront(socket);
      const connection = new FrameConnection(socket, 'front');
      connection.hold();
      connection.onEvent = () => {
        const lock = async (): Promise<FrameConnection> => {
          await connection.request('lock', 72, (out) => void out.text(directory));
          await connection.request('lock again', 72, (out) => void out.text(directory));
          return connection;
        };
        lock().then(locked.resolve, locked.reject);
      };
    });
    await new Promise<void>((resolve) => rawServer.listen(raw, resolve));
    const holder = startFront(['update', '--pids-limit', '5', 'locked'], { env: { BERTH_OCI_ENGINE: raw } });
    const connection = await locked.promise;
    const removal = startFront(['delete', 'locked']);
    let isOver = false;
    void removal.ended.then(() => (isOver = true));
    assert.match(await stateOf('locked'), /created/, 'looking needs no lock');
    await sleep(200);
    assert.equal(isOver, false);
    await connection.send(69, 0, (out) => void out.u32(0));
    assert.equal((await holder.ended).code, 0);
    connection.release();
    assert.equal((await removal.ended).code, 0);
    assert.equal(existsSync(directory), false);
    process.kill(made.pid, 'SIGKILL');
    await new Promise((resolve) => rawServer.close(resolve));
  });

  test('what is no message of the protocol ends it', async () => {
    const raw = join(base, 'bad.sock');
    const messages = [
      encodeFrame(68, 0),
      encodeFrame(66, 1, (out) => void out.u32(7)),
      encodeFrame(70, 0, (out) => void out.text('')),
      encodeFrame(67, 2),
      Buffer.from('ffffffff4000000000000000', 'hex'),
      encodeFrame(69, 0),
    ];
    const answers: Promise<unknown>[] = [];
    const rawServer = createServer((socket) => {
      greetFront(socket);
      const message = messages.shift();
      if (message === undefined) socket.destroy();
      else socket.write(message);
      const decoder = new FrameDecoder();
      let frames = 0;
      socket.on('data', (chunk: Buffer) => {
        frames += decoder.push(chunk).length;
        // A malformed plan is answered with an error after the request; whoever asked then goes away.
        if (frames === 2) socket.destroy();
      });
      socket.on('error', () => undefined);
      answers.push(new Promise((resolve) => socket.once('close', resolve)));
    });
    await new Promise<void>((resolve) => rawServer.listen(raw, resolve));
    for (let left = messages.length; left > 0; left -= 1) assert.equal((await run(['features'], undefined, { env: { BERTH_OCI_ENGINE: raw } })).code, 1);
    await Promise.all(answers);
    await new Promise((resolve) => rawServer.close(resolve));
  });

  test('it is what it says in its own words only under its own name', () => {
    const other = spawnSync(helper, ['state', 'x'], { encoding: 'utf8' });
    assert.equal(other.status, 64);
  });
});
