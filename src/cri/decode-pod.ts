/** PodSandboxConfig messages → the engine's pod configuration. Errors are invalidArgument or unimplemented with the request's path. Pure. */
import type {
  DNSConfig,
  LinuxSandboxSecurityContext,
  PodSandboxConfig as PodSandboxConfigMessage,
  PodSandboxFilter,
  PodSandboxMetadata,
  PortMapping as PortMappingMessage,
} from '#gen/cri-v1_pb.js';
import { PodSandboxState, Protocol } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { DnsConfig, PodFilter, PodMetadata, PodSandboxConfig, PodSandboxSecurity, PortMapping } from '#pod';
import {
  decodeMap,
  decodeNamespaceOptions,
  decodeOptionalUserId,
  decodeResources,
  decodeSeccomp,
  decodeSupplementalGroups,
  decodeText,
  requireAbsolutePath,
  requireText,
} from './decode-common.ts';
import { decodeApparmor, decodeSelinux } from './decode-labels.ts';

/** The configuration at `path`, such as `config`. */
export function decodePodSandboxConfig(path: string, message: PodSandboxConfigMessage | undefined): PodSandboxConfig {
  if (message === undefined) throw invalidArgument(path, 'required');
  if (message.windows !== undefined) throw invalidArgument(`${path}.windows`, 'not on Linux');
  const linux = message.linux;
  const dns = decodeDns(`${path}.dns_config`, message.dnsConfig);
  const resources = decodeResources(`${path}.linux.resources`, linux?.resources);
  const overhead = decodeResources(`${path}.linux.overhead`, linux?.overhead);
  return {
    metadata: decodePodMetadata(`${path}.metadata`, message.metadata),
    hostname: decodeText(`${path}.hostname`, message.hostname),
    logDirectory: message.logDirectory === '' ? '' : requireAbsolutePath(`${path}.log_directory`, message.logDirectory),
    ...(dns === undefined ? {} : { dns }),
    portMappings: message.portMappings.map((mapping, index) => decodePortMapping(`${path}.port_mappings[${index}]`, mapping)),
    // The kubelet writes the hosts file itself and mounts it into containers.
    hostAliases: [],
    labels: decodeMap(`${path}.labels`, message.labels),
    annotations: decodeMap(`${path}.annotations`, message.annotations),
    cgroupParent: decodeCgroupParent(`${path}.linux.cgroup_parent`, linux?.cgroupParent ?? ''),
    sysctls: decodeMap(`${path}.linux.sysctls`, linux?.sysctls ?? {}),
    security: decodePodSecurity(`${path}.linux.security_context`, linux?.securityContext),
    ...(resources === undefined ? {} : { resources }),
    ...(overhead === undefined ? {} : { overhead }),
  };
}

/** A path below every hierarchy's root, as the cgroupfs driver of a kubelet names it. */
function decodeCgroupParent(path: string, text: string): string {
  if (text === '') return '';
  const parent = requireAbsolutePath(path, text);
  const parts = parent.split('/').filter((part) => part !== '');
  if (parts.length === 0 || parts.some((part) => part === '.' || part === '..'))
    throw invalidArgument(path, `must name a group below the root, not ${JSON.stringify(text.slice(0, 200))}`);
  return parent;
}

function decodePodMetadata(path: string, metadata: PodSandboxMetadata | undefined): PodMetadata {
  if (metadata === undefined) throw invalidArgument(path, 'required');
  return {
    name: requireText(`${path}.name`, metadata.name),
    uid: requireText(`${path}.uid`, metadata.uid),
    namespace: requireText(`${path}.namespace`, metadata.namespace),
    attempt: metadata.attempt,
  };
}

function decodeDns(path: string, dns: DNSConfig | undefined): DnsConfig | undefined {
  if (dns === undefined) return undefined;
  // Lines of resolv.conf are built from these, so that a line break would add a line of its own.
  const list = (name: string, values: readonly string[]): string[] =>
    values.map((value, index) => {
      if (/[\r\n]/.test(value)) throw invalidArgument(`${path}.${name}[${index}]`, 'must not contain a line break');
      return requireText(`${path}.${name}[${index}]`, value);
    });
  return { servers: list('servers', dns.servers), searches: list('searches', dns.searches), options: list('options', dns.options) };
}

const protocols = new Map<Protocol, PortMapping['protocol']>([
  [Protocol.TCP, 'tcp'],
  [Protocol.UDP, 'udp'],
  [Protocol.SCTP, 'sctp'],
]);

function decodePortMapping(path: string, mapping: PortMappingMessage): PortMapping {
  const protocol = protocols.get(mapping.protocol);
  if (protocol === undefined) throw invalidArgument(`${path}.protocol`, `unknown value ${String(mapping.protocol)}`);
  return {
    protocol,
    containerPort: decodePort(`${path}.container_port`, mapping.containerPort, 1),
    hostPort: decodePort(`${path}.host_port`, mapping.hostPort, 0),
    ...(mapping.hostIp === '' ? {} : { hostIp: decodeText(`${path}.host_ip`, mapping.hostIp) }),
  };
}

function decodePort(path: string, value: number, min: number): number {
  if (value < min || value > 65_535) throw invalidArgument(path, `must be ${min} to 65535, not ${value}`);
  return value;
}

function decodePodSecurity(path: string, context: LinuxSandboxSecurityContext | undefined): PodSandboxSecurity {
  const selinux = decodeSelinux(`${path}.selinux_options`, context?.selinuxOptions);
  const apparmor = decodeApparmor(path, context?.apparmor, '');
  const runAsUser = decodeOptionalUserId(`${path}.run_as_user`, context?.runAsUser);
  const runAsGroup = decodeOptionalUserId(`${path}.run_as_group`, context?.runAsGroup);
  if (runAsGroup !== undefined && runAsUser === undefined) throw invalidArgument(`${path}.run_as_group`, 'needs run_as_user');
  const seccomp = decodeSeccomp(path, context?.seccomp, context?.seccompProfilePath ?? '');
  return {
    namespaces: decodeNamespaceOptions(`${path}.namespace_options`, context?.namespaceOptions, 'pod'),
    ...(runAsUser === undefined ? {} : { runAsUser }),
    ...(runAsGroup === undefined ? {} : { runAsGroup }),
    readonlyRootfs: context?.readonlyRootfs ?? false,
    supplementalGroups: decodeSupplementalGroups(`${path}.supplemental_groups`, context?.supplementalGroups ?? []),
    privileged: context?.privileged ?? false,
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(apparmor === undefined ? {} : { apparmor }),
    ...(selinux === undefined ? {} : { selinux }),
  };
}

const podStates = new Map<PodSandboxState, 'ready' | 'notReady'>([
  [PodSandboxState.SANDBOX_READY, 'ready'],
  [PodSandboxState.SANDBOX_NOTREADY, 'notReady'],
]);

/** The filter at `path`; an absent one matches everything. */
export function decodePodFilter(path: string, filter: PodSandboxFilter | undefined): PodFilter {
  if (filter === undefined) return {};
  const state = filter.state === undefined ? undefined : podStates.get(filter.state.state);
  if (filter.state !== undefined && state === undefined) throw invalidArgument(`${path}.state`, `unknown value ${String(filter.state.state)}`);
  return {
    ...(filter.id === '' ? {} : { id: filter.id }),
    ...(state === undefined ? {} : { state }),
    ...(Object.keys(filter.labelSelector).length === 0 ? {} : { labels: { ...filter.labelSelector } }),
  };
}
