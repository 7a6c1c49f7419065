/**
 * A registry as the source of one image. In: a reference and how its registry is reached. Out: documents; blobs come into their files through a worker.
 */
import { RuntimeError, errorMessage, isAbort, wrapError } from '#core';
import { type Digest, type ImageReference, formatReference, isIndexType, isManifestType } from '#oci';
import { RegistryClient } from './registry/client.io.ts';
import { upstreamOnly } from './registry/direct-access.ts';
import type { RegistryAccess } from './registry/types.ts';
import type { ImageSource, ResolvedDocument } from './types.ts';
import type { BlobTarget } from './worker-messages.ts';
import type { WorkerPool } from './worker-pool.io.ts';

/** What a source is made of. */
export interface RegistrySourceOptions {
  readonly reference: ImageReference;
  readonly access: RegistryAccess;
  readonly pool: WorkerPool;
}

/** One reference at its registry. */
class RegistrySource implements ImageSource, Disposable {
  readonly what: string;
  readonly isRemote = true;
  readonly #options: RegistrySourceOptions;
  readonly #client: RegistryClient;
  /** Blobs that were asked for, and from where the last time. */
  readonly #asked = new Map<Digest, RegistryAccess>();

  constructor(options: RegistrySourceOptions) {
    this.what = `pull ${formatReference(options.reference)}`;
    this.#options = options;
    this.#client = new RegistryClient({ access: options.access });
  }

  /** What the reference names; a digest wins over a tag. */
  async resolve(signal: AbortSignal): Promise<ResolvedDocument> {
    const { digest, tag } = this.#options.reference;
    return this.#client.manifest(digest ?? tag ?? 'latest', signal);
  }

  async document(descriptor: { readonly digest: Digest; readonly mediaType: string }, bytesMax: number, signal: AbortSignal): Promise<Buffer> {
    const { digest, mediaType } = descriptor;
    // Manifests have a place of their own in the protocol; configs are blobs.
    const isManifest = isManifestType(mediaType) || isIndexType(mediaType);
    try {
      if (!isManifest) return await this.#client.blobBytes(digest, bytesMax, signal);
      const { bytes } = await this.#client.manifest(digest, signal);
      if (bytes.length > bytesMax) throw new RuntimeError('resourceExhausted', `${bytes.length} bytes, at most ${bytesMax}`);
      return bytes;
    } catch (error) {
      throw isAbort(error) || errorMessage(error).includes(digest) ? error : wrapError(`${isManifest ? 'manifest' : 'blob'} ${digest}`, error);
    }
  }

  async transfer(blobs: readonly BlobTarget[], onBytes: (digest: Digest, count: number) => void, signal: AbortSignal): Promise<void> {
    const { access, pool } = this.#options;
    // Asked for again, because what came was not what its digest says: a mirror may have it wrong, so now from the registry itself.
    const again = blobs.filter(({ digest }) => this.#asked.has(digest));
    const first = blobs.filter(({ digest }) => !this.#asked.has(digest));
    for (const [wanted, place] of [[first, access] as const, [again, upstreamOnly(access)] as const]) {
      if (wanted.length === 0) continue;
      for (const { digest } of wanted) this.#asked.set(digest, place);
      await pool.run({ kind: 'download', access: place, blobs: wanted }, { onProgress: onBytes }, signal);
    }
  }

  hasOtherPlace(digest: Digest): boolean {
    const { access } = this.#options;
    return this.#asked.get(digest) === access && access.hosts.length > upstreamOnly(access).hosts.length;
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

/** Opens the source; nothing is asked of the registry yet. */
export function openRegistrySource(options: RegistrySourceOptions): ImageSource & Disposable & { resolve(signal: AbortSignal): Promise<ResolvedDocument> } {
  return new RegistrySource(options);
}
