/**
 * A daemon as a kubelet has it: `berth daemon` with directories of its own, and typed calls on its CRI socket. In: nothing but the machine.
 * Out: a host whose disposal ends the daemon and checks that nothing of its pods is left. Every suite that calls CRI uses this one.
 */
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Client, type ClientReadableStream, credentials } from '@grpc/grpc-js';
import { type ContainerConfigSchema, ContainerState, type PodSandboxConfigSchema, RuntimeService } from '#gen/cri-v1_pb.js';
import { BerthHost, type Running, busybox, image, patienceMs } from './berth-host.ts';

type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { readonly input: I; readonly output: O };

/** The plain form of a message, whose fields may be left out. */
type Init<M extends DescMessage> = Exclude<MessageInitShape<M>, MessageShape<M>>;

/** What a call may be told besides its request. */
export interface CallOptions {
  /** The client gives up then, as a kubelet's deadline makes it. Absent: never. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** Typed calls on one connection to a socket. A failed call rejects with grpc-js's ServiceError. */
export class CriClient implements AsyncDisposable {
  readonly #client: Client;

  constructor(socketPath: string) {
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': 16 * 1024 * 1024 });
  }

  async call<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageInitShape<I>, { timeoutMs, signal }: CallOptions = {}): Promise<MessageShape<O>> {
    const answer = Promise.withResolvers<MessageShape<O>>();
    const call = this.#client.makeUnaryRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
      (bytes) => fromBinary(method.output, bytes),
      create(method.input, request),
      timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs },
      (error, response) => (error === null && response !== undefined ? answer.resolve(response) : answer.reject(error)),
    );
    signal?.addEventListener('abort', () => call.cancel(), { once: true });
    return answer.promise;
  }

  stream<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageInitShape<I>): ClientReadableStream<MessageShape<O>> {
    return this.#client.makeServerStreamRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
      (bytes) => fromBinary(method.output, bytes),
      create(method.input, request),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
  }
}

/** A daemon and a client of it. Pods that a test leaves are removed at the end. */
export class CriHost implements AsyncDisposable {
  readonly host: BerthHost;
  readonly socketPath: string;
  client: CriClient;
  #daemon: Running;
  #serial = 0;

  private constructor(host: BerthHost, socketPath: string, daemon: Running) {
    this.host = host;
    this.socketPath = socketPath;
    this.#daemon = daemon;
    this.client = new CriClient(socketPath);
  }

  /** With the busybox image; `args` go to the daemon. `installed`: as users start it, see BerthHost. */
  static async open(args: readonly string[] = [], options: { readonly installed?: boolean } = {}): Promise<CriHost> {
    const host = await BerthHost.open();
    const socketPath = `${host.run}/berth.sock`;
    return new CriHost(host, socketPath, await startDaemon(host, socketPath, args, options));
  }

  /** The daemon's own process, as its children and files are found by. */
  get daemonPid(): number {
    return this.#daemon.child.pid ?? 0;
  }

  /** Ends the daemon by the signal and starts another one, as an upgrade or a crash does. Pods stay. */
  async restart(signal: 'SIGTERM' | 'SIGKILL', args: readonly string[] = []): Promise<void> {
    await this.client[Symbol.asyncDispose]();
    this.#daemon.child.kill(signal);
    await this.#daemon.finished;
    this.#daemon = await startDaemon(this.host, this.socketPath, args);
    this.client = new CriClient(this.socketPath);
  }

  async call<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageInitShape<I>, options?: CallOptions): Promise<MessageShape<O>> {
    return this.client.call(method, request, options);
  }

  /** A pod's configuration with a name that no other one has; `more` replaces whole fields. */
  podConfig(more: Init<typeof PodSandboxConfigSchema> = {}): Init<typeof PodSandboxConfigSchema> {
    this.#serial += 1;
    const name = `pod-${this.#serial}`;
    return { metadata: { name, uid: `uid-${this.#serial}`, namespace: 'default', attempt: 0 }, logDirectory: this.host.scratch(`logs/${name}`), ...more };
  }

  /** A container that runs a shell script. */
  containerConfig(script: string, more: Init<typeof ContainerConfigSchema> = {}): Init<typeof ContainerConfigSchema> {
    return { metadata: { name: 'main', attempt: 0 }, image: { image }, command: [busybox, 'sh', '-c', script], logPath: 'main/0.log', ...more };
  }

  /** Runs a pod with one started container. */
  async startContainer(
    script: string,
    options: { readonly pod?: Init<typeof PodSandboxConfigSchema>; readonly container?: Init<typeof ContainerConfigSchema> } = {},
  ): Promise<{ readonly podSandboxId: string; readonly containerId: string }> {
    const config = this.podConfig(options.pod);
    const { podSandboxId } = await this.call(RuntimeService.method.runPodSandbox, { config });
    const { containerId } = await this.call(RuntimeService.method.createContainer, {
      podSandboxId,
      config: this.containerConfig(script, options.container),
      sandboxConfig: config,
    });
    await this.call(RuntimeService.method.startContainer, { containerId });
    return { podSandboxId, containerId };
  }

  /** Waits for the container's end and gives its status. */
  async ended(containerId: string): Promise<NonNullable<MessageShape<typeof RuntimeService.method.containerStatus.output>['status']>> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const { status } = await this.call(RuntimeService.method.containerStatus, { containerId });
      if (status?.state === ContainerState.CONTAINER_EXITED) return status;
      assert.ok(performance.now() < deadline, `container ${containerId} has not ended`);
      await sleep(20);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { items } = await this.call(RuntimeService.method.listPodSandbox, {});
    for (const { id } of items) await this.call(RuntimeService.method.removePodSandbox, { podSandboxId: id });
    await this.client[Symbol.asyncDispose]();
    this.#daemon.child.kill('SIGTERM');
    await this.#daemon.finished;
    await this.host.assertNoRemains();
    rmSync(this.host.directory, { recursive: true, force: true });
  }
}

async function startDaemon(host: BerthHost, socketPath: string, args: readonly string[], options: { readonly installed?: boolean } = {}): Promise<Running> {
  const daemon = host.start(['daemon', '--socket', socketPath, ...args], undefined, options);
  const deadline = performance.now() + patienceMs;
  while (!readFileSync('/proc/net/unix', 'utf8').includes(socketPath)) {
    assert.ok(daemon.child.exitCode === null && performance.now() < deadline, 'the daemon does not listen');
    await sleep(20);
  }
  return daemon;
}
