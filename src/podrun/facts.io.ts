/** Facts of this host that planning a pod needs. In: the engine's directories. Out: HostFacts. */
import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { parseResolvConf } from './resolv.ts';
import type { HostFacts } from './plan-types.ts';

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

/** The facts now. A missing resolv.conf counts as empty. */
export async function readHostFacts(location: { readonly rootDirectory: string; readonly runDirectory: string }): Promise<HostFacts> {
  const resolvConf = await readFile('/etc/resolv.conf', 'utf8').catch(() => '');
  return { memoryBytes: BigInt(totalmem()), dns: parseResolvConf(resolvConf), ...podrunDirectories(location) };
}
