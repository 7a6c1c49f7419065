/** The engine socket with a fake engine behind it: results, errors, progress, streams, cancellation, and peers that misbehave. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { BoundedQueue, RuntimeError, containerId, limits, podSandboxId } from '#core';
import type { ContainerStatus, Engine, EngineEvent, ImageSummary, PodSandboxConfig, ProcessStreams } from '#pod';
import { connectEngine, serveEngine } from '#remote';
import type { EngineServer } from '#remote';
import { fakeEngine } from '../fake-engine.ts';

const image: ImageSummary = { id: 'sha256:1', names: ['a'], digests: [], sizeBytes: 3, createdAtNs: 5n, pinned: false };
const podConfig: PodSandboxConfig = {
  metadata: { name: 'a', uid: 'u', namespace: 'default', attempt: 0 },
  hostname: '',
  logDirectory: '',
  portMappings: [],
  hostAliases: [],
  labels: { __proto__: 'x', a: 'b' },
  annotations: {},
  cgroupParent: '',
  sysctls: {},
  security: { namespaces: { network: 'pod', pid: 'container', ipc: 'pod' }, readonlyRootfs: false, supplementalGroups: [], privileged: false },
  resources: { memoryLimitBytes: 1n << 40n },
};

/** A process that copies its input to its output, and ends with the code 7 when the input is closed. */
function catProcess(events: string[]): ProcessStreams {
  const queue = new BoundedQueue<{ stream: 1 | 2; data: Uint8Array }>({ capacity: 100_000, overflowError: () => new Error('overflow') });
  const exit = Promise.withResolvers<number>();
  return {
    output: queue,
    exited: exit.promise,
    async write(data) {
      queue.push({ stream: 1, data: Uint8Array.from(data) });
    },
    async closeInput() {
      queue.end();
      exit.resolve(7);
    },
    async resize({ columns, rows }) {
      events.push(`resize ${columns}x${rows}`);
    },
    close() {
      events.push('closed');
      queue.end();
      exit.reject(new RuntimeError('cancelled', 'closed'));
    },
  };
}

let directory: string;
let server: EngineServer | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'berth-remote-'));
});

afterEach(async () => {
  await server?.close({ graceMs: 0 });
  server = undefined;
  rmSync(directory, { recursive: true });
});

async function serve(methods: Partial<Engine>): Promise<string> {
  const socketPath = join(directory, 'engine.sock');
  server = await serveEngine({ engine: fakeEngine(methods), socketPath, lasting: true });
  return socketPath;
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('arguments and results cross with bigints, and absent ones stay absent', async () => {
  const seen: unknown[] = [];
  const socketPath = await serve({
    async runPodSandbox(config, options, signal) {
      seen.push(config, options, signal?.aborted);
      return podSandboxId('p1');
    },
    imageStatus: async () => undefined,
    listImages: async () => [image],
  });
  const engine = await connectEngine(socketPath);
  assert.equal(await engine.runPodSandbox(podConfig), 'p1');
  assert.deepEqual(seen, [podConfig, undefined, false]);
  assert.equal(await engine.imageStatus('x'), undefined);
  assert.deepEqual(await engine.listImages(), [image]);
  engine.close();
});

test('the socket has mode 0600 and is gone after close', async () => {
  const socketPath = await serve({});
  assert.equal(statSync(socketPath).mode & 0o777, 0o600);
  await server?.close();
  server = undefined;
  assert.equal(statSync(socketPath, { throwIfNoEntry: false }), undefined);
  await assert.rejects(connectEngine(socketPath), { code: 'unavailable', message: `connect to engine ${socketPath}: no engine is running there` });
});

test('a living listener and a file in the way are refused, a stale socket is replaced', async () => {
  const socketPath = await serve({});
  await assert.rejects(serveEngine({ engine: fakeEngine({}), socketPath, lasting: true }), {
    code: 'alreadyExists',
    message: `listen on ${socketPath}: another process is listening there`,
  });
  const stalePath = join(directory, 'stale.sock');
  const dead = createServer().listen(join(directory, 'dead.sock'));
  await once(dead, 'listening');
  // Renamed, so that closing the server leaves its socket file behind, as a killed process does.
  renameSync(join(directory, 'dead.sock'), stalePath);
  dead.close();
  await once(dead, 'close');
  const replacing = await serveEngine({ engine: fakeEngine({ listImages: async () => [] }), socketPath: stalePath, lasting: true });
  assert.deepEqual(await (await connectEngine(stalePath)).listImages(), []);
  await replacing.close();
  const filePath = join(directory, 'file');
  writeFileSync(filePath, 'precious');
  await assert.rejects(serveEngine({ engine: fakeEngine({}), socketPath: filePath, lasting: true }), {
    code: 'failedPrecondition',
    message: `listen on ${filePath}: a file that is no socket is in the way`,
  });
});

test('errors keep code, message and errno; a method without an implementation answers', async () => {
  const socketPath = await serve({
    startContainer: async () => {
      throw new RuntimeError('resourceExhausted', 'start container abc: no space', { errno: 'ENOSPC' });
    },
  });
  const engine = await connectEngine(socketPath);
  await assert.rejects(engine.startContainer('abc'), { name: 'RuntimeError', code: 'resourceExhausted', message: 'start container abc: no space', errno: 'ENOSPC' });
  await assert.rejects(engine.listImages(), { code: 'unimplemented', message: 'fake engine: listImages' });
});

test('progress of every such method crosses, wherever its options stand', async () => {
  const report = { stage: 'verifying', bytesDone: 1, bytesTotal: 2 } as const;
  const seen: unknown[] = [];
  const socketPath = await serve({
    async verifyImages({ onProgress, ...options }) {
      seen.push(options);
      onProgress?.(report);
      return { images: [], checkedBytes: 1, checkedFiles: 2 };
    },
    async saveImages(names, path, { onProgress, ...options }) {
      seen.push(names, path, options);
      onProgress?.(report);
      return { images: [image], sizeBytes: 9 };
    },
    async importImages(path, { onProgress, ...options } = {}) {
      seen.push(path, options, typeof onProgress);
      onProgress?.(report);
      return [image];
    },
  });
  const engine = await connectEngine(socketPath);
  const reports: unknown[] = [];
  const onProgress = (progress: unknown): void => void reports.push(progress);
  assert.deepEqual(await engine.verifyImages({ repair: true, onProgress }), { images: [], checkedBytes: 1, checkedFiles: 2 });
  assert.deepEqual(await engine.saveImages(['a'], '/p', { format: 'oci-dir', onProgress }), { images: [image], sizeBytes: 9 });
  assert.deepEqual(await engine.importImages('/q'), [image]);
  assert.deepEqual(seen, [{ repair: true }, ['a'], '/p', { format: 'oci-dir' }, '/q', {}, 'function']);
  assert.deepEqual(reports, [report, report]);
  engine.close();
});

test('progress arrives before the result', async () => {
  const stages = ['resolving', 'downloading', 'done'] as const;
  const socketPath = await serve({
    async pullImage(reference, options) {
      for (const stage of stages) options?.onProgress?.({ stage, layer: reference, bytesDone: 1, bytesTotal: 2 });
      assert.deepEqual(options?.auth, { username: 'u' });
      return image;
    },
  });
  const engine = await connectEngine(socketPath);
  const progress: unknown[] = [];
  const pulled = await engine.pullImage('a:1', { auth: { username: 'u' }, onProgress: (report) => progress.push(report) });
  assert.deepEqual(pulled, image);
  assert.deepEqual(
    progress,
    stages.map((stage) => ({ stage, layer: 'a:1', bytesDone: 1, bytesTotal: 2 })),
  );
});

test('a result of 32 MiB of bytes crosses in parts', async () => {
  const stdout = new Uint8Array(16 * 1024 * 1024).fill(65);
  const stderr = new Uint8Array(16 * 1024 * 1024).fill(66);
  const socketPath = await serve({ execSync: async () => ({ stdout, stderr, exitCode: 3 }) });
  const engine = await connectEngine(socketPath);
  const result = await engine.execSync('c', ['x'], { timeoutMs: 0 });
  assert.equal(result.exitCode, 3);
  assert.ok(Buffer.from(result.stdout).equals(stdout) && Buffer.from(result.stderr).equals(stderr));
});

test('50 MB pass through a process both ways, with input, exit code and resize', async () => {
  const events: string[] = [];
  const socketPath = await serve({ exec: async () => catProcess(events) });
  const engine = await connectEngine(socketPath);
  const streams = await engine.exec('c', { command: ['cat'], tty: false, stdin: true });
  await streams.resize({ columns: 80, rows: 24 });
  const piece = new Uint8Array(1_000_000).map((_, index) => index % 251);
  const sending = (async () => {
    for (let index = 0; index < 50; index++) await streams.write(piece);
    await streams.closeInput();
  })();
  let byteCount = 0;
  for await (const { stream, data } of streams.output) {
    assert.equal(stream, 1);
    assert.equal(data[0], (byteCount % 1_000_000) % 251);
    byteCount += data.length;
  }
  await sending;
  assert.equal(byteCount, 50_000_000);
  assert.equal(await streams.exited, 7);
  assert.equal(events[0], 'resize 80x24');
  await assert.rejects(streams.write(piece), { code: 'failedPrecondition', message: 'use process streams: the process has ended' });
});

test('a consumer that does not read stops the process from being read', async () => {
  let producedBytes = 0;
  const chunk = new Uint8Array(64 * 1024);
  async function* output(): AsyncGenerator<{ stream: 1; data: Uint8Array }> {
    for (;;) {
      producedBytes += chunk.length;
      yield { stream: 1, data: chunk };
    }
  }
  const socketPath = await serve({ exec: async () => ({ ...catProcess([]), output: output() }) });
  const engine = await connectEngine(socketPath);
  const streams = await engine.exec('c', { command: ['yes'], tty: false, stdin: false });
  let before = -1;
  while (before !== producedBytes) {
    before = producedBytes;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(producedBytes > 0 && producedBytes < 8 * 1024 * 1024, `${producedBytes} bytes read ahead`);
  streams.close();
});

test('closing the streams closes the process, and abort rejects at once', async () => {
  const events: string[] = [];
  const aborted = Promise.withResolvers<unknown>();
  const socketPath = await serve({
    exec: async () => catProcess(events),
    waitContainer: async (_id, signal) => {
      signal?.addEventListener('abort', () => aborted.resolve(signal.reason));
      return await new Promise<ContainerStatus>(() => undefined);
    },
  });
  const engine = await connectEngine(socketPath);
  const streams = await engine.exec('c', { command: ['cat'], tty: false, stdin: true });
  streams.close();
  await until(() => events.includes('closed'));
  await assert.rejects(streams.exited, { code: 'cancelled', message: 'use process streams: closed' });

  const controller = new AbortController();
  const waiting = engine.waitContainer('c', controller.signal);
  await until(() => server?.activeCalls === 1);
  controller.abort();
  await assert.rejects(waiting, { code: 'cancelled', message: 'waitContainer: cancelled' });
  const reason = await aborted.promise;
  assert.ok(reason instanceof RuntimeError && reason.code === 'cancelled');
});

test('events made after the subscription are seen, and the iteration ends with the signal', async () => {
  const queue = new BoundedQueue<EngineEvent>({ capacity: 10, overflowError: () => new Error('overflow') });
  const socketPath = await serve({
    events: (signal) => {
      signal.addEventListener('abort', () => queue.end());
      return queue;
    },
    startContainer: async (id) => queue.push({ kind: 'containerStarted', podSandboxId: podSandboxId('p'), containerId: containerId(id), atNs: 9n }),
  });
  const engine = await connectEngine(socketPath);
  const controller = new AbortController();
  const events = engine.events(controller.signal);
  await engine.startContainer('c1');
  const seen: EngineEvent[] = [];
  for await (const event of events) {
    seen.push(event);
    controller.abort();
  }
  assert.deepEqual(seen, [{ kind: 'containerStarted', podSandboxId: 'p', containerId: 'c1', atNs: 9n }]);
  await until(() => server?.activeCalls === 0);
});

test('a closing owner refuses new calls, lets short ones end and aborts the rest with unavailable', async () => {
  const short = Promise.withResolvers<void>();
  const socketPath = await serve({
    startContainer: () => short.promise,
    waitContainer: async (_id, signal) => {
      await new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve()));
      throw new RuntimeError('cancelled', 'wait: cancelled');
    },
  });
  const engine = await connectEngine(socketPath);
  const starting = engine.startContainer('c');
  const waiting = engine.waitContainer('c');
  const waited = assert.rejects(waiting, { code: 'unavailable', message: 'call engine: the engine is closing' });
  await until(() => server?.activeCalls === 2);
  const closing = server?.close({ graceMs: 500 });
  await assert.rejects(engine.removeContainer('c'), { code: 'unavailable', message: 'call engine: the engine is closing' });
  short.resolve();
  await starting;
  await waited;
  await closing;
  server = undefined;
});

/** A server whose engine makes one foreground pod and notes what is removed. */
async function serveForeground(created: Promise<void>): Promise<{ readonly socketPath: string; readonly events: string[] }> {
  const events: string[] = [];
  const socketPath = await serve({
    async runPodSandbox(_config, options) {
      events.push(`run ${options?.foreground === true ? 'foreground' : 'detached'}`);
      await created;
      return podSandboxId('p1');
    },
    removePodSandbox: async (id) => void events.push(`remove ${id}`),
    listImages: async () => [],
  });
  return { socketPath, events };
}

test('a foreground pod is removed when the connection of its call ends, a detached one stays', async () => {
  const { socketPath, events } = await serveForeground(Promise.resolve());
  const engine = await connectEngine(socketPath);
  await engine.runPodSandbox(podConfig, { foreground: false });
  const signal = new AbortController();
  await engine.runPodSandbox(podConfig, { foreground: true }, signal.signal);
  // The signal was for the call, which is over; the pod lives on with the connection.
  signal.abort();
  await engine.listImages();
  assert.deepEqual(events, ['run detached', 'run foreground']);
  assert.equal(server?.activeCalls, 0);
  engine.close();
  await until(() => events.length > 2);
  assert.deepEqual(events, ['run detached', 'run foreground', 'remove p1']);
});

test('a foreground pod whose client goes away during the create is removed once it exists', async () => {
  const created = Promise.withResolvers<void>();
  const { socketPath, events } = await serveForeground(created.promise);
  const engine = await connectEngine(socketPath);
  const refused = assert.rejects(engine.runPodSandbox(podConfig, { foreground: true }), { code: 'unavailable' });
  await until(() => events.length === 1);
  engine.close();
  await refused;
  created.resolve();
  await until(() => events.length > 1);
  assert.deepEqual(events, ['run foreground', 'remove p1']);
});

test('a closing owner leaves foreground pods to its engine and does not wait for sessions', async () => {
  const { socketPath, events } = await serveForeground(Promise.resolve());
  const engine = await connectEngine(socketPath);
  await engine.runPodSandbox(podConfig, { foreground: true });
  const startMs = performance.now();
  await server?.close({ graceMs: 60_000 });
  server = undefined;
  assert.ok(performance.now() - startMs < 30_000);
  assert.deepEqual(events, ['run foreground']);
  engine.close();
});

test('an owner knows when its last client has gone', async () => {
  const socketPath = await serve({});
  const engines = await Promise.all([connectEngine(socketPath), connectEngine(socketPath)]);
  assert.deepEqual([server?.sessions, engines[0].isOwnerLasting], [2, true]);
  let unused = false;
  const waiting = server?.untilUnused(new AbortController().signal).then(() => (unused = true));
  engines[0].close();
  await until(() => server?.sessions === 1);
  assert.equal(unused, false);
  // The signal ends the wait of whoever does not want to wait.
  await server?.untilUnused(AbortSignal.abort());
  engines[1].close();
  await waiting;
  assert.equal(server?.sessions, 0);
});

test('the death of the owner ends calls and streams with unavailable', async () => {
  const socketPath = await serve({ exec: async () => catProcess([]) });
  const engine = await connectEngine(socketPath);
  const streams = await engine.exec('c', { command: ['cat'], tty: false, stdin: true });
  await server?.close({ graceMs: 0 });
  server = undefined;
  await assert.rejects(async () => await Array.fromAsync(streams.output), { code: 'unavailable' });
  await assert.rejects(streams.exited, { code: 'unavailable' });
});

test('connections beyond the limit are refused in words, and room made is room again', async () => {
  const socketPath = await serve({ listImages: async () => [image] });
  const engine = await connectEngine(socketPath);
  const silent = Array.from({ length: limits.engineConnectionsMax }, () => connect(socketPath));
  await Promise.all(silent.map(async (socket) => once(socket, 'connect')));
  await assert.rejects(engine.listImages(), { code: 'resourceExhausted', message: `call engine: more than ${limits.engineConnectionsMax} connections` });
  for (const socket of silent) socket.destroy();
  await until(async () => {
    const answer = await engine.listImages().catch(() => undefined);
    return answer !== undefined;
  });
});

test('garbage, silence and frames out of turn get an error and harm nobody else', async () => {
  const socketPath = await serve({ exec: async () => catProcess([]), listImages: async () => [image] });
  const engine = await connectEngine(socketPath);
  const call = JSON.stringify({ protocol: 3, method: 'exec', args: '["c",{"command":["cat"],"tty":false,"stdin":true}]' });
  const frame = (type: number, text: string): Buffer => {
    const bytes = Buffer.alloc(5 + text.length);
    bytes.writeUInt8(type, 0);
    bytes.writeUInt32BE(text.length, 1);
    bytes.write(text, 5);
    return bytes;
  };
  const answers = [
    [Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'unknown type 71'],
    [frame(2, 'stdin first'), 'the first frame must be a call'],
    [frame(1, '{"protocol":1}'), 'it speaks protocol 3, the client 1'],
    [frame(1, 'not json'), 'decode engine value'],
    [Buffer.concat([frame(1, call), frame(2, 'too early')]), 'the process is not running yet'],
  ] as const;
  for (const [bytes, expected] of answers) {
    const socket = connect(socketPath);
    socket.write(bytes);
    const received: Buffer[] = [];
    socket.on('data', (data) => received.push(Buffer.from(data)));
    await once(socket, 'close');
    assert.match(Buffer.concat(received).toString(), new RegExp(expected));
  }
  const silent = connect(socketPath);
  await once(silent, 'connect');
  assert.deepEqual(await engine.listImages(), [image]);
  silent.destroy();
});
