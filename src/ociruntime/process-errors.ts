/**
 * Why a process did not come into being, in the words that callers of runc look for. In: the plan and where it failed. Out: an error. Pure.
 * podman, docker and containerd tell "not found" from "not executable" by these texts and choose the exit codes 127 and 126 by them.
 */
import { RuntimeError } from '#core';
import { type Plan, type Step, type StepFailure, errnoNameOf } from '#plan';
import { planError } from '#system';

/** The kernel's errors as C's strerror and Go print them, as far as an execve gives them. */
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
  EISDIR: 'is a directory',
  EINVAL: 'invalid argument',
  ETXTBSY: 'text file busy',
  ENAMETOOLONG: 'file name too long',
  ELOOP: 'too many levels of symbolic links',
  ELIBBAD: 'accessing a corrupted shared library',
};

/** Set in the section number of a failure inside answered sections; see docs/native.md. */
const answeredBit = 0x8000_0000;

function stepOf(plan: Plan, { section, step }: StepFailure, answer: Plan | undefined): Step | undefined {
  return section < answeredBit ? plan.sections[section]?.steps[step] : answer?.sections[section - answeredBit]?.steps[step];
}

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
  const step = stepOf(plan, failure, answer);
  const errno = errnoNameOf(failure.errno);
  const cause = planError(plan, failure, answer);
  const isSought = step?.kind === 'findExecutable';
  const text = step?.kind === 'findExecutable' || step?.kind === 'execute' ? describeProgram(step.file, errno, isSought) : `${describeHook(step?.origin)}${cause.message}`;
  return new RuntimeError(cause.code, `unable to start container process: ${isSought ? '' : 'error during container init: '}${text}`, { cause, errno });
}
