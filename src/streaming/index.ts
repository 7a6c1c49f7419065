/** Sockets and byte streams that several doors share: private unix sockets, and the streaming server of Exec, Attach and PortForward. */
export * from './listen.io.ts';
export type { StreamingServer, StreamingServerOptions, StreamingSettings } from './server.io.ts';
export { startStreamingServer } from './server.io.ts';
export type * from './types.ts';
