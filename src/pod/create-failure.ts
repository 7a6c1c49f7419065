/**
 * A failed create in the words of its request, where a volume or a profile is the cause. In: an error that names a place in the runtime document. Out: one
 * that names the request's field and what stands in it. Pure.
 */
import { RuntimeError, errnoName, errorMessage } from '#core';
import type { RuntimeSpec } from '#oci';
import type { Mount } from './types.ts';

const quote = (text: string): string => JSON.stringify(text.slice(0, 200));

/** What the kernel's answer means for a volume; undefined where its own words say enough. Source of the wording for propagation: what other runtimes answer. */
function causeOf(message: string, mount: Mount, errno: string | undefined): string | undefined {
  const crossing = /: verify that the mount at .* is (shared|shared or a slave): EINVAL \((.*)\)$/s.exec(message);
  if (crossing !== null)
    return `path ${quote(mount.hostPath)} is mounted on ${quote(crossing[2] ?? '')} but it is not a ${crossing[1] === 'shared' ? 'shared' : 'shared or slave'} mount`;
  if (mount.idMappings !== undefined && (errno === 'EINVAL' || errno === 'EPERM') && /: set mount attributes of .*set .*idmap/.test(message))
    return `path ${quote(mount.hostPath)}: its file system cannot map owners (${errno})`;
  if (errno === 'EEXIST' && /^\/mounts\/\d+: make the directory /.test(message)) return `path ${quote(mount.hostPath)} is a link that leads nowhere`;
  if (errno === 'ELOOP' && /^\/mounts\/\d+: make the directory /.test(message)) return `path ${quote(mount.hostPath)} is missing and lies below a link that is not followed`;
  return undefined;
}

/** A profile or label that the kernel does not know. */
function explainLabelFailure(error: RuntimeError, { process }: Pick<RuntimeSpec, 'process'>): RuntimeError | undefined {
  const message = errorMessage(error);
  if (message.startsWith('/process/apparmorProfile: ') && errnoName(error) === 'ENOENT')
    return new RuntimeError('failedPrecondition', `config.linux.security_context.apparmor: profile ${quote(process?.apparmorProfile ?? '')} is not loaded in the kernel`, {
      cause: error,
    });
  if (message.startsWith('/process/selinuxLabel: ') && errnoName(error) === 'EINVAL')
    return new RuntimeError('invalidArgument', `config.linux.security_context.selinux_options: the kernel's policy has no label ${quote(process?.selinuxLabel ?? '')}`, {
      cause: error,
    });
  return undefined;
}

/** The error in terms of the request where a volume or a label of it failed, else the error as it is. */
export function explainCreateFailure(error: unknown, spec: Pick<RuntimeSpec, 'mounts' | 'process'>, mounts: readonly Mount[]): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const message = errorMessage(error);
  const label = explainLabelFailure(error, spec);
  if (label !== undefined) return label;
  const found = /^\/mounts\/(\d+)(?:\/[A-Za-z]+)?: /.exec(message);
  const planned = spec.mounts[Number(found?.[1])];
  if (found === null || planned?.volume !== true) return error;
  const index = mounts.findIndex(({ containerPath, hostPath }) => containerPath === planned.destination && hostPath === planned.source);
  const mount = mounts[index];
  if (mount === undefined) return error;
  const errno = errnoName(error);
  const cause = causeOf(message, mount, errno);
  // A code that says nothing: what is on the host is not what the request takes it for.
  const code = cause !== undefined || error.code === 'unknown' ? 'failedPrecondition' : error.code;
  return new RuntimeError(code, `config.mounts[${index}]: ${cause ?? `mount ${quote(mount.hostPath)}: ${message.slice(found[0].length)}`}`, {
    cause: error,
    ...(errno === undefined ? {} : { errno }),
  });
}
