/**
 * What the validation programs are expected to say of Berth, exact in both directions. In: verdicts of every runtime in one run, and expected.json: the programs, and every line
 * that fails with its reason. Out: each difference in one line. A line that fails and is not listed, one that is listed and passes, one that is listed and passes with
 * another runtime beside it: each is a difference. Pure but for reading the list.
 */
import { readFileSync } from 'node:fs';
import type { Line } from './tap.ts';

/** What a failure may depend on. */
export interface ValidationFacts {
  readonly always: true;
  /** Limits of the first version of control groups. */
  readonly 'cgroup-v1': boolean;
  readonly 'cgroup-v2': boolean;
  /** Root does not hold CAP_SYS_RESOURCE. */
  readonly 'no-sys-resource': boolean;
}

/** A line that fails, and why it must. */
export interface ExpectedFailure {
  readonly program: string;
  readonly line: string;
  /** `either` is for what a race decides, whatever the runtime; `forbidden` for what the specification has changed since, so that a runtime that passes does not follow it. */
  readonly outcome: 'fails' | 'either' | 'forbidden';
  readonly when: keyof ValidationFacts;
  readonly reason: string;
}

/** expected.json. */
export interface ExpectedVerdicts {
  readonly suite: string;
  readonly programs: readonly string[];
  readonly failures: readonly ExpectedFailure[];
}

/** Reads expected.json. */
export function readExpectedVerdicts(): ExpectedVerdicts {
  // SAFETY: the file is ours, and expected.test.ts checks that its parts fit together.
  return JSON.parse(readFileSync(new URL('expected.json', import.meta.url), 'utf8')) as ExpectedVerdicts;
}

/** Verdicts of one program: ours, and those of the runtimes beside it by name. */
export interface ProgramVerdicts {
  readonly program: string;
  readonly berth: readonly Line[];
  readonly peers: ReadonlyMap<string, readonly Line[]>;
}

const shorten = (text: string): string => (text.length > 1500 ? `${text.slice(0, 1500)} …` : text);

/** Differences in words, none where all is as expected. */
export function compareVerdicts({ program, berth, peers }: ProgramVerdicts, expected: ExpectedVerdicts, facts: ValidationFacts): readonly string[] {
  if (!expected.programs.includes(program)) return [`${program}: expected.json does not list it`];
  const listed = new Map(expected.failures.filter((failure) => failure.program === program && facts[failure.when]).map((failure) => [failure.line, failure]));
  const ours = new Map(berth.map((line) => [line.name, line]));
  const passes = (name: string): readonly string[] => [...peers].filter(([, lines]) => lines.some((line) => line.name === name && line.ok)).map(([peer]) => peer);
  const differences = berth.flatMap(({ name, ok, detail }): string[] => {
    const entry = listed.get(name);
    if (entry?.outcome === 'either') return [];
    if (ok) return entry === undefined ? [] : [`${program}: ${name}: passes, but expected.json lists it as a failure (${entry.reason})`];
    const better = passes(name);
    const beside = better.length === 0 ? '' : `, passes with ${better.join(' and ')}`;
    return entry?.outcome === 'forbidden' || (entry !== undefined && better.length === 0) ? [] : [`${program}: ${name}: fails${beside}: ${shorten(detail)}`];
  });
  // After a failure programs print lines that others do not: those count only beside a program that failed with Berth alone.
  const isWhole = (own: readonly Line[]): boolean => own.every(({ ok }) => ok);
  const worth = isWhole(berth) ? [...peers.values()].filter(isWhole) : [...peers.values()];
  const missing = new Set(worth.flatMap((lines) => lines.filter(({ name, ok }) => ok && !ours.has(name)).map(({ name }) => name)));
  differences.push(...[...missing].map((name) => `${program}: ${name}: does not come, passes with ${passes(name).join(' and ')}`));
  differences.push(
    ...[...listed.values()]
      .filter(({ line, outcome }) => outcome !== 'either' && !ours.has(line))
      .map(({ line: name }) => `${program}: ${name}: does not come, but expected.json lists it as a failure`),
  );
  return differences;
}
