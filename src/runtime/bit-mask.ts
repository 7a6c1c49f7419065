/** Sets of small numbers as the kernel reads them. In: numbers. Out: bytes, bit 0 of the first one for number 0. Pure. */

/** The set; empty for no number. */
export function bitMask(numbers: readonly number[]): Uint8Array {
  const mask = new Uint8Array(numbers.length === 0 ? 0 : (Math.max(...numbers) >> 3) + 1);
  for (const number of numbers) mask[number >> 3] = (mask[number >> 3] ?? 0) | (1 << (number & 7));
  return mask;
}
