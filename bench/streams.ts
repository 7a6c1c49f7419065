/**
 * The streams benchmark: bytes through standard input and output of an exec, with the official crictl as the client of Berth and of Debian's
 * containerd with runc, in alternating runs on this machine. In: `--runs N`, `--mib N`. Out: a table of medians and ratios. A report, never a test.
 */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Peer, image, startPeers, unmountScratch } from './peers.ts';
import { formatTable, percentile, round } from './statistics.ts';

const { values } = parseArgs({ options: { runs: { type: 'string', default: '7' }, mib: { type: 'string', default: '256' } } });
const runs = Number(values.runs);
const byteCount = Number(values.mib) * 1024 * 1024;
const home = new URL('..', import.meta.url).pathname;
const crictl = `${home}build/go/crictl`;

/** What is measured; `only` is what one of the peers can do. */
const cases = [
  { name: 'exec true, ms', transport: 'spdy', kind: 'true' },
  { name: 'stdout over SPDY, MB/s', transport: 'spdy', kind: 'stdout' },
  { name: 'stdin over SPDY, MB/s', transport: 'spdy', kind: 'stdin' },
  // Debian's containerd does not know the protocol that crictl speaks over WebSocket.
  { name: 'stdout over WebSocket, MB/s', transport: 'websocket', kind: 'stdout', only: 'berth' },
  { name: 'stdin over WebSocket, MB/s', transport: 'websocket', kind: 'stdin', only: 'berth' },
] as const;
type Case = (typeof cases)[number];

const containerConfig = {
  metadata: { name: 'main', attempt: 0 },
  image: { image },
  command: ['/bin/sleep'],
  args: ['1000000'],
  linux: { securityContext: { namespaceOptions: { network: 2, pid: 1 } } },
};

async function startContainer({ client, name }: Peer): Promise<{ readonly podSandboxId: unknown; readonly containerId: string }> {
  const config = { metadata: { name: `bench-${name}`, uid: name, namespace: 'bench', attempt: 0 }, linux: { securityContext: { namespaceOptions: { network: 2, pid: 1 } } } };
  const { podSandboxId } = await client.runtime('runPodSandbox', { config });
  const { containerId } = await client.runtime('createContainer', { podSandboxId, config: containerConfig, sandboxConfig: config });
  await client.runtime('startContainer', { containerId });
  return { podSandboxId, containerId: String(containerId) };
}

/** Milliseconds of one crictl, from its start to its end. */
async function runCrictl(args: readonly string[], input: string): Promise<number> {
  const stdin = openSync(input, 'r');
  const start = performance.now();
  const child = spawn(crictl, args, { stdio: [stdin, 'ignore', 'inherit'] });
  closeSync(stdin);
  const status = await new Promise((resolve) => child.once('exit', resolve));
  if (status !== 0) throw new Error(`crictl ${args.join(' ')}: status ${String(status)}`);
  return performance.now() - start;
}

async function measure(socketPath: string, containerId: string, { transport, kind }: Case, input: string): Promise<number> {
  const exec = ['--config', '/dev/null', '--runtime-endpoint', `unix://${socketPath}`, 'exec', '-r', transport];
  switch (kind) {
    case 'true':
      return runCrictl([...exec, containerId, '/bin/true'], '/dev/null');
    case 'stdout':
      return runCrictl([...exec, containerId, '/bin/busybox', 'head', '-c', String(byteCount), '/dev/zero'], '/dev/null');
    case 'stdin':
      return runCrictl([...exec, '-i', containerId, '/bin/busybox', 'sh', '-c', `[ $(/bin/busybox wc -c) = ${byteCount} ]`], input);
  }
}

const scratch = mkdtempSync('/var/tmp/berth-bench-');
const peers = await startPeers(scratch);
try {
  const input = `${scratch}/input`;
  writeFileSync(input, '');
  truncateSync(input, byteCount);
  const sockets: Readonly<Record<string, string>> = { berth: `${scratch}/berth/cri.sock`, 'containerd+runc': `${scratch}/containerd/containerd.sock` };
  const containers = new Map<Peer, { readonly podSandboxId: unknown; readonly containerId: string }>();
  for (const peer of peers) containers.set(peer, await startContainer(peer));
  const samples = new Map<string, number[]>();
  // The first round warms both up.
  for (let round = 0; round <= runs; round += 1) {
    for (const what of cases) {
      for (const [peer, { containerId }] of containers) {
        if ('only' in what && what.only !== peer.name) continue;
        const elapsedMs = await measure(sockets[peer.name] ?? '', containerId, what, input);
        const key = `${what.name} ${peer.name}`;
        if (round > 0) samples.set(key, [...(samples.get(key) ?? []), what.kind === 'true' ? elapsedMs : byteCount / 1e6 / (elapsedMs / 1000)]);
      }
    }
  }
  const median = (what: Case, peer: Peer): number => percentile(samples.get(`${what.name} ${peer.name}`) ?? [Number.NaN], 50);
  const [berth, other] = peers;
  if (berth === undefined || other === undefined) throw new Error('bug: two peers are measured');
  const rows = cases.map((what) => {
    const [own, theirs] = [median(what, berth), median(what, other)];
    return [what.name, round(own), Number.isNaN(theirs) ? '-' : round(theirs), Number.isNaN(theirs) ? '-' : round(own / theirs)];
  });
  console.log(execFileSync(crictl, ['--version'], { encoding: 'utf8' }).trim());
  console.log(`median of ${runs} alternating runs, ${values.mib} MiB each`);
  console.log(formatTable([['', berth.name, other.name, 'ratio'], ...rows]));
  for (const [{ client }, { podSandboxId }] of containers) {
    await client.runtime('stopPodSandbox', { podSandboxId });
    await client.runtime('removePodSandbox', { podSandboxId });
  }
} finally {
  for (const peer of peers) {
    peer.client.close();
    await peer.stop();
  }
  unmountScratch(scratch);
  rmSync(scratch, { recursive: true, force: true });
}
