/**
 * The messages between the front and the compiler: docs/native.md as code. In: payloads of frames. Out: typed values, and functions that write payloads. Pure.
 * Numbers of the frames that a shim has too (OK, FAILED, ERROR, ASK, ANSWER) are in `system`.
 */
import { RuntimeError } from '#core';
import { ByteReader, type ByteWriter, type Plan, encodePlan } from '#plan';
import type { FrontRequest, MadeProcess, MakeRequest, Outcome } from './types.ts';

/** Frames that only a front understands. */
export const frontFrames = { request: 64, output: 65, run: 66, make: 67, made: 68, exit: 69, wait: 70, start: 71, lock: 72, adopt: 73, ready: 74 } as const;

/** Version that REQUEST carries. */
const requestVersion = 1;
const makeFlags = { terminal: 1, await: 2 } as const;

/** `A=b` as properties; of two entries with one name the first counts, as getenv(3) has it. */
function decodeEnvironment(entries: readonly string[]): Readonly<Record<string, string>> {
  const environment: Record<string, string> = Object.create(null);
  for (const entry of entries) {
    const at = entry.indexOf('=');
    const name = entry.slice(0, at);
    if (at > 0 && environment[name] === undefined) environment[name] = entry.slice(at + 1);
  }
  return environment;
}

/** The payload of REQUEST. Throws internal where it is of another version or malformed. */
export function decodeRequest(payload: Uint8Array): FrontRequest {
  const input = new ByteReader(payload);
  const version = input.u32();
  if (version !== requestVersion) throw new RuntimeError('internal', `decode request of the front: version ${version}, this program has ${requestVersion}`);
  const [argv, cwd, env, terminals, columns, rows, pid, failed] = [input.texts(), input.text(), input.texts(), input.u32(), input.u32(), input.u32(), input.u32(), input.u32()];
  const failure = { section: input.u32(), step: input.u32(), errno: input.i32(), detail: input.text() };
  return {
    argv,
    cwd,
    env: decodeEnvironment(env),
    terminals: { stdin: (terminals & 1) !== 0, stdout: (terminals & 2) !== 0, stderr: (terminals & 4) !== 0 },
    size: { columns, rows },
    pid,
    ...(failed === 0 ? {} : { failure }),
  };
}

/** The payload of MADE. */
export function decodeMade(payload: Uint8Array): MadeProcess {
  const input = new ByteReader(payload);
  return { pid: input.u32(), startTime: input.u64() };
}

/** Writes the payload of MAKE. */
export function encodeMake(out: ByteWriter, { plan, terminal, consoleSocket, preserveFds }: MakeRequest): void {
  out
    .bytes(encodePlan(plan))
    .u32(terminal ? makeFlags.terminal : 0)
    .text(consoleSocket)
    .u32(preserveFds);
}

/** Writes the payload of a MAKE for a program that makes the container's process in its own way. */
export function encodeAwait(out: ByteWriter, plan: Plan): void {
  out.bytes(encodePlan(plan)).u32(makeFlags.await).text('').u32(0);
}

/** The last frame of a connection. */
export function encodeOutcome(outcome: Outcome): { readonly type: number; readonly body: (out: ByteWriter) => void } {
  return outcome.kind === 'exit'
    ? { type: frontFrames.exit, body: (out) => void out.u32(outcome.code) }
    : { type: frontFrames.wait, body: (out) => void out.text(outcome.deleteStateDirectory) };
}
