/**
 * Images made by a stranger, as OCI layouts on disk: archives that reach out of their layer, bombs, documents that mean two things,
 * digests and sizes that lie. Each is one clear error, or stays inside the layer's directory, and nothing is left in the store.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { errorMessage, limits } from '#core';
import type { ImageStore } from '#image';
import { type CraftedEntry, craftTar } from '../../src/image/testing/tar-build.ts';
import { slowness } from './hostile-probe.ts';
import { Layout, StoreHost, digestOf, shell } from './image-host.ts';

const skip = process.getuid?.() !== 0 ? 'needs root' : existsSync(new URL('../../native/build/berth-shim', import.meta.url)) ? false : 'needs native/build/berth-shim';
const indexType = 'application/vnd.oci.image.index.v1+json';
const manifestType = 'application/vnd.oci.image.manifest.v1+json';

describe('a hostile image', { skip, timeout: 120_000 * slowness }, () => {
  let host: StoreHost;
  let store: ImageStore;
  let outside: string;
  let count = 0;

  before(async () => {
    host = new StoreHost();
    store = await host.open();
    outside = join(host.dir, 'outside');
    mkdirSync(outside);
    writeFileSync(join(outside, 'file'), 'untouched');
  });
  after(async () => host[Symbol.asyncDispose]());

  /** Imports a layout that `fill` writes; gives the error's words, or the files of the topmost layer and removes the image again. */
  async function outcome(fill: (layout: Layout, name: string) => void): Promise<string> {
    count += 1;
    const layout = new Layout(join(host.dir, `layout-${count}`));
    const name = `example.com/hostile:${count}`;
    fill(layout, name);
    let text: string;
    try {
      const [image] = await store.importImages(layout.dir);
      assert.ok(image);
      const { storeDir, lower } = store.lease(image.id, 'look');
      text = shell('find . -mindepth 1 -printf "%P\\n" | sort', join(storeDir, lower[0] ?? ''))
        .trim()
        .replaceAll('\n', ' ');
    } catch (error) {
      text = `error: ${errorMessage(error)}`;
    } finally {
      store.release('look');
      for (const image of store.list()) await store.remove(image.id);
    }
    assert.deepEqual([readdirSync(outside), readFileSync(join(outside, 'file'), 'utf8')], [['file'], 'untouched']);
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
    assert.ok(!text.includes('\n') && text.length < 2000, text);
    return text;
  }

  const ofLayers = (...layers: readonly (readonly CraftedEntry[])[]): Promise<string> =>
    outcome((layout, name) => layout.add(layout.manifest({ layers: layers.map((entries) => craftTar(entries)), compression: 'none' }), name));

  it('with names that climb is refused, by name, by PAX record, by link and by whiteout', async () => {
    const climbing: readonly (readonly CraftedEntry[])[] = [
      [{ name: '../escape', content: 'x' }],
      [{ name: 'a/../../escape', content: 'x' }],
      [{ name: '/../escape', content: 'x' }],
      [{ name: 'a', pax: { path: '../../escape' }, content: 'x' }],
      [
        { name: '././@LongLink', type: 'L', content: '../../escape\0' },
        { name: 'x', content: 'x' },
      ],
      [{ name: 'h', type: '1', link: '../../outside/file' }],
      [{ name: 'h', type: '1', pax: { linkpath: '../../outside/file' } }],
      [{ name: '../.wh.file' }],
      [{ name: 'd/../.wh.file' }],
    ];
    for (const entries of climbing) assert.match(await ofLayers(entries), /^error: .*names must not contain "\.\."$/, JSON.stringify(entries));
    for (const name of ['.wh...', '.wh..', '.wh.', 'd/.wh...'])
      assert.match(await ofLayers([{ name: 'base', content: 'x' }], [{ name }]), /^error: .*is a whiteout of no name$/, name);
    assert.match(await ofLayers([{ name: '.wh.d/file', content: 'x' }]), /^error: .*lies below a whiteout name$/);
    assert.match(await ofLayers([{ name: '.wh.d', content: 'data' }]), /^error: .*a whiteout must be empty$/);
  });

  it('with links as parents writes below its own root or not at all', async () => {
    const file = (name: string): CraftedEntry => ({ name, content: 'evil' });
    const link = (name: string, target: string): CraftedEntry => ({ name, type: '2', link: target });
    assert.match(await ofLayers([link('way', outside), file('way/file')]), new RegExp(`${outside.slice(1)}/file`));
    assert.match(await ofLayers([link('way', '../../../../../../..'), file('way/top')]), /^top way$/);
    assert.match(await ofLayers([link('way', outside)], [file('way/file')]), /\/file/);
    assert.match(await ofLayers([link('a', 'b'), link('b', 'a'), file('a/x')]), /^error: .*too many symbolic links/);
    assert.match(await ofLayers([link('l', `${outside}/file`), { name: 'h', type: '1', link: 'l' }]), /^h l$/, 'the link itself gets a second name');
    assert.match(await ofLayers([link('l', outside), { name: 'h', type: '1', link: 'l/file' }]), /^error: .*which does not exist$/);
    assert.match(await ofLayers([link('l', `${outside}/file`), file('l')]), /^l$/, 'a file replaces the link and does not follow it');
    assert.match(await ofLayers([{ name: 'd', type: '5' }, link('d', outside), file('d/file')]), /\/file/);
    assert.match(await ofLayers([link('.', outside), file('file')]), /^error: .*the root must be a directory$/);
    assert.match(await ofLayers([{ name: 'h', type: '1', link: 'h' }]), /^error: .*hard link to (itself|.*does not exist)/);
    assert.match(
      await ofLayers([
        { name: 'd', type: '5' },
        { name: 'h', type: '1', link: 'd' },
      ]),
      /^error: .*hard link to a directory$/,
    );
  });

  it('with devices, attributes and owners that steer an overlay or the kernel is refused or stripped', async () => {
    assert.match(await ofLayers([{ name: 'w', type: '3', device: [0, 0] }]), /^error: .*character device 0:0 is reserved$/);
    assert.equal(
      await ofLayers([
        { name: 'd', type: '5', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc', 'SCHILY.xattr.trusted.overlay.opaque': 'y', 'SCHILY.xattr.user.overlay.opaque': 'y' } },
      ]),
      'd',
    );
    for (const id of ['4294967295', '4294967296', '-1', '99999999999999999999'])
      assert.match(await ofLayers([{ name: 'f', pax: { uid: id } }]), /^error: .*read tar: (uid|.*number)/, id);
    assert.match(await ofLayers([{ name: 'f', pax: { path: 'a\0b' } }]), /^error: /);
    assert.match(await ofLayers([{ name: 'f', pax: { 'SCHILY.xattr.user.big': 'x'.repeat(70_000) } }]), /^error: .*bytes of extended attributes/);
    assert.match(await ofLayers([{ name: `${'d/'.repeat(300)}f`.slice(0, 90), pax: { path: `${'d/'.repeat(300)}f` } }]), /^error: .*directories deep, at most 256$/);
    assert.match(await ofLayers([{ name: 'x', pax: { path: 'n'.repeat(256) } }]), /^error: .*longer than 255 bytes$/);
  });

  it('whose archive lies about sizes or never ends is refused', async () => {
    assert.match(await ofLayers([{ name: 'f', sizeBytes: 2 ** 30, content: 'x' }]), /^error: .*/);
    assert.match(await ofLayers([{ name: 'f', pax: { size: '9223372036854775807' } }]), /^error: .*/);
    assert.match(await ofLayers([{ name: 'f', pax: { size: '-1' } }]), /^error: .*/);
    assert.match(await ofLayers([{ name: 'pax', type: 'x', content: 'x'.repeat(2 << 20) }]), /^error: .*at most 1048576/);
    assert.match(await ofLayers([{ name: 'pax', type: 'x', content: '999999999999 path=x\n' }]), /^error: .*/);
  });

  it('that unpacks to far more than it holds is stopped early, in gzip and zstd', async () => {
    const zeros = craftTar([{ name: 'zeros', content: Buffer.alloc(128 << 20) }]);
    for (const [type, packed] of [
      ['gzip', gzipSync(zeros, { level: 9 })],
      ['zstd', zstdCompressSync(zeros)],
    ] as const) {
      const started = performance.now();
      const text = await outcome((layout, name) => {
        const { digest } = layout.manifest({ layers: [], diffIds: [digestOf(zeros)] });
        const manifest = JSON.parse(readFileSync(join(layout.dir, 'blobs/sha256', digest.slice(7)), 'utf8'));
        manifest.layers = [{ mediaType: `application/vnd.oci.image.layer.v1.tar+${type}`, ...layout.blob(packed) }];
        layout.add({ mediaType: manifestType, ...layout.blob(Buffer.from(JSON.stringify(manifest))) }, name);
      });
      assert.match(text, /^error: .*(200|ratio|times)/);
      assert.ok(performance.now() - started < 60_000 * slowness);
    }
    assert.equal(limits.layerRatioMax, 200);
  });

  it('with documents that are too large, too deep, too many or two things at once is refused', async () => {
    const document = (value: unknown, mediaType: string) => (layout: Layout, name: string) =>
      void layout.add({ mediaType, ...layout.blob(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))) }, name);
    assert.match(
      await outcome(document({ schemaVersion: 2, mediaType: manifestType, pad: 'x'.repeat(5 << 20) }, manifestType)),
      /^error: .*5242\d+ bytes, at most 4194304|^error: .*at most 4194304/,
    );
    const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf(Buffer.from('{}')), size: 2 };
    assert.match(await outcome(document({ schemaVersion: 2, manifests: [], layers: [], config }, manifestType)), /^error: .*is both an index and a manifest$/);
    assert.match(await outcome(document({ schemaVersion: 2, mediaType: indexType, manifests: [], config }, indexType)), /^error: .*is both an index and a manifest$/);
    assert.match(await outcome(document({ schemaVersion: 2, mediaType: manifestType, layers: [], config }, indexType)), /^error: .*announced as/);
    assert.match(
      await outcome(document({ schemaVersion: 2, mediaType: indexType, manifests: Array.from({ length: 1001 }, () => config) }, indexType)),
      /^error: .*1001 items, at most 1000$/,
    );
    assert.match(
      await outcome(document({ schemaVersion: 2, mediaType: manifestType, config, layers: Array.from({ length: 501 }, () => config) }, manifestType)),
      /^error: .*501 items, at most 500$/,
    );
    assert.match(await outcome(document(`{"schemaVersion":2,"a":${'['.repeat(200_000)}`, manifestType)), /^error: .*not JSON/);
    const nested = await outcome((layout, name) => {
      let inner: { mediaType: string; digest: string; size: number } = layout.manifest({ layers: [craftTar([{ name: 'f' }])] });
      for (let depth = 0; depth < limits.indexDepthMax + 2; depth += 1) inner = layout.index([{ descriptor: inner, architecture: 'amd64' }]);
      layout.add(inner, name);
    });
    assert.match(nested, /^error: .*(nested|deep)/);
  });

  it('whose blobs are not what their descriptors say is refused', async () => {
    const layer = craftTar([{ name: 'f', content: 'x' }]);
    const spoiled = (change: (path: string, bytes: Buffer) => void) => (layout: Layout, name: string) => {
      layout.add(layout.manifest({ layers: [layer], compression: 'none' }), name);
      const path = join(layout.dir, 'blobs/sha256', digestOf(layer).slice(7));
      change(path, readFileSync(path));
    };
    assert.match(await outcome(spoiled((path, bytes) => writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(512)])))), /^error: .*(size|bytes)/);
    assert.match(await outcome(spoiled((path, bytes) => writeFileSync(path, bytes.fill(1, 0, 1)))), /^error: .*(digest|sha256)/);
    assert.match(await outcome(spoiled((path, bytes) => writeFileSync(path, bytes.subarray(0, 100)))), /^error: .*/);
    assert.match(
      await outcome((layout, name) => layout.add(layout.manifest({ layers: [layer], diffIds: [digestOf(Buffer.from('other'))] }), name)),
      /^error: .*verify layer: its content is sha256:\w+, the image says sha256:/,
    );
    for (const digest of ['sha256:../../../../outside/file', `sha256:${'A'.repeat(64)}`, 'sha256:', 'md5:d41d8cd98f00b204e9800998ecf8427e', `sha256:${'a'.repeat(64)}\n`]) {
      assert.match(await outcome((layout, name) => layout.add({ mediaType: manifestType, digest, size: 9 }, name)), /^error: .*digest/, digest);
    }
  });

  it('whose layout holds links, FIFOs and devices in place of files is refused at once', async () => {
    const layer = craftTar([{ name: 'f' }]);
    const spoil = (name: (digest: string) => string, command: (path: string) => string) => (layout: Layout, reference: string) => {
      const manifest = layout.manifest({ layers: [layer], compression: 'none' });
      layout.add(manifest, reference);
      const path = join(layout.dir, name(manifest.digest.slice(7)));
      shell(`rm ${path}; ${command(path)}`);
    };
    const started = performance.now();
    for (const name of [(digest: string) => `blobs/sha256/${digest}`, () => `blobs/sha256/${digestOf(layer).slice(7)}`, () => 'index.json']) {
      for (const command of [
        (path: string) => `mkfifo ${path}`,
        (path: string) => `ln -s /dev/zero ${path}`,
        (path: string) => `mknod ${path} c 1 5`,
        (path: string) => `mkdir ${path}`,
        (path: string) => `truncate -s 20G ${path}`,
      ])
        assert.match(await outcome(spoil(name, command)), /^error: /, `${name('blob')}: ${command('x')}`);
    }
    assert.ok(performance.now() - started < 60_000 * slowness);
  });
});
