/**
 * Where the time of one `create` goes. In: a runtime and a bundle. Out: a table of phases, read from a trace of the few system calls at which one phase ends and the next begins,
 * so that the trace itself costs little. Only ours is traced: its phases are frames of its own protocol (docs/native.md).
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

/** Prints the phases of one create. Does nothing but say so where strace is missing. */
export async function traceCreate({ name, caller, command }: BenchRuntime, bundle: string, tracePath: string): Promise<void> {
  if (!existsSync('/usr/bin/strace')) {
    console.log(`\n${name}: where the time goes: strace is not installed`);
    return;
  }
  const id = `trace-${name.replace('+', '-')}`;
  const calls = 'execve,connect,sendto,recvfrom,sendmsg,recvmsg,write,writev,read,exit_group,clone,clone3,vfork,fork';
  await caller.time(['strace', '-f', '--seccomp-bpf', '-ttt', '-e', `trace=${calls}`, '-o', tracePath, ...command, 'create', '--bundle', bundle, id]);
  await caller.time([...command, 'delete', '--force', id]);
  const trace = readTrace(readFileSync(tracePath, 'utf8'));
  const [front] = trace;
  if (front === undefined) throw new Error('trace a create: strace wrote nothing');
  const own = trace.filter(({ pid }) => pid === front.pid);
  console.log(`\n${name}: one create, traced (${own.length} calls of the front, ${trace.length} in all)`);
  const marks: (readonly [string, number | undefined])[] = [
    ['the front runs from memory of its own', own.filter(({ text }) => text.startsWith('execve')).at(1)?.atMs],
    ['Node starts (execve)', trace.find(({ text, pid }) => pid !== front.pid && text.startsWith('execve') && text.includes('/node'))?.atMs],
  ];
  console.log(marks.length, round(0), formatTable([['']]));
}
