/** The host as the network sees it, from procfs, which answers for the network namespace of this process. Writes nothing. */
import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { errnoName, wrapError } from '#core';
import { sctpTableHasPort, tableHasPort } from './host-ports.ts';
import type { NetworkHostReader } from './types.ts';

/** A protocol without its module has no table, and no sockets. */
async function readTable(name: string): Promise<string> {
  try {
    return await readFile(`/proc/self/net/${name}`, 'latin1');
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return '';
    throw wrapError(`read socket table ${name}`, error);
  }
}

/** Reads the real host. */
export const networkHostReader: NetworkHostReader = {
  readIpForward: () => readFileSync('/proc/sys/net/ipv4/ip_forward', 'latin1'),
  // Unlike /sys/class/net, which shows the namespace of whoever mounted it.
  hasLink: (name) => existsSync(`/proc/sys/net/ipv4/conf/${name}`),
  async isPortFree({ protocol, hostPort, hostIp }) {
    if (protocol === 'sctp') return !sctpTableHasPort(await readTable('sctp/eps'), { hostPort, hostIp });
    const tables = await Promise.all([readTable(protocol), readTable(`${protocol}6`)]);
    return !tables.some((table) => tableHasPort(table, { protocol, hostPort, hostIp }));
  },
};
