/**
 * The pod benchmark: Berth and Debian's containerd with runc, one gRPC connection each, in alternating runs on this machine.
 * In: `--runs N`, `--burst N`, `--gap-ms N`. Out: tables with p50, p99 and the ratio of medians. A report, never a test.
 */
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Peer, image, startPeers, unmountScratch } from './peers.ts';
import { formatTable, percentile, round } from './statistics.ts';

const { values } = parseArgs({ options: { runs: { type: 'string', default: '60' }, burst: { type: 'string', default: '50' }, 'gap-ms': { type: 'string', default: '20' } } });
const runs = Number(values.runs);
const burst = Number(values.burst);
const gapMs = Number(values['gap-ms']);
/** What one peer still does in the background must not fall on the other. */
const settleMs = 200;

const steps = ['RunPodSandbox', 'CreateContainer', 'StartContainer', 'pod start', 'ExecSync true', 'StopPodSandbox', 'RemovePodSandbox', 'stop and remove'] as const;
type Step = (typeof steps)[number];
type Samples = Record<Step, number[]>;

let serial = 0;
/** The configuration of one pod; names never repeat, as those of a kubelet do not. */
function podConfig(): Record<string, unknown> {
  serial += 1;
  return {
    metadata: { name: `bench-${serial}`, uid: `uid-${process.pid}-${serial}`, namespace: 'bench', attempt: 0 },
    hostname: `bench-${serial}`,
    logDirectory: '',
    linux: { securityContext: { namespaceOptions: { network: 0, pid: 1, ipc: 0 } } },
  };
}
const containerConfig = {
  metadata: { name: 'main', attempt: 0 },
  image: { image },
  command: ['/bin/sleep'],
  args: ['1000000'],
  linux: { securityContext: { namespaceOptions: { network: 0, pid: 1, ipc: 0 } } },
};

async function timed(into: number[], call: () => Promise<Record<string, unknown>>): Promise<Record<string, unknown>> {
  const start = performance.now();
  const reply = await call();
  into.push(performance.now() - start);
  return reply;
}

async function startPod({ client }: Peer, samples: Samples): Promise<{ podSandboxId: unknown; containerId: unknown }> {
  const config = podConfig();
  const start = performance.now();
  const { podSandboxId } = await timed(samples.RunPodSandbox, async () => client.runtime('runPodSandbox', { config }));
  const { containerId } = await timed(samples.CreateContainer, async () => client.runtime('createContainer', { podSandboxId, config: containerConfig, sandboxConfig: config }));
  await timed(samples.StartContainer, async () => client.runtime('startContainer', { containerId }));
  samples['pod start'].push(performance.now() - start);
  return { podSandboxId, containerId };
}

async function endPod({ client }: Peer, podSandboxId: unknown, samples: Samples): Promise<void> {
  const start = performance.now();
  await timed(samples.StopPodSandbox, async () => client.runtime('stopPodSandbox', { podSandboxId }));
  await timed(samples.RemovePodSandbox, async () => client.runtime('removePodSandbox', { podSandboxId }));
  samples['stop and remove'].push(performance.now() - start);
}

function emptySamples(): Samples {
  return { RunPodSandbox: [], CreateContainer: [], StartContainer: [], 'pod start': [], 'ExecSync true': [], StopPodSandbox: [], RemovePodSandbox: [], 'stop and remove': [] };
}

async function oneCycle(peer: Peer, samples: Samples): Promise<void> {
  const { podSandboxId, containerId } = await startPod(peer, samples);
  await sleep(gapMs);
  await timed(samples['ExecSync true'], async () => peer.client.runtime('execSync', { containerId, cmd: ['/bin/true'], timeout: 10n }));
  await sleep(gapMs);
  await endPod(peer, podSandboxId, samples);
  await sleep(gapMs);
}

/** Proportional set size in bytes of one process; 0 when it is gone. */
function pssOf(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** Processes whose name begins with one of these, and pause processes, which containerd's pods have. */
function helperPids(names: readonly string[], pauseImagePids: ReadonlySet<number>): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      if (pauseImagePids.has(pid)) return true;
      try {
        const comm = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
        return names.some((name) => comm.startsWith(name));
      } catch {
        return false;
      }
    });
}

function availableMemory(): number {
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) * 1024;
}

/** Children of containerd's shims that are not workload: the pause container of each pod. */
function pausePids(workloads: ReadonlySet<number>, peer: Peer): ReadonlySet<number> {
  if (peer.name === 'berth') return new Set();
  const shims = new Set(helperPids(['containerd-shim'], new Set()));
  return new Set(
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => {
        try {
          const parent = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
          return shims.has(parent) && !workloads.has(pid);
        } catch {
          return false;
        }
      }),
  );
}

interface Burst {
  readonly seconds: number;
  readonly daemonPss: number;
  readonly helpersPerPod: number;
  readonly availablePerPod: number;
}

async function measureBurst(peer: Peer): Promise<Burst> {
  const before = availableMemory();
  const start = performance.now();
  const pods = await Promise.all(Array.from({ length: burst }, async () => startPod(peer, emptySamples())));
  const seconds = (performance.now() - start) / 1000;
  await sleep(1000);
  const workloads = new Set<number>();
  for (const { containerId } of pods) {
    const { info } = await peer.client.runtime('containerStatus', { containerId, verbose: true });
    const pid = Number(/"pid":\s*(\d+)/.exec(JSON.stringify(info).replaceAll('\\"', '"'))?.[1] ?? 0);
    workloads.add(pid);
  }
  const helpers = helperPids(peer.helperNames, pausePids(workloads, peer));
  const result = {
    seconds,
    daemonPss: pssOf(peer.daemonPid),
    helpersPerPod: helpers.reduce((sum, pid) => sum + pssOf(pid), 0) / burst,
    availablePerPod: (before - availableMemory()) / burst,
  };
  await Promise.all(pods.map(async ({ podSandboxId }) => endPod(peer, podSandboxId, emptySamples())));
  await sleep(1000);
  return result;
}

const scratch = mkdtempSync('/var/tmp/berth-bench-');
const peers = await startPeers(scratch);
const samples = new Map(peers.map((peer) => [peer.name, emptySamples()]));
try {
  for (const peer of peers) for (let warm = 0; warm < 3; warm += 1) await oneCycle(peer, emptySamples());
  for (let run = 0; run < runs; run += 1) {
    for (const peer of peers) {
      const into = samples.get(peer.name);
      if (into !== undefined) await oneCycle(peer, into);
      await sleep(settleMs);
    }
    if (process.stderr.isTTY) process.stderr.write(`\r${run + 1} of ${runs}`);
  }
  const [ours, theirs] = peers.map((peer) => samples.get(peer.name) ?? emptySamples());
  const rows = steps.map((step) => {
    const [a, b] = [ours?.[step] ?? [], theirs?.[step] ?? []];
    return [
      step,
      round(percentile(a, 50)),
      round(percentile(a, 99)),
      round(percentile(b, 50)),
      round(percentile(b, 99)),
      round(percentile(b, 50) / percentile(a, 50)),
      round(percentile(b, 99) / percentile(a, 99)),
    ];
  });
  console.log(`\nmilliseconds, ${runs} alternating runs, ${gapMs} ms between calls`);
  console.log(formatTable([['', 'berth p50', 'p99', `${peers[1]?.name} p50`, 'p99', 'ratio p50', 'ratio p99'], ...rows]));
  const bursts = [];
  for (const peer of peers) bursts.push(await measureBurst(peer));
  const [a, b] = bursts;
  if (a !== undefined && b !== undefined) {
    const mib = (bytes: number): string => round(bytes / 1024 / 1024);
    console.log(`\n${burst} pods at once`);
    console.log(
      formatTable([
        ['', 'berth', peers[1]?.name ?? '', 'ratio'],
        ['seconds until all run', round(a.seconds), round(b.seconds), round(b.seconds / a.seconds)],
        ['daemon PSS, MiB', mib(a.daemonPss), mib(b.daemonPss), round(b.daemonPss / a.daemonPss)],
        ['shim and pause per pod, PSS, MiB', mib(a.helpersPerPod), mib(b.helpersPerPod), round(b.helpersPerPod / a.helpersPerPod)],
        ['fall of MemAvailable per pod, MiB', mib(a.availablePerPod), mib(b.availablePerPod), round(b.availablePerPod / a.availablePerPod)],
      ]),
    );
  }
  if (process.env['BERTH_BENCH_SAMPLES'] !== undefined) writeFileSync(process.env['BERTH_BENCH_SAMPLES'], JSON.stringify(Object.fromEntries(samples)));
} finally {
  for (const peer of peers) {
    peer.client.close();
    await peer.stop();
  }
  unmountScratch(scratch);
  rmSync(scratch, { recursive: true, force: true });
}
