/**
 * Starts one image puller at a time with an empty store. In: a scratch directory, which peer. Out: a CRI image service whose
 * processes are all in one meter's cgroup.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type CriClient, openCri } from './cri-client.ts';
import { endProcess, untilReady } from './peers.ts';
import { Meter } from './usage.ts';

const home = fileURLToPath(new URL('..', import.meta.url));

/** How a peer is started; the last line of its config is what the measurement varies. */
export interface PeerKind {
  readonly name: string;
  start(dir: string): { readonly command: readonly string[]; readonly socket: string };
}

/** Berth's daemon from a checkout; default: this one. */
export function berthPeer(name = 'berth', checkout = home): PeerKind {
  return {
    name,
    start: (dir) => ({ command: [`${checkout}/bin/berth`, 'daemon', '--root', `${dir}/root`, '--run', `${dir}/run`, '--socket', `${dir}/cri.sock`], socket: `${dir}/cri.sock` }),
  };
}

/** Debian's containerd as it comes: layers are fetched three at a time and unpacked one after the other. */
export const debianContainerd: PeerKind = {
  name: 'containerd 1.6',
  start: (dir) => {
    writeFileSync(
      `${dir}/config.toml`,
      `version = 2
root = "${dir}/root"
state = "${dir}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "${dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
`,
    );
    return { command: ['/usr/bin/containerd', '--config', `${dir}/config.toml`], socket: `${dir}/containerd.sock` };
  },
};

/** The newest containerd, built by scripts/build-go-tools.sh; `unpacks` layers at a time are unpacked (its default: one). */
export function newestContainerd(unpacks: number): PeerKind {
  return {
    name: `containerd 2.4, ${unpacks} unpacks`,
    start: (dir) => {
      writeFileSync(
        `${dir}/config.toml`,
        `version = 3
root = "${dir}/root"
state = "${dir}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = "${dir}/containerd.sock"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_unpacks = ${unpacks}
`,
      );
      return { command: [`${home}build/go/containerd/containerd`, '--config', `${dir}/config.toml`], socket: `${dir}/containerd.sock` };
    },
  };
}

/** A running peer. */
export interface RunningPeer extends AsyncDisposable {
  readonly client: CriClient;
  readonly meter: Meter;
}

let serial = 0;

/** Starts the peer with everything of it below `dir`, which is made. */
export async function startPeer(kind: PeerKind, dir: string): Promise<RunningPeer> {
  mkdirSync(dir);
  const { command, socket } = kind.start(dir);
  const meter = new Meter(String((serial += 1)));
  const log = openSync(`${dir}/log`, 'a');
  const child: ChildProcess = spawn('sh', ['-c', `${meter.enter}; exec "$@"`, 'sh', ...command], { stdio: ['ignore', log, log] });
  closeSync(log);
  const client = openCri(socket);
  const running = {
    client,
    meter,
    [Symbol.asyncDispose]: async () => {
      client.close();
      if (child.exitCode === null) await endProcess(child);
      meter[Symbol.dispose]();
    },
  };
  try {
    await untilReady(kind.name, client, child);
  } catch (error) {
    await running[Symbol.asyncDispose]();
    throw new Error(`start ${kind.name}: ${readFileSync(`${dir}/log`, 'utf8').slice(-2000)}`, { cause: error });
  }
  return running;
}
