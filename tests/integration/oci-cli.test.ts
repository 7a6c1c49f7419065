/** The command line of the OCI runtime as its callers see it: texts, exit codes, logs, and the commands that look at containers or change their limits. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OciHost, runtimePrograms, skipReason } from './oci-host.ts';

const skip = skipReason();

/** Runs the runtime with a pipe as its standard input; Node's own are sockets. */
function piped(host: OciHost, input: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync('/bin/sh', ['-c', 'cat | "$0" "$@"', runtimePrograms.berth, '--root', host.stateRoot, ...args], {
    input,
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' },
  });
  assert.equal(status, 0, stderr);
}

describe('command line of berth-oci', { skip, concurrency: false }, () => {
  test('version, help, unknown commands', async () => {
    await using host = new OciHost();
    assert.match(await host.ok(['--version']), /^berth-oci version \d+\.\d+\.\d+\nspec: 1\.3\.0\n$/);
    assert.match(await host.ok(['update', '--help']), /^NAME:\n {3}berth-oci update - /);
    assert.match(await host.fails(['frobnicate'], 3), /level=error msg="No help topic for 'frobnicate'"/);
    assert.match(await host.fails(['start'], 1), /level=error msg="berth-oci: \\"start\\" requires exactly 1 argument\(s\)"/);
  });

  test('a log file gets the error as JSON, standard error as words', async () => {
    await using host = new OciHost();
    const log = `${host.directory}/log.json`;
    const { status, stderr } = await host.call(['--log', log, '--log-format', 'json', 'state', 'nobody']);
    assert.equal(status, 1);
    assert.equal(stderr, 'container does not exist\n');
    const line: unknown = JSON.parse(readFileSync(log, 'utf8'));
    assert.ok(typeof line === 'object' && line !== null && 'level' in line && 'msg' in line && 'time' in line);
    assert.equal(line.level, 'error');
    assert.equal(line.msg, 'container does not exist');
    assert.match(String(line.time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  test('a log on standard error is told once', async () => {
    await using host = new OciHost();
    const { stderr } = await host.call(['--log', '/dev/stderr', '--log-format', 'json', 'state', 'nobody']);
    assert.match(stderr, /^\{"level":"error","msg":"container does not exist","time":"[^"]+"\}\n$/);
  });

  test('spec writes a document that runs, and never over another', async () => {
    await using host = new OciHost();
    const bundle = host.makeBundle(['true']);
    assert.match(await host.fails(['spec', '--bundle', bundle]), /File config\.json exists\. Remove it first/);
    const fresh = `${host.directory}/fresh`;
    mkdirSync(fresh);
    await host.ok(['spec'], { cwd: fresh });
    // SAFETY: what was just written; `run` is the judge of it.
    const document = JSON.parse(readFileSync(`${fresh}/config.json`, 'utf8')) as { process: { terminal: boolean; args: string[] }; linux: object };
    document.process.terminal = false;
    document.process.args = ['echo', 'from the starter'];
    host.writeDocument(bundle, document);
    assert.equal(await host.ok(['run', '--bundle', bundle, host.newId()]), 'from the starter\n');
  });

  test('features is a document of the specification', async () => {
    await using host = new OciHost();
    // SAFETY: asserted below.
    const features = JSON.parse(await host.ok(['features'])) as { ociVersionMax: string; hooks: string[]; linux: { namespaces: string[]; cgroup: { systemd: boolean } } };
    assert.equal(features.ociVersionMax, '1.3.0');
    assert.deepEqual(features.hooks, ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop']);
    assert.deepEqual(features.linux.namespaces, ['cgroup', 'ipc', 'mount', 'network', 'pid', 'time', 'user', 'uts']);
    assert.equal(features.linux.cgroup.systemd, false);
  });

  test('list and ps show what runs', async () => {
    await using host = new OciHost();
    assert.match(await host.fails(['list']), /open .*state: no such file or directory/);
    const id = await host.start(['sleep', '1000']);
    const { pid } = await host.state(id);
    assert.match(await host.ok(['list']), new RegExp(`^ID +PID +STATUS +BUNDLE +CREATED +OWNER\n${id} +${pid} +running +/\\S+ +\\S+Z +root\n$`));
    assert.equal(await host.ok(['list', '-q']), `${id}\n`);
    assert.deepEqual(
      JSON.parse(await host.ok(['list', '--format', 'json'])).map(({ id: name, status }: { id: string; status: string }) => ({ name, status })),
      [{ name: id, status: 'running' }],
    );
    assert.deepEqual(JSON.parse(await host.ok(['ps', '--format', 'json', id])), [pid]);
    assert.match(await host.ok(['ps', id, '-o', 'pid,comm']), new RegExp(`^ *PID COMMAND\n *${pid} sleep\n$`));
    assert.match(await host.fails(['ps', id, '-o', 'comm']), /couldn't find PID field in ps output/);
    await host.ok(['delete', '--force', id]);
    assert.equal(await host.ok(['list', '-f', 'json']), 'null\n');
  });

  test('update changes limits by flags, by a file and by standard input, and the document says so', async () => {
    await using host = new OciHost();
    const id = await host.start(['sleep', '1000']);
    const statsOf = async (): Promise<{ data: { memory: { usage: { limit: number } }; pids: { limit?: number; current: number } } }> =>
      JSON.parse(await host.ok(['events', '--stats', id]));
    await host.ok(['update', '--memory', '64m', '--pids-limit', '55', id]);
    let { data } = await statsOf();
    assert.equal(data.memory.usage.limit, 64 * 1024 ** 2);
    assert.deepEqual(data.pids, { current: 1, limit: 55 });
    const file = `${host.directory}/resources.json`;
    writeFileSync(file, JSON.stringify({ pids: { limit: 66 } }));
    await host.ok(['update', '--resources', file, id]);
    piped(host, JSON.stringify({ memory: { limit: 48 * 1024 ** 2 } }), ['update', '-r', '-', id]);
    ({ data } = await statsOf());
    assert.equal(data.memory.usage.limit, 48 * 1024 ** 2);
    assert.equal(data.pids.limit, 66);
    const document = JSON.parse(readFileSync(`${host.stateRoot}/${id}/config.json`, 'utf8'));
    assert.equal(document.linux.resources.memory.limit, 48 * 1024 ** 2);
    assert.equal(document.linux.resources.pids.limit, 66);
    writeFileSync(file, '{"pids":{"limit":"many"}}');
    assert.match(await host.fails(['update', '-r', file, id]), /resources\.pids\.limit: must be /);
  });

  test('commands that change a container wait for one another, whoever can tell its id', async () => {
    await using host = new OciHost();
    const id = await host.start(['sleep', '1000']);
    for (const command of [
      ['update', '--pids-limit', '77', id],
      ['pause', id],
      ['--debug', 'resume', '--', id],
    ]) {
      const holder = spawn('flock', ['--exclusive', `${host.stateRoot}/${id}`, 'sh', '-c', 'echo locked; read line'], { stdio: ['pipe', 'pipe', 'inherit'] });
      const holderEnd = once(holder, 'exit');
      await once(holder.stdout, 'data');
      let isDone = false;
      const call = host.ok(command).then(() => (isDone = true));
      // A command that did not wait would be done by then; on a slow machine this shows less, and never fails.
      await sleep(500);
      assert.equal(isDone, false, command.join(' '));
      holder.stdin.end('go\n');
      await Promise.all([call, holderEnd]);
    }
    assert.equal(JSON.parse(readFileSync(`${host.stateRoot}/${id}/config.json`, 'utf8')).linux.resources.pids.limit, 77);
  });

  test('pause and resume, also where the front hands them over', async () => {
    await using host = new OciHost();
    const id = await host.start(['sleep', '1000']);
    await host.ok(['--debug', 'pause', '--', id]);
    assert.equal((await host.state(id)).status, 'paused');
    assert.match(await host.fails(['exec', id, 'true'], 255), /exec failed: cannot exec in a paused container/);
    await host.ok(['resume', id]);
    assert.equal((await host.state(id)).status, 'running');
    assert.match(await host.fails(['resume', id]), /container not paused/);
  });

  test('events end with the container', async () => {
    await using host = new OciHost();
    const id = await host.start(['sleep', '1000']);
    const child = spawn(runtimePrograms.berth, ['--root', host.stateRoot, 'events', '--interval', '50ms', id], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' },
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    const ended = once(child, 'close');
    await host.until(() => output.split('\n').length > 2, 'two statistics come');
    await host.ok(['kill', id, 'KILL']);
    assert.deepEqual(await ended, [0, null]);
    for (const line of output.trimEnd().split('\n')) assert.equal(JSON.parse(line).type, 'stats');
    assert.match(await host.fails(['events', '--stats', id]), new RegExp(`container with id ${id} is not running`));
  });

  test('what is not supported is refused in one sentence', async () => {
    await using host = new OciHost();
    assert.match(await host.fails(['--systemd-cgroup', 'list']), /--systemd-cgroup is not supported: /);
    assert.match(await host.fails(['spec', '--rootless']), /--rootless is not supported: /);
    assert.match(await host.fails(['checkpoint', 'nobody']), /container does not exist/);
    assert.match(await host.fails(['restore', 'nobody']), /restore container: not possible on this host: criu check: |image directory .* does not exist/);
  });
});
