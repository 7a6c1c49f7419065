/** Volumes from images over time: how long their layers stay, what goes before them, what is refused, artifacts. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { BerthHost, busybox, manifest, shellContainer, skipReason } from './berth-host.ts';
import { Layout, tarOf } from './image-host.ts';
import { data, dataVolume, importImages, linesOf, mount, owned, runDeclaring } from './volume-host.ts';

const layersOf = (host: BerthHost): number => readdirSync(`${host.root}/images/layers`).length;

describe('image volumes', { skip: skipReason() }, () => {
  it('keep their layers while their container is there, whatever is cleaned up', async () => {
    await using host = await BerthHost.open();
    await importImages(host);
    const directory = host.scratch('signs');
    assert.equal(layersOf(host), 3);
    const script = 'echo up; until [ -e /signs/go ]; do sleep 0.05; done; cat /data/models/c';
    const run = host.start(
      ['run', '-'],
      manifest({
        volumes: [dataVolume, { name: 'signs', hostPath: { path: directory } }],
        containers: [shellContainer('main', script, { volumeMounts: [mount('/data'), { name: 'signs', mountPath: '/signs' }] })],
      }),
    );
    await run.untilOutput('main | up');
    const refused = await host.berth(['rmi', data]);
    assert.deepEqual([refused.status, /container main \([0-9a-f]+\) uses it/.test(refused.stderr)], [1, true], refused.stderr);
    await host.ok(['image', 'prune', '--all']);
    assert.equal(layersOf(host), 3);
    writeFileSync(`${directory}/go`, '');
    const { status, stdout } = await run.finished;
    assert.equal(status, 0, stdout);
    assert.deepEqual(linesOf(stdout, 'main'), ['up', 'c']);
    await host.ok(['rmi', data]);
    assert.equal(layersOf(host), 1);
  });

  it('are given up when their pod was killed with its engine', async () => {
    await using host = await BerthHost.open();
    await importImages(host);
    const container = shellContainer('main', 'echo up; exec sleep 1000', { volumeMounts: [mount('/data')] });
    const run = host.start(['run', '-'], manifest({ volumes: [dataVolume], containers: [container] }));
    await run.untilOutput('main | up');
    run.child.kill('SIGKILL');
    await run.finished;
    await host.ok(['rmi', data]);
    assert.deepEqual(await host.json(['pods']), []);
    assert.equal(layersOf(host), 1);
  });

  it('stay the same for containers that are started again, although their name came to mean another image', async () => {
    await using host = await BerthHost.open();
    await importImages(host);
    const directory = host.scratch('signs');
    const script = 'cat /data/models/c; [ -e /signs/second ] && exit 0; touch /signs/second; until [ -e /signs/go ]; do sleep 0.05; done; exit 1';
    const container = shellContainer('main', script, { volumeMounts: [mount('/data'), { name: 'signs', mountPath: '/signs' }] });
    const run = host.start(
      ['run', '-'],
      manifest({ restartPolicy: 'OnFailure', volumes: [dataVolume, { name: 'signs', hostPath: { path: directory } }], containers: [container] }),
    );
    await run.untilOutput('main | c');
    const layout = new Layout(host.scratch('another'));
    layout.add(layout.manifest({ layers: [tarOf('mkdir models; echo another > models/c')] }), data);
    await host.ok(['image', 'import', layout.dir]);
    writeFileSync(`${directory}/go`, '');
    const { status, stdout, stderr } = await run.finished;
    assert.equal(status, 0, stdout + stderr);
    assert.deepEqual(linesOf(stdout, 'main'), ['c', 'c']);
  });
});

describe('volumes from images', { skip: skipReason() }, () => {
  let host: BerthHost;
  const sly = [
    ['root', '/', /image config\.Volumes: "\/" is the root itself/],
    ['climbs', '/a/../../b', /image config\.Volumes: "\/a\/\.\.\/\.\.\/b" must not contain "\.\."/],
    ['to-root', '/link', /image config\.Volumes\["\/link"\]: .*: EINVAL/],
    ['file', '/etc/file', /image config\.Volumes\["\/etc\/file"\]: .*: ENOTDIR/],
  ] as const;
  before(async () => {
    host = await BerthHost.open();
    await importImages(host, [
      ...sly.map(([name, path]) => ({ name, script: 'ln -s ../.. link; echo x > etc/file', volumes: [path] })),
      { name: 'policy', script: owned, volumes: ['/data'] },
      { name: 'below', script: owned, volumes: ['/data', '/given', '/given/inner'] },
      { name: 'many', script: '', volumes: Array.from({ length: 65 }, (_, index) => `/v${index}`) },
    ]);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  it('are refused where the image or its part is missing', async () => {
    const run = async (reference: string, subPath?: string): Promise<string> => {
      const container = shellContainer('one', 'true', { volumeMounts: [mount('/data', subPath)] });
      const { status, stderr } = await host.berth(['run', '-'], manifest({ volumes: [{ name: 'data', image: { reference } }], containers: [container] }));
      assert.equal(status, 1);
      return stderr;
    };
    assert.match(await run('localhost/nothing:1'), /localhost\/nothing:1/);
    for (const subPath of ['models/none', 'models/a/below']) assert.match(await run(data, subPath), new RegExp(`image_sub_path: the image "${data}" has no "${subPath}"$`, 'm'));
    await host.assertNoRemains();
  });

  it('lie in the state directory while their container is there, or nowhere where the engine is told so', async () => {
    process.env['BERTH_IMAGE_VOLUMES'] = 'ignore';
    try {
      assert.deepEqual((await runDeclaring(host, 'policy', 'stat -c "%u:%g %a" /data; touch /data/x 2>&1; exit 0')).lines, [
        '1234:2345 2750',
        'touch: /data/x: Read-only file system',
      ]);
    } finally {
      delete process.env['BERTH_IMAGE_VOLUMES'];
    }
    await host.ok(['run', '-d', '--name', 'stays', 'localhost/policy:1', busybox, 'sh', '-c', 'echo here > /data/new; exec sleep 1000']);
    await host.ok(['exec', 'stays', busybox, 'sh', '-c', 'until [ -s /data/new ]; do sleep 0.05; done']);
    const [pod = ''] = readdirSync(`${host.root}/containers`);
    const [container = ''] = readdirSync(`${host.root}/containers/${pod}`);
    const directory = `${host.root}/containers/${pod}/${container}`;
    assert.equal(readFileSync(`${directory}/volumes/volume-0/new`, 'utf8'), 'here\n');
    assert.ok(!existsSync(`${directory}/upper/data/new`));
    await host.ok(['rm', '-f', 'stays']);
    await host.assertNoRemains();
  });

  it('give way to what the request mounts, and put nothing into it', async () => {
    const given = host.scratch('given');
    const { lines, stdout, stderr } = await runDeclaring(
      host,
      'below',
      'exec 2>&1; ls -A /given; ls -d /data/host; cat /data/inner/file',
      {
        volumeMounts: [
          { name: 'given', mountPath: '/given' },
          { name: 'given', mountPath: '/data/host' },
        ],
      },
      [{ name: 'given', hostPath: { path: given } }],
    );
    assert.deepEqual(readdirSync(given), [], stdout + stderr);
    assert.deepEqual(lines, ['/data/host', 'kept']);
  });

  it('are refused where an image declares its root or a file, in so many words', async () => {
    for (const [name, , message] of sly) {
      const { status, stderr } = await runDeclaring(host, name, 'true');
      assert.equal(status, 1, stderr);
      assert.match(stderr, message);
    }
    assert.match((await runDeclaring(host, 'many', 'true')).stderr, /image config\.Volumes: 65 volumes, at most 64/);
    await host.assertNoRemains();
  });

  it('show the files of artifacts', async () => {
    const layout = new Layout(host.scratch('artifact'));
    const empty = layout.blob(Buffer.from('{}'));
    const file = (title: string, text: string): object => ({
      mediaType: 'application/vnd.example.text',
      ...layout.blob(Buffer.from(text)),
      annotations: { 'org.opencontainers.image.title': title },
    });
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const artifact = {
      schemaVersion: 2,
      mediaType,
      artifactType: 'application/vnd.example.model',
      config: { mediaType: 'application/vnd.oci.empty.v1+json', ...empty },
      layers: [file('weights.txt', 'weights\n'), file('docs/read.txt', 'read\n')],
    };
    layout.add({ mediaType, ...layout.blob(Buffer.from(JSON.stringify(artifact))) }, 'localhost/artifact:1');
    await host.ok(['image', 'import', layout.dir]);
    const volume = { name: 'data', image: { reference: 'localhost/artifact:1', pullPolicy: 'Never' } };
    const container = shellContainer('one', 'cat /data/weights.txt /data/docs/read.txt /one; touch /data/x 2>&1; exit 0', {
      volumeMounts: [mount('/data'), mount('/one', 'docs/read.txt')],
    });
    const { stdout, stderr } = await host.berth(['run', '-'], manifest({ volumes: [volume], containers: [container] }));
    assert.deepEqual(linesOf(stdout, 'one'), ['weights', 'read', 'read', 'touch: /data/x: Read-only file system'], stdout + stderr);
    const refused = await host.berth(['run', '--rm', 'localhost/artifact:1', '/weights.txt']);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /artifact/);
  });
});
