/**
 * Compares two filters made of one profile. In: a profile and two programs. Out: the calls on which they differ.
 * Every number of every convention is tried, known or not, with arguments beside each value that the profile compares with.
 */
import type { SpecSeccomp } from '#oci';
import { i386Multiplexed, syscallNumbers } from '../../src/runtime/syscalls.ts';
import type { Call, Filter } from './interpreter.ts';

const tokens = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 8];
const x32Bit = 0x4000_0000;
const numberMax = 640;
const wrap = (value: bigint): bigint => BigInt.asUintN(64, value);

/** Numbers worth a try: all small ones with every pattern of the two highest bits, and what lies beside each constant. */
function numbersOf(filters: readonly Filter[]): readonly number[] {
  const small = Array.from({ length: numberMax }, (_, index) => index);
  const patterns = [0, x32Bit, 2 * x32Bit, 3 * x32Bit].flatMap((bits) => small.map((number) => bits + number));
  const edges = filters.flatMap(({ constants }) => [...constants].flatMap((value) => [value - 1, value, value + 1]));
  return [...new Set([...patterns, ...edges, 0xffff_ffff, 0xffff_fffe].filter((number) => number >= 0 && number <= 0xffff_ffff))];
}

/** Values for one argument: each value of the profile, its neighbours in both halves, and with single bits turned. */
function candidatesOf(profile: SpecSeccomp): readonly (readonly bigint[])[] {
  const args = profile.syscalls.flatMap((rule) => rule.args);
  return [0, 1, 2, 3, 4, 5].map((index) => {
    const own = args.filter((arg) => arg.index === index).flatMap(({ value, valueTwo }) => [value, valueTwo]);
    const near = own.flatMap((value) => [value - 1n, value, value + 1n, value + (1n << 32n), value - (1n << 32n), value & 0xffff_ffffn, value ^ 1n, value ^ (1n << 40n)].map(wrap));
    return [...new Set([0n, 1n, ...near])];
  });
}

/** A call that two programs answer differently. */
export interface Difference {
  readonly call: Call;
  readonly answers: readonly [one: number, other: number];
}

/** Numbers of calls whose arguments some rule looks at. */
function comparedNumbers(profile: SpecSeccomp): ReadonlySet<number> {
  const names = profile.syscalls.flatMap((rule) => (rule.args.length > 0 ? rule.names : []));
  const own = names.flatMap((name) => Object.values(syscallNumbers).flatMap((numbers) => numbers.get(name) ?? []));
  return new Set([...own, ...names.flatMap((name) => i386Multiplexed.get(name)?.number ?? [])]);
}

/** The calls on which the programs answer differently, all that were found. Equal profiles are tried with equal arguments, whatever the programs are. */
export function differences(profile: SpecSeccomp, one: Filter, other: Filter): { readonly tried: number; readonly different: readonly Difference[] } {
  const candidates = candidatesOf(profile);
  const compared = comparedNumbers(profile);
  const different: Difference[] = [];
  let tried = 0;
  const compare = (call: Call): void => {
    tried += 1;
    const answers = [one.run(call), other.run(call)] as const;
    if (answers[0] !== answers[1]) different.push({ call, answers });
  };
  for (const token of tokens) {
    for (const number of numbersOf([one, other])) {
      let state = (Math.imul(number, 0x9e3779b1) ^ token) >>> 0;
      const pick = (from: readonly bigint[]): bigint => {
        state = (Math.imul(state, 1103515245) + 12345) >>> 0;
        return from[(state >>> 8) % from.length] ?? 0n;
      };
      compare({ token, number, args: [] });
      // Arguments do not matter to most calls, and whether they do shows at once to whoever tries a few.
      const rounds = compared.has(number) ? 300 : number % x32Bit < numberMax ? 12 : 2;
      for (let round = 0; round < rounds; round += 1) compare({ token, number, args: candidates.map(pick) });
    }
  }
  return { tried, different };
}
