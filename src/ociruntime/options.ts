/**
 * What a command line of the OCI runtime comes down to, one type per command. In: nothing. Out: types; `cli.ts` makes the values. Paths are absolute, numbers are in
 * range and identifiers have been looked at; what a document says is decoded by the command itself.
 */
import type { OciContext, Outcome } from './types.ts';

/** `create`. */
export interface CreateOptions {
  readonly id: string;
  /** Absolute; the caller's directory where the flag is missing. */
  readonly bundle: string;
  /** Absolute; empty: none. */
  readonly consoleSocket: string;
  /** Absolute; empty: none. */
  readonly pidFile: string;
  /** Descriptors from 3 on, not counting those of LISTEN_FDS. */
  readonly preserveFds: number;
  readonly noPivot: boolean;
  readonly noNewKeyring: boolean;
}

/** `run`. */
export interface RunOptions extends CreateOptions {
  readonly detach: boolean;
  /** Leaves the container where it is when its process has ended. */
  readonly keep: boolean;
  /** Orphans of the container's processes go to the caller's subreaper, not to this process. */
  readonly noSubreaper: boolean;
}

/** What `exec` changes in the process object of the container's document. */
export interface ExecProcess {
  /** Not empty. */
  readonly args: readonly string[];
  /** Both 32-bit; absent: as the document has it. */
  readonly user?: { readonly uid: number; readonly gid?: number };
  /** Empty: as the document has it. */
  readonly cwd: string;
  /** Added to the document's. */
  readonly env: readonly string[];
  /** Added to bounding, effective and permitted, and to ambient where the document has inheritable ones. */
  readonly caps: readonly string[];
  /** 32-bit; added to the document's. */
  readonly additionalGids: readonly number[];
  /** Overrides the document's `terminal`. */
  readonly tty: boolean;
  /** Empty: as the document has it. */
  readonly processLabel: string;
  /** Empty: as the document has it. */
  readonly apparmor: string;
  /** Absent: as the document has it. */
  readonly noNewPrivs?: boolean;
}

/** `exec`. */
export interface ExecOptions {
  readonly id: string;
  /** A file with a whole process object, by absolute path, or changes to the one that the container has. */
  readonly process: { readonly kind: 'file'; readonly path: string } | { readonly kind: 'changes'; readonly changes: ExecProcess };
  readonly detach: boolean;
  /** Absolute; empty: none. */
  readonly consoleSocket: string;
  /** Absolute; empty: none. */
  readonly pidFile: string;
  readonly preserveFds: number;
  readonly ignorePaused: boolean;
  /** Groups below the container's to run in, by controller; the key is empty for cgroup2, whose path is the only one. */
  readonly cgroups: ReadonlyMap<string, string>;
}

/** `kill`. */
export interface KillOptions {
  readonly id: string;
  /** As the kernel numbers it; 0 tells whether there is a process. */
  readonly signal: number;
  /** An ended container is no error. */
  readonly all: boolean;
}

/** `delete`. */
export interface DeleteOptions {
  readonly id: string;
  readonly force: boolean;
}

/** Commands that take an id alone: start, state, pause, resume. */
export interface IdOptions {
  readonly id: string;
}

/** How lists are printed. */
export type ListFormat = 'table' | 'json';

/** `list`. */
export interface ListOptions {
  readonly format: ListFormat;
  readonly quiet: boolean;
}

/** `ps`. */
export interface PsOptions {
  readonly id: string;
  readonly format: ListFormat;
  /** Arguments of ps(1). */
  readonly psArgs: readonly string[];
}

/** `events`. */
export interface EventsOptions {
  readonly id: string;
  /** One document of statistics, then the end. */
  readonly stats: boolean;
  /** More than 0. */
  readonly intervalMs: number;
}

/** `spec`. */
export interface SpecOptions {
  /** Absolute. */
  readonly bundle: string;
}

/** `update`. */
export interface UpdateOptions {
  readonly id: string;
  /** A file with resources by absolute path; empty: the flags say it. */
  readonly file: string;
  /** A linux.resources object as the flags have it, not yet looked at. */
  readonly resources: Readonly<Record<string, unknown>>;
  /** Things to tell the caller that do not stop the command. */
  readonly warnings: readonly string[];
}

/** What checkpoint and restore tell criu alike. */
export interface CriuOptions {
  readonly id: string;
  /** Absolute. */
  readonly imagePath: string;
  /** Absolute; empty: criu's own choice. */
  readonly workPath: string;
  readonly tcpEstablished: boolean;
  readonly tcpSkipInFlight: boolean;
  readonly extUnixSk: boolean;
  readonly shellJob: boolean;
  readonly lazyPages: boolean;
  readonly fileLocks: boolean;
  readonly autoDedup: boolean;
  readonly linkRemap: boolean;
  /** The network namespace is made anew without what was in it. */
  readonly emptyNetwork: boolean;
  /** Empty: criu's default. */
  readonly manageCgroupsMode: '' | 'soft' | 'full' | 'strict' | 'ignore';
}

/** `checkpoint`. */
export interface CheckpointOptions extends CriuOptions {
  /** Relative to the images; empty: none. */
  readonly parentPath: string;
  readonly leaveRunning: boolean;
  readonly preDump: boolean;
  /** A descriptor of the caller that gets a zero byte once lazy pages are ready; -1: none. */
  readonly statusFd: number;
  readonly pageServer?: { readonly address: string; readonly port: number };
}

/** `restore`. */
export interface RestoreOptions extends CriuOptions {
  readonly bundle: string;
  readonly consoleSocket: string;
  readonly pidFile: string;
  readonly detach: boolean;
  readonly noSubreaper: boolean;
  readonly noPivot: boolean;
  readonly lsmProfile: string;
  readonly lsmMountContext: string;
}

/** A command line that is complete and in order. */
export type Command =
  | { readonly name: 'create'; readonly options: CreateOptions }
  | { readonly name: 'run'; readonly options: RunOptions }
  | { readonly name: 'exec'; readonly options: ExecOptions }
  | { readonly name: 'start' | 'state' | 'pause' | 'resume'; readonly options: IdOptions }
  | { readonly name: 'kill'; readonly options: KillOptions }
  | { readonly name: 'delete'; readonly options: DeleteOptions }
  | { readonly name: 'list'; readonly options: ListOptions }
  | { readonly name: 'ps'; readonly options: PsOptions }
  | { readonly name: 'events'; readonly options: EventsOptions }
  | { readonly name: 'spec'; readonly options: SpecOptions }
  | { readonly name: 'features'; readonly options: Readonly<Record<string, never>> }
  | { readonly name: 'update'; readonly options: UpdateOptions }
  | { readonly name: 'checkpoint'; readonly options: CheckpointOptions }
  | { readonly name: 'restore'; readonly options: RestoreOptions };

/** One command: the result is how the process ends; a failure is thrown, and the caller of this tells it. */
export type Operation<Options> = (context: OciContext, options: Options) => Promise<Outcome>;

/** The commands that make, signal and remove processes; `dispatch` is given them. */
export interface ContainerOperations {
  readonly create: Operation<CreateOptions>;
  readonly run: Operation<RunOptions>;
  readonly exec: Operation<ExecOptions>;
  readonly start: Operation<IdOptions>;
  readonly state: Operation<IdOptions>;
  readonly kill: Operation<KillOptions>;
  readonly delete: Operation<DeleteOptions>;
}
