/** The only door to the host: launcher and shim clients, host facts, records, the clock. */
export * from './clock.io.ts';
export * from './records.io.ts';
export * from './devices.io.ts';
export * from './control-files.io.ts';
export * from './host-facts.ts';
export * from './host.io.ts';
export * from './cgroup-stats.ts';
export * from './cgroup-stats.io.ts';
export * from './directories.io.ts';
export * from './frames.ts';
export { FrameConnection } from './connection.io.ts';
export { readIdMappings } from './id-map.io.ts';
export * from './launcher.io.ts';
export * from './unpack-session.io.ts';
export * from './inspect-session.io.ts';
export * from './shim.io.ts';
export type { AttachmentEnd, OutputStream, ShimAttachment } from './attachment.io.ts';
