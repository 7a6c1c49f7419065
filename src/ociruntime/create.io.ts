/**
 * `create`: a bundle → a process that waits at its start socket. In: the options. Out: the record of a container, or an error with nothing left behind.
 * The record and the plan that removes everything are on disk before anything is made, so that whoever is killed here leaves what `delete --force` takes away.
 */
import { realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { RuntimeError, errnoName, invalidArgument, limits, wrapError } from '#core';
import { type RuntimeSpec, decodeObject, decodeRuntimeSpec, parseJson } from '#oci';
import { checkGroupFree, freezeFileOf, planCgroupPath } from '#runtime';
import { readHostFacts } from '#system';
import { countListenFds, lacksHome, settleSize, settleSpec } from './environment.ts';
import { countKills } from './events.io.ts';
import type { CreateOptions, Operation } from './options.ts';
import { type ContainerFacts, planCreation, planFront } from './plans.ts';
import type { ContainerRecord } from './record.ts';
import { checkIsFree, makeStateDirectory, readDocument, removeStateDirectory, writeDocument, writeRecord } from './state-directory.io.ts';
import { undoCreation } from './remove.io.ts';
import { statsSource } from './stats.ts';
import type { OciContext } from './types.ts';
import { settleUserMappings } from './user-mappings.io.ts';

const documentName = 'config.json';

/** Checks what a terminal and a console socket need of each other. Throws invalidArgument in runc's words. */
export function checkTerminal(hasTerminal: boolean, { isDetached, consoleSocket }: { readonly isDetached: boolean; readonly consoleSocket: string }): void {
  if (isDetached && hasTerminal && consoleSocket === '') throw invalidArgument('', 'cannot allocate tty if runc will detach without setting console socket');
  if ((!isDetached || !hasTerminal) && consoleSocket !== '') throw invalidArgument('', 'cannot use console socket if runc will not detach or allocate tty');
}

/** The bundle's document: its bytes, and what they say. */
export function readBundle(bundle: string): { readonly bytes: Buffer; readonly spec: RuntimeSpec } {
  const path = `${bundle}/${documentName}`;
  let bytes: Buffer;
  try {
    bytes = readDocument(path, limits.ociDocumentBytesMax);
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') throw new RuntimeError('notFound', `JSON specification file ${documentName} not found`, { cause });
    throw cause;
  }
  const spec = decodeRuntimeSpec(decodeObject(parseJson(bytes.toString('utf8'), path), path));
  if (spec.process === undefined) throw invalidArgument('process', 'process property must not be empty');
  return { bytes, spec };
}

/** The directory that a path leads to, without links; `what` names it in errors. */
export function findDirectory(path: string, what: string): string {
  try {
    const found = realpathSync(path);
    if (!statSync(found).isDirectory()) throw new RuntimeError('invalidArgument', `${what} (${path}) is no directory`);
    return found;
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') throw new RuntimeError('notFound', `${what} (${path}) does not exist`, { cause });
    throw cause instanceof RuntimeError ? cause : wrapError(`open ${what} ${path}`, cause);
  }
}

/** Writes the file that tells a caller the process's number; it appears whole or not at all. */
export function writePidFile(path: string, pid: number): void {
  if (path === '') return;
  const scratch = `${dirname(path)}/.${basename(path)}`;
  try {
    writeFileSync(scratch, String(pid), { flag: 'wx' });
    try {
      renameSync(scratch, path);
    } catch (cause) {
      rmSync(scratch, { force: true });
      throw cause;
    }
  } catch (cause) {
    throw wrapError(`write ${path}`, cause);
  }
}

/** Nanoseconds, as callers of runc see them: two containers made at once differ. */
export function nowText(): string {
  const nanoseconds = process.hrtime.bigint() % 1_000_000n;
  return new Date().toISOString().replace('Z', `${String(nanoseconds).padStart(6, '0')}Z`);
}

/** A process that ended for want of memory could not say so. The text is one that callers of runc know. */
async function explainEnd(error: unknown, { host, record }: Pick<ContainerFacts, 'host' | 'record'>): Promise<unknown> {
  if (!(error instanceof RuntimeError) || error.errno !== 'ECHILD') return error;
  const kills = await countKills(statsSource(host.cgroups, record.cgroup)).catch(() => 0n);
  return kills === 0n ? error : new RuntimeError('resourceExhausted', 'unable to start container process: container init was OOM-killed (memory limit too low?)', { cause: error });
}

/** Makes the container up to its start. What was made is removed where it fails. */
export async function makeContainer(context: OciContext, options: CreateOptions, isDetached: boolean): Promise<ContainerFacts> {
  const { front, global } = context;
  const { stateRoot } = global;
  checkIsFree(stateRoot, options.id);
  const bundle = findDirectory(options.bundle, 'bundle');
  const { bytes, spec: written } = readBundle(bundle);
  const hasTerminal = written.process?.terminal === true;
  checkTerminal(hasTerminal, { isDetached, consoleSocket: options.consoleSocket });
  const listenFds = countListenFds(front.request);
  const settled = settleSpec(written, listenFds, context.log);
  const sized = isDetached || settled.process === undefined ? settled : { ...settled, process: settleSize(settled.process, front.request) };
  const spec = await settleUserMappings(sized);
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
    creation: {
      noPivot: options.noPivot,
      noNewKeyring: options.noNewKeyring,
      preserveFds: listenFds + options.preserveFds,
      askHome: spec.process !== undefined && lacksHome(spec.process),
    },
  };
  const facts: ContainerFacts = { stateRoot, record, spec, host };
  // Compiled before anything exists, so that what is not possible is refused first.
  const { plan, answer } = planCreation(facts);
  await checkGroupFree(host, cgroup);
  const beforePlans = planFront(facts);
  makeStateDirectory(stateRoot, options.id);
  try {
    writeDocument(stateRoot, options.id, bytes);
    writeRecord(stateRoot, record, beforePlans);
  } catch (error) {
    removeStateDirectory(stateRoot, options.id);
    throw error;
  }
  try {
    const made = await front.make({ plan, terminal: hasTerminal, consoleSocket: options.consoleSocket, preserveFds: record.creation.preserveFds, answer });
    const createdFacts: ContainerFacts = { ...facts, record: { ...record, ...made } };
    writeRecord(stateRoot, createdFacts.record, planFront(createdFacts));
    writePidFile(options.pidFile, made.pid);
    return createdFacts;
  } catch (error) {
    const told = await explainEnd(error, facts);
    await undoCreation(context, facts);
    throw told;
  }
}

/** `create`. */
export const createContainer: Operation<CreateOptions> = async (context, options) => {
  await makeContainer(context, options, true);
  return { kind: 'exit', code: 0 };
};
