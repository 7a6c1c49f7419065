/** Frames: what is encoded is decoded, what is malformed is refused. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type RuntimeError, limits } from '#core';
import { ByteWriter, type Plan } from '#plan';
import {
  FrameDecoder,
  decodeAsk,
  decodeExecResult,
  decodeFailure,
  decodeProcessEnded,
  decodeRequestError,
  decodeStates,
  decodeWaitStatus,
  encodeFrame,
  frameTypes,
  planError,
} from './frames.ts';

const payload = (body: (out: ByteWriter) => void): Buffer => {
  const out = new ByteWriter();
  body(out);
  return out.take();
};

describe('frames', () => {
  test('a frame has the layout of docs/native.md', () => {
    assert.equal(encodeFrame(frameTypes.signal, 258, (out) => out.text('c').u32(9)).toString('hex'), '0a000000' + '2600' + '0000' + '02010000' + '01000000' + '6300' + '09000000');
  });

  test('frames are found again however the stream is cut', () => {
    const frames = [encodeFrame(1, 1, (out) => out.u32(7)), encodeFrame(53, 0), encodeFrame(42, 0, (out) => out.raw(Buffer.alloc(5000, 'x')))];
    const stream = Buffer.concat(frames);
    for (const cut of [1, 2, 11, 12, 13, 500, stream.length]) {
      const decoder = new FrameDecoder();
      const seen: string[] = [];
      for (let at = 0; at < stream.length; at += cut) {
        for (const { type, id, payload: bytes } of decoder.push(stream.subarray(at, at + cut))) seen.push(`${type} ${id} ${bytes.toString('hex')}`);
      }
      assert.deepEqual(seen, [`1 1 07000000`, '53 0 ', `42 0 ${'78'.repeat(5000)}`], `cut at ${cut}`);
    }
  });

  test('what is no frame is refused before it is collected', () => {
    const huge = Buffer.alloc(12);
    huge.writeUInt32LE(limits.frameBytesMax + 1, 0);
    assert.throws(() => new FrameDecoder().push(huge), { code: 'internal', message: 'decode frame: a payload of 16777217 bytes is not a frame' });
    assert.throws(() => new FrameDecoder().push(Buffer.from('000000000100010001000000', 'hex')), {
      code: 'internal',
      message: 'decode frame: a payload of 0 bytes is not a frame',
    });
    assert.throws(() => encodeFrame(1, 1, (out) => out.raw(Buffer.alloc(limits.frameBytesMax + 1))), {
      code: 'resourceExhausted',
      message: 'encode frame: 16777217 bytes, at most 16777216',
    });
  });
});

describe('answers', () => {
  const plan: Plan = { sections: [{ actor: 'host', steps: [{ kind: 'setHostname', name: 'first', origin: '/hostname' }] }] };
  const answer: Plan = { sections: [{ actor: 'payload', steps: [{ kind: 'changeDirectory', path: '/work', create: 0 }] }] };

  test('a failure is worded by the plan that held the step, the answered one where bit 31 of the section is set', () => {
    const failure = (section: number, detail = ''): ReturnType<typeof decodeFailure> => decodeFailure(payload((out) => out.u32(section).u32(0).i32(1).text(detail)));
    assert.equal(planError(plan, failure(0, 'kernel says\nno'), answer).message, '/hostname: set the hostname to first: EPERM (kernel says; no)');
    assert.equal(planError(plan, failure(0x8000_0000), answer).message, 'change to the working directory /work: EPERM');
    assert.equal(planError(plan, failure(0x8000_0000)).message, 'create the process: EPERM');
  });

  test('a refused request says what was wanted, why, and with which code', () => {
    const error = (errno: number, detail: string): RuntimeError =>
      decodeRequestError(
        'signal process c',
        payload((out) => out.i32(errno).text(detail)),
      );
    assert.deepEqual([error(3, 'no such process').code, error(3, 'no such process').message], ['notFound', 'signal process c: no such process: ESRCH']);
    assert.deepEqual([error(16, '').code, error(16, '').message], ['failedPrecondition', 'signal process c: EBUSY']);
    assert.equal(error(108, '').code, 'unavailable');
    assert.equal(error(12345, '').message, 'signal process c: errno 12345');
  });

  test('states, ends, questions and results are decoded', () => {
    const states = payload((out) => out.u32(1).text('c').u32(5).u32(3).i32(-1).u32(1).i64(1n).i64(2n).i64(-3n));
    assert.deepEqual(decodeStates(states), [{ processId: 'c', pid: 5, state: 'ended', waitStatus: -1, oomKilled: true, createdNs: 1n, startedNs: 2n, endedNs: -3n }]);
    assert.throws(() => decodeStates(payload((out) => out.u32(1).text('c').u32(5).u32(4).i32(0).u32(0))), { code: 'internal', message: 'decode message: process state 4' });
    assert.throws(() => decodeStates(payload((out) => out.u32(0xffff_ffff))), { code: 'internal', message: /^decode message: needs/ });
    assert.deepEqual(decodeProcessEnded(payload((out) => out.text('c').i32(256).u32(0).i64(9n))), { processId: 'c', waitStatus: 256, oomKilled: false, endedNs: 9n });
    assert.deepEqual(decodeAsk(payload((out) => out.u32(1).text('/etc/passwd').i32(2).bytes(Buffer.alloc(0)))), [{ path: '/etc/passwd', errno: 2, content: Buffer.alloc(0) }]);
    const result = decodeExecResult(payload((out) => out.i32(9).u32(5).bytes(Buffer.from('out')).bytes(Buffer.from('err'))));
    assert.deepEqual(result, { waitStatus: 9, timedOut: true, truncated: true, stdout: Buffer.from('out'), stderr: Buffer.from('err') });
  });

  test('a wait status is an exit code or a signal', () => {
    assert.deepEqual(decodeWaitStatus(3 << 8), { exitCode: 3, signal: undefined });
    assert.deepEqual(decodeWaitStatus(9), { exitCode: 137, signal: 9 });
    assert.deepEqual(decodeWaitStatus(0x8b), { exitCode: 139, signal: 11 });
  });
});
