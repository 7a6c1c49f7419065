/**
 * What is remembered of a container between commands. In: JSON of a file that this program wrote. Out: a typed record, and back. Pure.
 * The document that it was made from lies beside it as it was.
 */
import { RuntimeError, invalidArgument } from '#core';
import { type Decoder, arrayOf, compact, decodeBoolean, decodeNonEmptyString, decodeString, decodeUint32, decodeUint64, fieldsOf, mapOf, parseJson } from '#oci';
import type { CgroupPlacement } from '#runtime';

/** One container. */
export interface ContainerRecord {
  readonly id: string;
  readonly ociVersion: string;
  /** Absolute. */
  readonly bundle: string;
  /** Absolute. */
  readonly rootfs: string;
  /** RFC 3339 with nanoseconds, UTC. */
  readonly created: string;
  readonly annotations: Readonly<Record<string, string>>;
  /** Always empty: nobody but the owner of the state directory can make a container. */
  readonly owner: string;
  /** Of the first process; 0: it does not exist yet, or its making has failed. */
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat. */
  readonly startTime: bigint;
  readonly cgroup: CgroupPlacement;
  /** The file that tells whether the container is frozen; empty where the host cannot freeze. */
  readonly freezeFile: string;
  /** How it was asked for: what compiling its plans again needs. */
  readonly creation: { readonly noPivot: boolean; readonly noNewKeyring: boolean; readonly preserveFds: number; readonly askHome: boolean };
}

const recordVersion = 1;

/** The record as the text of its file: plain JSON, since annotations may have any key. */
export function encodeRecord(record: ContainerRecord): string {
  return JSON.stringify({ version: recordVersion, ...record, startTime: record.startTime.toString() });
}

const decodeFields: Decoder<ContainerRecord> = (value, path) => {
  const fields = fieldsOf(value, path);
  if (fields.required('version', decodeUint32) !== recordVersion) throw invalidArgument('version', 'of another program');
  return {
    id: fields.required('id', decodeNonEmptyString),
    ociVersion: fields.required('ociVersion', decodeNonEmptyString),
    bundle: fields.required('bundle', decodeNonEmptyString),
    rootfs: fields.required('rootfs', decodeNonEmptyString),
    created: fields.required('created', decodeNonEmptyString),
    annotations: fields.required('annotations', mapOf(decodeString)),
    owner: fields.required('owner', decodeString),
    pid: fields.required('pid', decodeUint32),
    startTime: decodeUint64(BigInt(fields.required('startTime', decodeNonEmptyString)), 'startTime'),
    cgroup: fields.required('cgroup', (cgroup, cgroupPath) => {
      const of = fieldsOf(cgroup, cgroupPath);
      return compact({ path: of.required('path', decodeNonEmptyString), controllers: of.optional('controllers', arrayOf(decodeString, 64)) });
    }),
    freezeFile: fields.required('freezeFile', decodeString),
    creation: fields.required('creation', (creation, creationPath) => {
      const of = fieldsOf(creation, creationPath);
      return {
        noPivot: of.required('noPivot', decodeBoolean),
        noNewKeyring: of.required('noNewKeyring', decodeBoolean),
        preserveFds: of.required('preserveFds', decodeUint32),
        askHome: of.required('askHome', decodeBoolean),
      };
    }),
  };
};

/** The text as a record; `what` names its file in errors. Throws dataLoss where it is none. */
export function decodeRecord(text: string, what: string): ContainerRecord {
  try {
    return decodeFields(parseJson(text, 'record'), '');
  } catch (cause) {
    throw new RuntimeError('dataLoss', `read ${what}: ${cause instanceof Error ? cause.message : 'not a record'}`, { cause });
  }
}

/** Where the pieces of a container's state directory lie. */
export function stateFiles(stateRoot: string, id: string): Readonly<Record<'directory' | 'record' | 'document' | 'front' | 'socket', string>> {
  const directory = `${stateRoot}/${id}`;
  return { directory, record: `${directory}/state.json`, document: `${directory}/config.json`, front: `${directory}/front`, socket: `${directory}/start.sock` };
}

/** Whether an id may name a directory. Source: what runc takes. */
export function isContainerId(id: string): boolean {
  return /^[A-Za-z0-9_+.-]+$/.test(id) && id !== '.' && id !== '..';
}

/** Throws invalidArgument unless the id may name a directory. */
export function checkContainerId(id: string): void {
  if (!isContainerId(id)) throw new RuntimeError('invalidArgument', 'invalid container ID format');
}
