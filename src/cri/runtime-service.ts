/** The RuntimeService of CRI v1. In: decoded messages and the engine. Out: handlers. One screen per group; shapes are decode's and encode's. */
import type { RuntimeService } from '#gen/cri-v1_pb.js';
import { CgroupDriver, ContainerSchema, PodSandboxSchema } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { Engine } from '#pod';
import type { StreamingServer } from '#streaming';
import { succeedWhenAbsent } from './absent.ts';
import type { ServiceHandlers } from './adapter.ts';
import { messageBatches } from './batches.ts';
import { decodeTimeoutMs, decodeText, requireText } from './decode-common.ts';
import { decodeContainerConfig, decodeContainerFilter } from './decode-container.ts';
import { decodePodFilter, decodePodSandboxConfig } from './decode-pod.ts';
import { buildEventHandlers } from './events.ts';
import { buildUpdateHandlers } from './update.ts';
import {
  encodeContainer,
  encodeContainerStatus,
  encodeContainersStatuses,
  encodeEngineStatus,
  encodeInfo,
  encodePodSandbox,
  encodePodSandboxStatus,
  fitExecOutput,
} from './encode.ts';
import { buildStatsHandlers } from './stats-service.ts';
import { buildStreamingHandlers } from './streaming.ts';

type Handlers = ServiceHandlers<typeof RuntimeService>;

/** Version of the kubelet's runtime API, a constant since its beginning. Source: the CRI's Version call. */
const kubeletApiVersion = '0.1.0';

/** Handlers of all RPCs that this version serves; the others answer Unimplemented. */
export function buildRuntimeHandlers(options: {
  readonly engine: Engine;
  readonly version: string;
  readonly streaming?: Pick<StreamingServer, 'url'>;
  /** Aborted when the server ends. */ readonly closing?: AbortSignal;
}): Handlers {
  const { engine, version, streaming } = options;
  return {
    version: async () => ({ version: kubeletApiVersion, runtimeName: 'berth', runtimeVersion: version, runtimeApiVersion: 'v1' }),
    status: async ({ verbose }) => encodeEngineStatus(await engine.status(), { verbose }),
    updateRuntimeConfig: async ({ runtimeConfig }) => {
      await engine.updateRuntimeConfig({ podCidr: decodeText('runtime_config.network_config.pod_cidr', runtimeConfig?.networkConfig?.podCidr ?? '') });
      return {};
    },
    runtimeConfig: async () => ({ linux: { cgroupDriver: CgroupDriver.CGROUPFS } }),
    ...buildPodHandlers(engine),
    ...buildContainerHandlers(engine),
    ...buildProcessHandlers(engine),
    ...buildStatsHandlers(engine),
    ...buildUpdateHandlers(engine),
    ...buildEventHandlers(engine, options.closing),
    ...(streaming === undefined ? {} : buildStreamingHandlers(engine, streaming)),
  };
}

/** An empty id must not count as a prefix of every id. */
function podId(id: string): string {
  return requireText('pod_sandbox_id', id);
}

function containerId(id: string): string {
  return requireText('container_id', id);
}

function buildPodHandlers(engine: Engine): Handlers {
  const podExists = (id: string) => async (): Promise<unknown> => engine.podSandboxStatus(id);
  return {
    async runPodSandbox(request, { signal }) {
      const config = decodePodSandboxConfig('config', request.config);
      const runtimeHandler = decodeText('runtime_handler', request.runtimeHandler);
      return { podSandboxId: await engine.runPodSandbox(config, runtimeHandler === '' ? {} : { runtimeHandler }, signal) };
    },
    async stopPodSandbox(request, { signal }) {
      const id = podId(request.podSandboxId);
      await succeedWhenAbsent(podExists(id), async () => engine.stopPodSandbox(id, signal));
      return {};
    },
    async removePodSandbox(request, { signal }) {
      const id = podId(request.podSandboxId);
      await succeedWhenAbsent(podExists(id), async () => engine.removePodSandbox(id, signal));
      return {};
    },
    async podSandboxStatus({ podSandboxId, verbose }) {
      const pod = await engine.podSandboxStatus(podId(podSandboxId));
      const containers = await engine.listContainers({ podSandboxId: pod.id });
      return {
        status: encodePodSandboxStatus(pod),
        ...(verbose ? { info: encodeInfo(await engine.podSandboxInfo(pod.id)) } : {}),
        // A kubelet that follows events takes the containers from here, if a time says that they are meant. Source: CRI, PodSandboxStatusResponse.
        containersStatuses: encodeContainersStatuses(containers),
        timestamp: pod.observedAtNs ?? 0n,
      };
    },
    async listPodSandbox({ filter }) {
      const pods = await engine.listPodSandboxes(decodePodFilter('filter', filter));
      return { items: pods.map(encodePodSandbox) };
    },
    async *streamPodSandboxes({ filter }) {
      const pods = await engine.listPodSandboxes(decodePodFilter('filter', filter));
      for (const podSandboxes of messageBatches(PodSandboxSchema, pods.map(encodePodSandbox))) yield { podSandboxes };
    },
  };
}

function buildContainerHandlers(engine: Engine): Handlers {
  const containerExists = (id: string) => async (): Promise<unknown> => engine.containerStatus(id);
  return {
    async createContainer(request, { signal }) {
      const pod = podId(request.podSandboxId);
      // The sandbox's configuration is that of its creation; the repetition in this request is not looked at.
      return { containerId: await engine.createContainer(pod, decodeContainerConfig('config', request.config), signal) };
    },
    async startContainer(request, { signal }) {
      await engine.startContainer(containerId(request.containerId), signal);
      return {};
    },
    async stopContainer(request, { signal }) {
      const id = containerId(request.containerId);
      const timeoutMs = decodeTimeoutMs('timeout', request.timeout);
      await succeedWhenAbsent(containerExists(id), async () => engine.stopContainer(id, { timeoutMs }, signal));
      return {};
    },
    async removeContainer(request, { signal }) {
      const id = containerId(request.containerId);
      await succeedWhenAbsent(containerExists(id), async () => engine.removeContainer(id, signal));
      return {};
    },
    async containerStatus({ containerId: id, verbose }) {
      const container = await engine.containerStatus(containerId(id));
      return { status: encodeContainerStatus(container), ...(verbose ? { info: encodeInfo({ ...container.info, ...(await engine.containerInfo(container.id)) }) } : {}) };
    },
    async listContainers({ filter }) {
      const containers = await engine.listContainers(decodeContainerFilter('filter', filter));
      return { containers: containers.map(encodeContainer) };
    },
    async *streamContainers({ filter }) {
      const containers = await engine.listContainers(decodeContainerFilter('filter', filter));
      for (const batch of messageBatches(ContainerSchema, containers.map(encodeContainer))) yield { containers: batch };
    },
  };
}

function buildProcessHandlers(engine: Engine): Handlers {
  return {
    async execSync(request, { signal }) {
      const id = containerId(request.containerId);
      if (request.cmd.length === 0) throw invalidArgument('cmd', 'required');
      const command = request.cmd.map((text, index) => decodeText(`cmd[${index}]`, text));
      const timeoutMs = decodeTimeoutMs('timeout', request.timeout);
      const { stdout, stderr, exitCode } = fitExecOutput(await engine.execSync(id, command, { timeoutMs }, signal));
      return { stdout, stderr, exitCode };
    },
    async reopenContainerLog(request) {
      await engine.reopenContainerLog(containerId(request.containerId));
      return {};
    },
  };
}
