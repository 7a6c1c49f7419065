/** Files between a pipe and the engine: who may read them, what is left. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, test } from 'node:test';
import { createTransfer } from './transfers.io.ts';

const scratch = mkdtempSync(`${tmpdir()}/transfers-`);
after(() => rmSync(scratch, { recursive: true }));

test('what is filled in can be read by this user only, and nothing is left', async () => {
  const directory = `${scratch}/made/transfers`;
  const transfer = await createTransfer(directory);
  assert.equal(existsSync(transfer.path), false);
  await transfer.fill(
    (async function* source() {
      yield Buffer.from('one');
      yield Buffer.from('two');
    })(),
  );
  assert.deepEqual([statSync(directory).mode & 0o777, statSync(transfer.path).mode & 0o777], [0o700, 0o600]);
  assert.equal(Buffer.concat(await Array.fromAsync(transfer.read())).toString(), 'onetwo');
  await transfer.remove();
  await transfer.remove();
  assert.deepEqual(readdirSync(directory), []);
});

test('two at once do not meet, and a file of the engine’s is read', async () => {
  const [first, second] = await Promise.all([createTransfer(scratch), createTransfer(scratch)]);
  assert.notEqual(first.path, second.path);
  writeFileSync(first.path, 'x'.repeat(3_000_000));
  let bytes = 0;
  for await (const chunk of first.read()) {
    // A command that is killed now leaves nothing.
    assert.equal(existsSync(first.path), false);
    bytes += chunk.length;
  }
  assert.equal(bytes, 3_000_000);
  await Promise.all([first.remove(), second.remove()]);
});

test('a source that fails and a directory that cannot be made are said', async () => {
  const transfer = await createTransfer(scratch);
  const failing = transfer.fill(
    (async function* source() {
      yield Buffer.from('x');
      throw new Error('broken');
    })(),
  );
  await assert.rejects(failing, { message: `copy standard input to ${transfer.path}: broken` });
  await transfer.remove();
  writeFileSync(`${scratch}/file`, '');
  await assert.rejects(createTransfer(`${scratch}/file`), { message: new RegExp(`^make a directory in ${scratch}/file: `) });
});
