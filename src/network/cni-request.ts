/**
 * What a plugin is given: its environment and its standard input. In: a list, a pod, a command. Out: texts. Pure.
 * Source: the CNI specification 1.1.0, sections 2 and 4; its conventions document for the names of capabilities.
 */
import { invalidArgument } from '#core';
import { isVersionAtLeast } from './cni-config.ts';
import { decodeBitRate } from './cni-result.ts';
import type { CniConfigList, CniPlugin, CniPod, JsonObject } from './cni-types.ts';

/** Operations of the protocol. */
export type CniCommand = 'ADD' | 'DEL' | 'CHECK' | 'STATUS' | 'GC' | 'VERSION';

/** Where a plugin attaches whom. */
export interface CniTarget {
  readonly containerId: string;
  readonly netnsPath: string;
  readonly interfaceName: string;
  /** Value of CNI_ARGS. */
  readonly args: string;
}

/** Bits that may come at once; the plugin's greatest. Source: what other runtimes tell it, so that pods behave alike. */
const burstBits = 2 ** 32 - 1;
const [ingressAnnotation, egressAnnotation] = ['kubernetes.io/ingress-bandwidth', 'kubernetes.io/egress-bandwidth'];

/** CNI_ARGS of a pod. Throws invalidArgument for a value that would be read as several: the form knows no quoting. */
export function encodeCniArgs(pod: CniPod): string {
  const values = { K8S_POD_NAMESPACE: pod.namespace, K8S_POD_NAME: pod.name, K8S_POD_INFRA_CONTAINER_ID: pod.podId, K8S_POD_UID: pod.uid };
  const fields = { K8S_POD_NAMESPACE: 'metadata.namespace', K8S_POD_NAME: 'metadata.name', K8S_POD_INFRA_CONTAINER_ID: 'id', K8S_POD_UID: 'metadata.uid' } as const;
  for (const name of ['K8S_POD_NAMESPACE', 'K8S_POD_NAME', 'K8S_POD_INFRA_CONTAINER_ID', 'K8S_POD_UID'] as const) {
    if (/[;=\p{Cc}]/u.test(values[name])) throw invalidArgument(fields[name], 'must not have ";", "=" or control characters: network plugins are told it');
  }
  return ['IgnoreUnknown=1', ...Object.entries(values).map(([name, value]) => `${name}=${value}`)].join(';');
}

function bandwidthOf(annotations: Readonly<Record<string, string>>): JsonObject | undefined {
  const [ingress, egress] = [annotations[ingressAnnotation], annotations[egressAnnotation]];
  if (ingress === undefined && egress === undefined) return undefined;
  return {
    ...(ingress === undefined ? {} : { ingressRate: decodeBitRate(`annotations[${ingressAnnotation}]`, ingress), ingressBurst: burstBits }),
    ...(egress === undefined ? {} : { egressRate: decodeBitRate(`annotations[${egressAnnotation}]`, egress), egressBurst: burstBits }),
  };
}

/** Everything that a pod's plugins may ask for by capability. `podCidrs`: what UpdateRuntimeConfig told. */
export function capabilityArgsOf(pod: CniPod, podCidrs: readonly string[]): JsonObject {
  const ports = pod.portMappings.filter(({ hostPort }) => hostPort !== 0);
  const bandwidth = bandwidthOf(pod.annotations);
  const { dns } = pod;
  return {
    ...(ports.length === 0
      ? {}
      : {
          portMappings: ports.map(({ protocol, containerPort, hostPort, hostIp }) => ({
            hostPort,
            containerPort,
            protocol,
            ...(hostIp === undefined || hostIp === '' ? {} : { hostIP: hostIp }),
          })),
        }),
    ...(bandwidth === undefined ? {} : { bandwidth }),
    ...(dns === undefined ? {} : { dns: { servers: dns.servers, searches: dns.searches, options: dns.options } }),
    // One set of ranges per family, of which each gives the pod an address.
    ...(podCidrs.length === 0 ? {} : { ipRanges: podCidrs.map((subnet) => [{ subnet }]) }),
    ...(pod.cgroupPath === '' ? {} : { cgroupPath: pod.cgroupPath }),
    ...(Object.keys(pod.annotations).length === 0 ? {} : { 'io.kubernetes.cri.pod-annotations': pod.annotations }),
  };
}

/** Standard input of a plugin: its configuration but for `capabilities`, which is said to the runtime. `extra` is what the command adds, such as `prevResult`. */
export function encodePluginConfig(list: CniConfigList, plugin: CniPlugin, extra: { readonly capabilityArgs?: JsonObject; readonly more?: JsonObject }): Buffer {
  const { capabilityArgs = {}, more = {} } = extra;
  const { capabilities: _forUs, ...config } = plugin.config;
  const wanted = plugin.capabilities.filter((name) => Object.hasOwn(capabilityArgs, name)).map((name) => [name, capabilityArgs[name]] as const);
  return Buffer.from(
    JSON.stringify({
      ...config,
      name: list.name,
      cniVersion: list.cniVersions[0],
      ...(wanted.length === 0 ? {} : { runtimeConfig: Object.fromEntries(wanted) }),
      ...more,
    }),
  );
}

/** A result of an earlier plugin or an earlier call, where the list's version has it: for DEL since 0.4.0, for ADD always. */
export function prevResultFor(command: CniCommand, list: CniConfigList, result: JsonObject | undefined): JsonObject {
  if (result === undefined) return {};
  return command === 'ADD' || isVersionAtLeast(list.cniVersions[0] ?? '', '0.4.0') ? { prevResult: result } : {};
}

/** Environment of a plugin. Nothing of the engine's own reaches it but `searchPath`, by which it finds iptables and the like. */
export function pluginEnvironment(
  command: CniCommand,
  { target, binDirs, searchPath }: { readonly target?: CniTarget; readonly binDirs: readonly string[]; readonly searchPath: string },
): Readonly<Record<string, string>> {
  return {
    CNI_COMMAND: command,
    CNI_PATH: binDirs.join(':'),
    PATH: searchPath,
    ...(target === undefined ? {} : { CNI_CONTAINERID: target.containerId, CNI_NETNS: target.netnsPath, CNI_IFNAME: target.interfaceName, CNI_ARGS: target.args }),
  };
}
