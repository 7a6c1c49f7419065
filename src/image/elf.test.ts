/** ELF files made by hand: what they need, and what damage does. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { decodeLoaderCache, expandSearchPath, isElf, readElfNeeds } from './elf.ts';

/** A 64-bit file whose one loadable segment is the whole file, at address 0x1000. */
function makeElf(options: { readonly interpreter?: string; readonly tags: readonly (readonly [number, string])[] }): Buffer {
  const file = Buffer.alloc(4096);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(62, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(3, 56);
  const strings = 2048;
  let end = strings + 1;
  const put = (text: string): number => {
    const at = end;
    end += file.write(`${text}\0`, at);
    return at;
  };
  const dynamic = 1024;
  const entries: [number, number][] = options.tags.map(([tag, text]) => [tag, put(text) - strings]);
  entries.push([5, 0x1000 + strings], [0, 0]);
  entries.forEach(([tag, value], index) => {
    file.writeBigUInt64LE(BigInt(tag), dynamic + index * 16);
    file.writeBigUInt64LE(BigInt(value), dynamic + index * 16 + 8);
  });
  const segments: [number, number, number, number][] = [
    [1, 0, 0x1000, 4096],
    [2, dynamic, 0x1000 + dynamic, entries.length * 16],
  ];
  if (options.interpreter !== undefined) segments.push([3, put(options.interpreter), 0, 0]);
  segments.forEach(([type, offset, address, size], index) => {
    const at = 64 + index * 56;
    file.writeUInt32LE(type, at);
    file.writeBigUInt64LE(BigInt(offset), at + 8);
    file.writeBigUInt64LE(BigInt(address), at + 16);
    file.writeBigUInt64LE(BigInt(size), at + 32);
  });
  return file;
}

const reader =
  (file: Buffer) =>
  (offset: number, length: number): Buffer =>
    file.subarray(offset, offset + length);

test('interpreter, libraries and search paths are read', () => {
  const file = makeElf({
    interpreter: '/lib64/ld.so',
    tags: [
      [1, 'libc.so.6'],
      [1, 'libm.so.6'],
      [29, '$ORIGIN/../lib:/opt/lib'],
      [15, '/old'],
    ],
  });
  assert.equal(isElf(file), true);
  assert.deepEqual(readElfNeeds(reader(file)), {
    machine: 62,
    is64Bit: true,
    interpreter: '/lib64/ld.so',
    libraries: ['libc.so.6', 'libm.so.6'],
    rpath: ['/old'],
    runpath: ['$ORIGIN/../lib', '/opt/lib'],
  });
  assert.deepEqual(expandSearchPath(['$ORIGIN/../lib', '${ORIGIN}', '$LIB/x', 'relative'], '/usr/bin'), ['/usr/bin/../lib', '/usr/bin']);
});

test('damage is an error and never a wild read', () => {
  const good = makeElf({ interpreter: '/ld', tags: [[1, 'libc.so.6']] });
  const damaged = (change: (file: Buffer) => void): Buffer => {
    const file = Buffer.from(good);
    change(file);
    return file;
  };
  const cases: readonly (readonly [Buffer, string])[] = [
    [Buffer.from('#!/bin/sh'), 'no ELF header'],
    [good.subarray(0, 60), 'header is cut off'],
    [damaged((file) => file.writeUInt8(2, 5)), 'not little-endian'],
    [damaged((file) => file.writeBigUInt64LE(2n ** 63n, 32)), 'an offset is out of range'],
    [damaged((file) => file.writeBigUInt64LE(100_000n, 32)), 'program headers are cut off'],
    [damaged((file) => file.writeUInt16LE(8, 54)), 'program headers are too small'],
    [damaged((file) => file.writeBigUInt64LE(2n ** 40n, 1024 + 16 + 8)), 'the string table is in no segment'],
    [damaged((file) => file.writeBigUInt64LE(1_000_000n, 1024 + 8)), 'a name has no end'],
  ];
  for (const [file, cause] of cases) {
    assert.throws(
      () => readElfNeeds(reader(file)),
      (error) => {
        assert.ok(error instanceof RuntimeError);
        assert.deepEqual([error.code, error.message], ['invalidArgument', `read ELF file: ${cause}`]);
        return true;
      },
    );
  }
});

test('the loader cache maps names to paths, and a cache of another shape to nothing', () => {
  const cache = Buffer.alloc(200);
  cache.write('glibc-ld.so.cache1.1');
  cache.writeUInt32LE(1, 20);
  cache.writeUInt32LE(100, 52);
  cache.writeUInt32LE(120, 56);
  cache.write('libx.so.1\0', 100);
  cache.write('/opt/libx.so.1\0', 120);
  assert.deepEqual([...decodeLoaderCache(cache)], [['libx.so.1', ['/opt/libx.so.1']]]);
  assert.equal(decodeLoaderCache(Buffer.from('something else')).size, 0);
  cache.writeUInt32LE(0xffff_ffff, 20);
  assert.equal(decodeLoaderCache(cache).has('libx.so.1'), true);
});
