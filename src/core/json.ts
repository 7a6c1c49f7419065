/** JSON that keeps 64-bit integers and bytes. Pure. */

/** Marks a bigint: `{"$int":"123"}`; bytes: `{"$bytes":"base64"}`. */
function encodeValue(this: unknown, _key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return { $int: value.toString() };
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString('base64') };
  // Buffer has a toJSON of its own, which runs before this function; its result is turned back.
  if (typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer' && 'data' in value && Array.isArray(value.data))
    return { $bytes: Buffer.from(value.data).toString('base64') };
  return value;
}

function decodeValue(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const keys = Object.keys(value);
  if (keys.length === 1) {
    if ('$int' in value && typeof value.$int === 'string' && /^-?\d{1,40}$/.test(value.$int)) return BigInt(value.$int);
    if ('$bytes' in value && typeof value.$bytes === 'string') return Buffer.from(value.$bytes, 'base64');
  }
  // A key such as `__proto__` must stay data.
  return Object.hasOwn(value, '__proto__') ? Object.assign(Object.create(null), Object.fromEntries(Object.entries(value).filter(([key]) => key !== '__proto__'))) : value;
}

/** The value as one line of JSON; bigint and Uint8Array survive a round trip. */
export function encodeJson(value: unknown): string {
  return JSON.stringify(value, encodeValue);
}

/** What `encodeJson` wrote. Throws SyntaxError on text that is not JSON. */
export function decodeJson(text: string): unknown {
  return JSON.parse(text, decodeValue);
}
