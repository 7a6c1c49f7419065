/** `state`: the state document of a container on standard output. */
import { describeState } from './front-file.ts';
import type { IdOptions, Operation } from './options.ts';
import { readRecord, readStatus } from './state-directory.io.ts';

/** `state`. */
export const showState: Operation<IdOptions> = async ({ front, global }, { id }) => {
  const record = readRecord(global.stateRoot, id);
  front.write(1, describeState(record, readStatus(global.stateRoot, record)));
  return Promise.resolve({ kind: 'exit', code: 0 });
};
