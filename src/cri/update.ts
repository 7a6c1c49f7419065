/** Updates of resources over CRI. In: decoded messages and the engine. Out: handlers. */
import type { RuntimeService } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { Engine } from '#pod';
import type { ServiceHandlers } from './adapter.ts';
import { decodeMap, decodeResources, requireText } from './decode-common.ts';

/** Handlers of the RPCs that change resources of what runs. */
export function buildUpdateHandlers(engine: Engine): ServiceHandlers<typeof RuntimeService> {
  return {
    async updateContainerResources(request, { signal }) {
      const id = requireText('container_id', request.containerId);
      if (request.windows !== undefined) throw invalidArgument('windows', 'not on Linux');
      const resources = decodeResources('linux', request.linux);
      const annotations = decodeMap('annotations', request.annotations);
      await engine.updateContainer(id, { ...(resources === undefined ? {} : { resources }), annotations }, signal);
      return {};
    },
    async updatePodSandboxResources(request, { signal }) {
      const id = requireText('pod_sandbox_id', request.podSandboxId);
      const overhead = decodeResources('overhead', request.overhead);
      const resources = decodeResources('resources', request.resources);
      await engine.updatePodSandbox(id, { ...(overhead === undefined ? {} : { overhead }), ...(resources === undefined ? {} : { resources }) }, signal);
      return {};
    },
  };
}
