/** Which SCTP ports of the host are bound, from /proc/net/sctp/eps. Pure: text in, answer out. Layout: net/sctp/proc.c of Linux. */

/** True where an endpoint is bound to the port at the address or at all addresses, or where `hostIp` is `0.0.0.0`. */
export function sctpTableHasPort(table: string, port: { readonly hostPort: number; readonly hostIp: string }): boolean {
  return table
    .split('\n')
    .slice(1)
    .some((line) => {
      const [, , , , , localPort, , , ...addresses] = line.trim().split(/\s+/);
      return Number(localPort) === port.hostPort && (port.hostIp === '0.0.0.0' || addresses.includes('0.0.0.0') || addresses.includes(port.hostIp));
    });
}
