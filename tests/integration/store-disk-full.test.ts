/**
 * A disk that is full, or read-only, at each stage of a pull: blobs, layers, their indexes, the database. Each stage has a small file system of its own
 * that is filled; and the whole store is put on one whose room ends a little later in each round, so that every write is once the last one. The error
 * says so, nothing is half-committed, reading goes on, and with room the next pull succeeds. Needs root and Debian's docker-registry.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ImageStore } from '#image';
import { failsWith } from './expect-failure.ts';
import { Registry, StoreHost, describeOverlay, run, skipReason, tarOf } from './image-host.ts';
import { RawRepository, assertSound, gzipLayer, randomLayer, textLayer } from './raw-images.ts';

const MiB = 1024 * 1024;
const roomy = 64 * MiB;

/** A file system in memory whose size can be changed. */
class Disk implements Disposable {
  readonly dir: string;

  constructor(dir: string) {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    run('mount', ['-t', 'tmpfs', '-o', `size=${roomy},nr_inodes=10000,mode=0700`, 'tmpfs', dir]);
    this.dir = dir;
  }

  /** Leaves room for so many bytes beside what is there, or for one page where there is nothing: a size of 0 would be no limit. */
  leave(bytes: number): void {
    const { blocks, bfree, bsize } = statfsSync(this.dir);
    run('mount', ['-o', `remount,size=${Math.max((blocks - bfree) * bsize + bytes, bsize)}`, this.dir]);
  }

  /** Leaves so many inodes beside those in use. */
  leaveInodes(count: number): void {
    const { files, ffree } = statfsSync(this.dir);
    run('mount', ['-o', `remount,nr_inodes=${files - ffree + count}`, this.dir]);
  }

  makeRoom(): void {
    run('mount', ['-o', `remount,size=${roomy},nr_inodes=10000`, this.dir]);
  }

  [Symbol.dispose](): void {
    run('umount', ['-l', this.dir]);
  }
}

/** The directory refuses writes until disposal; what has it open for writing goes on. */
function readOnly(dir: string): Disposable {
  run('mount', ['--bind', dir, dir]);
  run('mount', ['-o', 'remount,bind,ro', dir]);
  return { [Symbol.dispose]: () => void run('umount', ['-l', dir]) };
}

describe('a store without room', { skip: skipReason() }, () => {
  const work = mkdtempSync(join(tmpdir(), 'berth-disk-'));
  let registry: Registry;
  let reference: string;

  before(async () => {
    registry = await Registry.start();
    const repository = new RawRepository(registry.address, 'room');
    const many = gzipLayer(tarOf(`mkdir many; for i in $(seq 200); do echo $i > many/$i; done`));
    const image = await repository.image([randomLayer(400_000), many, textLayer('end')]);
    await repository.push('1', image.manifest);
    reference = `${registry.address}/room:1`;
  });
  after(async () => {
    await registry?.[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  /** Opens a store in the directory, which stays: it may be a mount. */
  const withStore = async (dir: string, body: (store: ImageStore, host: StoreHost) => Promise<void>): Promise<void> => {
    const host = new StoreHost(dir);
    try {
      await body(await host.open(), host);
    } finally {
      await host.close();
    }
  };
  const isWhole = async (store: ImageStore): Promise<void> => {
    const image = await store.pull(reference);
    const files = describeOverlay(store.lease(image.id, 'look')).filter((line) => line.includes(' type=f '));
    store.release('look');
    assert.equal(files.length, 202);
  };
  const isEmptyAfterCollection = async (host: StoreHost, store: ImageStore): Promise<void> => {
    for (const { id } of store.list()) await store.remove(id);
    await store.collect({ all: true });
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  };
  const about = (text: string): RegExp => new RegExp(`^pull ${reference}: ${text}`);

  /** Pulls with one part of the store on a disk of its own which `fill` fills, then with room. */
  const fillStage = async (part: string, fill: (disk: Disk) => void, message: RegExp): Promise<void> => {
    const dir = mkdtempSync(join(work, 'stage-'));
    mkdirSync(join(dir, 'state'), { mode: 0o700 });
    using disk = new Disk(join(dir, part));
    await withStore(dir, async (store, host) => {
      fill(disk);
      await assert.rejects(store.pull(reference), failsWith('resourceExhausted', message));
      assert.deepEqual(store.list(), []);
      disk.makeRoom();
      await assertSound(store, join(dir, 'state'));
      await isWhole(store);
      await assertSound(store, join(dir, 'state'));
      await isEmptyAfterCollection(host, store);
    });
  };

  test('no room for a blob names the blob', async () => {
    // The layers come side by side, so any of them may be the one for which there is no room left.
    await fillStage('state/content', (disk) => disk.leave(100_000), about('.*blob sha256:\\w+.*(ENOSPC|[Nn]o space left)'));
  });

  test('no room for a document names it too', async () => {
    await fillStage('state/content', (disk) => disk.leave(0), about('.*sha256:.*(ENOSPC|[Nn]o space left)'));
  });

  test('no room for the files of a layer names the layer', async () => {
    await fillStage('state/layers', (disk) => disk.leave(300_000), about('.*sha256:.*(ENOSPC|[Nn]o space left)'));
  });

  test('no inodes for the files of a layer names the layer', async () => {
    await fillStage('state/layers', (disk) => disk.leaveInodes(60), about('.*layer sha256:\\w+.*(ENOSPC|[Nn]o space left)'));
  });

  test('no room for the index of a layer names the layer', async () => {
    await fillStage('state/index', (disk) => disk.leave(0), about('.*sha256:.*(ENOSPC|[Nn]o space left)'));
  });

  /** Pulls once with each of these rooms, and with enough after each; says which rooms were enough. */
  const sweep = async (rooms: readonly number[]): Promise<readonly boolean[]> => {
    const dir = mkdtempSync(join(work, 'sweep-'));
    using disk = new Disk(dir);
    const enough: boolean[] = [];
    await withStore(dir, async (store, host) => {
      for (const room of rooms) {
        disk.leave(room);
        const failure: unknown = await store.pull(reference).then(
          () => undefined,
          (error: unknown) => error,
        );
        disk.makeRoom();
        if (failure !== undefined) {
          failsWith('resourceExhausted', about('.*(ENOSPC|[Nn]o space left|disk is full)'))(failure);
          assert.deepEqual(store.list(), []);
        }
        enough.push(failure === undefined);
        await assertSound(store, join(dir, 'state'));
        await isWhole(store);
        await isEmptyAfterCollection(host, store);
      }
    });
    return enough;
  };
  const steps = (from: number, step: number, count: number): readonly number[] => Array.from({ length: count }, (_none, index) => from + index * step);

  // Documents need a page each, the blobs 400 KB, the layers as much and 200 pages more.
  test('every document is once the one for which there is no room', async () => {
    const enough = await sweep(steps(0, 4096, 6));
    assert.ok(
      enough.every((isEnough) => !isEnough),
      String(enough),
    );
  });

  test('every part of the blobs is once the one for which there is no room', async () => {
    assert.equal((await sweep(steps(48 * 1024, 128 * 1024, 6)))[0], false);
  });

  test('every part of the layers is once the one for which there is no room', async () => {
    const enough = await sweep([...steps(816 * 1024, 128 * 1024, 6), 8 * MiB]);
    assert.equal(enough.at(-1), true, 'the last round had room enough');
  });

  test('a database without room leaves no image, and the next pull succeeds', async () => {
    const dir = mkdtempSync(join(work, 'database-'));
    using database = new Disk(dir);
    using _content = new Disk(join(dir, 'state'));
    await withStore(dir, async (store, host) => {
      database.leave(0);
      await assert.rejects(store.pull(reference), failsWith('resourceExhausted', about('.*write the state database: database or disk is full')));
      assert.deepEqual(store.list(), []);
      assert.deepEqual(store.leases(), []);
      database.makeRoom();
      await assertSound(store, join(dir, 'state'));
      await isWhole(store);
      const [image] = store.list();
      assert.ok(image !== undefined);
      database.leave(0);
      // What uses no room works, and a lease that cannot be recorded is not given.
      const leases = (): unknown => {
        for (let index = 0; index < 10_000; index += 1) store.lease(image.id, `lease${index}`);
        return undefined;
      };
      assert.throws(leases, failsWith('resourceExhausted', /write the state database: database or disk is full$/));
      database.makeRoom();
      for (const lease of store.leases()) store.release(lease);
      await isEmptyAfterCollection(host, store);
    });
  });

  test('a read-only part of the store is said, reading goes on, and nothing has changed', async () => {
    const dir = mkdtempSync(join(work, 'readonly-'));
    await withStore(dir, async (store, host) => {
      for (const part of ['content', 'layers', 'index']) {
        {
          using _held = readOnly(join(dir, 'state', part));
          await assert.rejects(store.pull(reference), failsWith('failedPrecondition', about('.*(EROFS|[Rr]ead-only file system)')), part);
          assert.deepEqual(store.list(), []);
        }
        await isWhole(store);
        await isEmptyAfterCollection(host, store);
      }
      const image = await store.pull(reference);
      {
        using _held = readOnly(join(dir, 'state'));
        assert.equal(store.resolve(reference)?.id, image.id);
        await assertSound(store, join(dir, 'state'));
      }
      await isEmptyAfterCollection(host, store);
    });
  });

  test('a store on a read-only disk opens for reading, and its images can be used', async () => {
    const dir = mkdtempSync(join(work, 'closed-'));
    await withStore(dir, isWhole);
    using _held = readOnly(join(dir, 'state'));
    await withStore(dir, async (store) => {
      const [image] = store.list();
      assert.deepEqual(image?.names, [reference]);
      assert.equal(describeOverlay(store.lease(image.id, 'look')).filter((line) => line.includes(' type=f ')).length, 202);
      store.release('look');
      await assertSound(store, join(dir, 'state'));
    });
  });
});
