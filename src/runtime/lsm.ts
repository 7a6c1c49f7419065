/**
 * Security modules: the AppArmor profile and the SELinux label that a process gets with its execve. In: a process object, the host. Out: steps and options of
 * mounts, or an error where the kernel has no such module. Pure.
 *
 * Both are asked for by a write to the process's own files in procfs, which must be the host's: a procfs of the container may not show a process that enters its
 * PID namespace by a later fork. The kernel keeps the wish across that fork. Source: apparmor(7), "change on exec"; selinux's /proc/<pid>/attr/exec.
 */
import { invalidArgument } from '#core';
import type { SpecProcess } from '#oci';
import { type Step, fileSystem, noSlot } from '#plan';
import type { HostFacts } from '#system';
import { hostLacks } from './refusals.ts';

type Modules = Pick<HostFacts, 'securityModules'>;

/** A label is four or more parts with colons; categories have commas. Nothing that would end an option of a mount. */
const labelPattern = /^[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.,-]+){2,5}$/;
const labelBytesMax = 255;
/** AppArmor names may hold nearly everything; a line break or a NUL ends the command. */
const profileBytesMax = 512;

const asks = (value: string | undefined): value is string => value !== undefined && value !== '';

function requireLabel(label: string, path: string): void {
  if (label.length > labelBytesMax || !labelPattern.test(label)) throw invalidArgument(path, `${JSON.stringify(label.slice(0, 80))} is no label of SELinux`);
}

/** Refuses profiles and labels that this kernel cannot give. `path` names the process object. */
export function checkLabels(process: Pick<SpecProcess, 'apparmorProfile' | 'selinuxLabel'>, { securityModules }: Modules, path: string): void {
  const { apparmorProfile, selinuxLabel } = process;
  if (asks(apparmorProfile) && apparmorProfile !== 'unconfined') {
    if (!securityModules.includes('apparmor')) throw hostLacks(`${path}.apparmorProfile`, 'AppArmor is not enabled in this kernel');
    if (/[\n\0]/.test(apparmorProfile) || Buffer.byteLength(apparmorProfile) > profileBytesMax) throw invalidArgument(`${path}.apparmorProfile`, 'is no name of a profile');
  }
  if (!asks(selinuxLabel)) return;
  if (!securityModules.includes('selinux')) throw hostLacks(`${path}.selinuxLabel`, 'SELinux is not enabled in this kernel');
  requireLabel(selinuxLabel, `${path}.selinuxLabel`);
}

/** The writes, for a process that still sees the host's procfs and is the one that will execute, or its ancestor by forks alone. */
export function planLabels(process: Pick<SpecProcess, 'apparmorProfile' | 'selinuxLabel'>, path: string): readonly Step[] {
  const { apparmorProfile, selinuxLabel } = process;
  const write = (file: string, text: string, field: string): Step => ({
    kind: 'writeFile',
    dir: noSlot,
    path: `/proc/self/attr/${file}`,
    data: Buffer.from(text),
    fileSystem: fileSystem.proc,
    origin: `/${path}/${field}`,
  });
  return [
    ...(asks(apparmorProfile) && apparmorProfile !== 'unconfined' ? [write('apparmor/exec', `exec ${apparmorProfile}`, 'apparmorProfile')] : []),
    ...(asks(selinuxLabel) ? [write('exec', selinuxLabel, 'selinuxLabel')] : []),
  ];
}

/** File systems that take a label for everything on them. procfs, sysfs and cgroupfs have labels of their own; that of an IPC namespace's mqueue exists before it is mounted. */
const labelled = new Set(['tmpfs', 'devpts', 'ramfs']);

/** What a document's mount label adds to the options of a new file system. */
export function labelOptions(type: string, mountLabel: string | undefined): readonly string[] {
  return asks(mountLabel) && labelled.has(type) ? [`context=${mountLabel}`] : [];
}

/** The same for the options of an overlay, which are one text: the quotes keep the commas of categories together. */
export function overlayLabel(mountLabel: string | undefined): readonly string[] {
  return asks(mountLabel) ? [`context="${mountLabel}"`] : [];
}

/** Refuses a mount label that this kernel cannot give. */
export function checkMountLabel(mountLabel: string | undefined, { securityModules }: Modules): void {
  if (!asks(mountLabel)) return;
  if (!securityModules.includes('selinux')) throw hostLacks('linux.mountLabel', 'SELinux is not enabled in this kernel');
  requireLabel(mountLabel, 'linux.mountLabel');
}
