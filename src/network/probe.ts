/** A trial of what the network needs from the kernel. In: options. Out: a plan that leaves nothing. Pure. */
import { type Plan, clone } from '#plan';
import { decodeBridgeOptions, planEnsureBridge } from './bridge.ts';
import type { BridgeOptions } from './types.ts';

/** Makes the bridge, its address and its table in a network namespace that ends with the plan. */
export function buildNetworkProbe(options: BridgeOptions): Plan {
  const { sections } = planEnsureBridge(decodeBridgeOptions(options), { targets: [], enableIpForward: true });
  return { sections: [{ actor: 'podNamespaces', cloneFlags: clone.newNet, steps: sections.flatMap(({ steps }) => steps) }] };
}
