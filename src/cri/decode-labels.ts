/** AppArmor profiles and SELinux labels in CRI messages → the engine's values. Errors are invalidArgument with the request's path. Pure. */
import type { SELinuxOption, SecurityProfile } from '#gen/cri-v1_pb.js';
import { SecurityProfile_ProfileType as ProfileType } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { ApparmorProfile, SelinuxOptions } from '#pod';
import { decodeText } from './decode-common.ts';

const localhost = 'localhost/';

/** Older kubelets write the name of a profile with a prefix, also in the newer field. */
function decodeName(path: string, text: string): ApparmorProfile {
  const name = decodeText(path, text.startsWith(localhost) ? text.slice(localhost.length) : text);
  if (name === '') throw invalidArgument(path, 'required');
  if (name.includes('\n')) throw invalidArgument(path, 'must not contain a line break');
  return { kind: 'localhost', name };
}

/** The AppArmor profile of a container or pod, or that of the deprecated field; undefined where neither says anything. The newer field counts. */
export function decodeApparmor(path: string, profile: SecurityProfile | undefined, deprecated: string): ApparmorProfile | undefined {
  if (profile === undefined) return decodeDeprecated(`${path}.apparmor_profile`, deprecated);
  switch (profile.profileType) {
    case ProfileType.RuntimeDefault:
      return { kind: 'runtimeDefault' };
    case ProfileType.Unconfined:
      return { kind: 'unconfined' };
    case ProfileType.Localhost:
      return decodeName(`${path}.apparmor.localhost_ref`, profile.localhostRef);
    default:
      throw invalidArgument(`${path}.apparmor.profile_type`, `unknown value ${String(profile.profileType)}`);
  }
}

function decodeDeprecated(path: string, text: string): ApparmorProfile | undefined {
  if (text === '') return undefined;
  if (text === 'runtime/default') return { kind: 'runtimeDefault' };
  if (text === 'unconfined') return { kind: 'unconfined' };
  if (text.startsWith(localhost)) return decodeName(path, text);
  throw invalidArgument(path, `unknown profile ${JSON.stringify(text.slice(0, 200))}`);
}

/** A part of a label is written between colons; a level has some of its own. */
const partPattern = /^[A-Za-z0-9_.-]*$/;
const levelPattern = /^(?:s[0-9]+(?:-s[0-9]+)?(?::c[0-9]+(?:\.c[0-9]+)?(?:,c[0-9]+(?:\.c[0-9]+)?)*)?)?$/;

/** The label that is asked for; undefined where every part is empty, which some clients send for "none". Source of the level's form: mcs(8). */
export function decodeSelinux(path: string, options: SELinuxOption | undefined): SelinuxOptions | undefined {
  if (options === undefined) return undefined;
  const { user, role, type, level } = options;
  if ([user, role, type, level].every((part) => part === '')) return undefined;
  for (const [name, part] of Object.entries({ user, role, type }))
    if (!partPattern.test(part)) throw invalidArgument(`${path}.${name}`, `${JSON.stringify(part.slice(0, 80))} is no part of a label`);
  if (!levelPattern.test(level)) throw invalidArgument(`${path}.level`, `${JSON.stringify(level.slice(0, 80))} is no level`);
  return { user, role, type, level };
}
