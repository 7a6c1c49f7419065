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
  /** One file of Berth's own configuration, and how many drop-ins there may be. */
  configurationFileBytesMax: 1024 * 1024,
  configurationFilesMax: 100,
  /** Lines of the daemon's log that wait for a slow reader; what comes then is dropped and counted. */
  logWaitingCharactersMax: 1024 * 1024,
  /** Of an error in the daemon's log. */
  logMessageCharactersMax: 4096,
  manifestDocumentBytesMax: 4 * 1024 * 1024,
  /** One file that says how a registry is reached or holds credentials, and one certificate. */
  registryFileBytesMax: 1024 * 1024,
  /** Hosts of one hosts.toml; each failing one costs a pull its time-outs. */
  registryHostsMax: 32,
  /** Answer of a credential helper program, and how long it may take: it may ask its user for a password. */
  credentialToolBytesMax: 256 * 1024,
  credentialToolTimeoutMs: 60_000,
  /** How long content of an interrupted pull waits for the next one. */
  partialBlobAgeMsMax: 24 * 60 * 60 * 1000,
  /** Entries of writable layers that are looked at when their space is measured. */
  writableEntriesMax: 2_000_000,
  /** One statistics file of the kernel; lists of processes are the longest. */
  statsFileBytesMax: 256 * 1024,
  /** /proc/<pid>/net/dev of a host with some thousand interfaces. */
  statsLinksBytesMax: 1024 * 1024,
  /** Files that are read at once, and that may hang before no more are begun: Node reads files on four threads. */
  statsReadsMax: 2,
  statsReadTimeoutMs: 5_000,
  /** Groups of one container, block devices of one group, processes of one group and descriptors of one process that are looked at. */
  statsGroupsMax: 256,
  statsDevicesMax: 64,
  statsProcessesMax: 256,
  statsDescriptorsMax: 1024,
  /** How long a look at a container waits for the first measurement of its writable layer, and one at the file system for a new measurement. */
  layerMeasureWaitMs: 1_000,
  /** Two looks that are further apart than this give no rate. */
  statsRateAgeMsMax: 300_000,
  /** Images that one archive is asked to hold. */
  savedImagesMax: 1000,
  /** Manifests and indexes that one layout or archive names, all together. */
  layoutDocumentsBytesMax: 64 * 1024 * 1024,
  /** Members of an archive of images that is imported. */
  archiveMembersMax: 20_000,
  /** Volumes that one image may declare, and what may be copied into them from the image, all together. */
  imageVolumesMax: 64,
  imageVolumeBytesMax: 16 * 1024 * 1024 * 1024,
  imageVolumeEntriesMax: 1_000_000,
  /** Blobs from this size on are fetched in several ranges at once; a smaller one is not worth more than one connection. */
  rangedBlobBytesMin: 64 * 1024 * 1024,
  /** One range request of such a blob: what is asked again at most when a connection breaks without a byte. */
  rangeWindowBytes: 16 * 1024 * 1024,
  parallelRangesMax: 4,
  /** Requests that one client of a registry has under way at once. */
  registryRequestsMax: 8,
  /** Tries of one request that bring nothing; a try that brings content begins the count anew. */
  registryTriesMax: 5,
  /** A registry that wants to be left alone for longer than this is not waited for. */
  retryAfterMsMax: 60_000,
  redirectsMax: 5,
  /** Body of an answer that only says why something failed. */
  registryErrorBytesMax: 64 * 1024,
  registryTokenBytesMax: 256 * 1024,
  /** How long a registry may take to check and store an upload that it has in full. */
  uploadCommitTimeoutMs: 300_000,
  /** Lists of tags and of referrers: all pages together. */
  registryListEntriesMax: 100_000,
  registryListPagesMax: 1_000,
  /** One CNI configuration file, and one template of it. */
  cniConfigBytesMax: 1024 * 1024,
  cniPluginsMax: 32,
  cniConfigFilesMax: 256,
  /** What a CNI plugin prints on standard output, and how much of its standard error is kept for a message. */
  cniResultBytesMax: 1024 * 1024,
  cniErrorBytesMax: 64 * 1024,
  /** How long one plugin may take for ADD, DEL or CHECK; the kubelet gives RunPodSandbox four minutes. */
  cniCommandTimeoutMs: 100_000,
  /** The same for VERSION, STATUS and GC, which ask for no address. */
  cniQueryTimeoutMs: 30_000,
  /** One message of a streamed list: items, and what they measure together; a reader that wants to show something first gets it soon. */
  streamBatchItemsMax: 100,
  streamBatchBytesMax: 1024 * 1024,
  /** Events that wait for one reader, and readers at a time: each event holds the pod with its containers. */
  eventBacklogMax: 1024,
  eventReadersMax: 64,
  /** One control file of the kernel; a group's list of a hundred thousand processes is below it. */
  controlFileBytesMax: 1024 * 1024,
  /** Hooks of one container, all kinds together; those of its CDI devices count. */
  hooksMax: 64,
  /** Arguments, and environment entries, of one hook. */
  hookArgumentsMax: 1024,
  hookTimeoutSecondsMax: 600,
  /** How long a hook may take that does not say so itself. */
  hookTimeoutMsDefault: 60_000,
  /** URLs of Exec, Attach and PortForward that nobody has used yet, and how long one may be used. Source: the kubelet's streaming library. */
  streamTokensMax: 1000,
  streamTokenAgeMsMax: 60_000,
  /** Connections to the streaming server; a client that is beyond is cut off. */
  streamConnectionsMax: 1024,
  /** Request line and headers of a streaming request. */
  streamRequestBytesMax: 32 * 1024,
  /** Input of one stream that waits for its process; beyond it the connection is left unread. */
  streamInputBytesMax: 1024 * 1024,
  /** The same of all streams of one connection together. */
  streamConnectionInputBytesMax: 8 * 1024 * 1024,
  /** One WebSocket message. */
  streamMessageBytesMax: 4 * 1024 * 1024,
  /** Streams that one SPDY connection has open: two for each forwarded connection. Further ones are refused. */
  spdyStreamsMax: 1024,
  /** One control frame, and its headers inflated. */
  spdyControlBytesMax: 64 * 1024,
  spdyHeadersMax: 100,
  /** Answers to pings and the like that a client does not read: beyond it the connection is cut. */
  spdyAnswerBytesMax: 1024 * 1024,
  /** Ports that one WebSocket forwards. */
  streamPortsMax: 64,
  /** Forwarded connections that one pod has open: its shim takes 256 clients, and execs need some. */
  podForwardsMax: 192,
  /** What a client may have said of a terminal's size without finishing it. */
  resizeBytesMax: 1024,
  /** How long a client may take to see the end of a stream and to close its connection. */
  streamLingerMs: 30_000,
  /** Specifications of the Container Device Interface: files of one directory, bytes of one file, devices of one specification and of one request. */
  cdiFilesMax: 1024,
  cdiFileBytesMax: 4 * 1024 * 1024,
  cdiDevicesMax: 4096,
  cdiRequestedDevicesMax: 256,
  /** config.json of a bundle, a process document and a file of resources. */
  ociDocumentBytesMax: 16 * 1024 * 1024,
  /** A container's id, which is the name of its state directory; and descriptors that a process is handed. */
  ociIdBytesMax: 255,
  ociPreservedFdsMax: 1024,
  /** Between two looks for out-of-memory kills of a container whose events are wanted. */
  ociEventPauseMs: 200,
  /** What ps(1) or criu(8) may print. */
  ociToolOutputBytesMax: 16 * 1024 * 1024,
  /** The end of criu's log that is looked at for its error, and the file beside its images that names a container's streams. */
  ociCriuLogBytesMax: 256 * 1024,
  ociStreamNamesBytesMax: 64 * 1024,
  /** The record of a container that a command of the OCI runtime made, its annotations included. */
  ociRecordBytesMax: 16 * 1024 * 1024,
  /** One piece of a command's output on its way to the caller. */
  ociOutputBytesMax: 1024 * 1024,
  /** Commands of the OCI runtime that an engine has under way at once; a front that comes then does without the engine. */
  ociDoorConnectionsMax: 256,
  /** How long a front may take to say what it wants, and how long an engine that ends waits for commands under way. */
  ociDoorTimeoutMs: 10_000,
  /** How long a failing start waits until its process is gone. */
  ociEndTimeoutMs: 5_000,
  /** How long removing a container may wait for its processes to end and its groups to be free. */
  ociRemovalTimeoutMs: 10_000,
  /** Components of a container's group path. */
  cgroupDepthMax: 64,
  /** The highest number of a CPU or memory node in a list such as `0-3,7`. */
  cpuNumberMax: 65535,
} as const;
