/** Device nodes of the host, read for privileged containers and for devices that a request names. */
import { lstat, readdir, realpath } from 'node:fs/promises';
import { errnoName, invalidArgument, wrapError } from '#core';

/** A device node as it is on the host. `mode` holds the permission bits only. */
export interface DeviceNode {
  readonly path: string;
  readonly type: 'c' | 'b' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Directories of /dev that hold no devices of the machine but of a session. */
const passedOver = new Set(['/dev/pts', '/dev/shm', '/dev/fd', '/dev/mqueue', '/dev/.lxc', '/dev/console']);

/**
 * The device at `path`, or every device below it when it is a directory (links inside are passed over). Sorted by path.
 * Throws notFound when there is nothing, invalidArgument when it is neither a device nor a directory.
 */
export async function readDevices(path: string): Promise<readonly DeviceNode[]> {
  const target = await realpath(path).catch((error: unknown) => {
    throw wrapError(`read device ${path}`, error);
  });
  const own = await readNode(target, path);
  if (own !== undefined) return [own];
  if (!(await lstat(target)).isDirectory()) throw invalidArgument('', `device ${path}: is not a device node`);
  const nodes: DeviceNode[] = [];
  await collect(target, nodes);
  // Below the path that was asked for, also where that is a link to the directory.
  return nodes.map((node) => ({ ...node, path: path.replace(/\/+$/, '') + node.path.slice(target.length) })).toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

async function collect(directory: string, nodes: DeviceNode[]): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = `${directory}/${entry.name}`;
    if (passedOver.has(path)) continue;
    if (entry.isDirectory()) await collect(path, nodes);
    else if (entry.isCharacterDevice() || entry.isBlockDevice()) {
      // One that goes away meanwhile, as loop devices and terminals do, is not there to be given.
      const node = await readNode(path, path).catch((error: unknown) => {
        if (errnoName(error) === 'ENOENT') return undefined;
        throw error;
      });
      if (node !== undefined) nodes.push(node);
    }
  }
}

/** Device numbers by the kernel's 64-bit encoding (gnu_dev_major, gnu_dev_minor). */
async function readNode(target: string, path: string): Promise<DeviceNode | undefined> {
  const found = await lstat(target, { bigint: true });
  const type = found.isCharacterDevice() ? 'c' : found.isBlockDevice() ? 'b' : found.isFIFO() ? 'p' : undefined;
  if (type === undefined) return undefined;
  const major = Number(((found.rdev >> 8n) & 0xfffn) | ((found.rdev >> 32n) & 0xfffff000n));
  const minor = Number((found.rdev & 0xffn) | ((found.rdev >> 12n) & 0xffffff00n));
  return { path, type, major, minor, mode: Number(found.mode & 0o7777n), uid: Number(found.uid), gid: Number(found.gid) };
}
