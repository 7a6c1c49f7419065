/** Connections to ports of pods. In: a pod and a port. Out: live streams, or an error that names both. Bytes are not looked at. */
import { RuntimeError, invalidArgument, limits, wrapError } from '#core';
import type { EngineState } from './engine-state.ts';
import type { Sandbox, SandboxStreams } from './ports.ts';
import type { ProcessStreams } from './types.ts';

const portMax = 65_535;
/** Connections that are open or being made, by their sandbox. */
const openCounts = new WeakMap<Sandbox, number>();

/** One connection; see `Engine.portForward`. A signal that fires later closes it. */
export async function forwardPort(
  state: EngineState,
  { podSandboxId, port }: { readonly podSandboxId: string; readonly port: number },
  signal?: AbortSignal,
): Promise<ProcessStreams> {
  if (!Number.isInteger(port) || port < 1 || port > portMax) throw invalidArgument('port', `must be 1 to ${portMax}, not ${port}`);
  const pod = state.store.getPod(podSandboxId);
  if (pod.state !== 'ready') throw new RuntimeError('failedPrecondition', `forward port ${port} of pod sandbox ${pod.id}: the pod is not ready`);
  signal?.throwIfAborted();
  try {
    const streams = await connectCounted(state.sandbox(pod.id), port);
    closeOnAbort(streams, signal);
    const resize = async (): Promise<void> => {
      throw new RuntimeError('failedPrecondition', `resize the connection to port ${port} of pod sandbox ${pod.id}: it is no terminal`);
    };
    return { ...bindStreams(streams), resize };
  } catch (error) {
    throw wrapError(`forward port ${port} of pod sandbox ${pod.id}`, error);
  }
}

/** Throws resourceExhausted beyond `limits.podForwardsMax`. */
async function connectCounted(sandbox: Sandbox, port: number): Promise<SandboxStreams> {
  const count = (): number => openCounts.get(sandbox) ?? 0;
  if (count() >= limits.podForwardsMax) throw new RuntimeError('resourceExhausted', `${limits.podForwardsMax} connections to ports of the pod are open, which is all it may have`);
  openCounts.set(sandbox, count() + 1);
  const release = (): void => void openCounts.set(sandbox, count() - 1);
  try {
    const streams = await sandbox.connectPort(port);
    streams.exited.then(release, release);
    return streams;
  } catch (error) {
    release();
    throw error;
  }
}

/** A connection whose caller has gone while it was made must not stay. */
function closeOnAbort(streams: SandboxStreams, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const close = (): void => streams.close();
  if (signal.aborted) close();
  else signal.addEventListener('abort', close, { once: true });
  const forget = (): void => signal.removeEventListener('abort', close);
  streams.exited.then(forget, forget);
}

/** Streams of a sandbox as a door gets them, without what belongs to a terminal. */
export function bindStreams(streams: SandboxStreams): Omit<ProcessStreams, 'resize'> {
  return {
    output: streams.output,
    write: async (data) => streams.write(data),
    closeInput: async () => streams.closeInput(),
    exited: streams.exited,
    close: () => streams.close(),
  };
}
