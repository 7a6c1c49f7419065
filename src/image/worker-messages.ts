/** What the store's thread and its worker threads tell each other. Types only. */
import type { ErrorCode } from '#core';
import type { Digest, LayerCompression } from '#oci';
import type { OverlayStyle } from '#plan';
import type { RegistryAccess, WantedBlob } from './registry/types.ts';
import type { StoreTask, StoreTaskResult } from './store-tasks.ts';

export type { RegistryAuth, WantedBlob } from './registry/types.ts';

/** A blob on its way into a file of the store. */
export interface BlobTarget extends WantedBlob {
  /** Existing file of unfinished work. */
  readonly path: string;
  /** Bytes from the beginning that an earlier transfer left there. */
  readonly haveBytes: number;
  /** One 64-bit number: how many bytes from the beginning are there by now. Whoever raises it wakes those that wait on it. */
  readonly growth: SharedArrayBuffer;
}

/** A blob to read. */
export interface BlobFile extends WantedBlob {
  readonly path: string;
  /** Of a blob that is still coming and whose digest nobody has checked; absent for one of the content store. */
  readonly growth?: SharedArrayBuffer;
}

/** A layer below one that is unpacked: where its archive and its index are. */
export interface ParentLayer {
  /** Of the content store; it may have been dropped, which matters only where a file of it is wanted. */
  readonly blob: BlobFile;
  readonly indexPath: string;
}

/** What a layer's blob is. */
export type LayerContent =
  /** An archive, packed in whatever way its first bytes say. `diffId` is its digest once it is unpacked; absent where nobody has said it. */
  | { readonly kind: 'archive'; readonly diffId?: Digest; readonly isBase: boolean }
  /** One file of an artifact: the components of its path. */
  | { readonly kind: 'file'; readonly path: readonly string[] };

/** Read a blob, perhaps while it grows, check its digest and unpack it through a confined child. */
export interface UnpackTask {
  readonly kind: 'unpack';
  readonly blob: BlobFile;
  readonly content: LayerContent;
  /** The index is written here, not yet synced. */
  readonly indexPath: string;
  readonly launcherSocket: string;
  /** How the layer speaks to an overlay. */
  readonly style: OverlayStyle;
  readonly layerDir: string;
  /** Empty directory that the child may mount on. */
  readonly rootDir: string;
}

/** Read a blob, perhaps while it grows, and check its digest. */
export interface CheckTask {
  readonly kind: 'check';
  readonly blob: BlobFile;
}

/** Fetch blobs of one repository. */
export interface DownloadTask {
  readonly kind: 'download';
  readonly access: RegistryAccess;
  readonly blobs: readonly BlobTarget[];
}

/** Copy blobs out of a layout directory. */
export interface CopyTask {
  readonly kind: 'copy';
  /** Directory of an OCI layout. */
  readonly layoutDir: string;
  readonly blobs: readonly BlobTarget[];
}

/** Unpack an archive of images into a layout. */
export interface ExtractTask {
  readonly kind: 'extract';
  /** A tar of an OCI layout, or what `docker save` wrote; packed or not. */
  readonly archivePath: string;
  /** Empty directory that gets `index.json` and `blobs`. */
  readonly directory: string;
}

/** What a thread can be asked for. */
export type WorkerTask = UnpackTask | CheckTask | DownloadTask | CopyTask | ExtractTask | StoreTask;

/** What unpacking found out about a layer. */
export interface UnpackResult {
  readonly compression: LayerCompression;
  readonly needsParents: boolean;
  readonly entries: number;
  readonly contentBytes: number;
}

/** To a worker. `parentsPort` answers one request for parents with `ParentLayer[]`, or undefined where there will be none. */
export type ToWorker = { readonly kind: 'run'; readonly task: WorkerTask; readonly parentsPort?: unknown } | { readonly kind: 'cancel' };

/** From a worker. */
export type FromWorker =
  | { readonly kind: 'progress'; readonly digest: Digest; readonly bytes: number }
  /** The worker blocks on the first number of `gate` until it is 1 and the port has the answer. */
  | { readonly kind: 'parents'; readonly gate: Int32Array }
  /** The worker waits for bytes of a blob that is still coming, or goes on: meanwhile another may run. */
  | { readonly kind: 'waiting'; readonly isWaiting: boolean }
  | { readonly kind: 'done'; readonly result: UnpackResult | StoreTaskResult | undefined }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string; readonly errno: string | undefined };
