/**
 * A client of one repository of one registry, over its mirrors. In: how the repository is reached, references, digests. Out: verified documents, bytes
 * of blobs for a sink, lists; content of ours in the registry.
 *
 * Hosts are asked in their order. One that fails, with any failure but the caller's own, is followed by the next; one that was never there
 * is not asked again. Errors name no reference, since the caller knows it, and no secret.
 */
import { createHash } from 'node:crypto';
import { RuntimeError, errorCode, errorMessage, isAbort, limits } from '#core';
import { type Digest, digestOf, digestParts, isDigest } from '#oci';
import type { ResolvedDocument } from '../types.ts';
import { Download, blobPath } from './download.io.ts';
import { type HostList, pagesOf } from './pages.io.ts';
import { decodeReferrers, decodeSubject, decodeTags, referrersTag } from './lists.ts';
import { acceptManifests } from './protocol.ts';
import { TransientFailure, retrying } from './retry.io.ts';
import { type HostCall, HostSession } from './session.io.ts';
import { Slots } from './slots.ts';
import type { Answer } from './transport.io.ts';
import type { BlobSink, ReferrerDescriptor, RegistryAccess, RegistryCapability, UploadOutcome, WantedBlob } from './types.ts';
import { type ManifestUpload, type UploadTarget, hasBlob, listReferrer, putManifest, uploadBlob } from './upload.io.ts';

/** One repository and how to get there. */
export interface RegistryClientOptions {
  readonly access: RegistryAccess;
  /** No byte for so long ends a request with deadlineExceeded. Default: 30 seconds. */
  readonly stallTimeoutMs?: number;
  /** How often a request that brings nothing is made again. Default: `limits.registryTriesMax` less one. */
  readonly retries?: number;
}

interface HostFailure {
  readonly host: string;
  readonly error: unknown;
}

/** Speaks to one repository; connections are kept until disposal. At most `limits.registryRequestsMax` requests are under way. */
export class RegistryClient implements Disposable {
  readonly #access: RegistryAccess;
  readonly #sessions: readonly HostSession[];
  readonly #triesMax: number;
  /** Hosts that were never there. */
  readonly #absent = new Set<HostSession>();

  constructor(options: RegistryClientOptions) {
    const { access, stallTimeoutMs = 30_000, retries = limits.registryTriesMax - 1 } = options;
    const slots = new Slots(limits.registryRequestsMax);
    this.#access = access;
    this.#triesMax = retries + 1;
    this.#sessions = access.hosts.map((host) => new HostSession({ access, host, stallTimeoutMs, slots }));
  }

  /** The index or manifest that a tag or digest names, verified. Throws notFound, unauthenticated, unavailable, dataLoss, …. */
  async manifest(tagOrDigest: string, signal: AbortSignal): Promise<ResolvedDocument> {
    const target = `${this.#access.repository}/manifests/${tagOrDigest}`;
    return this.#eachHost(isDigest(tagOrDigest) ? 'pull' : 'resolve', signal, async (session) =>
      this.#ask(session, { target, headers: { accept: acceptManifests } }, signal, async (answer) => {
        const bytes = await answer.bytes(limits.manifestBytesMax);
        const mediaType = answer.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
        return { bytes, mediaType, digest: verifyManifest(bytes, tagOrDigest, answer.headers['docker-content-digest']) };
      }),
    );
  }

  /** A small blob, verified, at most `bytesMax`. */
  async blobBytes(digest: Digest, bytesMax: number, signal: AbortSignal): Promise<Buffer> {
    return this.#eachHost('pull', signal, async (session) =>
      this.#ask(session, { target: blobPath(this.#access.repository, digest), headers: { accept: '*/*' } }, signal, async (answer) => {
        const bytes = await answer.bytes(bytesMax);
        const found = hashOf(bytes, digest);
        if (found !== digest) throw new RuntimeError('dataLoss', `verify blob ${digest}: the content is ${found}`);
        return bytes;
      }),
    );
  }

  /**
   * Brings the bytes that the sink lacks. Goes on where a broken connection ended, at the next host too; large blobs come in several ranges at once.
   * Does not hash: whoever finds the digest wrong downloads again, then from `upstreamOnly(access)`, because a mirror may have lied. Throws what the sink
   * throws as it is, and dataLoss for sizes and ranges that contradict what was announced.
   */
  async download(blob: WantedBlob, sink: BlobSink, signal: AbortSignal): Promise<void> {
    const download = new Download(blob, sink);
    const path = blobPath(this.#access.repository, blob.digest);
    const options = { triesMax: this.#triesMax, signal };
    await this.#eachHost(
      'pull',
      signal,
      async (session) => download.from(session, path, options),
      () => download.sinkFailure !== undefined,
    );
  }

  /** All tags of the repository, in the registry's order. Throws resourceExhausted beyond `limits.registryListEntriesMax`. */
  async tags(signal: AbortSignal): Promise<readonly string[]> {
    const list: HostList<string> = { target: `${this.#access.repository}/tags/list?n=1000`, what: `tags of ${this.#access.repository}`, decode: decodeTags };
    return this.#eachHost('resolve', signal, async (session) => {
      const tags = await pagesOf(session, list, { triesMax: this.#triesMax, signal });
      if (tags === undefined) throw new RuntimeError('notFound', 'repository name not known to registry');
      return tags;
    });
  }

  /** What refers to a manifest, from the registry's list or, where it keeps none, from the tag that stands for it. */
  async referrers(digest: Digest, filter: { readonly artifactType?: string }, signal: AbortSignal): Promise<readonly ReferrerDescriptor[]> {
    const { artifactType } = filter;
    const { repository } = this.#access;
    const query = artifactType === undefined ? '' : `?${new URLSearchParams({ artifactType }).toString()}`;
    const what = `referrers of ${digest}`;
    const found = await this.#eachHost('resolve', signal, async (session) => {
      const retry = { triesMax: this.#triesMax, signal };
      const listed = await pagesOf(session, { target: `${repository}/referrers/${digest}${query}`, what, decode: decodeReferrers }, retry);
      return listed ?? (await pagesOf(session, { target: `${repository}/manifests/${referrersTag(digest)}`, what, accept: acceptManifests, decode: decodeReferrers }, retry)) ?? [];
    });
    // Filtering is the registry's choice.
    return artifactType === undefined ? found : found.filter((descriptor) => descriptor.artifactType === artifactType);
  }

  /** True where the host that a push goes to has the blob in this repository. */
  async hasBlob(digest: Digest, signal: AbortSignal): Promise<boolean> {
    return hasBlob(this.#pushTarget(signal), digest);
  }

  /**
   * Brings a blob to the registry. `open` is called anew for each try and only when the blob must be sent; the counts that `onBytes` gets add up to what
   * was sent, so one is negative when a try begins anew. Throws what `open` throws as it is.
   */
  async uploadBlob(
    blob: WantedBlob,
    open: () => AsyncIterable<Uint8Array>,
    options: { readonly mountFrom?: string; readonly onBytes?: (count: number) => void },
    signal: AbortSignal,
  ): Promise<UploadOutcome> {
    return uploadBlob(this.#pushTarget(signal), { blob, open, mountFrom: options.mountFrom, onBytes: options.onBytes });
  }

  /**
   * Stores a manifest whose blobs are there, and adds it to the list of what refers to its subject where the registry keeps no such list. Throws dataLoss
   * where the registry took it for something else.
   */
  async putManifest(tagOrDigest: string, bytes: Uint8Array, mediaType: string, signal: AbortSignal): Promise<ManifestUpload> {
    const digest = hashOf(bytes, isDigest(tagOrDigest) ? tagOrDigest : undefined);
    if (isDigest(tagOrDigest) && tagOrDigest !== digest) throw new RuntimeError('invalidArgument', `push manifest ${tagOrDigest}: the content is ${digest}`);
    const target = this.#pushTarget(signal);
    const done = await putManifest(target, { tagOrDigest, bytes, mediaType, digest });
    const about = decodeSubject(bytes, { mediaType, digest });
    if (about !== undefined && !done.listsReferrers) await listReferrer(target, about.subject, about.entry);
    return done;
  }

  [Symbol.dispose](): void {
    for (const session of this.#sessions) session[Symbol.dispose]();
  }

  /** A push goes to one host, the first that takes it. */
  #pushTarget(signal: AbortSignal): UploadTarget {
    const session = this.#sessions.find(({ host }) => host.capabilities.includes('push'));
    if (session === undefined) throw new RuntimeError('failedPrecondition', `no host of ${this.#access.registry} is configured for push`);
    return { session, repository: this.#access.repository, triesMax: this.#triesMax, signal };
  }

  async #ask<T>(session: HostSession, call: HostCall, signal: AbortSignal, read: (answer: Answer) => Promise<T>): Promise<T> {
    const once = async (): Promise<T> => {
      using answer = await session.expect([200], call, signal);
      return await read(answer);
    };
    return retrying(once, { triesMax: this.#triesMax, signal });
  }

  /** The hosts with a capability, in the order of trying. */
  #hostsFor(capability: RegistryCapability): readonly HostSession[] {
    const able = this.#sessions.filter(({ host }) => host.capabilities.includes(capability));
    if (able.length === 0) throw new RuntimeError('failedPrecondition', `no host of ${this.#access.registry} is configured for ${capability}`);
    const present = able.filter((session) => !this.#absent.has(session));
    return present.length > 0 ? present : able;
  }

  async #eachHost<T>(capability: RegistryCapability, signal: AbortSignal, ask: (session: HostSession) => Promise<T>, isOurs: () => boolean = () => false): Promise<T> {
    const failures: HostFailure[] = [];
    for (const session of this.#hostsFor(capability)) {
      try {
        return await ask(session);
      } catch (error) {
        signal.throwIfAborted();
        if (isAbort(error) || isOurs()) throw error;
        failures.push({ host: session.name, error });
        if (!session.transport.hasAnswered) this.#absent.add(session);
      }
    }
    throw combine(failures);
  }
}

/** The last host's failure, which is the registry's own, with the others' beside it. */
function combine(failures: readonly HostFailure[]): unknown {
  const last = failures.at(-1);
  const others = failures.slice(0, -1);
  if (last === undefined || others.length === 0) return last?.error;
  const words = others.slice(0, 3).map(({ host, error }) => `${host}: ${errorMessage(error).slice(0, 200)}`);
  const more = others.length > words.length ? `, and ${others.length - words.length} more` : '';
  const cause = new AggregateError(failures.map(({ error }) => error));
  const message = `${errorMessage(last.error)} (at ${last.host}; before it ${words.join('; ')}${more})`;
  return last.error instanceof TransientFailure
    ? new TransientFailure(last.error.code, message, { cause, retryAfterMs: last.error.retryAfterMs })
    : new RuntimeError(errorCode(last.error), message, { cause });
}

/** Digest of bytes, by the algorithm of `like`. */
function hashOf(bytes: Uint8Array, like: Digest | undefined): Digest {
  const algorithm = like === undefined ? 'sha256' : digestParts(like).algorithm;
  return digestOf(algorithm, createHash(algorithm).update(bytes).digest('hex'));
}

/** Checks a document against the digest that was asked for, or the one that the registry names for a tag. */
function verifyManifest(bytes: Buffer, tagOrDigest: string, header: string | string[] | undefined): Digest {
  if (isDigest(tagOrDigest)) {
    const found = hashOf(bytes, tagOrDigest);
    if (found !== tagOrDigest) throw new RuntimeError('dataLoss', `verify manifest ${tagOrDigest}: the content is ${found}`);
    return found;
  }
  const named = typeof header === 'string' && isDigest(header) ? header : undefined;
  if (named !== undefined && hashOf(bytes, named) !== named) throw new RuntimeError('dataLoss', `verify manifest ${named}: the content is ${hashOf(bytes, named)}`);
  return hashOf(bytes, undefined);
}
