/**
 * The soak: a daemon through thousands of pod cycles, each with an ExecSync, a streamed exec, a log that is rotated under its writer and a
 * forwarded port, many at a time. In: `--cycles N`, `--parallel N`. Out: a line of figures per step, and exit status 1 where a cycle went
 * wrong, anything was left behind, or descriptors, memory or shims grew. Figures of time are only told, never judged.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { WebSocket } from 'ws';
import { RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox, patienceMs } from '../integration/berth-host.ts';
import { CriHost } from '../integration/cri-host.ts';
import { compareLedger, readLedger } from '../ledger.ts';

const { values } = parseArgs({ options: { cycles: { type: 'string', default: '2000' }, parallel: { type: 'string', default: '20' } } });
const cycles = Number(values.cycles);
const parallel = Number(values.parallel);
const steps = 20;
/** What the daemon may hold more in its last quarter than in its second one: buffers of the moment, never something per pod. */
const growthMax = { descriptors: 4, residentMiB: 24 } as const;
const { runPodSandbox, createContainer, startContainer, execSync, exec, portForward, reopenContainerLog, containerStatus, stopPodSandbox, removePodSandbox } =
  RuntimeService.method;

/** Bytes of a WebSocket message after the channel's number. */
function channelOf(data: WebSocket.RawData): { readonly channel: number; readonly bytes: Buffer } {
  assert.ok(Buffer.isBuffer(data));
  return { channel: data.readUInt8(0), bytes: data.subarray(1) };
}

/** Opens the URL, sends what `send` gives, and collects what comes on each channel until the server closes. */
async function converse(url: string, protocol: string, send: (socket: WebSocket) => void): Promise<ReadonlyMap<number, Buffer>> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), [protocol]);
  const channels = new Map<number, Buffer>();
  socket.on('message', (data) => {
    const { channel, bytes } = channelOf(data);
    channels.set(channel, Buffer.concat([channels.get(channel) ?? Buffer.alloc(0), bytes]));
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('open', () => send(socket));
    socket.once('error', reject);
    socket.once('close', () => resolve());
  });
  return channels;
}

const onChannel = (channel: number, text: string): Buffer => Buffer.concat([Buffer.of(channel), Buffer.from(text)]);

/** One pod from its start to its removal; throws where anything is not as it should be. */
async function cycle(cri: CriHost, index: number): Promise<void> {
  const pod = cri.podConfig();
  const { podSandboxId } = await cri.call(runPodSandbox, { config: pod });
  const script = `i=0; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done; exec ${busybox} httpd -f -p 8080 -h /`;
  const { containerId } = await cri.call(createContainer, { podSandboxId, config: cri.containerConfig(script), sandboxConfig: pod });
  await cri.call(startContainer, { containerId });

  const { stdout, exitCode } = await cri.call(execSync, { containerId, cmd: [busybox, 'sh', '-c', `echo ${index}; exit 3`], timeout: 60n });
  assert.deepEqual([Buffer.from(stdout).toString(), exitCode], [`${index}\n`, 3]);

  const path = (await cri.call(containerStatus, { containerId })).status?.logPath ?? '';
  renameSync(path, `${path}.old`);
  await cri.call(reopenContainerLog, { containerId });

  const command = await cri.call(exec, { containerId, cmd: [busybox, 'sh', '-c', 'cat; exit 5'], stdin: true, stdout: true, stderr: true });
  const text = `text of ${index} `.repeat(5000);
  const answers = await converse(command.url, 'v5.channel.k8s.io', (socket) => {
    socket.send(onChannel(0, text));
    socket.send(Buffer.of(255, 0));
  });
  assert.equal(answers.get(1)?.toString(), text);
  assert.match(answers.get(3)?.toString() ?? '', /"ExitCode","message":"5"/);

  await forwarded(cri, podSandboxId);

  const numbers = (): string[] =>
    [`${path}.old`, path].flatMap((file) => (existsSync(file) ? [...readFileSync(file, 'utf8').matchAll(/ stdout F line (\d+)\n/g)] : [])).map(([, number]) => number ?? '');
  const deadline = performance.now() + patienceMs;
  while (numbers().length < 2000 && performance.now() < deadline) await sleep(20);
  assert.deepEqual(
    numbers(),
    Array.from({ length: 2000 }, (_, line) => String(line)),
  );

  await cri.call(stopPodSandbox, { podSandboxId });
  await cri.call(removePodSandbox, { podSandboxId });
  rmSync(pod.logDirectory ?? '', { recursive: true, force: true });
}

/** The container's server through a forwarded port; it may not listen yet. */
async function forwarded(cri: CriHost, podSandboxId: string): Promise<void> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const { url } = await cri.call(portForward, { podSandboxId, port: [8080] });
    const answers = await converse(`${url}${url.includes('?') ? '&' : '?'}port=8080`, 'v4.channel.k8s.io', (socket) => socket.send(onChannel(0, 'GET /nothing HTTP/1.0\r\n\r\n')));
    // Each channel begins with the port's number.
    const answer = answers.get(0)?.subarray(2).toString() ?? '';
    if (answer.startsWith('HTTP/1.')) return;
    assert.ok(performance.now() < deadline, `no answer through the forwarded port: ${JSON.stringify(answer)} ${answers.get(1)?.subarray(2).toString() ?? ''}`);
    await sleep(50);
  }
}

/** What the daemon holds now. */
function measure(pid: number): { readonly descriptors: number; readonly residentMiB: number; readonly shims: number } {
  const resident = Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
  const shims = readdirSync('/proc').filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'utf8').startsWith('berth-shim\0shim');
    } catch {
      return false;
    }
  }).length;
  return { descriptors: readdirSync(`/proc/${pid}/fd`).length, residentMiB: Math.round(resident / 1024), shims };
}

/** Compares the valleys, since what stands between two collections of garbage says nothing. */
function growthOf(series: readonly ReturnType<typeof measure>[]): string[] {
  const quarter = steps / 4;
  const valley = (key: keyof ReturnType<typeof measure>, from: number): number => Math.min(...series.slice(from, from + quarter).map((sample) => sample[key]));
  const grown = (['descriptors', 'residentMiB'] as const).flatMap((key) => {
    const [early, late] = [valley(key, quarter), valley(key, steps - quarter)];
    return late - early > growthMax[key] ? [`${key} grew from ${early} to ${late}, more than ${growthMax[key]}`] : [];
  });
  const shims = series.at(-1)?.shims ?? 0;
  return shims === 0 ? grown : [...grown, `${shims} shims are left`];
}

const before = await readLedger('all');
const problems: string[] = [];
{
  await using cri = await CriHost.open([], { installed: true });
  const series: ReturnType<typeof measure>[] = [];
  let next = 0;
  for (let step = 0; step < steps; step += 1) {
    const end = Math.round((cycles * (step + 1)) / steps);
    const startedAt = performance.now();
    const work = async (): Promise<void> => {
      while (next < end && problems.length === 0) {
        const index = next++;
        await cycle(cri, index).catch((error: unknown) => problems.push(`cycle ${index}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`));
      }
    };
    const first = next;
    await Promise.all(Array.from({ length: parallel }, work));
    if (problems.length > 0) break;
    const now = measure(cri.daemonPid);
    series.push(now);
    const perSecond = ((end - first) / (performance.now() - startedAt)) * 1000;
    console.log(`${String(end).padStart(6)} cycles: ${now.descriptors} descriptors, ${now.residentMiB} MiB resident, ${now.shims} shims, ${perSecond.toFixed(1)} cycles/s`);
  }
  if (series.length === steps) problems.push(...growthOf(series));
}
problems.push(...(await compareLedger(before, 'all', { settleMs: patienceMs })));
for (const problem of problems) console.error(problem);
console.log(problems.length === 0 ? `soak: ${cycles} cycles, ${parallel} at a time: nothing grew and nothing is left` : `soak: ${problems.length} problems`);
process.exitCode = problems.length === 0 ? 0 : 1;
