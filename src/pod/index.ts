/** Pods: lifecycle of sandboxes and containers over the ports of images, network and sandbox drivers. */
export * from './engine.ts';
export * from './files.ts';
export * from './ports.ts';
export * from './runtime-spec.ts';
export * from './signals.ts';
export * from './types.ts';
