/** podman and conmon from Debian with berth-oci as their runtime: everyday commands, and what failing ones say. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type Finished } from './berth-host.ts';
import { assertAdopted, cgroupFile, cgroupsBelow, isOurs, readProcess, runtime, runtimeProcesses, skipWithout, until } from './callers-host.ts';
import { Podman, image, waiting } from './callers-podman-host.ts';

describe('podman', { skip: skipWithout('podman', 'conmon', 'script') }, () => {
  let host: Podman;
  before(async () => {
    host = new Podman();
    await host.ok(['import', host.place.tar(), image]);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  test('uses the runtime under test', async () => {
    assert.equal(await host.ok(['info', '--format', '{{.Host.OCIRuntime.Path}}']), runtime);
    assert.match(await host.ok(['info', '--format', '{{.Host.OCIRuntime.Version}}']), isOurs ? /^berth-oci version / : /version/);
  });

  test('run gives output, both streams apart, input and exit codes', async () => {
    assert.deepEqual(await host.shell('echo out; echo err >&2; exit 7'), { status: 7, stdout: 'out\n', stderr: 'err\n' });
    assert.equal((await host.shell('cat', ['-i'], { input: 'through\n' })).stdout, 'through\n');
    assert.equal((await host.shell("sh -c 'kill -9 $$'; exit $?")).status, 137);
    const environment = await host.shell('pwd; id -u; id -g; echo $ONE; echo $HOME', ['-e', 'ONE=1', '-u', 'alice', '-w', '/tmp']);
    assert.equal(environment.stdout, '/tmp\n1000\n1000\n1\n/home/alice\n');
    assert.deepEqual(runtimeProcesses(), []);
  });

  test('a missing program is 127, one without the right to execute 126, each with its text, and nothing stays', async () => {
    const runs = async (...words: string[]): Promise<Finished> => host.podman(['run', '--rm', '--cgroup-parent', host.place.cgroupParent, '--network', 'none', image, ...words]);
    const missing = await runs('nosuch');
    assert.equal(missing.status, 127, missing.stderr);
    assert.match(missing.stderr, /exec: "nosuch": executable file not found in \$PATH/);
    assert.match(missing.stderr, /OCI runtime attempted to invoke a command that was not found/);
    const absent = await runs('/no/such');
    assert.equal(absent.status, 127, absent.stderr);
    assert.match(absent.stderr, /stat \/no\/such: no such file or directory/);
    const denied = await runs('/etc/data');
    assert.equal(denied.status, 126, denied.stderr);
    assert.match(denied.stderr, /exec: "\/etc\/data": permission denied/);
    const directory = await runs('/etc');
    assert.equal(directory.status, 126, directory.stderr);
    const garbage = await runs('/bin/garbage');
    assert.match(garbage.stderr + garbage.stdout, /exec format error/);
    assert.notEqual(garbage.status, 0);
    const workdir = await host.shell('true', ['-w', '/etc/data']);
    assert.notEqual(workdir.status, 0);
    assert.deepEqual(
      cgroupsBelow(host.place.cgroupParent).filter((group) => /[0-9a-f]{64}/.test(group)),
      [],
    );
    if (isOurs) assert.deepEqual(existsSync('/run/berth-oci') ? readdirSync('/run/berth-oci') : [], []);
  });

  test('before and after start the container belongs to conmon, no process of the runtime stays, and the exit code arrives', async () => {
    await host.ok(['create', '--name', 'staged', '--cgroup-parent', host.place.cgroupParent, '--network', 'none', image, 'sh', '-c', waiting]);
    await host.ok(['init', 'staged']);
    const created = Number(await host.inspect('staged', '{{.State.Pid}}'));
    await assertAdopted(created, /^conmon /);
    assert.equal(await host.inspect('staged', '{{.State.Status}}'), 'initialized');
    await host.ok(['start', 'staged']);
    const pid = Number(await host.inspect('staged', '{{.State.Pid}}'));
    assert.equal(pid, created);
    await assertAdopted(pid, /^conmon /);
    await until('the script runs', async () => (await host.ok(['logs', 'staged'])).includes('ready'));
    await host.ok(['stop', 'staged']);
    assert.equal(await host.ok(['wait', 'staged']), '3');
    assert.equal(await host.inspect('staged', '{{.State.ExitCode}} {{.State.Status}}'), '3 exited');
    assert.equal(await host.ok(['logs', 'staged']), 'ready\nended');
    assert.equal(readProcess(pid), undefined);
    await host.ok(['rm', 'staged']);
  });

  test('exec joins with user, directory and environment, gives exit codes, and tells missing programs', async () => {
    await host.detached('joined', 'echo ready; exec sleep 1000');
    assert.equal(
      await host.ok(['exec', '-u', 'alice', '-w', '/tmp', '-e', 'A=b', 'joined', 'sh', '-c', 'id -un; pwd; echo $A; cat /proc/1/cmdline | head -c5']),
      'alice\n/tmp\nb\nsleep',
    );
    assert.equal((await host.podman(['exec', 'joined', 'sh', '-c', 'exit 9'])).status, 9);
    assert.equal(await host.ok(['exec', '-i', 'joined', 'cat'], { input: 'in and out' }), 'in and out');
    const missing = await host.podman(['exec', 'joined', 'nosuch']);
    assert.equal(missing.status, 127, missing.stderr);
    assert.match(missing.stderr, /executable file .*not found in \$PATH/);
    const denied = await host.podman(['exec', 'joined', '/etc/data']);
    assert.equal(denied.status, 126, denied.stderr);
    assert.match(denied.stderr, /permission denied/);
    await host.ok(['exec', '-d', 'joined', 'sh', '-c', 'echo made > /tmp/made; exec sleep 1001']);
    await until('the detached process works', async () => (await host.ok(['exec', 'joined', 'ls', '/tmp'])).includes('made'));
    assert.match(await host.ok(['exec', '--privileged', 'joined', 'grep', 'CapEff', '/proc/self/status']), /CapEff:\s+[0-9a-f]{10,}/);
    assert.deepEqual(runtimeProcesses(), []);
    await host.ok(['rm', '-f', '-t', '0', 'joined']);
  });

  test('exec -it and run -it have a terminal with its size', async () => {
    await host.detached('typed', 'exec sleep 1000');
    const command = host.start(['exec', '-it', 'typed', 'sh'], { terminal: true });
    command.type('tty; stty -a | head -1; echo $((40+2))\n');
    await command.untilOutput('/dev/pts/');
    await command.untilOutput('42');
    command.type('exit 5\n');
    assert.equal((await command.finished).status, 5, command.output());
    await host.ok(['rm', '-f', '-t', '0', 'typed']);
    const first = host.start(
      [
        'run',
        '--rm',
        '-it',
        '--cgroup-parent',
        host.place.cgroupParent,
        '--network',
        'none',
        image,
        'sh',
        '-c',
        'tty; test -t 0 && test -t 2 && echo both; read line; echo "got $line"; exit 4',
      ],
      { terminal: true },
    );
    await first.untilOutput('both');
    first.type('words\n');
    const { status, stdout } = await first.finished;
    assert.equal(status, 4, stdout);
    assert.match(stdout, /\/dev\/(console|pts\/0)/);
    assert.match(stdout, /got words/);
  });

  test('attach, logs --follow and kill with a signal', async () => {
    const pid = await host.detached('watched', "trap 'echo hup' HUP; trap 'echo bye; exit 0' USR1; echo ready; while :; do sleep 0.1; done");
    const logs = host.start(['logs', '-f', 'watched']);
    await logs.untilOutput('ready');
    await host.ok(['kill', '-s', 'HUP', 'watched']);
    await logs.untilOutput('hup');
    const attached = host.start(['attach', '--sig-proxy=false', 'watched']);
    // Whether it is attached shows in what comes through.
    await until('attached', async () => {
      await host.ok(['kill', '-s', 'HUP', 'watched']);
      return attached.output().includes('hup');
    });
    await host.ok(['kill', '-s', 'SIGUSR1', 'watched']);
    await attached.untilOutput('bye');
    assert.equal((await attached.finished).status, 0);
    await logs.finished;
    assert.equal(readProcess(pid), undefined);
    const again = await host.podman(['kill', 'watched']);
    assert.notEqual(again.status, 0);
    assert.match(again.stderr, /not running|can only kill running/);
    await host.ok(['rm', 'watched']);
  });

  test('stop waits for the process, then kills it', async () => {
    const pid = await host.detached('deaf', "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    await until('the script runs', async () => (await host.ok(['logs', 'deaf'])).includes('ready'));
    await host.podman(['stop', '-t', '1', 'deaf']);
    assert.equal(await host.inspect('deaf', '{{.State.ExitCode}} {{.State.Status}}'), '137 exited');
    assert.equal(readProcess(pid), undefined);
    await host.ok(['rm', 'deaf']);
  });

  test('pause freezes, refuses exec, unpause goes on, and a paused container can be removed', async () => {
    const pid = await host.detached('frozen', 'while :; do echo tick; sleep 0.1; done');
    await host.ok(['pause', 'frozen']);
    assert.equal(await host.inspect('frozen', '{{.State.Status}}'), 'paused');
    const lines = (await host.ok(['logs', 'frozen'])).length;
    const refused = await host.podman(['exec', 'frozen', 'true']);
    assert.notEqual(refused.status, 0);
    assert.equal((await host.ok(['logs', 'frozen'])).length, lines);
    await host.ok(['unpause', 'frozen']);
    await until('it goes on', async () => (await host.ok(['logs', 'frozen'])).length > lines);
    await host.ok(['pause', 'frozen']);
    await host.ok(['rm', '-f', '-t', '0', 'frozen']);
    assert.equal(readProcess(pid), undefined);
  });

  test('update changes limits, top, stats, ps and inspect tell what is', async () => {
    const pid = await host.detached('limited', 'exec sleep 1234', ['--memory', '100m', '--cpus', '0.5']);
    assert.equal(cgroupFile(pid, 'memory', { v1: 'memory.limit_in_bytes', v2: 'memory.max' }), String(100 * 1024 * 1024));
    assert.match(cgroupFile(pid, 'cpu', { v1: 'cpu.cfs_quota_us', v2: 'cpu.max' }), /^50000/);
    await host.ok(['update', '--cpu-shares', '512', '--memory', '120m', 'limited']);
    assert.equal(cgroupFile(pid, 'memory', { v1: 'memory.limit_in_bytes', v2: 'memory.max' }), String(120 * 1024 * 1024));
    assert.match(cgroupFile(pid, 'cpu', { v1: 'cpu.shares', v2: 'cpu.weight' }), /^(512|20)$/);
    assert.match(await host.ok(['top', 'limited']), /sleep 1234/);
    assert.match(await host.ok(['top', 'limited', 'hpid', 'comm']), new RegExp(`${pid}\\s+sleep`));
    assert.match(await host.ok(['stats', '--no-stream', '--format', '{{.Name}} {{.MemUsage}} {{.PIDs}}', 'limited']), /^limited .*B \/ .* \d+$/);
    assert.match(await host.ok(['ps', '--format', '{{.Names}} {{.Status}}']), /limited Up/);
    await host.ok(['rm', '-f', '-t', '0', 'limited']);
    assert.deepEqual(
      cgroupsBelow(host.place.cgroupParent).filter((group) => /[0-9a-f]{64}/.test(group)),
      [],
    );
  });

  test('--init reaps orphans as process 1', async () => {
    const { status, stdout } = await host.shell('cat /proc/1/comm; sh -c "sleep 0.1 & exit 0"; sleep 1; ps -o stat,comm', ['--init']);
    assert.equal(status, 0);
    assert.match(stdout, /^(catatonit|podman-init|init)\n/);
    assert.doesNotMatch(stdout, /^Z/m);
  });

  test('volumes: bind, read-only, named, tmpfs, a file, a read-only root', async () => {
    const source = host.place.scratch('volume');
    writeFileSync(`${source}/file`, 'of the host\n');
    const volumes = ['-v', `${source}:/rw`, '-v', `${source}:/ro:ro`, '-v', 'named:/named', '--tmpfs', '/scratch:size=1m', '-v', `${source}/file:/etc/one:ro`];
    const script =
      'cat /rw/file /etc/one; echo new > /rw/new; touch /ro/x 2>/dev/null || echo refused; echo kept > /named/file; mount | grep /scratch | cut -d" " -f5; touch /no 2>/dev/null || echo root';
    const { stdout, stderr } = await host.shell(script, [...volumes, '--read-only']);
    assert.equal(stdout, 'of the host\nof the host\nrefused\ntmpfs\nroot\n', stderr);
    assert.equal(readFileSync(`${source}/new`, 'utf8'), 'new\n');
    assert.equal((await host.shell('cat /named/file', ['-v', 'named:/named'])).stdout, 'kept\n');
    await host.ok(['volume', 'rm', 'named']);
  });
});
