/** `spec`: writes a config.json to begin with. In: a directory. Out: a file that was not there before. */
import { existsSync, writeFileSync } from 'node:fs';
import { RuntimeError, errnoName, wrapError } from '#core';
import type { Operation, SpecOptions } from './options.ts';
import { describeStarterSpec } from './spec.ts';

/** Throws alreadyExists where the bundle has a config.json. */
export const writeSpec: Operation<SpecOptions> = async (_context, { bundle }) => {
  const cgroup2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  try {
    writeFileSync(`${bundle}/config.json`, describeStarterSpec({ cgroup2 }), { flag: 'wx', mode: 0o666 });
  } catch (cause) {
    if (errnoName(cause) === 'EEXIST') throw new RuntimeError('alreadyExists', 'File config.json exists. Remove it first', { cause });
    throw wrapError(`write ${bundle}/config.json`, cause);
  }
  return Promise.resolve({ kind: 'exit', code: 0 });
};
