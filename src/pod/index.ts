/** Pods: lifecycle of sandboxes and containers over the ports of images, network and sandbox drivers. */
export { cdiWarnings } from './cdi.ts';
export { decodeCdiSpec } from './cdi-decode.ts';
export type { CdiFile } from './cdi-types.ts';
export { type EngineDependencies } from './engine-state.ts';
export * from './engine.ts';
export * from './files.ts';
export * from './ports.ts';
export * from './runtime-spec.ts';
export * from './signals.ts';
export * from './types.ts';
export * from './user-namespace.ts';
