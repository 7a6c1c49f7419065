/** Whole command lines over doubles: usage errors, tables, runs, the terminal. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { Engine, ImageSummary, ProcessStreams } from '#pod';
import { containerDouble, podDouble, runDouble, streamsOf } from './doubles.ts';

const web = podDouble({ name: 'web', portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080 }] });
const image: ImageSummary = { id: `sha256:${'ab'.repeat(32)}`, names: ['docker.io/library/busybox:1'], digests: [], sizeBytes: 4_300_000, createdAtNs: 0n, pinned: false };

/** Filters as the engine does, as far as the commands use it. */
const listing = (containers: readonly ReturnType<typeof containerDouble>[], pods = [web]): Partial<Engine> => ({
  listPodSandboxes: async () => [...pods],
  listContainers: async (filter) =>
    containers.filter(
      ({ state, podSandboxId: pod }) => (filter?.state === undefined || filter.state === state) && (filter?.podSandboxId === undefined || filter.podSandboxId === pod),
    ),
});

const usages: readonly (readonly [readonly string[], string])[] = [
  [['pss'], "unknown command 'pss' (Did you mean ps?)"],
  [['ps', '--al'], "unknown option '--al' (Did you mean --all?)"],
  [['ps', 'extra'], "too many arguments for 'ps'. Expected 0 arguments but got 1"],
  [['image'], 'a command is missing, see --help'],
  [['run'], "missing required argument 'manifest|image'"],
  [['ps', '--output', 'xml'], '--output xml: allowed choices are table, json'],
  [['run', '-p', '99999:1', 'a'], '--publish 99999:1: port 99999 is outside 1 to 65535'],
  [['run', '-v', 'x', 'a'], '--volume x: must be HOST_PATH:CONTAINER_PATH[:ro|rw|rslave|rshared]'],
  [['run', '--memory', '64m', 'a'], '--memory 64m: 64m is 1 bytes, too little to run anything; did you mean 64Mi?'],
  [['run', '--cap-add', 'NET_ADMN', 'a'], '--cap-add NET_ADMN: capability: unknown capability "NET_ADMN", did you mean NET_ADMIN?'],
  [['run', '--user', '4294967295', 'a'], '--user 4294967295: 4294967295 is outside 0 to 4294967294'],
  [['run', '--network', 'none', 'a'], '--network none: allowed choices are host, pod'],
  [['run', '--network', 'host', '-p', '80', 'a'], '--publish has no meaning with --network host: the container listens on the host itself'],
  [['run', '-v', '/a:/b:rshared', 'a'], '--volume with rshared needs --privileged'],
  [['run', '-d', '--rm', 'a'], '--rm cannot be used with --detach: nobody would be there to remove the pod'],
  [['run', '-it', 'a'], '--tty with --interactive needs a terminal as standard input'],
  [['run', 'Bad'], 'image: image reference "Bad": repository must be lower case'],
  [['run', '--memory', '1Gi', 'pod.yaml'], '--memory is for images; write it into the manifest'],
  [['run', '--cap-add', 'ALL', './pod'], '--cap-add is for images; write it into the manifest'],
  [['run', '-', 'sh'], 'a manifest takes no command; write it into the manifest'],
  [['logs', 'web', '--since', 'yesterday'], '--since "yesterday" must be a duration such as 10m or a time such as 2024-01-31T12:00:00Z'],
  [['logs', 'web', '--tail', '-1'], '--tail -1: must be a number of lines up to 9999999, or all'],
  [['stop', '-t', 'x', 'web'], '--time x: must be a number of seconds up to 86400'],
  [['kill', '-s', '!', 'web'], '--signal !: must be a signal such as TERM, SIGHUP or 15'],
  [['image', 'from-host', 'localhost/a', 'node'], 'executable "node" must be an absolute path'],
  [['pull', 'UPPER'], 'image reference "UPPER": repository must be lower case'],
  [['run', 'pod.yaml', '-e', 'A=b'], 'options such as -e stand before the manifest'],
  [['pull', 'a', '--username', 'me'], '--username and --password-stdin belong together'],
];

for (const [argv, message] of usages) {
  test(`berth ${argv.join(' ')} is a usage error in one line`, async () => {
    const outcome = await runDouble(argv);
    assert.deepEqual([outcome.status, outcome.stdout, outcome.stderr], [2, '', `berth: ${message}\n`]);
    assert.equal(
      outcome.calls.includes('close'),
      outcome.calls.some((call) => call.startsWith('open')),
    );
  });
}

test('help goes to standard output, for every command with examples', async () => {
  const top = await runDouble([]);
  assert.equal(top.status, 0);
  assert.match(top.stdout, /Usage: berth/);
  for (const command of [
    ['run'],
    ['ps'],
    ['pods'],
    ['logs'],
    ['stats'],
    ['inspect'],
    ['images'],
    ['exec'],
    ['stop'],
    ['kill'],
    ['rm'],
    ['pull'],
    ['push'],
    ['rmi'],
    ['image', 'from-host'],
    ['image', 'import'],
    ['explain'],
    ['doctor'],
    ['daemon'],
    ['version'],
  ]) {
    const { status, stdout, stderr } = await runDouble([...command, '--help']);
    assert.deepEqual([status, stderr], [0, ''], command.join(' '));
    assert.match(stdout, new RegExp(`Usage: berth ${command.join(' ')}[^]*Global options:[^]*Examples:\n {2}\\$ `), command.join(' '));
  }
});

test('an error of the engine is one line on standard error and status 1, and the engine is closed', async () => {
  const outcome = await runDouble(['ps'], {
    engine: {
      listContainers: async () => {
        throw new RuntimeError('internal', 'list containers:\n broken');
      },
    },
  });
  assert.deepEqual([outcome.status, outcome.stdout, outcome.stderr], [1, '', 'berth: list containers: broken\n']);
  assert.deepEqual(outcome.calls, ['open /var/lib/berth /run/berth', 'close']);
});

test('--debug shows the causes before the line', async () => {
  const engine: Partial<Engine> = {
    listContainers: async () => {
      throw new RuntimeError('internal', 'outer', { cause: new Error('inner') });
    },
  };
  const { stderr } = await runDouble(['ps', '--debug'], { engine });
  assert.match(stderr, /^RuntimeError: outer\n[^]*caused by: Error: inner\n[^]*\nberth: outer\n$/);
});

test('global options are taken before and behind the command', async () => {
  for (const argv of [
    ['--root', '/a', '--run', 'b/', 'ps'],
    ['ps', '--root', '/a', '--run', 'b/'],
  ])
    assert.equal((await runDouble(argv)).calls[0], 'open /a /work/b');
});

test('without root the directories are those of XDG', async () => {
  const { calls } = await runDouble(['ps'], { uid: 1000, env: { HOME: '/srv/me', XDG_RUNTIME_DIR: '/run/user/1000' } });
  assert.equal(calls[0], 'open /srv/me/.local/share/berth /run/user/1000/berth');
  const { status, stderr } = await runDouble(['ps'], { uid: 1000, env: {} });
  assert.deepEqual([status, stderr], [1, 'berth: find the state directory: neither --root, XDG_DATA_HOME nor HOME is set\n']);
});

test('ps lists running containers, and with -a all of them', async () => {
  const engine = listing([containerDouble({ name: 'app' }), containerDouble({ name: 'old', state: 'exited', exitCode: 137, reason: 'OOMKilled' })]);
  assert.equal(
    (await runDouble(['ps', '-a'], { engine })).stdout,
    [
      'CONTAINER ID  NAME  POD  IMAGE      STATE                    ATTEMPT  AGE',
      'app-id-01234  app   web  busybox:1  running                  0        5s',
      'old-id-01234  old   web  busybox:1  exited (137, OOMKilled)  0        5s',
      '',
    ].join('\n'),
  );
  assert.equal((await runDouble(['ps', '-q'], { engine })).stdout, 'app-id-0123456789\n');
});

test('pods and images are tables, and JSON with 64-bit numbers as texts', async () => {
  const engine = { ...listing([]), listImages: async () => [image] };
  assert.equal(
    (await runDouble(['pods'], { engine })).stdout,
    'POD ID        NAME  NAMESPACE  STATE  ADDRESS    PORTS         AGE\nweb-pod-id-0  web   default    ready  10.88.0.2  8080->80/tcp  1m\n',
  );
  assert.equal(
    (await runDouble(['images'], { engine })).stdout,
    `NAME                         IMAGE ID      SIZE     AGE\ndocker.io/library/busybox:1  abababababab  4.1 MiB  -\n`,
  );
  const [pod] = JSON.parse((await runDouble(['pods', '--output', 'json'], { engine })).stdout) as [{ readonly createdAtNs: string }];
  assert.equal(pod.createdAtNs, String(web.createdAtNs));
});

test('inspect finds pods, containers and images, and says what is none', async () => {
  const engine = {
    ...listing([containerDouble({ name: 'app' })]),
    imageStatus: async (name: string) => (name === 'busybox' ? image : undefined),
    imageInfo: async () => ({ env: [] }),
  };
  const kinds = JSON.parse((await runDouble(['inspect', 'web', 'app', 'busybox'], { engine })).stdout) as readonly { readonly kind: string }[];
  assert.deepEqual(
    kinds.map(({ kind }) => kind),
    ['pod', 'container', 'image'],
  );
  assert.equal((await runDouble(['inspect', 'nothing'], { engine })).stderr, 'berth: inspect "nothing": no such pod, container or image\n');
});

test('a beginning of an id must be unique, and a pod with several containers wants one named', async () => {
  const engine = listing([containerDouble({ name: 'aa' }), containerDouble({ name: 'ab' })]);
  assert.equal((await runDouble(['logs', 'a'], { engine })).stderr, 'berth: find container "a": 2 match: aa (aa-id-012345), ab (ab-id-012345); use an id\n');
  assert.equal((await runDouble(['logs', 'web'], { engine })).stderr, 'berth: find container "web": the pod has web/aa, web/ab; name one\n');
  assert.equal((await runDouble(['logs', 'none'], { engine })).stderr, 'berth: find container "none": no such container or pod\n');
});

const log = [
  '2024-01-31T11:00:00.000000001Z stdout F one',
  '2024-01-31T11:58:00.5Z stderr P tw',
  '2024-01-31T11:58:00.500000001Z stderr F o',
  '2024-01-31T11:59:00.000000001Z stdout F three',
  '',
].join('\n');

test('logs prints records to their streams, the last ones, those since a moment, with times', async () => {
  const double = { engine: listing([containerDouble({ name: 'app' })]), logs: { '/logs/app': log } };
  const plain = await runDouble(['logs', 'web/app'], double);
  assert.deepEqual([plain.stdout, plain.stderr], ['one\nthree\n', 'two\n']);
  const tail = await runDouble(['logs', 'app', '--tail', '2'], double);
  assert.deepEqual([tail.stdout, tail.stderr], ['three\n', 'two\n']);
  const since = await runDouble(['logs', 'app', '--since', '90s', '--timestamps'], double);
  assert.deepEqual([since.stdout, since.stderr], ['2024-01-31T11:59:00.000000001Z three\n', '']);
  const none = await runDouble(['logs', 'app', '--tail', '0'], double);
  assert.equal(none.stdout + none.stderr, '');
});

test('logs --follow ends with the container and prints the tail once', async () => {
  const engine = { ...listing([containerDouble({ name: 'app' })]), waitContainer: async () => containerDouble({ name: 'app', state: 'exited' }) };
  const { stdout, stderr, listeners } = await runDouble(['logs', '-f', '--tail', '1', 'app'], { engine, logs: { '/logs/app': log } });
  assert.deepEqual([stdout, stderr, listeners], ['three\n', '', 0]);
});

test('exec ends with the code of the command, which may have options of its own', async () => {
  let command: readonly string[] = [];
  const engine = {
    ...listing([containerDouble({ name: 'app' })]),
    exec: async (_id: string, request: { readonly command: readonly string[] }) => {
      command = request.command;
      return streamsOf(
        [
          [1, 'out'],
          [2, 'err'],
        ],
        42,
      );
    },
  };
  const outcome = await runDouble(['exec', 'app', '--', 'ls', '-l', '--debug'], { engine });
  assert.deepEqual([outcome.status, outcome.stdout, outcome.stderr, command], [42, 'out', 'err', ['ls', '-l', '--debug']]);
});

test('a program that cannot be executed has the status that shells give it', async () => {
  for (const [errno, status] of [
    ['ENOENT', 127],
    ['EACCES', 126],
    ['EIO', 1],
  ] as const) {
    const engine = {
      ...listing([containerDouble({ name: 'app' })]),
      exec: async (): Promise<ProcessStreams> => {
        throw new RuntimeError('failedPrecondition', `exec in container c: /process/args: execute ["x"]: ${errno}`, { errno });
      },
    };
    const outcome = await runDouble(['exec', 'app', 'x'], { engine });
    assert.deepEqual([outcome.status, outcome.stderr], [status, `berth: exec in container c: /process/args: execute ["x"]: ${errno}\n`]);
  }
});

test('rmi refuses an image that a container has, and names the container', async () => {
  const removed: string[] = [];
  const engine = { imageStatus: async () => image, removeImage: async (name: string) => void removed.push(name) };
  const user = containerDouble({ name: 'app', imageId: image.id, state: 'exited' });
  const refused = await runDouble(['rmi', 'busybox:1'], { engine: { ...engine, ...listing([user]) } });
  assert.deepEqual([refused.status, refused.stderr, removed], [1, `berth: remove image "busybox:1": container app (${user.id.slice(0, 12)}) uses it; remove that first\n`, []]);
  const done = await runDouble(['rmi', 'busybox:1'], { engine });
  assert.deepEqual([done.status, done.stdout, removed], [0, 'busybox:1\n', ['busybox:1']]);
});

test('--quiet prints ids alone, as JSON where programs read', async () => {
  const engine = listing([containerDouble({ name: 'app' })]);
  const { stdout } = await runDouble(['ps', '-q'], { engine });
  assert.deepEqual(JSON.parse((await runDouble(['ps', '-q', '--output', 'json'], { engine })).stdout), [stdout.trim()]);
});

test('a path is said once, and nesting without end is called that', async () => {
  const absent = await runDouble(['run', './none']);
  assert.deepEqual([absent.status, absent.stderr], [1, 'berth: read ./none: ENOENT: no such file or directory\n']);
  const deep = await runDouble(['run', './deep'], { files: { './deep': '['.repeat(100_000) } });
  assert.deepEqual([deep.status, /^berth: read \.\/deep: line 1, column \d+: nested too deeply\n$/.test(deep.stderr)], [1, true], deep.stderr);
});

test('doctor serves a user who has no directories', async () => {
  const { status, stderr } = await runDouble(['doctor'], { uid: 1000, env: {} });
  assert.deepEqual([status, stderr], [0, '']);
});

test('exec -it puts the terminal in raw mode, sends its size and input, and gives it back', async () => {
  const received: string[] = [];
  const engine = { ...listing([containerDouble({ name: 'app' })]), exec: async () => streamsOf([[1, '$ ']], 0, received) };
  const outcome = await runDouble(['exec', '-it', 'app', 'sh'], { engine, isTTY: true, stdin: 'ls\r' });
  assert.equal(outcome.status, 0);
  assert.deepEqual(
    outcome.calls.filter((call) => call.startsWith('raw')),
    ['raw true', 'raw false'],
  );
  assert.ok(received.includes('80x24') && received.includes('ls\r'));
  assert.equal(outcome.listeners, 0);
});

// eslint-disable-next-line require-yield -- the streams break before any output
async function* brokenOutput(): AsyncGenerator<never> {
  throw new RuntimeError('unavailable', 'gone');
}

test('the terminal is given back when the streams break', async () => {
  const broken: ProcessStreams = { ...streamsOf([], 0), output: brokenOutput(), exited: Promise.reject(new RuntimeError('unavailable', 'gone')) };
  const engine = { ...listing([containerDouble({ name: 'app' })]), exec: async () => broken };
  const outcome = await runDouble(['exec', '-it', 'app', 'sh'], { engine, isTTY: true });
  assert.deepEqual([outcome.status, outcome.stderr, outcome.listeners], [1, 'berth: gone\n', 0]);
  assert.equal(outcome.calls.filter((call) => call.startsWith('raw')).at(-1), 'raw false');
});

test('rm refuses what runs, removes pods with their directory, and goes on after a failure', async () => {
  const removed: string[] = [];
  const mine = podDouble({ name: 'web', labels: { 'berth.run/uid': 'uid-web' } });
  const forged = podDouble({ name: 'other', labels: { 'berth.run/uid': 'uid-web' } });
  const engine = { ...listing([containerDouble({ name: 'app' })], [mine, forged]), removePodSandbox: async (id: string) => void removed.push(id) };
  assert.equal((await runDouble(['rm', 'web'], { engine })).stderr, 'berth: remove pod web: app is running; stop first, or use --force\n');
  const forced = await runDouble(['rm', '-f', 'none', 'web', 'other'], { engine });
  assert.deepEqual([forced.status, forced.stdout], [0, 'web\nother\n']);
  assert.deepEqual(
    forced.calls.filter((call) => call.startsWith('volumes')),
    ['volumes.remove uid-web'],
  );
  const partly = await runDouble(['rm', 'none', 'none2', 'other'], { engine });
  assert.deepEqual([partly.status, partly.stdout, partly.stderr], [1, 'other\n', 'berth: find "none": no such pod or container (and 1 more failed)\n']);
});

test("stop stops a pod's containers together with the given grace period", async () => {
  const stops: string[] = [];
  const engine = {
    ...listing([containerDouble({ name: 'a' }), containerDouble({ name: 'b' })]),
    stopContainer: async (id: string, { timeoutMs }: { readonly timeoutMs: number }) => void stops.push(`${id} ${timeoutMs}`),
    stopPodSandbox: async (id: string) => void stops.push(id),
  };
  await runDouble(['stop', '-t', '3', 'web'], { engine });
  assert.deepEqual(stops, ['a-id-0123456789 3000', 'b-id-0123456789 3000', 'web-pod-id-0123456789']);
});
