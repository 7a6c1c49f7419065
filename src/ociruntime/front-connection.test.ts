/** The conversation with a front, whose side a test speaks here; and what failures of processes are called. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { type Socket, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { type Plan, ByteReader, type ByteWriter, decodePlan } from '#plan';
import { type Frame, FrameDecoder, encodeFrame, frameTypes } from '#system';
import { serveFront } from './front-connection.io.ts';
import { frontFrames } from './front-frames.ts';
import { processError } from './process-errors.ts';
import type { Front, Outcome } from './types.ts';

const plan: Plan = {
  sections: [
    {
      actor: 'payload',
      steps: [
        { kind: 'findExecutable', file: 'tool', env: [], origin: '/process/args' },
        { kind: 'execute', file: '/tool', argv: ['/tool'], env: [], origin: '/process/args' },
      ],
    },
  ],
};

/** A front as a test has it: frames in, frames out. */
interface Caller extends AsyncDisposable {
  readonly frames: Frame[];
  readonly served: Promise<void>;
  send(type: number, id: number, body?: (out: ByteWriter) => void): void;
  /** The next frame that has not been taken. */
  next(): Promise<Frame>;
  end(): void;
}

const writeRequest =
  (argv: readonly string[], version = 1) =>
  (out: ByteWriter): void =>
    void out.u32(version).texts(argv).text('/work').texts(['A=1', 'A=2', '=x', 'B=']).u32(5).u32(80).u32(24).u32(77).u32(0).u32(0).u32(0).i32(0).text('');

async function openCaller(command: (front: Front) => Promise<Outcome>): Promise<Caller> {
  const directory = mkdtempSync(join(tmpdir(), 'front-'));
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer(accepted.resolve).listen(`${directory}/s`);
  await new Promise((resolve) => server.once('listening', resolve));
  const socket = connect(`${directory}/s`);
  const served = serveFront(await accepted.promise, command);
  served.catch(() => undefined);
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  let wake: () => void = () => undefined;
  socket
    .on('error', () => undefined)
    .on('data', (chunk: Buffer) => {
      frames.push(...decoder.push(chunk).map((frame) => ({ ...frame, payload: Buffer.from(frame.payload) })));
      wake();
    });
  return {
    frames,
    served,
    send: (type, id, body) => void socket.write(encodeFrame(type, id, body)),
    next: async () => {
      while (frames.length === 0) await new Promise<void>((resolve) => void (wake = resolve));
      const frame = frames.shift();
      assert.ok(frame !== undefined);
      return frame;
    },
    end: () => void socket.end(),
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await served.catch(() => undefined);
      server.close();
      rmSync(directory, { recursive: true });
    },
  };
}

test('a request becomes a caller, and the outcome is the last frame', async () => {
  let seen: unknown;
  await using caller = await openCaller(async ({ request, write }) => {
    seen = request;
    write(1, 'out');
    write(2, Buffer.from('err'));
    return Promise.resolve({ kind: 'exit', code: 7 });
  });
  caller.send(frontFrames.request, 0, writeRequest(['state', 'x']));
  const [out, error, exit] = [await caller.next(), await caller.next(), await caller.next()];
  assert.deepEqual([out.type, out.payload.toString('utf8', 8)], [frontFrames.output, 'out']);
  assert.deepEqual([error.payload.readUInt32LE(0), error.payload.toString('utf8', 8)], [2, 'err']);
  assert.deepEqual([exit.type, exit.payload.readUInt32LE(0)], [frontFrames.exit, 7]);
  caller.end();
  await caller.served;
  assert.deepEqual(seen, {
    argv: ['state', 'x'],
    cwd: '/work',
    env: Object.assign(Object.create(null), { A: '1', B: '' }),
    terminals: { stdin: true, stdout: false, stderr: true },
    size: { columns: 80, rows: 24 },
    pid: 77,
  });
});

test('a process is made with its question answered, and waited for in the front', async () => {
  await using caller = await openCaller(async (front) => {
    const made = await front.make({ plan, terminal: true, consoleSocket: '/c', preserveFds: 3, answer: (payload) => ({ sections: payload.length === 4 ? plan.sections : [] }) });
    assert.deepEqual(made, { pid: 99, startTime: 1234n });
    return { kind: 'wait', deleteStateDirectory: '/run/x' };
  });
  caller.send(frontFrames.request, 0, writeRequest([]));
  const make = await caller.next();
  const input = new ByteReader(make.payload);
  assert.deepEqual([make.type, decodePlan(input.bytes()).sections.length, input.u32(), input.text(), input.u32()], [frontFrames.make, 1, 1, '/c', 3]);
  caller.send(frameTypes.ask, make.id, (out) => void out.u32(0));
  const answer = await caller.next();
  assert.deepEqual([answer.type, answer.id, decodePlan(new ByteReader(answer.payload).bytes()).sections[0]?.steps.length], [frameTypes.answer, make.id, 2]);
  caller.send(frontFrames.made, make.id, (out) => void out.u32(99).u64(1234n));
  const wait = await caller.next();
  assert.deepEqual([wait.type, new ByteReader(wait.payload).text()], [frontFrames.wait, '/run/x']);
  caller.end();
  await caller.served;
});

test('failures come with the words of their step', async () => {
  const errors: unknown[] = [];
  await using caller = await openCaller(async (front) => {
    await front.make({ plan, terminal: false, consoleSocket: '', preserveFds: 0 }).catch((error: unknown) => errors.push(error));
    await front.start('/run/x', (failure) => processError(plan, failure)).catch((error: unknown) => errors.push(error));
    await front.run(plan).catch((error: unknown) => errors.push(error));
    return { kind: 'exit', code: 1 };
  });
  caller.send(frontFrames.request, 0, writeRequest([]));
  const fail = async (step: number, errno: number): Promise<void> =>
    caller.send(frameTypes.failed, (await caller.next()).id, (out) => void out.u32(0).u32(step).i32(errno).text(''));
  await fail(0, 2);
  await fail(1, 8);
  caller.send(frameTypes.error, (await caller.next()).id, (out) => void out.i32(22).text('no plan'));
  await caller.next();
  assert.deepEqual(
    errors.map((error) => (error instanceof RuntimeError ? [error.code, error.message] : error)),
    [
      ['notFound', 'unable to start container process: exec: "tool": executable file not found in $PATH'],
      ['unknown', 'unable to start container process: error during container init: exec /tool: exec format error'],
      ['invalidArgument', 'run a plan: no plan: EINVAL'],
    ],
  );
});

test('what is no request, and a front that goes away, end the service with an error', async () => {
  const never = async (): Promise<Outcome> => Promise.reject(new Error('never called'));
  for (const [begin, message] of [
    [(caller: Caller) => caller.send(frontFrames.request, 0, writeRequest([], 2)), /version 2, this program has 1/],
    [(caller: Caller) => caller.send(frameTypes.ok, 0), /began with a frame of type 1/],
    [(caller: Caller) => caller.send(frontFrames.request, 0, (out) => void out.u32(1).u32(9)), /9 texts in 0 bytes/],
    [(caller: Caller) => caller.end(), /went away without a request/],
  ] as const) {
    await using caller = await openCaller(never);
    begin(caller);
    await assert.rejects(caller.served, message);
  }
  await using gone = await openCaller(async (front) => {
    await front.run(plan);
    return { kind: 'exit', code: 0 };
  });
  gone.send(frontFrames.request, 0, writeRequest([]));
  await gone.next();
  gone.end();
  await assert.rejects(gone.served, { code: 'unavailable' });
});

test('programs that cannot be executed are called as callers look for them', () => {
  const found = (file: string, errno: number): string =>
    processError(
      { sections: [{ actor: 'payload', steps: [{ kind: 'findExecutable', file, env: [] }] }] },
      { section: 0x8000_0000, step: 0, errno, detail: '' },
      {
        sections: [{ actor: 'payload', steps: [{ kind: 'findExecutable', file, env: [] }] }],
      },
    ).message;
  assert.match(found('/x', 2), /: exec: "\/x": stat \/x: no such file or directory$/);
  assert.match(found('/x', 13), /: exec: "\/x": permission denied$/);
  assert.match(found('/x', 21), /: exec: "\/x": is a directory$/);
  assert.match(found('x', 13), /: exec: "x": executable file not found in \$PATH$/);
  const hook: Plan = {
    sections: [
      {
        actor: 'podNamespaces',
        steps: [{ kind: 'runHook', file: '/h', argv: [], env: [], cwd: '/', state: new Uint8Array(), pidAt: 0, process: 1, timeoutMs: 1, origin: '/hooks/createRuntime/1' }],
      },
    ],
  };
  assert.match(processError(hook, { section: 0, step: 0, errno: 10, detail: 'exit code 3: no' }).message, /error running createRuntime hook #1: .*exit code 3: no$/);
});
