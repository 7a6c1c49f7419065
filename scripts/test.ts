/**
 * Runs all tests, one stage after another, and ends with one line `N passed, N failed[, N skipped]`.
 * In: names of stages (`static`, `unit`, `integration`, `guest`; none: all) and, after `--only`, part of an integration file's name.
 * Out: progress on standard output, exit status 1 when anything failed. A skip that tests/expected-skips.json does not foresee,
 * one that it foresees and that did not happen, and anything left behind on the host are failures.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readFacts, type ExpectedSkip, type Facts } from '../tests/facts.ts';
import { compareLedger, readLedger } from '../tests/ledger.ts';
import type { SuiteResult, TestOutcome } from '../tests/suite.ts';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
process.env['PATH'] = `${process.cwd()}/node_modules/.bin:${process.env['PATH']}`;

const stages = ['static', 'unit', 'integration', 'guest'] as const;
const { values, positionals } = parseArgs({ options: { only: { type: 'string', default: '' } }, allowPositionals: true });
const wrong = positionals.find((name) => !stages.some((stage) => stage === name));
if (wrong !== undefined) {
  console.error(`test: ${wrong}: no such stage; there are ${stages.join(', ')}`);
  process.exit(2);
}
const chosen = stages.filter((stage) => positionals.length === 0 || positionals.includes(stage));

const scratch = join('build', 'test', String(process.pid));
mkdirSync(scratch, { recursive: true });
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

const count = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
const skips: string[] = [];

/** Runs a command with a time limit; its output goes where `output` says. The whole process group is killed at the limit. */
async function runCommand(
  command: readonly string[],
  options: { readonly timeoutMs: number; readonly output: 'inherit' | 'collect' },
): Promise<{ status: string; output: string }> {
  const [file = '', ...args] = command;
  const child = spawn(file, args, { stdio: ['ignore', options.output === 'inherit' ? 'inherit' : 'pipe', options.output === 'inherit' ? 'inherit' : 'pipe'], detached: true });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (output += text));
  const stop = (): void => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  process.on('exit', stop);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    stop();
  }, options.timeoutMs);
  const status = await new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code, signal) =>
      resolve(code === 0 ? 'ok' : timedOut ? `not finished after ${options.timeoutMs / 1000} s` : signal === null ? `exit status ${code}` : `killed by ${signal}`),
    );
  });
  clearTimeout(timer);
  process.off('exit', stop);
  return { status, output };
}

function fail(what: string): void {
  count.failed += 1;
  failures.push(what);
}

function skip(what: string): void {
  count.skipped += 1;
  skips.push(what);
}

function report(name: string, startedAt: number, summary: string): void {
  console.log(`${name.padEnd(44)} ${summary} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
}

/** A check that either passes or fails as a whole, such as the type check; counted as one test. */
async function runCheck(name: string, command: readonly string[]): Promise<void> {
  const startedAt = performance.now();
  const { status, output } = await runCommand(command, { timeoutMs: 300_000, output: 'collect' });
  if (status === 'ok') count.passed += 1;
  else fail(`${name}: ${status}`);
  report(name, startedAt, status === 'ok' ? 'passed' : `failed: ${status}`);
  if (status !== 'ok') console.log(output.trimEnd().replaceAll(/^/gm, '  '));
}

// SAFETY: the file is ours, and the style test decodes it with every field checked.
const expectedSkips = JSON.parse(readFileSync('tests/expected-skips.json', 'utf8')) as readonly ExpectedSkip[];

const isExpected = (test: TestOutcome, facts: Facts): boolean =>
  expectedSkips.some((entry) => entry.file === test.file && (entry.test === '*' || entry.test === test.name) && facts[entry.when]);

/** Counts one result file; the list of expected skips is held exact in both directions. `where` begins every line about it. */
function countResult(name: string, { facts, tests, leaks }: SuiteResult, where = ''): string {
  const here = { passed: 0, failed: 0, skipped: 0 };
  for (const test of tests) {
    const label = `${where}${test.file}: ${test.name}`;
    here[test.outcome] += 1;
    if (test.outcome === 'passed') {
      count.passed += 1;
      if (isExpected(test, facts)) fail(`${label}: ran, but tests/expected-skips.json expects a skip here`);
    } else if (test.outcome === 'failed') {
      fail(`${label}: ${test.message.split('\n')[0]}`);
    } else if (isExpected(test, facts)) {
      skip(`${label}: ${test.message}`);
    } else {
      fail(`${label}: skipped (${test.message}), which tests/expected-skips.json does not expect`);
    }
  }
  for (const entry of expectedSkips) {
    if (entry.test === '*' || !facts[entry.when] || !tests.some((test) => test.file === entry.file)) continue;
    if (!tests.some((test) => test.file === entry.file && test.name === entry.test)) fail(`tests/expected-skips.json: ${entry.file} has no test ${entry.test}`);
  }
  if (leaks.length > 0) fail(`${where}${name}: ${leaks.length === 1 ? leaks[0] : `${leaks.length} things left behind, the first: ${leaks[0]}`}`);
  return `${here.passed} passed, ${here.failed} failed${here.skipped > 0 ? `, ${here.skipped} skipped` : ''}${leaks.length > 0 ? ', something left behind' : ''}`;
}

/** Runs tests/suite.ts behind `wrapper` and counts what it found; a suite that ends without a result is one failure. */
async function runSuite(
  name: string,
  files: readonly string[],
  options: { readonly wrapper: readonly string[]; readonly scope: 'all' | 'berth' | 'none'; readonly timeoutMs: number },
): Promise<void> {
  const startedAt = performance.now();
  const resultPath = join(scratch, `${name.replaceAll('/', '-')}.json`);
  const { status } = await runCommand([...options.wrapper, process.execPath, 'tests/suite.ts', '--scope', options.scope, resultPath, ...files], {
    timeoutMs: options.timeoutMs,
    output: 'inherit',
  });
  if (status !== 'ok' || !existsSync(resultPath)) {
    fail(`${name}: ${status === 'ok' ? 'ended without a result' : status}`);
    report(name, startedAt, `failed: ${status}`);
    return;
  }
  // SAFETY: tests/suite.ts wrote it, with this type.
  report(name, startedAt, countResult(name, JSON.parse(readFileSync(resultPath, 'utf8')) as SuiteResult));
}

const listTests = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((path) => path.endsWith('.test.ts'))
        .map((path) => join(folder, path))
        .sort()
    : [];

async function runStatic(): Promise<void> {
  await runCheck('types', ['tsc', '-p', '.']);
  await runCheck('lint', ['oxlint', '--type-aware']);
  await runCheck('format', ['prettier', '--check', '--log-level', 'warn', '.']);
  // Fifteen seconds of mutated plans, front files and conversations with a compiler, under the address and undefined-behaviour sanitizers.
  await runCheck('decoders of the helper', ['make', '-s', '-C', 'native/tests', 'check', 'FUZZ_SECONDS=5']);
  await runCheck('generated native header', ['node', 'scripts/generate-native.ts', '--check']);
  if (existsSync('scripts/generate-proto.sh')) await runCheck('generated protobuf code', ['sh', 'scripts/generate-proto.sh', '--check']);
}

async function runUnit(facts: Facts): Promise<void> {
  // Without network, where that can be arranged, so that a unit test that wants one fails.
  const wrapper = facts['not-root'] ? [] : ['unshare', '-n', '--'];
  const files = [...listTests('src'), ...listTests('tests').filter((path) => !/^tests\/(integration|guest)\//.test(path))];
  await runSuite('unit', files, { wrapper, scope: 'berth', timeoutMs: 120_000 });
}

async function runIntegration(facts: Facts): Promise<void> {
  const files = listTests('tests/integration').filter((path) => path.includes(values.only));
  if (facts['not-root']) {
    for (const file of files) skip(`${file}: needs root`);
    console.log(`${'integration'.padEnd(44)} ${files.length} files skipped: they need root`);
    return;
  }
  for (const file of files) {
    await runSuite(file.replace(/^tests\/|\.test\.ts$/g, ''), [file], {
      wrapper: ['unshare', '-m', '-n', '-p', '-f', '--kill-child', '--', 'scripts/in-namespaces.sh'],
      scope: 'all',
      timeoutMs: facts.guest ? 900_000 : 300_000,
    });
  }
}

async function runGuest(facts: Facts): Promise<void> {
  if (facts['not-root']) {
    skip('guest: needs root');
    console.log(`${'guest'.padEnd(44)} skipped: needs root`);
    return;
  }
  const startedAt = performance.now();
  const resultPath = join(scratch, 'guest.json');
  const { status } = await runCommand([process.execPath, 'tests/guest/run.ts', resultPath, values.only], { timeoutMs: 2_700_000, output: 'inherit' });
  // SAFETY: tests/guest/run.ts wrote it, with this type.
  const results = existsSync(resultPath) ? (JSON.parse(readFileSync(resultPath, 'utf8')) as readonly { name: string; result: SuiteResult | null; status: string }[]) : [];
  for (const { name, result, status: suiteStatus } of results) {
    if (result === null) fail(`guest ${name}: ${suiteStatus}`);
    else countResult(name, result, 'guest: ');
  }
  if (status !== 'ok') fail(`guest: ${status}`);
  else if (results.length === 0) fail('guest: no suite ran');
  report('guest', startedAt, status === 'ok' ? `${results.length} suites` : `failed: ${status}`);
}

process.once('SIGINT', () => process.exit(130)).once('SIGTERM', () => process.exit(143));
const facts = readFacts();
const startedAt = performance.now();
console.log(
  `Node ${process.version}, kernel ${readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim()}, ${availableParallelism()} CPUs, ${facts['not-root'] ? 'not root' : 'root'}`,
);
// Each suite compares its own surroundings; this sees what a suite that was killed left outside of them.
const before = await readLedger('berth');
for (const stage of chosen) {
  if (stage === 'static') await runStatic();
  if (stage === 'unit') await runUnit(facts);
  if (stage === 'integration') await runIntegration(facts);
  if (stage === 'guest') await runGuest(facts);
}
const left = await compareLedger(before, 'berth', { settleMs: 3000 });
for (const line of left.slice(0, 20)) console.log(`the whole run: ${line}`);
if (left.length > 0) fail(`the whole run: ${left.length} things left behind, the first: ${left[0]}`);
if (skips.length > 0) console.log(`\nskipped:\n${skips.map((line) => `  ${line}`).join('\n')}`);
if (failures.length > 0) console.log(`\nfailed:\n${failures.map((line) => `  ${line}`).join('\n')}`);
console.log(`\n${chosen.join(', ')}: ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
console.log(`${count.passed} passed, ${count.failed} failed${count.skipped > 0 ? `, ${count.skipped} skipped` : ''}`);
process.exit(count.failed > 0 ? 1 : 0);
