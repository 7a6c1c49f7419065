/**
 * The OCI runtime beside a running engine: the engine compiles, the front executes, and without the engine everything goes on. In: a daemon with directories of its own. Out: nothing left.
 */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { BerthHost, type Running } from './berth-host.ts';
import { OciHost, runtimePrograms, skipReason } from './oci-host.ts';

describe('a front beside an engine', { skip: skipReason() }, () => {
  let berth: BerthHost;
  let oci: OciHost;
  let daemon: Running;
  let socket: string;
  /** The front without any compiler of its own: where it works, the engine has compiled. */
  let alone: string;

  before(async () => {
    berth = new BerthHost();
    oci = new OciHost();
    socket = `${berth.run}/oci.sock`;
    daemon = berth.start(['daemon', '--socket', `${berth.run}/cri.sock`]);
    await daemon.untilOutput('ready');
    mkdirSync(join(oci.directory, 'alone'));
    alone = join(oci.directory, 'alone/berth-oci');
    copyFileSync(runtimePrograms.berth, alone);
  });
  after(async () => {
    await oci[Symbol.asyncDispose]();
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await berth.assertNoRemains();
    await berth[Symbol.asyncDispose]();
  });
  const engine = (): { readonly env: Readonly<Record<string, string>> } => ({ env: { BERTH_OCI_ENGINE: socket } });
  const callAlone = async (args: readonly string[]): Promise<{ readonly status: number | null; readonly text: string }> => {
    const { status, stdout, stderr } = await oci.call(args, { ...engine(), program: alone });
    return { status, text: `${stdout}${stderr}` };
  };

  test('the door is open to its owner alone', () => {
    const { mode } = statSync(socket);
    assert.equal((mode & 0o777).toString(8), '600');
  });

  test('a whole life of a container needs nothing but the front and the engine', async () => {
    const bundle = oci.makeBundle(['sh', '-c', 'echo from the container; exit 5']);
    const id = oci.newId();
    assert.deepEqual(await callAlone(['run', '--bundle', bundle, id]), { status: 5, text: 'from the container\n' });
    const waiting = oci.makeBundle(['sleep', '1000']);
    assert.deepEqual(await callAlone(['run', '--detach', '--bundle', waiting, id]), { status: 0, text: '' });
    assert.deepEqual(await callAlone(['exec', id, 'echo', 'inside']), { status: 0, text: 'inside\n' });
    assert.match((await callAlone(['exec', id, 'nothing-like-it'])).text, /executable file not found in \$PATH/);
    assert.match((await callAlone(['delete', id])).text, /cannot delete container .* that is not stopped: running/);
    assert.deepEqual(await callAlone(['delete', '--force', id]), { status: 0, text: '' });
    assert.match((await callAlone(['state', id])).text, /container does not exist/);
  });

  test('many commands at once are answered, each with its own result', async () => {
    const ends = await Promise.all(
      Array.from({ length: 12 }, async (_, index) => oci.call(['run', '--bundle', oci.makeBundle(['sh', '-c', `echo ${index}; exit ${index}`]), oci.newId()], engine())),
    );
    assert.deepEqual(
      ends.map(({ status, stdout, stderr }) => [status, stdout, stderr]),
      ends.map((_, index) => [index, `${index}\n`, '']),
    );
  });

  test('what is no front changes nothing, and the next command is served', async () => {
    const stranger = createConnection(socket);
    stranger.on('error', () => undefined).resume();
    await new Promise((resolve) => stranger.once('connect', resolve));
    stranger.write(Buffer.alloc(64, 0xff));
    await new Promise((resolve) => stranger.once('close', resolve));
    assert.equal((await oci.run(['true'], undefined, engine())).status, 0);
  });

  test('a container outlives the engine, and the front goes on by itself', async () => {
    const id = oci.newId();
    const { stdout, stderr, status } = await oci.call(['run', '--detach', '--bundle', oci.makeBundle(['sleep', '1000']), id], engine());
    assert.deepEqual([status, stdout, stderr], [0, '', '']);
    daemon.child.kill('SIGKILL');
    await daemon.finished;
    assert.ok(existsSync(socket), 'the socket of a killed engine stays');
    assert.equal(JSON.parse((await oci.call(['state', id], engine())).stdout).status, 'running');
    assert.equal((await oci.call(['exec', id, 'echo', 'by itself'], engine())).stdout, 'by itself\n');
    daemon = berth.start(['daemon', '--socket', `${berth.run}/cri.sock`]);
    await daemon.untilOutput('ready');
    assert.deepEqual(await callAlone(['exec', id, 'echo', 'again']), { status: 0, text: 'again\n' });
    assert.equal((await oci.call(['delete', '--force', id], engine())).status, 0);
  });
});
