/** The pods' network: the built-in bridge. Everything else of this folder is its own affair. */
export { BridgeNetwork, type BridgeNetworkParts } from './network.ts';
export { type NetlinkWording, describeNetlink } from './describe.ts';
export { networkHostReader } from './host-reader.io.ts';
export type * from './types.ts';
export { buildNetworkProbe } from './probe.ts';
