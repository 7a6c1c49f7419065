/** `berth daemon`: the engine plus the CRI door, until a signal ends it. Pods go on without it. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DaemonOptions } from '#cli';
import { RuntimeError, wrapError } from '#core';
import { type CriServerOptions, startCriServer } from '#cri';
import { systemClock } from '#system';
import { type Configuration, listChanges } from './configuration.ts';
import { logCall, logEvents, logFailure } from './daemon-log.ts';
import { engineFiles } from './locations.ts';
import { openLogSink } from './log-sink.ts';
import { type Log, createLog } from './log.ts';
import { openOciDoor } from './oci-door.ts';
import { takeOwnership } from './session.ts';
import { reloadableKeys } from './settings-decode.ts';
import type { Settings } from './settings.ts';

/** What a daemon is started with. */
export interface DaemonParts {
  readonly options: DaemonOptions;
  readonly configuration: Configuration;
  /** Reads the configuration again, with the options that the daemon was started with. */
  readonly reload: () => Configuration;
  readonly version: string;
}

/** The run directory is made; any other must exist, because a mistyped path would become a directory that nobody looks into. */
async function checkSocketDirectory({ socketPath, runDirectory }: DaemonOptions): Promise<void> {
  const directory = dirname(socketPath);
  if (directory === runDirectory) return;
  const found = await stat(directory).catch((error: unknown) => {
    throw wrapError(`listen on ${socketPath}`, error);
  });
  if (!found.isDirectory()) throw new RuntimeError('failedPrecondition', `listen on ${socketPath}: ${directory} is no directory`);
}

function openLog({ level, format }: Settings['log']): { readonly log: Log; readonly flush: () => Promise<void> } {
  const now = Date.now;
  const lines: string[] = [];
  const sink = openLogSink(process.stderr.fd, (droppedLines) => {
    createLog({ level: 'warn', format, sink: { write: (line) => void lines.push(line) }, now }).warn('lines of the log were lost', { droppedLines });
    return lines.splice(0).join('');
  });
  process.once('exit', sink.flushAtExit);
  return { log: createLog({ level, format, sink, now }), flush: sink.flush };
}

/**
 * A function that reads the configuration again, takes over what can be changed while pods run, and tells of the rest, which counts
 * from the next start. A mistake leaves everything as it was.
 */
function createReload(log: Log, { configuration, reload }: Pick<DaemonParts, 'configuration' | 'reload'>): () => void {
  let last = configuration;
  return () => {
    try {
      const next = reload();
      const changed = listChanges(last, next).filter((key) => reloadableKeys.has(key));
      const needRestart = listChanges(configuration, next).filter((key) => !reloadableKeys.has(key));
      last = next;
      log.setLevel(next.settings.log.level);
      log.info('configuration reloaded', { files: next.files, changed, needRestart });
    } catch (error) {
      logFailure(log, wrapError('reload configuration', error));
    }
  };
}

function streamingOf({ cri }: Settings, log: Log): NonNullable<CriServerOptions['streaming']> {
  return {
    address: cri.streamAddress,
    port: cri.streamPort,
    idleTimeoutMs: cri.streamIdleTimeoutMs,
    creationTimeoutMs: cri.streamCreationTimeoutMs,
    clock: systemClock,
    log: (line) => log.info(line),
  };
}

/** Runs until SIGINT or SIGTERM; resolves with the exit status. Throws failedPrecondition where another process owns the directories. */
export async function runDaemon(parts: DaemonParts): Promise<number> {
  const { options, configuration, version } = parts;
  const { settings } = configuration;
  const stopped = Promise.withResolvers<string>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stopped.resolve(signal));
  const { log, flush } = openLog(settings.log);
  process.on('SIGHUP', createReload(log, parts));
  const report = (error: unknown): void => logFailure(log, error);
  await checkSocketDirectory(options);
  const owner = await takeOwnership({ location: options, settings, version, lasting: true, report });
  if (!('engine' in owner)) throw new RuntimeError('failedPrecondition', `start daemon: another engine owns ${options.rootDirectory} (its launcher is process ${owner.lockedBy})`);
  void owner.launcher.ended.then(() => stopped.resolve('the launcher ended'));
  const ended = new AbortController();
  const events = logEvents(log, owner.engine, ended.signal);
  try {
    const server = await startCriServer({
      engine: owner.engine,
      socketPath: options.socketPath,
      version,
      onCall: (call) => logCall(log, call),
      streaming: streamingOf(settings, log),
    });
    const door = await openOciDoor({ socketPath: engineFiles(options).ociSocket, version, report }).catch(async (error: unknown) => {
      await server.close();
      throw error;
    });
    const { rootDirectory, runDirectory, socketPath: socket } = options;
    log.info('ready', { version, socket, rootDirectory, runDirectory, files: configuration.files, pid: process.pid });
    const reason = await stopped.promise;
    log.info('stopping', { reason });
    await door.close();
    await server.close();
  } finally {
    await owner.close();
    ended.abort();
    await events;
    await flush();
  }
  return 0;
}
