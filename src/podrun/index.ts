/** Kubernetes Pod manifests to engine calls: decoding, planning, running. */
export type * from './manifest-types.ts';
export { decodeManifest } from './manifest.ts';
export * from './plan-types.ts';
export { planPod } from './plan.ts';
export { buildContainerConfig } from './plan-container.ts';
export * from './runner-types.ts';
export { PodRunner } from './runner.ts';
export { decodeCapability, decodeEnvName, decodeId, decodeIpAddress } from './decode-parts.ts';
export { decodeImage, defaultPullPolicy } from './decode-container.ts';
export { decodeCpuMilli, decodeMemoryBytes } from './quantity.ts';
export { nearest } from './schema.ts';
export { createVolumes } from './volumes.io.ts';
export { podrunDirectories, readHostFacts } from './facts.io.ts';
