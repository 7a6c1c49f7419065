/** What pods and containers say of their security beyond `types.ts`: user namespaces, profiles of security modules. Types only. */
import type { SpecIdMapping } from '#oci';

/** How the user namespace of a pod maps ids; its containers have the same. Both lists empty: the host's user namespace, said explicitly. */
export interface UserMappings {
  readonly uids: readonly SpecIdMapping[];
  readonly gids: readonly SpecIdMapping[];
}

/** Which AppArmor profile a process gets. `runtimeDefault`: the engine's own where AppArmor is enabled. */
export interface ApparmorProfile {
  readonly kind: 'runtimeDefault' | 'unconfined' | 'localhost';
  /** Name of a profile that is loaded in the kernel, with `localhost`. */
  readonly name?: string;
}

/** Parts of an SELinux label; an empty part is the default's. */
export interface SelinuxOptions {
  readonly user: string;
  readonly role: string;
  readonly type: string;
  readonly level: string;
}
