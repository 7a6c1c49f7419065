/** `pause` and `resume` where the front does not do them by itself: it has no plan, or it failed. In: a container. Out: its processes stopped, or going on. */
import { RuntimeError, limits } from '#core';
import { planFreeze, planThaw } from '#runtime';
import { readHostFacts } from '#system';
import type { IdOptions, Operation } from './options.ts';
import { readRecord, readStatus } from './state-directory.io.ts';

const freezing = { timeoutMs: limits.ociRemovalTimeoutMs };

/** `pause`. Throws failedPrecondition where it has ended or is paused already; source of the text: runc. */
export const pauseContainer: Operation<IdOptions> = async ({ front, global }, { id }) => {
  const record = readRecord(global.stateRoot, id);
  const status = readStatus(global.stateRoot, record);
  if (status === 'stopped' || status === 'paused') throw new RuntimeError('failedPrecondition', 'container not running');
  await front.run(planFreeze(readHostFacts(), record.cgroup, freezing));
  return { kind: 'exit', code: 0 };
};

/** `resume`. Throws failedPrecondition where the container is not paused. */
export const resumeContainer: Operation<IdOptions> = async ({ front, global }, { id }) => {
  const record = readRecord(global.stateRoot, id);
  if (readStatus(global.stateRoot, record) !== 'paused') throw new RuntimeError('failedPrecondition', 'container not paused');
  await front.run(planThaw(readHostFacts(), record.cgroup));
  return { kind: 'exit', code: 0 };
};
