/** What a daemon tells of itself, its pods and containers: conditions, features, verbose facts; exit codes and the reasons that a kubelet looks for. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { status as grpcStatus } from '@grpc/grpc-js';
import { CgroupDriver, ContainerState, PodSandboxState, RuntimeService, Signal } from '#gen/cri-v1_pb.js';
import { busybox, image, patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const { method } = RuntimeService;

describe('status', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => {
    cri = await CriHost.open();
  });
  after(async () => cri[Symbol.asyncDispose]());

  const infoOf = (info: Readonly<Record<string, string>>): Record<string, unknown> => {
    assert.deepEqual(Object.keys(info), ['info']);
    // SAFETY: one JSON object; see docs/cri.md.
    return JSON.parse(info['info'] ?? '') as Record<string, unknown>;
  };

  test('of the runtime has both conditions, every handler, and the configuration when asked', async () => {
    const { status, runtimeHandlers, features, info } = await cri.call(method.status, { verbose: true });
    assert.deepEqual(
      status?.conditions.map(({ type, status: holds }) => [type, holds]),
      [
        ['RuntimeReady', true],
        ['NetworkReady', true],
      ],
    );
    // The default one is there under its name too, for runtime classes that name it.
    assert.deepEqual(
      runtimeHandlers.map(({ name, features: found }) => [name, found?.recursiveReadOnlyMounts]),
      [
        ['', true],
        ['native', true],
      ],
    );
    assert.deepEqual([features?.supplementalGroupsPolicy, features?.mountOptions, features?.userNamespacesHostNetwork], [true, true, false]);
    const facts = infoOf(info);
    assert.equal(facts['rootDirectory'], cri.host.root);
    // SAFETY: the settings; see docs/configuration.md.
    const config = facts['config'] as { readonly network: { readonly mode: string }; readonly cri: object };
    assert.equal(config.network.mode, 'bridge');
    assert.deepEqual((await cri.call(method.status, {})).info, {});
    const { linux } = await cri.call(method.runtimeConfig, {});
    assert.equal(linux?.cgroupDriver, CgroupDriver.CGROUPFS);
  });

  test('of pods and containers has verbose facts as one JSON document', async () => {
    const { podSandboxId, containerId } = await cri.startContainer('sleep 1000; :', { container: { stopSignal: Signal.SIGUSR1 } });
    const container = await cri.call(method.containerStatus, { containerId, verbose: true });
    const facts = infoOf(container.info);
    const pid = Number(facts['pid']);
    assert.equal(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), `${busybox}\0sh\0-c\0sleep 1000; :\0`);
    assert.equal(facts['sandboxID'], podSandboxId);
    assert.ok(readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`:${String(facts['cgroupPath'])}\n`));
    assert.ok(String(facts['writableLayer']).endsWith(containerId));
    // SAFETY: a runtime-spec document.
    const spec = facts['runtimeSpec'] as { readonly process: { readonly args: readonly string[] } };
    assert.deepEqual(spec.process.args, [busybox, 'sh', '-c', 'sleep 1000; :']);
    assert.equal(container.status?.stopSignal, Signal.SIGUSR1);
    const pod = await cri.call(method.podSandboxStatus, { podSandboxId, verbose: true });
    const podFacts = infoOf(pod.info);
    assert.ok(readFileSync(`/proc/${Number(podFacts['shimPid'])}/cmdline`, 'utf8').includes(podSandboxId));
    assert.deepEqual(podFacts['containers'], [containerId]);
    assert.equal(pod.status?.state, PodSandboxState.SANDBOX_READY);
    // What a kubelet that follows events takes the containers from.
    assert.deepEqual(
      pod.containersStatuses.map(({ id, state }) => [id, state]),
      [[containerId, ContainerState.CONTAINER_RUNNING]],
    );
    assert.ok(pod.timestamp >= (container.status?.startedAt ?? 0n));
    await cri.restart('SIGTERM');
    const again = infoOf((await cri.call(method.containerStatus, { containerId, verbose: true })).info);
    assert.deepEqual([again['pid'], again['runtimeSpec']], [facts['pid'], facts['runtimeSpec']]);
    await cri.call(method.removePodSandbox, { podSandboxId });
  });

  test('of an ended container has its exit code, or 128 and the signal, and the reason', async () => {
    const ends = [
      ['exit 0', 0, 'Completed'],
      ['exit 7', 7, 'Error'],
      ['kill -9 $$', 137, 'Error'],
      ['kill -15 $$; sleep 1000', 143, 'Error'],
      ['kill -11 $$; sleep 1000', 139, 'Error'],
    ] as const;
    // A process that is the init of its PID namespace does not get its own signals.
    const pod = { linux: { securityContext: { namespaceOptions: { pid: 0 } } } };
    for (const [script, exitCode, reason] of ends) {
      const { podSandboxId, containerId } = await cri.startContainer(script, { pod });
      const status = await cri.ended(containerId);
      assert.deepEqual([status.exitCode, status.reason, status.message], [exitCode, reason, ''], script);
      assert.ok(status.finishedAt >= status.startedAt && status.startedAt >= status.createdAt && status.createdAt > 0n);
      await cri.call(method.removePodSandbox, { podSandboxId });
    }
  });

  test('of a container that is killed by a stop is that of the signal', async () => {
    const { podSandboxId, containerId } = await cri.startContainer("trap '' TERM; : > /ready; while :; do sleep 1; done");
    const deadline = performance.now() + patienceMs;
    while ((await cri.call(method.execSync, { containerId, cmd: [busybox, 'test', '-e', '/ready'] })).exitCode !== 0)
      assert.ok(performance.now() < deadline, 'the trap is not set');
    await cri.call(method.stopContainer, { containerId, timeout: 1n });
    const { status } = await cri.call(method.containerStatus, { containerId });
    assert.deepEqual([status?.exitCode, status?.reason, status?.state], [137, 'Error', ContainerState.CONTAINER_EXITED]);
    await cri.call(method.removePodSandbox, { podSandboxId });
  });

  test('of a container whose command cannot start says so, with code 128', async () => {
    const config = cri.podConfig();
    const { podSandboxId } = await cri.call(method.runPodSandbox, { config });
    const { containerId } = await cri.call(method.createContainer, {
      podSandboxId,
      config: { metadata: { name: 'main', attempt: 0 }, image: { image }, command: ['/no/such/command'] },
      sandboxConfig: config,
    });
    await assert.rejects(cri.call(method.startContainer, { containerId }), { code: grpcStatus.NOT_FOUND, details: /^start container main: .*\/no\/such\/command.*ENOENT/ });
    const { status } = await cri.call(method.containerStatus, { containerId });
    assert.deepEqual([status?.exitCode, status?.reason, status?.state], [128, 'StartError', ContainerState.CONTAINER_EXITED]);
    assert.match(status?.message ?? '', /^start container main: /);
    await cri.call(method.removePodSandbox, { podSandboxId });
  });
});
