/**
 * Unix sockets that only their owner may use. In: a path. Out: a listening server whose socket has mode 0600 in a directory that no
 * other user can write. It speaks no protocol. Source of the rule: hostile control sockets, CVE-2020-15257 and CVE-2021-41103.
 */
import { lstatSync, mkdirSync, rmSync } from 'node:fs';
import type { Server } from 'node:net';
import { connect } from 'node:net';
import { dirname, isAbsolute } from 'node:path';
import { RuntimeError, errnoName, invalidArgument, wrapError } from '#core';

/** sun_path has 108 bytes, the last of them zero. Source: unix(7). */
const socketPathBytesMax = 107;

/**
 * Lets `server` listen at `socketPath` (absolute), with at most `backlog` connections waiting to be accepted. A missing directory is made with mode 0700. A socket that
 * nobody listens on is replaced; the path of a living listener is `alreadyExists`, any other file `failedPrecondition`.
 */
export async function listenPrivately(server: Server, socketPath: string, options: { readonly backlog: number }): Promise<void> {
  if (!isAbsolute(socketPath)) throw invalidArgument('', `listen on ${JSON.stringify(socketPath)}: the path must be absolute`);
  if (Buffer.byteLength(socketPath) > socketPathBytesMax) throw invalidArgument('', `listen on ${socketPath}: longer than ${socketPathBytesMax} bytes`);
  try {
    prepareDirectory(dirname(socketPath));
    await removeStaleSocket(socketPath);
    await listenWithMode0600(server, socketPath, options.backlog);
  } catch (error) {
    throw wrapError(`listen on ${socketPath}`, error);
  }
}

/** Removes the socket of a closed server. No error where it is gone. */
export function removeSocket(socketPath: string): void {
  rmSync(socketPath, { force: true });
}

function prepareDirectory(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const stat = lstatSync(directory);
  if (!stat.isDirectory()) throw new RuntimeError('failedPrecondition', `${directory} is not a directory`);
  const owner = process.geteuid?.() ?? stat.uid;
  const isSticky = (stat.mode & 0o1000) !== 0;
  if (((stat.mode & 0o022) !== 0 && !isSticky) || (stat.uid !== owner && stat.uid !== 0)) {
    throw new RuntimeError('failedPrecondition', `${directory} can be changed by other users; use a directory of mode 0700`);
  }
}

async function removeStaleSocket(socketPath: string): Promise<void> {
  const stat = lstatSync(socketPath, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) throw new RuntimeError('failedPrecondition', 'a file that is no socket is in the way');
  if (await hasListener(socketPath)) throw new RuntimeError('alreadyExists', 'another process is listening there');
  removeSocket(socketPath);
}

async function hasListener(socketPath: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const probe = connect(socketPath);
  probe.once('connect', () => resolve(true));
  // EAGAIN means a full backlog: somebody owns it. ECONNREFUSED and ENOENT mean that nobody does.
  probe.once('error', (error) => resolve(errnoName(error) === 'EAGAIN'));
  try {
    return await promise;
  } finally {
    probe.destroy();
  }
}

async function listenWithMode0600(server: Server, socketPath: string, backlog: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  // bind(2) happens inside listen(), so the mask makes the socket 0600 from its first moment; a later chmod would leave a gap.
  const previousMask = process.umask(0o177);
  try {
    server.listen({ path: socketPath, backlog }, resolve);
  } finally {
    process.umask(previousMask);
  }
  await promise;
  server.off('error', reject);
  // An accept that fails later, for want of descriptors say, concerns that client only; without a listener it would end the process.
  server.on('error', () => undefined);
}
