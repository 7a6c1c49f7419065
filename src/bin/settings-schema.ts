/**
 * Every setting there is: its kind, default, variable and documentation. In: nothing. Out: one table, which decoding, printing and the
 * documented file go by. A new setting is a row here and a line in `buildSettings`.
 */
import { type Kind, duration, imageVolumes, integer, ipAddress, ipv4Network, logFormat, logLevel, networkMode, path, paths, toggle } from './settings-kinds.ts';

/** One setting. `T` includes undefined where there is no default. */
export interface Setting<T> {
  readonly kind: Kind<Exclude<T, undefined>>;
  readonly fallback: T;
  /** What holds without the setting, where there is no default value to print. */
  readonly fallbackWords?: string;
  /** Variable of the environment. */
  readonly variable: string;
  /** Option of the command line. */
  readonly flag?: string;
  /** Sentences for the documented file. */
  readonly help: string;
  /** A running daemon takes a new value when it reloads; else it needs a restart. */
  readonly reloads?: boolean;
}

const hourMs = 3_600_000;

function setting<T>(row: Setting<T>): Setting<T> {
  return row;
}

const directories = {
  root: setting<string | undefined>({
    kind: path,
    fallback: undefined,
    fallbackWords: '/var/lib/berth, or without root $XDG_DATA_HOME/berth',
    variable: 'BERTH_ROOT',
    flag: '--root',
    help: 'State: records, images, writable layers. With `run` it names one engine.',
  }),
  run: setting<string | undefined>({
    kind: path,
    fallback: undefined,
    fallbackWords: '/run/berth, or without root $XDG_RUNTIME_DIR/berth',
    variable: 'BERTH_RUN',
    flag: '--run',
    help: 'Sockets and shim state; must be empty after a boot of the host. At most 64 bytes.',
  }),
};

const cri = {
  socket: setting<string | undefined>({
    kind: path,
    fallback: undefined,
    fallbackWords: 'berth.sock in the run directory',
    variable: 'BERTH_CRI_SOCKET',
    flag: '--socket',
    help: 'Socket of the CRI, for kubelets and crictl.',
  }),
  stream_address: setting<string>({
    kind: ipAddress,
    fallback: '127.0.0.1',
    variable: 'BERTH_STREAM_ADDRESS',
    help: 'Address on which exec, attach and port-forward of kubelets are served. Whoever reaches it and knows a URL can use it once; keep it on loopback.',
  }),
  stream_port: setting<number>({ kind: integer({ min: 0, max: 65535 }), fallback: 0, variable: 'BERTH_STREAM_PORT', help: 'Its port; 0 for any free one.' }),
  stream_idle_timeout: setting<number>({
    kind: duration({ minMs: 1000, maxMs: 1000 * hourMs }),
    fallback: 4 * hourMs,
    variable: 'BERTH_STREAM_IDLE_TIMEOUT',
    help: 'A stream on which nothing is sent for this long is ended.',
  }),
  stream_creation_timeout: setting<number>({
    kind: duration({ minMs: 1000, maxMs: hourMs }),
    fallback: 30_000,
    variable: 'BERTH_STREAM_CREATION_TIMEOUT',
    help: 'How long a client that has connected may take to open its streams. A URL itself can be used for one minute.',
  }),
};

const log = {
  level: setting<'error' | 'warn' | 'info' | 'debug'>({
    kind: logLevel,
    fallback: 'info',
    variable: 'BERTH_LOG_LEVEL',
    flag: '--debug (level debug)',
    help: 'What the daemon logs: errors; also failed calls (warn); also changes of pods and containers (info); also every call (debug).',
    reloads: true,
  }),
  format: setting<'json' | 'text'>({ kind: logFormat, fallback: 'json', variable: 'BERTH_LOG_FORMAT', help: 'json: one object per line; text: for people.' }),
};

const images = {
  certs_dirs: setting<readonly string[]>({
    kind: paths,
    fallback: ['/etc/berth/certs.d', '/etc/containerd/certs.d', '/etc/docker/certs.d'],
    variable: 'BERTH_CERTS_DIRS',
    help: 'Directories that say how registries are reached (hosts.toml, certificates), in the order of asking. Their files are read at every pull.',
  }),
  keep_blobs: setting<boolean>({
    kind: toggle,
    fallback: true,
    variable: 'BERTH_KEEP_BLOBS',
    help: 'false: blobs of layers are dropped after they are unpacked, where the image has a repository to fetch them from.',
  }),
  foreign_layers: setting<boolean>({ kind: toggle, fallback: false, variable: 'BERTH_FOREIGN_LAYERS', help: 'true: layers of the nondistributable types are taken.' }),
  volumes: setting<'anonymous' | 'tmpfs' | 'ignore'>({
    kind: imageVolumes,
    fallback: 'anonymous',
    variable: 'BERTH_IMAGE_VOLUMES',
    help: 'What becomes of the volumes that images declare: a directory of the container filled from the image, the same in memory, or nothing.',
  }),
};

const network = {
  mode: setting<'bridge' | 'cni' | 'none'>({
    kind: networkMode,
    fallback: 'bridge',
    variable: 'BERTH_NETWORK_MODE',
    help: 'bridge: the built-in one; cni: plugins, as nodes of a cluster have them; none: pods have the loopback device alone.',
  }),
  cni_config_dir: setting<string>({
    kind: path,
    fallback: '/etc/cni/net.d',
    variable: 'BERTH_CNI_CONFIG_DIR',
    help: 'Directory of CNI configurations; the first in lexical order counts.',
  }),
  cni_bin_dirs: setting<readonly string[]>({
    kind: paths,
    fallback: ['/opt/cni/bin', '/usr/lib/cni'],
    variable: 'BERTH_CNI_BIN_DIRS',
    help: 'Directories of CNI plugins, in the order of looking.',
  }),
  cni_template: setting<string | undefined>({
    kind: path,
    fallback: undefined,
    fallbackWords: 'none',
    variable: 'BERTH_CNI_TEMPLATE',
    help: 'File from which a CNI configuration is made when the kubelet tells the pod network of the node.',
  }),
  subnet: setting<string | undefined>({
    kind: ipv4Network,
    fallback: undefined,
    fallbackWords: '10.88.0.0/16 in /run/berth, else one of the run directory',
    variable: 'BERTH_NETWORK_SUBNET',
    help: 'Network of the built-in bridge. Change it while no pod has an address.',
  }),
  mtu: setting<number | undefined>({
    kind: integer({ min: 576, max: 65535 }),
    fallback: undefined,
    fallbackWords: "the kernel's",
    variable: 'BERTH_NETWORK_MTU',
    help: 'Largest packet on the built-in bridge, in bytes.',
  }),
};

const cdi = {
  spec_dirs: setting<readonly string[]>({
    kind: paths,
    fallback: ['/etc/cdi', '/var/run/cdi'],
    variable: 'BERTH_CDI_SPEC_DIRS',
    help: 'Directories of CDI specifications; later ones win. They are read again when they have changed.',
  }),
};

/** The tables of the file and their keys. */
export const schema = { directories, cri, log, images, network, cdi } as const;

/** A setting with its place: `network.mode`. What its kind's values are is not known here. */
export interface SettingRow {
  readonly table: string;
  readonly key: string;
  readonly setting: Setting<unknown>;
}
