/** GetContainerEvents and lists in parts: the daemon's events as a kubelet reads them, and a door whose engine has thousands of pods. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MessageShape } from '@bufbuild/protobuf';
import { type ClientReadableStream, status as grpcStatus } from '@grpc/grpc-js';
import { ContainerEventType, ContainerState, PodSandboxState, RuntimeService } from '#gen/cri-v1_pb.js';
import { containerId, podSandboxId } from '#core';
import { startCriServer } from '#cri';
import type { ContainerStatus, EngineEvent, PodSandboxStatus } from '#pod';
import { fakeEngine } from '../fake-engine.ts';
import { patienceMs, skipReason } from './berth-host.ts';
import { CriClient, CriHost } from './cri-host.ts';

const {
  getContainerEvents,
  listPodSandbox,
  listContainers,
  streamPodSandboxes,
  streamContainers,
  runPodSandbox,
  stopPodSandbox,
  removePodSandbox,
  createContainer,
  startContainer,
} = RuntimeService.method;
type EventMessage = MessageShape<typeof getContainerEvents.output>;
const { CONTAINER_CREATED_EVENT: created, CONTAINER_STARTED_EVENT: started, CONTAINER_STOPPED_EVENT: stopped, CONTAINER_DELETED_EVENT: deleted } = ContainerEventType;

/** Collects what a stream brings, and how it ends. */
class Reader {
  readonly events: EventMessage[] = [];
  readonly ended = Promise.withResolvers<{ readonly code: number; readonly details: string } | undefined>();
  readonly #stream: ClientReadableStream<EventMessage>;

  constructor(stream: ClientReadableStream<EventMessage>) {
    this.#stream = stream;
    stream.on('data', (event: EventMessage) => void this.events.push(event));
    // SAFETY: grpc-js emits ServiceErrors on call streams.
    stream.on('error', (error) => this.ended.resolve(error as unknown as { code: number; details: string }));
    stream.on('end', () => this.ended.resolve(undefined));
  }

  async until(what: string, isThere: (events: readonly EventMessage[]) => boolean): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!isThere(this.events)) {
      assert.ok(performance.now() < deadline, `${what}: only ${this.events.map((event) => `${event.containerEventType} ${event.containerId}`).join(', ')}`);
      await sleep(20);
    }
  }

  async cancel(): Promise<void> {
    this.#stream.cancel();
    await this.ended.promise;
  }
}

describe('events of a daemon', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => {
    cri = await CriHost.open();
  });
  after(async () => cri[Symbol.asyncDispose]());

  /** A reader that is there: pods are run until it has seen one of them. */
  const openReader = async (): Promise<Reader> => {
    const reader = new Reader(cri.client.stream(getContainerEvents, {}));
    const deadline = performance.now() + patienceMs;
    while (reader.events.length === 0) {
      assert.ok(performance.now() < deadline);
      const { podSandboxId: id } = await cri.call(runPodSandbox, { config: cri.podConfig() });
      await cri.call(removePodSandbox, { podSandboxId: id });
      await sleep(20);
    }
    return reader;
  };

  test('tell the life of a pod and its container in order, each with what was true then', async () => {
    const reader = await openReader();
    const config = cri.podConfig({ annotations: { note: 'x' } });
    const { podSandboxId: pod } = await cri.call(runPodSandbox, { config });
    const { containerId: container } = await cri.call(createContainer, { podSandboxId: pod, config: cri.containerConfig('exit 3'), sandboxConfig: config });
    await cri.call(startContainer, { containerId: container });
    await cri.ended(container);
    await cri.call(stopPodSandbox, { podSandboxId: pod });
    await cri.call(removePodSandbox, { podSandboxId: pod });
    const own = (): EventMessage[] => reader.events.filter(({ containerId: id }) => id === pod || id === container);
    await reader.until('the removal of the pod', () => own().some((event) => event.containerId === pod && event.containerEventType === deleted));
    assert.deepEqual(
      own().map((event) => [event.containerId === pod ? 'pod' : 'container', event.containerEventType]),
      [
        ['pod', created],
        ['pod', started],
        ['container', created],
        ['container', started],
        ['container', stopped],
        ['pod', stopped],
        ['container', deleted],
        ['pod', deleted],
      ],
    );
    for (const event of own()) {
      assert.deepEqual([event.podSandboxStatus?.id, event.podSandboxStatus?.metadata?.uid, event.podSandboxStatus?.annotations], [pod, config.metadata?.uid, { note: 'x' }]);
      assert.ok(event.createdAt > 0n);
    }
    const statuses = own().map(({ containersStatuses }) => containersStatuses.map(({ state, exitCode, reason }) => [state, exitCode, reason]));
    assert.deepEqual(statuses.slice(0, 3), [[], [], [[ContainerState.CONTAINER_CREATED, 0, '']]]);
    assert.deepEqual(statuses[4], [[ContainerState.CONTAINER_EXITED, 3, 'Error']]);
    assert.deepEqual(statuses.slice(6), [[], []]);
    assert.deepEqual(
      own().map(({ podSandboxStatus }) => podSandboxStatus?.state === PodSandboxState.SANDBOX_READY),
      [true, true, true, true, true, false, false, false],
    );
    await reader.cancel();
  });

  test('go to every reader, and to the others when one leaves', async () => {
    const [first, second] = [await openReader(), await openReader()];
    const { podSandboxId: one } = await cri.call(runPodSandbox, { config: cri.podConfig() });
    for (const reader of [first, second]) await reader.until('the pod', (events) => events.some(({ containerId: id }) => id === one));
    await first.cancel();
    const { podSandboxId: two } = await cri.call(runPodSandbox, { config: cri.podConfig() });
    await second.until('the second pod', (events) => events.some(({ containerId: id }) => id === two));
    assert.ok(!first.events.some(({ containerId: id }) => id === two));
    await second.cancel();
  });

  test('end with the daemon', async () => {
    const reader = await openReader();
    await cri.restart('SIGTERM');
    await reader.ended.promise;
    const next = await openReader();
    await next.cancel();
  });
});

const podId = (index: number): PodSandboxStatus['id'] => podSandboxId(index.toString(16).padStart(64, '0'));
const annotations = { note: 'x'.repeat(60_000) };

function makePod(index: number): PodSandboxStatus {
  return {
    id: podId(index),
    metadata: { name: `pod-${index}`, uid: `uid-${index}`, namespace: 'default', attempt: 0 },
    state: 'ready',
    createdAtNs: BigInt(index),
    ips: [],
    namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
    labels: {},
    annotations,
    runtimeHandler: 'native',
    portMappings: [],
    info: {},
  };
}

function makeContainer(index: number): ContainerStatus {
  return {
    id: containerId(index.toString(16).padStart(64, 'c')),
    podSandboxId: podId(index),
    metadata: { name: 'main', attempt: 0 },
    state: 'running',
    pid: 1,
    createdAtNs: 1n,
    startedAtNs: 2n,
    finishedAtNs: 0n,
    exitCode: 0,
    reason: '',
    message: '',
    image: 'busybox',
    imageId: 'sha256:0',
    imageRef: 'sha256:0',
    userSpecifiedImage: 'busybox',
    labels: {},
    annotations,
    mounts: [],
    logPath: '',
    tty: false,
    stdin: false,
    info: {},
  };
}

describe('a door with many pods', () => {
  const count = 400;
  const pods = Array.from({ length: count }, (_, index) => makePod(index));
  const containers = Array.from({ length: count }, (_, index) => makeContainer(index));
  let directory: string;
  let server: Awaited<ReturnType<typeof startCriServer>>;
  let client: CriClient;
  let readers = 0;
  const flood = Promise.withResolvers<void>();

  async function* events(signal: AbortSignal): AsyncGenerator<EngineEvent, void, void> {
    readers += 1;
    try {
      for (let index = 0; index < count && !signal.aborted; index += 1) {
        const [pod, container] = [makePod(index), makeContainer(index)];
        yield { kind: 'containerStarted', podSandboxId: pod.id, containerId: container.id, atNs: 5n, snapshot: { pod, containers: [container] } };
      }
      flood.resolve();
    } finally {
      readers -= 1;
    }
  }

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'berth-cri-events-'));
    const socketPath = join(directory, 'berth.sock');
    server = await startCriServer({ engine: fakeEngine({ listPodSandboxes: async () => pods, listContainers: async () => containers, events }), socketPath, version: '0' });
    client = new CriClient(socketPath);
  });
  after(async () => {
    await client[Symbol.asyncDispose]();
    await server.close();
    rmSync(directory, { recursive: true });
  });

  test('refuses lists beyond the size of a message, and names the stream that has them', async () => {
    const refused = (list: string, stream: string): object => ({
      code: grpcStatus.RESOURCE_EXHAUSTED,
      details: new RegExp(`^${list}: the answer has [0-9]+ bytes, at most 16777216; use ${stream}, which sends it in parts, or a filter$`),
    });
    await assert.rejects(client.call(listPodSandbox, {}), refused('ListPodSandbox', 'StreamPodSandboxes'));
    await assert.rejects(client.call(listContainers, {}), refused('ListContainers', 'StreamContainers'));
  });

  test('streams them in parts that fit, in order and each once', async () => {
    const podIds: string[] = [];
    let messages = 0;
    for await (const message of client.stream(streamPodSandboxes, {})) {
      // SAFETY: the stream's messages are decoded as this method's output.
      podIds.push(...(message as MessageShape<typeof streamPodSandboxes.output>).podSandboxes.map(({ id }) => id));
      messages += 1;
    }
    assert.deepEqual(
      podIds,
      pods.map(({ id }) => id),
    );
    assert.ok(messages > 20, `${messages} messages of a mebibyte`);
    const containerIds: string[] = [];
    // SAFETY: as above.
    for await (const message of client.stream(streamContainers, {})) containerIds.push(...(message as MessageShape<typeof streamContainers.output>).containers.map(({ id }) => id));
    assert.deepEqual(
      containerIds,
      containers.map(({ id }) => id),
    );
  });

  test('asks the engine for no more events than a reader takes', async () => {
    const stream = client.stream(getContainerEvents, {});
    const first = Promise.withResolvers<void>();
    stream.once('data', () => {
      stream.pause();
      first.resolve();
    });
    stream.on('error', () => undefined);
    await first.promise;
    const outcome = await Promise.race([flood.promise.then(() => 'all of them'), sleep(500, 'held back')]);
    assert.equal(outcome, 'held back');
    stream.cancel();
    const deadline = performance.now() + patienceMs;
    while (readers > 0) {
      assert.ok(performance.now() < deadline, 'the reader has gone and the engine is still asked');
      await sleep(20);
    }
  });
});
