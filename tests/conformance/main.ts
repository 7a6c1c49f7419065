/**
 * `npm run conformance:cri`: the official conformance suite of CRI against Berth and against the newest containerd, in the same hour on the same
 * machine. In: options that narrow the runs. Out: a line per run, every difference from expected.json, outcomes as JSON in
 * build/conformance/results/; exit status 1 for any difference. Started by scripts/conformance.sh, in namespaces of its own.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ConformanceHost, type ConformanceRun, nameOf } from './conformance.ts';
import type { Transport } from './critest.ts';
import { readExpected } from './expected.ts';
import type { NetworkName, PeerName } from './servers.ts';

const results = new URL('../../build/conformance/results', import.meta.url).pathname;
const usage =
  'usage: npm run conformance:cri -- [--peer berth|containerd] [--network bridge|cni] [--transport spdy|websocket] [--handler NAME] [--focus RE] [--parallel N] [--seed N]';

function fail(message: string): never {
  console.error(`conformance: ${message}\n${usage}`);
  process.exit(2);
}

function choose<T extends string>(name: string, value: string | undefined, all: readonly T[]): readonly T[] {
  if (value === undefined) return all;
  const found = all.find((candidate) => candidate === value);
  return found === undefined ? fail(`--${name} ${value}: must be one of ${all.join(', ')}`) : [found];
}

function readNumber(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  return /^[1-9][0-9]{0,8}$/.test(value) ? Number(value) : fail(`--${name} ${value}: must be a number from 1`);
}

/** parseArgs, whose errors are the user's. */
function readOptions<T extends Record<string, { readonly type: 'string' }>>(options: T): ReturnType<typeof parseArgs<{ options: T }>> {
  try {
    return parseArgs({ options });
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function readRuns(): readonly ConformanceRun[] {
  const text = { type: 'string' } as const;
  const { values } = readOptions({ peer: text, network: text, transport: text, handler: text, focus: text, parallel: text, seed: text });
  const [seed, parallel] = [readNumber('seed', values.seed), readNumber('parallel', values.parallel)];
  const runs = choose<PeerName>('peer', values.peer, ['berth', 'containerd']).flatMap((peer) =>
    choose<NetworkName>('network', values.network, ['bridge', 'cni']).flatMap((network) =>
      choose<Transport>('transport', values.transport, ['spdy', 'websocket']).flatMap((transport): ConformanceRun[] => {
        // The peer has no network of its own.
        if (peer === 'containerd' && network === 'bridge') return [];
        return [
          {
            peer,
            network,
            transport,
            ...(values.handler === undefined ? {} : { runtimeHandler: values.handler }),
            ...(values.focus === undefined ? {} : { focus: values.focus }),
            ...(seed === undefined ? {} : { seed }),
            ...(parallel === undefined ? {} : { parallel }),
          },
        ];
      }),
    ),
  );
  return runs.length > 0 ? runs : fail('containerd has no built-in bridge; use --network cni');
}

const runs = readRuns();
const { suite } = readExpected();
console.log(`critest of ${suite}`);
mkdirSync(results, { recursive: true });
let failed = false;
await using host = await ConformanceHost.open();
for (const run of runs) {
  try {
    const { outcomes, differences, durationMs } = await host.run(run);
    const of = (outcome: string): number => outcomes.filter((spec) => spec.outcome === outcome).length;
    writeFileSync(join(results, `${nameOf(run)}.json`), `${JSON.stringify({ suite, run, outcomes }, null, 2)}\n`);
    console.log(
      `${nameOf(run).padEnd(26)} ${of('passed')} passed, ${of('failed')} failed, ${of('skipped')} skipped; ${differences.length === 0 ? 'as expected' : `${differences.length} differences`} (${(durationMs / 1000).toFixed(1)} s)`,
    );
    for (const difference of differences) console.log(`  ${difference.replaceAll('\n', '\n    ')}`);
    failed ||= differences.length > 0;
  } catch (error) {
    failed = true;
    console.log(error instanceof Error ? error.message : String(error));
  }
}
process.exitCode = failed ? 1 : 0;
