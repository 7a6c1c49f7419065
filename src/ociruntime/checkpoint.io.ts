/**
 * `checkpoint`: the processes of a container → images of criu(8). In: a container that runs, a directory for the images. Out: images, and no container any more unless it is left running; or
 * an error, with the container as it was.
 */
import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import { RuntimeError, invalidArgument } from '#core';
import { keepUnifiedOptions } from './cgroup-options.io.ts';
import { checkCriu, clearWork, criuError, describeStreams, findNetworkLock, makeDirectory, namespaceInode, resolveInside, workDirectory, writeStreams } from './criu.io.ts';
import { checkPossible, dumpWords, logFiles } from './criu.ts';
import type { CheckpointOptions, Operation } from './options.ts';
import type { ContainerFacts } from './plans.ts';
import { readFacts, removeContainer } from './remove.io.ts';
import { readStatus } from './state-directory.io.ts';
import { runTool } from './tool.io.ts';

/** The group by which criu stops all processes at once: of cgroup2 where that is the only tree, else of the v1 freezer. */
function freezeGroupOf({ record, host }: ContainerFacts): string {
  const { freezeFile } = record;
  return freezeFile !== '' && (host.cgroups.mode === 'v2' || freezeFile.endsWith('/freezer.state')) ? dirname(freezeFile) : '';
}

function checkParent({ imagePath, parentPath }: CheckpointOptions): void {
  if (parentPath === '') return;
  if (statSync(`${imagePath}/${parentPath}`, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw invalidArgument('', `invalid --parent-path: ${JSON.stringify(parentPath.slice(0, 200))} is no directory`);
}

/**
 * `checkpoint`. Throws failedPrecondition for a container that is not running and where criu fails, unimplemented where it does not work on this host. As with runc the container is removed
 * once its processes are written, unless they run on.
 */
export const checkpointContainer: Operation<CheckpointOptions> = async (context, options) => {
  const { front, global } = context;
  const facts = await readFacts(global.stateRoot, options.id);
  const { record, spec } = facts;
  const status = readStatus(global.stateRoot, record);
  if (status === 'created' || status === 'stopped') throw new RuntimeError('failedPrecondition', `Container cannot be checkpointed in ${status} state`);
  if (options.lazyPages && options.statusFd !== -1)
    throw new RuntimeError('unimplemented', 'checkpoint container: --status-fd: a descriptor of the caller cannot be handed to criu');
  await checkCriu('checkpoint', front.request);
  checkPossible(spec, 'checkpoint');
  const work = workDirectory(options);
  makeDirectory(options.imagePath);
  makeDirectory(work);
  checkParent(options);
  clearWork(work, logFiles.dump);
  const streams = describeStreams(record.pid);
  const words = dumpWords(options, {
    spec,
    pid: record.pid,
    bundle: record.bundle,
    rootfs: record.rootfs,
    freezeCgroup: freezeGroupOf(facts),
    resolve: (destination) => resolveInside(record.rootfs, destination),
    inodeOf: namespaceInode,
    networkLock: await findNetworkLock(front.request),
    streams,
  });
  if (!options.preDump) writeStreams(options.imagePath, streams);
  context.log.debug(`criu ${words.join(' ')}`);
  const { code, output } = await keepUnifiedOptions(front.run, async () => runTool('criu', words, { env: front.request.env }));
  if (code !== 0) throw criuError('checkpoint', `${work}/${logFiles.dump}`, new Error(output.trim().split('\n').at(-1) ?? ''));
  if (!options.leaveRunning && !options.preDump) await removeContainer(context, facts);
  return { kind: 'exit', code: 0 };
};
