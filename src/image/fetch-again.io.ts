/**
 * Content that is missing, brought back from where the image is known to be. In: an image's record and digests. Out: blobs in the content store, or a clear
 * refusal. Each repository gets only credentials for its own registry.
 */
import { RuntimeError, errorMessage, isAbort, limits, wrapError } from '#core';
import { type Digest, type ImageReference, referenceName } from '#oci';
import { type ImageRecord, sourcesOf } from './catalog.ts';
import { fetchBlobs } from './bring-layers.io.ts';
import { blobSize, ingestBytes } from './content.io.ts';
import type { BlobDescriptor } from './install.io.ts';
import { openRegistrySource } from './registry-source.io.ts';
import type { RegistryAuth } from './registry/types.ts';
import type { StoreParts } from './store-parts.ts';

/** Who asks, with what. */
export interface FetchOptions {
  /** By registry. */
  readonly auths?: Readonly<Record<string, RegistryAuth>>;
  readonly onBytes?: (digest: Digest, count: number) => void;
  readonly signal: AbortSignal;
}

/** A blob to bring, and whether it is an index or manifest, which registries keep apart. */
export interface MissingBlob extends BlobDescriptor {
  readonly isDocument: boolean;
}

/** The repositories to ask, each once, with the digest that the image has there. */
function repositoriesOf(record: ImageRecord): readonly ImageReference[] {
  return [...new Map(sourcesOf(record).map((reference) => [referenceName(reference), reference])).values()];
}

/**
 * Brings one blob from the first repository that has it, over what lies there. Throws failedPrecondition where no repository is known, else the last repository's
 * error, with the others in its cause.
 */
export async function fetchAgain(parts: StoreParts, record: ImageRecord, blob: MissingBlob, options: FetchOptions): Promise<void> {
  const repositories = repositoriesOf(record);
  if (repositories.length === 0)
    throw new RuntimeError('failedPrecondition', `blob ${blob.digest}: is not in the store, and no repository is known to have the image (it was imported or made here)`);
  const failures: unknown[] = [];
  for (const reference of repositories) {
    try {
      await fetchFrom(parts, reference, blob, options);
      return;
    } catch (error) {
      if (isAbort(error) || options.signal.aborted) throw error;
      failures.push(wrapError(`fetch blob ${blob.digest} from ${referenceName(reference)}`, error));
    }
  }
  const last = failures.at(-1);
  if (failures.length === 1) throw last;
  throw wrapError(`${failures.length} repositories failed, the last`, new AggregateError(failures, errorMessage(last)));
}

async function fetchFrom(parts: StoreParts, reference: ImageReference, blob: MissingBlob, options: FetchOptions): Promise<void> {
  const { contentDir, layers, pool } = parts;
  const auth = Object.hasOwn(options.auths ?? {}, reference.registry) ? options.auths?.[reference.registry] : undefined;
  using source = openRegistrySource({ reference, access: await parts.access(reference, auth), pool });
  if (blob.isDocument) {
    const bytes = await source.document({ digest: blob.digest, size: blob.sizeBytes, mediaType: blob.mediaType }, limits.manifestBytesMax, options.signal);
    await ingestBytes(contentDir, bytes, blob.digest);
    return;
  }
  await fetchBlobs({ layers, source, replaces: true, ...options }, [{ digest: blob.digest, sizeBytes: blob.sizeBytes }]);
}

/** Brings those of the blobs that are not in the store. */
export async function fetchMissing(parts: StoreParts, record: ImageRecord, blobs: readonly MissingBlob[], options: FetchOptions): Promise<void> {
  for (const blob of blobs) {
    options.signal.throwIfAborted();
    if ((await blobSize(parts.contentDir, blob.digest)) === undefined) await fetchAgain(parts, record, blob, options);
  }
}
