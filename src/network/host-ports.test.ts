/** The table of SCTP endpoints as the kernel prints it, and what it says of a port. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sctpTableHasPort } from './host-ports.ts';

test('an SCTP endpoint has its port on its addresses', () => {
  const eps = ' ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n ffff ffff 2 10 29 5000 0 1234 127.0.0.1 10.0.0.5\n ffff ffff 2 10 29 5001 0 1235 0.0.0.0\n';
  const hasPort = (hostPort: number, hostIp: string): boolean => sctpTableHasPort(eps, { hostPort, hostIp });
  assert.deepEqual(
    [hasPort(5000, '0.0.0.0'), hasPort(5000, '10.0.0.5'), hasPort(5000, '10.0.0.6'), hasPort(5001, '10.0.0.6'), hasPort(5002, '0.0.0.0')],
    [true, true, false, true, false],
  );
});

test('without endpoints, and without the module, every port is free', () => {
  for (const table of ['', ' ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n']) assert.equal(sctpTableHasPort(table, { hostPort: 0, hostIp: '0.0.0.0' }), false);
});
