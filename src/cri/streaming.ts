/**
 * Exec, Attach and PortForward. In: decoded requests. Out: a URL of the streaming server, or the reason why there is none; and for that
 * server, how the engine makes the streams that a URL stands for. Bytes and protocols are the streaming server's.
 */
import { RuntimeError, invalidArgument, limits } from '#core';
import type { RuntimeService } from '#gen/cri-v1_pb.js';
import type { ContainerStatus, Engine } from '#pod';
import type { StreamBackend, StreamProcess, StreamTarget, WantedStreams } from '#streaming';
import type { ServiceHandlers } from './adapter.ts';
import { decodeText, requireText } from './decode-common.ts';

const portMax = 65_535;

/** Handlers of the calls that answer with a URL. */
export function buildStreamingHandlers(engine: Engine, streaming: { readonly url: (target: StreamTarget) => string }): ServiceHandlers<typeof RuntimeService> {
  return {
    async exec(request) {
      const id = requireText('container_id', request.containerId);
      if (request.cmd.length === 0) throw invalidArgument('cmd', 'required');
      const command = request.cmd.map((text, index) => decodeText(`cmd[${index}]`, text));
      const streams = decodeStreams(request);
      const { id: containerId } = await runningContainer(engine, id, 'exec in');
      return { url: streaming.url({ kind: 'exec', containerId, command, ...streams }) };
    },
    async attach(request) {
      const streams = decodeStreams(request);
      const { id: containerId } = await runningContainer(engine, requireText('container_id', request.containerId), 'attach to');
      return { url: streaming.url({ kind: 'attach', containerId, ...streams }) };
    },
    async portForward(request) {
      const ports = decodePorts('port', request.port);
      const pod = await engine.podSandboxStatus(requireText('pod_sandbox_id', request.podSandboxId));
      if (pod.state !== 'ready') throw new RuntimeError('failedPrecondition', `forward ports of pod sandbox ${pod.id}: the pod is not ready`);
      return { url: streaming.url({ kind: 'portForward', podSandboxId: pod.id, ports }) };
    },
  };
}

/** Source of the rules: the comments of ExecRequest and AttachRequest. */
function decodeStreams({ stdin, stdout, stderr, tty }: WantedStreams): WantedStreams {
  if (tty && stderr) throw invalidArgument('stderr', 'must not be set with tty: a terminal has one output');
  if (!stdin && !stdout && !stderr) throw invalidArgument('stdin', 'one of stdin, stdout and stderr must be set');
  return { stdin, stdout, stderr, tty };
}

function decodePorts(path: string, ports: readonly number[]): readonly number[] {
  if (ports.length > limits.streamPortsMax) throw invalidArgument(path, `${ports.length} ports, at most ${limits.streamPortsMax}`);
  for (const [index, port] of ports.entries()) if (port < 1 || port > portMax) throw invalidArgument(`${path}[${index}]`, `must be 1 to ${portMax}, not ${port}`);
  return ports;
}

async function runningContainer(engine: Engine, id: string, verb: string): Promise<ContainerStatus> {
  const container = await engine.containerStatus(id);
  if (container.state !== 'running') throw new RuntimeError('failedPrecondition', `${verb} container ${container.id}: container is ${container.state}, not running`);
  return container;
}

/** The engine as the streaming server sees it. */
export function buildStreamBackend(engine: Engine): StreamBackend {
  return {
    exec: async ({ containerId, command, tty, stdin }) => engine.exec(containerId, { command, tty, stdin }),
    async attach({ containerId, stdin }) {
      const container = await runningContainer(engine, containerId, 'attach to');
      const streams = await engine.attach(containerId, { stdin: stdin && container.stdin });
      return attachedStreams(streams, container);
    },
    portForward: async (podSandboxId, port) => engine.portForward(podSandboxId, port),
  };
}

/**
 * A client's end of input ends that of the container only where the container says so (`stdin_once`): others may attach later. And an attached
 * client that saw the container end has had what it wanted: the container's exit code is in its status, not the client's. Source: the kubelet.
 */
function attachedStreams(streams: StreamProcess, container: ContainerStatus): StreamProcess {
  return {
    output: streams.output,
    write: async (data) => streams.write(data),
    closeInput: async () => (container.stdinOnce === true ? streams.closeInput() : undefined),
    resize: async (size) => streams.resize(size),
    exited: streams.exited.then(() => 0),
    close: () => streams.close(),
  };
}
