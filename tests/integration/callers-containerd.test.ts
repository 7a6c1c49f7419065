/** containerd's tasks with berth-oci: Debian's daemon, its runc-v2 shim with the runtime as its binary, and `ctr`. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type Finished } from './berth-host.ts';
import { socket, startContainerd } from './callers-containerd-host.ts';
import {
  CallerPlace,
  type CommandOptions,
  type Running,
  assertAdopted,
  cgroupFile,
  containerCgroups,
  readProcess,
  runtime,
  runtimeProcesses,
  skipWithout,
  start,
  until,
} from './callers-host.ts';

const waiting = "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.1; done";

describe('containerd', { skip: skipWithout('containerd', 'ctr', 'script') }, () => {
  let place: CallerPlace;

  const startCtr = (args: readonly string[], options: CommandOptions = {}): Running => start(['ctr', '-a', socket, ...args], options);
  const ctr = async (args: readonly string[], options: CommandOptions = {}): Promise<Finished> => startCtr(args, options).finished;
  const ok = async (args: readonly string[], options: CommandOptions = {}): Promise<string> => {
    const { status, stdout, stderr } = await ctr(args, options);
    assert.equal(status, 0, `ctr ${args.join(' ')}: status ${status}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  };
  /** Words of `ctr run` before its own options. */
  const runWords = (id: string): string[] => ['run', '--runc-binary', runtime, '--cgroup', `${place.cgroupParent}/${id}`, '--env', 'PATH=/bin', '--env', 'HOME=/root'];
  const shell = async (id: string, script: string, options: readonly string[] = [], more: CommandOptions = {}): Promise<Finished> =>
    ctr([...runWords(id), '--rm', ...options, '--rootfs', place.rootfs, id, 'sh', '-c', script], more);
  const log = (id: string): string => readFileSync(`${place.directory}/${id}.log`, 'utf8');
  /** A task in the background; gives its first process. */
  const detached = async (id: string, script: string, options: readonly string[] = []): Promise<number> => {
    place.write(`${id}.log`, '');
    await ok([...runWords(id), '-d', '--log-uri', `file://${place.directory}/${id}.log`, ...options, '--rootfs', place.rootfs, id, 'sh', '-c', script]);
    return Number(
      (await ok(['task', 'ls']))
        .split('\n')
        .find((line) => line.startsWith(`${id} `))
        ?.split(/\s+/)[1],
    );
  };
  const status = async (id: string): Promise<string | undefined> =>
    (await ok(['task', 'ls']))
      .split('\n')
      .find((line) => line.startsWith(`${id} `))
      ?.split(/\s+/)[2];
  const remove = async (id: string): Promise<void> => {
    await ctr(['task', 'kill', '-s', 'KILL', id]);
    await until(`${id} has stopped`, async () => (await status(id)) === 'STOPPED');
    await ctr(['task', 'rm', id]);
    await ok(['container', 'rm', id]);
  };

  before(async () => {
    place = new CallerPlace();
    await startContainerd(place);
  });
  after(async () => {
    for (const line of (await ok(['task', 'ls', '-q'])).split('\n').filter((id) => id !== '')) await ctr(['task', 'rm', '-f', line]);
    await place[Symbol.asyncDispose]();
  });

  test('run gives output, exit codes, directory and environment', async () => {
    assert.deepEqual(await shell('plain', 'echo out; echo err >&2; exit 7'), { status: 7, stdout: 'out\n', stderr: 'err\n' });
    assert.equal((await shell('plain', 'pwd; echo $ONE; head -1', ['--cwd', '/tmp', '--env', 'ONE=1'], { input: 'through\n' })).stdout, '/tmp\n1\nthrough\n');
    assert.deepEqual(runtimeProcesses(), []);
  });

  test('a start that fails tells its reason through the shim, and nothing stays', async () => {
    const runs = async (...words: string[]): Promise<string> => {
      const finished = await ctr([...runWords('failing'), '--rm', '--rootfs', place.rootfs, 'failing', ...words]);
      assert.notEqual(finished.status, 0);
      return finished.stderr;
    };
    assert.match(await runs('nosuch'), /OCI runtime create failed: .*exec: "nosuch": executable file not found in \$PATH/);
    assert.match(await runs('/no/such'), /OCI runtime create failed: .*stat \/no\/such: no such file or directory/);
    assert.match(await runs('/etc/data'), /OCI runtime create failed: .*exec: "\/etc\/data": permission denied/);
    assert.match(await runs('/bin/garbage'), /exec format error/);
    assert.deepEqual(containerCgroups(place.cgroupParent), []);
    assert.deepEqual(runtimeProcesses(), []);
    assert.deepEqual((await ok(['task', 'ls', '-q'])) + (await ok(['container', 'ls', '-q'])), '');
  });

  test('the task belongs to the shim, no process of the runtime stays, and the exit code arrives', async () => {
    const pid = await detached('adopted', waiting);
    await assertAdopted(pid, /^containerd-shim /);
    await until('the script runs', () => log('adopted').includes('ready'));
    await ok(['task', 'kill', '-s', 'TERM', 'adopted']);
    await until('stopped', async () => (await status('adopted')) === 'STOPPED');
    assert.equal(log('adopted'), 'ready\nended\n');
    assert.match((await ctr(['task', 'rm', 'adopted'])).stderr, /non-zero exit code 3/);
    await ok(['container', 'rm', 'adopted']);
    assert.equal(readProcess(pid), undefined);
    assert.deepEqual(containerCgroups(place.cgroupParent), []);
  });

  test('exec joins, with and without a terminal, gives exit codes, and tells missing programs', async () => {
    await detached('joined', 'exec sleep 1000');
    assert.equal(
      await ok(['task', 'exec', '--exec-id', 'e1', '--cwd', '/tmp', '--user', '1000', 'joined', 'sh', '-c', 'id -un; pwd; head -c5 /proc/1/cmdline']),
      'alice\n/tmp\nsleep',
    );
    assert.equal((await ctr(['task', 'exec', '--exec-id', 'e2', 'joined', 'sh', '-c', 'exit 9'])).status, 9);
    assert.match((await ctr(['task', 'exec', '--exec-id', 'e3', 'joined', 'nosuch'])).stderr, /OCI runtime exec failed: .*exec: "nosuch": executable file not found in \$PATH/);
    assert.match((await ctr(['task', 'exec', '--exec-id', 'e4', 'joined', '/etc/data'])).stderr, /OCI runtime exec failed: .*exec: "\/etc\/data": permission denied/);
    const command = startCtr(['task', 'exec', '-t', '--exec-id', 'e5', 'joined', 'sh'], { terminal: true });
    command.type('tty; echo $((40+2))\n');
    await command.untilOutput('/dev/pts/');
    await command.untilOutput('42');
    command.type('exit 5\n');
    assert.equal((await command.finished).status, 5, command.output());
    assert.deepEqual(runtimeProcesses(), []);
    await remove('joined');
  });

  test('run -t has a terminal', async () => {
    const first = startCtr(
      [...runWords('typed'), '--rm', '-t', '--rootfs', place.rootfs, 'typed', 'sh', '-c', 'test -t 0 && test -t 2 && echo both; read line; echo "got $line"; exit 4'],
      { terminal: true },
    );
    await first.untilOutput('both');
    first.type('words\n');
    const { status: code, stdout } = await first.finished;
    assert.equal(code, 4, stdout);
    assert.match(stdout, /got words/);
  });

  test('pause, resume, processes and metrics', async () => {
    const pid = await detached('watched', 'sleep 1235 & while :; do echo tick; sleep 0.1; done', ['--memory-limit', '104857600', '--cpus', '0.5']);
    assert.equal(cgroupFile(pid, 'memory', { v1: 'memory.limit_in_bytes', v2: 'memory.max' }), '104857600');
    await ok(['task', 'pause', 'watched']);
    assert.equal(await status('watched'), 'PAUSED');
    const before = log('watched').length;
    assert.match((await ctr(['task', 'exec', '--exec-id', 'e1', 'watched', 'true'])).stderr, /paused|pausing/);
    assert.equal(log('watched').length, before);
    await ok(['task', 'resume', 'watched']);
    assert.equal(await status('watched'), 'RUNNING');
    await until('it goes on', () => log('watched').length > before);
    assert.match(await ok(['task', 'ps', 'watched']), new RegExp(`^${pid}\\s`, 'm'));
    assert.match(await ok(['task', 'metrics', 'watched']), /memory\.usage_in_bytes\s+\d+|memory\.usage\s+\d+/);
    await remove('watched');
  });

  test('namespaces by path, capabilities, a profile and a read-only root', async () => {
    const pid = await detached('lender', 'hostname lent; exec sleep 1112', ['--cap-add', 'CAP_SYS_ADMIN']);
    const joined = await shell('joiner', 'hostname; ps -o args', [
      '--with-ns',
      `uts:/proc/${pid}/ns/uts`,
      '--with-ns',
      `pid:/proc/${pid}/ns/pid`,
      '--with-ns',
      `ipc:/proc/${pid}/ns/ipc`,
    ]);
    assert.match(joined.stdout, /^lent\n[^]*sleep 1112/, joined.stderr);
    await remove('lender');
    const held = await shell('held', "touch /no 2>/dev/null || echo readonly; grep -E 'CapEff|Seccomp:' /proc/self/status | tr -d '\\t'", [
      '--read-only',
      '--seccomp',
      '--cap-drop',
      'CAP_KILL',
    ]);
    assert.match(held.stdout, /^readonly\nCapEff:[0-9a-f]+[^]*Seccomp:2\n$/, held.stderr);
  });
});
