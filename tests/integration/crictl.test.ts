/** The official crictl against `berth daemon`: an image from a loopback registry, a pod, a container, from pull to rmi. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { readFacts } from '../facts.ts';

const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));
const crictlPath = join(repository, 'build/go/crictl');
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;

/** Each test is skipped by itself, so that each is counted. */
function goTest(name: string, body: () => void | Promise<void>): void {
  test(name, { skip }, body);
}

const registryPort = 30_000 + (process.pid % 20_000);
const imageName = `127.0.0.1:${registryPort}/test/busybox:1`;
const startTimeoutMs = 60_000;

async function until(what: string, condition: () => boolean | Promise<boolean>, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what}: not after ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function accepts(address: { readonly port: number } | { readonly path: string }): Promise<boolean> {
  const connected = Promise.withResolvers<boolean>();
  const socket = connect(address, () => connected.resolve(true)).on('error', () => connected.resolve(false));
  try {
    return await connected.promise;
  } finally {
    socket.destroy();
  }
}

/** A child with its output kept for the message of a failure. */
interface Service {
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
  output: string;
}

function startService(command: string, args: readonly string[]): Service {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const service: Service = { child, output: '', ended: new Promise((resolve) => void child.once('close', () => resolve())) };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes: Buffer) => (service.output += bytes.toString()));
  child.on('error', (error) => (service.output += error.message));
  return service;
}

async function waitForService(service: Service, what: string, condition: () => Promise<boolean>): Promise<void> {
  await until(
    what,
    async () => {
      if (service.child.exitCode !== null || service.child.signalCode !== null) throw new Error(`${what} ended: ${service.output}`);
      return condition();
    },
    startTimeoutMs,
  );
}

async function stopService(service: Service | undefined): Promise<void> {
  if (service === undefined) return;
  service.child.kill('SIGTERM');
  await service.ended;
}

/** An OCI layout with one layer: the host's static busybox and its applets. */
async function writeBusyboxLayout(layout: string): Promise<void> {
  const root = `${layout}.root`;
  for (const directory of ['bin', 'etc', 'tmp', 'proc', 'sys', 'dev']) mkdirSync(join(root, directory), { recursive: true });
  copyFileSync('/usr/bin/busybox', join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
  for (const applet of ['sh', 'cat', 'echo', 'sleep', 'true', 'ls', 'id', 'hostname']) symlinkSync('busybox', join(root, 'bin', applet));
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
  mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
  const { stdout: layer } = await run('tar', ['-C', root, '--sort=name', '--owner=0', '--group=0', '--numeric-owner', '-cf', '-', '.'], {
    encoding: 'buffer',
    maxBuffer: 64 * 1024 * 1024,
  });
  const blob = (bytes: Buffer, mediaType: string): { mediaType: string; digest: string; size: number } => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(layout, 'blobs/sha256', hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const layerDescriptor = blob(layer, 'application/vnd.oci.image.layer.v1.tar');
  const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
  const imageConfig = { architecture, os: 'linux', config: { Cmd: ['sh'], Env: ['PATH=/bin'] }, rootfs: { type: 'layers', diff_ids: [layerDescriptor.digest] } };
  const config = blob(Buffer.from(JSON.stringify(imageConfig)), 'application/vnd.oci.image.config.v1+json');
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = blob(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, config, layers: [layerDescriptor] })), mediaType);
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations: { 'org.opencontainers.image.ref.name': '1' } }] }));
}

describe('crictl', () => {
  let directory: string;
  let socketPath: string;
  let daemon: Service | undefined;
  let registry: Service | undefined;
  let podId = '';
  let containerId = '';

  async function crictl(...args: readonly string[]): Promise<string> {
    const global = ['--config', join(directory, 'crictl.yaml'), '--timeout', '60s'];
    try {
      const { stdout } = await run(crictlPath, [...global, ...args], { timeout: 90_000, maxBuffer: 16 * 1024 * 1024 });
      return stdout.trim();
    } catch (error) {
      throw new Error(`crictl ${args.join(' ')}: ${error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error)}\ndaemon: ${daemon?.output.slice(-4000)}`);
    }
  }

  async function crictlJson(...args: readonly string[]): Promise<unknown> {
    const [command = '', ...rest] = args;
    return JSON.parse(await crictl(command, '-o', 'json', ...rest));
  }

  before(async () => {
    if (skip !== false) return;
    await run(join(repository, 'scripts/build-go-tools.sh'), { timeout: 280_000 });
    // Short, because the paths of the pods' sockets below the run directory must fit sun_path's 107 bytes.
    directory = mkdtempSync(join(tmpdir(), 'b'));
    socketPath = join(directory, 'r', 'berth.sock');
    writeFileSync(join(directory, 'crictl.yaml'), `runtime-endpoint: unix://${socketPath}\nimage-endpoint: unix://${socketPath}\n`);
    writeFileSync(
      join(directory, 'registry.yml'),
      `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${join(directory, 'registry')}}}\nhttp: {addr: '127.0.0.1:${registryPort}'}\n`,
    );
    registry = startService('docker-registry', ['serve', join(directory, 'registry.yml')]);
    await waitForService(registry, 'docker-registry', async () => accepts({ port: registryPort }));
    await writeBusyboxLayout(join(directory, 'layout'));
    await run('skopeo', ['copy', '--insecure-policy', '--dest-tls-verify=false', `oci:${join(directory, 'layout')}:1`, `docker://${imageName}`], { timeout: 60_000 });
    daemon = startService(join(repository, 'bin/berth'), ['daemon', '--root', join(directory, 'root'), '--run', join(directory, 'r'), '--socket', socketPath]);
    await waitForService(daemon, 'berth daemon', async () => accepts({ path: socketPath }));
    mkdirSync(join(directory, 'logs'));
    writeFileSync(
      join(directory, 'pod.json'),
      JSON.stringify({
        metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 1 },
        hostname: 'web-host',
        log_directory: join(directory, 'logs'),
        labels: { app: 'web' },
        linux: { security_context: { namespace_options: { pid: 1 } } },
      }),
    );
    writeFileSync(
      join(directory, 'container.json'),
      JSON.stringify({
        metadata: { name: 'shell', attempt: 0 },
        image: { image: imageName },
        command: ['sh', '-c', 'echo to-stdout; echo to-stderr >&2; echo "$GREETING"; exec sleep 1000'],
        envs: [{ key: 'GREETING', value: 'hello' }],
        labels: { role: 'shell' },
        log_path: 'shell.log',
        linux: { security_context: { namespace_options: { pid: 1 } } },
      }),
    );
  });

  after(async () => {
    if (skip !== false) return;
    // What a failed test left is ended through the API first: killing the daemon alone leaves pods running, by design.
    if (daemon?.child.exitCode === null) await crictl('rmp', '--all', '--force').catch(() => undefined);
    await stopService(daemon);
    await stopService(registry);
    rmSync(directory, { recursive: true, force: true });
  });

  goTest('version and info: the runtime is named and ready', async () => {
    assert.match(await crictl('version'), /RuntimeName:\s+berth[\s\S]*RuntimeApiVersion:\s+v1/);
    const info = await crictlJson('info');
    assert.ok(typeof info === 'object' && info !== null && 'status' in info);
    assert.match(JSON.stringify(info.status), /"type":"RuntimeReady"/);
    assert.match(JSON.stringify(info.status), /"status":true,"type":"RuntimeReady"|"type":"RuntimeReady","status":true/);
  });

  goTest('pull, images: the image is there under its name', async () => {
    assert.match(await crictl('pull', imageName), /^Image is up to date for sha256:[0-9a-f]{64}$/);
    const images = await crictlJson('images');
    assert.match(JSON.stringify(images), new RegExp(`"repoTags":\\["${imageName}"\\]`));
    assert.match(await crictl('images', '-q'), /^sha256:[0-9a-f]{64}$/);
  });

  goTest('inspecti and imagefsinfo: the image by each of its names, and both file systems', async () => {
    const id = await crictl('images', '-q');
    for (const name of [imageName, id, id.slice(7, 20)]) assert.match(JSON.stringify(await crictlJson('inspecti', name)), new RegExp(`"id":"${id}"`), name);
    const usage = JSON.stringify(await crictlJson('imagefsinfo'));
    assert.match(usage, /"containerFilesystems":\[\{/);
    assert.match(usage, new RegExp(`"mountpoint":"${join(directory, 'root', 'images')}"`));
  });

  goTest('a pull of what is not there fails with its name', async () => {
    await assert.rejects(crictl('pull', `127.0.0.1:${registryPort}/test/none:1`), /test\/none/);
  });

  goTest('runp, create, start: the container runs', async () => {
    podId = await crictl('runp', join(directory, 'pod.json'));
    assert.match(podId, /^[0-9a-f]{64}$/);
    containerId = await crictl('create', podId, join(directory, 'container.json'), join(directory, 'pod.json'));
    assert.match(containerId, /^[0-9a-f]{64}$/);
    assert.equal(await crictl('start', containerId), containerId);
  });

  goTest('runp again with the same pod gives the same pod', async () => {
    assert.equal(await crictl('runp', join(directory, 'pod.json')), podId);
  });

  goTest('pods and ps show both, and filters by state, label and id prefix hold', async () => {
    assert.equal(await crictl('pods', '-q', '--no-trunc'), podId);
    assert.equal(await crictl('ps', '-q', '--no-trunc'), containerId);
    assert.equal(await crictl('pods', '-q', '--no-trunc', '--label', 'app=web', '--state', 'ready', '--id', podId.slice(0, 8)), podId);
    assert.equal(await crictl('pods', '-q', '--label', 'app=other'), '');
    assert.equal(await crictl('ps', '-q', '--no-trunc', '--pod', podId, '--label', 'role=shell', '--state', 'running'), containerId);
    assert.equal(await crictl('ps', '-q', '--state', 'exited'), '');
  });

  goTest('inspectp and inspect show identity, state and address', async () => {
    const pod = JSON.stringify(await crictlJson('inspectp', podId));
    assert.match(pod, /"uid":"uid-1"/);
    assert.match(pod, /"state":"SANDBOX_READY"/);
    assert.match(pod, /"ip":"[0-9.]+"/);
    const container = JSON.stringify(await crictlJson('inspect', containerId));
    assert.match(container, /"state":"CONTAINER_RUNNING"/);
    assert.match(container, new RegExp(`"image":"${imageName}"`));
    assert.match(container, /"pid":[1-9]/);
  });

  goTest('exec -s runs in the container and gives output and exit status', async () => {
    assert.equal(await crictl('exec', '-s', containerId, 'hostname'), 'web-host');
    assert.equal(await crictl('exec', '-s', containerId, 'sh', '-c', 'echo $GREETING'), 'hello');
    await assert.rejects(crictl('exec', '-s', containerId, 'sh', '-c', 'exit 3'), /exited with 3/);
  });

  goTest('logs shows both streams in the CRI format', async () => {
    const logPath = join(directory, 'logs', 'shell.log');
    await until('three lines in the log', () => existsSync(logPath) && readFileSync(logPath, 'utf8').split('\n').length > 3, 10_000);
    const log = await run(crictlPath, ['--config', join(directory, 'crictl.yaml'), 'logs', containerId]);
    assert.equal(log.stdout, 'to-stdout\nhello\n');
    assert.equal(log.stderr, 'to-stderr\n');
    assert.match(readFileSync(logPath, 'utf8'), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) stdout F to-stdout$/m);
  });

  goTest('stop, rm: the container ends and goes', async () => {
    assert.equal(await crictl('stop', '--timeout', '1', containerId), containerId);
    assert.match(JSON.stringify(await crictlJson('inspect', containerId)), /"exitCode":(137|143)[,}]/);
    assert.equal(await crictl('ps', '-q', '--state', 'exited', '--no-trunc', '-a'), containerId);
    assert.equal(await crictl('rm', containerId), containerId);
    assert.equal(await crictl('ps', '-aq'), '');
    await assert.rejects(crictl('inspect', containerId), /NotFound|not found|does not exist/i);
  });

  goTest('stopp, rmp: the pod ends and goes', async () => {
    assert.equal(await crictl('stopp', podId), `Stopped sandbox ${podId}`);
    assert.match(JSON.stringify(await crictlJson('inspectp', podId)), /"state":"SANDBOX_NOTREADY"/);
    assert.equal(await crictl('rmp', podId), `Removed sandbox ${podId}`);
    assert.equal(await crictl('pods', '-q'), '');
  });

  goTest('exec -s works where all containers share one PID namespace', async () => {
    const write = (name: string, value: unknown): string => {
      writeFileSync(join(directory, name), JSON.stringify(value));
      return join(directory, name);
    };
    // An empty `linux` asks for CRI's zero value, the pod's PID namespace.
    const pod = write('shared.json', { metadata: { name: 'shared', uid: 'uid-2', namespace: 'default', attempt: 0 }, linux: {} });
    const container = write('shared-container.json', { metadata: { name: 'c' }, image: { image: imageName }, command: ['sleep', '1000'], linux: {} });
    const sharedPodId = await crictl('runp', pod);
    try {
      const id = await crictl('create', sharedPodId, container, pod);
      await crictl('start', id);
      assert.match(await crictl('exec', '-s', id, 'sh', '-c', 'echo pid $$'), /^pid [0-9]+$/);
    } finally {
      await crictl('rmp', '--force', sharedPodId);
    }
  });

  goTest('rmi: the image goes', async () => {
    assert.match(await crictl('rmi', imageName), /Deleted/);
    assert.equal(await crictl('images', '-q'), '');
  });

  goTest('a malformed pod and an RPC that is not served fail with their reason', async () => {
    writeFileSync(join(directory, 'bad.json'), JSON.stringify({ metadata: { name: 'bad', uid: 'u', namespace: 'default' }, log_directory: 'logs', linux: {} }));
    await assert.rejects(crictl('runp', join(directory, 'bad.json')), /config\.log_directory: must be an absolute path, not \\?"logs/);
    await assert.rejects(crictl('checkpoint', '--export=/nowhere/checkpoint.tar', 'abc'), /Unimplemented.*not implemented by this version of berth/);
  });
});
