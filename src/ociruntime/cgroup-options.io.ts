/**
 * The options of the host's cgroup2 tree, which are of the whole host: whoever mounts it anew, as criu(8) does for itself, sets them anew. In: the mounts of this process. Out: the options, and a
 * plan that gives them back. Source: cgroup-v2.rst, "Mounting"; an option such as nsdelegate is only changed by a mount in the first cgroup namespace.
 */
import { readFileSync } from 'node:fs';
import { type Plan, ms } from '#plan';
import { type MountInfo, decodeMountInfo } from '#system';

const flagsByWord: Readonly<Record<string, number>> = {
  ro: ms.readOnly,
  nosuid: ms.noSuid,
  nodev: ms.noDev,
  noexec: ms.noExec,
  relatime: ms.relatime,
  noatime: 0x400,
  nodiratime: 0x800,
};

/** The mount of the tree's root; undefined on a host without one. */
export function readUnifiedMount(): MountInfo | undefined {
  return decodeMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).find(({ type, root }) => type === 'cgroup2' && root === '/');
}

const wordsOf = ({ superOptions }: MountInfo): readonly string[] => superOptions.filter((word) => word !== 'rw' && word !== 'ro' && word !== '');

/** Gives the tree the options that it had; no section where it has them. Pure. */
export function planUnifiedOptions(before: MountInfo | undefined, now: MountInfo | undefined): Plan {
  if (before === undefined || now === undefined || before.mountpoint !== now.mountpoint || wordsOf(before).join() === wordsOf(now).join()) return { sections: [] };
  const flags = before.options.reduce<number>((sum, word) => sum | (flagsByWord[word] ?? 0), ms.remount);
  return { sections: [{ actor: 'host', steps: [{ kind: 'mount', cwd: '', source: '', target: before.mountpoint, type: '', flags, data: wordsOf(before).join() }] }] };
}

/** Runs what mounts that tree, and gives it its options back whatever came of it. */
export async function keepUnifiedOptions<T>(run: (plan: Plan) => Promise<void>, does: () => Promise<T>): Promise<T> {
  const before = readUnifiedMount();
  try {
    return await does();
  } finally {
    await run(planUnifiedOptions(before, readUnifiedMount()));
  }
}
