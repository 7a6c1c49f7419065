/** The configuration as files on disk, and a daemon that runs by it: merging, refusals, reload, and the lines of its log. */
import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { limits } from '#core';
import { ImageService, RuntimeService } from '#gen/cri-v1_pb.js';
import { BerthHost, type Running, busybox, image, patienceMs, skipReason } from './berth-host.ts';
import { CriClient } from './cri-host.ts';

type Line = Readonly<Record<string, unknown>>;

describe('berth config', { skip: skipReason() }, () => {
  let host: BerthHost;
  let directory: string;
  let file: string;
  before(() => {
    host = new BerthHost();
    directory = mkdtempSync('/var/tmp/berth-config-');
    file = `${directory}/berth.toml`;
    mkdirSync(`${directory}/berth.d`);
  });
  after(() => {
    for (const path of [directory, host.directory]) rmSync(path, { recursive: true, force: true });
  });

  const drop = (name: string, text: string, mode = 0o644): string => {
    const path = `${directory}/berth.d/${name}`;
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  };
  const settings = async (args: readonly string[] = []): Promise<Readonly<Record<string, Readonly<Record<string, { readonly value: unknown; readonly origin: string }>>>>> =>
    JSON.parse(await host.ok(['config', '--config', file, '--output', 'json', ...args])).settings;

  test('drop-ins are read in the order of their names, and each value says where it comes from', async () => {
    writeFileSync(file, '[network]\nmtu = 1400\nmode = "none"\n');
    const second = drop('20-b.toml', '\nnetwork.mtu = 1300\n');
    drop('10-a.toml', 'network.mtu = 1200\n');
    drop('.hidden.toml', 'nonsense\n');
    drop('readme.txt', 'nonsense\n');
    const { network, directories } = await settings();
    assert.deepEqual(network?.['mtu'], { value: 1300, origin: `${second}:2` });
    assert.deepEqual(network?.['mode'], { value: 'none', origin: `${file}:3` });
    assert.deepEqual(directories?.['root'], { value: host.root, origin: 'option --root' });
    const printed = await host.ok(['config', '--config', file]);
    assert.ok(printed.startsWith(`# ${file}\n# ${directory}/berth.d/10-a.toml\n# ${second}\n`), printed);
  });

  test('what is printed can be read again and says the same', async () => {
    const copy = `${directory}/copy.toml`;
    const values = Object.fromEntries(
      Object.entries(await settings()).map(([table, rows]) => [table, Object.fromEntries(Object.entries(rows).map(([key, { value }]) => [key, value]))]),
    );
    writeFileSync(copy, await host.ok(['config', '--config', file]));
    const again: Awaited<ReturnType<typeof settings>> = JSON.parse(await host.ok(['config', '--config', copy, '--output', 'json'])).settings;
    assert.deepEqual(
      Object.fromEntries(Object.entries(again).map(([table, rows]) => [table, Object.fromEntries(Object.entries(rows).map(([key, { value }]) => [key, value]))])),
      values,
    );
  });

  test('the documented file changes nothing', async () => {
    const copy = `${directory}/documented.toml`;
    writeFileSync(copy, await host.ok(['config', '--default']));
    const rows: Awaited<ReturnType<typeof settings>> = JSON.parse(await host.ok(['config', '--config', copy, '--output', 'json'])).settings;
    assert.deepEqual(
      Object.values(rows)
        .flatMap((table) => Object.values(table))
        .filter(({ origin }) => origin.startsWith(copy)),
      [],
    );
  });

  test('mistakes in any of the files are refused by file, line and key', async () => {
    const path = drop('30-c.toml', '[network]\nmtuu = 3\n');
    assert.deepEqual(await host.berth(['config', '--check', '--config', file]), {
      status: 1,
      stdout: '',
      stderr: `berth: read configuration ${path}: line 2: network.mtuu: no such setting, did you mean network.mtu?\n`,
    });
    assert.equal((await host.berth(['ps', '--config', file])).status, 1, 'no command goes on without its configuration');
    const doctor = await host.berth(['doctor', '--config', file]);
    assert.match(doctor.stdout, /^missing +configuration +read configuration .*: line 2: network\.mtuu: no such setting, did you mean network\.mtu\?$/m);
    assert.equal(doctor.status, 1);
    rmSync(path);
    assert.deepEqual(await host.berth(['config', '--check', '--config', file]), { status: 0, stdout: '', stderr: '' });
  });

  test('files that others can change, that are none, or that are too large are refused', async () => {
    const cases: readonly (readonly [() => string, string])[] = [
      [() => drop('40.toml', '', 0o666), 'it can be changed by other users; give it to root with mode 0644'],
      [
        () => {
          const path = drop('40.toml', '');
          chownSync(path, 1000, 1000);
          return path;
        },
        'it can be changed by other users; give it to root with mode 0644',
      ],
      [
        () => {
          const path = `${directory}/berth.d/40.toml`;
          symlinkSync('/dev/zero', path);
          return path;
        },
        'it is no regular file',
      ],
      [() => drop('40.toml', '#'.repeat(limits.configurationFileBytesMax + 1)), `it has more than ${limits.configurationFileBytesMax} bytes`],
    ];
    for (const [make, cause] of cases) {
      const path = make();
      assert.equal((await host.berth(['config', '--config', file])).stderr, `berth: read configuration ${path}: ${cause}\n`);
      rmSync(path);
    }
    writeFileSync(`${directory}/latin.toml`, Buffer.from([0x23, 0xe4]));
    assert.equal((await host.berth(['config', '--config', `${directory}/latin.toml`])).stderr, `berth: read configuration ${directory}/latin.toml: it is no UTF-8 text\n`);
    assert.match((await host.berth(['config', '--config', `${directory}/none.toml`])).stderr, /^berth: read configuration .*\/none\.toml: ENOENT: no such file or directory\n$/);
  });
});

describe('a daemon by its configuration', { skip: skipReason() }, () => {
  let host: BerthHost;
  let daemon: Running;
  let client: CriClient;
  let file: string;
  let output = '';
  const lines = (): readonly Line[] =>
    output
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line));
  /** The first line that fits, once it is there. */
  const line = async (fits: (line: Line) => boolean): Promise<Line> => {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const found = lines().find(fits);
      if (found !== undefined) return found;
      assert.ok(performance.now() < deadline && daemon.child.exitCode === null, `no such line among:\n${output}`);
      await sleep(20);
    }
  };

  before(async () => {
    host = await BerthHost.open();
    file = `${host.directory}/berth.toml`;
    const socket = `${host.run}/from-file.sock`;
    writeFileSync(file, `[cri]\nsocket = "${socket}"\n[log]\nlevel = "warn"\n`);
    daemon = host.start(['daemon', '--config', file]);
    daemon.child.stderr?.on('data', (text: string) => void (output += text));
    const deadline = performance.now() + patienceMs;
    while (!readFileSync('/proc/net/unix', 'utf8').includes(socket)) {
      assert.ok(performance.now() < deadline && daemon.child.exitCode === null, `the daemon does not listen: ${output}`);
      await sleep(20);
    }
    client = new CriClient(socket);
  });
  after(async () => {
    const { items } = await client.call(RuntimeService.method.listPodSandbox, {});
    for (const { id } of items) await client.call(RuntimeService.method.removePodSandbox, { podSandboxId: id });
    await client[Symbol.asyncDispose]();
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await host.assertNoRemains();
    rmSync(host.directory, { recursive: true, force: true });
  });

  test('a failed call is one line with its method, subject, code and time', async () => {
    await assert.rejects(client.call(RuntimeService.method.containerStatus, { containerId: 'nobody' }));
    const { time, durationMs, ...rest } = await line(({ method }) => method === 'RuntimeService/ContainerStatus');
    assert.deepEqual(rest, {
      level: 'warn',
      method: 'RuntimeService/ContainerStatus',
      containerId: 'nobody',
      code: 'notFound',
      message: 'container "nobody": container does not exist',
    });
    assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.equal(typeof durationMs, 'number');
  });

  test('a reload takes over the level of the log, and says what needs a restart', async () => {
    writeFileSync(file, `[log]\nlevel = "debug"\n[network]\nmtu = 1400\n`);
    daemon.child.kill('SIGHUP');
    const { changed, needRestart, files } = await line(({ message }) => message === 'configuration reloaded');
    assert.deepEqual({ changed, needRestart, files }, { changed: ['log.level'], needRestart: ['cri.socket', 'network.mtu'], files: [file] });
    await client.call(RuntimeService.method.version, {});
    await line(({ method, message }) => method === 'RuntimeService/Version' && message === 'call answered');
  });

  test('a mistake in a reload is told and changes nothing', async () => {
    writeFileSync(file, `[log]\nlevel = "loud"\n`);
    daemon.child.kill('SIGHUP');
    const { message } = await line(({ code }) => code === 'invalidArgument');
    assert.equal(message, `reload configuration: read configuration ${file}: line 2: log.level: must be one of error, warn, info, debug, not "loud"`);
    await client.call(RuntimeService.method.listContainers, {});
    await line(({ method }) => method === 'RuntimeService/ListContainers');
  });

  test('a reader that takes nothing of the log holds nobody up, and gets whole lines when it goes on', async () => {
    const { stderr } = daemon.child;
    assert.ok(stderr !== null);
    const answers = (): number => lines().filter(({ method }) => method === 'RuntimeService/Version').length;
    const before = answers();
    stderr.pause();
    // About 200 KiB of lines: more than a pipe and a stream hold, and less than what may wait.
    const calls = 1500;
    for (let done = 0; done < calls; done += 50) await Promise.all(Array.from({ length: 50 }, async () => client.call(RuntimeService.method.version, {})));
    stderr.resume();
    const deadline = performance.now() + patienceMs;
    while (answers() < before + calls) {
      assert.ok(performance.now() < deadline, `${answers() - before} of ${calls} lines`);
      await sleep(50);
    }
  });

  test('each change of a pod and a container is one line, with the same key for the same id everywhere, and nothing of what is secret', async () => {
    const config = { metadata: { name: 'web', uid: 'u1', namespace: 'shop', attempt: 0 }, logDirectory: host.scratch('logs'), hostname: 'web' };
    const { podSandboxId } = await client.call(RuntimeService.method.runPodSandbox, { config });
    const container = {
      metadata: { name: 'main', attempt: 0 },
      image: { image },
      command: [busybox, 'sh', '-c', 'exit 3'],
      logPath: '0.log',
      envs: [{ key: 'TOKEN', value: Buffer.from('s3cr3t-value') }],
    };
    const { containerId } = await client.call(RuntimeService.method.createContainer, { podSandboxId, config: container, sandboxConfig: config });
    await client.call(RuntimeService.method.startContainer, { containerId });
    const end = await line(({ message }) => message === 'container has ended');
    assert.deepEqual(
      { podSandboxId: end['podSandboxId'], containerId: end['containerId'], containerName: end['containerName'], exitCode: end['exitCode'], reason: end['reason'] },
      { podSandboxId, containerId, containerName: 'main', exitCode: 3, reason: 'Error' },
    );
    await client.call(RuntimeService.method.removePodSandbox, { podSandboxId });
    await line(({ message }) => message === 'pod sandbox is removed');
    const ofPod = lines().filter((entry) => entry['podSandboxId'] === podSandboxId && entry['method'] === undefined);
    assert.deepEqual(
      ofPod.map(({ message }) => message),
      ['pod sandbox is ready', 'container is created', 'container has started', 'container has ended', 'pod sandbox has stopped', 'container is removed', 'pod sandbox is removed'],
    );
    assert.equal(ofPod[0]?.['k8sNamespace'], 'shop');
    assert.equal(ofPod[0]?.['podName'], 'web');
    const password = 'p4ssw0rd-value';
    await assert.rejects(
      client.call(ImageService.method.pullImage, {
        image: { image: '127.0.0.1:1/nothing:1' },
        auth: { username: 'me', password, serverAddress: '', auth: '', identityToken: '', registryToken: '' },
      }),
    );
    const pull = await line(({ method }) => method === 'ImageService/PullImage');
    assert.equal(pull['image'], '127.0.0.1:1/nothing:1');
    assert.ok(!output.includes('s3cr3t-value') && !output.includes(password), output);
  });
});
