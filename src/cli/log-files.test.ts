/** Reading logs that are written and rotated meanwhile. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { hostLogFiles } from './log-files.io.ts';

test('following goes on over rotation and ends after the last bytes', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'berth-log-'));
  try {
    const path = join(directory, '0.log');
    await writeFile(path, 'one\n');
    const ended = new AbortController();
    let text = '';
    // Each step waits for the one before to be read, so that no timing decides.
    const steps: (readonly [string, () => Promise<void>])[] = [
      ['one\n', async () => appendFile(path, 'two\n')],
      [
        'one\ntwo\n',
        async () => {
          await rename(path, `${path}.1`);
          await writeFile(path, 'three\n');
        },
      ],
      [
        'one\ntwo\nthree\n',
        async () => {
          await appendFile(path, 'four\n');
          ended.abort();
        },
      ],
    ];
    for await (const chunk of hostLogFiles.read(path, { follow: true, ended: ended.signal })) {
      text += Buffer.from(chunk).toString();
      if (steps[0]?.[0] === text) await steps.shift()?.[1]();
    }
    assert.equal(text, 'one\ntwo\nthree\nfour\n');
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('a link in place of the log, or what is no file, is refused', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'berth-log-'));
  try {
    await writeFile(join(directory, 'secret'), 'secret');
    await symlink(join(directory, 'secret'), join(directory, 'link'));
    const read = async (path: string): Promise<void> => {
      for await (const chunk of hostLogFiles.read(path, { follow: false, ended: new AbortController().signal })) assert.fail(`read ${chunk.length} bytes`);
    };
    await assert.rejects(
      read(join(directory, 'link')),
      (error) => error instanceof RuntimeError && error.errno === 'ELOOP' && error.message.startsWith(`read log ${directory}/link: ELOOP`),
    );
    await assert.rejects(read(directory), { code: 'failedPrecondition', message: `read log ${directory}: is no regular file` });
  } finally {
    await rm(directory, { recursive: true });
  }
});
