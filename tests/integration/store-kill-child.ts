/**
 * A process that opens a store, checks and cleans it, and pulls, to be killed at any moment. In: the directory and the reference to pull. Out: a line of
 * JSON per step on standard output.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { StoreHost } from './image-host.ts';

const [dir = '', kept = '', reference = ''] = process.argv.slice(2);
const say = (step: string, more: object = {}): void => void process.stdout.write(`${JSON.stringify({ step, ...more })}\n`);

/** Every file of the store outside of trees, and every tree. */
const listing = (): readonly string[] =>
  ['content/sha256', 'content/sha512', 'content/ingest', 'layers', 'index'].flatMap((name) => readdirSync(join(dir, 'state', name)).map((entry) => `${name}/${entry}`)).sort();

const host = new StoreHost(dir);
const store = await host.open();
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
