/**
 * Where the time of one `run` of `true` goes. In: one of our runtimes and a bundle. Out: a table of phases, read from a trace of the few system calls at which one phase ends and the next
 * begins, so that the trace itself costs little. Phases are those between the frames of docs/native.md.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { BenchRuntime } from './oci-peers.ts';
import { formatTable, round } from './statistics.ts';

interface TracedCall {
  readonly pid: number;
  readonly atMs: number;
  readonly text: string;
}

/** Lines `PID SECONDS.MICROSECONDS call(…) = result`, as `strace -f -ttt` writes them. */
function readTrace(text: string): readonly TracedCall[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(\d+) +(\d+\.\d+) (.*)$/.exec(line);
    return match === null ? [] : [{ pid: Number(match[1]), atMs: Number(match[2]) * 1000, text: match[3] ?? '' }];
  });
}

/** The end of each phase in order; one that did not come (no Node beside an engine) is left out. */
function findPhases(trace: readonly TracedCall[], front: number): readonly (readonly [string, number])[] {
  const executed = (part: string): TracedCall | undefined => trace.find(({ text }) => text.startsWith('execve(') && text.includes(part));
  const node = executed('/berth-oci.mjs"');
  const ofNode = (pattern: RegExp): TracedCall | undefined => (node === undefined ? undefined : trace.find(({ pid, text }) => pid === node.pid && pattern.test(text)));
  const request = trace.find(({ pid, text }) => pid === front && /^(write|writev|sendmsg|sendto)\(/.test(text));
  const answer =
    request === undefined ? undefined : trace.find(({ pid, text, atMs }) => pid === front && atMs > request.atMs && /^(<\.\.\. )?(read|recvmsg|recvfrom)\b.* = [1-9]/.test(text));
  const marks: readonly (readonly [string, TracedCall | undefined])[] = [
    ['front: reads the command line, asks', request],
    ['front: starts Node', node],
    ['Node starts, until it reads the bundle', ofNode(/^(<\.\.\. )?read\b.*import \{ createRequire/)],
    ['Node evaluates the bundle, until it reads the request', ofNode(/^read\(3, "/)],
    ['compiles, until the first plan', answer],
    ['plans: groups, namespaces, mounts, until the payload is executed', executed('"/bin/true"')],
    ['payload runs and ends, container is removed', trace.findLast(({ pid, text }) => pid === front && text.startsWith('exit_group'))],
  ];
  return marks.flatMap(([name, call]) => (call === undefined ? [] : [[name, call.atMs] as const]));
}

/** Prints the phases of one run. Does nothing but say so where strace is missing. */
export async function traceRun({ name, caller, command }: BenchRuntime, bundle: string, tracePath: string): Promise<void> {
  if (!existsSync('/usr/bin/strace')) {
    console.log(`\n${name}: where the time goes: strace is not installed`);
    return;
  }
  const calls = 'execve,sendto,recvfrom,sendmsg,recvmsg,write,writev,read,exit_group';
  await caller.time(['strace', '-f', '--seccomp-bpf', '-ttt', '-e', `trace=${calls}`, '-o', tracePath, ...command, 'run', '--bundle', bundle, `trace-${name.replace('+', '-')}`]);
  const trace = readTrace(readFileSync(tracePath, 'utf8'));
  const [first] = trace;
  if (first === undefined) throw new Error('trace a run: strace wrote nothing');
  let before = first.atMs;
  const rows = findPhases(trace, first.pid).map(([phase, atMs]) => {
    const row = [phase, round(atMs - before)];
    before = atMs;
    return row;
  });
  console.log(`\n${name}: one run of true, traced: milliseconds of each phase\n${formatTable([...rows, ['the whole', round(before - first.atMs)]])}`);
}
