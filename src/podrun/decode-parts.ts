/**
 * Decoders of the parts that pods and containers share: names, security contexts, environment, ports, resources.
 * In: unknown JSON values. Out: typed parts, or invalidArgument with the path. Pure.
 */
import { invalidArgument } from '#core';
import { type Decoder, arrayOf, compact, decodeAbsolutePath, decodeBoolean, decodeNonEmptyString, decodeString, fieldsOf, integerBetween, oneOf, pathOf } from '#oci';
import type { ApparmorProfile } from '#pod';
import type {
  ContainerSecurityManifest,
  EnvManifest,
  FieldReference,
  PodSecurityManifest,
  PortManifest,
  ResourcesManifest,
  SeccompManifest,
  VolumeMountManifest,
} from './manifest-types.ts';
import { decodeCpuMilli, decodeMemoryBytes } from './quantity.ts';
import { nearest, refuseOtherFields } from './schema.ts';

/** A list of at most this many items; more is a mistake or an attack. */
export const listItemsMax = 1000;

/** Lower-case letters, digits and `-`, at most 63, as RFC 1123 has labels. */
export const decodeDnsLabel: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text))
    throw invalidArgument(path, `${JSON.stringify(text.slice(0, 80))} must be at most 63 lower-case letters, digits or "-", and start and end with a letter or digit`);
  return text;
};

/** Labels joined by dots, at most 253 characters. */
export const decodeDnsName: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (text.length > 253) throw invalidArgument(path, `${text.length} characters, at most 253`);
  for (const label of text.split('.'))
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(label))
      throw invalidArgument(path, `${JSON.stringify(text.slice(0, 80))} must consist of lower-case letters, digits, "-" and "."`);
  return text;
};

/** User and group ids. 4294967295 means "no change" to the kernel and is refused (CVE-2024-40635 is an overflow of this kind). */
export const decodeId: Decoder<number> = integerBetween(0, 0xffff_fffe);

const decodePort = integerBetween(1, 65_535);

/** A profile of this type: the runtime's own, none, or one of the node's, whose `localhostProfile` `decodeLocal` takes. `word` names the type in errors. */
function profileOf<Local>(
  type: 'SeccompProfile' | 'AppArmorProfile',
  word: string,
  decodeLocal: (text: string, path: string) => Local,
): Decoder<{ readonly kind: 'unconfined' | 'runtimeDefault' } | Local> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, type, ['type', 'localhostProfile']);
    const kind = fields.required('type', oneOf(`${word} profile type`, ['RuntimeDefault', 'Unconfined', 'Localhost']));
    const local = fields.optional('localhostProfile', decodeNonEmptyString);
    const localPath = pathOf(path, 'localhostProfile');
    if (kind !== 'Localhost') {
      if (local !== undefined) throw invalidArgument(localPath, 'only allowed with type Localhost');
      return { kind: kind === 'Unconfined' ? 'unconfined' : 'runtimeDefault' };
    }
    if (local === undefined) throw invalidArgument(localPath, 'required with type Localhost');
    return decodeLocal(local, localPath);
  };
}

/** `seccompProfile` of a pod or container. */
export const decodeSeccomp: Decoder<SeccompManifest> = profileOf('SeccompProfile', 'seccomp', (text, path) => ({
  kind: 'localhost' as const,
  localhostProfile: decodeRelativePath(text, path),
}));

/** `appArmorProfile` of a pod or container; a profile by name must be loaded on the node. */
export const decodeApparmor: Decoder<ApparmorProfile> = profileOf('AppArmorProfile', 'AppArmor', (name, path) => {
  if (!/^[\x21-\x7e]{1,512}$/.test(name)) throw invalidArgument(path, `${JSON.stringify(name.slice(0, 80))} is no name of a profile`);
  return { kind: 'localhost' as const, name };
});

/** A path below something: not absolute, without empty parts, `.` and `..`. */
export const decodeRelativePath: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (text.startsWith('/') || text.split('/').some((part) => part === '' || part === '.' || part === '..'))
    throw invalidArgument(path, `${JSON.stringify(text.slice(0, 200))} must be a relative path without ".."`);
  return text;
};

const decodeSysctl = (value: unknown, path: string): readonly [string, string] => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'Sysctl', ['name', 'value']);
  const name = fields.required('name', decodeNonEmptyString);
  // Separators become path parts and lines, so the alphabet is closed. Source: Kubernetes sysctl name rule; CVE-2022-0811.
  if (!/^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$/.test(name) || name.length > 253)
    throw invalidArgument(pathOf(path, 'name'), `${JSON.stringify(name.slice(0, 80))} is no sysctl name`);
  const text = fields.required('value', decodeString);
  if (!/^[\x20-\x7e\t]*$/.test(text)) throw invalidArgument(pathOf(path, 'value'), 'must be one line of printable characters');
  return [name.replaceAll('/', '.'), text];
};

/** `spec.securityContext`. */
export const decodePodSecurity: Decoder<PodSecurityManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(
    fields,
    'PodSecurityContext',
    ['runAsUser', 'runAsGroup', 'runAsNonRoot', 'supplementalGroups', 'supplementalGroupsPolicy', 'seccompProfile', 'appArmorProfile', 'sysctls'],
    {
      fsGroup: 'volumes keep their own group; use supplementalGroups or runAsGroup',
    },
  );
  const sysctls = fields.withDefault('sysctls', arrayOf(decodeSysctl, listItemsMax), []);
  const doubled = sysctls.findIndex(([name], index) => sysctls.findIndex(([other]) => other === name) < index);
  if (doubled >= 0) throw invalidArgument(`${pathOf(path, 'sysctls')}[${doubled}].name`, `${JSON.stringify(sysctls[doubled]?.[0])} is set twice`);
  return compact({
    runAsUser: fields.optional('runAsUser', decodeId),
    runAsGroup: fields.optional('runAsGroup', decodeId),
    runAsNonRoot: fields.optional('runAsNonRoot', decodeBoolean),
    supplementalGroups: fields.withDefault('supplementalGroups', arrayOf(decodeId, listItemsMax), []),
    supplementalGroupsPolicy: fields.withDefault('supplementalGroupsPolicy', oneOf('policy', ['Merge', 'Strict']), 'Merge') === 'Strict' ? ('strict' as const) : ('merge' as const),
    seccompProfile: fields.optional('seccompProfile', decodeSeccomp),
    appArmorProfile: fields.optional('appArmorProfile', decodeApparmor),
    sysctls: Object.fromEntries(sysctls),
  });
};

/** Capabilities of linux/capability.h up to Linux 6.x, without their prefix. */
const capabilityNames =
  'ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM'.split(
    ' ',
  );

/** A capability's name without `CAP_`, in upper case, or `ALL`. */
export const decodeCapability: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  const name = text.toUpperCase().replace(/^CAP_/, '');
  if (capabilityNames.includes(name)) return name;
  const suggestion = nearest(name, capabilityNames);
  throw invalidArgument(path, `unknown capability ${JSON.stringify(text.slice(0, 80))}${suggestion === undefined ? '' : `, did you mean ${suggestion}?`}`);
};

const decodeCapabilities: Decoder<{ readonly add: readonly string[]; readonly drop: readonly string[] }> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'Capabilities', ['add', 'drop']);
  return { add: fields.withDefault('add', arrayOf(decodeCapability, listItemsMax), []), drop: fields.withDefault('drop', arrayOf(decodeCapability, listItemsMax), []) };
};

/** `securityContext` of a container; pairs that contradict each other are refused, as the API server does. */
export const decodeContainerSecurity: Decoder<ContainerSecurityManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'SecurityContext', [
    'runAsUser',
    'runAsGroup',
    'runAsNonRoot',
    'privileged',
    'capabilities',
    'readOnlyRootFilesystem',
    'allowPrivilegeEscalation',
    'seccompProfile',
    'appArmorProfile',
  ]);
  const capabilities = fields.withDefault('capabilities', decodeCapabilities, { add: [], drop: [] });
  const privileged = fields.withDefault('privileged', decodeBoolean, false);
  const allowPrivilegeEscalation = fields.optional('allowPrivilegeEscalation', decodeBoolean);
  // no_new_privs would silently take away what these two ask for; the API server refuses the pair too.
  if (allowPrivilegeEscalation === false && privileged) throw invalidArgument(pathOf(path, 'allowPrivilegeEscalation'), 'cannot be false with privileged: true');
  if (allowPrivilegeEscalation === false && capabilities.add.includes('SYS_ADMIN'))
    throw invalidArgument(pathOf(path, 'allowPrivilegeEscalation'), 'cannot be false with the capability SYS_ADMIN added');
  return compact({
    runAsUser: fields.optional('runAsUser', decodeId),
    runAsGroup: fields.optional('runAsGroup', decodeId),
    runAsNonRoot: fields.optional('runAsNonRoot', decodeBoolean),
    privileged,
    capabilitiesAdd: capabilities.add,
    capabilitiesDrop: capabilities.drop,
    readOnlyRootFilesystem: fields.withDefault('readOnlyRootFilesystem', decodeBoolean, false),
    allowPrivilegeEscalation,
    seccompProfile: fields.optional('seccompProfile', decodeSeccomp),
    appArmorProfile: fields.optional('appArmorProfile', decodeApparmor),
  });
};

/** What a container without a security context has. */
export const defaultContainerSecurity: ContainerSecurityManifest = { privileged: false, capabilitiesAdd: [], capabilitiesDrop: [], readOnlyRootFilesystem: false };
/** What a pod without a security context has. */
export const defaultPodSecurity: PodSecurityManifest = { supplementalGroups: [], supplementalGroupsPolicy: 'merge', sysctls: {} };

const simpleFieldPaths: Readonly<Record<string, FieldReference>> = {
  'metadata.name': { kind: 'name' },
  'metadata.namespace': { kind: 'namespace' },
  'metadata.uid': { kind: 'uid' },
  'status.podIP': { kind: 'podIp' },
  'status.podIPs': { kind: 'podIps' },
};

const decodeFieldPath: Decoder<FieldReference> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  const simple = Object.hasOwn(simpleFieldPaths, text) ? simpleFieldPaths[text] : undefined;
  if (simple !== undefined) return simple;
  const subscript = /^metadata\.(labels|annotations)\['([^']{1,253})'\]$/.exec(text);
  if (subscript !== null) return { kind: subscript[1] === 'labels' ? 'label' : 'annotation', key: subscript[2] ?? '' };
  throw invalidArgument(
    path,
    `${JSON.stringify(text.slice(0, 80))} is not supported (${Object.keys(simpleFieldPaths).join(', ')}, metadata.labels['KEY'], metadata.annotations['KEY'])`,
  );
};

const decodeFieldReference: Decoder<FieldReference> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'EnvVarSource', ['fieldRef']);
  return fields.required('fieldRef', (reference, referencePath) => {
    const inner = fieldsOf(reference, referencePath);
    refuseOtherFields(inner, 'FieldRef', ['apiVersion', 'fieldPath']);
    inner.optional('apiVersion', oneOf('API version', ['v1']));
    return inner.required('fieldPath', decodeFieldPath);
  });
};

/** Name of an environment variable: printable ASCII without `=`, as Kubernetes 1.34 has it. */
export const decodeEnvName: Decoder<string> = (value, path) => {
  const name = decodeNonEmptyString(value, path);
  if (!/^[\x20-\x3c\x3e-\x7e]+$/.test(name)) throw invalidArgument(path, `${JSON.stringify(name.slice(0, 80))} must be printable ASCII without "="`);
  return name;
};

/** An entry of `env`: a text or a field of the pod. */
export const decodeEnv: Decoder<EnvManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'EnvVar', ['name', 'value', 'valueFrom']);
  const name = fields.required('name', decodeEnvName);
  const literal = fields.optional('value', decodeString);
  const field = fields.optional('valueFrom', decodeFieldReference);
  if (field === undefined) return { kind: 'literal', name, value: literal ?? '' };
  if (literal !== undefined && literal !== '') throw invalidArgument(pathOf(path, 'valueFrom'), 'cannot be set beside value');
  return { kind: 'field', name, field };
};

/** An IPv4 or IPv6 address. */
export const decodeIpAddress: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  const isV4 = /^\d{1,3}(\.\d{1,3}){3}$/.test(text) && text.split('.').every((part) => Number(part) <= 255 && String(Number(part)) === part);
  // The address is parsed by the URL rules, which know IPv6 in full and need no I/O.
  if (!isV4 && !(text.includes(':') && /^[0-9a-f:.]+$/i.test(text) && URL.canParse(`http://[${text}]/`)))
    throw invalidArgument(path, `${JSON.stringify(text.slice(0, 80))} is no IP address`);
  return text;
};

const protocols = { TCP: 'tcp', UDP: 'udp', SCTP: 'sctp' } as const;

/** An entry of `ports`. */
export const decodeContainerPort: Decoder<PortManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'ContainerPort', ['containerPort', 'hostPort', 'hostIP', 'protocol', 'name']);
  fields.optional('name', decodeDnsLabel);
  const hostPort = fields.withDefault('hostPort', integerBetween(0, 65_535), 0);
  const hostIp = fields.optional('hostIP', (ip, ipPath) => (ip === '' ? undefined : decodeIpAddress(ip, ipPath)));
  return compact({
    containerPort: fields.required('containerPort', decodePort),
    hostPort,
    hostIp,
    protocol: protocols[fields.withDefault('protocol', oneOf('protocol', ['TCP', 'UDP', 'SCTP']), 'TCP')],
  });
};

function decodeResourceList(kind: string): Decoder<{ readonly cpu?: bigint; readonly memory?: bigint }> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    for (const name of fields.names) {
      if (name === 'cpu' || name === 'memory' || fields.optional(name, (field) => field) === undefined) continue;
      const suggestion = nearest(name, ['cpu', 'memory']);
      throw invalidArgument(pathOf(path, name), suggestion === undefined ? `not supported: only cpu and memory have ${kind}` : `unknown resource, did you mean ${suggestion}?`);
    }
    return compact({ cpu: fields.optional('cpu', decodeCpuMilli), memory: fields.optional('memory', decodeMemoryBytes) });
  };
}

/** `resources`: limits and requests of CPU and memory, no request above its limit. */
export const decodeResources: Decoder<ResourcesManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'ResourceRequirements', ['limits', 'requests']);
  const limits = fields.withDefault('limits', decodeResourceList('limits'), {});
  const requests = fields.withDefault('requests', decodeResourceList('requests'), {});
  const tooMuch = (key: 'cpu' | 'memory'): boolean => limits[key] !== undefined && (requests[key] ?? 0n) > limits[key];
  for (const key of ['cpu', 'memory'] as const) if (tooMuch(key)) throw invalidArgument(pathOf(pathOf(path, 'requests'), key), `must not be greater than the limit`);
  return compact({ cpuRequestMilli: requests.cpu, cpuLimitMilli: limits.cpu, memoryRequestBytes: requests.memory, memoryLimitBytes: limits.memory });
};

const propagations = { None: 'private', HostToContainer: 'hostToContainer', Bidirectional: 'bidirectional' } as const;

/** An entry of `volumeMounts`; whether the volume exists is checked with the whole pod. */
export const decodeVolumeMount: Decoder<VolumeMountManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'VolumeMount', ['name', 'mountPath', 'readOnly', 'subPath', 'mountPropagation']);
  const mountPath = fields.required('mountPath', decodeAbsolutePath);
  if (mountPath === '/') throw invalidArgument(pathOf(path, 'mountPath'), 'must not be the root');
  return compact({
    name: fields.required('name', decodeDnsLabel),
    mountPath,
    readOnly: fields.withDefault('readOnly', decodeBoolean, false),
    subPath: fields.optional('subPath', (sub, subPath) => (sub === '' ? undefined : decodeRelativePath(sub, subPath))),
    propagation: propagations[fields.withDefault('mountPropagation', oneOf('propagation', ['None', 'HostToContainer', 'Bidirectional']), 'None')],
  });
};
