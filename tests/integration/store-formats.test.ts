/**
 * Images out of the store and back: archives and layouts that Berth writes, read by skopeo, umoci and Berth; docker archives as others write them.
 * Needs root, docker-registry, skopeo, umoci.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { RuntimeError } from '#core';
import type { ImageProgress, ImageStore, StoredImage } from '#image';
import { Layout, StoreHost, describeOverlay, digestOf, run, shell, skipReason, tarOf } from './image-host.ts';

const failsWith =
  (code: string, message: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof RuntimeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };

const skopeo = (...args: readonly string[]): string => run('skopeo', ['--insecure-policy', ...args]);

describe('archives of images', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const other = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-formats-'));
  let store: ImageStore;
  let second: ImageStore;
  let one: StoredImage;
  let two: StoredImage;
  const base = tarOf('mkdir -p bin etc; cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; echo base > etc/base; chown 7:8 etc/base; chmod 640 etc/base');
  const top = tarOf('mkdir -p etc; echo top > etc/top; touch etc/.wh.base');

  before(async () => {
    store = await host.open();
    second = await other.open();
    const layout = new Layout(join(work, 'layout'));
    layout.add(layout.manifest({ layers: [base, top], config: { Cmd: ['/bin/sh'], Labels: { a: 'b' } } }), 'example.com/team/one:1');
    layout.add(layout.manifest({ layers: [base], compression: 'zstd' }), 'example.com/team/two:2');
    const images = await store.importImages(layout.dir);
    assert.equal(images.length, 2);
    [one, two] = images as [StoredImage, StoredImage];
    store.tag('example.com/team/one:1', 'busybox:berth');
  });
  after(async () => {
    rmSync(work, { recursive: true, force: true });
    await host[Symbol.asyncDispose]();
    await other[Symbol.asyncDispose]();
  });

  /** Brings an archive into the second store, compares what comes out, trees too where told, and removes it there. */
  const comesBack = async (
    path: string,
    expected: readonly { readonly image: StoredImage; readonly names: readonly string[] }[],
    options: { readonly trees: boolean } = { trees: false },
  ): Promise<void> => {
    const images = await second.importImages(path);
    assert.deepEqual(
      images.map(({ id, names }) => ({ id, names })),
      expected.map(({ image, names }) => ({ id: image.id, names })),
    );
    for (const [index, { image }] of options.trees ? expected.entries() : []) {
      const mine = store.lease(image.id, 'compare');
      const theirs = second.lease(images[index]?.id ?? '', 'compare');
      assert.deepEqual(describeOverlay(theirs), describeOverlay(mine));
      store.release('compare');
      second.release('compare');
    }
    for (const { id } of images) await second.remove(id);
    assert.deepEqual(other.contents(), { blobs: 0, layers: 0 });
  };

  test('an OCI archive of two images with three names comes back as it was, compressed too', async () => {
    const path = join(work, 'both.tar');
    const stages = new Set<ImageProgress['stage']>();
    const saved = await store.save(['example.com/team/one:1', 'busybox:berth', 'example.com/team/two:2'], path, {
      format: 'oci-archive',
      onProgress: ({ stage }) => stages.add(stage),
    });
    assert.equal(saved.images.length, 2);
    assert.equal(saved.sizeBytes, readFileSync(path).length);
    assert.deepEqual([...stages].sort(), ['done', 'saving']);
    const expected = [
      { image: one, names: ['example.com/team/one:1', 'docker.io/library/busybox:berth'] },
      { image: two, names: ['example.com/team/two:2'] },
    ];
    await comesBack(path, expected, { trees: true });
    writeFileSync(join(work, 'both.tar.gz'), gzipSync(readFileSync(path)));
    await comesBack(join(work, 'both.tar.gz'), expected);
    writeFileSync(join(work, 'both.tar.zst'), zstdCompressSync(readFileSync(path)));
    await comesBack(join(work, 'both.tar.zst'), expected);
    assert.deepEqual(
      readdirSync(work).filter((name) => name.startsWith('.')),
      [],
    );
  });

  test('skopeo and umoci read the archives and the layout that are written', async () => {
    await store.save(['example.com/team/one:1', 'example.com/team/two:2'], join(work, 'written'), { format: 'oci-dir' });
    const digest = (text: string): string => String((JSON.parse(text) as { Digest: unknown }).Digest);
    const stored = store.info(one.id)['manifests'] as readonly { readonly digest: string }[];
    assert.equal(digest(skopeo('inspect', `oci:${join(work, 'written')}:example.com/team/one:1`)), stored[0]?.digest);
    skopeo('copy', `oci:${join(work, 'written')}:example.com/team/two:2`, `dir:${join(work, 'copied')}`);
    await comesBack(join(work, 'written'), [
      { image: one, names: ['example.com/team/one:1'] },
      { image: two, names: ['example.com/team/two:2'] },
    ]);
    await store.save(['busybox:berth'], join(work, 'one-oci.tar'), { format: 'oci-archive' });
    skopeo('copy', `oci-archive:${join(work, 'one-oci.tar')}`, `oci:${join(work, 'again')}:x`);
    run('umoci', ['unpack', '--image', `${join(work, 'again')}:x`, join(work, 'bundle')]);
    assert.equal(readFileSync(join(work, 'bundle/rootfs/etc/top'), 'utf8'), 'top\n');
    assert.equal(existsSync(join(work, 'bundle/rootfs/etc/base')), false);
    await assert.rejects(
      store.save(['busybox:berth'], join(work, 'written'), { format: 'oci-dir' }),
      failsWith('alreadyExists', /^save busybox:berth to .*: the directory is not empty$/),
    );
  });

  test("docker's archive is written with uncompressed layers, read by skopeo, and comes back as the same image", async () => {
    const path = join(work, 'docker.tar');
    await store.save(['busybox:berth', 'example.com/team/two:2'], path, { format: 'docker-archive' });
    const names = shell(`tar -tf ${path}`).trim().split('\n').sort();
    const hex = (digest: string): string => digest.slice(7);
    assert.deepEqual(names, [`${hex(one.id)}.json`, `${hex(two.id)}.json`, `${hex(digestOf(base))}.tar`, `${hex(digestOf(top))}.tar`, 'manifest.json', 'repositories'].sort());
    assert.deepEqual(JSON.parse(shell(`tar -xOf ${path} manifest.json`)), [
      { Config: `${hex(one.id)}.json`, RepoTags: ['busybox:berth'], Layers: [`${hex(digestOf(base))}.tar`, `${hex(digestOf(top))}.tar`] },
      { Config: `${hex(two.id)}.json`, RepoTags: ['example.com/team/two:2'], Layers: [`${hex(digestOf(base))}.tar`] },
    ]);
    assert.deepEqual(JSON.parse(shell(`tar -xOf ${path} repositories`)), { busybox: { berth: hex(digestOf(top)) }, 'example.com/team/two': { 2: hex(digestOf(base)) } });
    skopeo('copy', `docker-archive:${path}:busybox:berth`, `oci:${join(work, 'from-docker')}:x`);
    run('umoci', ['unpack', '--image', `${join(work, 'from-docker')}:x`, join(work, 'docker-bundle')]);
    assert.equal(readFileSync(join(work, 'docker-bundle/rootfs/etc/top'), 'utf8'), 'top\n');
    await comesBack(path, [
      { image: one, names: ['docker.io/library/busybox:berth'] },
      { image: two, names: ['example.com/team/two:2'] },
    ]);
  });

  test("skopeo's docker archive and an old one, whose repeated layers are links, are imported", async () => {
    skopeo('copy', `oci:${join(work, 'layout')}:example.com/team/one:1`, `docker-archive:${join(work, 'skopeo.tar')}:busybox:skopeo`);
    const [image] = await second.importImages(join(work, 'skopeo.tar'));
    assert.deepEqual(image?.names, ['docker.io/library/busybox:skopeo']);
    assert.deepEqual(describeOverlay(second.lease(image?.id ?? '', 'x')), describeOverlay(store.lease(one.id, 'x')));
    store.release('x');
    second.release('x');
    await second.remove('busybox:skopeo');

    const old = join(work, 'old');
    mkdirSync(join(old, 'a'), { recursive: true });
    mkdirSync(join(old, 'b'));
    writeFileSync(join(old, 'a/layer.tar'), base);
    const config = JSON.stringify({ os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: [digestOf(base), digestOf(base)] } });
    writeFileSync(join(old, 'c.json'), config);
    writeFileSync(join(old, 'manifest.json'), JSON.stringify([{ Config: 'c.json', RepoTags: ['old:1', 'old:2'], Layers: ['a/layer.tar', 'b/layer.tar'] }]));
    shell('ln -s ../a/layer.tar b/layer.tar; tar -cf ../old.tar ./a ./b c.json manifest.json', old);
    const [linked, ...none] = await second.importImages(join(work, 'old.tar'));
    assert.deepEqual(none, []);
    assert.deepEqual(linked?.names, ['docker.io/library/old:1', 'docker.io/library/old:2']);
    assert.equal(linked?.id, digestOf(Buffer.from(config)));
    await second.remove('old:1', { untagOnly: true });
    assert.deepEqual(second.resolve('old:2')?.names, ['docker.io/library/old:2']);
    await second.remove('old:2', { untagOnly: true });
    assert.deepEqual(other.contents(), { blobs: 0, layers: 0 });
  });

  test('an image saved by id has no name, one of another machine comes back as what it is', async () => {
    await store.save([two.id], join(work, 'id.tar'), { format: 'oci-archive' });
    await comesBack(join(work, 'id.tar'), [{ image: two, names: [] }]);
    const layout = new Layout(join(work, 'arm'));
    const manifest = layout.manifest({ layers: [base], architecture: 'arm64' });
    layout.add({ ...manifest, platform: { os: 'linux', architecture: 'arm64' } }, 'example.com/arm:1');
    const [arm] = await second.importImages(layout.dir);
    await second.save(['example.com/arm:1'], join(work, 'arm.tar'), { format: 'oci-archive' });
    await second.remove('example.com/arm:1');
    assert.equal((await second.importImages(join(work, 'arm.tar')))[0]?.id, arm?.id);
    await second.remove('example.com/arm:1');
  });

  test('blobs under sha512, whose names are longer than a tar header holds, go out and come back', async () => {
    const layout = new Layout(join(work, 'long'));
    const hex = createHash('sha512').update(base).digest('hex');
    mkdirSync(join(layout.dir, 'blobs/sha512'));
    writeFileSync(join(layout.dir, 'blobs/sha512', hex), base);
    const config = layout.blob(Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: [digestOf(base)] } })));
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const layers = [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: `sha512:${hex}`, size: base.length }];
    const manifest = { schemaVersion: 2, mediaType, config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config }, layers };
    layout.add({ mediaType, ...layout.blob(Buffer.from(JSON.stringify(manifest))) }, 'example.com/long:1');
    const [image] = await second.importImages(layout.dir);
    await second.save(['example.com/long:1'], join(work, 'long.tar'), { format: 'oci-archive' });
    assert.match(shell(`tar -tf ${join(work, 'long.tar')}`), new RegExp(`^blobs/sha512/${hex}$`, 'm'));
    await second.remove('example.com/long:1');
    assert.equal((await second.importImages(join(work, 'long.tar')))[0]?.id, image?.id);
    assert.deepEqual(
      (await second.verify()).images.flatMap(({ problems }) => problems),
      [],
    );
    await second.remove('example.com/long:1');
  });

  test('archives that are none, lie or lead out are refused, and nothing is left', async () => {
    const archive = (name: string, script: string): string => {
      const dir = join(work, name);
      mkdirSync(dir);
      shell(script, dir);
      return join(work, `${name}.tar`);
    };
    const refused = async (path: string, code: string, message: RegExp): Promise<void> => {
      await assert.rejects(second.importImages(path), failsWith(code, message));
      assert.deepEqual(other.contents(), { blobs: 0, layers: 0 });
      assert.deepEqual(readdirSync(join(other.dir, 'state/content/ingest')), []);
    };
    await refused(
      archive('nothing', 'echo x > x; tar -cf ../nothing.tar x'),
      'invalidArgument',
      /^import .*nothing\.tar: read archive: it has neither index\.json nor manifest\.json/,
    );
    await refused(archive('outside', 'echo x > ../secret; tar -P -cf ../outside.tar ../secret'), 'invalidArgument', /the member "\.\.\/secret" leads out of it/);
    await refused(
      archive('absent', `echo '[{"Config":"c.json","RepoTags":null,"Layers":["../../etc/passwd"]}]' > manifest.json; echo '{}' > c.json; tar -cf ../absent.tar .`),
      'notFound',
      /Layers: the archive has no file "\.\.\/\.\.\/etc\/passwd"/,
    );
    await refused(
      archive('circle', `echo '[{"Config":"a","RepoTags":[],"Layers":[]}]' > manifest.json; ln -s b a; ln -s a b; tar -cf ../circle.tar .`),
      'notFound',
      /manifest\.json\[0\]: the archive has no file "a"/,
    );
    await refused(
      archive('lying', `mkdir -p blobs/sha256; echo x > blobs/sha256/${'a'.repeat(64)}; echo '{"manifests":[]}' > index.json; tar -cf ../lying.tar .`),
      'dataLoss',
      /verify blob sha256:a{64}: the content is sha256:73cb3858/,
    );
    writeFileSync(join(work, 'short.tar.gz'), gzipSync(readFileSync(join(work, 'both.tar'))).subarray(0, 1000));
    await refused(join(work, 'short.tar.gz'), 'invalidArgument', /inflate gzip: unexpected end of file/);
    shell('head -c 300M /dev/zero | gzip -9 > bomb.tar.gz', work);
    await refused(join(work, 'bomb.tar.gz'), 'resourceExhausted', /read archive: \d+ bytes from \d+, at most 200 times as many/);
    // A few bytes that would fill the disk.
    await refused(archive('hole', 'truncate -s 4T hole; tar --sparse -cf ../hole.tar hole'), 'resourceExhausted', /read archive: \d+ bytes from \d+, at most 200 times as many/);
    const crowd = new Layout(join(work, 'crowd'));
    for (let index = 0; index < 17; index += 1) {
      const bytes = Buffer.alloc(4 * 1024 * 1024);
      bytes.writeUInt8(index + 1);
      crowd.add({ mediaType: 'application/vnd.oci.image.manifest.v1+json', ...crowd.blob(bytes) }, 'example.com/crowd:1');
    }
    await refused(crowd.dir, 'resourceExhausted', /the documents that index\.json names have more than 67108864 bytes together/);
    await refused(
      archive('tagged', `echo '{}' > c.json; echo '[{"Config":"c.json","RepoTags":["x@sha256:${'a'.repeat(64)}"]}]' > manifest.json; tar -cf ../tagged.tar .`),
      'invalidArgument',
      /RepoTags: .* has a digest/,
    );
  });

  test('only a regular file is replaced by an archive', async () => {
    const kept = join(work, 'kept');
    writeFileSync(kept, 'mine');
    symlinkSync(kept, join(work, 'link.tar'));
    shell('mkfifo fifo.tar', work);
    const saving = async (name: string) => store.save([one.id], join(work, name), { format: 'oci-archive' });
    await assert.rejects(saving('link.tar'), failsWith('failedPrecondition', /: there is a symbolic link; name the file that it leads to$/));
    await assert.rejects(saving('fifo.tar'), failsWith('failedPrecondition', /: there is something that is no regular file$/));
    assert.equal(readFileSync(join(work, 'link.tar'), 'utf8'), 'mine');
    await saving('kept');
    assert.ok(readFileSync(kept).length > 10_000);
  });

  test('a damaged blob is not written into an archive, and what was begun is removed', async () => {
    const layer = store.info(two.id)['blobs'] as readonly string[];
    const blob = join(host.dir, 'state/content/sha256', String(layer.at(-1)).slice(7));
    const bytes = readFileSync(blob);
    bytes[bytes.length - 20] = (bytes.at(-20) ?? 0) ^ 1;
    writeFileSync(blob, bytes);
    await assert.rejects(
      store.save([two.id], join(work, 'damaged.tar'), { format: 'oci-archive' }),
      failsWith('dataLoss', /^save .*: verify blob sha256:[0-9a-f]{64}: the content is sha256:.*repair$/),
    );
    assert.equal(existsSync(join(work, 'damaged.tar')), false);
    assert.deepEqual(
      readdirSync(work).filter((name) => name.startsWith('.')),
      [],
    );
    bytes[bytes.length - 20] = (bytes.at(-20) ?? 0) ^ 1;
    writeFileSync(blob, bytes);
  });
});
