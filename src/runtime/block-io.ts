/**
 * linux.resources.blockIO as control files and values. In: the object, the host's facts. Out: file and value pairs, or an error with the document's path. Pure.
 *
 * Weights are those of the BFQ scheduler where its files exist. Without it cgroup v2 has weights of its own, on the scale 1 to 10000, to which 10 to 1000 is mapped
 * as runc and crun do; v1 has none. Weights of leaves went with the CFQ scheduler in Linux 5.0.
 */
import { invalidArgument } from '#core';
import type { SpecBlockIo, SpecThrottleDevice } from '#oci';
import { type CgroupFacts } from '#system';
import type { ControlValue } from './cgroup-limits.ts';
import { hostLacks } from './refusals.ts';

/** Bounds of the specification's weights, and of `io.weight`. */
const [weightMin, weightMax, ioWeightMax] = [10, 1000, 10_000];

/** `io.weight` (1 to 10000) for a blkio weight (10 to 1000), linear, rounded down. Source: opencontainers/cgroups ConvertBlkIOToIOWeightValue. */
export function ioWeightOf(weight: number): number {
  return 1 + Math.floor(((weight - weightMin) * (ioWeightMax - 1)) / (weightMax - weightMin));
}

function checkWeight(weight: number | undefined, path: string): number | undefined {
  if (weight === undefined || weight === 0) return undefined;
  if (weight < weightMin || weight > weightMax) throw invalidArgument(path, `${weight} is outside ${weightMin} to ${weightMax}`);
  return weight;
}

/** One weight: of the group (no device), or of the group on a device. */
interface Weight {
  readonly field: string;
  readonly weight: number;
  readonly device?: string;
}

function weightsOf(blockIO: SpecBlockIo, path: string): readonly Weight[] {
  const weights: Weight[] = [];
  const add = (field: string, weight: number | undefined, device?: string): void => {
    const checked = checkWeight(weight, `${path}.${field}`);
    if (checked !== undefined) weights.push({ field, weight: checked, ...(device === undefined ? {} : { device }) });
  };
  const refuseLeaf = (field: string, weight: number | undefined): void => {
    if (weight !== undefined && weight !== 0) throw hostLacks(`${path}.${field}`, 'weights of leaves are gone from Linux');
  };
  add('blockIO.weight', blockIO.weight);
  refuseLeaf('blockIO.leafWeight', blockIO.leafWeight);
  for (const [index, { major, minor, weight, leafWeight }] of blockIO.weightDevice.entries()) {
    add(`blockIO.weightDevice[${index}].weight`, weight, `${major}:${minor}`);
    refuseLeaf(`blockIO.weightDevice[${index}].leafWeight`, leafWeight);
  }
  return weights;
}

type ThrottleList = 'throttleReadBpsDevice' | 'throttleWriteBpsDevice' | 'throttleReadIOPSDevice' | 'throttleWriteIOPSDevice';

/** The list, its v1 file and its word in `io.max`. */
const throttles: readonly (readonly [list: ThrottleList, file: string, word: string])[] = [
  ['throttleReadBpsDevice', 'blkio.throttle.read_bps_device', 'rbps'],
  ['throttleWriteBpsDevice', 'blkio.throttle.write_bps_device', 'wbps'],
  ['throttleReadIOPSDevice', 'blkio.throttle.read_iops_device', 'riops'],
  ['throttleWriteIOPSDevice', 'blkio.throttle.write_iops_device', 'wiops'],
];

function throttleValues(
  blockIO: SpecBlockIo,
  valueOf: (device: SpecThrottleDevice, file: string, word: string) => Pick<ControlValue, 'controller' | 'file' | 'value'>,
): readonly ControlValue[] {
  return throttles.flatMap(([list, file, word]) => blockIO[list].map((device, index) => ({ ...valueOf(device, file, word), field: `blockIO.${list}[${index}]` })));
}

/** Control values for cgroup v1. */
export function blockIoV1(blockIO: SpecBlockIo, path: string): readonly ControlValue[] {
  return [
    ...weightsOf(blockIO, path).map(({ field, weight, device }) => ({
      controller: 'blkio',
      file: device === undefined ? 'blkio.bfq.weight' : 'blkio.bfq.weight_device',
      value: device === undefined ? String(weight) : `${device} ${weight}`,
      field,
    })),
    ...throttleValues(blockIO, ({ major, minor, rate }, file) => ({ controller: 'blkio', file, value: `${major}:${minor} ${rate}` })),
  ];
}

/** Control values for cgroup v2. */
export function blockIoV2(blockIO: SpecBlockIo, facts: CgroupFacts, path: string): readonly ControlValue[] {
  const bfq = facts.controlFiles?.has('io.bfq.weight') === true;
  return [
    ...weightsOf(blockIO, path).map(({ field, weight, device }) => {
      const value = bfq ? weight : ioWeightOf(weight);
      return { controller: 'io', file: bfq ? 'io.bfq.weight' : 'io.weight', value: device === undefined ? String(value) : `${device} ${value}`, field };
    }),
    ...throttleValues(blockIO, ({ major, minor, rate }, _file, word) => ({ controller: 'io', file: 'io.max', value: `${major}:${minor} ${word}=${rate === 0n ? 'max' : rate}` })),
  ];
}
