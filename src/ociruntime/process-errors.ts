/**
 * Why a process did not come into being, in the words that callers of runc look for. In: the plan and where it failed. Out: an error. Pure.
 * podman, docker and containerd tell "not found" from "not executable" by these texts and choose the exit codes 127 and 126 by them.
 */
import { RuntimeError } from '#core';
import { type Plan, type StepFailure, errnoNameOf } from '#plan';
import { failedStep, planError } from '#system';

/** The kernel's errors as C's strerror and Go print them, as far as making a process often gives them. */
const words: Readonly<Record<string, string>> = {
  EPERM: 'operation not permitted',
  ENOENT: 'no such file or directory',
  EIO: 'input/output error',
  E2BIG: 'argument list too long',
  ENOEXEC: 'exec format error',
  EAGAIN: 'resource temporarily unavailable',
  ENOMEM: 'cannot allocate memory',
  EACCES: 'permission denied',
  ENOTDIR: 'not a directory',
  EEXIST: 'file exists',
  EBUSY: 'device or resource busy',
  ENODEV: 'no such device',
  EISDIR: 'is a directory',
  EINVAL: 'invalid argument',
  ETXTBSY: 'text file busy',
  EROFS: 'read-only file system',
  ENOSPC: 'no space left on device',
  ENAMETOOLONG: 'file name too long',
  ELOOP: 'too many levels of symbolic links',
  ELIBBAD: 'accessing a corrupted shared library',
};

/** What a missing or unusable program is called. */
function describeProgram(file: string, errno: string, isSought: boolean): string {
  const word = words[errno] ?? errno;
  if (!isSought) return `exec ${file}: ${word}`;
  const name = JSON.stringify(file);
  if (!file.includes('/')) return `exec: ${name}: executable file not found in $PATH`;
  return errno === 'EACCES' || errno === 'EISDIR' ? `exec: ${name}: ${word}` : `exec: ${name}: stat ${file}: ${word}`;
}

/** Kinds of hooks as runc counts them in its errors. */
function describeHook(origin: string | undefined): string {
  const [, kind, index] = /^\/hooks\/(\w+)\/(\d+)$/.exec(origin ?? '') ?? [];
  return kind === undefined ? '' : `error running ${kind} hook #${index}: `;
}

/** The failure of a process's plan as an error; `answer` is the plan that was sent back for its question, if one was. */
export function processError(plan: Plan, failure: StepFailure, answer?: Plan): RuntimeError {
  const step = failedStep(plan, failure, answer);
  const errno = errnoNameOf(failure.errno);
  const cause = planError(plan, failure, answer);
  const isSought = step?.kind === 'findExecutable';
  // podman and docker choose an exit code by the words of other steps too: a mount's source or a working directory that is missing.
  const word = cause.message.includes(errno) && words[errno] !== undefined ? `: ${words[errno]}` : '';
  const text = step?.kind === 'findExecutable' || step?.kind === 'execute' ? describeProgram(step.file, errno, isSought) : `${describeHook(step?.origin)}${cause.message}${word}`;
  return new RuntimeError(cause.code, `unable to start container process: ${isSought ? '' : 'error during container init: '}${text}`, { cause, errno });
}
