/**
 * What the engine takes and gives about images: the part of `Engine` that pulls, keeps, checks and shares them. No logic here.
 * Names, tags, digests and annotations were written by strangers; whoever prints them makes them printable.
 */
import type { Platform } from '#oci';

/**
 * How far a long operation is. `layer` is absent for the whole operation; bytes are those of blobs as they travel, or of what was read.
 * `downloading` to `unpacking` come from what brings images in, `uploading` from push, `saving` from save.
 */
export interface ImageProgress {
  readonly stage: 'resolving' | 'downloading' | 'verifying' | 'unpacking' | 'uploading' | 'saving' | 'done';
  readonly layer?: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

/** What `PullImage` and the CLI show while a pull runs. */
export type PullProgress = ImageProgress;

/** Credentials for one registry, as CRI's AuthConfig has them. */
export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  readonly identityToken?: string;
  readonly registryToken?: string;
}

/** Credentials by registry, the part of a reference before its first slash. None is sent to another one. */
export type RegistryAuths = Readonly<Record<string, RegistryAuth>>;

/** An image as the doors list it: once, with all its names and digests. */
export interface ImageSummary {
  /** `sha256:…` of the image configuration; of an artifact the digest of its manifest. */
  readonly id: string;
  /** An artifact holds files and no program: a volume for containers. Absent: an image. */
  readonly kind?: 'image' | 'artifact';
  readonly names: readonly string[];
  readonly digests: readonly string[];
  readonly sizeBytes: number;
  readonly createdAtNs: bigint;
  /** Kept by the clean-up of the kubelet and of `prune`. */
  readonly pinned: boolean;
  /** Numeric user of the image, or its user name. */
  readonly uid?: number;
  readonly username?: string;
}

/** A file that went into an image made from the host. */
export interface HostFile {
  readonly path: string;
  readonly sizeBytes: number;
}

/** Space on one file system. */
export interface ImageFileSystemUsage {
  readonly atNs: bigint;
  readonly mountpoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** Space that images take, and that writable layers of containers take. */
export interface FileSystemsUsage {
  readonly images: ImageFileSystemUsage;
  readonly containers: ImageFileSystemUsage;
}

/** Space of one image. */
export interface ImageSpace {
  readonly id: string;
  readonly names: readonly string[];
  /** Blobs, unpacked layers and their indexes. */
  readonly sizeBytes: number;
  /** What removing only this image would free. */
  readonly uniqueBytes: number;
  /** What other images use too. */
  readonly sharedBytes: number;
  /** A container or a volume uses it. */
  readonly isUsed: boolean;
  readonly pinned: boolean;
}

/** What `df` shows. */
export interface ImageDiskUsage {
  readonly images: readonly ImageSpace[];
  /** Each shared byte counted once. */
  readonly blobBytes: number;
  readonly layerBytes: number;
  /** Pieces of pulls that were cut off, kept for going on. */
  readonly partialBytes: number;
  /** What collecting everything would free. */
  readonly reclaimableBytes: number;
}

/** How a push ended. */
export interface PushedImage {
  /** Where it went, normalised. */
  readonly reference: string;
  /** Digest of the manifest. */
  readonly digest: string;
  /** Bytes that went over the network. */
  readonly pushedBytes: number;
  /** Bytes that the registry took from another repository of its own. */
  readonly mountedBytes: number;
}

/** What `save` writes: the tar of an OCI layout, the archive that `docker load` reads, or an OCI layout as a directory. */
export type ImageArchiveFormat = 'oci-archive' | 'docker-archive' | 'oci-dir';

/** One thing that is wrong with an image's content. */
export interface ImageProblem {
  /** A blob against its digest, a layer's tree against its index, that index itself, or the record that names them. */
  readonly kind: 'blob' | 'layer' | 'index' | 'record';
  readonly digest: string;
  /** What is wrong, such as `truncated: 12 of 345 bytes`. */
  readonly detail: string;
  readonly state: 'found' | 'repaired' | 'unrepairable';
  /** Why it was not repaired. */
  readonly reason?: string;
}

/** What a save wrote. */
export interface SavedImages {
  readonly images: readonly ImageSummary[];
  readonly sizeBytes: number;
}

/** How to save. */
export interface SaveImagesOptions extends ImageProgressOptions {
  readonly format: ImageArchiveFormat;
  /** Credentials for blobs that were dropped and are fetched again. */
  readonly auths?: RegistryAuths;
}

/** What `verify` found. */
export interface VerifyReport {
  readonly images: readonly { readonly id: string; readonly names: readonly string[]; readonly problems: readonly ImageProblem[] }[];
  readonly checkedBytes: number;
  readonly checkedFiles: number;
}

/** What a clean-up removed, or would remove. */
export interface CollectReport {
  readonly images: readonly { readonly id: string; readonly names: readonly string[]; readonly digests: readonly string[]; readonly sizeBytes: number }[];
  /** Diff IDs. */
  readonly layers: readonly string[];
  readonly blobs: readonly string[];
  /** Digests of blobs of which a cut-off pull had left a piece. */
  readonly partials: readonly string[];
  readonly freedBytes: number;
}

/** A manifest that refers to another one: a signature, a list of parts, an attestation. */
export interface ImageReferrer {
  readonly digest: string;
  readonly mediaType: string;
  readonly artifactType?: string;
  readonly sizeBytes: number;
  readonly annotations: Readonly<Record<string, string>>;
}

/** How to ask a registry for a list. */
export interface RegistryQueryOptions {
  readonly auth?: RegistryAuth;
}

/** An image to be made from programs of the host. */
export interface ImageFromHostRequest {
  readonly name: string;
  /** Executables on the host; each brings its interpreter and libraries. */
  readonly executables: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly env?: readonly string[];
  readonly workingDir?: string;
}

/** Of what long operations tell their caller. Reports may be left out where the caller is slow; the last one comes. */
export interface ImageProgressOptions {
  readonly onProgress?: (progress: ImageProgress) => void;
}

/** How to pull; everything has a default. */
export interface PullImageOptions extends ImageProgressOptions {
  readonly auth?: RegistryAuth;
  /** Default: that of the host. */
  readonly platform?: Platform;
}

/** How to push. */
export interface PushImageOptions extends ImageProgressOptions {
  /** Name to push to; default: the name that was given. */
  readonly destination?: string;
  readonly auth?: RegistryAuth;
}

/** How to import. */
export interface ImportImagesOptions extends ImageProgressOptions {
  /** Name for the only image, in place of what the layout or archive says. */
  readonly name?: string;
}

/** How to verify. */
export interface VerifyImagesOptions extends ImageProgressOptions {
  /** Default: all images. */
  readonly names?: readonly string[];
  /** Fetch what is damaged again. */
  readonly repair: boolean;
  /** Credentials for the registries that damaged content is fetched from. */
  readonly auths?: RegistryAuths;
}

/** What to clean up. What no image and no running operation needs goes in any case; what a container uses or is pinned never does. */
export interface CollectImagesOptions {
  /** Images that have no name. */
  readonly untagged?: boolean;
  /** Images with names too, and pieces of cut-off pulls. */
  readonly all?: boolean;
  /** Only images stored longer ago than this. */
  readonly olderThanMs?: number;
  /** Removes nothing and reports what would go. */
  readonly dryRun?: boolean;
}

/**
 * The engine's methods on images. Names, `name@digest`, ids and unique beginnings of ids all resolve. Every method rejects with
 * RuntimeError; the message names registry, reference and blob where one is concerned.
 */
export interface ImageEngine {
  /** Equal pulls in flight share their work. A pull that is cut off or cancelled goes on where it was when it is asked for again. */
  pullImage(reference: string, options?: PullImageOptions, signal?: AbortSignal): Promise<ImageSummary>;
  pushImage(nameOrId: string, options?: PushImageOptions, signal?: AbortSignal): Promise<PushedImage>;
  /** Images of an OCI layout or an archive at a path of the engine's host, which must be absolute. */
  importImages(path: string, options?: ImportImagesOptions, signal?: AbortSignal): Promise<ImageSummary[]>;
  /** Writes images to an absolute path of the engine's host: beside it first, then renamed. A directory must not exist yet. */
  saveImages(names: readonly string[], path: string, options: SaveImagesOptions, signal?: AbortSignal): Promise<SavedImages>;
  imageFromHost(request: ImageFromHostRequest, signal?: AbortSignal): Promise<{ readonly image: ImageSummary; readonly files: readonly HostFile[] }>;
  imageStatus(nameOrId: string): Promise<ImageSummary | undefined>;
  /** The image's configuration as inspect shows it. */
  imageInfo(nameOrId: string): Promise<Readonly<Record<string, unknown>>>;
  listImages(): Promise<ImageSummary[]>;
  /** Gives the image a further name; a name that another image had moves. */
  tagImage(nameOrId: string, name: string): Promise<ImageSummary>;
  /** A pinned image is never cleaned up. */
  pinImage(nameOrId: string, pinned: boolean): Promise<ImageSummary>;
  /** The image with all its names, as CRI wants it; with `untagOnly` only the name that is given, and the image with its last one. An absent image is no error. */
  removeImage(nameOrId: string, options?: { readonly untagOnly?: boolean }): Promise<void>;
  imageUsage(): Promise<FileSystemsUsage>;
  imageDiskUsage(): Promise<ImageDiskUsage>;
  /** Compares content with digests and layers with their index; with `repair` only what is damaged is fetched again. */
  verifyImages(options: VerifyImagesOptions, signal?: AbortSignal): Promise<VerifyReport>;
  /** Removes what nothing uses. */
  collectImages(options: CollectImagesOptions, signal?: AbortSignal): Promise<CollectReport>;
  /** Tags of a repository at its registry. */
  imageTags(repository: string, options?: RegistryQueryOptions, signal?: AbortSignal): Promise<readonly string[]>;
  /** Manifests at the registry that refer to the image. */
  imageReferrers(reference: string, options?: RegistryQueryOptions & { readonly artifactType?: string }, signal?: AbortSignal): Promise<readonly ImageReferrer[]>;
}
