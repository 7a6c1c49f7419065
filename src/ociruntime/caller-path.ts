/** Paths of the caller of a command. In: words of its command line. Out: paths that mean the same in the process that compiles. Pure. */
import { resolve } from 'node:path';
import type { FrontRequest } from './types.ts';

/**
 * A path of the caller as one of the host: absolute, and where it leads through the caller's own descriptors, through those of its process. Empty stays empty.
 */
export function callerPath(path: string, { cwd, pid }: Pick<FrontRequest, 'cwd' | 'pid'>): string {
  if (path === '') return '';
  const absolute = resolve(cwd, path);
  const stream = { '/dev/stdin': 0, '/dev/stdout': 1, '/dev/stderr': 2 }[absolute];
  if (stream !== undefined) return `/proc/${pid}/fd/${stream}`;
  return absolute.replace(/^\/dev\/fd\/(?=[0-9]+$)/, `/proc/${pid}/fd/`).replace(/^\/proc\/(?:self|thread-self)\/fd\/(?=[0-9]+$)/, `/proc/${pid}/fd/`);
}
