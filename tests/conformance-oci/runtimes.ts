/**
 * The runtimes that the validation programs are run with, and one run of one program. In: the name of a runtime, the name of a program. Out: verdicts. What a program leaves
 * of processes, mounts and links ends with its namespaces; containers and control groups of it are removed here.
 */
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Line, readVerdicts } from './tap.ts';

const home = new URL('../..', import.meta.url).pathname;
const programs = join(home, 'build/go/oci-validation');

/** A runtime with the command line of runc. */
export interface OciRuntime {
  readonly name: string;
  readonly path: string;
  /** It refuses a host on which both versions of control groups are mounted, and is run where the second is not. */
  readonly refusesHybrid: boolean;
  /** It refuses documents of a specification newer than 1.0, whose rules the programs do not go beyond, and gets them with that version. */
  readonly refusesNewerVersions: boolean;
  /** First line of `--version`. */
  readonly version: string;
}

function findCommand(name: string): string | undefined {
  return ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'].map((place) => join(place, name)).find((path) => existsSync(path));
}

const places: Readonly<Record<string, () => string | undefined>> = {
  berth: () => join(home, 'dist/berth-oci'),
  runc: () => findCommand('runc'),
  'runc-newest': () => join(home, 'build/go/runc'),
  crun: () => findCommand('crun'),
};

/** Names that `openRuntime` knows; the first is ours. */
export const runtimeNames: readonly string[] = Object.keys(places);

/** Finds a runtime by name; undefined where this machine has none. */
export function openRuntime(name: string): OciRuntime | undefined {
  const path = places[name]?.();
  if (path === undefined || !existsSync(path)) return undefined;
  const version = execFileSync(path, ['--version'], { encoding: 'utf8', env: { ...process.env, BERTH_OCI_ENGINE: 'none' } }).split('\n')[0] ?? '';
  return { name, path, refusesHybrid: name === 'crun', refusesNewerVersions: version.startsWith('crun version 1.8.'), version };
}

/** Programs that were built, in the order of the alphabet. */
export function listPrograms(): readonly string[] {
  return readdirSync(programs)
    .filter((name) => name !== 'runtimetest' && !name.endsWith('.tar.gz'))
    .sort();
}

/** These make groups of fixed names, so that two of them cannot run at the same time. */
export const usesFixedGroups = (program: string): boolean => /cgroups|^delete_/.test(program);

const quote = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** Where groups are mounted; on a host with the second version alone one directory. */
function listHierarchies(): readonly string[] {
  const base = '/sys/fs/cgroup';
  if (existsSync(join(base, 'cgroup.procs'))) return [base];
  return readdirSync(base, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(base, entry.name));
}

function removeGroup(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeGroup(join(path, entry.name));
  try {
    rmdirSync(path);
  } catch {
    // Still in use: the ledger of the test run tells it.
  }
}

/** Own groups of this process, which relative paths begin at, for every hierarchy. */
function listOwnGroups(): readonly string[] {
  const names = readFileSync('/proc/self/cgroup', 'utf8')
    .split('\n')
    .map((line) => line.split(':').slice(2).join(':'));
  return listHierarchies().flatMap((hierarchy) => ['/', ...new Set(names)].map((name) => join(hierarchy, name)));
}

/** A run of a program. */
export interface ProgramRun {
  readonly program: string;
  readonly runtime: OciRuntime;
  readonly timeoutMs: number;
}

/** Runs one program in mount, network and PID namespaces of its own. */
export async function runProgram({ program, runtime, timeoutMs }: ProgramRun): Promise<readonly Line[]> {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-validation-'));
  // A program that maps user ids has its root below.
  chmodSync(scratch, 0o711);
  const [state, bundles, calls, wrapper] = [join(scratch, 'state'), join(scratch, 'bundles'), join(scratch, 'calls'), join(scratch, 'runtime')];
  mkdirSync(bundles, { mode: 0o711 });
  writeFileSync(calls, '');
  const older = runtime.refusesNewerVersions
    ? `before=\nfor word in "$@"; do\n  [ "$1 $before" = 'create --bundle' ] && sed -i 's/"ociVersion":\\( *\\)"1\\.[0-9.]*"/"ociVersion":\\1"1.0.0"/' "$word/config.json"\n  before=$word\ndone\n`
    : '';
  writeFileSync(wrapper, `#!/bin/sh\necho "$*" >>${quote(calls)}\n${older}exec ${quote(runtime.path)} --root ${quote(state)} "$@"\n`, { mode: 0o755 });
  const hidden = runtime.refusesHybrid && existsSync('/sys/fs/cgroup/unified/cgroup.procs') ? 'umount /sys/fs/cgroup/unified && ' : '';
  const command = ['-m', '-n', '-p', '-f', '--kill-child', '--', join(home, 'scripts/in-namespaces.sh'), 'sh', '-c', `${hidden}"$@"`, 'sh', join(programs, program)];
  try {
    const child = spawn('unshare', command, {
      cwd: programs,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', RUNTIME: wrapper, TMPDIR: bundles, BERTH_OCI_ENGINE: 'none' },
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, timeoutMs);
    const failure = await new Promise<string>((resolve) => {
      child.on('error', (error) => resolve(error.message));
      child.on('close', (code, signal) =>
        resolve(timedOut ? `not finished after ${timeoutMs / 1000} s` : code === 0 ? '' : signal === null ? `exit status ${code}` : `killed by ${signal}`),
      );
    });
    clearTimeout(timer);
    return readVerdicts({ stdout, stderr, failure });
  } finally {
    // The last word of a command line is a container's id, or an option: no group has its name then.
    const ids = readFileSync(calls, 'utf8').match(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g) ?? [];
    const names = [...new Set(ids), ...(usesFixedGroups(program) ? ['cgrouptest', 'testdir'] : [])];
    for (const group of listOwnGroups()) for (const name of names) removeGroup(join(group, name));
    rmSync(scratch, { recursive: true, force: true });
  }
}
