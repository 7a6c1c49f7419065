/**
 * The compiler of the OCI runtime, started by its front for one command. In: the front's socket in descriptor 3. Out: frames; nothing on the standard streams but the words of a bug.
 */
import { readFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { containerOperations, dispatch, serveFront } from '#ociruntime';
import { programFiles } from './locations.ts';

const frontDescriptor = 3;

/** Commands that callers give again and again. */
const commands: readonly string[] = ['create', 'run', 'exec', 'start', 'kill', 'delete', 'state', 'update', 'events', 'ps', 'list'];

/** Serves the front. `beforeEnd` is told the command, or `other`, when it is done and the front is about to be told, which ends this process. */
export async function runCompiler(beforeEnd: (command: string) => void): Promise<void> {
  // SAFETY: the package's own file.
  const { version } = JSON.parse(readFileSync(programFiles.packageJson, 'utf8')) as { readonly version: string };
  const socket = new Socket({ fd: frontDescriptor, readable: true, writable: true });
  await serveFront(socket, async (front) => {
    const outcome = await dispatch(front, { version, userId: process.geteuid?.() ?? 0, operations: containerOperations });
    beforeEnd(front.request.argv.find((word) => commands.includes(word)) ?? 'other');
    return outcome;
  });
}
