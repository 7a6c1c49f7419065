/** Directories of volumes in a temporary directory. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { VolumePlan } from './plan-types.ts';
import { createVolumes } from './volumes.io.ts';

async function withDirectories(body: (at: { readonly root: string; readonly pods: string; readonly volumes: ReturnType<typeof createVolumes> }) => Promise<void>): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'berth-volumes-'));
  try {
    const pods = join(root, 'pods');
    await body({ root, pods, volumes: createVolumes({ podsDirectory: pods, memoryPodsDirectory: join(root, 'memory') }) });
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

const emptyDir = (pods: string): VolumePlan => ({ kind: 'emptyDir', name: 'data', path: `${pods}/u1/volumes/data`, medium: 'disk' });
const modeOf = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;

test('an emptyDir is writable for everyone below a directory that only its owner enters', async () => {
  await withDirectories(async ({ pods, volumes }) => {
    await volumes.create('u1', [emptyDir(pods)]);
    assert.equal(await modeOf(`${pods}/u1/volumes/data`), 0o777);
    assert.equal(await modeOf(`${pods}/u1`), 0o700);
    assert.ok((await stat(`${pods}/u1/logs`)).isDirectory());
    await volumes.remove('u1');
    assert.deepEqual(await readdir(pods), []);
    await volumes.remove('u1');
  });
});

test('a configMap volume has its files with their modes, also below directories', async () => {
  await withDirectories(async ({ pods, volumes }) => {
    const path = `${pods}/u1/volumes/conf`;
    await volumes.create('u1', [
      {
        kind: 'configMap',
        name: 'conf',
        path,
        files: [
          { path: 'a/b/c', mode: 0o640, content: Buffer.from('C') },
          { path: 'd', mode: 0o444, content: Buffer.from('D') },
        ],
      },
    ]);
    assert.equal(await readFile(`${path}/a/b/c`, 'utf8'), 'C');
    assert.equal(await modeOf(`${path}/a/b/c`), 0o640);
    assert.equal(await modeOf(`${path}/a`), 0o755);
    assert.equal(await modeOf(`${path}/d`), 0o444);
  });
});

test('host paths are checked against their type', async () => {
  await withDirectories(async ({ root, volumes }) => {
    const file = join(root, 'file');
    await writeFile(file, '');
    const hostPath = (path: string, type: Extract<VolumePlan, { kind: 'hostPath' }>['type']): VolumePlan => ({ kind: 'hostPath', name: 'v', path, type });
    for (const type of ['Directory', 'Socket', 'CharDevice', 'BlockDevice', 'DirectoryOrCreate'] as const) {
      const message = `prepare volume v: ${file}: is no ${type === 'DirectoryOrCreate' ? 'Directory' : type}`;
      await assert.rejects(volumes.create('u1', [hostPath(file, type)]), { code: 'failedPrecondition', message });
    }
    await assert.rejects(volumes.create('u1', [hostPath(join(root, 'absent'), '')]), { code: 'notFound', message: /^prepare volume v: ENOENT: no such file or directory, stat/ });
    await volumes.create('u1', [
      hostPath(file, 'File'),
      hostPath(file, 'FileOrCreate'),
      hostPath(join(root, 'new-file'), 'FileOrCreate'),
      hostPath(join(root, 'new/dir'), 'DirectoryOrCreate'),
      hostPath('/dev/null', 'CharDevice'),
    ]);
    assert.ok((await stat(join(root, 'new-file'))).isFile());
    assert.ok((await stat(join(root, 'new/dir'))).isDirectory());
  });
});

test("a create that fails leaves no directory, and one for a uid in use leaves the other pod's", async () => {
  await withDirectories(async ({ root, pods, volumes }) => {
    await assert.rejects(volumes.create('u1', [emptyDir(pods), { kind: 'hostPath', name: 'v', path: join(root, 'absent'), type: 'Directory' }]), { code: 'notFound' });
    assert.deepEqual(await readdir(pods), []);
    await volumes.create('u1', [emptyDir(pods)]);
    await assert.rejects(volumes.create('u1', []), { code: 'alreadyExists', message: `make ${pods}/u1: the pod uid u1 is in use` });
    assert.ok((await stat(`${pods}/u1/volumes/data`)).isDirectory());
  });
});

test('removal follows no link, takes names that are no UTF-8, and reaches what is nested too deep for a path', async () => {
  await withDirectories(async ({ root, pods, volumes }) => {
    await volumes.create('u1', [emptyDir(pods)]);
    const data = `${pods}/u1/volumes/data`;
    const outside = join(root, 'outside');
    await mkdir(outside);
    await writeFile(join(outside, 'keep'), 'kept');
    await symlink(outside, `${data}/link`);
    await writeFile(Buffer.concat([Buffer.from(`${data}/bad-`), Buffer.from([0xff, 0xfe])]), '');
    const before = process.cwd();
    try {
      process.chdir(data);
      for (let depth = 0; depth < 60; depth += 1) {
        const name = 'd'.repeat(200);
        await mkdir(name);
        process.chdir(name);
      }
    } finally {
      process.chdir(before);
    }
    await volumes.remove('u1');
    assert.deepEqual(await readdir(pods), []);
    assert.equal(await readFile(join(outside, 'keep'), 'utf8'), 'kept');
  });
});

test('a uid that is no path component never reaches the disk', async () => {
  await withDirectories(async ({ volumes }) => {
    await assert.rejects(volumes.remove('../x'), { code: 'internal', message: 'bug: pod uid "../x" is no path component' });
  });
});

test('sweep removes the directories of dead makers whose pods are gone, and no others', async () => {
  await withDirectories(async ({ pods, volumes }) => {
    await volumes.create('mine', []);
    for (const uid of ['dead', 'live']) {
      await volumes.create(uid, []);
      await writeFile(`${pods}/${uid}/owner.json`, JSON.stringify({ bootId: 'another', pid: '1', startTime: '0' }));
    }
    await mkdir(`${pods}/being-made`);
    assert.deepEqual(await volumes.sweep(new Set(['live'])), ['dead']);
    assert.deepEqual((await readdir(pods)).toSorted(), ['being-made', 'live', 'mine']);
  });
});

test('medium Memory is refused where the directory is not on a tmpfs', async () => {
  await withDirectories(async ({ root, volumes }) => {
    const path = join(root, 'memory/u1/volumes/fast');
    const isTmpfs = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').some((line) => line.includes(' - tmpfs ') && line.split(' ')[4] === tmpdir());
    const create = volumes.create('u1', [{ kind: 'emptyDir', name: 'fast', path, medium: 'memory' }]);
    if (isTmpfs) await create;
    else await assert.rejects(create, { code: 'failedPrecondition', message: `prepare volume fast: medium Memory: ${join(root, 'memory')} is not on a tmpfs` });
  });
});
