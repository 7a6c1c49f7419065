/** conmon from Debian with berth-oci, called as podman and CRI-O call it: its pid, exit and error messages, terminal, log, and what it runs afterwards. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { CallerPlace, assertAdopted, containerCgroups, isOurs, readProcess, run, runtime, runtimeProcesses, skipWithout, until } from './callers-host.ts';

/** What a conmon does for one container or one exec. */
interface Supervised {
  /** First line of its sync pipe, decoded: the process, or -1 and why there is none. */
  readonly answer: { readonly data?: number; readonly message?: string };
  readonly log: () => string;
  readonly exitCode: () => string | undefined;
}

describe('conmon', { skip: skipWithout('conmon') }, () => {
  let place: CallerPlace;
  let count = 0;
  const root = (): string => place.scratch('state');
  const oci = async (...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> => run([runtime, '--root', root(), ...args]);

  const bundle = (id: string, args: readonly string[], { terminal = false } = {}): string => {
    const directory = place.scratch(`bundle-${id}`);
    const process = { terminal, user: { uid: 0, gid: 0 }, args, env: ['PATH=/bin'], cwd: '/' };
    const mounts = [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['newinstance', 'ptmxmode=0666', 'mode=0620'] },
    ];
    const linux = { cgroupsPath: `${place.cgroupParent}/${id}`, namespaces: ['pid', 'ipc', 'uts', 'mount', 'network'].map((type) => ({ type })) };
    writeFileSync(`${directory}/config.json`, JSON.stringify({ ociVersion: '1.0.2', process, root: { path: place.rootfs }, mounts, linux }));
    return directory;
  };

  /** Starts a conmon and waits for what it tells through the sync pipe. */
  const supervise = async (id: string, directory: string, options: readonly string[] = []): Promise<Supervised> => {
    count += 1;
    const [log, exits] = [`${place.directory}/${id}-${count}.log`, place.scratch(`exits-${count}`)];
    const words = [
      '-c',
      id,
      '-u',
      `${id}-${count}`,
      '-n',
      id,
      '-r',
      runtime,
      '-b',
      directory,
      '-l',
      `k8s-file:${log}`,
      '--exit-dir',
      exits,
      '--socket-dir-path',
      place.scratch('sockets'),
    ];
    const state = ['--runtime-arg', `--root=${root()}`, '-p', `${place.directory}/${id}-${count}.pid`, '-P', `${place.directory}/${id}-${count}.conmon`];
    const child: ChildProcess = spawn('conmon', ['--api-version', '1', ...words, ...state, ...options], {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', _OCI_SYNCPIPE: '3', _OCI_STARTPIPE: '4' },
    });
    const [sync, go] = [child.stdio[3], child.stdio[4]];
    assert.ok(sync !== null && sync !== undefined && 'read' in sync && go !== null && go !== undefined && 'write' in go);
    let told = '';
    sync.on('data', (bytes: Buffer) => (told += bytes.toString()));
    go.on('error', () => undefined);
    go.write('\0');
    await until(`conmon tells of ${id}`, () => told.includes('\n') || (told.startsWith('{') && told.trimEnd().endsWith('}')));
    sync.destroy();
    go.destroy();
    const exit = `${exits}/${id}`;
    return {
      // SAFETY: conmon's own words; what is read is compared.
      answer: JSON.parse(told.split('\n')[0] ?? '') as Supervised['answer'],
      log: () => (existsSync(log) ? readFileSync(log, 'utf8').replaceAll(/^\S+ (stdout|stderr) F /gm, '$1 ') : ''),
      exitCode: () => (existsSync(exit) ? readFileSync(exit, 'utf8') : undefined),
    };
  };

  before(() => {
    place = new CallerPlace();
    mkdirSync(root(), { recursive: true });
  });
  after(async () => {
    await place[Symbol.asyncDispose]();
  });

  test('after create conmon is the parent and nothing else of the runtime lives; log and exit code arrive; the exit command deletes', async () => {
    const cleanup = ['--exit-command', runtime, '--exit-command-arg', '--root', '--exit-command-arg', root(), '--exit-command-arg', 'delete', '--exit-command-arg', 'one'];
    const conmon = await supervise('one', bundle('one', ['sh', '-c', 'echo out; echo err >&2; exit 5']), cleanup);
    const pid = conmon.answer.data ?? 0;
    await assertAdopted(pid, /^conmon /);
    assert.equal(readFileSync(`${place.directory}/one-${count}.pid`, 'utf8').trim(), String(pid));
    assert.match((await oci('state', 'one')).stdout, /"status": "created"/);
    assert.equal((await oci('start', 'one')).status, 0);
    await until('the exit code arrives', () => conmon.exitCode() === '5');
    assert.deepEqual(conmon.log().split('\n').sort(), ['', 'stderr err', 'stdout out']);
    await until('it is deleted', async () => (await oci('state', 'one')).status !== 0);
    assert.match((await oci('state', 'one')).stderr, /container does not exist|does not exist/);
    assert.equal(readProcess(pid), undefined);
    assert.deepEqual(containerCgroups(place.cgroupParent), []);
  });

  test('a container that was killed, and one that was never started', async () => {
    const killed = await supervise('killed', bundle('killed', ['sleep', '1000']));
    assert.equal((await oci('start', 'killed')).status, 0);
    assert.equal((await oci('kill', 'killed', 'KILL')).status, 0);
    await until('the exit code arrives', () => killed.exitCode() === '137');
    assert.equal((await oci('delete', 'killed')).status, 0);
    const unstarted = await supervise('unstarted', bundle('unstarted', ['sleep', '1000']));
    assert.equal((await oci('delete', '--force', 'unstarted')).status, 0);
    await until('conmon saw the end', () => unstarted.exitCode() !== undefined);
    assert.equal(readProcess(unstarted.answer.data ?? 0), undefined);
    assert.deepEqual(runtimeProcesses(), []);
    assert.deepEqual(containerCgroups(place.cgroupParent), []);
  });

  test('a create that fails gives conmon the reason, and nothing stays', async () => {
    const { answer } = await supervise('missing', bundle('missing', ['nosuch']));
    assert.equal(answer.data, -1);
    assert.match(answer.message ?? '', /exec: \\?"nosuch\\?": executable file not found in \$PATH/);
    assert.notEqual((await oci('state', 'missing')).status, 0);
    assert.deepEqual(containerCgroups(place.cgroupParent), []);
  });

  test('a terminal goes to conmon by the console socket, and its size can change', async () => {
    const script = 'stty -echo; tty; trap \'exit 6\' TERM; last=; while :; do now=$(stty size 2>&-); [ "$now" = "$last" ] || echo "size $now"; last=$now; sleep 0.1; done';
    const directory = bundle('typed', ['sh', '-c', script], { terminal: true });
    const conmon = await supervise('typed', directory, ['-t']);
    await assertAdopted(conmon.answer.data ?? 0, /^conmon /);
    assert.equal((await oci('start', 'typed')).status, 0);
    await until('the terminal is there', () => /\/dev\/(console|pts\/0)/.test(conmon.log()));
    writeFileSync(`${directory}/winsz`, '30 100\n');
    await until('the new size', () => conmon.log().includes('size 30 100'));
    assert.equal((await oci('kill', 'typed', 'TERM')).status, 0);
    await until('the exit code arrives', () => conmon.exitCode() === '6');
    assert.equal((await oci('delete', 'typed')).status, 0);
  });

  test('exec with a process document: conmon is the parent, and the exit code arrives', async () => {
    const conmon = await supervise('joined', bundle('joined', ['sleep', '1000']));
    assert.equal((await oci('start', 'joined')).status, 0);
    const document = place.write(
      'process.json',
      JSON.stringify({ user: { uid: 1000, gid: 1000 }, args: ['sh', '-c', 'id -un; sleep 1; exit 8'], env: ['PATH=/bin'], cwd: '/tmp' }),
    );
    const exec = await supervise('joined', place.scratch('bundle-joined'), ['-e', '--exec-process-spec', document]);
    await assertAdopted(exec.answer.data ?? 0, /^conmon /).catch((error: unknown) => {
      // A process as short as this one may have ended on a slow machine; its parent is then told by nothing.
      if (readProcess(exec.answer.data ?? 0) !== undefined) throw error;
    });
    await until('the exit code arrives', () => exec.exitCode() === '8');
    assert.match(exec.log(), /stdout alice/);
    assert.equal((await oci('kill', 'joined', 'KILL')).status, 0);
    await until('it has ended', () => conmon.exitCode() === '137');
    assert.equal((await oci('delete', 'joined')).status, 0);
    if (isOurs) assert.deepEqual((await oci('list', '-q')).stdout, '');
  });
});
