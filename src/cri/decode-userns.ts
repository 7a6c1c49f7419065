/** User namespaces and mappings of ids in CRI messages → the engine's values. Errors are invalidArgument with the request's path. Pure. */
import type { IDMapping, UserNamespace } from '#gen/cri-v1_pb.js';
import { NamespaceMode } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { UserMappings } from '#pod';

/** 2^32-1 is no id but "no change". */
const idsEnd = 0xffff_ffff;

type Mapping = UserMappings['uids'][number];

function decodeMapping(path: string, mapping: IDMapping): Mapping {
  if (mapping.length === 0) throw invalidArgument(`${path}.length`, 'must be at least 1');
  for (const [name, first] of [
    ['container_id', mapping.containerId],
    ['host_id', mapping.hostId],
  ] as const)
    if (first + mapping.length > idsEnd) throw invalidArgument(`${path}.length`, `${mapping.length} ids from ${name} ${first} on are more than there are`);
  return { containerId: mapping.containerId, hostId: mapping.hostId, size: mapping.length };
}

/** CRI's rule for a pod: exactly one range, and it maps the container's id 0. */
function decodePodMapping(path: string, mappings: readonly IDMapping[]): readonly Mapping[] {
  const [only, ...more] = mappings;
  if (only === undefined) throw invalidArgument(path, 'required with mode POD');
  if (more.length > 0) throw invalidArgument(path, `must be one mapping, not ${mappings.length}`);
  const mapping = decodeMapping(`${path}[0]`, only);
  if (mapping.containerId !== 0) throw invalidArgument(`${path}[0].container_id`, `must be 0, not ${mapping.containerId}: the container's user and group 0 must be mapped`);
  return [mapping];
}

/** The user namespace that a pod or container asks for; undefined where nothing is said, empty lists where the host's is asked for by name. */
export function decodeUserNamespace(path: string, options: UserNamespace | undefined): UserMappings | undefined {
  if (options === undefined) return undefined;
  switch (options.mode) {
    case NamespaceMode.NODE:
      if (options.uids.length > 0) throw invalidArgument(`${path}.uids`, 'must be empty with mode NODE');
      if (options.gids.length > 0) throw invalidArgument(`${path}.gids`, 'must be empty with mode NODE');
      return { uids: [], gids: [] };
    case NamespaceMode.POD:
      return { uids: decodePodMapping(`${path}.uids`, options.uids), gids: decodePodMapping(`${path}.gids`, options.gids) };
    default:
      throw invalidArgument(`${path}.mode`, `must be one of POD, NODE, not ${String(NamespaceMode[options.mode] ?? options.mode)}`);
  }
}

/** The mappings of a mount; undefined where it has none. Both users and groups, or neither. Source: CRI, Mount.uidMappings. */
export function decodeMountMappings(path: string, mount: { readonly uidMappings: readonly IDMapping[]; readonly gidMappings: readonly IDMapping[] }): UserMappings | undefined {
  const { uidMappings, gidMappings } = mount;
  if (uidMappings.length === 0 && gidMappings.length === 0) return undefined;
  if (uidMappings.length === 0) throw invalidArgument(`${path}.uidMappings`, 'required beside gidMappings');
  if (gidMappings.length === 0) throw invalidArgument(`${path}.gidMappings`, 'required beside uidMappings');
  const decode = (name: string, mappings: readonly IDMapping[]): readonly Mapping[] =>
    mappings.map((mapping, index) => {
      const range = decodeMapping(`${path}.${name}[${index}]`, mapping);
      const earlier = mappings
        .slice(0, index)
        .findIndex((other) => overlaps(other.containerId, other.length, range.containerId, range.size) || overlaps(other.hostId, other.length, range.hostId, range.size));
      if (earlier >= 0) throw invalidArgument(`${path}.${name}[${index}]`, `overlaps ${path}.${name}[${earlier}]`);
      return range;
    });
  return { uids: decode('uidMappings', uidMappings), gids: decode('gidMappings', gidMappings) };
}

function overlaps(first: number, size: number, otherFirst: number, otherSize: number): boolean {
  return first < otherFirst + otherSize && otherFirst < first + size;
}
