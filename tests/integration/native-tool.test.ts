/** Tools that the launcher runs: what they get, what comes back, and that nothing of them goes on unseen. Needs no root. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '#core';
import { type Launcher, type ToolRequest, type ToolResult, startLauncher } from '#system';

const executable = process.env['BERTH_TEST_SHIM'] ?? new URL('../../native/build/berth-shim', import.meta.url).pathname;
const patienceMs = 20_000 * (process.env['BERTH_TEST_GUEST'] === '1' ? 20 : 1);
let directory: string;
let launcher: Launcher;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'berth-tool-'));
  const started = await startLauncher({ executable, runDir: directory, lockFile: join(directory, 'lock') });
  assert.ok(started.kind === 'owner');
  ({ launcher } = started);
});
after(async () => {
  await launcher.close();
  rmSync(directory, { recursive: true });
});

const run = async (script: string, more: Partial<ToolRequest> = {}, signal?: AbortSignal): Promise<ToolResult> =>
  launcher.runTool(
    { path: '/bin/sh', argv: ['sh', '-c', script], env: { PATH: '/usr/bin:/bin' }, timeoutMs: patienceMs, stdoutBytesMax: 65_536, stderrBytesMax: 1024, ...more },
    signal,
  );

const isDead = (pid: number): boolean => {
  try {
    return / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return true;
  }
};
async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!holds()) {
    assert.ok(performance.now() < deadline, `not within ${patienceMs} ms: ${what}`);
    await sleep(20);
  }
}
/** Pids that a script wrote into a file, once all are there. */
async function pidsIn(path: string, count: number): Promise<number[]> {
  const read = (): string[] => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []);
  await until(`${count} pids in ${path}`, () => read().length >= count);
  return read().map(Number);
}

test('a tool gets its arguments, environment, directory and standard input, and no other descriptor', async () => {
  const { exitCode, signal, stdout, stderr, timedOut } = await run('', {
    argv: [
      'sh',
      '-c',
      'cat; echo "$0 $1 $WHO $(pwd) $(umask)"; for fd in 3 4 5 6 7 8 9 10 11 12; do [ ! -e /proc/$$/fd/$fd ] || echo $fd; done; echo err >&2; exit 3',
      'zero',
      'one',
    ],
    env: { PATH: '/usr/bin:/bin', WHO: 'me' },
    directory: '/tmp',
    stdin: Buffer.from('in\n'),
  });
  assert.deepEqual([exitCode, signal, timedOut, stderr.toString()], [3, undefined, false, 'err\n']);
  assert.equal(stdout.toString(), 'in\nzero one me /tmp 0022\n');
});

test('a large input and a large output pass at the same time, and what is beyond the bound is dropped and told', async () => {
  const stdin = Buffer.alloc(3_000_000, 'x');
  const whole = await run('cat', { stdin, stdoutBytesMax: 4_000_000 });
  assert.ok(whole.stdout.equals(stdin));
  assert.equal(whole.stdoutTruncated, false);
  const cut = await run('cat; cat /dev/zero | head -c 5000 >&2', { stdin, stdoutBytesMax: 1000, stderrBytesMax: 10 });
  assert.deepEqual([cut.exitCode, cut.stdout.length, cut.stderr.length, cut.stdoutTruncated, cut.stderrTruncated], [0, 1000, 10, true, true]);
  assert.equal((await run('exit 0', { stdin })).exitCode, 0);
});

test('a tool that cannot be executed is an error with its path', async () => {
  const fails = async (path: string, code: string, message: string): Promise<void> =>
    assert.rejects(run('', { path }), (error: unknown) => error instanceof RuntimeError && error.code === code && error.message === message);
  await fails('/nowhere/tool', 'notFound', 'run /nowhere/tool: /nowhere/tool: ENOENT');
  await fails(directory, 'permissionDenied', `run ${directory}: ${directory}: EACCES`);
  await fails('relative', 'invalidArgument', 'run relative: relative: EINVAL');
  const { exitCode, signal } = await run('kill -TERM $$');
  assert.deepEqual([exitCode, signal], [143, 15]);
});

test('at its deadline a tool is killed with its children, and what it printed is told', async () => {
  const path = join(directory, 'deadline');
  const result = await run(`echo begun; sleep 100000 & echo $! >> ${path}; wait`, { timeoutMs: patienceMs / 8 });
  assert.deepEqual([result.timedOut, result.exitCode, result.stdout.toString()], [true, 137, 'begun\n']);
  const pids = await pidsIn(path, 1);
  await until('the child is dead', () => pids.every(isDead));
});

test('a tool that never stops talking is read no longer than its deadline', async () => {
  const result = await run('for i in 1 2 3 4 5 6; do cat /dev/zero & done; wait', { timeoutMs: 500 });
  assert.deepEqual([result.timedOut, result.signal, result.stdoutTruncated, result.stdout.length], [true, 9, true, 65_536]);
});

test('a child that keeps the streams open does not keep the answer, and is killed', async () => {
  const path = join(directory, 'left');
  const { exitCode, stdout } = await run(`sleep 100000 & echo $! > ${path}; echo done`);
  assert.deepEqual([exitCode, stdout.toString()], [0, 'done\n']);
  const pids = await pidsIn(path, 1);
  await until('the child is dead', () => pids.every(isDead));
});

test('a cancelled tool is killed with its children', async () => {
  const path = join(directory, 'cancelled');
  const abort = new AbortController();
  const result = run(`sleep 100000 & echo $! > ${path}; echo $$ >> ${path}; wait`, {}, abort.signal);
  const pids = await pidsIn(path, 2);
  abort.abort();
  await assert.rejects(result, (error: unknown) => error instanceof RuntimeError && error.code === 'cancelled' && error.message === 'run /bin/sh: cancelled');
  await until('both are dead', () => pids.every(isDead));
});

test('tools of an engine that was killed are dead before another one can take the lock', async () => {
  const path = join(directory, 'orphan');
  const [runDir, lockFile] = [mkdtempSync(join(directory, 'r')), join(directory, 'second-lock')];
  const owner = join(directory, 'owner.ts');
  writeFileSync(
    owner,
    `import { startLauncher } from '#system';
     const { launcher } = await startLauncher({ executable: ${JSON.stringify(executable)}, runDir: ${JSON.stringify(runDir)}, lockFile: ${JSON.stringify(lockFile)} });
     await launcher.runTool({ path: '/bin/sh', argv: ['sh', '-c', 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100000 >/dev/null 2>&1 & echo $! >> ${path}; done; echo $$ >> ${path}; wait'], env: { PATH: '/usr/bin:/bin' }, timeoutMs: 0, stdoutBytesMax: 10, stderrBytesMax: 10 });`,
  );
  // A module outside of the project knows no '#system'; so the program is given on standard input, from within it.
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-'], { cwd: new URL('../..', import.meta.url).pathname, stdio: ['pipe', 'inherit', 'inherit'] });
  child.stdin.end(readFileSync(owner));
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const pids = await pidsIn(path, 13);
  child.kill('SIGKILL');
  await ended;
  for (;;) {
    const next = await startLauncher({ executable, runDir, lockFile });
    if (next.kind === 'locked') continue;
    assert.ok(pids.every(isDead));
    await next.launcher.close();
    break;
  }
});
