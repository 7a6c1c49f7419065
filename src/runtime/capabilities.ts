/** Capability names and bits. In: names of a document. Out: 64-bit masks. Pure. Source: linux/capability.h. */
import { invalidArgument } from '#core';
import { type SpecCapabilities } from '#oci';
import { type HostFacts } from '#system';

/** Names in the order of their kernel numbers, from 0. */
export const capabilityNames = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const;

/** The five sets as bit masks. */
export interface CapabilityMasks {
  readonly bounding: bigint;
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

/** Bit of a capability, or undefined for an unknown name. */
export function capabilityBit(name: string): bigint | undefined {
  const number = capabilityNames.findIndex((known) => known === name);
  return number < 0 ? undefined : 1n << BigInt(number);
}

/**
 * The sets of a document as masks. What the host's kernel does not know or this process does not hold is left out, so that a
 * privileged container gets what the runtime has. Absent sets are empty: above all inheritable and ambient (CVE-2022-24769).
 */
export function maskCapabilities(capabilities: SpecCapabilities | undefined, host: HostFacts, path: string): CapabilityMasks {
  const available = host.capabilities.own & ((1n << BigInt(host.capabilities.last + 1)) - 1n);
  const mask = (set: keyof SpecCapabilities): bigint =>
    (capabilities?.[set] ?? []).reduce((sum, name, index) => {
      const bit = capabilityBit(name);
      if (bit === undefined) throw invalidArgument(`${path}.${set}[${index}]`, `unknown capability ${JSON.stringify(name.slice(0, 80))}`);
      return sum | (bit & available);
    }, 0n);
  const [bounding, permitted, inheritable] = [mask('bounding'), mask('permitted'), mask('inheritable')];
  // The kernel wants effective inside permitted, and ambient inside permitted and inheritable; a document that asks otherwise is refused.
  const [effective, ambient] = [mask('effective'), mask('ambient')];
  if ((effective & ~permitted) !== 0n) throw invalidArgument(`${path}.effective`, `must be within permitted, ${nameCapabilities(effective & ~permitted)} is not`);
  if ((ambient & ~(permitted & inheritable)) !== 0n)
    throw invalidArgument(`${path}.ambient`, `must be within permitted and inheritable, ${nameCapabilities(ambient & ~(permitted & inheritable))} is not`);
  return { bounding, effective, permitted, inheritable, ambient };
}

/** Names of the bits, separated by commas. */
export function nameCapabilities(mask: bigint): string {
  return capabilityNames.filter((_name, number) => (mask >> BigInt(number)) & 1n).join(', ');
}
