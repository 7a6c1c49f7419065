/**
 * The flags of `update` as a linux.resources object. In: flag values. Out: an object like one of a document, which the decoder of runtime documents looks at like
 * any other. Pure. Values that mean "leave it" (empty, 0 where 0 limits nothing) are left out.
 */
import { RuntimeError } from '#core';
import { callerPath } from './caller-path.ts';
import type { FlagValues } from './flags.ts';
import { decodeBytes, decodeInteger } from './numbers.ts';
import type { UpdateOptions } from './options.ts';
import type { FrontRequest } from './types.ts';

const invalid = (flag: string, text: string, cause: string): RuntimeError =>
  new RuntimeError('invalidArgument', `invalid value for ${flag}: ${JSON.stringify(text.slice(0, 100))}: ${cause}`);

type Group = Readonly<Record<string, unknown>>;

/** The flags of a group as fields, those that were given. */
function group(values: FlagValues, fields: Readonly<Record<string, string>>, decode: (flag: string, text: string) => unknown): Group {
  return Object.fromEntries(Object.entries(fields).flatMap(([flag, field]) => (values.text(flag) === '' ? [] : [[field, decode(flag, values.text(flag))] as const])));
}

function integer(flag: string, text: string, [least, most]: readonly [bigint, bigint]): bigint {
  const value = decodeInteger(text, 'decimal');
  if (value === undefined) throw invalid(flag, text, 'invalid syntax');
  if (value < least || value > most) throw invalid(flag, text, 'value out of range');
  return value;
}

const unsigned64: readonly [bigint, bigint] = [0n, (1n << 64n) - 1n];
const signed64: readonly [bigint, bigint] = [-(1n << 63n), (1n << 63n) - 1n];

function bytes(flag: string, text: string): bigint {
  const value = text === '-1' ? -1n : decodeBytes(text);
  if (value === undefined) throw invalid(flag, text, 'invalid size');
  return value;
}

function cpu(values: FlagValues): Group {
  return {
    ...group(values, { 'cpuset-cpus': 'cpus', 'cpuset-mems': 'mems' }, (_flag, text) => text),
    ...group(values, { 'cpu-burst': 'burst', 'cpu-period': 'period', 'cpu-rt-period': 'realtimePeriod', 'cpu-share': 'shares' }, (flag, text) => integer(flag, text, unsigned64)),
    ...group(values, { 'cpu-quota': 'quota', 'cpu-rt-runtime': 'realtimeRuntime', 'cpu-idle': 'idle' }, (flag, text) => integer(flag, text, signed64)),
  };
}

/** Options of `update`. Throws invalidArgument with the flag's name. */
export function updateOptions(id: string, { values, request }: { readonly values: FlagValues; readonly request: Pick<FrontRequest, 'cwd' | 'pid'> }): UpdateOptions {
  const file = values.text('resources');
  if (file !== '') return { id, file: file === '-' ? callerPath('/dev/stdin', request) : callerPath(file, request), resources: {}, warnings: [] };
  for (const flag of ['l3-cache-schema', 'mem-bw-schema'])
    if (values.text(flag) !== '') throw new RuntimeError('unimplemented', `--${flag} is not supported: the Intel RDT group of a container does not change`);
  const memory = group(values, { memory: 'limit', 'memory-reservation': 'reservation', 'memory-swap': 'swap' }, bytes);
  const weight = values.number('blkio-weight') ?? 0;
  const groups: readonly (readonly [string, Group])[] = [
    ['cpu', cpu(values)],
    ['memory', memory],
    ['blockIO', weight === 0 ? {} : { weight: BigInt(weight) }],
    ['pids', values.has('pids-limit') ? { limit: BigInt(values.number('pids-limit') ?? 0) } : {}],
  ];
  const ignored = ['kernel-memory', 'kernel-memory-tcp'].some((flag) => values.text(flag) !== '');
  return {
    id,
    file: '',
    resources: Object.fromEntries(groups.filter(([, fields]) => Object.keys(fields).length > 0)),
    warnings: ignored ? ['Kernel memory settings are ignored and will be removed'] : [],
  };
}
