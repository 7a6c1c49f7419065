/** The doctor's check of the network: the real set-up, tried in a namespace that ends with the trial. */
import type { DoctorCheck } from '#cli';
import { errorMessage } from '#core';
import { buildNetworkProbe } from '#network';
import type { Plan } from '#plan';
import type { hostNames } from './locations.ts';

/** Never throws: a failure is a finding. */
export async function probeNetwork(run: (plan: Plan) => Promise<void>, names: ReturnType<typeof hostNames>): Promise<DoctorCheck> {
  const name = 'network';
  try {
    await run(buildNetworkProbe({ name: names.bridge, subnet: names.subnet, tableName: names.table, markerDir: '/run' }));
    return { name, state: 'ok', detail: `bridge ${names.bridge} with ${names.subnet}, nftables for host ports and masquerading` };
  } catch (error) {
    return {
      name,
      state: 'limited',
      detail: errorMessage(error),
      remedy: 'load the kernel modules bridge, veth, nf_tables, nft_nat and nft_masq; pods with hostNetwork run without them',
    };
  }
}
