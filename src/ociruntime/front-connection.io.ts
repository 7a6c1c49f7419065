/**
 * One front, and the command that it wants done. In: a connected socket whose first frame is REQUEST. Out: the `Front` of that caller for as long as a function runs, then how
 * the front ends. It knows no command; a failure that reaches it is a bug and ends the front with its text.
 */
import type { Socket } from 'node:net';
import { RuntimeError, errorMessage, limits } from '#core';
import { type Plan, type StepFailure, encodePlan } from '#plan';
import { type Frame, FrameConnection, decodeFailure, encodeFrame, frameTypes, planError } from '#system';
import { decodeMade, decodeRequest, encodeAwait, encodeMake, encodeOutcome, frontFrames } from './front-frames.ts';
import { processError } from './process-errors.ts';
import type { Front, FrontRequest, MadeProcess, MakeRequest, Outcome } from './types.ts';

/** Runs sections of `host` and `podNamespaces` in the front. */
async function runPlan(connection: FrameConnection, plan: Plan): Promise<void> {
  if (plan.sections.length === 0) return;
  const answer = await connection.request('run a plan', frontFrames.run, (out) => void out.bytes(encodePlan(plan)));
  if (answer.type === frameTypes.failed) throw planError(plan, decodeFailure(answer.payload));
}

async function makeProcess(connection: FrameConnection, request: MakeRequest): Promise<MadeProcess> {
  let answered: Plan | undefined;
  let refusal: Error | undefined;
  const reply = (frame: Frame): boolean => {
    if (frame.type !== frameTypes.ask) return false;
    let plan: Plan = { sections: [] };
    try {
      if (request.answer === undefined) throw new RuntimeError('internal', 'make a process: a question that nobody expected');
      plan = request.answer(frame.payload);
    } catch (error) {
      // An empty answer ends the process without its payload; what is told is this.
      refusal = error instanceof Error ? error : new RuntimeError('internal', errorMessage(error));
    }
    answered = plan;
    void connection.send(frameTypes.answer, frame.id, (out) => void out.bytes(encodePlan(plan))).catch(() => undefined);
    return true;
  };
  const answer = await connection.request('make the process', frontFrames.make, (out) => encodeMake(out, request), reply);
  if (refusal !== undefined) throw refusal;
  if (answer.type === frameTypes.failed) throw processError(request.plan, decodeFailure(answer.payload), answered);
  if (answer.type !== frontFrames.made) throw new RuntimeError('internal', `make the process: an answer of type ${answer.type}`);
  return decodeMade(answer.payload);
}

/** Runs a program to its end in the caller's place. */
async function awaitProgram(connection: FrameConnection, plan: Plan): Promise<void> {
  const answer = await connection.request('run the program', frontFrames.make, (out) => encodeAwait(out, plan));
  if (answer.type === frameTypes.failed) throw planError(plan, decodeFailure(answer.payload));
}

async function adoptProcess(connection: FrameConnection, pid: number): Promise<MadeProcess> {
  const answer = await connection.request(`take process ${pid} over`, frontFrames.adopt, (out) => void out.u32(pid));
  return decodeMade(answer.payload);
}

async function startProcess(connection: FrameConnection, stateDirectory: string, failed: (failure: StepFailure) => Error): Promise<void> {
  const answer = await connection.request('start the process', frontFrames.start, (out) => void out.text(stateDirectory));
  if (answer.type === frameTypes.failed) throw failed(decodeFailure(answer.payload));
}

async function lockDirectory(connection: FrameConnection, stateDirectory: string): Promise<void> {
  await connection.request('lock the container', frontFrames.lock, (out) => void out.text(stateDirectory));
}

function frontOf(connection: FrameConnection, request: FrontRequest): Front {
  return {
    request,
    write: (stream, data) => {
      const bytes = typeof data === 'string' ? Buffer.from(data) : data;
      for (let at = 0; at < bytes.length; at += limits.ociOutputBytesMax) {
        const piece = bytes.subarray(at, at + limits.ociOutputBytesMax);
        // A caller that is gone reads nothing; the command still ends as it should.
        void connection.send(frontFrames.output, 0, (out) => void out.u32(stream).bytes(piece)).catch(() => undefined);
      }
    },
    run: async (plan) => runPlan(connection, plan),
    make: async (makeRequest) => makeProcess(connection, makeRequest),
    makeByProgram: async (plan) => awaitProgram(connection, plan),
    adopt: async (pid) => adoptProcess(connection, pid),
    lock: async (stateDirectory) => lockDirectory(connection, stateDirectory),
    start: async (stateDirectory, failed) => startProcess(connection, stateDirectory, failed),
  };
}

/**
 * What an engine says to a front before it is asked anything: one that hangs does not, and then the front asks another compiler. A request that was sent before would be carried out
 * twice, by that one and, once it goes on, by the engine.
 */
export function greetFront(socket: Socket): void {
  socket.write(encodeFrame(frontFrames.ready, 0));
}

/**
 * Serves one front: reads its request, runs the command, tells it how to end, and resolves when it has closed. Rejects where the connection breaks before, or where
 * `command` throws: telling failures to the caller is the command's own part.
 */
export async function serveFront(socket: Socket, command: (front: Front) => Promise<Outcome>): Promise<void> {
  const connection = new FrameConnection(socket, 'front');
  const first = Promise.withResolvers<FrontRequest>();
  connection.onEvent = (frame) => {
    try {
      if (frame.type !== frontFrames.request) throw new RuntimeError('internal', `serve a front: it began with a frame of type ${frame.type}`);
      first.resolve(decodeRequest(Buffer.from(frame.payload)));
    } catch (error) {
      first.reject(error);
    }
  };
  connection.hold();
  try {
    const request = await Promise.race([
      first.promise,
      connection.ended.then(() => {
        throw new RuntimeError('unavailable', 'serve a front: it went away without a request');
      }),
    ]);
    const outcome = await command(frontOf(connection, request));
    const { type, body } = encodeOutcome(outcome);
    await connection.send(type, 0, body);
    await connection.ended;
  } catch (error) {
    socket.destroy();
    throw error instanceof Error ? error : new RuntimeError('internal', errorMessage(error));
  } finally {
    connection.release();
  }
}
