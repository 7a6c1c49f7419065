/**
 * The fields of the Pod schema that are refused, and the refusal of everything else. Pure data and one function.
 * In: the fields of one object. Out: nothing, or invalidArgument `path: not supported` or `path: unknown field, did you mean …?`.
 * Source: Kubernetes API reference, core/v1 Pod and ConfigMap.
 */
import { invalidArgument } from '#core';
import { type Fields, pathOf } from '#oci';

/** Per kind of object, the names that Kubernetes knows; the decoders say which of them they read. */
const knownFields = {
  Pod: 'apiVersion kind metadata spec status',
  ConfigMap: 'apiVersion kind metadata data binaryData immutable',
  ObjectMeta:
    'annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation labels managedFields name namespace ownerReferences resourceVersion selfLink uid',
  PodSpec:
    'activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes workloadRef',
  Container:
    'args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir',
  PodSecurityContext:
    'appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy seLinuxOptions seccompProfile supplementalGroups supplementalGroupsPolicy sysctls windowsOptions',
  SecurityContext:
    'allowPrivilegeEscalation appArmorProfile capabilities privileged procMount readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser seLinuxOptions seccompProfile windowsOptions',
  Capabilities: 'add drop',
  SeccompProfile: 'localhostProfile type',
  AppArmorProfile: 'localhostProfile type',
  Sysctl: 'name value',
  ResourceRequirements: 'claims limits requests',
  ResourceList: 'cpu memory ephemeral-storage storage',
  EnvVar: 'name value valueFrom',
  EnvVarSource: 'configMapKeyRef fieldRef fileKeyRef resourceFieldRef secretKeyRef',
  FieldRef: 'apiVersion fieldPath',
  ContainerPort: 'containerPort hostIP hostPort name protocol',
  VolumeMount: 'mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr',
  Volume:
    'awsElasticBlockStore azureDisk azureFile cephfs cinder configMap csi downwardAPI emptyDir ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs hostPath image iscsi name nfs persistentVolumeClaim photonPersistentDisk portworxVolume projected quobyte rbd scaleIO secret storageos vsphereVolume',
  EmptyDir: 'medium sizeLimit',
  HostPath: 'path type',
  ImageVolume: 'pullPolicy reference',
  ConfigMapVolume: 'defaultMode items name optional',
  KeyToPath: 'key mode path',
  DnsConfig: 'nameservers options searches',
  DnsOption: 'name value',
  HostAlias: 'hostnames ip',
} as const;

/** Kind of object whose fields are checked. */
export type ObjectKind = keyof typeof knownFields;

/** Names that Kubernetes knows for this kind. */
export function fieldNamesOf(kind: ObjectKind): readonly string[] {
  return knownFields[kind].split(' ');
}

/** Number of single-character edits between two short texts, a swap of neighbours counting as one. */
export function editDistance(from: string, to: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= to.length; j += 1) {
      const cost = from[i - 1] === to[j - 1] ? 0 : 1;
      let best = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + cost);
      if (i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]) best = Math.min(best, (beforeLast[j - 2] ?? 0) + 1);
      row.push(best);
    }
    beforeLast = last;
    last = row;
  }
  return last[to.length] ?? 0;
}

/** The candidate that the text was probably meant to be, or undefined where none is near. */
export function nearest(text: string, candidates: readonly string[]): string | undefined {
  if (text.length > 64) return undefined;
  const scored = candidates.map((candidate) => ({ candidate, distance: editDistance(text.toLowerCase(), candidate.toLowerCase()) }));
  const best = scored.sort((a, b) => a.distance - b.distance)[0];
  return best !== undefined && best.distance <= Math.max(1, Math.floor(text.length / 3)) ? best.candidate : undefined;
}

/**
 * Refuses every field that is set and not in `supported`. A null counts as not set, as everywhere in Kubernetes.
 * `reasons` gives the cause for fields where "not supported" alone would puzzle.
 */
export function refuseOtherFields(fields: Fields, kind: ObjectKind, supported: readonly string[], reasons: Readonly<Record<string, string>> = {}): void {
  const known = fieldNamesOf(kind);
  for (const name of fields.names) {
    if (supported.includes(name) || fields.optional(name, (value) => value) === undefined) continue;
    const path = pathOf(fields.path, name);
    if (known.includes(name)) throw invalidArgument(path, Object.hasOwn(reasons, name) ? `not supported: ${reasons[name]}` : 'not supported');
    const suggestion = nearest(name, known);
    throw invalidArgument(path, suggestion === undefined ? 'unknown field' : `unknown field, did you mean ${suggestion}?`);
  }
}
