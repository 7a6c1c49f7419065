/**
 * Hooks of a runtime spec: programs to run at fixed points of a container's life. In: the `hooks` object. Out: typed lists, or
 * invalidArgument with the document's path. Pure. Source: opencontainers/runtime-spec 1.3, config.md, "POSIX-platform Hooks".
 */
import { invalidArgument, limits } from '#core';
import { type Decoder, arrayOf, compact, decodeAbsolutePath, decodeEnvEntry, decodeString, fieldsOf, integerBetween } from './decode.ts';

/** Points at which hooks run, in their order. */
export const hookKinds = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'] as const;
/** One of `hookKinds`. */
export type HookKind = (typeof hookKinds)[number];

/** One hook. */
export interface SpecHook {
  /** Absolute; on the host, for startContainer inside the container. */
  readonly path: string;
  /** With the program's own name first; empty: the path alone. */
  readonly args: readonly string[];
  readonly env: readonly string[];
  /** Seconds; absent: the default of `limits`. */
  readonly timeout?: number;
}

/** Lists that hold at least one hook, by kind. */
export type SpecHooks = Readonly<Partial<Record<HookKind, readonly SpecHook[]>>>;

/** One entry of a list of hooks. */
export const decodeHook: Decoder<SpecHook> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    path: fields.required('path', decodeAbsolutePath),
    args: fields.withDefault('args', arrayOf(decodeString, limits.hookArgumentsMax), []),
    env: fields.withDefault('env', arrayOf(decodeEnvEntry, limits.hookArgumentsMax), []),
    timeout: fields.optional('timeout', integerBetween(1, limits.hookTimeoutSecondsMax)),
  });
};

/** The `hooks` object. Kinds without a hook are left out. */
export const decodeHooks: Decoder<SpecHooks> = (value, path) => {
  const fields = fieldsOf(value, path);
  const lists = hookKinds.map((kind) => [kind, fields.withDefault(kind, arrayOf(decodeHook, limits.hooksMax), [])] as const);
  const count = lists.reduce((sum, [, list]) => sum + list.length, 0);
  if (count > limits.hooksMax) throw invalidArgument(path, `${count} hooks, at most ${limits.hooksMax}`);
  return Object.fromEntries(lists.filter(([, list]) => list.length > 0));
};
