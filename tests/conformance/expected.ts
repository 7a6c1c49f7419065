/**
 * What the conformance suite is expected to say, exact in both directions. In: outcomes, and expected.json: every spec that the suite registers,
 * and the exceptions among them. Out: each difference in one line. A spec that is not listed, one that is listed and did not run, an exception
 * that passes: each is a difference. Both peers are held to the same list, so that Berth passes what the newest containerd passes; an exception
 * may be the peer's alone.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { SpecOutcome, Transport } from './critest.ts';
import type { PeerName } from './servers.ts';

/** What an exception may depend on. */
export interface ConformanceFacts {
  readonly always: true;
  readonly 'no-apparmor': boolean;
}

/** A spec that does not pass, and why it need not. */
interface Exception {
  readonly spec: string;
  readonly outcome: 'failed' | 'skipped';
  /** Part of what it says then. */
  readonly message: string;
  readonly when: keyof ConformanceFacts;
  /** Absent: of both. */
  readonly peer?: PeerName;
  /** Absent: over both. */
  readonly transport?: Transport;
  readonly reason: string;
}

/** expected.json. */
export interface Expected {
  readonly suite: string;
  /** Of Berth, on a machine on which every exception holds. */
  readonly counts: { readonly specs: number; readonly passed: number; readonly failed: number; readonly skipped: number };
  readonly exceptions: readonly Exception[];
  readonly specs: readonly string[];
}

/** Reads expected.json. */
export function readExpected(): Expected {
  // SAFETY: the file is ours, and expected.test.ts checks that its parts fit together.
  return JSON.parse(readFileSync(new URL('expected.json', import.meta.url), 'utf8')) as Expected;
}

/** What the suite itself looks at before it decides what to run. */
export function readConformanceFacts(): ConformanceFacts {
  const parameter = '/sys/module/apparmor/parameters/enabled';
  return { always: true, 'no-apparmor': !(existsSync(parameter) && readFileSync(parameter, 'utf8').startsWith('Y')) };
}

/** How outcomes came about. `complete`: all specs were asked for, so none may be missing. */
export interface ComparisonOptions {
  readonly expected: Expected;
  readonly facts: ConformanceFacts;
  readonly peer: PeerName;
  readonly transport: Transport;
  readonly complete: boolean;
}

/** Differences in words, none where all is as expected. */
export function compareOutcomes(outcomes: readonly SpecOutcome[], options: ComparisonOptions): readonly string[] {
  const { expected, facts, complete } = options;
  const holds = ({ when, peer = options.peer, transport = options.transport }: Exception): boolean => facts[when] && peer === options.peer && transport === options.transport;
  const exceptions = new Map(expected.exceptions.filter(holds).map((exception) => [exception.spec, exception]));
  const listed = new Set(expected.specs);
  const differences = outcomes.flatMap(({ name, outcome, message }): string[] => {
    if (!listed.has(name)) return [`${name}: ${outcome}, but expected.json does not list it${message === '' ? '' : `: ${message}`}`];
    const exception = exceptions.get(name);
    if (exception === undefined) return outcome === 'passed' ? [] : [`${name}: ${outcome}: ${message}`];
    if (outcome !== exception.outcome) return [`${name}: ${outcome}, but expected.json says ${exception.outcome} (${exception.reason})${message === '' ? '' : `: ${message}`}`];
    return message.includes(exception.message) ? [] : [`${name}: ${outcome} as expected, but with other words than ${JSON.stringify(exception.message)}: ${message}`];
  });
  const seen = new Map<string, number>();
  for (const { name } of outcomes) seen.set(name, (seen.get(name) ?? 0) + 1);
  differences.push(...[...seen].filter(([, times]) => times > 1).map(([name]) => `${name}: two specs have this name`));
  if (complete) differences.push(...expected.specs.filter((name) => !seen.has(name)).map((name) => `${name}: did not run`));
  return differences;
}
