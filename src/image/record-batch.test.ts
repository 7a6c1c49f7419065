/** Batches of layer records, compared with the records one by one. Pure. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type LayerRecord, encodeLayerRecord } from '#plan';
import { RecordBatch } from './record-batch.ts';

const file = (path: string, size: number, xattrs: readonly { readonly name: string; readonly value: Buffer }[] = []): LayerRecord => ({
  op: 'file',
  path,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtimeNs: 5n,
  xattrs,
  size: BigInt(size),
});

test('what is taken from a batch are the records in their order, whatever their sizes', () => {
  const batch = new RecordBatch();
  const records: LayerRecord[] = [];
  for (const size of [0, 1, 16 * 1024 - 1, 16 * 1024, 200 * 1024, 3, 1024 * 1024, 7]) {
    records.push(file(`f${size}`, size), { op: 'data', data: Buffer.alloc(size, size % 251) });
  }
  records.push(file('with', 0, [{ name: 'user.large', value: Buffer.alloc(300 * 1024, 1) }]), { op: 'finish' });
  const taken: Uint8Array[] = [];
  for (const [index, record] of records.entries()) {
    batch.add(record);
    if (index % 3 === 2) taken.push(...batch.take());
  }
  taken.push(...batch.take());
  assert.deepEqual(Buffer.concat(taken), Buffer.concat(records.map(encodeLayerRecord)));
  assert.deepEqual([batch.bytes, batch.take()], [0, []]);
});

test('large content is passed on without a copy, and the count of waiting bytes is exact', () => {
  const batch = new RecordBatch();
  const data = Buffer.alloc(64 * 1024, 7);
  batch.add({ op: 'data', data });
  assert.equal(batch.bytes, 8 + data.length);
  const pieces = batch.take();
  assert.equal(pieces.length, 2);
  assert.equal(pieces[1], data);
});
