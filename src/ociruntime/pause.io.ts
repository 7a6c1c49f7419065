/** `pause` and `resume` where the front does not do them by itself: it has no plan, or it failed. In: a container. Out: its processes stopped, or going on. */
import { RuntimeError, limits } from '#core';
import { planFreeze, planThaw } from '#runtime';
import { readHostFacts } from '#system';
import type { IdOptions, Operation } from './options.ts';
import { readRecord, readStatus } from './state-directory.io.ts';

const freezing = { timeoutMs: limits.ociRemovalTimeoutMs };

/** `pause`; a container that is paused stays so. Throws failedPrecondition where it has ended. */
export const pauseContainer: Operation<IdOptions> = async ({ front, global }, { id }) => {
  const record = readRecord(global.stateRoot, id);
  const status = readStatus(global.stateRoot, record);
  if (status === 'stopped') throw new RuntimeError('failedPrecondition', 'container not running');
  if (status !== 'paused') await front.run(planFreeze(await readHostFacts(), record.cgroup, freezing));
  return { kind: 'exit', code: 0 };
};

/** `resume`. Throws failedPrecondition where the container is not paused. */
export const resumeContainer: Operation<IdOptions> = async ({ front, global }, { id }) => {
  const record = readRecord(global.stateRoot, id);
  if (readStatus(global.stateRoot, record) !== 'paused') throw new RuntimeError('failedPrecondition', 'container not paused');
  await front.run(planThaw(await readHostFacts(), record.cgroup));
  return { kind: 'exit', code: 0 };
};
