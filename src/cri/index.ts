/** The CRI v1 door: gRPC on a unix socket, translated to engine calls. */
export type { CriServer, CriServerOptions } from './server.io.ts';
export type { CallReport } from './call-report.ts';
export { startCriServer } from './server.io.ts';
