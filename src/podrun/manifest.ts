/**
 * Decoding of a Pod manifest and the ConfigMaps beside it.
 * In: unknown JSON values, one per document. Out: a PodManifest with defaults filled in, or invalidArgument with the path of the
 * first field that is wrong, unknown or not supported. Pure; the text is parsed by the caller. docs/manifest.md lists the fields.
 */
import { invalidArgument, isSafeId } from '#core';
import { type Decoder, type Fields, arrayOf, compact, decodeBoolean, decodeNonEmptyString, decodeObject, decodeString, fieldsOf, integerBetween, mapOf, oneOf, pathOf } from '#oci';
import type { DnsConfig } from '#pod';
import { containerDecoder } from './decode-container.ts';
import { decodeDnsLabel, decodeDnsName, decodeIpAddress, decodePodSecurity, defaultPodSecurity, listItemsMax } from './decode-parts.ts';
import { decodeConfigMap, volumeDecoder } from './decode-volumes.ts';
import type { ConfigMapManifest, ContainerManifest, PodManifest, PortManifest } from './manifest-types.ts';
import { refuseOtherFields } from './schema.ts';

const documentsMax = 100;
const supportedSpec = [
  'containers',
  'initContainers',
  'volumes',
  'restartPolicy',
  'terminationGracePeriodSeconds',
  'securityContext',
  'hostNetwork',
  'hostPID',
  'hostIPC',
  'hostUsers',
  'shareProcessNamespace',
  'dnsPolicy',
  'dnsConfig',
  'hostAliases',
  'hostname',
];

const decodeUid: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  // The uid is a directory name, so it must be one path component (CVE-2025-0750).
  if (!isSafeId(text)) throw invalidArgument(path, `${JSON.stringify(text.slice(0, 140))} may have letters, digits, "_", "." and "-", at most 128`);
  return text;
};

const decodeDnsOption: Decoder<string> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'DnsOption', ['name', 'value']);
  const word: Decoder<string> = (text, wordPath) => {
    const option = decodeNonEmptyString(text, wordPath);
    // Options are words of one line of resolv.conf.
    if (!/^[\x21-\x7e]{1,100}$/.test(option)) throw invalidArgument(wordPath, `${JSON.stringify(option.slice(0, 80))} must be one word`);
    return option;
  };
  const name = fields.required('name', word);
  const option = fields.optional('value', word);
  return option === undefined ? name : `${name}:${option}`;
};

const decodeDnsConfig: Decoder<DnsConfig> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'DnsConfig', ['nameservers', 'searches', 'options']);
  return {
    servers: fields.withDefault('nameservers', arrayOf(decodeIpAddress, 3), []),
    searches: fields.withDefault('searches', arrayOf(decodeSearchDomain, 32), []),
    options: fields.withDefault('options', arrayOf(decodeDnsOption, listItemsMax), []),
  };
};

/** A search domain; `.` and underscores are allowed, as in Kubernetes. */
const decodeSearchDomain: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (text !== '.' && !/^[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_.])?$/.test(text)) throw invalidArgument(path, `${JSON.stringify(text.slice(0, 80))} is no domain`);
  return text;
};

const decodeHostAlias: Decoder<{ readonly ip: string; readonly hostnames: readonly string[] }> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'HostAlias', ['ip', 'hostnames']);
  return { ip: fields.required('ip', decodeIpAddress), hostnames: fields.withDefault('hostnames', arrayOf(decodeDnsName, listItemsMax), []) };
};

function decodeDns(spec: Fields): Pick<PodManifest, 'dnsPolicy' | 'dns'> {
  // Without a cluster's DNS server the kubelet treats the two ClusterFirst policies as Default; so does this.
  const policy = spec.withDefault('dnsPolicy', oneOf('DNS policy', ['ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None']), 'ClusterFirst');
  const dns = spec.optional('dnsConfig', decodeDnsConfig);
  if (policy === 'None' && (dns?.servers.length ?? 0) === 0) throw invalidArgument('spec.dnsConfig.nameservers', 'at least one is required with dnsPolicy: None');
  return { dnsPolicy: policy === 'None' ? 'none' : 'host', ...(dns === undefined ? {} : { dns }) };
}

interface PlacedContainer {
  readonly path: string;
  readonly container: ContainerManifest;
}

function refuseDoubledNames(placed: readonly { readonly path: string; readonly name: string }[], noun: string): void {
  for (const [index, { path, name }] of placed.entries()) {
    const first = placed.findIndex((other) => other.name === name);
    if (first < index) throw invalidArgument(pathOf(path, 'name'), `${JSON.stringify(name)} names ${placed[first]?.path ?? ''} too; ${noun} names must differ`);
  }
}

/** Volume mounts must name a volume of the pod, and a sub path a file of a configMap volume or a part of an image. */
function checkVolumeMounts({ path, container }: PlacedContainer, volumes: PodManifest['volumes']): void {
  for (const [index, mount] of container.volumeMounts.entries()) {
    const mountPath = `${path}.volumeMounts[${index}]`;
    const volume = volumes.find((candidate) => candidate.name === mount.name);
    if (volume === undefined) throw invalidArgument(`${mountPath}.name`, `no volume ${JSON.stringify(mount.name)} in spec.volumes`);
    if (volume.kind === 'image' && mount.propagation !== 'private') throw invalidArgument(`${mountPath}.mountPropagation`, 'must be None for an image volume');
    // What an image holds is known when it is mounted; the path is resolved there, and stays inside.
    if (mount.subPath === undefined || volume.kind === 'image') continue;
    // In a writable volume a container could swap the path for a link while it is mounted (CVE-2021-30465).
    if (volume.kind !== 'configMap') throw invalidArgument(`${mountPath}.subPath`, `not supported: only files of configMap volumes and parts of images can be mounted alone`);
    if (!volume.files.some((file) => file.path === mount.subPath))
      throw invalidArgument(`${mountPath}.subPath`, `the volume ${JSON.stringify(volume.name)} has no file ${JSON.stringify(mount.subPath.slice(0, 80))}`);
  }
}

/** With host network a container listens on the host itself, so a different host port cannot be had. */
function checkPorts(placed: readonly PlacedContainer[], hostNetwork: boolean): void {
  const taken = new Map<string, string>();
  for (const { path, container } of placed) {
    for (const [index, port] of container.ports.entries()) {
      const portPath = `${path}.ports[${index}].hostPort`;
      if (port.hostPort === 0) continue;
      if (hostNetwork && port.hostPort !== port.containerPort) throw invalidArgument(portPath, `must be the containerPort ${port.containerPort} with hostNetwork`);
      for (const key of hostPortKeys(port)) {
        const other = taken.get(key);
        if (other !== undefined) throw invalidArgument(portPath, `${port.hostPort}/${port.protocol} is taken by ${other} already`);
      }
      taken.set(`${port.protocol} ${port.hostIp ?? '*'} ${port.hostPort}`, portPath);
      if (port.hostIp !== undefined) taken.set(`${port.protocol} any ${port.hostPort}`, portPath);
    }
  }
}

/** Keys that collide with this port: its own address, every address, and any address where it wants them all. */
function hostPortKeys(port: PortManifest): readonly string[] {
  const of = (ip: string): string => `${port.protocol} ${ip} ${port.hostPort}`;
  return port.hostIp === undefined ? [of('*'), of('any')] : [of(port.hostIp), of('*')];
}

function checkUsers(placed: readonly PlacedContainer[], pod: PodManifest['security']): void {
  for (const { path, container } of placed) {
    const nonRoot = container.security.runAsNonRoot ?? pod.runAsNonRoot ?? false;
    const user = container.security.runAsUser ?? pod.runAsUser;
    if (!nonRoot || user !== 0) continue;
    throw invalidArgument(container.security.runAsUser === 0 ? `${path}.securityContext.runAsUser` : 'spec.securityContext.runAsUser', 'is 0 although runAsNonRoot is set');
  }
}

function checkHostNamespaces(spec: PodManifest): void {
  if (spec.hostPid && spec.shareProcessNamespace) throw invalidArgument('spec.shareProcessNamespace', 'cannot be set with hostPID');
  if (spec.hostPid && !spec.hostUsers) throw invalidArgument('spec.hostUsers', 'cannot be false with hostPID');
  if (spec.hostIpc && !spec.hostUsers) throw invalidArgument('spec.hostUsers', 'cannot be false with hostIPC');
  for (const name of Object.keys(spec.security.sysctls)) {
    const path = `spec.securityContext.sysctls[${JSON.stringify(name)}]`;
    if (spec.hostNetwork && name.startsWith('net.')) throw invalidArgument(path, 'would change the host, as hostNetwork is set');
    if (spec.hostIpc && (name.startsWith('kernel.shm') || name.startsWith('kernel.msg') || name === 'kernel.sem' || name.startsWith('fs.mqueue.')))
      throw invalidArgument(path, 'would change the host, as hostIPC is set');
  }
}

function decodeSpec(spec: Fields, configMaps: ReadonlyMap<string, ConfigMapManifest>): Omit<PodManifest, 'name' | 'namespace' | 'uid' | 'labels' | 'annotations'> {
  refuseOtherFields(spec, 'PodSpec', supportedSpec);
  const containers = spec.required('containers', arrayOf(containerDecoder({ init: false }), listItemsMax));
  if (containers.length === 0) throw invalidArgument('spec.containers', 'must have at least one container');
  return {
    containers,
    initContainers: spec.withDefault('initContainers', arrayOf(containerDecoder({ init: true }), listItemsMax), []),
    volumes: spec.withDefault('volumes', arrayOf(volumeDecoder(configMaps), listItemsMax), []),
    restartPolicy: spec.withDefault('restartPolicy', oneOf('restart policy', ['Always', 'OnFailure', 'Never']), 'Always'),
    terminationGracePeriodSeconds: spec.withDefault('terminationGracePeriodSeconds', integerBetween(0, 365 * 24 * 3600), 30),
    security: spec.withDefault('securityContext', decodePodSecurity, defaultPodSecurity),
    hostNetwork: spec.withDefault('hostNetwork', decodeBoolean, false),
    hostPid: spec.withDefault('hostPID', decodeBoolean, false),
    hostIpc: spec.withDefault('hostIPC', decodeBoolean, false),
    hostUsers: spec.withDefault('hostUsers', decodeBoolean, true),
    shareProcessNamespace: spec.withDefault('shareProcessNamespace', decodeBoolean, false),
    ...decodeDns(spec),
    hostAliases: spec.withDefault('hostAliases', arrayOf(decodeHostAlias, listItemsMax), []),
    hostname: spec.withDefault('hostname', decodeDnsLabel, ''),
  };
}

function decodePod(value: unknown, configMaps: ReadonlyMap<string, ConfigMapManifest>): PodManifest {
  const fields = fieldsOf(value, '');
  refuseOtherFields(fields, 'Pod', ['apiVersion', 'kind', 'metadata', 'spec']);
  fields.required('apiVersion', oneOf('API version of a Pod', ['v1']));
  const metadata = fields.required('metadata', fieldsOf);
  refuseOtherFields(metadata, 'ObjectMeta', ['name', 'namespace', 'uid', 'labels', 'annotations']);
  const manifest: PodManifest = compact({
    name: metadata.required('name', decodeDnsName),
    namespace: metadata.withDefault('namespace', decodeDnsLabel, 'default'),
    uid: metadata.optional('uid', decodeUid),
    labels: metadata.withDefault('labels', mapOf(decodeString), {}),
    annotations: metadata.withDefault('annotations', mapOf(decodeString), {}),
    ...decodeSpec(fields.required('spec', fieldsOf), configMaps),
  });
  const place = (key: 'initContainers' | 'containers'): PlacedContainer[] => manifest[key].map((container, index) => ({ path: `spec.${key}[${index}]`, container }));
  const placed = [...place('initContainers'), ...place('containers')];
  refuseDoubledNames(
    placed.map(({ path, container }) => ({ path, name: container.name })),
    'container',
  );
  refuseDoubledNames(
    manifest.volumes.map(({ name }, index) => ({ path: `spec.volumes[${index}]`, name })),
    'volume',
  );
  for (const entry of placed) checkVolumeMounts(entry, manifest.volumes);
  checkPorts(placed, manifest.hostNetwork);
  checkUsers(placed, manifest.security);
  checkHostNamespaces(manifest);
  return manifest;
}

/**
 * The one Pod of the documents, with the ConfigMaps that its volumes name. Empty documents (null) are passed over.
 * Throws invalidArgument `path: cause`; the path starts at the Pod document, or with `ConfigMap` in another.
 */
export function decodeManifest(documents: readonly unknown[]): PodManifest {
  const present = documents.filter((document) => document !== null && document !== undefined);
  if (present.length > documentsMax) throw invalidArgument('', `${present.length} documents, at most ${documentsMax}`);
  const configMaps = new Map<string, ConfigMapManifest>();
  const pods: unknown[] = [];
  for (const document of present) {
    const kind = fieldsOf(decodeObject(document, 'document'), '').required('kind', decodeNonEmptyString);
    if (kind === 'Pod') pods.push(document);
    else if (kind === 'ConfigMap') {
      const configMap = decodeConfigMap(document, 'ConfigMap');
      if (configMaps.has(configMap.name)) throw invalidArgument('ConfigMap.metadata.name', `${JSON.stringify(configMap.name)} is there twice`);
      configMaps.set(configMap.name, configMap);
    } else throw invalidArgument('kind', `${JSON.stringify(kind.slice(0, 80))} is not supported (Pod, ConfigMap)`);
  }
  if (pods.length !== 1) throw invalidArgument('', pods.length === 0 ? 'no Pod in this file' : `${pods.length} Pods in this file, at most one`);
  return decodePod(pods[0], configMaps);
}
