/**
 * How a user namespace maps ids, by the file of the namespace. In: its path, /proc. Out: ranges. The kernel tells the mapping of a process's namespace only, so a process in it is looked for.
 */
import { readFile, readdir, stat } from 'node:fs/promises';
import { wrapError } from '#core';
import { type IdMapping, type IdMappings } from '#plan';

/** The lines of `/proc/<pid>/uid_map`; user_namespaces(7). Lines that are no range are passed over. */
export function decodeIdMap(text: string): readonly IdMapping[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*(\d+)\s+(\d+)\s+(\d+)\s*$/.exec(line);
    return match === null ? [] : [{ containerId: Number(match[1]), hostId: Number(match[2]), size: Number(match[3]) }];
  });
}

async function readMaps(process: string): Promise<IdMappings> {
  const [uids, gids] = await Promise.all([readFile(`/proc/${process}/uid_map`, 'utf8'), readFile(`/proc/${process}/gid_map`, 'utf8')]);
  return { uids: decodeIdMap(uids), gids: decodeIdMap(gids) };
}

/** The mapping of the user namespace of this file; undefined where no process that can be seen is in it. Throws where the path leads nowhere. */
export async function readIdMappings(path: string): Promise<IdMappings | undefined> {
  const wanted = await stat(path).catch((cause: unknown) => {
    throw wrapError(`read ${path}`, cause);
  });
  const owner = /^\/proc\/(\d+|self)\/ns\/user$/.exec(path)?.[1];
  for (const process of owner === undefined ? (await readdir('/proc')).filter((name) => /^\d+$/.test(name)) : [owner]) {
    const found = await stat(`/proc/${process}/ns/user`).catch(() => undefined);
    if (found === undefined || found.ino !== wanted.ino || found.dev !== wanted.dev) continue;
    const maps = await readMaps(process).catch(() => undefined);
    if (maps !== undefined) return maps;
  }
  return undefined;
}
