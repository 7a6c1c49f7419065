/**
 * The host side of volumes and of a pod's log directory.
 * In: volume plans and a pod's uid. Out: directories below the two pods' directories, named by uid; checked host paths.
 * It mounts nothing, and never removes anything outside of `<pods directory>/<uid>`.
 */
import { chmod, mkdir, open, opendir, readFile, readdir, rename, rmdir, stat, statfs, unlink, writeFile } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { RuntimeError, assert, errnoName, isSafeId, wrapError } from '#core';
import type { HostPathType } from './manifest-types.ts';
import type { HostFacts, VolumePlan } from './plan-types.ts';
import type { VolumePort } from './runner-types.ts';

type Directories = Pick<HostFacts, 'podsDirectory' | 'memoryPodsDirectory'>;

/** TMPFS_MAGIC of linux/magic.h. */
const tmpfsMagic = 0x0102_1994;
const ownerFile = 'owner.json';
/** A directory without an owner file is being made by someone; it counts as left behind only after this time. */
const newDirectoryMs = 60_000;
/** Far enough below PATH_MAX that a name still fits behind it. */
const pathBytesBeforeMove = 2048;

function directoryOf(base: string, podUid: string): string {
  assert(isSafeId(podUid), `pod uid ${JSON.stringify(podUid.slice(0, 140))} is no path component`);
  return `${base}/${podUid}`;
}

/** Who made a directory: enough to know later whether that process is gone. */
async function readOwner(pid: number | 'self'): Promise<string> {
  const [bootId, processStat] = await Promise.all([readFile('/proc/sys/kernel/random/boot_id', 'utf8'), readFile(`/proc/${pid}/stat`, 'utf8')]);
  // Field 22 of proc_pid_stat(5) is the start time; the command in field 2 may hold spaces and brackets.
  const startTime = processStat.slice(processStat.lastIndexOf(')') + 2).split(' ')[19];
  return JSON.stringify({ bootId: bootId.trim(), pid: processStat.split(' ')[0], startTime });
}

async function isOwned(directory: string): Promise<boolean> {
  const recorded = await readFile(`${directory}/${ownerFile}`, 'utf8').catch(() => undefined);
  if (recorded === undefined) {
    const made = await stat(directory).catch(() => undefined);
    return made !== undefined && Date.now() - made.mtimeMs < newDirectoryMs;
  }
  const pid = /"pid":"(\d{1,10})"/.exec(recorded)?.[1];
  if (pid === undefined) return false;
  return (await readOwner(Number(pid)).catch(() => undefined)) === recorded;
}

/** Removes a tree without following links. Paths are bytes, as names in a volume need not be UTF-8. */
async function removeTree(path: Buffer, moveTo: (from: Buffer) => Promise<Buffer>): Promise<void> {
  let directory;
  try {
    // SAFETY: Node takes `buffer` here as readdir does; only its types leave it out.
    directory = await opendir(path, { encoding: 'buffer' as BufferEncoding });
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return;
    throw error;
  }
  for await (const entry of directory) {
    // SAFETY: with the encoding `buffer` names are Buffers, which the types of Dirent do not say.
    const child = Buffer.concat([path, Buffer.from('/'), entry.name as unknown as Buffer]);
    if (!entry.isDirectory()) await unlink(child);
    // A container can nest directories deeper than any path can name; from a place near the top they can be reached again.
    else await removeTree(child.length > pathBytesBeforeMove ? await moveTo(child) : child, moveTo);
  }
  await rmdir(path);
}

/** Removes `base/<uid>`. Refuses while something is mounted below it: removal would empty the mounted file system. */
async function removePodDirectory(base: string, podUid: string): Promise<void> {
  const directory = directoryOf(base, podUid);
  const mountinfo = await readFile('/proc/self/mountinfo', 'utf8');
  const mounted = mountinfo
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .find((point) => point === directory || point.startsWith(`${directory}/`));
  if (mounted !== undefined) throw new RuntimeError('failedPrecondition', `remove ${directory}: ${mounted} is still mounted; unmount it first`);
  let moved = 0;
  await removeTree(Buffer.from(directory), async (from) => {
    moved += 1;
    const near = Buffer.from(`${directory}/moved-${moved}`);
    await rename(from, near);
    return near;
  });
}

const matches: Readonly<Record<Exclude<HostPathType, '' | 'DirectoryOrCreate' | 'FileOrCreate'>, (stats: Stats) => boolean>> = {
  Directory: (stats) => stats.isDirectory(),
  File: (stats) => stats.isFile(),
  Socket: (stats) => stats.isSocket(),
  CharDevice: (stats) => stats.isCharacterDevice(),
  BlockDevice: (stats) => stats.isBlockDevice(),
};

/** Source: Kubernetes, "hostPath volume types". The parent of a file is not made. */
async function prepareHostPath({ name, path, type }: Extract<VolumePlan, { kind: 'hostPath' }>): Promise<void> {
  try {
    if (type === 'DirectoryOrCreate') await mkdir(path, { recursive: true, mode: 0o755 });
    if (type === 'FileOrCreate') await (await open(path, 'wx', 0o644)).close();
  } catch (error) {
    if (errnoName(error) !== 'EEXIST') throw wrapError(`prepare volume ${name}`, error);
  }
  let stats;
  try {
    stats = await stat(path);
  } catch (error) {
    throw wrapError(`prepare volume ${name}`, error);
  }
  const wanted = type === '' ? undefined : type === 'DirectoryOrCreate' ? 'Directory' : type === 'FileOrCreate' ? 'File' : type;
  if (wanted !== undefined && !matches[wanted](stats)) throw new RuntimeError('failedPrecondition', `prepare volume ${name}: ${path}: is no ${wanted}`);
}

async function prepareEmptyDir({ name, path, medium }: Extract<VolumePlan, { kind: 'emptyDir' }>, directories: Directories): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  if (medium === 'memory' && (await statfs(path)).type !== tmpfsMagic)
    throw new RuntimeError('failedPrecondition', `prepare volume ${name}: medium Memory: ${directories.memoryPodsDirectory} is not on a tmpfs`);
  // Any user of any container may write, as in Kubernetes; the umask must not narrow it.
  await chmod(path, 0o777);
}

async function prepareConfigMap({ path, files }: Extract<VolumePlan, { kind: 'configMap' }>): Promise<void> {
  const makeDirectory = async (directory: string): Promise<void> => {
    await mkdir(directory, { recursive: true, mode: 0o755 });
    await chmod(directory, 0o755);
  };
  await makeDirectory(path);
  for (const file of files) {
    const parents = file.path.split('/').slice(0, -1);
    for (const [index] of parents.entries()) await makeDirectory(`${path}/${parents.slice(0, index + 1).join('/')}`);
    await writeFile(`${path}/${file.path}`, file.content, { flag: 'wx', mode: file.mode });
    await chmod(`${path}/${file.path}`, file.mode);
  }
}

async function prepare(volume: VolumePlan, directories: Directories): Promise<void> {
  switch (volume.kind) {
    case 'hostPath':
      return prepareHostPath(volume);
    case 'emptyDir':
      return prepareEmptyDir(volume, directories);
    case 'configMap':
      return prepareConfigMap(volume);
  }
}

/** Names in a directory; none where it is absent. */
async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Volumes below the given directories, which are made with mode 0700 where missing. */
export function createVolumes(directories: Directories): VolumePort {
  const bases = [directories.podsDirectory, directories.memoryPodsDirectory];
  const remove = async (podUid: string): Promise<void> => {
    for (const base of bases) await removePodDirectory(base, podUid);
  };
  return {
    remove,
    create: async (podUid, volumes, signal) => {
      const directory = directoryOf(directories.podsDirectory, podUid);
      await mkdir(directories.podsDirectory, { recursive: true, mode: 0o700 });
      try {
        await mkdir(directory, { mode: 0o700 });
      } catch (error) {
        throw errnoName(error) === 'EEXIST'
          ? new RuntimeError('alreadyExists', `make ${directory}: the pod uid ${podUid} is in use`, { cause: error })
          : wrapError(`prepare volumes of pod ${podUid}`, error);
      }
      try {
        await writeFile(`${directory}/${ownerFile}`, await readOwner('self'), { flag: 'wx', mode: 0o600 });
        await mkdir(`${directory}/logs`, { mode: 0o700 });
        for (const volume of volumes) {
          signal?.throwIfAborted();
          await prepare(volume, directories);
        }
      } catch (error) {
        await remove(podUid);
        throw error;
      }
    },
    sweep: async (livePodUids) => {
      const found = new Set((await Promise.all(bases.map(namesIn))).flat());
      const swept: string[] = [];
      for (const podUid of found) {
        if (!isSafeId(podUid) || livePodUids.has(podUid) || (await isOwned(directoryOf(directories.podsDirectory, podUid)))) continue;
        await remove(podUid);
        swept.push(podUid);
      }
      return swept;
    },
  };
}
