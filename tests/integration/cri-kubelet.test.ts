/**
 * What a kubelet does to a runtime, in its own sequences: calls given up and repeated, stops that meet, restarts of either side, a List
 * each second, rotation of logs. Over the socket of a real daemon with real containers.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { ContainerState, PodSandboxState, RuntimeService } from '#gen/cri-v1_pb.js';
import { patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const {
  runPodSandbox,
  stopPodSandbox,
  removePodSandbox,
  podSandboxStatus,
  listPodSandbox,
  createContainer,
  startContainer,
  stopContainer,
  removeContainer,
  containerStatus,
  listContainers,
  execSync,
  reopenContainerLog,
} = RuntimeService.method;

/** A grace period that no test lives to see the end of. */
const endlessGrace = 3600n;

async function failure(call: Promise<unknown>): Promise<ServiceError> {
  try {
    await call;
  } catch (error) {
    // SAFETY: calls of the client reject with ServiceErrors only.
    return error as ServiceError;
  }
  throw new Error('the call succeeded');
}

describe('a kubelet', { skip: skipReason(), timeout: 280_000 }, () => {
  let cri: CriHost;
  before(async () => void (cri = await CriHost.open()));
  after(async () => cri[Symbol.asyncDispose]());

  async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + patienceMs;
    while (!(await holds())) {
      assert.ok(performance.now() < deadline, `not after ${patienceMs} ms: ${what}`);
      await sleep(20);
    }
  }

  test('gives up on a pod that is being made, repeats the call and gets that pod', async () => {
    const config = cri.podConfig();
    const patience = new AbortController();
    const given = failure(cri.call(runPodSandbox, { config }, { signal: patience.signal }));
    patience.abort();
    assert.equal((await given).code, status.CANCELLED);
    const ids = await Promise.all(Array.from({ length: 8 }, async () => (await cri.call(runPodSandbox, { config })).podSandboxId));
    assert.equal(new Set(ids).size, 1);
    const { items } = await cri.call(listPodSandbox, {});
    assert.deepEqual(
      items.filter(({ metadata }) => metadata?.uid === config.metadata?.uid).map(({ id }) => id),
      [ids[0]],
    );
  });

  test('comes with the next attempt, finds both pods in the list and removes the older one', async () => {
    const config = cri.podConfig();
    const { podSandboxId: first } = await cri.call(runPodSandbox, { config });
    const next = { ...config, metadata: { name: config.metadata?.name ?? '', uid: config.metadata?.uid ?? '', namespace: 'default', attempt: 1 } };
    const { podSandboxId: second } = await cri.call(runPodSandbox, { config: next });
    const attempts = async (): Promise<unknown[]> =>
      (await cri.call(listPodSandbox, {})).items.filter(({ metadata }) => metadata?.uid === config.metadata?.uid).map(({ id, metadata }) => [id, metadata?.attempt]);
    assert.deepEqual(new Set((await attempts()).map(String)), new Set([`${first},0`, `${second},1`]));
    await cri.call(stopPodSandbox, { podSandboxId: first });
    await cri.call(removePodSandbox, { podSandboxId: first });
    assert.deepEqual(await attempts(), [[second, 1]]);
  });

  test('creates the same container many times at once and gets one; another one of that name is refused with both names', async () => {
    const pod = cri.podConfig();
    const { podSandboxId } = await cri.call(runPodSandbox, { config: pod });
    const config = cri.containerConfig('sleep 1000');
    const patience = new AbortController();
    const given = failure(cri.call(createContainer, { podSandboxId, config, sandboxConfig: pod }, { signal: patience.signal }));
    patience.abort();
    await given;
    const ids = await Promise.all(Array.from({ length: 8 }, async () => (await cri.call(createContainer, { podSandboxId, config, sandboxConfig: pod })).containerId));
    assert.equal(new Set(ids).size, 1);
    const other = await failure(cri.call(createContainer, { podSandboxId, config: cri.containerConfig('sleep 2000'), sandboxConfig: pod }));
    assert.equal(other.code, status.ALREADY_EXISTS);
    assert.match(other.details, new RegExp(`create container main \\(attempt 0\\): exists as ${ids[0]}`));
    // A kubelet that sees the first attempt fail makes the next one.
    const { containerId } = await cri.call(createContainer, { podSandboxId, config: { ...config, metadata: { name: 'main', attempt: 1 } }, sandboxConfig: pod });
    assert.notEqual(containerId, ids[0]);
  });

  test('finds the newest attempt of a container first in the status of its pod', async () => {
    const pod = cri.podConfig();
    const { podSandboxId } = await cri.call(runPodSandbox, { config: pod });
    const made: string[] = [];
    for (let attempt = 0; attempt < 4; attempt += 1) {
      const config = cri.containerConfig('exit 1', { metadata: { name: 'main', attempt } });
      const { containerId } = await cri.call(createContainer, { podSandboxId, config, sandboxConfig: pod });
      await cri.call(startContainer, { containerId });
      await cri.ended(containerId);
      made.unshift(containerId);
    }
    const { containersStatuses } = await cri.call(podSandboxStatus, { podSandboxId });
    assert.deepEqual(
      containersStatuses.map(({ id }) => id),
      made,
    );
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('stops and removes as often as it likes, also what is not there', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000');
    for (let round = 0; round < 2; round += 1) await cri.call(stopContainer, { containerId, timeout: 0n });
    assert.equal((await cri.ended(containerId)).exitCode, 137);
    for (let round = 0; round < 2; round += 1) await cri.call(removeContainer, { containerId });
    assert.equal((await failure(cri.call(containerStatus, { containerId }))).code, status.NOT_FOUND);
    await cri.call(stopContainer, { containerId, timeout: 1n });
    for (let round = 0; round < 2; round += 1) await cri.call(stopPodSandbox, { podSandboxId });
    const { status: pod } = await cri.call(podSandboxStatus, { podSandboxId });
    assert.equal(pod?.state, PodSandboxState.SANDBOX_NOTREADY);
    for (let round = 0; round < 2; round += 1) await cri.call(removePodSandbox, { podSandboxId });
    assert.equal((await failure(cri.call(podSandboxStatus, { podSandboxId }))).code, status.NOT_FOUND);
    await cri.call(stopPodSandbox, { podSandboxId });
  });

  test('removes a running container, and a pod with running containers', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000');
    await cri.call(removeContainer, { containerId });
    assert.equal((await cri.call(listContainers, { filter: { podSandboxId } })).containers.length, 0);
    const other = await cri.startContainer('sleep 1000');
    await cri.call(removePodSandbox, { podSandboxId: other.podSandboxId });
    assert.equal((await failure(cri.call(containerStatus, { containerId: other.containerId }))).code, status.NOT_FOUND);
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('stops a container once more with a shorter grace period, which ends the first stop too', async () => {
    const { containerId } = await cri.startContainer('trap "echo asked" TERM; echo up; while :; do sleep 1; done');
    const log = (): string => {
      const path = `${cri.host.directory}/logs`;
      const [file] = readdirSync(path, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('0.log') && readFileSync(`${path}/${name}`, 'utf8').includes(' up\n'));
      return file === undefined ? '' : readFileSync(`${path}/${file}`, 'utf8');
    };
    await until('it traps the signal', () => log().includes(' up\n'));
    const first = cri.call(stopContainer, { containerId, timeout: endlessGrace });
    await until('it was asked to end', () => log().includes(' asked\n'));
    await cri.call(stopContainer, { containerId, timeout: 1n });
    await first;
    const ended = await cri.ended(containerId);
    assert.deepEqual([ended.exitCode, ended.reason], [137, 'Error']);
  });

  test('stops siblings side by side', async () => {
    const meeting = cri.host.scratch('meeting');
    const pod = cri.podConfig();
    const { podSandboxId } = await cri.call(runPodSandbox, { config: pod });
    // Each waits for the others' signals: one after another they would wait for ever.
    const script = (name: string): string =>
      `trap 'touch /meeting/${name}.asked; while [ $(ls /meeting | grep -c asked) -lt 3 ]; do sleep 0.1; done; exit 7' TERM; touch /meeting/${name}.up; while :; do sleep 0.1; done`;
    const ids = await Promise.all(
      ['a', 'b', 'c'].map(async (name) => {
        const config = cri.containerConfig(script(name), { metadata: { name, attempt: 0 }, logPath: '', mounts: [{ containerPath: '/meeting', hostPath: meeting }] });
        const { containerId } = await cri.call(createContainer, { podSandboxId, config, sandboxConfig: pod });
        await cri.call(startContainer, { containerId });
        return containerId;
      }),
    );
    await until('all three are up', () => readdirSync(meeting).filter((name) => name.endsWith('.up')).length === 3);
    await Promise.all(ids.map(async (containerId) => cri.call(stopContainer, { containerId, timeout: endlessGrace })));
    for (const containerId of ids) assert.equal((await cri.ended(containerId)).exitCode, 7);
  });

  test('probes with a command that hangs: the deadline is told as such, and the command is gone', async () => {
    const { containerId } = await cri.startContainer('sleep 1000');
    const error = await failure(cri.call(execSync, { containerId, cmd: ['/usr/bin/busybox', 'sh', '-c', 'touch /began; sleep 98765'], timeout: 5n }));
    assert.equal(error.code, status.DEADLINE_EXCEEDED);
    const { stdout } = await cri.call(execSync, {
      containerId,
      cmd: ['/usr/bin/busybox', 'sh', '-c', 'ls /began; grep -l "9876[5]" /proc/[0-9]*/cmdline || true'],
      timeout: 60n,
    });
    assert.equal(Buffer.from(stdout).toString(), '/began\n');
  });

  test('reads the termination message from the file that it mounted', async () => {
    const file = `${cri.host.scratch('termination')}/message`;
    writeFileSync(file, '');
    const mount = { containerPath: '/dev/termination-log', hostPath: file };
    const { containerId } = await cri.startContainer('echo "out of luck" > /dev/termination-log; exit 3', { container: { mounts: [mount] } });
    const ended = await cri.ended(containerId);
    assert.deepEqual([ended.exitCode, ended.reason, readFileSync(file, 'utf8')], [3, 'Error', 'out of luck\n']);
  });

  for (const signal of ['SIGTERM', 'SIGKILL'] as const)
    test(`finds everything again after the runtime ended by ${signal}`, async () => {
      const gate = cri.host.scratch(`gate-${signal}`);
      const mounts = [{ containerPath: '/gate', hostPath: gate }];
      const lasting = await cri.startContainer('echo before; while [ ! -e /gate/open ]; do sleep 0.1; done; echo after; sleep 1000', { container: { mounts } });
      const ending = await cri.startContainer('while [ ! -e /gate/end ]; do sleep 0.1; done; touch /gate/ended; exit 42', { container: { mounts } });
      const made = cri.podConfig();
      const { podSandboxId: idlePod } = await cri.call(runPodSandbox, { config: made });
      const { containerId: waiting } = await cri.call(createContainer, { podSandboxId: idlePod, config: cri.containerConfig('exit 5'), sandboxConfig: made });
      const statusBefore = (await cri.call(containerStatus, { containerId: lasting.containerId })).status;
      const podBefore = (await cri.call(podSandboxStatus, { podSandboxId: lasting.podSandboxId })).status;

      await cri.restart(signal, []);

      writeFileSync(`${gate}/end`, '');
      assert.deepEqual((await cri.call(containerStatus, { containerId: lasting.containerId })).status, statusBefore);
      assert.deepEqual((await cri.call(podSandboxStatus, { podSandboxId: lasting.podSandboxId })).status, podBefore);
      assert.equal((await cri.ended(ending.containerId)).exitCode, 42);
      // What it asked for before the end it asks for again, and gets the same.
      assert.equal((await cri.call(runPodSandbox, { config: made })).podSandboxId, idlePod);
      await cri.call(startContainer, { containerId: waiting });
      assert.equal((await cri.ended(waiting)).exitCode, 5);
      writeFileSync(`${gate}/open`, '');
      const { stdout } = await cri.call(execSync, { containerId: lasting.containerId, cmd: ['/usr/bin/busybox', 'echo', 'still here'], timeout: 60n });
      assert.equal(Buffer.from(stdout).toString(), 'still here\n');
      await until('its log goes on', () => readFileSync(statusBefore?.logPath ?? '', 'utf8').includes(' after\n'));
      for (const podSandboxId of [lasting.podSandboxId, ending.podSandboxId, idlePod]) await cri.call(removePodSandbox, { podSandboxId });
    });

  test('finds the end of a container that ended while nobody was there', async () => {
    const gate = cri.host.scratch('gate-alone');
    const { containerId } = await cri.startContainer('while [ ! -e /gate/end ]; do sleep 0.1; done; exit 43', {
      container: { mounts: [{ containerPath: '/gate', hostPath: gate }] },
    });
    const { pid } = await containerInfo(containerId);
    process.kill(cri.daemonPid, 'SIGKILL');
    writeFileSync(`${gate}/end`, '');
    await until('the container has ended', () => !existsSync(`/proc/${pid}/exe`));
    await cri.restart('SIGKILL', []);
    const ended = await cri.ended(containerId);
    assert.deepEqual([ended.exitCode, ended.reason], [43, 'Error']);
  });

  async function containerInfo(containerId: string): Promise<{ readonly pid: number }> {
    const { info } = await cri.call(containerStatus, { containerId, verbose: true });
    // SAFETY: verbose container info is a JSON object with the pid.
    return JSON.parse(info['info'] ?? '{}') as { readonly pid: number };
  }

  test('lists without a break while eight workers make and remove pods', async () => {
    let isDone = false;
    let lists = 0;
    const watch = async (): Promise<void> => {
      while (!isDone) {
        const { containers } = await cri.call(listContainers, {});
        const pods = new Set((await cri.call(listPodSandbox, {})).items.map(({ id }) => id));
        const later = new Set((await cri.call(listContainers, {})).containers.map(({ id }) => id));
        // A container that is still listed after its pod was looked for belongs to a pod that was listed.
        for (const { id, podSandboxId } of containers) assert.ok(pods.has(podSandboxId) || !later.has(id), `container ${id} without its pod`);
        lists += 1;
      }
    };
    const work = async (): Promise<void> => {
      for (let round = 0; round < 6; round += 1) {
        const { podSandboxId, containerId } = await cri.startContainer('sleep 1000');
        await cri.call(execSync, { containerId, cmd: ['/usr/bin/busybox', 'true'], timeout: 60n });
        await cri.call(stopPodSandbox, { podSandboxId });
        await cri.call(removePodSandbox, { podSandboxId });
      }
    };
    const watching = watch();
    await Promise.all(Array.from({ length: 8 }, work)).finally(() => void (isDone = true));
    await watching;
    assert.ok(lists > 0);
  });

  test('rotates a log under load: no line is lost or comes twice, and long lines are whole', async () => {
    const lineCount = 40_000;
    const long = 'x'.repeat(20_000);
    const script = `i=0; while [ $i -lt ${lineCount} ]; do echo "line $i"; i=$((i+1)); done; echo ${long}; printf unfinished`;
    const { containerId } = await cri.startContainer(script);
    const { status: container } = await cri.call(containerStatus, { containerId });
    const path = container?.logPath ?? '';
    const files: string[] = [];
    for (;;) {
      const { status: now } = await cri.call(containerStatus, { containerId });
      if (now?.state !== ContainerState.CONTAINER_RUNNING) break;
      const rotated = `${path}.${files.length}`;
      renameSync(path, rotated);
      files.push(rotated);
      const error = await cri.call(reopenContainerLog, { containerId }).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      if (error === undefined) continue;
      // It ended in between: the kubelet moves the file back then.
      files.pop();
      if (!existsSync(path)) renameSync(rotated, path);
      else files.push(rotated);
    }
    assert.ok(files.length > 1, `rotated ${files.length} times`);
    const lines = [...files, path].flatMap((file) => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []));
    const parts = lines.map((line) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout ([FP]) (.*)$/.exec(line) ?? ['', '?', line]);
    const content = parts.map(([, tag, text]) => `${text}${tag === 'F' ? '\n' : ''}`).join('');
    assert.equal(content, `${Array.from({ length: lineCount }, (_, index) => `line ${index}\n`).join('')}${long}\nunfinished`);
  });

  test('takes pods with a log directory that it made, and makes the container’s own below it', async () => {
    const logDirectory = `${cri.host.scratch('made')}/pod`;
    mkdirSync(logDirectory);
    const { containerId } = await cri.startContainer('echo hello', { pod: { logDirectory }, container: { logPath: 'deep/er/3.log' } });
    await cri.ended(containerId);
    assert.match(readFileSync(`${logDirectory}/deep/er/3.log`, 'utf8'), / stdout F hello\n$/);
  });
});
