/** Tokens, statuses, sizes, names of protocols and the queue of input, without sockets or time. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Clock, RuntimeError, limits } from '#core';
import { ByteInbox, mustWait } from './inbox.ts';
import { decodePort } from './port-forward.ts';
import { commandProtocols, expectedStreams, negotiate, splitNames, webSocketProtocols } from './protocols.ts';
import { SizeDecoder } from './remote-command.ts';
import { encodeStatus } from './status.ts';
import { StreamTokens } from './tokens.ts';
import type { StreamTarget } from './types.ts';

const target = { kind: 'attach', containerId: 'c', stdin: true, stdout: true, stderr: true, tty: false } as const satisfies StreamTarget;

/** A clock that stands still until it is moved. */
function clockAt(times: { now: number }): Clock {
  let serial = 0;
  return {
    nowNs: () => 0n,
    monotonicMs: () => times.now,
    sleep: async () => undefined,
    randomBytes: (byteCount) => {
      serial += 1;
      return new Uint8Array(byteCount).fill(serial);
    },
  };
}

test('a token stands for its target once, for its kind, within its time', () => {
  const times = { now: 0 };
  const tokens = new StreamTokens(clockAt(times));
  const [first, second, third] = [tokens.issue(target), tokens.issue(target), tokens.issue(target)];
  assert.equal(tokens.take('attach', first), target);
  assert.equal(tokens.take('attach', first), undefined);
  assert.equal(tokens.take('exec', second), undefined);
  assert.equal(tokens.take('attach', second), undefined, 'a wrong kind uses it up');
  times.now = limits.streamTokenAgeMsMax;
  assert.equal(tokens.take('attach', third), undefined);
  for (const nonsense of ['', 'x', `${first}=`, '__proto__', '../../x', `${first}\0`]) assert.equal(tokens.take('attach', nonsense), undefined);
});

test('an exit code is a status object from version 4 on, and text before', () => {
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
  assert.equal(text(encodeStatus({ kind: 'exited', exitCode: 0 }, 'object')), '{"metadata":{},"status":"Success"}');
  assert.equal(text(encodeStatus({ kind: 'exited', exitCode: 0 }, 'text')), '');
  assert.equal(text(encodeStatus({ kind: 'exited', exitCode: 137 }, 'text')), 'command terminated with non-zero exit code: exit status 137');
  const status: unknown = JSON.parse(text(encodeStatus({ kind: 'failed', error: new RuntimeError('notFound', 'no "such" thing') }, 'object')));
  assert.deepEqual(status, {
    metadata: {},
    status: 'Failure',
    message: 'no "such" thing',
    reason: 'InternalError',
    details: { causes: [{ message: 'no "such" thing' }] },
    code: 500,
  });
});

test('sizes of a terminal come in any pieces, and what is none ends their stream', () => {
  const decoder = new SizeDecoder();
  const text = '{"Width":1,"Height":2}\n{"Height":4,"Width":3}{"Width":65535,"Height":0,"X":1}';
  const found = [...text].flatMap((character) => decoder.push(Buffer.from(character)));
  assert.deepEqual(found, [
    { columns: 1, rows: 2 },
    { columns: 3, rows: 4 },
    { columns: 65_535, rows: 0 },
  ]);
  for (const wrong of ['{}', '{"Width":1}', '{"Width":1.5,"Height":1}', '{"Width":"1","Height":1}', '{"Width":65536,"Height":1}', 'null}', '[1}', '}'])
    assert.throws(() => new SizeDecoder().push(Buffer.from(wrong)), { code: 'invalidArgument', message: /^decode terminal size: / });
  assert.throws(() => new SizeDecoder().push(Buffer.alloc(limits.resizeBytesMax + 1, ' ')), { code: 'invalidArgument', message: /longer than 1024 bytes/ });
});

test('the first protocol of the client that is served is chosen', () => {
  assert.equal(negotiate(splitNames(' v9.x , v3.channel.k8s.io,v4.channel.k8s.io'), commandProtocols)?.name, 'v3.channel.k8s.io');
  assert.equal(negotiate([], commandProtocols), undefined);
  assert.equal(negotiate(['toString'], webSocketProtocols('exec')), undefined);
  assert.equal(negotiate(['SPDY/3.1+portforward.k8s.io'], webSocketProtocols('exec')), undefined);
  assert.equal(negotiate(['v5.channel.k8s.io'], webSocketProtocols('portForward')), undefined);
});

test('a client opens the streams that were asked for, one for errors, and one for the size of a terminal', () => {
  assert.deepEqual(expectedStreams(target, { resize: true }), ['error', 'stdin', 'stdout', 'stderr']);
  assert.deepEqual(expectedStreams({ stdin: false, stdout: true, stderr: false, tty: true }, { resize: true }), ['error', 'stdout', 'resize']);
  assert.deepEqual(expectedStreams({ stdin: false, stdout: true, stderr: false, tty: true }, { resize: false }), ['error', 'stdout']);
});

test('ports are numbers from 1 to 65535', () => {
  assert.deepEqual(['1', '65535', '00080'].map(decodePort), [1, 65_535, 80]);
  for (const wrong of ['', '0', '65536', '-1', '1e3', '0x50', ' 80', '80 ', '999999']) assert.throws(() => decodePort(wrong), { code: 'invalidArgument' }, wrong);
});

test('input waits in order, counts what was taken, and knows the weight of crumbs', async () => {
  let taken = 0;
  const inbox = new ByteInbox((byteCount) => (taken += byteCount));
  for (const text of ['a', '', 'bc']) inbox.push(Buffer.from(text));
  assert.ok(inbox.weight > 500);
  inbox.end();
  inbox.push(Buffer.from('late'));
  let read = '';
  for await (const piece of inbox) read += Buffer.from(piece).toString();
  assert.deepEqual([read, taken, inbox.weight], ['abc', 7, 0]);
});

test('what waits does not hold the chunk that it came in, and long pieces are not copied', async () => {
  const inbox = new ByteInbox(() => undefined);
  const chunk = Buffer.alloc(64 * 1024, 'x');
  inbox.push(chunk.subarray(0, 32 * 1024));
  inbox.push(chunk.subarray(0, 1));
  inbox.push(chunk.subarray(0, 32 * 1024));
  for (let count = 0; count < 100; count += 1) inbox.push(chunk.subarray(0, 1));
  inbox.end();
  const read: Uint8Array[] = [];
  for await (const piece of inbox) read.push(piece);
  assert.deepEqual(
    read.map(({ length, buffer }) => [length, buffer === chunk.buffer]),
    [
      [32 * 1024, true],
      [1, false],
      [32 * 1024, true],
      [100, false],
    ],
  );
});

test('a connection is left unread for one stream that has much to take, and for many that have some', () => {
  const make = (count: number, byteCount: number): ByteInbox[] =>
    Array.from({ length: count }, () => {
      const inbox = new ByteInbox(() => undefined);
      inbox.push(Buffer.alloc(byteCount));
      return inbox;
    });
  const half = limits.streamInputBytesMax / 2;
  assert.equal(mustWait(make(1, limits.streamInputBytesMax)), true);
  assert.equal(mustWait(make(2, half)), false);
  assert.equal(mustWait(make(limits.streamConnectionInputBytesMax / half, half)), true);
});

test('input that is given up is dropped, and its reader learns why', async () => {
  let taken = 0;
  const failed = new ByteInbox((byteCount) => (taken += byteCount));
  failed.push(Buffer.from('lost'));
  failed.fail(new RuntimeError('cancelled', 'gone'));
  await assert.rejects(failed[Symbol.asyncIterator]().next(), { code: 'cancelled', message: 'gone' });
  const discarded = new ByteInbox((byteCount) => (taken += byteCount));
  discarded.push(Buffer.from('123'));
  discarded.discard();
  discarded.push(Buffer.from('45'));
  assert.equal(taken, 9);
  assert.equal(discarded.weight, 0);
});
