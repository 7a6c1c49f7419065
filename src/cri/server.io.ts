/**
 * The CRI server: a unix socket, HTTP/2, gRPC, and the two services behind it. In: an Engine and a path. Out: CRI v1 at that path.
 * What a call means is in the services; this file only listens, limits and closes.
 */
import type { Socket } from 'node:net';
import { createServer } from 'node:net';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { type Clock, limits } from '#core';
import type { Engine } from '#pod';
import { ImageService, RuntimeService } from '#gen/cri-v1_pb.js';
import { type StreamingSettings, listenPrivately, removeSocket, startStreamingServer } from '#streaming';
import type { CallObserver } from './adapter.ts';
import { answerPromptly, buildService } from './adapter.ts';
import type { CallReport } from './call-report.ts';
import { FrontConnection } from './front.io.ts';
import { buildImageHandlers } from './image-service.ts';
import { buildRuntimeHandlers } from './runtime-service.ts';
import { buildStreamBackend } from './streaming.ts';

/** Connections waiting to be accepted; a kubelet uses two, tools one each. */
const backlog = 128;
/** Further clients are disconnected at once. */
const connectionsMax = 256;
/** How long running calls may take to answer when the server closes. */
const closeGraceMs = limits.drainTimeoutMs;

const serverOptions = {
  'grpc.max_receive_message_length': limits.grpcMessageBytesMax,
  // Answers are measured where they are encoded.
  'grpc.max_send_message_length': -1,
  // MiB per connection. With Node's default of 10, twelve 12 MB replies at once end in ENHANCE_YOUR_CALM.
  'grpc-node.max_session_memory': 1000,
  // No pings and no idle limit of our own: a kubelet's connection rests for minutes, and a local peer's death closes the socket.
  'grpc.enable_channelz': 0,
  // Calls at once on one connection; a client queues what is beyond. A kubelet of 110 pods stays far below.
  'grpc.max_concurrent_streams': 1000,
} as const;

/** What a CRI server needs. */
export interface CriServerOptions {
  readonly engine: Engine;
  /** Absolute path; the socket gets mode 0600 and a missing directory 0700. */
  readonly socketPath: string;
  /** Version of Berth, for the Version call. */
  readonly version: string;
  /** The server that the URLs of Exec, Attach and PortForward lead to; absent: those calls answer Unimplemented. */
  readonly streaming?: StreamingSettings & { readonly clock: Clock; readonly log?: (line: string) => void };
  /** Told of each call once it has been answered. Must not throw. */
  readonly onCall?: (call: CallReport) => void;
}

/** A listening server. */
export interface CriServer {
  /** Stops accepting, lets running calls answer for a moment, cuts the rest, removes the socket. */
  close(): Promise<void>;
}

/** Serves CRI v1 at `socketPath`. A stale socket is replaced; rejects with alreadyExists where a server is living there. */
export async function startCriServer(options: CriServerOptions): Promise<CriServer> {
  const server = new Server({ ...serverOptions, interceptors: [answerPromptly] });
  const streaming = options.streaming === undefined ? undefined : await startStreamingServer({ ...options.streaming, backend: buildStreamBackend(options.engine) });
  const observer: CallObserver = { nowMs: () => performance.now(), onCall: (call) => options.onCall?.(call) };
  const closing = new AbortController();
  const runtime = buildService(
    RuntimeService,
    buildRuntimeHandlers({ engine: options.engine, version: options.version, closing: closing.signal, ...(streaming === undefined ? {} : { streaming }) }),
    observer,
  );
  const images = buildService(ImageService, buildImageHandlers(options.engine), observer);
  server.addService(runtime.definition, runtime.implementation);
  server.addService(images.definition, images.implementation);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    injector.injectConnection(new FrontConnection(socket));
  });
  listener.maxConnections = connectionsMax;
  try {
    await listenPrivately(listener, options.socketPath, { backlog });
  } catch (error) {
    await streaming?.close();
    throw error;
  }
  return {
    async close() {
      // Streams of events would go on for ever.
      closing.abort();
      const closed = Promise.withResolvers<void>();
      const streamsClosed = streaming?.close();
      listener.close(() => closed.resolve());
      // Sends GOAWAY, then cancels what still runs.
      injector.drain(closeGraceMs);
      const timer = setTimeout(() => {
        for (const socket of sockets) socket.destroy();
      }, closeGraceMs);
      await Promise.all([closed.promise, streamsClosed]);
      clearTimeout(timer);
      injector.destroy();
      server.forceShutdown();
      removeSocket(options.socketPath);
    },
  };
}
