/** The CRI socket under the HTTP/2 conditions that break servers, called by a grpc-go client. The engine behind it is a stand-in. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { RuntimeError, containerId, podSandboxId } from '#core';
import { startCriServer } from '#cri';
import type { CriServer } from '#cri';
import type { ContainerStatus, ExecSyncResult } from '#pod';
import { readFacts } from '../facts.ts';
import { fakeEngine } from '../fake-engine.ts';

const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));
const probe = join(repository, 'build/go/criprobe');
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;

/** Each test is skipped by itself, so that each is counted. */
function goTest(name: string, body: () => void | Promise<void>): void {
  test(name, { skip }, body);
}

const fillerBytes = 60_000;
const container: ContainerStatus = {
  id: containerId('c1'),
  podSandboxId: podSandboxId('p1'),
  metadata: { name: 'c', attempt: 0 },
  state: 'running',
  pid: 1,
  createdAtNs: 1n,
  startedAtNs: 1n,
  finishedAtNs: 0n,
  exitCode: 0,
  reason: '',
  message: '',
  image: 'a',
  imageId: 'a',
  imageRef: 'a',
  userSpecifiedImage: '',
  labels: {},
  annotations: { filler: 'x'.repeat(fillerBytes) },
  mounts: [],
  logPath: '',
  tty: false,
  stdin: false,
  info: {},
};

/** Calls of the endless exec: how many began, and how many saw their signal. */
const execs = { begun: 0, aborted: 0 };

async function execWithoutEnd(signal: AbortSignal | undefined): Promise<ExecSyncResult> {
  execs.begun++;
  const ended = Promise.withResolvers<ExecSyncResult>();
  signal?.addEventListener('abort', () => {
    execs.aborted++;
    ended.reject(new RuntimeError('cancelled', 'exec: cancelled'));
  });
  return ended.promise;
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

describe('a grpc-go client', () => {
  let directory: string;
  let socketPath: string;
  let server: CriServer;
  let idling: Promise<unknown>;

  before(async () => {
    if (skip !== false) return;
    await run(join(repository, 'scripts/build-go-tools.sh'), { timeout: 280_000 });
    directory = mkdtempSync(join(tmpdir(), 'berth-cri-'));
    socketPath = join(directory, 'run', 'berth.sock');
    const engine = fakeEngine({
      listContainers: async () => Array.from({ length: 12_000_000 / fillerBytes }, () => container),
      execSync: async (_id, _command, _options, signal) => execWithoutEnd(signal),
    });
    server = await startCriServer({ engine, socketPath, version: '0.0.0-test' });
    // Takes 24 seconds of doing nothing, so the other cases run meanwhile.
    idling = probeCase('idle').catch((error: unknown) => error);
  });

  after(async () => {
    if (skip !== false) return;
    await server.close();
    assert.equal(existsSync(socketPath), false);
    rmSync(directory, { recursive: true });
  });

  async function probeCase(name: string): Promise<string> {
    const { stdout } = await run(probe, [name, socketPath], { timeout: 120_000 });
    return stdout;
  }

  goTest('finds the socket at mode 0600 in a directory of mode 0700', () => {
    assert.equal(statSync(socketPath).mode & 0o777, 0o600);
    assert.equal(statSync(join(directory, 'run')).mode & 0o777, 0o700);
  });

  goTest('connects with localhost, the socket path, or its percent-encoding as authority', async () => {
    assert.equal(await probeCase('authority'), 'ok\n');
  });

  goTest('gets twelve replies of 12 MB at once on one connection', async () => {
    assert.equal(await probeCase('lists'), 'ok\n');
  });

  goTest('may stop reading without harm to another client', async () => {
    assert.equal(await probeCase('stalled'), 'ok\n');
  });

  goTest('cancels a thousand calls, the engine sees each, and the connection serves on', async () => {
    assert.equal(await probeCase('cancel'), 'ok\n');
    await until(() => execs.aborted === execs.begun);
    assert.ok(execs.begun > 500, `${execs.begun} of 1000 calls reached the engine`);
  });

  goTest('has its deadline enforced on the engine too', async () => {
    const begunBefore = execs.begun;
    assert.equal(await probeCase('deadline'), 'ok\n');
    await until(() => execs.begun === begunBefore + 1 && execs.aborted === execs.begun);
  });

  goTest('keeps an idle connection with keepalive pings', async () => {
    assert.equal(await idling, 'ok\n');
  });
});
