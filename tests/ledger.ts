/**
 * The host ledger: what a run of Berth could leave behind, listed before and after, and compared.
 * In: /proc, the cgroup tree, `nft`. Out: sets of lines by kind and their difference. It changes nothing on the host.
 */
import { execFile } from 'node:child_process';
import { readFile, readdir, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** What is listed; a kind that could not be read is absent and not compared. */
export type LedgerKind = 'process' | 'mount' | 'netns' | 'link' | 'cgroup' | 'rule' | 'file';

/** Lines by kind. Equal lines may occur more than once. */
export type Ledger = ReadonlyMap<LedgerKind, readonly string[]>;

/** Which processes count: every one of this PID namespace, or those that are Berth's by name, executable or cgroup. */
export type ProcessScope = 'all' | 'berth';

const missingIsEmpty = async <Value>(read: Promise<readonly Value[]>): Promise<readonly Value[]> => read.catch(() => []);

/** Start time keeps a reused pid apart; kernel threads (parent 2) and zombies that init will reap are no leak of ours. */
async function describeProcess(pid: string, scope: ProcessScope): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    const comm = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' && fields[1] === '1') return undefined;
    if (pid === '2' || fields[1] === '2') {
      if ((await readFile(`/proc/${pid}/cmdline`, 'utf8')) === '') return undefined;
    }
    if (scope === 'berth') {
      const executable = await readlink(`/proc/${pid}/exe`).catch(() => '');
      const cgroups = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
      if (!/^berth|^pause$/.test(comm) && !/\/berth-shim|memfd:.*berth/.test(executable) && !cgroups.includes('berth')) return undefined;
    }
    return `${pid} ${comm} (started ${fields[19]}, parent ${fields[1]})`;
  } catch {
    return undefined; // it has ended meanwhile
  }
}

async function listProcesses(scope: ProcessScope): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map(async (pid) => describeProcess(pid, scope)));
  return lines.filter((line) => line !== undefined);
}

async function listMounts(): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).trimEnd().split('\n');
  return lines.map((line) => {
    const [left = '', right = ''] = line.split(' - ');
    return `${left.split(' ')[4]} (${right.split(' ')[0]})`;
  });
}

/** Named namespaces, and those that any process lives in. */
async function listNetworkNamespaces(scope: ProcessScope): Promise<string[]> {
  const names = (await missingIsEmpty(readdir('/run/netns'))).map((name) => `/run/netns/${name}`);
  if (scope === 'berth') return names;
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const inodes = await Promise.all(pids.map(async (pid) => readlink(`/proc/${pid}/ns/net`).catch(() => undefined)));
  return [...names, ...new Set(inodes.filter((inode) => inode !== undefined))];
}

async function listLinks(): Promise<string[]> {
  const lines = (await readFile('/proc/self/net/dev', 'utf8')).trimEnd().split('\n').slice(2);
  return lines.map((line) => line.slice(0, line.indexOf(':')).trim());
}

async function listCgroups(): Promise<string[]> {
  const directories = await missingIsEmpty(readdir('/sys/fs/cgroup', { recursive: true, withFileTypes: true }));
  return directories
    .filter((entry) => entry.isDirectory())
    .map((entry) => `${entry.parentPath}/${entry.name}`)
    .filter((path) => path.includes('berth'));
}

/** Undefined where `nft` is not installed or not permitted. Counters change by themselves and are left out. */
async function listRules(): Promise<string[] | undefined> {
  try {
    const { stdout } = await promisify(execFile)('nft', ['-s', 'list', 'ruleset'], { env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
    return stdout
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '' && line !== '}');
  } catch {
    return undefined;
  }
}

async function listFiles(): Promise<string[]> {
  const places = await Promise.all(['/run', '/tmp', '/dev/shm'].map(async (place) => (await missingIsEmpty(readdir(place))).map((name) => `${place}/${name}`)));
  const found = places.flat().filter((path) => /\/(berth|crio|cri-)[^/]*$/.test(path));
  // What lies inside the default run directory counts too, the directory itself may stay.
  const inside = await missingIsEmpty(readdir('/run/berth', { recursive: true }));
  return [
    ...found.filter((path) => path !== '/run/berth'),
    ...inside.map((name) => `/run/berth/${name}`).filter((path) => !/^\/run\/berth\/(pods|lock|launcher\.lock)$/.test(path)),
  ];
}

/** Lists the host once. */
export async function readLedger(scope: ProcessScope): Promise<Ledger> {
  const ledger = new Map<LedgerKind, readonly string[]>([
    ['process', await listProcesses(scope)],
    ['mount', await listMounts()],
    ['netns', await listNetworkNamespaces(scope)],
    ['link', await listLinks()],
    ['cgroup', await listCgroups()],
    ['file', await listFiles()],
  ]);
  const rules = await listRules();
  if (rules !== undefined) ledger.set('rule', rules);
  return ledger;
}

function subtract(from: readonly string[], what: readonly string[]): string[] {
  const rest = [...what];
  return from.filter((line) => {
    const at = rest.indexOf(line);
    if (at >= 0) rest.splice(at, 1);
    return at < 0;
  });
}

/** One line per difference: `left behind: link veth1` or `gone: mount /proc (proc)`. Pure. */
export function describeLedgerDifference(before: Ledger, after: Ledger): string[] {
  const lines: string[] = [];
  for (const [kind, old] of before) {
    const now = after.get(kind);
    if (now === undefined) continue;
    lines.push(...subtract(now, old).map((line) => `left behind: ${kind} ${line}`));
    // A process or namespace that was there before may end by itself; a mount, link or rule may not.
    if (kind === 'mount' || kind === 'link' || kind === 'rule') lines.push(...subtract(old, now).map((line) => `gone: ${kind} ${line}`));
  }
  return lines;
}

/**
 * Compares until nothing differs or the time is over: the kernel removes the links of a dropped namespace in the background.
 */
export async function compareLedger(before: Ledger, scope: ProcessScope, options: { readonly settleMs: number }): Promise<string[]> {
  const deadline = performance.now() + options.settleMs;
  for (;;) {
    const difference = describeLedgerDifference(before, await readLedger(scope));
    if (difference.length === 0 || performance.now() > deadline) return difference;
    await sleep(50);
  }
}
