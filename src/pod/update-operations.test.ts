/** Updates over in-memory ports: what is recorded and when, what a failure and a crash leave, what a pod's limits are. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RuntimeError } from '#core';
import { PodEngine } from './engine.ts';
import { FakeDriver, FakeNetwork, Journal, ManualClock, MemoryRecords, containerConfig, podConfig } from './testing/doubles.ts';
import { fakeDependencies } from './testing/engine-doubles.ts';
import { FakeImages } from './testing/image-doubles.ts';
import type { ContainerConfig, EngineEvent, PodSandboxConfig } from './types.ts';

async function setUp({ pod = {}, container = {} }: { readonly pod?: Partial<PodSandboxConfig>; readonly container?: Partial<ContainerConfig> } = {}) {
  const journal = new Journal();
  const [clock, records, reported] = [new ManualClock(), new MemoryRecords(), new Array<unknown>()];
  const [driver, network, images] = [new FakeDriver(journal, clock), new FakeNetwork(journal), new FakeImages(journal)];
  const openEngine = (): PodEngine =>
    new PodEngine(fakeDependencies(journal, clock, { records, drivers: new Map([['native', driver]]), images, network, report: (error) => reported.push(error) }));
  const engine = openEngine();
  const podId = await engine.runPodSandbox(podConfig(pod));
  const id = await engine.createContainer(podId, containerConfig({ resources: { cpuShares: 512n, memoryLimitBytes: 100n }, annotations: { a: '1' }, ...container }));
  await engine.startContainer(id);
  const sandbox = driver.alive.get(podId);
  assert.ok(sandbox !== undefined);
  return { journal, clock, records, reported, openEngine, engine, podId, id, sandbox };
}

describe('an update of a container', () => {
  it('gives the sandbox all resources, old and new, and is told and kept', async () => {
    const { engine, id, sandbox, openEngine } = await setUp();
    await engine.updateContainer(id.slice(0, 12), { resources: { cpuShares: 2n, oomScoreAdj: 5 }, annotations: { b: '2' } });
    assert.deepEqual(sandbox.updates, [{ resources: { devices: [], memory: { limit: 100n }, cpu: { shares: 2n }, hugepageLimits: [], unified: {} }, oomScoreAdj: 5 }]);
    for (const reader of [engine, openEngine()]) {
      const { resources, annotations } = await reader.containerStatus(id);
      assert.deepEqual(
        [resources, annotations],
        [
          { cpuShares: 2n, memoryLimitBytes: 100n, oomScoreAdj: 5 },
          { a: '1', b: '2' },
        ],
      );
    }
  });

  it('leaves the score of the process where it does not name one', async () => {
    const { engine, id, sandbox } = await setUp({ container: { resources: { oomScoreAdj: 7 } } });
    await engine.updateContainer(id, { resources: { cpusetCpus: '0' } });
    assert.equal(sandbox.updates.at(-1)?.oomScoreAdj, undefined);
    assert.deepEqual((await engine.containerStatus(id)).resources, { cpusetCpus: '0', oomScoreAdj: 7 });
  });

  it('of annotations alone does not touch the sandbox', async () => {
    const { engine, id, sandbox } = await setUp();
    await engine.updateContainer(id, { annotations: { a: '2' } });
    assert.deepEqual([sandbox.updates, (await engine.containerStatus(id)).annotations], [[], { a: '2' }]);
  });

  it('that fails leaves what held', async () => {
    const { engine, id, journal, openEngine } = await setUp();
    journal.failAt = 'update';
    await assert.rejects(engine.updateContainer(id, { resources: { cpuShares: 2n }, annotations: { a: '2' } }), {
      code: 'resourceExhausted',
      message: 'update container app: update: injected',
    });
    for (const reader of [engine, openEngine()]) {
      const { resources, annotations } = await reader.containerStatus(id);
      assert.deepEqual([resources, annotations], [{ cpuShares: 512n, memoryLimitBytes: 100n }, { a: '1' }]);
    }
  });

  it('is told only once it holds, and waits for another one', async () => {
    const { engine, id, journal } = await setUp();
    const seen: unknown[] = [];
    journal.onStep = async (step) => {
      if (step === 'update') seen.push((await engine.containerStatus(id)).resources?.cpuShares);
    };
    await Promise.all([engine.updateContainer(id, { resources: { cpuShares: 2n } }), engine.updateContainer(id, { resources: { cpuShares: 3n } })]);
    assert.deepEqual([...seen, (await engine.containerStatus(id)).resources?.cpuShares], [512n, 2n, 3n]);
  });

  it('that a dead engine had under way is finished by the next one', async () => {
    const { engine, id, journal, sandbox, openEngine } = await setUp();
    journal.onStep = async (step) => (step === 'update' ? new Promise<void>(() => undefined) : undefined);
    void engine.updateContainer(id, { resources: { cpuShares: 2n } });
    await new Promise((resolve) => setImmediate(resolve));
    journal.onStep = undefined;
    const next = openEngine();
    await next.reconcile();
    assert.equal(sandbox.updates.length, 1);
    assert.equal((await next.containerStatus(id)).resources?.cpuShares, 2n);
    await openEngine().reconcile();
    assert.equal(sandbox.updates.length, 1);
  });

  it('whose answer never came, since the engine was closing, is finished by the next one', async () => {
    const { engine, id, journal, sandbox, openEngine } = await setUp();
    journal.onStep = (step) => {
      if (step === 'update') throw new RuntimeError('unavailable', 'the connection has ended');
    };
    await assert.rejects(engine.updateContainer(id, { resources: { cpuShares: 2n } }), { code: 'unavailable', message: 'update container app: the connection has ended' });
    journal.onStep = undefined;
    assert.equal((await engine.containerStatus(id)).resources?.cpuShares, 512n);
    const next = openEngine();
    await next.reconcile();
    assert.deepEqual([sandbox.updates.length, (await next.containerStatus(id)).resources?.cpuShares], [1, 2n]);
  });

  it('that is being finished may see the end of another container, which can be waited for and removed', async () => {
    const { engine, podId, id, journal, sandbox, openEngine } = await setUp();
    const other = await engine.createContainer(podId, containerConfig({ metadata: { name: 'other', attempt: 0 } }));
    await engine.startContainer(other);
    journal.onStep = async (step) => (step === 'update' ? new Promise<void>(() => undefined) : undefined);
    void engine.updateContainer(id, { resources: { cpuShares: 2n } });
    await new Promise((resolve) => setImmediate(resolve));
    journal.onStep = (step) => (step === 'update' ? sandbox.end(other, 3) : undefined);
    const next = openEngine();
    await next.reconcile();
    journal.onStep = undefined;
    const signal = AbortSignal.abort();
    assert.equal((await next.waitContainer(other, signal)).exitCode, 3);
    await next.removeContainer(other);
    assert.deepEqual(
      (await next.listContainers()).map((container) => container.id),
      [id],
    );
  });

  it('that cannot be finished is taken back and told', async () => {
    const { engine, id, journal, openEngine, reported } = await setUp();
    journal.onStep = async (step) => (step === 'update' ? new Promise<void>(() => undefined) : undefined);
    void engine.updateContainer(id, { resources: { cpuShares: 2n } });
    await new Promise((resolve) => setImmediate(resolve));
    journal.onStep = undefined;
    journal.failAt = 'update';
    const next = openEngine();
    await next.reconcile();
    assert.equal((await next.containerStatus(id)).resources?.cpuShares, 512n);
    assert.deepEqual(reported.map(String), [
      `RuntimeError: finish the update of container ${id}: update: injected`,
      `RuntimeError: take back the update of container ${id}: update: injected`,
    ]);
  });

  it('needs one that has not ended', async () => {
    const { engine, id } = await setUp();
    await engine.stopContainer(id, { timeoutMs: 0 });
    await assert.rejects(engine.updateContainer(id, {}), { code: 'failedPrecondition', message: `update container ${id}: container is exited, not created or running` });
    await assert.rejects(engine.updateContainer('nobody', {}), { code: 'notFound' });
  });
});

describe('a start that fails', () => {
  it('is told as such, also where the end of its process is told first', async () => {
    const { engine, journal, podId, sandbox } = await setUp();
    const id = await engine.createContainer(podId, containerConfig({ metadata: { name: 'wrong', attempt: 0 } }));
    journal.failAt = 'startContainer';
    journal.onStep = (step) => (step === 'startContainer' ? sandbox.end(id, 127) : undefined);
    await assert.rejects(engine.startContainer(id), { message: 'start container wrong: startContainer: injected' });
    const { exitCode, reason, message } = await engine.containerStatus(id);
    assert.deepEqual([exitCode, reason, message], [128, 'StartError', 'start container wrong: startContainer: injected']);
  });
});

describe('an update of a pod', () => {
  const resources = { memoryLimitBytes: 100n };

  it('limits its group: the containers’ together and the overhead', async () => {
    const { engine, podId, sandbox } = await setUp({ pod: { resources, overhead: { memoryLimitBytes: 7n } } });
    await engine.updatePodSandbox(podId, { resources: { memoryLimitBytes: 200n } });
    assert.deepEqual(
      sandbox.updates.map((update) => update.resources.memory),
      [{ limit: 207n }],
    );
    const info = await engine.podSandboxInfo(podId);
    assert.deepEqual([info['resources'], info['overhead']], [{ memoryLimitBytes: 200n }, { memoryLimitBytes: 7n }]);
  });

  it('below a parent that somebody else limits is recorded and no more', async () => {
    const { engine, podId, sandbox } = await setUp({ pod: { cgroupParent: '/kubepods/pod1', resources } });
    await engine.updatePodSandbox(podId, { resources: { memoryLimitBytes: 200n } });
    assert.deepEqual(sandbox.updates, []);
    assert.deepEqual((await engine.podSandboxInfo(podId))['resources'], { memoryLimitBytes: 200n });
  });

  it('whose answer never came is finished by the next engine', async () => {
    const { engine, podId, journal, sandbox, openEngine } = await setUp();
    journal.onStep = (step) => {
      if (step === 'updatePod') throw new RuntimeError('unavailable', 'the connection has ended');
    };
    await assert.rejects(engine.updatePodSandbox(podId, { resources }), { code: 'unavailable', message: 'update pod sandbox default/web: the connection has ended' });
    journal.onStep = undefined;
    const next = openEngine();
    await next.reconcile();
    assert.deepEqual([sandbox.updates.length, (await next.podSandboxInfo(podId))['resources']], [1, resources]);
  });

  it('that fails changes nothing, and one that is stopped takes none', async () => {
    const { engine, podId, journal } = await setUp();
    journal.failAt = 'updatePod';
    await assert.rejects(engine.updatePodSandbox(podId, { resources }), { code: 'resourceExhausted', message: 'update pod sandbox default/web: updatePod: injected' });
    assert.equal((await engine.podSandboxInfo(podId))['resources'], undefined);
    journal.failAt = undefined;
    await engine.stopPodSandbox(podId);
    await assert.rejects(engine.updatePodSandbox(podId, { resources }), { code: 'failedPrecondition', message: /is not ready$/ });
  });
});

describe('events', () => {
  it('tell the start before the end, also where the end comes before the answer to the start', async () => {
    const { engine, journal, podId, sandbox } = await setUp();
    const cancel = new AbortController();
    const kinds: string[] = [];
    const reading = (async (): Promise<void> => {
      for await (const event of engine.events(cancel.signal)) kinds.push(`${event.kind} ${event.snapshot?.containers.at(-1)?.state ?? ''}`);
    })();
    await new Promise((resolve) => setImmediate(resolve));
    const id = await engine.createContainer(podId, containerConfig({ metadata: { name: 'short', attempt: 0 } }));
    journal.onStep = (step) => (step === 'startContainer' ? sandbox.end(id, 4) : undefined);
    await engine.startContainer(id);
    journal.onStep = undefined;
    const { state, exitCode, startedAtNs, finishedAtNs } = await engine.containerStatus(id);
    assert.deepEqual([state, exitCode, startedAtNs > 0n, finishedAtNs >= startedAtNs], ['exited', 4, true, true]);
    cancel.abort();
    await reading;
    assert.deepEqual(kinds, ['containerCreated created', 'containerStarted running', 'containerStopped exited']);
  });

  it('have the time at which they were recorded, so that none is older than what a reader has seen of the pod', async () => {
    const { engine, journal, clock, podId, sandbox } = await setUp();
    const cancel = new AbortController();
    const events: EngineEvent[] = [];
    const reading = (async (): Promise<void> => {
      for await (const event of engine.events(cancel.signal)) events.push(event);
    })();
    await new Promise((resolve) => setImmediate(resolve));
    const id = await engine.createContainer(podId, containerConfig({ metadata: { name: 'late', attempt: 0 } }));
    const createdNs = clock.nowNs();
    // The process ends, and only then the shim's answer to the start arrives.
    journal.onStep = (step) => {
      if (step !== 'startContainer') return;
      sandbox.end(id, 0);
      clock.advance(5);
    };
    await engine.startContainer(id);
    journal.onStep = undefined;
    cancel.abort();
    await reading;
    const recordedNs = createdNs + 5_000_000n;
    assert.deepEqual(
      events.map(({ kind, atNs }) => [kind, atNs]),
      [
        ['containerCreated', createdNs],
        ['containerStarted', recordedNs],
        ['containerStopped', recordedNs],
      ],
    );
    assert.equal((await engine.containerStatus(id)).finishedAtNs, createdNs);
  });

  it('tell the stop of a pod once, also where a first try failed half way', async () => {
    for (const failAt of ['detach', 'shutdown']) {
      const { engine, journal, podId } = await setUp();
      const cancel = new AbortController();
      const kinds: string[] = [];
      const reading = (async (): Promise<void> => {
        for await (const { kind } of engine.events(cancel.signal)) kinds.push(kind);
      })();
      await new Promise((resolve) => setImmediate(resolve));
      journal.failAt = failAt;
      await assert.rejects(engine.stopPodSandbox(podId), { message: `${failAt}: injected` });
      assert.deepEqual(kinds, []);
      journal.failAt = undefined;
      await engine.stopPodSandbox(podId);
      await engine.stopPodSandbox(podId);
      cancel.abort();
      await reading;
      assert.deepEqual(kinds, ['containerStopped', 'podStopped'], failAt);
    }
  });

  it('hold the pod and its containers as they were then, also of what is removed', async () => {
    const { engine, podId, id } = await setUp();
    const cancel = new AbortController();
    const events: EngineEvent[] = [];
    const reading = (async (): Promise<void> => {
      for await (const event of engine.events(cancel.signal)) events.push(event);
    })();
    await new Promise((resolve) => setImmediate(resolve));
    await engine.stopContainer(id, { timeoutMs: 0 });
    await engine.removePodSandbox(podId);
    cancel.abort();
    await reading;
    assert.deepEqual(
      events.map(({ kind, snapshot }) => [kind, snapshot?.pod.id, snapshot?.pod.state, snapshot?.containers.map(({ state }) => state)]),
      [
        ['containerStopped', podId, 'ready', ['exited']],
        ['podStopped', podId, 'notReady', ['exited']],
        ['containerRemoved', podId, 'notReady', []],
        ['podRemoved', podId, 'notReady', []],
      ],
    );
  });
});
