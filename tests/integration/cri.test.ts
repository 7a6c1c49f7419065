/** The CRI socket through a gRPC client: status codes, refusals and closing. The engine behind it is a stand-in. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Client, credentials, status } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { ImageService, ListImagesRequestSchema, ListImagesResponseSchema, RunPodSandboxRequestSchema, RunPodSandboxResponseSchema, RuntimeService } from '#gen/cri-v1_pb.js';
import { RuntimeError, errorCode, errorMessage } from '#core';
import { type CallReport, startCriServer } from '#cri';
import type { CriServer } from '#cri';
import { fakeEngine } from '../fake-engine.ts';

const served = new Set(
  'Version Status RuntimeConfig UpdateRuntimeConfig RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus ListPodSandbox CreateContainer StartContainer StopContainer RemoveContainer ContainerStatus ListContainers ExecSync ReopenContainerLog StreamPodSandboxes StreamContainers UpdateContainerResources UpdatePodSandboxResources GetContainerEvents ContainerStats ListContainerStats StreamContainerStats PodSandboxStats ListPodSandboxStats StreamPodSandboxStats ListMetricDescriptors ListPodSandboxMetrics StreamPodSandboxMetrics ListImages StreamImages ImageStatus PullImage RemoveImage ImageFsInfo'.split(
    ' ',
  ),
);
const lines: string[] = [];
const noteFailure = ({ method, error }: CallReport): void => void (error !== undefined && lines.push(`${method}: ${errorCode(error)}: ${errorMessage(error)}`));
let directory: string;
let server: CriServer;
let client: Client;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'berth-cri-'));
  const engine = fakeEngine({
    listImages: async () => {
      throw new RuntimeError('resourceExhausted', 'list images: no space left: ä', { errno: 'ENOSPC' });
    },
  });
  server = await startCriServer({ engine, socketPath: join(directory, 'berth.sock'), version: '0', onCall: noteFailure });
  client = new Client(`unix://${directory}/berth.sock`, credentials.createInsecure());
});

after(() => {
  client.close();
  rmSync(directory, { recursive: true });
});

async function call<I extends DescMessage, O extends DescMessage>(path: string, input: I, output: O, request: MessageInitShape<I>): Promise<MessageShape<O>> {
  const answer = Promise.withResolvers<MessageShape<O>>();
  client.makeUnaryRequest(
    path,
    (message: MessageShape<I>) => Buffer.from(toBinary(input, message)),
    (bytes) => fromBinary(output, bytes),
    create(input, request),
    (error, response) => (error === null && response !== undefined ? answer.resolve(response) : answer.reject(error)),
  );
  return answer.promise;
}

async function firstError(path: string): Promise<ServiceError> {
  const failed = Promise.withResolvers<ServiceError>();
  const stream = client.makeServerStreamRequest(
    path,
    (bytes: Buffer) => bytes,
    (bytes: Buffer) => bytes,
    Buffer.alloc(0),
  );
  stream.on('data', () => undefined);
  // SAFETY: grpc-js emits ServiceErrors on call streams.
  stream.on('error', (error) => failed.resolve(error as ServiceError));
  return failed.promise;
}

test('an error of the engine keeps its code and its words, and is logged once', async () => {
  await assert.rejects(call('/runtime.v1.ImageService/ListImages', ListImagesRequestSchema, ListImagesResponseSchema, {}), {
    code: status.RESOURCE_EXHAUSTED,
    details: 'list images: no space left: ä',
  });
  assert.deepEqual(lines, ['ImageService/ListImages: resourceExhausted: list images: no space left: ä']);
});

test('a bad request is InvalidArgument with the path in the request', async () => {
  const request = { config: { metadata: { name: 'a', namespace: 'n' } } };
  await assert.rejects(call('/runtime.v1.RuntimeService/RunPodSandbox', RunPodSandboxRequestSchema, RunPodSandboxResponseSchema, request), {
    code: status.INVALID_ARGUMENT,
    details: 'config.metadata.uid: required',
  });
});

test('every other RPC, streamed or not, is Unimplemented and names itself', async () => {
  const others = [...RuntimeService.methods, ...ImageService.methods].filter((method) => !served.has(method.name));
  assert.equal(others.length, 43 - served.size);
  for (const method of others) {
    const error = await firstError(`/${method.parent.typeName}/${method.name}`);
    assert.deepEqual([error.code, error.details], [status.UNIMPLEMENTED, `${method.name}: not implemented by this version of berth`]);
  }
});

test('garbage and connections that break off harm nobody else', async () => {
  const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
  const headers = '\x00\x00\x05\x01\x04\x00\x00\x00\x01';
  for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\x16\x03\x01\x00', 'PRI * HT', `${preface}\x00\x00\x00\x04\x00\x00\x00\x00\x00${headers}\xff\xff\xff\xff\xff`, '']) {
    const socket = connect(join(directory, 'berth.sock'));
    socket.on('error', () => undefined);
    await once(socket, 'connect');
    socket.end(Buffer.from(bytes, 'latin1'));
    socket.resume();
    await once(socket, 'close');
  }
  const aborting = connect(join(directory, 'berth.sock'));
  await once(aborting, 'connect');
  aborting.write(preface);
  aborting.destroy();
  await assert.rejects(call('/runtime.v1.ImageService/ListImages', ListImagesRequestSchema, ListImagesResponseSchema, {}), { code: status.RESOURCE_EXHAUSTED });
});

test('a second server at a living socket is refused, and closing removes the socket', async () => {
  const socketPath = join(directory, 'berth.sock');
  await assert.rejects(startCriServer({ engine: fakeEngine({}), socketPath, version: '0' }), {
    code: 'alreadyExists',
    message: `listen on ${socketPath}: another process is listening there`,
  });
  await server.close();
  assert.equal(existsSync(socketPath), false);
});
