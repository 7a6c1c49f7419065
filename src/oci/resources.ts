/**
 * linux.resources of the runtime specification 1.3 as types. In: nothing. Out: types. Names are those of the specification; 64-bit quantities are bigint.
 * Source: opencontainers/runtime-spec, config-linux.md, "Control groups".
 */

/** One entry of linux.resources.devices. */
export interface SpecDeviceRule {
  readonly allow: boolean;
  readonly type: 'a' | 'c' | 'b';
  /** Absent: every one. */
  readonly major?: number;
  readonly minor?: number;
  /** Letters of `rwm`; absent: all three. */
  readonly access?: string;
}

/** linux.resources.memory in bytes; -1 is unlimited. */
export interface SpecMemory {
  readonly limit?: bigint;
  readonly reservation?: bigint;
  readonly swap?: bigint;
  readonly kernel?: bigint;
  readonly kernelTCP?: bigint;
  readonly swappiness?: bigint;
  readonly disableOOMKiller?: boolean;
  readonly useHierarchy?: boolean;
  readonly checkBeforeUpdate?: boolean;
}

/** linux.resources.cpu; times in microseconds. */
export interface SpecCpu {
  readonly shares?: bigint;
  readonly quota?: bigint;
  readonly burst?: bigint;
  readonly period?: bigint;
  readonly realtimeRuntime?: bigint;
  readonly realtimePeriod?: bigint;
  readonly cpus?: string;
  readonly mems?: string;
  readonly idle?: bigint;
}

/** One entry of linux.resources.blockIO.weightDevice: at least one of the two weights. */
export interface SpecWeightDevice {
  readonly major: number;
  readonly minor: number;
  readonly weight?: number;
  readonly leafWeight?: number;
}

/** One entry of the throttle lists of linux.resources.blockIO; bytes or operations per second, 0 is unlimited. */
export interface SpecThrottleDevice {
  readonly major: number;
  readonly minor: number;
  readonly rate: bigint;
}

/** linux.resources.blockIO; weights are 10 to 1000, 0 is "not set". Lists that the document leaves out are empty. */
export interface SpecBlockIo {
  readonly weight?: number;
  readonly leafWeight?: number;
  readonly weightDevice: readonly SpecWeightDevice[];
  readonly throttleReadBpsDevice: readonly SpecThrottleDevice[];
  readonly throttleWriteBpsDevice: readonly SpecThrottleDevice[];
  readonly throttleReadIOPSDevice: readonly SpecThrottleDevice[];
  readonly throttleWriteIOPSDevice: readonly SpecThrottleDevice[];
}

/** linux.resources.network. */
export interface SpecNetworkClass {
  readonly classID?: number;
  readonly priorities: readonly { readonly name: string; readonly priority: number }[];
}

/** One value of linux.resources.rdma: at least one of the two counts. */
export interface SpecRdmaLimit {
  readonly hcaHandles?: number;
  readonly hcaObjects?: number;
}

/** linux.resources. */
export interface SpecResources {
  readonly devices: readonly SpecDeviceRule[];
  readonly memory?: SpecMemory;
  readonly cpu?: SpecCpu;
  readonly pids?: { readonly limit: bigint };
  readonly blockIO?: SpecBlockIo;
  readonly hugepageLimits: readonly { readonly pageSize: string; readonly limit: bigint }[];
  readonly network?: SpecNetworkClass;
  /** By the name of the device. */
  readonly rdma?: Readonly<Record<string, SpecRdmaLimit>>;
  /** Raw cgroup v2 files by name. */
  readonly unified: Readonly<Record<string, string>>;
}
