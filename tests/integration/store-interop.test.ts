/**
 * What Berth writes, others read, and the other way round: layouts, archives and registries between Berth, skopeo, umoci and Debian's containerd. The
 * trees must be equal, and the image's identity must survive. Needs root, docker-registry, skopeo, umoci and containerd.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ImageStore, StoredImage } from '#image';
import { Layout, Registry, StoreHost, digestOf, run, shell, skipReason, tarOf } from './image-host.ts';
import { Containerd, comparable, describeLeased, describeUmoci, missingPeer } from './trees.ts';

/** Without what tar puts behind the two blocks of zeros that end an archive: skopeo's zstd:chunked drops that, and with it the diff ID is no longer true. */
function withoutPadding(archive: Buffer): Buffer {
  const end = archive.findLastIndex((byte) => byte !== 0);
  return archive.subarray(0, Math.ceil((end + 1) / 512) * 512 + 1024);
}

/** A base and a layer that needs it: a file in a directory it does not name, a whiteout, an opaque directory. */
const layers = (): Buffer[] =>
  [
    tarOf(
      'mkdir -p bin etc/deep old/inner; cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; ln -s busybox bin/ls; chmod 4755 bin/busybox; chown 3:4 etc/deep; chmod 710 etc/deep; echo 1 > etc/one; echo o > old/inner/o',
    ),
    tarOf(
      'mkdir -p etc/deep old; echo 2 > etc/deep/two; touch etc/.wh.one old/.wh..wh..opq; echo n > old/new; mkfifo etc/deep/fifo',
      'etc/deep/two etc/.wh.one old/.wh..wh..opq old/new etc/deep/fifo',
    ),
  ].map(withoutPadding);
const runConfig = { Entrypoint: ['/bin/sh'], Env: ['A=b'], WorkingDir: '/etc', User: '3:4', Labels: { note: 'kept' } };

describe('images of Berth and of other programs', { skip: skipReason() || missingPeer() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-interop-'));
  let [store, registry, containerd]: [ImageStore?, Registry?, Containerd?] = [];
  let layout = '';
  let expected: string[] = [];
  let startedAtMs = 0;

  const storeOf = (): ImageStore => {
    assert.ok(store !== undefined);
    return store;
  };
  const containerdOf = (): Containerd => {
    assert.ok(containerd !== undefined);
    return containerd;
  };
  const skopeo = (...args: readonly string[]): string => run('skopeo', ['--insecure-policy', ...args]);
  const at = (repository: string): string => `${registry?.address ?? ''}/${repository}`;

  /** Fails unless the tree is that of the original layers. */
  const assertTree = (tree: readonly string[]): void => {
    const [a, b] = comparable([tree, expected], startedAtMs);
    assert.deepEqual(a, b);
  };
  const assertImage = (image: StoredImage | undefined): void => {
    assert.ok(image !== undefined);
    assert.deepEqual(
      [image.process.entrypoint, image.process.env, image.process.workingDir, image.process.user, { ...image.config.labels }],
      [runConfig.Entrypoint, runConfig.Env, runConfig.WorkingDir, runConfig.User, runConfig.Labels],
    );
    const [tree = []] = describeLeased([storeOf().lease(image.id, 'look')]);
    storeOf().release('look');
    assertTree(tree);
  };
  /** The original in the store under this name, and nothing else. */
  const onlyOriginal = async (name: string): Promise<StoredImage> => {
    for (const image of storeOf().list()) await storeOf().remove(image.id);
    const [image] = await storeOf().importImages(layout, { name });
    assert.ok(image !== undefined);
    return image;
  };

  before(async () => {
    startedAtMs = Date.now();
    [registry, containerd, store] = await Promise.all([Registry.start(), Containerd.start(), host.open()]);
    const made = new Layout(join(work, 'original'));
    layout = made.add(made.manifest({ layers: layers(), config: runConfig }), 'x').dir;
    expected = describeUmoci(`${layout}:x`);
    assert.ok(expected.length > 15);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await containerd?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  test('an image that Berth pushed is pulled by containerd and skopeo, with the digest that the push named', async () => {
    await onlyOriginal(at('pushed:1'));
    const { digest, reference } = await storeOf().push(at('pushed:1'));
    assert.equal(reference, at('pushed:1'));
    const raw = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${at('pushed:1')}`]);
    assert.equal(digestOf(raw), digest);
    skopeo('copy', '--src-tls-verify=false', `docker://${at('pushed:1')}`, `oci:${work}/pulled:x`);
    assertTree(describeUmoci(`${work}/pulled:x`));
    containerdOf().pull(at('pushed:1'));
    assertTree(containerdOf().describe([at('pushed:1')])[0] ?? []);
  });

  for (const [format, transport] of [
    ['oci-dir', 'oci'],
    ['oci-archive', 'oci-archive'],
    ['docker-archive', 'docker-archive'],
  ] as const) {
    test(`skopeo reads a saved ${format}, and its copy in a registry is the same image again`, async () => {
      const image = await onlyOriginal(`docker.io/library/saved:${format}`);
      const path = join(work, `saved-${format}`);
      await storeOf().save([image.id], path, { format });
      // One image without a name in question: skopeo takes the only one there is.
      skopeo('copy', '--dest-tls-verify=false', `${transport}:${path}`, `docker://${at(`saved:${format}`)}`);
      await storeOf().remove(image.id);
      const again = await storeOf().pull(at(`saved:${format}`));
      assert.equal(again.id, image.id, 'the configuration is the same bytes');
      assertImage(again);
    });
  }

  test('containerd imports what Berth saved, and umoci unpacks it', async () => {
    const image = await onlyOriginal('docker.io/library/toctr:1');
    for (const format of ['oci-archive', 'docker-archive'] as const) {
      const path = join(work, `toctr-${format}.tar`);
      await storeOf().save(['docker.io/library/toctr:1'], path, { format });
      containerdOf().ctr(['images', 'import', path]);
      assertTree(containerdOf().describe(['docker.io/library/toctr:1'])[0] ?? []);
      containerdOf().ctr(['images', 'remove', '--sync', 'docker.io/library/toctr:1']);
    }
    await storeOf().save(['docker.io/library/toctr:1'], join(work, 'toumoci'), { format: 'oci-dir' });
    // SAFETY: an index of an OCI layout, which the specification gives this shape.
    const index = JSON.parse(readFileSync(join(work, 'toumoci/index.json'), 'utf8')) as {
      readonly manifests: readonly { readonly annotations: Readonly<Record<string, string>> }[];
    };
    const name = index.manifests[0]?.annotations['org.opencontainers.image.ref.name'] ?? '';
    assertTree(describeUmoci(`${work}/toumoci:${name}`));
    assert.equal(image.id, storeOf().resolve('toctr:1')?.id);
  });

  const compressions = {
    gzip: [],
    zstd: ['--dest-compress', '--dest-compress-format', 'zstd'],
    'zstd:chunked': ['--dest-compress', '--dest-compress-format', 'zstd:chunked'],
  } as const;
  for (const [what, destination, compression] of [
    ['an OCI layout', 'oci:DIR:name:1', 'gzip'],
    ['an OCI layout', 'oci:DIR:name:1', 'zstd'],
    ['an OCI layout', 'oci:DIR:name:1', 'zstd:chunked'],
    ['an OCI archive', 'oci-archive:DIR:name:1', 'gzip'],
    ['a docker archive', 'docker-archive:DIR:docker.io/library/name:1', 'gzip'],
  ] as const) {
    test(`Berth imports ${what} that skopeo wrote from ${compression}`, async () => {
      for (const image of storeOf().list()) await storeOf().remove(image.id);
      const path = join(work, `from-${what}-${compression}`.replaceAll(/\W/g, '-'));
      // skopeo compresses only what is not compressed already.
      const source = compression === 'gzip' ? `oci:${layout}:x` : `dir:${path}-plain`;
      if (compression !== 'gzip') skopeo('copy', '--dest-decompress', `oci:${layout}:x`, source);
      skopeo('copy', ...compressions[compression], source, destination.replace('DIR', path));
      const [image] = await storeOf().importImages(path);
      assert.deepEqual(image?.names, ['docker.io/library/name:1']);
      if (compression !== 'gzip') assert.match(shell('cat blobs/sha256/*', path), /layer\.v1\.tar\+zstd"/);
      assertImage(image);
    });
  }

  test('Berth pulls schema 2 manifests that skopeo pushed, and imports what containerd exported', async () => {
    for (const image of storeOf().list()) await storeOf().remove(image.id);
    skopeo('copy', '--format', 'v2s2', '--dest-tls-verify=false', `oci:${layout}:x`, `docker://${at('schema2:1')}`);
    const raw = execFileSync('skopeo', ['inspect', '--raw', '--tls-verify=false', `docker://${at('schema2:1')}`], { encoding: 'utf8' });
    assert.match(raw, /vnd\.docker\.distribution\.manifest\.v2\+json/);
    const pulled = await storeOf().pull(at('schema2:1'));
    assertImage(pulled);
    await storeOf().remove(pulled.id);
    containerdOf().pull(at('schema2:1'));
    containerdOf().ctr(['images', 'export', join(work, 'exported.tar'), at('schema2:1')]);
    const [image] = await storeOf().importImages(join(work, 'exported.tar'));
    assert.deepEqual(image?.names, [at('schema2:1')]);
    assertImage(image);
  });
});
