/** Text of the files that a pod gives to its containers: hosts, resolv.conf. Pure. */
import { invalidArgument } from '#core';
import type { DnsConfig, PodSandboxConfig } from './types.ts';

/** Source: RFC 1123, a label; Linux takes 64. */
const hostnameCharactersMax = 63;

const token = /^[^\s#]+$/;

function checkToken(path: string, value: string): string {
  // A line break would forge further lines of the file.
  if (!token.test(value)) throw invalidArgument(path, `${JSON.stringify(value)} is not a single word`);
  return value;
}

/** `/etc/resolv.conf` of a pod: its own configuration, or the host's when it has none. */
export function encodeResolvConf(dns: DnsConfig): string {
  const lines = dns.servers.map((server, index) => `nameserver ${checkToken(`dnsConfig.servers[${index}]`, server)}`);
  if (dns.searches.length > 0) lines.unshift(`search ${dns.searches.map((search, index) => checkToken(`dnsConfig.searches[${index}]`, search)).join(' ')}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.map((option, index) => checkToken(`dnsConfig.options[${index}]`, option)).join(' ')}`);
  return lines.map((line) => `${line}\n`).join('');
}

/** The host's resolv.conf as a configuration; unknown lines are passed over. */
export function decodeResolvConf(text: string): DnsConfig {
  const words = text.split('\n').map((line) =>
    line
      .replace(/[#;].*/, '')
      .trim()
      .split(/\s+/),
  );
  const of = (keyword: string): string[][] => words.filter(([first]) => first === keyword).map((line) => line.slice(1));
  return {
    servers: of('nameserver').flatMap((line) => line.slice(0, 1)),
    searches: of('search').at(-1) ?? of('domain').at(-1) ?? [],
    options: of('options').flat(),
  };
}

/** Hostname of a pod that names none: its name, cut as the kubelet cuts it, since the kernel takes no longer one. Source: kubelet, truncatePodHostnameIfNeeded. */
export function defaultHostname(podName: string): string {
  return podName.slice(0, hostnameCharactersMax).replace(/[-.]+$/, '');
}

/** `/etc/hosts` of a pod: loopback names, its own address, and its aliases. With the host's network the host's file comes first. */
export function encodeHosts(config: PodSandboxConfig, hostname: string, ip: string | undefined, hostFile: string | undefined): string {
  // The name of a pod becomes its host name where none is given, and nobody has looked at it as a line of a file.
  checkToken('hostname', hostname);
  const own =
    hostFile ??
    [
      '127.0.0.1\tlocalhost',
      '::1\tlocalhost ip6-localhost ip6-loopback',
      'fe00::\tip6-localnet',
      'ff02::1\tip6-allnodes',
      'ff02::2\tip6-allrouters',
      ...(ip === undefined ? [] : [`${ip}\t${hostname}`]),
      '',
    ].join('\n');
  const aliases = config.hostAliases.map(({ ip: address, hostnames }, index) => {
    const names = hostnames.map((name, at) => checkToken(`hostAliases[${index}].hostnames[${at}]`, name));
    return `${checkToken(`hostAliases[${index}].ip`, address)}\t${names.join('\t')}\n`;
  });
  return `${own.endsWith('\n') ? own : `${own}\n`}${aliases.join('')}`;
}
