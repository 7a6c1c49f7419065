/**
 * The AppArmor profile of containers that name none, as text for the compiler, and the labels of SELinux's policy for containers. In: nothing, or the policy's
 * file. Out: texts. Pure. Sources: apparmor.d(5); selinux's lxc_contexts.
 */

/**
 * What a container may not do even as root with capabilities: mount, reach the host's kernel settings through procfs and sysfs that the masks do not cover, signal
 * or trace what is not in a container. It needs no other file, so it is the same on every node.
 */
export const defaultApparmorProfile = {
  name: 'berth-default',
  text: `profile berth-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  unix,

  # The engine and its helpers are not confined; what runs in containers is.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=berth-default,
  ptrace (trace, read, tracedby, readby) peer=berth-default,

  deny mount,
  deny remount,
  deny pivot_root,

  # Processes' own directories and the settings of a container's own namespaces stay writable as far as the kernel lets them.
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/mem rwklx,
  deny /proc/kmem rwklx,
  deny /proc/acpi/** rwklx,
  deny /proc/bus/** wklx,
  deny /proc/irq/** wklx,
  deny /proc/fs/** wklx,
  deny /proc/scsi/** wklx,
  deny /proc/sys/vm/** wklx,
  deny /proc/sys/dev/** wklx,
  deny /proc/sys/debug/** wklx,
  deny /proc/sys/abi/** wklx,
  deny /proc/sys/fs/binfmt_misc/** wklx,
  deny /proc/sys/kernel/{core_pattern,modprobe,hotplug,poweroff_cmd,panic*,sysrq,kptr_restrict,dmesg_restrict,modules_disabled} wklx,

  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/** wklx,
  deny /sys/module/** wklx,
  deny /sys/power/** wklx,
}
`,
} as const;

const contextLine = (name: string): RegExp => new RegExp(`^${name}\\s*=\\s*"([A-Za-z0-9_.:,-]{1,200})"\\s*$`, 'm');

/** Labels of containers by the policy's own file; undefined where it has none for containers. */
export function decodeSelinuxContexts(text: string): { readonly process: string; readonly mount: string; readonly privilegedType: string } | undefined {
  const [process, mount] = [contextLine('process').exec(text)?.[1], contextLine('file').exec(text)?.[1]];
  // The type of privileged containers has had this name in every policy for containers.
  return process === undefined || mount === undefined ? undefined : { process, mount, privilegedType: 'spc_t' };
}
