/**
 * What an engine is told by its configuration, the same for a daemon and for a command that is its own engine. In: values from
 * files, variables and flags. Out: settings, every one with a default. Pure; where a value came from is the loader's to know.
 */
import type { ImageVolumePolicy } from '#pod';
import { type Assignments, decodeAssignments } from './settings-decode.ts';
import { schema } from './settings-schema.ts';

/** Everything that can be configured, decoded. Times in milliseconds, paths absolute. */
export interface Settings {
  /** Absent: where the user's state lies, see `locationOf` of the command line. */
  readonly directories: { readonly root?: string; readonly run?: string };
  readonly cri: {
    /** Absent: `berth.sock` in the run directory. */
    readonly socket?: string;
    /** Address that the URLs of Exec, Attach and PortForward name; without brackets where it is IPv6. */
    readonly streamAddress: string;
    /** 0: any free one. */
    readonly streamPort: number;
    readonly streamIdleTimeoutMs: number;
    readonly streamCreationTimeoutMs: number;
  };
  readonly log: { readonly level: LogLevel; readonly format: LogFormat };
  readonly images: {
    /** Directories in containerd's or docker's `certs.d` layout, in the order of asking. */
    readonly certsDirs: readonly string[];
    /** Blobs of layers stay after they are unpacked. */
    readonly keepBlobs: boolean;
    /** Layers of the nondistributable media types are taken. */
    readonly foreignLayers: boolean;
    /** What becomes of the volumes that images declare. */
    readonly volumes: ImageVolumePolicy;
  };
  readonly network: {
    readonly mode: NetworkMode;
    readonly cniConfigDir: string;
    readonly cniBinDirs: readonly string[];
    /** File from which UpdateRuntimeConfig makes a CNI configuration. */
    readonly cniTemplate?: string;
    /** IPv4 network of the built-in bridge; absent: by the run directory, see `hostNames`. */
    readonly subnet?: string;
    /** Bytes; absent: the kernel's. */
    readonly mtu?: number;
  };
  readonly cdi: {
    /** Later ones win. Those that do not exist are empty. */
    readonly specDirs: readonly string[];
  };
}

/** From the least to the most that is said. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
/** `json`: one JSON object per line; `text`: for people. */
export type LogFormat = 'json' | 'text';
/** `bridge`: the built-in one; `cni`: plugins; `none`: pods have the loopback device alone. */
export type NetworkMode = 'bridge' | 'cni' | 'none';

/** An object without the keys whose value is undefined. */
function present<T extends object>(value: { readonly [K in keyof T]: T[K] | undefined }): T {
  // SAFETY: only absent optional keys have the value undefined, and these are left out.
  return Object.fromEntries(Object.entries(value).filter(([, part]) => part !== undefined)) as T;
}

/** Settings of decoded values; what is not among them has its default. */
export function buildSettings(assignments: Assignments): Settings {
  const { get } = assignments;
  return {
    directories: present<Settings['directories']>({ root: get(schema.directories.root), run: get(schema.directories.run) }),
    cri: present<Settings['cri']>({
      socket: get(schema.cri.socket),
      streamAddress: get(schema.cri.stream_address),
      streamPort: get(schema.cri.stream_port),
      streamIdleTimeoutMs: get(schema.cri.stream_idle_timeout),
      streamCreationTimeoutMs: get(schema.cri.stream_creation_timeout),
    }),
    log: { level: get(schema.log.level), format: get(schema.log.format) },
    images: {
      certsDirs: get(schema.images.certs_dirs),
      keepBlobs: get(schema.images.keep_blobs),
      foreignLayers: get(schema.images.foreign_layers),
      volumes: get(schema.images.volumes),
    },
    network: present<Settings['network']>({
      mode: get(schema.network.mode),
      cniConfigDir: get(schema.network.cni_config_dir),
      cniBinDirs: get(schema.network.cni_bin_dirs),
      cniTemplate: get(schema.network.cni_template),
      subnet: get(schema.network.subnet),
      mtu: get(schema.network.mtu),
    }),
    cdi: { specDirs: get(schema.cdi.spec_dirs) },
  };
}

/** Settings of the variables alone, without any file. Throws invalidArgument `NAME: cause`. An empty value counts as none. */
export function decodeEnvironment(env: Readonly<Record<string, string | undefined>>): Settings {
  return buildSettings(decodeAssignments({ documents: [], env }));
}
