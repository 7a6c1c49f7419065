/**
 * Starts Berth and Debian's containerd side by side in scratch directories. In: a scratch directory. Out: two running CRI
 * servers with the same image, and how to end them. Meant to run in mount and network namespaces of its own (see bench/run.sh).
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type CriClient, openCri } from './cri-client.ts';

const home = fileURLToPath(new URL('..', import.meta.url));
export const image = 'localhost/bench:latest';
const pauseImage = 'localhost/pause:latest';

/** A CRI server under measurement. */
export interface Peer {
  readonly name: string;
  readonly client: CriClient;
  /** Processes that belong to it: the daemon, and by their names the shims. */
  readonly daemonPid: number;
  readonly helperNames: readonly string[];
  stop(): Promise<void>;
}

const run = (command: string, args: readonly string[], options: { readonly cwd?: string } = {}): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], ...options });

/** One OCI layout per image with static busybox as the applets sh, true and sleep; by default it sleeps. */
function makeLayouts(scratch: string): (tag: string) => string {
  const bundle = `${scratch}/bundle`;
  const layoutOf = (tag: string): string => `${scratch}/layout-${tag}`;
  for (const tag of ['bench', 'pause']) {
    const layout = layoutOf(tag);
    run('umoci', ['init', '--layout', layout]);
    const reference = `${layout}:${tag}`;
    run('umoci', ['new', '--image', reference]);
    run('umoci', ['unpack', '--image', reference, `${bundle}-${tag}`]);
    mkdirSync(`${bundle}-${tag}/rootfs/bin`, { recursive: true });
    mkdirSync(`${bundle}-${tag}/rootfs/etc`, { recursive: true });
    for (const name of ['busybox', 'sh', 'true', 'sleep']) cpSync('/bin/busybox', `${bundle}-${tag}/rootfs/bin/${name}`);
    writeFileSync(`${bundle}-${tag}/rootfs/etc/passwd`, 'root:x:0:0:root:/root:/bin/sh\n');
    run('umoci', ['repack', '--image', reference, `${bundle}-${tag}`]);
    run('umoci', ['config', '--image', reference, '--config.entrypoint', '/bin/sleep', '--config.cmd', '1000000']);
  }
  return layoutOf;
}

/** Waits until a CRI server answers. Throws when it ends or does not within 20 s. */
export async function untilReady(name: string, client: CriClient, child: ChildProcess): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    if (child.exitCode !== null) throw new Error(`${name} ended with status ${child.exitCode}`);
    try {
      await client.runtime('version', {});
      return;
    } catch {
      await sleep(100);
    }
  }
  throw new Error(`${name} does not answer`);
}

/** Ends a server in its own orderly way and waits for that. */
export async function endProcess(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await gone;
}

async function startBerth(scratch: string, layoutOf: (tag: string) => string): Promise<Peer> {
  const [root, runDirectory, socket] = [`${scratch}/berth/root`, `${runOf(scratch)}/berth`, `${scratch}/berth/cri.sock`];
  mkdirSync(`${scratch}/berth`);
  const berth = [`${home}bin/berth`, '--root', root, '--run', runDirectory];
  run(berth[0] ?? '', [...berth.slice(1), 'image', 'import', '--name', image, layoutOf('bench')]);
  const log = openSync(`${scratch}/berth.log`, 'a');
  const child = spawn(berth[0] ?? '', ['daemon', ...berth.slice(1), '--socket', socket], { stdio: ['ignore', log, log] });
  const client = openCri(socket);
  await untilReady('berth', client, child);
  return { name: 'berth', client, daemonPid: child.pid ?? 0, helperNames: ['berth-shim', 'berth-launcher'], stop: async () => endProcess(child) };
}

async function startContainerd(scratch: string, layoutOf: (tag: string) => string): Promise<Peer> {
  const base = `${scratch}/containerd`;
  mkdirSync(`${base}/cni`, { recursive: true });
  writeFileSync(
    `${base}/cni/10-bench.conflist`,
    JSON.stringify({
      cniVersion: '0.4.0',
      name: 'bench',
      plugins: [
        {
          type: 'bridge',
          bridge: 'cbench0',
          isGateway: true,
          ipMasq: true,
          ipam: { type: 'host-local', ranges: [[{ subnet: '10.77.0.0/16' }]], routes: [{ dst: '0.0.0.0/0' }], dataDir: `${base}/ipam` },
        },
        { type: 'portmap', capabilities: { portMappings: true } },
      ],
    }),
  );
  writeFileSync(
    `${base}/config.toml`,
    `version = 2
root = "${base}/root"
state = "${runOf(scratch)}/containerd"
[grpc]
  address = "${base}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseImage}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${existsSync('/usr/lib/cni/bridge') ? '/usr/lib/cni' : '/opt/cni/bin'}"
    conf_dir = "${base}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`,
  );
  const log = openSync(`${scratch}/containerd.log`, 'a');
  const child = spawn('containerd', ['--config', `${base}/config.toml`], { stdio: ['ignore', log, log] });
  const client = openCri(`${base}/containerd.sock`);
  await untilReady('containerd', client, child);
  for (const [tag, name] of [
    ['bench', image],
    ['pause', pauseImage],
  ]) {
    run('skopeo', ['copy', '--quiet', `oci:${layoutOf(tag ?? '')}:${tag}`, `docker-archive:${scratch}/${tag}.tar:${name}`]);
    run('ctr', ['--address', `${base}/containerd.sock`, '--namespace', 'k8s.io', 'images', 'import', `${scratch}/${tag}.tar`]);
  }
  return { name: 'containerd+runc', client, daemonPid: child.pid ?? 0, helperNames: ['containerd-shim', 'sleep-pause'], stop: async () => endProcess(child) };
}

/** What is below /run elsewhere: a file system in memory, for both. */
const runOf = (scratch: string): string => `${scratch}/run`;

/** The scratch directory without what is mounted there; to be called once the peers have ended. */
export function unmountScratch(scratch: string): void {
  run('umount', ['--lazy', runOf(scratch)]);
}

/** Both servers, in the order in which they are measured. */
export async function startPeers(scratch: string): Promise<readonly Peer[]> {
  mkdirSync(runOf(scratch));
  run('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'bench', runOf(scratch)]);
  const layoutOf = makeLayouts(scratch);
  return [await startBerth(scratch, layoutOf), await startContainerd(scratch, layoutOf)];
}
