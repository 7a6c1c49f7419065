/**
 * Flags and words of one command → its options. In: values as `flags.ts` reads them, and who called. Out: a Command with absolute paths and numbers in range, or
 * invalidArgument. Pure.
 */
import { resolve } from 'node:path';
import { RuntimeError, limits } from '#core';
import { callerPath } from './caller-path.ts';
import type { CommandName } from './command-table.ts';
import { decodeSignal } from './numbers.ts';
import type { FlagValues } from './flags.ts';
import type { Command, CreateOptions, CriuOptions, ExecOptions, ExecProcess, ListFormat } from './options.ts';
import { isContainerId } from './record.ts';
import type { FrontRequest } from './types.ts';
import { updateOptions } from './update-flags.ts';

/** What a command's options are made of. */
export interface CommandWords {
  readonly values: FlagValues;
  readonly words: readonly string[];
  readonly request: Pick<FrontRequest, 'cwd' | 'pid'>;
}

const refuse = (message: string): RuntimeError => new RuntimeError('invalidArgument', message);

/** Refuses what is a part of the command line and not of this runtime. */
export function refuseFlag(name: string, why: string): RuntimeError {
  return new RuntimeError('unimplemented', `--${name} is not supported: ${why}`);
}

/** A container's id, which becomes a file name. */
export function decodeContainerId(id: string): string {
  if (id === '') throw refuse('container id cannot be empty');
  if (!isContainerId(id)) throw refuse(`invalid container ID format: ${JSON.stringify(id.slice(0, 200))}`);
  // A file name has no more, and a state directory's is that of the container.
  if (id.length > limits.ociIdBytesMax) throw refuse(`invalid container ID format: ${id.length} characters, at most ${limits.ociIdBytesMax}`);
  return id;
}

const idOf = ({ words }: CommandWords): string => decodeContainerId(words[0] ?? '');

/** More than this many descriptors no process has. */
function preserved(values: FlagValues): number {
  const count = values.number('preserve-fds') ?? 0;
  if (count > limits.ociPreservedFdsMax) throw refuse(`--preserve-fds ${count}: at most ${limits.ociPreservedFdsMax}`);
  return Math.max(count, 0);
}

function refusePidfdSocket(values: FlagValues): void {
  if (values.text('pidfd-socket') !== '') throw refuseFlag('pidfd-socket', 'a caller gets the process id by --pid-file');
}

function creation(from: CommandWords): CreateOptions {
  const { values, request } = from;
  refusePidfdSocket(values);
  const id = idOf(from);
  const bundle = callerPath(values.text('bundle'), request) || request.cwd;
  return {
    id,
    bundle,
    // Where the flag has a relative path, it is below the bundle for runc, which enters that first.
    consoleSocket: values.text('console-socket') === '' ? '' : resolve(bundle, values.text('console-socket')),
    pidFile: callerPath(values.text('pid-file'), request),
    preserveFds: preserved(values),
    noPivot: values.isOn('no-pivot'),
    noNewKeyring: values.isOn('no-new-keyring'),
  };
}

function decodeIdentifier(what: string, text: string): number {
  const value = /^[0-9]+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value < 2 ** 32)) throw refuse(`bad ${what}: ${JSON.stringify(text.slice(0, 100))} is not a number from 0 to 4294967295`);
  return value;
}

/** `--user UID[:GID]`; names are for callers that know the container's files. */
function userOf(text: string): ExecProcess['user'] {
  if (text === '') return undefined;
  const colon = text.indexOf(':');
  const gid = colon < 0 ? undefined : decodeIdentifier('gid', text.slice(colon + 1));
  return { uid: decodeIdentifier('uid', colon < 0 ? text : text.slice(0, colon)), ...(gid === undefined ? {} : { gid }) };
}

/** `--cgroup PATH` (cgroup2) or any number of `--cgroup CONTROLLER[,CONTROLLER]:PATH`. */
function cgroupsOf(arguments_: readonly string[]): ReadonlyMap<string, string> {
  const paths = new Map<string, string>();
  for (const argument of arguments_) {
    const colon = argument.indexOf(':');
    if (colon < 0) {
      if (arguments_.length !== 1) throw refuse(`invalid --cgroup argument: ${argument} (missing <controller>: prefix)`);
      paths.set('', argument);
      continue;
    }
    for (const controller of argument.slice(0, colon).split(',')) {
      if (controller === '') throw refuse(`invalid --cgroup argument: ${argument} (empty <controller> prefix)`);
      if (paths.has(controller)) throw refuse(`invalid --cgroup argument(s): controller ${controller} specified multiple times`);
      paths.set(controller, argument.slice(colon + 1));
    }
  }
  return paths;
}

function execution(from: CommandWords): ExecOptions {
  const { values, words, request } = from;
  refusePidfdSocket(values);
  const id = idOf(from);
  const args = words.slice(1);
  const file = values.text('process');
  if (file === '' && args.length === 0) throw refuse('exec args cannot be empty');
  const user = userOf(values.text('user'));
  for (const entry of values.texts('env'))
    if (entry.indexOf('=') < 1) throw refuse(`invalid environment variable ${JSON.stringify(entry.slice(0, 100))}: must have the form NAME=value`);
  const cwd = values.text('cwd');
  if (cwd !== '' && !cwd.startsWith('/')) throw refuse(`Cwd must be an absolute path, not ${JSON.stringify(cwd.slice(0, 100))}`);
  const changes: ExecProcess = {
    args,
    ...(user === undefined ? {} : { user }),
    cwd,
    env: values.texts('env'),
    caps: values.texts('cap'),
    additionalGids: values.numbers('additional-gids').map((gid) => decodeIdentifier('additional gid', String(gid))),
    tty: values.isOn('tty'),
    processLabel: values.text('process-label'),
    apparmor: values.text('apparmor'),
    ...(values.has('no-new-privs') ? { noNewPrivs: values.isOn('no-new-privs') } : {}),
  };
  return {
    id,
    process: file === '' ? { kind: 'changes', changes } : { kind: 'file', path: callerPath(file, request) },
    detach: values.isOn('detach'),
    consoleSocket: callerPath(values.text('console-socket'), request),
    pidFile: callerPath(values.text('pid-file'), request),
    preserveFds: preserved(values),
    ignorePaused: values.isOn('ignore-paused'),
    cgroups: cgroupsOf(values.texts('cgroup')),
  };
}

function formatOf(values: FlagValues): ListFormat {
  const format = values.has('format') ? values.text('format') : 'table';
  if (format !== 'table' && format !== 'json') throw refuse('invalid format option');
  return format;
}

function signalOf(text: string): number {
  const signal = decodeSignal(text === '' ? 'SIGTERM' : text);
  if (signal === undefined) throw refuse(`unknown signal ${JSON.stringify(text.slice(0, 100))}`);
  return signal;
}

const cgroupModes = ['', 'soft', 'full', 'strict', 'ignore'] as const;

function criu(from: CommandWords): CriuOptions {
  const { values, request } = from;
  const wanted = values.text('manage-cgroups-mode');
  const mode = cgroupModes.find((one) => one === wanted);
  if (mode === undefined) throw refuse(`invalid manage-cgroups-mode value: ${JSON.stringify(wanted.slice(0, 100))}`);
  for (const namespace of values.texts('empty-ns')) if (namespace !== 'network') throw refuse(`namespace ${JSON.stringify(namespace.slice(0, 100))} is not supported`);
  return {
    id: idOf(from),
    imagePath: callerPath(values.text('image-path') || 'checkpoint', request),
    workPath: callerPath(values.text('work-path'), request),
    tcpEstablished: values.isOn('tcp-established'),
    tcpSkipInFlight: values.isOn('tcp-skip-in-flight'),
    extUnixSk: values.isOn('ext-unix-sk'),
    shellJob: values.isOn('shell-job'),
    lazyPages: values.isOn('lazy-pages'),
    fileLocks: values.isOn('file-locks'),
    autoDedup: values.isOn('auto-dedup'),
    linkRemap: values.isOn('link-remap'),
    emptyNetwork: values.texts('empty-ns').length > 0,
    manageCgroupsMode: mode,
  };
}

function pageServer(text: string): { readonly pageServer: { readonly address: string; readonly port: number } } | undefined {
  if (text === '') return undefined;
  const match = /^(?:\[([0-9a-fA-F:.%a-z]+)\]|([^:[\]]+)):([0-9]+)$/.exec(text);
  const address = match?.[1] ?? match?.[2];
  const port = Number(match?.[3] ?? 0);
  if (address === undefined || port < 1 || port > 65_535) throw refuse('Use --page-server ADDRESS:PORT to specify page server');
  return { pageServer: { address, port } };
}

function parentPath(path: string): string {
  if (path.startsWith('/')) throw refuse('--parent-path must be relative');
  return path;
}

/** The options of a command. Throws invalidArgument, or unimplemented for what this runtime does not do. */
export function decodeOptions(name: CommandName, from: CommandWords): Command {
  const { values, words, request } = from;
  switch (name) {
    case 'create':
      return { name, options: creation(from) };
    case 'run':
      return { name, options: { ...creation(from), detach: values.isOn('detach'), keep: values.isOn('keep'), noSubreaper: values.isOn('no-subreaper') } };
    case 'exec':
      return { name, options: execution(from) };
    case 'start':
    case 'state':
    case 'pause':
    case 'resume':
      return { name, options: { id: idOf(from) } };
    case 'kill':
      return { name, options: { id: idOf(from), signal: signalOf(words[1] ?? ''), all: values.isOn('all') } };
    case 'delete':
      return { name, options: { id: idOf(from), force: values.isOn('force') } };
    case 'list':
      return { name, options: { format: formatOf(values), quiet: values.isOn('quiet') } };
    case 'ps':
      return { name, options: { id: idOf(from), format: formatOf(values), psArgs: words.slice(1) } };
    case 'events': {
      const intervalMs = values.number('interval') ?? 5000;
      if (intervalMs <= 0) throw refuse('duration interval must be greater than 0');
      return { name, options: { id: idOf(from), stats: values.isOn('stats'), intervalMs } };
    }
    case 'spec':
      if (values.isOn('rootless')) throw refuseFlag('rootless', 'containers are made by root');
      return { name, options: { bundle: callerPath(values.text('bundle'), request) || request.cwd } };
    case 'features':
      return { name, options: {} };
    case 'update':
      return { name, options: updateOptions(idOf(from), from) };
    case 'checkpoint':
      return {
        name,
        options: {
          ...criu(from),
          parentPath: parentPath(values.text('parent-path')),
          leaveRunning: values.isOn('leave-running'),
          preDump: values.isOn('pre-dump'),
          statusFd: values.number('status-fd') ?? -1,
          ...pageServer(values.text('page-server')),
        },
      };
    case 'restore': {
      const bundle = callerPath(values.text('bundle'), request) || request.cwd;
      return {
        name,
        options: {
          ...criu(from),
          bundle,
          consoleSocket: values.text('console-socket') === '' ? '' : resolve(bundle, values.text('console-socket')),
          pidFile: callerPath(values.text('pid-file'), request),
          detach: values.isOn('detach'),
          noSubreaper: values.isOn('no-subreaper'),
          noPivot: values.isOn('no-pivot'),
          lsmProfile: values.text('lsm-profile'),
          lsmMountContext: values.text('lsm-mount-context'),
        },
      };
    }
  }
}
