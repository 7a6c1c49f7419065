/**
 * The image store for containers in user namespaces: an image is stored once, leased with a mapping, and run; its layers are mapped or copied, as the
 * store's file system allows; and stores whose layers an overlay in a user namespace can read. Needs root, busybox-static, the helper.
 */
import assert from 'node:assert/strict';
import { chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import type { ImageLayers, ImageStore, ImageStoreOptions } from '#image';
import type { IdMappings } from '#plan';
import { Layout, StoreHost, shell, skipReason as storeSkip, tarOf } from './image-host.ts';
import { type RuntimeHost, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const readsFileWhiteouts = ((): boolean => {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 8);
})();
const mappings = (first: number): IdMappings => ({ uids: [{ containerId: 0, hostId: first, size: 65_536 }], gids: [{ containerId: 0, hostId: first, size: 65_536 }] });

describe('the image store for user namespaces', { skip: storeSkip() === false ? skipReason() : storeSkip() }, () => {
  let environment: RuntimeHost;
  let layout: Layout;
  /** Mounts to take away after each test. */
  const mounted: string[] = [];
  const hosts: StoreHost[] = [];
  before(async () => {
    environment = await startRuntimeHost('/var/tmp');
    const root = join(environment.directory, 'image-root');
    mkdirSync(root);
    writeRoot(root);
    for (const name of ['data/gone', 'data/old']) writeFileSync(join(root, name), 'x');
    mkdirSync(join(root, 'data/sub'));
    writeFileSync(join(root, 'data/sub/hidden'), 'x');
    chownSync(join(root, 'data/old'), 1000, 1001);
    layout = new Layout(join(environment.directory, 'layout'));
    layout.add(
      layout.manifest({
        layers: [
          tarOf(`cp -a ${root}/. .`),
          tarOf('mkdir -p data/sub; touch data/.wh.gone data/sub/.wh..wh..opq; echo new > data/new; chown 5:6 data/new', 'data/.wh.gone data/sub/.wh..wh..opq data/new'),
        ],
      }),
      'example.com/tree:1',
    );
  });
  after(async () => {
    await environment?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    for (const host of hosts) await host.close();
    for (const place of mounted.splice(0)) shell(`umount ${place}`);
    for (const { dir } of hosts.splice(0)) rmSync(dir, { recursive: true });
  });

  /** A store whose state is on a file system of this type, empty: the ordinary one. */
  async function openStore(type: string, options: Partial<ImageStoreOptions> = {}): Promise<{ readonly store: ImageStore; readonly host: StoreHost; readonly stateDir: string }> {
    const host = new StoreHost(mkdtempSync(join(environment.directory, 'store-')));
    hosts.push(host);
    const stateDir = join(host.dir, 'state');
    mkdirSync(stateDir);
    if (type === 'overlay') {
      for (const name of ['below', 'upper', 'work']) mkdirSync(join(host.dir, name));
      shell('mount -t overlay overlay -o lowerdir=below,upperdir=upper,workdir=work state', host.dir);
    } else if (type !== '') shell(`mount -t ${type} ${type} ${stateDir}`);
    if (type !== '') mounted.push(stateDir);
    return { store: await host.open(options), host, stateDir };
  }

  const script = `cd /data; ls; stat -c '%n %u:%g' old new sub /bin/busybox; ls sub | wc -l; echo more >> new; touch made; cat /proc/self/uid_map`;
  const seen = (first: number): string => `new\nold\nsub\nold 1000:1001\nnew 5:6\nsub 0:0\n/bin/busybox 0:0\n0\n         0 ${String(first).padStart(10)}      65536\n`;

  /** Runs a container over leased layers; gives its output, and checks who owns what it wrote. */
  async function runOver(layers: ImageLayers & { readonly mapLower: boolean }, first: number): Promise<string> {
    const scratch = mkdtempSync(join(environment.directory, 'container-'));
    for (const part of ['upper', 'work', 'mount']) mkdirSync(join(scratch, part));
    const namespaces = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }));
    const ranges = [{ containerID: 0, hostID: first, size: 65_536 }];
    await using pod = await environment.makePod({ namespaces: { net: false, ipc: false, uts: false } });
    const { output } = await pod.run('c', makeSpec(environment.host, { args: ['/bin/sh', '-c', script], namespaces, linux: { uidMappings: ranges, gidMappings: ranges } }), {
      pod: { slots: {} },
      rootfs: { kind: 'overlay', upper: join(scratch, 'upper'), work: join(scratch, 'work'), mountpoint: join(scratch, 'mount'), ...layers },
    });
    assert.deepEqual([statSync(join(scratch, 'upper/data/new')).uid, statSync(join(scratch, 'upper/data/made')).uid], [first + 5, first]);
    return output;
  }

  it('leases layers that the kernel maps, and copies nothing', async () => {
    const { store, stateDir } = await openStore('');
    const [image] = await store.importImages(layout.dir);
    const layers = await store.leaseMapped(image?.id ?? '', 'mapped', mappings(200_000));
    assert.equal(layers.mapLower, true);
    assert.deepEqual(layers.lower, store.lease(image?.id ?? '', 'plain').lower);
    assert.equal(await runOver(layers, 200_000), seen(200_000));
    assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
    await assert.rejects(store.leaseMapped('missing', 'x', mappings(200_000)), { code: 'notFound' });
    assert.deepEqual([...store.leases()].sort(), ['mapped', 'plain']);
  });

  it('leases copies where the file system cannot be mapped, one for all containers with a mapping', async () => {
    const { store, host, stateDir } = await openStore('ramfs');
    const plain = new Layout(join(host.dir, 'layout'));
    plain.add(
      plain.manifest({
        layers: [
          tarOf(
            `mkdir -p data/sub bin dev proc sys tmp; cp /bin/busybox bin; for a in sh ls stat wc cat touch; do ln -s busybox bin/$a; done; echo > data/old; echo > data/new; chown 1000:1001 data/old; chown 5:6 data/new`,
          ),
        ],
      }),
      'example.com/flat:1',
    );
    const [image] = await store.importImages(plain.dir);
    const id = image?.id ?? '';
    const layers = await store.leaseMapped(id, 'one', mappings(200_000));
    assert.equal(layers.mapLower, false);
    assert.deepEqual(await store.leaseMapped(id, 'two', mappings(200_000)), layers);
    assert.notDeepEqual(await store.leaseMapped(id, 'three', mappings(300_000)), layers);
    assert.equal(await runOver(layers, 200_000), seen(200_000));
    const copies = (): number => readdirSync(join(stateDir, 'shifted')).length;
    assert.equal(copies(), 2);
    store.release('one');
    await store.remove(id);
    // The image is gone, its layers and their copies serve the leases that are left.
    assert.equal(await runOver(layers, 200_000), seen(200_000));
    store.release('two');
    await store.collect();
    assert.equal(copies(), 1);
    store.release('three');
    await store.collect();
    assert.deepEqual([copies(), host.contents()], [0, { blobs: 0, layers: 0 }]);
  });

  it('unpacks for overlays in user namespaces, and is then never opened for others', async () => {
    const { store, host } = await openStore('', { overlayAttributes: 'user' });
    const [image] = await store.importImages(layout.dir);
    const layers = await store.leaseMapped(image?.id ?? '', 'user', mappings(200_000));
    assert.equal(layers.userAttributes, true);
    assert.equal(await runOver(layers, 200_000), seen(200_000));
    // As a user who is root in a namespace of his own alone, without any right over the host.
    const scratch = mkdtempSync(join(environment.directory, 'unprivileged-'));
    for (const part of ['upper', 'work', 'merged']) mkdirSync(join(scratch, part));
    const mount = `mount -t overlay overlay -o lowerdir=${layers.lower.join(':')},upperdir=${scratch}/upper,workdir=${scratch}/work,userxattr ${scratch}/merged; ls ${scratch}/merged/data ${scratch}/merged/data/sub | tr '\\n' ' '`;
    assert.equal(
      shell(`unshare --user --map-root-user --mount sh -ec ${JSON.stringify(mount)}`, layers.storeDir),
      `${scratch}/merged/data: new old sub  ${scratch}/merged/data/sub: `,
    );
    const report = await store.verify({});
    assert.deepEqual(
      report.images.flatMap(({ problems }) => problems),
      [],
    );
    await host.close();
    await assert.rejects(host.open(), {
      code: 'failedPrecondition',
      message: /open image store .*: its layers are marked by "user" attributes and cannot be used with trusted ones/,
    });
    await host.close();
    const again = await host.open({ overlayAttributes: 'user' });
    assert.equal(again.list().length, 1);
  });

  it('marks whiteouts as files where no device can be made, or says that this kernel reads none', async () => {
    const { store, stateDir } = await openStore('overlay', { overlayAttributes: 'user' });
    if (!readsFileWhiteouts) {
      await assert.rejects(store.importImages(layout.dir), { code: 'failedPrecondition', message: /it takes no whiteouts as devices, and this kernel reads no other ones/ });
      assert.deepEqual([readdirSync(join(stateDir, 'layers')), readdirSync(join(stateDir, 'unpack'))], [[], []]);
      return;
    }
    const [image] = await store.importImages(layout.dir);
    const layers = await store.leaseMapped(image?.id ?? '', 'files', mappings(200_000));
    assert.equal(layers.mapLower, false);
    assert.ok(statSync(join(stateDir, 'layers', store.lease(image?.id ?? '', 'files').lower[0] ?? '', 'data/gone')).isFile());
    assert.equal(await runOver(layers, 200_000), seen(200_000));
    assert.deepEqual(
      (await store.verify({})).images.flatMap(({ problems }) => problems),
      [],
    );
  });
});
