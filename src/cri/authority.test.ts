/** The rewriting of socket paths in compressed HTTP/2 headers, byte by byte. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AuthorityRewriter } from './authority.ts';

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

function frame(type: number, flags: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(1, 5);
  return Buffer.concat([header, payload]);
}

function plain(text: string): Buffer {
  return Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
}

/** `:method: POST` indexed, `:authority` as a literal that enters the table, then a literal with a name of its own. */
function headerBlock(authority: Buffer): Buffer {
  return Buffer.concat([Buffer.from([0x83, 0x41]), authority, Buffer.from([0x40]), plain('x-a'), plain('/b')]);
}

function rewrite(bytes: Buffer, pieceBytes = bytes.length): Buffer {
  const rewriter = new AuthorityRewriter();
  const output: Buffer[] = [];
  for (let offset = 0; offset < bytes.length; offset += pieceBytes) output.push(...rewriter.push(bytes.subarray(offset, offset + pieceBytes)));
  return Buffer.concat(output);
}

test('a socket path becomes a host of the same length, however the bytes are cut', () => {
  const before = Buffer.concat([preface, frame(4, 0, Buffer.alloc(6)), frame(1, 4, headerBlock(plain('/run/berth/b.sock'))), frame(0, 1, Buffer.from('data'))]);
  const after = Buffer.concat([preface, frame(4, 0, Buffer.alloc(6)), frame(1, 4, headerBlock(plain('-run-berth-b.sock'))), frame(0, 1, Buffer.from('data'))]);
  for (let pieceBytes = 1; pieceBytes <= before.length; pieceBytes++) assert.deepEqual(rewrite(before, pieceBytes), after, `pieces of ${pieceBytes}`);
});

test('a Huffman-coded path is decoded and written plainly', () => {
  // "/run/x" by the table of RFC 7541, appendix B: 011000 101100 101101 101010 011000 1111001, padded with ones.
  const bits = '0110001011001011011010100110001111001111';
  const encoded = Buffer.from(bits.match(/.{8}/g)?.map((byte) => Number.parseInt(byte, 2)) ?? []);
  const before = Buffer.concat([preface, frame(1, 4, headerBlock(Buffer.concat([Buffer.from([0x80 | encoded.length]), encoded])))]);
  assert.deepEqual(rewrite(before), Buffer.concat([preface, frame(1, 4, headerBlock(plain('-run-x')))]));
});

test('the Huffman example of RFC 7541, C.4.1, is a host and stays as it is', () => {
  const encoded = Buffer.from('f1e3c2e5f23a6ba0ab90f4ff', 'hex');
  const bytes = Buffer.concat([preface, frame(1, 4, headerBlock(Buffer.concat([Buffer.from([0x8c]), encoded])))]);
  assert.deepEqual(rewrite(bytes), bytes);
});

test('padding and priority are stepped over and kept', () => {
  const wrap = (block: Buffer): Buffer => frame(1, 4 | 8 | 0x20, Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 16]), block, Buffer.alloc(3)]));
  const bytes = (authority: string): Buffer => Buffer.concat([preface, wrap(headerBlock(plain(authority)))]);
  assert.deepEqual(rewrite(bytes('%2Frun')), bytes('-2Frun'));
});

test('what is no HTTP/2, and header blocks that make no sense, pass unchanged', () => {
  const http1 = Buffer.from('GET / HTTP/1.1\r\nHost: /run/x\r\n\r\n');
  assert.deepEqual(rewrite(http1, 1), http1);
  for (const block of [[0x41], [0x41, 0x7f], [0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0x41, 0x85, 0xff, 0xff, 0xff, 0xff, 0xfe], [0x40, 50, 1], []]) {
    const bytes = Buffer.concat([preface, frame(1, 4, Buffer.from(block))]);
    assert.deepEqual(rewrite(bytes), bytes, `block ${block.join(' ')}`);
  }
  const oversized = Buffer.concat([preface, frame(1, 4, Buffer.alloc(20_000, 0x41))]);
  assert.deepEqual(rewrite(oversized, 1000), oversized);
});
