/** The netlink frame: lengths, padding, slots, and bytes that are none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { attribute, cString, decodeAttributes, decodeMessages, encodeMessages, listAttributes, nested, nlm, textOf, u32, u8 } from './netlink.ts';

test('a message has its length, type, flags and a sequence number from 1', () => {
  const { messages } = encodeMessages([
    { type: 16, flags: nlm.create, parts: [u32(7)] },
    { type: 17, flags: 0, parts: [] },
  ]);
  assert.equal(messages.toString('hex'), '1400000010000504010000000000000007000000' + '10000000110005000200000000000000');
});

test('a control message asks for no acknowledgement', () => {
  const { messages } = encodeMessages([{ type: 16, flags: 0, control: true, parts: [] }]);
  assert.equal(decodeMessages(messages)[0]?.flags, nlm.request);
});

test('attributes are padded to four bytes, and only the padding of attributes inside is counted', () => {
  const { messages } = encodeMessages([{ type: 1, flags: 0, parts: [nested(5, attribute(1, u8(9)), attribute(2, cString('ab')))] }]);
  assert.equal(messages.subarray(16).toString('hex'), '14000580' + '0500010009000000' + '0700020061620000');
});

test('a slot leaves four bytes to be patched and its place in the datagram', () => {
  const encoded = encodeMessages([
    { type: 1, flags: 0, parts: [u32(1)] },
    { type: 2, flags: 0, parts: [attribute(3, attribute(28, { slot: 5 }))] },
  ]);
  assert.deepEqual(encoded.slotPatches, [20 + 16 + 8, 5]);
  assert.equal(encoded.messages.readUInt32LE(44), 0);
});

test('attributes come back by their type without flags, and repeated ones in order', () => {
  const { messages } = encodeMessages([{ type: 1, flags: 0, parts: [nested(5, attribute(1, cString('x')), attribute(1, cString('y')))] }]);
  const inner = decodeAttributes(decodeMessages(messages)[0]?.body ?? Buffer.alloc(0)).get(5) ?? Buffer.alloc(0);
  assert.deepEqual(
    listAttributes(inner).map(({ type, value }) => [type, textOf(value)]),
    [
      [1, 'x'],
      [1, 'y'],
    ],
  );
});

for (const [what, hex, message] of [
  ['a message longer than the datagram', '20000000100005000100000000000000', 'decode netlink: a message of 32 bytes in 16'],
  ['a message shorter than its header', '08000000100005000100000000000000', 'decode netlink: a message of 8 bytes in 16'],
  ['a rest that is no header', '100000', 'decode netlink: 3 bytes after the last message'],
] as const) {
  test(`${what} is refused`, () => {
    assert.throws(
      () => decodeMessages(Buffer.from(hex, 'hex')),
      (error: unknown) => error instanceof RuntimeError && error.code === 'internal' && error.message === message,
    );
  });
}

for (const [hex, message] of [
  ['0900010000000000', 'decode netlink: an attribute of 9 bytes in 8'],
  ['03000100', 'decode netlink: an attribute of 3 bytes in 4'],
  ['0400', 'decode netlink: 2 bytes after the last attribute'],
] as const) {
  test(`attributes ${hex} are refused`, () => {
    assert.throws(
      () => decodeAttributes(Buffer.from(hex, 'hex')),
      (error: unknown) => error instanceof RuntimeError && error.code === 'internal' && error.message === message,
    );
  });
}
