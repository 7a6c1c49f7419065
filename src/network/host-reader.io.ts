/** The host as the network sees it, always that of this process's network namespace. Changes nothing that lasts. */
import { createSocket } from 'node:dgram';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { errnoName } from '#core';
import { sctpTableHasPort } from './host-ports.ts';
import type { NetworkHostReader } from './types.ts';

/** Settles with what an attempt to bind came to, and lets go of the port. */
async function canBind(bind: (settle: { readonly done: () => void; readonly failed: (error: unknown) => void }) => void, close: (closed: () => void) => void): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  // An address that the host does not have, or a port that needs a privilege, is nobody's port.
  bind({ done: () => resolve(true), failed: (error) => resolve(errnoName(error) !== 'EADDRINUSE') });
  const isFree = await promise;
  const closed = Promise.withResolvers<void>();
  close(closed.resolve);
  await closed.promise;
  return isFree;
}

/**
 * A listener for an instant: the kernel itself says whether somebody else has the port. Reading /proc/net/tcp instead takes 15 ms,
 * as the kernel walks its whole table of connections.
 */
async function isTcpPortFree(port: number, host: string): Promise<boolean> {
  const server = createServer((socket) => socket.destroy());
  return canBind(
    ({ done, failed }) => server.once('error', failed).listen({ host, port, exclusive: true, backlog: 1 }, done),
    (closed) => server.close(() => closed()),
  );
}

async function isUdpPortFree(port: number, address: string): Promise<boolean> {
  const socket = createSocket('udp4');
  return canBind(
    ({ done, failed }) => socket.once('error', failed).bind({ address, port, exclusive: true }, done),
    (closed) => socket.close(closed),
  );
}

/** Node has no SCTP. Without the module there is no table, and no endpoint. */
function isSctpPortFree(hostPort: number, hostIp: string): boolean {
  const path = '/proc/self/net/sctp/eps';
  return !existsSync(path) || !sctpTableHasPort(readFileSync(path, 'latin1'), { hostPort, hostIp });
}

/** Reads the real host. */
export const networkHostReader: NetworkHostReader = {
  readIpForward: () => readFileSync('/proc/sys/net/ipv4/ip_forward', 'latin1'),
  // Unlike /sys/class/net, which shows the namespace of whoever mounted it.
  hasLink: (name) => existsSync(`/proc/sys/net/ipv4/conf/${name}`),
  async isPortFree({ protocol, hostPort, hostIp }) {
    switch (protocol) {
      case 'tcp':
        return isTcpPortFree(hostPort, hostIp);
      case 'udp':
        return isUdpPortFree(hostPort, hostIp);
      case 'sctp':
        return isSctpPortFree(hostPort, hostIp);
    }
  },
};
