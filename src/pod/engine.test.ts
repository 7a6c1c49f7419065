/** The engine over in-memory ports: lifecycles, joined creates, rollback at each step, what a second engine finds. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RuntimeError } from '#core';
import { PodEngine } from './engine.ts';
import { FakeDriver, FakeNetwork, Journal, ManualClock, MemoryRecords, containerConfig, podConfig } from './testing/doubles.ts';
import { fakeDependencies } from './testing/engine-doubles.ts';
import { FakeImages } from './testing/image-doubles.ts';

function setUp() {
  const journal = new Journal();
  const clock = new ManualClock();
  const records = new MemoryRecords();
  const driver = new FakeDriver(journal, clock);
  const network = new FakeNetwork(journal);
  const images = new FakeImages(journal);
  const reported: unknown[] = [];
  const openEngine = (): PodEngine =>
    new PodEngine(fakeDependencies(journal, clock, { records, drivers: new Map([['native', driver]]), images, network, report: (error) => reported.push(error) }));
  return { journal, clock, records, driver, network, images, reported, openEngine, engine: openEngine() };
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

async function running(host: ReturnType<typeof setUp>) {
  const podId = await host.engine.runPodSandbox(podConfig());
  const id = await host.engine.createContainer(podId, containerConfig());
  await host.engine.startContainer(id);
  const sandbox = host.driver.alive.get(podId);
  assert.ok(sandbox);
  return { podId, id, sandbox };
}

describe('pod sandboxes', () => {
  it('become ready, are listed, stopped and removed, and leave no record', async () => {
    const host = setUp();
    const id = await host.engine.runPodSandbox(podConfig());
    assert.deepEqual(
      (await host.engine.listPodSandboxes()).map((pod) => [pod.id, pod.state, pod.ips]),
      [[id, 'ready', ['10.88.0.2']]],
    );
    await host.engine.stopPodSandbox(id.slice(0, 12));
    assert.equal((await host.engine.podSandboxStatus(id)).state, 'notReady');
    await host.engine.stopPodSandbox(id);
    await host.engine.removePodSandbox(id);
    await host.engine.removePodSandbox(id);
    assert.equal(host.records.size, 0);
    assert.equal(host.network.attached.size, 0);
  });

  for (const step of ['prepare', 'attach', 'execute', 'commit', 'onProcessEnd', 'deposit']) {
    it(`leave nothing behind when ${step} fails, and a retry succeeds`, async () => {
      const host = setUp();
      host.journal.failAt = step;
      await assert.rejects(host.engine.runPodSandbox(podConfig(), { foreground: true }), { code: 'resourceExhausted', message: `run pod sandbox default/web: ${step}: injected` });
      assert.equal(host.records.size, 0);
      assert.equal(host.network.attached.size, 0);
      assert.equal(host.driver.alive.size, 0);
      host.journal.failAt = undefined;
      await host.engine.runPodSandbox(podConfig(), { foreground: true });
    });
  }

  it('are created once for equal requests in flight and again for a repeat', async () => {
    const { engine, journal } = setUp();
    const [a, b] = await Promise.all([engine.runPodSandbox(podConfig()), engine.runPodSandbox(podConfig())]);
    assert.equal(a, b);
    assert.equal(await engine.runPodSandbox(podConfig()), a);
    assert.equal(journal.calls.filter((call) => call === 'prepare').length, 1);
  });

  it('are refused for an unequal request of the same name, in flight and after', async () => {
    const { engine } = setUp();
    const first = engine.runPodSandbox(podConfig());
    await assert.rejects(engine.runPodSandbox(podConfig({ hostname: 'other' })), {
      code: 'alreadyExists',
      message: 'create pod sandbox default/web/u1/0: another configuration of that name is being created',
    });
    const id = await first;
    await assert.rejects(engine.runPodSandbox(podConfig({ hostname: 'other' })), {
      code: 'alreadyExists',
      message: `run pod sandbox default/web/u1/0: exists as ${id} with another configuration`,
    });
  });

  it('finish and are kept for the retry when the caller goes away', async () => {
    const { engine, journal } = setUp();
    const caller = new AbortController();
    journal.onStep = (step) => {
      if (step === 'attach') caller.abort();
    };
    await assert.rejects(engine.runPodSandbox(podConfig(), {}, caller.signal), { code: 'cancelled' });
    await settle();
    const id = await engine.runPodSandbox(podConfig());
    assert.equal((await engine.podSandboxStatus(id)).state, 'ready');
    assert.equal(journal.calls.filter((call) => call === 'prepare').length, 1);
  });

  it('refuse an unknown runtime handler', async () => {
    await assert.rejects(setUp().engine.runPodSandbox(podConfig(), { runtimeHandler: 'kata' }), {
      code: 'notFound',
      message: 'runtime handler "kata": not configured (have native)',
    });
  });
});

describe('containers', () => {
  it('go from created to running to exited with the exit code', async () => {
    const host = setUp();
    const { id, sandbox } = await running(host);
    assert.equal((await host.engine.containerStatus(id)).state, 'running');
    sandbox.end(id, 3);
    const status = await host.engine.waitContainer(id);
    assert.deepEqual([status.state, status.exitCode, status.reason], ['exited', 3, 'Error']);
  });

  it('report an OOM kill', async () => {
    const host = setUp();
    const { id, sandbox } = await running(host);
    sandbox.end(id, 137, true);
    assert.equal((await host.engine.containerStatus(id)).reason, 'OOMKilled');
  });

  it('leave nothing behind when the create fails', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig());
    host.journal.failAt = 'createContainer';
    await assert.rejects(host.engine.createContainer(podId, containerConfig()), {
      code: 'resourceExhausted',
      message: 'create container app in pod web: createContainer: injected',
    });
    assert.deepEqual(await host.engine.listContainers(), []);
    assert.equal(host.images.held.size, 0);
    assert.ok(host.journal.calls.includes('removeContainer'));
  });

  it('name a missing image', async () => {
    const { engine } = setUp();
    const podId = await engine.runPodSandbox(podConfig());
    await assert.rejects(engine.createContainer(podId, containerConfig({ image: 'nope' })), {
      code: 'notFound',
      message: 'create container app in pod web: image "nope": not found',
    });
  });

  it('are recorded as exited with 128 when their command cannot start', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig());
    const id = await host.engine.createContainer(podId, containerConfig());
    host.journal.failAt = 'startContainer';
    await assert.rejects(host.engine.startContainer(id), { code: 'resourceExhausted', message: 'start container app: startContainer: injected' });
    const status = await host.engine.containerStatus(id);
    assert.deepEqual([status.state, status.exitCode, status.reason], ['exited', 128, 'StartError']);
  });

  it('get SIGKILL after their grace period, and a shorter second stop shortens the first', async () => {
    const host = setUp();
    const { id, sandbox } = await running(host);
    sandbox.ignoresTerm = true;
    const first = host.engine.stopContainer(id, { timeoutMs: 60_000 });
    await settle();
    assert.deepEqual(host.journal.calls.slice(-1), ['signal 15']);
    const second = host.engine.stopContainer(id, { timeoutMs: 1_000 });
    await settle();
    host.clock.advance(1_000);
    await Promise.all([first, second]);
    assert.equal((await host.engine.containerStatus(id)).exitCode, 137);
  });

  it('are killed when removed while running, and an absent one is no error', async () => {
    const host = setUp();
    const { id } = await running(host);
    await host.engine.removeContainer(id);
    await host.engine.removeContainer(id);
    await assert.rejects(host.engine.containerStatus(id), { code: 'notFound', message: `container "${id}": container does not exist` });
    assert.equal(host.images.held.size, 0);
  });

  it('are recorded as killed when the shim ends by itself', async () => {
    const host = setUp();
    const { id, podId, sandbox } = await running(host);
    sandbox.gone.resolve();
    const status = await host.engine.waitContainer(id);
    assert.deepEqual([status.exitCode, status.message], [137, "the pod's shim ended"]);
    await settle();
    assert.equal((await host.engine.podSandboxStatus(podId)).state, 'notReady');
    assert.deepEqual(host.reported, []);
  });
});

describe('a second engine', () => {
  it('re-attaches to live sandboxes and records what ended meanwhile', async () => {
    const host = setUp();
    const { id, podId } = await running(host);
    const next = host.openEngine();
    await next.reconcile();
    assert.equal((await next.podSandboxStatus(podId)).state, 'ready');
    await next.stopContainer(id, { timeoutMs: 10 });
    assert.equal((await next.containerStatus(id)).exitCode, 143);
  });

  it('records the death of pods whose shim is gone and cleans up after them', async () => {
    const host = setUp();
    const { id, podId } = await running(host);
    host.driver.alive.clear();
    const next = host.openEngine();
    await next.reconcile();
    assert.equal((await next.podSandboxStatus(podId)).state, 'notReady');
    assert.deepEqual([(await next.containerStatus(id)).exitCode, (await next.containerStatus(id)).reason], [255, 'Unknown']);
    assert.equal(host.network.attached.size, 0);
  });

  it('forgets foreground pods of a dead starter', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig(), { foreground: true });
    await host.engine.createContainer(podId, containerConfig());
    const next = host.openEngine();
    await next.reconcile();
    assert.deepEqual(await next.listPodSandboxes(), []);
    assert.equal(host.records.size, 0);
    assert.equal(host.images.held.size, 0);
  });
});

describe('images as volumes', () => {
  const mounts = [
    { containerPath: '/h', hostPath: '/srv', readonly: false, propagation: 'private' },
    { containerPath: '/v', hostPath: '', readonly: true, propagation: 'private', image: { image: 'x', subPath: 's' } },
  ] as const;

  it('are leased while their container is there and shown by reference', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig());
    const id = await host.engine.createContainer(podId, containerConfig({ mounts }));
    assert.deepEqual([...host.images.held], [id, `${id}/image-1`]);
    assert.deepEqual(
      (await host.engine.containerStatus(id)).mounts.map(({ image }) => image?.imageRef),
      [undefined, 'docker.io/library/x@sha256:2'],
    );
    await host.engine.removeContainer(id);
    assert.equal(host.images.held.size, 0);
  });

  it('are given up when the create fails, and refused before anything where the image is missing', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig());
    host.journal.failAt = 'createContainer';
    await assert.rejects(host.engine.createContainer(podId, containerConfig({ mounts })), { code: 'resourceExhausted' });
    assert.equal(host.images.held.size, 0);
    const missing = { containerPath: '/v', hostPath: '', readonly: true, propagation: 'private', image: { image: 'y', subPath: '' } } as const;
    await assert.rejects(host.engine.createContainer(podId, containerConfig({ mounts: [missing] })), {
      code: 'notFound',
      message: 'create container app in pod web: ImageVolumeMountFailed: config.mounts[0].image: image "y": not found',
    });
  });

  it('are kept for the containers that another engine finds, and no others', async () => {
    const host = setUp();
    const podId = await host.engine.runPodSandbox(podConfig());
    const id = await host.engine.createContainer(podId, containerConfig({ mounts }));
    host.images.held.add('gone/image-0').add('gone');
    await host.openEngine().reconcile();
    assert.deepEqual([...host.images.held], [id, `${id}/image-1`]);
    await host.engine.removePodSandbox(podId);
    assert.equal(host.images.held.size, 0);
  });
});

describe('events', () => {
  it('tell of every move in order', async () => {
    const host = setUp();
    const cancel = new AbortController();
    const kinds: string[] = [];
    const reading = (async () => {
      for await (const event of host.engine.events(cancel.signal)) kinds.push(event.kind);
    })();
    await settle();
    const { id, podId, sandbox } = await running(host);
    sandbox.end(id, 0);
    await host.engine.removePodSandbox(podId);
    cancel.abort();
    await reading;
    assert.deepEqual(kinds, ['podCreated', 'containerCreated', 'containerStarted', 'containerStopped', 'podStopped', 'containerRemoved', 'podRemoved']);
  });
});

describe('exec', () => {
  it('needs a running container', async () => {
    const { engine } = setUp();
    const podId = await engine.runPodSandbox(podConfig());
    const id = await engine.createContainer(podId, containerConfig());
    await assert.rejects(
      engine.execSync(id, ['true'], { timeoutMs: 0 }),
      (error: unknown) => error instanceof RuntimeError && error.code === 'failedPrecondition' && error.message === `exec in container ${id}: container is created, not running`,
    );
  });
});
