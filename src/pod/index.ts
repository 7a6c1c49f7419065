/** Pods: lifecycle of sandboxes and containers over the ports of images, network and sandbox drivers. */
export { type EngineDependencies } from './engine-state.ts';
export * from './engine.ts';
export * from './files.ts';
export * from './ports.ts';
export * from './runtime-spec.ts';
export * from './signals.ts';
export * from './types.ts';
