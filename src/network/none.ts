/** No network: pods have a namespace with the loopback device alone. In: attach. Out: one plan. Keeps no record, as nothing is outside of the pod. */
import { planLoopback } from './cni-plans.ts';
import type { ExecutePlan } from './types.ts';

/** Brings the pod's loopback device up. */
export async function attachLoopback({ podId, netnsSlot }: { readonly podId: string; readonly netnsSlot: number }, execute: ExecutePlan): Promise<void> {
  await execute(planLoopback(podId, netnsSlot));
}
