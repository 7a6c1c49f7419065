/**
 * Devices of the Container Device Interface: which ones a container asks for, which specification defines them, what that adds to its runtime spec.
 * In: a container's configuration, the files of the directories, its runtime spec. Out: the edited spec and further groups. Pure but for the
 * host's device nodes, which come through a parameter.
 */
import { RuntimeError, invalidArgument, limits, wrapError } from '#core';
import type { RuntimeSpec, SpecDevice, SpecDeviceRule, SpecHooks, SpecMount } from '#oci';
import { splitCdiName } from './cdi-decode.ts';
import type { CdiDeviceNode, CdiEdits, CdiFile, CdiInjection, CdiMount, CdiSpec } from './cdi-types.ts';
import type { HostDevice, SpecDefaults } from './ports.ts';
import type { ContainerConfig } from './types.ts';

/** Annotations by which device plugins ask for devices, values are names with commas between them. */
export const cdiAnnotationPrefix = 'cdi.k8s.io/';

/** Qualified names, each once: those of the request's field, then those of its annotations. Throws invalidArgument with the request's path. */
export function requestedCdiDevices(container: { readonly cdiDevices?: readonly string[]; readonly annotations: Readonly<Record<string, string>> }): readonly string[] {
  const names = new Set<string>();
  const add = (name: string, path: string): void => {
    if (splitCdiName(name) === undefined) throw invalidArgument(path, `${JSON.stringify(name.slice(0, 200))} is not a device of the form vendor/class=name`);
    names.add(name);
    if (names.size > limits.cdiRequestedDevicesMax) throw invalidArgument(path, `more than ${limits.cdiRequestedDevicesMax} CDI devices`);
  };
  for (const [index, name] of (container.cdiDevices ?? []).entries()) add(name, `config.CDI_devices[${index}].name`);
  for (const [key, value] of Object.entries(container.annotations)) {
    if (!key.startsWith(cdiAnnotationPrefix)) continue;
    for (const name of value.split(',')) add(name, `config.annotations[${JSON.stringify(key.slice(0, 120))}]`);
  }
  return [...names];
}

interface Definition {
  readonly path: string;
  readonly priority: number;
  readonly spec: CdiSpec;
  readonly edits: CdiEdits;
  /** Another file of the same priority that defines it too. */
  readonly rival?: string;
}

/** By qualified name. Files of a higher priority win; two of one priority are rivals. */
function indexDevices(files: readonly CdiFile[]): ReadonlyMap<string, Definition> {
  const definitions = new Map<string, Definition>();
  for (const file of files) {
    if (!('spec' in file)) continue;
    const { path, priority, spec } = file;
    for (const { name, edits } of spec.devices) {
      const device = `${spec.kind}=${name}`;
      const known = definitions.get(device);
      if (known === undefined || known.priority < priority) definitions.set(device, { path, priority, spec, edits });
      else if (known.priority === priority && known.rival === undefined) definitions.set(device, { ...known, rival: path });
    }
  }
  return definitions;
}

/** What is wrong with the files, one sentence each: what could not be read, devices that two files of one directory define. */
export function cdiWarnings(files: readonly CdiFile[]): readonly string[] {
  const unread = files.flatMap((file) => ('error' in file ? [file.error.message] : []));
  const rivals = [...indexDevices(files)].flatMap(([device, { path, rival }]) => (rival === undefined ? [] : [`CDI device ${device}: defined by ${path} and ${rival}`]));
  return [...unread, ...rivals];
}

/**
 * The edits of the devices in the order in which they apply: before a specification's first device those that it has for all. Throws notFound for a device that
 * nobody defines, failedPrecondition for one that two files of one priority define, unimplemented for edits that cannot be made.
 */
export function resolveCdiDevices(files: readonly CdiFile[], names: readonly string[]): readonly CdiInjection[] {
  const definitions = indexDevices(files);
  const begun = new Set<CdiSpec>();
  return names.flatMap((device): readonly CdiInjection[] => {
    const found = definitions.get(device);
    if (found === undefined) {
      const unread = files.filter((file) => 'error' in file).map(({ path }) => path);
      throw new RuntimeError('notFound', `CDI device ${device}: no specification defines it${unread.length === 0 ? '' : ` (not readable: ${unread.slice(0, 5).join(', ')})`}`);
    }
    const { path, spec, edits, rival } = found;
    if (rival !== undefined) throw new RuntimeError('failedPrecondition', `CDI device ${device}: defined by ${path} and ${rival}`);
    const [feature] = [...spec.edits.unsupported, ...edits.unsupported];
    if (feature !== undefined) throw new RuntimeError('unimplemented', `CDI device ${device}: ${path}: containerEdits.${feature}: not supported`);
    const isFirst = !begun.has(spec);
    begun.add(spec);
    return [...(isFirst ? [{ device: spec.kind, path, edits: spec.edits }] : []), { device, path, edits }];
  });
}

/** What applying edits depends on. */
export interface CdiContext {
  readonly readDevices: (path: string) => Promise<readonly HostDevice[]>;
  /** Numbers of the container's user where the request gives them: owners of nodes that name none. */
  readonly owner: { readonly uid?: number; readonly gid?: number };
}

async function readNode({ readDevices }: CdiContext, path: string): Promise<HostDevice> {
  const [found, ...more] = await readDevices(path);
  if (found === undefined || more.length > 0 || found.path !== path) throw invalidArgument('', `device ${path}: is not a device node`);
  return found;
}

/** What the specification leaves out comes from the host's node, which need not exist where nothing but its mode is missing. */
async function planNode(node: CdiDeviceNode, context: CdiContext): Promise<{ readonly device: SpecDevice; readonly rule?: SpecDeviceRule }> {
  const isWhole = node.type !== undefined && (node.major !== 0 || node.type === 'p');
  const host = await readNode(context, node.hostPath ?? node.path).catch((error: unknown) => {
    if (isWhole) return undefined;
    throw error;
  });
  const wanted = node.type === 'u' ? 'c' : node.type;
  if (!isWhole && wanted !== undefined && host !== undefined && host.type !== wanted)
    throw invalidArgument('', `device ${node.hostPath ?? node.path}: is of type ${host.type} and not ${wanted}`);
  const { type, major, minor } = isWhole || host === undefined ? { type: wanted ?? 'c', major: node.major, minor: node.minor } : host;
  const fileMode = node.fileMode ?? host?.mode;
  const [uid, gid] = [node.uid ?? context.owner.uid, node.gid ?? context.owner.gid];
  const device = {
    type,
    path: node.path,
    major,
    minor,
    ...(fileMode === undefined ? {} : { fileMode }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
  };
  return type === 'p' || node.permissions === '' ? { device } : { device, rule: { allow: true, type, major, minor, access: node.permissions } };
}

function planMount({ hostPath, containerPath, type, options }: CdiMount, hasUserNamespace: boolean): SpecMount {
  const isBind = type === undefined || type === 'bind';
  const says = (...words: readonly string[]): boolean => options.some((option) => words.includes(option));
  return {
    destination: containerPath,
    type: type ?? 'bind',
    source: hostPath,
    options: [...options, ...(isBind && !says('bind', 'rbind') ? ['rbind'] : []), ...(isBind && hasUserNamespace && !says('idmap', 'ridmap') ? ['idmap'] : [])],
    idMapped: false,
  };
}

const depthOf = (path: string): number => path.split('/').filter((part) => part !== '').length;

function mergeEnv(env: readonly string[], added: readonly string[]): readonly string[] {
  const nameOf = (entry: string): string => entry.slice(0, entry.indexOf('='));
  const merged = new Map(env.map((entry) => [nameOf(entry), entry]));
  for (const entry of added) merged.set(nameOf(entry), entry);
  return [...merged.values()];
}

function mergeHooks(hooks: SpecHooks, added: CdiEdits['hooks']): SpecHooks {
  const merged = { ...hooks };
  for (const { kind, hook } of added) merged[kind] = [...(merged[kind] ?? []), hook];
  return merged;
}

async function applyEdits(spec: RuntimeSpec, edits: CdiEdits, context: CdiContext): Promise<RuntimeSpec> {
  const nodes: Awaited<ReturnType<typeof planNode>>[] = [];
  for (const node of edits.deviceNodes) nodes.push(await planNode(node, context));
  const hasUserNamespace = spec.linux.namespaces.some(({ type }) => type === 'user');
  // A later definition of a path replaces an earlier one, the request's own too.
  const devices = new Map([...spec.linux.devices, ...nodes.map(({ device }) => device)].map((device) => [device.path, device]));
  const added = new Map(edits.mounts.map((mount) => [mount.containerPath, planMount(mount, hasUserNamespace)]));
  const mounts = [...spec.mounts.filter(({ destination }) => !added.has(destination)), ...added.values()];
  const { process } = spec;
  const resources = spec.linux.resources ?? { devices: [], hugepageLimits: [], unified: {} };
  return {
    ...spec,
    ...(process === undefined ? {} : { process: { ...process, env: mergeEnv(process.env, edits.env) } }),
    // Shorter targets first, so that none hides another.
    mounts: edits.mounts.length === 0 ? spec.mounts : mounts.toSorted((a, b) => depthOf(a.destination) - depthOf(b.destination)),
    hooks: mergeHooks(spec.hooks, edits.hooks),
    linux: {
      ...spec.linux,
      devices: [...devices.values()],
      resources: { ...resources, devices: [...resources.devices, ...nodes.flatMap(({ rule }) => (rule === undefined ? [] : [rule]))] },
    },
  };
}

/** The spec with everything that the devices bring, and their groups. Throws what reading a device node does, with the device and its file in front. */
export async function applyCdiDevices(
  spec: RuntimeSpec,
  injections: readonly CdiInjection[],
  context: CdiContext,
): Promise<{ readonly spec: RuntimeSpec; readonly additionalGids: readonly number[] }> {
  let edited = spec;
  for (const { device, path, edits } of injections)
    edited = await applyEdits(edited, edits, context).catch((error: unknown) => {
      throw wrapError(`CDI device ${device}: ${path}`, error);
    });
  const count = Object.values(edited.hooks).reduce((sum, list) => sum + list.length, 0);
  if (count > limits.hooksMax) throw new RuntimeError('resourceExhausted', `CDI devices: ${count} hooks, at most ${limits.hooksMax}`);
  // Group 0 is no more than what root has already. Source: the reference implementation.
  return { spec: edited, additionalGids: [...new Set(injections.flatMap(({ edits }) => edits.additionalGids))].filter((gid) => gid !== 0) };
}

/** The spec with the CDI devices that the container asks for; without any it is the same, and no file is read. */
export async function injectCdiDevices(
  spec: RuntimeSpec,
  container: ContainerConfig,
  { readCdiSpecs, readDevices }: Pick<SpecDefaults, 'readCdiSpecs' | 'readDevices'>,
): Promise<{ readonly spec: RuntimeSpec; readonly additionalGids: readonly number[] }> {
  const names = requestedCdiDevices(container);
  if (names.length === 0) return { spec, additionalGids: [] };
  const { runAsUser: uid, runAsGroup: gid } = container.security;
  const owner = { ...(uid === undefined ? {} : { uid: Number(uid) }), ...(gid === undefined ? {} : { gid: Number(gid) }) };
  return applyCdiDevices(spec, resolveCdiDevices(await readCdiSpecs(), names), { readDevices, owner });
}
