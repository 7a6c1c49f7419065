/** `run`, `explain`, `doctor`, `daemon` and `pull` over doubles: stages, output, signals, exit statuses. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerId, podSandboxId } from '#core';
import type { ContainerConfig, Engine, ImageSummary, PodSandboxConfig } from '#pod';
import { containerDouble, podDouble, runDouble, streamsOf } from './doubles.ts';

const image: ImageSummary = { id: `sha256:${'ab'.repeat(32)}`, names: ['docker.io/library/busybox:1'], digests: [], sizeBytes: 4_300_000, createdAtNs: 0n, pinned: false };

interface Ran {
  readonly engine: Partial<Engine>;
  readonly pods: PodSandboxConfig[];
  readonly containers: ContainerConfig[];
}

/** An engine in which every container prints its name and ends with a code. */
function runnable(exitCodes: Readonly<Record<string, number>> = {}): Ran {
  const pods: PodSandboxConfig[] = [];
  const containers: ContainerConfig[] = [];
  const engine: Partial<Engine> = {
    imageStatus: async () => image,
    runPodSandbox: async (config) => {
      pods.push(config);
      return podSandboxId('pod-1');
    },
    podSandboxStatus: async () => podDouble({ name: 'web' }),
    createContainer: async (_pod, config) => {
      containers.push(config);
      return containerId(config.metadata.name);
    },
    attach: async (id) => streamsOf([[1, `I am ${id}\n`]], 0),
    startContainer: async () => undefined,
    waitContainer: async (id) => containerDouble({ name: id, state: 'exited', exitCode: exitCodes[id] ?? 0, startedAtNs: 0n, finishedAtNs: 5_000_000n }),
    removePodSandbox: async () => undefined,
    stopPodSandbox: async () => undefined,
  };
  return { engine, pods, containers };
}

test('run of an image prints only its output and ends with its exit code', async () => {
  const { engine, containers, pods } = runnable({ 'busybox-abab': 3 });
  const outcome = await runDouble(
    ['run', '-e', 'A=$(B)', '-e', 'HOME', '--pids-limit', '9', '-v', 'data:/data:ro', '-u', 'www-data', '-p', '127.0.0.1:81:80/udp', 'busybox:1', 'sh', '-c', 'echo $(X)'],
    { engine, env: { HOME: '/me' } },
  );
  assert.deepEqual([outcome.status, outcome.stdout, outcome.stderr], [3, 'I am busybox-abab\n', '']);
  assert.deepEqual(containers[0]?.env, [
    { key: 'A', value: '$(B)' },
    { key: 'HOME', value: '/me' },
  ]);
  assert.deepEqual(containers[0]?.args, ['sh', '-c', 'echo $(X)']);
  assert.deepEqual(containers[0]?.resources, { pidsLimit: 9n });
  assert.deepEqual(containers[0]?.mounts, [{ containerPath: '/data', hostPath: '/work/data', readonly: true, propagation: 'private' }]);
  assert.equal(containers[0]?.security.runAsUsername, 'www-data');
  assert.deepEqual(pods[0]?.portMappings, [{ containerPort: 80, hostPort: 81, protocol: 'udp', hostIp: '127.0.0.1' }]);
  assert.equal(outcome.listeners, 0);
});

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  restartPolicy: Never
  containers:
    - {name: server, image: localhost/app, imagePullPolicy: IfNotPresent}
    - {name: cli, image: localhost/app, imagePullPolicy: IfNotPresent}
`;

test('run of a manifest prints stages, prefixed output and exit codes, and ends with the first code that is not 0', async () => {
  const { engine } = runnable({ cli: 4 });
  const outcome = await runDouble(['run', 'pod.yaml'], { engine, files: { 'pod.yaml': manifest } });
  assert.deepEqual([outcome.status, outcome.stderr], [4, '']);
  for (const line of [
    'image     localhost/app  present  0.0 ms',
    'network   10.88.0.2',
    'sandbox   default/web  0.0 ms',
    'container server  0.0 ms',
    'server | I am server',
    'cli    | I am cli',
    'exit      server  code 0  after 5.0 ms',
    'exit      cli  code 4  after 5.0 ms',
    'remove    default/web  0.0 ms',
  ]) {
    assert.ok(outcome.stdout.split('\n').includes(line), `${line}\n---\n${outcome.stdout}`);
  }
});

test('run takes a manifest from standard input, and detached prints where it runs', async () => {
  const { engine } = runnable();
  const outcome = await runDouble(['run', '-d', '-'], { engine, stdin: manifest });
  assert.deepEqual([outcome.status, outcome.stdout.trimEnd().split('\n').at(-1)], [0, 'web is running (pod-1)']);
});

test('a detached run says that nobody restarts what asked for it', async () => {
  const { engine } = runnable();
  const asked = await runDouble(['run', '-d', '--restart', 'always', 'busybox:1'], { engine });
  assert.deepEqual([asked.status, asked.stderr], [0, 'berth: note: restartPolicy is Always, but nobody restarts a container after --detach\n']);
  const { stderr } = await runDouble(['run', '-d', 'busybox:1'], { engine: runnable().engine });
  assert.equal(stderr, '');
});

test('signals stop a run in order, then at once, and the listeners are gone at the end', async () => {
  let deliver: (name: 'SIGINT') => void = () => undefined;
  const stops: number[] = [];
  const ended = Promise.withResolvers<void>();
  const { engine } = runnable();
  const outcome = await runDouble(['run', 'busybox:1'], {
    engine: {
      ...engine,
      startContainer: async () => void setImmediate(() => deliver('SIGINT')),
      stopContainer: async (_id, { timeoutMs }) => {
        stops.push(timeoutMs);
        if (timeoutMs > 0) deliver('SIGINT');
        else ended.resolve();
      },
      waitContainer: async (id) => {
        await ended.promise;
        return containerDouble({ name: id, state: 'exited', exitCode: 137 });
      },
    },
    onSignals: (given) => {
      deliver = given;
    },
  });
  assert.deepEqual([outcome.status, stops, outcome.listeners], [137, [10_000, 0], 0]);
});

test('run --output json prints the result alone', async () => {
  const { engine } = runnable({ cli: 4 });
  const outcome = await runDouble(['run', '--output', 'json', 'pod.yaml'], { engine, files: { 'pod.yaml': manifest } });
  const result = JSON.parse(outcome.stdout) as { readonly containers: readonly { readonly name: string; readonly exitCode: number }[] };
  assert.deepEqual(
    result.containers.map(({ name, exitCode }) => [name, exitCode]),
    [
      ['server', 0],
      ['cli', 4],
    ],
  );
});

test('bad manifests are one line with the place', async () => {
  const cases: readonly (readonly [string, string])[] = [
    ['a: [', 'read pod.yaml: line 1, column 5: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    [manifest.replace('restartPolicy', 'restartPolcy'), 'read pod.yaml: spec.restartPolcy: unknown field, did you mean restartPolicy?'],
    ['a: 1\na: 2', 'read pod.yaml: line 2, column 1: Map keys must be unique'],
  ];
  for (const [text, message] of cases) {
    const { status, stdout, stderr, calls } = await runDouble(['run', 'pod.yaml'], { files: { 'pod.yaml': text } });
    assert.deepEqual([status, stdout, stderr, calls], [1, '', `berth: ${message}\n`, []]);
  }
  assert.equal((await runDouble(['run', 'none.yaml'])).stderr, 'berth: read none.yaml: ENOENT: no such file or directory\n');
});

test('explain takes a manifest or a bundle', async () => {
  const explained: string[] = [];
  const engine: Partial<Engine> = {
    imageStatus: async () => image,
    explain: async ({ pod, containers, showSecrets }) => {
      explained.push(`${pod.metadata.name} ${containers.length} ${showSecrets}`);
      return ['step 1', 'step\u001b2'];
    },
  };
  assert.equal((await runDouble(['explain', 'pod.yaml', '--show-secrets'], { engine, files: { 'pod.yaml': manifest } })).stdout, 'step 1\nstep\\x1b2\n');
  assert.deepEqual(explained, ['web 2 true']);
  assert.equal((await runDouble(['explain', '/x/config.json'])).stdout, 'bundle /x/config.json\n');
  assert.equal((await runDouble(['explain', './bundle'])).stdout, 'bundle ./bundle\n');
});

test('doctor ends with 1 only where something is missing', async () => {
  const doctor = (state: 'limited' | 'missing') => async () => ({ checks: [{ name: 'cgroups', state, detail: 'hybrid', remedy: 'use v2' }] });
  const limited = await runDouble(['doctor'], { overrides: { doctor: doctor('limited') } });
  assert.deepEqual([limited.status, limited.stdout], [0, 'limited  cgroups  hybrid\n                  use v2\n']);
  assert.equal((await runDouble(['doctor'], { overrides: { doctor: doctor('missing') } })).status, 1);
});

test('daemon, version and a pull', async () => {
  assert.deepEqual((await runDouble(['daemon', '--run', '/r', '--socket', 's.sock'])).calls, ['daemon /work/s.sock']);
  assert.equal((await runDouble(['version'])).stdout, 'berth 1.2.3\n');
  assert.equal((await runDouble(['--version'])).stdout, 'berth 1.2.3\n');
  const auths: unknown[] = [];
  const engine: Partial<Engine> = {
    pullImage: async (_name, options) => {
      auths.push(options?.auth);
      options?.onProgress?.({ stage: 'downloading', layer: 'sha256:aa', bytesDone: 1, bytesTotal: 4 });
      return image;
    },
  };
  const pulled = await runDouble(['pull', 'busybox:1', '--username', 'me', '--password-stdin'], { engine, stdin: 'secret\n' });
  assert.deepEqual([pulled.status, pulled.stdout, pulled.stderr], [0, 'docker.io/library/busybox:1  abababababab  4.1 MiB  0.0 ms\n', '']);
  assert.deepEqual(auths, [{ username: 'me', password: 'secret' }]);
});
