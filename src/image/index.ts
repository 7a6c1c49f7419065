/** Images: reference → descriptor → content → layers → what an overlay mounts. The one door of this folder. */
export * from './types.ts';
export { ImageStore, type RemoveOptions } from './store.io.ts';
export type { RegistryAuth } from './worker-messages.ts';
