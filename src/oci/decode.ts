/**
 * Decoding of unknown JSON with the place in the document in every message.
 * In: JSON text or an unknown value. Out: typed values, or invalidArgument `path: cause`. No I/O.
 *
 * A decoder is a function of the value and its path; decoders compose by `arrayOf`, `mapOf` and `fieldsOf`. JSON `null` counts as
 * absent wherever a field is optional, because Go programs write nil slices and maps so. Objects are only read through own
 * properties, and maps are given out without a prototype, so that `__proto__` and `constructor` are ordinary keys.
 */
import { RuntimeError, invalidArgument } from '#core';

/** Turns an unknown value into a T. `path` names the value's place in the document, such as `linux.namespaces[2].type`. */
export type Decoder<T> = (value: unknown, path: string) => T;

/** Keys whose value may be undefined become optional, as `exactOptionalPropertyTypes` wants it. */
export type Compact<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };

/** A copy without the keys whose value is undefined. */
export function compact<T extends object>(object: T): Compact<T> {
  // SAFETY: exactly the keys that Compact makes optional may be missing from the copy.
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Compact<T>;
}

/** Path of a property: `a.b`, or `a["k/x"]` where the key is no plain name. */
export function pathOf(path: string, key: string): string {
  const plain = /^[A-Za-z_$][\w$-]*$/.test(key);
  if (plain) return path === '' ? key : `${path}.${key}`;
  return `${path}[${JSON.stringify(key.slice(0, 120))}]`;
}

/** What a value is, for messages: `null`, `array`, `object`, `string`, … */
export function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : value === undefined ? 'nothing' : typeof value;
}

function mismatch(path: string, wanted: string, value: unknown): RuntimeError {
  return invalidArgument(path, value === undefined ? 'required' : `must be ${wanted}, not ${kindOf(value)}`);
}

/**
 * JSON text as a value. Objects have no prototype; integers beyond 2^53 become bigint from their own digits.
 * Throws invalidArgument `what: cause` on malformed text. The caller bounds the size.
 */
export function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text, function revive(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
      if (typeof value === 'number' && !Number.isSafeInteger(value) && context?.source !== undefined && /^-?\d+$/.test(context.source)) return BigInt(context.source);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) return Object.assign(Object.create(null), value);
      return value;
    });
  } catch (cause) {
    // The parser quotes the document, which may be a stranger's: what could steer a terminal is taken out.
    throw new RuntimeError('invalidArgument', `${what}: not JSON: ${cause instanceof Error ? cause.message.slice(0, 200).replaceAll(/[^\x20-\x7e]+/g, '?') : 'unreadable'}`, {
      cause,
    });
  }
}

/** A string without NUL, which no kernel call could carry. */
export const decodeString: Decoder<string> = (value, path) => {
  if (typeof value !== 'string') throw mismatch(path, 'a string', value);
  if (value.includes('\0')) throw invalidArgument(path, 'contains a NUL byte');
  return value;
};

/** A string of at least one character. */
export const decodeNonEmptyString: Decoder<string> = (value, path) => {
  const text = decodeString(value, path);
  if (text === '') throw invalidArgument(path, 'must not be empty');
  return text;
};

/** A variable of an environment: `NAME=value`. */
export const decodeEnvEntry: Decoder<string> = (value, path) => {
  const text = decodeString(value, path);
  if (text.indexOf('=') < 1) throw invalidArgument(path, 'must have the form NAME=value');
  return text;
};

/** `true` or `false`. */
export const decodeBoolean: Decoder<boolean> = (value, path) => {
  if (typeof value !== 'boolean') throw mismatch(path, 'true or false', value);
  return value;
};

/** Any integer that a JavaScript number holds exactly, within the bounds. */
export function integerBetween(min: number, max: number): Decoder<number> {
  return (value, path) => {
    if (typeof value !== 'number' && typeof value !== 'bigint') throw mismatch(path, 'a number', value);
    if (typeof value === 'number' && !Number.isInteger(value)) throw invalidArgument(path, `must be an integer, not ${value}`);
    if (value < min || value > max) throw invalidArgument(path, `${value} is outside ${min} to ${max}`);
    return Number(value);
  };
}

/** An id, mode or count of 32 bits: 0 to 4294967295. */
export const decodeUint32: Decoder<number> = integerBetween(0, 0xffff_ffff);
/** A signed 32-bit number. */
export const decodeInt32: Decoder<number> = integerBetween(-0x8000_0000, 0x7fff_ffff);
/** Any integer that a JavaScript number holds exactly. */
export const decodeSafeInteger: Decoder<number> = integerBetween(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);

function bigintBetween(min: bigint, max: bigint): Decoder<bigint> {
  return (value, path) => {
    if (typeof value !== 'number' && typeof value !== 'bigint') throw mismatch(path, 'a number', value);
    if (typeof value === 'number' && !Number.isInteger(value)) throw invalidArgument(path, `must be an integer, not ${value}`);
    const integer = BigInt(value);
    // A number beyond 2^53 has lost its last digits already; 2^64 is how a rounded 2^64-1 arrives from JSON.parse.
    const clamped = typeof value === 'number' && integer === max + 1n ? max : integer;
    if (clamped < min || clamped > max) throw invalidArgument(path, `${integer} is outside ${min} to ${max}`);
    return clamped;
  };
}

/** A signed 64-bit number as bigint; parse the text with `parseJson` so that no digit is lost. */
export const decodeInt64: Decoder<bigint> = bigintBetween(-(1n << 63n), (1n << 63n) - 1n);
/** An unsigned 64-bit number as bigint. */
export const decodeUint64: Decoder<bigint> = bigintBetween(0n, (1n << 64n) - 1n);

/** One of the given words; the message lists them: `unknown namespace "foo" (pid, network, …)`. */
export function oneOf<const T extends string>(noun: string, words: readonly T[]): Decoder<T> {
  return (value, path) => {
    const text = decodeString(value, path);
    const found = words.find((word) => word === text);
    if (found === undefined) throw invalidArgument(path, `unknown ${noun} ${JSON.stringify(text.slice(0, 80))} (${words.join(', ')})`);
    return found;
  };
}

/** An absolute path without `..`; `.` and doubled slashes are taken out. */
export const decodeAbsolutePath: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (!text.startsWith('/')) throw invalidArgument(path, `must be an absolute path, not ${JSON.stringify(text.slice(0, 200))}`);
  const parts = text.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw invalidArgument(path, `must not contain "..", found ${JSON.stringify(text.slice(0, 200))}`);
  return `/${parts.join('/')}`;
};

/** An array with a bound on its length. */
export function arrayOf<T>(decoder: Decoder<T>, itemsMax = 100_000): Decoder<readonly T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw mismatch(path, 'an array', value);
    if (value.length > itemsMax) throw invalidArgument(path, `${value.length} items, at most ${itemsMax}`);
    return value.map((item: unknown, index) => decoder(item, `${path}[${index}]`));
  };
}

/** The object itself, after checking that it is one and no array. */
export function decodeObject(value: unknown, path: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw mismatch(path, 'an object', value);
  // SAFETY: a non-null object that is no array; its own properties are read as unknown.
  return value as Readonly<Record<string, unknown>>;
}

/** A map of names to values, given out without a prototype. */
export function mapOf<T>(decoder: Decoder<T>): Decoder<Readonly<Record<string, T>>> {
  return (value, path) => {
    // SAFETY: a fresh object without prototype; only decoded values are put in.
    const result = Object.create(null) as Record<string, T>;
    for (const [key, item] of Object.entries(decodeObject(value, path))) result[key] = decoder(item, pathOf(path, key));
    return result;
  };
}

/** Reads the fields of one object; made by `fieldsOf`. */
export interface Fields {
  /** Path of the object. */
  readonly path: string;
  /** Names of the own properties. */
  readonly names: readonly string[];
  /** The field, or invalidArgument `path.key: required` when absent or null. */
  required<T>(key: string, decoder: Decoder<T>): T;
  /** The field, or undefined when absent or null. */
  optional<T>(key: string, decoder: Decoder<T>): T | undefined;
  /** The field, or `fallback` when absent or null. */
  withDefault<T>(key: string, decoder: Decoder<T>, fallback: T): T;
}

/** The fields of the value, which must be an object. Only own properties are seen. */
export function fieldsOf(value: unknown, path: string): Fields {
  const object = decodeObject(value, path);
  const own = (key: string): unknown => (Object.hasOwn(object, key) ? (object[key] ?? undefined) : undefined);
  const optional = <T>(key: string, decoder: Decoder<T>): T | undefined => {
    const field = own(key);
    return field === undefined ? undefined : decoder(field, pathOf(path, key));
  };
  return {
    path,
    names: Object.keys(object),
    optional,
    required: (key, decoder) => decoder(own(key), pathOf(path, key)),
    withDefault: (key, decoder, fallback) => optional(key, decoder) ?? fallback,
  };
}

/** Refuses properties that are not listed: for documents whose every field must be understood. */
export function refuseUnknownFields(fields: Fields, known: readonly string[]): void {
  const unknown = fields.names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw invalidArgument(pathOf(fields.path, unknown), 'unknown field');
}
