/** The doctor's check of the network: the built-in one really set up, in a namespace that ends with the trial; of CNI what there is to use. */
import type { DoctorCheck } from '#cli';
import { errorMessage } from '#core';
import { buildNetworkProbe, cniFiles, probeCni } from '#network';
import type { Plan } from '#plan';
import type { Launcher } from '#system';
import type { hostNames } from './locations.ts';
import { pluginSearchPath } from './network-port.ts';
import type { Settings } from './settings.ts';

/** The network that the setting chooses. Never throws: a failure is a finding. */
export async function probeNetwork(
  launcher: Launcher,
  { names, settings }: { readonly names: ReturnType<typeof hostNames>; readonly settings: Settings['network'] | undefined },
): Promise<DoctorCheck> {
  const name = 'network';
  if (settings?.mode === 'none') return { name, state: 'ok', detail: 'none: pods have the loopback device alone' };
  if (settings?.mode !== 'cni') return probeBridge(async (plan) => launcher.runOnce(plan), names);
  const { ready, detail } = await probeCni({
    files: cniFiles,
    runTool: async (request) => launcher.runTool(request),
    binDirs: settings.cniBinDirs,
    configDir: settings.cniConfigDir,
    searchPath: pluginSearchPath(process.env['PATH']),
  });
  return ready ? { name, state: 'ok', detail } : { name, state: 'limited', detail, remedy: 'see docs/networks.md; pods with hostNetwork run without it' };
}

async function probeBridge(run: (plan: Plan) => Promise<void>, names: ReturnType<typeof hostNames>): Promise<DoctorCheck> {
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
