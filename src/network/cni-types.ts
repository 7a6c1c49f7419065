/** What goes in and out of the CNI network: configuration lists, pods, attachments, and the ports it needs. Types only. */
import type { ToolRequest, ToolResult } from '#system';
import type { PortMapping } from './types.ts';

/** A JSON object as it was read; what it holds is checked where it is used. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** One plugin of a list: its own configuration, which only it understands. */
export interface CniPlugin {
  /** Name of the executable in one of the binary directories. */
  readonly type: string;
  /** Names of the capabilities that its configuration switches on. */
  readonly capabilities: readonly string[];
  readonly config: JsonObject;
}

/** A network configuration list. Source: the CNI specification, "Configuration format". */
export interface CniConfigList {
  readonly name: string;
  /** Versions that the list may be used with, the highest first; the first is the one in use once versions have been negotiated. */
  readonly cniVersions: readonly string[];
  readonly disableCheck: boolean;
  readonly disableGc: boolean;
  readonly plugins: readonly CniPlugin[];
}

/** The pod as plugins are told of it. */
export interface CniPod {
  readonly podId: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly portMappings: readonly PortMapping[];
  readonly dns?: { readonly servers: readonly string[]; readonly searches: readonly string[]; readonly options: readonly string[] };
  /** Empty: none. */
  readonly cgroupPath: string;
}

/** A pod that wants to be attached by plugins. */
export interface CniAttachRequest {
  readonly pod: CniPod;
  /** Slot of the pod's shim that holds the pod's network namespace. */
  readonly netnsSlot: number;
}

/** What a pod has got from the plugins. */
export interface CniAttachment {
  readonly interfaceName: string;
  readonly netnsPath: string;
  readonly networkName: string;
  /** Without prefix lengths; an IPv4 address first where there is one. */
  readonly ips: readonly string[];
  /** Name of the host's side of the pair, where there is one. */
  readonly hostInterface?: string;
  /** The last plugin's result. */
  readonly result: JsonObject;
}

/** Where something stands before and after a crash. `adding`: plugins may have run; `deleting`: DEL has to succeed before it is forgotten. */
export type CniAttachmentState = 'adding' | 'attached' | 'deleting';

/** Everything that DEL needs, whatever became of the configuration, the namespace and the pod since. */
export interface CniRecord {
  readonly podId: string;
  readonly state: CniAttachmentState;
  readonly netnsPath: string;
  readonly interfaceName: string;
  /** The configuration list at the time of ADD, as JSON. Text, as nobody but plugins may interpret it. */
  readonly list: string;
  /** Value of CNI_ARGS. */
  readonly args: string;
  /** Capability arguments, as JSON. */
  readonly capabilityArgs: string;
  /** The last plugin's result as JSON; absent until every plugin has run. */
  readonly result?: string;
}

/** A configuration file or executable as it was found; equal stamps mean that nothing has changed. */
export interface CniFile {
  readonly path: string;
  readonly stamp: string;
}

/** What the CNI network reads and writes of the host. */
export interface CniFiles {
  /** Regular files of the directory with one of CNI's extensions, in lexical order of their names. A missing directory has none. */
  listConfigs(directory: string): Promise<readonly CniFile[]>;
  /** Throws resourceExhausted for a file above `limits.cniConfigBytesMax`. */
  readText(path: string): Promise<string>;
  /** The first executable of this name. */
  findPlugin(type: string, directories: readonly string[]): Promise<CniFile | undefined>;
  /** `namespace`: something is mounted there; `file`: an ordinary file, which a lost mount left; `absent`. */
  lookAtPin(path: string): Promise<'namespace' | 'file' | 'absent'>;
  /** Replaces a file in one step; the directory is made where it is missing. */
  replaceFile(path: string, content: string): Promise<void>;
}

/** Runs an executable of the host; see `Launcher.runTool`. */
export type RunCniTool = (request: ToolRequest, signal?: AbortSignal) => Promise<ToolResult>;
