/**
 * The compiler of the OCI runtime, started by its front for one command. In: the front's socket in descriptor 3. Out: frames; nothing on the standard streams but the words of a bug.
 */
import { readFileSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { Socket } from 'node:net';
import { containerOperations, dispatch, serveFront } from '#ociruntime';
import { programFiles } from './locations.ts';

const frontDescriptor = 3;

// SAFETY: the package's own file.
const { version } = JSON.parse(readFileSync(programFiles.packageJson, 'utf8')) as { readonly version: string };
const socket = new Socket({ fd: frontDescriptor, readable: true, writable: true });
await serveFront(socket, async (front) => {
  const outcome = await dispatch(front, { version, userId: process.geteuid?.() ?? 0, operations: containerOperations });
  // The front ends this process with the outcome; what was compiled would be compiled again by every command. Where it is stored already nothing is written.
  flushCompileCache();
  return outcome;
});
