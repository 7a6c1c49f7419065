/**
 * Parts of the linux object that stand for themselves: clock offsets, network devices, memory policy, Intel RDT, personality. In: unknown JSON.
 * Out: typed values, or invalidArgument with the document's path. Whether a host can do it is not decided here. Pure.
 * Source: opencontainers/runtime-spec 1.3, config-linux.md; time_namespaces(7), set_mempolicy(2).
 */
import { invalidArgument } from '#core';
import { type Decoder, arrayOf, compact, decodeBoolean, decodeInt64, decodeNonEmptyString, decodeString, fieldsOf, integerBetween, mapOf, oneOf, pathOf } from './decode.ts';
import { decodeNumberList } from './scheduling.ts';

/** Clocks that a time namespace can shift. */
export const timeClocks = ['monotonic', 'boottime'] as const;
/** One of `timeClocks`. */
export type TimeClock = (typeof timeClocks)[number];

/** One entry of linux.timeOffsets. */
export interface SpecTimeOffset {
  readonly secs: bigint;
  /** 0 to 999999999. */
  readonly nanosecs: number;
}

/** linux.timeOffsets. */
export type SpecTimeOffsets = Readonly<Partial<Record<TimeClock, SpecTimeOffset>>>;

/** linux.netDevices: name on the host → name in the container. */
export type SpecNetDevices = Readonly<Record<string, { readonly name?: string }>>;

/** Modes of set_mempolicy(2) by their numbers. */
export const memoryPolicyModes = {
  MPOL_DEFAULT: 0,
  MPOL_PREFERRED: 1,
  MPOL_BIND: 2,
  MPOL_INTERLEAVE: 3,
  MPOL_LOCAL: 4,
  MPOL_PREFERRED_MANY: 5,
  MPOL_WEIGHTED_INTERLEAVE: 6,
} as const;
/** Name of a mode. */
export type MemoryPolicyMode = keyof typeof memoryPolicyModes;
/** Flags of set_mempolicy(2), which go into its mode. */
export const memoryPolicyFlags = { MPOL_F_STATIC_NODES: 1 << 15, MPOL_F_RELATIVE_NODES: 1 << 14, MPOL_F_NUMA_BALANCING: 1 << 13 } as const;
/** Name of a flag. */
export type MemoryPolicyFlag = keyof typeof memoryPolicyFlags;

/** linux.memoryPolicy. */
export interface SpecMemoryPolicy {
  readonly mode: MemoryPolicyMode;
  /** Numbers of memory nodes, sorted. */
  readonly nodes: readonly number[];
  readonly flags: readonly MemoryPolicyFlag[];
}

/** linux.intelRdt. */
export interface SpecIntelRdt {
  /** Name of a group; absent: one of the container's own. */
  readonly closID?: string;
  /** Lines of the group's `schemata`. */
  readonly schemata: readonly string[];
  readonly l3CacheSchema?: string;
  readonly memBwSchema?: string;
  readonly enableMonitoring: boolean;
}

/** linux.personality; the specification defines no flags yet. */
export interface SpecPersonality {
  readonly domain: 'LINUX' | 'LINUX32';
}

// SAFETY: the literals above; Object.keys gives their names in order.
const modeNames = Object.keys(memoryPolicyModes) as readonly MemoryPolicyMode[];
// SAFETY: as above.
const flagNames = Object.keys(memoryPolicyFlags) as readonly MemoryPolicyFlag[];

/** linux.timeOffsets; clocks without an offset are left out. */
export const decodeTimeOffsets: Decoder<SpecTimeOffsets> = (value, path) => {
  const fields = fieldsOf(value, path);
  for (const name of fields.names) oneOf('clock', timeClocks)(name, pathOf(path, name));
  const clock = (name: TimeClock): SpecTimeOffset | undefined =>
    fields.optional(name, (offset, offsetPath) => {
      const of = fieldsOf(offset, offsetPath);
      return { secs: of.withDefault('secs', decodeInt64, 0n), nanosecs: of.withDefault('nanosecs', integerBetween(0, 999_999_999), 0) };
    });
  return compact({ monotonic: clock('monotonic'), boottime: clock('boottime') });
};

/** A name as the kernel takes it for a link: 1 to 15 bytes without slash, colon and white space (dev_valid_name). */
function checkLinkName(name: string, path: string): string {
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > 15 || name === '.' || name === '..' || /[/:\s]/.test(name))
    throw invalidArgument(path, `is no name of a network device: ${JSON.stringify(name.slice(0, 40))}`);
  return name;
}

/** linux.netDevices. Throws where two devices would have one name in the container. */
export const decodeNetDevices: Decoder<SpecNetDevices> = (value, path) => {
  const devices = mapOf((device, devicePath) => {
    // An empty name is how Go writes the absent one.
    const name = fieldsOf(device, devicePath).optional('name', (text, textPath) => {
      const decoded = decodeString(text, textPath);
      return decoded === '' ? undefined : checkLinkName(decoded, textPath);
    });
    return compact({ name });
  })(value, path);
  const taken = new Map<string, string>();
  for (const [name, device] of Object.entries(devices)) {
    const place = pathOf(path, checkLinkName(name, pathOf(path, name)));
    const inside = device.name ?? name;
    const other = taken.get(inside);
    if (other !== undefined) throw invalidArgument(place, `would have the name ${JSON.stringify(inside)} in the container, as ${other} has`);
    taken.set(inside, place);
  }
  return devices;
};

/** linux.memoryPolicy. */
export const decodeMemoryPolicy: Decoder<SpecMemoryPolicy> = (value, path) => {
  const fields = fieldsOf(value, path);
  const policy = {
    mode: fields.required('mode', oneOf('memory policy mode', modeNames)),
    nodes: fields.withDefault('nodes', decodeNumberList, []),
    flags: fields.withDefault('flags', arrayOf(oneOf('memory policy flag', flagNames), 8), []),
  };
  const place = pathOf(path, 'nodes');
  const takesNone = policy.mode === 'MPOL_DEFAULT' || policy.mode === 'MPOL_LOCAL';
  if (takesNone && policy.nodes.length > 0) throw invalidArgument(place, `must be empty with ${policy.mode}`);
  if (!takesNone && policy.mode !== 'MPOL_PREFERRED' && policy.nodes.length === 0) throw invalidArgument(place, `at least one node with ${policy.mode}`);
  return policy;
};

/** linux.intelRdt. */
export const decodeIntelRdt: Decoder<SpecIntelRdt> = (value, path) => {
  const fields = fieldsOf(value, path);
  const line: Decoder<string> = (text, linePath) => {
    const schema = decodeNonEmptyString(text, linePath);
    if (/[\n\r]/.test(schema)) throw invalidArgument(linePath, 'must be one line');
    return schema;
  };
  const optionalLine: Decoder<string | undefined> = (text, linePath) => (text === '' ? undefined : line(text, linePath));
  return compact({
    closID: fields.optional('closID', (text, textPath) => {
      const id = decodeString(text, textPath);
      if (id === '.' || id === '..' || (id.length > 1 && id.includes('/')) || id.includes('\n') || id.length > 255)
        throw invalidArgument(textPath, `is no name of a group: ${JSON.stringify(id.slice(0, 80))}`);
      return id === '' ? undefined : id;
    }),
    schemata: fields.withDefault('schemata', arrayOf(line, 256), []),
    l3CacheSchema: fields.optional('l3CacheSchema', optionalLine),
    memBwSchema: fields.optional('memBwSchema', optionalLine),
    enableMonitoring: fields.withDefault('enableMonitoring', decodeBoolean, false),
  });
};

/** linux.personality. */
export const decodePersonality: Decoder<SpecPersonality> = (value, path) => {
  const fields = fieldsOf(value, path);
  const domain = fields.required('domain', oneOf('personality', ['LINUX', 'LINUX32']));
  const [flag] = fields.withDefault('flags', arrayOf(decodeString, 64), []);
  if (flag !== undefined) throw invalidArgument(`${pathOf(path, 'flags')}[0]`, `unknown personality flag ${JSON.stringify(flag.slice(0, 80))} (there are none)`);
  return { domain };
};
