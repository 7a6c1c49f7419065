/** What the engine needs of an image store, as an interface; its real implementation is in `image`. Types only. */
import type {
  CollectImagesOptions,
  CollectReport,
  HostFile,
  ImageDiskUsage,
  ImageFileSystemUsage,
  ImageFromHostRequest,
  ImageReferrer,
  ImageSummary,
  ImportImagesOptions,
  PullImageOptions,
  PushImageOptions,
  PushedImage,
  RegistryQueryOptions,
  SaveImagesOptions,
  SavedImages,
  VerifyImagesOptions,
  VerifyReport,
} from './image-types.ts';
import type { UserMappings } from './security-types.ts';

/** Where a container's layers lie: `lower` are short names relative to `storeDir`, top layer first. */
export interface RootfsLayers {
  readonly storeDir: string;
  readonly lower: readonly string[];
  /** For a user namespace: owners are the image's and are mapped at the mount; false: these are copies that belong to the mapped ids. */
  readonly mapLower?: boolean;
}

/** What of an image's configuration a container uses. It comes from the image and is not trusted. */
export interface ImageProcess {
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  readonly env: readonly string[];
  readonly workingDir: string;
  /** `user[:group]`, names or numbers; empty: root. */
  readonly user: string;
  readonly stopSignal: string;
  /** Paths that the image declares as volumes; absent: none. */
  readonly volumes?: readonly string[];
}

/** An image and what of it a container uses. */
export interface ResolvedImage extends ImageSummary {
  readonly process: ImageProcess;
}

/** Cancels a long operation. */
interface Cancellable {
  readonly signal?: AbortSignal;
}

/** The image store. Methods throw RuntimeError; names, digests, ids and unique prefixes of ids all resolve. */
export interface ImagePort {
  resolve(nameOrId: string): ResolvedImage | undefined;
  /**
   * Keeps the image's layers until `release`; survives a restart. `rootfs` is the root of a container, which an artifact cannot be.
   * Throws notFound, failedPrecondition.
   */
  lease(imageId: string, leaseId: string, options?: { readonly purpose: 'rootfs' | 'volume' }): RootfsLayers;
  /** As `lease`, for a container in a user namespace; copying layers, where the kernel cannot map them, may take a while. */
  leaseMapped(imageId: string, leaseId: string, mappings: UserMappings, options: { readonly purpose: 'rootfs' | 'volume' }): Promise<RootfsLayers>;
  release(leaseId: string): void;
  /** Leases that exist, for reconcile. */
  leases(): readonly string[];
  list(): ImageSummary[];
  pull(reference: string, options: PullImageOptions & Cancellable): Promise<ImageSummary>;
  push(nameOrId: string, options: PushImageOptions & Cancellable): Promise<PushedImage>;
  importImages(path: string, options: ImportImagesOptions & Cancellable): Promise<ImageSummary[]>;
  save(names: readonly string[], path: string, options: SaveImagesOptions & Cancellable): Promise<SavedImages>;
  fromHost(request: ImageFromHostRequest, signal?: AbortSignal): Promise<{ readonly image: ImageSummary; readonly files: readonly HostFile[] }>;
  info(nameOrId: string): Readonly<Record<string, unknown>>;
  tag(nameOrId: string, name: string): ImageSummary;
  pin(nameOrId: string, pinned: boolean): ImageSummary;
  remove(nameOrId: string, options: { readonly untagOnly?: boolean }): Promise<void>;
  /** Of the file system that images are on. */
  usage(): Promise<ImageFileSystemUsage>;
  diskUsage(): Promise<ImageDiskUsage>;
  verify(options: VerifyImagesOptions & Cancellable): Promise<VerifyReport>;
  collect(options: CollectImagesOptions & Cancellable): Promise<CollectReport>;
  tags(repository: string, options: RegistryQueryOptions & Cancellable): Promise<readonly string[]>;
  referrers(reference: string, options: RegistryQueryOptions & Cancellable & { readonly artifactType?: string }): Promise<readonly ImageReferrer[]>;
}
