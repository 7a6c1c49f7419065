/** Which ports of the host are bound, from the socket tables in /proc/net. Pure: text in, answers out. Layout: proc(5). */
import { formatIpv4 } from './address.ts';
import type { TransportProtocol } from './types.ts';

/** TCP_LISTEN. UDP sockets that wait for anybody are in TCP_CLOSE. */
const states: Readonly<Record<'tcp' | 'udp', string>> = { tcp: '0A', udp: '07' };
const anyIpv6 = '0'.repeat(32);
const mappedIpv4Prefix = '0000000000000000FFFF0000';

/** IPv4 address of a socket table's hexadecimal one, `0.0.0.0` for both wildcards, undefined for another IPv6 address. */
function decodeAddress(hexAddress: string): string | undefined {
  if (hexAddress === anyIpv6) return '0.0.0.0';
  const last = hexAddress.length === 8 ? hexAddress : hexAddress.startsWith(mappedIpv4Prefix) ? hexAddress.slice(24) : undefined;
  // The kernel prints the four bytes as one number of the machine's order.
  return last === undefined ? undefined : formatIpv4(Buffer.from(last, 'hex').reverse().readUInt32BE(0));
}

/** True where a socket of this table (tcp, tcp6, udp or udp6) is bound to the port at the address, or at all addresses, or where `hostIp` means all. */
export function tableHasPort(table: string, port: { readonly protocol: Exclude<TransportProtocol, 'sctp'>; readonly hostPort: number; readonly hostIp: string }): boolean {
  return table
    .split('\n')
    .slice(1)
    .some((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/);
      const [hexAddress = '', hexPort = ''] = local.split(':');
      if (state !== states[port.protocol] || Number.parseInt(hexPort, 16) !== port.hostPort) return false;
      const address = decodeAddress(hexAddress);
      return address !== undefined && (address === '0.0.0.0' || port.hostIp === '0.0.0.0' || address === port.hostIp);
    });
}

/** The same for /proc/net/sctp/eps, whose column LPORT is the port and whose addresses follow it. */
export function sctpTableHasPort(table: string, port: { readonly hostPort: number; readonly hostIp: string }): boolean {
  return table
    .split('\n')
    .slice(1)
    .some((line) => {
      const [, , , , , localPort, , , ...addresses] = line.trim().split(/\s+/);
      return Number(localPort) === port.hostPort && (port.hostIp === '0.0.0.0' || addresses.includes('0.0.0.0') || addresses.includes(port.hostIp));
    });
}
