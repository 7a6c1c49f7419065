/**
 * What the suites of the OCI runtime share: bundles made of busybox, and a runtime with a state root of its own, called as container engines call it. In: nothing but the machine. Out: an
 * `OciHost` whose disposal deletes every container and takes everything away. The same calls run runc and crun, which shows whether a test is right.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { defaultCapabilities, defaultMaskedPaths, defaultMounts, defaultReadonlyPaths } from '#runtime';
import { decodeMountInfo } from '#system';
import { busybox, patienceMs } from './berth-host.ts';
import { writeRoot } from './runtime-host.ts';

export { busybox, patienceMs, slowness } from './berth-host.ts';

/** Runtimes by the names that tests use. */
export type RuntimeName = 'berth' | 'runc' | 'crun';

const program = (name: string): string => ['/usr/bin', '/usr/sbin', '/usr/local/bin'].map((folder) => `${folder}/${name}`).find((path) => existsSync(path)) ?? name;
/** The executables. */
export const runtimePrograms: Readonly<Record<RuntimeName, string>> = {
  berth: new URL('../../dist/berth-oci', import.meta.url).pathname,
  runc: program('runc'),
  crun: program('crun'),
};

/** Why the tests cannot run here, or false. */
export function skipReason(runtime: RuntimeName = 'berth'): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  if (busybox === '') return 'needs busybox-static';
  return existsSync(runtimePrograms[runtime]) ? false : `needs ${runtimePrograms[runtime]}`;
}

/** A document that tests change as they like; only what most of them touch has a type. */
export interface OciDocument {
  ociVersion: string;
  process: { args: string[]; env: string[]; cwd: string; [name: string]: unknown };
  root: { path: string; readonly?: boolean };
  mounts: { destination: string; type?: string; source?: string; options?: readonly string[]; [name: string]: unknown }[];
  linux: { namespaces: { type: string; path?: string }[]; cgroupsPath?: string; resources?: Record<string, unknown>; [name: string]: unknown };
  hooks?: Record<string, { path: string; args?: string[]; env?: string[]; timeout?: number }[]>;
  annotations?: Record<string, string>;
  [name: string]: unknown;
}

/** A command that has ended. */
export interface OciResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** How a command is called. */
export interface CallOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly input?: string;
  /** Instead of the runtime's own executable. */
  readonly program?: string;
}

/** Directory of groups that containers of tests are in. */
const cgroupParent = 'berth-oci-test';

/** An ordinary container: its own namespaces, the default mounts, no network. */
export function makeDocument(args: readonly string[], change: (document: OciDocument) => void = () => undefined): OciDocument {
  const capabilities = [...defaultCapabilities];
  const document: OciDocument = {
    ociVersion: '1.2.0',
    process: {
      args: [...args],
      env: ['PATH=/bin', 'HOME=/root'],
      cwd: '/',
      user: { uid: 0, gid: 0 },
      noNewPrivileges: true,
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    root: { path: 'rootfs' },
    mounts: defaultMounts.map((mount) => ({ ...mount, options: [...mount.options] })),
    linux: {
      namespaces: ['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
      maskedPaths: [...defaultMaskedPaths],
      readonlyPaths: [...defaultReadonlyPaths],
    },
  };
  change(document);
  return document;
}

/** Mount points of the host's cgroup hierarchies. */
export function cgroupMounts(): readonly string[] {
  return decodeMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))
    .filter(({ type }) => type === 'cgroup' || type === 'cgroup2')
    .map(({ mountpoint }) => mountpoint);
}

/** One runtime with directories of its own. */
export class OciHost implements AsyncDisposable {
  readonly directory = mkdtempSync('/run/berth-oci-test-');
  readonly stateRoot = `${this.directory}/state`;
  readonly runtime: RuntimeName;
  #count = 0;

  constructor(runtime: RuntimeName = 'berth') {
    this.runtime = runtime;
  }

  /** An id that no other container of the machine has. */
  newId(): string {
    this.#count += 1;
    return `t${process.pid}-${this.directory.slice(-6)}-${this.#count}`;
  }

  /** A bundle directory with a root of busybox. `cgroupsPath` is below the tests' own group unless the document says something else. */
  makeBundle(args: readonly string[], change: (document: OciDocument) => void = () => undefined): string {
    this.#count += 1;
    const bundle = join(this.directory, `bundle${this.#count}`);
    mkdirSync(join(bundle, 'rootfs'), { recursive: true });
    writeRoot(join(bundle, 'rootfs'));
    this.writeDocument(bundle, makeDocument(args, change));
    return bundle;
  }

  /** Writes config.json of a bundle. */
  writeDocument(bundle: string, document: unknown): void {
    if (
      typeof document === 'object' &&
      document !== null &&
      'linux' in document &&
      typeof document.linux === 'object' &&
      document.linux !== null &&
      !('cgroupsPath' in document.linux)
    )
      Object.assign(document.linux, { cgroupsPath: `/${cgroupParent}/${bundle.slice(this.directory.length + 1)}-${this.directory.slice(-6)}` });
    writeFileSync(join(bundle, 'config.json'), typeof document === 'string' ? document : JSON.stringify(document));
  }

  /**
   * Runs the runtime. What it prints goes into files, which a container that it leaves behind may keep open. An engine that happens to run on the machine is never asked unless the
   * environment says so.
   */
  async call(args: readonly string[], { env = {}, cwd, input, program: executable = runtimePrograms[this.runtime] }: CallOptions = {}): Promise<OciResult> {
    this.#count += 1;
    const [outPath, errorPath] = [`${this.directory}/out${this.#count}`, `${this.directory}/err${this.#count}`];
    const files = [openSync(outPath, 'a'), openSync(errorPath, 'a')] as const;
    try {
      const child = spawn(executable, ['--root', this.stateRoot, ...args], {
        stdio: [input === undefined ? 'ignore' : 'pipe', ...files],
        env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none', ...env },
        ...(cwd === undefined ? {} : { cwd }),
      });
      child.stdin?.on('error', () => undefined).end(input);
      const [status, signal] = await new Promise<readonly [number | null, NodeJS.Signals | null]>((resolve, reject) => {
        child.once('error', reject).once('exit', (...end) => resolve(end));
      });
      return { status, signal, stdout: readFileSync(outPath, 'utf8'), stderr: readFileSync(errorPath, 'utf8') };
    } finally {
      for (const file of files) closeSync(file);
    }
  }

  /** Standard output of a command that must succeed. */
  async ok(args: readonly string[], options?: CallOptions): Promise<string> {
    const { status, signal, stdout, stderr } = await this.call(args, options);
    assert.equal(status, 0, `${this.runtime} ${args.join(' ')}: status ${status ?? signal}: ${stderr}${stdout}`);
    return stdout;
  }

  /** The end of a command that must fail; its texts, standard error first. */
  async fails(args: readonly string[], status = 1, options?: CallOptions): Promise<string> {
    const result = await this.call(args, options);
    assert.equal(result.status, status, `${this.runtime} ${args.join(' ')}: status ${result.status ?? result.signal}: ${result.stderr}${result.stdout}`);
    return result.stderr + result.stdout;
  }

  /** Runs a container in the foreground to its end. */
  async run(args: readonly string[], change?: (document: OciDocument) => void, options?: CallOptions): Promise<OciResult> {
    return this.call(['run', '--bundle', this.makeBundle(args, change), this.newId()], options);
  }

  /** Creates a container; its output comes into a file that `outputOf` reads. */
  async create(bundle: string, id = this.newId(), options: readonly string[] = []): Promise<string> {
    const outPath = `${this.directory}/${id}.log`;
    const file = openSync(outPath, 'a');
    const errorPath = `${this.directory}/${id}.create`;
    const errors = openSync(errorPath, 'a');
    try {
      const child = spawn(runtimePrograms[this.runtime], ['--root', this.stateRoot, '--log', errorPath, 'create', '--bundle', bundle, ...options, id], {
        stdio: ['ignore', file, file],
        env: { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' },
      });
      const status = await new Promise<number | null>((resolve, reject) => {
        child.once('error', reject).once('exit', resolve);
      });
      assert.equal(status, 0, `${this.runtime} create: status ${status}: ${readFileSync(errorPath, 'utf8')}${this.outputOf(id)}`);
      return id;
    } finally {
      closeSync(file);
      closeSync(errors);
    }
  }

  /** Creates and starts. */
  async start(args: readonly string[], change?: (document: OciDocument) => void, options: readonly string[] = []): Promise<string> {
    const id = await this.create(this.makeBundle(args, change), undefined, options);
    await this.ok(['start', id]);
    return id;
  }

  /** What the container of `create` has printed so far. */
  outputOf(id: string): string {
    return readFileSync(`${this.directory}/${id}.log`, 'utf8');
  }

  /** The state document. */
  async state(id: string): Promise<{ readonly status: string; readonly pid: number; readonly [name: string]: unknown }> {
    // SAFETY: what the tests look at is asserted by them.
    return JSON.parse(await this.ok(['state', id])) as { readonly status: string; readonly pid: number };
  }

  /** Waits until the container has this status. */
  async untilStatus(id: string, status: string): Promise<void> {
    await this.until(async () => (await this.state(id)).status === status, `container ${id} is ${status}`);
  }

  /** Waits for a condition, generously: only what never comes fails. */
  async until(condition: () => Promise<boolean> | boolean, what: string): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!(await condition())) {
      assert.ok(performance.now() < deadline, `waited ${patienceMs} ms until ${what}`);
      await sleep(20);
    }
  }

  /** Groups of this host's containers that are there, in all hierarchies. */
  listCgroups(): readonly string[] {
    return cgroupMounts().flatMap((mount) => {
      const parent = `${mount}/${cgroupParent}`;
      const names = existsSync(parent) ? readdirSync(parent, { withFileTypes: true }) : [];
      return names.filter((entry) => entry.isDirectory() && entry.name.endsWith(this.directory.slice(-6))).map(({ name }) => `${parent}/${name}`);
    });
  }

  /** Deletes every container, and asserts that nothing is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    const ids = existsSync(this.stateRoot) ? readdirSync(this.stateRoot) : [];
    for (const id of ids) await this.call(['delete', '--force', id]);
    const left = [...(existsSync(this.stateRoot) ? readdirSync(this.stateRoot) : []), ...this.listCgroups()];
    rmSync(this.directory, { recursive: true, force: true });
    for (const mount of cgroupMounts()) {
      try {
        rmdirSync(`${mount}/${cgroupParent}`);
      } catch {
        // It was never made here, or another suite has containers in it.
      }
    }
    assert.deepEqual(left, [], 'containers and groups that are left');
  }
}

/** A root directory of busybox elsewhere, for documents with a path of their own. */
export function makeRoot(directory: string): string {
  mkdirSync(directory, { recursive: true });
  writeRoot(directory);
  return directory;
}

/** Puts another copy of busybox into a root under a name, as a program that is no link. */
export function addProgram(bundle: string, name: string): void {
  const target = join(bundle, 'rootfs', name);
  mkdirSync(join(target, '..'), { recursive: true });
  copyFileSync(busybox, target);
}

/** Makes a link in a bundle's root. */
export function addLink(bundle: string, name: string, target: string): void {
  symlinkSync(target, join(bundle, 'rootfs', name));
}
