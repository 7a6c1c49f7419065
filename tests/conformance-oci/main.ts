/**
 * Runs the validation programs of runtime-tools with Berth, runc and crun and judges Berth by what these do. In: `--runtime NAME` (again for more; without: all that this
 * machine has), `--only TEXT` (part of a program's name), `--parallel N`, `--verbose`. Out: a report, build/conformance-oci/RUNTIME.json with every line, exit status 1 for a difference.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readFacts } from '../facts.ts';
import { slowness } from '../integration/berth-host.ts';
import { compareVerdicts, readExpectedVerdicts } from './expected.ts';
import { type OciRuntime, listPrograms, openRuntime, runProgram, runtimeNames, usesFixedGroups } from './runtimes.ts';
import type { Line } from './tap.ts';

const results = new URL('../../build/conformance-oci', import.meta.url).pathname;
const usage = `usage: npm run conformance:oci -- [--runtime ${runtimeNames.join('|')}]… [--only TEXT]… [--parallel N] [--verbose]`;

function fail(message: string): never {
  console.error(`conformance: ${message}\n${usage}`);
  process.exit(2);
}

function readOptions(): { readonly runtimes: readonly OciRuntime[]; readonly programs: readonly string[]; readonly parallel: number; readonly verbose: boolean } {
  const text = { type: 'string', multiple: true } as const;
  const { values } = parseArgs({ options: { runtime: text, only: text, parallel: { type: 'string', default: String(2 * availableParallelism()) }, verbose: { type: 'boolean' } } });
  if (!/^[1-9][0-9]?$/.test(values.parallel)) fail(`--parallel ${values.parallel}: must be a number from 1 to 99`);
  const runtimes = (values.runtime ?? runtimeNames).flatMap((name) => {
    if (!runtimeNames.includes(name)) fail(`--runtime ${name}: must be one of ${runtimeNames.join(', ')}`);
    const runtime = openRuntime(name);
    if (runtime === undefined && values.runtime !== undefined) fail(`--runtime ${name}: this machine has none`);
    if (runtime === undefined) console.log(`${name}: this machine has none`);
    return runtime === undefined ? [] : [runtime];
  });
  const only = values.only;
  const programs = listPrograms().filter((program) => only === undefined || only.some((part) => program.includes(part)));
  if (programs.length === 0) fail(`--only ${only?.join(' ')}: no program has this in its name`);
  return { runtimes, programs, parallel: Number(values.parallel), verbose: values.verbose === true };
}

const { runtimes, programs, parallel, verbose } = readOptions();
const { 'cgroup-v2': isUnified, 'no-sys-resource': isBounded } = readFacts();
const facts = { always: true, 'cgroup-v1': !isUnified, 'cgroup-v2': isUnified, 'no-sys-resource': isBounded } as const;
const expected = readExpectedVerdicts();
console.log(`validation programs of ${expected.suite}`);
for (const { name, version, path } of runtimes) console.log(`${name.padEnd(12)} ${version} (${path})`);

/** Verdicts by program, then by runtime. */
const verdicts = new Map(programs.map((program) => [program, new Map<string, readonly Line[]>()]));
const startedAt = performance.now();

/** Takes programs from a list until it is empty. */
async function work(queue: string[]): Promise<void> {
  for (let program = queue.shift(); program !== undefined; program = queue.shift()) {
    for (const runtime of runtimes) verdicts.get(program)?.set(runtime.name, await runProgram({ program, runtime, timeoutMs: 180_000 * slowness }));
  }
}
const alone = programs.filter(usesFixedGroups);
const together = programs.filter((program) => !usesFixedGroups(program));
await Promise.all([work(alone), ...Array.from({ length: Math.max(1, parallel - 1) }, () => work(together))]);

const differences = programs.flatMap((program) => {
  const of = verdicts.get(program) ?? new Map<string, readonly Line[]>();
  const berth = of.get('berth');
  if (berth === undefined) return [];
  return compareVerdicts({ program, berth, peers: new Map([...of].filter(([name]) => name !== 'berth')) }, expected, facts);
});

mkdirSync(results, { recursive: true });
const isOk = (lines: readonly Line[]): boolean => lines.every(({ ok }) => ok);
for (const { name } of runtimes) {
  const own = programs.map((program) => ({ program, lines: verdicts.get(program)?.get(name) ?? [] }));
  const failing = own.filter(({ lines }) => !isOk(lines));
  const lines = own.flatMap((entry) => entry.lines);
  writeFileSync(join(results, `${name}.json`), `${JSON.stringify({ suite: expected.suite, programs: own }, null, 2)}\n`);
  console.log(
    `${name.padEnd(12)} ${own.length - failing.length} of ${own.length} programs and ${lines.filter(({ ok }) => ok).length} of ${lines.length} lines pass${failing.length === 0 ? '' : `; failing: ${failing.map(({ program }) => program).join(' ')}`}`,
  );
  if (verbose)
    for (const { program, lines: ofProgram } of failing)
      for (const { name: line, ok, detail } of ofProgram) if (!ok) console.log(`  ${program}: ${line}\n    ${detail.replaceAll('\n', '\n    ')}`);
}
for (const difference of differences) console.log(`  ${difference.replaceAll('\n', '\n    ')}`);
if (runtimes.some(({ name }) => name === 'berth')) console.log(differences.length === 0 ? 'berth: as expected' : `berth: ${differences.length} differences`);
console.log(`${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
process.exitCode = differences.length === 0 ? 0 : 1;
