/**
 * The engine's door for fronts of the OCI runtime: one command line per connection is decoded and compiled here, where nothing has to be started for it. In: connections on a socket that only
 * its owner can reach. Out: the same frames that a compiler of the front's own would send; what is executed is executed by the front. Nothing of the engine's own state is touched.
 */
import { chmodSync, rmSync } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import { limits, wrapError } from '#core';
import { containerOperations, dispatch, greetFront, serveFront } from '#ociruntime';

/** What the door needs. */
export interface OciDoorOptions {
  /** In a directory that only its owner may enter. */
  readonly socketPath: string;
  readonly version: string;
  /** Told of commands that ended without their result: a front that was killed, or a bug. */
  readonly report: (error: unknown) => void;
}

/** An open door. */
export interface OciDoor {
  /** Takes no further command, waits a while for those under way, and cuts off what is left then (`events` goes on for ever). */
  close(): Promise<void>;
}

async function listen(server: Server, path: string): Promise<void> {
  // Of an engine that was killed: whoever opens the door has the state directory's lock.
  rmSync(path, { force: true });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject).listen(path, resolve);
  try {
    await promise;
    chmodSync(path, 0o600);
  } catch (cause) {
    throw wrapError(`listen on ${path}`, cause);
  } finally {
    server.removeListener('error', reject);
  }
}

/** Opens the door. Throws with the path where nothing can listen there. */
export async function openOciDoor({ socketPath, version, report }: OciDoorOptions): Promise<OciDoor> {
  const commands = new Map<Socket, Promise<void>>();
  const userId = process.geteuid?.() ?? 0;
  const server = createServer({ pauseOnConnect: false }, (socket) => {
    // Whoever comes and says nothing is cut off; a command has no time of its own.
    socket.on('error', () => undefined);
    greetFront(socket);
    const silence = setTimeout(() => void socket.destroy(), limits.ociDoorTimeoutMs);
    const command = serveFront(socket, async (front) => {
      clearTimeout(silence);
      return dispatch(front, { version, userId, operations: containerOperations });
    })
      .catch(report)
      .finally(() => {
        clearTimeout(silence);
        commands.delete(socket);
      });
    commands.set(socket, command);
  });
  server.maxConnections = limits.ociDoorConnectionsMax;
  server.on('error', report);
  await listen(server, socketPath);
  return {
    close: async () => {
      server.close();
      const ended = AbortSignal.timeout(limits.ociDoorTimeoutMs);
      const timedOut = new Promise<void>((resolve) => ended.addEventListener('abort', () => resolve(), { once: true }));
      await Promise.race([Promise.all(commands.values()), timedOut]);
      // A front whose compiler goes away kills what it has half made; the command itself ends at its next word to the front.
      for (const socket of commands.keys()) socket.destroy();
      rmSync(socketPath, { force: true });
    },
  };
}
