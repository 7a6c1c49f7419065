/** TCP ports of this machine. In: an address and a port. Out: connections, half-closable in both directions. It speaks no protocol. */
import { type Socket, createServer, isIPv6 } from 'node:net';
import { wrapError } from '#core';
import type { CliDependencies, ForwardConnection } from './dependencies.ts';

/** Listens; the connections are the listener's, and closing it cuts them. */
export const listenOnPort: CliDependencies['listenOnPort'] = async ({ address, port }, onConnection) => {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    onConnection(connectionOf(socket));
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen({ host: address, port }, resolve);
  await promise.catch((error: unknown) => {
    throw wrapError(`listen on ${address} port ${port}`, error);
  });
  server.off('error', reject);
  // An accept that fails later concerns that client only.
  server.on('error', () => undefined);
  const bound = server.address();
  const boundPort = typeof bound === 'object' && bound !== null ? bound.port : port;
  return {
    address: `${isIPv6(address) ? `[${address}]` : address}:${boundPort}`,
    async close() {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      for (const socket of sockets) socket.destroy();
      await closed.promise;
    },
  };
};

function connectionOf(socket: Socket): ForwardConnection {
  // Errors reach the reader and the writer; without a listener they would end the process.
  socket.on('error', () => undefined);
  const written = async (write: (done: (error?: Error | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => write((error) => (error === undefined || error === null ? resolve() : reject(wrapError('write to the connection', error)))));
  return {
    async *read() {
      // SAFETY: a socket without an encoding yields Buffers; Readable's iterator is typed as any.
      for await (const piece of socket.iterator({ destroyOnReturn: false })) yield piece as Buffer;
    },
    write: async (data) => written((done) => socket.write(data, done)),
    end: async () => written((done) => socket.end(done)),
    destroy: () => void socket.destroy(),
    isClosed: () => socket.destroyed,
  };
}
