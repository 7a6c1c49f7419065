/**
 * What is damaged, put right where that can be. In: damages that a verification found. Out: for each, repaired or why not.
 *
 * Documents and blobs are fetched again, each from a repository that has the image, in place of the damaged file. A damaged layer is unpacked again from its
 * blob, which needs no network while the blob is good; the old tree goes only when the new one is there. A layer that a lease keeps is left alone: a
 * running container looks at that very directory.
 */
import { RuntimeError, assert, errorMessage, limits } from '#core';
import { type Digest, mediaTypes } from '#oci';
import { type ImageRecord, documentsOf, layerBlobsOf } from './catalog.ts';
import { blobPath, readBlob } from './content.io.ts';
import { type Damage, type RepairOutcome, type VerifiedImage, concerns } from './damage.ts';
import { type FetchOptions, type MissingBlob, fetchAgain, fetchMissing } from './fetch-again.io.ts';
import { type InstalledManifest, installImage } from './install.io.ts';
import type { StoredLayer } from './layer-store.io.ts';
import type { StoreParts } from './store-parts.ts';
import type { ImageSource, VerifyOptions } from './types.ts';

interface RepairContext {
  readonly parts: StoreParts;
  readonly images: readonly VerifiedImage[];
  readonly fetching: FetchOptions;
  readonly badBlobs: Set<Digest>;
  readonly signal: AbortSignal;
}

interface KnownImage {
  readonly id: Digest;
  readonly record: ImageRecord;
}

function unrepairable(error: unknown): RepairOutcome {
  return { state: 'unrepairable', reason: errorMessage(error) };
}

/** Repairs what it can; the caller promises that no collection runs meanwhile. */
export async function repairStore(
  parts: StoreParts,
  found: { readonly images: readonly VerifiedImage[]; readonly damages: readonly Damage[] },
  options: VerifyOptions & { readonly signal: AbortSignal },
): Promise<ReadonlyMap<Damage, RepairOutcome>> {
  const { signal } = options;
  const fetching: FetchOptions = { ...(options.auths === undefined ? {} : { auths: options.auths }), signal };
  const outcomes = new Map<Damage, RepairOutcome>();
  const blobs = found.damages.filter(({ kind }) => kind === 'blob');
  const context: RepairContext = { parts, images: found.images, fetching, badBlobs: new Set(blobs.map(({ key }) => key)), signal };
  for (const damage of blobs) {
    const outcome = await tryEach(context, damage, async ({ record }) => fetchAgain(parts, record, describeBlob(record, damage.key), fetching));
    outcomes.set(damage, outcome);
    if (outcome.state === 'repaired') context.badBlobs.delete(damage.key);
  }
  const layers = found.damages.filter(({ kind }) => kind !== 'blob');
  // Lower layers first: one that needs its parents is unpacked over whole ones.
  const depth = ({ key }: Damage): number => Math.max(...found.images.map(({ layers: keys }) => keys.indexOf(key)));
  for (const damage of layers.sort((a, b) => depth(a) - depth(b))) outcomes.set(damage, await repairLayer(context, damage));
  return outcomes;
}

/** What the first image that has it can do about it, or why the last could not. */
async function tryEach(context: RepairContext, damage: Damage, repair: (image: KnownImage) => Promise<void>): Promise<RepairOutcome> {
  let last: RepairOutcome = { state: 'unrepairable', reason: 'the image was removed, so nothing is known of where it came from' };
  for (const image of context.images) {
    const { id, record } = image;
    if (record === undefined || !concerns(image, damage)) continue;
    context.signal.throwIfAborted();
    try {
      await repair({ id, record });
      return { state: 'repaired' };
    } catch (error) {
      context.signal.throwIfAborted();
      last = unrepairable(error);
    }
  }
  return last;
}

/** How a registry knows the blob. Of an index only the digest is recorded. */
function describeBlob(record: ImageRecord, digest: Digest): MissingBlob {
  const manifest = record.manifests.find((one) => one.digest === digest);
  if (manifest !== undefined) return { ...manifest, isDocument: true };
  const known = [...record.manifests.map(({ config }) => config), ...layerBlobsOf(record)].find((blob) => blob.digest === digest);
  if (known !== undefined) return { ...known, isDocument: false };
  assert(documentsOf(record).includes(digest), 'a damaged blob belongs to its image');
  return { digest, sizeBytes: 0, mediaType: mediaTypes.ociIndex, isDocument: true };
}

async function repairLayer(context: RepairContext, damage: Damage): Promise<RepairOutcome> {
  const { parts } = context;
  const user = userOf(parts, damage.key);
  if (user !== undefined) return { state: 'unrepairable', reason: `in use by ${user}; repair again when that is gone` };
  const layer = parts.layers.get(damage.key);
  return tryEach(context, damage, async (image) => {
    const manifest = await prepareBlobs(context, image, damage.key);
    if (layer === undefined) await installAgain(context, image, manifest);
    else await unpackAgain(context, image, manifest, layer);
  });
}

/** A lease that has the layer. */
function userOf({ catalog }: StoreParts, key: Digest): string | undefined {
  return catalog.leases().find(({ lease }) => lease.layers.includes(key))?.id;
}

/** The manifest whose blobs the layer can be unpacked from, all there: also those of the layers below, which it may need. */
async function prepareBlobs({ parts, fetching, badBlobs }: RepairContext, { record }: KnownImage, key: Digest): Promise<InstalledManifest> {
  const manifest = record.manifests.at(-1);
  assert(manifest !== undefined, 'an image is stored with its manifest');
  const place = record.layers.indexOf(key);
  const blobs = [...manifest.layers.slice(0, place + 1), manifest.config].map((blob) => ({ ...blob, isDocument: false }));
  const wanted = [...blobs, { ...manifest, isDocument: true }];
  const bad = wanted.find(({ digest }) => badBlobs.has(digest));
  if (bad !== undefined) throw new RuntimeError('dataLoss', `its blob ${bad.digest} is damaged and could not be fetched again`);
  // What was dropped is dropped again by the next collection.
  await fetchMissing(parts, record, wanted, fetching);
  return manifest;
}

/** The layer alone, from its blob, over the layers that are below it in the image. */
async function unpackAgain({ parts, signal }: RepairContext, { record }: KnownImage, manifest: InstalledManifest, layer: StoredLayer): Promise<void> {
  const place = record.layers.indexOf(layer.key);
  const blob = manifest.layers[place];
  assert(blob !== undefined, 'an image has a blob for each of its layers');
  const below = record.layers.slice(0, place).map((key) => {
    const parent = parts.layers.get(key);
    if (parent === undefined) throw new RuntimeError('dataLoss', `the layer ${key} below it is gone`);
    return parent;
  });
  // The blob that it came from may have belonged to an image that is gone; this one's holds the same.
  await parts.layers.unpackAgain(
    { ...layer, blob: blob.digest },
    {
      blob: async () => ({ digest: blob.digest, sizeBytes: blob.sizeBytes, path: blobPath(parts.contentDir, blob.digest) }),
      onChecked: () => undefined,
      parents: async () => below,
      onBytes: () => undefined,
      mayReplace: () => userOf(parts, layer.key) === undefined,
      signal,
    },
  );
}

/** For a layer that has no record any more: the image once more, from the store's own content. What is whole is found again, the layer is not. */
async function installAgain({ parts, signal }: RepairContext, { id, record }: KnownImage, manifest: InstalledManifest): Promise<void> {
  const bytes = await readBlob(parts.contentDir, manifest.digest, limits.manifestBytesMax);
  const installed = await installImage(
    {
      contentDir: parts.contentDir,
      layers: parts.layers,
      platform: record.config.platform,
      source: storeSource(id),
      keepBlobs: false,
      allowForeignLayers: true,
      onProgress: () => undefined,
      signal,
    },
    { bytes, mediaType: manifest.mediaType, digest: manifest.digest },
  );
  parts.catalog.replaceLayers(id, installed.layers);
}

/** Everything that is needed is in the content store already. */
function storeSource(id: Digest): ImageSource {
  const missing = (digest: Digest | undefined): RuntimeError => new RuntimeError('dataLoss', `repair image ${id}: blob ${digest ?? ''} is missing`);
  return {
    what: `repair image ${id}`,
    document: async ({ digest }) => {
      throw missing(digest);
    },
    transfer: async (wanted) => {
      throw missing(wanted[0]?.digest);
    },
  };
}
