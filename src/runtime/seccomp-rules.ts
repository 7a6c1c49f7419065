/**
 * OCI seccomp profile → what each system call of one calling convention gets. In: a decoded profile, a convention. Out: numbers with their
 * decisions, and errors with the document's path. Pure; knows no instructions.
 * Source: what runc 1.5 and libseccomp make of a profile, which is what profiles are written and tested against. In their words and ours:
 *
 * - A rule with the default's answer says nothing. A name that nobody knows, or the convention lacks, is passed over.
 * - A rule without arguments decides its call: the first such rule, whatever rules with arguments stand before or behind it.
 * - Rules with arguments are tried one after another, the first that holds answers: those on later arguments first; then equalities, less-than,
 *   greater-than; then by value. One that continues another's comparisons is never reached and falls away, and so is one that has comparisons of
 *   earlier arguments before them; the same comparisons with another answer are an error.
 * - Bounds on 64 bits are comparisons of halves, and rules with bounds in the same upper half share its comparison. Two actions that meet there, one
 *   of a rule that ends with its bound and one of a rule that goes on, are an error too.
 * - All comparisons of a rule must hold, unless two are on the same argument: then each is a rule of its own.
 * - 32-bit conventions, x32 among them, compare the lower halves alone.
 * - i386 has two ways to sockets and System V IPC: a rule on one of those calls counts for both.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type SeccompAction, type SeccompArg, type SeccompRule, type SpecSeccomp } from '#oci';
import { type Abi, i386Multiplexed, syscallNumbers } from './syscalls.ts';

const eperm = 1;
const errnoAction = 0x0005_0000;
/** What a call newer than the profile gets. Source: linux/seccomp.h, SECCOMP_RET_ERRNO; errno-base.h. */
export const answerEnosys = errnoAction | 38;
/** What a call of a convention outside of the profile gets: SECCOMP_RET_KILL_THREAD. */
export const answerKill = 0;

/** One comparison: `(argument & mask) op value`. */
export interface Comparison {
  readonly index: number;
  readonly op: SeccompArg['op'];
  readonly mask: bigint;
  /** Within the mask. */
  readonly value: bigint;
}

/** Comparisons that all hold, and what the call then gets. */
export interface Alternative {
  readonly comparisons: readonly Comparison[];
  readonly answer: number;
}

/** What one system call gets: the first alternative that holds, else `otherwise`. */
export interface Decision {
  readonly alternatives: readonly Alternative[];
  readonly otherwise: number;
  /** All 64 bits of arguments count. */
  readonly wide: boolean;
}

/** A profile for one convention. */
export interface AbiDecisions {
  readonly byNumber: ReadonlyMap<number, Decision>;
  /** What calls get that no rule names. */
  readonly fallback: number;
  /** The highest number that the profile knows; those above answer ENOSYS. Absent: nothing is too new. */
  readonly newest?: number;
}

const wideAbis: readonly Abi[] = ['x86_64', 'arm64'];
/** Default actions under which new calls are no surprise: they are allowed, or somebody looks at them. */
const permissive: readonly SeccompAction[] = ['SCMP_ACT_ALLOW', 'SCMP_ACT_LOG', 'SCMP_ACT_TRACE'];

function checkErrno(errnoRet: number, errnoMax: number, path: string): number {
  if (errnoRet > errnoMax) throw invalidArgument(path, `must be at most ${errnoMax}, not ${errnoRet}`);
  return errnoRet;
}

/** The filter's return value for an action. `path` names its number. Source: linux/seccomp.h. */
export function answerOf(action: SeccompAction, errnoRet: number | undefined, path: string): number {
  switch (action) {
    case 'SCMP_ACT_KILL':
    case 'SCMP_ACT_KILL_THREAD':
      return answerKill;
    case 'SCMP_ACT_KILL_PROCESS':
      return 0x8000_0000;
    case 'SCMP_ACT_TRAP':
      return 0x0003_0000;
    case 'SCMP_ACT_ERRNO':
      return errnoAction | checkErrno(errnoRet ?? eperm, 4095, path);
    case 'SCMP_ACT_NOTIFY':
      return 0x7fc0_0000;
    case 'SCMP_ACT_TRACE':
      return 0x7ff0_0000 | checkErrno(errnoRet ?? eperm, 0xffff, path);
    case 'SCMP_ACT_LOG':
      return 0x7ffc_0000;
    case 'SCMP_ACT_ALLOW':
      return 0x7fff_0000;
  }
}

const low = (value: bigint): number => Number(value & 0xffff_ffffn);
const high = (value: bigint): number => Number(value >> 32n);
const allBits = 0xffff_ffff_ffff_ffffn;

/** What can be compared at all: a mask without a bit holds always. */
function comparisonsOf(args: readonly SeccompArg[], wide: boolean): readonly Comparison[] {
  return args
    .map(({ index, op, value, valueTwo }): Comparison => {
      const mask = op === 'SCMP_CMP_MASKED_EQ' ? value : allBits;
      return { index, op, mask, value: (op === 'SCMP_CMP_MASKED_EQ' ? valueTwo : value) & mask };
    })
    .filter(({ mask }) => (wide ? mask : BigInt(low(mask))) !== 0n)
    .toSorted((a, b) => a.index - b.index);
}

/** Half of a comparison: one word of `struct seccomp_data`, and how rules with it are ordered. */
interface Half {
  readonly word: number;
  readonly rank: number;
  readonly test: 'equal' | 'masked' | 'greater' | 'atLeast';
  readonly mask: number;
  readonly value: number;
  /** Smaller values come first. */
  readonly ascending: boolean;
  /** Where the rule goes on, or answers: where the test holds, or where it does not. */
  readonly branch: 'holds' | 'fails';
}

const testOf: Readonly<Record<Comparison['op'], Pick<Half, 'rank' | 'test' | 'ascending' | 'branch'>>> = {
  SCMP_CMP_EQ: { rank: 3, test: 'equal', ascending: false, branch: 'holds' },
  SCMP_CMP_NE: { rank: 3, test: 'equal', ascending: false, branch: 'fails' },
  SCMP_CMP_MASKED_EQ: { rank: 3, test: 'masked', ascending: false, branch: 'holds' },
  SCMP_CMP_LT: { rank: 2, test: 'atLeast', ascending: true, branch: 'fails' },
  SCMP_CMP_LE: { rank: 2, test: 'greater', ascending: true, branch: 'fails' },
  SCMP_CMP_GE: { rank: 1, test: 'atLeast', ascending: false, branch: 'holds' },
  SCMP_CMP_GT: { rank: 1, test: 'greater', ascending: false, branch: 'holds' },
};

function halvesOf({ index, op, mask, value }: Comparison, wide: boolean): readonly Half[] {
  const half = testOf[op];
  const lower: Half = { ...half, word: 2 * index, mask: low(mask), value: low(value) };
  if (!wide) return [lower];
  // Upper halves decide unless they are equal, so an order of any kind begins with "greater".
  const test = half.test === 'atLeast' ? 'greater' : half.test;
  return [{ ...half, test, branch: 'holds', word: 2 * index + 1, mask: high(mask), value: high(value) }, lower];
}

const isSame = (a: Half, b: Half): boolean => a.word === b.word && a.test === b.test && a.value === b.value && a.mask === b.mask;

/** Whether a rule that begins with `a` is tried after one that begins with `b`. */
function isBehind(a: Half, b: Half): boolean {
  if (a.word !== b.word) return a.word < b.word;
  if (a.rank !== b.rank) return a.rank < b.rank;
  return a.ascending ? a.value > b.value : a.value < b.value;
}

/** Rules that share their first halves, in the order in which they are tried. */
interface Node {
  readonly half: Half;
  readonly branches: Map<Half['branch'], Alternative | Node[]>;
}

const isLevel = (branch: Alternative | Node[]): branch is Node[] => Array.isArray(branch);

function alternativesOf(level: readonly Node[]): readonly Alternative[] {
  return level.flatMap(({ branches }) => [...branches.values()].flatMap((branch) => (isLevel(branch) ? alternativesOf(branch) : [branch])));
}

function nodeFor(level: Node[], half: Half): Node {
  const at = level.findIndex((node) => isSame(node.half, half) || isBehind(node.half, half));
  const found = level[at];
  if (found !== undefined && isSame(found.half, half)) return found;
  const node: Node = { half, branches: new Map() };
  level.splice(at === -1 ? level.length : at, 0, node);
  return node;
}

/** Adds a rule to those of a call; false where it contradicts one. */
function addAlternative(level: Node[], halves: readonly Half[], alternative: Alternative): boolean {
  const [half, ...rest] = halves;
  if (half === undefined) throw new RuntimeError('internal', 'bug: a rule without comparisons');
  const { branches } = nodeFor(level, half);
  const existing = branches.get(half.branch);
  if (rest.length > 0) {
    if (existing !== undefined) return !isLevel(existing) || addAlternative(existing, rest, alternative);
    const next: Node[] = [];
    branches.set(half.branch, next);
    return addAlternative(next, rest, alternative);
  }
  const others = existing === undefined ? [] : isLevel(existing) ? alternativesOf(existing) : [existing];
  if (others.some(({ answer }) => answer !== alternative.answer)) return false;
  branches.set(half.branch, alternative);
  return true;
}

/** The halves of a rule as a tree: what is looked at next, or the answer. Rules are merged into one tree to see whether they contradict each other, as libseccomp does it. */
interface Tree {
  readonly half: Half;
  holds?: number | Tree[];
  fails?: number | Tree[];
}

const ways = ['holds', 'fails'] as const;

function treeOf(comparisons: readonly Comparison[], answer: number): readonly Tree[] {
  let rest: number | Tree[] = answer;
  for (const comparison of comparisons.toReversed()) {
    const [upper, lower] = halvesOf(comparison, true);
    if (upper === undefined || lower === undefined) throw new RuntimeError('internal', 'bug: a comparison without halves');
    const low: Tree[] = [{ half: lower, [lower.branch]: rest }];
    const outside: Pick<Tree, 'fails'> = lower.branch === 'fails' ? { fails: rest } : {};
    if (upper.test === 'greater')
      rest = [{ half: upper, ...(lower.branch === 'holds' ? { holds: rest } : {}), fails: [{ half: { ...upper, test: 'equal' }, holds: low, ...outside }] }];
    else rest = [{ half: upper, holds: low, ...outside }];
  }
  return typeof rest === 'number' ? [] : rest;
}

const isLeaf = (tree: Tree): boolean => !ways.some((way) => typeof tree[way] === 'object');
const hasOther = (level: readonly Tree[], answer: number): boolean =>
  level.some((tree) => ways.some((way) => (typeof tree[way] === 'object' ? hasOther(tree[way], answer) : tree[way] !== undefined && tree[way] !== answer)));

function mergeNode(into: Tree, from: Tree): boolean {
  for (const way of ways) {
    const [own, added] = [into[way], from[way]];
    if (typeof added !== 'number') continue;
    if (typeof own === 'number') {
      if (own !== added && (isLeaf(into) || isLeaf(from))) return false;
      continue;
    }
    if (own !== undefined && hasOther(own, added)) return false;
    into[way] = added;
  }
  for (const way of ways) {
    const [own, added] = [into[way], from[way]];
    if (typeof added !== 'object') continue;
    // A shorter rule stands for all that continue it.
    if (typeof own === 'number') return true;
    if (own === undefined) into[way] = added;
    else if (!mergeTree(own, added)) return false;
  }
  return true;
}

/** Adds a rule's tree to that of a call; false where libseccomp refuses it. */
function mergeTree(level: Tree[], [node]: readonly Tree[]): boolean {
  if (node === undefined) return true;
  const at = level.findIndex(({ half }) => isSame(half, node.half) || isBehind(half, node.half));
  const found = level[at];
  if (found !== undefined && isSame(found.half, node.half)) return mergeNode(found, node);
  level.splice(at === -1 ? level.length : at, 0, node);
  return true;
}

/** The rules of one call so far: an answer without conditions, or those with. */
interface Collected {
  answer: number | undefined;
  rules: readonly Alternative[];
  /** In the order in which they are tried. */
  level: Node[];
  /** To find contradictions, where all 64 bits count. */
  tree: Tree[];
}

const emptyCollection = (): Collected => ({ answer: undefined, rules: [], level: [], tree: [] });

const isSameComparison = (a: Comparison, b: Comparison | undefined): boolean => a.index === b?.index && a.op === b.op && a.mask === b.mask && a.value === b.value;

/** Whether one rule is another without its comparisons of earlier arguments. */
function isWider(wider: Alternative, { comparisons }: Alternative): boolean {
  const more = comparisons.length - wider.comparisons.length;
  return more > 0 && wider.comparisons.every((comparison, index) => isSameComparison(comparison, comparisons[more + index]));
}

function insert(collected: Collected, rule: Alternative, wide: boolean): boolean {
  if (wide && !mergeTree(collected.tree, treeOf(rule.comparisons, rule.answer))) return false;
  collected.rules = [...collected.rules, rule];
  return addAlternative(
    collected.level,
    rule.comparisons.flatMap((comparison) => halvesOf(comparison, wide)),
    rule,
  );
}

function addRule(collected: Collected, args: readonly SeccompArg[], answer: number, wide: boolean): boolean {
  if (collected.answer !== undefined) return true;
  const rule: Alternative = { comparisons: comparisonsOf(args, wide), answer };
  if (rule.comparisons.length === 0) {
    collected.answer = answer;
    return true;
  }
  // The wider one has later arguments alone and so goes first: this one is never reached, and can contradict nothing.
  if (collected.rules.some((other) => isWider(other, rule))) return true;
  const kept = collected.rules.filter((other) => other.answer !== answer || !isWider(rule, other));
  if (kept.length === collected.rules.length) return insert(collected, rule, wide);
  Object.assign(collected, emptyCollection());
  return [...kept, rule].every((each) => insert(collected, each, wide));
}

/** Numbers that a name stands for, each with the comparisons that go before the rule's own. */
function placesOf(abi: Abi, name: string): readonly { readonly number: number; readonly selector?: bigint }[] {
  const number = syscallNumbers[abi].get(name);
  const multiplexed = abi === 'i386' ? i386Multiplexed.get(name) : undefined;
  return [...(multiplexed === undefined ? [] : [multiplexed]), ...(number === undefined ? [] : [{ number }])];
}

/** The highest number of a name in the profile. Calls with two ways are left out, as they were never added late. */
function newestOf(profile: SpecSeccomp, abi: Abi): number | undefined {
  let newest = 0;
  for (const { names } of profile.syscalls)
    for (const name of names) if (abi !== 'i386' || !i386Multiplexed.has(name)) newest = Math.max(newest, syscallNumbers[abi].get(name) ?? 0);
  return newest === 0 || permissive.includes(profile.defaultAction) ? undefined : newest;
}

/** A rule's arguments: all together, or one by one where two are on the same. */
function argumentSets({ args }: SeccompRule): readonly (readonly SeccompArg[])[] {
  const repeated = new Set(args.map(({ index }) => index)).size !== args.length;
  return repeated ? args.map((arg) => [arg]) : [args];
}

/** What the profile decides for one convention. `path` names the profile. Throws invalidArgument for rules that contradict each other. */
export function decideSyscalls(profile: SpecSeccomp, abi: Abi, path: string): AbiDecisions {
  const fallback = answerOf(profile.defaultAction, profile.defaultErrnoRet, `${path}.defaultErrnoRet`);
  const wide = wideAbis.includes(abi);
  const found = new Map<number, Collected>();
  for (const [index, rule] of profile.syscalls.entries()) {
    const answer = answerOf(rule.action, rule.errnoRet, `${path}.syscalls[${index}].errnoRet`);
    if (answer === fallback) continue;
    for (const name of rule.names) {
      for (const args of argumentSets(rule)) {
        for (const { number, selector } of placesOf(abi, name)) {
          const collected = found.get(number) ?? emptyCollection();
          found.set(number, collected);
          const selected = selector === undefined ? args : [{ index: 0, value: selector, valueTwo: 0n, op: 'SCMP_CMP_EQ' } as const, ...args.filter((arg) => arg.index !== 0)];
          if (!addRule(collected, selected, answer, wide)) throw invalidArgument(`${path}.syscalls[${index}]`, `contradicts an earlier rule for ${JSON.stringify(name)}`);
        }
      }
    }
  }
  const newest = newestOf(profile, abi);
  const decisions = [...found].map(([number, { answer, level }]): readonly [number, Decision] => [
    number,
    answer === undefined ? { alternatives: alternativesOf(level), otherwise: fallback, wide } : { alternatives: [], otherwise: answer, wide },
  ]);
  return { byNumber: new Map(decisions), fallback, ...(newest === undefined ? {} : { newest }) };
}
