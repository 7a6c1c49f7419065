/**
 * Trying again. In: an operation and its failures. Out: its result, or the failure that no further try would mend. Which failures
 * are worth a second try is decided where they arise: they are thrown as `TransientFailure`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, RuntimeError, type RuntimeErrorOptions, limits } from '#core';

const firstPauseMs = 200;
const longestPauseMs = 10_000;

/** A failure after which the same request may succeed. To everyone else it is the RuntimeError that it says. */
export class TransientFailure extends RuntimeError {
  /** What the registry asked for, where it did. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: RuntimeErrorOptions & { readonly retryAfterMs?: number | undefined } = {}) {
    super(code, message, options);
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** Pause before the next try after `failures` in a row: it doubles, and its second half is chance, so that clients do not return together. */
export function backoffMs(failures: number, chance: number): number {
  const whole = Math.min(firstPauseMs * 2 ** (failures - 1), longestPauseMs);
  return Math.round(whole / 2 + (whole / 2) * chance);
}

/** How to try. */
export interface RetryOptions {
  /** Tries in a row without progress. */
  readonly triesMax: number;
  readonly signal: AbortSignal;
  /** A number that grows as content arrives: a try in which it grew begins the count anew. */
  readonly progress?: () => number;
}

/**
 * Runs the operation until it succeeds, fails for good, or has failed `triesMax` times in a row without progress. A registry that names a time is
 * obeyed, up to `limits.retryAfterMsMax`; beyond that its failure is final. Throws the last failure, or the signal's reason.
 */
export async function retrying<T>(operation: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { triesMax, signal, progress = () => 0 } = options;
  for (let failures = 0; ;) {
    signal.throwIfAborted();
    const before = progress();
    try {
      return await operation();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof TransientFailure)) throw error;
      failures = progress() > before ? 1 : failures + 1;
      const { retryAfterMs = 0 } = error;
      if (failures >= triesMax) throw error;
      if (retryAfterMs > limits.retryAfterMsMax)
        throw new RuntimeError(error.code, `${error.message} (and wants to be asked again in ${Math.ceil(retryAfterMs / 1000)} s)`, { cause: error });
      await sleep(Math.max(backoffMs(failures, Math.random()), retryAfterMs), undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}
