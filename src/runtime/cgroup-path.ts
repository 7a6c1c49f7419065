/**
 * linux.cgroupsPath → the place of a container's groups. In: the document, the container's id, the host's facts. Out: a placement below the roots
 * of the hierarchies, or an error with the document's path. Pure.
 *
 * The path is the same in every hierarchy. A relative one is below the root too: the caller's own groups differ between v1 hierarchies, and on v2 they hold processes, so
 * that no controller could be enabled below them. Source: runtime-spec, config-linux.md, "Cgroups Path", which leaves the choice to the runtime.
 */
import { invalidArgument, limits } from '#core';
import { type RuntimeSpec } from '#oci';
import { type HostFacts } from '#system';
import { type CgroupPlacement } from './cgroup-driver.ts';

const field = 'linux.cgroupsPath';
const quoted = (path: string): string => JSON.stringify(path.slice(0, 200));

/** `slice:prefix:name` is how callers speak to a runtime that has systemd make its groups. */
const systemdForm = /^[^/:]*:[^/:]*:[^/:]+$/;

/** Components of a path of the document. Throws invalidArgument. */
function componentsOf(path: string): readonly string[] {
  if (systemdForm.test(path)) throw invalidArgument(field, `${quoted(path)} is for groups that systemd makes, which is not supported; a path such as "/pod/container" is`);
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw invalidArgument(field, `must not contain "..", found ${quoted(path)}`);
  if (parts.length === 0) throw invalidArgument(field, `must name a group below the root, not ${quoted(path)}`);
  if (parts.length > limits.cgroupDepthMax) throw invalidArgument(field, `${parts.length} components, at most ${limits.cgroupDepthMax}`);
  const long = parts.find((part) => Buffer.byteLength(part) > 255);
  if (long !== undefined) throw invalidArgument(field, `component of ${Buffer.byteLength(long)} bytes, at most 255`);
  // The kernel's own files are in the same directories.
  const taken = parts.find((part) => /^(cgroup\..*|tasks|notify_on_release|release_agent)$/.test(part) || /[\n\r]/.test(part));
  if (taken !== undefined) throw invalidArgument(field, `${quoted(taken)} cannot be the name of a group`);
  return parts;
}

/**
 * Where the groups of a container are: as the document says, else `/<id>`. On v1 hosts without a cgroup2 tree the freezer's hierarchy is among those that the container is
 * in, since pausing needs it. Throws invalidArgument.
 */
export function planCgroupPath(spec: RuntimeSpec, id: string, host: HostFacts): CgroupPlacement {
  const asked = spec.linux.cgroupsPath;
  const path = `/${componentsOf(asked === undefined || asked === '' ? id : asked).join('/')}`;
  return host.cgroups.unified === undefined ? { path, controllers: ['freezer'] } : { path };
}
