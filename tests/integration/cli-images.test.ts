/** `berth` and images as people use it: a real registry, real archives, signals, credentials. In: bundle, registry, skopeo. Out: what is printed and left. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { BerthHost, patienceMs, skipReason as berthSkipReason } from './berth-host.ts';
import { type Exchange, type Fault, FaultyProxy } from './faulty-proxy.ts';
import { Layout, Registry, digestOf, run, shell, skipReason as imageSkipReason, tarOf } from './image-host.ts';

const skip = berthSkipReason() || imageSkipReason();

/** Names of what a directory holds, sorted; none where it is absent. */
const namesIn = (directory: string): string[] => (existsSync(directory) ? readdirSync(directory).sort() : []);

describe('berth image', { skip }, () => {
  let host: BerthHost;
  let registry: Registry;
  let layout: Layout;
  let scratch: string;
  let here: string;

  before(async () => {
    host = new BerthHost();
    registry = await Registry.start();
    here = `${registry.address}/test`;
    scratch = host.scratch('scratch');
    layout = new Layout(join(scratch, 'layout'));
    const base = tarOf('mkdir -p etc; echo base > etc/base');
    const top = tarOf('mkdir -p etc; echo top > etc/top');
    const big = tarOf('head -c 3000000 /dev/urandom > big');
    const [amd64, arm64] = ['amd64', 'arm64'].map((architecture) => ({
      descriptor: layout.manifest({ layers: [base, tarOf(`echo ${architecture} > which`)], architecture }),
      architecture,
    }));
    assert.ok(amd64 && arm64);
    layout
      .add(layout.manifest({ layers: [base, top], config: { Cmd: ['/bin/x'] } }), 'app')
      .add(layout.manifest({ layers: [base, big] }), 'big')
      .add(layout.index([arm64, amd64]), 'multi');
    for (const name of ['app', 'big', 'multi']) shell(`skopeo copy -q --all --insecure-policy --dest-tls-verify=false oci:${layout.dir}:${name} docker://${here}/${name}:1`);
  });

  after(async () => {
    await registry[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });

  const idOf = async (name: string): Promise<string> => String((await host.json(['image', 'inspect', name]))[0]?.['id']);
  const namesOf = async (): Promise<string[]> => (await host.json(['image', 'ls'])).flatMap((image) => (Array.isArray(image['names']) ? image['names'].map(String) : [])).sort();
  /** Everything goes, so that a test begins with nothing. */
  const clear = async (): Promise<void> => {
    await host.ok(['image', 'prune', '--all']);
  };

  test('pull prints stages and the image, its id alone with --quiet, and takes a platform and a digest', async () => {
    const pulled = await host.berth(['pull', `${here}/app:1`]);
    assert.equal(pulled.status, 0, pulled.stderr);
    assert.match(pulled.stderr, new RegExp(`^pull ${here}/app:1: resolving\n`));
    assert.equal(pulled.stderr.match(/^ {2}[0-9a-f]{12} {2}done {2}/gm)?.length, 2);
    const id = await idOf(`${here}/app:1`);
    assert.match(pulled.stdout, new RegExp(`^${here}/app:1  ${id.slice(7, 19)}  [0-9.]+ K?i?B  [0-9.]+ m?s\n$`));
    const [image] = await host.json(['images']);
    const digests = image?.['digests'];
    assert.ok(Array.isArray(digests));
    const quiet = await host.berth(['pull', '-q', String(digests[0])]);
    assert.deepEqual([quiet.stdout, quiet.stderr], [`${id}\n`, '']);
    const native = await host.ok(['pull', '-q', `${here}/multi:1`]);
    const foreign = await host.ok(['pull', '-q', '--platform', 'linux/arm64', `${here}/multi:1`]);
    assert.notEqual(native, foreign);
    const none = await host.berth(['pull', '--platform', 'linux/riscv64', `${here}/multi:1`]);
    assert.equal(none.status, 1);
    assert.match(none.stderr, /berth: pull .*\/multi:1: .*linux\/riscv64/);
  });

  test('names come and go one by one, an id takes the image', async () => {
    await clear();
    await host.ok(['pull', '-q', `${here}/app:1`]);
    const id = await idOf(`${here}/app:1`);
    await host.ok(['image', 'tag', id.slice(7, 15), 'localhost/second']);
    assert.deepEqual(await namesOf(), [`${here}/app:1`, 'localhost/second:latest'].sort());
    assert.equal(await host.ok(['rmi', 'localhost/second']), 'localhost/second\n');
    assert.deepEqual(await namesOf(), [`${here}/app:1`]);
    await host.ok(['image', 'tag', `${here}/app:1`, 'localhost/second']);
    await host.ok(['image', 'rm', id]);
    assert.deepEqual(await namesOf(), []);
    const gone = await host.berth(['rmi', id]);
    assert.deepEqual([gone.status, gone.stderr], [1, `berth: remove image "${id}": no such image\n`]);
  });

  test('images go to a file, a directory and a pipe and come back the same; skopeo reads each', async () => {
    await clear();
    await host.ok(['pull', '-q', `${here}/app:1`]);
    await host.ok(['image', 'tag', `${here}/app:1`, 'localhost/saved:1']);
    const id = await idOf('localhost/saved:1');
    const [ociFile, dockerFile, directory] = ['oci.tar', 'docker.tar', 'oci-dir'].map((name) => join(scratch, name));
    assert.ok(ociFile && dockerFile && directory);
    assert.match(await host.ok(['image', 'save', '-o', ociFile, 'localhost/saved:1']), new RegExp(`\n${ociFile}  [0-9.]+ [KM]iB\n$`));
    await host.ok(['image', 'save', '--format', 'docker-archive', '-o', dockerFile, 'localhost/saved:1']);
    await host.ok(['image', 'save', '--format', 'oci-dir', '-o', directory, 'localhost/saved:1']);
    for (const source of [`oci-archive:${ociFile}`, `docker-archive:${dockerFile}`, `oci:${directory}`])
      assert.equal(digestOf(Buffer.from(run('skopeo', ['inspect', '--config', '--raw', source]))), id, source);
    // The same bytes through a pipe, and back from one.
    const main = process.execPath;
    const entry = new URL('../../dist/berth.mjs', import.meta.url).pathname;
    const berth = (...args: string[]): string => `${main} ${entry} --root ${host.root} --run ${host.run} ${args.join(' ')}`;
    shell(`${berth('image', 'save', '-q', 'localhost/saved:1')} > ${scratch}/piped.tar`);
    // The name that many people give a pipe is no file to be replaced.
    assert.equal(shell(`${berth('image', 'save', '-q', '-o', '/dev/stdout', 'localhost/saved:1')} | cmp - ${scratch}/piped.tar; readlink /dev/stdout`), '/proc/self/fd/1\n');
    for (const archive of [ociFile, dockerFile, `${scratch}/piped.tar`]) {
      await clear();
      shell(`cat ${archive} | ${berth('image', 'load', '-q')}`);
      assert.equal(await idOf('localhost/saved:1'), id, archive);
    }
    await clear();
    await host.ok(['image', 'import', directory, '--name', 'localhost/imported']);
    assert.equal(await idOf('localhost/imported'), id);
    assert.deepEqual(namesIn(`${host.root}/transfers`), []);
  });

  test('a bad archive is named as the user named it, and leaves nothing', async () => {
    await clear();
    const piped = await host.berth(['image', 'load'], 'this is no archive');
    assert.equal(piped.status, 1);
    assert.match(piped.stderr, /^(import|berth).*\n?berth: import standard input: |^berth: import standard input: /m);
    assert.doesNotMatch(piped.stderr, /transfers/);
    // What a killed command left goes with the next one.
    mkdirSync(`${host.root}/transfers/left`, { recursive: true });
    const absent = await host.berth(['image', 'load', '-q', '-i', `${scratch}/none.tar`]);
    assert.deepEqual([absent.status, absent.stderr.includes(`${scratch}/none.tar: `)], [1, true], absent.stderr);
    assert.deepEqual([await namesOf(), namesIn(`${host.root}/transfers`)], [[], []]);
    const unknown = await host.berth(['image', 'save', '-q', '-o', `${scratch}/unknown.tar`, 'localhost/none']);
    assert.equal(unknown.status, 1);
    assert.match(unknown.stderr, /localhost\/none/);
    assert.equal(existsSync(`${scratch}/unknown.tar`), false);
  });

  test('push keeps the digest, tags and referrers list what the registry has', async () => {
    await clear();
    await host.ok(['pull', '-q', `${here}/app:1`]);
    const digest = digestOf(Buffer.from(run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${here}/app:1`])));
    assert.equal(await host.ok(['push', '-q', `${here}/app:1`, `${here}/copies/app:2`]), `${here}/copies/app@${digest}\n`);
    assert.equal(digestOf(Buffer.from(run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${here}/copies/app:2`]))), digest);
    await host.ok(['push', `${here}/app:1`, `${here}/copies/app:3`]);
    assert.equal(await host.ok(['image', 'tags', `${here}/copies/app`]), '2\n3\n');
    assert.match((await host.berth(['image', 'tags', `${here}/none`])).stderr, new RegExp(`^berth: list tags of ${here}/none: `));
    assert.equal(await host.ok(['image', 'referrers', `${here}/app:1`]), `nothing refers to ${here}/app:1\n`);
    const index = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 5, artifactType: 'application/x-signature' }],
    };
    // Debian's registry has no referrers of its own, so the list is under the tag that the specification names.
    const body = JSON.stringify({
      ...index,
      manifests: index.manifests.map((one) => ({ ...one, size: Buffer.byteLength(run('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${here}/app:1`])) })),
    });
    const answer = await fetch(`http://${registry.address}/v2/test/app/manifests/${digest.replace(':', '-')}`, {
      method: 'PUT',
      headers: { 'content-type': index.mediaType },
      body,
    });
    assert.equal(answer.status, 201, await answer.text());
    assert.match(await host.ok(['image', 'referrers', `${here}/app:1`]), new RegExp(`^DIGEST +TYPE +MANIFEST SIZE\n${digest}  application/x-signature  `));
    assert.equal(await host.ok(['image', 'referrers', '--type', 'application/other', `${here}/app:1`]), `nothing refers to ${here}/app:1\n`);
  });

  test('verify finds a cut blob with status 1, --repair fetches it again, prune and df count what is there', async () => {
    await clear();
    await host.ok(['pull', '-q', `${here}/app:1`]);
    assert.match(await host.ok(['image', 'verify', '-q']), /^1 image checked: .*, no problem\n$/);
    const blobs = `${host.root}/images/content/sha256`;
    const layers = namesIn(blobs).filter((name) => readFileSync(join(blobs, name)).subarray(0, 2).toString('hex') === '1f8b');
    assert.equal(layers.length, 2);
    truncateSync(join(blobs, layers[0] ?? ''), 10);
    const bad = await host.berth(['image', 'verify', '-q', `${here}/app:1`]);
    assert.equal(bad.status, 1);
    assert.match(bad.stdout, new RegExp(`^${here}/app:1 +blob +${layers[0]?.slice(0, 12)} +found `, 'm'));
    const repaired = await host.berth(['image', 'verify', '-q', '--repair']);
    assert.equal(repaired.status, 0, repaired.stdout + repaired.stderr);
    assert.match(repaired.stdout, / repaired /);
    assert.ok(statSync(join(blobs, layers[0] ?? '')).size > 10);
    assert.match(await host.ok(['image', 'verify', '-q']), /no problem/);
    assert.match(await host.ok(['image', 'df']), new RegExp(`^${here}/app:1  [^]*\nTOTAL\nblobs  [^]*can be freed`, 'm'));
    await host.ok(['image', 'pin', `${here}/app:1`]);
    assert.match(await host.ok(['image', 'prune', '--all']), /removed 0 images, /);
    await host.ok(['image', 'unpin', `${here}/app:1`]);
    assert.match(await host.ok(['image', 'prune', '--all', '--older-than', '1h']), /removed 0 images, /);
    assert.match(await host.ok(['image', 'prune', '--all', '--dry-run']), new RegExp(`^${here}/app:1 [^]*would remove 1 image, 2 layers, `, 'm'));
    assert.deepEqual(await namesOf(), [`${here}/app:1`]);
    await host.ok(['image', 'prune', '--all']);
    assert.deepEqual([await namesOf(), namesIn(blobs)], [[], []]);
  });

  test('a pull that SIGINT ends says that it can go on, and the next one asks for the rest only', async () => {
    await clear();
    const half = Promise.withResolvers<void>();
    const hold: Fault = ({ isLayer, answer, real }: Exchange) => {
      if (!isLayer || real.body.length < 1_000_000) return false;
      answer.writeHead(real.status, real.headers);
      answer.write(real.body.subarray(0, 1_500_000), () => half.resolve());
      return true;
    };
    const faults: { current: Fault } = { current: hold };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    const name = `${proxy.address}/test/big:1`;
    const pulling = host.start(['pull', name]);
    await half.promise;
    // What arrived is on disk once the piece has its bytes.
    const ingest = `${host.root}/images/content/ingest`;
    const deadline = performance.now() + patienceMs;
    while (!namesIn(ingest).some((file) => statSync(join(ingest, file)).size >= 1_500_000)) {
      assert.ok(performance.now() < deadline, `no piece in ${namesIn(ingest).join(' ')}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    pulling.child.kill('SIGINT');
    const { status, stderr } = await pulling.finished;
    assert.deepEqual([status, stderr.split('\n').at(-2)], [130, `berth: pull ${name}: interrupted; what was fetched is kept, and the same command goes on from there`]);
    assert.deepEqual(await namesOf(), []);
    faults.current = 'none';
    const asked = proxy.requests.length;
    await host.ok(['pull', '-q', name]);
    const ranges = proxy.requests.slice(asked).map(({ headers }) => headers['range']);
    assert.ok(
      ranges.some((range) => range !== undefined && Number(/^bytes=(\d+)-/.exec(range)?.[1]) >= 1_000_000),
      JSON.stringify(ranges),
    );
    assert.match(await host.ok(['image', 'verify', '-q']), /no problem/);
  });

  test('credentials come from docker’s file or from options, and are in no message', async () => {
    await clear();
    await using proxy = await FaultyProxy.start(registry.address, { current: { wantBasic: 'me:hunter2' } });
    const name = `${proxy.address}/test/app:1`;
    const dockerConfig = host.scratch('docker');
    const withFile = async (args: readonly string[], input?: string) => {
      process.env['DOCKER_CONFIG'] = dockerConfig;
      try {
        return await host.berth(args, input);
      } finally {
        delete process.env['DOCKER_CONFIG'];
      }
    };
    const login = (password: string): void =>
      writeFileSync(join(dockerConfig, 'config.json'), JSON.stringify({ auths: { [proxy.address]: { auth: Buffer.from(`me:${password}`).toString('base64') } } }));
    const anonymous = await host.berth(['pull', '-q', name]);
    assert.equal(anonymous.status, 1);
    login('wrong-secret');
    const wrong = await withFile(['pull', '--debug', name]);
    assert.equal(wrong.status, 1);
    for (const text of [wrong.stderr, wrong.stdout, anonymous.stderr]) assert.doesNotMatch(text, /wrong-secret|hunter2|d3Jvbmct/);
    assert.match(wrong.stderr, new RegExp(`berth: pull ${name}: `));
    const given = await withFile(['pull', '-q', '--username', 'me', '--password-stdin', name], 'hunter2\n');
    assert.equal(given.status, 0, given.stderr);
    await clear();
    login('hunter2');
    assert.equal((await withFile(['pull', '-q', name])).status, 0);
    assert.equal((await withFile(['push', '-q', name, `${proxy.address}/test/pushed:1`])).status, 0);
    assert.equal((await withFile(['image', 'tags', `${proxy.address}/test/pushed`])).stdout, '1\n');
  });

  test('through a daemon every command is the same, progress included', async () => {
    await clear();
    const daemon = host.start(['daemon', '--socket', `${host.run}/berth.sock`]);
    try {
      await daemon.untilOutput('"message":"ready"');
      const pulled = await host.berth(['pull', `${here}/app:1`]);
      assert.equal(pulled.status, 0, pulled.stderr);
      assert.match(pulled.stderr, /: resolving\n[^]* {2}done {2}/);
      const archive = join(scratch, 'through-daemon.tar');
      await host.ok(['image', 'save', '-q', '-o', archive, `${here}/app:1`]);
      const id = await idOf(`${here}/app:1`);
      await clear();
      const loaded = execFileSync(process.execPath, [new URL('../../dist/berth.mjs', import.meta.url).pathname, '--root', host.root, '--run', host.run, 'image', 'load', '-q'], {
        input: readFileSync(archive),
        encoding: 'utf8',
      });
      assert.equal(loaded, `${id}\n`);
      assert.match(await host.ok(['image', 'verify', '-q']), /no problem/);
    } finally {
      daemon.child.kill('SIGTERM');
      await daemon.finished;
    }
  });

  test('on a terminal a pull draws a line for the whole and one for each layer, and leaves only the result', async () => {
    await clear();
    const command = `${process.execPath} ${new URL('../../dist/berth.mjs', import.meta.url).pathname} --root ${host.root} --run ${host.run} pull ${here}/big:1`;
    const drawn = run('script', ['-qefc', command, '/dev/null']);
    assert.ok(drawn.includes('\u001b[?25l') && drawn.trimEnd().includes('\u001b[?25h'), JSON.stringify(drawn));
    assert.match(drawn, /downloading \[[#-]{24}\] {1,2}\d+% [0-9.]+ [KM]?i?B\/[0-9.]+ MiB/);
    const last = drawn.slice(drawn.lastIndexOf('\u001b[?25h') + '\u001b[?25h'.length);
    assert.match(last, new RegExp(`^${here}/big:1  [0-9a-f]{12}  [0-9.]+ MiB  [0-9.]+ m?s\r\n$`));
  });
});
