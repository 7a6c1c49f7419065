/** The pods' network: the built-in bridge, CNI plugins, or none. Everything else of this folder is its own affair. */
export { BridgeNetwork, type BridgeNetworkParts } from './network.ts';
export { CniNetwork, type CniNetworkParts } from './cni-network.ts';
export { cniFiles } from './cni-files.io.ts';
export { probeCni } from './cni-probe.ts';
export { attachLoopback } from './none.ts';
export { type NetlinkWording, describeNetlink } from './describe.ts';
export { networkHostReader } from './host-reader.io.ts';
export type * from './types.ts';
export type * from './cni-types.ts';
export { buildNetworkProbe } from './probe.ts';
