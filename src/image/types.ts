/** What the image store gives and takes. Types only. */
import type { Clock, Records } from '#core';
import type { Digest, ImageConfig, Platform } from '#oci';
import type { Plan } from '#plan';
import type { RegistryAccess } from './registry/types.ts';
import type { BlobTarget, RegistryAuth } from './worker-messages.ts';

/** What the store is wired with. */
export interface ImageStoreOptions {
  /** Absolute; `content`, `layers`, `index` and `unpack` below it belong to the store. */
  readonly stateDir: string;
  readonly records: Records;
  readonly clock: Clock;
  /** The launcher's socket: worker threads ask it for the confined children that write layers. */
  readonly launcherSocket: string;
  /** Runs a plan of host sections, such as the removal of a tree, outside Node. */
  readonly runOnHost: (plan: Plan) => Promise<void>;
  readonly platform: Platform;
  /** Entry file of the worker threads: `src/image/worker.io.ts` from a checkout, its bundle (one file, ESM) in a release. */
  readonly workerPath: string | URL;
  /** Where registries are reached, asked anew for each operation. Default: each registry directly, without mirrors. */
  readonly registries?: RegistryDirectory;
  /**
   * Keeps the blobs of layers after they are unpacked, so that an image can be pushed, saved and repaired without its registry. With `false` they are
   * dropped for images that have a repository digest; what needs one fetches it again. Default: true.
   */
  readonly keepBlobs?: boolean;
  /** Takes layers of the nondistributable media types, which are refused otherwise. Default: false. */
  readonly allowForeignLayers?: boolean;
  /** Whose attributes mark whiteouts and opaque directories: those that only the host's root may set, or a user namespace's. Default: trusted. */
  readonly overlayAttributes?: 'trusted' | 'user';
}

/** How registries are reached: mirrors, certificates, proxies. Throws with the file and key of a bad configuration. */
export interface RegistryDirectory {
  access(reference: { readonly registry: string; readonly repository: string }, auth?: RegistryAuth): Promise<RegistryAccess>;
}

/**
 * How far an operation is. `layer` is absent for the whole. Bytes are those of compressed blobs; while saving, those written to the archive; while verifying a store,
 * those read of blobs and layers.
 */
export interface ImageProgress {
  readonly stage: 'resolving' | 'downloading' | 'verifying' | 'unpacking' | 'uploading' | 'saving' | 'done';
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
  /** An artifact has no process: its files can be mounted as a volume, never run. */
  readonly kind: 'image' | 'artifact';
  /** `sha256:…` of the image configuration; of the manifest for an artifact. */
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
  /** True where the layers speak to the overlay by `user.overlay.*` attributes, so that it must be mounted with `userxattr`. */
  readonly userAttributes?: boolean;
}

/** The layers of a leased image for a container in a user namespace. */
export interface MappedLayers extends ImageLayers {
  /** True: owners are the image's, and each layer is mapped when it is mounted. False: these are copies that belong to the mapped ids. */
  readonly mapLower: boolean;
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
  /**
   * Brings the blobs, the first ones first, each into its own growing file. Nothing is verified but sizes: whoever reads the file checks the digest.
   * Throws the first failure, with the blob's digest, and stops the others.
   */
  transfer(blobs: readonly BlobTarget[], onBytes: (digest: Digest, count: number) => void, signal: AbortSignal): Promise<void>;
  /** True for a registry: what an unfinished transfer brought is worth keeping. Default: false. */
  readonly isRemote?: boolean;
  /** True where a blob whose digest was wrong may come right from another place, which the next transfer then asks. Default: false. */
  hasOtherPlace?(digest: Digest): boolean;
}

/** What a reference led to: the index or manifest, its type and digest. */
export interface ResolvedDocument {
  readonly bytes: Buffer;
  readonly mediaType: string | undefined;
  readonly digest: Digest;
}

/** How much a removal takes. */
export interface RemoveOptions {
  /** Takes only the given name away; the image goes with its last tag. Default: the image with all its names, as CRI wants. */
  readonly untagOnly?: boolean;
}

/** How to push; everything has a default. */
export interface PushOptions {
  /** Reference that the image is pushed to. Default: the name that was given. Needs a tag or nothing (`latest`), never a digest. */
  readonly destination?: string;
  /** Credentials for the destination's registry. */
  readonly auth?: RegistryAuth;
  readonly onProgress?: (progress: ImageProgress) => void;
  readonly signal?: AbortSignal;
}

/** What a push did. */
export interface PushResult {
  /** Normalised destination, with its tag. */
  readonly reference: string;
  /** Digest of the manifest, the same as in the store. */
  readonly digest: Digest;
  /** Bytes of blobs that went over the network. */
  readonly pushedBytes: number;
  /** Bytes of blobs that the registry took from another of its repositories. */
  readonly mountedBytes: number;
}

/** How to ask a registry for a list. */
export interface RegistryQuery {
  readonly auth?: RegistryAuth;
  readonly signal?: AbortSignal;
}

/** How to save. Several images may share an archive. */
export interface SaveOptions {
  readonly format: 'oci-archive' | 'docker-archive' | 'oci-dir';
  /** Credentials for blobs that were dropped and are fetched again, by registry: none is ever sent to another one. */
  readonly auths?: Readonly<Record<string, RegistryAuth>>;
  readonly onProgress?: (progress: ImageProgress) => void;
  readonly signal?: AbortSignal;
}

/** What a save wrote. */
export interface SaveResult {
  readonly images: readonly StoredImage[];
  readonly sizeBytes: number;
}

/** How to verify. */
export interface VerifyOptions {
  /** Names or ids. Default: every image, and what belongs to none. */
  readonly names?: readonly string[];
  /** Puts right what can be: documents and blobs from a repository that has the image, layers from their blobs. Default: false. */
  readonly repair?: boolean;
  /** Credentials for what is fetched again, by registry (the part of a reference before the first slash): none is ever sent to another one. */
  readonly auths?: Readonly<Record<string, RegistryAuth>>;
  readonly onProgress?: (progress: ImageProgress) => void;
  readonly signal?: AbortSignal;
}

/** Something that is not as it was stored. */
export interface VerifyProblem {
  readonly kind: 'blob' | 'layer' | 'index' | 'record';
  /** The blob's digest, or the layer's diff ID. */
  readonly digest: Digest;
  /** What is wrong, in words; for a layer its first differences. */
  readonly detail: string;
  readonly state: 'found' | 'repaired' | 'unrepairable';
  /** Why it could not be repaired. */
  readonly reason?: string;
}

/** What a verification found. A store without problems has none in any image. */
export interface VerifyReport {
  readonly images: readonly { readonly id: Digest; readonly names: readonly string[]; readonly problems: readonly VerifyProblem[] }[];
  /** Bytes of blobs and of files in layers that were read. */
  readonly checkedBytes: number;
  /** Entries of layers that were compared with their index. */
  readonly checkedFiles: number;
}

/** What to collect. Images without a tag that nothing uses and that are not pinned go, and whatever no image, lease or running operation needs. */
export interface CollectOptions {
  /** Also images with tags, and what interrupted pulls left for a resume. Still nothing that is used or pinned. */
  readonly all?: boolean;
  /** Only images stored longer ago than this. */
  readonly olderThanMs?: number;
  /** Removes nothing and reports what would go. */
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
}

/** What a collection removed, or would. */
export interface CollectReport {
  readonly images: readonly { readonly id: Digest; readonly names: readonly string[]; readonly digests: readonly string[]; readonly sizeBytes: number }[];
  /** Diff IDs. */
  readonly layers: readonly Digest[];
  readonly blobs: readonly Digest[];
  /** Blobs that an interrupted pull had begun. */
  readonly partials: readonly Digest[];
  readonly freedBytes: number;
}

/** What one image takes on disk: its blobs, its layers' files and their indexes. `sizeBytes` is the sum of the other two. */
export interface ImageDiskUsage {
  readonly id: Digest;
  readonly names: readonly string[];
  readonly sizeBytes: number;
  /** Would be free if only this image went. */
  readonly uniqueBytes: number;
  /** Belongs to other images too. */
  readonly sharedBytes: number;
  /** A container or a volume uses it. */
  readonly isUsed: boolean;
  readonly pinned: boolean;
}

/** The disk as the store uses it. */
export interface StoreDiskUsage {
  readonly images: readonly ImageDiskUsage[];
  readonly blobBytes: number;
  readonly layerBytes: number;
  /** Blobs that an interrupted pull had begun. */
  readonly partialBytes: number;
  /** What `collect({ all: true })` would free. */
  readonly reclaimableBytes: number;
}

/** What a lease is for. An artifact can only be a volume. */
export interface LeaseOptions {
  readonly purpose?: 'rootfs' | 'volume';
}
