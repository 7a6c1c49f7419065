/** Ways to a registry as plain data: without configuration, and without its mirrors. Pure. */
import { registryEndpoint } from './protocol.ts';
import type { ProxySettings, RegistryAccess, RegistryAuth, RegistryHost } from './types.ts';

/** The registry itself as a host: https, or plain http for loopback names; everything allowed, certificates verified. */
export function directHost(registry: string): RegistryHost {
  return {
    url: new URL('v2/', registryEndpoint(registry)).href,
    capabilities: ['pull', 'resolve', 'push'],
    headers: {},
    clientCertificates: [],
    skipVerify: false,
    isUpstream: true,
  };
}

/** Access to a repository at its registry only. `proxy` defaults to none. */
export function directAccess(registry: string, repository: string, auth?: RegistryAuth, proxy: ProxySettings = {}): RegistryAccess {
  return { registry, repository, hosts: [directHost(registry)], proxy, ...(auth === undefined ? {} : { auth }) };
}

/** The same access without mirrors: for content that one of them got wrong. Unchanged where the registry itself is not among the hosts. */
export function upstreamOnly(access: RegistryAccess): RegistryAccess {
  const hosts = access.hosts.filter(({ isUpstream }) => isUpstream);
  return hosts.length === 0 ? access : { ...access, hosts };
}
