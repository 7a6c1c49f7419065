/**
 * How the end of a command is told on the error channel. In: an exit code or an error. Out: bytes. Pure. Source: the `Status` object of the
 * Kubernetes API for the protocols from version 4 on, which clients take the exit code from; text before.
 */
import { errorMessage } from '#core';

/** `object`: a JSON status, success included; `text`: nothing for success, else a sentence. */
export type StatusFormat = 'object' | 'text';

/** How a command ended: its exit code, or why it could not be run or followed. */
export type CommandEnd = { readonly kind: 'exited'; readonly exitCode: number } | { readonly kind: 'failed'; readonly error: unknown };

const internalErrorCode = 500;

function describeEnd(end: CommandEnd): string {
  return end.kind === 'exited' ? `command terminated with non-zero exit code: exit status ${end.exitCode}` : errorMessage(end.error);
}

/** The bytes of the error channel; none where a text has nothing to say. */
export function encodeStatus(end: CommandEnd, format: StatusFormat): Uint8Array {
  const isSuccess = end.kind === 'exited' && end.exitCode === 0;
  if (format === 'text') return Buffer.from(isSuccess ? '' : describeEnd(end));
  return Buffer.from(JSON.stringify(isSuccess ? { metadata: {}, status: 'Success' } : { metadata: {}, status: 'Failure', message: describeEnd(end), ...reasonOf(end) }));
}

function reasonOf(end: CommandEnd): object {
  if (end.kind === 'exited') return { reason: 'NonZeroExitCode', details: { causes: [{ reason: 'ExitCode', message: String(end.exitCode) }] } };
  return { reason: 'InternalError', details: { causes: [{ message: describeEnd(end) }] }, code: internalErrorCode };
}
