/**
 * A process that opens a store, checks and cleans it, and pulls, to be killed at any moment. In: the directory and the reference to pull. Out: a line of
 * JSON per step on standard output.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageStore } from '#image';
import { StoreHost } from './image-host.ts';

const [dir = '', kept = '', reference = '', workerPath = ''] = process.argv.slice(2);
const say = (step: string, more: object = {}): void => void process.stdout.write(`${JSON.stringify({ step, ...more })}\n`);

/** Every file of the store outside of trees, and every tree. */
const listing = (): readonly string[] =>
  ['content/sha256', 'content/sha512', 'content/ingest', 'layers', 'index'].flatMap((name) => readdirSync(join(dir, 'state', name)).map((entry) => `${name}/${entry}`)).sort();

const host = new StoreHost(dir);

/** Opens the store; the launcher of the process that was killed may still be on its way out. */
async function openStore(): Promise<ImageStore> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await host.open({ workerPath });
    } catch (error) {
      if (tries >= 200 || !(error instanceof Error) || !error.message.startsWith('the state directory is held')) throw error;
      await sleep(100);
    }
  }
}

const store = await openStore();
const report = await store.verify({ repair: true });
say('verified', { problems: report.images.flatMap(({ problems }) => problems), images: report.images.map(({ names }) => names.join()), checkedFiles: report.checkedFiles });
await store.remove(reference);
await store.collect({ all: true });
const { usedBytes, inodesUsed } = await store.usage();
say('collected', { usedBytes, inodesUsed, listing: listing() });
if (store.resolve(kept) === undefined) {
  store.pin((await store.pull(kept)).id, true);
  say('kept');
}
say('pulling');
await store.pull(reference);
say('pulled');
// Until it is killed.
setInterval(() => undefined, 1_000);
