/**
 * What the tests of external callers share: a run directory of their own, a root file system, commands with or without a terminal, processes as /proc shows them.
 * In: the machine, with the caller's own package. Out: objects whose disposal takes everything away.
 *
 * The runtime is `dist/berth-oci`. BERTH_CALLERS_RUNTIME names another one: what fails with runc is a wrong test.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Finished, busybox, patienceMs } from './berth-host.ts';

export const runtime = process.env['BERTH_CALLERS_RUNTIME'] ?? fileURLToPath(new URL('../../dist/berth-oci', import.meta.url));
/** False where another runtime takes its place, to try the tests themselves. */
export const isOurs = runtime.endsWith('/berth-oci');
const path = '/usr/sbin:/usr/bin:/sbin:/bin';

/** Why the tests of a caller cannot run here, or false. */
export function skipWithout(...programs: readonly string[]): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const program of [...programs, 'busybox']) if (!path.split(':').some((place) => existsSync(`${place}/${program}`))) return `needs ${program}`;
  return false;
}

/** Options of one command. */
export interface CommandOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The command gets a terminal; its output comes back with the terminal's line ends made plain. */
  readonly terminal?: boolean;
  readonly cwd?: string;
}

/** A command that is still running. */
export interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** What it wrote until now, both streams. */
  output(): string;
  /** Waits until the output holds the text; fails when the command ends before. */
  untilOutput(text: string): Promise<void>;
  type(text: string): void;
}

const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

/** Starts a command. With a terminal, util-linux's `script` makes it, and both streams come as standard output. */
export function start(command: readonly string[], options: CommandOptions = {}): Running {
  const words = options.terminal === true ? ['script', '-qefc', command.map(quote).join(' '), '/dev/null'] : command;
  const [file = '', ...args] = words;
  const env = { PATH: path, HOME: '/root', TERM: 'dumb', SHELL: '/bin/sh', ...options.env };
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'], env, ...(options.cwd === undefined ? {} : { cwd: options.cwd }) });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += options.terminal === true ? text.replaceAll('\r', '') : text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => undefined);
  // A terminal's input stays open until the command ends, as a person's does; the last command of the input ends it.
  if (options.input !== undefined) child.stdin.write(options.input);
  if (options.terminal !== true) child.stdin.end();
  let ended = false;
  const finished = new Promise<Finished>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => {
      ended = true;
      resolve({ status, stdout, stderr });
    });
  });
  const output = (): string => stdout + stderr;
  return {
    child,
    finished,
    output,
    untilOutput: async (text) => {
      await until(`${command.join(' ')} prints ${JSON.stringify(text)}`, () => {
        assert.ok(output().includes(text) || !ended, `ended before it printed ${JSON.stringify(text)}: ${output()}`);
        return output().includes(text);
      });
    },
    type: (text) => void child.stdin.write(text),
  };
}

/** Runs a command to its end. */
export const run = async (command: readonly string[], options: CommandOptions = {}): Promise<Finished> => start(command, options).finished;

/** Waits until the condition holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `not within ${patienceMs} ms: ${what}`);
    await sleep(50);
  }
}

/** One process as the kernel tells it. */
export interface HostProcess {
  readonly pid: number;
  readonly parent: number;
  readonly name: string;
  readonly executable: string;
  readonly words: readonly string[];
}

/** Undefined when there is no such process. */
export function readProcess(pid: number): HostProcess | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const after = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (after[0] === 'Z') return undefined;
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
    return { pid, parent: Number(after[1]), name: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')), executable: readlinkSync(`/proc/${pid}/exe`), words };
  } catch {
    return undefined;
  }
}

export const listProcesses = (): HostProcess[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readProcess(Number(name)) ?? []);

/** Processes that execute the runtime or its compiler, but for these. */
export const runtimeProcesses = (except: readonly number[] = []): HostProcess[] =>
  listProcesses().filter(
    ({ pid, executable, words }) =>
      !except.includes(pid) &&
      pid !== process.pid &&
      (executable.startsWith(runtime) || /memfd:.*(berth|runc)/.test(executable) || words.some((word) => word.endsWith('berth-oci.mjs'))),
  );

/**
 * The contract after `create`: the process belongs to the caller, and nothing of the runtime lives but, before start, the process itself.
 */
export async function assertAdopted(pid: number, parentName: RegExp): Promise<void> {
  await until(`the runtime has left: ${JSON.stringify(runtimeProcesses([pid]))}`, () => runtimeProcesses([pid]).length === 0);
  const parent = readProcess(readProcess(pid)?.parent ?? 0);
  assert.match(parent === undefined ? 'none' : `${parent.name} ${parent.words[0] ?? ''}`, parentName);
}

/** Directories of control groups below a parent; each once for every hierarchy. */
export const cgroupsBelow = (parent: string): string[] => globSync(`/sys/fs/cgroup/{,*/}${parent.slice(1)}/**/`).map((name) => name.replace(/\/$/, ''));

/** Groups of single containers below a parent; callers leave their parents themselves. `except`: an id that may be there. */
export const containerCgroups = (parent: string, except = 'none'): string[] => cgroupsBelow(parent).filter((group) => !group.endsWith(parent) && !group.endsWith(except));

/** A file of a process's control group, on either version; '' when there is none. */
export function cgroupFile(pid: number, controller: string, names: { readonly v1: string; readonly v2: string }): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
  const old = lines.find((line) => line.split(':')[1]?.split(',').includes(controller) === true)?.split(':')[2];
  const file = old === undefined ? `/sys/fs/cgroup${lines.find((line) => line.startsWith('0::'))?.slice(3) ?? ''}/${names.v2}` : `/sys/fs/cgroup/${controller}${old}/${names.v1}`;
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
}

/**
 * A place for one caller: scratch on disk, a root file system with busybox, and a tmpfs over /run, where callers and runtimes keep their state. Control groups are made
 * below `cgroupParent`.
 */
export class CallerPlace implements AsyncDisposable {
  readonly directory = mkdtempSync('/var/tmp/berth-callers-');
  readonly rootfs = `${this.directory}/rootfs`;
  readonly cgroupParent = `/berth-callers-${this.directory.slice(-6)}`;
  readonly #services: { readonly running: Running; readonly name: string }[] = [];

  constructor() {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/run'], { env: { PATH: path } });
    for (const name of ['bin', 'etc', 'tmp', 'root', 'proc', 'dev', 'sys', 'home/alice']) mkdirSync(`${this.rootfs}/${name}`, { recursive: true });
    copyFileSync(busybox, `${this.rootfs}/bin/busybox`);
    const applets =
      'sh echo cat id ls sleep true false env pwd ps kill stat stty tty touch mkdir rm head tail grep cut test printf hostname ip mount umount seq wc ping nc dd chmod tr df'.split(
        ' ',
      );
    for (const applet of applets) symlinkSync('busybox', `${this.rootfs}/bin/${applet}`);
    writeFileSync(`${this.rootfs}/etc/passwd`, 'root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n');
    writeFileSync(`${this.rootfs}/etc/group`, 'root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n');
    writeFileSync(`${this.rootfs}/etc/data`, 'not a program\n');
    writeFileSync(`${this.rootfs}/bin/garbage`, 'neither a script nor a binary\n');
    chmodSync(`${this.rootfs}/bin/garbage`, 0o755);
    chmodSync(`${this.rootfs}/tmp`, 0o1777);
  }

  /** The root file system as a tar file. */
  tar(): string {
    const file = `${this.directory}/rootfs.tar`;
    if (!existsSync(file)) execFileSync('tar', ['-C', this.rootfs, '-cf', file, '.'], { env: { PATH: path } });
    return file;
  }

  write(name: string, content: string, mode = 0o644): string {
    const file = `${this.directory}/${name}`;
    writeFileSync(file, content);
    chmodSync(file, mode);
    return file;
  }

  /** A directory of the test's own. */
  scratch(name: string): string {
    mkdirSync(`${this.directory}/${name}`, { recursive: true });
    return `${this.directory}/${name}`;
  }

  /** A daemon that lives as long as this place. */
  async startService(name: string, command: readonly string[], ready: () => boolean | Promise<boolean>, env: Readonly<Record<string, string>> = {}): Promise<Running> {
    const running = start(command, { env });
    this.#services.push({ running, name });
    await until(`${name} is ready`, async () => {
      assert.equal(running.child.exitCode, null, `${name} ended: ${running.output()}`);
      return ready();
    });
    return running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { running } of this.#services.reverse()) {
      running.child.kill('SIGTERM');
      await running.finished;
    }
    // Callers leave mounts of their own (a network namespace, an empty shm) and their parent groups behind; neither is the runtime's.
    const mounts = (): string[] =>
      readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .flatMap((line) => line.split(' ')[4] ?? [])
        .filter((target) => target.startsWith(`${this.directory}/`) || target.startsWith('/run/'));
    for (const target of mounts().reverse()) execFileSync('umount', ['-l', target], { env: { PATH: path } });
    execFileSync('umount', ['-l', '/run'], { env: { PATH: path } });
    // What a failed test left running must not hide its failure.
    for (const group of cgroupsBelow(this.cgroupParent)) killGroup(group);
    for (const group of cgroupsBelow(this.cgroupParent).sort().reverse()) await until(`the group ${group} is empty`, () => removeGroup(group));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

function killGroup(group: string): void {
  try {
    for (const pid of readFileSync(`${group}/cgroup.procs`, 'utf8')
      .split('\n')
      .filter((line) => line !== ''))
      process.kill(Number(pid), 'SIGKILL');
  } catch {
    // The process has ended, or the group has gone.
  }
}

function removeGroup(group: string): boolean {
  try {
    rmdirSync(group);
    return true;
  } catch {
    return !existsSync(group);
  }
}
