/**
 * Who answers a command: this process, when it gets the state directory's lock, or the process that holds it. In: a location.
 * Out: an engine session. Exactly one engine owns a state directory at a time; the launcher's lock decides.
 */
import type { EngineSession } from '#cli';
import { RuntimeError, errorCode, invalidArgument } from '#core';
import { connectEngine, serveEngine } from '#remote';
import { type Launcher, makeDirectory, startLauncher, systemClock } from '#system';
import { type Location, engineFiles, programFiles } from './locations.ts';
import { type OwnEngine, openOwnEngine } from './own-engine.ts';

/** A short-lived owner may end between the failed lock and the connection, so both are tried in turn for this long. */
const takeoverTimeoutMs = 10_000;
const retryPauseMs = 20;
/** What is left of the 107 bytes of a socket's path above `pods/<24 characters>/shim.sock`. */
const runDirectoryBytesMax = 64;

export interface OwnerOptions {
  readonly location: Location;
  readonly version: string;
  readonly report: (error: unknown) => void;
}

/** The engine of this process with its launcher and its socket. */
export interface Owner extends OwnEngine {
  readonly launcher: Launcher;
}

/** Takes the state directory, or gives the pid of who has it. */
export async function takeOwnership({ location, version, report }: OwnerOptions): Promise<Owner | { readonly lockedBy: number }> {
  const files = engineFiles(location);
  if (Buffer.byteLength(location.runDirectory) > runDirectoryBytesMax) throw invalidArgument('', `open run directory ${location.runDirectory}: longer than ${runDirectoryBytesMax} bytes, so sockets below it cannot be named`);
  await makeDirectory(location.rootDirectory);
  await makeDirectory(location.runDirectory);
  const result = await startLauncher({ executable: programFiles.shim, runDir: location.runDirectory, lockFile: files.lock });
  if (result.kind === 'locked') return { lockedBy: result.pid };
  const { launcher } = result;
  try {
    const own = await openOwnEngine({ location, launcher, version, report });
    const server = await serveEngine({ engine: own.engine, socketPath: files.engineSocket, log: (line) => report(new Error(line)) });
    return {
      engine: own.engine,
      host: own.host,
      launcher,
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
  const deadlineMs = systemClock.monotonicMs() + takeoverTimeoutMs;
  for (;;) {
    const owner = await takeOwnership(options);
    if ('engine' in owner) return { engine: owner.engine, owned: true, close: owner.close };
    try {
      const engine = await connectEngine(engineFiles(options.location).engineSocket);
      return { engine, owned: false, close: async () => engine.close() };
    } catch (error) {
      if (errorCode(error) !== 'unavailable' && errorCode(error) !== 'notFound') throw error;
      if (systemClock.monotonicMs() > deadlineMs) {
        throw new RuntimeError('unavailable', `open ${options.location.rootDirectory}: process ${owner.lockedBy} owns it and does not answer`, { cause: error });
      }
      await systemClock.sleep(retryPauseMs);
    }
  }
}
