/**
 * Is everything as it was stored? In: names or nothing. Out: what is damaged, by image. Reading happens in worker threads; nothing is changed here,
 * repair is a module of its own.
 *
 * Blobs are read whole and compared with their digests, layers with their indexes: type, mode, owner, time, size, link target, extended attributes and
 * content of every entry. Content shared by images is read once and reported for each.
 */
import { stat } from 'node:fs/promises';
import { assert, errnoName } from '#core';
import { type Digest } from '#oci';
import { type ImageRecord, documentsOf, layerBlobsOf } from './catalog.ts';
import { blobPath, blobSize } from './content.io.ts';
import { type Damage, type RepairOutcome, type VerifiedImage, concerns } from './damage.ts';
import { repairStore } from './repair.io.ts';
import type { StoreParts } from './store-parts.ts';
import type { CheckBlobsTask } from './store-tasks.ts';
import type { VerifyOptions, VerifyProblem, VerifyReport } from './types.ts';

/** Blobs that one task reads: enough to make the thread worth it, few enough that both threads have work. */
const blobsPerTask = 8;

interface Totals {
  checkedBytes: number;
  checkedFiles: number;
}

/** Verifies and, where asked, repairs. Throws notFound for a name; what is damaged is in the report. */
export async function verifyStore(parts: StoreParts, options: VerifyOptions & { readonly signal: AbortSignal }): Promise<VerifyReport> {
  const images = chooseImages(parts, options.names);
  const totals: Totals = { checkedBytes: 0, checkedFiles: 0 };
  const report = (bytes: number): void => {
    totals.checkedBytes += bytes;
    options.onProgress?.({ stage: 'verifying', bytesDone: Math.min(totals.checkedBytes, bytesTotal), bytesTotal });
  };
  const blobs = await blobsToCheck(parts, images);
  const layers = [...new Set(images.flatMap(({ layers: keys }) => keys))];
  const bytesTotal = blobs.reduce((sum, { sizeBytes = 0 }) => sum + sizeBytes, 0) + layers.reduce((sum, key) => sum + (parts.layers.get(key)?.contentBytes ?? 0), 0);
  const context = { parts, report, totals, signal: options.signal };
  const damages = [...(await checkBlobs(context, blobs)), ...(await checkLayers(context, layers))];
  const outcomes = options.repair === true && damages.length > 0 ? await repairStore(parts, { images, damages }, options) : new Map<Damage, RepairOutcome>();
  options.onProgress?.({ stage: 'done', bytesDone: bytesTotal, bytesTotal });
  return {
    images: images.map((image) => ({
      id: image.id,
      names: image.names,
      problems: damages.filter((damage) => concerns(image, damage)).map((damage) => describe(damage, outcomes.get(damage))),
    })),
    ...totals,
  };
}

function describe({ kind, digest, detail }: Damage, outcome: RepairOutcome | undefined): VerifyProblem {
  return { kind, digest, detail, ...(outcome ?? { state: 'found' }) };
}

function chooseImages({ catalog }: StoreParts, names: readonly string[] | undefined): readonly VerifiedImage[] {
  const described = (id: Digest, record: ImageRecord): VerifiedImage => ({ id, names: record.names, record, layers: record.layers });
  if (names !== undefined) {
    const found = names.map((name) => catalog.find(name));
    return [...new Map(found.map(({ image, record }) => [image.id, described(image.id, record)])).values()];
  }
  const known = catalog.records().map(({ id, record }) => described(id, record));
  const removed = catalog.leases().filter(({ lease }) => !catalog.has(lease.imageId));
  return [...known, ...new Map(removed.map(({ lease }) => [lease.imageId, { id: lease.imageId, names: [], record: undefined, layers: lease.layers }])).values()];
}

type BlobToCheck = CheckBlobsTask['blobs'][number];

/** Blobs that should be there; those that may have been dropped only where they are. */
async function blobsToCheck({ contentDir, keepBlobs }: StoreParts, images: readonly VerifiedImage[]): Promise<readonly BlobToCheck[]> {
  const blobs = new Map<Digest, BlobToCheck>();
  const add = (digest: Digest, sizeBytes?: number): void =>
    void blobs.set(digest, { digest, path: blobPath(contentDir, digest), ...(sizeBytes === undefined ? {} : { sizeBytes }) });
  for (const { record } of images) {
    if (record === undefined) continue;
    for (const digest of documentsOf(record)) if (!blobs.has(digest)) add(digest);
    for (const { digest, sizeBytes } of record.manifests.flatMap((manifest) => [manifest, manifest.config])) add(digest, sizeBytes);
    for (const { digest, sizeBytes } of layerBlobsOf(record))
      if (keepBlobs || record.digests.length === 0 || (await blobSize(contentDir, digest)) !== undefined) add(digest, sizeBytes);
  }
  return [...blobs.values()];
}

interface CheckContext {
  readonly parts: StoreParts;
  readonly report: (bytes: number) => void;
  readonly totals: Totals;
  readonly signal: AbortSignal;
}

async function checkBlobs({ parts, report, signal }: CheckContext, blobs: readonly BlobToCheck[]): Promise<readonly Damage[]> {
  const tasks = Array.from({ length: Math.ceil(blobs.length / blobsPerTask) }, (_none, index) => blobs.slice(index * blobsPerTask, (index + 1) * blobsPerTask));
  const results = await Promise.all(
    tasks.map(async (some) => {
      const result = await parts.pool.runStoreTask({ kind: 'checkBlobs', blobs: some }, { onProgress: (_digest, bytes) => report(bytes) }, signal);
      assert(result.kind === 'blobs', 'a check of blobs ended as something else');
      return result.problems;
    }),
  );
  return results.flat().map(({ digest, detail }) => ({ kind: 'blob', key: digest, digest, detail }));
}

async function checkLayers(context: CheckContext, keys: readonly Digest[]): Promise<readonly Damage[]> {
  return (await Promise.all(keys.map(async (key) => checkLayer(context, key)))).flat();
}

async function checkLayer({ parts, report, totals, signal }: CheckContext, key: Digest): Promise<readonly Damage[]> {
  const { options, layers, pool } = parts;
  const layer = layers.get(key);
  if (layer === undefined) return [{ kind: 'record', key, digest: key, detail: 'no layer is recorded under this key' }];
  const { diffId } = layer;
  const layerDir = `${layers.storeDir}/${layer.name}`;
  if (!(await isDirectory(layerDir))) return [{ kind: 'layer', key, digest: diffId, detail: 'its directory is missing' }];
  const task = {
    kind: 'checkLayer',
    diffId,
    layerDir,
    rootDir: `${options.stateDir}/unpack`,
    indexPath: `${options.stateDir}/index/${layer.name}`,
    launcherSocket: options.launcherSocket,
  } as const;
  const result = await pool.runStoreTask(task, { onProgress: (_digest, bytes) => report(bytes) }, signal);
  assert(result.kind === 'layer', 'a check of a layer ended as something else');
  totals.checkedFiles += result.entries;
  if (result.indexProblem !== undefined) return [{ kind: 'index', key, digest: diffId, detail: result.indexProblem }];
  return result.differences.length === 0 ? [] : [{ kind: 'layer', key, digest: diffId, detail: result.differences.join('; ') }];
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return false;
    throw error;
  }
}
