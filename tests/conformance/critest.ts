/**
 * Runs the official conformance suite of CRI, critest, against a socket. In: the socket and what to run. Out: one outcome per spec, read from
 * the suite's own JSON report. It judges nothing: what was expected is specs.ts's to say.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const tools = new URL('../../build/go', import.meta.url).pathname;

/** How Exec, Attach and PortForward are spoken. */
export type Transport = 'spdy' | 'websocket';

/** What one spec came to. */
export interface SpecOutcome {
  /** The texts of the containers around it and its own, joined by ` > `. */
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Of a failure what was expected, of a skip its reason. */
  readonly message: string;
  readonly durationMs: number;
}

/** What to run. */
export interface CritestOptions {
  readonly socketPath: string;
  readonly transport: Transport;
  /** An empty directory for the report and the suite's own words. */
  readonly directory: string;
  /** How many specs run at the same time; the suite keeps those on images by themselves. */
  readonly parallel: number;
  /** The order of the specs, which is a random one. */
  readonly seed: number;
  /** Regular expression over names with spaces between their parts, as ginkgo's `--focus`. Absent: all. */
  readonly focus?: string;
  readonly runtimeHandler?: string;
  /** The whole suite is killed then. */
  readonly timeoutMs: number;
  /** Benchmarks instead of specs: their parameters, and `directory` gets their data. */
  readonly benchmark?: Readonly<Record<string, unknown>>;
}

/** A value of ginkgo's report; only what is read here. */
interface ReportedSpec {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeType: string;
  readonly LeafNodeText: string;
  readonly State: string;
  readonly RunTime: number;
  readonly Failure?: { readonly Message?: string; readonly Location?: { readonly FileName?: string; readonly LineNumber?: number } };
}

function describeFailure({ State, Failure }: ReportedSpec): string {
  const file = Failure?.Location?.FileName?.split('/').at(-1);
  return `${State === 'failed' ? '' : `${State}: `}${Failure?.Message?.trim() ?? 'no words'}${file === undefined ? '' : ` (${file}:${Failure?.Location?.LineNumber})`}`;
}

/** Decodes the report. Specs that no focus chose are left out; failures of the suite's own set-up count as specs. */
export function decodeReport(text: string): readonly SpecOutcome[] {
  // SAFETY: ginkgo wrote it, in the form of its types.Report.
  const reports = JSON.parse(text) as readonly { readonly SpecReports: readonly ReportedSpec[] | null }[];
  return reports
    .flatMap(({ SpecReports }) => SpecReports ?? [])
    .flatMap((spec): SpecOutcome[] => {
      const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeType === 'It' ? spec.LeafNodeText : spec.LeafNodeType].join(' > ');
      const durationMs = Math.round(spec.RunTime / 1e6);
      if (spec.LeafNodeType !== 'It') return spec.State === 'passed' ? [] : [{ name, outcome: 'failed', message: describeFailure(spec), durationMs }];
      if (spec.State === 'passed') return [{ name, outcome: 'passed', message: '', durationMs }];
      // Not chosen: skipped without a word of the spec's own.
      if (spec.State === 'skipped')
        return spec.Failure?.Message === undefined || spec.Failure.Message === '' ? [] : [{ name, outcome: 'skipped', message: spec.Failure.Message, durationMs }];
      return [{ name, outcome: 'failed', message: describeFailure(spec), durationMs }];
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function suiteArguments(options: CritestOptions): string[] {
  const { socketPath, transport, runtimeHandler, directory, benchmark } = options;
  const args = [`-runtime-endpoint=unix://${socketPath}`, `-image-endpoint=unix://${socketPath}`, `-config=${directory}/none.yaml`];
  if (transport === 'websocket') args.push('-websocket-exec', '-websocket-attach', '-websocket-portforward');
  if (runtimeHandler !== undefined) args.push(`-runtime-handler=${runtimeHandler}`);
  if (benchmark !== undefined) {
    writeFileSync(join(directory, 'benchmark.yaml'), JSON.stringify(benchmark));
    args.push('-benchmark', `-benchmarking-params-file=${directory}/benchmark.yaml`, `-benchmarking-output-dir=${directory}`);
  }
  return args;
}

async function runToEnd(child: ChildProcess, timeoutMs: number): Promise<string> {
  const stop = (): void => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  process.on('exit', stop);
  const timer = setTimeout(stop, timeoutMs);
  try {
    return await new Promise<string>((resolve, reject) => {
      child.once('error', reject).once('close', (code, signal) => resolve(signal === null ? `status ${code}` : `killed by ${signal} (after ${timeoutMs} ms at most)`));
    });
  } finally {
    clearTimeout(timer);
    process.off('exit', stop);
  }
}

/** Runs the suite. Throws when it ends without a report, or runs no spec. A failed spec is an outcome, no error. */
export async function runCritest(options: CritestOptions): Promise<readonly SpecOutcome[]> {
  const { directory, parallel, seed, focus, timeoutMs, benchmark } = options;
  mkdirSync(directory, { recursive: true });
  const report = join(directory, 'report.json');
  // The suite starts ginkgo by itself only without a report in JSON; so it is started here, as the suite would.
  const chosen = benchmark === undefined ? [`--skip=benchmark`, ...(focus === undefined ? [] : [`--focus=${focus}`])] : [`--focus=${focus ?? 'benchmark'}`];
  // The benchmark mode is succinct by itself and refuses to be verbose.
  const own = [
    ...(benchmark === undefined ? ['-v'] : []),
    '--silence-skips',
    '--no-color',
    `--seed=${seed}`,
    '--randomize-all',
    '--json-report=report.json',
    `--output-dir=${directory}`,
  ];
  // The suite loads its AppArmor profiles through sudo, which a machine that knows root alone does not have.
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'sudo'), '#!/bin/sh\nexec "$@"\n', { mode: 0o755 });
  const log = openSync(join(directory, 'critest.log'), 'a');
  const child = spawn(join(tools, 'ginkgo'), ['run', `--procs=${parallel}`, ...own, ...chosen, join(directory, 'critest.test'), '--', ...suiteArguments(options)], {
    cwd: directory,
    stdio: ['ignore', log, log],
    env: { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`, TMPDIR: directory, HOME: directory },
    detached: true,
  });
  closeSync(log);
  const status = await runToEnd(child, timeoutMs);
  if (!existsSync(report)) throw new Error(`run critest: it ended without a report (${status}):\n${readFileSync(join(directory, 'critest.log'), 'utf8').slice(-4000)}`);
  const outcomes = decodeReport(readFileSync(report, 'utf8'));
  if (outcomes.length === 0) throw new Error(`run critest: no spec ran (${status}):\n${readFileSync(join(directory, 'critest.log'), 'utf8').slice(-4000)}`);
  return outcomes;
}
