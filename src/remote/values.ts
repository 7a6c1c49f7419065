/**
 * Values and errors of engine calls as JSON text. In: what Engine methods take and give (plain objects, arrays, strings, numbers,
 * booleans, null, undefined, bigint, bytes). Out: JSON in which bigint, bytes and undefined are tagged objects, and back, without
 * loss. No I/O here.
 */
import { RuntimeError, errorCode, errorMessage, errnoName, invalidArgument } from '#core';
import type { ErrorCode } from '#core';

/** The key that marks an object as a tagged value rather than a plain one. */
const tagKey = '$berth';
/** Deep enough for every Engine type; a bound against recursion without end. */
const valueDepthMax = 64;

/** `value` as JSON text. Throws internal for what has no form here, such as a function or a class instance: a bug of the caller. */
export function encodeValue(value: unknown): string {
  return JSON.stringify(tagValue(value, 0));
}

/** The value in `text`. Throws invalidArgument for anything that encodeValue does not write. */
export function decodeValue(text: string): unknown {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalidArgument('', `decode engine value: ${errorMessage(error)}`);
  }
  return untagValue(json, 0);
}

function tagValue(value: unknown, depth: number): unknown {
  if (depth > valueDepthMax) throw new RuntimeError('internal', `encode engine value: nested deeper than ${valueDepthMax}`);
  if (value === undefined) return { [tagKey]: 'undefined' };
  if (typeof value === 'bigint') return { [tagKey]: 'bigint', value: value.toString() };
  if (typeof value === 'number' && !Number.isFinite(value)) return { [tagKey]: 'number', value: String(value) };
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value;
  if (value instanceof Uint8Array) return { [tagKey]: 'bytes', value: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') };
  if (Array.isArray(value)) return value.map((item) => tagValue(item, depth + 1));
  if (!isPlainObject(value)) throw new RuntimeError('internal', `encode engine value: what is of type ${typeof value} cannot cross the engine socket`);
  // An absent and an undefined property mean the same in every Engine type.
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  const tagged = entries.map(([key, item]): [string, unknown] => [key, tagValue(item, depth + 1)]);
  if (Object.hasOwn(value, tagKey)) return { [tagKey]: 'object', value: tagged };
  return Object.fromEntries(tagged);
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function untagValue(json: unknown, depth: number): unknown {
  if (depth > valueDepthMax) throw invalidArgument('', `decode engine value: nested deeper than ${valueDepthMax}`);
  if (Array.isArray(json)) return json.map((item) => untagValue(item, depth + 1));
  if (typeof json !== 'object' || json === null) return json;
  if (!Object.hasOwn(json, tagKey)) {
    // fromEntries defines own properties, so that a key such as `__proto__` stays a key and reaches no prototype.
    return Object.fromEntries(Object.entries(json).map(([key, item]) => [key, untagValue(item, depth + 1)]));
  }
  const tagged = new Map<string, unknown>(Object.entries(json));
  return untagTagged(tagged.get(tagKey), tagged.get('value'), depth);
}

function untagTagged(tag: unknown, value: unknown, depth: number): unknown {
  if (tag === 'undefined') return undefined;
  if (tag === 'bigint' && typeof value === 'string' && /^-?[0-9]{1,40}$/.test(value)) return BigInt(value);
  if (tag === 'number' && typeof value === 'string') return Number(value);
  if (tag === 'bytes' && typeof value === 'string') return new Uint8Array(Buffer.from(value, 'base64'));
  if (tag === 'object' && Array.isArray(value)) return Object.fromEntries(value.map((entry) => untagEntry(entry, depth)));
  throw invalidArgument('', `decode engine value: bad tag ${JSON.stringify(tag)?.slice(0, 40)}`);
}

function untagEntry(entry: unknown, depth: number): [string, unknown] {
  if (!Array.isArray(entry) || typeof entry[0] !== 'string') throw invalidArgument('', 'decode engine value: bad entry');
  return [entry[0], untagValue(entry[1], depth + 1)];
}

const errorCodes: Readonly<Record<ErrorCode, true>> = {
  cancelled: true,
  unknown: true,
  invalidArgument: true,
  deadlineExceeded: true,
  notFound: true,
  alreadyExists: true,
  permissionDenied: true,
  resourceExhausted: true,
  failedPrecondition: true,
  aborted: true,
  outOfRange: true,
  unimplemented: true,
  internal: true,
  unavailable: true,
  dataLoss: true,
  unauthenticated: true,
};

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(errorCodes, code);
}

/** Any thrown value as JSON: code, message, errno, and the messages of failed clean-up. Causes stay with the owner. */
export function encodeError(error: unknown): string {
  const cleanupFailures = error instanceof RuntimeError ? error.cleanupFailures : [];
  return JSON.stringify({
    code: errorCode(error),
    message: errorMessage(error),
    errno: errnoName(error),
    cleanup: cleanupFailures.map((failure) => ({ code: errorCode(failure), message: errorMessage(failure), errno: errnoName(failure) })),
  });
}

/** The error in `text` as a RuntimeError; a text that is none is itself an internal error. */
export function decodeError(text: string): RuntimeError {
  const decoded = decodeValue(text);
  if (!isPlainObject(decoded)) return new RuntimeError('internal', 'decode engine error: not an object');
  const cleanup = Array.isArray(decoded['cleanup']) ? decoded['cleanup'].filter(isPlainObject) : [];
  return errorOf(
    decoded,
    cleanup.map((failure) => errorOf(failure, [])),
  );
}

function errorOf(fields: Record<string, unknown>, cleanupFailures: readonly RuntimeError[]): RuntimeError {
  const { code, message, errno } = fields;
  return new RuntimeError(isErrorCode(code) ? code : 'unknown', typeof message === 'string' ? message : 'no message', {
    ...(cleanupFailures.length === 0 ? {} : { cleanupFailures }),
    ...(typeof errno === 'string' ? { errno } : {}),
  });
}
