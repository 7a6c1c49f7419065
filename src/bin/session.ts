/**
 * Who answers a command: this process, when it gets the state directory's lock, or the process that holds it. In: a location.
 * Out: an engine session. Exactly one engine owns a state directory at a time; the launcher's lock decides.
 */
import { access, constants } from 'node:fs/promises';
import type { EngineSession } from '#cli';
import { RuntimeError, errorCode, invalidArgument, wrapError } from '#core';
import { connectEngine, serveEngine } from '#remote';
import { type Launcher, makeDirectory, startLauncher, systemClock } from '#system';
import { type Location, engineFiles, programFiles } from './locations.ts';
import { type OwnEngine, openOwnEngine } from './own-engine.ts';
import type { Settings } from './settings.ts';

/** A short-lived owner may end between the failed lock and the connection, so both are tried in turn for this long. */
const takeoverTimeoutMs = 10_000;
const retryPauseMs = 20;
/** How long a command waits for a short one to end, so that nobody's run depends on a `ps` that came first. */
const shortOwnerPatienceMs = 1000;
/** What is left of the 107 bytes of a socket's path above `pods/<24 characters>/shim.sock`. */
const runDirectoryBytesMax = 64;

/** What a process needs to become the owner of a location. */
export interface OwnerOptions {
  readonly location: Location;
  readonly settings: Settings;
  readonly version: string;
  /** This process will own the directories for long: it does more than ask. */
  readonly lasting: boolean;
  readonly report: (error: unknown) => void;
}

/** The engine of this process with its launcher and its socket. */
export interface Owner extends OwnEngine {
  readonly launcher: Launcher;
  isUsedByOthers(): boolean;
  /** Resolves when no other command uses this engine, or when the signal fires. */
  untilUnused(signal: AbortSignal): Promise<void>;
}

/** Takes the state directory, or gives the pid of who has it. */
export async function takeOwnership({ location, settings, version, lasting, report }: OwnerOptions): Promise<Owner | { readonly lockedBy: number }> {
  const files = engineFiles(location);
  if (Buffer.byteLength(location.runDirectory) > runDirectoryBytesMax)
    throw invalidArgument('', `open run directory ${location.runDirectory}: longer than ${runDirectoryBytesMax} bytes, so sockets below it cannot be named`);
  await makeDirectory(location.rootDirectory);
  await makeDirectory(location.runDirectory);
  for (const directory of [location.rootDirectory, location.runDirectory]) {
    await access(directory, constants.R_OK | constants.W_OK | constants.X_OK).catch((error: unknown) => {
      throw wrapError(`open directory ${directory}`, error);
    });
  }
  const result = await startLauncher({ executable: programFiles.shim, runDir: location.runDirectory, lockFile: files.lock });
  if (result.kind === 'locked') return { lockedBy: result.pid };
  const { launcher } = result;
  try {
    const own = await openOwnEngine({ location, launcher, settings, version, report });
    const server = await serveEngine({ engine: own.engine, socketPath: files.engineSocket, lasting, log: (line) => report(new Error(line)) });
    return {
      engine: own.engine,
      host: own.host,
      launcher,
      isUsedByOthers: () => server.sessions > 0,
      untilUnused: async (signal) => server.untilUnused(signal),
      close: async () => {
        try {
          await server.close();
          await own.close();
        } finally {
          await launcher.close();
        }
      },
    };
  } catch (error) {
    await launcher.close();
    throw error;
  }
}

/** An engine for one command. Throws unavailable when the owner neither answers nor ends. */
export async function openSession(options: OwnerOptions): Promise<EngineSession> {
  const startMs = systemClock.monotonicMs();
  for (;;) {
    const owner = await takeOwnership(options);
    if ('engine' in owner) return { engine: owner.engine, isUsedByOthers: owner.isUsedByOthers, untilUnused: owner.untilUnused, close: owner.close };
    try {
      const engine = await connectEngine(engineFiles(options.location).engineSocket);
      if (engine.isOwnerLasting || systemClock.monotonicMs() - startMs > shortOwnerPatienceMs)
        return { engine, isUsedByOthers: () => false, untilUnused: async () => undefined, close: async () => engine.close() };
      engine.close();
      await systemClock.sleep(retryPauseMs);
    } catch (error) {
      if (errorCode(error) !== 'unavailable' && errorCode(error) !== 'notFound') throw error;
      if (systemClock.monotonicMs() - startMs > takeoverTimeoutMs) {
        throw new RuntimeError('unavailable', `open ${options.location.rootDirectory}: another engine owns it (its launcher is process ${owner.lockedBy}) and does not answer`, {
          cause: error,
        });
      }
      await systemClock.sleep(retryPauseMs);
    }
  }
}
