/**
 * `restore`: a bundle and images of criu(8) → a container whose processes go on. In: the options. Out: the record of a container, or an error with nothing left behind.
 *
 * What the container is comes from the bundle alone: its groups and their limits, what is mounted from the host, its namespaces of others, its root. What its processes are (memory, ids,
 * capabilities, filters) is in the images, which are as good as programs that run as root. The program that makes them is a child of the caller's process, as every container is.
 */
import { mkdirSync, readlinkSync, rmSync, rmdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { RuntimeError, invalidArgument } from '#core';
import { checkGroupFree, freezeFileOf, planCgroupPath, planRestore } from '#runtime';
import { readHostFacts } from '#system';
import { keepUnifiedOptions } from './cgroup-options.io.ts';
import { checkTerminal, findDirectory, nowText, readBundle, writePidFile } from './create.io.ts';
import { checkCriu, checkImages, clearWork, criuError, findNetworkLock, makeDirectory, readStreams, workDirectory } from './criu.io.ts';
import { checkPossible, logFiles, restoreCommand } from './criu.ts';
import { settleSpec } from './environment.ts';
import type { Operation, RestoreOptions } from './options.ts';
import { type ContainerFacts, planCreation, planFront } from './plans.ts';
import { type ContainerRecord, stateFiles } from './record.ts';
import { undoCreation } from './remove.io.ts';
import { checkIsFree, makeStateDirectory, readDocument, readProcess, removeStateDirectory, writeDocument, writeRecord } from './state-directory.io.ts';
import type { OciContext } from './types.ts';
import { settleUserMappings } from './user-mappings.io.ts';

/** What the bundle asks for, and this way of making a container cannot give. */
function checkRestorable({ spec }: ContainerFacts, options: RestoreOptions): void {
  checkPossible(spec, 'restore');
  const hasTerminal = spec.process?.terminal === true;
  checkTerminal(hasTerminal, { isDetached: options.detach, consoleSocket: options.consoleSocket });
  if (hasTerminal) throw new RuntimeError('unimplemented', 'restore container: process.terminal: a terminal cannot be restored');
  for (const kind of ['prestart', 'createRuntime'] as const)
    if ((spec.hooks[kind] ?? []).length > 0) throw new RuntimeError('unimplemented', `restore container: hooks.${kind}: not possible, since criu makes the namespaces`);
}

/** What the container is, from the bundle and the caller's words. Nothing is made. */
async function readRestored(context: OciContext, options: RestoreOptions): Promise<{ readonly facts: ContainerFacts; readonly bytes: Buffer }> {
  const { stateRoot } = context.global;
  const bundle = findDirectory(options.bundle, 'bundle');
  const { bytes, spec: written } = readBundle(bundle);
  const spec = await settleUserMappings(settleSpec(written, 0, context.log));
  const host = readHostFacts();
  const cgroup = planCgroupPath(spec, options.id, host);
  const record: ContainerRecord = {
    id: options.id,
    ociVersion: spec.ociVersion,
    bundle,
    rootfs: findDirectory(resolve(bundle, spec.root.path), 'rootfs'),
    created: nowText(),
    annotations: spec.annotations,
    owner: '',
    pid: 0,
    startTime: 0n,
    cgroup,
    freezeFile: freezeFileOf(host, cgroup),
    creation: { noPivot: options.noPivot, noNewKeyring: false, preserveFds: 0, askHome: false },
  };
  const facts: ContainerFacts = { stateRoot, record, spec, host };
  // A document that could not be created is not restored either.
  planCreation(facts);
  await checkGroupFree(host, cgroup);
  return { facts, bytes };
}

/** Runs criu to its end, and gives the number of the first process. */
async function runCriu({ front, log }: OciContext, { record, spec, host, stateRoot }: ContainerFacts, options: RestoreOptions): Promise<number> {
  const { directory } = stateFiles(stateRoot, record.id);
  const [mountpoint, pidFile] = [`${directory}/root`, `${directory}/criu.pid`];
  const work = workDirectory(options);
  const argv = restoreCommand(options, {
    spec,
    bundle: record.bundle,
    mountpoint,
    cgroupPath: record.cgroup.path,
    pidFile,
    streams: readStreams(options.imagePath),
    networkLock: await findNetworkLock(front.request),
  });
  log.debug(argv.join(' '));
  makeDirectory(work);
  clearWork(work, logFiles.restore);
  mkdirSync(mountpoint, { mode: 0o700 });
  const env = Object.entries(front.request.env).map(([name, value]) => `${name}=${value}`);
  const plan = planRestore({ spec, host, cgroup: record.cgroup, bundle: record.bundle, rootfs: record.rootfs, mountpoint, argv, env });
  const isProgram = (error: unknown): boolean => error instanceof RuntimeError && error.errno === 'ECHILD';
  await keepUnifiedOptions(front.run, async () => front.makeByProgram(plan)).catch((error: unknown) => {
    throw isProgram(error) ? criuError('restore', `${work}/${logFiles.restore}`, error) : error;
  });
  const pid = Number(readDocument(pidFile, 64).toString('latin1').trim());
  if (!Number.isInteger(pid) || pid <= 0) throw invalidArgument('', `read ${pidFile}: no process id`);
  rmSync(pidFile, { force: true });
  rmdirSync(mountpoint);
  return pid;
}

/** criu gives what it restores a time namespace, so that clocks go on; whoever joins the container later shall see the same, as with runc. */
function addTimeNamespace(bytes: Buffer, pid: number): Buffer {
  let isOwn = false;
  try {
    isOwn = readlinkSync(`/proc/${pid}/ns/time`) !== readlinkSync('/proc/self/ns/time');
  } catch {
    // It has ended already, or the kernel has none.
  }
  const document: unknown = JSON.parse(bytes.toString('utf8'));
  if (!isOwn || typeof document !== 'object' || document === null || !('linux' in document)) return bytes;
  // SAFETY: decoded before, as a document with such a list or none.
  const { linux } = document as { readonly linux: { readonly namespaces?: readonly { readonly type: string }[] } };
  const { namespaces = [] } = linux;
  if (namespaces.some(({ type }) => type === 'time')) return bytes;
  return Buffer.from(JSON.stringify({ ...document, linux: { ...linux, namespaces: [...namespaces, { type: 'time' }] } }));
}

/** `restore`. Throws alreadyExists where the id is taken, unimplemented where criu does not work on this host, failedPrecondition where it fails. */
export const restoreContainer: Operation<RestoreOptions> = async (context, options) => {
  const { front, global } = context;
  const { stateRoot } = global;
  checkIsFree(stateRoot, options.id);
  await checkCriu('restore', front.request);
  checkImages(options.imagePath);
  const { facts, bytes } = await readRestored(context, options);
  checkRestorable(facts, options);
  makeStateDirectory(stateRoot, options.id);
  try {
    writeDocument(stateRoot, options.id, bytes);
    writeRecord(stateRoot, facts.record, planFront(facts));
  } catch (error) {
    removeStateDirectory(stateRoot, options.id);
    throw error;
  }
  try {
    const pid = await runCriu(context, facts, options);
    // One that has ended already is a container that has stopped.
    const made = options.detach ? { pid, startTime: readProcess(pid)?.startTime ?? 0n } : await front.adopt(pid);
    const restored: ContainerFacts = { ...facts, record: { ...facts.record, ...made } };
    writeDocument(stateRoot, options.id, addTimeNamespace(bytes, pid));
    writeRecord(stateRoot, restored.record, planFront(restored));
    writePidFile(options.pidFile, pid);
  } catch (error) {
    await undoCreation(context, facts);
    throw error;
  }
  return options.detach ? { kind: 'exit', code: 0 } : { kind: 'wait', deleteStateDirectory: stateFiles(stateRoot, options.id).directory };
};
