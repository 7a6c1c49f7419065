/**
 * Layers for containers in user namespaces: mapped by the kernel where it can, else copied with other owners; and layers that an overlay inside a user
 * namespace can read. Needs root, busybox-static and the helper; runs on every kernel, each of which must do what it can.
 */
import assert from 'node:assert/strict';
import { chownSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Digest, digestOf } from '#oci';
import { type IdMappings, type LayerRecord, type Plan, createTarget, mountAttr, noSlot, userNamespaceSections } from '#plan';
import { SqliteRecords } from '#system';
import { ShiftedLayers } from '../../src/image/shift.io.ts';
import { describeTree, shell } from './image-host.ts';
import { readXattr, removeScratch, runUnpack, skip as driverSkip } from './native-driver.ts';
import { type RuntimeHost, type TestPod, makeSpec, skipReason, startRuntimeHost, writeRoot } from './runtime-host.ts';

const skip = skipReason() === false ? driverSkip : skipReason();
const atLeast = (major: number, minor: number): boolean => {
  const [own = 0, ownMinor = 0] = release().split('.').map(Number);
  return own > major || (own === major && ownMinor >= minor);
};
const mapping = (first: number): IdMappings => ({ uids: [{ containerId: 0, hostId: first, size: 65_536 }], gids: [{ containerId: 0, hostId: first + 100_000, size: 65_536 }] });
const keyOf = (digit: string): Digest => digestOf('sha256', digit.repeat(64));
/** Layers as the store has them: a directory of files of every kind. */
function writeLayer(dir: string): void {
  mkdirSync(dir, { recursive: true });
  shell(
    `mkdir -p d/deep empty; echo one > d/one; ln d/one d/deep/two; ln d/one three; echo web > web; chown 1000:1001 web d; chmod 4755 web; chmod 1777 d
     ln -s ../nowhere d/link; chown -h 5:6 d/link; mkfifo fifo; mknod null c 1 3; mknod gone c 0 0; chown 7:8 fifo null
     truncate -s 5M hole; printf x | dd of=hole bs=1 seek=3000000 conv=notrunc 2>/dev/null; echo far > far; chown 70000:70000 far; chmod 6755 far; chmod 0750 empty
     touch -h -d '2001-02-03 04:05:06.789' d/link d/one empty; touch -d '2002-02-03 04:05:06.5' d .
     i=0; while [ $i -lt 60 ]; do echo $i > d/deep/file$i; ln d/deep/file$i d/deep/other$i; i=$((i+1)); done`,
    dir,
  );
  const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
  const acl = [
    [1, 6, 0xffffffff],
    [2, 4, 1000],
    [4, 4, 0xffffffff],
    [8, 4, 1001],
    [16, 4, 0xffffffff],
    [32, 0, 0xffffffff],
  ].map(([tag = 0, permissions = 0, id = 0]) => Buffer.from(Uint32Array.of(tag | (permissions << 16), id).buffer));
  const attributes = { mode: 0o644, uid: 9, gid: 10, mtimeNs: 1_000_000_000_500_000_000n };
  const records: readonly LayerRecord[] = [
    { op: 'directory', path: 'opaque', ...attributes, mode: 0o755, xattrs: [{ name: 'user.note', value: Buffer.from('hello') }] },
    { op: 'opaque', path: 'opaque' },
    { op: 'file', path: 'capable', ...attributes, size: 0n, xattrs: [{ name: 'security.capability', value: capability }] },
    { op: 'file', path: 'listed', ...attributes, size: 0n, xattrs: [{ name: 'system.posix_acl_access', value: Buffer.concat([Buffer.from([2, 0, 0, 0]), ...acl]) }] },
    { op: 'finish' },
  ];
  assert.equal(runUnpack(dir, records), 'ok 4\n');
  shell(`touch -d '2002-02-03 04:05:06.5' .`, dir);
}

describe('ownership for user namespaces', { skip }, () => {
  let environment: RuntimeHost;
  let pod: TestPod;
  /** By state directory. */
  const records = new Map<string, SqliteRecords>();
  before(async () => {
    environment = await startRuntimeHost('/var/tmp');
    pod = await environment.makePod();
  });
  after(async () => {
    await pod?.[Symbol.asyncDispose]();
    for (const open of records.values()) open[Symbol.dispose]();
    await environment?.[Symbol.asyncDispose]();
    removeScratch();
  });
  const runOnHost = (plan: Plan): Promise<void> => environment.launcher.runOnce(plan);

  /** A mount of `dir` at `place` that shows its owners mapped, as long as `body` runs. */
  async function mapped<T>(dir: string, place: string, mappings: IdMappings, body: () => T): Promise<T> {
    mkdirSync(place, { recursive: true });
    await runOnHost({
      sections: [
        ...userNamespaceSections(mappings, { slot: 64, barrier: 2, origin: '' }),
        {
          actor: 'podNamespaces',
          steps: [
            { kind: 'openTree', dir: noSlot, path: dir, resolve: 0, recursive: 0, out: 65 },
            { kind: 'setMountAttributes', slot: 65, path: '', recursive: 0, set: BigInt(mountAttr.idmap), clear: 0n, propagation: 0n, userNamespace: 64 },
            { kind: 'moveMount', from: 65, root: noSlot, target: place, create: createTarget.none, noLinks: 0 },
          ],
        },
      ],
    });
    try {
      return body();
    } finally {
      shell(`umount ${place}`);
    }
  }

  /** A state directory with layers, on the file system of `stateDir`, and the store of copies for it. */
  async function openShifted(stateDir: string): Promise<ShiftedLayers> {
    mkdirSync(join(stateDir, 'layers'), { recursive: true });
    const known = records.get(stateDir) ?? new SqliteRecords(join(environment.directory, `${basename(stateDir)}-${records.size}.db`));
    records.set(stateDir, known);
    const shifted = new ShiftedLayers({ stateDir, records: known, runOnHost });
    await shifted.open();
    return shifted;
  }

  it('copies a layer to the tree that the kernel shows through a mapped mount, entry by entry', async () => {
    const stateDir = join(environment.directory, 'copy');
    const shifted = await openShifted(stateDir);
    writeLayer(join(stateDir, 'layers/0'));
    const [name] = await shifted.lease('copy', [{ key: keyOf('1'), name: '0' }], mapping(200_000));
    assert.equal(name, '../shifted/0');
    const copy = join(stateDir, 'shifted/0');
    const found = describeTree(copy);
    // An id without a mapping is shown as 65534; the copy has that id, and no set-id bits to act with it.
    const wanted = await mapped(join(stateDir, 'layers/0'), join(stateDir, 'view'), mapping(200_000), () => describeTree(join(stateDir, 'view')));
    const far = (line: string): string => (line.startsWith('far type=') ? line.replace('mode=6755', 'mode=755') : line);
    // Access control lists are compared below: before 6.2 a mapped mount shows them as they are on disk, and heeds them mapped.
    const lists = (lines: readonly string[]): string[] => lines.filter((line) => !line.includes('posix_acl'));
    assert.deepEqual(lists(found), lists(wanted).map(far));
    assert.equal(statSync(join(copy, 'web')).uid, 201_000);
    assert.equal(statSync(join(copy, 'web')).gid, 301_001);
    assert.equal(statSync(join(copy, 'far')).uid, 65_534);
    // Revision 3, for the root of the mapping; an access list that names the mapped ids.
    assert.equal(readXattr(join(copy, 'capable'), 'security.capability'), '0100000300040000000000000000000000000000400d0300');
    assert.match(readXattr(join(copy, 'listed'), 'system.posix_acl_access'), /0200040028110300.*08000400c9970400/);
    assert.equal(statSync(join(copy, 'd/one')).nlink, 3);
    assert.equal(statSync(join(copy, 'd/deep/file7')).ino, statSync(join(copy, 'd/deep/other7')).ino);
    assert.ok(statSync(join(copy, 'hole')).blocks * 512 < 1 << 20, 'holes stay holes');
    assert.equal(statSync(copy, { bigint: true }).mtimeNs, statSync(join(stateDir, 'layers/0'), { bigint: true }).mtimeNs);
    shifted.release('copy');
    await shifted.collect(() => true);
    assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
  });

  it('shares copies between leases with one mapping, and removes them with the last', async () => {
    const stateDir = join(environment.directory, 'share');
    const shifted = await openShifted(stateDir);
    for (const name of ['0', '1']) {
      mkdirSync(join(stateDir, 'layers', name));
      writeFileSync(join(stateDir, 'layers', name, 'file'), name);
    }
    const layers = [
      { key: keyOf('a'), name: '0' },
      { key: keyOf('b'), name: '1' },
    ];
    const [one, two, three] = await Promise.all([
      shifted.lease('one', layers, mapping(200_000)),
      shifted.lease('two', layers, mapping(200_000)),
      shifted.lease('three', layers.slice(0, 1), mapping(400_000)),
    ]);
    assert.deepEqual(one, two);
    assert.notEqual(three?.[0], one?.[0]);
    assert.equal(readdirSync(join(stateDir, 'shifted')).length, 3);
    shifted.release('one');
    await shifted.collect(() => true);
    assert.equal(readdirSync(join(stateDir, 'shifted')).length, 3);
    shifted.release('two');
    // What a dead owner left half-made, and what no lease needs.
    mkdirSync(join(stateDir, 'shifted/9'));
    const again = await openShifted(stateDir);
    assert.equal(readdirSync(join(stateDir, 'shifted')).length, 3);
    await again.collect(() => true);
    assert.deepEqual(readdirSync(join(stateDir, 'shifted')), [three?.[0]?.replace('../shifted/', '')]);
    again.release('three');
    await again.collect(() => true);
    assert.deepEqual(again.list(), []);
  });

  it('leaves nothing behind of a copy that fails, and says which entry it was', async () => {
    const stateDir = join(environment.directory, 'full');
    mkdirSync(stateDir);
    shell(`mount -t tmpfs -o size=2m tmpfs ${stateDir}`);
    try {
      const shifted = await openShifted(stateDir);
      mkdirSync(join(stateDir, 'layers/0/sub'), { recursive: true });
      writeFileSync(join(stateDir, 'layers/0/sub/large'), Buffer.alloc(1_200_000, 1));
      await assert.rejects(shifted.lease('full', [{ key: keyOf('c'), name: '0' }], mapping(200_000)), /copy layer sha256:c+ for other owners: .*sub\/large/);
      assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
      assert.deepEqual(records.get(stateDir)?.list('imageShiftedLease'), []);
      writeFileSync(join(stateDir, 'layers/0/sub/large'), 'small now');
      assert.equal((await shifted.lease('full', [{ key: keyOf('c'), name: '0' }], mapping(200_000))).length, 1);
      shifted.release('full');
      await shifted.collect(() => true);
    } finally {
      shell(`umount ${stateDir}`);
    }
  });

  /** Runs a container over the layers of a state directory; gives what it saw, and the upper directory. */
  async function runOver(place: string, lower: readonly string[], mapLower: boolean, name: string): Promise<{ readonly output: string; readonly upper: string }> {
    const scratch = join(environment.directory, `container-${name}`);
    for (const part of ['upper', 'work', 'mount']) mkdirSync(join(scratch, part), { recursive: true });
    const namespaces = ['user', 'pid', 'network', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type }));
    const { uids, gids } = mapping(200_000);
    const ranges = (list: IdMappings['uids']): unknown[] => list.map(({ containerId, hostId, size }) => ({ containerID: containerId, hostID: hostId, size }));
    const script = `cd /; stat -c '%n %u:%g %a' bin/busybox data/web data/far data; cat top; echo more >> data/web; stat -c '%u:%g' data/web; ls -d /hidden /data/old 2>&1 | sed 's/.*: //'; echo new > made`;
    await using own = await environment.makePod({ namespaces: { net: false, ipc: false, uts: false } });
    const { output } = await own.run(
      name,
      makeSpec(environment.host, { args: ['/bin/sh', '-c', script], namespaces, linux: { uidMappings: ranges(uids), gidMappings: ranges(gids) } }),
      {
        pod: { slots: {} },
        rootfs: {
          kind: 'overlay',
          storeDir: join(place, 'layers'),
          lower,
          upper: join(scratch, 'upper'),
          work: join(scratch, 'work'),
          mountpoint: join(scratch, 'mount'),
          mapLower,
        },
      },
    );
    return { output, upper: join(scratch, 'upper') };
  }

  function writeImage(stateDir: string): readonly { readonly key: Digest; readonly name: string }[] {
    const [base, top] = [join(stateDir, 'layers/0'), join(stateDir, 'layers/1')];
    writeRoot(base);
    symlinkSync('busybox', join(base, 'bin/sed'));
    writeFileSync(join(base, 'data/web'), 'web\n');
    chownSync(join(base, 'data/web'), 1000, 1001);
    writeFileSync(join(base, 'data/far'), 'far\n');
    chownSync(join(base, 'data/far'), 70_000, 70_000);
    writeFileSync(join(base, 'hidden'), 'hidden\n');
    mkdirSync(top);
    writeFileSync(join(top, 'top'), 'top\n');
    shell('mknod hidden c 0 0', top);
    return [
      { key: keyOf('d'), name: '0' },
      { key: keyOf('e'), name: '1' },
    ];
  }
  const seen = 'bin/busybox 0:0 755\ndata/web 1000:1001 644\ndata/far 65534:65534 644\ndata 0:0 755\ntop\n1000:1001\nNo such file or directory\nNo such file or directory\n';
  function checkUpper(upper: string): void {
    assert.deepEqual([statSync(join(upper, 'data/web')).uid, statSync(join(upper, 'data/web')).gid], [201_000, 301_001]);
    assert.deepEqual([statSync(join(upper, 'made')).uid, statSync(join(upper, 'made')).gid], [200_000, 300_000]);
    assert.equal(readFileSync(join(upper, 'data/web'), 'utf8'), 'web\nmore\n');
  }

  it('maps layers without copying where the kernel can', async () => {
    const stateDir = join(environment.directory, 'mapped');
    const shifted = await openShifted(stateDir);
    assert.equal(await shifted.canMap(), true);
    assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
    writeImage(stateDir);
    const { output, upper } = await runOver(stateDir, ['1', '0'], true, 'mapped');
    assert.equal(output, seen);
    checkUpper(upper);
    assert.equal(statSync(join(stateDir, 'layers/0/data/web')).uid, 1000);
    assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
  });

  it('finds by trying that it cannot, and then copies', async () => {
    const place = join(environment.directory, 'cannot');
    mkdirSync(join(place, 'state'), { recursive: true });
    // A file system whose mounts no kernel maps.
    shell(`mount -t ramfs ramfs state`, place);
    const stateDir = join(place, 'state');
    try {
      const shifted = await openShifted(stateDir);
      assert.equal(await shifted.canMap(), false);
      const layers = writeImage(stateDir);
      const names = await shifted.lease('container', [...layers].reverse(), mapping(200_000));
      const { output, upper } = await runOver(stateDir, names, false, 'copied');
      assert.equal(output, seen);
      checkUpper(upper);
      shifted.release('container');
      await shifted.collect(() => true);
      assert.deepEqual(readdirSync(join(stateDir, 'shifted')), []);
    } finally {
      shell(`umount ${stateDir}`);
    }
  });

  it('knows of a file system in memory what its kernel can do there', async () => {
    const stateDir = join(environment.directory, 'memory');
    mkdirSync(stateDir);
    shell(`mount -t tmpfs tmpfs ${stateDir}`);
    try {
      const shifted = await openShifted(stateDir);
      assert.equal(await shifted.canMap(), atLeast(6, 3));
    } finally {
      shell(`umount ${stateDir}`);
    }
  });

  const attributes = { mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };
  /** Unpacks a layer in a style over one with files, mounts both as root of a user namespace that maps nobody else, and lists what is there. */
  function listInUserNamespace(name: string, style: 'user' | 'userFiles'): string {
    const place = join(environment.directory, name);
    for (const part of ['below/kept', 'below/opaque', 'top', 'upper', 'work', 'merged']) mkdirSync(join(place, part), { recursive: true });
    for (const path of ['below/gone', 'below/stays', 'below/kept/gone', 'below/kept/stays', 'below/opaque/old', 'below/again']) writeFileSync(join(place, path), 'x');
    const output = runUnpack(join(place, 'top'), [
      { op: 'style', style },
      { op: 'whiteout', path: 'gone' },
      { op: 'whiteout', path: 'kept/gone' },
      { op: 'directory', path: 'opaque', ...attributes },
      { op: 'opaque', path: 'opaque' },
      { op: 'whiteout', path: 'again' },
      { op: 'directory', path: 'again', ...attributes },
      { op: 'file', path: 'again/new', ...attributes, size: 0n },
      { op: 'finish' },
    ] satisfies LayerRecord[]);
    assert.equal(output, 'ok 7\n');
    const mount = 'mount -t overlay overlay -o lowerdir=top:below,upperdir=upper,workdir=work,userxattr merged && cd merged && find . | sort';
    return shell(`unshare --user --map-root-user --mount sh -ec '${mount}'`, place);
  }

  it('marks a layer so that an overlay in a user namespace reads it', () => {
    assert.equal(listInUserNamespace('style-user', 'user'), ['.', './again', './again/new', './kept', './kept/stays', './opaque', './stays', ''].join('\n'));
  });

  it('marks whiteouts as files where devices cannot be made, for kernels that read them', () => {
    const listed = listInUserNamespace('style-files', 'userFiles').split('\n');
    assert.equal(listed.includes('./gone'), !atLeast(6, 8));
    assert.equal(listed.includes('./kept/gone'), !atLeast(6, 8));
    assert.ok(!listed.includes('./opaque/old') && listed.includes('./kept/stays') && listed.includes('./again/new'));
    const top = join(environment.directory, 'style-files/top');
    assert.ok(statSync(join(top, 'gone')).isFile() && statSync(join(top, 'gone')).size === 0);
    assert.ok(existsSync(join(top, 'again/new')));
    rmSync(join(environment.directory, 'style-files'), { recursive: true });
  });
});
