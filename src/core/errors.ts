/**
 * The one error class of the project and the helpers that give it context.
 * In: causes of any kind. Out: RuntimeError with a canonical code. This file does no I/O and prints nothing.
 */

/** The sixteen error codes of gRPC, by their names in lower camel case. Source: grpc.io "Status codes". */
export type ErrorCode =
  | 'cancelled'
  | 'unknown'
  | 'invalidArgument'
  | 'deadlineExceeded'
  | 'notFound'
  | 'alreadyExists'
  | 'permissionDenied'
  | 'resourceExhausted'
  | 'failedPrecondition'
  | 'aborted'
  | 'outOfRange'
  | 'unimplemented'
  | 'internal'
  | 'unavailable'
  | 'dataLoss'
  | 'unauthenticated';

/** What a RuntimeError may carry besides its message. */
export interface RuntimeErrorOptions {
  /** The failure underneath, kept for `describeError`. */
  readonly cause?: unknown;
  /** Undo steps that failed after the primary error; the primary error stays the one that is reported. */
  readonly cleanupFailures?: readonly unknown[];
  /** Name of the errno that the kernel answered, such as `ENOSPC`, where there is one. */
  readonly errno?: string;
}

/**
 * Every failure that leaves a module. The message reads `verb object: cause`, in lower case, without a final stop.
 * Doors map `code` one-to-one to gRPC codes and to exit statuses.
 */
export class RuntimeError extends Error {
  readonly code: ErrorCode;
  readonly cleanupFailures: readonly unknown[];
  readonly errno: string | undefined;

  constructor(code: ErrorCode, message: string, options: RuntimeErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'RuntimeError';
    this.code = code;
    this.cleanupFailures = options.cleanupFailures ?? [];
    this.errno = options.errno;
  }
}

/** Code of any thrown value: its own when it is a RuntimeError, `cancelled` for an abort, else `unknown`. */
export function errorCode(error: unknown): ErrorCode {
  if (error instanceof RuntimeError) return error.code;
  if (isAbort(error)) return 'cancelled';
  return codeOfErrno(errnoName(error)) ?? 'unknown';
}

/** True for the DOMException that an AbortSignal throws. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || ('code' in error && error.code === 'ABORT_ERR'));
}

/** Name of the errno inside a Node system error or a RuntimeError (`ENOENT`), or undefined. */
export function errnoName(error: unknown): string | undefined {
  if (error instanceof RuntimeError) return error.errno;
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined;
  return /^E[A-Z0-9]+$/.test(error.code) ? error.code : undefined;
}

const codesByErrno: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'notFound',
  EEXIST: 'alreadyExists',
  EACCES: 'permissionDenied',
  EPERM: 'permissionDenied',
  ENOSPC: 'resourceExhausted',
  EDQUOT: 'resourceExhausted',
  EMFILE: 'resourceExhausted',
  ENFILE: 'resourceExhausted',
  ENOMEM: 'resourceExhausted',
  EINVAL: 'invalidArgument',
  ENAMETOOLONG: 'invalidArgument',
  ETIMEDOUT: 'deadlineExceeded',
  ECONNREFUSED: 'unavailable',
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
  EROFS: 'failedPrecondition',
  EBUSY: 'failedPrecondition',
  ENOSYS: 'unimplemented',
  EOPNOTSUPP: 'unimplemented',
};

/** Canonical code for an errno name, or undefined where the errno says nothing general. */
export function codeOfErrno(errno: string | undefined): ErrorCode | undefined {
  return errno !== undefined && Object.hasOwn(codesByErrno, errno) ? codesByErrno[errno] : undefined;
}

/**
 * Adds one line of context: `context: message of cause`. The code is that of the cause unless `code` is given.
 * Use it once per layer, and never around a message that already names the same object.
 */
export function wrapError(context: string, cause: unknown, code?: ErrorCode): RuntimeError {
  const errno = errnoName(cause);
  const options: RuntimeErrorOptions = {
    cause,
    ...(cause instanceof RuntimeError ? { cleanupFailures: cause.cleanupFailures } : {}),
    ...(errno === undefined ? {} : { errno }),
  };
  return new RuntimeError(code ?? errorCode(cause), `${context}: ${errorMessage(cause)}`, options);
}

/** Message of any thrown value as one line. */
export function errorMessage(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replaceAll(/\s*\n\s*/g, ' ');
}

/** `invalidArgument` whose message is `path: cause`; `path` is the place in the document, such as `spec.containers[0].image`. */
export function invalidArgument(path: string, cause: string): RuntimeError {
  return new RuntimeError('invalidArgument', path === '' ? cause : `${path}: ${cause}`);
}

/** Marks a bug: what cannot be false. Throws an `internal` RuntimeError that says so. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new RuntimeError('internal', `bug: ${message}`);
}

/** Marks the impossible branch of an exhaustive switch. */
export function assertNever(value: never): never {
  throw new RuntimeError('internal', `bug: unexpected ${JSON.stringify(value)}`);
}
