/**
 * Which AppArmor profile and which SELinux labels a container gets. In: what pod and container ask, what the node has. Out: names and labels, or why they
 * cannot be given. Pure but for the question whether the default profile is there.
 */
import { RuntimeError, invalidArgument } from '#core';
import type { SpecDefaults } from './ports.ts';
import type { ApparmorProfile, SelinuxOptions } from './security-types.ts';
import type { ContainerConfig, PodSandboxConfig } from './types.ts';

const context = 'linux.security_context';
const lacks = (path: string, what: string): RuntimeError => new RuntimeError('failedPrecondition', `${path}: ${what} is not enabled on this node`);

/** Refuses what a pod asks of security modules that the node does not have; a pod's own process would run without it. */
export function checkPodLabels({ apparmor, selinux }: Pick<PodSandboxConfig['security'], 'apparmor' | 'selinux'>, defaults: Pick<SpecDefaults, 'apparmor' | 'selinux'>): void {
  if (apparmor?.kind === 'localhost' && defaults.apparmor === undefined) throw lacks(`config.${context}.apparmor`, 'AppArmor');
  if (selinux !== undefined && defaults.selinux === undefined) throw lacks(`config.${context}.selinux_options`, 'SELinux');
}

/**
 * A profile by name confines: a policy of a cluster that forbids `Unconfined` lets names pass. The kernel takes this word for no profile, with blanks around it as well;
 * after a colon it reads a namespace of profiles, after an ampersand one to add. Source: apparmor(7); Kubernetes' pod security standards.
 */
function requireProfileName(name: string): string {
  if (name === '' || name === 'unconfined' || name !== name.trim() || /^[:&]/.test(name))
    throw invalidArgument(`config.${context}.apparmor`, `${JSON.stringify(name.slice(0, 200))} is no name of a profile`);
  return name;
}

/** The profile of a container's processes; undefined: none. A container that says nothing gets the default, a privileged one nothing. */
export async function apparmorOf({ privileged, apparmor }: ContainerConfig['security'], defaults: Pick<SpecDefaults, 'apparmor'>): Promise<string | undefined> {
  const wanted: ApparmorProfile = apparmor ?? { kind: privileged ? 'unconfined' : 'runtimeDefault' };
  switch (wanted.kind) {
    case 'unconfined':
      return undefined;
    case 'runtimeDefault':
      return defaultProfile(defaults, { isAsked: apparmor !== undefined });
    case 'localhost':
      if (defaults.apparmor === undefined) throw lacks(`config.${context}.apparmor`, 'AppArmor');
      return requireProfileName(wanted.name ?? '');
  }
}

/** Who asks for the default profile does not run without it where the node could have it. */
async function defaultProfile({ apparmor }: Pick<SpecDefaults, 'apparmor'>, { isAsked }: { readonly isAsked: boolean }): Promise<string | undefined> {
  const name = await apparmor?.defaultProfile();
  if (name === undefined && apparmor !== undefined && isAsked)
    throw new RuntimeError('failedPrecondition', `config.${context}.apparmor: the default profile cannot be loaded on this node`);
  return name;
}

/** Labels of a container. */
export interface ContainerLabels {
  readonly process: string;
  readonly mount: string;
}

/** The parts of `user:role:type:level`; the level has colons of its own. */
function splitLabel(label: string): { readonly user: string; readonly role: string; readonly type: string; readonly level: string } {
  const [user = '', role = '', type = '', ...level] = label.split(':');
  return { user, role, type, level: level.join(':') };
}

/** Two categories of a pod's own out of 1024, by its id, so that containers of one pod share files and others' cannot be read. */
export function categoriesOf(podId: string): string {
  const number = (at: number): number => Number.parseInt(podId.slice(at, at + 8), 16) || 0;
  const first = number(0) % 1024;
  const second = (first + 1 + (number(8) % 1023)) % 1024;
  return `c${Math.min(first, second)},c${Math.max(first, second)}`;
}

/** The label of what the containers of a pod share. */
export function podMountLabel(pod: Pick<PodSandboxConfig, 'security'>, podId: string, defaults: Pick<SpecDefaults, 'selinux'>): { readonly mountLabel?: string } {
  const labels = selinuxOf({ pod, container: { security: { privileged: false } }, podId }, defaults);
  return labels === undefined ? {} : { mountLabel: labels.mount };
}

/** The labels of a container; undefined on a node without SELinux. Those of the request replace the parts of the default's. Throws failedPrecondition. */
export function selinuxOf(
  {
    pod,
    container,
    podId,
  }: {
    readonly pod: Pick<PodSandboxConfig, 'security'>;
    readonly container: { readonly security: Pick<ContainerConfig['security'], 'selinux' | 'privileged'> };
    readonly podId: string;
  },
  { selinux: defaults }: Pick<SpecDefaults, 'selinux'>,
): ContainerLabels | undefined {
  const asked: SelinuxOptions | undefined = container.security.selinux ?? pod.security.selinux;
  if (defaults === undefined) {
    if (asked !== undefined) throw lacks(`config.${context}.selinux_options`, 'SELinux');
    return undefined;
  }
  const [process, mount] = [splitLabel(defaults.process), splitLabel(defaults.mount)];
  const pick = (wanted: string | undefined, otherwise: string): string => (wanted === undefined || wanted === '' ? otherwise : wanted);
  const level = pick(asked?.level, `s0:${categoriesOf(podId)}`);
  const { privileged } = container.security;
  const own = {
    user: pick(asked?.user, process.user),
    role: pick(asked?.role, process.role),
    type: pick(asked?.type, privileged ? defaults.privilegedType : process.type),
    // A privileged process sees the files of every pod.
    level: privileged && asked === undefined ? 's0' : level,
  };
  return { process: `${own.user}:${own.role}:${own.type}:${own.level}`, mount: `${pick(asked?.user, mount.user)}:${mount.role}:${mount.type}:${level}` };
}
