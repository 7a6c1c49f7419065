/** Frames of the engine socket: cut anywhere, ended early, malformed, too long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits } from '#core';
import type { Frame } from './frames.ts';
import { FrameDecoder, encodeFrameHeader } from './frames.ts';

function frameBytes(name: Frame['name'], payload: string): Buffer {
  return Buffer.concat([encodeFrameHeader(name, payload.length), Buffer.from(payload)]);
}

function decodeAll(decoder: FrameDecoder, pieces: readonly Uint8Array[]): [string, string][] {
  return pieces.flatMap((piece) => [...decoder.push(piece)].map((frame): [string, string] => [frame.name, Buffer.from(frame.payload).toString()]));
}

test('frames come out whole however the bytes are cut', () => {
  const bytes = Buffer.concat([frameBytes('call', '{}'), frameBytes('closeInput', ''), frameBytes('stdin', 'hello')]);
  const expected = [
    ['call', '{}'],
    ['closeInput', ''],
    ['stdin', 'hello'],
  ];
  for (let size = 1; size <= bytes.length; size++) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.subarray(index * size, (index + 1) * size));
    const decoder = new FrameDecoder();
    assert.deepEqual(decodeAll(decoder, pieces), expected, `pieces of ${size}`);
    assert.equal(decoder.isBetweenFrames, true);
  }
});

test('a stream that stops inside a frame is noticed', () => {
  const decoder = new FrameDecoder();
  assert.deepEqual(decodeAll(decoder, [frameBytes('stdin', 'hello').subarray(0, 6)]), []);
  assert.equal(decoder.isBetweenFrames, false);
  const headerOnly = new FrameDecoder();
  assert.deepEqual(decodeAll(headerOnly, [frameBytes('stdin', 'hello').subarray(0, 5)]), []);
  assert.equal(headerOnly.isBetweenFrames, false);
});

test('an unknown type and an endless length are refused before any payload is kept', () => {
  assert.throws(() => decodeAll(new FrameDecoder(), [Buffer.from('GET / HTTP/1.1\r\n')]), { code: 'invalidArgument', message: 'decode engine frame: unknown type 71' });
  const header = Buffer.from(encodeFrameHeader('stdin', 0));
  header.writeUInt32BE(limits.engineFrameBytesMax + 1, 1);
  assert.throws(() => decodeAll(new FrameDecoder(), [header]), {
    code: 'invalidArgument',
    message: `decode stdin frame: ${limits.engineFrameBytesMax + 1} bytes, the limit is ${limits.engineFrameBytesMax}`,
  });
});

test('a payload above the limit is not sent', () => {
  assert.throws(() => encodeFrameHeader('call', limits.engineFrameBytesMax + 1), { code: 'resourceExhausted' });
});
