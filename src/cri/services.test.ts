/** What each RPC asks of the engine and how its answer is encoded; absence, credentials, errors. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { create } from '@bufbuild/protobuf';
import {
  AuthConfigSchema,
  ContainerStatusRequestSchema,
  CreateContainerRequestSchema,
  ExecSyncRequestSchema,
  ImageFsInfoRequestSchema,
  ImageStatusRequestSchema,
  ListContainersRequestSchema,
  ListImagesRequestSchema,
  ListPodSandboxRequestSchema,
  PodSandboxStatusRequestSchema,
  PullImageRequestSchema,
  RemoveContainerRequestSchema,
  RemoveImageRequestSchema,
  RunPodSandboxRequestSchema,
  StatusRequestSchema,
  StopContainerRequestSchema,
  StopPodSandboxRequestSchema,
  StreamImagesRequestSchema,
  VersionRequestSchema,
  Signal,
} from '#gen/cri-v1_pb.js';
import { RuntimeError, containerId, limits, podSandboxId } from '#core';
import type { ContainerStatus, Engine, ImageSummary, PodSandboxStatus } from '#pod';
import { encodeStatus } from './adapter.ts';
import { fitExecOutput } from './encode.ts';
import { buildImageHandlers, decodeAuth } from './image-service.ts';
import { buildRuntimeHandlers } from './runtime-service.ts';

const context = { signal: new AbortController().signal };

const pod: PodSandboxStatus = {
  id: podSandboxId('p1'),
  metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
  state: 'notReady',
  createdAtNs: 1_700_000_000_000_000_000n,
  ips: ['10.88.0.2', 'fd00::2'],
  namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
  labels: { a: 'b' },
  annotations: {},
  runtimeHandler: '',
  portMappings: [],
  info: { pid: 7, big: 1n << 62n, small: 5n },
};

const container: ContainerStatus = {
  id: containerId('c1'),
  podSandboxId: podSandboxId('p1'),
  metadata: { name: 'c', attempt: 1 },
  state: 'exited',
  pid: 0,
  createdAtNs: 1n,
  startedAtNs: 2n,
  finishedAtNs: 3n,
  exitCode: 137,
  reason: 'OOMKilled',
  message: 'm',
  image: 'busybox',
  imageId: 'sha256:i',
  imageRef: 'busybox@sha256:d',
  userSpecifiedImage: 'bb',
  labels: {},
  annotations: {},
  mounts: [
    { containerPath: '/a', hostPath: '/b', readonly: true, propagation: 'hostToContainer', restrictions: ['noexec'] },
    { containerPath: '/m', hostPath: '', readonly: true, propagation: 'private', image: { image: 'sha256:v', userSpecifiedImage: 'v:1', subPath: 's', imageRef: 'v@sha256:v' } },
  ],
  logPath: '/var/log/c.log',
  tty: false,
  stdin: false,
  user: { uid: 1, gid: 2, groups: [3] },
  info: {},
};

const image: ImageSummary = {
  id: 'sha256:i',
  names: ['docker.io/library/busybox:latest'],
  digests: ['docker.io/library/busybox@sha256:d'],
  sizeBytes: 9,
  createdAtNs: 0n,
  pinned: false,
  uid: 0,
};

/** An engine of the given methods; any other call fails the test. */
function engineOf(methods: Partial<Engine>): Engine {
  // SAFETY: a handler that calls a method the test did not give throws a TypeError, which no assertion here accepts.
  return methods as Engine;
}

function runtime(methods: Partial<Engine>): Required<ReturnType<typeof buildRuntimeHandlers>> {
  // SAFETY: the tests call only handlers that exist; a missing one is a TypeError.
  return buildRuntimeHandlers({ engine: engineOf(methods), version: '1.2.3' }) as Required<ReturnType<typeof buildRuntimeHandlers>>;
}

function images(methods: Partial<Engine>): Required<ReturnType<typeof buildImageHandlers>> {
  // SAFETY: as above.
  return buildImageHandlers(engineOf(methods)) as Required<ReturnType<typeof buildImageHandlers>>;
}

function failWith(code: 'notFound' | 'internal', message: string): () => Promise<never> {
  return async () => {
    throw new RuntimeError(code, message);
  };
}

test('Version names the runtime and API v1', async () => {
  assert.deepEqual(await runtime({}).version(create(VersionRequestSchema), context), { version: '0.1.0', runtimeName: 'berth', runtimeVersion: '1.2.3', runtimeApiVersion: 'v1' });
});

test('Status has the two required conditions, and facts only when asked', async () => {
  const status = async () => ({
    version: '1',
    runtimeReady: true,
    networkReady: false,
    networkReason: 'NoPool',
    networkMessage: 'no pool',
    runtimeHandlers: [{ name: '', recursiveReadOnlyMounts: false, userNamespaces: false }],
    info: { stateDirectory: '/s' },
  });
  const answer = await runtime({ status }).status(create(StatusRequestSchema), context);
  assert.deepEqual(answer.status?.conditions, [
    { type: 'RuntimeReady', status: true },
    { type: 'NetworkReady', status: false, reason: 'NoPool', message: 'no pool' },
  ]);
  assert.equal(answer.info, undefined);
  const verbose = await runtime({ status }).status(create(StatusRequestSchema, { verbose: true }), context);
  assert.deepEqual(verbose.info, { info: '{"stateDirectory":"/s"}' });
  const ended = async () => ({ ...(await status()), runtimeReady: false, runtimeReason: 'LauncherEnded', runtimeMessage: 'it has ended' });
  const bad = await runtime({ status: ended }).status(create(StatusRequestSchema), context);
  assert.deepEqual(bad.status?.conditions?.[0], { type: 'RuntimeReady', status: false, reason: 'LauncherEnded', message: 'it has ended' });
});

test('Stop and Remove of what is absent succeed, as CRI wants them idempotent', async () => {
  const absent = failWith('notFound', 'container abc does not exist');
  const handlers = runtime({ stopPodSandbox: absent, podSandboxStatus: absent, stopContainer: absent, removeContainer: absent, containerStatus: absent });
  assert.deepEqual(await handlers.stopPodSandbox(create(StopPodSandboxRequestSchema, { podSandboxId: 'abc' }), context), {});
  assert.deepEqual(await handlers.stopContainer(create(StopContainerRequestSchema, { containerId: 'abc' }), context), {});
  assert.deepEqual(await handlers.removeContainer(create(RemoveContainerRequestSchema, { containerId: 'abc' }), context), {});
  const imageHandlers = images({ removeImage: failWith('notFound', 'image x'), imageStatus: async () => undefined });
  assert.deepEqual(await imageHandlers.removeImage(create(RemoveImageRequestSchema, { image: { image: 'x' } }), context), {});
});

test('a notFound from inside a stop of what exists is not taken for absence', async () => {
  const handlers = runtime({ stopContainer: failWith('notFound', 'stop container c1: open cgroup: ENOENT'), containerStatus: async () => container });
  await assert.rejects(handlers.stopContainer(create(StopContainerRequestSchema, { containerId: 'c1' }), context), {
    code: 'notFound',
    message: 'stop container c1: open cgroup: ENOENT',
  });
});

test('Status of what is absent is notFound with the words of the engine', async () => {
  const handlers = runtime({ containerStatus: failWith('notFound', 'container does not exist: abc') });
  await assert.rejects(handlers.containerStatus(create(ContainerStatusRequestSchema, { containerId: 'abc' }), context), {
    code: 'notFound',
    message: 'container does not exist: abc',
  });
});

test('an empty id is refused, never taken as a prefix', async () => {
  await assert.rejects(runtime({}).stopPodSandbox(create(StopPodSandboxRequestSchema), context), { code: 'invalidArgument', message: 'pod_sandbox_id: required' });
  await assert.rejects(runtime({}).removeContainer(create(RemoveContainerRequestSchema), context), { code: 'invalidArgument', message: 'container_id: required' });
});

test('requests that create pass configuration, handler and signal, and name the path of what is wrong', async () => {
  const seen: unknown[] = [];
  const handlers = runtime({
    runPodSandbox: async (config, options, signal) => {
      seen.push(config.metadata.name, options, signal);
      return podSandboxId('p1');
    },
  });
  const request = create(RunPodSandboxRequestSchema, { config: { metadata: { name: 'a', uid: 'u', namespace: 'n' } }, runtimeHandler: 'runc' });
  assert.deepEqual(await handlers.runPodSandbox(request, context), { podSandboxId: 'p1' });
  assert.deepEqual(seen, ['a', { runtimeHandler: 'runc' }, context.signal]);
  await assert.rejects(handlers.runPodSandbox(create(RunPodSandboxRequestSchema), context), { code: 'invalidArgument', message: 'config: required' });
  await assert.rejects(handlers.createContainer(create(CreateContainerRequestSchema, { podSandboxId: 'p' }), context), { code: 'invalidArgument', message: 'config: required' });
});

test('pod status carries addresses, namespaces and, when asked, facts as one JSON document', async () => {
  const handlers = runtime({
    podSandboxStatus: async () => ({ ...pod, observedAtNs: 77n }),
    podSandboxInfo: async () => pod.info,
    // SAFETY: an id of the test's own.
    listContainers: async (filter) =>
      filter?.podSandboxId === pod.id ? [container, { ...container, id: 'c2' as typeof container.id, createdAtNs: container.createdAtNs + 1n }] : [],
    listPodSandboxes: async () => [pod],
  });
  const answer = await handlers.podSandboxStatus(create(PodSandboxStatusRequestSchema, { podSandboxId: 'p1', verbose: true }), context);
  assert.deepEqual(answer.status?.network, { ip: '10.88.0.2', additionalIps: [{ ip: 'fd00::2' }] });
  assert.deepEqual(answer.status?.linux?.namespaces?.options, { network: 0, pid: 1, ipc: 0, targetId: '' });
  assert.equal(answer.status?.state, 1);
  assert.deepEqual([answer.timestamp, answer.containersStatuses?.map(({ id }) => id)], [77n, ['c2', 'c1']], 'the newest container comes first');
  assert.deepEqual(answer.info, { info: '{"pid":7,"big":"4611686018427387904","small":5}' });
  const { items } = await handlers.listPodSandbox(create(ListPodSandboxRequestSchema), context);
  assert.deepEqual(
    items?.map(({ id, createdAt }) => [id, createdAt]),
    [['p1', pod.createdAtNs]],
  );
});

test('container status carries exit, times, mounts, user and image', async () => {
  const answer = await runtime({ containerStatus: async () => ({ ...container, stopSignal: 'SIGRTMIN+3' }) }).containerStatus(
    create(ContainerStatusRequestSchema, { containerId: 'c1' }),
    context,
  );
  assert.deepEqual(answer, {
    status: {
      id: 'c1',
      metadata: { name: 'c', attempt: 1 },
      state: 2,
      createdAt: 1n,
      startedAt: 2n,
      finishedAt: 3n,
      exitCode: 137,
      image: { image: 'busybox', userSpecifiedImage: 'bb', imageRef: 'busybox@sha256:d', annotations: {} },
      imageRef: 'busybox@sha256:d',
      imageId: 'sha256:i',
      reason: 'OOMKilled',
      message: 'm',
      labels: {},
      annotations: {},
      mounts: [
        { containerPath: '/a', hostPath: '/b', readonly: true, propagation: 1, mountOptions: ['noexec'], recursiveReadOnly: false },
        {
          containerPath: '/m',
          hostPath: '',
          readonly: true,
          propagation: 0,
          mountOptions: [],
          recursiveReadOnly: false,
          image: { image: 'sha256:v', userSpecifiedImage: 'v:1', imageRef: 'v@sha256:v' },
          imageSubPath: 's',
        },
      ],
      logPath: '/var/log/c.log',
      stopSignal: Signal.SIGRTMINPLUS3,
      user: { linux: { uid: 1n, gid: 2n, supplementalGroups: [3n] } },
    },
  });
});

test('ExecSync passes command and milliseconds, and refuses an empty command', async () => {
  const seen: unknown[] = [];
  const handlers = runtime({
    execSync: async (...args) => {
      seen.push(...args);
      return { stdout: new Uint8Array([1]), stderr: new Uint8Array(), exitCode: 3 };
    },
  });
  const answer = await handlers.execSync(create(ExecSyncRequestSchema, { containerId: 'c1', cmd: ['true'], timeout: 5n }), context);
  assert.deepEqual(answer, { stdout: new Uint8Array([1]), stderr: new Uint8Array(), exitCode: 3 });
  assert.deepEqual(seen, ['c1', ['true'], { timeoutMs: 5000 }, context.signal]);
  await assert.rejects(handlers.execSync(create(ExecSyncRequestSchema, { containerId: 'c1' }), context), { code: 'invalidArgument', message: 'cmd: required' });
});

test('output that fills the limit on both streams is cut to fit one message', () => {
  const full = new Uint8Array(limits.execOutputBytesMax);
  const both = fitExecOutput({ stdout: full, stderr: full, exitCode: 0 });
  assert.ok(both.stdout.length + both.stderr.length < limits.grpcMessageBytesMax);
  assert.equal(both.stdout.length, both.stderr.length);
  const mostlyOut = fitExecOutput({ stdout: full, stderr: new Uint8Array(100), exitCode: 0 });
  assert.equal(mostlyOut.stderr.length, 100);
  assert.ok(mostlyOut.stdout.length > full.length - 300);
  const small = { stdout: new Uint8Array(1), stderr: new Uint8Array(2), exitCode: 0 };
  assert.equal(fitExecOutput(small), small);
});

test('images: status of an absent one is an empty answer, the filter is one lookup, pull answers with the id', async () => {
  const handlers = images({
    imageStatus: async (name) => (name === 'busybox' ? image : undefined),
    imageInfo: async () => ({ config: {} }),
    listImages: async () => [image, image],
    pullImage: async () => image,
    imageUsage: async () => ({ images: { atNs: 1n, mountpoint: '/m', usedBytes: 2, inodesUsed: 3 }, containers: { atNs: 4n, mountpoint: '/c', usedBytes: 5, inodesUsed: 6 } }),
    status: async () => ({
      version: '1',
      runtimeReady: true,
      networkReady: true,
      networkReason: '',
      networkMessage: '',
      defaultRuntimeHandler: 'native',
      runtimeHandlers: [],
      info: {},
    }),
  });
  assert.deepEqual(await handlers.imageStatus(create(ImageStatusRequestSchema, { image: { image: 'none' } }), context), {});
  const found = await handlers.imageStatus(create(ImageStatusRequestSchema, { image: { image: 'busybox' }, verbose: true }), context);
  assert.deepEqual(found, {
    image: {
      id: 'sha256:i',
      repoTags: image.names,
      repoDigests: image.digests,
      size: 9n,
      uid: { value: 0n },
      username: '',
      spec: { image: image.names[0], imageRef: image.digests[0], annotations: {} },
      pinned: false,
    },
    info: { info: '{"config":{}}' },
  });
  assert.equal((await handlers.listImages(create(ListImagesRequestSchema), context)).images?.length, 2);
  assert.equal((await handlers.listImages(create(ListImagesRequestSchema, { filter: { image: { image: 'none' } } }), context)).images?.length, 0);
  assert.deepEqual(await handlers.pullImage(create(PullImageRequestSchema, { image: { image: 'busybox' } }), context), { imageRef: 'sha256:i' });
  await assert.rejects(handlers.pullImage(create(PullImageRequestSchema), context), { code: 'invalidArgument', message: 'image.image: required' });
  assert.deepEqual(await handlers.imageFsInfo(create(ImageFsInfoRequestSchema), context), {
    imageFilesystems: [{ timestamp: 1n, fsId: { mountpoint: '/m' }, usedBytes: { value: 2n }, inodesUsed: { value: 3n } }],
    containerFilesystems: [{ timestamp: 4n, fsId: { mountpoint: '/c' }, usedBytes: { value: 5n }, inodesUsed: { value: 6n } }],
  });
  const native = await handlers.imageStatus(create(ImageStatusRequestSchema, { image: { image: 'busybox', runtimeHandler: 'native', annotations: { a: 'b' } } }), context);
  assert.deepEqual(native.image?.spec?.annotations, { a: 'b' });
  await assert.rejects(handlers.pullImage(create(PullImageRequestSchema, { image: { image: 'busybox', runtimeHandler: 'kata' } }), context), {
    code: 'notFound',
    message: 'image.runtime_handler: runtime handler "kata": not configured',
  });
});

test('images are streamed in messages of a hundred, and a filter gives one or none', async () => {
  const handlers = images({
    imageStatus: async (name) => (name === 'busybox' ? image : undefined),
    listImages: async () => Array.from({ length: 201 }, (_, index) => ({ ...image, id: `sha256:${index}` })),
  });
  const stream = async (filter: MessageInitShape<typeof StreamImagesRequestSchema>): Promise<readonly (readonly (string | undefined)[])[]> => {
    const messages: (readonly (string | undefined)[])[] = [];
    for await (const message of handlers.streamImages(create(StreamImagesRequestSchema, filter), context)) messages.push((message.images ?? []).map(({ id }) => id));
    return messages;
  };
  const all = await stream({});
  assert.deepEqual(
    all.map(({ length }) => length),
    [100, 100, 1],
  );
  assert.deepEqual(all[2], ['sha256:200']);
  assert.deepEqual(await stream({ filter: { image: { image: 'busybox' } } }), [['sha256:i']]);
  assert.deepEqual(await stream({ filter: { image: { image: 'none' } } }), []);
});

test('a registry that cannot be reached is named in the words of the kubelet, other failures stay as they are', async () => {
  const pull = async (code: 'unavailable' | 'unauthenticated') =>
    images({
      pullImage: async () => {
        throw new RuntimeError(code, 'pull example.com/a:1: cause');
      },
    }).pullImage(create(PullImageRequestSchema, { image: { image: 'example.com/a:1' } }), context);
  await assert.rejects(pull('unavailable'), { code: 'unavailable', message: 'RegistryUnavailable: pull example.com/a:1: cause' });
  await assert.rejects(pull('unauthenticated'), { code: 'unauthenticated', message: 'pull example.com/a:1: cause' });
});

test('a container shows the name of its image where the kubelet gave only the id', async () => {
  const show = async (fields: Partial<ContainerStatus>) => {
    const handlers = runtime({ containerStatus: async () => ({ ...container, ...fields }), listContainers: async () => [{ ...container, ...fields }] });
    const { status } = await handlers.containerStatus(create(ContainerStatusRequestSchema, { containerId: 'c1' }), context);
    const { containers } = await handlers.listContainers(create(ListContainersRequestSchema), context);
    assert.deepEqual(containers?.[0]?.image, status?.image);
    assert.deepEqual([containers?.[0]?.imageId, containers?.[0]?.imageRef], [status?.imageId, status?.imageRef]);
    return status?.image;
  };
  const digest = 'd'.repeat(64);
  const common = { imageRef: 'busybox@sha256:d', annotations: {} };
  assert.deepEqual(await show({ image: `sha256:${digest}` }), { ...common, image: 'bb', userSpecifiedImage: 'bb' });
  assert.deepEqual(await show({ image: digest, userSpecifiedImage: '' }), { ...common, image: digest, userSpecifiedImage: '' });
  assert.deepEqual(await show({ imageAnnotations: { a: 'b' } }), { ...common, image: 'busybox', userSpecifiedImage: 'bb', annotations: { a: 'b' } });
});

test('credentials are decoded, kept from other hosts, and never in an error', () => {
  const auth = (init: MessageInitShape<typeof AuthConfigSchema>, reference: string) => decodeAuth('auth', create(AuthConfigSchema, init), reference);
  const basic = Buffer.from('me:se:cret').toString('base64');
  assert.deepEqual(auth({ auth: basic }, 'example.com/a'), { username: 'me', password: 'se:cret' });
  assert.deepEqual(auth({ username: 'u', password: 'p', serverAddress: 'https://example.com/v2/' }, 'example.com/a/b:1'), { username: 'u', password: 'p' });
  assert.equal(auth({ username: 'u', password: 'p', serverAddress: 'https://example.com' }, 'evil.example/a'), undefined);
  assert.deepEqual(auth({ registryToken: 't', serverAddress: 'https://index.docker.io/v1/' }, 'library/busybox'), { registryToken: 't' });
  assert.equal(auth({ username: 'u', password: 'p', serverAddress: 'localhost:5000' }, 'localhost:5001/a'), undefined);
  assert.equal(auth({}, 'a'), undefined);
  assert.equal(decodeAuth('auth', undefined, 'a'), undefined);
  assert.throws(() => auth({ auth: Buffer.from('secret').toString('base64') }, 'a'), { code: 'invalidArgument', message: 'auth.auth: must be base64 of username:password' });
});

test('every error becomes the gRPC code of its name, with a message that fits a header', () => {
  assert.deepEqual([encodeStatus(new RuntimeError('notFound', 'x')).code, encodeStatus(new RuntimeError('unauthenticated', 'x')).code], [5, 16]);
  assert.equal(encodeStatus(new TypeError('boom')).code, 2);
  assert.equal(encodeStatus(new DOMException('stop', 'AbortError')).code, 1);
  assert.equal(encodeStatus(new RuntimeError('internal', `a\ud800b`)).details, 'a\ufffdb');
  assert.equal(encodeStatus(new RuntimeError('internal', 'x'.repeat(10_000))).details.length, 2001);
});
