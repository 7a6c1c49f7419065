/** The same calls to berth-oci and, where it is installed, to runc: what a caller sees of states, signals, terminals, environments and failures. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { type OciDocument, OciHost, type RuntimeName, patienceMs, runtimePrograms, skipReason } from './oci-host.ts';

const runtimes: readonly RuntimeName[] = skipReason('runc') === false ? ['berth', 'runc'] : ['berth'];
const forever = ['sleep', '1000'];
const trap = (words: string): readonly string[] => ['sh', '-c', `${words}; echo ready; while :; do usleep 20000; done`];

/** Starts a command that stays, and waits until its output has `ready`; `terminal` gives it one of 33 rows and 77 columns by script(1). */
async function stay(
  host: OciHost,
  args: readonly string[],
): Promise<{ kill(signal: NodeJS.Signals): void; readonly ended: Promise<{ readonly code: number | null; readonly output: string }> }> {
  const child = spawn(runtimePrograms[host.runtime], ['--root', host.stateRoot, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' },
    timeout: patienceMs,
    killSignal: 'SIGKILL',
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const ended = new Promise<{ readonly code: number | null; readonly output: string }>((resolve, reject) => {
    child.once('error', reject).once('close', (code) => resolve({ code, output }));
  });
  await host.until(() => output.includes('ready'), 'the process is ready');
  return { kill: (signal) => void child.kill(signal), ended };
}

for (const runtime of runtimes) {
  describe(`${runtime} as its callers see it`, { skip: skipReason(runtime) }, () => {
    test('a container that waits for its start ends by the signals that end others', async () => {
      await using host = new OciHost(runtime);
      for (const signal of ['TERM', 'HUP', 'INT', 'KILL']) {
        const id = await host.create(host.makeBundle(forever));
        await host.ok(['kill', id, signal]);
        await host.untilStatus(id, 'stopped');
        assert.match(await host.fails(['start', id]), /cannot start a container that has stopped/);
        await host.ok(['delete', id]);
      }
    });

    test('one that is paused before its start is paused: it is not started, and goes on as it was', async () => {
      await using host = new OciHost(runtime);
      const id = await host.create(host.makeBundle(forever));
      assert.match(await host.fails(['resume', id]), /container not paused/);
      await host.ok(['pause', id]);
      assert.equal((await host.state(id)).status, 'paused');
      assert.match(await host.fails(['start', id]), /cannot start a container in the paused state/);
      await host.ok(['resume', id]);
      assert.equal((await host.state(id)).status, 'created');
      await host.ok(['start', id]);
      assert.equal((await host.state(id)).status, 'running');
      await host.ok(['pause', id]);
      assert.match(await host.fails(['pause', id]), /container not running/);
      await host.ok(['resume', id]);
      assert.match(await host.fails(['resume', id]), /container not paused/);
    });

    test('an exec takes signals from its first instant, and no change of a window that is not its own', async () => {
      await using host = new OciHost(runtime);
      const id = await host.start(forever);
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
        const exec = await stay(host, ['exec', id, ...trap('trap "echo window" WINCH; trap "echo got; exit 9" TERM INT HUP')]);
        exec.kill('SIGWINCH');
        exec.kill(signal);
        assert.deepEqual(await exec.ended, { code: 9, output: 'ready\ngot\n' }, signal);
      }
    });

    test('words of exec that make no process are refused', async () => {
      await using host = new OciHost(runtime);
      const id = await host.start(forever);
      assert.match(await host.fails(['exec', '--cwd', 'tmp', id, 'true'], 255), /Cwd must be an absolute path/);
      if (runtime === 'berth') for (const entry of ['NAME', '', '=x']) assert.match(await host.fails(['exec', '--env', entry, id, 'true'], 255), /invalid environment variable/);
      assert.match(await host.fails(['exec', '--cwd', '/none', id, 'true'], 255), /no such file or directory/);
      assert.match(await host.fails(['exec', '--cwd', '/etc/passwd', id, 'true'], 255), /not a directory/);
    });

    test('a process of a file has the capabilities and the OOM score of the container where it names none', async () => {
      await using host = new OciHost(runtime);
      const id = await host.start(forever, (document) => {
        document.process['capabilities'] = { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], permitted: ['CAP_KILL'] };
        document.process['oomScoreAdj'] = 300;
      });
      const path = `${host.directory}/process.json`;
      writeFileSync(path, JSON.stringify({ args: ['sh', '-c', 'cat /proc/self/oom_score_adj; grep -E "^Cap(Eff|Bnd)" /proc/self/status'], cwd: '/', env: ['PATH=/bin'] }));
      assert.deepEqual((await host.ok(['exec', '--process', path, id])).trim().split(/\s+/), ['300', 'CapEff:', '0000000000000020', 'CapBnd:', '0000000000000020']);
    });

    test('failures have the words by which callers choose their exit codes', async () => {
      await using host = new OciHost(runtime);
      const missing = await host.run(['true'], (document) => void document.mounts.push({ destination: '/x', type: 'bind', source: '/none', options: ['bind'] }));
      assert.equal(missing.status, 1);
      assert.match(missing.stderr, /\/none.*no such file or directory/);
      const hook = await host.run(['true'], (document) => void (document.hooks = { prestart: [{ path: '/none' }] }));
      assert.match(hook.stderr, /error running (?:prestart )?hook #0: .*no such file or directory/);
      const unknown = await host.run(['echo', 'ran'], (document) => void (document.process['capabilities'] = { bounding: ['CAP_NO_SUCH'] }));
      assert.equal(unknown.stdout, 'ran\n');
      assert.match(unknown.stderr, /level=warning msg="ignoring unknown or unavailable capabilities: /);
    });

    test('a pid file that cannot be put in its place fails the creation, and nothing is left', async () => {
      await using host = new OciHost(runtime);
      const bundle = host.makeBundle(forever);
      const directory = `${host.directory}/place`;
      mkdirSync(directory);
      for (const file of ['/none/pid', directory]) {
        const id = host.newId();
        await host.fails(['create', '--bundle', bundle, '--pid-file', file, id]);
        await host.fails(['run', '--detach', '--bundle', bundle, '--pid-file', file, id]);
        assert.equal(existsSync(`${host.stateRoot}/${id}`), false);
      }
      assert.deepEqual(host.listCgroups(), []);
      if (runtime === 'berth') assert.equal(existsSync(`${host.directory}/.place`), false);
    });

    test('commands at once: eight creations, starts of one container, fifty execs, updates, and a deletion while a process is in it', async () => {
      await using host = new OciHost(runtime);
      const ids = await Promise.all(Array.from({ length: 8 }, async () => host.create(host.makeBundle(forever))));
      const [id = ''] = ids;
      // Of several starts at once of runc 1.1 one may wait for ever at its FIFO.
      const starts = await Promise.all(ids.slice(0, runtime === 'berth' ? 4 : 1).map(async () => host.call(['start', id])));
      assert.deepEqual(
        starts.map(({ status }) => status === 0).sort((a, b) => Number(b) - Number(a)),
        runtime === 'berth' ? [true, false, false, false] : [true],
      );
      const execs = await Promise.all(Array.from({ length: 50 }, async (_item, index) => host.call(['exec', id, 'sh', '-c', `echo ${index}; exit ${index % 7}`])));
      assert.deepEqual(
        execs.map(({ status, stdout, stderr }) => [status, stdout, stderr]),
        execs.map((_item, index) => [index % 7, `${index}\n`, '']),
      );
      const mixed = await Promise.all(
        Array.from({ length: 6 }, async (_item, index) => host.call(index % 2 === 0 ? ['update', '--pids-limit', `${100 + index}`, id] : ['exec', id, 'true'])),
      );
      assert.deepEqual(
        mixed.map(({ status, stderr }) => [status, stderr]),
        mixed.map(() => [0, '']),
      );
      const exec = await stay(host, ['exec', id, 'sh', '-c', 'echo ready; sleep 1000']);
      const deletions = await Promise.all((runtime === 'berth' ? [1, 2, 3] : [1]).map(async () => host.call(['delete', '--force', id])));
      assert.equal((await exec.ended).code, 137);
      assert.deepEqual(
        deletions.map(({ status, stderr }) => [status, stderr]),
        deletions.map(() => [0, '']),
      );
    });
  });
}

describe('berth-oci beyond runc', { skip: skipReason() }, () => {
  test('a hook has no signal ignored or held back, whoever runs it', async () => {
    await using host = new OciHost();
    const log = `${host.directory}/hooks`;
    const hook = (kind: string): OciDocument['hooks'] => ({
      [kind]: [{ path: '/bin/sh', args: ['sh', '-c', `grep -E '^Sig(Blk|Ign)' /proc/self/status >> ${log}`], env: ['PATH=/bin:/usr/bin'] }],
    });
    const kinds = ['prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop'];
    await host.run(['true'], (document) => void (document.hooks = Object.assign({}, ...kinds.map(hook))));
    const lines = readFileSync(log, 'utf8').trim().split('\n');
    assert.equal(lines.length, 2 * kinds.length);
    for (const line of lines) assert.match(line, /^Sig(?:Blk|Ign):\s+0{16}$/);
  });

  test('a process that the kernel ends for want of memory is called so', async () => {
    await using host = new OciHost();
    const { status, stderr } = await host.run(['true'], (document) => void (document.linux.resources = { memory: { limit: 4096 } }));
    assert.equal(status, 1);
    assert.match(stderr, /container init was OOM-killed \(memory limit too low\?\)/);
  });

  test('a document that is no object is refused by its path', async () => {
    await using host = new OciHost();
    const bundle = host.makeBundle(['true']);
    for (const text of ['[]', 'null', '7']) {
      writeFileSync(`${bundle}/config.json`, text);
      assert.match(await host.fails(['run', '--bundle', bundle, host.newId()]), /config\.json: must be an object/);
    }
    assert.equal(existsSync(host.stateRoot), false);
  });
});
