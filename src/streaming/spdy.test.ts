/** SPDY frames and headers as bytes: what Kubernetes' clients send and read, cut anywhere, and what is none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { constants, createDeflate, createInflate } from 'node:zlib';
import { limits } from '#core';
import { type SpdyFrame, SpdyDecoder, encodeFrame } from './spdy-frames.ts';
import { HeaderReader, HeaderWriter, spdyDictionary } from './spdy-headers.ts';

test('the dictionary is that of SPDY/3, by length and by the checksum that streams carry', () => {
  assert.equal(spdyDictionary.length, 1423);
  const [opening] = [new HeaderWriter().write(new Map())];
  assert.equal(opening.subarray(0, 6).toString('hex'), '78bbe3c6a7c2');
});

/** One zlib stream over many blocks, as other implementations make and read it. */
async function run(stream: ReturnType<typeof createDeflate> | ReturnType<typeof createInflate>, block: Buffer): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const collect = (piece: Buffer): void => void pieces.push(piece);
  stream.on('data', collect);
  await new Promise<void>((resolve) => stream.write(block, () => resolve()));
  await new Promise<void>((resolve) => stream.flush(constants.Z_SYNC_FLUSH, () => resolve()));
  await new Promise((resolve) => setImmediate(resolve));
  stream.off('data', collect);
  return Buffer.concat(pieces);
}

function plainBlock(headers: readonly (readonly [string, string])[]): Buffer {
  const number = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  return Buffer.concat([number(headers.length), ...headers.flat().flatMap((text) => [number(text.length), Buffer.from(text)])]);
}

const samples: readonly (readonly (readonly [string, string])[])[] = [
  [
    ['streamtype', 'error'],
    ['port', '8080'],
    ['requestid', '0'],
  ],
  [
    ['streamtype', 'data'],
    ['port', '8080'],
    ['requestid', '0'],
  ],
  [],
  // More than the window of the compression.
  Array.from({ length: 50 }, (_, index) => [`name-${index}`, String(index).repeat(400)] as const),
  [
    ['streamtype', 'data'],
    ['port', '8080'],
    ['requestid', '1'],
  ],
];

test('headers of one continuous zlib stream are read block by block, with and without the dictionary', async () => {
  for (const options of [{ dictionary: spdyDictionary }, {}]) {
    const deflate = createDeflate(options);
    const reader = new HeaderReader();
    for (const headers of samples) assert.deepEqual([...reader.read(await run(deflate, plainBlock(headers)))], headers);
    deflate.destroy();
  }
});

test('blocks that are written are one continuous zlib stream to others', async () => {
  const inflate = createInflate({ dictionary: spdyDictionary });
  const writer = new HeaderWriter();
  for (const headers of samples) assert.deepEqual(await run(inflate, writer.write(new Map(headers))), plainBlock(headers));
  inflate.destroy();
});

test('a stream with another dictionary, a block that is cut and one that is too large are refused', () => {
  const reader = (): HeaderReader => new HeaderReader();
  assert.throws(() => reader().read(Buffer.from('78bb00000000', 'hex')), { code: 'invalidArgument', message: /another dictionary|dictionary that is not/ });
  assert.throws(() => reader().read(Buffer.from('1f8b0800', 'hex')), { code: 'invalidArgument', message: /no zlib stream/ });
  const block = new HeaderWriter().write(new Map([['a', 'b']]));
  assert.throws(() => reader().read(block.subarray(0, -9)), { code: 'invalidArgument', message: /cut off/ });
  const large = new HeaderWriter().write(new Map([['a', 'b'.repeat(limits.spdyControlBytesMax)]]));
  assert.ok(large.length < 1000);
  assert.throws(() => reader().read(large), { code: 'resourceExhausted', message: /more than 65536 bytes/ });
  const many = new HeaderWriter().write(new Map(Array.from({ length: limits.spdyHeadersMax + 1 }, (_, index) => [`n${index}`, ''])));
  assert.throws(() => reader().read(many), { code: 'resourceExhausted', message: /101 of them, at most 100/ });
});

const frames: readonly SpdyFrame[] = [
  { kind: 'synStream', id: 1, headers: Buffer.from('one'), fin: true, unidirectional: false },
  { kind: 'synStream', id: 3, headers: Buffer.alloc(0), fin: false, unidirectional: true },
  { kind: 'synReply', id: 2, headers: Buffer.from('two'), fin: false },
  { kind: 'rstStream', id: 5, status: 5 },
  {
    kind: 'settings',
    values: new Map([
      [4, 100],
      [7, 65_536],
    ]),
  },
  { kind: 'ping', id: 0xffff_ffff },
  { kind: 'goAway', lastId: 7, status: 0 },
  { kind: 'headers', id: 9, headers: Buffer.from('three'), fin: true },
  { kind: 'windowUpdate', id: 0, delta: 0x7fff_ffff },
];

test('frames come back as they were written, however their bytes are cut', () => {
  const bytes = Buffer.concat(frames.map(encodeFrame));
  for (const size of [1, 3, 8, 13, bytes.length]) {
    const decoder = new SpdyDecoder();
    const found: SpdyFrame[] = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...decoder.push(bytes.subarray(at, at + size)));
    assert.deepEqual(found, frames);
  }
});

test('data is handed on as it comes, and only its last piece ends the stream', () => {
  const decoder = new SpdyDecoder();
  const bytes = encodeFrame({ kind: 'data', id: 1, bytes: Buffer.from('0123456789'), fin: true });
  const pieces = [...decoder.push(bytes.subarray(0, 12)), ...decoder.push(bytes.subarray(12, 15)), ...decoder.push(bytes.subarray(15))];
  assert.deepEqual(
    pieces.map((frame) => (frame.kind === 'data' ? [frame.bytes.toString(), frame.fin] : [])),
    [
      ['0123', false],
      ['456', false],
      ['789', true],
    ],
  );
  const [empty] = [...decoder.push(encodeFrame({ kind: 'data', id: 1, bytes: Buffer.alloc(0), fin: true }))];
  assert.deepEqual(empty, { kind: 'data', id: 1, bytes: Buffer.alloc(0), fin: true });
});

test('thousands of frames of an unknown type in one piece are passed over', () => {
  const unknown = Buffer.from([0x80, 0x03, 0, 77, 0, 0, 0, 0]);
  const decoder = new SpdyDecoder();
  assert.deepEqual([...decoder.push(Buffer.concat([...Array.from({ length: 100_000 }, () => unknown), encodeFrame({ kind: 'ping', id: 1 })]))], [{ kind: 'ping', id: 1 }]);
});
