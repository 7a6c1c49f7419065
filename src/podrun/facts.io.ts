/** Facts of this host that planning a pod needs. In: the engine's directories. Out: HostFacts. */
import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { parseResolvConf } from './resolv.ts';
import type { HostFacts } from './plan-types.ts';
import { parseSubordinateIds } from './user-range.ts';

/** Directories of podrun below those of an engine. */
export function podrunDirectories({
  rootDirectory,
  runDirectory,
}: {
  readonly rootDirectory: string;
  readonly runDirectory: string;
}): Pick<HostFacts, 'podsDirectory' | 'memoryPodsDirectory' | 'seccompDirectory'> {
  return { podsDirectory: `${rootDirectory}/podrun`, memoryPodsDirectory: `${runDirectory}/podrun`, seccompDirectory: `${rootDirectory}/seccomp` };
}

const readIfThere = async (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

/** The facts now. A file that is missing counts as empty. */
export async function readHostFacts(location: { readonly rootDirectory: string; readonly runDirectory: string }): Promise<HostFacts> {
  const [resolvConf, ...lent] = await Promise.all(['/etc/resolv.conf', '/etc/subuid', '/etc/subgid'].map(readIfThere));
  return { memoryBytes: BigInt(totalmem()), dns: parseResolvConf(resolvConf ?? ''), ...podrunDirectories(location), subordinateIds: lent.flatMap(parseSubordinateIds) };
}
