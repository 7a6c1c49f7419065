/**
 * config.json → RuntimeSpec. In: unknown JSON (use `parseJson`, so that 64-bit numbers keep their digits). Out: typed, deeply
 * readonly values, or invalidArgument with the document's path. Unknown properties are allowed by the specification and left out;
 * unknown words, wrong types, out-of-range ids and relative mount targets are not. No policy: what a host cannot do is refused by `runtime`.
 */
import { invalidArgument } from '#core';
import {
  type Decoder,
  type Fields,
  arrayOf,
  compact,
  decodeAbsolutePath,
  decodeBoolean,
  decodeEnvEntry,
  decodeNonEmptyString,
  decodeString,
  decodeUint32,
  decodeUint64,
  fieldsOf,
  integerBetween,
  mapOf,
  oneOf,
  pathOf,
} from './decode.ts';
import { decodeHooks } from './hooks.ts';
import { decodeIdMappings } from './id-mappings.ts';
import { decodeResources } from './resources-decode.ts';
import { decodeIntelRdt, decodeMemoryPolicy, decodeNetDevices, decodePersonality, decodeTimeOffsets } from './linux-features.ts';
import { decodeDocumentSeccomp } from './seccomp-decode.ts';
import { decodeCpuAffinity, decodeIoPriority, decodeScheduler } from './scheduling.ts';
import {
  type RuntimeSpec,
  type SpecCapabilities,
  type SpecDevice,
  type SpecLinux,
  type SpecMount,
  type SpecProcess,
  namespaceTypes,
  propagations,
  rlimitTypes,
} from './runtime-spec.ts';

/** Names of the given properties that are present; a decoder keeps them so that `runtime` can refuse them with their path. */
const presentOf = (fields: Fields, names: readonly string[]): readonly string[] => names.filter((name) => fields.optional(name, (value) => value) !== undefined);

const decodeUser: Decoder<SpecProcess['user']> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    uid: fields.withDefault('uid', decodeUint32, 0),
    gid: fields.withDefault('gid', decodeUint32, 0),
    umask: fields.optional('umask', integerBetween(0, 0o777)),
    additionalGids: fields.withDefault('additionalGids', arrayOf(decodeUint32, 65536), []),
  });
};

const decodeCapability: Decoder<string> = (value, path) => {
  const name = decodeString(value, path);
  if (!/^CAP_[A-Z_]+$/.test(name)) throw invalidArgument(path, `unknown capability ${JSON.stringify(name.slice(0, 80))} (such as CAP_CHOWN)`);
  return name;
};

const decodeCapabilities: Decoder<SpecCapabilities> = (value, path) => {
  const fields = fieldsOf(value, path);
  const set = (name: string): readonly string[] => fields.withDefault(name, arrayOf(decodeCapability, 256), []);
  return { bounding: set('bounding'), effective: set('effective'), permitted: set('permitted'), inheritable: set('inheritable'), ambient: set('ambient') };
};

const decodeRlimits: Decoder<SpecProcess['rlimits']> = (value, path) => {
  const rlimits = arrayOf((item, itemPath) => {
    const fields = fieldsOf(item, itemPath);
    const rlimit = { type: fields.required('type', oneOf('rlimit', rlimitTypes)), soft: fields.required('soft', decodeUint64), hard: fields.required('hard', decodeUint64) };
    if (rlimit.soft > rlimit.hard) throw invalidArgument(pathOf(itemPath, 'soft'), `${rlimit.soft} is above the hard limit ${rlimit.hard}`);
    return rlimit;
  }, 64)(value, path);
  for (const [index, { type }] of rlimits.entries()) {
    if (rlimits.findIndex((other) => other.type === type) !== index) throw invalidArgument(`${path}[${index}].type`, `${type} is given twice`);
  }
  return rlimits;
};

/** A process object of config.json or of `exec --process`. */
export const decodeProcess: Decoder<SpecProcess> = (value, path) => {
  const fields = fieldsOf(value, path);
  const args = fields.required('args', arrayOf(decodeString));
  if (args.length === 0) throw invalidArgument(pathOf(path, 'args'), 'must have at least one item');
  return compact({
    terminal: fields.withDefault('terminal', decodeBoolean, false),
    consoleSize: fields.optional('consoleSize', (size, sizePath) => {
      const sizes = fieldsOf(size, sizePath);
      return { height: sizes.required('height', integerBetween(0, 65535)), width: sizes.required('width', integerBetween(0, 65535)) };
    }),
    user: fields.withDefault('user', decodeUser, { uid: 0, gid: 0, additionalGids: [] }),
    args,
    env: fields.withDefault('env', arrayOf(decodeEnvEntry), []),
    cwd: fields.required('cwd', decodeAbsolutePath),
    capabilities: fields.optional('capabilities', decodeCapabilities),
    rlimits: fields.withDefault('rlimits', decodeRlimits, []),
    noNewPrivileges: fields.withDefault('noNewPrivileges', decodeBoolean, false),
    oomScoreAdj: fields.optional('oomScoreAdj', integerBetween(-1000, 1000)),
    apparmorProfile: fields.optional('apparmorProfile', decodeString),
    selinuxLabel: fields.optional('selinuxLabel', decodeString),
    scheduler: fields.optional('scheduler', decodeScheduler),
    ioPriority: fields.optional('ioPriority', decodeIoPriority),
    execCPUAffinity: fields.optional('execCPUAffinity', decodeCpuAffinity),
    unsupported: [],
  });
};

const decodeMount: Decoder<SpecMount> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    destination: fields.required('destination', decodeAbsolutePath),
    type: fields.optional('type', decodeString),
    source: fields.optional('source', decodeString),
    options: fields.withDefault('options', arrayOf(decodeNonEmptyString, 256), []),
    idMapped: presentOf(fields, ['uidMappings', 'gidMappings']).length > 0,
    ...(presentOf(fields, ['uidMappings', 'gidMappings']).length === 0
      ? {}
      : { idMappings: { uids: fields.required('uidMappings', decodeIdMappings), gids: fields.required('gidMappings', decodeIdMappings) } }),
  });
};

const decodeDevice: Decoder<SpecDevice> = (value, path) => {
  const fields = fieldsOf(value, path);
  const type = fields.required('type', oneOf('device type', ['c', 'b', 'u', 'p']));
  const number: Decoder<number> = integerBetween(0, 0xffff_ffff);
  const numberOf = (name: string): number => (type === 'p' ? fields.withDefault(name, number, 0) : fields.required(name, number));
  return compact({
    type,
    path: fields.required('path', decodeAbsolutePath),
    major: numberOf('major'),
    minor: numberOf('minor'),
    fileMode: fields.optional('fileMode', integerBetween(0, 0o177777)),
    uid: fields.optional('uid', decodeUint32),
    gid: fields.optional('gid', decodeUint32),
  });
};

const decodeNamespaces: Decoder<SpecLinux['namespaces']> = (value, path) => {
  const namespaces = arrayOf((item, itemPath) => {
    const fields = fieldsOf(item, itemPath);
    const type = fields.required('type', oneOf('namespace', namespaceTypes));
    return compact({ type, path: fields.optional('path', (text, textPath) => (text === '' ? undefined : decodeAbsolutePath(text, textPath))) });
  }, 64)(value, path);
  for (const [index, { type }] of namespaces.entries()) {
    if (namespaces.findIndex((other) => other.type === type) !== index) throw invalidArgument(`${path}[${index}].type`, `namespace ${JSON.stringify(type)} is given twice`);
  }
  return namespaces;
};

const decodeLinux: Decoder<SpecLinux> = (value, path) => {
  const fields = fieldsOf(value, path);
  const paths = arrayOf(decodeAbsolutePath, 1024);
  const lengthOf = (name: string): number =>
    fields.withDefault(
      name,
      arrayOf((item) => item),
      [],
    ).length;
  return compact({
    namespaces: fields.withDefault('namespaces', decodeNamespaces, []),
    hasIdMappings: lengthOf('uidMappings') + lengthOf('gidMappings') > 0,
    ...(lengthOf('uidMappings') + lengthOf('gidMappings') === 0
      ? {}
      : { uidMappings: fields.withDefault('uidMappings', decodeIdMappings, []), gidMappings: fields.withDefault('gidMappings', decodeIdMappings, []) }),
    timeOffsets: fields.optional('timeOffsets', decodeTimeOffsets),
    netDevices: fields.optional('netDevices', decodeNetDevices),
    memoryPolicy: fields.optional('memoryPolicy', decodeMemoryPolicy),
    intelRdt: fields.optional('intelRdt', decodeIntelRdt),
    devices: fields.withDefault('devices', arrayOf(decodeDevice, 1024), []),
    cgroupsPath: fields.optional('cgroupsPath', decodeString),
    resources: fields.optional('resources', decodeResources),
    sysctl: fields.withDefault('sysctl', mapOf(decodeString), {}),
    rootfsPropagation: fields.optional('rootfsPropagation', (word, wordPath) => (word === '' ? undefined : oneOf('propagation', propagations)(word, wordPath))),
    seccomp: fields.optional('seccomp', decodeDocumentSeccomp),
    maskedPaths: fields.withDefault('maskedPaths', paths, []),
    readonlyPaths: fields.withDefault('readonlyPaths', paths, []),
    mountLabel: fields.optional('mountLabel', decodeString),
    personality: fields.optional('personality', decodePersonality),
    unsupported: [],
  });
};

/**
 * The value as a RuntimeSpec. Throws invalidArgument such as `linux.namespaces[2].type: unknown namespace "foo" (pid, network, …)`.
 * Source: opencontainers/runtime-spec 1.3, config.md and config-linux.md.
 */
export function decodeRuntimeSpec(json: unknown): RuntimeSpec {
  const fields = fieldsOf(json, '');
  const ociVersion = fields.required('ociVersion', decodeNonEmptyString);
  if (!/^1\.\d+\.\d+/.test(ociVersion)) throw invalidArgument('ociVersion', `must be a version 1.x.y, not ${JSON.stringify(ociVersion.slice(0, 40))}`);
  return compact({
    ociVersion,
    hostname: fields.optional('hostname', decodeString),
    domainname: fields.optional('domainname', decodeString),
    process: fields.optional('process', decodeProcess),
    root: fields.required('root', (root, path) => {
      const of = fieldsOf(root, path);
      return { path: of.required('path', decodeNonEmptyString), readonly: of.withDefault('readonly', decodeBoolean, false) };
    }),
    mounts: fields.withDefault('mounts', arrayOf(decodeMount, 1024), []),
    hooks: fields.withDefault('hooks', decodeHooks, {}),
    annotations: fields.withDefault('annotations', mapOf(decodeString), {}),
    linux: fields.withDefault('linux', decodeLinux, decodeLinux({}, 'linux')),
  });
}
