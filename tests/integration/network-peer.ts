/**
 * A process that speaks and listens in the network namespace it was started in, told what to do over Node's own channel.
 * In: `PeerRequest`. Out: `PeerReply`, one for each. Listeners answer every client with the address that they see it by.
 */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';

export type PeerRequest =
  | { readonly id: number; readonly kind: 'listen'; readonly protocol: 'tcp' | 'udp'; readonly host: string; readonly port: number; readonly name: string }
  | { readonly id: number; readonly kind: 'ask'; readonly protocol: 'tcp' | 'udp'; readonly host: string; readonly port: number; readonly timeoutMs: number };

/** `text`: what a listener answered, `listening`, or `failed: CODE`. */
export interface PeerReply {
  readonly id: number;
  readonly text: string;
}

const failed = (error: Error): string => `failed: ${'code' in error ? String(error.code) : error.message}`;

async function listen({ protocol, host, port, name }: Extract<PeerRequest, { kind: 'listen' }>): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  if (protocol === 'udp') {
    const socket: DatagramSocket = createSocket('udp4', (_message, from) => socket.send(`${name} sees ${from.address}`, from.port, from.address));
    socket.once('error', (error) => resolve(failed(error)));
    socket.bind(port, host, () => resolve('listening'));
  } else {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.end(`${name} sees ${socket.remoteAddress}`);
    });
    server.once('error', (error) => resolve(failed(error)));
    server.listen(port, host, () => resolve('listening'));
  }
  return promise;
}

async function askTcp(host: string, port: number, timeoutMs: number): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let text = '';
  const socket = connect({ host, port });
  socket.setEncoding('utf8').on('data', (part: string) => void (text += part));
  socket.once('end', () => resolve(text)).once('error', (error) => resolve(failed(error)));
  const timer = setTimeout(() => resolve('failed: timed out'), timeoutMs);
  const answer = await promise;
  clearTimeout(timer);
  socket.destroy();
  return answer;
}

async function askUdp(host: string, port: number, timeoutMs: number): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = createSocket('udp4', (message) => resolve(message.toString()));
  socket.once('error', (error) => resolve(failed(error)));
  socket.connect(port, host, () => socket.send('?'));
  const timer = setTimeout(() => resolve('failed: timed out'), timeoutMs);
  const answer = await promise;
  clearTimeout(timer);
  socket.close();
  return answer;
}

process.on('message', (request: PeerRequest) => {
  const answer =
    request.kind === 'listen'
      ? listen(request)
      : request.protocol === 'udp'
        ? askUdp(request.host, request.port, request.timeoutMs)
        : askTcp(request.host, request.port, request.timeoutMs);
  void answer.then((text) => process.send?.({ id: request.id, text } satisfies PeerReply));
});
process.on('disconnect', () => process.exit(0));
