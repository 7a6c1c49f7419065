/** The daemon's log: form of lines, levels, fields of calls and events, and a reader that is slow or gone. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { RuntimeError, containerId, limits, podSandboxId } from '#core';
import type { ContainerStatus, EngineEvent, PodSandboxStatus } from '#pod';
import { logCall, logEvents, logFailure } from './daemon-log.ts';
import { openLogSink } from './log-sink.ts';
import { type Log, createLog } from './log.ts';
import type { LogFormat, LogLevel } from './settings.ts';

const scratch = mkdtempSync(`${tmpdir()}/berth-log-`);
after(() => rmSync(scratch, { recursive: true }));

function openLog({ level = 'info', format = 'json' }: { readonly level?: LogLevel; readonly format?: LogFormat } = {}): { readonly log: Log; readonly lines: string[] } {
  const lines: string[] = [];
  return { log: createLog({ level, format, sink: { write: (line) => void lines.push(line) }, now: () => 1_706_702_400_123 }), lines };
}
const parsed = (lines: readonly string[]): readonly unknown[] => lines.map((line) => JSON.parse(line));
const time = '2024-01-31T12:00:00.123Z';

test('an entry is one JSON object with level, time, fields and message', () => {
  const { log, lines } = openLog();
  log.info('a\nb', { podSandboxId: 'p1', durationMs: 1.5 });
  assert.deepEqual(lines, [`{"level":"info","time":"${time}","podSandboxId":"p1","durationMs":1.5,"message":"a\\nb"}\n`]);
});

test('for people: time, level, message, then fields; control characters stay escaped', () => {
  const { log, lines } = openLog({ format: 'text' });
  log.warn('it "broke" at \\ \u001b[31m', { podSandboxId: 'p1', reason: 'two words\u009b31m\u202e', files: ['/a'], exitCode: 0 });
  assert.deepEqual(lines, [`${time} WARN  it "broke" at \\ \\u001b[31m podSandboxId=p1 reason="two words\\u009b31m\\u202e" files=["/a"] exitCode=0\n`]);
});

test('the level can be changed while the log is open', () => {
  const { log, lines } = openLog({ level: 'warn' });
  for (const level of ['error', 'warn', 'info', 'debug'] as const) log[level](level);
  log.setLevel('debug');
  assert.equal(log.isEnabled('debug'), true);
  log.debug('now');
  assert.deepEqual(
    parsed(lines).map((line) => Object(line).message),
    ['error', 'warn', 'now'],
  );
});

test('a failed call is an error where the fault is ours and a warning where it is the client’s; an answered one is for debugging', () => {
  const { log, lines } = openLog({ level: 'debug' });
  const call = { method: 'RuntimeService/StopContainer', durationMs: 1.26, containerId: 'c1' };
  logCall(log, { ...call, error: new RuntimeError('internal', 'bug: x') });
  logCall(log, { ...call, error: new RuntimeError('notFound', 'container c1: not found') });
  logCall(log, call);
  const fields = { time, containerId: 'c1', method: call.method, durationMs: 1.3 };
  assert.deepEqual(parsed(lines), [
    { ...fields, level: 'error', code: 'internal', message: 'bug: x' },
    { ...fields, level: 'warn', code: 'notFound', message: 'container c1: not found' },
    { ...fields, level: 'debug', message: 'call answered' },
  ]);
});

test('the stack of a failure is told at level debug only, and long messages are cut', () => {
  const info = openLog();
  const debug = openLog({ level: 'debug' });
  const error = new RuntimeError('unavailable', 'x'.repeat(10_000));
  logFailure(info.log, error);
  logFailure(debug.log, error);
  assert.deepEqual(parsed(info.lines), [{ level: 'error', time, code: 'unavailable', message: 'x'.repeat(limits.logMessageCharactersMax) }]);
  assert.equal(typeof Object(parsed(debug.lines)[0]).stack, 'string');
});

test('changes of pods and containers are lines with their ids and names; what is gone has its ids alone; a backlog is told', async () => {
  const { log, lines } = openLog();
  const done = new AbortController();
  const pod: PodSandboxStatus = {
    id: podSandboxId('p1'),
    metadata: { name: 'web', uid: 'u', namespace: 'default', attempt: 0 },
    state: 'ready',
    createdAtNs: 0n,
    ips: [],
    namespaces: { network: 'pod', pid: 'pod', ipc: 'pod' },
    labels: {},
    annotations: {},
    runtimeHandler: 'native',
    portMappings: [],
    info: {},
  };
  // SAFETY: the fields that the log uses.
  const container = { id: containerId('c1'), metadata: { name: 'main', attempt: 0 }, imageId: 'sha256:1', exitCode: 137, reason: 'OOMKilled' } as ContainerStatus;
  const ids = { podSandboxId: pod.id, containerId: container.id };
  const snapshot = { pod, containers: [container] };
  let rounds = 0;
  const engine = {
    async *events(): AsyncGenerator<EngineEvent, void, void> {
      rounds += 1;
      if (rounds === 1) {
        yield { kind: 'podCreated', podSandboxId: pod.id, atNs: 0n, snapshot };
        throw new RuntimeError('resourceExhausted', 'read events: the reader fell 3 events behind');
      }
      yield { kind: 'containerStopped', ...ids, atNs: 0n, snapshot };
      yield { kind: 'containerRemoved', ...ids, atNs: 0n, snapshot: { pod, containers: [] } };
      yield { kind: 'podRemoved', podSandboxId: pod.id, atNs: 0n };
      done.abort();
    },
  };
  await logEvents(log, engine, done.signal);
  assert.deepEqual(parsed(lines), [
    { level: 'info', time, podSandboxId: pod.id, k8sNamespace: 'default', podName: 'web', handler: 'native', message: 'pod sandbox is ready' },
    { level: 'error', time, code: 'resourceExhausted', message: 'read events: the reader fell 3 events behind' },
    { level: 'info', time, ...ids, containerName: 'main', imageId: 'sha256:1', exitCode: 137, reason: 'OOMKilled', message: 'container has ended' },
    { level: 'info', time, ...ids, message: 'container is removed' },
    { level: 'info', time, podSandboxId: pod.id, message: 'pod sandbox is removed' },
  ]);
});

/** Everything that is in the pipe now. */
function drain(fd: number): string {
  const chunk = Buffer.alloc(1 << 20);
  let text = '';
  try {
    for (let bytes = readSync(fd, chunk); bytes > 0; bytes = readSync(fd, chunk)) text += chunk.toString('utf8', 0, bytes);
  } catch {
    // EAGAIN: the pipe is empty.
  }
  return text;
}

test('lines for a reader that takes nothing wait, then are dropped and counted, and those that waited come whole and in order', async () => {
  const fifo = `${scratch}/fifo`;
  execFileSync('mkfifo', [fifo]);
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
  try {
    const sink = openLogSink(writer, (count) => `lost ${count}\n`);
    const written = 3000;
    for (let index = 0; index < written; index += 1) sink.write(`${index} ${'x'.repeat(1000)}\n`);
    let text = '';
    for (const deadline = performance.now() + 30_000; !/^lost .*\n/m.test(text) && performance.now() < deadline; await setTimeout(5)) text += drain(reader);
    const lines = text.split('\n').slice(0, -1);
    const lost = Number(/^lost (\d+)$/.exec(lines.at(-1) ?? '')?.[1]);
    assert.ok(lost > 1000, `lost ${lost}`);
    assert.deepEqual(
      lines.slice(0, -1).map((line) => Number.parseInt(line, 10)),
      Array.from({ length: written - lost }, (_, index) => index),
    );
    assert.ok(lines.slice(0, -1).every((line) => line.endsWith('x'.repeat(1000))));
  } finally {
    closeSync(writer);
    closeSync(reader);
  }
});

test('a reader that has gone harms nobody', async () => {
  const fifo = `${scratch}/gone`;
  execFileSync('mkfifo', [fifo]);
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
  closeSync(reader);
  const sink = openLogSink(writer, (count) => `lost ${count}\n`);
  // The second one waits for the write of the first, and is tried by the flush.
  sink.write('a\n');
  sink.write('a\n');
  await sink.flush();
  const again = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  sink.write('b\n');
  await sink.flush();
  sink.flushAtExit();
  assert.equal(drain(again), 'b\nlost 2\n');
  closeSync(writer);
  closeSync(again);
});
