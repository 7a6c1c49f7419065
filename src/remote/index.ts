/** The engine over `engine.sock`: the owner serves it, other processes of the same user are its clients. */
export type { RemoteEngine } from './client.io.ts';
export { connectEngine } from './client.io.ts';
export type { EngineServer, EngineServerOptions } from './server.io.ts';
export { serveEngine } from './server.io.ts';
