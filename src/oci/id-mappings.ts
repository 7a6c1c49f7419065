/** Id mappings of the runtime specification. In: the arrays of a document. Out: ranges that the kernel takes. Pure. Source: config-linux.md "User namespace mappings". */
import { invalidArgument } from '#core';
import { type Decoder, arrayOf, decodeUint32, fieldsOf } from './decode.ts';

/** One range; see user_namespaces(7). */
export interface SpecIdMapping {
  readonly containerId: number;
  readonly hostId: number;
  /** At least 1. */
  readonly size: number;
}

/** How many ranges the kernel takes (4.15 and later), and how many bytes of text. */
const rangesMax = 340;
const mapBytesMax = 4095;
/** 2^32-1 is no id but "no change". */
const idsEnd = 0xffff_ffff;

function overlaps(one: SpecIdMapping, other: SpecIdMapping, side: 'containerId' | 'hostId'): boolean {
  return one[side] < other[side] + other.size && other[side] < one[side] + one.size;
}

const decodeRange: Decoder<SpecIdMapping> = (value, path) => {
  const fields = fieldsOf(value, path);
  const range = { containerId: fields.required('containerID', decodeUint32), hostId: fields.required('hostID', decodeUint32), size: fields.required('size', decodeUint32) };
  if (range.size === 0) throw invalidArgument(`${path}.size`, 'must be at least 1');
  for (const [side, name] of [
    ['containerId', 'containerID'],
    ['hostId', 'hostID'],
  ] as const)
    if (range[side] + range.size > idsEnd) throw invalidArgument(`${path}.size`, `${range.size} ids from ${name} ${range[side]} on are more than there are`);
  return range;
};

/** The ranges of `uidMappings` or `gidMappings`. Throws invalidArgument where they overlap or are more than the kernel takes. */
export const decodeIdMappings: Decoder<readonly SpecIdMapping[]> = (value, path) => {
  const ranges = arrayOf(decodeRange, rangesMax)(value, path);
  for (const [index, range] of ranges.entries()) {
    const other = ranges.slice(0, index).findIndex((earlier) => overlaps(range, earlier, 'containerId') || overlaps(range, earlier, 'hostId'));
    if (other >= 0) throw invalidArgument(`${path}[${index}]`, `overlaps ${path}[${other}]`);
  }
  const bytes = ranges.reduce((sum, { containerId, hostId, size }) => sum + `${containerId} ${hostId} ${size}\n`.length, 0);
  if (bytes > mapBytesMax) throw invalidArgument(path, `the ranges take ${bytes} bytes, the kernel at most ${mapBytesMax}`);
  return ranges;
};
