/**
 * What the command line needs from the outside, as one object that `bin/` wires.
 * In: nothing. Out: types only. The commands touch the host through these ports and through nothing else.
 */
import type { Clock } from '#core';
import type { Engine, RegistryAuth } from '#pod';
import type { HostFacts, VolumePort } from '#podrun';

/** Where an engine keeps its state; the two directories name exactly one engine. */
export interface EngineLocation {
  /** State directory, such as `/var/lib/berth`. Absolute. */
  readonly rootDirectory: string;
  /** Sockets and shim state, such as `/run/berth`. Absolute. */
  readonly runDirectory: string;
}

/** What the command line says of the configuration; it wins over files and variables. Paths absolute. */
export interface ConfigurationRequest {
  /** Read instead of the default file; it must exist. */
  readonly file?: string;
  readonly rootDirectory?: string;
  readonly runDirectory?: string;
  readonly socketPath?: string;
  readonly debug?: boolean;
}

/** One setting as it counts. */
export interface ConfigurationEntry {
  /** Table of the TOML document. */
  readonly table: string;
  readonly key: string;
  /** Decoded: texts, numbers (times in milliseconds), booleans, lists of texts; undefined where nothing is said and there is no default. */
  readonly value: unknown;
  /** The value as TOML; absent with it. */
  readonly toml?: string;
  /** `default`, `FILE:LINE`, `variable NAME` or `option --NAME`. */
  readonly origin: string;
}

/** The merged configuration. The directories are absent where nothing names them. */
export interface ConfigurationView {
  readonly rootDirectory?: string;
  readonly runDirectory?: string;
  readonly socketPath?: string;
  /** Files that were read, in the order in which they count. */
  readonly files: readonly string[];
  readonly entries: readonly ConfigurationEntry[];
}

/** What there is to say of a setting without any configuration. */
export interface SettingDescription {
  readonly table: string;
  readonly key: string;
  readonly help: string;
  /** What its values are: `an absolute path`. */
  readonly words: string;
  readonly variable: string;
  readonly flag?: string;
  /** The default as TOML, or in words where it depends on the host. */
  readonly toml?: string;
  readonly fallbackWords?: string;
  readonly needsRestart: boolean;
}

/** Berth's own configuration. */
export interface ConfigurationPort {
  /** Reads files and variables; what it gives also counts for the engine that this process opens. Throws invalidArgument by file, line and key. */
  load(request: ConfigurationRequest): ConfigurationView;
  /** All settings in the order of the documented file. */
  describe(): readonly SettingDescription[];
}

/** An engine for the time of one command: this process's own, or a client of the process that owns the directories. */
export interface EngineSession {
  readonly engine: Engine;
  /** This process owns the state directory, and other commands use its engine now. */
  isUsedByOthers(): boolean;
  /** Resolves when that is over, or when the signal fires. */
  untilUnused(signal: AbortSignal): Promise<void>;
  /** Ends the launcher or the connection. Detached pods go on. Called exactly once. */
  close(): Promise<void>;
}

/** A stream that text and bytes are written to. */
export interface CliSink {
  readonly isTTY: boolean;
  /** Width of the terminal now; 80 where there is none. */
  readonly columns: number;
  readonly rows: number;
  /** Fires when a write has found that nobody reads any more (`berth logs -f | head`). */
  readonly closed: AbortSignal;
  /** Resolves once the data is handed on, so that a slow reader slows the writer. A closed pipe is no error: the data is dropped. */
  write(data: string | Uint8Array): Promise<void>;
}

/** Standard input. */
export interface CliInput {
  readonly isTTY: boolean;
  /** Everything that is typed or piped, until it ends or the signal fires. At most one reader at a time. */
  read(signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** Terminals only. `true` hands every key on unread; the caller must set `false` again on every way out. */
  setRawMode(raw: boolean): void;
}

/** Signals that commands react to. */
export type CliSignal = 'SIGINT' | 'SIGTERM' | 'SIGHUP' | 'SIGWINCH';

/** The process around the command line. */
export interface CliIo {
  readonly stdout: CliSink;
  readonly stderr: CliSink;
  readonly stdin: CliInput;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Effective user id of this process. */
  readonly uid: number;
  /** Working directory, for relative paths. Absolute. */
  readonly workingDirectory: string;
  /** Text of a regular file, at most `bytesMax` bytes; RuntimeError with errno otherwise. */
  readFile(path: string, options: { readonly bytesMax: number }): Promise<string>;
  /** False for what is absent or no directory. */
  isDirectory(path: string): Promise<boolean>;
  /** Calls `handler` on each such signal until the returned function is called. */
  onSignal(name: CliSignal, handler: () => void): () => void;
}

/** Reads a log file that another process writes. */
export interface LogFilePort {
  /**
   * Bytes of the file from its beginning. With `follow` it goes on at the end, over rotation and truncation, until `ended` is aborted
   * and what was written before is read. Only regular files are opened and a last component that is a link is refused.
   */
  read(path: string, options: { readonly follow: boolean; readonly ended: AbortSignal }): AsyncIterable<Uint8Array>;
}

/** A file of the engine's for bytes that come from or go to a pipe. */
export interface Transfer {
  /** Absolute; does not exist until somebody writes it. */
  readonly path: string;
  /** Makes the file from the source. A failed write is an error; the source's own errors stay as they are. */
  fill(source: AsyncIterable<Uint8Array>): Promise<void>;
  /** Once: the file goes with its last byte, or with this process. */
  read(): AsyncIterable<Uint8Array>;
  /** Absence is no error. */
  remove(): Promise<void>;
}

/** A connection that a program has made to a forwarded port. */
export interface ForwardConnection {
  /** Until the client ends its side; throws when it breaks the connection. At most one reader. */
  read(): AsyncIterable<Uint8Array>;
  /** Resolves once the bytes are handed on. */
  write(data: Uint8Array): Promise<void>;
  /** Ends this side, after what was written. */
  end(): Promise<void>;
  destroy(): void;
  /** The client has gone. */
  isClosed(): boolean;
}

/** A port of this machine that is listened on. */
export interface PortListener {
  /** With the port, such as `127.0.0.1:8080`. */
  readonly address: string;
  /** Cuts the connections too. */
  close(): Promise<void>;
}

/** One line of `berth doctor`. */
export interface DoctorCheck {
  /** What was looked at, such as `cgroup v2`. */
  readonly name: string;
  /** `missing`: pods cannot run; `limited`: they run, and the detail says without what. */
  readonly state: 'ok' | 'limited' | 'missing';
  readonly detail: string;
  /** What to do about it. */
  readonly remedy?: string;
}

/** What this host offers. */
export interface DoctorReport {
  readonly checks: readonly DoctorCheck[];
}

/** Options of `berth daemon`. */
export interface DaemonOptions extends EngineLocation {
  /** Path of the CRI socket. Absolute. */
  readonly socketPath: string;
  readonly debug: boolean;
}

/** Everything that `runCli` needs. `createHostPorts` makes the ones that only touch this process and its files. */
export interface CliDependencies {
  readonly version: string;
  readonly clock: Clock;
  readonly io: CliIo;
  readonly logFiles: LogFilePort;
  readonly configuration: ConfigurationPort;
  /** Volumes of pods that the command line runs. Source: `createVolumes` of podrun. */
  openVolumes(location: EngineLocation): VolumePort;
  readHostFacts(location: EngineLocation): Promise<HostFacts>;
  /** `lasting`: the command may take long, so that others need not wait for its end to become the owner. */
  openEngine(location: EngineLocation, options: { readonly lasting: boolean }): Promise<EngineSession>;
  /** Port 0: any free one. */
  listenOnPort(where: { readonly address: string; readonly port: number }, onConnection: (connection: ForwardConnection) => void): Promise<PortListener>;
  /** Below the engine's state directory, so that an engine of any process reaches it. */
  openTransfer(location: EngineLocation): Promise<Transfer>;
  /** The user's credentials for a registry or a repository of it, from the files of docker and podman and their helpers; undefined for none. */
  findCredentials(name: string): Promise<RegistryAuth | undefined>;
  doctor(location: EngineLocation): Promise<DoctorReport>;
  /** The plan of an OCI bundle (a directory or its config.json) as lines, without running it. */
  explainBundle(path: string, options: { readonly showSecrets: boolean }): Promise<readonly string[]>;
  /** Runs until a signal ends it; resolves with the exit status. */
  startDaemon(options: DaemonOptions): Promise<number>;
}
