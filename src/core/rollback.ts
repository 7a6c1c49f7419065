/** Undo in reverse order under a fresh deadline; the first failure stays primary. */
import { RuntimeError, errorCode, errorMessage, wrapError } from './errors.ts';
import { limits } from './limits.ts';

/** Registers undo steps while `withRollback` runs its body. Register before the step that may leak. */
export interface Rollback {
  /** `what` is a phrase for messages, such as `release address 10.88.0.2`. */
  defer(what: string, undo: (signal: AbortSignal) => Promise<void>): void;
}

/**
 * Runs `body`. When it throws, every registered undo runs in reverse order, all of them even where one fails, under a
 * deadline of its own (`limits.rollbackTimeoutMs`), and the body's error is thrown with the failures as `cleanupFailures`.
 */
export async function withRollback<T>(body: (rollback: Rollback) => Promise<T>): Promise<T> {
  const undos: { what: string; undo: (signal: AbortSignal) => Promise<void> }[] = [];
  try {
    return await body({ defer: (what, undo) => void undos.push({ what, undo }) });
  } catch (error) {
    const signal = AbortSignal.timeout(limits.rollbackTimeoutMs);
    const cleanupFailures: unknown[] = [];
    for (const { what, undo } of undos.reverse()) {
      try {
        await undo(signal);
      } catch (failure) {
        cleanupFailures.push(wrapError(what, failure));
      }
    }
    if (cleanupFailures.length === 0) throw error;
    throw new RuntimeError(errorCode(error), errorMessage(error), { cause: error, cleanupFailures });
  }
}
