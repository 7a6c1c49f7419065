/** Images: reference → descriptor → content → layers → what an overlay mounts. The one door of this folder. */
export * from './types.ts';
export { ImageStore } from './store.io.ts';
export type { ClientCertificate, ReferrerDescriptor, RegistryAccess, RegistryAuth, RegistryHost } from './registry/types.ts';
export { RegistryConfiguration, type RegistryConfigurationOptions } from './registry/configuration.io.ts';
export { type CredentialOptions, type RunTool, type ToolCall, findCredentials } from './registry/credentials.io.ts';
