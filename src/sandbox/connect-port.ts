/**
 * One connection to a port of a pod, carried by a process of the pod's shim. In: the shim and the plan of that process. Out: its streams, or
 * unavailable where nobody listens. The process ends with the connection, or with its only client.
 */
import { RuntimeError, errnoName, errorCode } from '#core';
import type { SandboxStreams } from '#pod';
import type { Plan } from '#plan';
import type { ShimAttachment, ShimConnection } from '#system';
import { streamsOf } from './streams.ts';

const sigkill = 9;
/** What connecting gives where nobody listens at an address, or the address does not exist because IPv6 is off. */
const refusals: readonly (string | undefined)[] = ['ECONNREFUSED', 'EADDRNOTAVAIL', 'ENETUNREACH', 'EAFNOSUPPORT'];

/** The plan is that of `planForward`; `processId` is free. */
export async function connectPort(shim: ShimConnection, { processId, plan }: { readonly processId: string; readonly plan: Plan }): Promise<SandboxStreams> {
  await shim.createProcess({ processId, plan, stdin: true, exclusive: true, holdOutput: true }).catch((error: unknown) => {
    const isRefused = refusals.includes(errnoName(error));
    throw isRefused ? new RuntimeError('unavailable', 'connection refused: nobody listens at 127.0.0.1 or ::1', { cause: error, errno: 'ECONNREFUSED' }) : error;
  });
  let attachment: ShimAttachment | undefined;
  try {
    attachment = await shim.attach(processId, { stdin: true, stdout: true, stderr: false });
    const streams = streamsOf(attachment);
    await shim.startProcess(processId);
    const forget = async (): Promise<void> => shim.removeProcess(processId);
    // The streams report their own end; here only the shim's memory of the process goes.
    streams.exited.then(forget, forget).catch(() => undefined);
    return streams;
  } catch (error) {
    attachment?.close();
    await shim.signalProcess(processId, sigkill).catch((failure: unknown) => {
      if (errorCode(failure) !== 'notFound') throw failure;
    });
    throw error;
  }
}
