/**
 * Clients of the kubelet's server: its summary of usage, and streams over WebSocket. In: a running node. Out: what the kubelet tells.
 */
import { WebSocket } from 'ws';
import type { KubeletNode } from './kubelet-host.ts';

/** Usage of a pod or a container, as far as tests look at it. */
export interface Usage {
  readonly cpu?: { readonly usageCoreNanoSeconds?: number };
  readonly memory?: { readonly workingSetBytes?: number };
  readonly rootfs?: { readonly usedBytes?: number };
  readonly network?: { readonly name?: string; readonly rxBytes?: number };
  readonly process_stats?: { readonly process_count?: number };
}
/** What the kubelet's summary tells of a pod. */
export async function summaryOf(node: KubeletNode, name: string): Promise<(Usage & { readonly containers: readonly Usage[] }) | undefined> {
  // SAFETY: the kubelet's Summary.
  const { pods } = JSON.parse(await node.get('/stats/summary')) as {
    readonly pods: readonly (Usage & { readonly podRef: { readonly name: string }; readonly containers: readonly Usage[] })[];
  };
  return pods.find(({ podRef }) => podRef.name === `${name}-node`);
}

/** Sends messages on channels of a WebSocket and gives what came on each once that is enough. */
export async function talk(
  node: KubeletNode,
  url: string,
  protocol: string,
  messages: readonly (readonly [number, string])[],
  isEnough: (channels: readonly string[]) => boolean,
): Promise<string[]> {
  const channels = ['', '', '', '', ''];
  const socket = new WebSocket(url.replace(/^http/, 'ws'), [protocol]);
  let failure: Error | undefined;
  socket.on('error', (error) => (failure = error));
  socket.on('message', (data: Buffer) => {
    const channel = data[0] ?? 0;
    channels[channel] = (channels[channel] ?? '') + data.subarray(1).toString('latin1');
  });
  socket.on('open', () => {
    for (const [channel, text] of messages) socket.send(Buffer.concat([Buffer.from([channel]), Buffer.from(text, 'latin1')]));
  });
  await node.until(
    `${protocol}: an answer`,
    () => failure !== undefined || isEnough(channels),
    () => JSON.stringify(channels),
  );
  socket.terminate();
  if (failure !== undefined) throw failure;
  return channels;
}
