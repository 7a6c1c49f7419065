/** Errors for what a document asks and a host or this version cannot do. Pure. */
import { RuntimeError } from '#core';

/** `path: cause`, code failedPrecondition: the document is valid, this host lacks something. */
export function hostLacks(path: string, cause: string): RuntimeError {
  return new RuntimeError('failedPrecondition', `${path}: ${cause}`);
}

/** `path: not supported`, code unimplemented: valid by the specification, but nobody here implements it. */
export function unsupported(path: string, detail = ''): RuntimeError {
  return new RuntimeError('unimplemented', `${path}: not supported${detail === '' ? '' : ` (${detail})`}`);
}
