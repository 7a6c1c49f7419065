/** The real clock and the real randomness. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '#core';

/** Wall time has the resolution of Node's clock: nanoseconds made of a fixed origin and the monotonic clock. */
export const systemClock: Clock = {
  nowNs: () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n,
  monotonicMs: () => performance.now(),
  sleep: async (durationMs, signal) => sleep(durationMs, undefined, signal === undefined ? {} : { signal }),
  randomBytes: (byteCount) => randomBytes(byteCount),
};
