/**
 * The engine's network port: the built-in bridge, CNI plugins, or none, by setting. Only translation and choice; the work is theirs.
 * What an earlier setting attached is still detached by whoever attached it, so a change of the setting strands no pod.
 */
import type { PodSandboxId } from '#core';
import { type Attachment, type BridgeNetwork, type CniAttachment, type CniNetwork, type CniPod, attachLoopback } from '#network';
import type { Plan } from '#plan';
import type { NetworkAttachment, NetworkPort, OpaquePlan, PodSandboxConfig } from '#pod';
import { podSlots } from '#runtime';
import type { NetworkMode } from './settings.ts';

type RunPlan = (plan: Plan) => Promise<void>;
type RunOpaque = (plan: OpaquePlan) => Promise<void>;
/** The engine hands plans on unseen; between these two ports they are plans. */
const opaque =
  (run: RunOpaque): RunPlan =>
  async (plan) =>
    run(plan);
const perhaps = (run: RunOpaque | undefined): RunPlan | undefined => (run === undefined ? undefined : opaque(run));

/** The networks of one engine. */
export interface Networks {
  readonly mode: NetworkMode;
  readonly bridge: BridgeNetwork;
  readonly cni: CniNetwork;
}

function describeBridge({ addresses, interfaceName, gateway, hostInterface }: Attachment): NetworkAttachment {
  return { ips: addresses.map((address) => address.replace(/\/\d+$/, '')), details: { interface: interfaceName, gateway, hostInterface } };
}

function describeCni({ ips, interfaceName, netnsPath, networkName, hostInterface, result }: CniAttachment): NetworkAttachment {
  return { ips, details: { interface: interfaceName, netnsPath, network: networkName, ...(hostInterface === undefined ? {} : { hostInterface }), cniResult: result } };
}

function cniPodOf(podId: PodSandboxId, { metadata, annotations, portMappings, dns, cgroupParent }: PodSandboxConfig): CniPod {
  const { name, namespace, uid } = metadata;
  return { podId, name, namespace, uid, annotations, portMappings, ...(dns === undefined ? {} : { dns }), cgroupPath: cgroupParent };
}

/** PATH of network plugins: the engine's own, and where iptables and its like lie even where a service's PATH has no such directory. */
export function pluginSearchPath(own: string | undefined): string {
  return [
    ...new Set([...(own ?? '').split(':').filter((directory) => directory.startsWith('/')), '/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']),
  ].join(':');
}

/** One attach of each kind. */
type Attach = NetworkPort['attach'];

const attachBy = ({ bridge, cni }: Networks): Readonly<Record<NetworkMode, Attach>> => ({
  async bridge({ podId, portMappings }, execute, deposit) {
    const published = portMappings.filter(({ hostPort }) => hostPort !== 0);
    const run = async (plan: Plan, attachment?: Attachment): Promise<void> => execute(plan, attachment === undefined ? undefined : describeBridge(attachment));
    return describeBridge(await bridge.attach({ podId, netnsSlot: podSlots.net, portMappings: published }, run, perhaps(deposit)));
  },
  async cni({ podId, config }, execute, deposit) {
    return describeCni(await cni.attach({ pod: cniPodOf(podId, config), netnsSlot: podSlots.net }, opaque(execute), perhaps(deposit)));
  },
  async none({ podId }, execute) {
    await attachLoopback({ podId, netnsSlot: podSlots.net }, opaque(execute));
    return { ips: [], details: { interface: 'lo' } };
  },
});

/** The networks as the engine's one. */
export function createNetworkPort(networks: Networks): NetworkPort {
  const { mode, bridge, cni } = networks;
  return {
    attach: attachBy(networks)[mode],
    detach: async (podId, execute) => (cni.has(podId) ? cni.detach(podId, perhaps(execute)) : bridge.detach(podId, perhaps(execute))),
    async reconcile(livePodIds) {
      await bridge.reconcile(livePodIds);
      await cni.reconcile(livePodIds, { isChosen: mode === 'cni' });
    },
    explain: ({ podId, portMappings }) => {
      if (mode === 'bridge') return bridge.explain({ podId, portMappings: portMappings.filter(({ hostPort }) => hostPort !== 0) });
      return mode === 'cni' ? cni.explain(podId) : ['network: none but the loopback device'];
    },
    async status() {
      if (mode === 'bridge') {
        const { ready, reason, message, ...info } = bridge.status();
        return { ready, reason, message, info: { mode, ...info } };
      }
      return mode === 'cni' ? { ...(await cni.status()), info: cni.info() } : { ready: true, reason: '', message: '', info: { mode } };
    },
    updateRuntimeConfig: async (config) => cni.updateRuntimeConfig(config),
    async close() {
      await cni.close();
      await bridge.close();
    },
  };
}
