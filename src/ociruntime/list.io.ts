/** `list` and `ps`. In: state directories, control groups, ps(1). Out: text for the caller. */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { RuntimeError, errnoName, errorMessage, limits } from '#core';
import { type CgroupPlacement, statsGroups } from '#runtime';
import { type CgroupFacts, readHostFacts } from '#system';
import { type ListedContainer, encodeContainers, formatContainers, formatIds, selectProcesses } from './list.ts';
import type { ListOptions, Operation, PsOptions } from './options.ts';
import { listContainerIds, readRecord, readStatus } from './state-directory.io.ts';
import { stateFiles } from './record.ts';
import { runTool } from './tool.io.ts';
import type { OciContext, Outcome } from './types.ts';

const done: Outcome = { kind: 'exit', code: 0 };

/** Name of a user as the host's own files have it; `#` and the number where they do not. */
function nameUser(userId: number): string {
  if (userId === 0) return 'root';
  try {
    const line = readFileSync('/etc/passwd', 'latin1')
      .split('\n')
      .find((text) => text.split(':')[2] === String(userId));
    return line?.split(':')[0] ?? `#${userId}`;
  } catch {
    return `#${userId}`;
  }
}

/** A container of the list; one that goes away meanwhile is passed over, one that cannot be read is told of. */
function readListed({ front, global }: OciContext, id: string): ListedContainer | undefined {
  try {
    const record = readRecord(global.stateRoot, id);
    const { uid } = statSync(stateFiles(global.stateRoot, id).directory);
    return { record, status: readStatus(global.stateRoot, record), owner: nameUser(uid) };
  } catch (error) {
    if (!(error instanceof RuntimeError && error.code === 'notFound')) front.write(2, `load container ${id}: ${errorMessage(error)}\n`);
    return undefined;
  }
}

/** `list`. `rootIsGiven`: a state root that does not exist is an error then. */
export async function listContainers(context: OciContext, { format, quiet }: ListOptions, { rootIsGiven }: { readonly rootIsGiven: boolean }): Promise<Outcome> {
  const { stateRoot } = context.global;
  if (rootIsGiven && statSync(stateRoot, { throwIfNoEntry: false }) === undefined) throw new RuntimeError('notFound', `open ${stateRoot}: no such file or directory`);
  const containers = listContainerIds(stateRoot).flatMap((id) => readListed(context, id) ?? []);
  context.front.write(1, quiet ? formatIds(containers) : format === 'json' ? encodeContainers(containers) : formatContainers(containers));
  return Promise.resolve(done);
}

function readPids(directory: string): readonly number[] {
  try {
    return readFileSync(`${directory}/cgroup.procs`, 'latin1')
      .split('\n')
      .filter((line) => /^[1-9][0-9]*$/.test(line))
      .map(Number);
  } catch (cause) {
    if (['ENOENT', 'ENODEV', 'EOPNOTSUPP'].includes(errnoName(cause) ?? '')) return [];
    throw cause;
  }
}

function listGroups(directory: string): readonly string[] {
  const found = [directory];
  for (let index = 0; index < found.length && found.length < limits.statsGroupsMax; index += 1) {
    try {
      for (const entry of readdirSync(found[index] ?? directory, { withFileTypes: true })) if (entry.isDirectory()) found.push(`${found[index] ?? directory}/${entry.name}`);
    } catch {
      // Gone meanwhile.
    }
  }
  return found;
}

/** Processes of a container's group and of the groups below, ascending. */
export function readContainerPids(facts: CgroupFacts, placement: CgroupPlacement): readonly number[] {
  const { unified, v1 } = statsGroups(facts, placement);
  // Beside v1 hierarchies the cgroup2 tree may lack the group; the devices hierarchy has every container.
  const roots = [v1.devices, unified].filter((root) => root !== undefined);
  return [...new Set(roots.flatMap(listGroups).flatMap(readPids))].sort((a, b) => a - b);
}

/** `ps`. */
export const listProcesses: Operation<PsOptions> = async ({ front, global }, { id, format, psArgs }) => {
  const record = readRecord(global.stateRoot, id);
  const pids = readContainerPids(readHostFacts().cgroups, record.cgroup);
  if (format === 'json') {
    front.write(1, `${JSON.stringify(pids)}\n`);
    return done;
  }
  const result = await runTool('ps', psArgs.length === 0 ? ['-ef'] : psArgs, { env: front.request.env });
  if (result.code !== 0) throw new RuntimeError('failedPrecondition', `exit status ${result.code}: ${result.output}`);
  front.write(1, selectProcesses(result.output, new Set(pids)));
  return done;
};
