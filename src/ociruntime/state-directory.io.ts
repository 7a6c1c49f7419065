/**
 * State directories of containers. In: a state root and an id. Out: records, documents, statuses. The only writer of `state.json`, `config.json` and `front`; each is replaced whole.
 * Commands are short and their files small, so that they are read in a row: asking a thread for each would take longer.
 */
import { constants, closeSync, existsSync, fstatSync, lstatSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { RuntimeError, errnoName, limits, wrapError } from '#core';
import { type RuntimeSpec, decodeRuntimeSpec, parseJson } from '#oci';
import { type FrontPlans, encodeFrontFile } from './front-file.ts';
import { type ContainerRecord, checkContainerId, decodeRecord, encodeRecord, stateFiles } from './record.ts';
import type { ContainerStatus } from './types.ts';

/** A regular file of at most that many bytes. Throws with the path; a FIFO or a device is neither waited for nor read. */
export function readDocument(path: string, bytesMax: number): Buffer {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (cause) {
    throw wrapError(`read ${path}`, cause);
  }
  try {
    if (!fstatSync(file).isFile()) throw new RuntimeError('invalidArgument', `read ${path}: no regular file`);
    const pieces: Buffer[] = [];
    let size = 0;
    for (;;) {
      const piece = Buffer.allocUnsafe(64 * 1024);
      const count = readSync(file, piece);
      if (count === 0) return Buffer.concat(pieces, size);
      size += count;
      if (size > bytesMax) throw new RuntimeError('resourceExhausted', `read ${path}: more than ${bytesMax} bytes`);
      pieces.push(piece.subarray(0, count));
    }
  } catch (cause) {
    throw cause instanceof RuntimeError ? cause : wrapError(`read ${path}`, cause);
  } finally {
    closeSync(file);
  }
}

/** Replaces a file, so that a reader finds the old one or the new one. */
function replaceFile(path: string, content: string | Uint8Array): void {
  try {
    writeFileSync(`${path}.new`, content, { mode: 0o600, flush: false });
    renameSync(`${path}.new`, path);
  } catch (cause) {
    throw wrapError(`write ${path}`, cause);
  }
}

/** Makes the directory of a new container. Throws alreadyExists in runc's words where there is one. */
export function makeStateDirectory(stateRoot: string, id: string): void {
  checkContainerId(id);
  const { directory } = stateFiles(stateRoot, id);
  try {
    mkdirSync(stateRoot, { recursive: true, mode: 0o700 });
    mkdirSync(directory, { mode: 0o700 });
  } catch (cause) {
    if (errnoName(cause) === 'EEXIST') throw new RuntimeError('alreadyExists', 'container with given ID already exists', { cause });
    throw wrapError(`make ${directory}`, cause);
  }
}

/** Throws alreadyExists in runc's words where the id is taken, so that nothing else is looked at first. */
export function checkIsFree(stateRoot: string, id: string): void {
  checkContainerId(id);
  if (existsSync(stateFiles(stateRoot, id).directory)) throw new RuntimeError('alreadyExists', 'container with given ID already exists');
}

/** Stores the record and what the front does with it; plans and record are one generation. */
export function writeRecord(stateRoot: string, record: ContainerRecord, plans: FrontPlans): void {
  const files = stateFiles(stateRoot, record.id);
  replaceFile(files.record, encodeRecord(record));
  replaceFile(files.front, encodeFrontFile(record, plans));
}

/** Stores the document that the container is made from, or what an update made of it. */
export function writeDocument(stateRoot: string, id: string, text: string | Uint8Array): void {
  replaceFile(stateFiles(stateRoot, id).document, text);
}

/** The record of a container. Throws notFound in runc's words where there is none. */
export function readRecord(stateRoot: string, id: string): ContainerRecord {
  checkContainerId(id);
  const { record } = stateFiles(stateRoot, id);
  try {
    return decodeRecord(readDocument(record, limits.ociRecordBytesMax).toString('utf8'), record);
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') throw new RuntimeError('notFound', 'container does not exist', { cause });
    throw cause;
  }
}

/**
 * Whether the id belongs to another container by now: this one was deleted by force and its name and groups were given away, while a command was still at work on it. The moment of
 * creation tells them apart.
 */
export function isReplaced(stateRoot: string, { id, created }: ContainerRecord): boolean {
  try {
    return readRecord(stateRoot, id).created !== created;
  } catch {
    return false;
  }
}

/** The document of a container, as JSON and decoded. */
export function readContainerDocument(stateRoot: string, id: string): { readonly json: unknown; readonly spec: RuntimeSpec } {
  const { document } = stateFiles(stateRoot, id);
  const json = parseJson(readDocument(document, limits.ociDocumentBytesMax).toString('utf8'), document);
  return { json, spec: decodeRuntimeSpec(json) };
}

/** Ids of all containers, sorted; an absent root has none. */
export function listContainerIds(stateRoot: string): readonly string[] {
  try {
    return readdirSync(stateRoot)
      .filter((id) => lstatSync(`${stateRoot}/${id}`, { throwIfNoEntry: false })?.isDirectory() === true)
      .sort();
  } catch (cause) {
    if (errnoName(cause) === 'ENOENT') return [];
    throw wrapError(`read ${stateRoot}`, cause);
  }
}

/** Removes what a container has left in the state root; absence is no error. */
export function removeStateDirectory(stateRoot: string, id: string): void {
  checkContainerId(id);
  const { directory } = stateFiles(stateRoot, id);
  try {
    rmSync(directory, { recursive: true, force: true });
  } catch (cause) {
    throw wrapError(`remove ${directory}`, cause);
  }
}

/** A process as /proc/<pid>/stat has it, undefined where it is gone. Source: proc_pid_stat(5); the name may hold spaces and parentheses. */
export function readProcess(pid: number): { readonly state: string; readonly startTime: bigint } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  const [state = '', ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state, startTime: BigInt(fields[18] ?? '0') };
}

function isFrozen({ freezeFile }: ContainerRecord): boolean {
  if (freezeFile === '') return false;
  try {
    const text = readFileSync(freezeFile, 'utf8');
    return freezeFile.endsWith('/cgroup.events') ? /^frozen 1$/m.test(text) : /^(?:1|FROZEN|FREEZING)$/.test(text.trim());
  } catch {
    return false;
  }
}

/** What became of a container: as the front reads it from the same files. */
export function readStatus(stateRoot: string, record: ContainerRecord): ContainerStatus {
  const process = record.pid === 0 ? undefined : readProcess(record.pid);
  if (process === undefined || process.startTime !== record.startTime || process.state === 'Z' || process.state === 'X') return 'stopped';
  // Also one that was never started: it could not be started now.
  if (isFrozen(record)) return 'paused';
  return existsSync(stateFiles(stateRoot, record.id).socket) ? 'created' : 'running';
}
