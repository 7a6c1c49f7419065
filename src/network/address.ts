/** IPv4 addresses and networks as data. Pure: text in, numbers out, and back. */
import { invalidArgument } from '#core';

/** An IPv4 network. Numbers are the address read as one big-endian 32-bit number. */
export interface Subnet {
  readonly text: string;
  readonly network: number;
  readonly prefixLength: number;
  /** Addresses in it, with the network's and the broadcast address. */
  readonly size: number;
}

/** Larger networks would not fit the interface indexes that are derived from an address; smaller ones hold no pod. */
const prefixLengthMin = 12;
const prefixLengthMax = 30;

const octet = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const addressPattern = new RegExp(`^${octet}\\.${octet}\\.${octet}\\.${octet}$`);

/** The address as a number, or undefined where the text is not a dotted quad without leading zeros. */
export function parseIpv4(text: string): number | undefined {
  const match = addressPattern.exec(text);
  return match === null ? undefined : match.slice(1).reduce((sum, part) => sum * 256 + Number(part), 0);
}

/** Dotted quad. */
export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

/** Four bytes in network order. */
export function ipv4Bytes(address: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(address >>> 0);
  return bytes;
}

/** The netmask of a prefix length of 1 to 32 as a number. */
export const netmask = (prefixLength: number): number => (0xffffffff << (32 - prefixLength)) >>> 0;

/**
 * The text, such as `10.88.0.0/16`, as a network. Throws invalidArgument with `path` in front where it is none, has host bits set,
 * is too large or too small, or is not of unicast addresses that may leave a host (RFC 1122, 3.2.1.3).
 */
export function parseSubnet(path: string, text: string): Subnet {
  const [addressText = '', prefixText = '', ...rest] = text.split('/');
  const network = parseIpv4(addressText);
  if (network === undefined || !/^\d{1,2}$/.test(prefixText) || rest.length > 0)
    throw invalidArgument(path, `${JSON.stringify(text.slice(0, 80))} is not an IPv4 network such as 10.88.0.0/16`);
  const prefixLength = Number(prefixText);
  if (prefixLength < prefixLengthMin || prefixLength > prefixLengthMax)
    throw invalidArgument(path, `prefix length ${prefixText} is not between ${prefixLengthMin} and ${prefixLengthMax}`);
  const firstOctet = network >>> 24;
  if (firstOctet === 0 || firstOctet === 127 || firstOctet >= 224) throw invalidArgument(path, `${text} is not a network of unicast addresses`);
  const masked = (network & netmask(prefixLength)) >>> 0;
  if (masked !== network) throw invalidArgument(path, `${text} has host bits set, the network is ${formatIpv4(masked)}/${prefixLength}`);
  return { text: `${formatIpv4(network)}/${prefixLength}`, network, prefixLength, size: 2 ** (32 - prefixLength) };
}
