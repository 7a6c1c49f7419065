/** `berth daemon`: the engine plus the CRI door, until a signal ends it. Pods go on without it. */
import { dirname } from 'node:path';
import type { DaemonOptions } from '#cli';
import { RuntimeError, errorMessage } from '#core';
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
  const owner = await takeOwnership({ location: options, version, lasting: true, report });
  if (!('engine' in owner)) throw new RuntimeError('failedPrecondition', `start daemon: process ${owner.lockedBy} owns ${options.rootDirectory}`);
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
