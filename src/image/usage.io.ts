/** How much the store takes. In: its layers. Out: bytes and inodes. Content blobs are looked at; layers are known from their records. */
import { stat } from 'node:fs/promises';
import { blobPath, listBlobs } from './content.io.ts';
import type { StoredLayer } from './layer-store.io.ts';
import type { ImageUsage } from './types.ts';

/** Bytes of blobs and of the files in layers, inodes of both. Trees of layers are not walked: they may hold millions of files. */
export async function measureUsage(options: { readonly stateDir: string; readonly layers: readonly StoredLayer[]; readonly atNs: bigint }): Promise<ImageUsage> {
  const { stateDir, layers, atNs } = options;
  let usedBytes = layers.reduce((sum, { contentBytes }) => sum + contentBytes, 0);
  let inodesUsed = layers.reduce((sum, { entries }) => sum + entries + 1, 0);
  for (const digest of await listBlobs(`${stateDir}/content`)) {
    // A blob that a collection has just removed counts nothing.
    const info = await stat(blobPath(`${stateDir}/content`, digest)).catch(() => undefined);
    usedBytes += info?.size ?? 0;
    inodesUsed += info === undefined ? 0 : 1;
  }
  return { atNs, mountpoint: stateDir, usedBytes, inodesUsed };
}
