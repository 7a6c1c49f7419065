/** docker's engine from Debian with berth-oci as a registered runtime: its daemon, containerd and shim in this test's namespaces, without packet filter rules. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { readFacts } from '../facts.ts';
import { type Finished } from './berth-host.ts';
import {
  CallerPlace,
  type CommandOptions,
  type Running,
  assertAdopted,
  cgroupFile,
  cgroupsBelow,
  isOurs,
  readProcess,
  runtime,
  runtimeProcesses,
  skipWithout,
  start,
  until,
} from './callers-host.ts';

const image = 'localhost/busybox:1';
const lacksCapability = readFacts()['no-sys-resource'];
const waiting = "trap 'echo ended; exit 3' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.1; done";
/** Debian's own, where a machine has another one too. */
const client = ['/usr/bin/docker', '/usr/local/bin/docker'].find((file) => existsSync(file)) ?? 'docker';

/** docker asks for every capability that it knows. Berth gives those that its caller has; runc refuses where one is lacking. */
function assertPrivileged({ status, stdout, stderr }: Finished, given: RegExp): void {
  if (isOurs || !lacksCapability) assert.match(stdout, given, stderr);
  else assert.match(`${status} ${stderr}${stdout}`, /^12[56] [^]*operation not permitted/);
}

describe('docker', { skip: skipWithout('dockerd', 'docker', 'containerd', 'script') }, () => {
  let place: CallerPlace;

  const startDocker = (args: readonly string[], options: CommandOptions = {}): Running =>
    start([client, ...args], { ...options, env: { DOCKER_HOST: 'unix:///run/docker.sock', DOCKER_CONFIG: place.scratch('client') } });
  const docker = async (args: readonly string[], options: CommandOptions = {}): Promise<Finished> => startDocker(args, options).finished;
  const ok = async (args: readonly string[], options: CommandOptions = {}): Promise<string> => {
    const { status, stdout, stderr } = await docker(args, options);
    assert.equal(status, 0, `docker ${args.join(' ')}: status ${status}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  };
  const shell = async (script: string, options: readonly string[] = [], more: CommandOptions = {}): Promise<Finished> =>
    docker(['run', '--rm', '--network', 'none', ...options, image, 'sh', '-c', script], more);
  const inspect = async (name: string, format: string): Promise<string> => ok(['inspect', '--format', format, name]);
  const detached = async (name: string, script: string, options: readonly string[] = []): Promise<number> => {
    await ok(['run', '-d', '--name', name, '--network', 'none', ...options, image, 'sh', '-c', script]);
    return Number(await inspect(name, '{{.State.Pid}}'));
  };
  const logged = async (name: string, text: string): Promise<void> => until(`${name} prints ${text}`, async () => (await ok(['logs', name])).includes(text));

  before(async () => {
    place = new CallerPlace();
    const configuration = {
      runtimes: { tested: { path: runtime } },
      'default-runtime': 'tested',
      'data-root': place.scratch('data'),
      'exec-root': '/run/docker',
      pidfile: '/run/docker.pid',
      iptables: false,
      ip6tables: false,
      bridge: 'none',
      hosts: ['unix:///run/docker.sock'],
      'storage-driver': 'overlay2',
      'cgroup-parent': place.cgroupParent,
      'log-level': 'error',
    };
    await place.startService(
      'dockerd',
      ['dockerd', '--config-file', place.write('daemon.json', JSON.stringify(configuration))],
      async () => (await docker(['version'])).status === 0,
    );
    await ok(['import', place.tar(), image]);
  });
  after(async () => {
    const ids = (await ok(['ps', '-aq'])).split('\n').filter((id) => id !== '');
    if (ids.length > 0) await ok(['rm', '-f', ...ids]);
    await place[Symbol.asyncDispose]();
  });

  test('uses the runtime under test', async () => {
    assert.equal(await ok(['info', '--format', '{{.DefaultRuntime}} {{(index .Runtimes "tested").Path}}']), `tested ${runtime}`);
  });

  test('run gives output, both streams apart, input and exit codes', async () => {
    assert.deepEqual(await shell('echo out; echo err >&2; exit 7'), { status: 7, stdout: 'out\n', stderr: 'err\n' });
    assert.equal((await shell('cat', ['-i'], { input: 'through\n' })).stdout, 'through\n');
    const environment = await shell('pwd; id -u; id -g; echo $ONE; echo $HOME; hostname', ['-e', 'ONE=1', '-u', 'alice', '-w', '/tmp', '--hostname', 'named']);
    assert.equal(environment.stdout, '/tmp\n1000\n1000\n1\n/home/alice\nnamed\n');
    assert.deepEqual(runtimeProcesses(), []);
  });

  test('a missing program is 127, one without the right to execute 126, each with its text, and nothing stays', async () => {
    const runs = async (...words: string[]): Promise<Finished> => docker(['run', '--rm', '--network', 'none', image, ...words]);
    const missing = await runs('nosuch');
    assert.equal(missing.status, 127, missing.stderr);
    assert.match(missing.stderr, /exec: "nosuch": executable file not found in \$PATH/);
    const absent = await runs('/no/such');
    assert.equal(absent.status, 127, absent.stderr);
    assert.match(absent.stderr, /stat \/no\/such: no such file or directory/);
    const denied = await runs('/etc/data');
    assert.equal(denied.status, 126, denied.stderr);
    assert.match(denied.stderr, /exec: "\/etc\/data": permission denied/);
    const garbage = await runs('/bin/garbage');
    assert.match(garbage.stderr, /exec format error/);
    assert.deepEqual(
      cgroupsBelow(`${place.cgroupParent}`).filter((group) => /[0-9a-f]{64}/.test(group)),
      [],
    );
  });

  test('the container belongs to the shim, no process of the runtime stays, and the exit code arrives', async () => {
    const pid = await detached('adopted', waiting);
    await assertAdopted(pid, /^containerd-shim /);
    await logged('adopted', 'ready');
    await ok(['stop', 'adopted']);
    assert.equal(await ok(['wait', 'adopted']), '3');
    assert.equal(await inspect('adopted', '{{.State.Status}} {{.State.ExitCode}}'), 'exited 3');
    assert.equal(await ok(['logs', 'adopted']), 'ready\nended');
    await ok(['start', 'adopted']);
    await logged('adopted', 'ended\nready');
    await ok(['restart', '-t', '5', 'adopted']);
    await ok(['kill', 'adopted']);
    assert.equal(await ok(['wait', 'adopted']), '137');
    await ok(['rm', 'adopted']);
  });

  test('exec joins with user, directory and environment, gives exit codes, and tells missing programs', async () => {
    await detached('joined', 'exec sleep 1000');
    assert.equal(await ok(['exec', '-u', 'alice', '-w', '/tmp', '-e', 'A=b', 'joined', 'sh', '-c', 'id -un; pwd; echo $A; head -c5 /proc/1/cmdline']), 'alice\n/tmp\nb\nsleep');
    assert.equal((await docker(['exec', 'joined', 'sh', '-c', 'exit 9'])).status, 9);
    assert.equal(await ok(['exec', '-i', 'joined', 'cat'], { input: 'in and out' }), 'in and out');
    const missing = await docker(['exec', 'joined', 'nosuch']);
    assert.ok(missing.status === 126 || missing.status === 127, `${missing.status} ${missing.stderr}${missing.stdout}`);
    assert.match(missing.stderr + missing.stdout, /exec: "nosuch": executable file not found in \$PATH/);
    const denied = await docker(['exec', 'joined', '/etc/data']);
    assert.equal(denied.status, 126, denied.stderr);
    assert.match(denied.stderr + denied.stdout, /exec: "\/etc\/data": permission denied/);
    await ok(['exec', '-d', 'joined', 'sh', '-c', 'echo made > /tmp/made; exec sleep 1001']);
    await until('the detached process works', async () => (await ok(['exec', 'joined', 'ls', '/tmp'])).includes('made'));
    assertPrivileged(await docker(['exec', '--privileged', 'joined', 'grep', 'CapEff', '/proc/self/status']), /CapEff:\s+[0-9a-f]{8}f[ef]f{6}$/m);
    assert.deepEqual(runtimeProcesses(), []);
    await ok(['rm', '-f', 'joined']);
  });

  test('exec -it and run -it have a terminal', async () => {
    await detached('typed', 'exec sleep 1000');
    const command = startDocker(['exec', '-it', 'typed', 'sh'], { terminal: true });
    command.type('tty; echo $((40+2))\n');
    await command.untilOutput('/dev/pts/');
    await command.untilOutput('42');
    command.type('exit 5\n');
    assert.equal((await command.finished).status, 5, command.output());
    await ok(['rm', '-f', 'typed']);
    const first = startDocker(['run', '--rm', '-it', '--network', 'none', image, 'sh', '-c', 'test -t 0 && test -t 2 && echo both; read line; echo "got $line"; exit 4'], {
      terminal: true,
    });
    await first.untilOutput('both');
    first.type('words\n');
    const { status, stdout } = await first.finished;
    assert.equal(status, 4, stdout);
    assert.match(stdout, /got words/);
  });

  test('kill with a signal, and stop of one that does not listen', async () => {
    const pid = await detached('watched', waiting);
    await logged('watched', 'ready');
    await ok(['kill', '-s', 'HUP', 'watched']);
    await logged('watched', 'hup');
    await ok(['rm', '-f', 'watched']);
    assert.equal(readProcess(pid), undefined);
    await detached('deaf', "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    await logged('deaf', 'ready');
    await ok(['stop', '-t', '1', 'deaf']);
    assert.equal(await inspect('deaf', '{{.State.ExitCode}}'), '137');
    const again = await docker(['kill', 'deaf']);
    assert.notEqual(again.status, 0);
    assert.match(again.stderr, /is not running/);
    await ok(['rm', 'deaf']);
  });

  test('pause freezes, refuses exec, and unpause goes on', async () => {
    await detached('frozen', 'while :; do echo tick; sleep 0.1; done');
    await ok(['pause', 'frozen']);
    assert.equal(await inspect('frozen', '{{.State.Status}}'), 'paused');
    const lines = (await ok(['logs', 'frozen'])).length;
    assert.notEqual((await docker(['exec', 'frozen', 'true'])).status, 0);
    assert.equal((await ok(['logs', 'frozen'])).length, lines);
    await ok(['unpause', 'frozen']);
    await until('it goes on', async () => (await ok(['logs', 'frozen'])).length > lines);
    await ok(['pause', 'frozen']);
    await ok(['rm', '-f', 'frozen']);
  });

  test('update changes limits; top, stats, ps and inspect tell what is', async () => {
    const pid = await detached('limited', 'exec sleep 1234', ['--memory', '100m', '--memory-swap', '200m', '--cpus', '0.5', '--pids-limit', '50']);
    const memory = (): string => cgroupFile(pid, 'memory', { v1: 'memory.limit_in_bytes', v2: 'memory.max' });
    assert.equal(memory(), String(100 * 1024 * 1024));
    assert.match(cgroupFile(pid, 'cpu', { v1: 'cpu.cfs_quota_us', v2: 'cpu.max' }), /^50000/);
    assert.equal(cgroupFile(pid, 'pids', { v1: 'pids.max', v2: 'pids.max' }), '50');
    await ok(['update', '--memory', '120m', '--memory-swap', '240m', '--cpu-shares', '512', '--pids-limit', '60', 'limited']);
    assert.equal(memory(), String(120 * 1024 * 1024));
    assert.match(cgroupFile(pid, 'cpu', { v1: 'cpu.shares', v2: 'cpu.weight' }), /^(512|20)$/);
    assert.equal(cgroupFile(pid, 'pids', { v1: 'pids.max', v2: 'pids.max' }), '60');
    assert.match(await ok(['top', 'limited']), new RegExp(`\\b${pid}\\b.*sleep 1234`));
    assert.match(await ok(['stats', '--no-stream', '--format', '{{.Name}} {{.MemUsage}} {{.PIDs}}', 'limited']), /^limited .*iB \/ 120MiB 1$/);
    assert.match(await ok(['ps', '--format', '{{.Names}} {{.Status}}']), /limited Up/);
    await ok(['rm', '-f', 'limited']);
  });

  test('memory that is used up ends the process, and docker knows why', async () => {
    const { status } = await docker(['run', '--name', 'greedy', '--network', 'none', '--memory', '16m', '--memory-swap', '16m', image, 'sh', '-c', 'tail /dev/zero; exit $?']);
    assert.equal(status, 137);
    await until('the reason arrived', async () => (await inspect('greedy', '{{.State.OOMKilled}}')) === 'true');
    await ok(['rm', 'greedy']);
  });

  test('volumes: bind, read-only, named, tmpfs, a read-only root', async () => {
    const source = place.scratch('volume');
    writeFileSync(`${source}/file`, 'of the host\n');
    const script =
      'cat /rw/file; echo new > /rw/new; touch /ro/x 2>/dev/null || echo refused; echo kept > /named/file; mount | grep /scratch | cut -d" " -f5; touch /no 2>/dev/null || echo root';
    const { stdout, stderr } = await shell(script, ['-v', `${source}:/rw`, '-v', `${source}:/ro:ro`, '-v', 'named:/named', '--tmpfs', '/scratch:size=1m', '--read-only']);
    assert.equal(stdout, 'of the host\nrefused\ntmpfs\nroot\n', stderr);
    assert.equal(readFileSync(`${source}/new`, 'utf8'), 'new\n');
    assert.equal((await shell('cat /named/file', ['-v', 'named:/named'])).stdout, 'kept\n');
    await ok(['volume', 'rm', 'named']);
  });

  test('--init, privileges, limits, devices and namespaces of another container', async () => {
    assert.match((await shell('cat /proc/1/comm', ['--init'])).stdout, /^(docker-init|tini)\n/);
    const script = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'; ulimit -n";
    const few = await shell(script, ['--cap-drop', 'all', '--cap-add', 'net_admin', '--security-opt', 'no-new-privileges', '--ulimit', 'nofile=99:100']);
    assert.equal(few.stdout, 'CapEff:0000000000001000\nNoNewPrivs:1\nSeccomp:2\n99\n', few.stderr);
    assertPrivileged(await shell(script, ['--privileged']), /^CapEff:[0-9a-f]{8}f[ef]f{6}\nNoNewPrivs:0\nSeccomp:0\n/);
    const device = await shell('head -c4 /dev/mine | wc -c; ls /sys/firmware | wc -l; cat /proc/sys/kernel/shmmax', [
      '--device',
      '/dev/zero:/dev/mine:r',
      '--sysctl',
      'kernel.shmmax=4096',
    ]);
    assert.equal(device.stdout, '4\n0\n4096\n', device.stderr);
    await detached('lender', 'exec sleep 1112', ['--hostname', 'lent', '--ipc', 'shareable']);
    const joined = await docker(['run', '--rm', '--network', 'container:lender', '--pid', 'container:lender', '--ipc', 'container:lender', image, 'ps', '-o', 'args']);
    assert.match(joined.stdout, /sleep 1112/, joined.stderr);
    await ok(['rm', '-f', 'lender']);
  });

  test('health checks and the restart policy', async () => {
    await detached('checked', 'touch /tmp/well; exec sleep 1000', ['--health-cmd', 'test -e /tmp/well', '--health-interval', '200ms', '--health-retries', '1']);
    const health = async (): Promise<string> => inspect('checked', '{{.State.Health.Status}}');
    await until('it is well', async () => (await health()) === 'healthy');
    await ok(['exec', 'checked', 'rm', '/tmp/well']);
    await until('it is ill', async () => (await health()) === 'unhealthy');
    await ok(['rm', '-f', 'checked']);
    await ok(['run', '-d', '--name', 'stubborn', '--network', 'none', '--restart', 'on-failure:2', image, 'sh', '-c', 'echo try; exit 1']);
    await until('it gave up', async () => (await ok(['logs', 'stubborn'])) === 'try\ntry\ntry');
    await ok(['rm', '-f', 'stubborn']);
  });
});
