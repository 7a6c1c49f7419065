/**
 * Kinds of values that a setting can have: how they are read from TOML and from a variable's text, and how they are written again.
 * In: one value. Out: the decoded one, or an error that says what it must be. Pure.
 */
import { isIP } from 'node:net';
import { invalidArgument } from '#core';
import type { LogFormat, LogLevel, NetworkMode } from './settings.ts';

/** One kind of value. Errors are invalidArgument with an empty path: who calls knows the key. */
export interface Kind<T> {
  /** What a value is, for the documented file: `an absolute path`. */
  readonly words: string;
  /** From a value of a TOML document. */
  decode(value: unknown): T;
  /** From the text of a variable or a flag. */
  parse(text: string): T;
  /** As TOML. */
  format(value: T): string;
}

/** Longest text that a setting can have, and the number of entries of a list. */
const textLengthMax = 4096;
const entriesMax = 64;

/** A value of a stranger's file, short enough for one line. */
function show(value: unknown): string {
  const text = typeof value === 'bigint' ? `${value}` : (JSON.stringify(value) ?? String(value));
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

function refuse(words: string, value: unknown): never {
  throw invalidArgument('', `must be ${words}, not ${show(value)}`);
}

function decodeText(words: string, value: unknown): string {
  if (typeof value !== 'string' || value.length > textLengthMax) refuse(words, value);
  return value;
}

/** A kind whose values are texts in TOML too. */
function textKind<T>(words: string, parse: (text: string) => T | undefined, format: (value: T) => string): Kind<T> {
  const read = (text: string): T => parse(text) ?? refuse(words, text);
  return { words, decode: (value) => read(decodeText(words, value)), parse: (text) => read(decodeText(words, text)), format: (value) => JSON.stringify(format(value)) };
}

/** Without NUL, line ends and other control characters. */
const isPlain = (text: string): boolean => !/\p{Cc}/u.test(text);
const parsePath = (text: string): string | undefined => (text.startsWith('/') && isPlain(text) ? text.replace(/(?<=.)\/+$/, '') : undefined);

/** An absolute path. */
export const path: Kind<string> = textKind('an absolute path', parsePath, (value) => value);

/** Absolute paths; in a variable with `:` between them. */
export const paths: Kind<readonly string[]> = {
  words: 'a list of absolute paths',
  decode: (value) => {
    if (!Array.isArray(value) || value.length > entriesMax) refuse('a list of absolute paths', value);
    return value.map((entry) => (typeof entry === 'string' && entry.length <= textLengthMax ? parsePath(entry) : undefined) ?? refuse('a list of absolute paths', entry));
  },
  parse: (text) =>
    decodeText('absolute paths with ":" between them', text)
      .split(':')
      .map((entry) => parsePath(entry) ?? refuse('absolute paths with ":" between them', entry)),
  format: (value) => `[${value.map((entry) => JSON.stringify(entry)).join(', ')}]`,
};

/** `true` or `false`; in a variable `1` or `0`. */
export const toggle: Kind<boolean> = {
  words: 'true or false',
  decode: (value) => (typeof value === 'boolean' ? value : refuse('true or false', value)),
  parse: (text) => (text === '1' || text === 'true' ? true : text === '0' || text === 'false' ? false : refuse('0 or 1', text)),
  format: String,
};

/** One of some words. */
function word<const T extends string>(choices: readonly T[]): Kind<T> {
  return textKind(
    `one of ${choices.join(', ')}`,
    (text) => choices.find((choice) => choice === text),
    (value) => value,
  );
}

/** How much the daemon logs. */
export const logLevel: Kind<LogLevel> = word(['error', 'warn', 'info', 'debug']);
/** Form of the daemon's log. */
export const logFormat: Kind<LogFormat> = word(['json', 'text']);
/** Who gives pods their network. */
export const networkMode: Kind<NetworkMode> = word(['bridge', 'cni', 'none']);
/** What becomes of the volumes that images declare. */
export const imageVolumes: Kind<'anonymous' | 'tmpfs' | 'ignore'> = word(['anonymous', 'tmpfs', 'ignore']);

/** A whole number between two bounds, both of them allowed. */
export function integer({ min, max }: { readonly min: number; readonly max: number }): Kind<number> {
  const words = `a whole number from ${min} to ${max}`;
  const check = (value: number): number | undefined => (Number.isSafeInteger(value) && value >= min && value <= max ? value : undefined);
  return {
    words,
    decode: (value) => (typeof value === 'number' ? check(value) : undefined) ?? refuse(words, value),
    parse: (text) => (/^\d{1,15}$/.test(text) ? check(Number(text)) : undefined) ?? refuse(words, text),
    format: String,
  };
}

const unitsMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

/** `1h30m`, `90s`, `500ms` in milliseconds; undefined for anything else. */
function parseDuration(text: string): number | undefined {
  const match = /^(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,8})s)?(?:(\d{1,10})ms)?$/.exec(text);
  if (match === null || text === '') return undefined;
  const [, hours = '0', minutes = '0', seconds = '0', milliseconds = '0'] = match;
  return Number(hours) * unitsMs.h + Number(minutes) * unitsMs.m + Number(seconds) * unitsMs.s + Number(milliseconds);
}

function formatDuration(durationMs: number): string {
  let rest = durationMs;
  const parts: string[] = [];
  for (const unit of ['h', 'm', 's', 'ms'] as const) {
    const count = Math.floor(rest / unitsMs[unit]);
    rest -= count * unitsMs[unit];
    if (count > 0) parts.push(`${count}${unit}`);
  }
  return parts.length === 0 ? '0s' : parts.join('');
}

/** A time between two bounds in milliseconds, written with units. */
export function duration({ minMs, maxMs }: { readonly minMs: number; readonly maxMs: number }): Kind<number> {
  return textKind(
    `a time such as "30s" or "4h", from ${formatDuration(minMs)} to ${formatDuration(maxMs)}`,
    (text) => {
      const value = parseDuration(text);
      return value !== undefined && value >= minMs && value <= maxMs ? value : undefined;
    },
    formatDuration,
  );
}

/** An IP address that a server can listen on. */
export const ipAddress: Kind<string> = textKind(
  'an IP address',
  (text) => (isIP(text) !== 0 && !text.includes('%') ? text : undefined),
  (value) => value,
);

/** An IPv4 network that the built-in bridge can divide, without bits behind its prefix. */
export const ipv4Network: Kind<string> = textKind(
  'an IPv4 network with a prefix of 12 to 30 bits, such as "10.88.0.0/16"',
  (text) => {
    const [address = '', prefix = '', ...rest] = text.split('/');
    if (rest.length > 0 || isIP(address) !== 4 || !/^(1[2-9]|2\d|30)$/.test(prefix)) return undefined;
    const bits = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
    return bits % 2 ** (32 - Number(prefix)) === 0 ? text : undefined;
  },
  (value) => value,
);
