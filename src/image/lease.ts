/** Leases of images: what a container or a volume mounts, kept on disk as long as it says. In: the catalog and the layers. Out: names of directories. */
import { RuntimeError, wrapError } from '#core';
import type { IdMappings } from '#plan';
import type { StoreParts } from './store-parts.ts';
import type { ImageLayers, LeaseOptions, MappedLayers } from './types.ts';

/** Records the lease and gives the image's layers, the same for an equal lease. Throws notFound, alreadyExists, failedPrecondition, dataLoss. */
export function leaseImage({ catalog, layers, options }: StoreParts, imageId: string, leaseId: string, { purpose }: LeaseOptions): ImageLayers {
  const existing = catalog.readLease(leaseId);
  const image = catalog.resolve(imageId);
  if (existing !== undefined && existing.imageId !== (image?.id ?? imageId))
    throw new RuntimeError('alreadyExists', `lease ${leaseId}: is for image ${existing.imageId}, not ${imageId}`);
  if (image?.kind === 'artifact' && purpose !== 'volume')
    throw new RuntimeError('failedPrecondition', `lease image ${imageId}: is an artifact, which can be mounted as a volume but not run`);
  const found = existing === undefined ? catalog.find(imageId) : undefined;
  const lease = existing ?? { imageId: found?.image.id ?? catalog.find(imageId).image.id, layers: found?.record.layers ?? [] };
  const lower = lease.layers.map((key) => {
    const layer = layers.get(key);
    if (layer === undefined) throw new RuntimeError('dataLoss', `lease image ${imageId}: layer ${key} is gone; verify the store with repair`);
    return layer.name;
  });
  if (existing === undefined) catalog.putLease(leaseId, lease);
  return { storeDir: layers.storeDir, lower: lower.reverse(), ...(options.overlayAttributes === 'user' ? { userAttributes: true } : {}) };
}

/** The same for a container in a user namespace: layers as they are where the kernel maps their owners, else copies, which the same lease keeps. */
export async function leaseMapped(
  parts: StoreParts,
  wanted: {
    readonly imageId: string;
    readonly leaseId: string;
    readonly mappings: IdMappings;
    readonly options: LeaseOptions;
    readonly signal: AbortSignal;
    readonly release: () => void;
  },
): Promise<MappedLayers> {
  const { catalog, layers, shifted } = parts;
  const { imageId, leaseId, mappings, options, signal, release } = wanted;
  const isNew = catalog.readLease(leaseId) === undefined;
  const plain = leaseImage(parts, imageId, leaseId, options);
  try {
    if (await shifted.canMap()) return { ...plain, mapLower: true };
    const sources = (catalog.readLease(leaseId)?.layers ?? []).flatMap((key) => layers.get(key) ?? []);
    return { ...plain, lower: await shifted.lease(leaseId, sources.reverse(), mappings, signal), mapLower: false };
  } catch (error) {
    if (isNew) release();
    throw wrapError(`lease image ${imageId} for a user namespace`, error);
  }
}
