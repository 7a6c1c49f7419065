/**
 * A kubelet without an API server ("standalone"), which runs the manifests of a directory with Berth's daemon. In: build/go/kubelet, namespaces of its
 * own. Out: a node whose pods are put, changed and removed by manifest and looked at through the kubelet's server. Its disposal ends both and
 * checks that nothing is left of them, and puts the kernel's settings back that a kubelet changes.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, existsSync, globSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { busybox, image } from '../integration/berth-host.ts';
import { CriHost } from '../integration/cri-host.ts';
import { freePort } from '../integration/image-host.ts';

const kubeletPath = new URL('../../build/go/kubelet', import.meta.url).pathname;

/** How long anything is waited for that must come by itself. A kubelet takes its time; only what never happens fails. */
export const kubeletPatienceMs = 180_000;
/** The node's own address, on a link of its own: a kubelet takes none of the loopback. */
export const nodeAddress = '192.0.2.1';

/** What a kubelet sets for the whole machine when it starts. */
const kernelSettings = ['vm/overcommit_memory', 'vm/panic_on_oom', 'kernel/panic', 'kernel/panic_on_oops', 'kernel/keys/root_maxkeys', 'kernel/keys/root_maxbytes'];

/** How a container is, as `/pods` tells it. */
export interface ContainerState {
  readonly running?: { readonly startedAt: string };
  readonly waiting?: { readonly reason: string; readonly message?: string };
  readonly terminated?: { readonly exitCode: number; readonly reason?: string; readonly message?: string; readonly containerID?: string };
}

/** One container's status. */
export interface ContainerStatus {
  readonly name: string;
  readonly state: ContainerState;
  readonly lastState: ContainerState;
  readonly ready: boolean;
  readonly restartCount: number;
  readonly containerID?: string;
  readonly image: string;
  readonly imageID: string;
}

/** A pod as `/pods` tells it, as far as tests look at it. */
export interface KubeletPod {
  readonly metadata: { readonly name: string; readonly namespace: string; readonly uid: string };
  readonly status: {
    readonly phase: string;
    readonly podIP?: string;
    readonly hostIP?: string;
    readonly qosClass?: string;
    readonly containerStatuses?: readonly ContainerStatus[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
  };
}

/** A container that runs a shell script in the local image. */
export function shell(name: string, script: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return { name, image, imagePullPolicy: 'Never', command: [busybox, 'sh', '-c', script], ...more };
}

/** The name that a kubelet gives a static pod. */
const nodeName = 'node';
const nameOf = (pod: string): string => `${pod}-${nodeName}`;

/** Daemon and kubelet, and what they share. */
export class KubeletNode implements AsyncDisposable {
  readonly cri: CriHost;
  /** The kubelet's server, over plain HTTP on the loopback: its own certificate is one that it made itself. */
  readonly url: string;
  readonly #server: Server;
  readonly #port: number;
  readonly #cgroup: string;
  readonly #settings = new Map(kernelSettings.map((name) => [name, readFileSync(`/proc/sys/${name}`, 'utf8')]));
  #kubelet: ChildProcess | undefined;

  private constructor(cri: CriHost, ports: { readonly kubelet: number; readonly plain: number }, server: Server) {
    this.cri = cri;
    this.#port = ports.kubelet;
    this.url = `http://127.0.0.1:${ports.plain}`;
    this.#server = server;
    // The last word of the directory's name is its own on this machine; a process id of a namespace is not.
    this.#cgroup = `/berth-kubelet-${cri.host.directory.split('-').at(-1)}`;
  }

  static async open(): Promise<KubeletNode> {
    assert.ok(existsSync(kubeletPath), 'needs build/go/kubelet: scripts/build-go-tools.sh kubelet');
    const commands = [
      'link add node0 type veth peer name node1',
      `addr add ${nodeAddress}/24 dev node0`,
      'link set node0 up',
      'link set node1 up',
      'route add default via 192.0.2.254',
    ];
    for (const command of commands) execFileSync('ip', command.split(' '));
    // The directory of links to logs cannot be chosen.
    execFileSync('mount', ['-t', 'tmpfs', 'node-log', '/var/log']);
    const cri = await CriHost.open();
    const kubelet = await freePort();
    const server = createServer((socket) => bridge(socket, kubelet));
    const plain = await new Promise<number>((listening) =>
      server.listen(0, '127.0.0.1', () => {
        const address = server.address();
        listening(address === null || typeof address === 'string' ? 0 : address.port);
      }),
    );
    const node = new KubeletNode(cri, { kubelet, plain }, server);
    for (const hierarchy of hierarchies()) mkdirSync(`${hierarchy}${node.#cgroup}`);
    for (const name of ['manifests', 'kubelet', 'pod-logs', 'plugins']) cri.host.scratch(name);
    writeFileSync(`${cri.host.directory}/resolv.conf`, 'nameserver 192.0.2.53\nsearch node.example\n');
    return node;
  }

  get kubeletLog(): string {
    return `${this.cri.host.directory}/kubelet.log`;
  }

  /** Starts the kubelet and waits until it answers. `featureGates` as in its configuration. */
  async start(featureGates: Readonly<Record<string, boolean>> = {}): Promise<void> {
    const { directory } = this.cri.host;
    const configuration = {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      address: '127.0.0.1',
      port: this.#port,
      healthzPort: 0,
      authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
      authorization: { mode: 'AlwaysAllow' },
      registerNode: false,
      staticPodPath: `${directory}/manifests`,
      podLogsDir: `${directory}/pod-logs`,
      volumePluginDir: `${directory}/plugins`,
      resolvConf: `${directory}/resolv.conf`,
      containerRuntimeEndpoint: `unix://${this.cri.socketPath}`,
      cgroupDriver: 'cgroupfs',
      cgroupRoot: this.#cgroup,
      cgroupsPerQOS: true,
      enforceNodeAllocatable: [],
      failCgroupV1: false,
      failSwapOn: false,
      fileCheckFrequency: '1s',
      syncFrequency: '2s',
      volumeStatsAggPeriod: '5s',
      containerLogMaxSize: '20Ki',
      containerLogMaxFiles: 3,
      containerLogMonitorInterval: '3s',
      crashLoopBackOff: { maxContainerRestartPeriod: '2s' },
      imageGCHighThresholdPercent: 100,
      evictionHard: { 'memory.available': '0%', 'nodefs.available': '0%', 'nodefs.inodesFree': '0%', 'imagefs.available': '0%', 'imagefs.inodesFree': '0%' },
      makeIPTablesUtilChains: false,
      featureGates,
    };
    writeFileSync(`${directory}/kubelet.json`, JSON.stringify(configuration));
    const log = openSync(this.kubeletLog, 'a');
    const args = ['--config', `${directory}/kubelet.json`, '--root-dir', `${directory}/kubelet`, '--cert-dir', `${directory}/pki`, '--hostname-override', nodeName];
    this.#kubelet = spawn(kubeletPath, [...args, '--node-ip', nodeAddress, '--v', '2'], { stdio: ['ignore', log, log] });
    closeSync(log);
    await this.until('the kubelet is healthy', async () =>
      this.get('/healthz').then(
        (text) => text === 'ok',
        () => false,
      ),
    );
  }

  /** Kills the kubelet, as a crash does; pods stay. */
  async kill(): Promise<void> {
    const kubelet = this.#kubelet;
    if (kubelet === undefined || kubelet.exitCode !== null || kubelet.signalCode !== null) return;
    const ended = new Promise((end) => kubelet.once('exit', end));
    kubelet.kill('SIGKILL');
    await ended;
  }

  /** Puts a manifest, or replaces the one of that name, in one step. */
  put(name: string, spec: Readonly<Record<string, unknown>>, metadata: Readonly<Record<string, unknown>> = {}): void {
    const path = `${this.cri.host.directory}/manifests/${name}.json`;
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'default', ...metadata }, spec: { terminationGracePeriodSeconds: 5, ...spec } };
    // Hidden files are passed over.
    writeFileSync(
      path.replace(/[^/]*$/, (file) => `.${file}`),
      JSON.stringify(pod),
    );
    renameSync(
      path.replace(/[^/]*$/, (file) => `.${file}`),
      path,
    );
  }

  /** Takes a manifest away. */
  remove(name: string): void {
    rmSync(`${this.cri.host.directory}/manifests/${name}.json`);
  }

  async get(path: string): Promise<string> {
    const answer = await fetch(`${this.url}${path}`);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${answer.status}: ${text}`);
    return text;
  }

  async pods(): Promise<readonly KubeletPod[]> {
    // SAFETY: the kubelet encodes a PodList.
    return (JSON.parse(await this.get('/pods')) as { readonly items: readonly KubeletPod[] | null }).items ?? [];
  }

  async pod(name: string): Promise<KubeletPod | undefined> {
    return (await this.pods()).find(({ metadata }) => metadata.name === nameOf(name));
  }

  /** Path of a pod at the kubelet's server. */
  path(door: string, pod: string, container?: string): string {
    return `/${door}/default/${nameOf(pod)}${container === undefined ? '' : `/${container}`}`;
  }

  /** Runs a command to its end and gives its output, through the kubelet. The command is split at blanks. */
  async run(pod: string, container: string, command: string): Promise<string> {
    const answer = await fetch(`${this.url}${this.path('run', pod, container)}?cmd=${encodeURIComponent(command)}`, { method: 'POST' });
    assert.equal(answer.status, 200, await answer.clone().text());
    return answer.text();
  }

  /** What a container has printed, as the kubelet tells it. */
  async logs(pod: string, container: string, query = ''): Promise<string> {
    return this.get(`${this.path('containerLogs', pod, container)}${query}`);
  }

  /** Waits for a pod to be as the predicate says and gives it. */
  async untilPod(name: string, what: string, holds: (status: KubeletPod['status'], pod: KubeletPod) => boolean): Promise<KubeletPod> {
    let pod: KubeletPod | undefined;
    await this.until(
      `${name}: ${what}`,
      async () => {
        pod = await this.pod(name);
        return pod !== undefined && holds(pod.status, pod);
      },
      () => JSON.stringify(pod?.status, null, 1),
    );
    assert.ok(pod !== undefined);
    return pod;
  }

  async until(what: string, holds: () => boolean | Promise<boolean>, found: () => string = () => ''): Promise<void> {
    const deadline = performance.now() + kubeletPatienceMs;
    while (!(await holds())) {
      const ended = this.#kubelet !== undefined && this.#kubelet.exitCode !== null;
      if (ended || performance.now() > deadline) {
        const log = existsSync(this.kubeletLog) ? readFileSync(this.kubeletLog, 'utf8') : '';
        const failures = log.split('\n').filter((line) => /^[EF]/.test(line));
        throw new Error(`${ended ? 'the kubelet has ended' : `not after ${kubeletPatienceMs} ms`}: ${what}\n${found()}\n${failures.slice(-15).join('\n')}`);
      }
      await sleep(200);
    }
  }

  /** Directories of the pods' cgroups that are still there. */
  podCgroups(): string[] {
    return hierarchies().flatMap((hierarchy) => globSync(`${hierarchy}${this.#cgroup}/kubepods/{,*/}pod*`));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (process.env['BERTH_KEEP_KUBELET_LOG'] !== undefined && existsSync(this.kubeletLog)) writeFileSync(process.env['BERTH_KEEP_KUBELET_LOG'], readFileSync(this.kubeletLog));
    try {
      await this.kill();
      for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n').reverse()) {
        const target = line.split(' ')[4] ?? '';
        if (target.startsWith(`${this.cri.host.directory}/kubelet/`)) execFileSync('umount', ['--lazy', target]);
      }
      await this.cri[Symbol.asyncDispose]();
    } finally {
      this.#server.close();
      this.#server.unref();
      for (const [name, value] of this.#settings) if (readFileSync(`/proc/sys/${name}`, 'utf8') !== value) writeFileSync(`/proc/sys/${name}`, value);
      for (const hierarchy of hierarchies()) removeGroups(`${hierarchy}${this.#cgroup}`);
    }
  }
}

/** One socket to the kubelet's TLS port, for clients that speak plain HTTP. */
function bridge(socket: Socket, port: number): void {
  const tls = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] });
  socket.on('error', () => tls.destroy());
  tls.on('error', () => socket.destroy());
  socket.pipe(tls).pipe(socket);
}

/** Mount points of the control groups' trees: one on a pure v2 host. */
function hierarchies(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => line.split(' ')[4] ?? '');
}

function removeGroups(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeGroups(`${path}/${entry.name}`);
  rmdirSync(path);
}
