/** The engine's methods on images: what reaches the store, what is refused before it. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { PodEngine } from './engine.ts';
import type { ImagePort } from './ports.ts';
import { Journal, ManualClock } from './testing/doubles.ts';
import { fakeDependencies } from './testing/engine-doubles.ts';

function setUp(): { readonly engine: PodEngine; readonly calls: unknown[][] } {
  const calls: unknown[][] = [];
  const answer = {};
  // SAFETY: every method of this store writes down its call and gives the same answer, which the engine only hands on.
  const images = new Proxy(
    {},
    {
      get:
        (_, name) =>
        (...args: unknown[]) => (calls.push([name, ...args]), answer),
    },
  ) as ImagePort;
  const journal = new Journal();
  const clock = new ManualClock();
  const engine = new PodEngine(fakeDependencies(journal, clock, { images }));
  return { engine, calls };
}

it('the options and the signal of a call reach the store together, and no signal where there was none', async () => {
  const { engine, calls } = setUp();
  const { signal } = new AbortController();
  const platform = { os: 'linux', architecture: 'arm64' };
  await engine.pullImage('a', { platform }, signal);
  await engine.pullImage('a');
  await engine.pushImage('a', { destination: 'b' }, signal);
  await engine.importImages('/p', { name: 'n' }, signal);
  await engine.saveImages(['a'], '/p', { format: 'oci-dir' }, signal);
  await engine.verifyImages({ repair: true }, signal);
  await engine.collectImages({ all: true }, signal);
  await engine.imageTags('r', {}, signal);
  await engine.imageReferrers('r', { artifactType: 't' }, signal);
  await engine.removeImage('a', { untagOnly: true });
  await engine.tagImage('a', 'b');
  await engine.pinImage('a', true);
  assert.deepEqual(calls, [
    ['pull', 'a', { platform, signal }],
    ['pull', 'a', {}],
    ['push', 'a', { destination: 'b', signal }],
    ['importImages', '/p', { name: 'n', signal }],
    ['save', ['a'], '/p', { format: 'oci-dir', signal }],
    ['verify', { repair: true, signal }],
    ['collect', { all: true, signal }],
    ['tags', 'r', { signal }],
    ['referrers', 'r', { artifactType: 't', signal }],
    ['remove', 'a', { untagOnly: true }],
    ['tag', 'a', 'b'],
    ['pin', 'a', true],
  ]);
});

it('paths must be absolute, as the working directory of a client is not that of the engine', async () => {
  const { engine, calls } = setUp();
  await assert.rejects(engine.importImages('a.tar'), { code: 'invalidArgument', message: 'import images from "a.tar": must be an absolute path' });
  await assert.rejects(engine.saveImages(['a'], '../a.tar', { format: 'oci-archive' }), {
    code: 'invalidArgument',
    message: 'save images to "../a.tar": must be an absolute path',
  });
  await assert.rejects(engine.saveImages(['a'], '/a\0', { format: 'oci-archive' }), { code: 'invalidArgument' });
  assert.deepEqual(calls, []);
});

it('usage is that of images and that of writable layers', async () => {
  const { engine } = setUp();
  assert.deepEqual(await engine.imageUsage(), { images: {}, containers: { atNs: 1n, mountpoint: '/containers', usedBytes: 2, inodesUsed: 3 } });
});
