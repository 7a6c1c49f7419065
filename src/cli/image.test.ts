/** Command lines about images over doubles: what the engine is asked, what people read, what a signal leaves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import type { CollectReport, Engine, ImageSummary, VerifyReport } from '#pod';
import { type CliDouble, containerDouble, runDouble } from './doubles.ts';
import type { CliSignal } from './dependencies.ts';

const hex = 'ab'.repeat(32);
const image: ImageSummary = {
  id: `sha256:${hex}`,
  names: ['docker.io/library/busybox:1', 'localhost/base:latest'],
  digests: [`docker.io/library/busybox@sha256:${'c'.repeat(64)}`],
  sizeBytes: 2048,
  createdAtNs: 1n,
  pinned: false,
};
const artifact: ImageSummary = {
  id: `sha256:${'d'.repeat(64)}`,
  kind: 'artifact',
  names: [],
  digests: [`q.io/model@sha256:${'e'.repeat(64)}`],
  sizeBytes: 5,
  createdAtNs: 1n,
  pinned: true,
};

/** An engine that writes down how its methods are called, functions and signals left out. */
function recording(methods: Partial<Engine>): { readonly engine: Partial<Engine>; readonly calls: unknown[] } {
  const calls: unknown[] = [];
  const engine = Object.fromEntries(
    Object.entries(methods).map(([name, method]) => [
      name,
      (...args: unknown[]): unknown => {
        calls.push([name, ...args.filter((arg) => !(arg instanceof AbortSignal)).map((arg) => JSON.parse(JSON.stringify(arg ?? null)))]);
        // SAFETY: each is a method of the engine given by the test, called with its own arguments.
        return (method as (...given: unknown[]) => unknown)(...args);
      },
    ]),
  );
  return { engine, calls };
}

const usages: readonly (readonly [readonly string[], string])[] = [
  [['pull', '--platform', 'linux', 'a'], '--platform linux: must be os/architecture or os/architecture/variant, such as linux/arm64'],
  [['pull', '--platform', 'linux/amd64/v1/x', 'a'], '--platform linux/amd64/v1/x: must be os/architecture or os/architecture/variant, such as linux/arm64'],
  [['push', 'a', `b@sha256:${hex}`], `image name "b@sha256:${hex}": must have no digest`],
  [['image', 'tag', 'a', 'UPPER'], 'image reference "UPPER": repository must be lower case'],
  [['image', 'tags', 'busybox:1'], 'repository "busybox:1": must have neither tag nor digest'],
  [['image', 'save', '--format', 'zip', 'a'], '--format zip: allowed choices are oci-archive, docker-archive, oci-dir'],
  [['image', 'save', '--format', 'oci-dir', 'a'], '--format oci-dir needs --file'],
  [['image', 'prune', '--older-than', 'x'], '--older-than x: must be a duration such as 30m, 12h or 7d'],
  [['image', 'load', 'a.tar'], "too many arguments for 'load'. Expected 0 arguments but got 1"],
];
for (const [argv, message] of usages) {
  test(`berth ${argv.join(' ')} is a usage error in one line`, async () => {
    const outcome = await runDouble(argv, { stdin: '' });
    assert.deepEqual([outcome.status, outcome.stdout, outcome.stderr, outcome.calls], [2, '', `berth: ${message}\n`, []]);
  });
}

test('archives are neither written to a terminal nor read from one', async () => {
  const save = await runDouble(['image', 'save', 'a'], { isTTY: true });
  assert.deepEqual([save.status, save.stderr], [2, 'berth: standard output is a terminal; write to a file with -o or into a pipe\n']);
  const load = await runDouble(['image', 'load'], { isTTY: true });
  assert.deepEqual([load.status, load.stderr], [2, 'berth: standard input is a terminal; name a file with -i or use a pipe\n']);
});

test('pull takes the platform, the credentials of the user, and prints the image or only its id', async () => {
  const { engine, calls } = recording({ pullImage: async () => image });
  const double: CliDouble = { engine, credentials: { username: 'me', password: 'secret' } };
  const outcome = await runDouble(['pull', '--platform', 'linux/arm64/v8', 'busybox:1'], double);
  const auth = { username: 'me', password: 'secret' };
  assert.deepEqual(calls, [['pullImage', 'busybox:1', { auth, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } }]]);
  assert.deepEqual(outcome.calls, ['credentials docker.io/library/busybox', 'open /var/lib/berth /run/berth', 'close']);
  assert.equal(outcome.stdout, 'docker.io/library/busybox:1 localhost/base:latest  abababababab  2.0 KiB  0.0 ms\n');
  assert.equal((await runDouble(['pull', '-q', 'busybox:1'], double)).stdout, `${image.id}\n`);
});

test('credentials from options go before those of files, and an empty password is refused', async () => {
  const { engine, calls } = recording({ pullImage: async () => image });
  const argv = ['pull', '--username', 'you', '--password-stdin', 'q.io/a'];
  const outcome = await runDouble(argv, { engine, stdin: 'hunter2\n', credentials: { username: 'me' } });
  assert.deepEqual([outcome.status, calls], [0, [['pullImage', 'q.io/a', { auth: { username: 'you', password: 'hunter2' } }]]]);
  assert.equal(outcome.calls.includes('credentials q.io/a'), false);
  const empty = await runDouble(argv, { engine, stdin: '\n' });
  assert.deepEqual([empty.status, empty.stderr], [1, 'berth: read the password: standard input is empty\n']);
});

test('a pull shows stages and layers as plain lines without a terminal, and nothing with --quiet', async () => {
  const engine: Partial<Engine> = {
    pullImage: async (_, options) => {
      options?.onProgress?.({ stage: 'resolving', bytesDone: 0, bytesTotal: 0 });
      options?.onProgress?.({ stage: 'downloading', bytesDone: 0, bytesTotal: 1024 });
      options?.onProgress?.({ stage: 'done', layer: `sha256:${'f'.repeat(64)}`, bytesDone: 1024, bytesTotal: 1024 });
      // What waits for its time is drawn meanwhile.
      await new Promise((resolve) => setImmediate(resolve));
      return image;
    },
  };
  assert.equal((await runDouble(['pull', 'busybox'], { engine })).stderr, 'pull busybox: resolving\npull busybox: downloading 1.0 KiB\n  ffffffffffff  done  1.0 KiB\n');
  assert.equal((await runDouble(['pull', '-q', 'busybox'], { engine })).stderr, '');
  const terminal = await runDouble(['pull', 'busybox'], { engine, isTTY: true });
  assert.ok(terminal.stderr.includes('pull busybox  downloading [------------------------]   0% 0 B/1.0 KiB'), terminal.stderr);
});

test('a signal cancels a pull, says that it can go on, and gives 130', async () => {
  let deliver: (name: CliSignal) => void = () => undefined;
  const engine: Partial<Engine> = {
    pullImage: async (_, _options, signal) => {
      deliver('SIGINT');
      signal?.throwIfAborted();
      return image;
    },
  };
  const outcome = await runDouble(['pull', 'busybox'], { engine, onSignals: (given) => (deliver = given) });
  const message = 'berth: pull busybox: interrupted; what was fetched is kept, and the same command goes on from there\n';
  assert.deepEqual([outcome.status, outcome.stderr, outcome.listeners], [130, message, 0]);
});

test('push asks for a destination where an id names the image, and tells what went', async () => {
  const pushed = { reference: 'q.io/a:1', digest: `sha256:${hex}`, pushedBytes: 1024, mountedBytes: 512 };
  const { engine, calls } = recording({ imageStatus: async (name) => (name === 'none' ? undefined : image), pushImage: async () => pushed });
  const double: CliDouble = { engine, credentials: { identityToken: 't' } };
  const outcome = await runDouble(['push', 'abab', 'q.io/a:1'], double);
  assert.equal(outcome.stdout, `q.io/a:1  sha256:${hex}  1.0 KiB sent, 512 B taken over at the registry\n`);
  assert.deepEqual(calls[1], ['pushImage', 'abab', { auth: { identityToken: 't' }, destination: 'q.io/a:1' }]);
  const again = await runDouble(['push', 'busybox:1'], { engine: { ...engine, pushImage: async () => ({ ...pushed, pushedBytes: 0, mountedBytes: 0 }) } });
  assert.equal(again.stdout, `q.io/a:1  sha256:${hex}  nothing to send\n`);
  assert.equal((await runDouble(['push', '-q', 'busybox:1'], double)).stdout, `q.io/a@sha256:${hex}\n`);
  const lost = await runDouble(['push', 'abab'], double);
  assert.deepEqual([lost.status, lost.stderr], [1, 'berth: push image "abab": is an id or digest; say where to: berth push abab REGISTRY/NAME:TAG\n']);
  assert.deepEqual((await runDouble(['push', 'none', 'a'], double)).stderr, 'berth: push image "none": no such image\n');
});

test('images have a row for each name, notes for artifacts and pins, digests when asked', async () => {
  const engine: Partial<Engine> = { listImages: async () => [image, artifact] };
  const { stdout } = await runDouble(['image', 'ls', '--digests'], { engine });
  const lines = stdout.trimEnd().split('\n');
  assert.deepEqual(lines[0]?.split(/ {2,}/), ['NAME', 'IMAGE ID', 'DIGEST', 'SIZE', 'AGE']);
  assert.deepEqual(
    lines.slice(1).map((line) => line.split(/ {2,}/).slice(0, 4)),
    [
      ['docker.io/library/busybox:1', 'abababababab', `sha256:${'c'.repeat(64)}`, '2.0 KiB'],
      ['localhost/base:latest', 'abababababab', '-', '2.0 KiB'],
      ['<none>', 'dddddddddddd', `q.io/model@sha256:${'e'.repeat(64)}`, '5 B'],
    ],
  );
  assert.match(lines[3] ?? '', / artifact, pinned$/);
  assert.equal((await runDouble(['images', '--digests'], { engine })).stdout, stdout);
});

test('rmi of one name of several takes only that name; an id takes the image, which a volume may hold', async () => {
  const { engine, calls } = recording({ imageStatus: async () => image, removeImage: async () => undefined });
  await runDouble(['rmi', 'localhost/base'], { engine });
  assert.deepEqual(calls.at(-1), ['removeImage', 'localhost/base:latest', { untagOnly: true }]);
  await runDouble(['image', 'rm', 'abab'], { engine });
  assert.deepEqual(calls.at(-1), ['removeImage', 'abab']);
  const mount = { containerPath: '/m', hostPath: '', readonly: true, propagation: 'private', image: { image: 'x', subPath: '', imageRef: image.digests[0] ?? '' } } as const;
  const user = containerDouble({ name: 'app', mounts: [mount] });
  const refused = await runDouble(['rmi', 'abab'], { engine: { ...engine, listContainers: async () => [user] } });
  assert.deepEqual([refused.status, refused.stderr], [1, `berth: remove image "abab": container app (${user.id.slice(0, 12)}) uses it; remove that first\n`]);
});

test('save writes to a path, or through a file of its own to standard output', async () => {
  const { engine, calls } = recording({ imageStatus: async () => image, saveImages: async () => ({ images: [image], sizeBytes: 4096 }) });
  const toFile = await runDouble(['image', 'save', '-o', 'a.tar', 'busybox:1'], { engine });
  assert.deepEqual(calls.at(-1), ['saveImages', ['busybox:1'], '/work/a.tar', { format: 'oci-archive' }]);
  assert.equal(toFile.stdout, 'docker.io/library/busybox:1 localhost/base:latest  abababababab  2.0 KiB\na.tar  4.0 KiB\n');
  assert.deepEqual(toFile.calls.slice(1), ['credentials docker.io/library/busybox', 'close']);
  const toPipe = await runDouble(['image', 'save', '--format', 'docker-archive', 'busybox:1'], { engine });
  assert.deepEqual(calls.at(-1), ['saveImages', ['busybox:1'], '/transfer/archive', { format: 'docker-archive' }]);
  assert.deepEqual([toPipe.stdout, toPipe.calls.slice(2)], ['archive', ['transfer.remove', 'close']]);
});

test('load takes a file or standard input, and speaks of what was named', async () => {
  const { engine, calls } = recording({ importImages: async () => [image] });
  const fromPipe = await runDouble(['image', 'load', '--name', 'localhost/x'], { engine, stdin: 'bytes' });
  assert.deepEqual(calls.at(-1), ['importImages', '/transfer/archive', { name: 'localhost/x' }]);
  assert.deepEqual(fromPipe.calls.slice(1), ['fill bytes', 'transfer.remove', 'close']);
  await runDouble(['image', 'load', '-i', 'a.tar'], { engine });
  assert.deepEqual(calls.at(-1), ['importImages', '/work/a.tar', {}]);
  const failing: Partial<Engine> = {
    importImages: async (path) => {
      throw new RuntimeError('invalidArgument', `import ${path}: no image`);
    },
  };
  assert.equal((await runDouble(['image', 'load'], { engine: failing, stdin: 'x' })).stderr, 'berth: import standard input: no image\n');
});

test('verify prints damage, and its exit status is 1 where some stays', async () => {
  const problem = { kind: 'blob', digest: `sha256:${hex}`, detail: 'truncated: 1 of 2 bytes' } as const;
  const report = (state: 'repaired' | 'unrepairable'): VerifyReport => ({
    images: [{ id: image.id, names: ['a:1'], problems: [{ ...problem, state, ...(state === 'repaired' ? {} : { reason: 'no registry is known' }) }] }],
    checkedBytes: 1024,
    checkedFiles: 3,
  });
  const run = async (state: 'repaired' | 'unrepairable') => {
    const { engine, calls } = recording({ listImages: async () => [image], imageStatus: async () => image, verifyImages: async () => report(state) });
    return { ...(await runDouble(['image', 'verify', '--repair'], { engine, credentials: { registryToken: 't' } })), asked: calls.at(-1) };
  };
  const bad = await run('unrepairable');
  assert.deepEqual([bad.status, bad.asked], [1, ['verifyImages', { auths: { 'docker.io': { registryToken: 't' } }, repair: true }]]);
  assert.equal(
    bad.stdout,
    [
      'IMAGE  PART  DIGEST        STATE         DETAIL',
      'a:1    blob  abababababab  unrepairable  truncated: 1 of 2 bytes (no registry is known)',
      '1 image checked: 1.0 KiB, 3 files, 1 problem',
      '',
    ].join('\n'),
  );
  assert.equal((await run('repaired')).status, 0);
  const { engine } = recording({ imageStatus: async () => undefined });
  assert.equal((await runDouble(['image', 'verify', 'none'], { engine })).stderr, 'berth: verify image "none": no such image\n');
});

test('prune asks for what nothing uses, and says what went or would go', async () => {
  const report: CollectReport = {
    images: [{ id: image.id, names: [], digests: image.digests, sizeBytes: 2048 }],
    layers: ['x'],
    blobs: ['y', 'z'],
    partials: ['p'],
    freedBytes: 4096,
  };
  const { engine, calls } = recording({ collectImages: async () => report });
  const { stdout } = await runDouble(['image', 'prune', '--all', '--dry-run', '--older-than', '2d'], { engine });
  assert.deepEqual(calls, [['collectImages', { untagged: true, all: true, dryRun: true, olderThanMs: 172_800_000 }]]);
  assert.match(
    stdout,
    /^IMAGE +IMAGE ID +SIZE\ndocker\.io\/library\/busybox@sha256:c+ {2}abababababab {2}2\.0 KiB\nwould remove 1 image, 1 layer, 2 blobs, 1 cut-off pull: 4\.0 KiB\n$/,
  );
});

test('df shows each image and the totals', async () => {
  const space = { id: image.id, names: ['a:1'], sizeBytes: 3072, uniqueBytes: 1024, sharedBytes: 2048, isUsed: true, pinned: true };
  const engine: Partial<Engine> = { imageDiskUsage: async () => ({ images: [space], blobBytes: 1024, layerBytes: 2048, partialBytes: 0, reclaimableBytes: 512 }) };
  assert.equal(
    (await runDouble(['image', 'df'], { engine })).stdout,
    [
      'IMAGE  IMAGE ID      SIZE     UNIQUE   SHARED',
      'a:1    abababababab  3.0 KiB  1.0 KiB  2.0 KiB  in use, pinned',
      '',
      'TOTAL',
      'blobs          1.0 KiB',
      'layers         2.0 KiB',
      'cut-off pulls  0 B',
      'can be freed   512 B  (berth image prune --all)',
      '',
    ].join('\n'),
  );
});

test('what strangers wrote cannot move the cursor', async () => {
  const engine: Partial<Engine> = {
    imageTags: async () => ['x\u001b[2J', '10', '9'],
    imageReferrers: async () => [{ digest: `sha256:${hex}`, mediaType: 'm', artifactType: 'a\u0007b', sizeBytes: 1, annotations: {} }],
  };
  assert.equal((await runDouble(['image', 'tags', 'q.io/a'], { engine })).stdout, '9\n10\nx\\x1b[2J\n');
  assert.match((await runDouble(['image', 'referrers', 'q.io/a'], { engine })).stdout, /a\\x07b/);
  assert.equal((await runDouble(['image', 'referrers', 'q.io/a'], { engine: { imageReferrers: async () => [] } })).stdout, 'nothing refers to q.io/a:latest\n');
});

test('a name, a pin and an inspection', async () => {
  const { engine, calls: all } = recording({
    tagImage: async () => image,
    pinImage: async () => ({ ...image, pinned: true }),
    imageStatus: async () => image,
    imageInfo: async () => ({ x: 1n }),
  });
  await runDouble(['image', 'tag', 'abab', 'localhost/x'], { engine });
  await runDouble(['image', 'pin', 'abab'], { engine });
  await runDouble(['image', 'unpin', 'abab'], { engine });
  const calls = all.filter((call) => Array.isArray(call) && call[0] !== 'imageStatus');
  assert.deepEqual(calls, [
    ['tagImage', 'abab', 'localhost/x'],
    ['pinImage', 'abab', true],
    ['pinImage', 'abab', false],
  ]);
  const [shown] = JSON.parse((await runDouble(['image', 'inspect', 'abab'], { engine })).stdout);
  assert.deepEqual([shown.id, shown.info], [image.id, { x: '1' }]);
});

test('help of every command of the group has examples', async () => {
  const group = await runDouble(['image', '--help']);
  const listed = group.stdout.slice(group.stdout.indexOf('Commands:'));
  const commands = [...listed.matchAll(/^ {2}([a-z][a-z-]*)/gm)].map(([, name]) => name ?? '').filter((name) => name !== 'help');
  for (const name of ['ls', 'inspect', 'tag', 'pin', 'unpin', 'rm', 'save', 'load', 'import', 'from-host', 'verify', 'prune', 'df', 'tags', 'referrers'])
    assert.ok(commands.includes(name), `${name} in ${group.stdout}`);
  for (const name of commands) {
    const { status, stdout } = await runDouble(['image', name, '--help']);
    assert.equal(status, 0, name);
    assert.match(stdout, new RegExp(`Usage: berth image ${name}[^]*Examples:\n {2}\\$ berth `), name);
  }
});
