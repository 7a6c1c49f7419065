/**
 * The life of a container of the OCI runtime, called as container engines call it: which process is whose child, what each command prints and with what it ends, what fails how, and what is left.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { OciHost, addProgram, skipReason } from './oci-host.ts';

const skip = skipReason();
const parentOf = (pid: number): number => Number(/^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
/** Processes of this program that are not containers' own. */
const ownProcesses = (): readonly string[] =>
  execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes('berth-oci.mjs'));

describe('the life of a container', { skip }, () => {
  let host: OciHost;
  before(() => {
    host = new OciHost();
  });
  after(async () => host[Symbol.asyncDispose]());

  test('create leaves a process that waits, and nothing of ours beside it; start, kill and delete do what their names say', async () => {
    const bundle = host.makeBundle(['sh', '-c', 'echo running; exec sleep 1000'], (document) => {
      document.annotations = { 'example.org/ä': 'one "two"\n' };
    });
    const id = await host.create(bundle, undefined, ['--pid-file', `${host.directory}/pid`]);
    const created = await host.state(id);
    assert.equal(created.status, 'created');
    assert.deepEqual(
      { ...created, created: undefined },
      {
        ociVersion: '1.2.0',
        id,
        pid: Number(readFileSync(`${host.directory}/pid`, 'utf8')),
        status: 'created',
        bundle,
        rootfs: `${bundle}/rootfs`,
        annotations: { 'example.org/ä': 'one "two"\n' },
        owner: '',
        created: undefined,
      },
    );
    assert.deepEqual(ownProcesses(), []);
    assert.notEqual(parentOf(created.pid), process.pid, 'the process belongs to the subreaper and not to the one that has called');
    assert.equal(host.outputOf(id), '');
    await host.ok(['start', id]);
    await host.until(() => host.outputOf(id) === 'running\n', 'the program has printed');
    assert.equal((await host.state(id)).status, 'running');
    assert.equal((await host.state(id)).pid, created.pid);
    assert.match(await host.fails(['delete', id]), new RegExp(`cannot delete container ${id} that is not stopped: running`));
    assert.match(await host.fails(['start', id]), /cannot start an already running container/);
    await host.ok(['kill', id, 'KILL']);
    await host.untilStatus(id, 'stopped');
    assert.equal((await host.state(id)).pid, 0);
    assert.match(await host.fails(['start', id]), /cannot start a container that has stopped/);
    assert.match(await host.fails(['kill', id, 'TERM']), /container not running/);
    await host.ok(['delete', id]);
    assert.match(await host.fails(['state', id]), /container does not exist/);
    assert.match(await host.fails(['kill', id]), /container does not exist/);
    assert.match(await host.fails(['delete', id]), /container does not exist/);
    await host.ok(['delete', '--force', id]);
  });

  test('signals go by number and by name, and their default is SIGTERM', async () => {
    const id = await host.start(['sh', '-c', 'trap "echo usr1" USR1; trap "echo hup" HUP; trap "echo term; exit 7" TERM; echo ready; while :; do sleep 0.1; done']);
    await host.until(() => host.outputOf(id).includes('ready'), 'the traps are set');
    await host.ok(['kill', id, 'USR1']);
    await host.until(() => host.outputOf(id).includes('usr1'), 'USR1');
    await host.ok(['kill', id, '1']);
    await host.until(() => host.outputOf(id).includes('hup'), 'signal 1');
    await host.ok(['kill', id]);
    await host.untilStatus(id, 'stopped');
    assert.match(host.outputOf(id), /term\n$/);
    await host.ok(['delete', id]);
  });

  test('a container that was never started can be deleted, a running one by force', async () => {
    const waiting = await host.create(host.makeBundle(['sleep', '1000']));
    await host.ok(['delete', waiting]);
    const running = await host.start(['sleep', '1000']);
    const { pid } = await host.state(running);
    await host.ok(['delete', '--force', running]);
    assert.match(await host.fails(['state', running]), /container does not exist/);
    await host.until(() => !existsSync(`/proc/${pid}`) || /^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')), 'the process has ended');
    assert.deepEqual(host.listCgroups(), []);
  });

  test('run gives output, input and exit code, and leaves nothing', async () => {
    const piped = await host.run(['sh', '-c', 'cat; echo out; echo err >&2; exit 42'], undefined, { input: 'in\n' });
    assert.deepEqual(piped, { status: 42, signal: null, stdout: 'in\nout\n', stderr: 'err\n' });
    // The init of a PID namespace cannot kill itself.
    const killed = await host.run(['sh', '-c', 'kill -9 $$'], (document) => {
      document.linux.namespaces = document.linux.namespaces.filter(({ type }) => type !== 'pid');
    });
    assert.equal(killed.status, 137);
    assert.deepEqual(host.listCgroups(), []);
    const id = host.newId();
    assert.equal((await host.call(['run', '--keep', '--bundle', host.makeBundle(['true']), id])).status, 0);
    assert.equal((await host.state(id)).status, 'stopped');
    await host.ok(['delete', id]);
  });

  test('a detached run returns at once, with the process running', async () => {
    const id = host.newId();
    await host.ok(['run', '--detach', '--pid-file', `${host.directory}/detached`, '--bundle', host.makeBundle(['sleep', '1000']), id]);
    const { status, pid } = await host.state(id);
    assert.deepEqual([status, pid], ['running', Number(readFileSync(`${host.directory}/detached`, 'utf8'))]);
    assert.deepEqual(ownProcesses(), []);
    await host.ok(['delete', '-f', id]);
  });

  test('the home directory comes from the container’s own passwd, the last of equal variables counts', async () => {
    const { stdout, stderr } = await host.run(['sh', '-c', 'echo $HOME $TWICE $EMPTY.'], (document) => {
      document.process.env = ['PATH=/bin', 'TWICE=1', 'TWICE=2', 'HOME=', 'EMPTY='];
      document.process['user'] = { uid: 1000, gid: 1001 };
    });
    assert.equal(`${stdout}${stderr}`, '/srv/web 2 .\n');
  });

  test('a missing or unusable program fails its creation in the words that engines look for, and leaves nothing', async () => {
    const attempt = async (args: readonly string[]): Promise<string> => host.fails(['create', '--bundle', host.makeBundle(args), host.newId()]);
    assert.match(await attempt(['nothing-like-it']), /create failed: unable to start container process: exec: \\?"nothing-like-it\\?": executable file not found in \$PATH/);
    assert.match(await attempt(['/bin/nothing']), /exec: \\?"\/bin\/nothing\\?": stat \/bin\/nothing: no such file or directory/);
    assert.match(await attempt(['/etc/passwd']), /exec: \\?"\/etc\/passwd\\?": permission denied/);
    assert.match(await attempt(['/etc']), /exec: \\?"\/etc\\?": (is a directory|permission denied)/);
    assert.deepEqual(host.listCgroups(), []);
    const bundle = host.makeBundle(['/script']);
    writeFileSync(join(bundle, 'rootfs/script'), 'no program\n', { mode: 0o755 });
    const id = await host.create(bundle);
    assert.match(await host.fails(['start', id]), /exec \/script: exec format error/);
    assert.equal((await host.state(id)).status, 'stopped');
    await host.ok(['delete', id]);
  });

  test('an id is taken once, and a wrong one is refused', async () => {
    const id = await host.create(host.makeBundle(['sleep', '1000']));
    const other = host.makeBundle(['sleep', '1000']);
    assert.match(await host.fails(['create', '--bundle', other, id]), /container with given ID already exists/);
    assert.equal((await host.state(id)).status, 'created');
    await host.ok(['delete', id]);
    for (const wrong of ['../x', 'a/b', '..', 'a b']) assert.match(await host.fails(['create', '--bundle', other, wrong]), /invalid container ID format/);
  });

  test('what a bundle lacks is said before anything is made', async () => {
    const empty = join(host.directory, 'empty');
    mkdirSync(empty);
    assert.match(await host.fails(['create', '--bundle', empty, host.newId()]), /JSON specification file config\.json not found/);
    host.writeDocument(empty, '{"ociVersion": 1}');
    assert.match(await host.fails(['create', '--bundle', empty, host.newId()]), /ociVersion: must be a string/);
    const rootless = host.makeBundle(['true'], (document) => {
      document.root.path = 'nowhere';
    });
    assert.match(await host.fails(['create', '--bundle', rootless, host.newId()]), /rootfs \(.*\/nowhere\) does not exist/);
    const terminal = host.makeBundle(['true'], (document) => {
      document.process['terminal'] = true;
    });
    assert.match(await host.fails(['create', '--bundle', terminal, host.newId()]), /cannot allocate tty if runc will detach without setting console socket/);
    assert.deepEqual(host.listCgroups(), []);
  });

  test('hooks run at their moments with the bundle and the state that callers know', async () => {
    const note = (kind: string): { path: string; args: string[]; env: string[] } => ({
      path: '/bin/sh',
      args: ['sh', '-c', `{ echo ${kind} $(pwd) $0; cat; echo; } >> ${host.directory}/hooks`, 'end'],
      env: ['PATH=/bin:/usr/bin'],
    });
    const bundle = host.makeBundle(['sleep', '1000'], (document) => {
      document.hooks = {
        prestart: [note('prestart')],
        createRuntime: [note('createRuntime')],
        createContainer: [note('createContainer')],
        startContainer: [{ path: '/bin/sh', args: ['sh', '-c', '{ echo startContainer $(pwd); cat; echo; } > /data/hook'], env: ['PATH=/bin'] }],
        poststart: [note('poststart')],
        poststop: [note('poststop')],
      };
    });
    const lines = (): readonly string[] => readFileSync(`${host.directory}/hooks`, 'utf8').split('\n');
    const id = await host.create(bundle);
    const { pid } = await host.state(id);
    const stateOf = (kind: string): unknown => JSON.parse(lines()[lines().findIndex((line) => line.startsWith(`${kind} `)) + 1] ?? '');
    const common = { ociVersion: '1.2.0', id, bundle, annotations: {} };
    assert.deepEqual(stateOf('prestart'), { ...common, status: 'created', pid });
    assert.deepEqual(stateOf('createRuntime'), { ...common, status: 'creating', pid });
    assert.deepEqual(stateOf('createContainer'), { ...common, status: 'creating', pid: 1 });
    assert.ok(lines().includes(`createRuntime ${bundle} end`), lines().join('\n'));
    await host.ok(['start', id]);
    assert.deepEqual(stateOf('poststart'), { ...common, status: 'running', pid });
    assert.match(readFileSync(join(bundle, 'rootfs/data/hook'), 'utf8'), /^startContainer \/\n.*"status":"created".*"pid":1\}/);
    await host.ok(['delete', '--force', id]);
    assert.deepEqual(stateOf('poststop'), { ...common, status: 'stopped' });
  });

  test('a failing hook of the creation fails it, with the hook’s words, and nothing is left', async () => {
    const bundle = host.makeBundle(['true'], (document) => {
      document.hooks = {
        createRuntime: [{ path: '/bin/sh', args: ['sh', '-c', 'echo no such thing >&2; exit 3'] }],
        poststop: [{ path: '/bin/sh', args: ['sh', '-c', `echo after >> ${host.directory}/after`] }],
      };
    });
    assert.match(await host.fails(['create', '--bundle', bundle, host.newId()]), /error running createRuntime hook #0: .*exit code 3: no such thing/);
    assert.deepEqual(host.listCgroups(), []);
    assert.equal(readFileSync(`${host.directory}/after`, 'utf8'), 'after\n');
  });

  test('a failing hook of the start fails it and ends the container', async () => {
    const failing = { path: '/bin/sh', args: ['sh', '-c', 'echo not today >&2; exit 4'] };
    const inside = await host.create(
      host.makeBundle(['sleep', '1000'], (document) => {
        document.hooks = { startContainer: [failing] };
      }),
    );
    assert.match(await host.fails(['start', inside]), /error running startContainer hook #0: .*exit code 4: not today/);
    await host.untilStatus(inside, 'stopped');
    await host.ok(['delete', inside]);
    const outside = await host.create(
      host.makeBundle(['sleep', '1000'], (document) => {
        document.hooks = { poststart: [failing] };
      }),
    );
    assert.match(await host.fails(['start', outside]), /error running poststart hook: .*exit code 4: not today/);
    await host.untilStatus(outside, 'stopped');
    await host.ok(['delete', outside]);
    assert.deepEqual(host.listCgroups(), []);
  });

  test('a file with the log has the last error, as containerd’s shim reads it', async () => {
    const log = `${host.directory}/log.json`;
    const bundle = host.makeBundle(['nothing-like-it']);
    const { status } = await host.call(['--log', log, '--log-format', 'json', 'create', '--bundle', bundle, host.newId()]);
    assert.equal(status, 1);
    const last: unknown = JSON.parse(readFileSync(log, 'utf8').trim().split('\n').at(-1) ?? '');
    assert.ok(typeof last === 'object' && last !== null && 'level' in last && 'msg' in last);
    assert.equal(last.level, 'error');
    assert.match(String(last.msg), /create failed: unable to start container process: exec: "nothing-like-it": executable file not found in \$PATH$/);
  });

  test('exec has the container’s process with what its flags change, and ends as its program does', async () => {
    const id = await host.start(['sleep', '1000'], (document) => {
      document.process.env = ['PATH=/bin', 'KEPT=1'];
    });
    assert.equal(
      await host.ok(['exec', '--env', 'NEW=2', '--cwd', '/tmp', '--user', '1000:1001', id, 'sh', '-c', 'echo $KEPT $NEW $(pwd) $(id -u):$(id -g) $HOME']),
      '1 2 /tmp 1000:1001 /srv/web\n',
    );
    assert.equal((await host.call(['exec', id, 'sh', '-c', 'exit 9'])).status, 9);
    assert.equal((await host.call(['exec', id, 'sh', '-c', 'cat; exit 3'], { input: 'x\n' })).stdout, 'x\n');
    assert.match(
      await host.fails(['exec', id, 'nothing-like-it'], 255),
      /exec failed: unable to start container process: exec: \\?"nothing-like-it\\?": executable file not found in \$PATH/,
    );
    await host.ok(['exec', '--detach', '--pid-file', `${host.directory}/exec`, id, 'sleep', '999']);
    const pid = Number(readFileSync(`${host.directory}/exec`, 'utf8'));
    assert.equal(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), 'sleep\x00999\0');
    const document = `${host.directory}/process.json`;
    writeFileSync(document, JSON.stringify({ args: ['sh', '-c', 'echo $ONLY'], env: ['PATH=/bin', 'ONLY=this'], cwd: '/', user: { uid: 0, gid: 0 } }));
    assert.equal(await host.ok(['exec', '--process', document, id]), 'this\n');
    await host.ok(['kill', id, '9']);
    await host.untilStatus(id, 'stopped');
    assert.match(await host.fails(['exec', id, 'true'], 255), /cannot exec in a stopped container/);
    await host.ok(['delete', id]);
  });

  test('a paused container is seen, resumed and killed', async () => {
    const id = await host.start(['sleep', '1000']);
    await host.ok(['pause', id]);
    assert.equal((await host.state(id)).status, 'paused');
    assert.match(await host.fails(['exec', id, 'true'], 255), /cannot exec in a paused container/);
    await host.ok(['resume', id]);
    assert.equal((await host.state(id)).status, 'running');
    await host.ok(['pause', id]);
    await host.ok(['kill', id, 'KILL']);
    await host.untilStatus(id, 'stopped');
    await host.ok(['delete', id]);
  });

  test('descriptors of the caller reach the process only where it says so', async () => {
    const list = ['sh', '-c', 'ls /proc/self/fd | tr "\\n" " "'];
    const [plain, kept] = [host.makeBundle(list), host.makeBundle(list)];
    const shell = async (command: string): Promise<string> =>
      execFileSync('bash', ['-c', command], { encoding: 'utf8', env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' } });
    const runtime = `${new URL('../../dist/berth-oci', import.meta.url).pathname} --root ${host.stateRoot}`;
    // The listing has its own descriptor for the directory.
    assert.equal(await shell(`exec 5</dev/null 3</dev/null; ${runtime} run --bundle ${plain} ${host.newId()}`), '0 1 2 3 ');
    assert.equal(await shell(`exec 3</dev/null 4</dev/null 5</dev/null; ${runtime} run --preserve-fds 2 --bundle ${kept} ${host.newId()}`), '0 1 2 3 4 5 ');
  });

  test('without a PID namespace of its own, SIGKILL is for every process of the container', async () => {
    const id = await host.start(['sh', '-c', 'sleep 1001 & sleep 1002 & echo $!; wait'], (document) => {
      document.linux.namespaces = document.linux.namespaces.filter(({ type }) => type !== 'pid');
    });
    await host.until(() => /^\d+\n$/.test(host.outputOf(id)), 'the second process is there');
    const pid = Number(host.outputOf(id));
    await host.until(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8') === 'sleep\x001002\0', 'its program runs');
    await host.ok(['kill', id, 'KILL']);
    await host.untilStatus(id, 'stopped');
    await host.until(() => !existsSync(`/proc/${pid}`) || /^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')), 'its child has ended');
    await host.ok(['delete', id]);
  });

  test('a container that joins the PID namespace of another keeps its number from create to its end', async () => {
    const first = await host.start(['sleep', '1000']);
    const { pid } = await host.state(first);
    const second = await host.create(
      host.makeBundle(['sh', '-c', 'echo $$; exec sleep 1000'], (document) => {
        document.linux.namespaces = document.linux.namespaces.map((namespace) => (namespace.type === 'pid' ? { type: 'pid', path: `/proc/${pid}/ns/pid` } : namespace));
      }),
    );
    const created = await host.state(second);
    await host.ok(['start', second]);
    await host.until(() => host.outputOf(second) !== '', 'its program runs');
    assert.equal((await host.state(second)).pid, created.pid);
    assert.match(await host.ok(['exec', first, 'ps']), /sleep 1000[\s\S]*sleep 1000/);
    for (const id of [second, first]) await host.ok(['delete', '--force', id]);
  });

  test('a creation that is killed at any moment leaves what delete --force takes away', async () => {
    for (const stop of ['1', '2', '3']) {
      const marker = `${host.directory}/hook${stop}`;
      const bundle = host.makeBundle(['sleep', '1000'], (document) => {
        document.hooks = { createRuntime: [{ path: '/bin/sh', args: ['sh', '-c', `echo $PPID > ${marker}; exec sleep 1000`], env: ['PATH=/bin:/usr/bin'] }] };
      });
      const id = host.newId();
      const creation = host.call(['create', '--bundle', bundle, id]);
      await host.until(() => existsSync(marker) && readFileSync(marker, 'utf8') !== '', 'the creation is at its hook');
      const front = parentOf(Number(readFileSync(marker, 'utf8')));
      process.kill(front, 'SIGKILL');
      assert.equal((await creation).signal, 'SIGKILL');
      await host.ok(['delete', '--force', id]);
      assert.deepEqual(host.listCgroups(), []);
      assert.match(await host.fails(['state', id]), /container does not exist/);
    }
  });

  test('the program may be anything that the kernel executes', async () => {
    const bundle = host.makeBundle(['/opt/tool', 'echo', 'fine']);
    addProgram(bundle, 'opt/tool');
    writeFileSync(join(bundle, 'rootfs/opt/script'), '#!/bin/sh\necho from $0\n', { mode: 0o755 });
    // The name of busybox's applet is that of its file.
    assert.equal((await host.call(['run', '--bundle', bundle, host.newId()])).status, 127);
    assert.equal((await host.run(['/bin/busybox', 'echo', 'fine'])).stdout, 'fine\n');
    const script = host.makeBundle(['/opt/script']);
    mkdirSync(join(script, 'rootfs/opt'));
    writeFileSync(join(script, 'rootfs/opt/script'), '#!/bin/sh\necho from $0\n', { mode: 0o755 });
    assert.equal((await host.call(['run', '--bundle', script, host.newId()])).stdout, 'from /opt/script\n');
  });
});
