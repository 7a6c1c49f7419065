/**
 * Blobs on their way into the content store. In: digests that somebody wants, and a source that brings them into growing files. Out: files to read at
 * once, and blobs once their reader has checked them.
 *
 * A blob comes once at a time, whoever wants it: the second one waits for the first, and takes over where the first fails. What an unfinished
 * transfer from a registry brought is kept for the next.
 */
import { rm } from 'node:fs/promises';
import { RuntimeError } from '#core';
import type { Digest } from '#oci';
import { beginBlob, blobPath, blobSize, commitBlob, keepPart } from './content.io.ts';
import { grownBytes, newGrowth } from './growing-file.io.ts';
import type { BlobFile, BlobTarget, WantedBlob } from './worker-messages.ts';
import type { ImageSource } from './types.ts';

/** What is on its way into one content store, and who waits for it. */
export class BlobArrivals {
  readonly contentDir: string;
  readonly #claims = new Map<Digest, Promise<void>>();

  constructor(contentDir: string) {
    this.contentDir = contentDir;
  }

  /** Resolves when nobody brings the blob any more, for whatever reason; undefined while nobody does. */
  claimed(digest: Digest): Promise<void> | undefined {
    return this.#claims.get(digest);
  }

  /** Takes the blob upon the caller, whom nobody preceded, until the returned function is called. */
  claim(digest: Digest): () => void {
    if (this.#claims.has(digest)) throw new RuntimeError('internal', `bug: blob ${digest} is claimed twice`);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#claims.set(digest, promise);
    return () => {
      this.#claims.delete(digest);
      resolve();
    };
  }
}

interface Arrival {
  target: BlobTarget;
  /** `coming`: nobody reads it yet; `read`: somebody does; `refused`: not what it should be. */
  state: 'coming' | 'read' | 'refused';
  readonly release: () => void;
}

/** What an intake is made of. */
export interface IntakeOptions {
  readonly arrivals: BlobArrivals;
  readonly source: Pick<ImageSource, 'transfer' | 'isRemote' | 'hasOtherPlace'>;
  readonly onBytes: (digest: Digest, count: number) => void;
  /** Told the first failure of a transfer; it is for the caller to abort the rest. */
  readonly onFailure: (error: unknown) => void;
  /** Brings blobs whatever lies there: it is damaged. Default: false. */
  readonly replaces?: boolean;
  readonly signal: AbortSignal;
}

/** The blobs of one image, or of one repair. Must be ended. */
export class BlobIntake {
  readonly #options: IntakeOptions;
  readonly #own = new Map<Digest, Arrival>();
  readonly #transfers: Promise<void>[] = [];

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** Begins to bring the blobs that are not there and that nobody else brings, the first ones first. */
  async begin(wanted: readonly WantedBlob[]): Promise<void> {
    const { arrivals } = this.#options;
    const targets: BlobTarget[] = [];
    for (const blob of wanted) {
      if (arrivals.claimed(blob.digest) !== undefined) continue;
      const release = arrivals.claim(blob.digest);
      try {
        if (await this.#isHere(blob)) {
          release();
          continue;
        }
        const target = await this.#target(blob);
        this.#own.set(blob.digest, { target, state: 'coming', release });
        targets.push(target);
      } catch (error) {
        release();
        throw error;
      }
    }
    this.#transfer(targets);
  }

  async #isHere({ digest, sizeBytes }: WantedBlob): Promise<boolean> {
    return this.#options.replaces !== true && (await blobSize(this.#options.arrivals.contentDir, digest)) === sizeBytes;
  }

  async #target(blob: WantedBlob): Promise<BlobTarget> {
    const begun = await beginBlob(this.#options.arrivals.contentDir, blob);
    return { ...begun, digest: blob.digest, sizeBytes: blob.sizeBytes, growth: newGrowth(begun.haveBytes) };
  }

  #transfer(targets: readonly BlobTarget[]): void {
    if (targets.length === 0) return;
    const { source, onBytes, onFailure, signal } = this.#options;
    this.#transfers.push(source.transfer(targets, onBytes, signal).catch(onFailure));
  }

  /** How much of a blob is here, undefined where this intake does not bring it (any more). */
  bytesHere(digest: Digest): number | undefined {
    const own = this.#own.get(digest);
    return own === undefined ? undefined : grownBytes(own.target.growth);
  }

  /**
   * The blob, to be read: as it comes, by its first reader alone, who then calls `commit` or `refuse`; anybody else gets it from the content store when
   * that reader is through. Throws what its transfer throws.
   */
  async file(blob: WantedBlob): Promise<BlobFile> {
    const { arrivals, signal } = this.#options;
    const { digest, sizeBytes } = blob;
    for (;;) {
      signal.throwIfAborted();
      const own = this.#own.get(digest);
      if (own?.state === 'coming') {
        own.state = 'read';
        return { digest, sizeBytes, path: own.target.path, growth: own.target.growth };
      }
      const claimed = arrivals.claimed(digest);
      if (claimed !== undefined) await untilAborted(claimed, signal);
      else if (await this.#isHere(blob)) return { digest, sizeBytes, path: blobPath(arrivals.contentDir, digest) };
      else await this.begin([blob]);
    }
  }

  /** Blobs that have come, or are coming, and that nobody has asked for. */
  unread(): readonly WantedBlob[] {
    return [...this.#own.values()].filter(({ state }) => state === 'coming').map(({ target }) => target);
  }

  /** The blob's reader could not go on for a reason of its own: the blob may be asked for again. */
  giveBack(digest: Digest): void {
    const own = this.#own.get(digest);
    if (own?.state === 'read') own.state = 'coming';
  }

  /** The blob's reader has found its digest right. Nothing to do for one that was in the content store. */
  async commit(digest: Digest): Promise<void> {
    const own = this.#own.get(digest);
    if (own?.state !== 'read') return;
    await commitBlob(this.#options.arrivals.contentDir, own.target);
    this.#own.delete(digest);
    own.release();
  }

  /**
   * The blob's reader has found its digest wrong. True where a beginning that lay there before, or one place of several, may be the cause: it comes
   * again from its first byte, and may be asked for again.
   */
  async refuse(digest: Digest): Promise<boolean> {
    const own = this.#own.get(digest);
    if (own?.state !== 'read') return false;
    const mayTryAgain = own.target.haveBytes > 0 || this.#options.source.hasOtherPlace?.(digest) === true;
    await rm(own.target.path, { force: true });
    own.state = 'refused';
    if (!mayTryAgain) return false;
    own.target = await this.#target(own.target);
    own.state = 'coming';
    this.#transfer([own.target]);
    return true;
  }

  /** Gives up what has not been committed, and keeps what a later transfer can use. The signal has been aborted where transfers still run. */
  async end(): Promise<void> {
    await Promise.all(this.#transfers);
    const { arrivals, source } = this.#options;
    try {
      for (const { target, state } of this.#own.values()) {
        const bytes = state === 'refused' || source.isRemote !== true ? 0 : grownBytes(target.growth);
        await keepPart(arrivals.contentDir, target, bytes);
      }
    } finally {
      for (const { release } of this.#own.values()) release();
      this.#own.clear();
    }
  }
}

/** Waits, but not beyond the signal, whose reason is thrown. */
export async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
