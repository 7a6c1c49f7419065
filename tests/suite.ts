/**
 * Runs test files and tells what happened, with a ledger of the host before and after.
 * In: `suite.ts [--scope all|berth|none] RESULT FILE…`. Out: RESULT as JSON (`SuiteResult`), failures in words on standard output.
 * It decides nothing about skips or totals; scripts/test.ts does.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { run } from 'node:test';
import { parseArgs } from 'node:util';
import { compareLedger, readLedger, type ProcessScope } from './ledger.ts';
import { readFacts, type Facts } from './facts.ts';

/** One test. `name` holds the names of the suites around it, joined by ` > `. */
export interface TestOutcome {
  readonly file: string;
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Of a failure the error, of a skip its reason. */
  readonly message: string;
}

/** What one run of this program found. */
export interface SuiteResult {
  readonly facts: Facts;
  readonly tests: readonly TestOutcome[];
  /** Differences of the ledger, and descriptors that stayed open. */
  readonly leaks: readonly string[];
}

function describeFailure(error: unknown): string {
  // Node wraps what a test threw in ERR_TEST_FAILURE and keeps the original as its cause.
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  // A test file whose process ended early: its own words, if any, follow from its output.
  if (error instanceof Error && 'exitCode' in error && 'signal' in error)
    return `${String(cause)}: the process ended with ${typeof error.signal === 'string' ? error.signal : `exit status ${String(error.exitCode)}`}`;
  return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
}

async function runFiles(files: readonly string[]): Promise<TestOutcome[]> {
  const outcomes: TestOutcome[] = [];
  const names = new Map<string, string[]>();
  const output = new Map<string, string[]>();
  const preload = new URL('descriptors.ts', import.meta.url).href;
  for await (const { type, data } of run({ files: files.map((file) => resolve(file)), concurrency: 2, execArgv: ['--import', preload] })) {
    if (type === 'test:stdout' || type === 'test:stderr') {
      const lines = output.get(data.file) ?? [];
      if (lines.length < 2000) output.set(data.file, [...lines, data.message]);
    }
    if (type === 'test:start') {
      const stack = names.get(data.file ?? '') ?? [];
      names.set(data.file ?? '', [...stack.slice(0, data.nesting), data.name]);
    }
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const file = relative(process.cwd(), data.file ?? '');
    const stack = names.get(data.file ?? '') ?? [];
    const name = [...stack.slice(0, data.nesting), data.name].join(' > ');
    const isGroup = data.details.type === 'suite';
    const failed = type === 'test:fail';
    const isSkipped = data.skip !== undefined && data.skip !== false;
    // A skipped group runs none of its tests and counts once.
    // A group that fails because a test in it failed was counted there; a hook of its own that failed was not.
    if (isGroup && !isSkipped && !(failed && !/subtests? failed/.test(describeFailure(data.details.error)))) continue;
    if (failed) {
      const message = describeFailure(data.details.error);
      outcomes.push({ file, name, outcome: 'failed', message });
      console.log(`\n  failed: ${file}: ${name}\n${message.replaceAll(/^/gm, '    ')}`);
      for (const line of output.get(data.file ?? '') ?? []) process.stdout.write(line.replaceAll(/^(?=.)/gm, '    | '));
    } else if (isSkipped) {
      outcomes.push({ file, name, outcome: 'skipped', message: data.skip === true ? 'without a reason' : String(data.skip) });
    } else if (data.todo !== undefined && data.todo !== false) {
      outcomes.push({ file, name, outcome: 'failed', message: 'is marked todo' });
    } else {
      outcomes.push({ file, name, outcome: 'passed', message: '' });
    }
  }
  return outcomes;
}

function readLeftDescriptors(path: string): string[] {
  try {
    return readFileSync(path, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => `left open: ${line}`);
  } catch {
    return [];
  }
}

const { values, positionals } = parseArgs({ options: { scope: { type: 'string', default: 'berth' } }, allowPositionals: true });
const [resultPath, ...files] = positionals;
if (resultPath === undefined || files.length === 0) throw new Error('usage: suite.ts [--scope all|berth|none] RESULT FILE…');
const scope: ProcessScope | undefined = values.scope === 'none' ? undefined : values.scope === 'all' ? 'all' : 'berth';

const descriptors = `${resultPath}.descriptors`;
process.env['BERTH_TEST_DESCRIPTORS'] = descriptors;
const before = scope === undefined ? undefined : await readLedger(scope);
const tests = await runFiles(files);
const leaks = before === undefined || scope === undefined ? [] : await compareLedger(before, scope, { settleMs: 5000 });
const result: SuiteResult = { facts: readFacts(), tests, leaks: [...leaks, ...readLeftDescriptors(descriptors)] };
writeFileSync(resultPath, JSON.stringify(result));
for (const leak of result.leaks.slice(0, 30)) console.log(`  ${leak}`);
process.exit(0);
