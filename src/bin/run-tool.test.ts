/** Programs that are run for their answer: what comes back, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits } from '#core';
import { runTool } from './run-tool.ts';

test('gives the exit code and what the program printed of its input', async () => {
  assert.deepEqual(await runTool({ name: 'sh', args: ['-c', 'cat; exit 3'], stdin: 'registry.example' }), { exitCode: 3, stdout: 'registry.example' });
});

test('a program that does not read is no error', async () => {
  assert.deepEqual(await runTool({ name: 'true', args: [], stdin: 'x'.repeat(1024 * 1024) }), { exitCode: 0, stdout: '' });
});

test('a program that is not there is not found, and a path is no name', async () => {
  await assert.rejects(runTool({ name: 'docker-credential-berth-has-none', args: ['get'], stdin: '' }), { code: 'notFound', message: /^run docker-credential-berth-has-none: / });
  await assert.rejects(runTool({ name: '/bin/true', args: [], stdin: '' }), { code: 'invalidArgument', message: 'run "/bin/true": is no name of a program' });
});

test('a program that prints without end is ended', async () => {
  await assert.rejects(runTool({ name: 'yes', args: [], stdin: '' }), {
    code: 'resourceExhausted',
    message: `run yes: it prints more than ${limits.credentialToolBytesMax} bytes`,
  });
});

test('a program that is killed has no answer', async () => {
  await assert.rejects(runTool({ name: 'sh', args: ['-c', 'kill -9 $$'], stdin: '' }), { code: 'aborted', message: 'run sh: it was ended by SIGKILL' });
});
