/**
 * What a registry client is told and what it is handed: plain data that may cross threads, and the two ports of a download.
 * Types only. The configuration of registries makes a `RegistryAccess`; the client does what it says and asks nobody else.
 *
 * - Hosts are tried in their order; the last one is the registry itself. A push goes to the first host that takes pushes, and to no other.
 * - `download` calls `sink.write` in order within one range and across ranges in any order, never twice for one byte; it does not
 *   hash: digests are checked by whoever reads the bytes anyway.
 */
import type { Digest } from '#oci';

/** Credentials for one registry. Never part of a message. */
export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  /** An OAuth2 refresh token. */
  readonly identityToken?: string;
  /** Sent as it is, as a bearer token. */
  readonly registryToken?: string;
}

/** What a host may be asked for: `resolve` is a tag to a digest, `pull` is content by digest, `push` is both ways of writing. */
export type RegistryCapability = 'pull' | 'resolve' | 'push';

/** One certificate with its key, both PEM text. */
export interface ClientCertificate {
  readonly cert: string;
  readonly key: string;
}

/** One place where a registry's content is, and how to speak to it. */
export interface RegistryHost {
  /** Base up to and including the prefix of the interface, with a slash at its end, such as `https://mirror.example/v2/`. */
  readonly url: string;
  readonly capabilities: readonly RegistryCapability[];
  /** Sent with every request to this host, to no other. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** PEM texts trusted beside the system's. */
  readonly ca?: readonly string[];
  readonly clientCertificates: readonly ClientCertificate[];
  /** True: whatever certificate the host shows is taken. */
  readonly skipVerify: boolean;
  /** How long connecting may take, the TLS handshake included. Default: the stall time-out. */
  readonly dialTimeoutMs?: number;
  /** Proxy for this host instead of the access's: an http or https URL, which may hold credentials. */
  readonly proxy?: string;
  /** Registry's name, sent to a mirror as `ns=` so that it knows whose content is meant. Absent for the registry itself. */
  readonly namespace?: string;
  /** The registry itself: only it gets the caller's credentials. */
  readonly isUpstream: boolean;
}

/** Proxies as the usual variables name them. */
export interface ProxySettings {
  readonly httpProxy?: string;
  readonly httpsProxy?: string;
  /** Comma-separated hosts, suffixes and addresses that are reached directly. */
  readonly noProxy?: string;
}

/** How one repository of one registry is reached. */
export interface RegistryAccess {
  /** As references name it, such as `docker.io`. */
  readonly registry: string;
  readonly repository: string;
  /** In the order of trying; the registry itself is last. */
  readonly hosts: readonly RegistryHost[];
  readonly auth?: RegistryAuth;
  readonly proxy: ProxySettings;
}

/** A blob to bring and what it must be. */
export interface WantedBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** Where a download goes. */
export interface BlobSink {
  /** Bytes from the beginning that are there already; the download begins after them. */
  readonly haveBytes: number;
  /**
   * Takes the bytes at `offset`; resolves when more may follow. In order within one range; ranges run side by side.
   * `chunk` is the sink's to keep. A failure ends the download and is thrown as it is. It must not wait for other blobs of the same client, whose requests
   * may be waiting for this one to end.
   */
  write(offset: number, chunk: Uint8Array): Promise<void>;
}

/** An entry of the list of what refers to a manifest. Everything but digest, size and type is a stranger's text. */
export interface ReferrerDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** How a push of one blob ended: nothing was sent where the registry had it or took it over from another repository. */
export type UploadOutcome = 'present' | 'mounted' | 'uploaded';
