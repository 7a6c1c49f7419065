/** A file that is written and read at the same time, and inflating out of it, in one thread. In: bytes, whole or broken. Out: the same bytes. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { RuntimeError } from '#core';
import { type Digest, digestOf } from '#oci';
import { BlobReader, GrowingFile, grownBytes, newGrowth } from './growing-file.io.ts';
import { compressionOf, inflate } from './inflate.io.ts';
import type { BlobTarget } from './worker-messages.ts';

describe('a growing file', () => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-growing-'));
  after(() => rmSync(dir, { recursive: true, force: true }));
  const sha256 = (bytes: Buffer): Digest => digestOf('sha256', createHash('sha256').update(bytes).digest('hex'));
  let count = 0;
  function target(bytes: Buffer, haveBytes = 0): BlobTarget {
    const path = join(dir, String((count += 1)));
    writeFileSync(path, bytes.subarray(0, haveBytes));
    return { digest: sha256(bytes), sizeBytes: bytes.length, path, haveBytes, growth: newGrowth(haveBytes) };
  }
  const quiet = { signal: new AbortController().signal, onWaiting: () => undefined };
  async function readAll(reader: BlobReader): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (let piece = await reader.next(); piece !== undefined; piece = await reader.next()) pieces.push(Buffer.from(piece));
    return Buffer.concat(pieces);
  }

  test('is read in order while pieces come out of order, after what was there', async () => {
    const bytes = randomBytes(900_000);
    const blob = target(bytes, 1000);
    using file = new GrowingFile(blob, () => undefined);
    using reader = new BlobReader(blob, quiet);
    const reading = readAll(reader);
    const starts = [500_000, 400_000, 800_000, 1000, 700_000, 600_000];
    const ends = new Map([...starts].sort((a, b) => a - b).map((start, index, all) => [start, all[index + 1] ?? bytes.length]));
    const grown: number[] = [];
    for (const start of starts) {
      await file.write(start, bytes.subarray(start, ends.get(start)));
      grown.push(grownBytes(blob.growth));
    }
    assert.deepEqual(grown, [1000, 1000, 1000, 600_000, 600_000, 900_000]);
    assert.ok((await reading).equals(bytes));
    await reader.check();
  });

  test('takes no byte beyond its size, and its digest decides', async () => {
    const bytes = randomBytes(1000);
    const blob = target(bytes);
    using file = new GrowingFile(blob, () => undefined);
    await assert.rejects(
      file.write(900, bytes.subarray(0, 101)),
      (error) => error instanceof RuntimeError && error.code === 'dataLoss' && /more than the 1000 bytes/.test(error.message),
    );
    await file.write(0, Buffer.alloc(1000));
    using reader = new BlobReader(blob, quiet);
    await assert.rejects(reader.check(), (error) => error instanceof RuntimeError && error.message.startsWith(`verify blob ${blob.digest}: the content is sha256:`));
  });

  test('lets a reader go that is cancelled while it waits', async () => {
    const controller = new AbortController();
    const waits: boolean[] = [];
    using reader = new BlobReader(target(randomBytes(10)), { signal: controller.signal, onWaiting: (isWaiting) => void waits.push(isWaiting) });
    const reading = reader.next();
    controller.abort();
    await assert.rejects(reading, { name: 'AbortError' });
    assert.deepEqual(waits, [true, false]);
  });

  test('is inflated by what its first bytes say, and a broken one is invalid', async () => {
    const text = Buffer.from('content '.repeat(50_000));
    assert.deepEqual(
      [compressionOf(text), compressionOf(gzipSync(text)), compressionOf(zstdCompressSync(text)), compressionOf(new Uint8Array(0))],
      ['none', 'gzip', 'zstd', 'none'],
    );
    for (const [compression, packed] of [['none', text] as const, ['gzip', gzipSync(text)] as const, ['zstd', zstdCompressSync(text)] as const]) {
      using reader = new BlobReader(target(packed, packed.length), quiet);
      const inflating = await inflate(reader);
      assert.equal(inflating.compression, compression);
      const pieces: Buffer[] = [];
      for await (const piece of inflating.pieces) pieces.push(piece);
      assert.ok(Buffer.concat(pieces).equals(text));
      await reader.check();
    }
    const broken = gzipSync(randomBytes(10_000)).subarray(0, 5000);
    using reader = new BlobReader(target(broken, broken.length), quiet);
    const { pieces } = await inflate(reader);
    await assert.rejects(
      async () => {
        for await (const _piece of pieces);
      },
      (error) => error instanceof RuntimeError && error.code === 'invalidArgument' && error.message === 'inflate gzip layer: unexpected end of file',
    );
  });
});
