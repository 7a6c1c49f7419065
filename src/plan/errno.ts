/** Errno numbers of Linux and their names, from Node's own table. */
import { constants } from 'node:os';

const names: ReadonlyMap<number, string> = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

/** `ENOENT` for 2; `errno 999` where the number has no name. */
export function errnoNameOf(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** Numbers for `StepCommon.ignore`. */
export const errno = {
  perm: 1,
  noEntry: 2,
  noProcess: 3,
  io: 5,
  again: 11,
  noMemory: 12,
  access: 13,
  busy: 16,
  exists: 17,
  noDevice: 19,
  notDirectory: 20,
  isDirectory: 21,
  invalid: 22,
  noSpace: 28,
  readOnly: 30,
  noSystemCall: 38,
  notEmpty: 39,
  notSupported: 95,
  familyNotSupported: 97,
  addressNotAvailable: 99,
  networkUnreachable: 101,
  timedOut: 110,
  connectionRefused: 111,
} as const;
