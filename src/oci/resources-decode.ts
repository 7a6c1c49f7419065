/**
 * linux.resources → SpecResources. In: unknown JSON. Out: typed values, or invalidArgument with the document's path. No policy: what a host cannot do
 * is refused by `runtime`.
 */
import { invalidArgument } from '#core';
import {
  type Decoder,
  arrayOf,
  compact,
  decodeBoolean,
  decodeInt64,
  decodeNonEmptyString,
  decodeString,
  decodeUint32,
  decodeUint64,
  fieldsOf,
  integerBetween,
  mapOf,
  oneOf,
} from './decode.ts';
import type { SpecBlockIo, SpecCpu, SpecDeviceRule, SpecMemory, SpecNetworkClass, SpecRdmaLimit, SpecResources, SpecThrottleDevice, SpecWeightDevice } from './resources.ts';

/** Entries of one list of devices. */
const devicesMax = 4096;

const decodeDeviceRule: Decoder<SpecDeviceRule> = (value, path) => {
  const fields = fieldsOf(value, path);
  const number = (name: string): number | undefined => {
    const found = fields.optional(name, integerBetween(-1, 0xffff_ffff));
    return found === -1 ? undefined : found;
  };
  return compact({
    allow: fields.required('allow', decodeBoolean),
    // An empty type is how Go writes the absent one.
    type: fields.withDefault('type', (word, wordPath) => (word === '' ? 'a' : oneOf('device type', ['a', 'c', 'b'])(word, wordPath)), 'a'),
    major: number('major'),
    minor: number('minor'),
    access: fields.optional('access', (word, wordPath) => {
      const text = decodeString(word, wordPath);
      if (!/^[rwm]{0,3}$/.test(text)) throw invalidArgument(wordPath, `must be letters of "rwm", not ${JSON.stringify(text.slice(0, 20))}`);
      return text === '' ? 'rwm' : text;
    }),
  });
};

const decodeMemory: Decoder<SpecMemory> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    limit: fields.optional('limit', decodeInt64),
    reservation: fields.optional('reservation', decodeInt64),
    swap: fields.optional('swap', decodeInt64),
    kernel: fields.optional('kernel', decodeInt64),
    kernelTCP: fields.optional('kernelTCP', decodeInt64),
    swappiness: fields.optional('swappiness', decodeUint64),
    disableOOMKiller: fields.optional('disableOOMKiller', decodeBoolean),
    useHierarchy: fields.optional('useHierarchy', decodeBoolean),
    checkBeforeUpdate: fields.optional('checkBeforeUpdate', decodeBoolean),
  });
};

/** Processors or memory nodes. */
const decodeList: Decoder<string> = (value, path) => {
  const list = decodeString(value, path).trim();
  if (!/^[0-9,-]*$/.test(list)) throw invalidArgument(path, `must be a list such as "0-3,7", not ${JSON.stringify(list.slice(0, 80))}`);
  return list;
};

const decodeCpu: Decoder<SpecCpu> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    shares: fields.optional('shares', decodeUint64),
    quota: fields.optional('quota', decodeInt64),
    burst: fields.optional('burst', decodeUint64),
    period: fields.optional('period', decodeUint64),
    realtimeRuntime: fields.optional('realtimeRuntime', decodeInt64),
    realtimePeriod: fields.optional('realtimePeriod', decodeUint64),
    cpus: fields.optional('cpus', decodeList),
    mems: fields.optional('mems', decodeList),
    idle: fields.optional('idle', decodeInt64),
  });
};

/** 16 bits by the specification. */
const decodeWeight: Decoder<number> = integerBetween(0, 0xffff);

const decodeWeightDevice: Decoder<SpecWeightDevice> = (value, path) => {
  const fields = fieldsOf(value, path);
  const device = compact({
    major: fields.required('major', decodeUint32),
    minor: fields.required('minor', decodeUint32),
    weight: fields.optional('weight', decodeWeight),
    leafWeight: fields.optional('leafWeight', decodeWeight),
  });
  if (device.weight === undefined && device.leafWeight === undefined) throw invalidArgument(path, 'needs a weight or a leafWeight');
  return device;
};

const decodeThrottleDevice: Decoder<SpecThrottleDevice> = (value, path) => {
  const fields = fieldsOf(value, path);
  return { major: fields.required('major', decodeUint32), minor: fields.required('minor', decodeUint32), rate: fields.required('rate', decodeUint64) };
};

const decodeBlockIo: Decoder<SpecBlockIo> = (value, path) => {
  const fields = fieldsOf(value, path);
  const throttle = (name: string): readonly SpecThrottleDevice[] => fields.withDefault(name, arrayOf(decodeThrottleDevice, devicesMax), []);
  return compact({
    weight: fields.optional('weight', decodeWeight),
    leafWeight: fields.optional('leafWeight', decodeWeight),
    weightDevice: fields.withDefault('weightDevice', arrayOf(decodeWeightDevice, devicesMax), []),
    throttleReadBpsDevice: throttle('throttleReadBpsDevice'),
    throttleWriteBpsDevice: throttle('throttleWriteBpsDevice'),
    throttleReadIOPSDevice: throttle('throttleReadIOPSDevice'),
    throttleWriteIOPSDevice: throttle('throttleWriteIOPSDevice'),
  });
};

/** IFNAMSIZ of the kernel, without the NUL. */
const interfaceNameMax = 15;

const decodeNetwork: Decoder<SpecNetworkClass> = (value, path) => {
  const fields = fieldsOf(value, path);
  const priority: Decoder<SpecNetworkClass['priorities'][number]> = (item, itemPath) => {
    const of = fieldsOf(item, itemPath);
    const name = of.required('name', decodeNonEmptyString);
    if (Buffer.byteLength(name) > interfaceNameMax || !/^[^\s/:]+$/.test(name))
      throw invalidArgument(`${itemPath}.name`, `no interface is named ${JSON.stringify(name.slice(0, 40))}`);
    return { name, priority: of.required('priority', decodeUint32) };
  };
  return compact({ classID: fields.optional('classID', decodeUint32), priorities: fields.withDefault('priorities', arrayOf(priority, devicesMax), []) });
};

const decodeRdmaLimit: Decoder<SpecRdmaLimit> = (value, path) => {
  const fields = fieldsOf(value, path);
  const limit = compact({ hcaHandles: fields.optional('hcaHandles', decodeUint32), hcaObjects: fields.optional('hcaObjects', decodeUint32) });
  if (limit.hcaHandles === undefined && limit.hcaObjects === undefined) throw invalidArgument(path, 'needs hcaHandles or hcaObjects');
  return limit;
};

/** Files of groups, and devices for remote memory. */
const entriesMax = 1024;

/** A map with a bound on its entries. */
function boundedMap<T>(decoder: Decoder<T>): Decoder<Readonly<Record<string, T>>> {
  return (value, path) => {
    const { length } = fieldsOf(value, path).names;
    if (length > entriesMax) throw invalidArgument(path, `${length} entries, at most ${entriesMax}`);
    return mapOf(decoder)(value, path);
  };
}

const decodeRdma: Decoder<Readonly<Record<string, SpecRdmaLimit>>> = (value, path) => {
  const limits = boundedMap(decodeRdmaLimit)(value, path);
  const bad = Object.keys(limits).find((name) => !/^[\w.:-]{1,64}$/.test(name));
  if (bad !== undefined) throw invalidArgument(path, `no device is named ${JSON.stringify(bad.slice(0, 40))}`);
  return limits;
};

/** The linux.resources object; also what an update carries. */
export const decodeResources: Decoder<SpecResources> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    devices: fields.withDefault('devices', arrayOf(decodeDeviceRule, devicesMax), []),
    memory: fields.optional('memory', decodeMemory),
    cpu: fields.optional('cpu', decodeCpu),
    pids: fields.optional('pids', (pids, pidsPath) => ({ limit: fieldsOf(pids, pidsPath).withDefault('limit', decodeInt64, -1n) })),
    blockIO: fields.optional('blockIO', decodeBlockIo),
    hugepageLimits: fields.withDefault(
      'hugepageLimits',
      arrayOf((item, itemPath) => {
        const of = fieldsOf(item, itemPath);
        return { pageSize: of.required('pageSize', decodeNonEmptyString), limit: of.required('limit', decodeUint64) };
      }, 64),
      [],
    ),
    network: fields.optional('network', decodeNetwork),
    rdma: fields.optional('rdma', decodeRdma),
    unified: fields.withDefault('unified', boundedMap(decodeString), {}),
  });
};
