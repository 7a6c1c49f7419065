/** Numbers as people write them on a command line. In: words. Out: numbers, or undefined where the word is none. Pure. */

/**
 * A whole number with an optional sign; `prefixed` also takes 0x, 0o, 0b and a leading 0 for octal, as Go's strconv.ParseInt does with base 0. The caller checks the
 * range.
 */
export function decodeInteger(text: string, form: 'decimal' | 'prefixed'): bigint | undefined {
  const match = /^([-+]?)(.+)$/.exec(text);
  if (match?.[2] === undefined || text.length > 100) return undefined;
  const sign = match[1] === '-' ? -1n : 1n;
  const digits = match[2];
  if (form === 'prefixed') {
    if (/^0[xX][0-9a-fA-F]+$|^0[oO][0-7]+$|^0[bB][01]+$/.test(digits)) return sign * BigInt(digits.toLowerCase());
    if (/^0[0-7]+$/.test(digits)) return sign * BigInt(`0o${digits.slice(1)}`);
    if (/^0[0-9]/.test(digits)) return undefined;
  }
  return /^[0-9]+$/.test(digits) ? sign * BigInt(digits) : undefined;
}

const unitsMs: ReadonlyMap<string, number> = new Map([
  ['ns', 1e-6],
  ['us', 1e-3],
  ['µs', 1e-3],
  ['μs', 1e-3],
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
]);

/** `1m30s`, `250ms`, `1.5h` or `0` in milliseconds. The form is that of Go's time.ParseDuration. */
export function decodeDuration(text: string): number | undefined {
  const match = /^([-+]?)((?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+|0)$/.exec(text);
  if (match?.[2] === undefined || text.length > 100) return undefined;
  const parts = match[2].matchAll(/([0-9.]+)(ns|us|µs|μs|ms|s|m|h)/g);
  const sum = [...parts].reduce((total, [, digits, unit]) => total + Number(digits) * (unitsMs.get(unit ?? '') ?? 0), 0);
  return match[1] === '-' ? -sum : sum;
}

const byteUnits = 'kmgtp';

/** `512m`, `1.5GiB`, `100` in bytes; units are powers of 1024 whether an `i` is written or not. */
export function decodeBytes(text: string): bigint | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp])(?:i?b)?|b)?$/i.exec(text);
  if (match?.[1] === undefined || text.length > 100) return undefined;
  const factor = match[2] === undefined ? 1n : 1024n ** BigInt(byteUnits.indexOf(match[2].toLowerCase()) + 1);
  const [whole = '0', fraction = ''] = match[1].split('.');
  const bytes = BigInt(whole) * factor + (fraction === '' ? 0n : (BigInt(fraction) * factor) / 10n ** BigInt(fraction.length));
  return bytes < 1n << 63n ? bytes : undefined;
}

/**
 * Signals by their names without SIG, as runc accepts them (one name per number; x86 and arm have the same). Real-time signals are given by number.
 * Source: signal(7).
 */
const signalNumbers: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ILL: 4,
  TRAP: 5,
  ABRT: 6,
  BUS: 7,
  FPE: 8,
  KILL: 9,
  USR1: 10,
  SEGV: 11,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  STKFLT: 16,
  CHLD: 17,
  CONT: 18,
  STOP: 19,
  TSTP: 20,
  TTIN: 21,
  TTOU: 22,
  URG: 23,
  XCPU: 24,
  XFSZ: 25,
  VTALRM: 26,
  PROF: 27,
  WINCH: 28,
  IO: 29,
  PWR: 30,
  SYS: 31,
};

/** `9`, `KILL`, `sigkill` as a number; numbers may be any that fit, since the kernel judges them. */
export function decodeSignal(text: string): number | undefined {
  const number = decodeInteger(text, 'decimal');
  if (number !== undefined) return number >= -(1n << 31n) && number < 1n << 31n ? Number(number) : undefined;
  const name = text.toUpperCase().replace(/^SIG/, '');
  return Object.hasOwn(signalNumbers, name) ? signalNumbers[name] : undefined;
}
