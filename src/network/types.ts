/** What goes in and out of the network: attachments of pods, options of the built-in bridge, and the ports it needs. Types only. */
import type { Plan } from '#plan';

/** Transport protocols that host ports may have. */
export type TransportProtocol = 'tcp' | 'udp' | 'sctp';

/** One port of the host that leads to a port of the pod. Ports are 1 to 65535. */
export interface PortMapping {
  readonly protocol: TransportProtocol;
  readonly containerPort: number;
  readonly hostPort: number;
  /** IPv4 address of the host; absent or `0.0.0.0`: every address of the host. */
  readonly hostIp?: string;
}

/** A pod that wants an address. */
export interface AttachRequest {
  readonly podId: string;
  /** Slot of the pod's shim that holds the pod's network namespace. */
  readonly netnsSlot: number;
  readonly portMappings: readonly PortMapping[];
}

/** What a pod has got; stored as a record before the host is touched. */
export interface Attachment {
  readonly podId: string;
  readonly interfaceName: 'eth0';
  /** With prefix length, such as `10.88.0.2/16`; the primary address first. */
  readonly addresses: readonly string[];
  readonly gateway: string;
  /** Name of the host's side of the pair. */
  readonly hostInterface: string;
  readonly portMappings: readonly PortMapping[];
}

/** The one network that a state directory has. Two engines in one network namespace need different names and subnets. */
export interface BridgeOptions {
  /** Name of the bridge link, at most 15 characters. */
  readonly name: string;
  /** IPv4 network of the pods with a prefix of 12 to 30 bits; its first address is the bridge's own. */
  readonly subnet: string;
  /** Name of the nftables table. */
  readonly tableName: string;
  /** Bytes; absent: the kernel's default. */
  readonly mtu?: number;
  /** Directory with one file per attached pod, by which the last one to leave removes the bridge. Nothing else lies in it. */
  readonly markerDir: string;
}

/** What the network reads of the host it runs on. */
export interface NetworkHostReader {
  /** Content of net.ipv4.ip_forward, `0` or `1`. */
  readIpForward(): string;
  /** True where a link of this name exists. */
  hasLink(name: string): boolean;
  /** False where a process of the host listens on the port at this address. */
  isPortFree(port: { readonly protocol: TransportProtocol; readonly hostPort: number; readonly hostIp: string }): Promise<boolean>;
}

/** Runs a plan; rejects with the error of the failed step. */
export type ExecutePlan = (plan: Plan) => Promise<void>;

/** The same for a pod. `attachment` comes with the plan that gives the pod its address, which runs again with another one where that is taken. */
export type ExecuteAttachment = (plan: Plan, attachment?: Attachment) => Promise<void>;

/** The network's own state, for doctor and the CRI's Status. */
export interface NetworkStatus {
  readonly ready: boolean;
  /** One word in camel case, empty when ready. */
  readonly reason: string;
  readonly message: string;
  readonly bridge: string;
  readonly subnet: string;
  readonly gateway: string;
  readonly addressesInUse: number;
  readonly addressesResting: number;
  readonly addressCount: number;
}
