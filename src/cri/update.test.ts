/** Updates and events at the door: requests as the engine gets them, events as messages. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { ContainerEventType, PodSandboxState, UpdateContainerResourcesRequestSchema, UpdatePodSandboxResourcesRequestSchema } from '#gen/cri-v1_pb.js';
import { containerId, podSandboxId } from '#core';
import type { Engine, EngineEvent, EventSnapshot } from '#pod';
import { encodeEvent } from './events.ts';
import { buildUpdateHandlers } from './update.ts';

const context = { signal: new AbortController().signal };
const pod = podSandboxId('a'.repeat(64));
const container = containerId('b'.repeat(64));

test('an update passes what is set, the annotations and the signal', async () => {
  const seen: unknown[] = [];
  const calls: Partial<Engine> = { updateContainer: async (...args) => void seen.push(args), updatePodSandbox: async (...args) => void seen.push(args) };
  // SAFETY: the handlers call these two methods alone.
  const { updateContainerResources, updatePodSandboxResources } = buildUpdateHandlers(calls as Engine);
  assert.ok(updateContainerResources !== undefined && updatePodSandboxResources !== undefined);
  const linux = { cpuQuota: -1n, memoryLimitInBytes: -1n, oomScoreAdj: 5n, hugepageLimits: [{ pageSize: '2MB', limit: 0n }], unified: { 'memory.high': '5' } };
  await updateContainerResources(create(UpdateContainerResourcesRequestSchema, { containerId: 'c', linux, annotations: { a: '1' } }), context);
  await updatePodSandboxResources(create(UpdatePodSandboxResourcesRequestSchema, { podSandboxId: 'p', overhead: { cpuShares: 2n }, resources: {} }), context);
  assert.deepEqual(seen, [
    [
      'c',
      {
        resources: { cpuQuota: -1n, memoryLimitBytes: -1n, oomScoreAdj: 5, hugepageLimits: [{ pageSize: '2MB', limit: 0n }], unified: { 'memory.high': '5' } },
        annotations: { a: '1' },
      },
      context.signal,
    ],
    ['p', { overhead: { cpuShares: 2n } }, context.signal],
  ]);
  await assert.rejects(updateContainerResources(create(UpdateContainerResourcesRequestSchema), context), { code: 'invalidArgument', message: 'container_id: required' });
  await assert.rejects(updatePodSandboxResources(create(UpdatePodSandboxResourcesRequestSchema, { podSandboxId: 'p', resources: { cpuShares: -2n } }), context), {
    code: 'invalidArgument',
    message: 'resources.cpu_shares: must not be negative, not -2',
  });
});

test('a sandbox is made and started at once, and every other event is one message', () => {
  const snapshot: EventSnapshot = {
    pod: {
      id: pod,
      metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
      state: 'notReady',
      createdAtNs: 1n,
      ips: [],
      namespaces: { network: 'pod', pid: 'pod', ipc: 'pod' },
      labels: {},
      annotations: {},
      runtimeHandler: 'native',
      portMappings: [],
      info: {},
    },
    containers: [],
  };
  const podKinds = ['podCreated', 'podStopped', 'podRemoved'] as const;
  const containerKinds = ['containerCreated', 'containerStarted', 'containerStopped', 'containerRemoved'] as const;
  const events: EngineEvent[] = [
    ...podKinds.map((kind) => ({ kind, podSandboxId: pod, atNs: 7n, snapshot })),
    ...containerKinds.map((kind) => ({ kind, podSandboxId: pod, containerId: container, atNs: 7n })),
  ];
  const { CONTAINER_CREATED_EVENT: created, CONTAINER_STARTED_EVENT: started, CONTAINER_STOPPED_EVENT: stopped, CONTAINER_DELETED_EVENT: deleted } = ContainerEventType;
  const messages = events.flatMap(encodeEvent);
  assert.deepEqual(
    messages.map((message) => [message.containerId, message.containerEventType]),
    [
      [pod, created],
      [pod, started],
      [pod, stopped],
      [pod, deleted],
      [container, created],
      [container, started],
      [container, stopped],
      [container, deleted],
    ],
  );
  assert.ok(messages.every(({ createdAt }) => createdAt === 7n));
  assert.deepEqual([messages[0]?.podSandboxStatus?.state, messages[0]?.containersStatuses, messages[4]?.podSandboxStatus], [PodSandboxState.SANDBOX_NOTREADY, [], undefined]);
});
