/**
 * A manifest as a plan: the sandbox's configuration, the containers in order, the volumes, the images.
 * In: a decoded manifest and facts of the host. Out: a PodPlan. Pure; nothing is looked up.
 */
import { assert } from '#core';
import type { DnsConfig, Mount, NamespaceOptions, PodSandboxConfig, PortMapping, SeccompProfile } from '#pod';
import type { ContainerManifest, ImagePullPolicy, PodManifest, SeccompManifest, VolumeManifest } from './manifest-types.ts';
import { type ContainerPlan, type ContainerRole, type ImagePlan, type PlanFacts, type PodPlan, type VolumePlan, podrunUidLabel } from './plan-types.ts';
import { userMappingsOf } from './user-range.ts';
import { oomScoreAdjOf, serviceClassOf } from './quantity.ts';

/** A host name has at most this many characters. Source: sethostname(2), and the kubelet's own cut. */
const hostnameLengthMax = 63;

type HostVolume = Exclude<VolumeManifest, { kind: 'image' }>;

/** Host path of a volume. */
function volumePathOf(volume: HostVolume, facts: PlanFacts): string {
  switch (volume.kind) {
    case 'hostPath':
      return volume.path;
    case 'configMap':
      return `${facts.podsDirectory}/${facts.uid}/volumes/${volume.name}`;
    case 'emptyDir':
      return `${volume.medium === 'memory' ? facts.memoryPodsDirectory : facts.podsDirectory}/${facts.uid}/volumes/${volume.name}`;
  }
}

function planVolume(volume: HostVolume, facts: PlanFacts): VolumePlan {
  const path = volumePathOf(volume, facts);
  switch (volume.kind) {
    case 'hostPath':
      return { kind: 'hostPath', name: volume.name, path, type: volume.type };
    case 'configMap':
      return { kind: 'configMap', name: volume.name, path, files: volume.files };
    case 'emptyDir':
      return { kind: 'emptyDir', name: volume.name, path, medium: volume.medium };
  }
}

/** Owners in volumes are those that the pod sees, as the kubelet asks for every volume of a pod with its own users. */
function planMounts(container: ContainerManifest, { volumes, hostUsers }: Pick<PodManifest, 'volumes' | 'hostUsers'>, facts: PlanFacts): readonly Mount[] {
  const owners = hostUsers ? {} : { idMappings: userMappingsOf(facts.uid) };
  return container.volumeMounts.map((mount) => {
    const volume = volumes.find((candidate) => candidate.name === mount.name);
    assert(volume !== undefined, `decodeManifest let the unknown volume ${mount.name} pass`);
    if (volume.kind === 'image') {
      const image = { image: volume.reference, userSpecifiedImage: volume.reference, subPath: mount.subPath ?? '' };
      return { containerPath: mount.mountPath, hostPath: '', readonly: true, propagation: mount.propagation, image, ...owners };
    }
    const path = volumePathOf(volume, facts);
    return {
      containerPath: mount.mountPath,
      hostPath: mount.subPath === undefined ? path : `${path}/${mount.subPath}`,
      // The kubelet mounts configMap volumes read-only whatever the mount says.
      readonly: mount.readOnly || volume.kind === 'configMap',
      propagation: mount.propagation,
      ...owners,
    };
  });
}

/** Namespaces of the pod; containers have the same. */
function namespacesOf(manifest: Pick<PodManifest, 'hostNetwork' | 'hostPid' | 'hostIpc' | 'hostUsers' | 'shareProcessNamespace'>, uid: string): NamespaceOptions {
  return {
    ...(manifest.hostUsers ? {} : { user: userMappingsOf(uid) }),
    network: manifest.hostNetwork ? 'node' : 'pod',
    pid: manifest.hostPid ? 'node' : manifest.shareProcessNamespace ? 'pod' : 'container',
    ipc: manifest.hostIpc ? 'node' : 'pod',
  };
}

/** A profile for the engine. Without one a container gets the default profile, except a privileged one. */
export function seccompOf(profile: SeccompManifest | undefined, options: { readonly privileged: boolean; readonly seccompDirectory: string }): SeccompProfile {
  if (options.privileged) return { kind: 'unconfined' };
  if (profile === undefined) return { kind: 'runtimeDefault' };
  return profile.kind === 'localhost' ? { kind: 'localhost', path: `${options.seccompDirectory}/${profile.localhostProfile ?? ''}` } : { kind: profile.kind };
}

/** Resolver settings for the sandbox; undefined leaves them to the engine, which copies the host's. */
function planDns(manifest: PodManifest, hostDns: DnsConfig): DnsConfig | undefined {
  if (manifest.dns === undefined) return undefined;
  if (manifest.dnsPolicy === 'none') return manifest.dns;
  const { servers, searches, options } = manifest.dns;
  const unique = (items: readonly string[]): string[] => [...new Set(items)];
  // An option of the manifest replaces the host's of the same name. Source: kubelet, mergeDNSOptions.
  const named = new Set(options.map((option) => option.split(':')[0]));
  return {
    servers: unique([...hostDns.servers, ...servers]),
    searches: unique([...hostDns.searches, ...searches]),
    options: [...hostDns.options.filter((option) => !named.has(option.split(':')[0])), ...options],
  };
}

function planPorts(manifest: PodManifest): PortMapping[] {
  if (manifest.hostNetwork) return [];
  return [...manifest.initContainers, ...manifest.containers].flatMap((container) => container.ports.map((port) => ({ ...port })));
}

function planSandbox(manifest: PodManifest, facts: PlanFacts): PodSandboxConfig {
  const { security } = manifest;
  const dns = planDns(manifest, facts.dns);
  const privileged = [...manifest.initContainers, ...manifest.containers].some((container) => container.security.privileged);
  return {
    metadata: { name: manifest.name, uid: facts.uid, namespace: manifest.namespace, attempt: 0 },
    hostname: manifest.hostNetwork ? '' : (manifest.hostname || manifest.name).slice(0, hostnameLengthMax).replace(/[-.]+$/, ''),
    logDirectory: `${facts.podsDirectory}/${facts.uid}/logs`,
    ...(dns === undefined ? {} : { dns }),
    portMappings: planPorts(manifest),
    hostAliases: manifest.hostAliases,
    labels: { ...manifest.labels, [podrunUidLabel]: facts.uid },
    annotations: { ...manifest.annotations },
    cgroupParent: '',
    sysctls: security.sysctls,
    security: {
      namespaces: namespacesOf(manifest, facts.uid),
      ...(security.runAsUser === undefined ? {} : { runAsUser: security.runAsUser }),
      // A group without a user is refused by CRI; containers still get it beside the image's user.
      ...(security.runAsGroup === undefined || security.runAsUser === undefined ? {} : { runAsGroup: security.runAsGroup }),
      readonlyRootfs: false,
      supplementalGroups: security.supplementalGroups,
      privileged,
      seccomp: seccompOf(security.seccompProfile, { privileged, seccompDirectory: facts.seccompDirectory }),
    },
  };
}

const strictness: Readonly<Record<ImagePullPolicy, number>> = { Never: 0, IfNotPresent: 1, Always: 2 };

/** Each image once, in the order of first use: those of containers, then those of volumes. */
function planImages(containers: readonly ContainerManifest[], volumes: readonly VolumeManifest[]): readonly ImagePlan[] {
  const images = new Map<string, ImagePullPolicy>();
  const add = (image: string, policy: ImagePullPolicy): void => {
    const known = images.get(image);
    if (known === undefined || strictness[known] < strictness[policy]) images.set(image, policy);
  };
  for (const { image, imagePullPolicy } of containers) add(image, imagePullPolicy);
  for (const volume of volumes) if (volume.kind === 'image') add(volume.reference, volume.pullPolicy);
  return [...images].map(([name, pullPolicy]) => ({ name, pullPolicy }));
}

/** The plan of a pod. Equal input gives an equal plan. */
export function planPod(manifest: PodManifest, facts: PlanFacts): PodPlan {
  const all = [...manifest.initContainers, ...manifest.containers];
  const serviceClass = serviceClassOf(all.map(({ resources }) => resources));
  const plan = (container: ContainerManifest, role: ContainerRole): ContainerPlan => ({
    name: container.name,
    role,
    manifest: container,
    mounts: planMounts(container, manifest, facts),
    mustNotBeRoot: container.security.runAsNonRoot ?? manifest.security.runAsNonRoot ?? false,
    oomScoreAdj: oomScoreAdjOf(container.resources, serviceClass, facts.memoryBytes),
  });
  return {
    manifest,
    uid: facts.uid,
    podConfig: planSandbox(manifest, facts),
    init: manifest.initContainers.map((container) => plan(container, container.sidecar ? 'sidecar' : 'init')),
    containers: manifest.containers.map((container) => plan(container, 'main')),
    volumes: manifest.volumes.filter((volume) => volume.kind !== 'image').map((volume) => planVolume(volume, facts)),
    images: planImages(all, manifest.volumes),
    facts,
  };
}
