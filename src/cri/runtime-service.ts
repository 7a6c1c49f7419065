/** The RuntimeService of CRI v1. In: decoded messages and the engine. Out: handlers. One screen per group; shapes are decode's and encode's. */
import type { RuntimeService } from '#gen/cri-v1_pb.js';
import { CgroupDriver } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { Engine } from '#pod';
import { succeedWhenAbsent } from './absent.ts';
import type { ServiceHandlers } from './adapter.ts';
import { decodeTimeoutMs, decodeText, requireText } from './decode-common.ts';
import { decodeContainerConfig, decodeContainerFilter } from './decode-container.ts';
import { decodePodFilter, decodePodSandboxConfig } from './decode-pod.ts';
import { encodeContainer, encodeContainerStatus, encodeEngineStatus, encodeInfo, encodePodSandbox, encodePodSandboxStatus, fitExecOutput } from './encode.ts';

type Handlers = ServiceHandlers<typeof RuntimeService>;

/** Version of the kubelet's runtime API, a constant since its beginning. Source: the CRI's Version call. */
const kubeletApiVersion = '0.1.0';

/** Handlers of all RPCs that this version serves; the others answer Unimplemented. */
export function buildRuntimeHandlers(options: { readonly engine: Engine; readonly version: string }): Handlers {
  const { engine, version } = options;
  return {
    version: async () => ({ version: kubeletApiVersion, runtimeName: 'berth', runtimeVersion: version, runtimeApiVersion: 'v1' }),
    status: async ({ verbose }) => encodeEngineStatus(await engine.status(), { verbose }),
    runtimeConfig: async () => ({ linux: { cgroupDriver: CgroupDriver.CGROUPFS } }),
    ...buildPodHandlers(engine),
    ...buildContainerHandlers(engine),
    ...buildProcessHandlers(engine),
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
      return { status: encodePodSandboxStatus(pod), ...(verbose ? { info: encodeInfo(pod.info) } : {}) };
    },
    async listPodSandbox({ filter }) {
      const pods = await engine.listPodSandboxes(decodePodFilter('filter', filter));
      return { items: pods.map(encodePodSandbox) };
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
      return { status: encodeContainerStatus(container), ...(verbose ? { info: encodeInfo({ pid: container.pid, sandboxID: container.podSandboxId, ...container.info }) } : {}) };
    },
    async listContainers({ filter }) {
      const containers = await engine.listContainers(decodeContainerFilter('filter', filter));
      return { containers: containers.map(encodeContainer) };
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
