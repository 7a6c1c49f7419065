/**
 * Every bound of the project in one place. Units stand last in a name.
 * A bound that is hit is an error with the bound's value in its message, or a named overflow policy at its use.
 */
export const limits = {
  /** One frame between Node and a shim or the launcher, header excluded. */
  frameBytesMax: 16 * 1024 * 1024,
  /** One encoded plan. */
  planBytesMax: 8 * 1024 * 1024,
  planSectionsMax: 16,
  planStepsMax: 8192,
  planSlotsMax: 256,
  /** Detail that the interpreter attaches to a failed step. */
  failureDetailBytesMax: 1024,
  /** passwd and group files read inside a container's root. */
  identityFileBytesMax: 1024 * 1024,
  identityLinesMax: 20_000,
  /** ExecSync output kept per stream; what comes after is read and dropped. Source: hostile.md, unbounded buffering. */
  execOutputBytesMax: 16 * 1024 * 1024,
  /** Payload of one CRI log line; longer lines are split with the tag P. Source: containerd and CRI-O. */
  logLineBytesMax: 16 * 1024,
  /** How long output is still read after the process of an exec has ended. */
  drainTimeoutMs: 2_000,
  manifestBytesMax: 4 * 1024 * 1024,
  imageConfigBytesMax: 4 * 1024 * 1024,
  indexDepthMax: 4,
  indexEntriesMax: 1000,
  layersMax: 500,
  layerEntriesMax: 2_000_000,
  layerBytesMax: 64 * 1024 * 1024 * 1024,
  /** Uncompressed bytes per compressed byte, beyond the first 64 MiB. */
  layerRatioMax: 200,
  tarPathBytesMax: 4096,
  tarPaxBytesMax: 1024 * 1024,
  tarDepthMax: 256,
  annotationsBytesMax: 256 * 1024,
  /** One gRPC message in either direction. Source: the kubelet's 16 MiB receive limit. */
  grpcMessageBytesMax: 16 * 1024 * 1024,
  rollbackTimeoutMs: 10_000,
  engineFrameBytesMax: 16 * 1024 * 1024,
  engineConnectionsMax: 512,
  /** How long a freed pod address rests before it is given out again. Source: the kernel drops a netns in the background. */
  addressRestMs: 100,
  manifestDocumentBytesMax: 4 * 1024 * 1024,
} as const;
