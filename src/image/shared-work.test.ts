/** Joined work: one run for all, and it ends with its last caller. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SharedWork } from './shared-work.ts';

test('callers with equal keys share one run and its progress', async () => {
  const work = new SharedWork<string, number>();
  const gate = Promise.withResolvers<string>();
  let runs = 0;
  const seen: number[][] = [[], []];
  const body = (tell: (progress: number) => void): Promise<string> => {
    runs += 1;
    tell(1);
    return gate.promise;
  };
  const both = [0, 1].map((index) => work.run('key', body, { onProgress: (progress) => seen[index]?.push(progress) }));
  gate.resolve('done');
  assert.deepEqual(await Promise.all(both), ['done', 'done']);
  assert.deepEqual([runs, seen], [1, [[1], [1]]]);
  assert.equal(await work.run('key', () => Promise.resolve('again'), {}), 'again');
});

test('a caller that aborts leaves the others undisturbed, and the last one ends the work', async () => {
  const work = new SharedWork<string, never>();
  const controllers = [new AbortController(), new AbortController()];
  let inner: AbortSignal | undefined;
  const body = (_tell: unknown, signal: AbortSignal): Promise<string> => {
    inner = signal;
    return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('ended'))));
  };
  const [first, second] = controllers.map((controller) => work.run('key', body, { signal: controller.signal }));
  assert.ok(first !== undefined && second !== undefined);
  await Promise.resolve();
  controllers[0]?.abort(new Error('left'));
  await assert.rejects(first, { message: 'left' });
  assert.equal(inner?.aborted, false);
  controllers[1]?.abort(new Error('left too'));
  await assert.rejects(second, { message: 'left too' });
  assert.equal(inner?.aborted, true);
});
