/** What a manifest becomes: the sandbox's configuration, the containers in order, the volumes, the images. Types only. */
import type { DnsConfig, Mount, PodSandboxConfig } from '#pod';
import type { ContainerManifest, ConfigMapFile, HostPathType, ImagePullPolicy, PodManifest } from './manifest-types.ts';

/** Ids of users or groups of the host. */
export interface IdRange {
  readonly first: number;
  readonly count: number;
}

/** Facts of the host that planning needs. */
export interface HostFacts {
  /** Memory of the machine, for the OOM score of burstable containers. */
  readonly memoryBytes: bigint;
  /** The host's resolver settings, which `dnsConfig` adds to. */
  readonly dns: DnsConfig;
  /** Logs and disk volumes of pods go below this absolute path, in a directory named by the pod's uid. */
  readonly podsDirectory: string;
  /** Memory volumes go below this absolute path, which is on a tmpfs. */
  readonly memoryPodsDirectory: string;
  /** Absolute path below which `localhostProfile` is looked up. */
  readonly seccompDirectory: string;
  /** What the host lends to users for containers of their own; no pod may have them. */
  readonly subordinateIds: readonly IdRange[];
}

/** Host facts and the identity to use where the manifest has none. */
export interface PlanFacts extends HostFacts {
  readonly uid: string;
}

/** Init containers run to their success, sidecars beside the others, main containers are the pod. */
export type ContainerRole = 'init' | 'sidecar' | 'main';

/** A container before its attempt, the pod's address and the image's user are known; see `buildContainerConfig`. */
export interface ContainerPlan {
  readonly name: string;
  readonly role: ContainerRole;
  readonly manifest: ContainerManifest;
  readonly mounts: readonly Mount[];
  /** `runAsNonRoot` of the container or the pod. */
  readonly mustNotBeRoot: boolean;
  /** Absent: the engine's default. */
  readonly oomScoreAdj?: number;
  /** Not expressible in a manifest; `berth run --pids-limit`. */
  readonly pidsLimit?: bigint;
  /** Not expressible in a manifest; `berth run --user NAME`. */
  readonly runAsUsername?: string;
}

/** A volume with its host path. Only hostPath volumes lie outside of the pods' directories; images have none, the engine mounts them. */
export type VolumePlan =
  | { readonly kind: 'emptyDir'; readonly name: string; readonly path: string; readonly medium: 'disk' | 'memory' }
  | { readonly kind: 'hostPath'; readonly name: string; readonly path: string; readonly type: HostPathType }
  | { readonly kind: 'configMap'; readonly name: string; readonly path: string; readonly files: readonly ConfigMapFile[] };

/** An image that must be there before the sandbox is made. */
export interface ImagePlan {
  readonly name: string;
  /** The strictest policy of the containers that use it. */
  readonly pullPolicy: ImagePullPolicy;
}

/** A pod ready to run. */
export interface PodPlan {
  readonly manifest: PodManifest;
  readonly uid: string;
  readonly podConfig: PodSandboxConfig;
  /** Init containers and sidecars in their order. */
  readonly init: readonly ContainerPlan[];
  readonly containers: readonly ContainerPlan[];
  readonly volumes: readonly VolumePlan[];
  readonly images: readonly ImagePlan[];
  readonly facts: HostFacts;
}

/** Label on every pod and container that podrun makes; its value is the pod's uid. Source: ours, so that `rm` finds the directory. */
export const podrunUidLabel = 'berth.run/uid';
