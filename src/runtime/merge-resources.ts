/**
 * What a container's limits are after an update. In: those that hold, those that change. Out: all of them. Pure.
 *
 * An update names what changes; the rest stays. 0 stands for "leave it" wherever 0 limits nothing: that is how callers fill the fields they do not mean. Device rules stay.
 */
import type { SpecBlockIo, SpecMemory, SpecResources } from '#oci';

/** The fields of the change that are given and mean something. */
function given<T extends object>(change: T | undefined, meaningfulZeros: readonly (keyof T)[] = []): Partial<T> {
  // SAFETY: entries of the object itself, fewer of them.
  return Object.fromEntries(
    Object.entries(change ?? {}).filter(([key, value]) => value !== undefined && value !== '' && (meaningfulZeros.some((name) => name === key) || (value !== 0n && value !== 0))),
  ) as Partial<T>;
}

/** The room for swap stays what it was unless the change names it: the field counts memory and swap together. */
function mergeMemory(old: SpecMemory | undefined, change: SpecMemory): SpecMemory {
  const fields = given(change, ['swappiness']);
  const [{ limit: oldLimit = 0n, swap: oldSwap = 0n }, { limit }] = [old ?? {}, fields];
  const moves = limit !== undefined && fields.swap === undefined;
  const swap = moves && limit < 0n ? -1n : moves && oldSwap > 0n && oldLimit > 0n ? limit + oldSwap - oldLimit : undefined;
  return { ...old, ...fields, ...(swap === undefined ? {} : { swap }) };
}

/** Later entries replace earlier ones of the same key, in their places. */
function mergeLists<T>(old: readonly T[], change: readonly T[], keyOf: (item: T) => string): readonly T[] {
  return [...new Map([...old, ...change].map((item) => [keyOf(item), item])).values()];
}

const noBlockIo: SpecBlockIo = { weightDevice: [], throttleReadBpsDevice: [], throttleWriteBpsDevice: [], throttleReadIOPSDevice: [], throttleWriteIOPSDevice: [] };
const deviceKey = ({ major, minor }: { readonly major: number; readonly minor: number }): string => `${major}:${minor}`;

function mergeBlockIo(old: SpecBlockIo, change: SpecBlockIo): SpecBlockIo {
  return {
    ...old,
    ...given({ weight: change.weight ?? 0, leafWeight: change.leafWeight ?? 0 }),
    weightDevice: mergeLists(old.weightDevice, change.weightDevice, deviceKey),
    throttleReadBpsDevice: mergeLists(old.throttleReadBpsDevice, change.throttleReadBpsDevice, deviceKey),
    throttleWriteBpsDevice: mergeLists(old.throttleWriteBpsDevice, change.throttleWriteBpsDevice, deviceKey),
    throttleReadIOPSDevice: mergeLists(old.throttleReadIOPSDevice, change.throttleReadIOPSDevice, deviceKey),
    throttleWriteIOPSDevice: mergeLists(old.throttleWriteIOPSDevice, change.throttleWriteIOPSDevice, deviceKey),
  };
}

/** The resources after the change; for `updateLimits`, and for the container's document. */
export function mergeResourceChange(old: SpecResources | undefined, change: SpecResources): SpecResources {
  const before = old ?? { devices: [], hugepageLimits: [], unified: {} };
  const rdma = Object.entries(change.rdma ?? {}).map(([device, limit]) => [device, { ...before.rdma?.[device], ...limit }] as const);
  return {
    ...before,
    ...(change.memory === undefined ? {} : { memory: mergeMemory(before.memory, change.memory) }),
    ...(change.cpu === undefined ? {} : { cpu: { ...before.cpu, ...given(change.cpu, ['idle', 'burst']) } }),
    ...(change.pids === undefined ? {} : { pids: change.pids }),
    ...(change.blockIO === undefined ? {} : { blockIO: mergeBlockIo(before.blockIO ?? noBlockIo, change.blockIO) }),
    hugepageLimits: mergeLists(before.hugepageLimits, change.hugepageLimits, ({ pageSize }) => pageSize),
    ...(change.network === undefined
      ? {}
      : {
          network: {
            ...before.network,
            ...given({ classID: change.network.classID ?? 0 }),
            priorities: mergeLists(before.network?.priorities ?? [], change.network.priorities, ({ name }) => name),
          },
        }),
    ...(rdma.length === 0 ? {} : { rdma: { ...before.rdma, ...Object.fromEntries(rdma) } }),
    unified: { ...before.unified, ...change.unified },
  };
}
