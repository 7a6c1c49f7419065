/**
 * podman with each of the runtimes: a container that ends at once, removed afterwards. In: runtimes and a scratch directory. Out: a table. No network, so that
 * its plugins are not what is measured; storage, runtime directory and cgroups are podman's own in the scratch directory.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import type { BenchRuntime } from './oci-peers.ts';
import { formatTable, percentile, round } from './statistics.ts';

const image = 'localhost/bench:latest';

/** Prints p50 and p99 of `podman run --rm IMAGE true` for each runtime, in turns. */
export async function measurePodman(scratch: string, runtimes: readonly BenchRuntime[], runs: number): Promise<void> {
  mkdirSync(`${scratch}/podman`);
  const podman = [
    'podman',
    '--root',
    `${scratch}/podman/root`,
    '--runroot',
    `${scratch}/run/podman`,
    '--tmpdir',
    `${scratch}/run/podman-tmp`,
    '--cgroup-manager',
    'cgroupfs',
    '--events-backend',
    'none',
  ];
  execFileSync('sh', ['-c', 'tar -C "$0" -c . | "$@"', `${scratch}/bundle-true/rootfs`, ...podman, 'import', '-', image], { stdio: ['ignore', 'ignore', 'pipe'] });
  const samples = new Map(runtimes.map(({ name }) => [name, [] as number[]]));
  for (let run = -1; run < runs; run += 1) {
    for (const { name, runtime, caller } of runtimes) {
      const ms = await caller.time([...podman, '--runtime', runtime.path, 'run', '--rm', '--network', 'none', '--log-driver', 'none', image, '/bin/true']);
      if (run >= 0) samples.get(name)?.push(ms);
    }
  }
  console.log(`\npodman run --rm of true, ${runs} runs, p50 / p99 ms`);
  console.log(formatTable([...samples].map(([name, values]) => [name, `${round(percentile(values, 50))} / ${round(percentile(values, 99))}`])));
}
