/** What the streaming server is asked for and what it needs from its caller. Types only. */

/** Which standard streams a client wants, and whether they are a terminal. */
export interface WantedStreams {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** A command in a container. */
export interface ExecTarget extends WantedStreams {
  readonly kind: 'exec';
  readonly containerId: string;
  readonly command: readonly string[];
}

/** The first process of a container. */
export interface AttachTarget extends WantedStreams {
  readonly kind: 'attach';
  readonly containerId: string;
}

/** Ports of a pod. `ports` matter to the WebSocket protocol alone, which names none in its streams; empty: the URL's `port` parameters. */
export interface PortForwardTarget {
  readonly kind: 'portForward';
  readonly podSandboxId: string;
  readonly ports: readonly number[];
}

/** What one URL stands for. */
export type StreamTarget = ExecTarget | AttachTarget | PortForwardTarget;

/** Live streams of a process or of a connection. `close` ends an exec or a connection, and leaves an attached container running. */
export interface StreamProcess {
  readonly output: AsyncIterable<{ readonly stream: 1 | 2; readonly data: Uint8Array }>;
  write(data: Uint8Array): Promise<void>;
  closeInput(): Promise<void>;
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** After the last output. */
  readonly exited: Promise<number>;
  close(): void;
}

/** Who makes the streams. Rejections are told to the client by their message. */
export interface StreamBackend {
  exec(target: ExecTarget): Promise<StreamProcess>;
  attach(target: AttachTarget): Promise<StreamProcess>;
  portForward(podSandboxId: string, port: number): Promise<StreamProcess>;
}

/** One stream of a client, whatever carries it. */
export interface StreamChannel {
  /** Bytes of the client until it ends its side; throws when the connection breaks or the client gives the stream up. Read it once. */
  readonly incoming: AsyncIterable<Uint8Array>;
  /** Drops what has come and what still comes. */
  discard(): void;
  /** Resolves when more may be written; rejects when the connection has ended. */
  write(data: Uint8Array): Promise<void>;
  /** Ends this side. */
  end(): void;
  /** Gives the stream up in both directions. */
  reset(): void;
}

/** A client's connection with its streams. */
export interface StreamSession {
  /** Aborted when the connection has ended, for whatever reason. */
  readonly ended: AbortSignal;
  /** Says goodbye: what was written arrives, and the client closes. */
  finish(): Promise<void>;
  /** Cuts the connection. */
  abort(): void;
}
