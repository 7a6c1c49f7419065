/** Runs over an engine in memory: order, restarts, signals, a fault at each step. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { RegistryAuth } from '#pod';
import { ClockDouble, EngineDouble, type FaultPoint, type StartScript } from './doubles.ts';
import { decodeManifest } from './manifest.ts';
import { planPod } from './plan.ts';
import type { PodPlan } from './plan-types.ts';
import type { RunEvent, RunOptions, RunResult } from './runner-types.ts';
import { PodRunner } from './runner.ts';

const facts = {
  uid: 'u1',
  memoryBytes: 1n << 30n,
  dns: { servers: [], searches: [], options: [] },
  podsDirectory: '/s',
  memoryPodsDirectory: '/r',
  seccompDirectory: '/p',
  subordinateIds: [],
};

function planOf(spec: object): PodPlan {
  return planPod(decodeManifest([{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web' }, spec }]), facts);
}

const container = (name: string): object => ({ name, image: 'localhost/app', imagePullPolicy: 'IfNotPresent' });

interface Run {
  readonly double: EngineDouble;
  readonly clock: ClockDouble;
  readonly events: RunEvent[];
  readonly result: Promise<RunResult>;
}

function start(
  spec: object,
  scripts: Readonly<Record<string, readonly StartScript[]>>,
  options: Partial<RunOptions> = {},
  prepare: (double: EngineDouble, clock: ClockDouble) => void = () => undefined,
): Run {
  const double = new EngineDouble(scripts);
  const clock = new ClockDouble();
  const events: RunEvent[] = [];
  prepare(double, clock);
  const runner = new PodRunner({ engine: double.engine, volumes: double.volumes, clock });
  const result = runner.run(planOf(spec), { detach: false, remove: true, onEvent: (event) => events.push(event), ...options });
  return { double, clock, events, result };
}

const codesOf = (result: RunResult): readonly string[] => result.containers.map(({ name, exitCode, restarts }) => `${name} ${exitCode} ${restarts}`);

test('init containers run in order before containers, sidecars go on until the containers have ended', async () => {
  const spec = {
    restartPolicy: 'Never',
    initContainers: [container('first'), { ...container('proxy'), restartPolicy: 'Always' }, container('second')],
    containers: [container('app')],
  };
  const run = start(spec, { proxy: [{}] });
  const result = await run.result;
  assert.deepEqual(codesOf(result), ['first 0 0', 'proxy 143 0', 'second 0 0', 'app 0 0']);
  assert.deepEqual(
    run.double.calls.filter((call) => /^(start|stop) /.test(call)),
    ['start first-0', 'start proxy-0', 'start second-0', 'start app-0', 'stop proxy-0 30000'],
  );
  assert.deepEqual(run.double.remains, []);
});

test('a foreground run reports its stages in order with the address', async () => {
  const run = start({ restartPolicy: 'Never', containers: [container('app')] }, {});
  await run.result;
  const done = run.events.filter((event) => event.kind === 'stageDone').map((event) => `${event.stage} ${event.name}`);
  assert.deepEqual(done, ['image localhost/app', 'volumes default/web', 'sandbox default/web', 'network 10.88.0.2', 'container app', 'remove default/web']);
  assert.ok(run.double.calls.includes('runPodSandbox foreground'));
});

test('containers are restarted at once, then after 10, 20, 40 … at most 300 seconds', async () => {
  const failures: StartScript[] = Array.from({ length: 8 }, () => ({ exitCode: 1 }));
  const run = start({ restartPolicy: 'OnFailure', containers: [container('app')] }, { app: [...failures, { exitCode: 0 }] });
  const result = await run.result;
  assert.deepEqual(codesOf(result), ['app 0 8']);
  assert.deepEqual(run.clock.sleeps, [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
});

test('ten minutes without a crash reset the back-off', async () => {
  const run = start(
    { restartPolicy: 'OnFailure', containers: [container('app')] },
    { app: [{ exitCode: 1 }, { exitCode: 1 }, { exitCode: 1, ranMs: 600_000 }, { exitCode: 1 }, { exitCode: 0 }] },
  );
  await run.result;
  assert.deepEqual(run.clock.sleeps, [10_000, 10_000]);
});

test('a restarted container gets the next attempt and its own log file, and the old one is removed first', async () => {
  const run = start({ restartPolicy: 'OnFailure', containers: [container('app')] }, { app: [{ exitCode: 3 }, { exitCode: 0 }] });
  await run.result;
  assert.deepEqual(
    run.double.configs.map(({ logPath, metadata }) => `${logPath} ${metadata.attempt}`),
    ['app/0.log 0', 'app/1.log 1'],
  );
  assert.ok(run.double.calls.indexOf('remove app-0') < run.double.calls.indexOf('create app-1'));
});

test('an init container that fails under Never ends the pod with its code', async () => {
  const run = start({ restartPolicy: 'Never', initContainers: [container('setup')], containers: [container('app')] }, { setup: [{ exitCode: 7 }] });
  const result = await run.result;
  assert.equal(result.initFailed, true);
  assert.deepEqual(codesOf(result), ['setup 7 0']);
  assert.deepEqual(run.double.remains, []);
});

test('the stop signal stops containers with the grace period and cancels a waiting restart', async () => {
  const stop = new AbortController();
  const spec = { terminationGracePeriodSeconds: 5, containers: [container('crashing'), container('serving')] };
  const run = start(spec, { crashing: [{ exitCode: 1 }, { exitCode: 1 }], serving: [{}] }, { stopSignal: stop.signal }, (_double, clock) => {
    clock.hold = true;
  });
  await waitFor(() => run.clock.sleeps.length === 1);
  stop.abort();
  const result = await run.result;
  assert.equal(result.interrupted, true);
  assert.deepEqual(codesOf(result), ['crashing 1 1', 'serving 143 0']);
  assert.ok(run.double.calls.includes('stop serving-0 5000'));
  assert.deepEqual(run.double.remains, []);
});

test('the kill signal stops everything at once, sidecars too', async () => {
  const stop = new AbortController();
  const kill = new AbortController();
  const spec = { initContainers: [{ ...container('proxy'), restartPolicy: 'Always' }], containers: [container('app')] };
  const run = start(spec, { proxy: [{}], app: [{ onStart: () => queueMicrotask(() => kill.abort()) }] }, { stopSignal: stop.signal, killSignal: kill.signal });
  await run.result;
  assert.deepEqual(run.double.calls.filter((call) => call.startsWith('stop ')).toSorted(), ['stop app-0 0', 'stop proxy-0 0']);
});

test('a signal that comes while a container starts stops that container too', async () => {
  const stop = new AbortController();
  const run = start({ containers: [container('app'), container('never')] }, { app: [{ onStart: () => stop.abort() }] }, { stopSignal: stop.signal });
  const result = await run.result;
  assert.deepEqual(codesOf(result), ['app 143 0']);
  assert.equal(
    run.double.calls.some((call) => call.includes('never')),
    false,
  );
});

test('a signal before the sandbox ends the run as cancelled and leaves nothing', async () => {
  const run = start({ containers: [container('app')] }, {}, { stopSignal: AbortSignal.abort() });
  await assert.rejects(run.result, { code: 'cancelled', message: 'run pod default/web: interrupted' });
  assert.deepEqual(run.double.remains, []);
  assert.equal(run.double.calls.includes('runPodSandbox foreground'), false);
});

for (const point of [
  'pullImage',
  'volumes',
  'runPodSandbox',
  'podSandboxStatus',
  'createContainer',
  'attach',
  'startContainer',
  'waitContainer',
] as const satisfies readonly FaultPoint[]) {
  test(`nothing is left where ${point} fails`, async () => {
    const run = start(
      { restartPolicy: 'Never', initContainers: [{ ...container('proxy'), restartPolicy: 'Always' }], containers: [container('app')] },
      { proxy: [{}] },
      {
        attach: async (_container, streams) => {
          for await (const _chunk of streams.output) void _chunk;
        },
      },
      (double) => {
        double.faults.set(point, new RuntimeError('unavailable', `${point}: broken`));
      },
    );
    await assert.rejects(run.result, (error) => error instanceof RuntimeError && error.code === 'unavailable' && error.message.includes(`${point}: broken`));
    assert.deepEqual(run.double.remains, []);
  });
}

test('a clean-up that fails is reported beside the first failure', async () => {
  const run = start({ containers: [container('app')] }, {}, {}, (double) => {
    double.faults.set('startContainer', new RuntimeError('notFound', 'execute /nothing: ENOENT'));
    double.faults.set('removePodSandbox', new RuntimeError('internal', 'stuck'));
  });
  await assert.rejects(run.result, (error) => {
    assert.ok(error instanceof RuntimeError);
    assert.equal(error.message, 'execute /nothing: ENOENT');
    assert.equal(error.code, 'notFound');
    assert.deepEqual(error.cleanupFailures.map(String), ['RuntimeError: remove pod default/web: stuck']);
    return true;
  });
});

test('a sidecar whose restart fails ends the run', async () => {
  const run = start(
    { restartPolicy: 'Never', initContainers: [{ ...container('proxy'), restartPolicy: 'Always' }], containers: [container('app')] },
    { proxy: [{ exitCode: 1 }], app: [{}] },
    {},
    (double) => {
      double.faults.set('removeContainer', new RuntimeError('internal', 'stuck'));
    },
  );
  await assert.rejects(run.result, { code: 'internal', message: 'stuck' });
  assert.deepEqual(run.double.remains, []);
});

test('a detached run starts everything and returns, without lifeline and without watching', async () => {
  const run = start({ initContainers: [container('setup')], containers: [container('a'), container('b')] }, { a: [{}], b: [{}] }, { detach: true, remove: false });
  const result = await run.result;
  assert.deepEqual(result.containers, []);
  assert.ok(run.double.calls.includes('runPodSandbox'));
  assert.deepEqual(run.double.remains, ['pod', 'setup-0', 'a-0', 'b-0', 'volumes u1']);
});

test('a detached run whose init container fails is taken back', async () => {
  const run = start({ restartPolicy: 'Never', initContainers: [container('setup')], containers: [container('a')] }, { setup: [{ exitCode: 2 }] }, { detach: true, remove: false });
  await assert.rejects(run.result, { code: 'aborted', message: 'run pod default/web: init container setup ended with exit code 2' });
  assert.deepEqual(run.double.remains, []);
});

test('without removal the pod is stopped and kept', async () => {
  const run = start({ restartPolicy: 'Never', containers: [container('app')] }, {}, { remove: false });
  await run.result;
  assert.deepEqual(run.double.remains, ['pod', 'app-0', 'volumes u1']);
  assert.equal(run.double.calls.at(-1), 'stopPodSandbox');
});

test('a second pod of the same name is refused', async () => {
  const run = start({ containers: [container('app')] }, {}, {}, (double) => double.addPod(planOf({ containers: [container('app')] }).podConfig));
  await assert.rejects(run.result, { code: 'alreadyExists', message: 'run pod default/web: a pod of this name is running (earlier)' });
  assert.deepEqual(run.double.calls, []);
});

test('pull policies: Never needs the image, IfNotPresent takes the present one, Always pulls', async () => {
  const image = { id: `sha256:${'2'.repeat(64)}`, names: [], digests: [], sizeBytes: 1, createdAtNs: 0n, pinned: false };
  const spec = (imagePullPolicy: string): object => ({ restartPolicy: 'Never', containers: [{ ...container('app'), imagePullPolicy }] });
  await assert.rejects(start(spec('Never'), {}).result, { code: 'notFound', message: 'find image localhost/app: not present on this host, and the pull policy is Never' });
  const present = start(spec('IfNotPresent'), {}, {}, (double) => double.presentImages.set('localhost/app', image));
  await present.result;
  assert.equal(present.double.calls.includes('pullImage localhost/app'), false);
  const always = start(spec('Always'), {}, {}, (double) => double.presentImages.set('localhost/app', image));
  await always.result;
  assert.ok(always.double.calls.includes('pullImage localhost/app'));
});

test('a pull gets the credentials that the user has for the image', async () => {
  const double = new EngineDouble({});
  const asked: string[] = [];
  const findCredentials = async (image: string): Promise<RegistryAuth> => {
    asked.push(image);
    return { username: 'me' };
  };
  const runner = new PodRunner({ engine: double.engine, volumes: double.volumes, clock: new ClockDouble(), findCredentials });
  await runner.run(planOf({ restartPolicy: 'Never', containers: [{ ...container('app'), imagePullPolicy: 'Always' }] }), { detach: false, remove: true, onEvent: () => undefined });
  assert.deepEqual([asked, double.calls.includes('pullImage localhost/app as me')], [['localhost/app'], true]);
});

test('runAsNonRoot refuses an image that runs as root, and leaves nothing', async () => {
  const run = start({ containers: [{ ...container('app'), securityContext: { runAsNonRoot: true } }] }, {});
  await assert.rejects(run.result, { code: 'failedPrecondition', message: 'create container app: runAsNonRoot is set, but the image localhost/app runs as root' });
  assert.deepEqual(run.double.remains, []);
});

test('output is handed over before the end is reported', async () => {
  const order: string[] = [];
  const run = start(
    { restartPolicy: 'Never', containers: [container('app')] },
    { app: [{ exitCode: 0, output: 'hello' }] },
    {
      onEvent: (event) => event.kind === 'containerEnded' && order.push('ended'),
      attach: async (_container, streams) => {
        for await (const { data } of streams.output) order.push(Buffer.from(data).toString());
      },
    },
  );
  await run.result;
  assert.deepEqual(order, ['hello', 'ended']);
});

test('a pod with users of its own gets a range that no other pod has', async () => {
  const spec = { restartPolicy: 'Never', hostUsers: false, containers: [container('app')] };
  const { podConfig } = planOf(spec);
  let double: EngineDouble | undefined;
  const run = start(spec, {}, { remove: false }, (engine) => {
    double = engine;
    engine.addPod({ ...podConfig, metadata: { ...podConfig.metadata, name: 'other' } });
  });
  await run.result;
  const pods = (await double?.engine.listPodSandboxes())?.map(({ namespaces: { user } }) => user?.uids[0]?.hostId ?? 0) ?? [];
  assert.equal(pods.length, 2);
  assert.equal(pods[1], (pods[0] ?? 0) + 65_536);
});

test('a terminal has its size before the process in it starts, however late its streams are taken over', async () => {
  const run = start(
    { restartPolicy: 'Never', containers: [{ ...container('app'), tty: true }, container('plain')] },
    { app: [{ exitCode: 0 }], plain: [{ exitCode: 0 }] },
    { attach: async () => undefined, windowSize: () => ({ columns: 77, rows: 33 }) },
  );
  await run.result;
  assert.deepEqual(
    run.double.calls.filter((call) => /^(attach|resize|start) /.test(call)),
    ['attach app-0', 'resize app-0 77x33', 'start app-0', 'attach plain-0', 'start plain-0'],
  );
});

async function waitFor(condition: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1000; turn += 1) {
    if (condition()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.fail('the condition did not come true');
}
