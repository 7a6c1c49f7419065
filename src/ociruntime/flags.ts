/**
 * Flags as the callers of runc write them. In: words of a command line and the flags that may be there. Out: values, or an error in the words that such callers know.
 * Pure. The rules are those of Go's flag package (pkg.go.dev/flag, "Command line flag syntax"): one dash or two, `-name=value` or `-name value`, and for switches
 * `-name` or `-name=false`; the first word that is no flag ends them, unless the command looks for flags behind it too.
 */
import { RuntimeError } from '#core';
import { decodeDuration, decodeInteger } from './numbers.ts';

/** What a flag's value is. `texts` and `numbers` may be given several times. */
export type FlagKind = 'switch' | 'text' | 'number' | 'duration' | 'texts' | 'numbers';

/** One flag. */
export interface Flag {
  /** The first is the one that the code asks for; the others are shorter forms. */
  readonly names: readonly [string, ...string[]];
  readonly kind: FlagKind;
  /** One line for the help. */
  readonly help: string;
  /** For the help only. */
  readonly standard?: string;
  /** Accepted and not shown. */
  readonly hidden?: true;
}

/** Values by the flags' first names. Durations are in milliseconds. */
export interface FlagValues {
  /** True where the caller gave the flag. */
  has(name: string): boolean;
  isOn(name: string): boolean;
  /** Empty where absent. */
  text(name: string): string;
  number(name: string): number | undefined;
  texts(name: string): readonly string[];
  numbers(name: string): readonly number[];
}

/** The result of `decodeFlags`. */
export interface DecodedFlags {
  readonly values: FlagValues;
  /** Words that are no flags. */
  readonly rest: readonly string[];
}

/** A command line that cannot be read. Its message is complete; the help of the command comes with it. */
export function usageError(message: string): RuntimeError {
  return new RuntimeError('invalidArgument', message);
}

const switchWords: ReadonlyMap<string, boolean> = new Map([
  ...['1', 't', 'T', 'TRUE', 'true', 'True'].map((word) => [word, true] as const),
  ...['0', 'f', 'F', 'FALSE', 'false', 'False'].map((word) => [word, false] as const),
]);

type Value = boolean | string | number;

function decodeValue(kind: FlagKind, name: string, text: string): Value {
  const refuse = (cause: string): RuntimeError => usageError(`invalid value ${JSON.stringify(text)} for flag -${name}: ${cause}`);
  switch (kind) {
    case 'switch': {
      const on = switchWords.get(text);
      if (on === undefined) throw usageError(`invalid boolean value ${JSON.stringify(text)} for -${name}: parse error`);
      return on;
    }
    case 'text':
    case 'texts':
      return text;
    case 'number':
    case 'numbers': {
      const value = decodeInteger(text, kind === 'number' ? 'prefixed' : 'decimal');
      if (value === undefined) throw refuse(kind === 'number' ? 'parse error' : `strconv.ParseInt: parsing ${JSON.stringify(text)}: invalid syntax`);
      if (!Number.isSafeInteger(Number(value))) throw refuse('value out of range');
      return Number(value);
    }
    case 'duration': {
      const value = decodeDuration(text);
      if (value === undefined) throw refuse('parse error');
      return value;
    }
  }
}

/** Flags behind other words brought to the front, each with its value. `--` ends them. */
function reorder(flags: readonly Flag[], words: readonly string[]): readonly string[] {
  const byName = new Map(flags.flatMap((flag) => flag.names.map((name) => [name, flag] as const)));
  const flagOf = (word: string): Flag | undefined => (word.length > 1 && word.startsWith('-') ? byName.get(word.replace(/^--?/, '').split('=', 1)[0] ?? '') : undefined);
  const front: string[] = [];
  const back: string[] = [];
  let takesValue = false;
  for (const [index, word] of words.entries()) {
    const flag = flagOf(word);
    if (takesValue && flag === undefined) {
      takesValue = false;
      front.push(word);
    } else if (word === '--') return [...front, '--', ...back, ...words.slice(index + 1)];
    else if (flag !== undefined) {
      front.push(word);
      takesValue = flag.kind !== 'switch' && !word.includes('=');
    } else back.push(word);
  }
  return [...front, ...back];
}

function collect(found: readonly { readonly flag: Flag; readonly value: Value }[]): FlagValues {
  const of = (name: string): readonly Value[] => found.flatMap(({ flag, value }) => (flag.names[0] === name ? [value] : []));
  const numbers = (name: string): readonly number[] => of(name).filter((value) => typeof value === 'number');
  const texts = (name: string): readonly string[] => of(name).filter((value) => typeof value === 'string');
  return {
    has: (name) => of(name).length > 0,
    isOn: (name) => of(name).at(-1) === true,
    text: (name) => texts(name).at(-1) ?? '',
    number: (name) => numbers(name).at(-1),
    texts,
    numbers,
  };
}

/** Reads the flags in front of the words, or with `anywhere` those behind words too, as runc does for most commands. Throws a `usageError`. */
export function decodeFlags(flags: readonly Flag[], input: readonly string[], options: { readonly anywhere: boolean }): DecodedFlags {
  const words = options.anywhere ? reorder(flags, input) : input;
  const found: { flag: Flag; value: Value; as: string }[] = [];
  let at = 0;
  for (;;) {
    const word = words[at];
    if (word === undefined || word.length < 2 || !word.startsWith('-')) break;
    at++;
    if (word === '--') break;
    const body = word.replace(/^--?/, '');
    if (body === '' || /^[-=]/.test(body)) throw usageError(`bad flag syntax: ${word}`);
    const cut = body.indexOf('=');
    const name = cut < 0 ? body : body.slice(0, cut);
    const flag = flags.find(({ names }) => names.includes(name));
    if (flag === undefined) throw usageError(`flag provided but not defined: -${name}`);
    let text = cut < 0 ? undefined : body.slice(cut + 1);
    if (text === undefined && flag.kind === 'switch') text = 'true';
    if (text === undefined) {
      text = words[at++];
      if (text === undefined) throw usageError(`flag needs an argument: -${name}`);
    }
    const other = found.find((one) => one.flag === flag && one.as !== name);
    if (other !== undefined) throw usageError(`Cannot use two forms of the same flag: ${name} ${other.as}`);
    found.push({ flag, value: decodeValue(flag.kind, name, text), as: name });
  }
  return { values: collect(found), rest: words.slice(at) };
}
