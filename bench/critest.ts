/**
 * critest's own benchmarks, against Berth and the newest containerd with the newest runc, in alternating rounds on this machine. In: `--rounds N`,
 * `--pods N`, `--containers N`, `--images N`, `--parallel N`. Out: per operation p50 and p99 of each and the ratio of the medians. A report, never a
 * test. Started by run.sh of this folder.
 */
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ConformanceHost } from '../tests/conformance/conformance.ts';
import { runCritest } from '../tests/conformance/critest.ts';
import { benchmarkImages } from '../tests/conformance/images.ts';
import { type NetworkName, type PeerName, startServer } from '../tests/conformance/servers.ts';
import { formatTable, percentile, round } from './statistics.ts';

const number = (fallback: string) => ({ type: 'string', default: fallback }) as const;
const { values } = parseArgs({ options: { rounds: number('3'), pods: number('40'), containers: number('40'), images: number('10'), parallel: number('1') } });

/** A peer and the network that is fast with it: Berth's own, and the plugins with which containerd is deployed. */
const judged: readonly { readonly name: string; readonly peer: PeerName; readonly network: NetworkName }[] = [
  { name: 'berth', peer: 'berth', network: 'bridge' },
  { name: 'berth, CNI', peer: 'berth', network: 'cni' },
  { name: 'containerd, CNI', peer: 'containerd', network: 'cni' },
];

const critest = new URL('../build/go/critest', import.meta.url).pathname;
const files = ['pod_benchmark_data.json', 'container_benchmark_data.json', 'image_lifecycle_benchmark_data.json', 'image_listing_benchmark_data.json'];

const parameters = {
  podsNumber: Number(values.pods),
  podsNumberParallel: Number(values.parallel),
  containersNumber: Number(values.containers),
  containersNumberParallel: Number(values.parallel),
  imagesNumber: Number(values.images),
  imagesNumberParallel: 1,
  imagePullingBenchmarkImage: benchmarkImages[0],
  imageListingBenchmarkImages: benchmarkImages,
  podBenchmarkTimeoutSeconds: 600,
  containerBenchmarkTimeoutSeconds: 600,
  imageBenchmarkTimeoutSeconds: 600,
  podContainerStartBenchmarkTimeoutSeconds: 600,
};

/** What the suite writes per benchmark. */
interface BenchmarkData {
  readonly operationsNames: readonly string[];
  readonly datapoints: readonly { readonly operationsDurationsNs: readonly number[] }[];
}

/** Samples in milliseconds by the name of the operation. */
type Samples = Map<string, number[]>;

function readSamples(directory: string, into: Samples): void {
  for (const file of files) {
    // SAFETY: critest wrote it, in the form of its LifecycleBenchmarksResultsSet.
    const { operationsNames, datapoints } = JSON.parse(readFileSync(join(directory, file), 'utf8')) as BenchmarkData;
    for (const [index, name] of operationsNames.entries()) {
      const samples = into.get(name) ?? [];
      samples.push(...datapoints.map(({ operationsDurationsNs }) => (operationsDurationsNs[index] ?? Number.NaN) / 1e6));
      into.set(name, samples);
    }
  }
}

await using host = await ConformanceHost.open();
const samples = new Map(judged.map(({ name }) => [name, new Map() as Samples]));
for (let turn = 0; turn < Number(values.rounds); turn += 1) {
  for (const { name, peer, network } of judged) {
    const scratch = host.scratch();
    const directory = join(scratch, 'suite');
    mkdirSync(directory);
    symlinkSync(critest, join(directory, 'critest.test'));
    await using server = await startServer(scratch, { peer, network, certsDir: host.certsDir });
    const outcomes = await runCritest({ socketPath: server.socketPath, transport: 'spdy', directory, parallel: 1, seed: 1, timeoutMs: 1_200_000, benchmark: parameters });
    for (const outcome of outcomes) if (outcome.outcome === 'failed') throw new Error(`${name}: ${outcome.name}: ${outcome.message}`);
    readSamples(directory, samples.get(name) ?? new Map());
    console.error(`round ${turn + 1}: ${name}`);
  }
}

const [own, ...others] = judged.map(({ name }) => samples.get(name) ?? (new Map() as Samples));
if (own === undefined) throw new Error('nothing was measured');
console.log(
  `critest -benchmark, ms, p50 / p99; ${values.rounds} rounds of ${values.pods} pods, ${values.containers} containers, ${values.images} pulls, ${values.parallel} at a time\n`,
);
const describe = (all: readonly number[]): string => `${round(percentile(all, 50))} / ${round(percentile(all, 99))}`;
const peer = others.at(-1) ?? own;
console.log(
  formatTable([
    ['', ...judged.map(({ name }) => name), 'ratio', 'ratio, both CNI'],
    ...[...own].map(([operation, all]) => {
      const theirs = percentile(peer.get(operation) ?? [], 50);
      const ratio = (mine: readonly number[]): string => `${round(theirs / percentile(mine, 50))}×`;
      return [operation, ...judged.map(({ name }) => describe(samples.get(name)?.get(operation) ?? [])), ratio(all), ratio(others[0]?.get(operation) ?? [])];
    }),
  ]),
);
