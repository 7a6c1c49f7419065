/** What the parts of the store share. Types only. */
import type { ImageCatalog } from './catalog.ts';
import type { LayerStore } from './layer-store.io.ts';
import type { RegistryAccess, RegistryAuth } from './registry/types.ts';
import type { ShiftedLayers } from './shift.io.ts';
import type { ImageStoreOptions } from './types.ts';
import type { WorkerPool } from './worker-pool.io.ts';

/** One opened store, seen from inside. */
export interface StoreParts {
  readonly options: ImageStoreOptions;
  readonly contentDir: string;
  readonly catalog: ImageCatalog;
  readonly layers: LayerStore;
  readonly shifted: ShiftedLayers;
  readonly pool: WorkerPool;
  readonly keepBlobs: boolean;
  access(reference: { readonly registry: string; readonly repository: string }, auth?: RegistryAuth): Promise<RegistryAccess>;
}
