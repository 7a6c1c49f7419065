/**
 * Writing to a registry: blobs and manifests. In: content of ours and its digest. Out: nothing but that it is there. One host takes a push.
 * Source: distribution-spec v1.1, Push.
 */
import { createHash } from 'node:crypto';
import { RuntimeError, limits } from '#core';
import { type Digest, digestOf, mediaTypes } from '#oci';
import { blobPath } from './download.io.ts';
import { decodeReferrers, encodeReferrers, referrersTag } from './lists.ts';
import { pagesOf } from './pages.io.ts';
import { acceptManifests, resolveLocation } from './protocol.ts';
import { retrying } from './retry.io.ts';
import { type HostSession, bodyFrom } from './session.io.ts';
import type { RequestBody } from './transport.io.ts';
import type { ReferrerDescriptor, UploadOutcome, WantedBlob } from './types.ts';

/** Where content goes. */
export interface UploadTarget {
  readonly session: HostSession;
  readonly repository: string;
  readonly triesMax: number;
  readonly signal: AbortSignal;
}

/** What is sent. */
export interface BlobUpload {
  readonly blob: WantedBlob;
  /** Called anew for each try. */
  open(): AsyncIterable<Uint8Array>;
  /** Another repository of the registry that may have the blob. */
  readonly mountFrom?: string | undefined;
  /** Counts that add up to what has been sent; negative when a try begins anew. */
  readonly onBytes?: ((count: number) => void) | undefined;
}

const pushScope = (repository: string): string => `repository:${repository}:pull,push`;

/** True where the registry has the blob in this repository. */
export async function hasBlob(target: UploadTarget, digest: Digest): Promise<boolean> {
  const { session, repository, triesMax, signal } = target;
  const call = { method: 'HEAD', target: blobPath(repository, digest), scopes: [pushScope(repository)] } as const;
  return retrying(
    async () => {
      using answer = await session.expect([200, 404], call, signal);
      await answer.discard(limits.registryErrorBytesMax);
      return answer.status === 200;
    },
    { triesMax, signal },
  );
}

/** Brings the blob to the registry unless it has it. Throws what `open` throws as it is. */
export async function uploadBlob(target: UploadTarget, upload: BlobUpload): Promise<UploadOutcome> {
  const { triesMax, signal } = target;
  if (await hasBlob(target, upload.blob.digest)) return 'present';
  let sent = 0;
  const onBytes = (count: number): void => {
    sent += count;
    upload.onBytes?.(count);
  };
  const beginAnew = (): void => {
    if (sent > 0) onBytes(-sent);
  };
  // Within one try a redirect or a demand for credentials begins anew too.
  const open = (): AsyncIterable<Uint8Array> => {
    beginAnew();
    return upload.open();
  };
  return retrying(
    async () => {
      beginAnew();
      const location = await begin(target, upload);
      if (location === 'mounted') return 'mounted';
      await send(target, location, { sizeBytes: upload.blob.sizeBytes, open, onBytes }, upload.blob.digest);
      return 'uploaded';
    },
    { triesMax, signal },
  );
}

/** Starts an upload and gives its place, or learns that the blob was taken over from the other repository. */
async function begin(target: UploadTarget, { blob, mountFrom }: BlobUpload): Promise<URL | 'mounted'> {
  const { session, repository, signal } = target;
  const uploads = `${repository}/blobs/uploads/`;
  if (mountFrom !== undefined) {
    const scopes = [pushScope(repository), `repository:${mountFrom}:pull`];
    const query = new URLSearchParams({ mount: blob.digest, from: mountFrom }).toString();
    // Whatever a registry says instead of taking it over, sending the blob is the other way.
    const answer = await session.request({ method: 'POST', target: `${uploads}?${query}`, scopes }, signal).catch((error: unknown) => {
      if (error instanceof RuntimeError && error.code === 'unauthenticated') return undefined;
      throw error;
    });
    await answer?.discard(limits.registryErrorBytesMax);
    if (answer?.status === 201) return 'mounted';
    if (answer?.status === 202) return resolveLocation(answer.headers.location, answer.url, 'leads an upload');
  }
  using answer = await session.expect([202], { method: 'POST', target: uploads, scopes: [pushScope(repository)] }, signal);
  await answer.discard(limits.registryErrorBytesMax);
  return resolveLocation(answer.headers.location, answer.url, 'leads an upload');
}

async function send(target: UploadTarget, location: URL, body: RequestBody, digest: Digest): Promise<void> {
  const { session, repository, signal } = target;
  const place = new URL(location);
  place.searchParams.set('digest', digest);
  using answer = await session.expect(
    [201, 204],
    { method: 'PUT', target: place, headers: { 'content-type': 'application/octet-stream' }, body, scopes: [pushScope(repository)], answerTimeoutMs: limits.uploadCommitTimeoutMs },
    signal,
  );
  await answer.discard(limits.registryErrorBytesMax);
}

/** What a registry did with a manifest. */
export interface ManifestUpload {
  /** True where the registry lists manifests with a subject by itself. Source: distribution-spec v1.1, "Pushing Manifests with Subject". */
  readonly listsReferrers: boolean;
}

/** Stores a manifest under a tag or its digest. Throws dataLoss where the registry names another digest than the content has. */
export async function putManifest(
  target: UploadTarget,
  manifest: { readonly tagOrDigest: string; readonly bytes: Uint8Array; readonly mediaType: string; readonly digest: Digest },
): Promise<ManifestUpload> {
  const { session, repository, triesMax, signal } = target;
  const { tagOrDigest, bytes, mediaType, digest } = manifest;
  const call = {
    method: 'PUT',
    target: `${repository}/manifests/${tagOrDigest}`,
    headers: { 'content-type': mediaType },
    body: bodyFrom(bytes),
    scopes: [pushScope(repository)],
    answerTimeoutMs: limits.uploadCommitTimeoutMs,
  } as const;
  return retrying(
    async () => {
      using answer = await session.expect([201, 202, 204], call, signal);
      await answer.discard(limits.registryErrorBytesMax);
      const stored = answer.headers['docker-content-digest'];
      if (stored !== undefined && stored !== digest)
        throw new RuntimeError('dataLoss', `push manifest ${digest}: the registry stored ${JSON.stringify(String(stored).slice(0, 140))}`);
      return { listsReferrers: answer.headers['oci-subject'] !== undefined };
    },
    { triesMax, signal },
  );
}

/**
 * Adds a manifest to the list of what refers to its subject, where the registry keeps none by itself. Two that do this at once may lose one entry:
 * the protocol has no better way. Source: distribution-spec v1.1, "Pushing Manifests with Subject".
 */
export async function listReferrer(target: UploadTarget, subject: Digest, entry: ReferrerDescriptor): Promise<void> {
  const { session, repository, triesMax, signal } = target;
  const tag = referrersTag(subject);
  const list = { target: `${repository}/manifests/${tag}`, what: `referrers of ${subject}`, accept: acceptManifests, decode: decodeReferrers };
  const bytes = encodeReferrers((await pagesOf(session, list, { triesMax, signal })) ?? [], entry);
  if (bytes === undefined) return;
  const digest = digestOf('sha256', createHash('sha256').update(bytes).digest('hex'));
  await putManifest(target, { tagOrDigest: tag, bytes, mediaType: mediaTypes.ociIndex, digest });
}
