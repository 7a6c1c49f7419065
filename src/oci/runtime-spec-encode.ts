/**
 * RuntimeSpec → config.json, for hooks and people who read that file. In: a decoded specification. Out: its text, with the names of the
 * specification and 64-bit numbers in full. What the decoder keeps for itself is left out. Pure.
 */
import type { SpecIdMapping } from './id-mappings.ts';
import type { RuntimeSpec, SpecMount } from './runtime-spec.ts';
import type { SpecCpuAffinity } from './scheduling.ts';

const encodeMappings = (mappings: readonly SpecIdMapping[] | undefined): readonly object[] | undefined =>
  mappings?.map(({ containerId, hostId, size }) => ({ containerID: containerId, hostID: hostId, size }));

function encodeMount({ destination, type, source, options, idMappings }: SpecMount): object {
  const mapped = idMappings === undefined ? {} : { uidMappings: encodeMappings(idMappings.uids), gidMappings: encodeMappings(idMappings.gids) };
  return { destination, type, source, options, ...mapped };
}

const encodeAffinity = (affinity: SpecCpuAffinity | undefined): object | undefined =>
  affinity === undefined ? undefined : { initial: affinity.initial?.join(','), final: affinity.final?.join(',') };

/** A document of the specification as a plain object; quantities of 64 bits stay bigint. */
export function encodeRuntimeSpec(spec: RuntimeSpec): Readonly<Record<string, unknown>> {
  const { process, linux, mounts, ...rest } = spec;
  const { hasIdMappings: _ids, unsupported: _features, resources, uidMappings, gidMappings, ...known } = linux;
  return {
    ...rest,
    ...(process === undefined ? {} : { process: { ...process, unsupported: undefined, execCPUAffinity: encodeAffinity(process.execCPUAffinity) } }),
    mounts: mounts.map(encodeMount),
    linux: {
      ...known,
      ...(known.memoryPolicy === undefined ? {} : { memoryPolicy: { ...known.memoryPolicy, nodes: known.memoryPolicy.nodes.join(',') } }),
      uidMappings: encodeMappings(uidMappings),
      gidMappings: encodeMappings(gidMappings),
      ...(resources === undefined ? {} : { resources }),
    },
  };
}

/** JSON with bigint as plain digits, as other programs write them. */
export function formatJson(value: unknown): string {
  // SAFETY: part of ECMAScript 2026 and of every Node that the project runs on; the library's types lack it.
  const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown };
  return JSON.stringify(value, (_key, item: unknown) => (typeof item === 'bigint' ? rawJSON(item.toString()) : item));
}
