/** Socket tables as the kernel prints them, and what they say of a port. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sctpTableHasPort, tableHasPort } from './host-ports.ts';

const heading = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
const rest = '00000000:00000000 00:00000000 00000000     0        0 1586 1';
const tcp = `${heading}   0: 00000000:1F90 00000000:0000 0A ${rest}\n   1: 0100007F:1F91 00000000:0000 0A ${rest}\n   2: 020200C0:1F92 507100CB:01BB 01 ${rest}\n`;
const tcp6 = `${heading}   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A ${rest}\n   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A ${rest}\n   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A ${rest}\n`;

test('a listener on all addresses has the port of every address', () => {
  assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8080, hostIp: '0.0.0.0' }), true);
  assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8080, hostIp: '192.0.2.1' }), true);
});

test('a listener on one address leaves the other addresses free, but not all of them', () => {
  assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8081, hostIp: '192.0.2.1' }), false);
  assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8081, hostIp: '127.0.0.1' }), true);
  assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8081, hostIp: '0.0.0.0' }), true);
});

test('a connection is no listener', () => assert.equal(tableHasPort(tcp, { protocol: 'tcp', hostPort: 8082, hostIp: '0.0.0.0' }), false));

test('an IPv6 wildcard listens for IPv4 too, an IPv6 address does not, a mapped one does', () => {
  const hasPort = (hostPort: number): boolean => tableHasPort(tcp6, { protocol: 'tcp', hostPort, hostIp: '0.0.0.0' });
  assert.deepEqual([80, 81, 82].map(hasPort), [true, false, true]);
});

test('a bound UDP socket has its port, a connected one has not', () => {
  const udp = `${heading}   0: 00000000:0035 00000000:0000 07 ${rest}\n   1: 00000000:0036 0100007F:0001 01 ${rest}\n`;
  assert.deepEqual(
    [53, 54].map((hostPort) => tableHasPort(udp, { protocol: 'udp', hostPort, hostIp: '0.0.0.0' })),
    [true, false],
  );
});

test('an SCTP endpoint has its port on its addresses', () => {
  const eps = ' ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n ffff ffff 2 10 29 5000 0 1234 127.0.0.1 10.0.0.5\n';
  const hasPort = (hostPort: number, hostIp: string): boolean => sctpTableHasPort(eps, { hostPort, hostIp });
  assert.deepEqual([hasPort(5000, '0.0.0.0'), hasPort(5000, '10.0.0.5'), hasPort(5000, '10.0.0.6'), hasPort(5001, '0.0.0.0')], [true, true, false, false]);
});
