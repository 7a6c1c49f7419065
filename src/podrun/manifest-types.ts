/** A decoded Pod manifest: only what is supported, defaults filled in, quantities as numbers. Types only. */
import type { ApparmorProfile, DnsConfig, MountPropagation } from '#pod';

/** A file of a ConfigMap volume. */
export interface ConfigMapManifest {
  readonly name: string;
  /** `data` and `binaryData` together. */
  readonly files: Readonly<Record<string, Uint8Array>>;
}

/** What `valueFrom.fieldRef` names. */
export type FieldReference = { readonly kind: 'name' | 'namespace' | 'uid' | 'podIp' | 'podIps' } | { readonly kind: 'label' | 'annotation'; readonly key: string };

/** One environment variable. */
export type EnvManifest =
  { readonly kind: 'literal'; readonly name: string; readonly value: string } | { readonly kind: 'field'; readonly name: string; readonly field: FieldReference };

/** Requests and limits. CPU in thousandths of a core, memory in bytes; absent: not set. */
export interface ResourcesManifest {
  readonly cpuRequestMilli?: bigint;
  readonly cpuLimitMilli?: bigint;
  readonly memoryRequestBytes?: bigint;
  readonly memoryLimitBytes?: bigint;
}

/** A system call filter. */
export interface SeccompManifest {
  readonly kind: 'runtimeDefault' | 'unconfined' | 'localhost';
  /** Relative to the engine's `seccomp` directory, with `localhost`. */
  readonly localhostProfile?: string;
}

/** `securityContext` of a container; absent fields are the pod's to say. */
export interface ContainerSecurityManifest {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsNonRoot?: boolean;
  readonly privileged: boolean;
  readonly capabilitiesAdd: readonly string[];
  readonly capabilitiesDrop: readonly string[];
  readonly readOnlyRootFilesystem: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly seccompProfile?: SeccompManifest;
  readonly appArmorProfile?: ApparmorProfile;
}

/** `securityContext` of the pod; containers go before it. */
export interface PodSecurityManifest {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsNonRoot?: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: 'merge' | 'strict';
  readonly seccompProfile?: SeccompManifest;
  readonly appArmorProfile?: ApparmorProfile;
  readonly sysctls: Readonly<Record<string, string>>;
}

/** Where a volume is in a container. */
export interface VolumeMountManifest {
  readonly name: string;
  readonly mountPath: string;
  readonly readOnly: boolean;
  /** Of a configMap volume: one of its files. Of an image: a directory or file in it. */
  readonly subPath?: string;
  readonly propagation: MountPropagation;
}

/** What a host path must be; empty: anything that exists. */
export type HostPathType = '' | 'DirectoryOrCreate' | 'Directory' | 'FileOrCreate' | 'File' | 'Socket' | 'CharDevice' | 'BlockDevice';

/** A volume and its source. */
export type VolumeManifest =
  | { readonly kind: 'emptyDir'; readonly name: string; readonly medium: 'disk' | 'memory' }
  | { readonly kind: 'hostPath'; readonly name: string; readonly path: string; readonly type: HostPathType }
  | { readonly kind: 'configMap'; readonly name: string; readonly configMap: string; readonly files: readonly ConfigMapFile[] }
  | { readonly kind: 'image'; readonly name: string; readonly reference: string; readonly pullPolicy: ImagePullPolicy };

/** A file of a configMap volume. */
export interface ConfigMapFile {
  /** Relative, without `..`. */
  readonly path: string;
  readonly mode: number;
  readonly content: Uint8Array;
}

/** A port of a container, perhaps published on the host. */
export interface PortManifest {
  readonly containerPort: number;
  /** 0: none. */
  readonly hostPort: number;
  readonly hostIp?: string;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
}

/** When an image is pulled: each time, when absent, or not at all. */
export type ImagePullPolicy = 'Always' | 'IfNotPresent' | 'Never';
/** Which ends of a container start it again. */
export type RestartPolicy = 'Always' | 'OnFailure' | 'Never';

/** A container or init container. */
export interface ContainerManifest {
  readonly name: string;
  readonly image: string;
  readonly imagePullPolicy: ImagePullPolicy;
  /** An init container that runs beside the others: `restartPolicy: Always`. */
  readonly sidecar: boolean;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDir: string;
  readonly env: readonly EnvManifest[];
  readonly resources: ResourcesManifest;
  readonly security: ContainerSecurityManifest;
  readonly volumeMounts: readonly VolumeMountManifest[];
  readonly ports: readonly PortManifest[];
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
}

/** A Pod with everything that it refers to. */
export interface PodManifest {
  readonly name: string;
  readonly namespace: string;
  /** Absent: one is made up. */
  readonly uid?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Empty: the pod's name. */
  readonly hostname: string;
  readonly containers: readonly ContainerManifest[];
  readonly initContainers: readonly ContainerManifest[];
  readonly volumes: readonly VolumeManifest[];
  readonly restartPolicy: RestartPolicy;
  readonly terminationGracePeriodSeconds: number;
  readonly security: PodSecurityManifest;
  readonly hostNetwork: boolean;
  readonly hostPid: boolean;
  readonly hostIpc: boolean;
  /** False: the pod has users of its own, in a user namespace. */
  readonly hostUsers: boolean;
  readonly shareProcessNamespace: boolean;
  /** `host`: the host's resolver settings with the additions of `dns`; `none`: those of `dns` alone. */
  readonly dnsPolicy: 'host' | 'none';
  readonly dns?: DnsConfig;
  readonly hostAliases: readonly { readonly ip: string; readonly hostnames: readonly string[] }[];
}
