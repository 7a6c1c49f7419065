/**
 * An image into a registry. In: an image, a destination. Out: its blobs and its manifest there, byte for byte those of the store.
 *
 * Blobs that the registry has are not sent; those that another of its repositories has are taken over there. Only one manifest is pushed,
 * not the index it may have come from: the other platforms' content is not here.
 */
import { RuntimeError, errorMessage, limits, wrapError } from '#core';
import { type ImageReference, formatReference, isDigest, parseReference } from '#oci';
import { type ImageRecord, sourcesOf } from './catalog.ts';
import { blobPath, readBlob, readPieces } from './content.io.ts';
import { fetchMissing } from './fetch-again.io.ts';
import type { BlobDescriptor, InstalledManifest } from './install.io.ts';
import { RegistryClient } from './registry/client.io.ts';
import type { StoreParts } from './store-parts.ts';
import type { PushOptions, PushResult } from './types.ts';

const parallelUploads = 3;
const readBytes = 512 * 1024;

interface PushJob {
  readonly parts: StoreParts;
  readonly client: RegistryClient;
  readonly record: ImageRecord;
  readonly manifest: InstalledManifest;
  readonly destination: ImageReference;
  readonly options: PushOptions & { readonly signal: AbortSignal };
}

/** Where to push: a tag of some repository. Throws invalidArgument for an id without a destination and for a digest. */
export function decodeDestination(nameOrId: string, destination: string | undefined): ImageReference {
  const text = destination ?? nameOrId;
  const isId = destination === undefined && (isDigest(text) || /^[0-9a-f]{64}$/.test(text));
  if (isId) throw new RuntimeError('invalidArgument', `push ${text}: an id says nothing about where to; name a destination`);
  const reference = parseReference(text);
  if (reference.digest !== undefined)
    throw new RuntimeError('invalidArgument', `push ${formatReference(reference)}: the destination must have no digest, it is that of the manifest`);
  return reference;
}

/** Pushes. Throws `push REFERENCE: cause`. */
export async function pushImage(parts: StoreParts, nameOrId: string, options: PushOptions & { readonly signal: AbortSignal }): Promise<PushResult> {
  const { image, record } = parts.catalog.find(nameOrId);
  const destination = decodeDestination(nameOrId, options.destination);
  const manifest = parts.catalog.manifestOf(nameOrId, record);
  const what = `push ${formatReference(destination)}`;
  try {
    using client = new RegistryClient({ access: await parts.access(destination, options.auth) });
    const job: PushJob = { parts, client, record, manifest, destination, options };
    const sent = await pushBlobs(job);
    await fetchMissing(parts, record, [{ ...manifest, isDocument: true }], fetchOptions(job));
    const bytes = await readBlob(parts.contentDir, manifest.digest, limits.manifestBytesMax);
    await client.putManifest(destination.tag ?? 'latest', bytes, manifest.mediaType, options.signal);
    parts.catalog.addDigest(image.id, destination, manifest.digest);
    return { reference: formatReference(destination), digest: manifest.digest, ...sent };
  } catch (error) {
    options.signal.throwIfAborted();
    throw errorMessage(error).startsWith('push ') ? error : wrapError(what, error);
  }
}

/** Credentials for the destination serve for its own registry, nowhere else. */
function fetchOptions({ destination, options }: PushJob): { readonly auths: Record<string, NonNullable<PushOptions['auth']>>; readonly signal: AbortSignal } {
  return { auths: options.auth === undefined ? {} : { [destination.registry]: options.auth }, signal: options.signal };
}

/** Layers and config, a few at once. */
async function pushBlobs(job: PushJob): Promise<{ readonly pushedBytes: number; readonly mountedBytes: number }> {
  const { manifest, options, client, record, destination } = job;
  const blobs = [...new Map([...manifest.layers, manifest.config].map((blob) => [blob.digest, blob])).values()];
  const bytesTotal = blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const mountFrom = sourcesOf(record).find((source) => source.registry === destination.registry && source.repository !== destination.repository)?.repository;
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  let [bytesDone, pushedBytes, mountedBytes] = [0, 0, 0];
  const pushOne = async (blob: BlobDescriptor): Promise<void> => {
    let [sentBytes, reportedBytes] = [0, 0];
    const report = (layerBytes: number): void => {
      // Of all blobs under way, not of this one alone.
      bytesDone += layerBytes - reportedBytes;
      reportedBytes = layerBytes;
      options.onProgress?.({ stage: 'uploading', layer: blob.digest, bytesDone: layerBytes, bytesTotal: blob.sizeBytes });
      options.onProgress?.({ stage: 'uploading', bytesDone, bytesTotal });
    };
    const onBytes = (count: number): void => {
      sentBytes += count;
      report(Math.min(sentBytes, blob.sizeBytes));
    };
    // Once, however often it is sent.
    let prepared: Promise<void> | undefined;
    const content = (): AsyncIterable<Uint8Array> => readPrepared(job, blob, { prepare: async () => (prepared ??= prepareBlob(job, blob, signal)), signal });
    const outcome = await client.uploadBlob(blob, content, { ...(mountFrom === undefined ? {} : { mountFrom }), onBytes }, signal);
    if (outcome === 'uploaded') pushedBytes += blob.sizeBytes;
    if (outcome === 'mounted') mountedBytes += blob.sizeBytes;
    report(blob.sizeBytes);
  };
  const queue = [...blobs];
  let failure: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (let blob = queue.shift(); blob !== undefined && failure === undefined; blob = queue.shift()) {
      try {
        await pushOne(blob);
      } catch (error) {
        failure ??= { error: errorMessage(error).includes(blob.digest) ? error : wrapError(`blob ${blob.digest}`, error) };
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: parallelUploads }, lane));
  options.signal.throwIfAborted();
  if (failure !== undefined) throw failure.error;
  options.onProgress?.({ stage: 'done', bytesDone: bytesTotal, bytesTotal });
  return { pushedBytes, mountedBytes };
}

/** Checks the blob; one that was dropped comes from its repository first, but only now that the registry wants it. */
async function prepareBlob(job: PushJob, blob: BlobDescriptor, signal: AbortSignal): Promise<void> {
  const { parts, record } = job;
  const { digest, sizeBytes } = blob;
  await fetchMissing(parts, record, [{ ...blob, isDocument: false }], { ...fetchOptions(job), signal });
  const checked = await parts.pool.runStoreTask({ kind: 'checkBlobs', blobs: [{ digest, sizeBytes, path: blobPath(parts.contentDir, digest) }] }, {}, signal);
  const problem = checked.kind === 'blobs' ? checked.problems[0] : undefined;
  if (problem !== undefined) throw new RuntimeError('dataLoss', `verify blob ${digest}: ${problem.detail}; verify the store with repair`);
}

/** The bytes of the blob, once it is ready. */
async function* readPrepared(
  { parts }: PushJob,
  { digest }: BlobDescriptor,
  on: { readonly prepare: () => Promise<void>; readonly signal: AbortSignal },
): AsyncGenerator<Uint8Array> {
  await on.prepare();
  yield* readPieces(blobPath(parts.contentDir, digest), readBytes, on.signal);
}
