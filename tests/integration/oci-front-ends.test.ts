/**
 * Ends that nobody planned, and callers that are no friends: an engine that hangs, an environment of a stranger, a lock whose holder hangs, a name that was given to another container
 * meanwhile. In: the built front, once in a folder of its own with a stand-in for Node that tells what it was started with, once as it is installed. Out: nothing left, nothing of
 * somebody else's touched.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isAlive } from './oci-front-plans.ts';
import { OciHost, runtimePrograms, skipReason } from './oci-host.ts';

const helper = process.env['BERTH_TEST_SHIM'] ?? join(import.meta.dirname, '../../native/build/berth-shim');

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

/** A caller's whole command. */
async function call(program: string, args: readonly string[], options: { readonly env?: Record<string, string>; readonly cwd?: string } = {}): Promise<Ended> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], ...options });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject).once('close', (code, signal) => resolve({ code, signal, stderr }));
  });
}

describe('the front and its compiler', { skip: skipReason() }, () => {
  const base = mkdtempSync(join(tmpdir(), 'berth-front-ends-'));
  const program = join(base, 'berth-oci');
  const told = join(base, 'told');
  const socketPath = join(base, 'oci.sock');
  let server: Server;
  const received: Buffer[] = [];
  let greet: (socket: Socket) => void = () => undefined;

  /** A compiler that notes how it was started and ends. */
  const writeNode = (script: string): void => {
    rmSync(told, { force: true });
    writeFileSync(join(base, 'node'), `#!/bin/busybox sh\n${script}\n`, { mode: 0o755 });
  };

  before(async () => {
    copyFileSync(helper, program);
    chmodSync(program, 0o755);
    writeFileSync(join(base, 'berth-oci.mjs'), '');
    server = createServer((socket) => {
      socket.on('error', () => undefined).on('data', (chunk: Buffer) => received.push(chunk));
      greet(socket);
    });
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  });
  after(() => {
    server.close();
    rmSync(base, { recursive: true, force: true });
  });

  test('an engine that says nothing, or something else, is told nothing, and another compiler is asked', async () => {
    writeNode(`/bin/busybox touch ${told}`);
    for (const greeting of ['', 'HTTP/1.1 400 Bad Request\r\n\r\n']) {
      greet = (socket) => void (greeting === '' ? undefined : socket.write(greeting));
      rmSync(told, { force: true });
      assert.equal((await call(program, ['list'], { env: { BERTH_OCI_ENGINE: socketPath } })).code, 1);
      assert.ok(existsSync(told), 'the other one was started');
      assert.deepEqual(Buffer.concat(received).toString(), '');
    }
  });

  test('nothing of the caller’s environment and working directory reaches the compiler’s program', async () => {
    writeNode(`exec > ${told}; /bin/busybox cat /proc/self/environ; echo; pwd`);
    const gone = join(base, 'gone');
    mkdirSync(gone);
    const env = {
      BERTH_OCI_ENGINE: 'none',
      LD_PRELOAD: '/x.so',
      NODE_OPTIONS: '--bad',
      NODE_COMPILE_CACHE: '/tmp/stranger',
      OPENSSL_CONF: '/x',
      PATH: '/tmp/stranger',
      BERTH_OCI_HOME: '/x',
    };
    // The directory is removed by the time that the front runs.
    const removed = ['-c', `/bin/busybox rmdir ${gone}; exec ${program} list`];
    assert.equal((await call('/bin/sh', removed, { env, cwd: gone })).code, 1);
    const [environment = '', directory] = readFileSync(told, 'utf8').split('\n');
    const entries = environment.split('\0').filter((entry) => entry !== '' && !entry.startsWith('PWD=') && !entry.startsWith('SHLVL='));
    assert.deepEqual(entries.sort(), [`NODE_COMPILE_CACHE=${base}/.compile-cache`, 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin']);
    assert.equal(directory, '/');
  });

  test('a compiler that was killed is told to the caller, one that failed has its own words', async () => {
    writeNode('kill -9 $$');
    assert.deepEqual(await call(program, ['list'], { env: { BERTH_OCI_ENGINE: 'none' } }), { code: 1, signal: null, stderr: 'berth-oci: the compiler was ended by signal 9\n' });
    writeNode('echo own words >&2; exit 3');
    assert.deepEqual(await call(program, ['list'], { env: { BERTH_OCI_ENGINE: 'none' } }), { code: 1, signal: null, stderr: 'own words\n' });
  });
});

describe('containers whose callers and names change', { skip: skipReason() }, () => {
  let host: OciHost;
  before(() => {
    host = new OciHost();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  test('a container’s mask is the standard one, whatever the shell had', async () => {
    const bundle = host.makeBundle(['sh', '-c', 'umask']);
    const line = `umask 077; exec ${runtimePrograms.berth} --root ${host.stateRoot} run --bundle ${bundle} ${host.newId()} > ${host.directory}/mask`;
    assert.equal((await call('/bin/sh', ['-c', line], { env: { BERTH_OCI_ENGINE: 'none' } })).code, 0);
    assert.equal(readFileSync(`${host.directory}/mask`, 'utf8'), '0022\n');
  });

  test('a holder of the lock that hangs does not keep a container from being deleted by force, and nothing else passes it', async () => {
    const id = await host.start(['sleep', '1000']);
    const output = openSync(`${host.directory}/holder`, 'a');
    const holder = spawn('flock', [`${host.stateRoot}/${id}`, 'sh', '-c', 'echo locked; exec sleep 1000'], { stdio: ['ignore', output, 'ignore'], detached: true });
    closeSync(output);
    try {
      await host.until(() => readFileSync(`${host.directory}/holder`, 'utf8') !== '', 'the lock is held');
      await host.ok(['delete', '--force', id]);
      assert.match(await host.fails(['state', id]), /container does not exist/);
      assert.deepEqual(host.listCgroups(), []);
    } finally {
      // SAFETY: spawned above.
      process.kill(-(holder.pid as number), 'SIGKILL');
    }
  });

  test('a run whose container was deleted by another leaves alone the next one of its name', async () => {
    const id = host.newId();
    const bundle = host.makeBundle(['sleep', '1000']);
    const front = spawn(runtimePrograms.berth, ['--root', host.stateRoot, 'run', '--bundle', bundle, id], {
      stdio: 'ignore',
      env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' },
    });
    const ended = new Promise<number | null>((resolve) => front.once('exit', resolve));
    await host.until(async () => (await host.call(['state', id])).stdout.includes('"running"'), 'it runs');
    // Where its compiler has gone, it waits.
    await host.until(() => readFileSync(`/proc/${front.pid}/task/${front.pid}/children`, 'utf8').trim().split(' ').length === 1, 'it stands for its process alone');
    front.kill('SIGSTOP');
    await host.ok(['delete', '--force', id]);
    await host.create(bundle, id);
    front.kill('SIGCONT');
    assert.equal(await ended, 128 + 9);
    assert.equal((await host.state(id)).status, 'created');
    await host.ok(['delete', '--force', id]);
  });

  test('an exec that cannot write its pid file leaves no process', async () => {
    const id = await host.start(['sleep', '1000']);
    const { pid } = await host.state(id);
    assert.match(await host.fails(['exec', '--detach', '--pid-file', '/nowhere/pid', id, 'sleep', '4321'], 255), /exec failed: write \/nowhere\/pid/);
    await host.until(async () => !(await host.ok(['ps', id])).includes('sleep 4321'), 'nothing of it is left');
    assert.ok(isAlive(pid), 'and the container goes on');
    await host.ok(['delete', '--force', id]);
  });
});
