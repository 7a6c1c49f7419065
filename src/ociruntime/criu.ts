/**
 * The language of criu(8): its words for a container, and what its files say. In: options, a container, names of its streams. Out: argument lists, typed values. Pure. Source: criu(8) of
 * version 3.17, and the names that runc gives to what both sides of a checkpoint must call alike, so that images of one can be restored by the other.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type RuntimeSpec, arrayOf, decodeString, parseJson } from '#oci';
import { boundMounts } from '#runtime';
import type { CheckpointOptions, CriuOptions, RestoreOptions } from './options.ts';

/** Files in a directory of images that are not criu's own. */
export const descriptorsFile = 'descriptors.json';
/** Names of criu's logs in its work directory. */
export const logFiles = { dump: 'dump.log', restore: 'restore.log' } as const;
/** Files that criu writes into its work directory besides. */
export const workFiles: readonly string[] = ['stats-dump', 'stats-restore'];

const streamsMax = 64;
/** Namespaces that stay outside: their kinds for criu, and what the images call them. */
const outside = { network: { word: 'net', key: 'extRootNetNS' }, pid: { word: 'pid', key: 'extRootPidNS' } } as const;
const joinWords: Readonly<Record<string, string>> = { ipc: 'ipc', uts: 'uts', user: 'user', mount: 'mnt', time: 'time' };

function flagsOf(options: CriuOptions): readonly string[] {
  const flags: readonly (readonly [boolean, string])[] = [
    [options.tcpEstablished, '--tcp-established'],
    [options.extUnixSk, '--ext-unix-sk'],
    [options.shellJob, '--shell-job'],
    [options.lazyPages, '--lazy-pages'],
    [options.fileLocks, '--file-locks'],
    [options.autoDedup, '--auto-dedup'],
  ];
  return [...flags.filter(([isOn]) => isOn).map(([, word]) => word), ...(options.emptyNetwork ? ['--empty-ns', 'net'] : [])];
}

/** What both directions begin with. No configuration file is read: what runs as root follows the command line alone. */
function commonWords({ imagePath, workPath, manageCgroupsMode, ...options }: CriuOptions, log: string): readonly string[] {
  return [
    '--no-default-config',
    '--images-dir',
    imagePath,
    ...(workPath === '' ? [] : ['--work-dir', workPath]),
    '--log-file',
    log,
    '-v4',
    `--manage-cgroups=${manageCgroupsMode === '' ? 'soft' : manageCgroupsMode}`,
    ...flagsOf({ imagePath, workPath, manageCgroupsMode, ...options }),
  ];
}

/** A destination as criu's list of external mounts can hold it. */
function bracketed(destination: string): string {
  if (/[\]\n]/.test(destination)) throw invalidArgument('mounts', `destination ${JSON.stringify(destination.slice(0, 200))}: criu takes no mount whose path has a bracket`);
  return destination;
}

/** What a checkpoint depends on besides its options. */
export interface DumpFacts {
  readonly spec: RuntimeSpec;
  readonly pid: number;
  readonly bundle: string;
  readonly rootfs: string;
  /** The directory of the group that stops all processes; empty where criu has to stop one after the other. */
  readonly freezeCgroup: string;
  /** Where a destination leads inside the root. */
  readonly resolve: (destination: string) => string;
  /** Inode of a namespace that is named by its path. */
  readonly inodeOf: (path: string) => bigint;
  /** `nftables` where this criu can lock connections with it; empty: its own choice. */
  readonly networkLock: string;
  /** The container's standard streams by the names that criu has for them. */
  readonly streams: readonly string[];
}

/** A file of the host, which the caller hands over again when the container is restored. */
const isHostFile = (name: string): boolean => /^file\[[0-9a-f]{1,8}:[0-9a-f]{1,16}\]$/.test(name);
const isPipe = (name: string): boolean => /^pipe:\[\d{1,20}\]$/.test(name);

/** Throws unimplemented for what criu cannot bring back. `verb` is what is done to the container. */
export function checkPossible(spec: RuntimeSpec, verb: string): void {
  if (spec.linux.namespaces.some(({ type, path }) => type === 'user' && path === undefined))
    throw new RuntimeError('unimplemented', `${verb} container: linux.namespaces: a user namespace: criu 3.17 cannot make its file systems again`);
}

/** Words after `criu` that write a container's processes to images. */
export function dumpWords(options: CheckpointOptions, facts: DumpFacts): readonly string[] {
  const { spec } = facts;
  const external = spec.linux.namespaces.flatMap(({ type, path }) =>
    path === undefined || (type !== 'network' && type !== 'pid') ? [] : [`${outside[type].word}[${facts.inodeOf(path)}]:${outside[type].key}`],
  );
  const mounts = boundMounts(spec, facts.bundle).map(({ destination }) => `mnt[${bracketed(facts.resolve(destination))}]:${bracketed(destination)}`);
  return [
    options.preDump ? 'pre-dump' : 'dump',
    '--tree',
    String(facts.pid),
    ...commonWords(options, logFiles.dump),
    '--root',
    facts.rootfs,
    ...(facts.freezeCgroup === '' ? [] : ['--freeze-cgroup', facts.freezeCgroup]),
    ...(facts.networkLock === '' ? [] : ['--network-lock', facts.networkLock]),
    ...(options.leaveRunning && !options.preDump ? ['--leave-running'] : []),
    ...(options.tcpSkipInFlight ? ['--skip-in-flight'] : []),
    ...(options.linkRemap ? ['--link-remap'] : []),
    ...(options.parentPath === '' ? [] : ['--prev-images-dir', options.parentPath]),
    ...(options.parentPath === '' && !options.preDump ? [] : ['--track-mem']),
    ...(options.pageServer === undefined ? [] : ['--page-server', '--address', options.pageServer.address, '--port', String(options.pageServer.port)]),
    ...[...mounts, ...external, ...new Set(facts.streams.filter(isHostFile))].flatMap((resource) => ['--external', resource]),
  ];
}

/** What a restore depends on besides its options. */
export interface RestoreFacts {
  readonly spec: RuntimeSpec;
  readonly bundle: string;
  /** The mount point that the root stands on. */
  readonly mountpoint: string;
  readonly cgroupPath: string;
  /** Where criu writes the number of the first process. */
  readonly pidFile: string;
  /** What the container's streams were when the images were made. */
  readonly streams: readonly string[];
  readonly networkLock: string;
}

/** The program that restores, with its words. A shell opens the namespaces that criu wants as descriptors, and becomes criu. */
export function restoreCommand(options: RestoreOptions, facts: RestoreFacts): readonly string[] {
  const { spec } = facts;
  const paths = spec.linux.namespaces.flatMap(({ type, path }) => (path !== undefined && (type === 'network' || type === 'pid') ? [{ path, ...outside[type] }] : []));
  const joined = spec.linux.namespaces.flatMap(({ type, path }) => {
    if (path === undefined || type === 'network' || type === 'pid') return [];
    const word = joinWords[type];
    if (word === undefined) throw invalidArgument('linux.namespaces', `a ${type} namespace by its path: criu cannot restore into one`);
    return ['--join-ns', `${word}:${path}`];
  });
  const inherited = [
    ...facts.streams.flatMap((name, index) => (index < 3 && (isPipe(name) || isHostFile(name)) ? [`fd[${index}]:${name}`] : [])),
    ...paths.map(({ key }, index) => `fd[${index + 3}]:${key}`),
  ];
  const criu = [
    'criu',
    'restore',
    ...commonWords(options, logFiles.restore),
    '--restore-detached',
    '--root',
    facts.mountpoint,
    '--pidfile',
    facts.pidFile,
    '--evasive-devices',
    ...(options.manageCgroupsMode === 'ignore' ? [] : ['--cgroup-root', facts.cgroupPath]),
    ...(facts.networkLock === '' ? [] : ['--network-lock', facts.networkLock]),
    ...(options.lsmProfile === '' ? [] : ['--lsm-profile', options.lsmProfile]),
    ...(options.lsmMountContext === '' ? [] : ['--lsm-mount-context', options.lsmMountContext]),
    ...boundMounts(spec, facts.bundle).flatMap(({ destination, source }) => ['--external', `mnt[${bracketed(destination)}]:${source}`]),
    ...joined,
    ...inherited.flatMap((resource) => ['--inherit-fd', resource]),
  ];
  if (paths.length === 0) return criu;
  const script = [...paths.map((_path, index) => `exec ${index + 3}<"$${index + 1}"`), `shift ${paths.length}`, 'exec "$@"'].join('; ');
  return ['/bin/sh', '-ec', script, 'sh', ...paths.map(({ path }) => path), ...criu];
}

/** Names of streams as `checkpoint` has written them beside the images, which may be a stranger's. Throws invalidArgument. */
export function decodeStreams(text: string, path: string): readonly string[] {
  return arrayOf(decodeString, streamsMax)(parseJson(text, path), '');
}

/** Errors with which criu ends whatever went wrong. */
const generic = /exited, status=|Dump files \(pid: \d+\) failed|Can't wait or bad status|(?:Dumping|Pre-dumping|Restoring) FAILED|Killing processes because of failure/;

/** The line of criu's log that tells why it failed, printable; empty where there is none. */
export function lastError(log: string): string {
  const errors = log.split('\n').filter((line) => line.includes('Error'));
  const line = errors.findLast((text) => !generic.test(text)) ?? errors.at(-1) ?? '';
  return line
    .replace(/^\([\d.]+\)\s*(?:\d+: )?/, '')
    .trim()
    .slice(0, 300)
    .replaceAll(/[^\x20-\x7e]+/g, '?');
}
