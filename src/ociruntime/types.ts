/**
 * What the parts of the OCI command line promise each other. In: nothing. Out: types.
 *
 * The process that callers start is native (the front). It holds their standard streams, executes plans and becomes the parent of what it makes; whoever reads the
 * command line and compiles plans (this folder) talks to it over a socket, and runs in a Node of its own or in an engine on the same host.
 */
import type { Plan, StepFailure } from '#plan';

/** Who called, as the front tells it. */
export interface FrontRequest {
  /** The caller's arguments without the program's name. */
  readonly argv: readonly string[];
  /** Absolute working directory of the caller. */
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Which of the standard streams are terminals. */
  readonly terminals: { readonly stdin: boolean; readonly stdout: boolean; readonly stderr: boolean };
  /** Of the terminal; zeros without one. */
  readonly size: { readonly columns: number; readonly rows: number };
  /** The front's own process. */
  readonly pid: number;
  /** Why the front could not do by itself what it has plans for; the command line is then done again, or its error told. */
  readonly failure?: { readonly section: number; readonly step: number; readonly errno: number; readonly detail: string };
}

/** A process that the front is to make: the first one of a container, or a further one. */
export interface MakeRequest {
  /** Sections as of a shim's CREATE; ends at `awaitStart` (a container) or at `execute` (exec). */
  readonly plan: Plan;
  /** The process gets a terminal, whose other side goes to `consoleSocket`, or without one to the front, which copies. */
  readonly terminal: boolean;
  /** Path of a listening socket that takes the terminal by SCM_RIGHTS; empty: none. */
  readonly consoleSocket: string;
  /** Descriptors from 3 on that are left open for the process. */
  readonly preserveFds: number;
  /** Answers an `ask` of the plan: the bytes of the ASK payload in, the plan that follows out. */
  readonly answer?: (payload: Uint8Array) => Plan;
}

/** A process that was made. */
export interface MadeProcess {
  /** In the caller's PID namespace. */
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: with the pid it names one process for the life of the host. */
  readonly startTime: bigint;
}

/** What compiling may ask of the front. Failures are RuntimeErrors that name the document's path of the step. */
export interface Front {
  readonly request: FrontRequest;
  /** Bytes for the caller's standard output or error. */
  write(stream: 1 | 2, data: string | Uint8Array): void;
  /** Executes sections of `host` and `podNamespaces`. */
  run(plan: Plan): Promise<void>;
  make(request: MakeRequest): Promise<MadeProcess>;
  /** Executes a plan whose program makes the container's process in its own way, with the caller's streams, and waits for that program. Whom it leaves behind becomes a child of the front. */
  makeByProgram(plan: Plan): Promise<void>;
  /** A child that was left so counts as made from now on: `wait` is for it. Throws where it is no child of the front. */
  adopt(pid: number): Promise<MadeProcess>;
  /** Waits for the lock of a state directory, bounded, and keeps it until the front ends. Throws notFound where there is no such directory. */
  lock(stateDirectory: string): Promise<void>;
  /** Releases the process that waits at the start socket of a state directory. What fails then, an execve above all, is a step of the plan that made it, which `failed` knows. */
  start(stateDirectory: string, failed: (failure: StepFailure) => Error): Promise<void>;
}

/** How a command ends. */
export type Outcome =
  | { readonly kind: 'exit'; readonly code: number }
  /**
   * The front waits for the process that it made last, hands signals on, copies between terminals, and ends with its exit code (128 + n after signal n). Then it
   * deletes the container of this state directory; empty: nothing to delete.
   */
  | { readonly kind: 'wait'; readonly deleteStateDirectory: string };

/** Lines for `--log` and the caller's standard error; `error` is what a caller shows. */
export interface OciLog {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

/** The options before the command. */
export interface GlobalOptions {
  /** State of all containers; each has a directory named by its id. */
  readonly stateRoot: string;
  readonly debug: boolean;
}

/** What every command gets. */
export interface OciContext {
  readonly front: Front;
  readonly global: GlobalOptions;
  readonly log: OciLog;
}

/** The states of runtime-spec, and paused as every runtime has it. */
export type ContainerStatus = 'creating' | 'created' | 'running' | 'paused' | 'stopped';
