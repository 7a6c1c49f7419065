/**
 * Starts the CRI server that is judged, Berth or the newest containerd, with a registry beside it that holds the suite's images. In: a scratch
 * directory, what to start. Out: a running server, whose disposal ends it and everything that was started with it. Meant for mount, network,
 * IPC and PID namespaces of its own: addresses, rules and shared memory of the suite end with these.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { slowness } from '../integration/berth-host.ts';
import { CriClient } from '../integration/cri-host.ts';
import { openRepository, putImages, sandboxImage, writeMirrors } from './images.ts';

const home = new URL('../..', import.meta.url).pathname;
const tools = join(home, 'build/go');
const systemPath = '/usr/sbin:/usr/bin:/sbin:/bin';

/** Who is judged. */
export type PeerName = 'berth' | 'containerd';
/** How its pods are connected; containerd knows plugins alone. */
export type NetworkName = 'bridge' | 'cni';

/** How long anything is waited for that must come by itself. */
const patienceMs = 60_000 * slowness;

/** A program that runs until it is told to end; its output is kept in a file. */
export class Service implements AsyncDisposable {
  readonly name: string;
  readonly logPath: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  constructor(name: string, options: { readonly command: readonly string[]; readonly logPath: string; readonly env?: Readonly<Record<string, string>> }) {
    const [file = '', ...args] = options.command;
    this.name = name;
    this.logPath = options.logPath;
    const log = openSync(options.logPath, 'a');
    this.#child = spawn(file, args, { stdio: ['ignore', log, log], env: { PATH: systemPath, ...options.env } });
    closeSync(log);
    this.#ended = new Promise((resolve) => {
      this.#child.once('exit', () => resolve()).once('error', () => resolve());
    });
  }

  /** Waits until it answers; throws with its own last words when it ends before, or does not come. */
  async untilReady(answers: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!(await answers())) {
      const ended = this.#child.exitCode !== null || this.#child.signalCode !== null;
      if (ended || performance.now() > deadline) {
        throw new Error(`start ${this.name}: ${ended ? 'it ended' : `not ready after ${patienceMs} ms`}:\n${readFileSync(this.logPath, 'utf8').slice(-4000)}`);
      }
      await sleep(50);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGTERM');
    await this.#ended;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  if (address === null || typeof address === 'string') throw new Error('find a free port: the server has no address');
  return address.port;
}

/** A registry with the suite's images, and the certs.d directory that leads to it. */
export async function startRegistry(scratch: string): Promise<AsyncDisposable & { readonly certsDir: string }> {
  const address = `127.0.0.1:${await freePort()}`;
  const file = join(scratch, 'registry.yml');
  writeFileSync(file, `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${scratch}/registry}}\nhttp: {addr: "${address}"}\n`);
  const service = new Service('docker-registry', { command: ['docker-registry', 'serve', file], logPath: join(scratch, 'registry.log') });
  await service.untilReady(async () =>
    fetch(`http://${address}/v2/`).then(
      ({ ok }) => ok,
      () => false,
    ),
  );
  await putImages((name) => openRepository(address, name));
  const certsDir = join(scratch, 'certs.d');
  writeMirrors(certsDir, address);
  return { certsDir, [Symbol.asyncDispose]: async () => service[Symbol.asyncDispose]() };
}

/** Directories with CNI plugins, the newest first. */
const pluginDirs = [join(tools, 'cni'), '/usr/lib/cni', '/opt/cni/bin'].filter((directory) => existsSync(join(directory, 'bridge')));

/** Name of the bridge that plugins make. */
export const pluginBridge = 'conformance0';

/** A configuration list with bridge, host ports and the loopback device. */
function writeCniConfiguration(scratch: string): string {
  const directory = join(scratch, 'cni.d');
  mkdirSync(directory, { recursive: true });
  const bridge = {
    type: 'bridge',
    bridge: pluginBridge,
    isGateway: true,
    ipMasq: true,
    hairpinMode: true,
    ipam: { type: 'host-local', ranges: [[{ subnet: '10.77.0.0/16' }]], routes: [{ dst: '0.0.0.0/0' }], dataDir: join(scratch, 'ipam') },
  };
  const list = { cniVersion: '1.0.0', name: 'conformance', plugins: [bridge, { type: 'portmap', capabilities: { portMappings: true } }] };
  writeFileSync(join(directory, '10-conformance.conflist'), JSON.stringify(list));
  return directory;
}

/** What is judged, and under which conditions. */
export interface ServerOptions {
  readonly peer: PeerName;
  readonly network: NetworkName;
  readonly certsDir: string;
}

function berthService(scratch: string, { network, certsDir }: ServerOptions, socket: string): Service {
  const entry = join(home, 'dist/berth.mjs');
  const flags = ['--max-semi-space-size=1', '--no-opt', '--optimize-for-size', '--v8-pool-size=1'];
  const plugins: Record<string, string> =
    network === 'cni' ? { BERTH_NETWORK_MODE: 'cni', BERTH_CNI_CONFIG_DIR: writeCniConfiguration(scratch), BERTH_CNI_BIN_DIRS: pluginDirs.join(':') } : {};
  return new Service('berth', {
    command: [process.execPath, ...flags, entry, '--root', join(scratch, 'berth/root'), '--run', join(scratch, 'berth/run'), 'daemon', '--socket', socket],
    logPath: join(scratch, 'berth.log'),
    env: { BERTH_CERTS_DIRS: certsDir, MALLOC_ARENA_MAX: '1', ...plugins },
  });
}

function containerdService(scratch: string, { certsDir }: ServerOptions, socket: string): Service {
  const base = join(scratch, 'containerd');
  writeFileSync(
    join(scratch, 'containerd.toml'),
    `version = 3
root = "${base}/root"
state = "${base}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = "${socket}"
[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "${sandboxImage}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "${certsDir}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [${pluginDirs.map((directory) => JSON.stringify(directory)).join(', ')}]
    conf_dir = "${writeCniConfiguration(scratch)}"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "${tools}/runc"
        SystemdCgroup = false
`,
  );
  // The shim is found by the path, where Debian's older one may be as well.
  const env = { PATH: `${join(tools, 'containerd')}:${systemPath}` };
  return new Service('containerd', {
    command: [join(tools, 'containerd/containerd'), '--config', join(scratch, 'containerd.toml')],
    logPath: join(scratch, 'containerd.log'),
    env,
  });
}

/** A CRI server that answers. */
export interface RunningServer extends AsyncDisposable {
  readonly socketPath: string;
  readonly client: CriClient;
  readonly logPath: string;
}

/** Starts what is judged and waits until it answers Version. */
export async function startServer(scratch: string, options: ServerOptions): Promise<RunningServer> {
  if (options.network === 'cni' && pluginDirs.length === 0) throw new Error('start a network of plugins: no directory with CNI plugins; install containernetworking-plugins');
  mkdirSync(join(scratch, options.peer));
  writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
  const socketPath = join(scratch, options.peer, 'cri.sock');
  const service = options.peer === 'berth' ? berthService(scratch, options, socketPath) : containerdService(scratch, options, socketPath);
  const client = new CriClient(socketPath);
  try {
    await service.untilReady(async () =>
      client.call(RuntimeService.method.version, {}, { timeoutMs: patienceMs }).then(
        () => true,
        () => false,
      ),
    );
    return {
      socketPath,
      client,
      logPath: service.logPath,
      [Symbol.asyncDispose]: async () => {
        await client[Symbol.asyncDispose]();
        await service[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await client[Symbol.asyncDispose]();
    await service[Symbol.asyncDispose]();
    throw error;
  }
}
