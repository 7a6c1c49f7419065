/**
 * What plugins print. In: standard output of a plugin, which is a stranger's text. Out: results, errors and versions, bounded and printable. Pure.
 * Source: the CNI specification 1.1.0, section 5, "Result types".
 */
import { RuntimeError, invalidArgument } from '#core';
import { parseIpv4 } from './address.ts';
import { isObject } from './cni-config.ts';
import type { JsonObject } from './cni-types.ts';

/** Characters of a plugin's own words in an error or a condition. */
const wordsLengthMax = 600;

/** A stranger's text as part of a message: one line, no control characters, bounded. */
export function printable(text: string): string {
  const line = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ').trim();
  return line.length > wordsLengthMax ? `${line.slice(0, wordsLengthMax)}…` : line;
}

/** Undefined where the text is no JSON object. */
export function parseObject(text: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Numbers of the specification's well-known errors that say something about readiness or about trying again. */
export const cniErrorCodes = { tryAgainLater: 11, notAvailable: 50, limitedConnectivity: 51 } as const;

/** Why a plugin failed, in its own words: its error object, else the end of what it printed. */
export function describePluginFailure({ stdout, stderr, exitCode }: { readonly stdout: string; readonly stderr: string; readonly exitCode: number }): string {
  const error = parseObject(stdout);
  const [message, details] = [error?.['msg'], error?.['details']];
  if (typeof message === 'string' && message !== '') return printable(typeof details === 'string' && details !== '' ? `${message}; ${details}` : message);
  const words = printable((stderr.trim() === '' ? stdout : stderr).trim().slice(-wordsLengthMax));
  return words === '' ? `exit code ${exitCode}` : `exit code ${exitCode}: ${words}`;
}

/** The object that ADD printed. Throws internal where it is none. */
export function decodeAddResult(stdout: string): JsonObject {
  const result = parseObject(stdout);
  if (result === undefined)
    throw new RuntimeError('internal', stdout.trim() === '' ? 'printed no result' : `printed no result but ${JSON.stringify(printable(stdout).slice(0, 120))}`);
  if (result['ips'] !== undefined && !Array.isArray(result['ips'])) throw new RuntimeError('internal', 'printed a result whose ips are no list');
  if (result['interfaces'] !== undefined && !Array.isArray(result['interfaces'])) throw new RuntimeError('internal', 'printed a result whose interfaces are no list');
  return result;
}

/** Versions that VERSION printed. Throws internal where it printed none. */
export function decodeVersionResult(stdout: string): string[] {
  const supported = parseObject(stdout)?.['supportedVersions'];
  if (!Array.isArray(supported) || supported.length > 100) throw new RuntimeError('internal', 'printed no supported versions');
  return supported.filter((version) => typeof version === 'string' && /^\d+\.\d+\.\d+$/.test(version)).map(String);
}

/** True for an IPv4 or IPv6 address in text form, without prefix or zone. */
export function isIpAddress(text: string): boolean {
  if (parseIpv4(text) !== undefined) return true;
  if (!/^[0-9a-fA-F:.]{2,45}$/.test(text) || !text.includes(':')) return false;
  // The URL standard's own parser of IPv6 addresses.
  return URL.canParse(`http://[${text}]/`);
}

/**
 * Addresses of the pod in a result: those of its interface, else all that belong to no other. IPv4 comes first, as the kubelet's primary
 * address does by default; else the plugins' order stays. Throws internal for one that is none.
 */
export function podAddresses(result: JsonObject, interfaceName: string): string[] {
  const interfaces = Array.isArray(result['interfaces']) ? result['interfaces'] : [];
  const ips = Array.isArray(result['ips']) ? result['ips'] : [];
  const all = ips.map((entry, index): { readonly address: string; readonly isPods: boolean; readonly isAnybodys: boolean } => {
    const text = isObject(entry) ? entry['address'] : undefined;
    const address = typeof text === 'string' ? text.replace(/\/\d{1,3}$/, '') : '';
    if (!isIpAddress(address)) throw new RuntimeError('internal', `ips[${index}].address: ${JSON.stringify(typeof text === 'string' ? text.slice(0, 80) : null)} is no address`);
    const at: unknown = isObject(entry) && typeof entry['interface'] === 'number' ? interfaces[entry['interface']] : undefined;
    const isInside = isObject(at) && typeof at['sandbox'] === 'string' && at['sandbox'] !== '';
    return { address, isPods: isInside && isObject(at) && at['name'] === interfaceName, isAnybodys: at === undefined || isInside };
  });
  const own = all.some(({ isPods }) => isPods) ? all.filter(({ isPods }) => isPods) : all.filter(({ isAnybodys }) => isAnybodys);
  const isIpv4 = (address: string): boolean => !address.includes(':');
  const addresses = own.map(({ address }) => address);
  return [...addresses.filter(isIpv4), ...addresses.filter((address) => !isIpv4(address))];
}

/** The host's end of the pod's link, where the result has exactly one that is called as plugins call theirs; for counters of pods without processes. */
export function hostEndOf(result: JsonObject): string | undefined {
  const interfaces: readonly unknown[] = Array.isArray(result['interfaces']) ? result['interfaces'] : [];
  const names = interfaces.flatMap((entry) => {
    const isOutside = isObject(entry) && (entry['sandbox'] === undefined || entry['sandbox'] === '');
    return isOutside && typeof entry['name'] === 'string' && /^veth[a-z0-9]{1,11}$/i.test(entry['name']) ? [entry['name']] : [];
  });
  return names.length === 1 ? names[0] : undefined;
}

const multipliers: Readonly<Record<string, bigint>> = {
  m: 1n,
  '': 1000n,
  k: 10n ** 6n,
  M: 10n ** 9n,
  G: 10n ** 12n,
  T: 10n ** 15n,
  P: 10n ** 18n,
  Ki: 1000n * 2n ** 10n,
  Mi: 1000n * 2n ** 20n,
  Gi: 1000n * 2n ** 30n,
  Ti: 1000n * 2n ** 40n,
  Pi: 1000n * 2n ** 50n,
};
/** Rates that the kubelet calls reasonable, in bits per second. Source: Kubernetes, pkg/util/bandwidth. */
const [rateMin, rateMax] = [10n ** 3n, 10n ** 15n];

/** Bits per second of an annotation such as `10M`. Throws invalidArgument with `name`. */
export function decodeBitRate(name: string, text: string): number {
  const [, whole = '', fraction = '', suffix = ''] = /^(\d{1,20})(?:\.(\d{1,9}))?([kMGTP]i?|Ki|m)?$/.exec(text) ?? [];
  const multiplier = multipliers[suffix];
  if (whole === '' || multiplier === undefined) throw invalidArgument(name, `${JSON.stringify(text.slice(0, 80))} is no quantity, such as 10M`);
  const rate = (BigInt(`${whole}${fraction}`) * multiplier) / (1000n * 10n ** BigInt(fraction.length));
  if (rate < rateMin || rate > rateMax) throw invalidArgument(name, `${JSON.stringify(text.slice(0, 80))} is not between 1k and 1P bits per second`);
  return Number(rate);
}
