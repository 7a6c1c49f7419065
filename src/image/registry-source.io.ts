/** A registry as the source of one image. In: a reference and credentials. Out: documents; blobs go to the content store through a worker. */
import { RuntimeError, limits } from '#core';
import { type Digest, type ImageReference, formatReference } from '#oci';
import { verifyBytes } from './content.io.ts';
import { RegistryClient } from './registry.io.ts';
import type { ImageSource, ResolvedDocument } from './types.ts';
import type { RegistryAuth, WantedBlob } from './worker-messages.ts';
import type { WorkerPool } from './worker-pool.io.ts';

class RegistrySource implements ImageSource, Disposable {
  readonly what: string;
  readonly #reference: ImageReference;
  readonly #auth: RegistryAuth | undefined;
  readonly #contentDir: string;
  readonly #pool: WorkerPool;
  readonly #client: RegistryClient;

  constructor(options: { readonly reference: ImageReference; readonly auth: RegistryAuth | undefined; readonly contentDir: string; readonly pool: WorkerPool }) {
    const { reference, auth } = options;
    this.what = `pull ${formatReference(reference)}`;
    this.#reference = reference;
    this.#auth = auth;
    this.#contentDir = options.contentDir;
    this.#pool = options.pool;
    this.#client = new RegistryClient({ registry: reference.registry, repository: reference.repository, auth });
  }

  /** What the reference names; a digest wins over a tag. */
  async resolve(signal: AbortSignal): Promise<ResolvedDocument> {
    const { digest, tag } = this.#reference;
    return this.#client.manifest(digest ?? tag ?? 'latest', signal);
  }

  async document(descriptor: { readonly digest: Digest; readonly mediaType: string }, bytesMax: number, signal: AbortSignal): Promise<Buffer> {
    // Manifests have a place of their own in the protocol; configs are blobs.
    const isManifest = /manifest|index/.test(descriptor.mediaType);
    const bytes = isManifest ? (await this.#client.manifest(descriptor.digest, signal)).bytes : await this.#client.blobBytes(descriptor.digest, bytesMax, signal);
    if (bytes.length > limits.manifestBytesMax && isManifest) throw new RuntimeError('resourceExhausted', `manifest ${descriptor.digest}: too large`);
    verifyBytes(bytes, descriptor.digest);
    return bytes;
  }

  async blobs(wanted: readonly WantedBlob[], onBytes: (digest: Digest, count: number) => void, signal: AbortSignal): Promise<void> {
    const { registry, repository } = this.#reference;
    await this.#pool.run({ kind: 'download', registry, repository, auth: this.#auth, blobs: wanted, contentDir: this.#contentDir }, { onProgress: onBytes }, signal);
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

/** Opens the source; nothing is asked of the registry yet. */
export function openRegistrySource(options: {
  readonly reference: ImageReference;
  readonly auth: RegistryAuth | undefined;
  readonly contentDir: string;
  readonly pool: WorkerPool;
}): ImageSource & Disposable & { resolve(signal: AbortSignal): Promise<ResolvedDocument> } {
  return new RegistrySource(options);
}
