/**
 * The image benchmark: Berth, Debian's containerd and the newest one pull the same images from a registry on the loopback
 * interface, each with a cold store and a fresh daemon, in turns. In: options below. Out: tables of wall and processor time and
 * peak memory with the ratio of medians and their spread. A report, never a test.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type BenchImage, benchImages, prepareImages, startRegistry } from './image-data.ts';
import { type PeerKind, berthPeer, debianContainerd, newestContainerd, startPeer } from './image-peers.ts';
import { formatTable, percentile, round } from './statistics.ts';

const home = fileURLToPath(new URL('..', import.meta.url));
const port = 5055;
const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    images: { type: 'string', default: Object.keys(benchImages).join() },
    'content-mib': { type: 'string', default: '500' },
    /** How many layers the newest containerd unpacks at a time; a list gives several peers. Its own default is one. */
    unpacks: { type: 'string', default: '1,4' },
    /** Further checkouts of Berth to compare with this one, as NAME=DIRECTORY. */
    checkout: { type: 'string', multiple: true, default: [] },
    peers: { type: 'string', default: 'berth,checkouts,debian,newest' },
    samples: { type: 'string' },
  },
});

interface Sample {
  readonly wall: number;
  readonly cpu: number;
  readonly peakBytes: number;
  /** Resident before the pull. */
  readonly idleBytes: number;
  /** Seconds that syncing the file system took afterwards. */
  readonly sync: number;
}

const run = (command: string, args: readonly string[]): string => execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

function timeSync(dir: string): number {
  const start = performance.now();
  run('sync', ['-f', dir]);
  return (performance.now() - start) / 1000;
}

/**
 * An empty ext4 of its own for every pull: on the machine's own, files that an earlier run has just removed make the next run's
 * new ones slow (ext4 without a journal does not hand out an inode again for five seconds, and searches long for another).
 */
function mountFresh(scratch: string): Disposable & { readonly dir: string } {
  const [file, dir] = [`${scratch}/disk`, `${scratch}/fs`];
  mkdirSync(dir, { recursive: true });
  run('truncate', ['-s', '6G', file]);
  run('mkfs.ext4', ['-q', '-F', file]);
  run('mount', ['-o', 'loop,noinit_itable', file, dir]);
  return {
    dir,
    [Symbol.dispose]: () => {
      run('umount', [dir]);
      rmSync(file);
    },
  };
}

async function pullOnce(kind: PeerKind, reference: string, scratch: string): Promise<Sample> {
  using disk = mountFresh(scratch);
  const dir = `${disk.dir}/peer`;
  {
    await using peer = await startPeer(kind, dir);
    timeSync(disk.dir);
    const idleBytes = peer.meter.residentBytes();
    const used = await peer.meter.measure(async () => peer.client.image('pullImage', { image: { image: reference } }));
    return { ...used, idleBytes, sync: timeSync(dir) };
  }
}

/** Median and, in brackets, the lowest and highest. */
function describe(samples: readonly number[]): string {
  return `${round(percentile(samples, 50))} (${round(Math.min(...samples))}–${round(Math.max(...samples))})`;
}

function report(image: BenchImage, kinds: readonly PeerKind[], samples: ReadonlyMap<string, readonly Sample[]>): string {
  const mib = 1024 * 1024;
  const all = (kind: PeerKind | undefined, what: (sample: Sample) => number): number[] => (samples.get(kind?.name ?? '') ?? []).map(what);
  const median = (kind: PeerKind | undefined, what: (sample: Sample) => number): number => percentile(all(kind, what), 50);
  const wall = (sample: Sample): number => sample.wall;
  const durable = (sample: Sample): number => sample.wall + sample.sync;
  const [first] = kinds;
  const rows = kinds.map((kind) => [
    kind.name,
    describe(all(kind, wall)),
    // Each run's own ratio: what drifts with the machine falls on both.
    describe(all(kind, wall).map((seconds, index) => seconds / (all(first, wall)[index] ?? Number.NaN))),
    describe(all(kind, durable)),
    round(median(kind, durable) / median(first, durable)),
    round(median(kind, (sample) => sample.cpu)),
    round(median(kind, (sample) => sample.idleBytes / mib)),
    describe(all(kind, (sample) => sample.peakBytes / mib)),
  ]);
  return `\n${image}: ${benchImages[image]}\n${formatTable([['', 'wall s', 'ratio', 'wall + sync s', 'ratio', 'cpu s', 'idle MiB', 'peak MiB'], ...rows])}`;
}

const kindsByName: Readonly<Record<string, readonly PeerKind[]>> = {
  berth: [berthPeer()],
  checkouts: values.checkout.map((pair) => berthPeer(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1))),
  debian: [debianContainerd],
  newest: values.unpacks.split(',').map((count) => newestContainerd(Number(count))),
};
const wanted = values.peers.split(',');
const hasNewest = existsSync(`${home}build/go/containerd/containerd`);
if (wanted.includes('newest') && !hasNewest) console.log('without the newest containerd: run scripts/build-go-tools.sh containerd first');
const kinds = wanted.filter((name) => name !== 'newest' || hasNewest).flatMap((name) => kindsByName[name] ?? []);
// SAFETY: the literal's own keys.
const images = (Object.keys(benchImages) as BenchImage[]).filter((image) => values.images.split(',').includes(image));

mkdirSync(`${home}build/bench`, { recursive: true });
const dataDir = await prepareImages(`${home}build/bench`, Number(values['content-mib']), port);
const scratch = mkdtempSync('/var/tmp/berth-bench-');
const registry = await startRegistry(dataDir, port);
const all: Record<string, Record<string, readonly Sample[]>> = {};
try {
  // What the registry reads comes from memory for everybody.
  run('sh', ['-c', `find ${dataDir} -type f -exec cat {} + >/dev/null`]);
  console.log(`${values.runs} runs in turns; seconds and MiB: median (lowest–highest); ratios: to ${kinds[0]?.name}`);
  for (const image of images) {
    const samples = new Map<string, Sample[]>(kinds.map(({ name }) => [name, []]));
    for (let index = 0; index < Number(values.runs); index += 1) {
      // Whoever goes first changes from run to run.
      for (let turn = 0; turn < kinds.length; turn += 1) {
        const kind = kinds[(index + turn) % kinds.length];
        if (kind === undefined) continue;
        samples.get(kind.name)?.push(await pullOnce(kind, `${registry.address}/${image}:latest`, scratch));
        if (process.stderr.isTTY) process.stderr.write(`\r${image}, run ${index + 1}, ${kind.name}        \r`);
      }
    }
    console.log(report(image, kinds, samples));
    all[image] = Object.fromEntries(samples);
  }
  if (values.samples !== undefined) writeFileSync(values.samples, JSON.stringify(all));
} finally {
  await registry.stop();
  rmSync(scratch, { recursive: true, force: true });
}
