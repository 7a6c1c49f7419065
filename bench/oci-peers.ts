/**
 * The runtimes that the command-line benchmark compares, a bundle for them, and a small process that times their commands. In: a scratch directory. Out: for each runtime a
 * caller whose commands are timed from the start of the process to its end. Meant for mount, network and PID namespaces of its own (see bench/run.sh).
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type OciRuntime, openRuntime } from '../tests/conformance-oci/runtimes.ts';

const home = fileURLToPath(new URL('..', import.meta.url));

/** What one command took. */
export interface Timing {
  readonly ms: number;
  readonly status: number;
}

/** Starts commands for one runtime and times them. */
export class Caller implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly outputPath: string;

  constructor({
    timer,
    outputPath,
    env,
    hideUnified,
  }: {
    readonly timer: string;
    readonly outputPath: string;
    readonly env: Readonly<Record<string, string>>;
    readonly hideUnified: boolean;
  }) {
    this.outputPath = outputPath;
    const command = hideUnified ? ['unshare', '-m', '--', 'sh', '-c', 'umount /sys/fs/cgroup/unified && exec "$@"', 'sh', timer] : [timer];
    const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'], env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', ...env } });
    this.#child = child;
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  async #ask(words: readonly string[]): Promise<Timing> {
    this.#child.stdin?.write(`${words.join('\x1f')}\n`);
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error(`time ${words.slice(1).join(' ')}: the timer ended`);
    const [nanoseconds = '', status = ''] = value.split(' ');
    return { ms: Number(nanoseconds) / 1e6, status: Number(status) };
  }

  /** Milliseconds that a command takes. Throws with its words when it fails. */
  async time(command: readonly string[]): Promise<number> {
    const { ms, status } = await this.#ask([this.outputPath, ...command]);
    if (status !== 0) throw new Error(`run ${command.join(' ')}: exit status ${status}: ${readFileSync(this.outputPath, 'utf8')}`);
    return ms;
  }

  /** Waits for a process that the caller adopted. */
  async reap(pid: number): Promise<void> {
    await this.#ask(['reap', String(pid)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin?.end();
    await gone;
  }
}

/** A runtime and how it is called. */
export interface BenchRuntime {
  readonly name: string;
  readonly runtime: OciRuntime;
  readonly caller: Caller;
  /** The command line up to the command. */
  readonly command: readonly string[];
}

/** The namespaces, mounts, masks and groups that callers ask for; of a version that every runtime here accepts. */
const document = {
  ociVersion: '1.0.2',
  process: {
    terminal: false,
    user: { uid: 0, gid: 0 },
    args: ['/bin/sleep', '1000000'],
    env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
    cwd: '/',
    capabilities: Object.fromEntries(['bounding', 'effective', 'permitted'].map((set) => [set, ['CAP_KILL', 'CAP_NET_BIND_SERVICE', 'CAP_SETUID']])),
    rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
    noNewPrivileges: true,
  },
  root: { path: 'rootfs', readonly: true },
  hostname: 'bench',
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
    { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  ],
  linux: {
    resources: { devices: [{ allow: false, access: 'rwm' }], memory: { limit: 268435456 }, pids: { limit: 128 } },
    namespaces: ['pid', 'network', 'ipc', 'uts', 'mount'].map((type) => ({ type })),
    maskedPaths: ['/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list', '/proc/sched_debug', '/sys/firmware', '/proc/scsi'],
    readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
  },
};

/** The directory of a bundle with a static busybox that sleeps, and beside it one that ends at once. */
export function makeBundles(scratch: string): { readonly sleeping: string; readonly ending: string } {
  const bundleOf = (name: string, args: readonly string[]): string => {
    const bundle = `${scratch}/bundle-${name}`;
    mkdirSync(`${bundle}/rootfs/bin`, { recursive: true });
    for (const place of ['proc', 'sys', 'dev', 'root', 'etc']) mkdirSync(`${bundle}/rootfs/${place}`);
    writeFileSync(`${bundle}/rootfs/etc/passwd`, 'root:x:0:0:root:/root:/bin/sh\n');
    cpSync('/bin/busybox', `${bundle}/rootfs/bin/busybox`);
    for (const applet of ['sh', 'true', 'sleep']) symlinkSync('busybox', `${bundle}/rootfs/bin/${applet}`);
    writeFileSync(`${bundle}/config.json`, JSON.stringify({ ...document, process: { ...document.process, args } }));
    return bundle;
  };
  return { sleeping: bundleOf('sleep', ['/bin/sleep', '1000000']), ending: bundleOf('true', ['/bin/true']) };
}

/** Compiles the timer. Throws with the compiler's words. */
export function makeTimer(scratch: string): string {
  const timer = `${scratch}/spawn-timer`;
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', timer, `${home}bench/spawn-timer.c`], { stdio: ['ignore', 'inherit', 'inherit'] });
  return timer;
}

/** An engine beside the commands, which compiles for them. */
export class Engine implements AsyncDisposable {
  readonly socketPath: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, socketPath: string) {
    this.#child = child;
    this.socketPath = socketPath;
  }

  static async start(scratch: string): Promise<Engine> {
    const [root, run] = [`${scratch}/engine`, `${scratch}/run/engine`];
    const log = openSync(`${scratch}/engine.log`, 'a');
    const child = spawn(`${home}bin/berth`, ['daemon', '--root', root, '--run', run, '--socket', `${scratch}/run/cri.sock`], { stdio: ['ignore', log, log] });
    const engine = new Engine(child, `${run}/oci.sock`);
    for (let attempt = 0; !existsSync(engine.socketPath); attempt += 1) {
      if (child.exitCode !== null || attempt > 200) throw new Error(`start an engine: ${readFileSync(`${scratch}/engine.log`, 'utf8')}`);
      await sleep(100);
    }
    return engine;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGTERM');
    await gone;
  }
}

/** Every runtime that this machine has; ours with an engine and without one. */
export function openRuntimes(scratch: string, timer: string, engine: Engine | undefined, names: readonly string[]): readonly BenchRuntime[] {
  const open = (name: string, runtimeName: string, env: Readonly<Record<string, string>>): readonly BenchRuntime[] => {
    if (!names.includes(name)) return [];
    const runtime = openRuntime(runtimeName);
    if (runtime === undefined) {
      console.log(`${name}: this machine has none`);
      return [];
    }
    const hideUnified = runtime.refusesHybrid && existsSync('/sys/fs/cgroup/unified/cgroup.procs');
    const caller = new Caller({ timer, outputPath: `${scratch}/run/${name}.output`, env, hideUnified });
    return [{ name, runtime, caller, command: [runtime.path, '--root', `${scratch}/run/state-${name}`] }];
  };
  return [
    ...open('berth', 'berth', { BERTH_OCI_ENGINE: 'none' }),
    ...(engine === undefined ? [] : open('berth+engine', 'berth', { BERTH_OCI_ENGINE: engine.socketPath })),
    ...open('runc', 'runc', {}),
    ...open('runc-newest', 'runc-newest', {}),
    ...open('crun', 'crun', {}),
  ];
}
