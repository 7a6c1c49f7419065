/**
 * From an upgraded connection to a served request. In: a byte stream or a WebSocket, and what its URL stands for. Out: the request served to its
 * end. The server's sockets, tokens and time-outs are elsewhere.
 */
import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { type Clock, RuntimeError } from '#core';
import { ForwardPairs, serveForward } from './port-forward.ts';
import { type CommandProtocol, type CommandStream, type WebSocketProtocol, commandChannels, expectedStreams } from './protocols.ts';
import { serveCommand } from './remote-command.ts';
import { SpdyConnection } from './spdy-connection.ts';
import type { AttachTarget, ExecTarget, PortForwardTarget, StreamBackend, StreamChannel, StreamProcess, StreamSession } from './types.ts';
import { WebSocketChannels } from './websocket-channels.ts';

/** What every session is served with. */
export interface SessionContext {
  readonly backend: StreamBackend;
  readonly clock: Clock;
  readonly creationTimeoutMs: number;
  /** Something came or went. */
  readonly onActivity: () => void;
  /** The session, once there is one that can be aborted. */
  readonly onSession: (session: StreamSession) => void;
}

const failures = { exec: 'error executing command in container', attach: 'error attaching to container' } as const;

function opener(target: ExecTarget | AttachTarget, backend: StreamBackend): () => Promise<StreamProcess> {
  return async () => (target.kind === 'exec' ? backend.exec(target) : backend.attach(target));
}

/** A remote command over SPDY: it begins once the client has opened all of its streams. Rejects with why the connection was cut. */
export async function serveSpdyCommand(duplex: Duplex, target: ExecTarget | AttachTarget, protocol: CommandProtocol, context: SessionContext): Promise<void> {
  const expected = expectedStreams(target, protocol);
  const opened = new Map<string, StreamChannel>();
  let served: Promise<void> | undefined;
  const connection = new SpdyConnection({
    duplex,
    clock: context.clock,
    onActivity: context.onActivity,
    onStream: (stream) => {
      const type = stream.headers.get('streamtype') ?? '';
      if (!expected.some((name) => name === type) || opened.has(type)) throw new RuntimeError('invalidArgument', 'open a stream: not one of this request');
      opened.set(type, stream);
      const error = opened.get('error');
      if (opened.size < expected.length || error === undefined) return;
      const channels = { ...Object.fromEntries(opened), error };
      served = serveCommand({ session: connection, channels, format: protocol.format, failure: failures[target.kind], open: opener(target, context.backend) });
    },
  });
  context.onSession(connection);
  void abortUnless(() => served !== undefined, connection, context);
  const cause = await connection.run();
  await served;
  if (cause !== undefined) throw cause;
}

/** A client that does not open its streams in time is cut off. */
async function abortUnless(isServed: () => boolean, session: StreamSession, { clock, creationTimeoutMs }: SessionContext): Promise<void> {
  await clock.sleep(creationTimeoutMs, session.ended).catch(() => undefined);
  if (!isServed()) session.abort();
}

/** Forwarded connections over SPDY, until the client goes. Rejects with why the connection was cut. */
export async function serveSpdyForward(duplex: Duplex, target: PortForwardTarget, context: SessionContext): Promise<void> {
  const connection: SpdyConnection = new SpdyConnection({
    duplex,
    clock: context.clock,
    onActivity: context.onActivity,
    onStream: (stream) => pairs.add({ id: stream.id, headers: stream.headers, channel: stream }),
  });
  const pairs = new ForwardPairs({ session: connection, podSandboxId: target.podSandboxId, backend: context.backend }, context);
  context.onSession(connection);
  const cause = await connection.run();
  if (cause !== undefined) throw cause;
}

/** A remote command over the channels of a WebSocket. */
export async function serveWebSocketCommand(socket: WebSocket, target: ExecTarget | AttachTarget, protocol: WebSocketProtocol, context: SessionContext): Promise<void> {
  const { clock, onActivity } = context;
  const session = new WebSocketChannels({ socket, clock, onActivity, count: Object.keys(commandChannels).length, encoding: protocol.encoding });
  context.onSession(session);
  const expected = expectedStreams(target, { resize: true });
  const wanted: Partial<Record<CommandStream, StreamChannel>> = {};
  for (const [name, number] of Object.entries(commandChannels)) {
    const channel = session.channel(number);
    const stream = expected.find((candidate) => candidate === name);
    if (stream === undefined) channel.discard();
    else wanted[stream] = channel;
  }
  const error = session.channel(commandChannels.error);
  // An empty message tells the client that it is connected, on the first channel that it reads.
  await (wanted.stdout ?? wanted.stderr ?? error).write(new Uint8Array()).catch(() => undefined);
  await serveCommand({ session, channels: { ...wanted, error }, format: protocol.format, failure: failures[target.kind], open: opener(target, context.backend) });
}

/** One connection per port: two channels each, which first of all say which port they are. */
export async function serveWebSocketForward(socket: WebSocket, target: PortForwardTarget, protocol: WebSocketProtocol, context: SessionContext): Promise<void> {
  const { clock, onActivity, backend } = context;
  const { ports, podSandboxId } = target;
  const session = new WebSocketChannels({ socket, clock, onActivity, count: ports.length * 2, encoding: protocol.encoding });
  context.onSession(session);
  await Promise.all(
    ports.map(async (port, index) => {
      const [data, error] = [session.channel(index * 2), session.channel(index * 2 + 1)];
      const name = Buffer.alloc(2);
      name.writeUInt16LE(port);
      for (const channel of [data, error]) await channel.write(name).catch(() => undefined);
      await serveForward({ session, podSandboxId, backend }, port, { data, error });
    }),
  );
  await session.finish();
}
