/** What the image store gives and takes. Types only. */
import type { Clock, Records } from '#core';
import type { Digest, ImageConfig, ImageReference, Platform } from '#oci';
import type { Plan } from '#plan';
import type { RegistryAuth } from './worker-messages.ts';

/** One running unpack child. */
export interface UnpackSession {
  /** Layer records, whole or in parts; resolves when more may follow, rejects when the child has failed. */
  write(bytes: Uint8Array): Promise<void>;
  /** After the finish record: resolves with the number of entries once everything is synced, rejects with the child's failure. */
  finish(): Promise<number>;
  /** Ends the child without an answer; no error after `finish`. */
  abort(): void;
}

/** What the store is wired with. */
export interface ImageStoreOptions {
  /** Absolute; `content`, `layers`, `index` and `unpack` below it belong to the store. */
  readonly stateDir: string;
  readonly records: Records;
  readonly clock: Clock;
  /** Starts the confined child that writes below `layerDir`; `rootDir` is an empty directory that it may mount on. */
  readonly unpack: (request: { readonly layerDir: string; readonly rootDir: string }) => Promise<UnpackSession>;
  /** Runs a plan of host sections, such as the removal of a tree, outside Node. */
  readonly runOnHost: (plan: Plan) => Promise<void>;
  readonly platform: Platform;
  /** Entry file of the worker threads: `src/image/worker.io.ts` from a checkout, its bundle (one file, ESM) in a release. */
  readonly workerPath: string | URL;
}

/** How far a pull or an import is. `layer` is absent for the whole; bytes are those of compressed blobs. */
export interface ImageProgress {
  readonly stage: 'resolving' | 'downloading' | 'verifying' | 'unpacking' | 'done';
  readonly layer?: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

/** How to pull; everything has a default. */
export interface PullOptions {
  readonly auth?: RegistryAuth;
  /** Default: the store's. */
  readonly platform?: Platform;
  readonly onProgress?: (progress: ImageProgress) => void;
  readonly signal?: AbortSignal;
}

/** An image as the store keeps it. Everything in `config` was written by a stranger. */
export interface StoredImage {
  /** `sha256:…` of the image configuration. */
  readonly id: Digest;
  /** Repository tags, normalised, such as `docker.io/library/busybox:latest`. */
  readonly names: readonly string[];
  /** Repository digests, `name@sha256:…` of what the reference led to. */
  readonly digests: readonly string[];
  readonly config: ImageConfig;
  /** What of the configuration a container uses. */
  readonly process: {
    readonly entrypoint: readonly string[];
    readonly command: readonly string[];
    readonly env: readonly string[];
    readonly workingDir: string;
    readonly user: string;
    readonly stopSignal: string;
  };
  /** Bytes of its blobs. */
  readonly sizeBytes: number;
  /** When the image was stored, Unix nanoseconds. */
  readonly createdAtNs: bigint;
  /** Numeric user of the image, where it names one. */
  readonly uid?: number;
  readonly username?: string;
  /** Never removed by garbage collection of the kubelet. */
  readonly pinned: boolean;
}

/** The layers of a leased image: names relative to `storeDir`, short enough for one page of mount options, top layer first. */
export interface ImageLayers {
  readonly storeDir: string;
  readonly lower: readonly string[];
}

/** How to import. */
export interface ImportOptions {
  /** Name for an image that the layout leaves unnamed, or for its only image. */
  readonly name?: string;
  readonly onProgress?: (progress: ImageProgress) => void;
  readonly signal?: AbortSignal;
}

/** What to make an image of. */
export interface FromHostRequest {
  readonly name: string;
  /** Executables on the host; each brings its interpreter and libraries. */
  readonly executables: readonly string[];
  /** Further files, taken as they are. */
  readonly files?: readonly string[];
  /** Default: the first executable. */
  readonly entrypoint?: readonly string[];
  readonly env?: readonly string[];
  readonly workingDir?: string;
  readonly user?: string;
}

/** A file that went into an image made from the host. */
export interface HostFile {
  readonly path: string;
  readonly sizeBytes: number;
}

/** What the store takes on its file system. */
export interface ImageUsage {
  readonly atNs: bigint;
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** Where documents and blobs of one image come from. */
export interface ImageSource {
  /** Names the source in errors, such as `127.0.0.1:5000/x:1`. */
  readonly what: string;
  /** The document that a descriptor points to, verified against digest and size. */
  document(descriptor: { readonly digest: Digest; readonly size: number; readonly mediaType: string }, bytesMax: number, signal: AbortSignal): Promise<Buffer>;
  /** Brings the blobs into the content store, verified. */
  blobs(wanted: readonly { readonly digest: Digest; readonly sizeBytes: number }[], onBytes: (digest: Digest, count: number) => void, signal: AbortSignal): Promise<void>;
}

/** What a reference led to: the index or manifest, its type and digest. */
export interface ResolvedDocument {
  readonly bytes: Buffer;
  readonly mediaType: string | undefined;
  readonly digest: Digest;
}

/** What an image gets when it is stored. */
export interface ImageNaming {
  readonly tags: readonly string[];
  readonly reference?: ImageReference;
}
