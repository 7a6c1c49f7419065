/**
 * Frames between Node, the launcher and shims: docs/native.md as code. Pure.
 * In: values, or chunks of a byte stream. Out: bytes, or whole frames. It knows no socket and no request's outcome.
 */
import { RuntimeError, codeOfErrno, limits } from '#core';
import { ByteReader, ByteWriter, type Plan, type Step, type StepFailure, errnoNameOf, stepError } from '#plan';

/** Frame types, by the names of docs/native.md. */
export const frameTypes = {
  ok: 1,
  failed: 2,
  error: 3,
  ready: 16,
  locked: 17,
  shimEnded: 18,
  shim: 20,
  oneShot: 21,
  unpack: 22,
  layerEntry: 23,
  layerContent: 24,
  tool: 25,
  toolResult: 26,
  hello: 32,
  execute: 33,
  create: 34,
  ask: 35,
  answer: 36,
  start: 37,
  signal: 38,
  exec: 39,
  execResult: 40,
  attach: 41,
  output: 42,
  input: 43,
  inputClose: 44,
  resize: 45,
  reopenLog: 46,
  remove: 47,
  state: 48,
  stateResult: 49,
  subscribe: 50,
  processEnded: 51,
  deposit: 52,
  shutdown: 53,
  ended: 54,
} as const;

/** Version that HELLO carries. */
export const protocolVersion = 1;
/** Length of a pod's secret: 256 bits. */
export const secretByteCount = 32;
const headerByteCount = 12;

/** One frame as it was received. `id` 0 is an event. */
export interface Frame {
  readonly type: number;
  readonly id: number;
  /** Valid until the next chunk arrives; copy what must live longer. */
  readonly payload: Buffer;
}

/** A frame as bytes; `body` writes the payload. Throws resourceExhausted above `limits.frameBytesMax`. */
export function encodeFrame(type: number, id: number, body?: (out: ByteWriter) => void): Buffer {
  const out = new ByteWriter();
  out.u32(0).u16(type).u16(0).u32(id);
  body?.(out);
  const size = out.length - headerByteCount;
  if (size > limits.frameBytesMax) throw new RuntimeError('resourceExhausted', `encode frame: ${size} bytes, at most ${limits.frameBytesMax}`);
  out.setU32(0, size);
  return out.take();
}

/** The header of a frame whose payload follows by itself. */
export function encodeFrameHeader(type: number, id: number, payloadByteCount: number): Buffer {
  return new ByteWriter().u32(payloadByteCount).u16(type).u16(0).u32(id).take();
}

/** Cuts a byte stream into frames. Chunks are kept until their frame is whole, so no byte is copied more than once. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #size = 0;

  /** The frames that are whole now, in order. Throws internal on a frame that no peer of ours would send. */
  push(chunk: Buffer): Frame[] {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    const frames: Frame[] = [];
    while (this.#size >= headerByteCount) {
      const header = this.#peek();
      const size = header.readUInt32LE(0);
      if (size > limits.frameBytesMax || header.readUInt16LE(6) !== 0) throw new RuntimeError('internal', `decode frame: a payload of ${size} bytes is not a frame`);
      if (this.#size < headerByteCount + size) break;
      const whole = this.#take(headerByteCount + size);
      frames.push({ type: whole.readUInt16LE(4), id: whole.readUInt32LE(8), payload: whole.subarray(headerByteCount) });
    }
    return frames;
  }

  #peek(): Buffer {
    const first = this.#chunks[0];
    if (first !== undefined && first.length >= headerByteCount) return first;
    this.#chunks = [Buffer.concat(this.#chunks)];
    // SAFETY: the line above made the list one element long.
    return this.#chunks[0] as Buffer;
  }

  #take(count: number): Buffer {
    const first = this.#chunks.length === 1 ? this.#chunks[0] : undefined;
    const all = first ?? Buffer.concat(this.#chunks);
    this.#chunks = all.length === count ? [] : [all.subarray(count)];
    this.#size = all.length - count;
    return all.subarray(0, count);
  }
}

/** The payload of FAILED. */
export function decodeFailure(payload: Buffer): StepFailure {
  const input = new ByteReader(payload);
  return { section: input.u32(), step: input.u32(), errno: input.i32(), detail: input.text() };
}

/** Set in the section number of a failure inside answered sections. */
const answeredBit = 0x8000_0000;

/** The plan that a failure is of, with the failure's place in it. */
function locate(plan: Plan, failure: StepFailure, answer: Plan | undefined): readonly [Plan, StepFailure] {
  return failure.section < answeredBit ? [plan, failure] : [answer ?? { sections: [] }, { ...failure, section: failure.section - answeredBit }];
}

/** The failure of a plan as an error; `answer` is the plan that was sent back for an ASK, if one was. */
export function planError(plan: Plan, failure: StepFailure, answer?: Plan): RuntimeError {
  return stepError(...locate(plan, failure, answer));
}

/** The step that a failure is of; undefined where it is none of the plan's. */
export function failedStep(plan: Plan, failure: StepFailure, answer?: Plan): Step | undefined {
  const [{ sections }, { section, step }] = locate(plan, failure, answer);
  return sections[section]?.steps[step];
}

/** Errno numbers by which a shim says that it is ending or that the request was cancelled (ESHUTDOWN, ECANCELED). */
const endingErrnos: readonly number[] = [108, 125];

/** The payload of ERROR as an error: `what: detail: ERRNO`. ESRCH is notFound: no such process. */
export function decodeRequestError(what: string, payload: Buffer): RuntimeError {
  const input = new ByteReader(payload);
  const number = input.i32();
  const errno = errnoNameOf(number);
  const detail = input.text();
  const code = errno === 'ESRCH' ? 'notFound' : endingErrnos.includes(number) ? 'unavailable' : (codeOfErrno(errno) ?? 'unknown');
  return new RuntimeError(code, `${what}: ${detail === '' ? '' : `${detail}: `}${errno}`, { errno });
}

/** One file that a plan asked for: its content, or the errno that reading it gave (0: none). */
export interface AskedFile {
  readonly path: string;
  readonly errno: number;
  readonly content: Buffer;
}

/** The payload of ASK. The contents are copies. */
export function decodeAsk(payload: Buffer): AskedFile[] {
  const input = new ByteReader(payload);
  const files: AskedFile[] = [];
  for (let count = input.u32(); count > 0; count -= 1) files.push({ path: input.text(), errno: input.i32(), content: Buffer.from(input.bytes()) });
  return files;
}

/** How a process ended, from its raw wait status. */
export interface ExitStatus {
  /** As a shell reports it: the exit code, or 128 and the signal. */
  readonly exitCode: number;
  /** Number of the signal that ended it, or undefined. */
  readonly signal: number | undefined;
}

/** Source: wait(2), WIFEXITED and WIFSIGNALED. */
export function decodeWaitStatus(waitStatus: number): ExitStatus {
  const signal = waitStatus & 0x7f;
  return signal === 0 ? { exitCode: (waitStatus >> 8) & 0xff, signal: undefined } : { exitCode: 128 + signal, signal };
}

/** One process of a shim. Times are nanoseconds since the epoch, 0 where it has not happened. */
export interface ProcessState {
  readonly processId: string;
  readonly pid: number;
  readonly state: 'created' | 'running' | 'ended';
  readonly waitStatus: number;
  readonly oomKilled: boolean;
  readonly createdNs: bigint;
  readonly startedNs: bigint;
  readonly endedNs: bigint;
}

const processStates = ['created', 'running', 'ended'] as const;

/** The payload of STATE_RESULT. */
export function decodeStates(payload: Buffer): ProcessState[] {
  const input = new ByteReader(payload);
  const states: ProcessState[] = [];
  for (let count = input.u32(); count > 0; count -= 1) {
    const [processId, pid, number, waitStatus, flags] = [input.text(), input.u32(), input.u32(), input.i32(), input.u32()];
    const state = processStates[number - 1];
    if (state === undefined) throw new RuntimeError('internal', `decode message: process state ${number}`);
    states.push({ processId, pid, state, waitStatus, oomKilled: (flags & 1) !== 0, createdNs: input.i64(), startedNs: input.i64(), endedNs: input.i64() });
  }
  return states;
}

/** The end of a process, as subscribers see it. */
export interface ProcessEnded {
  readonly processId: string;
  readonly waitStatus: number;
  readonly oomKilled: boolean;
  readonly endedNs: bigint;
}

/** The payload of PROCESS_ENDED. */
export function decodeProcessEnded(payload: Buffer): ProcessEnded {
  const input = new ByteReader(payload);
  const [processId, waitStatus, flags] = [input.text(), input.i32(), input.u32()];
  return { processId, waitStatus, oomKilled: (flags & 1) !== 0, endedNs: input.i64() };
}

/** What EXEC collected. */
export interface ExecResult {
  readonly waitStatus: number;
  readonly timedOut: boolean;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** Output was dropped because of `outputBytesMax`, or because both streams exceed one frame. */
  readonly truncated: boolean;
}

/** The payload of EXEC_RESULT. The outputs are copies. */
export function decodeExecResult(payload: Buffer): ExecResult {
  const input = new ByteReader(payload);
  const [waitStatus, flags] = [input.i32(), input.u32()];
  return { waitStatus, timedOut: (flags & 1) !== 0, truncated: (flags & 6) !== 0, stdout: Buffer.from(input.bytes()), stderr: Buffer.from(input.bytes()) };
}
