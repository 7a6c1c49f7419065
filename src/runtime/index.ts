/** Kernel API: OCI config.json → plan. Namespaces, mounts, control groups, seccomp, identities, the sandbox of a pod. Pure. */
export * from './capabilities.ts';
export * from './cgroup-driver.ts';
export * from './cgroup-stats.ts';
export * from './cgroup.ts';
export * from './container.ts';
export * from './defaults.ts';
export * from './exec.ts';
export { type PlanForwardInput, planForward } from './forward.ts';
export * from './hooks.ts';
export * from './identity.ts';
export * from './lsm-default.ts';
export { type PodSharing } from './namespaces.ts';
export * from './sandbox.ts';
export * from './seccomp.ts';
export * from './seccomp-default.ts';
export * from './slots.ts';
export { type VolumeSource } from './volumes.ts';
export * from './update.ts';
