/**
 * Damage of every kind to what the store keeps: found, told in words, and put right from the blob or from a registry, or said why not.
 * Needs root, docker-registry, skopeo.
 */
import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { RuntimeError } from '#core';
import type { ImageStore, StoredImage, VerifyProblem, VerifyReport } from '#image';
import { SqliteRecords } from '#system';
import { Layout, Registry, StoreHost, describeOverlay, run, setXattr, shell, skipReason, tarOf } from './image-host.ts';

const base = (): Buffer =>
  tarOf(`
  mkdir -p bin etc/deep opaque/old gone; cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; ln -s busybox bin/ls
  echo hello > etc/hello; chown 12:34 etc/hello; chmod 0640 etc/hello; echo z > opaque/old/z; mkfifo etc/fifo; mknod etc/null c 1 3
  echo low > etc/deep/linked; ${setXattr('etc/deep/linked', 'user.note', 'value')}; head -c 3000000 /dev/urandom > bin/large`);
const upper = (): Buffer =>
  tarOf(
    `mkdir -p etc/deep opaque; touch .wh.gone opaque/.wh..wh..opq; echo new > opaque/new; echo low > etc/deep/linked; ln etc/deep/linked etc/again`,
    'etc/again .wh.gone opaque/.wh..wh..opq opaque/new',
  );

describe('verification and repair', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-verify-'));
  let store: ImageStore;
  let registry: Registry;
  let pulled: StoredImage;
  let imported: StoredImage;
  const state = join(host.dir, 'state');

  before(async () => {
    store = await host.open();
    registry = await Registry.start();
    const layout = new Layout(join(work, 'layout'));
    // A hard link into the layer below makes the upper layer one that needs its parents.
    layout.add(layout.manifest({ layers: [base(), linkInto(upper())] }), 'pulled');
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:pulled`, `docker://${registry.address}/team/pulled:1`]);
    pulled = await store.pull(`${registry.address}/team/pulled:1`);
    const other = new Layout(join(work, 'other'));
    other.add(other.manifest({ layers: [tarOf('mkdir -p srv; echo here > srv/here')] }), 'example.com/imported:1');
    [imported] = (await store.importImages(other.dir)) as [StoredImage];
  });
  after(async () => {
    rmSync(work, { recursive: true, force: true });
    await registry[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });

  /** Only the names of the second tar: its target lies in the layer below. */
  function linkInto(archive: Buffer): Buffer {
    const dir = mkdtempSync(join(work, 'tar-'));
    writeFileSync(join(dir, 'in.tar'), archive);
    shell(
      'mkdir x; tar -xf in.tar -C x; mkdir -p x/etc/deep; ln -f x/etc/again x/etc/deep/linked; cd x; tar --format=pax --numeric-owner --no-recursion -cf ../all.tar etc/deep/linked etc/again .wh.gone opaque opaque/.wh..wh..opq opaque/new; tar --delete -f ../all.tar etc/deep/linked',
      dir,
    );
    return readFileSync(join(dir, 'all.tar'));
  }

  interface LayerInfo {
    readonly name: string;
    readonly diffId: string;
    readonly blob: string;
    readonly isSelfContained: boolean;
  }
  const layersOf = (image: StoredImage): readonly LayerInfo[] => store.info(image.id)['layers'] as readonly LayerInfo[];
  const layerDir = (image: StoredImage, index: number): string => join(state, 'layers', layersOf(image)[index]?.name ?? 'none');
  const blobFile = (digest: string): string => join(state, 'content/sha256', digest.slice(7));
  const problemsOf = (report: VerifyReport, image: StoredImage): readonly VerifyProblem[] => report.images.find(({ id }) => id === image.id)?.problems ?? [];
  const assertClean = async (): Promise<void> => {
    const report = await store.verify();
    assert.deepEqual(
      report.images.flatMap(({ problems }) => problems),
      [],
    );
  };
  /** Damages, checks that exactly this is found, repairs, and checks that nothing is left of it. */
  const repairs = async (image: StoredImage, damage: () => void, expected: readonly { readonly kind: string; readonly detail: RegExp }[]): Promise<void> => {
    damage();
    const found = problemsOf(await store.verify({ names: [image.id] }), image);
    assert.deepEqual(
      found.map(({ kind, state: status }) => ({ kind, status })),
      expected.map(({ kind }) => ({ kind, status: 'found' })),
      JSON.stringify(found),
    );
    for (const [index, { detail }] of expected.entries()) assert.match(found[index]?.detail ?? '', detail);
    const repaired = problemsOf(await store.verify({ repair: true }), image);
    assert.deepEqual(
      repaired.map(({ state: status, reason }) => ({ status, reason })),
      expected.map(() => ({ status: 'repaired', reason: undefined })),
      JSON.stringify(repaired),
    );
    await assertClean();
  };
  const treeOf = (image: StoredImage): readonly string[] => {
    const tree = describeOverlay(store.lease(image.id, 'look'));
    store.release('look');
    return tree;
  };
  const flip = (path: string, at: number): void => {
    const bytes = readFileSync(path);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path, bytes);
  };

  test('a whole store has no problems, and says how much was read', async () => {
    const report = await store.verify();
    assert.equal(report.images.length, 2);
    assert.deepEqual(
      report.images.flatMap(({ problems }) => problems),
      [],
    );
    assert.ok(report.checkedFiles >= 17, `${report.checkedFiles} entries`);
    assert.ok(report.checkedBytes > 6_000_000, `${report.checkedBytes} bytes`);
    assert.deepEqual(
      layersOf(pulled).map(({ isSelfContained }) => isSelfContained),
      [true, false],
    );
    const stages: string[] = [];
    await store.verify({ names: [imported.id], onProgress: ({ stage, bytesDone, bytesTotal }) => void (bytesDone <= bytesTotal && stages.push(stage)) });
    assert.equal(stages.at(-1), 'done');
    await assert.rejects(store.verify({ names: ['none:1'] }), (error: unknown) => error instanceof RuntimeError && error.code === 'notFound');
  });

  test('altered, truncated and missing blobs are fetched again from the registry', async () => {
    const blobs = store.info(pulled.id)['blobs'] as readonly string[];
    const [manifest = '', config = ''] = blobs;
    const [low, high] = layersOf(pulled);
    await repairs(pulled, () => flip(blobFile(low?.blob ?? ''), 2_000_000), [{ kind: 'blob', detail: /^the content is sha256:[0-9a-f]{64}$/ }]);
    await repairs(pulled, () => truncateSync(blobFile(high?.blob ?? ''), 50), [{ kind: 'blob', detail: /^has 50 bytes instead of \d+$/ }]);
    await repairs(pulled, () => unlinkSync(blobFile(low?.blob ?? '')), [{ kind: 'blob', detail: /^is missing$/ }]);
    await repairs(pulled, () => truncateSync(blobFile(config), 3), [{ kind: 'blob', detail: /^has 3 bytes/ }]);
    await repairs(pulled, () => flip(blobFile(manifest), 30), [{ kind: 'blob', detail: /^the content is sha256:/ }]);
    await repairs(pulled, () => flip(blobFile(config), 30), [{ kind: 'blob', detail: /^the content is sha256:/ }]);
    await repairs(pulled, () => unlinkSync(blobFile(manifest)), [{ kind: 'blob', detail: /^is missing$/ }]);
  });

  test('a pull takes no document that was altered at its size, and puts the whole one in its place', async () => {
    const [manifest = '', config = ''] = store.info(pulled.id)['blobs'] as readonly string[];
    const whole = [manifest, config].map((digest) => readFileSync(blobFile(digest)));
    for (const altered of [[manifest], [config], [manifest, config]]) {
      for (const digest of altered) flip(blobFile(digest), 30);
      assert.equal((await store.pull(`${registry.address}/team/pulled:1`)).id, pulled.id);
      const found = [manifest, config].map((digest) => readFileSync(blobFile(digest)));
      assert.deepEqual(found, whole);
    }
    await assertClean();
  });

  test('every kind of change to a layer is found, and the layer is unpacked again', async () => {
    const before = treeOf(pulled);
    const low = (): string => layerDir(pulled, 0);
    const high = (): string => layerDir(pulled, 1);
    /** Changes content without a trace in size or times. */
    const alter = (path: string): void => {
      const { atimeNs, mtimeNs } = statSync(path, { bigint: true });
      flip(path, 2);
      const seconds = (ns: bigint): string => `@${ns / 1_000_000_000n}.${(ns % 1_000_000_000n).toString().padStart(9, '0')}`;
      shell(`touch -a -d ${seconds(atimeNs)} ${path}; touch -m -d ${seconds(mtimeNs)} ${path}`);
    };
    const cases: readonly (readonly [() => void, RegExp])[] = [
      [() => alter(join(low(), 'etc/hello')), /^"etc\/hello" has other content$/],
      [() => alter(join(low(), 'bin/large')), /^"bin\/large" has other content$/],
      [() => chmodSync(join(low(), 'etc/hello'), 0o666), /^"etc\/hello" has mode 666 instead of 640$/],
      [() => chownSync(join(low(), 'etc/hello'), 0, 34), /^"etc\/hello" belongs to 0:34 instead of 12:34$/],
      [() => utimesSync(join(low(), 'etc/hello'), 1, 1), /^"etc\/hello" was changed at 1000000000 ns instead of \d+$/],
      [() => lutimesSync(join(low(), 'bin/ls'), 1, 1), /^"bin\/ls" was changed at/],
      [() => unlinkSync(join(low(), 'etc/hello')), /"etc\/hello" is missing/],
      [() => writeFileSync(join(low(), 'etc/extra'), 'x'), /"etc\/extra" is not in the index/],
      [() => shell(`mkfifo ${join(low(), 'opaque/pipe')}`), /"opaque\/pipe" is not in the index/],
      [() => shell(`ln -sfn elsewhere ${join(low(), 'bin/ls')}`), /"bin\/ls" leads elsewhere/],
      [() => shell(`rm etc/null; mknod etc/null c 1 5`, low()), /"etc\/null" is the device c 1:5 instead of c 1:3/],
      [() => shell(`rm etc/fifo; echo x > etc/fifo`, low()), /"etc\/fifo" is a file instead of a device or FIFO/],
      [() => shell(setXattr('etc/deep/linked', 'user.note', 'other'), low()), /^"etc\/deep\/linked" has another "user\.note"$/],
      [() => shell(setXattr('etc/deep/linked', 'user.more', 'x'), low()), /^"etc\/deep\/linked" has an attribute "user\.more" too many$/],
      [() => shell(`cp -p bin/sh x; mv x bin/sh`, low()), /"bin\/(sh|busybox)" is no longer the same file as its other names/],
      [() => shell(`rm gone; echo x > gone`, high()), /"gone" is no whiteout any more|"gone" is a file instead of a whiteout/],
      [() => shell(setXattr('opaque', 'trusted.overlay.opaque', 'n'), high()), /^"opaque" no longer hides what is below$/],
      [() => shell(setXattr('etc', 'trusted.overlay.opaque', 'y'), high()), /"etc" hides what is below/],
      [() => truncateSync(join(high(), 'etc/again'), 1), /"etc\/(again|deep\/linked)" has 1 bytes instead of 4/],
      [() => renameSync(low(), join(host.dir, 'away')), /^its directory is missing$/],
      [
        () => void shell(`rm -rf bin/large; mkdir bin/large; ln -s / bin/large/root`, low()),
        /"bin\/large" is a directory instead of a file.*"bin\/large\/root" is not in the index/,
      ],
    ];
    // Nothing of this needs the registry.
    await registry[Symbol.asyncDispose]();
    for (const [damage, detail] of cases) await repairs(pulled, damage, [{ kind: 'layer', detail }]);
    rmSync(join(host.dir, 'away'), { recursive: true });
    assert.deepEqual(treeOf(pulled), before);
  });

  test('a damaged index and a layer that nobody recorded are repaired from the blob', async () => {
    const before = treeOf(pulled);
    const index = (): string => join(state, 'index', layersOf(pulled)[1]?.name ?? 'none');
    await repairs(pulled, () => truncateSync(index(), 20), [{ kind: 'index', detail: /^read layer index .*: unexpected end of file|read layer index/ }]);
    await repairs(pulled, () => unlinkSync(index()), [{ kind: 'index', detail: /ENOENT/ }]);
    await repairs(pulled, () => writeFileSync(index(), zstdCompressSync('["f","opaque/new",420]\n')), [{ kind: 'index', detail: /^read layer index: uid: required$/ }]);
    const [low] = layersOf(pulled);
    const forget = (): void => {
      using records = new SqliteRecords(join(host.dir, 'state.db'));
      records.delete('imageLayer', low?.diffId ?? '');
    };
    await repairs(pulled, forget, [{ kind: 'record', detail: /^no layer is recorded under this key$/ }]);
    assert.deepEqual(treeOf(pulled), before);
  });

  test('what cannot be repaired says why, and is left as it is', async () => {
    const [layer] = layersOf(imported);
    const path = blobFile(layer?.blob ?? '');
    const whole = readFileSync(path);
    truncateSync(path, 10);
    chmodSync(join(layerDir(imported, 0), 'srv/here'), 0o777);
    const problems = problemsOf(await store.verify({ repair: true }), imported);
    assert.deepEqual(
      problems.map(({ kind, state: status }) => ({ kind, status })),
      [
        { kind: 'blob', status: 'unrepairable' },
        { kind: 'layer', status: 'unrepairable' },
      ],
    );
    assert.match(problems[0]?.reason ?? '', /is not in the store, and no repository is known to have the image \(it was imported or made here\)$/);
    assert.match(problems[1]?.reason ?? '', /^its blob sha256:[0-9a-f]{64} is damaged and could not be fetched again$/);
    assert.equal(statSync(path).size, 10);
    // The registry of the other image is gone.
    const [low] = layersOf(pulled);
    const gone = blobFile(low?.blob ?? '');
    const bytes = readFileSync(gone);
    unlinkSync(gone);
    assert.match(
      problemsOf(await store.verify({ names: [pulled.id], repair: true }), pulled)[0]?.reason ?? '',
      new RegExp(`^fetch blob sha256:[0-9a-f]{64} from ${registry.address}/team/pulled: .*ECONNREFUSED`),
    );
    writeFileSync(gone, bytes);
    writeFileSync(path, whole);
    chmodSync(join(layerDir(imported, 0), 'srv/here'), 0o644);
    await assertClean();
  });

  test('a layer that a container uses is not replaced; its images may even be gone', async () => {
    const file = join(layerDir(imported, 0), 'srv/here');
    store.lease(imported.id, 'container-1');
    chmodSync(file, 0o777);
    const { reason, state: status } = problemsOf(await store.verify({ repair: true }), imported)[0] ?? {};
    assert.deepEqual({ reason, status }, { reason: 'in use by container-1; repair again when that is gone', status: 'unrepairable' });
    store.release('container-1');
    assert.equal(problemsOf(await store.verify({ repair: true }), imported)[0]?.state, 'repaired');
    store.lease(imported.id, 'container-2');
    const used = layerDir(imported, 0);
    await store.remove(imported.id);
    chmodSync(join(used, 'srv/here'), 0o777);
    const report = await store.verify();
    assert.deepEqual(
      report.images.map(({ names, problems }) => ({ names, problems: problems.length })).filter(({ problems }) => problems > 0),
      [{ names: [], problems: 1 }],
    );
    store.release('container-2');
    await store.collect();
    await assertClean();
  });

  test('a verification can be cancelled', async () => {
    await assert.rejects(store.verify({ signal: AbortSignal.abort(new Error('enough')) }), /enough/);
  });

  test('half of a layer or blob without its record is gone after the next start', async () => {
    await host.close();
    mkdirSync(join(state, 'layers/zz/inner'), { recursive: true });
    symlinkSync('/', join(state, 'layers/zz/root'));
    writeFileSync(join(state, 'index/zz'), 'x');
    writeFileSync(join(state, 'content/ingest/left'), 'x');
    linkSync(join(state, 'index/zz'), join(state, 'content/sha256', 'a'.repeat(64)));
    store = await host.open();
    assert.deepEqual(readdirSync(join(state, 'content/ingest')), []);
    assert.equal(readdirSync(join(state, 'layers')).length, 2);
    assert.equal(readdirSync(join(state, 'index')).length, 2);
    await assertClean();
  });
});
