/** What the store asks of a worker thread beside bringing images in: checking and copying. Types only. */
import type { Digest } from '#oci';

/** Copy a blob into a file that is being written, verified on the way. */
export interface PlaceTask {
  readonly kind: 'place';
  readonly blobPath: string;
  /** Of the blob or, with `inflate`, of its content. */
  readonly digest: Digest;
  readonly inflate: boolean;
  readonly filePath: string;
  readonly offsetBytes: number;
}

/** Read blobs and compare them with their digests. */
export interface CheckBlobsTask {
  readonly kind: 'checkBlobs';
  readonly blobs: readonly { readonly digest: Digest; readonly path: string; readonly sizeBytes?: number }[];
}

/** Compare an unpacked layer with its index. */
export interface CheckLayerTask {
  readonly kind: 'checkLayer';
  readonly diffId: Digest;
  readonly layerDir: string;
  /** Empty directory that the confined child may mount on. */
  readonly rootDir: string;
  readonly indexPath: string;
  readonly launcherSocket: string;
}

/** One of them. */
export type StoreTask = PlaceTask | CheckBlobsTask | CheckLayerTask;

/** What a task found; by the kind of the task. */
export type StoreTaskResult =
  | { readonly kind: 'placed'; readonly sizeBytes: number }
  /** Blobs that are not what they should be, in words. */
  | { readonly kind: 'blobs'; readonly problems: readonly { readonly digest: Digest; readonly detail: string }[] }
  | {
      readonly kind: 'layer';
      readonly entries: number;
      readonly contentBytes: number;
      /** The index cannot be read, so the tree could not be compared. */
      readonly indexProblem?: string;
      /** The first differences, in words. */
      readonly differences: readonly string[];
    };
