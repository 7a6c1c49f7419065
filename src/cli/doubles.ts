/**
 * Doubles for the tests of this folder: a process without a process, an engine whose methods a test gives. In: partial engines.
 * Out: what was printed. Not exported from the folder; nothing outside of tests may use it.
 */
import { type Clock, containerId, podSandboxId } from '#core';
import type { ContainerStatus, Engine, PodSandboxStatus, ProcessStreams, RegistryAuth } from '#pod';
import type { CliDependencies, CliSignal, CliSink } from './dependencies.ts';
import { runCli } from './main.ts';

/** Collects what is written. */
export class SinkDouble implements CliSink {
  text = '';
  readonly isTTY: boolean;
  readonly columns = 80;
  readonly rows = 24;
  readonly closed = new AbortController().signal;

  constructor({ isTTY = false }: { readonly isTTY?: boolean } = {}) {
    this.isTTY = isTTY;
  }

  async write(data: string | Uint8Array): Promise<void> {
    this.text += typeof data === 'string' ? data : Buffer.from(data).toString('utf8');
  }
}

/** A moment for everything: 2024-01-31T12:00:00Z. */
export const nowNs = 1_706_702_400_000_000_000n;

const clock: Clock = {
  nowNs: () => nowNs,
  monotonicMs: () => 0,
  sleep: async () => undefined,
  randomBytes: (byteCount) => new Uint8Array(byteCount).fill(0xab),
};

/** What a test may set. */
export interface CliDouble {
  readonly engine?: Partial<Engine>;
  readonly files?: Readonly<Record<string, string>>;
  readonly logs?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  readonly isTTY?: boolean;
  readonly uid?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Is given a function that delivers a signal to whoever listens. */
  readonly onSignals?: (deliver: (name: CliSignal) => void) => void;
  readonly credentials?: RegistryAuth;
  readonly overrides?: Partial<CliDependencies>;
}

/** What a command line left. */
export interface CliOutcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Calls on the terminal, the volumes and the session. */
  readonly calls: readonly string[];
  readonly listeners: number;
}

/** Runs a command line over doubles. */
export async function runDouble(argv: readonly string[], double: CliDouble = {}): Promise<CliOutcome> {
  const stdout = new SinkDouble({ isTTY: double.isTTY === true });
  const stderr = new SinkDouble({ isTTY: double.isTTY === true });
  const calls: string[] = [];
  const listeners = new Set<{ readonly name: CliSignal; readonly handler: () => void }>();
  double.onSignals?.((name) => [...listeners].filter((listener) => listener.name === name).forEach(({ handler }) => handler()));
  const missing = (path: string): never => {
    throw Object.assign(new Error(`read ${path}: ENOENT: no such file or directory, open '${path}'`), { code: 'ENOENT' });
  };
  const deps: CliDependencies = {
    version: '1.2.3',
    clock,
    io: {
      stdout,
      stderr,
      stdin: {
        isTTY: double.isTTY === true,
        read: async function* read() {
          if (double.stdin !== undefined) yield Buffer.from(double.stdin);
        },
        setRawMode: (raw) => void calls.push(`raw ${raw}`),
      },
      env: double.env ?? {},
      uid: double.uid ?? 0,
      workingDirectory: '/work',
      readFile: async (path) => double.files?.[path] ?? missing(path),
      isDirectory: async (path) => path.endsWith('/bundle'),
      onSignal: (name, handler) => {
        const listener = { name, handler };
        listeners.add(listener);
        return () => void listeners.delete(listener);
      },
    },
    logFiles: {
      read: async function* read(path) {
        yield Buffer.from(double.logs?.[path] ?? missing(path));
      },
    },
    configuration: { load: (request) => ({ files: [], entries: [], ...request }), describe: () => [] },
    openVolumes: () => ({
      create: async (uid) => void calls.push(`volumes.create ${uid}`),
      remove: async (uid) => void calls.push(`volumes.remove ${uid}`),
      sweep: async () => [],
    }),
    readHostFacts: async () => ({
      memoryBytes: 1n << 30n,
      dns: { servers: [], searches: [], options: [] },
      podsDirectory: '/p',
      memoryPodsDirectory: '/m',
      seccompDirectory: '/s',
      subordinateIds: [],
    }),
    openEngine: async ({ rootDirectory, runDirectory }) => {
      calls.push(`open ${rootDirectory} ${runDirectory}`);
      // SAFETY: a method that a test does not give fails the test that reaches it.
      return {
        engine: { listPodSandboxes: async () => [], listContainers: async () => [], ...double.engine } as Engine,
        isUsedByOthers: () => false,
        untilUnused: async () => undefined,
        close: async () => void calls.push('close'),
      };
    },
    listenOnPort: async ({ address, port }) => {
      calls.push(`listen ${address} ${port}`);
      return { address: `${address}:${port}`, close: async () => void calls.push('stop listening') };
    },
    openTransfer: async () => ({
      path: '/transfer/archive',
      fill: async (source) => {
        const chunks: Uint8Array[] = [];
        for await (const chunk of source) chunks.push(chunk);
        calls.push(`fill ${Buffer.concat(chunks).toString('utf8')}`);
      },
      read: async function* read() {
        yield Buffer.from('archive');
      },
      remove: async () => void calls.push('transfer.remove'),
    }),
    findCredentials: async (name) => {
      calls.push(`credentials ${name}`);
      return double.credentials;
    },
    doctor: async () => ({ checks: [] }),
    explainBundle: async (path) => [`bundle ${path}`],
    startDaemon: async ({ socketPath }) => {
      calls.push(`daemon ${socketPath}`);
      return 0;
    },
    ...double.overrides,
  };
  const status = await runCli(argv, deps);
  return { status, stdout: stdout.text, stderr: stderr.text, calls, listeners: listeners.size };
}

/** A pod with defaults. */
export function podDouble(fields: Partial<PodSandboxStatus> & { readonly name: string }): PodSandboxStatus {
  const { name, ...rest } = fields;
  return {
    id: podSandboxId(`${name}-pod-id-0123456789`),
    metadata: { name, uid: `uid-${name}`, namespace: 'default', attempt: 0 },
    state: 'ready',
    createdAtNs: nowNs - 90_000_000_000n,
    ips: ['10.88.0.2'],
    namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
    labels: {},
    annotations: {},
    runtimeHandler: 'native',
    portMappings: [],
    info: {},
    ...rest,
  };
}

/** A container with defaults. */
export function containerDouble(fields: Partial<ContainerStatus> & { readonly name: string; readonly pod?: string }): ContainerStatus {
  const { name, pod = 'web', ...rest } = fields;
  return {
    id: containerId(`${name}-id-0123456789`),
    podSandboxId: podSandboxId(`${pod}-pod-id-0123456789`),
    metadata: { name, attempt: 0 },
    state: 'running',
    pid: 7,
    createdAtNs: nowNs - 5_000_000_000n,
    startedAtNs: nowNs,
    finishedAtNs: 0n,
    exitCode: 0,
    reason: '',
    message: '',
    image: 'busybox',
    imageId: 'sha256:1',
    imageRef: '',
    userSpecifiedImage: 'busybox:1',
    labels: {},
    annotations: {},
    mounts: [],
    logPath: `/logs/${name}`,
    tty: false,
    stdin: false,
    info: {},
    ...rest,
  };
}

/** Streams that give these outputs and collect what they receive. */
export function streamsOf(outputs: readonly (readonly [1 | 2, string])[], exitCode: number, received: string[] = []): ProcessStreams {
  return {
    output: (async function* output() {
      for (const [stream, text] of outputs) yield { stream, data: Buffer.from(text) };
    })(),
    write: async (data) => void received.push(Buffer.from(data).toString()),
    closeInput: async () => void received.push('<end>'),
    resize: async ({ columns, rows }) => void received.push(`${columns}x${rows}`),
    exited: Promise.resolve(exitCode),
    close: () => undefined,
  };
}
