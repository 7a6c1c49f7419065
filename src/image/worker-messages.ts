/** What the store's thread and its worker threads tell each other. Types only. */
import type { ErrorCode } from '#core';
import type { Digest, LayerCompression } from '#oci';
import type { DirectoryAttributes } from './layer-tree.ts';

/** Credentials for one registry; see `RegistryAuth`. */
export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  /** An OAuth2 refresh token. */
  readonly identityToken?: string;
  /** Sent as it is, as a bearer token. */
  readonly registryToken?: string;
}

/** A blob to bring into the store and what it must be. */
export interface WantedBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** A layer below one that is unpacked: where its archive and its index are. */
export interface ParentLayer {
  readonly blobPath: string;
  readonly compression: LayerCompression;
  readonly indexPath: string;
}

/** Unpack one layer whose blob is in the content store. */
export interface UnpackTask {
  readonly kind: 'unpack';
  readonly blobPath: string;
  readonly compression: LayerCompression;
  readonly diffId: Digest;
  readonly isBase: boolean;
  /** The index is written here; the sync of the whole layer covers it. */
  readonly indexPath: string;
}

/** Fetch blobs of one repository. */
export interface DownloadTask {
  readonly kind: 'download';
  readonly registry: string;
  readonly repository: string;
  readonly auth: RegistryAuth | undefined;
  readonly blobs: readonly WantedBlob[];
  /** Content store that the blobs go to. */
  readonly contentDir: string;
}

/** Copy blobs out of a layout directory. */
export interface CopyTask {
  readonly kind: 'copy';
  /** Directory of an OCI layout. */
  readonly layoutDir: string;
  readonly blobs: readonly WantedBlob[];
  readonly contentDir: string;
}

/** Unpack the tar of a layout. */
export interface ExtractTask {
  readonly kind: 'extract';
  /** A tar of an OCI layout. */
  readonly archivePath: string;
  /** Empty directory that gets `index.json` and `blobs`. */
  readonly directory: string;
}

/** What a thread can be asked for. */
export type WorkerTask = UnpackTask | DownloadTask | CopyTask | ExtractTask;

/** What unpacking found out about a layer. */
export interface UnpackResult {
  readonly needsParents: boolean;
  readonly entries: number;
  readonly contentBytes: number;
  /** Of the layer's own root, where the archive names it. */
  readonly rootAttributes: DirectoryAttributes | undefined;
}

/** To a worker. `parentsPort` answers one request for parents with `ParentLayer[]`, or undefined where there will be none. */
export type ToWorker =
  { readonly kind: 'run'; readonly task: WorkerTask; readonly parentsPort?: unknown } | { readonly kind: 'credit'; readonly bytes: number } | { readonly kind: 'cancel' };

/** From a worker. */
export type FromWorker =
  | { readonly kind: 'records'; readonly bytes: Uint8Array }
  | { readonly kind: 'progress'; readonly digest: Digest; readonly bytes: number }
  /** The worker blocks on the first number of `gate` until it is 1 and the port has the answer. */
  | { readonly kind: 'parents'; readonly gate: Int32Array }
  | { readonly kind: 'done'; readonly result: UnpackResult | undefined }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string; readonly errno: string | undefined };
