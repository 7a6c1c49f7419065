/**
 * What may go. In: the catalog, the layers, what the caller allows. Out: files removed, or a list of what would be.
 *
 * Nothing is removed that an image, a lease or a pinned image needs; that no operation runs meanwhile is the caller's promise. A layer's record goes
 * before its tree, so that a crash in between leaves files without a record, which the next start removes.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import { errnoName, limits } from '#core';
import type { Digest } from '#oci';
import { type ImageCatalog, type ImageRecord, type PullRecord, documentsOf, layerBlobsOf } from './catalog.ts';
import { blobPath, digestOfPart, listBlobs, removeBlob } from './content.io.ts';
import type { LayerStore, StoredLayer } from './layer-store.io.ts';
import type { ShiftedLayers } from './shift.io.ts';
import type { CollectOptions, CollectReport, StoreDiskUsage, StoredImage } from './types.ts';

/** Where things are and what is kept. */
export interface CollectContext {
  readonly stateDir: string;
  readonly catalog: ImageCatalog;
  readonly layers: LayerStore;
  readonly shifted: ShiftedLayers;
  readonly keepBlobs: boolean;
}

/** What a collection leaves out. */
interface Leaving {
  /** Images that go. */
  readonly images: ReadonlySet<Digest>;
  readonly partials: 'old' | 'all';
  readonly nowMs: number;
  readonly dryRun: boolean;
  /** Asked before each removal; false ends the collection there. */
  readonly mayGoOn: () => boolean;
}

/** The images that a collection takes. Pure. */
export function chooseImages(catalog: ImageCatalog, options: Pick<CollectOptions, 'all' | 'olderThanMs'>, nowNs: bigint): readonly StoredImage[] {
  const used = new Set(catalog.leases().map(({ lease }) => lease.imageId));
  const before = nowNs - BigInt(Math.max(0, Math.trunc(options.olderThanMs ?? 0))) * 1_000_000n;
  return catalog.list().filter((image) => !image.pinned && !used.has(image.id) && (options.all === true || image.names.length === 0) && image.createdAtNs <= before);
}

/** Blobs that an image needs; those of its layers only where they are kept or could not be fetched again. */
function blobsOf(record: ImageRecord, keepBlobs: boolean): readonly Digest[] {
  return keepBlobs || record.digests.length === 0 ? [...documentsOf(record), ...layerBlobsOf(record).map(({ digest }) => digest)] : documentsOf(record);
}

/** Removes everything that is not needed. A failure ends it; what is removed by then is gone. */
export async function collectContent(context: CollectContext, leaving: Leaving): Promise<Omit<CollectReport, 'images'>> {
  const { stateDir, catalog, layers, keepBlobs } = context;
  const contentDir = `${stateDir}/content`;
  const kept = catalog.records().filter(({ id }) => !leaving.images.has(id));
  const resumable = leaving.partials === 'all' ? [] : endOldPulls(catalog, leaving);
  const neededLayers = new Set([
    ...kept.flatMap(({ record }) => record.layers),
    ...catalog.leases().flatMap(({ lease }) => lease.layers),
    ...resumable.flatMap(({ layers: keys }) => keys),
  ]);
  const neededBlobs = new Set([...kept.flatMap(({ record }) => blobsOf(record, keepBlobs)), ...resumable.flatMap(({ blobs }) => blobs)]);
  if (!leaving.dryRun) await context.shifted.collect(leaving.mayGoOn);
  if (leaving.partials === 'all' && !leaving.dryRun) for (const { id } of catalog.pulls()) catalog.forgetPull(id);
  const gone = { layers: new Array<Digest>(), blobs: new Array<Digest>(), partials: new Array<Digest>(), freedBytes: 0 };
  for (const layer of layers.list()) {
    if (neededLayers.has(layer.key)) continue;
    if (!leaving.mayGoOn()) return gone;
    gone.freedBytes += await layerBytes(stateDir, layer);
    gone.layers.push(layer.diffId);
    if (!leaving.dryRun) await layers.remove(layer);
  }
  for (const digest of await listBlobs(contentDir)) {
    if (neededBlobs.has(digest)) continue;
    if (!leaving.mayGoOn()) return gone;
    gone.freedBytes += await fileBytes(blobPath(contentDir, digest));
    gone.blobs.push(digest);
    if (!leaving.dryRun) await removeBlob(contentDir, digest);
  }
  for (const partial of await listPartials(contentDir)) {
    if (leaving.partials === 'old' && leaving.nowMs - partial.changedAtMs < limits.partialBlobAgeMsMax) continue;
    if (!leaving.mayGoOn()) return gone;
    gone.freedBytes += partial.sizeBytes;
    gone.partials.push(partial.digest);
    if (!leaving.dryRun) await rm(partial.path, { force: true });
  }
  return gone;
}

/** Interrupted pulls whose content still waits for the next one; older ones are forgotten. */
function endOldPulls(catalog: ImageCatalog, { nowMs, dryRun }: Pick<Leaving, 'nowMs' | 'dryRun'>): readonly PullRecord[] {
  const young: PullRecord[] = [];
  for (const { id, pull } of catalog.pulls()) {
    if (nowMs - Number(pull.atNs / 1_000_000n) < limits.partialBlobAgeMsMax) young.push(pull);
    else if (!dryRun) catalog.forgetPull(id);
  }
  return young;
}

/** What the store takes, by image. */
export async function measureImages(context: CollectContext, reclaimableBytes: number): Promise<StoreDiskUsage> {
  const { stateDir, catalog, layers } = context;
  const contentDir = `${stateDir}/content`;
  const sizes = new Map<string, number>();
  let [blobBytes, layersBytes] = [0, 0];
  for (const digest of await listBlobs(contentDir)) {
    const bytes = await fileBytes(blobPath(contentDir, digest));
    sizes.set(`blob ${digest}`, bytes);
    blobBytes += bytes;
  }
  for (const layer of layers.list()) {
    const bytes = await layerBytes(stateDir, layer);
    sizes.set(`layer ${layer.key}`, bytes);
    layersBytes += bytes;
  }
  const parts = new Map(
    catalog.records().map(({ id, record }) => [id, [...new Set([...blobsOf(record, true).map((digest) => `blob ${digest}`), ...record.layers.map((key) => `layer ${key}`)])]]),
  );
  const owners = new Map<string, number>();
  for (const part of [...parts.values()].flat()) owners.set(part, (owners.get(part) ?? 0) + 1);
  const used = new Set(catalog.leases().map(({ lease }) => lease.imageId));
  const bytesOf = (names: readonly string[]): number => names.reduce((sum, name) => sum + (sizes.get(name) ?? 0), 0);
  const images = catalog.list().map(({ id, names, pinned }) => {
    const own = parts.get(id) ?? [];
    const uniqueBytes = bytesOf(own.filter((part) => owners.get(part) === 1));
    const sizeBytes = bytesOf(own);
    return { id, names, sizeBytes, uniqueBytes, sharedBytes: sizeBytes - uniqueBytes, isUsed: used.has(id), pinned };
  });
  const partialBytes = (await listPartials(contentDir)).reduce((sum, partial) => sum + partial.sizeBytes, 0);
  return { images, blobBytes, layerBytes: layersBytes, partialBytes, reclaimableBytes };
}

/** Bytes of a layer's files and of its index; the tree is not walked, it may hold millions of files. */
async function layerBytes(stateDir: string, layer: StoredLayer): Promise<number> {
  return layer.contentBytes + (await fileBytes(`${stateDir}/index/${layer.name}`));
}

/** What is gone takes nothing. */
async function fileBytes(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return 0;
    throw error;
  }
}

interface PartialBlob {
  readonly path: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly changedAtMs: number;
}

/** Beginnings of blobs that an interrupted pull left for the next one: `<algorithm>-<hex>.part`. */
export async function listPartials(contentDir: string): Promise<PartialBlob[]> {
  const found: PartialBlob[] = [];
  for (const name of await readdir(`${contentDir}/ingest`)) {
    const digest = digestOfPart(name);
    if (digest === undefined) continue;
    const path = `${contentDir}/ingest/${name}`;
    // Whoever finishes or drops the blob at this moment takes the file away.
    const info = await stat(path).catch(() => undefined);
    if (info !== undefined) found.push({ path, digest, sizeBytes: info.size, changedAtMs: info.mtimeMs });
  }
  return found;
}
