/**
 * A container's configuration for the engine, once its attempt, the pod's addresses and the image's user are known.
 * In: plans and those facts. Out: a ContainerConfig, or failedPrecondition where the user may not be root. Pure.
 */
import { RuntimeError } from '#core';
import type { ContainerConfig, ContainerSecurity, ImageSummary, LinuxResources } from '#pod';
import { expandVariables } from './expand.ts';
import type { EnvManifest, FieldReference } from './manifest-types.ts';
import { type ContainerPlan, type PodPlan, podrunUidLabel } from './plan-types.ts';
import { seccompOf } from './plan.ts';
import { planResources } from './quantity.ts';

/** What is known only while the pod runs. */
export interface ContainerFacts {
  /** 0 for the first start, then one more for each restart. */
  readonly attempt: number;
  readonly podIps: readonly string[];
  /** The image's own user. */
  readonly image: Pick<ImageSummary, 'uid' | 'username'>;
  /** Ids of the images that the pod fetched, by name. A volume stays the same for the pod's life, whatever the name comes to mean. */
  readonly imageIds?: ReadonlyMap<string, string>;
}

function fieldValue(field: FieldReference, pod: PodPlan, podIps: readonly string[]): string {
  const { manifest } = pod;
  switch (field.kind) {
    case 'name':
      return manifest.name;
    case 'namespace':
      return manifest.namespace;
    case 'uid':
      return pod.uid;
    case 'podIp':
      return podIps[0] ?? '';
    case 'podIps':
      return podIps.join(',');
    case 'label':
      return Object.hasOwn(manifest.labels, field.key) ? (manifest.labels[field.key] ?? '') : '';
    case 'annotation':
      return Object.hasOwn(manifest.annotations, field.key) ? (manifest.annotations[field.key] ?? '') : '';
  }
}

/** Variables in order; a value may use those before it, and a later entry replaces an earlier one of the same name. */
function buildEnv(env: readonly EnvManifest[], pod: PodPlan, podIps: readonly string[]): ReadonlyMap<string, string> {
  const variables = new Map<string, string>();
  for (const entry of env) variables.set(entry.name, entry.kind === 'literal' ? expandVariables(entry.value, variables) : fieldValue(entry.field, pod, podIps));
  return variables;
}

/** Source: kubelet, verifyRunAsNonRoot. */
function checkNonRoot(container: ContainerPlan, user: number | undefined, image: ContainerFacts['image']): void {
  if (!container.mustNotBeRoot || (user ?? 0) !== 0) return;
  const fail = (cause: string): RuntimeError => new RuntimeError('failedPrecondition', `create container ${container.name}: runAsNonRoot is set, but ${cause}`);
  if (container.runAsUsername !== undefined || (user === undefined && image.uid === undefined && (image.username ?? '') !== ''))
    throw fail(`the user ${JSON.stringify(container.runAsUsername ?? image.username)} is not numeric, so it cannot be verified`);
  if (user === 0 || (image.uid ?? 0) === 0) throw fail(`${user === 0 ? 'it' : `the image ${container.manifest.image}`} runs as root`);
}

function buildSecurity(pod: PodPlan, container: ContainerPlan, image: ContainerFacts['image']): ContainerSecurity {
  const own = container.manifest.security;
  const shared = pod.manifest.security;
  const runAsUser = own.runAsUser ?? (container.runAsUsername === undefined ? shared.runAsUser : undefined);
  checkNonRoot(container, runAsUser, image);
  const runAsGroup = own.runAsGroup ?? shared.runAsGroup;
  // A group needs a user beside it in CRI; as the kubelet does, the image's own user is spelled out then.
  const needsUser = runAsGroup !== undefined && runAsUser === undefined && container.runAsUsername === undefined;
  const user = needsUser && (image.username ?? '') === '' ? (image.uid ?? 0) : runAsUser;
  const apparmor = own.appArmorProfile ?? shared.appArmorProfile;
  const username = needsUser && user === undefined ? image.username : container.runAsUsername;
  return {
    ...(own.capabilitiesAdd.length + own.capabilitiesDrop.length === 0 ? {} : { capabilities: { add: own.capabilitiesAdd, drop: own.capabilitiesDrop, addAmbient: [] } }),
    privileged: own.privileged,
    namespaces: pod.podConfig.security.namespaces,
    ...(user === undefined ? {} : { runAsUser: user }),
    ...(username === undefined ? {} : { runAsUsername: username }),
    ...(runAsGroup === undefined ? {} : { runAsGroup }),
    readonlyRootfs: own.readOnlyRootFilesystem,
    supplementalGroups: shared.supplementalGroups,
    supplementalGroupsPolicy: shared.supplementalGroupsPolicy,
    noNewPrivileges: own.allowPrivilegeEscalation === false,
    ...(apparmor === undefined ? {} : { apparmor }),
    seccomp: seccompOf(own.seccompProfile ?? shared.seccompProfile, { privileged: own.privileged, seccompDirectory: pod.facts.seccompDirectory }),
  };
}

function buildResources(container: ContainerPlan): LinuxResources {
  return {
    ...planResources(container.manifest.resources),
    ...(container.oomScoreAdj === undefined ? {} : { oomScoreAdj: container.oomScoreAdj }),
    ...(container.pidsLimit === undefined ? {} : { pidsLimit: container.pidsLimit }),
  };
}

/** Labels by which crictl and other tools find a container's pod. Source: the kubelet's types.KubernetesPodNameLabel and siblings. */
function kubeletLabels({ podConfig }: PodPlan, containerName: string): Readonly<Record<string, string>> {
  const { name, namespace, uid } = podConfig.metadata;
  return { 'io.kubernetes.container.name': containerName, 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': namespace, 'io.kubernetes.pod.uid': uid };
}

/** The configuration for CreateContainer. Throws failedPrecondition where `runAsNonRoot` would be broken. */
export function buildContainerConfig(pod: PodPlan, container: ContainerPlan, facts: ContainerFacts): ContainerConfig {
  const { manifest } = container;
  const variables = buildEnv(manifest.env, pod, facts.podIps);
  return {
    metadata: { name: container.name, attempt: facts.attempt },
    image: manifest.image,
    userSpecifiedImage: manifest.image,
    command: manifest.command.map((word) => expandVariables(word, variables)),
    args: manifest.args.map((word) => expandVariables(word, variables)),
    workingDir: manifest.workingDir,
    env: [...variables].map(([key, value]) => ({ key, value })),
    mounts: container.mounts.map((mount) =>
      mount.image === undefined ? mount : { ...mount, image: { ...mount.image, image: facts.imageIds?.get(mount.image.image) ?? mount.image.image } },
    ),
    devices: [],
    labels: { ...kubeletLabels(pod, container.name), [podrunUidLabel]: pod.uid },
    annotations: {},
    // The layout of the kubelet, so that tools that read pod logs find them. Source: KEP-2411, pod log directory.
    logPath: `${container.name}/${facts.attempt}.log`,
    stdin: manifest.stdin,
    stdinOnce: manifest.stdinOnce,
    tty: manifest.tty,
    resources: buildResources(container),
    security: buildSecurity(pod, container, facts.image),
  };
}
