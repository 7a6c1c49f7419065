/**
 * What the runtime's integration tests share: one launcher, a root directory made of busybox, pods made from plans.
 * In: nothing but the machine. Out: a `RuntimeHost` whose disposal takes everything away.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type RuntimeSpec, decodeRuntimeSpec } from '#oci';
import { type Plan } from '#plan';
import {
  type PlanContainerInput,
  type PlanSandboxInput,
  type SandboxPlans,
  defaultCapabilities,
  defaultMaskedPaths,
  defaultMounts,
  defaultReadonlyPaths,
  defaultSeccompProfile,
  oomFileOf,
  planContainer,
  planContainerRemoval,
  planExec,
  planPayload,
  planSandbox,
  resolveIdentity,
} from '#runtime';
import { type ExecResult, type HostFacts, type Launcher, type ShimConnection, readHostFacts, startLauncher } from '#system';

/** BERTH_TEST_SHIM names another binary, such as the one with sanitizers. */
const shimPath = process.env['BERTH_TEST_SHIM'] ?? resolve(import.meta.dirname, '../../native/build/berth-shim');
const busyboxPath = ['/usr/bin/busybox', '/bin/busybox'].find((path) => existsSync(path));
const applets = [
  'sh',
  'cat',
  'echo',
  'ls',
  'id',
  'sleep',
  'true',
  'false',
  'mount',
  'umount',
  'mkdir',
  'rm',
  'touch',
  'hostname',
  'stty',
  'tty',
  'grep',
  'ps',
  'head',
  'dd',
  'kill',
  'readlink',
  'unshare',
  'pwd',
  'test',
  'sysctl',
  'mknod',
  'stat',
  'ulimit',
  'env',
  'chmod',
  'ln',
  'nice',
  'wc',
  'tr',
  'df',
];

/** Why the tests of this folder cannot run here, or false. */
export function skipReason(): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  if (busyboxPath === undefined) return 'needs busybox-static';
  return existsSync(shimPath) ? false : 'needs native/build/berth-shim';
}

/** A minimal root: busybox, passwd, group, empty directories. */
export function writeRoot(root: string): void {
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'etc', 'root', 'srv/web', 'data']) mkdirSync(join(root, name), { recursive: true });
  copyFileSync(busyboxPath ?? '', join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
  for (const name of applets) if (!existsSync(join(root, 'bin', name))) symlinkSync('busybox', join(root, 'bin', name));
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/srv/web:/bin/sh\n');
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\nweb:x:1001:\nextra:x:2002:web\n');
}

/** Parts of a document that a test changes; the rest is what a pod's container gets. */
export interface SpecParts {
  readonly args: readonly string[];
  readonly namespaces?: readonly unknown[];
  readonly mounts?: readonly unknown[];
  readonly process?: Readonly<Record<string, unknown>>;
  readonly linux?: Readonly<Record<string, unknown>>;
  readonly root?: Readonly<Record<string, unknown>>;
  readonly capabilities?: readonly string[];
}

/** A document with the defaults of a pod's container. */
export function makeSpec(host: HostFacts, parts: SpecParts): RuntimeSpec {
  const capabilities = parts.capabilities ?? defaultCapabilities;
  return decodeRuntimeSpec({
    ociVersion: '1.3.0',
    root: { path: 'rootfs', ...parts.root },
    mounts: [...defaultMounts, ...(parts.mounts ?? [])],
    process: {
      args: parts.args,
      cwd: '/',
      env: ['PATH=/bin'],
      noNewPrivileges: true,
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      ...parts.process,
    },
    linux: {
      namespaces: parts.namespaces ?? ['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })),
      maskedPaths: defaultMaskedPaths,
      readonlyPaths: defaultReadonlyPaths,
      seccomp: defaultSeccompProfile({ capabilities, architecture: host.architecture }),
      ...parts.linux,
    },
  });
}

/** One pod with its shim. */
export interface TestPod extends AsyncDisposable {
  readonly id: string;
  readonly shim: ShimConnection;
  /** What a connection to the shim must know. */
  readonly secret: Uint8Array;
  readonly sandbox: SandboxPlans;
  readonly logDirectory: string;
  /** Creates and starts; the log is `<name>.log`. */
  start(name: string, spec: RuntimeSpec, options?: Partial<PlanContainerInput>): Promise<{ readonly pid: number; readonly input: PlanContainerInput }>;
  /** Runs to the end and gives output and wait status. */
  run(name: string, spec: RuntimeSpec, options?: Partial<PlanContainerInput>): Promise<{ readonly output: string; readonly waitStatus: number; readonly oom: boolean }>;
  /** Runs a command in a started container. */
  exec(name: string, input: PlanContainerInput, pid: number, args: readonly string[], process?: Readonly<Record<string, unknown>>): Promise<ExecResult & { readonly text: string }>;
  execute(plan: Plan): Promise<void>;
}

/** The launcher, a scratch directory, a root. */
export interface RuntimeHost extends AsyncDisposable {
  readonly host: HostFacts;
  readonly directory: string;
  readonly root: string;
  readonly launcher: Launcher;
  makePod(options?: Partial<PlanSandboxInput>): Promise<TestPod>;
}

const stripLog = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.replace(/^\S+ (?:stdout|stderr) [PF] /, ''))
    .join('\n');

async function makePod(host: HostFacts, launcher: Launcher, directory: string, root: string, options: Partial<PlanSandboxInput>): Promise<TestPod> {
  const id = `t${randomBytes(4).toString('hex')}`;
  const [podDir, logDirectory, mountpoint] = [join(directory, id), join(directory, `${id}-logs`), join(directory, `${id}-mnt`)];
  mkdirSync(podDir, { mode: 0o700 });
  mkdirSync(logDirectory);
  mkdirSync(mountpoint);
  const secret = randomBytes(32);
  const shim = await launcher.startShim({ podId: id, podDir, secret, cgroupFiles: [] });
  const cgroup = { path: `/berth-test/${id}` };
  const sandbox = planSandbox({
    host,
    namespaces: { net: true, ipc: true, uts: true },
    hostname: 'testpod',
    sysctls: {},
    shm: { sizeBytes: 1 << 20 },
    mountpoint,
    sharePid: false,
    cgroup,
    ...options,
  });
  const waiters = new Map<string, (end: { readonly waitStatus: number; readonly flags: number }) => void>();
  const ends = new Map<string, { readonly waitStatus: number; readonly flags: number }>();
  await shim.subscribe((event) => {
    ends.set(event.processId, { waitStatus: event.waitStatus, flags: event.oomKilled ? 1 : 0 });
    waiters.get(event.processId)?.({ waitStatus: event.waitStatus, flags: event.oomKilled ? 1 : 0 });
  });
  try {
    await shim.execute(sandbox.prepare);
    if (sandbox.sysctls !== undefined) await shim.execute(sandbox.sysctls);
    if (sandbox.pause !== undefined) {
      await shim.createProcess({ processId: 'pause', plan: sandbox.pause });
      await shim.startProcess('pause');
    }
  } catch (error) {
    await shim.shutdown(sandbox.release);
    throw error;
  }
  const ended = async (name: string): Promise<{ readonly waitStatus: number; readonly flags: number }> => ends.get(name) ?? new Promise((done) => waiters.set(name, done));
  const pod: TestPod = {
    id,
    shim,
    secret,
    sandbox,
    logDirectory,
    execute: (plan) => shim.execute(plan),
    start: async (name, spec, more) => {
      const input: PlanContainerInput = {
        spec,
        rootfs: { kind: 'directory', path: root },
        pod: sandbox.sharing,
        host,
        cgroup: { path: `${cgroup.path}/${name}`, controllers: sandbox.controllers },
        askIdentity: false,
        ...more,
      };
      await shim.createProcess({
        processId: name,
        plan: planContainer(input),
        terminal: spec.process?.terminal ?? false,
        log: { directory: logDirectory, path: `${name}.log` },
        oomFile: oomFileOf(input),
        answer: (files) =>
          planPayload(
            input,
            resolveIdentity(
              { username: 'web', supplementalGroups: [], policy: 'Merge' },
              Object.fromEntries(files.map((file) => [file.path === '/etc/passwd' ? 'passwd' : 'group', file.content])),
            ),
          ),
      });
      await shim.startProcess(name);
      const state = (await shim.state()).find(({ processId }) => processId === name);
      return { pid: state?.pid ?? 0, input };
    },
    run: async (name, spec, more) => {
      await pod.start(name, spec, more);
      const { waitStatus, flags } = await ended(name);
      await shim.removeProcess(name);
      await shim.execute(planContainerRemoval(host, { path: `${cgroup.path}/${name}` }, { timeoutMs: 2000 }));
      return { output: stripLog(readFileSync(join(logDirectory, `${name}.log`), 'utf8')), waitStatus, oom: flags === 1 };
    },
    exec: async (name, input, pid, args, process) => {
      const base = input.spec.process;
      if (base === undefined) throw new Error('no process');
      const plan = planExec({ process: { ...base, args, ...process }, spec: input.spec, initPid: pid, host, cgroup: input.cgroup });
      const result = await shim.exec({ processId: name, plan, timeoutMs: 5000, outputBytesMax: 1 << 20 });
      return { ...result, text: result.stdout.toString('utf8') };
    },
    [Symbol.asyncDispose]: async () => {
      await shim.shutdown(sandbox.release);
      shim.close();
    },
  };
  return pod;
}

/** Starts the launcher in a scratch directory below `parent`; /run may be in memory, where older kernels map no ids. */
export async function startRuntimeHost(parent = '/run'): Promise<RuntimeHost> {
  const directory = mkdtempSync(join(parent, 'berth-runtime-test-'));
  const host = readHostFacts();
  const root = join(directory, 'root');
  mkdirSync(root);
  writeRoot(root);
  const result = await startLauncher({ executable: shimPath, runDir: directory, lockFile: join(directory, 'lock') });
  if (result.kind !== 'owner') throw new Error('the scratch directory is locked');
  return {
    host,
    directory,
    root,
    launcher: result.launcher,
    makePod: (options = {}) => makePod(host, result.launcher, directory, root, options),
    [Symbol.asyncDispose]: async () => {
      const mountpoints = host.cgroups.v1.map(({ mountpoint }) => mountpoint).concat(host.cgroups.unified?.mountpoint ?? []);
      await result.launcher.runOnce({
        sections: [{ actor: 'host', steps: mountpoints.map((mountpoint) => ({ kind: 'removeCgroup', cgroup: `${mountpoint}/berth-test`, timeoutMs: 2000 })) }],
      });
      await result.launcher.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Runs a host command for its output. */
export function hostCommand(file: string, ...args: readonly string[]): string {
  return execFileSync(file, args, { encoding: 'utf8' });
}
