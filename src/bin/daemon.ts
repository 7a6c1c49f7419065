/** `berth daemon`: the engine plus the CRI door, until a signal ends it. Pods go on without it. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DaemonOptions } from '#cli';
import { RuntimeError, errorMessage, wrapError } from '#core';
import { startCriServer } from '#cri';
import { takeOwnership } from './session.ts';

/** One JSON line per entry on standard error, the same keys everywhere. */
export function log(level: 'info' | 'error', message: string, fields: Readonly<Record<string, unknown>> = {}): void {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
}

/** Runs until SIGINT or SIGTERM; resolves with the exit status. Throws failedPrecondition where another process owns the directories. */
export async function runDaemon(options: DaemonOptions, version: string): Promise<number> {
  const stopped = Promise.withResolvers<string>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stopped.resolve(signal));
  process.on('SIGHUP', () => undefined);
  const report = (error: unknown): void => log('error', errorMessage(error), options.debug && error instanceof Error ? { stack: error.stack } : {});
  const directory = dirname(options.socketPath);
  // The run directory is made; any other must exist, because a mistyped path would become a directory that nobody looks into.
  if (
    directory !== options.runDirectory &&
    !(
      await stat(directory).catch((error: unknown) => {
        throw wrapError(`listen on ${options.socketPath}`, error);
      })
    ).isDirectory()
  ) {
    throw new RuntimeError('failedPrecondition', `listen on ${options.socketPath}: ${directory} is no directory`);
  }
  const owner = await takeOwnership({ location: options, version, lasting: true, report });
  if (!('engine' in owner)) throw new RuntimeError('failedPrecondition', `start daemon: another engine owns ${options.rootDirectory} (its launcher is process ${owner.lockedBy})`);
  void owner.launcher.ended.then(() => stopped.resolve('the launcher ended'));
  try {
    const server = await startCriServer({ engine: owner.engine, socketPath: options.socketPath, version, log: (line) => log('error', line) });
    log('info', 'ready', { version, socket: options.socketPath, socketDirectory: dirname(options.socketPath), root: options.rootDirectory, pid: process.pid });
    const reason = await stopped.promise;
    log('info', 'stopping', { reason });
    await server.close();
  } finally {
    await owner.close();
  }
  return 0;
}
